//! Why a command could not do what it was asked: message, hint, exit code.

use std::io::Write;

use okapi_cache::StoreError;

use crate::exit_code::ExitCode;

/// An error on its way to the user.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    code: ExitCode,
}

impl Failure {
    /// The command line or the pipeline is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), hint: None, code: ExitCode::BadUsage }
    }

    /// Something outside the store could not be read or written.
    pub(crate) fn failed(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), hint: None, code: ExitCode::Failed }
    }

    /// What was asked for could not be written where it was wanted.
    pub(crate) fn unwritten(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), hint: None, code: ExitCode::StoreTrouble }
    }

    /// Everything has been said already; only the code is left.
    pub(crate) fn silent(code: ExitCode) -> Failure {
        Failure { message: String::new(), hint: None, code }
    }

    /// The same with what to do about it.
    pub(crate) fn with_hint(mut self, hint: impl Into<Option<String>>) -> Failure {
        self.hint = hint.into();
        self
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        self.code
    }

    /// Says it on stderr.
    pub(crate) fn print(&self, color: bool) {
        if self.message.is_empty() {
            return;
        }
        let (red, cyan, reset) =
            if color { ("\x1b[1;31m", "\x1b[1;36m", "\x1b[0m") } else { ("", "", "") };
        let mut stderr = std::io::stderr().lock();
        // Nobody is left to tell if stderr is gone.
        let _ = writeln!(stderr, "{red}error{reset}: {}", plain(&self.message));
        if let Some(hint) = &self.hint {
            let _ = writeln!(stderr, "{cyan}hint{reset}: {hint}");
        }
    }
}

/// A text without what a terminal would obey; it may have several lines.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for letter in text.chars() {
        match letter.is_control() && !matches!(letter, '\n' | '\t') {
            true => plain.extend(letter.escape_default()),
            false => plain.push(letter),
        }
    }
    plain
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        let hint = error.hint().map(str::to_owned);
        Failure { message: error.to_string(), hint, code: ExitCode::StoreTrouble }
    }
}

//! Whether to use colours.

use std::io::IsTerminal;

use crate::cli::When;
use crate::env_vars::NO_COLOR;

/// Whether stdout takes colours.
pub(crate) fn stdout(when: When) -> bool {
    decide(when, std::io::stdout().is_terminal())
}

/// Whether stderr takes colours.
pub(crate) fn stderr(when: When) -> bool {
    decide(when, std::io::stderr().is_terminal())
}

fn decide(when: When, terminal: bool) -> bool {
    match when {
        When::Always => true,
        When::Never => false,
        When::Auto => terminal && std::env::var_os(NO_COLOR).is_none_or(|value| value.is_empty()),
    }
}

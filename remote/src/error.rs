//! What can go wrong with a remote. None of it makes a result wrong: it costs time.

use okapi_cache::{Digest, ResultFileError, StoreError};

/// Why a remote did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The address is none.
    #[error("`{address}` is no address of a remote: {message}")]
    Address {
        /// What was given.
        address: String,
        /// Why.
        message: String,
    },
    /// What is secret may not be sent there.
    #[error("`{address}` is not used: {message}")]
    Secret {
        /// What was given.
        address: String,
        /// Why, and what to do about it.
        message: String,
    },
    /// A request failed, after all its tries.
    #[error("cannot {what} {key}: {message}")]
    Request {
        /// What was asked, as a verb.
        what: &'static str,
        /// Of which key.
        key: String,
        /// What was said, without what could be a secret.
        message: String,
        /// Whether it is the right to do so that is lacking.
        forbidden: bool,
    },
    /// It took too long.
    #[error("cannot {what} {key}: no answer within {seconds} s")]
    TimedOut {
        /// What was asked, as a verb.
        what: &'static str,
        /// Of which key.
        key: String,
        /// The time that it had.
        seconds: u64,
    },
    /// No answer, or none that helps, where the environment names no credentials for S3.
    #[error(
        "cannot {what} {key}: {message}; AWS_ACCESS_KEY_ID is not set, so this machine was asked for credentials"
    )]
    NoCredentials {
        /// What was asked, as a verb.
        what: &'static str,
        /// Of which key.
        key: String,
        /// What was said.
        message: String,
    },
    /// What arrived is not what the key says. It was thrown away.
    #[error("{key} is damaged there: {message}")]
    Damaged {
        /// The key.
        key: String,
        /// How that was seen.
        message: String,
    },
    /// A result that arrived cannot be used.
    #[error("{key} is not to be used: {source}")]
    BadResult {
        /// The key.
        key: String,
        /// Why.
        source: ResultFileError,
    },
    /// A result names an object that is not there.
    #[error("the object {} that a result names is not there", digest.short())]
    Incomplete {
        /// The object.
        digest: Digest,
    },
    /// The object cannot be sent to a remote of this kind.
    #[error("the object {} has {bytes} bytes, and a WebDAV server is sent no more than {limit} at once", digest.short())]
    TooLarge {
        /// The object.
        digest: Digest,
        /// Its size.
        bytes: u64,
        /// What can be sent.
        limit: u64,
    },
    /// It failed too often and is not asked any more.
    #[error("the remote was set aside")]
    SetAside,
    /// It was opened for reading only.
    #[error("the remote was opened for reading only")]
    ReadOnly,
    /// The user stopped what needed it.
    #[error("stopped")]
    Stopped,
    /// The store on this machine.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl RemoteError {
    /// Whether it is the remote that failed, rather than that there is nothing to be had.
    pub(crate) fn is_failure(&self) -> bool {
        matches!(
            self,
            RemoteError::Request { .. }
                | RemoteError::TimedOut { .. }
                | RemoteError::NoCredentials { .. }
                | RemoteError::Damaged { .. }
                | RemoteError::BadResult { .. }
        )
    }

    /// Whether the same may succeed later.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            RemoteError::Request { forbidden: false, .. }
                | RemoteError::TimedOut { .. }
                | RemoteError::NoCredentials { .. }
        )
    }

    /// Whether it has been said by other means, or is what the user asked for.
    pub fn is_silent(&self) -> bool {
        matches!(self, RemoteError::SetAside | RemoteError::Stopped | RemoteError::ReadOnly)
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            RemoteError::Address { .. } => Some(
                "write a folder, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, or https://HOST/PATH for WebDAV",
            ),
            RemoteError::Request { forbidden: true, .. } => Some(
                "credentials are read from the environment (AWS_ACCESS_KEY_ID, GOOGLE_SERVICE_ACCOUNT, AZURE_STORAGE_ACCOUNT_KEY, ...); \
                 with the right to read only, say --remote-read-only",
            ),
            RemoteError::NoCredentials { .. } => Some(
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; profiles in ~/.aws are not read",
            ),
            RemoteError::Damaged { .. } | RemoteError::BadResult { .. } => {
                Some("`okapi cache verify --remote --repair` mends what can be mended")
            }
            RemoteError::Store(error) => error.hint(),
            _ => None,
        }
    }
}

/// An error with all that caused it: the outermost says only which store it was.
pub(crate) fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// A text without what could be a secret in it: the query of a URL, and a name and password before a host.
pub(crate) fn scrub(message: &str) -> String {
    let mut scrubbed = String::with_capacity(message.len().min(600));
    let ends = |character: char| {
        character.is_whitespace() || matches!(character, '"' | '\'' | ')' | '>' | '<')
    };
    for word in message.split_inclusive(ends) {
        let (body, end) = match word.char_indices().next_back() {
            Some((at, last)) if ends(last) => word.split_at(at),
            _ => (word, ""),
        };
        let body = match body.split_once("://") {
            Some((scheme, rest)) => {
                let (rest, query) =
                    rest.split_once('?').map_or((rest, ""), |(rest, _)| (rest, "?.."));
                let host_end = rest.find('/').unwrap_or(rest.len());
                let host = rest[..host_end].rsplit('@').next().unwrap_or_default();
                format!("{scheme}://{host}{}{query}", &rest[host_end..])
            }
            None => body.to_owned(),
        };
        scrubbed.push_str(&body);
        scrubbed.push_str(end);
        // A server may answer with a whole page.
        if scrubbed.len() > 500 {
            let end = (0..=500).rev().find(|at| scrubbed.is_char_boundary(*at)).unwrap_or(0);
            scrubbed.truncate(end);
            scrubbed.push_str(" ...");
            break;
        }
    }
    scrubbed.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_out() {
        for (said, kept) in [
            ("plain words (and more)", "plain words (and more)"),
            ("GET https://a.b/c?sig=SECRET failed", "GET https://a.b/c?.. failed"),
            ("at (https://u:SECRET@a.b/c)", "at (https://a.b/c)"),
            ("\"https://SECRET@a.b?x=SECRET\"", "\"https://a.b?..\""),
            ("two\n  lines", "two lines"),
        ] {
            assert_eq!(scrub(said), kept);
        }
        let page = format!("<html>{}", "é ".repeat(5000));
        assert!(scrub(&page).len() < 600);
    }
}

//! A teacher: whatever answers requests.

use std::future::Future;
use std::pin::Pin;

use crate::caller::Stop;
use crate::request::{Answer, Request};

/// Whatever answers requests: a server, or the rules of the offline teacher.
pub trait Teacher: Send + Sync {
    /// Answers one request, or says why it cannot. Once a stop is requested no new call is made.
    fn answer<'a>(&'a self, request: &'a Request, stop: &'a Stop) -> Answering<'a>;
}

/// An answer on its way.
pub type Answering<'a> = Pin<Box<dyn Future<Output = Result<Answer, TeacherError>> + Send + 'a>>;

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TeacherError {
    /// This very request cannot be answered: it is too long, or a filter stopped it. Others can.
    #[error("{reason}")]
    Refused {
        /// Why, in the words of the server.
        reason: String,
    },
    /// No request can be answered: a wrong key, an unknown model, no credit left.
    #[error("{message}")]
    Unusable {
        /// What went wrong.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The server did not answer in any of the tries.
    #[error("{message}")]
    Unavailable {
        /// What the last try gave.
        message: String,
    },
    /// The call could cost more than is left of the budget.
    #[error(
        "the budget of ${limit_usd} is reached: ${spent_usd:.6} are spent, and the next call may cost ${next_usd:.6}"
    )]
    Budget {
        /// The budget, US dollars.
        limit_usd: f64,
        /// What this run has spent.
        spent_usd: f64,
        /// What the next call may cost.
        next_usd: f64,
    },
    /// Nobody may be asked, and this request has no recorded answer.
    #[error("no answer is recorded for the request {request}, which begins {beginning:?}")]
    Unrecorded {
        /// Its digest.
        request: okapi_cache::Digest,
        /// How its last message begins.
        beginning: String,
    },
    /// The run is being stopped.
    #[error("stopped")]
    Cancelled,
    /// Answers cannot be kept, or not be looked up.
    #[error("the records of answers: {message}")]
    Records {
        /// What the store says.
        message: String,
    },
}

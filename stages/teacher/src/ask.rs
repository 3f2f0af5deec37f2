//! Ask, look whether the answer can be used, ask again, set aside.

use crate::caller::Caller;
use crate::request::{Answer, Finish, Request};
use crate::teacher::TeacherError;

/// Why an answer cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The rule that it breaks, a stable word: `json`, `permutation`, `script`, ...
    pub rule: &'static str,
    /// What exactly is wrong.
    pub detail: String,
}

impl Invalid {
    /// An answer breaks a rule.
    pub fn new(rule: &'static str, detail: impl Into<String>) -> Invalid {
        Invalid { rule, detail: detail.into() }
    }
}

/// A request to which no answer could be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unanswered {
    /// What was wrong with the last answer.
    pub invalid: Invalid,
    /// The last answer, if there was any.
    pub answer: Option<String>,
    /// How many answers were looked at.
    pub attempts: u32,
}

/// Asks until an answer can be used, at most `attempts` times. The first dialogue is asked again as
/// it is; its attempt is part of the request, so every answer, good or bad, is recorded.
///
/// # Errors
/// When the teacher cannot be asked any more. An answer that cannot be used is no error.
pub async fn ask<T>(
    caller: &Caller<'_>,
    request: &Request,
    attempts: u32,
    check: impl Fn(&str) -> Result<T, Invalid>,
) -> Result<Result<(T, Answer), Unanswered>, TeacherError> {
    let mut last = None;
    for attempt in 0..attempts.max(1) {
        let request = Request { attempt, ..request.clone() };
        let (invalid, answer) = match caller.ask(&request).await {
            Ok(asked) if asked.answer.finish == Finish::Length => {
                let detail = "it reached the greatest length of an answer";
                (Invalid::new("cut", detail), Some(asked.answer.text))
            }
            Ok(asked) if matches!(asked.answer.finish, Finish::Refused | Finish::ContentFilter) => {
                let detail = match asked.answer.finish {
                    Finish::Refused => "the model refuses",
                    _ => "the provider's filter stopped the answer",
                };
                // Asking the same again would be refused again.
                let invalid = Invalid::new("refused", detail);
                let answer = Some(asked.answer.text);
                return Ok(Err(Unanswered { invalid, answer, attempts: attempt + 1 }));
            }
            Ok(asked) => match check(&asked.answer.text) {
                Ok(value) => return Ok(Ok((value, asked.answer))),
                Err(invalid) => (invalid, Some(asked.answer.text)),
            },
            Err(TeacherError::Refused { reason }) => {
                let invalid = Invalid::new("refused", reason);
                return Ok(Err(Unanswered { invalid, answer: None, attempts: attempt + 1 }));
            }
            Err(error) => return Err(error),
        };
        last = Some(Unanswered { invalid, answer, attempts: attempt + 1 });
    }
    Ok(Err(last.unwrap_or(Unanswered {
        invalid: Invalid::new("unasked", "it was not asked"),
        answer: None,
        attempts: 0,
    })))
}

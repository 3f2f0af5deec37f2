//! Answers of a model.

use serde::{Deserialize, Serialize};

use crate::DataError;
use crate::fit::{Fit, SourceFields};

/// A prompt with the answers that a model gave to it.
///
/// Layouts that are understood: ours, and rows with one answer (`output` or `response`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// Unique in its file.
    pub id: String,
    /// What was asked.
    pub instruction: String,
    /// What it was asked about; empty if the instruction says all.
    #[serde(default)]
    pub input: String,
    /// The answers, at least one.
    pub responses: Vec<String>,
    /// Of each answer, whether it ended by itself; empty where that is not known. One that was broken off is no
    /// whole text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<bool>,
}

impl Fit for Response {
    const FIELDS: &'static [&'static str] =
        &["id", "instruction", "input", "responses", "response", "ended"];

    fn fit(source: &mut SourceFields<'_>) -> Result<Response, DataError> {
        let instruction = source.text("instruction", &["instruction", "prompt"])?;
        let input = source.optional_text("input", &["input"])?.unwrap_or_default();
        let responses = match source.value("responses", &["responses"]) {
            Some(_) => source.texts("responses", &["responses"])?,
            None => vec![source.text("response", &["response", "output"])?],
        };
        if responses.is_empty() {
            return Err(source.error("responses", &["responses"], "there is no answer in it"));
        }
        let ended = source.flags("ended", responses.len())?;
        Ok(Response { id: source.id()?, instruction, input, responses, ended })
    }
}

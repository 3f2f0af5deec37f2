//! Open-ended prompts.

use serde::{Deserialize, Serialize};

use crate::DataError;
use crate::fit::{Fit, SourceFields};

/// Something a model is asked to answer, with no answer given.
///
/// Layouts that are understood: `prompt` (the second paper's test files), and `instruction` with
/// `input` (Okapi's prompts for reinforcement learning; their `output` is left out).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// Unique in its file.
    pub id: String,
    /// What is asked.
    pub instruction: String,
    /// What it is asked about; empty if the instruction says all.
    #[serde(default)]
    pub input: String,
}

impl Fit for Prompt {
    const FIELDS: &'static [&'static str] = &["id", "instruction", "input"];

    fn fit(source: &mut SourceFields<'_>) -> Result<Prompt, DataError> {
        let names = &["instruction", "prompt"];
        let instruction = source.text("instruction", names)?;
        if instruction.trim().is_empty() {
            return Err(source.error("instruction", names, "it is empty"));
        }
        let input = source.optional_text("input", &["input"])?.unwrap_or_default();
        Ok(Prompt { id: source.id()?, instruction, input })
    }
}

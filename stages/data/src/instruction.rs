//! Instructions with their answers.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::DataError;
use crate::fit::{Fit, SourceFields};

/// An instruction, perhaps with an input, and an answer: a row of Alpaca's data.
///
/// Layouts that are understood: Alpaca's (`instruction`, `input`, `output`), which Okapi's released
/// translations share; and seed tasks (`instruction`, `instances` of `input` and `output`, of which
/// the first counts).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instruction {
    /// Unique in its file.
    pub id: String,
    /// What is asked.
    pub instruction: String,
    /// What it is asked about; empty if the instruction says all.
    #[serde(default)]
    pub input: String,
    /// The answer.
    pub output: String,
    /// The short name of a seed task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether the answer is one of few labels, where the file says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_classification: Option<bool>,
}

impl Fit for Instruction {
    const FIELDS: &'static [&'static str] = &["id", "instruction", "input", "output"];

    fn fit(source: &mut SourceFields<'_>) -> Result<Instruction, DataError> {
        let input: &[&str] = &["input"];
        let output: &[&str] = &["output"];
        let instances = match source.value("instances", &["instances"]) {
            Some(Value::Array(instances)) if !source.has("output") => Some(instances),
            _ => None,
        };
        let instruction = source.text("instruction", &["instruction"])?;
        if instruction.trim().is_empty() {
            return Err(source.error("instruction", &["instruction"], "it is empty"));
        }
        let (input, output) = match instances {
            None => (source.optional_text("input", input)?, source.text("output", output)?),
            Some(instances) => {
                let text = |name: &str| instances.first()?.get(name)?.as_str().map(str::to_owned);
                let output = text("output").ok_or_else(|| {
                    source.error("instances", &["instances"], "the first one has no `output` text")
                })?;
                (text("input"), output)
            }
        };
        Ok(Instruction {
            id: source.id()?,
            instruction,
            input: input.unwrap_or_default(),
            output,
            name: source.optional_text("name", &["name"]).ok().flatten(),
            is_classification: source
                .value("is_classification", &["is_classification"])
                .and_then(Value::as_bool),
        })
    }
}

//! Rows as the texts that a model reads: a prompt by the node's template, and what comes after it.

use std::path::Path;

use okapi_data::prompt_template::PromptTemplate;
use okapi_engine::stage::{PromptMistake, PromptSlot};
use okapi_engine::stage_context::{InputPath, StageContext, StageError};
use okapi_model::{Tokenizer, TokenizerError};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::asking::{check_template, read_rows, template};

/// The prompt file that says what a model reads before its response.
pub(crate) const PROMPT: PromptSlot = PromptSlot {
    name: "prompt",
    variables: &[
        ("instruction", "what is asked"),
        ("input", "what it is asked about; empty if the instruction says all"),
    ],
    help: "what the model reads before its response; the same file in all nodes that train and use it",
};

fn sample() -> Value {
    json!({ "instruction": "Translate.", "input": "one" })
}

/// As [`okapi_engine::stage::Stage::check_prompt`].
pub(crate) fn check_prompt(slot: &PromptSlot, text: &str) -> Result<(), PromptMistake> {
    check_template(slot, text, &sample()).map(|_| ())
}

/// The prompt file of a node.
pub(crate) fn prompt(context: &StageContext<'_>) -> Result<PromptTemplate, StageError> {
    template(&context.prompts["prompt"], &PROMPT, &sample())
}

/// The text of a prompt.
pub(crate) fn render(
    template: &PromptTemplate,
    instruction: &str,
    input: &str,
) -> Result<String, StageError> {
    template
        .render(&json!({ "instruction": instruction, "input": input }))
        .map_err(|error| StageError::failed(format!("the prompt cannot be filled in: {error}")))
}

/// The rows of a port, of all its inputs in the order of their keys.
pub(crate) fn rows<T: DeserializeOwned>(
    context: &StageContext<'_>,
    port: &str,
) -> Result<Vec<T>, StageError> {
    match context.inputs.get(port) {
        None => Ok(Vec::new()),
        Some(InputPath::Single(path)) => read_rows(path),
        Some(InputPath::Gathered { items, .. }) => {
            let mut rows = Vec::new();
            for (key, path) in items {
                rows.extend(of_key(key, path)?);
            }
            Ok(rows)
        }
    }
}

fn of_key<T: DeserializeOwned>(key: &str, path: &Path) -> Result<Vec<T>, StageError> {
    read_rows(path).map_err(|error| match error {
        StageError::Failed { message, hint, transient } => {
            StageError::Failed { message: format!("`{key}`: {message}"), hint, transient }
        }
        other => other,
    })
}

/// Prompt and response as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tokens {
    /// Both, with the tokens that begin a text.
    pub(crate) whole: Vec<u32>,
    /// So many are the prompt's.
    pub(crate) prompt: usize,
}

/// Tokenises texts of prompt and response as they stand together. What both have in common with the
/// prompt alone is the prompt's: a token over their border belongs to the response.
pub(crate) fn tokenise(
    tokenizer: &Tokenizer,
    texts: &[(String, String)],
) -> Result<Vec<Tokens>, TokenizerError> {
    let wholes: Vec<String> =
        texts.iter().map(|(prompt, response)| format!("{prompt}{response}")).collect();
    let prompts: Vec<&str> = texts.iter().map(|(prompt, _)| &prompt[..]).collect();
    let wholes = tokenizer.encode_batch(&wholes, true)?;
    let prompts = tokenizer.encode_batch(&prompts, true)?;
    let both = wholes.into_iter().zip(prompts);
    Ok(both
        .map(|(whole, prompt)| {
            let same = whole.iter().zip(&prompt).take_while(|(one, other)| one == other).count();
            Tokens { whole, prompt: same }
        })
        .collect())
}

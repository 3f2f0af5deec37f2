//! Models on their way through stages: opened from an input, written to an output.

use std::path::{Path, PathBuf};

use okapi_engine::stage::{Param, ParamDefault, ParamType};
use okapi_engine::stage_context::{InputPath, StageContext, StageError};
use okapi_model::tensor_file::NumberKind;
use okapi_model::{CausalLm, ModelConfig, Tokenizer};
use serde_json::Value;

use crate::chat_template::ChatTemplate;
use crate::model_card::ModelCard;

/// How the numbers of a model that is written are stored.
pub(crate) const DTYPE: Param = Param {
    name: "dtype",
    ty: ParamType::Choice(&["same", "float32", "bfloat16", "float16"]),
    default: ParamDefault::Value("\"same\""),
    identity: true,
    help: "how the numbers of the model are stored: as those of the model that came in, or so",
};

/// The family's modules that get adapters when nothing else is said: queries, keys and values.
pub(crate) fn attention_modules(config: &ModelConfig) -> Vec<String> {
    let names: &[&str] = match config {
        ModelConfig::Llama(_) => &["q_proj", "k_proj", "v_proj"],
        ModelConfig::Bloom(_) | ModelConfig::GptNeox(_) => &["query_key_value"],
    };
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A model with its tokenizer.
pub(crate) struct OpenModel {
    pub(crate) lm: CausalLm,
    pub(crate) tokenizer: Tokenizer,
    /// Where it came from, if it is not new.
    pub(crate) folder: Option<PathBuf>,
}

/// Opens the model of an input port.
pub(crate) fn open(context: &StageContext<'_>, port: &str) -> Result<OpenModel, StageError> {
    let folder = input_folder(context, port)?;
    let lm = CausalLm::open(&folder)
        .map_err(|error| StageError::failed(format!("`{port}`: {error}")))?;
    let tokenizer = open_tokenizer(&folder, port, lm.config().vocabulary())?;
    Ok(OpenModel { lm, tokenizer, folder: Some(folder) })
}

/// The sizes of the model of an input port.
pub(crate) fn config(context: &StageContext<'_>, port: &str) -> Result<ModelConfig, StageError> {
    ModelConfig::read(&input_folder(context, port)?)
        .map_err(|error| StageError::failed(format!("`{port}`: {error}")))
}

/// The tokenizer of a model's folder.
pub(crate) fn open_tokenizer(
    folder: &Path,
    port: &str,
    rows: usize,
) -> Result<Tokenizer, StageError> {
    Tokenizer::open(folder, rows).map_err(|error| StageError::failed(format!("`{port}`: {error}")))
}

/// Where the folder of an input port lies.
pub(crate) fn input_folder(context: &StageContext<'_>, port: &str) -> Result<PathBuf, StageError> {
    match context.inputs.get(port) {
        Some(InputPath::Single(path)) => Ok(path.clone()),
        _ => Err(StageError::failed(format!("`{port}` has to be one model"))),
    }
}

/// Whether a model has positions for so many tokens of a text; `what` is the text.
pub(crate) fn check_positions(
    model: &CausalLm,
    tokens: usize,
    what: impl FnOnce() -> String,
) -> Result<(), StageError> {
    match model.config().context() {
        Some(positions) if positions < tokens => Err(StageError::Failed {
            message: format!("{} has {tokens} tokens, and the model {positions} positions", what()),
            hint: Some(format!("write `max_length: {positions}`, or less")),
            transient: false,
        }),
        _ => Ok(()),
    }
}

/// How numbers are to be stored, by the param `dtype`.
pub(crate) fn number_kind(declared: &Value, same: NumberKind) -> NumberKind {
    match declared["params"]["dtype"].as_str() {
        Some("float32") => NumberKind::F32,
        Some("bfloat16") => NumberKind::Bf16,
        Some("float16") => NumberKind::F16,
        _ => same,
    }
}

/// Gives a model the chat template of the prompt that it was trained with.
pub(crate) fn set_chat_template(
    model: &mut OpenModel,
    chat: &ChatTemplate,
) -> Result<(), StageError> {
    let set = model.tokenizer.set_chat_template(&chat.template);
    set.map_err(|error| StageError::failed(error.to_string()))
}

/// Writes a model with its tokenizer and a card to an output port.
pub(crate) fn save(
    context: &StageContext<'_>,
    port: &str,
    model: &OpenModel,
    card: &ModelCard<'_>,
) -> Result<(), StageError> {
    let folder = &context.outputs[port];
    let kind = number_kind(context.declared, model.lm.number_kind());
    let refused = |error: &dyn std::fmt::Display| StageError::failed(error.to_string());
    model.lm.save(folder, kind, model.folder.as_deref()).map_err(|error| refused(&error))?;
    model.tokenizer.save(folder).map_err(|error| refused(&error))?;
    card.write(folder)
}

//! `describe`: what is said of data sets: lengths, root verbs.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use okapi_data::DataError;
use okapi_data::describe::{DescribeOptions, Statistics, describe};
use okapi_data::length::Counter;
use okapi_engine::port::{Accepts, PortKind};
use okapi_engine::stage::{
    Determinism, InputPort, Inputs, OutputKind, OutputPort, Outputs, Param, ParamDefault,
    ParamType, Stage, StageDescriptor,
};
use okapi_engine::stage_context::{InputPath, StageContext, StageError, StageSuccess};
use serde_json::Value;
use tokenizers::Tokenizer;

/// The stage.
pub(crate) struct Describe;

const DOCUMENTATION: &str = "\
Says of each data set how many rows it has, and how long its prompts and its responses are: mean,
median, 95th percentile and maximum, in words, characters and bytes, and in the tokens of `tokenizer`
if there is one. Special tokens do not count. A prompt is the instruction and the input with a line
break between them, or the instruction alone if the input is empty. With BLOOM's tokenizer the means
are those of the Okapi paper's Table 2.

Of English instructions it also finds the most frequent root verbs with their most frequent direct
objects, and the share of all rows that these make up: the paper's Figure 1. Rules find them, where
the paper has a neural parser, so the counts are near the paper's, not equal.

`data` may gather the data sets of all languages; each is described by itself, under its key. Root
verbs are looked for in the data set whose key has the value `english` (`lang=en`), and in a single
one whose key has no value.";

static PARAMS: [Param; 4] = [
    Param {
        name: "root_verbs",
        ty: ParamType::Bool,
        default: ParamDefault::Value("true"),
        identity: true,
        help: "whether root verbs are looked for in the English data set",
    },
    Param {
        name: "english",
        ty: ParamType::String,
        default: ParamDefault::Value("\"en\""),
        identity: true,
        help: "the value by which the English data set is known among those that are gathered",
    },
    Param {
        name: "top_verbs",
        ty: ParamType::Int { min: 1, max: 1000 },
        default: ParamDefault::Value("10"),
        identity: true,
        help: "how many root verbs are shown",
    },
    Param {
        name: "top_objects",
        ty: ParamType::Int { min: 1, max: 1000 },
        default: ParamDefault::Value("4"),
        identity: true,
        help: "how many objects are shown of each root verb",
    },
];

static DESCRIPTOR: StageDescriptor = StageDescriptor {
    name: "describe",
    version: 1,
    summary: "counts the lengths of prompts and responses, and what English instructions ask for",
    documentation: DOCUMENTATION,
    inputs: Inputs::Fixed(&[
        InputPort {
            name: "data",
            accepts: Accepts::Kinds(&[PortKind::Instructions, PortKind::Prompts]),
            required: true,
            gathers: true,
            help: "the data sets",
        },
        InputPort {
            name: "tokenizer",
            accepts: Accepts::Kinds(&[PortKind::Tree, PortKind::File]),
            required: false,
            gathers: false,
            help: "a `tokenizer.json`, or a folder with one, such as a model",
        },
    ]),
    outputs: Outputs::Fixed(&[OutputPort {
        name: "statistics",
        kind: OutputKind::Fixed(PortKind::Statistics),
        help: "what was counted, by the key of the data set",
    }]),
    params: &PARAMS,
    prompts: &[],
    fields: &[],
    determinism: Determinism::Bytes,
};

impl Stage for Describe {
    fn descriptor(&self) -> &'static StageDescriptor {
        &DESCRIPTOR
    }

    fn run(&self, context: &mut StageContext<'_>) -> Result<StageSuccess, StageError> {
        let tokenizer = match context.inputs.get("tokenizer") {
            Some(InputPath::Single(path)) => Some(read_tokenizer(path)?),
            _ => None,
        };
        let count = |text: &str| match &tokenizer {
            Some(tokenizer) => count_tokens(tokenizer, text),
            None => Ok(0),
        };
        let tokens: Option<Counter<'_>> = if tokenizer.is_some() { Some(&count) } else { None };
        let single: [(String, PathBuf); 1];
        let inputs: &[(String, PathBuf)] = match &context.inputs["data"] {
            InputPath::Gathered { items, .. } => items,
            InputPath::Single(path) => {
                single = [("data".to_owned(), path.clone())];
                &single
            }
        };
        let mut statistics = Statistics { version: Statistics::VERSION, sets: BTreeMap::default() };
        let mut rows = 0;
        for (key, path) in inputs {
            let options = DescribeOptions {
                tokens,
                root_verbs: root_verbs(context.declared, key, inputs.len()),
                threads: context.threads,
            };
            let mut progress = |done| {
                context.reporter.progress(rows + done, None, "rows");
                !context.cancel.is_requested()
            };
            let described = describe(path, options, &mut progress);
            if context.cancel.is_requested() {
                return Err(StageError::Cancelled);
            }
            let described =
                described.map_err(|error| StageError::failed(format!("`{key}`: {error}")))?;
            rows += described.rows;
            statistics.sets.insert(key.clone(), described);
        }
        let mut output = context.create_output("statistics")?;
        let io = |source| StageError::Io { path: context.outputs["statistics"].clone(), source };
        serde_json::to_writer_pretty(&mut output, &statistics).map_err(|error| io(error.into()))?;
        output.write_all(b"\n").map_err(io)?;
        let mut success = StageSuccess::default();
        success.written.insert("statistics".to_owned(), output.finish().map_err(io)?);
        success.metrics.insert("rows".to_owned(), rows as f64);
        success.metrics.insert("sets".to_owned(), statistics.sets.len() as f64);
        Ok(success)
    }
}

/// How many verbs and objects are shown of the data set of that key, one of so many; `None` if it is
/// not the English one.
fn root_verbs(declared: &Value, key: &str, sets: usize) -> Option<(usize, usize)> {
    let params = &declared["params"];
    let count = |name: &str, default: u64| -> usize {
        let count = params.get(name).and_then(Value::as_u64).unwrap_or(default);
        usize::try_from(count).unwrap_or(usize::MAX)
    };
    let english = params.get("english").and_then(Value::as_str).unwrap_or("en");
    // "lang=en,size=7b", "rows[lang=en]:data".
    let mut values = key.split(['[', ']', ',']).filter_map(|part| part.split_once('='));
    let is_english = key == english
        || values.clone().any(|(_, value)| value == english)
        || (sets == 1 && values.next().is_none());
    let wanted = params.get("root_verbs").and_then(Value::as_bool).unwrap_or(true);
    (wanted && is_english).then(|| (count("top_verbs", 10), count("top_objects", 4)))
}

/// Reads a `tokenizer.json`, or the one in a folder. What it says of cutting and filling texts is for
/// batches, and left out.
fn read_tokenizer(path: &Path) -> Result<Tokenizer, StageError> {
    let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
    let bytes = std::fs::read(&file).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => StageError::Failed {
            message: "the `tokenizer` folder has no tokenizer.json".to_owned(),
            hint: Some("give a folder or file in the layout of Hugging Face's tokenizers".into()),
            transient: false,
        },
        _ => StageError::Io { path: file.clone(), source },
    })?;
    let broken = |error: tokenizers::Error| {
        StageError::failed(format!("the tokenizer.json cannot be read: {error}"))
    };
    let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(broken)?;
    tokenizer.with_truncation(None).map_err(broken)?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}

fn count_tokens(tokenizer: &Tokenizer, text: &str) -> Result<usize, DataError> {
    let without_special_tokens = false;
    let encoding = tokenizer
        .encode_fast(text, without_special_tokens)
        .map_err(|error| DataError::File(format!("the tokenizer refuses it: {error}")))?;
    Ok(encoding.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_english_set_is_known_by_its_key() {
        let shown = |key: &str, sets| root_verbs(&json!({"params": {}}), key, sets).is_some();
        assert!(shown("lang=en", 26));
        assert!(shown("rows[lang=en,size=7b]:data", 1));
        assert!(shown("rows", 1));
        assert!(!shown("rows", 2));
        assert!(!shown("lang=de", 26));
        assert!(!shown("rows[lang=de]", 1));
        let params = json!({"params": {"english": "eng", "top_verbs": 3}});
        assert_eq!(root_verbs(&params, "lang=eng", 2), Some((3, 4)));
        assert_eq!(root_verbs(&json!({"params": {"root_verbs": false}}), "lang=en", 1), None);
    }
}

//! `import_model`: brings a model into the store, from a folder of the project or from the Hugging Face hub.

use std::fs;
use std::path::Path;

use okapi_engine::estimate::{Estimate, EstimateQuestion};
use okapi_engine::port::PortKind;
use okapi_engine::stage::{
    Determinism, Inputs, OutputKind, OutputPort, Outputs, Param, ParamDefault, ParamType,
    Placeholder, Stage, StageDescriptor,
};
use okapi_engine::stage_context::{StageContext, StageError, StageSuccess};
use okapi_model::sizes::{self, SpecialTokens, new_config};
use okapi_model::tensor_file::NumberKind;
use okapi_model::{ModelConfig, ModelError, StoredModel};
use serde_json::{Value, json};

use crate::hub::Repository;
use crate::model_folder;
use crate::model_memory;
use crate::model_source::Source;

/// The stage.
pub(crate) struct ImportModel;

const ASSUMPTION: &str = "a model that is not there yet has the sizes of the published one that `like` or its repository names, and \
     numbers of 16 bits";

const DOCUMENTATION: &str = "\
Brings a language model with its tokenizer into the pipeline. Give either `path` or `repository`. BLOOM,
LLaMA and GPT-NeoX (Pythia) are known, and what is built like them.

`path` names a folder of the project in the layout of Hugging Face, as `save_pretrained` writes it. It is
tracked by content: when a file in it is edited, this node and what depends on it run again.

`repository` names a repository of the Hugging Face hub at a commit, so that the node means the same for
everybody and for ever:

```yaml
nodes:
  bloom:
    stage: import_model
    params: {repository: bigscience/bloom-560m@ac2ae5fab2ce3f9f40dc79b5ca9f637430d24971}
  pythia:
    stage: import_model
    params: {repository: EleutherAI/pythia-70m@a39f36b100fe8a5377810d56c3f4789b9c53ac42}
```

The commit is told by `git ls-remote https://huggingface.co/EleutherAI/pythia-70m HEAD` (or the name of a
branch or tag instead of `HEAD`: Pythia has its checkpoints in branches, as `step3000`), and by the page of
the repository under `History`. With `subfolder` the model lies in a folder of the repository. Every file is
checked against the digest that the hub lists for it; an interrupted download is continued. The hub's address
is taken from `HF_ENDPOINT` and its token, for private and gated repositories, from `HF_TOKEN`, if they are
set; neither is written anywhere, and the token goes to that address alone. A machine without a network takes
the folder that `hf download OWNER/NAME --revision COMMIT --local-dir FOLDER` has made elsewhere, by `path`.

Before a model is there, `plan` goes by the sizes of a published one: of that which `like` names (`like: bloom-7b1` for
`bigscience/bloomz-7b1`; the names are those of `init_model`), or which has the repository's own name
(`bigscience/bloom-7b1`, `EleutherAI/pythia-70m`, `huggyllama/llama-7b`), with numbers of 16 bits unless `dtype` says otherwise.
Nothing is asked of any server before the node runs.

What comes out holds config.json, the tokenizer, the weights as safetensors, the card (README.md) and the
licence. Other files are not taken over, and the log names them. Files are kept byte for byte if they can be.
PyTorch's pickles (pytorch_model.bin) are written as safetensors; they are read as data, and nothing in
them is ever run. With `dtype` the numbers are stored so.

A model that comes out can be used: its family is known, every tensor is there and has its shape, no
number is NaN or infinite, and the tokenizer fits the embedding. What cannot be used is an error here.";

static PARAMS: [Param; 5] = [
    Param {
        name: "path",
        ty: ParamType::Source,
        default: ParamDefault::Absent,
        identity: true,
        help: "a folder of the project",
    },
    Param {
        name: "repository",
        ty: ParamType::String,
        default: ParamDefault::Absent,
        identity: true,
        help: "OWNER/NAME@COMMIT, a repository of the Hugging Face hub",
    },
    Param {
        name: "subfolder",
        ty: ParamType::String,
        default: ParamDefault::Absent,
        identity: true,
        help: "the folder of the repository that the model lies in, if it is not the first",
    },
    model_folder::DTYPE,
    Param {
        name: "like",
        ty: ParamType::Choice(&sizes::NAMES),
        default: ParamDefault::Absent,
        identity: false,
        help: "the name of a published model that has the same sizes, for `plan` before this one is there; nothing else \
               hangs on it",
    },
];

static DESCRIPTOR: StageDescriptor = StageDescriptor {
    name: "import_model",
    version: 1,
    summary: "brings a model folder or a repository of the Hugging Face hub into the pipeline",
    documentation: DOCUMENTATION,
    inputs: Inputs::Fixed(&[]),
    outputs: Outputs::Fixed(&[OutputPort {
        name: "model",
        kind: OutputKind::Fixed(PortKind::Model),
        help: "the model, checked, its weights as safetensors",
    }]),
    params: &PARAMS,
    prompts: &[],
    fields: &[],
    determinism: Determinism::Bytes,
};

impl Stage for ImportModel {
    fn descriptor(&self) -> &'static StageDescriptor {
        &DESCRIPTOR
    }

    fn check(&self, declared: &Value) -> Result<(), String> {
        let params = &declared["params"];
        match (params.get("path"), repository(params)?) {
            (None, None) => Err("give `path` or `repository`".to_owned()),
            (Some(_), Some(_)) => Err("give `path` or `repository`, not both".to_owned()),
            (Some(_), None) if params.get("subfolder").is_some() => {
                Err("`subfolder` is for a `repository`: write it behind `path`".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn needs_network(&self, declared: &Value) -> bool {
        !declared["params"]["repository"].is_null()
    }

    fn placeholder(&self, declared: &str) -> Option<Placeholder> {
        let declared: Value = serde_json::from_str(declared).ok()?;
        repository(&declared["params"]).ok()??.placeholder()
    }

    fn estimate(&self, question: &EstimateQuestion<'_>) -> Option<Estimate> {
        let json = model_memory::stored_as(question.declared, expected_config(question)?);
        let parameters = ModelConfig::parse(&json).ok()?.parameters();
        let disk_bytes = Some(model_memory::stored_bytes(&json, parameters));
        let facts = [("model".to_owned(), json!({ "config": json }))].into();
        let assumptions = vec![ASSUMPTION];
        Some(Estimate { disk_bytes, facts, assumptions, ..Estimate::default() })
    }

    fn run(&self, context: &mut StageContext<'_>) -> Result<StageSuccess, StageError> {
        let source = match repository(&context.declared["params"]).map_err(StageError::failed)? {
            Some(repository) => Source::from_hub(context, &repository)?,
            None => Source::from_project(context)?,
        };
        let model = StoredModel::open(&source.folder).map_err(|error| source.refuses(&error))?;
        take_over(context, &source, &model)
    }
}

/// The configuration of a model that is not there yet: of the published one that it is like, or is named as.
fn expected_config(question: &EstimateQuestion<'_>) -> Option<Value> {
    let repository = repository(&question.declared["params"]).ok().flatten();
    let id = repository.map(|repository| repository.id().to_lowercase());
    let name = question.settings.get("like").and_then(Value::as_str);
    let name = name.or_else(|| id.as_deref()?.split('/').next_back())?;
    let (family, sizes, rows) = sizes::published(name)?;
    let special = SpecialTokens { bos: 1, eos: 2, pad: 3 };
    let mut json = new_config(family, &sizes, rows, special).ok()?;
    json["torch_dtype"] = json!("float16");
    Some(json)
}

/// The repository that the params name.
fn repository(params: &Value) -> Result<Option<Repository>, String> {
    let text = |name: &str| params.get(name).and_then(Value::as_str);
    text("repository").map(|it| Repository::parse(it, text("subfolder"))).transpose()
}

/// Reads every number, and makes the output of what there is, as far as it can be kept.
fn take_over(
    context: &StageContext<'_>,
    source: &Source,
    model: &StoredModel,
) -> Result<StageSuccess, StageError> {
    let refuses = |error| source.refuses(&ModelError::Checkpoint(error));
    let kind = kind(context.declared);
    let changes_config = kind.is_some_and(|kind| !model.is_said_to_be_of(kind));
    let changes_weights = model.is_pickled()
        || match kind {
            Some(kind) => !model.has_weights_of(kind).map_err(refuses)?,
            None => false,
        };
    let total = model.config().parameters();
    let done = std::cell::Cell::new(0);
    let seen = |numbers| {
        done.set(done.get() + numbers);
        context.reporter.progress(done.get(), Some(total), "parameters");
        !context.cancel.is_requested()
    };
    let output = &context.outputs["model"];
    let read = match changes_weights {
        true => model.write_weights(output, kind, &seen),
        false => model.check_numbers(&seen),
    };
    if context.cancel.is_requested() {
        return Err(StageError::Cancelled);
    }
    read.map_err(refuses)?;
    if model.is_pickled() {
        context.reporter.log("PyTorch's pickles were written as safetensors");
    }

    let mut success = StageSuccess::default();
    success.metrics.insert("parameters".to_owned(), total as f64);
    if let Some(whole) = source.whole.filter(|_| !changes_weights && !changes_config) {
        measure(&source.folder, &mut success)?;
        success.stored.insert("model".to_owned(), whole);
        return Ok(success);
    }
    fs::create_dir_all(output).map_err(|source| StageError::Io { path: output.clone(), source })?;
    for name in &source.files.small {
        if !(changes_config && name == "config.json") {
            take(&source.folder.join(name), &output.join(name))?;
        }
    }
    if let Some(kind) = kind.filter(|_| changes_config) {
        model.write_config(output, kind).map_err(refuses)?;
    }
    for name in source.files.weights.iter().filter(|_| !changes_weights) {
        take(&source.folder.join(name), &output.join(name))?;
    }
    measure(output, &mut success)?;
    Ok(success)
}

/// How numbers are to be stored, if that is asked for.
fn kind(declared: &Value) -> Option<NumberKind> {
    let is_same = declared["params"]["dtype"].as_str().is_none_or(|dtype| dtype == "same");
    (!is_same).then(|| model_folder::number_kind(declared, NumberKind::F32))
}

/// Moves a file.
fn take(from: &Path, to: &Path) -> Result<(), StageError> {
    fs::rename(from, to).map_err(|source| StageError::Io { path: from.to_owned(), source })
}

/// Counts the files of a folder and their bytes.
fn measure(folder: &Path, success: &mut StageSuccess) -> Result<(), StageError> {
    let io = |source| StageError::Io { path: folder.to_owned(), source };
    let (mut files, mut bytes) = (0.0, 0.0);
    for entry in fs::read_dir(folder).map_err(io)? {
        files += 1.0;
        bytes += entry.and_then(|entry| entry.metadata()).map_err(io)?.len() as f64;
    }
    success.metrics.insert("files".to_owned(), files);
    success.metrics.insert("bytes".to_owned(), bytes);
    Ok(())
}

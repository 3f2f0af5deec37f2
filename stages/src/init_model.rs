//! `init_model`: a model that has learnt nothing, with a tokenizer of its own.

use okapi_engine::estimate::{Estimate, EstimateQuestion, MemoryEstimate, MemoryPart};
use okapi_engine::port::{Accepts, PortKind};
use okapi_engine::stage::{
    Determinism, InputPort, Inputs, NodeField, OutputKind, OutputPort, Outputs, Param,
    ParamDefault, ParamType, Stage, StageDescriptor,
};
use okapi_engine::stage_context::{StageContext, StageError, StageSuccess};
use okapi_model::sizes::{self, FAMILIES, Sizes, SpecialTokens, new_config};
use okapi_model::{CausalLm, ModelConfig, Tokenizer, TokenizerTrainOptions};
use serde_json::Value;

use crate::corpus;
use crate::model_card::ModelCard;
use crate::model_folder::{self, OpenModel};
use crate::model_memory;
use crate::training;

/// The stage.
pub(crate) struct InitModel;

const DOCUMENTATION: &str = "\
Makes a model that has learnt nothing, for `pretrain` or for trying a pipeline out: weights from the
normal distribution with deviation 0.02, biases of zero, norms that change nothing. All chance comes from
`seed`.

Its tokenizer is a byte-level BPE like BLOOM's, trained on `corpus`: any text can be written in it, and
`<unk>`, `<s>`, `</s>` and `<pad>` are its first tokens. `corpus` may gather texts and data sets of
several languages; of instructions all that a reader sees is taken.

Give the sizes, or `like:` the name of a published model for its sizes (the vocabulary is the corpus's all
the same). What is left out: `heads` such that each is 32 wide, `intermediate` four times `hidden`.";

static PARAMS: [Param; 12] = [
    Param {
        name: "family",
        ty: ParamType::Choice(&FAMILIES),
        default: ParamDefault::Absent,
        identity: true,
        help: "how the model is built; bloom if left out",
    },
    Param {
        name: "like",
        ty: ParamType::String,
        default: ParamDefault::Absent,
        identity: true,
        help: "the name of a published model: its family and sizes, as `bloom-560m` or `pythia-70m`",
    },
    optional_size("layers", "blocks; 2 if left out"),
    optional_size("hidden", "width of the residual stream; 128 if left out"),
    optional_size("heads", "attention heads; they divide `hidden`"),
    optional_size("key_value_heads", "llama: heads of keys and values; they divide `heads`"),
    optional_size("intermediate", "width within the MLP"),
    optional_size("positions", "tokens that a text may have; 1024 if left out; bloom's has no end"),
    Param {
        name: "vocabulary",
        ty: ParamType::Int { min: 260, max: 1 << 24 },
        default: ParamDefault::Value("4096"),
        identity: true,
        help: "the most tokens of the tokenizer; fewer if the corpus gives no more",
    },
    Param {
        name: "min_frequency",
        ty: ParamType::Int { min: 1, max: i64::MAX },
        default: ParamDefault::Value("2"),
        identity: true,
        help: "pairs that are rarer in the corpus become no token",
    },
    Param {
        name: "rows_multiple",
        ty: ParamType::Int { min: 1, max: 1 << 16 },
        default: ParamDefault::Value("8"),
        identity: true,
        help: "the embedding has a multiple of so many rows",
    },
    Param {
        name: "dtype",
        ty: ParamType::Choice(&["float32", "bfloat16", "float16"]),
        default: ParamDefault::Value("\"float32\""),
        identity: true,
        help: "how the numbers of the model are stored",
    },
];

const fn optional_size(name: &'static str, help: &'static str) -> Param {
    let ty = ParamType::Int { min: 1, max: 1 << 20 };
    Param { name, ty, default: ParamDefault::Absent, identity: true, help }
}

static DESCRIPTOR: StageDescriptor = StageDescriptor {
    name: "init_model",
    version: 1,
    summary: "makes a model that has learnt nothing, and its tokenizer",
    documentation: DOCUMENTATION,
    inputs: Inputs::Fixed(&[InputPort {
        name: "corpus",
        accepts: Accepts::Kinds(&corpus::KINDS),
        required: true,
        gathers: true,
        help: "texts that the tokenizer is made for",
    }]),
    outputs: Outputs::Fixed(&[OutputPort {
        name: "model",
        kind: OutputKind::Fixed(PortKind::Model),
        help: "the model",
    }]),
    params: &PARAMS,
    prompts: &[],
    fields: &[NodeField::Seed],
    determinism: Determinism::Bytes,
};

impl Stage for InitModel {
    fn descriptor(&self) -> &'static StageDescriptor {
        &DESCRIPTOR
    }

    fn check(&self, declared: &Value) -> Result<(), String> {
        let (family, sizes) = sizes(&declared["params"])?;
        let special = SpecialTokens { bos: 1, eos: 2, pad: 3 };
        let config = new_config(&family, &sizes, 260, special);
        config.map(|_| ()).map_err(|error| error.to_string())
    }

    fn estimate(&self, question: &EstimateQuestion<'_>) -> Option<Estimate> {
        let params = &question.declared["params"];
        let (family, sizes) = sizes(params).ok()?;
        // As many tokens as there may be.
        let multiple = params["rows_multiple"].as_u64()? as usize;
        let rows = (params["vocabulary"].as_u64()? as usize).next_multiple_of(multiple);
        let special = SpecialTokens { bos: 1, eos: 2, pad: 3 };
        let json = new_config(&family, &sizes, rows, special).ok()?;
        let json = model_memory::stored_as(question.declared, json);
        let parameters = ModelConfig::parse(&json).ok()?.parameters();
        let (bytes, stored) = (4 * parameters, model_memory::stored_bytes(&json, parameters));
        let parts = vec![MemoryPart { what: "weights", bytes }];
        let memory = MemoryEstimate { parts, remedies: Vec::new(), on_gpu: false };
        let estimate = model_memory::estimate(memory, Some(("model", json)));
        Some(Estimate { disk_bytes: Some(stored), ..estimate })
    }

    fn takes_all_slots(&self) -> bool {
        true
    }

    fn run(&self, context: &mut StageContext<'_>) -> Result<StageSuccess, StageError> {
        let context = &*context;
        training::on_threads(context.threads, || run(context))?
    }
}

/// The family and the sizes that a node asks for.
fn sizes(params: &Value) -> Result<(String, Sizes), String> {
    if let Some(name) = params.get("like").and_then(Value::as_str) {
        let sizes =
            ["family", "layers", "hidden", "heads", "key_value_heads", "intermediate", "positions"];
        if let Some(given) = sizes.into_iter().find(|name| params.get(*name).is_some()) {
            return Err(format!("`like` says all sizes: leave `{given}` out, or `like`"));
        }
        let (family, sizes, _) = sizes::published(name).ok_or_else(|| {
            format!("`like`: there is no model `{name}`; known are {}", sizes::NAMES.join(", "))
        })?;
        return Ok((family.to_owned(), sizes));
    }
    let size = |name: &str| params.get(name).and_then(Value::as_u64).map(|size| size as usize);
    let hidden = size("hidden").unwrap_or(128);
    let heads = size("heads").unwrap_or_else(|| (hidden / 32).max(1));
    let sizes = Sizes {
        layers: size("layers").unwrap_or(2),
        hidden,
        heads,
        key_value_heads: size("key_value_heads").unwrap_or(heads),
        intermediate: size("intermediate").unwrap_or(4 * hidden),
        positions: size("positions").unwrap_or(1024),
    };
    Ok((params["family"].as_str().unwrap_or("bloom").to_owned(), sizes))
}

fn run(context: &StageContext<'_>) -> Result<StageSuccess, StageError> {
    let params = &context.declared["params"];
    let whole = |name: &str, default: u64| params[name].as_u64().unwrap_or(default);
    let refused = |error: &dyn std::fmt::Display| StageError::failed(error.to_string());
    let (family, sizes) = sizes(params).map_err(StageError::failed)?;
    let texts = corpus::texts(context, "corpus")?;
    if texts.is_empty() {
        return Err(StageError::failed("there is no text in `corpus`"));
    }
    context.reporter.log(format!("{} texts", texts.len()));
    let options = TokenizerTrainOptions {
        vocabulary: whole("vocabulary", 4096) as usize,
        min_frequency: whole("min_frequency", 2),
    };
    let tokenizer = Tokenizer::train(texts.iter(), &options).map_err(|error| refused(&error))?;
    let rows = tokenizer.vocabulary_size().next_multiple_of(whole("rows_multiple", 8) as usize);
    let (Some(bos), Some(eos), Some(pad)) = (tokenizer.bos(), tokenizer.eos(), tokenizer.pad())
    else {
        return Err(StageError::failed("the tokenizer lacks a special token"));
    };
    let config = new_config(&family, &sizes, rows, SpecialTokens { bos, eos, pad })
        .map_err(|error| refused(&error))?;
    let lm =
        CausalLm::new(config, training::seed(context.declared)).map_err(|error| refused(&error))?;
    let mut success = StageSuccess::default();
    success.metrics.insert("parameters".to_owned(), lm.parameters().count() as f64);
    success.metrics.insert("vocabulary".to_owned(), tokenizer.vocabulary_size() as f64);
    let card = ModelCard {
        title: "A new model",
        about: "It has learnt nothing: its weights are random.".to_owned(),
        facts: vec![
            ("family", family),
            ("parameters", lm.parameters().count().to_string()),
            ("tokens", tokenizer.vocabulary_size().to_string()),
        ],
        task: None,
        prompt: None,
    };
    let model = OpenModel { lm, tokenizer, folder: None };
    model_folder::save(context, "model", &model, &card)?;
    Ok(success)
}

//! `pretrain`: a model learns a language from text.

use okapi_engine::estimate::{Estimate, EstimateQuestion, Expected, MemoryEstimate};
use okapi_engine::port::{Accepts, PortKind};
use okapi_engine::stage::{
    Determinism, InputPort, Inputs, NodeField, OutputKind, OutputPort, Outputs, Param,
    ParamDefault, ParamType, Stage, StageDescriptor,
};
use okapi_engine::stage_context::{StageContext, StageError, StageSuccess};
use okapi_model::ModelConfig;
use okapi_train::{AdamWOptions, Average, Example, Schedule, Select, Sft as Objective, train};
use serde_json::Value;

use crate::corpus;
use crate::gpu;
use crate::lengths;
use crate::model_card::ModelCard;
use crate::model_folder::{self, OpenModel};
use crate::model_memory;
use crate::speed::{self, Operations};
use crate::training::{self, Looker, Recipe, Warmup};

/// The stage.
pub(crate) struct Pretrain;

const DOCUMENTATION: &str = "\
Trains a model on text: the loss is the cross-entropy of each token given those before it in its
document. For a new model, or to let one learn more of a language.

A text file is cut into documents at its empty lines; of instructions and prompts each row is one, with
its fields under each other. A document ends with the token that ends a text. One that is longer than
`max_length` becomes several pieces, each read by itself. Documents stand side by side without padding,
and none reads another, so there is nothing to pack.

Left out, the params are `epochs` 1, `batch` 32, `learning_rate` 3e-4, `warmup_share` 0.03, `schedule` cosine,
`weight_decay` 0.1, `beta1` 0.9 and `beta2` 0.95.";

static PARAMS: [Param; 22] = [
    training::EPOCHS,
    training::BATCH,
    training::LEARNING_RATE,
    training::WARMUP,
    training::WARMUP_SHARE,
    training::SCHEDULE,
    training::WEIGHT_DECAY,
    training::BETA1,
    training::BETA2,
    training::EPSILON,
    training::MAX_NORM,
    Param {
        name: "max_length",
        ty: ParamType::Int { min: 2, max: 1 << 24 },
        default: ParamDefault::Value("512"),
        identity: true,
        help: "the most tokens of a piece",
    },
    training::VALIDATION_SHARE,
    training::VALIDATE_EVERY,
    training::SELECT,
    model_folder::DTYPE,
    training::TOKENS_AT_ONCE,
    gpu::DEVICE,
    gpu::GPU_DTYPE,
    training::RECOMPUTE,
    training::CHECKPOINT_MINUTES,
    training::CHECKPOINT_STEPS,
];

static DESCRIPTOR: StageDescriptor = StageDescriptor {
    name: "pretrain",
    version: 1,
    summary: "trains a model on text",
    documentation: DOCUMENTATION,
    inputs: Inputs::Fixed(&[
        InputPort {
            name: "model",
            accepts: Accepts::Kinds(&[PortKind::Model]),
            required: true,
            gathers: false,
            help: "the model that learns",
        },
        InputPort {
            name: "corpus",
            accepts: Accepts::Kinds(&corpus::KINDS),
            required: true,
            gathers: true,
            help: "what it learns from",
        },
    ]),
    outputs: Outputs::Fixed(&[
        OutputPort {
            name: "model",
            kind: OutputKind::Fixed(PortKind::Model),
            help: "the model that has learnt",
        },
        OutputPort {
            name: "curve",
            kind: OutputKind::Fixed(PortKind::Curve),
            help: "what each step measured",
        },
    ]),
    params: &PARAMS,
    prompts: &[],
    fields: &[NodeField::Seed],
    determinism: Determinism::NumericClass,
};

impl Stage for Pretrain {
    fn descriptor(&self) -> &'static StageDescriptor {
        &DESCRIPTOR
    }

    fn check(&self, declared: &Value) -> Result<(), String> {
        recipe(&declared["params"]).and_then(|recipe| training::check_select(&recipe, declared))
    }

    fn estimate(&self, question: &EstimateQuestion<'_>) -> Option<Estimate> {
        let declared = question.declared;
        let json = model_memory::stored_as(declared, model_memory::config(question, "model")?);
        let config = ModelConfig::parse(&json).ok()?;
        let memory = memory(declared, question.settings, &config);
        let bytes = model_memory::stored_bytes(&json, config.parameters());
        let mut estimate = model_memory::estimate(memory, Some(("model", json)));
        estimate.disk_bytes = Some(bytes);
        let corpus = question.inputs.get("corpus").into_iter().flatten();
        let tokens: Option<f64> = corpus.map(|(_, expected)| corpus_tokens(expected)).sum();
        if let Some(tokens) = tokens {
            let keep = training::keep(question.settings);
            let learning = config.learning(|_| true);
            let (learnt, validated) = recipe(&declared["params"]).ok()?.passes(declared, tokens);
            let read = learnt * config.training_operations(learning, true, keep)
                + validated * config.reading_operations(true);
            speed::add_work(&mut estimate, question, Operations { read, sampled: 0.0 });
        }
        Some(estimate)
    }

    fn can_use_gpu(&self) -> bool {
        true
    }

    fn choose_device(&self, declared: &mut Value, settings: &Value, gpus: usize) -> u32 {
        gpu::choose(declared, settings, gpus)
    }

    fn takes_all_slots(&self) -> bool {
        true
    }

    fn run(&self, context: &mut StageContext<'_>) -> Result<StageSuccess, StageError> {
        let context = &*context;
        training::on_threads(context.threads, || run(context))?
    }
}

/// Tokens of a part of the corpus: of rows, or of text.
fn corpus_tokens(expected: &Expected) -> Option<f64> {
    if let Some(rows) = lengths::of_artifact(expected) {
        return Some(rows.rows as f64 * (rows.prompt_tokens + rows.response_tokens));
    }
    match expected {
        Expected::Present(path) => Some(lengths::tokens(&std::fs::read_to_string(path).ok()?)),
        _ => None,
    }
}

fn recipe(params: &Value) -> Result<Recipe, String> {
    let recipe = Recipe {
        epochs: 1,
        batch: 32,
        drops_last: false,
        learning_rate: 3e-4,
        warmup: Warmup::Share(0.03),
        schedule: Schedule::Cosine,
        adamw: AdamWOptions { beta2: 0.95, weight_decay: 0.1, ..AdamWOptions::default() },
        validate_every: 0,
        select: Select::Last,
    };
    recipe.with(params)
}

/// The memory that the training takes.
fn memory(declared: &Value, settings: &Value, config: &ModelConfig) -> MemoryEstimate {
    model_memory::of_training(declared, settings, config, config.learning(|_| true))
}

fn run(context: &StageContext<'_>) -> Result<StageSuccess, StageError> {
    let recipe = recipe(&context.declared["params"]).map_err(StageError::failed)?;
    let config = model_folder::config(context, "model")?;
    model_memory::check(context, &memory(context.declared, context.settings, &config))?;
    let mut model = model_folder::open(context, "model")?;
    let mut success = StageSuccess::default();
    let pieces = pieces(context, &model)?;
    let (examples, validation) = training::split(context.declared, pieces);
    if examples.is_empty() {
        return Err(StageError::failed("there is no text to learn from in `corpus`"));
    }
    let tokens: usize = examples.iter().map(|example| example.tokens.len()).sum();
    for (name, count) in
        [("pieces", examples.len()), ("validation_pieces", validation.len()), ("tokens", tokens)]
    {
        success.metrics.insert(name.to_owned(), count as f64);
    }
    let mut facts = recipe.facts();
    training::log_facts(context, &facts);
    let options = recipe.options(examples.len(), context);
    recipe.check_steps(examples.len(), &options, context)?;
    let objective = Objective {
        examples,
        validation,
        average: Average::Tokens,
        tokens_at_once: training::tokens_at_once(context.declared),
        keep: training::keep(context.settings),
    };
    let mut looker = Looker::new(context, "steps");
    let outcome = gpu::with(context, &mut model.lm, |lm| {
        train(lm, &objective, &options, context.scratch, &mut looker)
            .map_err(|error| training::failure(&error))
    })?;
    training::write_curve(context, &outcome, &mut success)?;
    facts.insert(0, ("tokens", tokens.to_string()));
    let card = ModelCard {
        title: "Pretraining",
        about: "A language model that was trained on text.".to_owned(),
        facts,
        task: Some("text-generation"),
        prompt: None,
    };
    model_folder::save(context, "model", &model, &card)?;
    Ok(success)
}

/// The corpus as pieces of documents.
fn pieces(context: &StageContext<'_>, model: &OpenModel) -> Result<Vec<Example>, StageError> {
    let length = context.declared["params"]["max_length"].as_u64().unwrap_or(512) as usize;
    let texts = corpus::texts(context, "corpus")?;
    let tokens = model.tokenizer.encode_batch(&texts, true);
    let tokens = tokens.map_err(|error| StageError::failed(error.to_string()))?;
    let mut pieces = Vec::new();
    for mut document in tokens {
        document.extend(model.tokenizer.eos());
        let longest = document.len().min(length);
        model_folder::check_positions(&model.lm, longest, || "a document".to_owned())?;
        let parts = document.chunks(length).filter(|part| part.len() > 1);
        pieces.extend(parts.map(|part| Example { tokens: part.to_vec(), read_only: 0 }));
    }
    Ok(pieces)
}

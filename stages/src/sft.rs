//! `sft`: a model learns to follow instructions.

use okapi_data::Instruction;
use okapi_engine::estimate::{Estimate, EstimateQuestion, MemoryEstimate};
use okapi_engine::port::{Accepts, PortKind};
use okapi_engine::stage::{
    Determinism, InputPort, Inputs, NodeField, OutputKind, OutputPort, Outputs, Param,
    ParamDefault, ParamType, PromptMistake, PromptSlot, Stage, StageDescriptor,
};
use okapi_engine::stage_context::{StageContext, StageError, StageSuccess};
use okapi_model::{Learning, LoraOptions, ModelConfig};
use okapi_train::{AdamWOptions, Average, Example, Schedule, Select, Sft as Objective, train};
use serde_json::Value;

use crate::chat_template::ChatTemplate;
use crate::gpu;
use crate::lengths;
use crate::model_card::ModelCard;
use crate::model_folder::{self, OpenModel};
use crate::model_memory;
use crate::speed::{self, Operations};
use crate::texts::{self, Limits};
use crate::training::{self, Looker, Recipe, Warmup};

/// The stage.
pub(crate) struct Sft;

const DOCUMENTATION: &str = "\
Trains a model on instructions with their responses. A row's prompt is made by the file `prompt`; its
response and the token that ends a text follow. The loss is the cross-entropy of each token given those
before it.

`preset` says what the other params are when they are left out:

| | `paper` | `released` | `mono_or_multi`, `full` | `lora`, any preset |
|---|---|---|---|---|
| learning_rate | 2e-5 | 1e-5 | 2e-5 | 3e-4 |
| batch | 128 | 16 | 256 | 128 |
| epochs | 3 | 3 | 3 | 5 |
| warmup | 200 steps | 300 steps | 3 % of the steps | 100 steps |
| schedule | cosine | cosine | cosine | linear |
| weight_decay | 0.05 | 0.05 | 0 | 0 |
| beta1, beta2 | 0.9, 0.95 | 0.9, 0.95 | 0.9, 0.999 | 0.9, 0.999 |
| drop_last | true | true | false | false |
| loss_on | all | all | response | all |
| select | last | last | last | best |

`paper` is the Okapi paper, and its released code where the paper says nothing; `released` is what that
code does, whatever the paper says (but that it lets LLaMA's norms decay, and means nothing by it); `mono_or_multi` is the paper on monolingual and multilingual
instruction tuning, whose LoRA settings every preset has; its code validates every 200 steps
(`validate_every: 200`).

`loss_on: all` learns the prompt too, as the released code does; `response` learns the response alone.
The mean of a batch is taken over all of its tokens that count, or with `average: examples` over its
examples, each the mean of its tokens. A batch is computed in parts of `tokens_at_once` tokens and is one
batch all the same. Rows stand side by side without padding, so there is nothing to pack or to sort by
length.

With `method: lora` the weights are frozen, and adapters beside the modules `lora_targets` learn (queries,
keys and values if left out). `model` is then the model with its adapters merged, and holds them in the
folder `adapter` too, as PEFT reads them.

A row that is longer than `max_length` tokens is cut at its end, left out, or an error, by `too_long`. So
many of the rows as `validation_share` says, chosen by chance, are not learnt, and the model is measured by them.

The prompt goes with the model, as the chat template that `transformers` and servers read (`chat_template.jinja`), in the place
of one that `model` came with.

A training that is killed goes on from its last checkpoint, and ends with the bytes of one that was not. Its
curves can be watched while they grow: `tensorboard --logdir .okapi/tensorboard`.";

static PARAMS: [Param; 33] = [
    Param {
        name: "preset",
        ty: ParamType::Choice(&["paper", "released", "mono_or_multi"]),
        default: ParamDefault::Value("\"paper\""),
        identity: true,
        help: "what params are when they are left out; see the table",
    },
    Param {
        name: "method",
        ty: ParamType::Choice(&["full", "lora"]),
        default: ParamDefault::Value("\"full\""),
        identity: true,
        help: "whether all weights learn, or adapters",
    },
    training::EPOCHS,
    training::BATCH,
    training::DROP_LAST,
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
        name: "loss_on",
        ty: ParamType::Choice(&["all", "response"]),
        default: ParamDefault::Absent,
        identity: true,
        help: "the tokens that are learnt",
    },
    Param {
        name: "average",
        ty: ParamType::Choice(&["tokens", "examples"]),
        default: ParamDefault::Value("\"tokens\""),
        identity: true,
        help: "what the mean of a batch is taken over",
    },
    texts::max_length("512"),
    texts::TOO_LONG,
    texts::APPEND_END,
    training::VALIDATION_SHARE,
    training::VALIDATE_EVERY,
    training::SELECT,
    Param {
        name: "lora_rank",
        ty: ParamType::Int { min: 1, max: 1 << 16 },
        default: ParamDefault::Absent,
        identity: true,
        help: "rows of an adapter's narrow side; 8 if left out",
    },
    Param {
        name: "lora_alpha",
        ty: ParamType::Float { min: 0.0, max: f64::MAX },
        default: ParamDefault::Absent,
        identity: true,
        help: "what an adapter adds is multiplied with this over the rank; 16 if left out",
    },
    Param {
        name: "lora_dropout",
        ty: ParamType::Float { min: 0.0, max: 0.99 },
        default: ParamDefault::Absent,
        identity: true,
        help: "the share of an adapter's input that each step leaves out; 0.05 if left out",
    },
    Param {
        name: "lora_targets",
        ty: ParamType::List(&ParamType::String),
        default: ParamDefault::Absent,
        identity: true,
        help: "the modules with adapters, by the last parts of their names",
    },
    model_folder::DTYPE,
    training::TOKENS_AT_ONCE,
    gpu::DEVICE,
    gpu::GPU_DTYPE,
    training::RECOMPUTE,
    training::CHECKPOINT_MINUTES,
    training::CHECKPOINT_STEPS,
];

static DESCRIPTOR: StageDescriptor = StageDescriptor {
    name: "sft",
    version: 3,
    summary: "trains a model to follow instructions, all of it or adapters",
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
            name: "examples",
            accepts: Accepts::Kinds(&[PortKind::Instructions]),
            required: true,
            gathers: true,
            help: "instructions with their responses, of one or of many languages",
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
    prompts: &[texts::PROMPT],
    fields: &[NodeField::Seed, NodeField::Prompts],
    determinism: Determinism::NumericClass,
};

impl Stage for Sft {
    fn descriptor(&self) -> &'static StageDescriptor {
        &DESCRIPTOR
    }

    fn check(&self, declared: &Value) -> Result<(), String> {
        let params = &declared["params"];
        let of_lora = ["lora_rank", "lora_alpha", "lora_dropout", "lora_targets"];
        let given = of_lora.into_iter().find(|name| params.get(*name).is_some());
        if let Some(name) = given.filter(|_| params["method"] != "lora") {
            return Err(format!("`{name}` is for `method: lora`"));
        }
        recipe(&declared["params"]).and_then(|recipe| training::check_select(&recipe, declared))
    }

    fn check_prompt(&self, slot: &PromptSlot, text: &str) -> Result<(), PromptMistake> {
        texts::check_prompt(slot, text)
    }

    fn estimate(&self, question: &EstimateQuestion<'_>) -> Option<Estimate> {
        let declared = question.declared;
        let json = model_memory::stored_as(declared, model_memory::config(question, "model")?);
        let config = ModelConfig::parse(&json).ok()?;
        let memory = memory(declared, question.settings, &config);
        let learning = learning(&declared["params"], &config);
        let numbers = config.parameters() + learning.beside;
        let bytes = model_memory::stored_bytes(&json, numbers);
        let mut estimate = model_memory::estimate(memory, Some(("model", json)));
        estimate.disk_bytes = Some(bytes);
        if let Some(rows) = lengths::of_port(question, "examples") {
            let tokens = texts::tokens_around(question) + rows.prompt_tokens + rows.response_tokens;
            // With the token that ends a text.
            let longest = declared["params"]["max_length"].as_f64().unwrap_or(512.0);
            let tokens = (tokens + 1.0).min(longest);
            let keep = training::keep(question.settings);
            let recipe = recipe(&declared["params"]).ok()?;
            let (learnt, validated) = recipe.passes(declared, rows.rows as f64);
            let operations = learnt * config.training_operations(learning, true, keep)
                + validated * config.reading_operations(true);
            let operations = Operations { read: tokens * operations, sampled: 0.0 };
            speed::add_work(&mut estimate, question, operations);
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

/// The preset with the node's params.
fn recipe(params: &Value) -> Result<Recipe, String> {
    let recipe = match (params["preset"].as_str(), params["method"].as_str()) {
        (_, Some("lora")) => Recipe {
            epochs: 5,
            batch: 128,
            drops_last: false,
            learning_rate: 3e-4,
            warmup: Warmup::Steps(100),
            schedule: Schedule::Linear,
            adamw: AdamWOptions::default(),
            validate_every: 0,
            select: Select::Best,
        },
        (Some("mono_or_multi"), _) => Recipe {
            epochs: 3,
            batch: 256,
            drops_last: false,
            learning_rate: 2e-5,
            warmup: Warmup::Share(0.03),
            schedule: Schedule::Cosine,
            adamw: AdamWOptions::default(),
            validate_every: 0,
            select: Select::Last,
        },
        (preset, _) => {
            let (batch, learning_rate, warmup) = match preset {
                Some("released") => (16, 1e-5, 300),
                _ => (128, 2e-5, 200),
            };
            Recipe {
                epochs: 3,
                batch,
                // As the released code has it.
                drops_last: true,
                learning_rate,
                warmup: Warmup::Steps(warmup),
                schedule: Schedule::Cosine,
                adamw: AdamWOptions { beta2: 0.95, weight_decay: 0.05, ..AdamWOptions::default() },
                validate_every: 0,
                select: Select::Last,
            }
        }
    };
    recipe.with(params)
}

/// Whether the prompt is learnt too.
fn learns_prompts(params: &Value) -> bool {
    match params.get("loss_on").and_then(Value::as_str) {
        Some(tokens) => tokens == "all",
        None => params["preset"] != "mono_or_multi" || params["method"] == "lora",
    }
}

/// What learns.
fn learning(params: &Value, config: &ModelConfig) -> Learning {
    match params["method"] == "lora" {
        true => config.adapters(&lora(params, config)),
        false => config.learning(|_| true),
    }
}

/// The memory that the training takes.
fn memory(declared: &Value, settings: &Value, config: &ModelConfig) -> MemoryEstimate {
    let learning = learning(&declared["params"], config);
    model_memory::of_training(declared, settings, config, learning)
}

fn run(context: &StageContext<'_>) -> Result<StageSuccess, StageError> {
    let params = &context.declared["params"];
    let recipe = recipe(params).map_err(StageError::failed)?;
    let config = model_folder::config(context, "model")?;
    model_memory::check(context, &memory(context.declared, context.settings, &config))?;
    let mut model = model_folder::open(context, "model")?;
    let mut success = StageSuccess::default();
    let objective = objective(context, &model, &mut success)?;
    let lora = (params["method"] == "lora").then(|| lora(params, &config));
    if let Some(options) = &lora {
        let added = model.lm.add_adapters(options, training::seed(context.declared));
        added.map_err(|error| StageError::failed(format!("`lora_targets`: {error}")))?;
    }
    let mut facts = recipe.facts();
    facts.extend(lora.as_ref().map(|it| {
        let LoraOptions { rank, alpha, dropout, targets } = it;
        let targets = targets.join(", ");
        ("adapters", format!("rank {rank}, alpha {alpha}, dropout {dropout}, beside {targets}"))
    }));
    training::log_facts(context, &facts);

    let options = recipe.options(objective.examples.len(), context);
    recipe.check_steps(objective.examples.len(), &options, context)?;
    let mut looker = Looker::new(context, "steps");
    let outcome = gpu::with(context, &mut model.lm, |lm| {
        train(lm, &objective, &options, context.scratch, &mut looker)
            .map_err(|error| training::failure(&error))
    })?;
    training::write_curve(context, &outcome, &mut success)?;

    facts.insert(0, ("examples", objective.examples.len().to_string()));
    let chat = ChatTemplate::of(context, &model.tokenizer)?;
    let card = ModelCard {
        title: "Supervised fine-tuning",
        about: "A language model that was trained to follow instructions.".to_owned(),
        facts,
        task: Some("text-generation"),
        prompt: Some(chat.prompt.clone()),
    };
    if let Some(options) = &lora {
        let folder = context.outputs["model"].join("adapter");
        let saved = model.lm.save_adapters(&folder, options, "");
        saved.map_err(|error| StageError::failed(error.to_string()))?;
        chat.write(&folder)?;
        model.lm.merge_adapters();
    }
    model_folder::set_chat_template(&mut model, &chat)?;
    model_folder::save(context, "model", &model, &card)?;
    Ok(success)
}

/// The adapters that a node asks for.
fn lora(params: &Value, config: &ModelConfig) -> LoraOptions {
    let number = |name: &str, default: f64| params[name].as_f64().unwrap_or(default);
    let targets = match params.get("lora_targets").and_then(Value::as_array) {
        Some(names) => names.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        None => model_folder::attention_modules(config),
    };
    LoraOptions {
        rank: number("lora_rank", 8.0) as usize,
        alpha: number("lora_alpha", 16.0),
        dropout: number("lora_dropout", 0.05),
        targets,
    }
}

/// The rows as examples, those that are learnt and those that the model is measured by.
fn objective(
    context: &StageContext<'_>,
    model: &OpenModel,
    success: &mut StageSuccess,
) -> Result<Objective, StageError> {
    let params = &context.declared["params"];
    let rows: Vec<Instruction> = texts::rows(context, "examples")?;
    let template = texts::prompt(context)?;
    let pairs: Vec<(String, String)> = rows
        .iter()
        .map(|row| {
            let prompt = texts::render(&template, &row.instruction, &row.input)?;
            Ok((prompt, row.output.clone()))
        })
        .collect::<Result<_, StageError>>()?;
    let limits = Limits::of(context, model)?;
    let tokens = texts::tokenise(&model.tokenizer, &pairs)
        .map_err(|error| StageError::failed(error.to_string()))?;
    let mut examples = Vec::new();
    let mut cut = 0;
    for (tokens, row) in tokens.into_iter().zip(&rows) {
        cut += usize::from(limits.cuts(&tokens));
        if let Some(tokens) = limits.apply(tokens, &row.id)? {
            let read_only = if learns_prompts(params) { 0 } else { tokens.prompt };
            examples.push(Example { tokens: tokens.whole, read_only });
        }
    }
    let before = examples.len();
    success.metrics.insert("left_out".to_owned(), (rows.len() - before) as f64);
    success.metrics.insert("cut".to_owned(), cut as f64);
    if cut > 0 {
        context.reporter.log(format!("{cut} of {} rows are cut (`max_length`)", rows.len()));
    }
    // All of a response may have been cut away.
    examples.retain(|example| example.counted() > 0);
    success.metrics.insert("nothing_to_learn".to_owned(), (before - examples.len()) as f64);

    let (examples, validation) = training::split(context.declared, examples);
    if examples.is_empty() {
        return Err(StageError::Failed {
            message: format!("there is nothing to learn from in {} rows", rows.len()),
            hint: Some("look at `max_length`, `too_long` and the input `examples`".to_owned()),
            transient: false,
        });
    }
    success.metrics.insert("examples".to_owned(), examples.len() as f64);
    success.metrics.insert("validation_examples".to_owned(), validation.len() as f64);
    let tokens: usize = examples.iter().map(|example| example.tokens.len()).sum();
    success.metrics.insert("tokens".to_owned(), tokens as f64);
    Ok(Objective {
        examples,
        validation,
        average: if params["average"] == "examples" { Average::Examples } else { Average::Tokens },
        tokens_at_once: training::tokens_at_once(context.declared),
        keep: training::keep(context.settings),
    })
}

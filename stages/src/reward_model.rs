//! `reward_model`: a model learns which of two responses people would rather have.

use std::collections::BTreeMap;

use okapi_data::Ranking as Row;
use okapi_engine::estimate::{Estimate, EstimateQuestion, MemoryEstimate, RowsEstimate};
use okapi_engine::port::{Accepts, PortKind};
use okapi_engine::stage::{
    Determinism, InputPort, Inputs, NodeField, OutputKind, OutputPort, Outputs, Param,
    ParamDefault, ParamType, PromptMistake, PromptSlot, Stage, StageDescriptor,
};
use okapi_engine::stage_context::{StageContext, StageError, StageSuccess};
use okapi_model::{Learning, ModelConfig, RewardModel as Model};
use okapi_train::{
    AdamWOptions, RankedResponse, Ranking, RewardModeling, RewardOptions, Schedule, Select, Unit,
    train,
};
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
pub(crate) struct RewardModel;

const DOCUMENTATION: &str = "\
Trains a reward model on rankings, beginning with a fine-tuned model. Its language head is replaced by one
that gives a text one number, read at its last token. Of two responses to a prompt, the better one is to
have the higher reward: the loss of a pair is `-log sigmoid(better - worse)`.

`preset` says what the other params are when they are left out:

| | `paper` | `released` |
|---|---|---|
| learning_rate | 1e-5 | 3e-5 |
| epochs | 2 | 3 |
| batch | 64 | 64 |
| warmup | 50 steps | 50 steps |
| schedule | cosine | cosine |
| weight_decay | 1e-4 | 1e-4 |
| drop_last | true | true |
| train_blocks, train_embeddings | 12, true | 12, true |

`paper` is the Okapi paper, and its released code where the paper says nothing. Two things of that code
are not copied: it pads on the left and then reads rewards before the last token; and its texts have no
end here, but have one when PPO scores them.

A response that was broken off, as `generate` marks those that reached `max_new_tokens`, gets no token that ends
a text; so it is when PPO scores one.

All pairs of a ranking are learnt, or so many as `pairs_per_ranking` says, drawn anew for each epoch. A
batch is made of single pairs, or with `batch_of: rankings` of whole rankings, whose responses are then
computed once for all of their pairs. A response that a prompt got twice counts once, with its better rank.

`validation_share` of the prompts, chosen by chance, are not learnt: no prompt is on both sides. Their pairs
give `validation_accuracy`.

The folder opens in `transformers` with `AutoModelForSequenceClassification`, and has the prompt as its chat template.";

static PARAMS: [Param; 30] = [
    Param {
        name: "preset",
        ty: ParamType::Choice(&["paper", "released"]),
        default: ParamDefault::Value("\"paper\""),
        identity: true,
        help: "what params are when they are left out; see the table",
    },
    training::EPOCHS,
    training::BATCH,
    training::DROP_LAST,
    Param {
        name: "batch_of",
        ty: ParamType::Choice(&["pairs", "rankings"]),
        default: ParamDefault::Value("\"pairs\""),
        identity: true,
        help: "what `batch` counts",
    },
    Param {
        name: "pairs_per_ranking",
        ty: ParamType::Int { min: 1, max: i64::MAX },
        default: ParamDefault::Absent,
        identity: true,
        help: "so many pairs of each ranking are compared in an epoch; all if left out",
    },
    Param {
        name: "train_blocks",
        ty: ParamType::Int { min: 0, max: 1 << 20 },
        default: ParamDefault::Value("12"),
        identity: true,
        help: "so many blocks at the top learn, with the last norm and the head; those below are frozen",
    },
    Param {
        name: "train_embeddings",
        ty: ParamType::Bool,
        default: ParamDefault::Value("true"),
        identity: true,
        help: "whether the embeddings learn too, which costs a pass back through the frozen blocks",
    },
    training::LEARNING_RATE,
    training::WARMUP,
    training::WARMUP_SHARE,
    training::SCHEDULE,
    training::WEIGHT_DECAY,
    training::BETA1,
    training::BETA2,
    training::EPSILON,
    training::MAX_NORM,
    texts::max_length("768"),
    texts::TOO_LONG,
    texts::APPEND_END,
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
    name: "reward_model",
    version: 3,
    summary: "trains a model that gives responses rewards, on rankings",
    documentation: DOCUMENTATION,
    inputs: Inputs::Fixed(&[
        InputPort {
            name: "model",
            accepts: Accepts::Kinds(&[PortKind::Model]),
            required: true,
            gathers: false,
            help: "the fine-tuned model to begin with",
        },
        InputPort {
            name: "rankings",
            accepts: Accepts::Kinds(&[PortKind::Rankings]),
            required: true,
            gathers: true,
            help: "responses with their ranks",
        },
    ]),
    outputs: Outputs::Fixed(&[
        OutputPort {
            name: "reward_model",
            kind: OutputKind::Fixed(PortKind::RewardModel),
            help: "the reward model",
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

impl Stage for RewardModel {
    fn descriptor(&self) -> &'static StageDescriptor {
        &DESCRIPTOR
    }

    fn check(&self, declared: &Value) -> Result<(), String> {
        recipe(&declared["params"]).and_then(|recipe| training::check_select(&recipe, declared))
    }

    fn check_prompt(&self, slot: &PromptSlot, text: &str) -> Result<(), PromptMistake> {
        texts::check_prompt(slot, text)
    }

    fn estimate(&self, question: &EstimateQuestion<'_>) -> Option<Estimate> {
        let declared = question.declared;
        let json = model_memory::stored_as(declared, model_memory::config(question, "model")?);
        let config = ModelConfig::parse(&json).ok()?;
        let memory = memory(declared, question.settings, config.clone());
        let config = config.with_tied_head();
        let numbers = config.parameters() + config.hidden() as u64;
        let bytes = model_memory::stored_bytes(&json, numbers);
        let mut estimate = model_memory::estimate(memory, Some(("reward_model", json)));
        estimate.disk_bytes = Some(bytes);
        if let Some(rows) = lengths::of_port(question, "rankings") {
            let read = operations(question, &config, &rows)?;
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

/// The preset with the node's params.
fn recipe(params: &Value) -> Result<Recipe, String> {
    let (epochs, learning_rate) = match params["preset"].as_str() {
        Some("released") => (3, 3e-5),
        _ => (2, 1e-5),
    };
    let recipe = Recipe {
        epochs,
        batch: 64,
        // As the released code has it.
        drops_last: true,
        learning_rate,
        warmup: Warmup::Steps(50),
        schedule: Schedule::Cosine,
        adamw: AdamWOptions { weight_decay: 1e-4, ..AdamWOptions::default() },
        validate_every: 0,
        select: Select::Last,
    };
    recipe.with(params)
}

/// The memory that the training takes.
fn memory(declared: &Value, settings: &Value, config: ModelConfig) -> MemoryEstimate {
    let params = &declared["params"];
    let blocks = params["train_blocks"].as_u64().unwrap_or(12) as usize;
    let embeddings = params["train_embeddings"].as_bool().unwrap_or(true);
    let config = config.with_tied_head();
    let learning = config.top(blocks, embeddings);
    model_memory::of_training(declared, settings, &config, learning)
}

/// Operations of a training on so many rankings.
fn operations(
    question: &EstimateQuestion<'_>,
    config: &ModelConfig,
    rows: &RowsEstimate,
) -> Option<f64> {
    let params = &question.declared["params"];
    let longest = params["max_length"].as_f64().unwrap_or(768.0);
    let response = lengths::usual_response(rows);
    // With the token that ends a text.
    let tokens = texts::tokens_around(question) + rows.prompt_tokens + response + 1.0;
    let tokens = tokens.min(longest);
    let of_pairs = rows.responses * (rows.responses - 1.0);
    let drawn = params.get("pairs_per_ranking").and_then(Value::as_f64);
    let of_pairs = drawn.map_or(of_pairs, |pairs| of_pairs.min(2.0 * pairs));
    let texts = match params["batch_of"] == "rankings" {
        true => rows.responses.min(of_pairs),
        false => of_pairs,
    };
    let blocks = params["train_blocks"].as_u64().unwrap_or(12) as usize;
    let embeddings = params["train_embeddings"].as_bool().unwrap_or(true);
    // Embeddings are looked up: their gradient costs the way back to them, and no product.
    let passed = config.top(blocks, embeddings).blocks;
    let learning = Learning { blocks: passed, ..config.top(blocks, false) };
    let keep = training::keep(question.settings);
    let (learnt, validated) = recipe(params).ok()?.passes(question.declared, rows.rows as f64);
    let training = config.training_operations(learning, false, keep);
    let reading = config.reading_operations(false);
    Some(tokens * (learnt * texts * training + validated * rows.responses * reading))
}

fn run(context: &StageContext<'_>) -> Result<StageSuccess, StageError> {
    let config = model_folder::config(context, "model")?;
    model_memory::check(context, &memory(context.declared, context.settings, config))?;
    let params = &context.declared["params"];
    let recipe = recipe(params).map_err(StageError::failed)?;
    let seed = training::seed(context.declared);
    let opened = model_folder::open(context, "model")?;
    let mut success = StageSuccess::default();
    let (rankings, validation) = rankings(context, &opened, &mut success)?;

    let refused = |error: &dyn std::fmt::Display| StageError::failed(error.to_string());
    let OpenModel { lm, mut tokenizer, .. } = opened;
    let kind = model_folder::number_kind(context.declared, lm.number_kind());
    let mut model = Model::from_lm(lm, seed).map_err(|error| refused(&error))?;
    if let Some(pad) = tokenizer.pad() {
        model.set_pad_token(pad).map_err(|error| refused(&error))?;
    }
    let blocks = params["train_blocks"].as_u64().unwrap_or(12) as usize;
    model.train_top(blocks, params["train_embeddings"].as_bool().unwrap_or(true));
    let options = RewardOptions {
        unit: if params["batch_of"] == "rankings" { Unit::Rankings } else { Unit::Pairs },
        pairs_per_ranking: params
            .get("pairs_per_ranking")
            .and_then(Value::as_u64)
            .map(|n| n as usize),
        tokens_at_once: training::tokens_at_once(context.declared),
        keep: training::keep(context.settings),
    };
    let learnt = rankings.len();
    let objective = RewardModeling::new(model.head(), rankings, validation, options);
    let mut facts = recipe.facts();
    facts.push(("blocks that learn", blocks.min(model.trunk().blocks()).to_string()));
    training::log_facts(context, &facts);

    let examples = okapi_train::Objective::examples(&objective);
    let options = recipe.options(examples, context);
    recipe.check_steps(examples, &options, context)?;
    let mut looker = Looker::new(context, "steps");
    let outcome = gpu::with(context, model.trunk_mut(), |trunk| {
        train(trunk, &objective, &options, context.scratch, &mut looker)
            .map_err(|error| training::failure(&error))
    })?;
    training::write_curve(context, &outcome, &mut success)?;

    facts.insert(0, ("rankings", learnt.to_string()));
    let folder = &context.outputs["reward_model"];
    model.save(folder, kind).map_err(|error| refused(&error))?;
    let chat = ChatTemplate::of(context, &tokenizer)?;
    tokenizer.set_chat_template(&chat.template).map_err(|error| refused(&error))?;
    tokenizer.save(folder).map_err(|error| refused(&error))?;
    let card = ModelCard {
        title: "Reward model",
        about: "It reads a prompt with a response, and gives them a number at their last token: higher for \
                responses that are ranked better. Only differences between responses to one prompt mean \
                anything."
            .to_owned(),
        facts,
        task: Some("text-classification"),
        prompt: Some(chat.prompt),
    };
    card.write(folder)?;
    Ok(success)
}

/// The rows as rankings, those that are learnt and those that the model is measured by.
fn rankings(
    context: &StageContext<'_>,
    model: &OpenModel,
    success: &mut StageSuccess,
) -> Result<(Vec<Ranking>, Vec<Ranking>), StageError> {
    let rows: Vec<Row> = texts::rows(context, "rankings")?;
    let template = texts::prompt(context)?;
    let limits = Limits::of(context, model)?;
    let mut by_prompt: BTreeMap<(&str, &str), Vec<Ranking>> = BTreeMap::new();
    let mut too_long = 0;
    let mut cut = 0;
    let mut equal = 0;
    for row in &rows {
        let prompt = texts::render(&template, &row.instruction, &row.input)?;
        let pairs: Vec<(String, String)> =
            row.responses.iter().map(|response| (prompt.clone(), response.clone())).collect();
        let tokens = texts::tokenise(&model.tokenizer, &pairs)
            .map_err(|error| StageError::failed(error.to_string()))?;
        let mut responses = Vec::new();
        for (number, (tokens, rank)) in tokens.into_iter().zip(&row.ranks).enumerate() {
            cut += usize::from(limits.cuts(&tokens));
            let has_ended = row.ended.get(number).copied().unwrap_or(true);
            match limits.apply_to(tokens, has_ended, &row.id)? {
                // What is cut within the prompt says nothing of the response.
                Some(tokens) if tokens.whole.len() > tokens.prompt => {
                    let given = responses
                        .iter_mut()
                        .find(|it: &&mut RankedResponse| it.tokens == tokens.whole);
                    match given {
                        // Nothing tells a text from itself.
                        Some(given) => {
                            given.rank = given.rank.min(*rank);
                            equal += 1;
                        }
                        None => {
                            responses.push(RankedResponse { tokens: tokens.whole, rank: *rank });
                        }
                    }
                }
                _ => too_long += 1,
            }
        }
        if responses.len() > 1 {
            by_prompt
                .entry((&row.instruction, &row.input))
                .or_default()
                .push(Ranking { responses });
        }
    }
    let prompts: Vec<Vec<Ranking>> = by_prompt.into_values().collect();
    let (learnt, validation) = training::split(context.declared, prompts);
    let flat = |prompts: Vec<Vec<Ranking>>| prompts.into_iter().flatten().collect::<Vec<_>>();
    let (learnt, validation) = (flat(learnt), flat(validation));
    if learnt.is_empty() {
        return Err(StageError::Failed {
            message: format!("there is nothing to learn from in {} rows", rows.len()),
            hint: Some("look at `max_length`, `too_long` and the input `rankings`".to_owned()),
            transient: false,
        });
    }
    for (name, count) in [
        ("rankings", learnt.len()),
        ("validation_rankings", validation.len()),
        ("responses_left_out", too_long),
        ("responses_cut", cut),
        ("responses_equal", equal),
    ] {
        success.metrics.insert(name.to_owned(), count as f64);
    }
    Ok((learnt, validation))
}

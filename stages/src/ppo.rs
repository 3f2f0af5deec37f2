//! `ppo`: a model learns to respond as a reward model would have it.

use okapi_data::Prompt;
use okapi_engine::estimate::{
    Estimate, EstimateQuestion, MemoryEstimate, MemoryRemedy, RowsEstimate,
};
use okapi_engine::port::{Accepts, PortKind};
use okapi_engine::stage::{
    Determinism, InputPort, Inputs, NodeField, OutputKind, OutputPort, Outputs, Param,
    ParamDefault, ParamType, PromptMistake, PromptSlot, Stage, StageDescriptor,
};
use okapi_engine::stage_context::{StageContext, StageError, StageSuccess};
use okapi_model::{Keep, Learning, Memory, ModelConfig, RewardModel, Sequences, Tokenizer};
use okapi_train::TrainError;
use okapi_train::ppo::{Answer, KlControl, Length, PpoOptions, Prompts, Scorer, train};
use serde_json::Value;

use crate::chat_template::ChatTemplate;
use crate::gpu;
use crate::lengths;
use crate::model_card::ModelCard;
use crate::model_folder::{self, OpenModel};
use crate::model_memory;
use crate::speed::{self, Operations};
use crate::texts;
use crate::training::{self, Looker, Recipe, Warmup};

/// The stage.
pub(crate) struct Ppo;

const DOCUMENTATION: &str = "\
Trains a policy, a fine-tuned model, by proximal policy optimization: it responds to prompts, the reward
model scores the responses, and it is pushed towards those with high scores without going far from what
it was. Only the top blocks learn, with the last norm and a head that is not the embedding; what lies below
them serves the policy and the reference alike.

`preset` says what the other params are when they are left out:

| | `paper` | `released` |
|---|---|---|
| epochs or iterations | epochs 5 | iterations 5 |
| rollouts | 128 | 896 |
| batch | 32 | 14 |
| passes | 4 | 4 |
| train_blocks | 4 | 5 |
| kl, kl_target | 0.05, none | 0.1, 6 |
| learning_rate | 1e-6 | 1e-6 |
| weight_decay | 0.1 | 1e-6 |
| beta1, beta2 | 0.9, 0.95 | 0.9, 0.95 |

`paper` is the Okapi paper, and its released code where the paper says nothing; `released` is that code on
its seven processes. Of the code these things are not copied: that the score may stand behind the last token,
that advantages are whitened with what fills rows up and a few rows at a time, that the norm after the
embedding learns, that biases and norms decay, that prompts lose the token that begins a text, that a divergence
of the prompt is counted, and that `kl` follows the divergence so slowly that it never moves.

An iteration samples a response to each of the next `rollouts` prompts and learns from them in `passes`
passes. A token's reward is its share of the divergence from the reference times `-kl`; the last one's has the
score too. Advantages are those of GAE, whitened over the iteration. The reward model reads the text of prompt
and response, in its own tokens, with the token that ends a text if the response ended by itself. Where the
reward model was trained with `append_end: false`, write `reward_append_end: false`. Responses are drawn from the
policy's own distribution, for all that is computed from them is of that.

`curve` has a row for each iteration: `reward` (what the reward model gave, on average), `kl` (nats a
response), `entropy`, `clip_fraction`, `value_loss`, `response_length` and more. Watch `reward` and `kl` together:
a reward that rises with a divergence that explodes is no success. `validation_share` of the prompts are only
measured. The prompt goes with the model as its chat template.";

const fn param(name: &'static str, ty: ParamType, help: &'static str) -> Param {
    Param { name, ty, default: ParamDefault::Absent, identity: true, help }
}

const fn default(
    name: &'static str,
    ty: ParamType,
    default: &'static str,
    help: &'static str,
) -> Param {
    Param { name, ty, default: ParamDefault::Value(default), identity: true, help }
}

const COUNT: ParamType = ParamType::Int { min: 1, max: 1 << 24 };
const NUMBER: ParamType = ParamType::Float { min: 0.0, max: f64::MAX };
const SHARE: ParamType = ParamType::Float { min: 0.0, max: 1.0 };

static PARAMS: [Param; 37] = [
    default(
        "preset",
        ParamType::Choice(&["paper", "released"]),
        "\"paper\"",
        "what params are when they are left out; see the table",
    ),
    param("epochs", COUNT, "how often each prompt is responded to"),
    param(
        "iterations",
        COUNT,
        "so many iterations, however many prompts there are; instead of `epochs`",
    ),
    param("rollouts", COUNT, "responses of an iteration"),
    param("batch", COUNT, "rollouts that a step of the optimiser learns from"),
    param("passes", COUNT, "how often an iteration learns from its rollouts"),
    param(
        "train_blocks",
        ParamType::Int { min: 0, max: 1 << 20 },
        "so many blocks at the top learn",
    ),
    param("kl", NUMBER, "what a nat of divergence from the reference costs"),
    param(
        "kl_target",
        NUMBER,
        "let `kl` follow the divergence towards so many nats a response; 0 to leave it as it is",
    ),
    param("kl_horizon", NUMBER, "how slowly it follows, in rollouts; 10000 if left out"),
    training::LEARNING_RATE,
    training::WARMUP,
    training::SCHEDULE,
    training::WEIGHT_DECAY,
    training::BETA1,
    training::BETA2,
    training::EPSILON,
    training::MAX_NORM,
    default("gamma", SHARE, "1.0", "how much a later reward counts, by token"),
    default("lambda", SHARE, "0.95", "how far advantages trust in rewards rather than in values"),
    default(
        "clip",
        NUMBER,
        "0.2",
        "how far a probability's ratio may go from 1 and be pushed further",
    ),
    default("value_clip", NUMBER, "0.2", "how far a value may go in an iteration, likewise"),
    default("value_coefficient", NUMBER, "1.0", "what the loss of the values counts"),
    default(
        "score_clip",
        NUMBER,
        "10.0",
        "scores are brought between its negative and itself; 0 for no limit",
    ),
    default("max_prompt_tokens", COUNT, "256", "the most tokens of a prompt"),
    default(
        "too_long",
        ParamType::Choice(&["cut", "leave_out", "fail"]),
        "\"cut\"",
        "what is done with a prompt that has more; it is cut at its beginning",
    ),
    default("max_new_tokens", COUNT, "256", "the most tokens of a response"),
    default(
        "reward_max_length",
        COUNT,
        "768",
        "of a longer text the reward model reads the last so many tokens",
    ),
    default(
        "reward_append_end",
        ParamType::Bool,
        "true",
        "whether the reward model reads the token that ends a text after a response that ended by itself",
    ),
    default(
        "validation_share",
        ParamType::Float { min: 0.0, max: 0.9 },
        "0.05",
        "the share of prompts that the policy is measured by and does not learn from",
    ),
    param(
        "validate_every",
        COUNT,
        "iterations from one validation to the next; left out, the first and the last",
    ),
    model_folder::DTYPE,
    training::TOKENS_AT_ONCE,
    gpu::DEVICE,
    gpu::GPU_DTYPE,
    training::RECOMPUTE,
    Param {
        name: "rows_at_once",
        ty: COUNT,
        default: ParamDefault::Value("64"),
        identity: false,
        help: "responses that are sampled together: more need more memory and are faster; on the processor the result \
               is the same, and on a GPU it counts",
    },
];

static DESCRIPTOR: StageDescriptor = StageDescriptor {
    name: "ppo",
    version: 3,
    summary: "trains a model by the scores that a reward model gives its responses",
    documentation: DOCUMENTATION,
    inputs: Inputs::Fixed(&[
        InputPort {
            name: "policy",
            accepts: Accepts::Kinds(&[PortKind::Model]),
            required: true,
            gathers: false,
            help: "the fine-tuned model that learns; as it is, it is the reference too",
        },
        InputPort {
            name: "reward_model",
            accepts: Accepts::Kinds(&[PortKind::RewardModel]),
            required: true,
            gathers: false,
            help: "what scores its responses",
        },
        InputPort {
            name: "prompts",
            accepts: Accepts::Kinds(&[PortKind::Prompts, PortKind::Instructions]),
            required: true,
            gathers: true,
            help: "what it responds to",
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
            help: "what each iteration measured",
        },
    ]),
    params: &PARAMS,
    prompts: &[texts::PROMPT],
    fields: &[NodeField::Seed, NodeField::Prompts],
    determinism: Determinism::NumericClass,
};

impl Stage for Ppo {
    fn descriptor(&self) -> &'static StageDescriptor {
        &DESCRIPTOR
    }

    fn check(&self, declared: &Value) -> Result<(), String> {
        options(declared, &Value::Null).map(|_| ())
    }

    fn check_prompt(&self, slot: &PromptSlot, text: &str) -> Result<(), PromptMistake> {
        texts::check_prompt(slot, text)
    }

    fn estimate(&self, question: &EstimateQuestion<'_>) -> Option<Estimate> {
        let declared = question.declared;
        let json = model_memory::stored_as(declared, model_memory::config(question, "policy")?);
        let policy = ModelConfig::parse(&json).ok()?;
        let reward = model_memory::config(question, "reward_model")?;
        let reward = ModelConfig::parse(&reward).ok()?;
        let memory = memory(declared, question.settings, &policy, reward.clone())?;
        let bytes = model_memory::stored_bytes(&json, policy.parameters());
        let mut estimate = model_memory::estimate(memory, Some(("model", json)));
        estimate.disk_bytes = Some(bytes);
        if let Some(rows) = lengths::of_port(question, "prompts") {
            let operations = operations(question, &policy, &reward, &rows)?;
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

/// The preset with the node's params and settings, but for what hangs on the tokenizer.
fn options(declared: &Value, settings: &Value) -> Result<PpoOptions, String> {
    let params = &declared["params"];
    let released = params["preset"] == "released";
    let paper = PpoOptions::default();
    let (rollouts, batch, blocks, kl, decay) = match released {
        true => {
            (896, 14, 5, KlControl::Adaptive { initial: 0.1, target: 6.0, horizon: 10_000.0 }, 1e-6)
        }
        false => {
            (paper.rollouts, paper.batch, paper.trained_blocks, paper.kl, paper.adamw.weight_decay)
        }
    };
    let recipe = Recipe {
        epochs: 0,
        batch,
        drops_last: false,
        learning_rate: paper.peak,
        warmup: Warmup::Steps(paper.warmup),
        schedule: paper.schedule,
        adamw: okapi_train::AdamWOptions { weight_decay: decay, ..paper.adamw },
        validate_every: 0,
        select: okapi_train::Select::Last,
    };
    let recipe = recipe.with(params)?;
    let whole = |name: &str| params.get(name).and_then(Value::as_u64);
    let number = |name: &str, default: f64| params[name].as_f64().unwrap_or(default);
    let length = match (whole("epochs"), whole("iterations")) {
        (Some(_), Some(_)) => return Err("give `epochs` or `iterations`, not both".to_owned()),
        (Some(epochs), None) => Length::Epochs(epochs),
        (None, Some(iterations)) => Length::Iterations(iterations),
        (None, None) if released => Length::Iterations(5),
        (None, None) => paper.length,
    };
    let kl = kl_control(params, kl)?;
    let Warmup::Steps(warmup) = recipe.warmup else {
        return Err("`warmup_share` is no param of ppo".to_owned());
    };
    let (prompt, new) =
        (whole("max_prompt_tokens").unwrap_or(256), whole("max_new_tokens").unwrap_or(256));
    Ok(PpoOptions {
        length,
        rollouts: whole("rollouts").map_or(rollouts, |rollouts| rollouts as u32),
        passes: whole("passes").map_or(paper.passes, |passes| passes as u32),
        batch: recipe.batch,
        trained_blocks: whole("train_blocks").map_or(blocks, |blocks| blocks as usize),
        peak: recipe.learning_rate,
        warmup,
        schedule: recipe.schedule,
        adamw: recipe.adamw,
        kl,
        score_clip: Some(number("score_clip", 10.0)).filter(|clip| *clip > 0.0),
        gamma: number("gamma", paper.gamma),
        lambda: number("lambda", paper.lambda),
        clip: number("clip", paper.clip),
        value_clip: number("value_clip", paper.value_clip),
        value_coefficient: number("value_coefficient", paper.value_coefficient),
        // Ratios and divergence are of the policy's own distribution, so responses are drawn from it.
        sampling: paper.sampling,
        max_new_tokens: new as usize,
        stop_tokens: Vec::new(),
        context: Some((prompt + new) as usize),
        seed: training::seed(declared),
        validate_every: whole("validate_every").unwrap_or(0),
        rows_at_once: settings["rows_at_once"].as_u64().unwrap_or(64) as usize,
        tokens_at_once: training::tokens_at_once(declared),
        keep: training::keep(settings),
    })
}

/// What divergence costs: the preset's, with the node's params.
fn kl_control(params: &Value, preset: KlControl) -> Result<KlControl, String> {
    let number = |name: &str| params.get(name).and_then(Value::as_f64);
    let (target, horizon) = match preset {
        KlControl::Fixed(_) => (None, 10_000.0),
        KlControl::Adaptive { target, horizon, .. } => (Some(target), horizon),
    };
    let initial = number("kl").unwrap_or(preset.initial());
    match number("kl_target").or(target) {
        Some(0.0) if number("kl_horizon").is_some() => {
            Err("with `kl_target: 0` there is no `kl_horizon`".to_owned())
        }
        Some(0.0) => Ok(KlControl::Fixed(initial)),
        Some(target) => {
            let horizon = number("kl_horizon").unwrap_or(horizon).max(1.0);
            Ok(KlControl::Adaptive { initial, target, horizon })
        }
        None if number("kl_horizon").is_some() => {
            Err("`kl_horizon` needs a `kl_target`: without one, `kl` stays as it is".to_owned())
        }
        None => Ok(KlControl::Fixed(initial)),
    }
}

/// What learns.
fn learning(options: &PpoOptions, policy: &ModelConfig) -> Learning {
    let mut learning = policy.top(options.trained_blocks, false);
    let hidden = policy.hidden() as u64;
    learning.beside = 2 * hidden * hidden + 4 * hidden + 1;
    learning
}

/// Operations of a training on so many prompts. Each rollout is sampled, read by the policy, by the blocks of the
/// reference that are not the policy's own, and by the reward model; then it is learnt from in each pass, from the states
/// that enter the blocks that learn.
fn operations(
    question: &EstimateQuestion<'_>,
    policy: &ModelConfig,
    reward: &ModelConfig,
    rows: &RowsEstimate,
) -> Option<Operations> {
    let params = &question.declared["params"];
    let options = options(question.declared, question.settings).ok()?;
    let number = |name: &str, default: f64| params[name].as_f64().unwrap_or(default);
    let prompt = texts::tokens_around(question) + rows.prompt_tokens;
    let prompt = prompt.min(number("max_prompt_tokens", 256.0));
    let response = lengths::usual_response(rows).min(number("max_new_tokens", 256.0));
    let text = prompt + response;
    let scored = text.min(number("reward_max_length", 768.0));

    let learnt = (rows.rows as f64 * (1.0 - number("validation_share", 0.05))).round();
    let rollouts = match options.length {
        Length::Epochs(epochs) => learnt * epochs as f64,
        Length::Iterations(iterations) => iterations as f64 * f64::from(options.rollouts),
    };
    let learning = learning(&options, policy);
    let top = policy.top_operations(options.trained_blocks);
    let step = top + policy.backward_operations(learning, true, options.keep);
    let read = prompt * policy.reading_operations(true)
        + text * (policy.reading_operations(true) + top)
        + scored * reward.reading_operations(false)
        + text * f64::from(options.passes) * step;
    let sampled = response * policy.reading_operations(true);
    Some(Operations { read: rollouts * read, sampled: rollouts * sampled })
}

/// The memory that the training takes: sampling and learning take turns.
fn memory(
    declared: &Value,
    settings: &Value,
    policy: &ModelConfig,
    reward: ModelConfig,
) -> Option<MemoryEstimate> {
    let options = options(declared, settings).ok()?;
    let longest = options.context?;
    let learning = learning(&options, policy);
    let hidden = policy.hidden() as u64;
    let reward = reward.with_tied_head();
    let there = gpu::kind(declared);
    let of = |tokens: usize, keep: Keep, rows: usize| {
        let tokens = tokens.max(longest);
        let learns = policy.training_memory(learning, tokens, keep);
        let samples = policy.generation_memory(rows, longest, tokens);
        let scores = reward.generation_memory(0, 0, tokens);
        let states = 4 * u64::from(options.rollouts) * longest as u64 * hidden;
        let memory = Memory {
            // The reference has what learns as it was.
            weights: learns.weights + 4 * learning.numbers + scores.weights,
            activations: learns.activations.max(samples.activations).max(scores.activations),
            caches: samples.caches + states,
            ..learns
        };
        memory.on(there)
    };
    let tokens = options.tokens_at_once;
    let remedy = |change: &str, memory: Memory| MemoryRemedy {
        change: change.to_owned(),
        bytes: memory.total(),
    };
    let mut remedies = vec![remedy("`rows_at_once: 8`", of(tokens, options.keep, 8))];
    if options.keep == Keep::All {
        let change = "`rows_at_once: 8` with `recompute: true`";
        remedies.push(remedy(change, of(tokens, Keep::Inputs, 8)));
    }
    let change =
        format!("`rows_at_once: 1` with `recompute: true` and `tokens_at_once: {longest}`");
    remedies.push(remedy(&change, of(longest, Keep::Inputs, 1)));
    let parts = model_memory::parts(&of(tokens, options.keep, options.rows_at_once));
    Some(MemoryEstimate { parts, remedies, on_gpu: there.is_some() })
}

fn run(context: &StageContext<'_>) -> Result<StageSuccess, StageError> {
    let (declared, settings) = (context.declared, context.settings);
    let mut options = options(declared, settings).map_err(StageError::failed)?;
    let config = model_folder::config(context, "policy")?;
    let reward_config = model_folder::config(context, "reward_model")?;
    let reward_rows = reward_config.vocabulary();
    let reward_context = reward_config.context();
    if let Some(memory) = memory(declared, settings, &config, reward_config) {
        model_memory::check(context, &memory)?;
    }
    let folder = model_folder::input_folder(context, "reward_model")?;
    let mut model = RewardModel::open(&folder)
        .map_err(|error| StageError::failed(format!("`reward_model`: {error}")))?;
    let tokenizer = model_folder::open_tokenizer(&folder, "reward_model", reward_rows)?;
    let there = gpu::open(context)?;
    if let Some((device, kind)) = &there {
        gpu::bring_to_ask(model.trunk_mut(), device, *kind)?;
    }
    // Read when the other is where it computes, so that the processor holds one of them at a time.
    let mut policy = model_folder::open(context, "policy")?;
    if let Some((device, kind)) = &there {
        policy.lm.train_top(options.trained_blocks, false);
        gpu::bring(&mut policy.lm, device, *kind)?;
    }
    options.stop_tokens = policy.tokenizer.end_tokens().to_vec();
    let (prompts, texts) = prompts(context, &policy, &options)?;
    let most = declared["params"]["reward_max_length"].as_u64().unwrap_or(768) as usize;
    let scorer = TextScorer {
        model: &model,
        tokenizer: &tokenizer,
        policy: &policy.tokenizer,
        texts: &texts,
        most: reward_context.map_or(most, |context| most.min(context)),
        appends_end: declared["params"]["reward_append_end"].as_bool().unwrap_or(true),
        tokens_at_once: options.tokens_at_once,
    };
    let mut success = StageSuccess::default();
    success.metrics.insert("prompts".to_owned(), prompts.train.len() as f64);
    success.metrics.insert("validation_prompts".to_owned(), prompts.validation.len() as f64);
    let facts = facts(&options, prompts.train.len(), policy.lm.blocks());
    training::log_facts(context, &facts);

    let mut looker = Looker::new(context, "iterations");
    let outcome = train(&mut policy.lm, &prompts, &scorer, &options, context.scratch, &mut looker)
        .map_err(|error| training::failure(&error))?;
    policy.lm.move_to_host().map_err(|error| training::failure(&error.into()))?;
    training::write_curve(context, &outcome, &mut success)?;
    let chat = ChatTemplate::of(context, &policy.tokenizer)?;
    model_folder::set_chat_template(&mut policy, &chat)?;
    let card = ModelCard {
        title: "Reinforcement learning",
        about: "A language model that was trained by proximal policy optimization on the scores of a reward model."
            .to_owned(),
        facts,
        task: Some("text-generation"),
        prompt: Some(chat.prompt),
    };
    model_folder::save(context, "model", &policy, &card)?;
    Ok(success)
}

fn facts(options: &PpoOptions, prompts: usize, blocks: usize) -> Vec<(&'static str, String)> {
    vec![
        ("prompts", prompts.to_string()),
        (
            "length",
            match options.length {
                Length::Epochs(epochs) => format!("{epochs} epochs"),
                Length::Iterations(iterations) => format!("{iterations} iterations"),
            },
        ),
        ("rollouts", options.rollouts.to_string()),
        ("batch", options.batch.to_string()),
        ("passes", options.passes.to_string()),
        ("blocks that learn", options.trained_blocks.min(blocks).to_string()),
        (
            "cost of divergence",
            match options.kl {
                KlControl::Fixed(kl) => kl.to_string(),
                KlControl::Adaptive { initial, target, horizon } => {
                    format!("from {initial}, towards {target} nats with horizon {horizon}")
                }
            },
        ),
        ("learning rate", format!("{:e}", options.peak)),
        ("weight decay", options.adamw.weight_decay.to_string()),
        ("clip", format!("{} and {} for values", options.clip, options.value_clip)),
        ("gamma, lambda", format!("{}, {}", options.gamma, options.lambda)),
        ("most new tokens", options.max_new_tokens.to_string()),
    ]
}

/// The prompts as tokens of the policy, and as texts in the same order: those that are learnt from first.
fn prompts(
    context: &StageContext<'_>,
    policy: &OpenModel,
    options: &PpoOptions,
) -> Result<(Prompts, Vec<String>), StageError> {
    let params = &context.declared["params"];
    let rows: Vec<Prompt> = texts::rows(context, "prompts")?;
    let template = texts::prompt(context)?;
    let most = params["max_prompt_tokens"].as_u64().unwrap_or(256) as usize;
    let room =
        policy.lm.config().context().map(|context| context.saturating_sub(options.max_new_tokens));
    if let Some(room) = room.filter(|room| *room < most) {
        return Err(StageError::Failed {
            message: format!(
                "`max_prompt_tokens` and `max_new_tokens` are {} together, and the policy has {} positions",
                most + options.max_new_tokens,
                room + options.max_new_tokens
            ),
            hint: Some("lower one of them".to_owned()),
            transient: false,
        });
    }
    let text = |row: &Prompt| -> Result<String, StageError> {
        let text = texts::render(&template, &row.instruction, &row.input)?;
        Ok(texts::to_continue(&text).to_owned())
    };
    let texts: Vec<String> = rows.iter().map(text).collect::<Result<_, _>>()?;
    let tokens = policy
        .tokenizer
        .encode_batch(&texts, true)
        .map_err(|error| StageError::failed(error.to_string()))?;
    let too_long = params["too_long"].as_str().unwrap_or("cut");
    let tokens = texts::fit_prompts(context, &policy.tokenizer, (rows, tokens), most, too_long)?;
    let kept: Vec<(Vec<u32>, String)> = tokens
        .into_iter()
        .map(|(row, tokens)| Ok((tokens, text(&row)?)))
        .collect::<Result<_, StageError>>()?;
    let (train, validation) = training::split(context.declared, kept);
    if train.is_empty() {
        return Err(StageError::failed("there is nothing to respond to in `prompts`"));
    }
    let (train, mut texts): (Vec<_>, Vec<_>) = train.into_iter().unzip();
    let (validation, more): (Vec<_>, Vec<_>) = validation.into_iter().unzip();
    texts.extend(more);
    Ok((Prompts { train, validation }, texts))
}

/// A reward model that reads the text of prompt and response in its own tokens, as it did when it was
/// trained.
struct TextScorer<'a> {
    model: &'a RewardModel,
    tokenizer: &'a Tokenizer,
    policy: &'a Tokenizer,
    /// Prompts by their numbers.
    texts: &'a [String],
    /// Of a longer text the last so many tokens are read.
    most: usize,
    /// Whether it reads the token that ends a text.
    appends_end: bool,
    tokens_at_once: usize,
}

impl TextScorer<'_> {
    fn tokens(&self, answer: &Answer<'_>) -> Result<Vec<u32>, TrainError> {
        let refused = |error: &dyn std::fmt::Display| TrainError::Score(error.to_string());
        let response =
            self.policy.decode(answer.response, true).map_err(|error| refused(&error))?;
        let text = format!("{}{response}", self.texts[answer.number]);
        let mut tokens = self.tokenizer.encode(&text, true).map_err(|error| refused(&error))?;
        if self.appends_end && answer.has_ended && tokens.last().copied() != self.tokenizer.eos() {
            tokens.extend(self.tokenizer.eos());
        }
        Ok(texts::cut_beginning(self.tokenizer, tokens, self.most))
    }
}

impl Scorer for TextScorer<'_> {
    fn scores(&self, answers: &[Answer<'_>]) -> Result<Vec<f64>, TrainError> {
        let mut scores = Vec::with_capacity(answers.len());
        let mut batch: Vec<Vec<u32>> = Vec::new();
        let mut filled = 0;
        for (number, answer) in answers.iter().enumerate() {
            let tokens = self.tokens(answer)?;
            filled += tokens.len();
            batch.push(tokens);
            // What is read together changes no score.
            if filled >= self.tokens_at_once || number + 1 == answers.len() {
                scores.extend(self.model.rewards(&Sequences::new(&batch))?);
                batch.clear();
                filled = 0;
            }
        }
        Ok(scores)
    }
}

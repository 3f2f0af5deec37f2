//! What all trainings share: params with the values that presets give them, somebody who looks on, and
//! the curve.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use okapi_engine::clock;
use okapi_engine::stage::{Param, ParamDefault, ParamType};
use okapi_engine::stage_context::{StageContext, StageError, StageSuccess};
use okapi_model::random::{Purpose, Random};
use okapi_model::{Keep, ModelError};
use okapi_train::tensorboard::{EventWriter, FILE_NAME};
use okapi_train::{
    AdamWOptions, Batches, CheckpointEvery, CurveRow, Outcome, Part, Progress, Schedule, Select,
    TrainError, TrainOptions, Watch,
};
use serde_json::Value;

use crate::gpu;

const fn optional(name: &'static str, ty: ParamType, help: &'static str) -> Param {
    Param { name, ty, default: ParamDefault::Absent, identity: true, help }
}

const POSITIVE: ParamType = ParamType::Int { min: 1, max: i64::MAX };
const SHARE: ParamType = ParamType::Float { min: 0.0, max: 1.0 };
const NOT_NEGATIVE: ParamType = ParamType::Float { min: 0.0, max: f64::MAX };

pub(crate) const EPOCHS: Param = optional("epochs", POSITIVE, "how often every example is seen");
pub(crate) const BATCH: Param = optional(
    "batch",
    ParamType::Int { min: 1, max: 1 << 24 },
    "examples a step; the gradient is that of their mean, whatever fits into memory at once",
);
pub(crate) const LEARNING_RATE: Param =
    optional("learning_rate", NOT_NEGATIVE, "the highest learning rate");
pub(crate) const WARMUP: Param = optional(
    "warmup",
    ParamType::Int { min: 0, max: i64::MAX },
    "steps in which the learning rate rises to its highest",
);
pub(crate) const WARMUP_SHARE: Param =
    optional("warmup_share", SHARE, "the same, as a share of all steps");
pub(crate) const SCHEDULE: Param = optional(
    "schedule",
    ParamType::Choice(&["cosine", "linear", "constant"]),
    "how the learning rate falls after that",
);
pub(crate) const WEIGHT_DECAY: Param =
    optional("weight_decay", NOT_NEGATIVE, "AdamW's; biases and the weights of norms keep all");
pub(crate) const BETA1: Param = optional("beta1", SHARE, "AdamW's, of the mean");
pub(crate) const BETA2: Param = optional("beta2", SHARE, "AdamW's, of the mean of squares");
pub(crate) const EPSILON: Param = optional("epsilon", NOT_NEGATIVE, "AdamW's");
pub(crate) const MAX_NORM: Param = Param {
    name: "max_norm",
    ty: NOT_NEGATIVE,
    default: ParamDefault::Value("1.0"),
    identity: true,
    help: "gradients with a larger norm are made so large; 0 for none",
};
pub(crate) const VALIDATION_SHARE: Param = Param {
    name: "validation_share",
    ty: ParamType::Float { min: 0.0, max: 0.9 },
    default: ParamDefault::Value("0.1"),
    identity: true,
    help: "the share of rows that the model is measured by and does not learn",
};
pub(crate) const VALIDATE_EVERY: Param = optional(
    "validate_every",
    POSITIVE,
    "steps from one validation to the next; left out, there is one after each epoch",
);
pub(crate) const SELECT: Param = optional(
    "select",
    ParamType::Choice(&["last", "best"]),
    "which weights are the result: the last, or those with the lowest validation loss",
);
pub(crate) const TOKENS_AT_ONCE: Param = Param {
    name: "tokens_at_once",
    ty: ParamType::Int { min: 1, max: 1 << 30 },
    default: ParamDefault::Value("4096"),
    identity: true,
    help: "tokens that are computed at once, which is what memory is needed for; sums are taken in \
           another order with another value, so it counts",
};
pub(crate) const RECOMPUTE: Param = Param {
    name: "recompute",
    ty: ParamType::Bool,
    default: ParamDefault::Value("false"),
    identity: false,
    help: "compute what is inside of blocks again instead of keeping it: a third more time, a fraction \
           of the memory, the same result",
};
pub(crate) const CHECKPOINT_MINUTES: Param = Param {
    name: "checkpoint_minutes",
    ty: NOT_NEGATIVE,
    default: ParamDefault::Value("10"),
    identity: false,
    help: "minutes from one checkpoint to the next; a training that is killed goes on from the last one",
};
pub(crate) const CHECKPOINT_STEPS: Param = Param {
    name: "checkpoint_steps",
    ty: POSITIVE,
    default: ParamDefault::Absent,
    identity: false,
    help: "steps from one checkpoint to the next, if that comes first",
};

pub(crate) const DROP_LAST: Param = optional(
    "drop_last",
    ParamType::Bool,
    "whether the examples of an epoch that fill no batch are left out",
);

/// How long the learning rate rises.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Warmup {
    Steps(u64),
    Share(f64),
}

/// What a preset says, and params change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Recipe {
    pub(crate) epochs: u64,
    pub(crate) batch: u32,
    pub(crate) drops_last: bool,
    pub(crate) learning_rate: f64,
    pub(crate) warmup: Warmup,
    pub(crate) schedule: Schedule,
    pub(crate) adamw: AdamWOptions,
    pub(crate) validate_every: u64,
    pub(crate) select: Select,
}

impl Recipe {
    /// With the params of a node.
    pub(crate) fn with(mut self, params: &Value) -> Result<Recipe, String> {
        let number = |name: &str| params.get(name).and_then(Value::as_f64);
        let whole = |name: &str| params.get(name).and_then(Value::as_u64);
        let word = |name: &str| params.get(name).and_then(Value::as_str);
        let set = |to: &mut f64, name: &str| *to = number(name).unwrap_or(*to);
        self.epochs = whole("epochs").unwrap_or(self.epochs);
        self.batch = whole("batch").map_or(self.batch, |batch| batch as u32);
        set(&mut self.learning_rate, "learning_rate");
        set(&mut self.adamw.weight_decay, "weight_decay");
        set(&mut self.adamw.beta1, "beta1");
        set(&mut self.adamw.beta2, "beta2");
        set(&mut self.adamw.epsilon, "epsilon");
        self.adamw.max_norm = number("max_norm").or(self.adamw.max_norm).filter(|norm| *norm > 0.0);
        self.warmup = match (whole("warmup"), number("warmup_share")) {
            (Some(_), Some(_)) => return Err("give `warmup` or `warmup_share`, not both".into()),
            (Some(steps), None) => Warmup::Steps(steps),
            (None, Some(share)) => Warmup::Share(share),
            (None, None) => self.warmup,
        };
        self.schedule = match word("schedule") {
            Some("cosine") => Schedule::Cosine,
            Some("linear") => Schedule::Linear,
            Some("constant") => Schedule::Constant,
            _ => self.schedule,
        };
        self.select = match word("select") {
            Some("best") => Select::Best,
            Some("last") => Select::Last,
            _ => self.select,
        };
        self.validate_every = whole("validate_every").unwrap_or(self.validate_every);
        let drop_last = params.get("drop_last").and_then(Value::as_bool);
        self.drops_last = drop_last.unwrap_or(self.drops_last);
        for (name, beta) in [("beta1", self.adamw.beta1), ("beta2", self.adamw.beta2)] {
            if beta >= 1.0 {
                return Err(format!("`{name}` has to be below 1"));
            }
        }
        Ok(self)
    }

    /// What a training of so many examples is told.
    pub(crate) fn options(&self, examples: usize, context: &StageContext<'_>) -> TrainOptions {
        let examples = u32::try_from(examples).unwrap_or(u32::MAX);
        let steps = Batches::new(examples, self.batch, self.drops_last, 0).steps();
        let warmup = match self.warmup {
            Warmup::Steps(steps) => steps,
            Warmup::Share(share) => ((steps * self.epochs) as f64 * share).ceil() as u64,
        };
        TrainOptions {
            epochs: self.epochs,
            batch: self.batch,
            drops_last: self.drops_last,
            peak: self.learning_rate,
            warmup,
            schedule: self.schedule,
            adamw: self.adamw,
            seed: seed(context.declared),
            validate_every: self.validate_every,
            select: self.select,
            checkpoint: checkpoint_every(context.settings),
        }
    }

    /// Whether the learning rate does what it is told: a training that is too short for its warm-up learns
    /// less than it should, and one with a rate of zero in all of its steps nothing.
    pub(crate) fn check_steps(
        &self,
        examples: usize,
        options: &TrainOptions,
        context: &StageContext<'_>,
    ) -> Result<(), StageError> {
        let batches = Batches::new(examples as u32, self.batch, self.drops_last, 0);
        let total = batches.steps() * self.epochs;
        if total <= options.warmup {
            let reached =
                self.learning_rate * (total.saturating_sub(1)) as f64 / options.warmup as f64;
            let said = format!(
                "the learning rate rises for {} steps, and there are {total}: it reaches {reached:.2e} of {:.2e}",
                options.warmup, self.learning_rate
            );
            if reached == 0.0 {
                return Err(StageError::Failed {
                    message: said,
                    hint: Some(
                        "write a smaller `warmup`, `warmup_share: 0.1`, or a smaller `batch`"
                            .into(),
                    ),
                    transient: false,
                });
            }
            context
                .reporter
                .log(format!("{said}; `warmup_share: 0.1` would be a tenth of the steps"));
        }
        let batch = self.batch as usize;
        if self.drops_last && examples > batch && !examples.is_multiple_of(batch) {
            let left = examples % batch;
            context.reporter.log(format!(
                "{left} examples of each epoch, others each time, fill no batch and are left out (`drop_last`)"
            ));
        }
        Ok(())
    }

    /// How many examples a training of so many learns from, epochs counted, and how many it measures itself by,
    /// validations counted.
    pub(crate) fn passes(&self, declared: &Value, examples: f64) -> (f64, f64) {
        let share = declared["params"]["validation_share"].as_f64().unwrap_or(0.1);
        let validation = (examples * share).round();
        let learnt = (examples - validation) * self.epochs as f64;
        let validations = match self.validate_every {
            0 => self.epochs as f64,
            every => (learnt / f64::from(self.batch) / every as f64).max(1.0),
        };
        (learnt, validation * validations)
    }

    /// The same as names and values, for logs and cards.
    pub(crate) fn facts(&self) -> Vec<(&'static str, String)> {
        let AdamWOptions { beta1, beta2, epsilon, weight_decay, max_norm } = self.adamw;
        vec![
            ("epochs", self.epochs.to_string()),
            ("batch", self.batch.to_string()),
            ("learning rate", format!("{:e}", self.learning_rate)),
            (
                "warm-up",
                match self.warmup {
                    Warmup::Steps(steps) => format!("{steps} steps"),
                    Warmup::Share(share) => format!("{} % of the steps", 100.0 * share),
                },
            ),
            ("schedule", format!("{:?}", self.schedule).to_lowercase()),
            ("AdamW", format!("beta {beta1} and {beta2}, epsilon {epsilon:e}")),
            ("weight decay", weight_decay.to_string()),
            (
                "largest norm of the gradient",
                max_norm.map_or("none".to_owned(), |norm| norm.to_string()),
            ),
        ]
    }
}

/// Whether there is something to choose the best weights by.
pub(crate) fn check_select(recipe: &Recipe, declared: &Value) -> Result<(), String> {
    let share = declared["params"]["validation_share"].as_f64();
    match recipe.select {
        Select::Best if share == Some(0.0) => {
            Err("the best weights are chosen by validation: write `select: last`, or a `validation_share` above 0"
                .to_owned())
        }
        _ => Ok(()),
    }
}

/// Says in the node's log what a training does.
pub(crate) fn log_facts(context: &StageContext<'_>, facts: &[(&str, String)]) {
    let said: Vec<String> = facts.iter().map(|(name, value)| format!("{name} {value}")).collect();
    context.reporter.log(said.join("; "));
}

/// The param `tokens_at_once`.
pub(crate) fn tokens_at_once(declared: &Value) -> usize {
    declared["params"]["tokens_at_once"].as_u64().unwrap_or(4096) as usize
}

/// What the setting `recompute` means for a forward pass.
pub(crate) fn keep(settings: &Value) -> Keep {
    match settings["recompute"].as_bool() {
        Some(true) => Keep::Inputs,
        _ => Keep::All,
    }
}

/// Takes `validation_share` of the items out, by chance. Both parts keep their order.
pub(crate) fn split<T>(declared: &Value, items: Vec<T>) -> (Vec<T>, Vec<T>) {
    let share = declared["params"]["validation_share"].as_f64().unwrap_or(0.1);
    // One at least if there are to be any, and one at least to learn from.
    let most = items.len().saturating_sub(1);
    let least = usize::from(share > 0.0).min(most);
    let count = ((items.len() as f64 * share).round() as usize).clamp(least, most);
    let mut random = Random::new(seed(declared), Purpose::Split, 0, 0);
    let mut is_out = vec![false; items.len()];
    for number in random.permutation(items.len() as u32).into_iter().take(count) {
        is_out[number as usize] = true;
    }
    let (mut learnt, mut out) = (Vec::new(), Vec::new());
    for (item, is_out) in items.into_iter().zip(is_out) {
        if is_out { out.push(item) } else { learnt.push(item) }
    }
    (learnt, out)
}

/// The node's `seed`; 0 if it has none.
pub(crate) fn seed(declared: &Value) -> u64 {
    declared.get("seed").and_then(Value::as_i64).unwrap_or(0) as u64
}

fn checkpoint_every(settings: &Value) -> CheckpointEvery {
    let minutes = settings.get("checkpoint_minutes").and_then(Value::as_f64).unwrap_or(10.0);
    CheckpointEvery {
        steps: settings.get("checkpoint_steps").and_then(Value::as_u64),
        time: Duration::try_from_secs_f64(60.0 * minutes).ok(),
    }
}

/// Runs work on as many threads as the node may keep busy.
pub(crate) fn on_threads<T: Send>(
    threads: usize,
    work: impl FnOnce() -> T + Send,
) -> Result<T, StageError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).build();
    let pool = pool.map_err(|error| StageError::failed(format!("no threads: {error}")))?;
    Ok(pool.install(work))
}

/// Of steps that take longer, parts are said.
const LONG_STEP: Duration = Duration::from_secs(2);

/// Tells the run of a training: its steps, its measures, and a file for TensorBoard.
pub(crate) struct Looker<'a> {
    context: &'a StageContext<'a>,
    /// What its steps are called.
    unit: &'static str,
    /// When its last step was said.
    said: Instant,
    events: Option<EventWriter>,
    /// Whether it has been tried to open the file.
    opened: bool,
}

impl<'a> Looker<'a> {
    pub(crate) fn new(context: &'a StageContext<'a>, unit: &'static str) -> Looker<'a> {
        Looker { context, unit, said: Instant::now(), events: None, opened: false }
    }

    /// Appends a step to the event file. It is for the eye: what goes wrong with it stops no training.
    fn append(&mut self, row: &CurveRow, tokens_per_second: f64) {
        if !self.opened {
            self.opened = true;
            self.events = open_events(self.context.tensorboard, row.step - 1)
                .inspect_err(|error| self.context.reporter.log(format!("no live curve: {error}")))
                .ok();
        }
        let Some(events) = &mut self.events else { return };
        let mut values: Vec<(&str, f32)> =
            row.measures.iter().map(|(name, value)| (&name[..], *value as f32)).collect();
        values.push(("tokens_per_second", tokens_per_second as f32));
        let now = clock::unix_ms() as f64 / 1000.0;
        if events.scalars(now, row.step, &values).is_err() {
            self.events = None;
        }
    }
}

/// Opens the event file of a training that goes on after a step.
fn open_events(folder: &Path, after: u64) -> Result<EventWriter, String> {
    std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    let path = folder.join(FILE_NAME);
    if path.exists() {
        if let Ok(events) = EventWriter::resume(&path, after) {
            return Ok(events);
        }
        // What cannot be gone on with is begun anew.
        std::fs::remove_file(&path).map_err(|error| error.to_string())?;
    }
    EventWriter::create(&path).map_err(|error| error.to_string())
}

/// What of a step is worth a line in the node's log.
fn milestone(row: &CurveRow) -> Option<String> {
    let of = |names: &[&str]| {
        let said = names.iter().filter_map(|name| {
            let value = row.measures.get(*name)?;
            Some(format!("{} {value:.4}", name.replace('_', " ")))
        });
        said.collect::<Vec<_>>().join(", ")
    };
    if row.measures.contains_key("reward") {
        return Some(of(&["reward", "kl", "entropy", "clip_fraction", "validation_reward"]));
    }
    row.measures.contains_key("validation_loss").then(|| of(&["loss", "validation_loss"]))
}

impl Watch for Looker<'_> {
    fn step(&mut self, row: &CurveRow, progress: Progress) {
        let reporter = self.context.reporter;
        let mut values = row.measures.clone();
        if progress.tokens_per_second > 0.0 {
            values.insert("tokens_per_second".to_owned(), progress.tokens_per_second.round());
        }
        self.said = Instant::now();
        reporter.measures(row.step, values);
        reporter.progress(row.step, Some(progress.total), self.unit);
        self.append(row, progress.tokens_per_second);
        if let Some(said) = milestone(row) {
            reporter.log(format!("{} {} of {}: {said}", self.unit, row.step, progress.total));
        }
    }

    fn part(&mut self, part: Part) {
        // Of short steps the steps are enough.
        if self.said.elapsed() > LONG_STEP {
            self.context.reporter.progress(part.done, Some(part.total), part.name);
        }
    }

    fn resumed(&mut self, step: u64) {
        self.context
            .reporter
            .log(format!("goes on after {} {step}, from its checkpoint", self.unit));
    }

    fn is_stopped(&self) -> bool {
        self.context.cancel.is_requested()
    }
}

/// A training's failure as the run is told.
pub(crate) fn failure(error: &TrainError) -> StageError {
    let hint = match error {
        TrainError::Stopped { .. } => return StageError::Cancelled,
        TrainError::Model(ModelError::Device(error)) => return gpu::failure(error),
        TrainError::Diverged { .. } => {
            Some("lower `learning_rate`, or let it rise for longer with `warmup`".to_owned())
        }
        TrainError::Checkpoint(_) => {
            Some("if the checkpoint is damaged, delete it: the training begins anew".to_owned())
        }
        _ => None,
    };
    StageError::Failed { message: error.to_string(), hint, transient: false }
}

/// Writes the curve, a JSON line for each step, and notes how it ended.
pub(crate) fn write_curve(
    context: &StageContext<'_>,
    outcome: &Outcome,
    success: &mut StageSuccess,
) -> Result<(), StageError> {
    let mut file = context.create_output("curve")?;
    let io = |source| StageError::Io { path: context.outputs["curve"].clone(), source };
    for row in &outcome.curve {
        serde_json::to_writer(&mut file, row).map_err(|error| io(error.into()))?;
        file.write_all(b"\n").map_err(io)?;
    }
    success.written.insert("curve".to_owned(), file.finish().map_err(io)?);
    let mut last = BTreeMap::new();
    for row in outcome.curve.iter().filter(|row| row.step <= outcome.kept) {
        last.extend(row.measures.iter().map(|(name, value)| (name.clone(), *value)));
    }
    last.retain(|name, _| name != "learning_rate" && name != "gradient_norm");
    success.metrics.extend(last);
    success.metrics.insert("steps".to_owned(), outcome.curve.len() as f64);
    if (outcome.kept as usize) < outcome.curve.len() {
        success.metrics.insert("kept_step".to_owned(), outcome.kept as f64);
    }
    Ok(())
}

//! The loop: batches in, weights moved, measures out, and a checkpoint now and then.

use std::path::Path;
use std::time::Instant;

use okapi_model::{CausalLm, CheckpointError, Dropout, GenerateError, Gradients, ModelError};
use serde::{Deserialize, Serialize};

use crate::adamw::{AdamW, AdamWOptions};
use crate::batches::Batches;
use crate::learning_rate::{LearningRate, Schedule};
use crate::train_state::{CheckpointEvery, TrainState};

/// What is learnt.
pub trait Objective {
    /// How many examples there are.
    fn examples(&self) -> usize;

    /// Adds the gradients of a batch's mean loss.
    ///
    /// # Errors
    /// When the model cannot read an example.
    fn learn(
        &self,
        model: &CausalLm,
        batch: &Batch<'_>,
        gradients: &mut Gradients,
    ) -> Result<Measures, TrainError>;

    /// Measures the model on what it does not learn; `None` if there is nothing.
    ///
    /// # Errors
    /// When the model cannot read an example.
    fn validate(&self, model: &CausalLm) -> Result<Option<Measures>, TrainError>;
}

/// What one step learns from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch<'a> {
    /// Numbers of examples.
    pub examples: &'a [u32],
    /// The step, from 0.
    pub step: u64,
    /// The epoch that the step is in, from 0.
    pub epoch: u64,
    /// Where all chance comes from.
    pub seed: u64,
}

impl Batch<'_> {
    /// What is left out while a part of the batch is computed.
    pub fn dropout(&self, part: usize) -> Dropout {
        Dropout { seed: self.seed, step: self.step as u32, part: part as u16 }
    }
}

/// What a batch gave.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Measures {
    /// The mean loss.
    pub loss: f64,
    /// Tokens that were computed.
    pub tokens: u64,
    /// Further measures, by name.
    pub others: Vec<(&'static str, f64)>,
}

/// Which weights are the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Select {
    /// Those after the last step.
    Last,
    /// Those with the lowest validation loss.
    Best,
}

/// What is chosen once.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOptions {
    /// How often every example is seen.
    pub epochs: u64,
    /// Examples a step.
    pub batch: u32,
    /// Whether a last batch that is not full is left out.
    pub drops_last: bool,
    /// The highest learning rate.
    pub peak: f64,
    /// Steps until it is reached.
    pub warmup: u64,
    /// How the rate falls.
    pub schedule: Schedule,
    /// The optimiser's.
    pub adamw: AdamWOptions,
    /// Where all chance comes from.
    pub seed: u64,
    /// Steps from one validation to the next; 0 for one at the end of each epoch.
    pub validate_every: u64,
    /// Which weights are the result.
    pub select: Select,
    /// How often a checkpoint is made. Changes nothing else.
    pub checkpoint: CheckpointEvery,
}

/// A row of the curve: what one step gave. No time is in it, so that the same training gives the same
/// curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CurveRow {
    /// From 1.
    pub step: u64,
    /// Epochs so far, with the part of the one that is under way.
    pub epoch: f64,
    /// Measures by name: `loss`, `learning_rate`, `gradient_norm`, ... and after some steps `validation_loss`.
    #[serde(flatten)]
    pub measures: std::collections::BTreeMap<String, f64>,
}

/// Who looks on.
pub trait Watch {
    /// A step is done.
    fn step(&mut self, row: &CurveRow, progress: Progress);

    /// A part of a step is done, where steps are long: those of PPO.
    fn part(&mut self, _part: Part) {}

    /// Whether to stop. A checkpoint is made then.
    fn is_stopped(&self) -> bool;
}

/// How far a training is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Steps in all.
    pub total: u64,
    /// Tokens a second, of this step.
    pub tokens_per_second: f64,
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// What is done: `sampling` responses, `updates` of the weights, or `validation`.
    pub name: &'static str,
    /// So much of it.
    pub done: u64,
    /// So much in all.
    pub total: u64,
}

/// How a training ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The whole curve, from the first step.
    pub curve: Vec<CurveRow>,
    /// The step whose weights were kept.
    pub kept: u64,
}

/// Why a training ended too early.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// There is nothing to learn from.
    #[error("there are no examples to learn from")]
    Empty,
    /// It was asked to stop; a checkpoint holds all steps so far.
    #[error("stopped after step {step}")]
    Stopped {
        /// The last step.
        step: u64,
    },
    /// A loss, the gradient or another measure is no number any more.
    #[error("the training diverged at {unit} {step}: the {what} is {value}")]
    Diverged {
        /// What is counted: `step`, or in PPO `iteration`.
        unit: &'static str,
        /// From 1.
        step: u64,
        /// The measure, such as `loss` or `norm of the gradient`.
        what: String,
        /// NaN or an infinity.
        value: f64,
    },
    /// The model cannot read an example.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Responses cannot be sampled.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// Responses cannot be scored.
    #[error("responses cannot be scored: {0}")]
    Score(String),
    /// A checkpoint cannot be written or read.
    #[error("the checkpoint of the training: {0}")]
    Checkpoint(#[from] CheckpointError),
}

/// Trains a model in place. `folder` keeps checkpoints: a training that was killed goes on from the last
/// one, and ends with the same bytes.
///
/// # Errors
/// When it is stopped, diverges, or cannot keep its checkpoints.
pub fn train(
    model: &mut CausalLm,
    objective: &dyn Objective,
    options: &TrainOptions,
    folder: &Path,
    watch: &mut dyn Watch,
) -> Result<Outcome, TrainError> {
    let examples = u32::try_from(objective.examples()).unwrap_or(u32::MAX);
    let mut batches = Batches::new(examples, options.batch, options.drops_last, options.seed);
    let steps = batches.steps();
    let total = steps * options.epochs;
    if total == 0 {
        return Err(TrainError::Empty);
    }
    let rate = LearningRate {
        peak: options.peak,
        warmup: options.warmup,
        total,
        schedule: options.schedule,
    };
    let mut optimiser = AdamW::new(options.adamw, model.parameters());
    let mut state = TrainState::open(folder, model, &mut optimiser)?;
    let mut gradients = Gradients::zeros(model.parameters());
    let mut last_checkpoint = Instant::now();
    while state.step() < total {
        let began = Instant::now();
        let step = state.step();
        gradients.clear();
        let epoch = batches.epoch(step);
        let batch = Batch { examples: &batches.at(step), step, epoch, seed: options.seed };
        let measures = objective.learn(model, &batch, &mut gradients)?;
        let finite = |what: &str, value: f64| match value.is_finite() {
            true => Ok(()),
            false => {
                let what = what.to_owned();
                Err(TrainError::Diverged { unit: "step", step: step + 1, what, value })
            }
        };
        finite("loss", measures.loss)?;
        let norm = optimiser.step(model.parameters_mut(), &gradients, rate.at(step));
        finite("norm of the gradient", norm)?;
        let mut row = CurveRow {
            step: step + 1,
            epoch: (step + 1) as f64 / steps as f64,
            measures: std::collections::BTreeMap::new(),
        };
        let mut add = |name: &str, value: f64| row.measures.insert(name.to_owned(), value);
        add("loss", measures.loss);
        add("learning_rate", rate.at(step));
        add("gradient_norm", norm);
        for (name, value) in &measures.others {
            add(name, *value);
        }
        let every = if options.validate_every == 0 { steps } else { options.validate_every };
        let is_due = (step + 1).is_multiple_of(every) || step + 1 == total;
        if let Some(measures) = if is_due { objective.validate(model)? } else { None } {
            finite("validation loss", measures.loss)?;
            add("validation_loss", measures.loss);
            for (name, value) in &measures.others {
                add(&format!("validation_{name}"), *value);
            }
            if options.select == Select::Best {
                state.offer(step + 1, measures.loss, model)?;
            }
        }
        let tokens_per_second = measures.tokens as f64 / began.elapsed().as_secs_f64();
        watch.step(&row, Progress { total, tokens_per_second });
        state.push(row);
        let is_stopped = watch.is_stopped();
        if is_stopped || options.checkpoint.is_due(step + 1, last_checkpoint.elapsed()) {
            state.save(model, &optimiser)?;
            last_checkpoint = Instant::now();
        }
        if is_stopped && step + 1 < total {
            return Err(TrainError::Stopped { step: step + 1 });
        }
    }
    state.finish(model)
}

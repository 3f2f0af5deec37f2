//! The loop: batches in, weights moved, measures out, and a checkpoint now and then.

use std::collections::BTreeMap;
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

    /// Adds the gradients of a batch's mean loss. `on_part` is told of each part that is computed.
    ///
    /// # Errors
    /// When the model cannot read an example, or `on_part` says to stop.
    fn learn(
        &self,
        model: &CausalLm,
        batch: &Batch<'_>,
        gradients: &mut Gradients,
        on_part: &mut OnPart<'_>,
    ) -> Result<Measures, TrainError>;

    /// Measures the model on what it does not learn; `None` if there is nothing.
    ///
    /// # Errors
    /// When the model cannot read an example, or `on_part` says to stop.
    fn validate(
        &self,
        model: &CausalLm,
        on_part: &mut OnPart<'_>,
    ) -> Result<Option<Measures>, TrainError>;
}

/// Is told how many parts are done, and of how many; its error ends the work.
pub type OnPart<'a> = dyn FnMut(usize, usize) -> Result<(), TrainError> + 'a;

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

impl Measures {
    /// All of them by name, with something in front.
    fn named(&self, prefix: &str) -> BTreeMap<String, f64> {
        let loss = [("loss", self.loss)].into_iter();
        let all = loss.chain(self.others.iter().copied());
        all.map(|(name, value)| (format!("{prefix}{name}"), value)).collect()
    }
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
    pub measures: BTreeMap<String, f64>,
}

/// Who looks on.
pub trait Watch {
    /// A step is done.
    fn step(&mut self, row: &CurveRow, progress: Progress);

    /// A part of a step is done.
    fn part(&mut self, _part: Part) {}

    /// The training goes on after a step, from its checkpoint.
    fn resumed(&mut self, _step: u64) {}

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
    /// What is done: `parts` of a batch, or of the `validation`; of PPO `sampling` responses, and `updates` of the
    /// weights.
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
    let mut saved = state.step();
    if saved > 0 {
        watch.resumed(saved);
    }
    while state.step() < total || state.awaits_validation() {
        let began = Instant::now();
        let mut tokens = 0;
        if !state.awaits_validation() {
            let step = state.step();
            gradients.clear();
            let epoch = batches.epoch(step);
            let batch = Batch { examples: &batches.at(step), step, epoch, seed: options.seed };
            let learnt =
                objective.learn(model, &batch, &mut gradients, &mut looking(watch, "parts", step));
            let measures = match learnt {
                Err(TrainError::Stopped { step }) if step > saved => {
                    // What is lost is the step that was under way.
                    state.save(model, &optimiser)?;
                    return Err(TrainError::Stopped { step });
                }
                other => other?,
            };
            finite(step + 1, "loss", measures.loss)?;
            let norm = optimiser.step(model.parameters_mut(), &gradients, rate.at(step));
            model.check()?;
            finite(step + 1, "norm of the gradient", norm)?;
            tokens = measures.tokens;
            let mut row = CurveRow {
                step: step + 1,
                epoch: (step + 1) as f64 / steps as f64,
                measures: measures.named(""),
            };
            row.measures.insert("learning_rate".to_owned(), rate.at(step));
            row.measures.insert("gradient_norm".to_owned(), norm);
            state.push(row);
        }
        let step = state.step();
        let tokens_per_second = tokens as f64 / began.elapsed().as_secs_f64();
        let every = if options.validate_every == 0 { steps } else { options.validate_every };
        if step.is_multiple_of(every) || step == total {
            let measured = objective.validate(model, &mut looking(watch, "validation", step));
            let measured = match measured {
                Err(TrainError::Stopped { step }) => {
                    state.save(model, &optimiser)?;
                    return Err(TrainError::Stopped { step });
                }
                other => other?,
            };
            if let Some(measures) = measured {
                finite(step, "validation loss", measures.loss)?;
                state.add(measures.named("validation_"));
                if options.select == Select::Best {
                    state.offer(step, measures.loss, model)?;
                }
            }
        }
        state.settle();
        if let Some(row) = state.last() {
            watch.step(row, Progress { total, tokens_per_second });
        }
        let is_stopped = watch.is_stopped();
        if is_stopped || options.checkpoint.is_due(step, last_checkpoint.elapsed()) {
            state.save(model, &optimiser)?;
            saved = step;
            last_checkpoint = Instant::now();
        }
        if is_stopped && step < total {
            return Err(TrainError::Stopped { step });
        }
    }
    state.finish(model)
}

/// Tells who looks on of parts, and asks whether to stop after so many steps.
fn looking<'a>(
    watch: &'a mut dyn Watch,
    name: &'static str,
    step: u64,
) -> impl FnMut(usize, usize) -> Result<(), TrainError> + 'a {
    move |done, total| {
        watch.part(Part { name, done: done as u64, total: total as u64 });
        match watch.is_stopped() && done < total {
            true => Err(TrainError::Stopped { step }),
            false => Ok(()),
        }
    }
}

fn finite(step: u64, what: &str, value: f64) -> Result<(), TrainError> {
    match value.is_finite() {
        true => Ok(()),
        false => {
            let what = what.to_owned();
            Err(TrainError::Diverged { unit: "step", step, what, value })
        }
    }
}

//! How fast a machine trains, reads and writes: with a model of a given size that has learnt nothing.

use std::time::{Duration, Instant};

use okapi_device::{Device, Kind};
use okapi_model::{
    CausalLm, GenerateOptions, GenerateProgress, GenerateWatch, Gradients, Keep, Place,
    SamplingOptions, Sequences,
};
use serde_json::Value;

use crate::{AdamW, AdamWOptions, Average, Batch, Example, Objective, Sft, TrainError};

/// What is measured, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThroughputOptions {
    /// Tokens of an example.
    pub length: usize,
    /// Tokens that are computed at once, and of a step.
    pub tokens_at_once: usize,
    /// Responses that are written at once.
    pub rows: usize,
    /// For each of the three; what has begun is ended.
    pub time: Duration,
    /// What the forward pass keeps.
    pub keep: Keep,
}

/// Tokens a second, and what it took.
#[derive(Debug, Clone, PartialEq)]
pub struct Throughput {
    /// Numbers of the model.
    pub parameters: u64,
    /// Learnt, by whole steps of full fine-tuning, AdamW's among them.
    pub trained: f64,
    /// The loss of each step: it falls, as all steps learn the same.
    pub losses: Vec<f64>,
    /// Multiplications and additions of these steps a second, six for each number of the model and token; those
    /// of attention and of what is computed again are not counted.
    pub flops: f64,
    /// Scored.
    pub scored: f64,
    /// Sampled.
    pub sampled: f64,
    /// Memory of the GPU that was in use after a step, bytes.
    pub memory: Option<u64>,
}

/// Measures a model of this `config.json`. `said` is told what is under way.
///
/// # Errors
/// When the GPU fails, above all when its memory is too small.
pub fn measure(
    config: Value,
    device: Option<(&Device, Kind)>,
    options: &ThroughputOptions,
    said: &mut dyn FnMut(&str),
) -> Result<Throughput, TrainError> {
    said("making the model");
    let mut model = match device {
        None => CausalLm::new(config, 1)?,
        Some((device, kind)) => CausalLm::new_on_device(config, 1, device, kind, true)?,
    };
    let vocabulary = model.vocabulary() as u32;
    let text = |n: u32| -> Vec<u32> {
        (0..options.length as u32).map(|at| (n * 7919 + at * 104_729) % vocabulary).collect()
    };
    let count = (options.tokens_at_once / options.length).max(1) as u32;
    let sft = Sft {
        examples: (0..count).map(|n| Example { tokens: text(n), read_only: 0 }).collect(),
        validation: Vec::new(),
        average: Average::Tokens,
        tokens_at_once: options.tokens_at_once,
        keep: options.keep,
    };
    let all: Vec<u32> = (0..count).collect();
    let tokens = f64::from(count) * options.length as f64;
    let parameters = model.parameters().count() as u64;

    said("training");
    let mut losses = Vec::new();
    let mut memory = None;
    let trained = {
        let adamw = AdamWOptions { max_norm: Some(1.0), ..AdamWOptions::default() };
        let mut optimiser = AdamW::new(adamw, model.parameters());
        let mut gradients = Gradients::zeros(model.parameters());
        let seconds = seconds_of(options.time, |step| {
            gradients.clear();
            let batch = Batch { examples: &all, step, epoch: 0, seed: 1 };
            let learnt = sft.learn(&model, &batch, &mut gradients, &mut |_, _| Ok(()))?;
            losses.push(learnt.loss);
            optimiser.step(model.parameters_mut(), &gradients, 1e-5);
            synchronize(device)?;
            memory = in_use(device);
            said(&format!("training: step {}, loss {:.4}", step + 1, learnt.loss));
            Ok(())
        })?;
        tokens / seconds
    };
    for parameter in model.parameters_mut().iter_mut() {
        parameter.is_trained = false;
    }

    said("scoring");
    let texts: Vec<Vec<u32>> = (0..count).map(text).collect();
    let sequences = Sequences::new(&texts);
    let rows = sequences.ranges().flat_map(|range| range.skip(1));
    let places: Vec<Place> =
        rows.map(|row| Place { row: row - 1, next: sequences.tokens()[row] }).collect();
    let seconds = seconds_of(options.time, |_| {
        let forward = model.forward(sequences.clone(), Keep::Nothing)?;
        model.scores(forward.states(), &places)?;
        Ok(())
    })?;
    let scored = tokens / seconds;

    said("sampling");
    let prompts: Vec<Vec<u32>> = (0..options.rows as u32).map(|n| text(n)[..16].to_vec()).collect();
    let generation = GenerateOptions {
        sampling: SamplingOptions::default(),
        max_new_tokens: options.length.saturating_sub(16).max(1),
        rows_at_once: options.rows,
        ..GenerateOptions::default()
    };
    let mut clock =
        SamplingClock { first: None, last: Instant::now(), tokens: 0, most: options.time };
    let sampled = match model.generate(&prompts, &generation, &mut clock) {
        // Stopped by the clock.
        Ok(_) | Err(okapi_model::GenerateError::Stopped { .. }) => clock.rate(),
        Err(error) => return Err(error.into()),
    };
    let flops = 6.0 * parameters as f64 * trained;
    Ok(Throughput { parameters, trained, losses, flops, scored, sampled, memory })
}

/// The mean time of some work, which is done once before, until the time is over; at least twice.
fn seconds_of(
    time: Duration,
    mut work: impl FnMut(u64) -> Result<(), TrainError>,
) -> Result<f64, TrainError> {
    // Memory is taken, and kernels are loaded.
    work(0)?;
    let began = Instant::now();
    let mut count = 0;
    while count < 2 || began.elapsed() < time {
        count += 1;
        work(count)?;
    }
    Ok(began.elapsed().as_secs_f64() / count as f64)
}

fn synchronize(device: Option<(&Device, Kind)>) -> Result<(), TrainError> {
    match device {
        Some((device, _)) => device.synchronize().map_err(|error| TrainError::Model(error.into())),
        None => Ok(()),
    }
}

fn in_use(device: Option<(&Device, Kind)>) -> Option<u64> {
    let memory = device?.0.memory().ok()?;
    Some((memory.total - memory.free) as u64)
}

/// Counts tokens from the first step on, in which prompts are read too.
struct SamplingClock {
    first: Option<(Instant, u64)>,
    last: Instant,
    tokens: u64,
    most: Duration,
}

impl SamplingClock {
    fn rate(&self) -> f64 {
        self.first.map_or(0.0, |(began, before)| {
            (self.tokens - before) as f64 / (self.last - began).as_secs_f64().max(1e-9)
        })
    }
}

impl GenerateWatch for SamplingClock {
    fn step(&mut self, progress: GenerateProgress) {
        (self.last, self.tokens) = (Instant::now(), progress.tokens);
        self.first.get_or_insert((self.last, self.tokens));
    }

    fn is_stopped(&self) -> bool {
        self.first.is_some_and(|(began, _)| began.elapsed() > self.most)
    }
}

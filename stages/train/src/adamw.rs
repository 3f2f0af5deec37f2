//! AdamW (Loshchilov and Hutter, 2019), as PyTorch computes it, with the gradient clipped by its norm.

use okapi_device::DeviceArray;
use okapi_device::adamw::{AdamWStep, adamw, sum_of_all_squares};
use okapi_model::{Array, Gradients, Parameter, Parameters};
use rayon::prelude::*;

/// What is chosen once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWOptions {
    /// How slowly the mean of the gradients changes.
    pub beta1: f64,
    /// How slowly the mean of their squares changes.
    pub beta2: f64,
    /// Added to the root of the latter.
    pub epsilon: f64,
    /// So much of a weight is taken away, times the rate. Biases and the weights of norms keep all.
    pub weight_decay: f64,
    /// Gradients with a larger norm are made so large.
    pub max_norm: Option<f64>,
}

impl Default for AdamWOptions {
    fn default() -> AdamWOptions {
        AdamWOptions {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            max_norm: Some(1.0),
        }
    }
}

/// The optimiser with its memory.
#[derive(Debug, Clone)]
pub struct AdamW {
    options: AdamWOptions,
    steps: u64,
    /// For each parameter that is trained.
    moments: Vec<Option<Moments>>,
}

/// The running means of a parameter.
#[derive(Debug, Clone, Default)]
pub(crate) struct Moments {
    /// Of the gradient.
    pub(crate) first: Array,
    /// Of its square.
    pub(crate) second: Array,
}

/// Numbers that one task of the pool works on. Sums are taken by it, so it never changes with the threads.
const CHUNK: usize = 1 << 15;

impl AdamW {
    /// An optimiser that has not taken a step.
    pub fn new(options: AdamWOptions, parameters: &Parameters) -> AdamW {
        let moments = |parameter: &Parameter| {
            let zeros = || parameter.zeros();
            parameter.is_trained.then(|| Moments { first: zeros(), second: zeros() })
        };
        AdamW { options, steps: 0, moments: parameters.iter().map(moments).collect() }
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    pub(crate) fn moments(&self) -> &[Option<Moments>] {
        &self.moments
    }

    /// What it remembered when it had taken so many steps.
    pub(crate) fn restore(&mut self, steps: u64, moments: Vec<Option<Moments>>) {
        (self.steps, self.moments) = (steps, moments);
    }

    /// Moves what is trained against its gradient. Gives the norm that the gradient had; if that is no
    /// finite number, nothing is moved.
    pub fn step(&mut self, parameters: &mut Parameters, gradients: &Gradients, rate: f64) -> f64 {
        let norm = norm(gradients);
        if !norm.is_finite() {
            return norm;
        }
        self.steps += 1;
        let AdamWOptions { beta1, beta2, epsilon, weight_decay, max_norm } = self.options;
        let clip = max_norm.map_or(1.0, |most| (most / (norm + 1e-6)).min(1.0)) as f32;
        let (betas, steps) = ([beta1, beta2], self.steps);
        let decaying = AdamWStep::new(betas, epsilon, weight_decay, rate, steps, clip);
        let all = parameters.iter_mut().zip(gradients.iter()).zip(&mut self.moments);
        for ((parameter, gradient), moments) in all {
            let (Some(gradient), Some(moments)) = (gradient, moments) else { continue };
            let decays = parameter.shape.len() > 1;
            let step = if decays { decaying } else { AdamWStep { keep: 1.0, ..decaying } };
            if let Some(there) = &mut parameter.on_device {
                let (first, second) = (moments.first.device_mut(), moments.second.device_mut());
                let (weights, lows) = (&mut there.weights, there.lows.as_mut());
                adamw(weights, lows, gradient.device(), first, second, &step);
                continue;
            }
            let AdamWStep { clip, first, new_first, second, new_second, root, epsilon, size, keep } =
                step;
            let values =
                parameter.values.par_chunks_mut(CHUNK).zip(gradient.host().par_chunks(CHUNK));
            let firsts = moments.first.host_mut().par_chunks_mut(CHUNK);
            let seconds = moments.second.host_mut().par_chunks_mut(CHUNK);
            values.zip(firsts.zip(seconds)).for_each(|((values, gradient), (firsts, seconds))| {
                let one = values.iter_mut().zip(gradient).zip(firsts.iter_mut().zip(seconds));
                for ((value, gradient), (mean, square)) in one {
                    let gradient = gradient * clip;
                    *mean = *mean * first + gradient * new_first;
                    *square = *square * second + gradient * gradient * new_second;
                    *value = *value * keep - size * *mean / (square.sqrt() * root + epsilon);
                }
            });
        }
        norm
    }
}

/// The Euclidean norm of all gradients together, in double precision.
pub(crate) fn norm(gradients: &Gradients) -> f64 {
    let of = |chunk: &[f32]| chunk.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>();
    let mut sum = 0.0;
    let mut there: Vec<&DeviceArray> = Vec::new();
    for gradient in gradients.iter().flatten() {
        match gradient {
            Array::Host(gradient) => {
                let parts: Vec<f64> = gradient.par_chunks(CHUNK).map(of).collect();
                sum += parts.iter().sum::<f64>();
            }
            // All of them are asked at once: each answer of a GPU has to be waited for.
            Array::Device(gradient) => there.push(gradient),
        }
    }
    if let Some(first) = there.first() {
        sum += sum_of_all_squares(first.device(), &there);
    }
    sum.sqrt()
}

//! Proximal policy optimization: a language model answers prompts, and is pushed towards answers of a high
//! score without going far from what it was.
//!
//! An iteration samples one response to each of the next prompts, has them scored, and learns from them in
//! several passes. Policy and reference share all that is frozen; what enters the first trained block is
//! computed once for each response, and kept for all passes. A value head stands on the policy while it is
//! trained.
//!
//! # Determinism
//! The order of prompts depends on seed and epoch, a response on the policy, its prompt, the seed and its place
//! among all rollouts, and the order within a pass on seed, iteration and pass. A training that was killed goes
//! on after its last whole iteration, and ends with the same bytes.
//!
//! # Sources
//! Lai et al., 2023 (Okapi), section 3; Schulman et al., 2017; Ziegler et al., 2019; Ouyang et al., 2022. Where the
//! paper is silent, what its released code (on trlx) does is done, but for this: a score is given once, at the
//! last token of a response; advantages are whitened over all real tokens of an iteration; the norm after
//! BLOOM's embedding is frozen, as else the reference would move with the policy; the divergence is that of the
//! response alone; and an adaptive coefficient follows every response.

mod advantage;
mod kl;
mod loss;
mod metrics;
mod options;
mod reference;
mod rollout;
mod scorer;

use std::path::Path;
use std::time::Instant;

use okapi_model::random::{Purpose, Random};
use okapi_model::{Array, CausalLm, Gradients, ValueHead};

pub use self::advantage::{advantages, returns, whiten};
pub use self::kl::{KlControl, k1, k3, rewards};
pub use self::loss::{TokenLoss, policy_loss, value_loss};
pub use self::options::{Length, PpoOptions};
pub use self::scorer::{Answer, Prompts, RewardScorer, Scorer};

use self::metrics::{Sums, mean, of_rollouts};
use self::reference::Reference;
use self::rollout::{Rollout, Round, batch, observe, sample};
use crate::adamw::AdamW;
use crate::batches::{Orders, parts};
use crate::learning_rate::LearningRate;
use crate::train_state::TrainState;
use crate::trainer::{CurveRow, Outcome, Part, Progress, TrainError, Watch};

const KL_COEFFICIENT: &str = "kl_coefficient";

/// Trains a policy in place; the reference is the model as it comes. `folder` keeps a checkpoint of each
/// iteration, which holds what is trained with its moments: a training that was stopped or killed has to do at most
/// one of them again, if it is given the model as it was at the start.
///
/// A step of the curve is an iteration, and a step of the learning rate one of the optimiser. The measures:
///
/// | of rollouts | before anything is learnt from them |
/// |---|---|
/// | `reward`, `reward_std` | mean and deviation of the scores, not clipped and without the penalty |
/// | `kl`, `kl_k3` | divergence from the reference, in nats a response: the mean of [`k1`]'s or [`k3`]'s sum over tokens |
/// | `kl_coefficient` | what a nat of it cost |
/// | `entropy` | of the policy, in nats a token |
/// | `response_length`, `ended` | tokens a response; the share of responses that ended by themselves |
/// | `value`, `explained_variance` | mean value; `1 - var(return - value) / var(return)`, left out where all returns are equal |
///
/// | of learning | over the tokens of all passes |
/// |---|---|
/// | `policy_loss`, `value_loss` | means; the second without its coefficient |
/// | `clip_fraction`, `value_clip_fraction` | the share of tokens whose loss was the clipped one |
/// | `ratio_max` | the largest ratio of a token's probability to that in its rollout |
/// | `update_kl` | the mean of half the square of that ratio's logarithm: how far the policy went |
/// | `gradient_norm` | the mean over updates, before clipping |
/// | `updates`, `learning_rate` | steps of the optimiser, and the rate of the last of them |
///
/// | of validation | with the policy as it is after the iteration, where it is due |
/// |---|---|
/// | `validation_reward`, `validation_response_length` | means of scores and lengths |
/// | `validation_reward_at_start` | in the first row: before anything was learnt |
///
/// # Errors
/// When there is nothing to answer; when a prompt is empty, too long for the context, or not the model's; when
/// responses cannot be scored; when the training is stopped, diverges, or cannot keep its checkpoints. The model
/// is then of no use.
pub fn train(
    model: &mut CausalLm,
    prompts: &Prompts,
    scorer: &dyn Scorer,
    options: &PpoOptions,
    folder: &Path,
    watch: &mut dyn Watch,
) -> Result<Outcome, TrainError> {
    // What is frozen is the embedding with its norm and the lower blocks; the rest is the reference's too.
    model.train_top(options.trained_blocks, false);
    let mut reference = Reference::of(model);
    let head = ValueHead::add(model, options.seed);
    let with = (&head, &mut reference);
    let outcome = iterate(model, with, prompts, scorer, options, folder, watch);
    head.remove(model);
    outcome
}

fn iterate(
    model: &mut CausalLm,
    (head, reference): (&ValueHead, &mut Reference),
    prompts: &Prompts,
    scorer: &dyn Scorer,
    options: &PpoOptions,
    folder: &Path,
    watch: &mut dyn Watch,
) -> Result<Outcome, TrainError> {
    let count = prompts.train.len();
    let (iterations, all) = options.extent(count);
    if count == 0 || iterations == 0 {
        return Err(TrainError::Empty);
    }
    let rate = LearningRate {
        peak: options.peak,
        warmup: options.warmup,
        total: options.updates(all),
        schedule: options.schedule,
    };
    let mut orders = Orders::new(u32::try_from(count).unwrap_or(u32::MAX), options.seed);
    let mut optimiser = AdamW::new(options.adamw, model.parameters());
    let mut state = TrainState::open(folder, model, &mut optimiser)?;
    let mut gradients = Gradients::zeros(model.parameters());
    while state.step() < iterations {
        let began = Instant::now();
        let iteration = state.step();
        let beta = state.carried(KL_COEFFICIENT).unwrap_or(options.kl.initial());
        let at_start = match iteration {
            0 => validate(model, prompts, scorer, options, iteration, watch)?,
            _ => None,
        };

        // 1. A response to each of the next prompts, with its score.
        let each = u64::from(options.rollouts.max(1));
        let places = iteration * each..((iteration + 1) * each).min(all);
        let numbers: Vec<usize> = places.clone().map(|place| orders.at(place) as usize).collect();
        let (seed, first_row) = (options.seed, places.start);
        let round = Round { name: "sampling", iteration, seed, first_row };
        let responses = sample(model, (prompts, &numbers), scorer, options, round, watch)?;

        // 2. What policy, reference and values say of every token, and how good it was.
        let rollouts = observe(model, (head, reference), responses, beta, options)?;
        let mut measures = of_rollouts(&rollouts);
        for (name, value) in &measures {
            finite(iteration, name, *value)?;
        }

        // 3. Several passes over the rollouts, in batches.
        let mut sums = Sums::default();
        let updates = options.updates(rollouts.len() as u64);
        let mut learning_rate = 0.0;
        for pass in 0..options.passes.max(1) {
            let mut random = Random::new(options.seed, Purpose::Passes, iteration as u32, pass);
            let order = random.permutation(rollouts.len() as u32);
            for numbers in order.chunks(options.batch.max(1) as usize) {
                if watch.is_stopped() {
                    return Err(TrainError::Stopped { step: iteration });
                }
                let batch: Vec<&Rollout> =
                    numbers.iter().map(|number| &rollouts[*number as usize]).collect();
                gradients.clear();
                let learnt = learn(model, head, &batch, options, &mut gradients)?;
                finite(iteration, "policy loss", learnt.policy_loss())?;
                finite(iteration, "value loss", learnt.value_loss())?;
                learning_rate = rate.at(optimiser.steps());
                let norm = optimiser.step(model.parameters_mut(), &gradients, learning_rate);
                model.check()?;
                finite(iteration, "norm of the gradient", norm)?;
                sums.update(&learnt, norm);
                let done = sums.updates();
                watch.part(Part { name: "updates", done, total: updates });
            }
        }

        // 4. The row of the curve, what a nat is to cost from now on, and a checkpoint.
        let divergence = measures.get("kl_k3").copied().unwrap_or(0.0);
        let next_beta = options.kl.next(beta, divergence, rollouts.len());
        finite(iteration, KL_COEFFICIENT, next_beta)?;
        state.carry(KL_COEFFICIENT, next_beta);
        for (name, value) in sums.measures() {
            finite(iteration, &name, value)?;
            measures.insert(name, value);
        }
        measures.insert("learning_rate".to_owned(), learning_rate);
        measures.insert(KL_COEFFICIENT.to_owned(), beta);
        if let Some((reward, _)) = at_start {
            measures.insert("validation_reward_at_start".to_owned(), reward);
        }
        let done = iteration + 1;
        let every = options.validate_every;
        if done == iterations || every > 0 && done.is_multiple_of(every) {
            let validated = validate(model, prompts, scorer, options, iteration, watch)?;
            if let Some((reward, length)) = validated {
                measures.insert("validation_reward".to_owned(), reward);
                measures.insert("validation_response_length".to_owned(), length);
            }
        }
        let row = CurveRow { step: done, epoch: places.end as f64 / count as f64, measures };
        let tokens: usize = rollouts.iter().map(|rollout| rollout.response.count()).sum();
        let tokens_per_second = tokens as f64 / began.elapsed().as_secs_f64();
        watch.step(&row, Progress { total: iterations, tokens_per_second });
        state.push(row);
        state.settle();
        state.save(model, &optimiser)?;
        if watch.is_stopped() && done < iterations {
            return Err(TrainError::Stopped { step: done });
        }
    }
    state.finish(model)
}

/// Adds the gradients of a batch's loss, policy's and values' together: the means over its tokens.
fn learn(
    model: &CausalLm,
    head: &ValueHead,
    rollouts: &[&Rollout],
    options: &PpoOptions,
    gradients: &mut Gradients,
) -> Result<Sums, TrainError> {
    let block = model.frozen_blocks();
    let tokens: usize = rollouts.iter().map(|it| it.response.count()).sum();
    let weight = 1.0 / tokens as f64;
    let mut sums = Sums::default();
    let size = |rollout: &&Rollout| rollout.response.tokens().len();
    for part in parts(rollouts.iter().copied(), options.tokens_at_once, size) {
        let (sequences, places) = batch(part.iter().map(|it| &it.response));
        let entering: Vec<&Array> = part.iter().map(|it| &it.entering).collect();
        let entering = Array::concat(&entering); // [T, C]
        let forward = model.forward_from(block, entering, sequences, options.keep)?;
        // Of every token that was sampled, in the order of `places`.
        let of = |numbers: fn(&Rollout) -> &[f64]| -> Vec<f64> {
            part.iter().flat_map(|rollout| numbers(rollout)).copied().collect()
        };
        let (logp_old, advantages) = (of(|it| &it.logp), of(|it| &it.advantages));
        let (values_old, returns) = (of(|it| &it.values), of(|it| &it.returns));
        let policy = |place: usize, logp: f64| {
            policy_loss(logp, logp_old[place], advantages[place], options.clip)
        };
        let value = |place: usize, value: f64| {
            value_loss(value, values_old[place], returns[place], options.value_clip)
        };

        let mut d_states = forward.states().zeros(); // [T, C]
        let scores = model.scores_backward(
            (forward.states(), &mut d_states),
            &places,
            gradients,
            |place, score| weight * policy(place, score.log_probability).slope,
        )?;
        let rows: Vec<usize> = places.iter().map(|place| place.row).collect();
        let values = head.read(model.parameters(), forward.states(), &rows);
        let grades: Vec<f64> = (0..)
            .zip(&values)
            .map(|(place, it)| options.value_coefficient * weight * value(place, *it).slope)
            .collect();
        let of = (forward.states(), &mut d_states);
        head.backward(model.parameters(), gradients, of, &rows, &grades);
        model.backward(forward, &d_states, gradients);
        for (place, (score, it)) in scores.iter().zip(&values).enumerate() {
            let logp = score.log_probability;
            sums.add(policy(place, logp), value(place, *it), logp - logp_old[place]);
        }
    }
    Ok(sums)
}

/// The mean score and length of responses to the prompts that are not learnt from, always with the same chance;
/// `None` if there are none.
fn validate(
    model: &CausalLm,
    prompts: &Prompts,
    scorer: &dyn Scorer,
    options: &PpoOptions,
    iteration: u64,
    watch: &mut dyn Watch,
) -> Result<Option<(f64, f64)>, TrainError> {
    let first = prompts.train.len();
    let numbers: Vec<usize> = (first..first + prompts.validation.len()).collect();
    if numbers.is_empty() {
        return Ok(None);
    }
    // The rows are counted from 0 as those of the training are, so the seed has to be another.
    let round = Round { name: "validation", iteration, seed: !options.seed, first_row: 0 };
    let responses = sample(model, (prompts, &numbers), scorer, options, round, watch)?;
    let reward = mean(responses.iter().map(|response| response.score));
    Ok(Some((reward, mean(responses.iter().map(|response| response.count() as f64)))))
}

fn finite(iteration: u64, what: &str, value: f64) -> Result<(), TrainError> {
    if value.is_finite() { Ok(()) } else { Err(diverged(iteration, what, value)) }
}

/// A training that has no sense any more, in an iteration counted from 0.
fn diverged(iteration: u64, what: &str, value: f64) -> TrainError {
    TrainError::Diverged { unit: "iteration", step: iteration + 1, what: what.to_owned(), value }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Watch for Nobody {
        fn step(&mut self, _: &CurveRow, _: Progress) {}

        fn is_stopped(&self) -> bool {
            false
        }
    }

    /// Of both losses together, by every number that is trained, when the policy is no longer the one that
    /// sampled: against differences along a direction of each parameter.
    #[test]
    fn gradients_are_those_that_differences_give() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models");
        for name in ["bloom", "llama", "gpt_neox"] {
            let mut model = CausalLm::open(&fixtures.join(name)).unwrap();
            model.train_top(1, false);
            let mut reference = Reference::of(&model);
            let head = ValueHead::add(&mut model, 2);
            let train: Vec<Vec<u32>> = vec![vec![5, 9, 30], vec![8], vec![40, 3]];
            let prompts = Prompts { train, validation: Vec::new() };
            let options = PpoOptions {
                max_new_tokens: 6,
                value_coefficient: 0.7,
                tokens_at_once: 12,
                ..PpoOptions::default()
            };
            let scorer = |answers: &[Answer<'_>]| {
                Ok(answers.iter().map(|answer| f64::from(answer.response[1] % 5)).collect())
            };
            let round = Round { name: "sampling", iteration: 0, seed: 1, first_row: 0 };
            let numbers = (&prompts, &[0, 1, 2][..]);
            let all = sample(&model, numbers, &scorer, &options, round, &mut Nobody).unwrap();
            let rollouts =
                observe(&mut model, (&head, &mut reference), all, 0.1, &options).unwrap();
            let rollouts: Vec<&Rollout> = rollouts.iter().collect();
            let wave = |n: usize| (1.0 + n as f32 * 0.37).sin();
            for parameter in model.parameters_mut().iter_mut().filter(|it| it.is_trained) {
                let numbers = parameter.values.iter_mut().enumerate();
                numbers.for_each(|(n, value)| *value += 0.02 * wave(3 * n));
            }
            let learn = |model: &CausalLm| {
                let mut gradients = Gradients::zeros(model.parameters());
                let sums = learn(model, &head, &rollouts, &options, &mut gradients).unwrap();
                (sums.policy_loss() + 0.7 * sums.value_loss(), gradients)
            };
            let (_, gradients) = learn(&model);
            for (place, gradient) in gradients.iter().enumerate() {
                let Some(gradient) = gradient.map(Array::host) else { continue };
                let norm = (0..gradient.len()).map(|n| wave(n) * wave(n)).sum::<f32>().sqrt();
                let along = |n: usize| wave(n) / norm;
                let ours: f64 =
                    gradient.iter().enumerate().map(|(n, g)| f64::from(g * along(n))).sum();
                // A long step may cross a kink of a clip or of the ReLU, a short one drowns in rounding.
                let slopes = [5e-3f32, 1e-3, 3e-4].map(|step| {
                    let at = |step: f32| {
                        let mut moved = model.clone();
                        let parameter = moved.parameters_mut().iter_mut().nth(place).unwrap();
                        let numbers = parameter.values.iter_mut().enumerate();
                        numbers.for_each(|(n, value)| *value += step * along(n));
                        learn(&moved).0
                    };
                    (at(step) - at(-step)) / f64::from(2.0 * step)
                });
                let is_close = |slope: &f64| (ours - slope).abs() < 3e-3 * (0.5 + slope.abs());
                assert!(slopes.iter().any(is_close), "{name}, {place}: {ours} {slopes:?}");
            }
        }
    }
}

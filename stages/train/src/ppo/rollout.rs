//! Rollouts: responses that were sampled, what they are worth, and what the policy, the reference and
//! the value head said of every token when they were.

use okapi_model::{
    Array, CausalLm, FinishReason, GenerateError, GenerateOptions, GenerateProgress, GenerateWatch,
    Generated, Keep, Place, Sequences, ValueHead,
};

use super::advantage::{advantages, returns, whiten};
use super::diverged;
use super::kl::rewards;
use super::options::PpoOptions;
use super::reference::Reference;
use super::scorer::{Answer, Prompts, Scorer};
use crate::batches::parts;
use crate::trainer::{Part, TrainError, Watch};

/// A response with its score.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Response {
    /// Prompt and response.
    tokens: Vec<u32>,
    /// Tokens of the response, at least one.
    count: usize,
    has_ended: bool,
    pub(crate) score: f64,
}

/// A response that is learnt from, with numbers for each of its tokens: `[R]`.
#[derive(Debug, Clone)]
pub(crate) struct Rollout {
    pub(crate) response: Response,
    /// What enters the first trained block, prompt and response: `[T, C]`. The frozen blocks are computed once
    /// for all passes.
    pub(crate) entering: Array,
    /// The log-probability by the policy that sampled it.
    pub(crate) logp: Vec<f64>,
    /// The log-probability by the reference.
    pub(crate) logp_reference: Vec<f64>,
    /// Entropy of the policy's distribution that it is from.
    pub(crate) entropies: Vec<f64>,
    /// The value of the state before it.
    pub(crate) values: Vec<f64>,
    /// What that value should have been.
    pub(crate) returns: Vec<f64>,
    /// How much better it was than expected, whitened over the iteration.
    pub(crate) advantages: Vec<f64>,
}

impl Response {
    pub(crate) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens of the response.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Places of the response's tokens in a batch, where the prompt's first stands in row `first`.
    fn places(&self, first: usize) -> impl Iterator<Item = Place> {
        // No prompt is empty, so every token of a response has one before it.
        let response = self.tokens.len() - self.count..self.tokens.len();
        response.map(move |next| Place { row: first + next - 1, next: self.tokens[next] })
    }
}

/// Some responses as a batch: the tokens, and the places of what was sampled.
pub(crate) fn batch<'a>(responses: impl Iterator<Item = &'a Response>) -> (Sequences, Vec<Place>) {
    let (mut tokens, mut places, mut first) = (Vec::new(), Vec::new(), 0);
    for response in responses {
        places.extend(response.places(first));
        first += response.tokens.len();
        tokens.push(&response.tokens[..]);
    }
    (Sequences::new(&tokens), places)
}

/// What responses are sampled for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    /// What who looks on is told: `sampling` or `validation`.
    pub(crate) name: &'static str,
    /// The iteration, from 0.
    pub(crate) iteration: u64,
    /// Where chance comes from, with the number of the row.
    pub(crate) seed: u64,
    /// The number of the first row.
    pub(crate) first_row: u64,
}

/// Tells who looks at the training how far the sampling is.
struct Sampling<'a> {
    watch: &'a mut dyn Watch,
    name: &'static str,
}

impl GenerateWatch for Sampling<'_> {
    fn step(&mut self, progress: GenerateProgress) {
        let GenerateProgress { done, total, .. } = progress;
        self.watch.part(Part { name: self.name, done: done as u64, total: total as u64 });
    }

    fn is_stopped(&self) -> bool {
        self.watch.is_stopped()
    }
}

/// Samples a response to each of some prompts, and has it scored.
pub(crate) fn sample(
    model: &CausalLm,
    (prompts, numbers): (&Prompts, &[usize]),
    scorer: &dyn Scorer,
    options: &PpoOptions,
    round: Round,
    watch: &mut dyn Watch,
) -> Result<Vec<Response>, TrainError> {
    let texts: Vec<&[u32]> = numbers.iter().map(|number| prompts.get(*number)).collect();
    let generation = GenerateOptions {
        sampling: options.sampling.clone(),
        samples: 1,
        max_new_tokens: options.max_new_tokens,
        stop_tokens: options.stop_tokens.clone(),
        context: options.context,
        rows_at_once: options.rows_at_once,
        seed: round.seed,
        // After four thousand million rollouts chance repeats itself.
        first_row: round.first_row as u32,
    };
    let iteration = round.iteration;
    let watch = &mut Sampling { watch, name: round.name };
    let generated = model.generate(&texts, &generation, watch);
    let generated: Vec<Generated> = match generated {
        Ok(generated) => generated.into_iter().flatten().collect(),
        Err(GenerateError::Stopped { .. }) => return Err(TrainError::Stopped { step: iteration }),
        Err(GenerateError::NotFinite { .. }) => {
            return Err(diverged(iteration, "largest logit", f64::NAN));
        }
        Err(error) => return Err(error.into()),
    };
    let all = || texts.iter().zip(&generated);
    let answers: Vec<Answer<'_>> = all()
        .zip(numbers)
        .map(|((prompt, generated), number)| Answer {
            number: *number,
            prompt,
            response: &generated.tokens,
            has_ended: generated.finish == FinishReason::Stop,
        })
        .collect();
    let scores = scorer.scores(&answers)?;
    if scores.len() != answers.len() {
        let message = format!("{} scores for {} responses", scores.len(), answers.len());
        return Err(TrainError::Score(message));
    }
    if let Some(&score) = scores.iter().find(|score| !score.is_finite()) {
        return Err(diverged(iteration, "score of a response", score));
    }
    let response = |(answer, score): (&Answer<'_>, f64)| Response {
        tokens: [answer.prompt, answer.response].concat(),
        count: answer.response.len(),
        has_ended: answer.has_ended,
        score,
    };
    Ok(answers.iter().zip(scores).map(response).collect())
}

/// Computes what is learnt from responses: the frozen blocks once, then the policy and the reference from there,
/// and the advantages, for which a nat of divergence costs `beta`.
///
/// Log-probabilities are computed again as they are while learning: those of the sampling, which adds numbers
/// up in another order, would make ratios that are not 1 where nothing has changed.
pub(crate) fn observe(
    model: &mut CausalLm,
    (head, reference): (&ValueHead, &mut Reference),
    responses: Vec<Response>,
    beta: f64,
    options: &PpoOptions,
) -> Result<Vec<Rollout>, TrainError> {
    let block = model.frozen_blocks();
    let mut rollouts = Vec::with_capacity(responses.len());
    for part in parts(responses, options.tokens_at_once, |response| response.tokens.len()) {
        let (sequences, places) = batch(part.iter());
        let entering = model.states_entering(block, &sequences)?; // [T, C]
        let policy =
            model.forward_from(block, entering.clone(), sequences.clone(), Keep::Nothing)?;
        let scores = model.scores(policy.states(), &places)?;
        let rows: Vec<usize> = places.iter().map(|place| place.row).collect();
        let values = head.read(model.parameters(), policy.states(), &rows);
        drop(policy);
        let of_reference = reference.ask(model, |model| {
            let start =
                model.forward_from(block, entering.clone(), sequences.clone(), Keep::Nothing)?;
            model.scores(start.states(), &places)
        })?;
        let mut first = 0;
        for (response, range) in part.into_iter().zip(sequences.ranges()) {
            let all = first..first + response.count; // [R]
            first = all.end;
            let width = model.hidden();
            let logp: Vec<f64> =
                scores[all.clone()].iter().map(|score| score.log_probability).collect();
            let logp_reference: Vec<f64> =
                of_reference[all.clone()].iter().map(|score| score.log_probability).collect();
            let values = values[all.clone()].to_vec();
            let score = clipped(response.score, options.score_clip);
            let rewards = rewards(&logp, &logp_reference, score, beta);
            let advantages = advantages(&rewards, &values, options.gamma, options.lambda);
            rollouts.push(Rollout {
                response,
                entering: entering.part(range.start * width, range.len() * width),
                entropies: scores[all].iter().map(|score| score.entropy).collect(),
                returns: returns(&advantages, &values),
                logp,
                logp_reference,
                values,
                advantages,
            });
        }
    }
    let mut all: Vec<Vec<f64>> =
        rollouts.iter_mut().map(|rollout| std::mem::take(&mut rollout.advantages)).collect();
    whiten(&mut all);
    for (rollout, advantages) in rollouts.iter_mut().zip(all) {
        rollout.advantages = advantages;
    }
    Ok(rollouts)
}

fn clipped(score: f64, clip: Option<f64>) -> f64 {
    clip.map_or(score, |clip| score.max(-clip).min(clip))
}

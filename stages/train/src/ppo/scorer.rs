//! What responses are worth.

use okapi_model::{RewardModel, Sequences};

use crate::batches::parts;
use crate::trainer::TrainError;

/// What is answered: tokens of a prompt each, none of them empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prompts {
    /// What the policy learns from.
    pub train: Vec<Vec<u32>>,
    /// What it is measured by, and never learns from.
    pub validation: Vec<Vec<u32>>,
}

impl Prompts {
    /// A prompt by its number, which counts those of the training and then those of the validation.
    pub(crate) fn get(&self, number: usize) -> &[u32] {
        match number.checked_sub(self.train.len()) {
            None => &self.train[number],
            Some(number) => &self.validation[number],
        }
    }
}

/// A response to be scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The number of its prompt: those of the training are counted first, then those of the validation. A
    /// scorer that reads other tokens than the policy's finds the text by it.
    pub number: usize,
    /// The prompt's tokens.
    pub prompt: &'a [u32],
    /// The response's, the stop token among them if it ended with one.
    pub response: &'a [u32],
    /// Whether it ended by itself.
    pub has_ended: bool,
}

/// Who scores responses: a reward model, or any function.
pub trait Scorer {
    /// A score for each answer, in their order: the higher the better.
    ///
    /// # Errors
    /// When an answer cannot be scored; [`TrainError::Score`] takes a reason.
    fn scores(&self, answers: &[Answer<'_>]) -> Result<Vec<f64>, TrainError>;
}

impl<F: Fn(&[Answer<'_>]) -> Result<Vec<f64>, TrainError>> Scorer for F {
    fn scores(&self, answers: &[Answer<'_>]) -> Result<Vec<f64>, TrainError> {
        self(answers)
    }
}

/// A reward model that reads the policy's own tokens: prompt, response, and the stop token if there is one, of
/// which the last gives the score.
#[derive(Debug, Clone, Copy)]
pub struct RewardScorer<'a> {
    /// The model.
    pub model: &'a RewardModel,
    /// At most so many tokens are computed at once. Changes no score.
    pub tokens_at_once: usize,
}

impl Scorer for RewardScorer<'_> {
    fn scores(&self, answers: &[Answer<'_>]) -> Result<Vec<f64>, TrainError> {
        let texts = answers.iter().map(|answer| [answer.prompt, answer.response].concat());
        let mut scores = Vec::with_capacity(answers.len());
        for part in parts(texts, self.tokens_at_once, Vec::len) {
            scores.extend(self.model.rewards(&Sequences::new(&part))?);
        }
        Ok(scores)
    }
}

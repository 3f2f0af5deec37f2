//! Supervised fine-tuning: the loss of a batch is the mean of its tokens' cross-entropies.

use okapi_model::{CausalLm, Gradients, Keep, Place, Sequences};

use crate::batches::parts;
use crate::trainer::{Batch, Measures, Objective, OnPart, TrainError};

/// A text to learn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// All of it: prompt, response, end.
    pub tokens: Vec<u32>,
    /// So many at the start are read, and not learnt. The first never is: nothing comes before it.
    pub read_only: usize,
}

impl Example {
    /// Places of the tokens that count, of which the first stands in row `first` of a batch.
    fn places(&self, first: usize) -> impl Iterator<Item = Place> {
        let counted = self.read_only.max(1)..self.tokens.len();
        counted.map(move |next| Place { row: first + next - 1, next: self.tokens[next] })
    }

    /// How many tokens count.
    pub fn counted(&self) -> usize {
        self.tokens.len().saturating_sub(self.read_only.max(1))
    }
}

/// What a batch's mean is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Average {
    /// All tokens of the batch that count: a long response weighs more.
    Tokens,
    /// Examples: each is the mean of its tokens.
    Examples,
}

/// Texts to learn, and texts to be measured by.
#[derive(Debug, Clone)]
pub struct Sft {
    /// What is learnt from.
    pub examples: Vec<Example>,
    /// What the model is measured by, and never learns.
    pub validation: Vec<Example>,
    /// What the mean is taken over.
    pub average: Average,
    /// At most so many tokens are computed at once; a longer example alone. A batch is computed in
    /// as many parts as that needs: its gradients are added up, so the loss is that of the whole.
    pub tokens_at_once: usize,
    /// What the forward pass keeps.
    pub keep: Keep,
}

impl Sft {
    /// A batch in parts of at most `tokens_at_once` tokens.
    fn parts<'a>(&self, batch: impl Iterator<Item = &'a Example>) -> Vec<Vec<&'a Example>> {
        parts(batch, self.tokens_at_once, |example| example.tokens.len())
    }

    /// The places of a part that count, each with its weight in the mean.
    fn weights(&self, part: &[&Example], batch: &[&Example]) -> (Vec<Place>, Vec<f64>) {
        let all: usize = batch.iter().map(|example| example.counted()).sum();
        let (mut places, mut weights) = (Vec::new(), Vec::new());
        let mut first = 0;
        for example in part {
            let weight = match self.average {
                Average::Tokens => 1.0 / all as f64,
                Average::Examples => 1.0 / (batch.len() * example.counted()) as f64,
            };
            places.extend(example.places(first));
            weights.resize(places.len(), weight);
            first += example.tokens.len();
        }
        (places, weights)
    }
}

fn sequences(part: &[&Example]) -> Sequences {
    let tokens: Vec<&[u32]> = part.iter().map(|example| &example.tokens[..]).collect();
    Sequences::new(&tokens)
}

impl Objective for Sft {
    fn examples(&self) -> usize {
        self.examples.len()
    }

    fn learn(
        &self,
        model: &CausalLm,
        batch: &Batch<'_>,
        gradients: &mut Gradients,
        on_part: &mut OnPart<'_>,
    ) -> Result<Measures, TrainError> {
        let dropout = |part| batch.dropout(part);
        let batch: Vec<&Example> =
            batch.examples.iter().map(|&number| &self.examples[number as usize]).collect();
        let mut loss = 0.0;
        let parts = self.parts(batch.iter().copied());
        let count = parts.len();
        for (number, part) in parts.into_iter().enumerate() {
            let dropout = dropout(number);
            let forward = model.forward_in_training(sequences(&part), self.keep, dropout)?;
            let (places, weights) = self.weights(&part, &batch);
            let mut d_states = forward.states().zeros();
            let of = (forward.states(), &mut d_states);
            let scores =
                model.scores_backward(of, &places, gradients, |place, _| -weights[place])?;
            model.backward(forward, &d_states, gradients);
            let losses = scores.iter().zip(&weights);
            loss -= losses.map(|(score, weight)| score.log_probability * weight).sum::<f64>();
            on_part(number + 1, count)?;
        }
        let tokens: usize = batch.iter().map(|example| example.tokens.len()).sum();
        Ok(Measures { loss, tokens: tokens as u64, others: Vec::new() })
    }

    fn validate(
        &self,
        model: &CausalLm,
        on_part: &mut OnPart<'_>,
    ) -> Result<Option<Measures>, TrainError> {
        if self.validation.is_empty() {
            return Ok(None);
        }
        let batch: Vec<&Example> = self.validation.iter().collect();
        let (mut loss, mut tokens) = (0.0, 0);
        let parts = self.parts(batch.iter().copied());
        let count = parts.len();
        for (number, part) in parts.into_iter().enumerate() {
            let forward = model.forward(sequences(&part), Keep::Nothing)?;
            let (places, weights) = self.weights(&part, &batch);
            let scores = model.scores(forward.states(), &places)?;
            let losses = scores.iter().zip(&weights);
            loss -= losses.map(|(score, weight)| score.log_probability * weight).sum::<f64>();
            tokens += part.iter().map(|example| example.tokens.len() as u64).sum::<u64>();
            on_part(number + 1, count)?;
        }
        Ok(Some(Measures { loss, tokens, others: Vec::new() }))
    }
}

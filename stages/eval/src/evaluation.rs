//! An evaluation: questions with their examples, as tokens, scored in parts, each item's scores kept.

use std::collections::BTreeMap;

use okapi_data::Question;
use okapi_model::{CausalLm, Tokenizer};
use serde::{Deserialize, Serialize};

use crate::encoding::{Encoded, Encoder};
use crate::error::EvalError;
use crate::log_likelihood::{LogLikelihood, Scorer};
use crate::task::{Item, Setting, items};

/// What a model says of one choice.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ChoiceScore {
    /// The natural logarithm of its probability.
    pub log_likelihood: f64,
    /// Whether the model would write it.
    pub is_greedy: bool,
    /// Characters (Unicode code points) of its text, without the space before it.
    pub characters: usize,
    /// Bytes of the same in UTF-8.
    pub bytes: usize,
    /// Tokens that were scored.
    pub tokens: usize,
    /// Tokens that were cut off the beginning of what stands before it.
    pub cut: usize,
}

/// What a model says of one question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemScore {
    /// The question's id.
    pub id: String,
    /// Its subject, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Its place among the questions, from 0.
    pub number: usize,
    /// The place of the right choice.
    pub gold: usize,
    /// The place of the most probable choice; of several the first.
    pub predicted: usize,
    /// The place of the choice that is the most probable by character.
    pub predicted_norm: usize,
    /// Every choice.
    pub choices: Vec<ChoiceScore>,
}

/// Items that are ready to be scored.
#[derive(Debug)]
pub struct Evaluation<'a> {
    questions: &'a [Question],
    items: Vec<Item>,
    encoded: Vec<Vec<Encoded>>,
    prefaces: Vec<usize>,
}

impl<'a> Evaluation<'a> {
    /// Puts questions as a setting says, for a model that reads `max_length` tokens. Where `examples` come from is
    /// said at [`items`].
    ///
    /// # Errors
    /// As [`items`], and when a choice has no tokens or too many.
    pub fn new(
        setting: &Setting,
        (questions, examples): (&'a [Question], &[Question]),
        tokenizer: &Tokenizer,
        max_length: usize,
    ) -> Result<Evaluation<'a>, EvalError> {
        let items = items(setting, questions, examples)?;
        let encoder = Encoder::new(tokenizer, setting.protocol, max_length)?;
        let encoded = encoder.encode_all(&items, |item| questions[item.number].id.clone())?;
        let prefaces = prefaces(&items);
        Ok(Evaluation { questions, items, encoded, prefaces })
    }

    /// The items, in the order of their scores.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// Their tokens, for each choice.
    pub fn encoded(&self) -> &[Vec<Encoded>] {
        &self.encoded
    }

    /// Computes the scores of items with a model, so many tokens at once.
    pub fn scorer<'b>(&'b self, model: &'b CausalLm, tokens_at_once: usize) -> ItemScorer<'b> {
        let scorer = Scorer::new(model, &self.encoded, &self.prefaces, tokens_at_once);
        ItemScorer { evaluation: self, scorer }
    }
}

/// An evaluation with a model.
#[derive(Debug)]
pub struct ItemScorer<'a> {
    evaluation: &'a Evaluation<'a>,
    scorer: Scorer<'a>,
}

impl ItemScorer<'_> {
    /// The places of the items of each batch; each item is in one of them.
    pub fn batches(&self) -> &[Vec<usize>] {
        self.scorer.batches()
    }

    /// The scores of the items of a batch, in its order.
    ///
    /// # Determinism
    /// Batches and the number of threads change nothing. The other items of the evaluation may change an item's scores
    /// by rounding, because what they have in common with it is read by itself.
    ///
    /// # Errors
    /// When a token is not the model's.
    ///
    /// # Panics
    /// When there is no batch of that number.
    pub fn score(&mut self, batch: usize) -> Result<Vec<ItemScore>, EvalError> {
        let found = self.scorer.score(batch)?;
        let items = self.scorer.batches()[batch].iter().zip(found);
        Ok(items.map(|(item, found)| self.item_score(*item, &found)).collect())
    }

    /// The scores of all items, in their order.
    ///
    /// # Errors
    /// When a token is not the model's.
    pub fn score_all(&mut self) -> Result<Vec<ItemScore>, EvalError> {
        let mut scores = Vec::new();
        for batch in 0..self.batches().len() {
            let items = self.batches()[batch].clone();
            scores.extend(items.into_iter().zip(self.score(batch)?));
        }
        scores.sort_by_key(|(item, _)| *item);
        Ok(scores.into_iter().map(|(_, score)| score).collect())
    }

    fn item_score(&self, item: usize, found: &[LogLikelihood]) -> ItemScore {
        let Evaluation { questions, items, encoded, .. } = self.evaluation;
        let Item { number, choices: texts, gold, .. } = &items[item];
        let Question { id, subject, .. } = &questions[*number];
        let choices: Vec<ChoiceScore> = texts
            .iter()
            .zip(found)
            .zip(&encoded[item])
            .map(|((text, found), encoded)| ChoiceScore {
                log_likelihood: found.sum,
                is_greedy: found.is_greedy,
                characters: text.chars().count(),
                bytes: text.len(),
                tokens: encoded.scored,
                cut: encoded.cut,
            })
            .collect();
        let by_character = |choice: &ChoiceScore| choice.log_likelihood / choice.characters as f64;
        ItemScore {
            id: id.clone(),
            subject: subject.clone(),
            number: *number,
            gold: *gold,
            predicted: best(choices.iter().map(|choice| choice.log_likelihood)),
            predicted_norm: best(choices.iter().map(by_character)),
            choices,
        }
    }
}

/// Numbers what stands before the questions of items.
fn prefaces(items: &[Item]) -> Vec<usize> {
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut prefaces = Vec::with_capacity(items.len());
    for Item { context, preface, .. } in items {
        let next = numbers.len();
        prefaces.push(*numbers.entry(&context[..*preface]).or_insert(next));
    }
    prefaces
}

/// The place of the greatest; of several the first.
fn best(values: impl Iterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (place, value) in values.enumerate() {
        if value > best.1 {
            best = (place, value);
        }
    }
    best.0
}

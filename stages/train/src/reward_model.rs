//! Training of reward models: of two responses to a prompt, the better ranked one is to have the higher
//! reward.
//!
//! The loss of a pair is `-log sigmoid(r_chosen - r_rejected)`, and that of a batch the mean over its pairs.
//! A response that is in several pairs of a batch is computed once: its gradient is the sum over them
//! (Ouyang et al., 2022, section 3.5, who keep all pairs of a prompt in one batch, as a model that sees a
//! response in several steps of an epoch overfits it). So a batch of rankings costs `K` responses a
//! ranking, and one of pairs up to two a pair.
//!
//! # Sources
//! Ouyang et al., 2022 (InstructGPT), equation 1; Lai et al., 2023 (Okapi), section 3: batches of 64 pairs.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use okapi_model::random::{Purpose, Random};
use okapi_model::{CausalLm, Forward, Gradients, Keep, ModelError, ScalarHead, Sequences};

use crate::batches::parts;
use crate::trainer::{Batch, Measures, Objective, OnPart, TrainError};

/// A response, with the prompt that it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankedResponse {
    /// All that the reward model reads: prompt, response, and an end if there is one.
    pub tokens: Vec<u32>,
    /// From the best upwards. Responses of one rank are not compared.
    pub rank: u32,
}

/// Responses to one prompt.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ranking {
    /// In any order.
    pub responses: Vec<RankedResponse>,
}

/// Two responses of a ranking, by their places in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    chosen: usize,
    rejected: usize,
}

impl Ranking {
    fn pairs(&self) -> Vec<Pair> {
        let ranks = || self.responses.iter().map(|response| response.rank).enumerate();
        let pairs = ranks().flat_map(|(chosen, rank)| {
            let worse = ranks().filter(move |(_, other)| rank < *other);
            worse.map(move |(rejected, _)| Pair { chosen, rejected })
        });
        pairs.collect()
    }
}

/// What one example of a batch is: what [`TrainOptions::batch`](crate::TrainOptions::batch) counts, and what an
/// epoch brings into a random order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// One pair. Those of a ranking are spread over the epoch.
    Pairs,
    /// All pairs of one ranking that the epoch compares. Each pair of a batch weighs the same, so a ranking
    /// of more responses weighs more.
    Rankings,
}

/// What is chosen once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RewardOptions {
    /// What one example is.
    pub unit: Unit,
    /// At most so many pairs of each ranking are compared in an epoch, drawn anew for each; `None` for all.
    pub pairs_per_ranking: Option<usize>,
    /// At most so many tokens are computed at once; the responses of a ranking never apart. A batch is
    /// computed in as many parts as that needs: its gradients are added up, so the loss is that of the whole.
    pub tokens_at_once: usize,
    /// What the forward pass keeps.
    pub keep: Keep,
}

/// Rankings to learn, and rankings to be measured by: the objective of a reward model.
///
/// Beside the loss it measures, as means over pairs: `accuracy`, the share whose chosen response has the
/// strictly higher reward; `reward_chosen` and `reward_rejected`; and `margin`, their difference. Only
/// differences are learnt: where a last norm has a bias, all rewards may drift together.
#[derive(Debug, Clone)]
pub struct RewardModeling {
    head: ScalarHead,
    rankings: Vec<Ranking>,
    validation: Vec<Ranking>,
    options: RewardOptions,
    /// For each example its ranking, and which it takes of the pairs that an epoch compares there.
    examples: Vec<(u32, Range<usize>)>,
}

impl RewardModeling {
    /// What `head`, that of the model to be trained, learns from rankings. No prompt should be in both
    /// `rankings` and `validation`. What holds no pair is never learnt from.
    pub fn new(
        head: ScalarHead,
        rankings: Vec<Ranking>,
        validation: Vec<Ranking>,
        options: RewardOptions,
    ) -> RewardModeling {
        let mut examples = Vec::new();
        for (number, ranking) in (0..).zip(&rankings) {
            let all = ranking.pairs().len();
            let pairs = options.pairs_per_ranking.map_or(all, |most| most.min(all));
            match options.unit {
                Unit::Pairs => examples.extend((0..pairs).map(|pair| (number, pair..pair + 1))),
                Unit::Rankings if pairs > 0 => examples.push((number, 0..pairs)),
                Unit::Rankings => {}
            }
        }
        RewardModeling { head, rankings, validation, options, examples }
    }

    /// The pairs of a ranking in the order of an epoch, which compares the first of them.
    fn order(&self, ranking: u32, batch: &Batch<'_>) -> Vec<Pair> {
        let pairs = self.rankings[ranking as usize].pairs();
        let count = pairs.len();
        if self.options.pairs_per_ranking.is_none_or(|most| most >= count) {
            return pairs;
        }
        let mut random = Random::new(batch.seed, Purpose::Pairs, batch.epoch as u32, ranking);
        random.permutation(count as u32).into_iter().map(|pair| pairs[pair as usize]).collect()
    }

    /// What a batch compares, ranking by ranking.
    fn comparisons(&self, batch: &Batch<'_>) -> Vec<Comparison<'_>> {
        let mut pairs: BTreeMap<u32, Vec<Pair>> = BTreeMap::new();
        for &example in batch.examples {
            let (ranking, taken) = &self.examples[example as usize];
            let order = self.order(*ranking, batch);
            pairs.entry(*ranking).or_default().extend_from_slice(&order[taken.clone()]);
        }
        let of = |(ranking, pairs): (u32, Vec<Pair>)| {
            Comparison::new(&self.rankings[ranking as usize], &pairs)
        };
        pairs.into_iter().map(of).collect()
    }

    fn parts<'a>(&self, comparisons: Vec<Comparison<'a>>) -> Vec<Part<'a>> {
        let parts = parts(comparisons, self.options.tokens_at_once, Comparison::size);
        parts.into_iter().map(Part::new).collect()
    }

    fn rewards(&self, model: &CausalLm, forward: &Forward, rows: &[usize]) -> Vec<f64> {
        self.head.read(model.parameters(), forward.states(), rows)
    }
}

/// The responses of one ranking that are compared, and how.
struct Comparison<'a> {
    texts: Vec<&'a [u32]>,
    /// By places in `texts`.
    pairs: Vec<Pair>,
}

impl<'a> Comparison<'a> {
    fn new(ranking: &'a Ranking, pairs: &[Pair]) -> Comparison<'a> {
        let compared: BTreeSet<usize> =
            pairs.iter().flat_map(|pair| [pair.chosen, pair.rejected]).collect();
        let place = |response| compared.range(..response).count();
        let moved =
            |pair: &Pair| Pair { chosen: place(pair.chosen), rejected: place(pair.rejected) };
        Comparison {
            texts: compared.iter().map(|&it| &ranking.responses[it].tokens[..]).collect(),
            pairs: pairs.iter().map(moved).collect(),
        }
    }

    /// Tokens that it takes.
    fn size(&self) -> usize {
        self.texts.iter().map(|text| text.len()).sum()
    }
}

/// What is computed at once.
#[derive(Default)]
struct Part<'a> {
    texts: Vec<&'a [u32]>,
    pairs: Vec<Pair>,
}

impl<'a> Part<'a> {
    fn new(comparisons: Vec<Comparison<'a>>) -> Part<'a> {
        let mut part = Part::default();
        for Comparison { texts, pairs } in comparisons {
            let first = part.texts.len();
            let moved = |Pair { chosen, rejected }| Pair {
                chosen: first + chosen,
                rejected: first + rejected,
            };
            part.pairs.extend(pairs.into_iter().map(moved));
            part.texts.extend(texts);
        }
        part
    }

    /// Its texts, and the row of each one's last token.
    fn sequences(&self) -> Result<(Sequences, Vec<usize>), ModelError> {
        let sequences = Sequences::new(&self.texts);
        let rows = sequences.last_rows()?;
        Ok((sequences, rows))
    }
}

/// Sums over pairs.
#[derive(Debug, Default)]
struct Sums {
    pairs: usize,
    loss: f64,
    right: usize,
    chosen: f64,
    rejected: f64,
    tokens: usize,
}

impl Sums {
    fn add(&mut self, part: &Part<'_>, rewards: &[f64]) {
        self.tokens += part.texts.iter().map(|text| text.len()).sum::<usize>();
        self.pairs += part.pairs.len();
        for pair in &part.pairs {
            let (chosen, rejected) = (rewards[pair.chosen], rewards[pair.rejected]);
            self.loss += pair_loss(chosen - rejected).0;
            self.right += usize::from(chosen > rejected);
            self.chosen += chosen;
            self.rejected += rejected;
        }
    }

    fn measures(&self) -> Measures {
        let mean = |sum: f64| sum / self.pairs as f64;
        let others = vec![
            ("accuracy", mean(self.right as f64)),
            ("reward_chosen", mean(self.chosen)),
            ("reward_rejected", mean(self.rejected)),
            ("margin", mean(self.chosen - self.rejected)),
        ];
        Measures { loss: mean(self.loss), tokens: self.tokens as u64, others }
    }
}

/// `-log sigmoid(margin)` and its derivative `-sigmoid(-margin)`, neither of which overflows.
fn pair_loss(margin: f64) -> (f64, f64) {
    let decay = (-margin.abs()).exp();
    let loss = (-margin).max(0.0) + decay.ln_1p();
    let slope = if margin > 0.0 { decay / (1.0 + decay) } else { 1.0 / (1.0 + decay) };
    (loss, -slope)
}

impl Objective for RewardModeling {
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
        let comparisons = self.comparisons(batch);
        let pairs: usize = comparisons.iter().map(|it| it.pairs.len()).sum();
        let mut sums = Sums::default();
        let parts = self.parts(comparisons);
        let count = parts.len();
        for (number, part) in parts.into_iter().enumerate() {
            let (sequences, rows) = part.sequences()?;
            let dropout = batch.dropout(number);
            let forward = model.forward_in_training(sequences, self.options.keep, dropout)?;
            let rewards = self.rewards(model, &forward, &rows);
            sums.add(&part, &rewards);
            // The loss's derivative by each reward.
            let mut grades = vec![0.0; rewards.len()];
            for &Pair { chosen, rejected } in &part.pairs {
                let slope = pair_loss(rewards[chosen] - rewards[rejected]).1 / pairs as f64;
                grades[chosen] += slope;
                grades[rejected] -= slope;
            }
            let mut d_states = forward.states().zeros(); // [T, C]
            let of = (forward.states(), &mut d_states);
            self.head.backward(model.parameters(), gradients, of, &rows, &grades);
            model.backward(forward, &d_states, gradients);
            on_part(number + 1, count)?;
        }
        Ok(sums.measures())
    }

    /// Over all pairs of the held-out rankings; each response is computed once.
    fn validate(
        &self,
        model: &CausalLm,
        on_part: &mut OnPart<'_>,
    ) -> Result<Option<Measures>, TrainError> {
        let held_out = self.validation.iter().map(|it| Comparison::new(it, &it.pairs()));
        let held_out: Vec<_> = held_out.filter(|it| !it.pairs.is_empty()).collect();
        if held_out.is_empty() {
            return Ok(None);
        }
        let mut sums = Sums::default();
        let parts = self.parts(held_out);
        let count = parts.len();
        for (number, part) in parts.into_iter().enumerate() {
            let (sequences, rows) = part.sequences()?;
            let forward = model.forward(sequences, Keep::Nothing)?;
            sums.add(&part, &self.rewards(model, &forward, &rows));
            model.check()?;
            on_part(number + 1, count)?;
        }
        Ok(Some(sums.measures()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_of_a_pair_is_right_and_never_overflows() {
        for (margin, loss, slope) in [
            (0.0, 2f64.ln(), -0.5),
            (2.0, 0.126_928_011_042_972_6, -0.119_202_922_022_117_57),
            (-2.0, 2.126_928_011_042_972_4, -0.880_797_077_977_882_3),
            (1e4, 0.0, 0.0),
            (-1e4, 1e4, -1.0),
        ] {
            let (found, by_margin) = pair_loss(margin);
            assert!((found - loss).abs() < 1e-12 && (by_margin - slope).abs() < 1e-15, "{margin}");
        }
        assert!(pair_loss(40.0).0 > 0.0, "it is lost only where numbers end");
        assert!(pair_loss(f64::NAN).0.is_nan());
    }

    #[test]
    fn pairs_are_all_of_different_ranks() {
        let ranking = |ranks: &[u32]| Ranking {
            responses: ranks.iter().map(|&rank| RankedResponse { tokens: vec![1], rank }).collect(),
        };
        let pairs = |ranks: &[u32]| -> Vec<[usize; 2]> {
            let pairs = ranking(ranks).pairs().into_iter();
            pairs.map(|pair| [pair.chosen, pair.rejected]).collect()
        };
        assert_eq!(pairs(&[2, 1, 3]), [[0, 2], [1, 0], [1, 2]]);
        assert_eq!(pairs(&[1, 2, 1, 2]).len(), 4);
        assert!(pairs(&[1, 1]).is_empty() && pairs(&[1]).is_empty() && pairs(&[]).is_empty());
        // Only what is compared is computed, and once.
        let ranking = ranking(&[4, 1, 2, 3]);
        let some = [Pair { chosen: 1, rejected: 3 }, Pair { chosen: 1, rejected: 0 }];
        let comparison = Comparison::new(&ranking, &some);
        assert_eq!(comparison.texts.len(), 3);
        let places = [Pair { chosen: 1, rejected: 2 }, Pair { chosen: 1, rejected: 0 }];
        assert_eq!(comparison.pairs, places);
    }
}

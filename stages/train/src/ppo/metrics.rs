//! What the curve says of an iteration: the formulas are in the documentation of [`train`](super::train).

use std::collections::BTreeMap;

use super::kl::{k1, k3};
use super::loss::TokenLoss;
use super::rollout::Rollout;

/// Measures of an iteration, by name.
pub(crate) type Measures = BTreeMap<String, f64>;

/// The mean of some numbers; 0 of none.
pub(crate) fn mean(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, count) =
        numbers.into_iter().fold((0.0, 0u64), |(sum, count), x| (sum + x, count + 1));
    sum / count.max(1) as f64
}

/// The mean square distance from the mean; 0 of none.
fn variance(numbers: &[f64]) -> f64 {
    let middle = mean(numbers.iter().copied());
    mean(numbers.iter().map(|x| (x - middle) * (x - middle)))
}

/// What rollouts are like, before anything is learnt from them.
pub(crate) fn of_rollouts(rollouts: &[Rollout]) -> Measures {
    let scores: Vec<f64> = rollouts.iter().map(|it| it.response.score).collect();
    let divergence = |estimator: fn(f64, f64) -> f64| {
        let of = |rollout: &Rollout| -> f64 {
            let both = rollout.logp.iter().zip(&rollout.logp_reference);
            both.map(|(p, q)| estimator(*p, *q)).sum()
        };
        mean(rollouts.iter().map(of))
    };
    let returns: Vec<f64> = rollouts.iter().flat_map(|it| &it.returns).copied().collect();
    let values: Vec<f64> = rollouts.iter().flat_map(|it| &it.values).copied().collect();
    let missed: Vec<f64> = returns.iter().zip(&values).map(|(x, value)| x - value).collect();
    let mut measures = Measures::new();
    let mut add = |name: &str, value: f64| measures.insert(name.to_owned(), value);
    add("reward", mean(scores.iter().copied()));
    add("reward_std", variance(&scores).sqrt());
    add("kl", divergence(k1));
    add("kl_k3", divergence(k3));
    add("entropy", mean(rollouts.iter().flat_map(|it| &it.entropies).copied()));
    add("response_length", mean(rollouts.iter().map(|it| it.response.count() as f64)));
    let ended = rollouts.iter().map(|it| f64::from(u8::from(it.response.has_ended())));
    add("ended", mean(ended));
    add("value", mean(values.iter().copied()));
    let explained = 1.0 - variance(&missed) / variance(&returns);
    if explained.is_finite() {
        add("explained_variance", explained);
    }
    measures
}

/// Sums over the tokens of updates.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Sums {
    tokens: u64,
    policy: f64,
    value: f64,
    policy_clipped: u64,
    value_clipped: u64,
    squares: f64,
    ratio_max: f64,
    updates: u64,
    norms: f64,
}

impl Sums {
    /// A token was learnt from, whose log-probability is by so much more than in the rollout.
    pub(crate) fn add(&mut self, policy: TokenLoss, value: TokenLoss, log_ratio: f64) {
        self.tokens += 1;
        self.policy += policy.loss;
        self.value += value.loss;
        self.policy_clipped += u64::from(policy.is_clipped);
        self.value_clipped += u64::from(value.is_clipped);
        self.squares += 0.5 * log_ratio * log_ratio;
        self.ratio_max = self.ratio_max.max(log_ratio.exp());
    }

    /// An update is done, with the sums over its tokens.
    pub(crate) fn update(&mut self, batch: &Sums, norm: f64) {
        self.tokens += batch.tokens;
        self.policy += batch.policy;
        self.value += batch.value;
        self.policy_clipped += batch.policy_clipped;
        self.value_clipped += batch.value_clipped;
        self.squares += batch.squares;
        self.ratio_max = self.ratio_max.max(batch.ratio_max);
        self.updates += 1;
        self.norms += norm;
    }

    fn mean(&self, sum: f64) -> f64 {
        sum / self.tokens.max(1) as f64
    }

    /// Updates so far.
    pub(crate) fn updates(&self) -> u64 {
        self.updates
    }

    /// The mean loss of the policy.
    pub(crate) fn policy_loss(&self) -> f64 {
        self.mean(self.policy)
    }

    /// The mean loss of the values.
    pub(crate) fn value_loss(&self) -> f64 {
        self.mean(self.value)
    }

    pub(crate) fn measures(&self) -> impl Iterator<Item = (String, f64)> {
        let all = [
            ("policy_loss", self.policy_loss()),
            ("value_loss", self.value_loss()),
            ("clip_fraction", self.mean(self.policy_clipped as f64)),
            ("value_clip_fraction", self.mean(self.value_clipped as f64)),
            ("update_kl", self.mean(self.squares)),
            ("ratio_max", self.ratio_max),
            ("gradient_norm", self.norms / self.updates.max(1) as f64),
            ("updates", self.updates as f64),
        ];
        all.into_iter().map(|(name, value)| (name.to_owned(), value))
    }
}

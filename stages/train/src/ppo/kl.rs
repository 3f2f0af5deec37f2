//! How far the policy is from the reference, what that costs, and what the cost is to be.

/// The estimator `k1` of `KL(policy || reference)` at a token that was sampled from the policy: `log p - log q`.
/// It is unbiased, and negative at times.
///
/// # Units
/// Nats.
///
/// # Sources
/// Schulman, 2020 (Approximating KL divergence).
pub fn k1(logp: f64, logp_reference: f64) -> f64 {
    logp - logp_reference
}

/// The estimator `k3`: `q / p - 1 - log(q / p)`. It is unbiased and never negative.
///
/// The released code has `p / q` in its place, which estimates something else.
///
/// # Units
/// Nats.
///
/// # Sources
/// Schulman, 2020 (Approximating KL divergence).
pub fn k3(logp: f64, logp_reference: f64) -> f64 {
    let log_ratio = logp_reference - logp;
    log_ratio.exp_m1() - log_ratio
}

/// The rewards of a response's tokens: `-beta k1` each, and at the last one the score.
///
/// The released code gives the score up to two places behind the last token.
///
/// # Shapes
/// `logp` and `logp_reference`: `[R]`, and so is what comes out.
///
/// # Sources
/// Lai et al., 2023 (Okapi), section 3: `r(x, y) - beta KL(x, y)`; Ouyang et al., 2022, equation 2.
pub fn rewards(logp: &[f64], logp_reference: &[f64], score: f64, beta: f64) -> Vec<f64> {
    let both = logp.iter().zip(logp_reference);
    let mut rewards: Vec<f64> = both.map(|(p, q)| -beta * k1(*p, *q)).collect();
    if let Some(last) = rewards.last_mut() {
        *last += score;
    }
    rewards
}

/// What a nat costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum KlControl {
    /// Always the same: 0.05 in the paper.
    Fixed(f64),
    /// More, while the policy is further from the reference than it should be, and less while it is nearer.
    ///
    /// The released code begins with 0.1, with the target 6 and the horizon 10,000; as it counts 2
    /// episodes for each of its passes, whatever their number, it hardly adapts.
    Adaptive {
        /// At first.
        initial: f64,
        /// The divergence that is wanted, in nats a response.
        target: f64,
        /// Responses in which the coefficient changes by up to a fifth.
        horizon: f64,
    },
}

impl KlControl {
    /// The first coefficient.
    pub fn initial(self) -> f64 {
        match self {
            KlControl::Fixed(coefficient) => coefficient,
            KlControl::Adaptive { initial, .. } => initial,
        }
    }

    /// The coefficient after one under which so many responses diverged by `kl` nats on average:
    /// `beta (1 + clip(kl / target - 1, -0.2, 0.2) n / horizon)`.
    ///
    /// # Sources
    /// Ziegler et al., 2019 (Fine-tuning language models from human preferences), section 2.2.
    pub fn next(self, coefficient: f64, kl: f64, responses: usize) -> f64 {
        match self {
            KlControl::Fixed(coefficient) => coefficient,
            KlControl::Adaptive { target, horizon, .. } => {
                let error = (kl / target - 1.0).clamp(-0.2, 0.2);
                coefficient * (1.0 + error * responses as f64 / horizon)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both estimators are, on average over the policy, the divergence.
    #[test]
    fn estimators_are_unbiased() {
        let (p, q) = ([0.5f64, 0.3, 0.2], [0.2f64, 0.2, 0.6]);
        let both = || p.iter().zip(&q);
        let kl: f64 = both().map(|(p, q)| p * (p / q).ln()).sum();
        for estimator in [k1, k3] {
            let mean: f64 = both().map(|(p, q)| p * estimator(p.ln(), q.ln())).sum();
            assert!((mean - kl).abs() < 1e-12);
        }
        assert!(both().all(|(p, q)| k3(p.ln(), q.ln()) > 0.0));
        assert_eq!((k1(-1.5, -1.5), k3(-1.5, -1.5)), (0.0, 0.0));
    }

    #[test]
    fn the_coefficient_follows_the_divergence() {
        assert_eq!(KlControl::Fixed(0.05).next(0.05, 100.0, 128), 0.05);
        let control = KlControl::Adaptive { initial: 0.1, target: 6.0, horizon: 10_000.0 };
        assert_eq!(control.initial(), 0.1);
        for (kl, expected) in [
            (6.0, 0.1),
            (6.6, 0.1 * (1.0 + 0.1 * 0.0128)),
            (60.0, 0.1 * (1.0 + 0.2 * 0.0128)),
            (0.0, 0.1 * (1.0 - 0.2 * 0.0128)),
        ] {
            assert!((control.next(0.1, kl, 128) - expected).abs() < 1e-12, "{kl}");
        }
    }
}

//! The clipped losses of a single token, with their derivatives. Those of a batch are means over its tokens.
//!
//! # Sources
//! Schulman et al., 2017 (Proximal policy optimization), equation 7; the value loss is clipped as in their code,
//! and as in trlx, which the released code of Okapi trains with.

/// A loss at one token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLoss {
    /// The loss.
    pub loss: f64,
    /// Its derivative by the token's log-probability, or by its value.
    pub slope: f64,
    /// Whether the clipped term is strictly the greater one, so that the derivative is 0.
    pub is_clipped: bool,
}

/// `max(-A ratio, -A clip(ratio, 1 - clip, 1 + clip))` with `ratio = exp(logp - logp_old)`, and its derivative by
/// `logp`.
pub fn policy_loss(logp: f64, logp_old: f64, advantage: f64, clip: f64) -> TokenLoss {
    let ratio = (logp - logp_old).exp();
    let free = -advantage * ratio;
    let held = -advantage * clamp(ratio, 1.0 - clip, 1.0 + clip);
    match held > free {
        true => TokenLoss { loss: held, slope: 0.0, is_clipped: true },
        // The derivative of the ratio by `logp` is the ratio.
        false => TokenLoss { loss: free, slope: free, is_clipped: false },
    }
}

/// `max((v - R)^2, (clip(v, v_old - clip, v_old + clip) - R)^2) / 2`, and its derivative by `v`.
pub fn value_loss(value: f64, value_old: f64, expected: f64, clip: f64) -> TokenLoss {
    let near = clamp(value, value_old - clip, value_old + clip);
    let (free, held) = (value - expected, near - expected);
    match held * held > free * free {
        true => TokenLoss { loss: 0.5 * held * held, slope: 0.0, is_clipped: true },
        false => TokenLoss { loss: 0.5 * free * free, slope: free, is_clipped: false },
    }
}

/// As `f64::clamp`, which panics where the bounds are no numbers or `clip` is negative.
fn clamp(x: f64, least: f64, most: f64) -> f64 {
    if x < least {
        least
    } else if x > most {
        most
    } else {
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every case of both clips: by differences, away from their kinks.
    #[test]
    fn slopes_are_those_of_the_losses() {
        let mut clipped = 0;
        for step in -9..=9 {
            let x = f64::from(step) * 0.071;
            for (advantage, expected) in [(1.3, 2.0), (-0.8, 0.05)] {
                let policy = |x: f64| policy_loss(x - 2.0, -2.0, advantage, 0.2);
                let value = |x: f64| value_loss(x, 0.0, expected, 0.2);
                for loss in [&policy as &dyn Fn(f64) -> TokenLoss, &value] {
                    let slope = (loss(x + 1e-6).loss - loss(x - 1e-6).loss) / 2e-6;
                    assert!((loss(x).slope - slope).abs() < 1e-6, "at {x}: {slope}");
                    clipped += usize::from(loss(x).is_clipped);
                }
            }
        }
        assert_eq!(clipped, 7 + 6 + 7);
    }

    #[test]
    fn what_is_no_number_stays_none() {
        assert!(policy_loss(f64::NAN, -1.0, 1.0, 0.2).loss.is_nan());
        assert!(policy_loss(-1.0, -1.0, f64::NAN, 0.2).loss.is_nan());
        assert!(value_loss(f64::NAN, 0.0, 1.0, 0.2).loss.is_nan());
        assert!(value_loss(1.0, f64::NAN, 1.0, -0.2).loss == 0.0);
    }
}

//! How much better a token was than expected: generalised advantage estimation, and whitening.

/// The advantages of a response's tokens.
///
/// ```text
/// delta_t     = reward_t + gamma value_{t+1} - value_t
/// advantage_t = delta_t + gamma lambda advantage_{t+1}
/// ```
///
/// After the last token value and advantage are 0, whether or not the response ended by itself.
///
/// # Shapes
/// `rewards` and `values`: `[R]`, the value of a token being that of the state before it; so is what comes out.
///
/// # Sources
/// Schulman et al., 2016 (High-dimensional continuous control using GAE), equation 16.
pub fn advantages(rewards: &[f64], values: &[f64], gamma: f64, lambda: f64) -> Vec<f64> {
    let (mut next_value, mut next) = (0.0, 0.0);
    let mut advantages: Vec<f64> = rewards
        .iter()
        .zip(values)
        .rev()
        .map(|(reward, value)| {
            let delta = reward + gamma * next_value - value;
            next = delta + gamma * lambda * next;
            next_value = *value;
            next
        })
        .collect();
    advantages.reverse();
    advantages
}

/// What the values are to become: `advantage + value`, with the advantages as they were before whitening.
///
/// # Shapes
/// `[R]`, all three.
pub fn returns(advantages: &[f64], values: &[f64]) -> Vec<f64> {
    advantages.iter().zip(values).map(|(advantage, value)| advantage + value).collect()
}

/// Gives the advantages of all tokens of all responses mean 0 and variance 1: `(x - mean) / sqrt(variance +
/// 1e-8)`, with the variance of a sample.
///
/// Only real tokens count. The released code counts its padding, and of one response at a time, which makes
/// the scale of an advantage depend on how long its neighbours are.
pub fn whiten(responses: &mut [Vec<f64>]) {
    let count = responses.iter().map(Vec::len).sum::<usize>() as f64;
    let mean = responses.iter().flatten().sum::<f64>() / count;
    let squares: f64 = responses.iter().flatten().map(|x| (x - mean) * (x - mean)).sum();
    // One token alone has no variance.
    let variance = squares / (count - 1.0).max(1.0);
    let scale = (variance + 1e-8).sqrt().recip();
    responses.iter_mut().flatten().for_each(|x| *x = (*x - mean) * scale);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_at_the_end_is_credited_to_what_led_there() {
        let found = advantages(&[0.0, 0.0, 4.0], &[1.0, 2.0, 3.0], 1.0, 0.5);
        // Backward: 4 - 3; 3 - 2 + 1 / 2; 2 - 1 + 1.5 / 2.
        assert_eq!(found, [1.75, 1.5, 1.0]);
        assert_eq!(returns(&found, &[1.0, 2.0, 3.0]), [2.75, 3.5, 4.0]);
        // With gamma and lambda 1 the return is the reward that follows.
        let found = advantages(&[1.0, 2.0, 4.0], &[0.3, -0.2, 0.9], 1.0, 1.0);
        for (found, expected) in returns(&found, &[0.3, -0.2, 0.9]).iter().zip([7.0, 6.0, 4.0]) {
            assert!((found - expected).abs() < 1e-12);
        }
        assert!(advantages(&[], &[], 1.0, 0.95).is_empty());
    }

    #[test]
    fn whitening_takes_all_tokens_together() {
        let mut responses = vec![vec![1.0, 2.0], vec![], vec![6.0]];
        whiten(&mut responses);
        let scale = 7f64.sqrt();
        for (found, expected) in responses.iter().flatten().zip([-2.0, -1.0, 3.0]) {
            assert!((found - expected / scale).abs() < 1e-8);
        }
        let mut alone = vec![vec![5.0]];
        whiten(&mut alone);
        assert_eq!(alone, [[0.0]]);
        whiten(&mut []);
    }
}

//! Which token comes next: from logits to probabilities, and from these to one token.

use crate::functions::{exp, largest, sum_of, wide};
use crate::random::Random;

/// How the distribution that a token is drawn from is made of the model's, in the order of `transformers`:
/// repetition penalty, temperature, top k, top p.
///
/// # Determinism
/// Of tokens with equal logits top k keeps all or none, and so may keep more than it is told; top p keeps
/// those with lower ids first; without temperature the lowest id is taken.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingOptions {
    /// Logits are divided by it. 0 takes the most probable token, always.
    pub temperature: f64,
    /// Only so many tokens are kept, those with the largest logits.
    pub top_k: Option<usize>,
    /// Of these, the most probable are kept, until their probabilities add up to this share; 1 keeps all.
    pub top_p: f64,
    /// Logits of tokens that the text holds already, prompt and all, are divided by it where they are
    /// positive, and multiplied with it where not; 1 changes nothing.
    pub repetition_penalty: f64,
}

/// The model's own distribution.
impl Default for SamplingOptions {
    fn default() -> SamplingOptions {
        SamplingOptions { temperature: 1.0, top_k: None, top_p: 1.0, repetition_penalty: 1.0 }
    }
}

/// A token that was drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Drawn {
    pub(crate) token: u32,
    /// The natural logarithm of its probability in the model's own distribution.
    pub(crate) log_probability: f64,
}

/// The smallest temperature beside 0: a logit by less is no finite number.
const COLDEST: f64 = 1e-6;

impl SamplingOptions {
    /// The most probable token, always.
    pub fn greedy() -> SamplingOptions {
        SamplingOptions { temperature: 0.0, ..SamplingOptions::default() }
    }

    /// What is wrong with them.
    pub(crate) fn mistake(&self) -> Option<String> {
        let SamplingOptions { temperature, top_k, top_p, repetition_penalty } = *self;
        if temperature != 0.0 && !(temperature >= COLDEST && temperature.is_finite()) {
            return Some(format!(
                "the temperature {temperature} is neither 0 nor at least 0.000001"
            ));
        }
        if top_k == Some(0) {
            return Some("top k of 0 keeps no token".to_owned());
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Some(format!("top p of {top_p} is no share of the tokens"));
        }
        if !(repetition_penalty > 0.0 && repetition_penalty.is_finite()) {
            return Some(format!("a repetition penalty of {repetition_penalty} is not positive"));
        }
        None
    }

    /// The distribution that a token is drawn from, by token, given the model's logits and the tokens of
    /// the text so far. `None` if the logits give none: one of them is NaN or too large, or there
    /// are none.
    pub fn probabilities(&self, logits: &[f32], previous: &[u32]) -> Option<Vec<f64>> {
        log_sum_of(logits)?;
        let mut weights = logits.to_vec();
        if !self.penalize(&mut weights, previous).is_empty() {
            log_sum_of(&weights)?;
        }
        self.weigh(&mut weights);
        let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        Some(weights.iter().map(|weight| f64::from(*weight) / sum).collect())
    }

    /// Draws a token; the logits are used up. `None` as in [`SamplingOptions::probabilities`].
    pub(crate) fn draw(
        &self,
        logits: &mut [f32],
        previous: &[u32],
        random: &mut Random,
    ) -> Option<Drawn> {
        let (most, log_sum) = log_sum_of(logits)?;
        let log_probability = |logit: f32| f64::from(logit - most) - log_sum;
        let original = self.penalize(logits, previous);
        if !original.is_empty() {
            log_sum_of(logits)?;
        }
        let of_token = |token: u32, logits: &[f32]| {
            let changed = original.binary_search_by_key(&token, |(token, _)| *token);
            changed.map_or_else(|_| logits[token as usize], |place| original[place].1)
        };
        if self.temperature == 0.0 {
            let token = top(logits);
            let log_probability = log_probability(of_token(token, logits));
            return Some(Drawn { token, log_probability });
        }
        let mut weights = logits.to_vec();
        self.weigh(&mut weights);
        let token = choose(&weights, random.uniform());
        Some(Drawn { token, log_probability: log_probability(of_token(token, logits)) })
    }

    /// Whether tokens are drawn from all of the model's distribution, at some temperature, or are the most
    /// probable ones: what a GPU does by itself.
    pub(crate) fn is_plain(&self) -> bool {
        let keeps_all = self.top_k.is_none() && self.top_p >= 1.0 && self.repetition_penalty == 1.0;
        match self.temperature == 0.0 {
            true => self.repetition_penalty == 1.0,
            false => keeps_all && self.temperature >= 1e-6,
        }
    }

    /// Gives the logits that were changed, by token.
    fn penalize(&self, logits: &mut [f32], previous: &[u32]) -> Vec<(u32, f32)> {
        if self.repetition_penalty == 1.0 {
            return Vec::new();
        }
        let mut seen = previous.to_vec();
        seen.sort_unstable();
        seen.dedup();
        let penalty = self.repetition_penalty as f32;
        let change = |token: u32| {
            let logit = logits.get_mut(token as usize)?;
            let original = *logit;
            *logit = if original > 0.0 { original / penalty } else { original * penalty };
            Some((token, original))
        };
        seen.into_iter().filter_map(change).collect()
    }

    /// From logits to weights: probabilities but for a common factor, and 0 for what is left out.
    fn weigh(&self, logits: &mut [f32]) {
        if self.temperature == 0.0 {
            let token = top(logits);
            logits.fill(0.0);
            logits[token as usize] = 1.0;
            return;
        }
        let least = match self.top_k.filter(|count| *count < logits.len()) {
            None => f32::NEG_INFINITY,
            Some(count) => {
                let mut ordered = logits.to_vec();
                let descending = |one: &f32, other: &f32| other.total_cmp(one);
                *ordered.select_nth_unstable_by(count - 1, descending).1
            }
        };
        let by = self.temperature.recip() as f32;
        wide!({
            let most = largest(logits);
            for logit in logits.iter_mut() {
                let weight = exp((*logit - most) * by);
                *logit = if *logit < least { 0.0 } else { weight };
            }
        });
        if self.top_p < 1.0 {
            keep_top_share(logits, self.top_p);
        }
    }
}

/// The largest logit, and the logarithm of the sum of all exponentials by that of the largest.
fn log_sum_of(logits: &[f32]) -> Option<(f32, f64)> {
    let (most, sum) = wide!({
        let most = largest(logits);
        (most, sum_of(logits, logits, |logit, _| f64::from(exp(logit - most))))
    });
    // A sum that is no number has read NaN, or an infinity less itself.
    Some((most, sum.ln())).filter(|(_, log)| log.is_finite())
}

/// The first of the largest logits.
fn top(logits: &[f32]) -> u32 {
    let most = wide!(largest(logits));
    logits.iter().position(|logit| *logit == most).unwrap_or(0) as u32
}

/// Leaves out each token before which, in the order of their weights, more probable ones already make up
/// the share.
fn keep_top_share(weights: &mut [f32], share: f64) {
    let mut ranked: Vec<(f32, u32)> = weights.iter().copied().zip(0..).collect();
    ranked.retain(|(weight, _)| *weight > 0.0);
    let sum = |part: &[(f32, u32)]| part.iter().map(|(weight, _)| f64::from(*weight)).sum::<f64>();
    let enough = share * sum(&ranked);
    // What is before `low`, and the one there, is kept; what is from `high` on is not. So half of
    // what is undecided is looked at each time, where ordering all would take ten times as long.
    let (mut low, mut high, mut before_low) = (0, ranked.len(), 0.0);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        ranked[low..high].select_nth_unstable_by(middle - low, |one, other| {
            other.0.total_cmp(&one.0).then(one.1.cmp(&other.1))
        });
        let before = before_low + sum(&ranked[low..middle]);
        if before >= enough {
            high = middle;
        } else {
            (low, before_low) = (middle, before);
        }
    }
    for (_, token) in &ranked[high..] {
        weights[*token as usize] = 0.0;
    }
}

/// Weights that are added up together, before single ones are looked at.
const PART: usize = 256;

/// The token at which the running sum of weights comes to exceed the share `uniform` of all. One with the
/// weight 0 is never chosen.
fn choose(weights: &[f32], uniform: f64) -> u32 {
    let sum = |part: &[f32]| sum_of(part, part, |weight, _| f64::from(weight));
    let sums: Vec<f64> = wide!(weights.chunks(PART).map(sum).collect());
    let mut left = uniform * sums.iter().sum::<f64>();
    // Where the sum was rounded up and nothing exceeds it, it is the last one.
    let mut part = 0;
    for (number, sum) in sums.into_iter().enumerate().filter(|(_, sum)| *sum > 0.0) {
        part = number;
        if left < sum {
            break;
        }
        left -= sum;
    }
    let mut chosen = 0;
    let numbered = weights.iter().enumerate().skip(part * PART).take(PART);
    for (token, weight) in numbered.filter(|(_, weight)| **weight > 0.0) {
        chosen = token;
        if left < f64::from(*weight) {
            break;
        }
        left -= f64::from(*weight);
    }
    chosen as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    fn logits(count: usize) -> Vec<f32> {
        (0..count).map(|n| ((n * 7919) % 101) as f32 / 17.0 - 3.0).collect()
    }

    /// By ordering all of them.
    #[test]
    fn the_top_share_is_what_it_is_by_ordering() {
        for count in [1, 2, 3, 48, 1000] {
            for share in [1e-9, 0.1, 0.5, 0.9, 0.999] {
                let weights: Vec<f32> = logits(count).iter().map(|logit| logit.exp()).collect();
                let mut order: Vec<usize> = (0..count).collect();
                order.sort_by(|one, other| weights[*other].total_cmp(&weights[*one]));
                let all: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
                let (mut expected, mut before) = (vec![0.0; count], 0.0);
                for place in order {
                    if before >= share * all {
                        break;
                    }
                    expected[place] = weights[place];
                    before += f64::from(weights[place]);
                }
                let mut found = weights;
                keep_top_share(&mut found, share);
                assert_eq!(found, expected, "{count} {share}");
            }
        }
    }

    #[test]
    fn ties_are_decided_as_documented() {
        let four = [1.0f32, 2.0, 2.0, 2.0];
        let kept = |options: SamplingOptions| -> Vec<usize> {
            let probabilities = options.probabilities(&four, &[]).unwrap();
            (0..4).filter(|token| probabilities[*token] > 0.0).collect()
        };
        assert_eq!(kept(SamplingOptions::greedy()), [1]);
        assert_eq!(kept(SamplingOptions { top_k: Some(2), ..Default::default() }), [1, 2, 3]);
        assert_eq!(kept(SamplingOptions { top_p: 0.5, ..Default::default() }), [1, 2]);
        assert_eq!(kept(SamplingOptions { top_k: Some(9), ..Default::default() }), [0, 1, 2, 3]);
    }

    #[test]
    fn what_is_no_number_gives_no_token() {
        let mut random = Random::new(1, Purpose::Sampling, 0, 0);
        for wrong in [
            vec![0.0, f32::NAN, 1.0],
            vec![0.0; 20].into_iter().chain([f32::NAN]).collect(),
            vec![f32::INFINITY, 0.0],
            vec![f32::NEG_INFINITY; 3],
            vec![],
        ] {
            for options in [SamplingOptions::default(), SamplingOptions::greedy()] {
                assert_eq!(options.probabilities(&wrong, &[]), None, "{wrong:?}");
                assert_eq!(options.draw(&mut wrong.clone(), &[], &mut random), None);
            }
        }
        // One that cannot be is nothing to stumble over.
        let fine = [f32::NEG_INFINITY, 0.0, 1.0];
        let probabilities = SamplingOptions::default().probabilities(&fine, &[]).unwrap();
        assert!(probabilities[0] < 1e-37 && (probabilities[2] - 0.731_058_6).abs() < 1e-6);
    }

    #[test]
    fn the_running_sum_decides_to_its_ends() {
        let mut weights = vec![0.0; 700];
        (weights[3], weights[300], weights[699]) = (1.0, 2.0, 1.0);
        for (uniform, expected) in
            [(0.0, 3), (0.249, 3), (0.251, 300), (0.749, 300), (0.751, 699), (1.0, 699)]
        {
            assert_eq!(choose(&weights, uniform), expected, "{uniform}");
        }
        assert_eq!(choose(&[0.0, 1.0, 0.0], 1.0), 1);
    }

    /// How often tokens are drawn is how probable they are, for every kind of options: chi-square over
    /// 50,000 draws. What it exceeds once in a million times is the bound.
    #[test]
    fn tokens_are_drawn_as_often_as_they_are_probable() {
        let logits = logits(40);
        let previous = [3, 9, 9, 27];
        for options in [
            SamplingOptions::default(),
            SamplingOptions { temperature: 0.7, ..Default::default() },
            SamplingOptions { top_k: Some(9), ..Default::default() },
            SamplingOptions { top_p: 0.8, ..Default::default() },
            SamplingOptions {
                temperature: 1.5,
                top_k: Some(30),
                top_p: 0.95,
                repetition_penalty: 1.4,
            },
        ] {
            let probabilities = options.probabilities(&logits, &previous).unwrap();
            let count = 50_000;
            let mut seen = [0; 40];
            for step in 0..count {
                let mut random = Random::for_sample(5, 0, 0, step);
                let drawn = options.draw(&mut logits.clone(), &previous, &mut random).unwrap();
                seen[drawn.token as usize] += 1;
                let (most, log_sum) = log_sum_of(&logits).unwrap();
                let own = f64::from(logits[drawn.token as usize] - most) - log_sum;
                assert_eq!(drawn.log_probability, own);
            }
            let square = |(seen, probability): (&i32, &f64)| {
                let expected = probability * f64::from(count);
                if expected == 0.0 {
                    assert_eq!(*seen, 0);
                    return 0.0;
                }
                (f64::from(*seen) - expected).powi(2) / expected
            };
            let square: f64 = seen.iter().zip(&probabilities).map(square).sum();
            let freedom = probabilities.iter().filter(|it| **it > 0.0).count() as f64 - 1.0;
            assert!(
                square < freedom + 4.75 * (2.0 * freedom).sqrt() + 15.0,
                "{options:?}: {square}"
            );
        }
    }
}

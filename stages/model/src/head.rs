//! The head: from states to the probabilities of next tokens, a chunk of rows at a time, so that never more
//! than a chunk's logits are in memory.

use okapi_device::{self as device, DeviceArray, Kind};
use rayon::prelude::*;

use crate::array::Array;
use crate::functions::{exp, largest, wide};
use crate::matrix::{Matrix, Target, Threads, multiply};
use crate::parameters::{Gradients, ParameterId, Parameters};
use crate::row_product::Product;
use crate::sampling::Drawn;

/// What the head says of a token that follows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenScore {
    /// The natural logarithm of its probability.
    pub log_probability: f64,
    /// Entropy of the distribution that it is from, in nats.
    pub entropy: f64,
    /// Whether no other token is more probable.
    pub is_top: bool,
}

/// A place whose next token is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The row of states that it is read from.
    pub row: usize,
    /// The token that follows.
    pub next: u32,
}

/// Bytes of logits that are computed at once.
const CHUNK: usize = 32 << 20;

/// The same on a GPU, which is quicker the more it is given.
const CHUNK_ON_DEVICE: usize = 1 << 30;

/// The head's weight: a row of `width` numbers for each token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) weight: ParameterId,
    pub(crate) width: usize,
    pub(crate) vocabulary: usize,
}

impl Head {
    fn weight<'a>(&self, parameters: &'a Parameters) -> Matrix<'a> {
        Matrix::new(parameters.values(self.weight), self.vocabulary, self.width, self.width)
    }

    fn device_weight<'a>(&self, parameters: &'a Parameters) -> device::product::Matrix<'a> {
        let weight = parameters.on_device(self.weight);
        device::product::Matrix::new(weight, 0, self.vocabulary, self.width, self.width)
    }

    /// Rows whose logits the processor computes at once.
    pub(crate) fn chunk(&self) -> usize {
        (CHUNK / 4 / self.vocabulary.max(1)).clamp(16, 4096)
    }

    pub(crate) fn chunk_of(&self, states: &Array) -> usize {
        match states {
            Array::Host(_) => self.chunk(),
            Array::Device(_) => (CHUNK_ON_DEVICE / 4 / self.vocabulary.max(1)).clamp(16, 16 << 10),
        }
    }

    /// Logits of every row of states, brought to the processor.
    pub(crate) fn logits(
        &self,
        parameters: &Parameters,
        states: &Array,
        product: Product,
    ) -> Vec<f32> {
        match states {
            Array::Host(states) => self.logits_on_host(parameters, states, product),
            Array::Device(states) => self.logits_on_device(parameters, states).read(),
        }
    }

    fn logits_on_device(&self, parameters: &Parameters, states: &DeviceArray) -> DeviceArray {
        let rows = states.len() / self.width;
        let mut logits = DeviceArray::zeros(states.device(), Kind::F32, rows * self.vocabulary);
        let to =
            device::product::MatrixMut::new(&mut logits, 0, rows, self.vocabulary, self.vocabulary);
        let states = device::product::Matrix::new(states, 0, rows, self.width, self.width);
        device::product::multiply(
            to,
            states,
            self.device_weight(parameters).transposed(),
            1.0,
            false,
        );
        logits
    }

    fn logits_on_host(
        &self,
        parameters: &Parameters,
        states: &[f32],
        product: Product,
    ) -> Vec<f32> {
        let rows = states.len() / self.width;
        let mut logits = vec![0.0; rows * self.vocabulary];
        let states = Matrix::new(states, rows, self.width, self.width);
        let to = Target { data: &mut logits, step: self.vocabulary, adds: false };
        product.with_weight(to, states, self.weight(parameters), 1.0);
        logits
    }

    fn gather(&self, states: &Array, places: &[Place]) -> Array {
        let rows: Vec<usize> = places.iter().map(|place| place.row).collect();
        states.gathered(self.width, &rows)
    }

    /// Scores of the tokens that follow.
    pub(crate) fn scores(
        &self,
        parameters: &Parameters,
        states: &Array,
        places: &[Place],
        product: Product,
    ) -> Vec<TokenScore> {
        let mut scores = Vec::with_capacity(places.len());
        for places in places.chunks(self.chunk_of(states)) {
            let read = self.gather(states, places);
            if let Array::Device(read) = &read {
                let logits = self.logits_on_device(parameters, read);
                scores.extend(self.scores_there(&logits, &next_of(&logits, places)).0);
                continue;
            }
            let mut logits = self.logits(parameters, &read, product);
            let rows = logits.par_chunks_exact_mut(self.vocabulary).zip(places);
            scores.par_extend(rows.map(|(logits, place)| wide!(shares(logits, place.next).0)));
        }
        scores
    }

    /// Scores, and gradients of a loss: `grade` gives, for the number of a place and its score, the loss's
    /// derivative by its log-probability. Adds to the gradients of the states and of the weight.
    pub(crate) fn backward(
        &self,
        parameters: &Parameters,
        gradients: &mut Gradients,
        (states, d_states): (&Array, &mut Array),
        places: &[Place],
        grade: impl Fn(usize, &TokenScore) -> f64 + Sync,
    ) -> Vec<TokenScore> {
        let mut scores = Vec::with_capacity(places.len());
        let size = self.chunk_of(states);
        for (chunk, places) in places.chunks(size).enumerate() {
            let first = chunk * size;
            let rows: Vec<usize> = places.iter().map(|place| place.row).collect();
            let read = match self.gather(states, places) {
                Array::Host(read) => read,
                Array::Device(read) => {
                    let logits = self.logits_on_device(parameters, &read);
                    let next = next_of(&logits, places);
                    let (some, seen) = self.scores_there(&logits, &next);
                    let grades = some.iter().enumerate();
                    let grades: Vec<f32> =
                        grades.map(|(number, it)| grade(first + number, it) as f32).collect();
                    scores.extend(some);
                    let d_logits =
                        device::head::logits_backward(&logits, &seen, &next, &grades, read.kind());
                    drop(logits);
                    let d_read = self.backward_there(parameters, gradients, &read, &d_logits);
                    d_states.add_rows(self.width, &rows, &Array::Device(d_read));
                    continue;
                }
            };
            let mut logits = self.logits_on_host(parameters, &read, Product::InBlocks);
            let all = rows;
            let rows = logits.par_chunks_exact_mut(self.vocabulary).zip(places).enumerate();
            scores.par_extend(rows.map(|(number, (logits, place))| {
                wide!({
                    let (score, share) = shares(logits, place.next);
                    let grade = grade(first + number, &score);
                    let factor = (-grade * share) as f32;
                    logits.iter_mut().for_each(|number| *number *= factor);
                    logits[place.next as usize] += grade as f32;
                    score
                })
            }));
            let d_logits = Matrix::new(&logits, places.len(), self.vocabulary, self.vocabulary);
            let mut d_read = vec![0.0; read.len()];
            let to = Target { data: &mut d_read, step: self.width, adds: false };
            multiply(to, d_logits, self.weight(parameters), 1.0, Threads::All);
            d_states.add_rows(self.width, &all, &Array::Host(d_read));
            if let Some(gradient) = gradients.host_mut(self.weight) {
                let read = Matrix::new(&read, places.len(), self.width, self.width);
                let to = Target { data: gradient, step: self.width, adds: true };
                multiply(to, d_logits.transposed(), read, 1.0, Threads::All);
            }
        }
        scores
    }

    /// Draws a token for each row of states on a GPU, or takes the most probable one where `temperature` is 0.
    /// `None` where the logits are no distribution.
    pub(crate) fn draw_there(
        &self,
        parameters: &Parameters,
        states: &DeviceArray,
        temperature: f64,
        uniforms: &[f64],
    ) -> Vec<Option<Drawn>> {
        let logits = self.logits_on_device(parameters, states);
        let tokens = match temperature == 0.0 {
            true => device::head::top_tokens(&logits, self.vocabulary),
            false => device::head::draw_tokens(&logits, self.vocabulary, temperature, uniforms),
        };
        let scores = self.scores_there(&logits, &tokens).0;
        let drawn = tokens.read_u32().into_iter().zip(scores);
        let finite = drawn.map(|(token, score)| {
            let log_probability = score.log_probability;
            log_probability.is_finite().then_some(Drawn { token, log_probability })
        });
        finite.collect()
    }

    /// Scores from logits on a GPU, and what their gradient needs.
    fn scores_there(
        &self,
        logits: &DeviceArray,
        next: &DeviceArray,
    ) -> (Vec<TokenScore>, device::head::TokenScores) {
        let seen = device::head::token_scores(logits, self.vocabulary, next);
        let score = |place: usize| TokenScore {
            log_probability: seen.log_probability[place],
            entropy: seen.entropy[place],
            is_top: seen.is_top[place],
        };
        ((0..next.len()).map(score).collect(), seen)
    }

    /// The gradient of the states that were read; that of the weight is added.
    fn backward_there(
        &self,
        parameters: &Parameters,
        gradients: &mut Gradients,
        read: &DeviceArray,
        d_logits: &DeviceArray,
    ) -> DeviceArray {
        let rows = read.len() / self.width;
        let d_logits =
            device::product::Matrix::new(d_logits, 0, rows, self.vocabulary, self.vocabulary);
        let mut d_read = DeviceArray::zeros(read.device(), read.kind(), read.len());
        let to = device::product::MatrixMut::new(&mut d_read, 0, rows, self.width, self.width);
        device::product::multiply(to, d_logits, self.device_weight(parameters), 1.0, false);
        if let Some(gradient) = gradients.device_mut(self.weight) {
            let read = device::product::Matrix::new(read, 0, rows, self.width, self.width);
            let to = device::product::MatrixMut::new(
                gradient,
                0,
                self.vocabulary,
                self.width,
                self.width,
            );
            device::product::multiply(to, d_logits.transposed(), read, 1.0, true);
        }
        d_read
    }
}

/// The tokens that follow, where the logits are.
fn next_of(logits: &DeviceArray, places: &[Place]) -> DeviceArray {
    let next: Vec<u32> = places.iter().map(|place| place.next).collect();
    DeviceArray::of_u32(logits.device(), &next)
}

/// From logits to exponentials, in place: the probability of a token is its exponential times what comes
/// second. First comes the score of the token `next`.
#[inline(always)]
fn shares(logits: &mut [f32], next: u32) -> (TokenScore, f64) {
    const LANES: usize = 16;
    let most = largest(logits);
    let chosen = logits[next as usize] - most;
    let (mut sums, mut products) = ([0f64; LANES], [0f64; LANES]);
    let mut chunks = logits.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for lane in 0..LANES {
            let logit = chunk[lane] - most;
            let power = exp(logit);
            chunk[lane] = power;
            sums[lane] += f64::from(power);
            products[lane] += f64::from(power * logit);
        }
    }
    for (lane, number) in chunks.into_remainder().iter_mut().enumerate() {
        let logit = *number - most;
        *number = exp(logit);
        sums[lane] += f64::from(*number);
        products[lane] += f64::from(*number * logit);
    }
    let (sum, product) = (sums.iter().sum::<f64>(), products.iter().sum::<f64>());
    let score = TokenScore {
        log_probability: f64::from(chosen) - sum.ln(),
        entropy: sum.ln() - product / sum,
        is_top: chosen >= 0.0,
    };
    (score, 1.0 / sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_log_probability_and_entropy() {
        // Probabilities 0.5, 0.25 and sixteen times 1/64.
        let mut logits = vec![(1f32 / 64.0).ln(); 18];
        (logits[3], logits[17]) = (0.5f32.ln(), 0.25f32.ln());
        let (score, share) = shares(&mut logits.clone(), 3);
        assert!((score.log_probability - 0.5f64.ln()).abs() < 1e-6 && score.is_top);
        let entropy = 0.5 * 2f64.ln() + 0.25 * 4f64.ln() + 0.25 * 64f64.ln();
        assert!((score.entropy - entropy).abs() < 1e-6);
        let (second, _) = shares(&mut logits.clone(), 17);
        assert!((second.log_probability - 0.25f64.ln()).abs() < 1e-6 && !second.is_top);
        shares(&mut logits, 0);
        assert!((f64::from(logits[3]) * share - 0.5).abs() < 1e-6);
    }

    #[test]
    fn row_by_row_a_score_is_the_same_to_the_last_bit_in_any_company() {
        let (width, vocabulary, rows) = (1000, 70, 90);
        let number = |n: usize| ((n * 7919 + 13) % 1009) as f32 / 1009.0 - 0.5;
        let tensor = vec![("head".to_owned(), vec![vocabulary, width])];
        let parameters = Parameters::new(tensor, |_, _| {
            (0..vocabulary * width).map(|n| 0.2 * number(n)).collect()
        });
        let weight = parameters.id("head").unwrap();
        let head = Head { weight, width, vocabulary };
        let states = Array::Host((0..rows * width).map(|n| number(n * n + 1)).collect());
        let places: Vec<Place> =
            (0..rows).map(|row| Place { row, next: (row * 31 % vocabulary) as u32 }).collect();
        let together = head.scores(&parameters, &states, &places, Product::RowByRow);
        for (place, together) in places.iter().zip(&together) {
            let alone = head.scores(&parameters, &states, &[*place], Product::RowByRow);
            assert_eq!(alone[0], *together);
        }
        let in_blocks = head.scores(&parameters, &states, &places, Product::InBlocks);
        for (in_blocks, together) in in_blocks.iter().zip(&together) {
            assert!((in_blocks.log_probability - together.log_probability).abs() < 1e-4);
        }
    }
}

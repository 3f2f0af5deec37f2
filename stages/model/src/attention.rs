//! Causal attention over sequences that stand one after the other, with positions by ALiBi or by
//! rotation.

use rayon::prelude::*;

use crate::config::RopeScaling;
use crate::matrix::{Matrix, Threads, multiply};

/// The sequences of a batch: their tokens one after the other, and where each ends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sequences {
    tokens: Vec<u32>,
    ends: Vec<usize>,
}

impl Sequences {
    /// A batch of sequences; nothing is padded.
    pub fn new<T: AsRef<[u32]>>(sequences: &[T]) -> Sequences {
        let mut batch = Sequences::default();
        for sequence in sequences {
            batch.tokens.extend_from_slice(sequence.as_ref());
            batch.ends.push(batch.tokens.len());
        }
        batch
    }

    /// All tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Where each sequence lies among the tokens.
    pub fn ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| start..*end)
    }

    /// The place of each token in its sequence, from 0.
    pub(crate) fn positions(&self) -> Vec<usize> {
        self.ranges().flat_map(|range| 0..range.len()).collect()
    }
}

/// Where queries, keys and values lie in the rows that attention reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heads {
    /// Heads of queries.
    pub(crate) queries: usize,
    /// Heads of keys and values; each serves `queries / pairs` heads of queries.
    pub(crate) pairs: usize,
    /// Width of a head.
    pub(crate) width: usize,
    /// Numbers from one token to the next.
    pub(crate) row: usize,
    /// Whether the three of a head stand together (BLOOM, GPT-NeoX), or all queries before all keys
    /// before all values (LLaMA).
    pub(crate) interleaved: bool,
}

impl Heads {
    /// Where a head's queries, keys and values begin in a row.
    fn places(&self, head: usize) -> [usize; 3] {
        if self.interleaved {
            return [0, 1, 2].map(|part| (3 * head + part) * self.width);
        }
        let pair = head / (self.queries / self.pairs);
        let keys = self.queries * self.width;
        let values = keys + self.pairs * self.width;
        [head * self.width, keys + pair * self.width, values + pair * self.width]
    }
}

/// Attention of every token to those before it in its sequence and to itself. `rows` hold queries,
/// keys and values; `slopes` are ALiBi's, one a head, if positions are told that way. What comes out has
/// `queries * width` numbers a token.
pub(crate) fn attend(
    rows: &[f32],
    sequences: &Sequences,
    heads: Heads,
    slopes: Option<&[f32]>,
) -> Vec<f32> {
    let wide = heads.queries * heads.width;
    let mut to = vec![0.0; sequences.tokens.len() * wide];
    // A sequence's part of the result belongs to its task alone.
    let mut parts = Vec::new();
    let mut rest = to.as_mut_slice();
    for range in sequences.ranges() {
        let (part, behind) = rest.split_at_mut(range.len() * wide);
        parts.push((range, part));
        rest = behind;
    }
    parts.into_par_iter().for_each(|(range, part)| {
        let rows = &rows[range.start * heads.row..range.end * heads.row];
        let count = range.len();
        let results: Vec<Vec<f32>> = (0..heads.queries)
            .into_par_iter()
            .map(|head| one_head(rows, count, heads, head, slopes.map(|slopes| slopes[head])))
            .collect();
        for (head, result) in results.iter().enumerate() {
            for (row, numbers) in result.chunks_exact(heads.width).enumerate() {
                let at = row * wide + head * heads.width;
                part[at..at + heads.width].copy_from_slice(numbers);
            }
        }
    });
    to
}

/// One head of one sequence: `softmax(q k^T / sqrt(width) + bias) v`.
fn one_head(rows: &[f32], count: usize, heads: Heads, head: usize, slope: Option<f32>) -> Vec<f32> {
    if count == 0 {
        return Vec::new();
    }
    let [queries, keys, values] =
        heads.places(head).map(|at| Matrix::new(&rows[at..], count, heads.width, heads.row));
    let mut scores = vec![0.0; count * count];
    let scale = (heads.width as f32).sqrt().recip();
    multiply(&mut scores, count, queries, keys.transposed(), scale, Threads::One);
    for (row, scores) in scores.chunks_exact_mut(count).enumerate() {
        let (seen, hidden) = scores.split_at_mut(row + 1);
        hidden.fill(0.0);
        if let Some(slope) = slope {
            // Distance from the query would do as well: softmax does not see what all have in common.
            for (key, score) in seen.iter_mut().enumerate() {
                *score += slope * key as f32;
            }
        }
        softmax(seen);
    }
    let mut to = vec![0.0; count * heads.width];
    let scores = Matrix::new(&scores, count, count, count);
    multiply(&mut to, heads.width, scores, values, 1.0, Threads::One);
    to
}

/// Shares that add up to 1, by the exponential of each number.
fn softmax(numbers: &mut [f32]) {
    let most = numbers.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for number in numbers.iter_mut() {
        *number = (*number - most).exp();
        sum += f64::from(*number);
    }
    let share = (1.0 / sum) as f32;
    numbers.iter_mut().for_each(|number| *number *= share);
}

/// ALiBi's slopes (Press et al., 2022): powers of one base for the largest power of two of heads, and
/// odd powers of its root for the others.
pub(crate) fn alibi_slopes(heads: usize) -> Vec<f32> {
    let whole: usize = 1 << heads.ilog2();
    let base = |count: usize| 2f64.powf(-8.0 / count as f64);
    let first = (1..=whole as i32).map(|power| base(whole).powi(power));
    let others = (0..(heads - whole) as i32).map(|place| base(2 * whole).powi(2 * place + 1));
    let first = first.map(|slope| slope as f32).take(heads);
    first.chain(others.map(|slope| slope as f32)).collect()
}

/// The angles by which rotary positions turn (Su et al., 2021): for a head's first `width` numbers, of
/// which number `i` is paired with number `i + width / 2`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rotation {
    frequencies: Vec<f64>,
}

impl Rotation {
    pub(crate) fn new(width: usize, base: f64, scaling: RopeScaling) -> Rotation {
        let frequency = |pair: usize| {
            let plain = base.powf(-2.0 * pair as f64 / width as f64);
            scaled(plain, scaling)
        };
        Rotation { frequencies: (0..width / 2).map(frequency).collect() }
    }

    /// Turns the numbers of one head by the position of its token.
    fn turn(&self, numbers: &mut [f32], position: usize) {
        let half = self.frequencies.len();
        for (pair, frequency) in self.frequencies.iter().enumerate() {
            let (sine, cosine) = (frequency * position as f64).sin_cos();
            let (sine, cosine) = (sine as f32, cosine as f32);
            let (one, other) = (numbers[pair], numbers[pair + half]);
            numbers[pair] = one * cosine - other * sine;
            numbers[pair + half] = other * cosine + one * sine;
        }
    }

    /// Turns all queries and keys.
    pub(crate) fn apply(&self, rows: &mut [f32], positions: &[usize], heads: Heads) {
        let width = 2 * self.frequencies.len();
        rows.par_chunks_mut(heads.row).zip(positions).for_each(|(row, &position)| {
            let mut turned = usize::MAX;
            for head in 0..heads.queries {
                let [query, key, _] = heads.places(head);
                self.turn(&mut row[query..query + width], position);
                // Several heads of queries may share one of keys.
                if key != turned {
                    self.turn(&mut row[key..key + width], position);
                    turned = key;
                }
            }
        });
    }
}

/// A frequency as it is used for longer contexts.
fn scaled(frequency: f64, scaling: RopeScaling) -> f64 {
    match scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low, high, original_positions } => {
            let original = original_positions as f64;
            let wavelength = 2.0 * std::f64::consts::PI / frequency;
            if wavelength < original / high {
                return frequency;
            }
            if wavelength > original / low {
                return frequency / factor;
            }
            let smooth = (original / wavelength - low) / (high - low);
            (1.0 - smooth) * frequency / factor + smooth * frequency
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_those_of_the_paper_and_of_bloom() {
        assert_eq!(
            alibi_slopes(8),
            [0.5, 0.25, 0.125, 0.0625, 0.031_25, 0.015_625, 0.007_812_5, 0.003_906_25]
        );
        let sixteen = alibi_slopes(16);
        assert!(
            (sixteen[0] - 0.707_106_77).abs() < 1e-7 && (sixteen[15] - 0.003_906_25).abs() < 1e-9
        );
        // Three heads: two of the base for two, and the first odd power of the base for four.
        let three = alibi_slopes(3);
        assert_eq!(three, [0.0625, 0.003_906_25, 0.25]);
        assert_eq!(alibi_slopes(112).len(), 112);
    }

    #[test]
    fn sequences_know_their_places() {
        let batch = Sequences::new(&[&[5, 6, 7][..], &[], &[8]]);
        assert_eq!(batch.positions(), [0, 1, 2, 0]);
        assert_eq!(batch.ranges().collect::<Vec<_>>(), [0..3, 3..3, 3..4]);
    }

    #[test]
    fn a_token_attends_to_itself_and_to_what_came_before() {
        // One head of width 1: with equal scores the result is the mean of the values so far.
        let heads = Heads { queries: 1, pairs: 1, width: 1, row: 3, interleaved: true };
        let rows = [0.0, 1.0, 4.0, 0.0, 1.0, 8.0, 0.0, 1.0, 1.0];
        let two = Sequences::new(&[&[0, 0][..], &[0]]);
        assert_eq!(attend(&rows, &two, heads, None), [4.0, 6.0, 1.0]);
    }

    #[test]
    fn llama3_keeps_high_frequencies_and_divides_low_ones() {
        let scaling =
            RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_positions: 8192 };
        assert_eq!(scaled(1.0, scaling), 1.0);
        assert_eq!(scaled(1e-5, scaling), 1e-5 / 8.0);
        let between = scaled(2e-3, scaling);
        assert!(between < 2e-3 && between > 2e-3 / 8.0);
    }
}

//! How attention is told where a token stands: by a bias that grows with distance (ALiBi), or by turning
//! queries and keys (rotary positions).

use std::collections::BTreeSet;

use rayon::prelude::*;

use crate::attention::Heads;
use crate::config::RopeScaling;

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

    /// Pairs of numbers of a head that are turned.
    pub(crate) fn pairs(&self) -> usize {
        self.frequencies.len()
    }

    /// For each of the first positions, for each pair: sine and cosine.
    pub(crate) fn table(&self, positions: usize) -> Vec<f32> {
        let turns = (0..positions).into_par_iter().flat_map_iter(|position| {
            let turns = self.turns(position, Direction::Forward);
            turns.into_iter().flat_map(|(sine, cosine)| [sine, cosine])
        });
        turns.collect()
    }

    /// How far the numbers of a token are turned: sine and cosine for every pair.
    fn turns(&self, position: usize, direction: Direction) -> Vec<(f32, f32)> {
        let turn = |frequency: &f64| {
            let (sine, cosine) = (frequency * position as f64).sin_cos();
            let sine = if direction == Direction::Back { -sine } else { sine };
            (sine as f32, cosine as f32)
        };
        self.frequencies.iter().map(turn).collect()
    }

    /// Turns all queries and keys by the positions of their tokens. A turn back is the forward turn's
    /// backward pass, for a turn changes no lengths.
    pub(crate) fn apply(
        &self,
        rows: &mut [f32],
        positions: &[usize],
        heads: Heads,
        direction: Direction,
    ) {
        let places: BTreeSet<usize> = (0..heads.queries)
            .flat_map(|head| [heads.places(head)[0], heads.places(head)[1]])
            .collect();
        let half = self.frequencies.len();
        rows.par_chunks_mut(heads.row).zip(positions).for_each(|(row, &position)| {
            let turns = self.turns(position, direction);
            for &place in &places {
                let (ones, others) = row[place..place + 2 * half].split_at_mut(half);
                for ((one, other), (sine, cosine)) in ones.iter_mut().zip(others).zip(&turns) {
                    let (x, y) = (*one, *other);
                    *one = x * cosine - y * sine;
                    *other = y * cosine + x * sine;
                }
            }
        });
    }
}

/// Which way to turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// By the position.
    Forward,
    /// By the position, the other way.
    Back,
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
    fn llama3_keeps_high_frequencies_and_divides_low_ones() {
        let scaling =
            RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_positions: 8192 };
        assert_eq!(scaled(1.0, scaling), 1.0);
        assert_eq!(scaled(1e-5, scaling), 1e-5 / 8.0);
        let between = scaled(2e-3, scaling);
        assert!(between < 2e-3 && between > 2e-3 / 8.0);
    }

    #[test]
    fn a_turn_back_undoes_a_turn() {
        let heads = Heads { queries: 2, pairs: 1, width: 4, row: 16, interleaved: false };
        let rotation = Rotation::new(4, 100.0, RopeScaling::None);
        let rows: Vec<f32> = (0..32).map(|n| n as f32).collect();
        let mut turned = rows.clone();
        rotation.apply(&mut turned, &[3, 700], heads, Direction::Forward);
        // Values, and what is behind them, stay.
        assert!(turned[0] != rows[0] && turned[8] != rows[8] && turned[12..16] == rows[12..16]);
        rotation.apply(&mut turned, &[3, 700], heads, Direction::Back);
        for (one, other) in turned.iter().zip(&rows) {
            assert!((one - other).abs() < 1e-5, "{one} {other}");
        }
    }
}

//! What the three families are made of, one function a layer, over rows of numbers.
//!
//! All of a batch's tokens stand one after the other, a row of `width` numbers each; nothing is padded.
//! Only attention knows where one sequence ends and the next begins.

use rayon::prelude::*;

use crate::matrix::{Matrix, Threads, multiply};

/// Rows that one task of the pool works on: enough to be worth it.
const ROWS: usize = 16;

/// Weights of a linear layer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Linear {
    /// `to` rows of `from` numbers.
    pub(crate) weight: Vec<f32>,
    /// `to` numbers.
    pub(crate) bias: Option<Vec<f32>>,
    pub(crate) from: usize,
    pub(crate) to: usize,
}

impl Linear {
    /// `x W^T + b` for every row.
    pub(crate) fn forward(&self, x: &[f32]) -> Vec<f32> {
        let rows = x.len() / self.from;
        let mut to = vec![0.0; rows * self.to];
        let weight = Matrix::new(&self.weight, self.to, self.from, self.from);
        let x = Matrix::new(x, rows, self.from, self.from);
        multiply(&mut to, self.to, x, weight.transposed(), 1.0, Threads::All);
        if let Some(bias) = &self.bias {
            to.par_chunks_mut(self.to * ROWS).for_each(|rows| {
                for row in rows.chunks_exact_mut(self.to) {
                    row.iter_mut().zip(bias).for_each(|(number, bias)| *number += bias);
                }
            });
        }
        to
    }
}

/// Weights of a norm.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Norm {
    pub(crate) weight: Vec<f32>,
    /// With one it is layer norm, without RMS norm (Zhang and Sennrich, 2019).
    pub(crate) bias: Option<Vec<f32>>,
    pub(crate) epsilon: f64,
}

impl Norm {
    /// Every row with mean 0 and variance 1 (RMS norm: mean square 1), times weight, plus bias. The
    /// statistics are taken in double precision.
    pub(crate) fn forward(&self, x: &[f32]) -> Vec<f32> {
        let width = self.weight.len();
        let mut to = x.to_vec();
        to.par_chunks_mut(width * ROWS).for_each(|rows| {
            for row in rows.chunks_exact_mut(width) {
                self.row(row);
            }
        });
        to
    }

    fn row(&self, row: &mut [f32]) {
        let count = row.len() as f64;
        let mean = match self.bias {
            Some(_) => row.iter().map(|number| f64::from(*number)).sum::<f64>() / count,
            None => 0.0,
        };
        let square = |number: &f32| (f64::from(*number) - mean).powi(2);
        let variance = row.iter().map(square).sum::<f64>() / count;
        let scale = (variance + self.epsilon).sqrt().recip();
        for (place, number) in row.iter_mut().enumerate() {
            let bias = self.bias.as_ref().map_or(0.0, |bias| bias[place]);
            let normal = ((f64::from(*number) - mean) * scale) as f32;
            *number = normal * self.weight[place] + bias;
        }
    }
}

/// Rows of a table by number.
pub(crate) fn embed(table: &[f32], width: usize, tokens: &[u32]) -> Vec<f32> {
    let row = |token: &u32| &table[*token as usize * width..(*token as usize + 1) * width];
    tokens.iter().flat_map(row).copied().collect()
}

/// `x += y`.
pub(crate) fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// Applies a function to every number.
pub(crate) fn map(x: &mut [f32], function: impl Fn(f32) -> f32 + Sync) {
    x.par_chunks_mut(4096).for_each(|part| part.iter_mut().for_each(|x| *x = function(*x)));
}

/// GELU in BLOOM's form: by tanh (Hendrycks and Gimpel, 2016).
pub(crate) fn gelu_tanh(x: f32) -> f32 {
    x * 0.5 * (1.0 + (0.797_884_6 * x * (1.0 + 0.044_715 * x * x)).tanh())
}

/// GELU in GPT-NeoX's form: by the error function.
pub(crate) fn gelu(x: f32) -> f32 {
    let wide = f64::from(x);
    (wide * 0.5 * (1.0 + error_function(wide / std::f64::consts::SQRT_2))) as f32
}

/// SiLU.
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

/// The error function, to some 1e-15: its series near 0, and the continued fraction of its complement
/// elsewhere (Abramowitz and Stegun 7.1.6 and 7.1.14).
fn error_function(x: f64) -> f64 {
    let size = x.abs();
    if size > 6.0 {
        return x.signum();
    }
    if size < 2.5 {
        let (mut term, mut sum) = (size, size);
        let mut n = 0.0;
        while term.abs() > 1e-17 * sum.abs() {
            n += 1.0;
            term *= 2.0 * size * size / (2.0 * n + 1.0);
            sum += term;
        }
        return x.signum() * 2.0 / std::f64::consts::PI.sqrt() * (-size * size).exp() * sum;
    }
    let mut fraction = size;
    for n in (1..=60).rev() {
        fraction = size + f64::from(n) / 2.0 / fraction;
    }
    x.signum() * (1.0 - (-size * size).exp() / std::f64::consts::PI.sqrt() / fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_has_its_known_values() {
        for (x, expected) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
            (2.5, 0.999_593_047_982_555),
            (3.0, 0.999_977_909_503_001_4),
            (7.0, 1.0),
        ] {
            assert!((error_function(x) - expected).abs() < 1e-14, "{x}: {}", error_function(x));
            assert_eq!(error_function(-x), -error_function(x));
        }
    }

    #[test]
    fn norms_take_mean_and_size_away() {
        let norm = |bias: Option<Vec<f32>>| Norm { weight: vec![2.0; 4], bias, epsilon: 0.0 };
        let layer = norm(Some(vec![1.0; 4])).forward(&[1.0, 3.0, 1.0, 3.0]);
        assert_eq!(layer, [-1.0, 3.0, -1.0, 3.0]);
        assert_eq!(norm(None).forward(&[3.0, -3.0, 3.0, 3.0]), [2.0, -2.0, 2.0, 2.0]);
    }

    #[test]
    fn a_linear_layer_takes_rows_one_by_one() {
        let weight = vec![1.0, 2.0, 0.0, 1.0, 1.0, 1.0];
        let linear = Linear { weight, bias: Some(vec![0.5, 0.0, -1.0]), from: 2, to: 3 };
        assert_eq!(linear.forward(&[1.0, 0.0, 3.0, 4.0]), [1.5, 0.0, 0.0, 11.5, 4.0, 6.0]);
    }
}

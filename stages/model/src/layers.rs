//! What the three families are made of: linear layers, norms, activations and the embedding, each with
//! its forward pass and its backward one.
//!
//! All of a batch's tokens stand one after the other, a row of numbers each; nothing is padded. Only
//! attention knows where one sequence ends and the next begins. A backward pass takes what the forward
//! one took, and the gradient of what came out; it adds to the gradients of what went in. Sums over
//! tokens are taken in chunks of a fixed size, chunk after chunk, so that the number of threads does not
//! show in them.

use okapi_device as device;
use rayon::prelude::*;

use crate::array::{APART, Array};
use crate::functions::{erf, exp, sum_of, tanh, wide};
use crate::low_rank::{Dropout, LowRank};
use crate::matrix::{Matrix, Target, Threads, multiply};
use crate::parameters::{Gradients, ParameterId, Parameters};
use crate::row_product::Product;

/// Rows that one task of the pool works on: enough to be worth it.
const ROWS: usize = 32;

/// What all layers read in a pass.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub(crate) parameters: &'a Parameters,
    /// Only in training.
    pub(crate) dropout: Option<Dropout>,
    /// How linear layers compute.
    pub(crate) product: Product,
}

/// Where a layer's numbers lie in rows that are longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Columns {
    /// The first of them.
    pub(crate) first: usize,
    /// Numbers from one row to the next.
    pub(crate) step: usize,
}

impl Columns {
    /// All of rows that have so many.
    pub(crate) fn all(count: usize) -> Columns {
        Columns { first: 0, step: count }
    }
}

/// What a layer's numbers are written onto.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Onto {
    /// [`Array::room`].
    Room,
    /// Numbers, which they are added to.
    Numbers,
}

/// A linear layer: `y = x W^T + b`, and with an adapter `+ scale dropout(x) A^T B^T`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Linear {
    /// `to` rows of `from` numbers.
    pub(crate) weight: ParameterId,
    /// `to` numbers.
    pub(crate) bias: Option<ParameterId>,
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) adapter: Option<LowRank>,
}

impl Linear {
    /// One without an adapter.
    pub(crate) fn new(
        weight: ParameterId,
        bias: Option<ParameterId>,
        from: usize,
        to: usize,
    ) -> Linear {
        Linear { weight, bias, from, to, adapter: None }
    }

    /// Its parameters, those of an adapter among them.
    pub(crate) fn parameters(&self) -> Vec<ParameterId> {
        let adapter = self.adapter.iter().flat_map(|adapter| [adapter.down, adapter.up]);
        [self.weight].into_iter().chain(self.bias).chain(adapter).collect()
    }

    fn weight<'a>(&self, parameters: &'a Parameters) -> Matrix<'a> {
        Matrix::new(parameters.values(self.weight), self.to, self.from, self.from)
    }

    fn device_weight<'a>(&self, parameters: &'a Parameters) -> device::product::Matrix<'a> {
        device::product::Matrix::new(
            parameters.on_device(self.weight),
            0,
            self.to,
            self.from,
            self.from,
        )
    }

    /// A row of `to` numbers for every row of `from`.
    pub(crate) fn forward(&self, pass: &Pass<'_>, x: &Array) -> Array {
        let mut y = x.room(x.len() / self.from * self.to);
        self.forward_to(pass, x, &mut y, Columns::all(self.to), Onto::Room);
        y
    }

    /// Fills some columns, or adds to them.
    pub(crate) fn forward_to(
        &self,
        pass: &Pass<'_>,
        x: &Array,
        y: &mut Array,
        columns: Columns,
        onto: Onto,
    ) {
        let Columns { first, step } = columns;
        let rows = x.len() / self.from;
        match (x, &mut *y) {
            _ if rows == 0 => return,
            (Array::Host(x), Array::Host(y)) => {
                let y = &mut y[first..];
                if let Some(bias) = self.bias {
                    let bias = pass.parameters.values(bias);
                    y.par_chunks_mut(step * ROWS).for_each(|rows| {
                        for row in rows.chunks_mut(step) {
                            row.iter_mut().zip(bias).for_each(|(number, bias)| *number += bias);
                        }
                    });
                }
                let rows = Matrix::new(x, rows, self.from, self.from);
                let to = Target { data: y, step, adds: true };
                pass.product.with_weight(to, rows, self.weight(pass.parameters), 1.0);
            }
            (Array::Device(x), Array::Device(y)) => {
                let weight = self.device_weight(pass.parameters).transposed();
                let to = device::product::MatrixMut::new(y, first, rows, self.to, step);
                let x = device::product::Matrix::new(x, 0, rows, self.from, self.from);
                device::product::multiply(to, x, weight, 1.0, onto == Onto::Numbers);
                if let Some(bias) = self.bias {
                    device::elementwise::add_bias(y, first, step, pass.parameters.on_device(bias));
                }
            }
            _ => panic!("{APART}"),
        }
        if let Some(adapter) = &self.adapter {
            adapter.forward_to(pass, x, y, columns);
        }
    }

    /// The gradients for `y = forward(x)`: `dy` is that of `y`, in some columns; to `dx`, that of `x` is added,
    /// if anybody needs it.
    pub(crate) fn backward(
        &self,
        pass: &Pass<'_>,
        gradients: &mut Gradients,
        x: &Array,
        (dy, columns): (&Array, Columns),
        mut dx: Option<&mut Array>,
    ) {
        let rows = x.len() / self.from;
        if rows == 0 {
            return;
        }
        self.backward_of_parameters(gradients, x, (dy, columns));
        if let Some(adapter) = &self.adapter {
            adapter.backward(pass, gradients, x, (dy, columns), dx.as_deref_mut());
        }
        let Columns { first, step } = columns;
        match (dy, dx) {
            (_, None) => {}
            (Array::Host(dy), Some(Array::Host(dx))) => {
                let dy = Matrix::new(&dy[first..], rows, self.to, step);
                let dx = Target { data: dx, step: self.from, adds: true };
                multiply(dx, dy, self.weight(pass.parameters), 1.0, Threads::All);
            }
            (Array::Device(dy), Some(Array::Device(dx))) => {
                let dy = device::product::Matrix::new(dy, first, rows, self.to, step);
                let dx = device::product::MatrixMut::new(dx, 0, rows, self.from, self.from);
                device::product::multiply(dx, dy, self.device_weight(pass.parameters), 1.0, true);
            }
            _ => panic!("{APART}"),
        }
    }

    /// Whether a pass back gives any of its parameters a gradient.
    pub(crate) fn is_trained(&self, gradients: &Gradients) -> bool {
        self.parameters().into_iter().any(|id| gradients.has(id))
    }

    fn backward_of_parameters(
        &self,
        gradients: &mut Gradients,
        x: &Array,
        (dy, Columns { first, step }): (&Array, Columns),
    ) {
        let rows = x.len() / self.from;
        match (x, dy) {
            (Array::Host(x), Array::Host(dy)) => {
                let dy = &dy[first..];
                if let Some(gradient) = gradients.host_mut(self.weight) {
                    let x = Matrix::new(x, rows, self.from, self.from);
                    let dy = Matrix::new(dy, rows, self.to, step);
                    let gradient = Target { data: gradient, step: self.from, adds: true };
                    multiply(gradient, dy.transposed(), x, 1.0, Threads::All);
                }
                if let Some(gradient) = self.bias.and_then(|bias| gradients.host_mut(bias)) {
                    add_rows(gradient, dy, step);
                }
            }
            (Array::Device(x), Array::Device(dy)) => {
                if let Some(gradient) = gradients.device_mut(self.weight) {
                    let x = device::product::Matrix::new(x, 0, rows, self.from, self.from);
                    let d = device::product::Matrix::new(dy, first, rows, self.to, step);
                    let to =
                        device::product::MatrixMut::new(gradient, 0, self.to, self.from, self.from);
                    device::product::multiply(to, d.transposed(), x, 1.0, true);
                }
                if let Some(gradient) = self.bias.and_then(|bias| gradients.device_mut(bias)) {
                    device::elementwise::sum_rows(gradient, dy, first, step);
                }
            }
            _ => panic!("{APART}"),
        }
    }
}

/// Adds all rows, `step` numbers apart, to one.
fn add_rows(to: &mut [f32], rows: &[f32], step: usize) {
    let sums: Vec<Vec<f32>> = rows
        .par_chunks(step * ROWS)
        .map(|rows| {
            let mut sum = vec![0.0; to.len()];
            for row in rows.chunks(step) {
                add(&mut sum, &row[..to.len()]);
            }
            sum
        })
        .collect();
    sums.iter().for_each(|sum| add(to, sum));
}

/// A norm: every row with mean 0 and variance 1, times a weight, plus a bias. Without a bias it is RMS
/// norm (Zhang and Sennrich, 2019): with mean square 1.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Norm {
    pub(crate) weight: ParameterId,
    pub(crate) bias: Option<ParameterId>,
    pub(crate) epsilon: f64,
    pub(crate) width: usize,
}

/// What a norm takes away from a row, and what it multiplies the rest with.
struct Statistics {
    mean: f32,
    scale: f32,
}

impl Norm {
    #[inline(always)]
    fn statistics(&self, row: &[f32]) -> Statistics {
        let count = row.len() as f64;
        let mean = match self.bias {
            Some(_) => sum_of(row, row, |x, _| f64::from(x)) / count,
            None => 0.0,
        };
        let square = |x, _| (f64::from(x) - mean) * (f64::from(x) - mean);
        let variance = sum_of(row, row, square) / count;
        Statistics { mean: mean as f32, scale: (variance + self.epsilon).sqrt().recip() as f32 }
    }

    /// The statistics are taken in double precision.
    pub(crate) fn forward(&self, pass: &Pass<'_>, x: &Array) -> Array {
        let x = match x {
            Array::Host(x) => x,
            Array::Device(x) => {
                let weight = pass.parameters.on_device(self.weight);
                let bias = self.bias.map(|bias| pass.parameters.on_device(bias));
                return Array::Device(device::norm::norm(x, weight, bias, self.epsilon));
            }
        };
        let mut y = vec![0.0; x.len()];
        let weight = pass.parameters.values(self.weight);
        let bias = self.bias.map(|bias| pass.parameters.values(bias));
        let chunks = y.par_chunks_mut(self.width * ROWS).zip(x.par_chunks(self.width * ROWS));
        chunks.for_each(|(y, x)| {
            wide!({
                for (y, x) in y.chunks_exact_mut(self.width).zip(x.chunks_exact(self.width)) {
                    let Statistics { mean, scale } = self.statistics(x);
                    for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
                        *y = (x - mean) * scale * weight;
                    }
                    if let Some(bias) = bias {
                        add(y, bias);
                    }
                }
            });
        });
        Array::Host(y)
    }

    /// Whether a pass back gives any of its parameters a gradient.
    pub(crate) fn is_trained(&self, gradients: &Gradients) -> bool {
        gradients.has(self.weight) || self.bias.is_some_and(|bias| gradients.has(bias))
    }

    /// With `n` the normed row and `g = dy * weight`, `dx = (g - mean(g) - n mean(g n)) * scale`; for RMS norm
    /// without `mean(g)`. That is added to `dx`.
    pub(crate) fn backward(
        &self,
        pass: &Pass<'_>,
        gradients: &mut Gradients,
        x: &Array,
        dy: &Array,
        dx: &mut Array,
    ) {
        match (x, dy, dx) {
            (Array::Host(x), Array::Host(dy), Array::Host(dx)) => {
                self.backward_on_host(pass, gradients, x, dy, dx);
            }
            (Array::Device(x), Array::Device(dy), Array::Device(dx)) => {
                let weight = pass.parameters.on_device(self.weight);
                let [d_weight, d_bias] = gradients.two_device_mut([Some(self.weight), self.bias]);
                let is_layer = self.bias.is_some();
                device::norm::norm_backward(
                    x,
                    weight,
                    is_layer,
                    self.epsilon,
                    dy,
                    dx,
                    d_weight,
                    d_bias,
                );
            }
            _ => panic!("{APART}"),
        }
    }

    fn backward_on_host(
        &self,
        pass: &Pass<'_>,
        gradients: &mut Gradients,
        x: &[f32],
        dy: &[f32],
        dx: &mut [f32],
    ) {
        let weight = pass.parameters.values(self.weight);
        let needs_weight = gradients.has(self.weight);
        let size = self.width * ROWS;
        let chunks = dx.par_chunks_mut(size).zip(x.par_chunks(size)).zip(dy.par_chunks(size));
        let sums: Vec<Vec<f32>> = chunks
            .map(|((dx, x), dy)| {
                let mut sum = vec![0.0; if needs_weight { self.width } else { 0 }];
                wide!(self.backward_of_rows(weight, x, dy, dx, &mut sum));
                sum
            })
            .collect();
        if let Some(gradient) = gradients.host_mut(self.weight) {
            sums.iter().for_each(|sum| add(gradient, sum));
        }
        if let Some(gradient) = self.bias.and_then(|bias| gradients.host_mut(bias)) {
            add_rows(gradient, dy, self.width);
        }
    }

    #[inline(always)]
    fn backward_of_rows(
        &self,
        weight: &[f32],
        x: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        sum: &mut [f32],
    ) {
        let count = self.width as f64;
        let mut normed = vec![0.0; self.width];
        let mut graded = vec![0.0; self.width];
        let rows = dx.chunks_exact_mut(self.width).zip(x.chunks_exact(self.width));
        for ((dx, x), dy) in rows.zip(dy.chunks_exact(self.width)) {
            let Statistics { mean, scale } = self.statistics(x);
            normed.iter_mut().zip(x).for_each(|(n, x)| *n = (x - mean) * scale);
            for ((graded, dy), weight) in graded.iter_mut().zip(dy).zip(weight) {
                *graded = dy * weight;
            }
            for ((sum, dy), n) in sum.iter_mut().zip(dy).zip(&normed) {
                *sum += dy * n;
            }
            let along = sum_of(&graded, &normed, |g, n| f64::from(g) * f64::from(n)) / count;
            let all = match self.bias {
                Some(_) => sum_of(&graded, &graded, |g, _| f64::from(g)) / count,
                None => 0.0,
            };
            let (along, all) = (along as f32, all as f32);
            for ((dx, g), n) in dx.iter_mut().zip(&graded).zip(&normed) {
                *dx += (g - all - n * along) * scale;
            }
        }
    }
}

/// A function between two linear layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    /// GELU by tanh (Hendrycks and Gimpel, 2016): BLOOM's.
    GeluTanh,
    /// GELU by the error function: GPT-NeoX's.
    Gelu,
    /// SiLU: LLaMA's.
    Silu,
    /// 0 for what is negative: that of value heads.
    Relu,
}

/// Numbers that one task of the pool works on.
const NUMBERS: usize = 1 << 14;

impl Activation {
    /// The function of every number.
    pub(crate) fn forward(self, x: &Array) -> Array {
        let mut y = match x {
            Array::Host(x) => x.clone(),
            Array::Device(x) => {
                return Array::Device(device::elementwise::activate(self.on_device(), x));
            }
        };
        y.par_chunks_mut(NUMBERS).for_each(|y| match self {
            Activation::GeluTanh => each(y, gelu_tanh),
            Activation::Gelu => each(y, gelu),
            Activation::Silu => each(y, silu),
            Activation::Relu => each(y, relu),
        });
        Array::Host(y)
    }

    fn on_device(self) -> device::Activation {
        match self {
            Activation::GeluTanh => device::Activation::GeluTanh,
            Activation::Gelu => device::Activation::Gelu,
            Activation::Silu => device::Activation::Silu,
            Activation::Relu => device::Activation::Relu,
        }
    }

    /// The gradient of what went in, in place of that of what came out.
    pub(crate) fn backward(self, x: &Array, dy: &mut Array) {
        let (x, dy) = match (x, dy) {
            (Array::Host(x), Array::Host(dy)) => (x, dy),
            (Array::Device(x), Array::Device(dy)) => {
                return device::elementwise::activate_backward(self.on_device(), x, dy);
            }
            _ => panic!("{APART}"),
        };
        let chunks = dy.par_chunks_mut(NUMBERS).zip(x.par_chunks(NUMBERS));
        chunks.for_each(|(dy, x)| match self {
            Activation::GeluTanh => both(dy, x, |dy, x| dy * gelu_tanh_slope(x)),
            Activation::Gelu => both(dy, x, |dy, x| dy * gelu_slope(x)),
            Activation::Silu => both(dy, x, |dy, x| dy * silu_slope(x)),
            Activation::Relu => both(dy, x, |dy, x| if x <= 0.0 { 0.0 } else { dy }),
        });
    }
}

#[inline(always)]
fn each(x: &mut [f32], function: impl Fn(f32) -> f32) {
    wide!(x.iter_mut().for_each(|x| *x = function(*x)));
}

#[inline(always)]
fn both(x: &mut [f32], y: &[f32], function: impl Fn(f32, f32) -> f32) {
    wide!(x.iter_mut().zip(y).for_each(|(x, y)| *x = function(*x, *y)));
}

/// `sqrt(2 / pi)`.
const GELU_SCALE: f32 = 0.797_884_6;

#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    0.5 * x * (1.0 + tanh(GELU_SCALE * x * (1.0 + 0.044_715 * x * x)))
}

#[inline(always)]
fn gelu_tanh_slope(x: f32) -> f32 {
    let t = tanh(GELU_SCALE * x * (1.0 + 0.044_715 * x * x));
    let inner = GELU_SCALE * (1.0 + 3.0 * 0.044_715 * x * x);
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner
}

#[inline(always)]
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

#[inline(always)]
fn gelu_slope(x: f32) -> f32 {
    let share = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
    share + x * exp(-0.5 * x * x) * (0.5 * GELU_SCALE)
}

#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

#[inline(always)]
fn silu_slope(x: f32) -> f32 {
    let share = 1.0 / (1.0 + exp(-x));
    share * (1.0 + x * (1.0 - share))
}

/// Compared this way, NaN stays NaN.
#[inline(always)]
fn relu(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// A table of rows by token.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Embedding {
    pub(crate) table: ParameterId,
    pub(crate) width: usize,
}

impl Embedding {
    /// The rows of the tokens.
    pub(crate) fn forward(&self, pass: &Pass<'_>, tokens: &[u32]) -> Array {
        if let Some(there) = &pass.parameters.get(self.table).on_device {
            let table = &there.weights;
            let tokens = device::DeviceArray::of_u32(table.device(), tokens);
            return Array::Device(device::embedding::gather(table, self.width, &tokens));
        }
        let table = pass.parameters.values(self.table);
        let mut x = vec![0.0; tokens.len() * self.width];
        for (x, token) in x.chunks_exact_mut(self.width).zip(tokens) {
            x.copy_from_slice(&table[*token as usize * self.width..][..self.width]);
        }
        Array::Host(x)
    }

    /// Adds each row's gradient to that of its token, in the order of the tokens.
    pub(crate) fn backward(&self, gradients: &mut Gradients, tokens: &[u32], dx: &Array) {
        match (gradients.get_mut(self.table), dx) {
            (None, _) => {}
            (Some(Array::Host(gradient)), Array::Host(dx)) => {
                for (dx, token) in dx.chunks_exact(self.width).zip(tokens) {
                    add(&mut gradient[*token as usize * self.width..][..self.width], dx);
                }
            }
            (Some(Array::Device(gradient)), Array::Device(dx)) => {
                device::embedding::scatter_add(gradient, self.width, tokens, dx);
            }
            _ => panic!("{APART}"),
        }
    }
}

/// `x += y`.
#[inline(always)]
pub(crate) fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// `x *= y`, on all threads.
pub(crate) fn scale_by(x: &mut [f32], y: &[f32]) {
    let chunks = x.par_chunks_mut(NUMBERS).zip(y.par_chunks(NUMBERS));
    chunks.for_each(|(x, y)| both(x, y, |x, y| x * y));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::Parameter;

    fn push(parameters: &mut Parameters, shape: &[usize], values: Vec<f32>) -> ParameterId {
        let name = format!("p{}", parameters.iter().len());
        parameters.push(Parameter::new(name, shape.to_vec(), values))
    }

    fn host(numbers: &[f32]) -> Array {
        Array::Host(numbers.to_vec())
    }

    fn norm(parameters: &mut Parameters, with_bias: bool) -> Norm {
        let weight = push(parameters, &[4], vec![2.0; 4]);
        let bias = with_bias.then(|| push(parameters, &[4], vec![1.0; 4]));
        Norm { weight, bias, epsilon: 0.0, width: 4 }
    }

    #[test]
    fn norms_take_mean_and_size_away() {
        let mut parameters = Parameters::default();
        let layer = norm(&mut parameters, true);
        let rms = norm(&mut parameters, false);
        let pass = Pass { parameters: &parameters, dropout: None, product: Product::InBlocks };
        assert_eq!(
            layer.forward(&pass, &host(&[1.0, 3.0, 1.0, 3.0])).host(),
            [-1.0, 3.0, -1.0, 3.0]
        );
        assert_eq!(rms.forward(&pass, &host(&[3.0, -3.0, 3.0, 3.0])).host(), [2.0, -2.0, 2.0, 2.0]);
    }

    #[test]
    fn a_linear_layer_takes_rows_one_by_one() {
        let mut parameters = Parameters::default();
        let weight = push(&mut parameters, &[3, 2], vec![1.0, 2.0, 0.0, 1.0, 1.0, 1.0]);
        let bias = Some(push(&mut parameters, &[3], vec![0.5, 0.0, -1.0]));
        let linear = Linear::new(weight, bias, 2, 3);
        let pass = Pass { parameters: &parameters, dropout: None, product: Product::InBlocks };
        let y = linear.forward(&pass, &host(&[1.0, 0.0, 3.0, 4.0]));
        assert_eq!(y.host(), [1.5, 0.0, 0.0, 11.5, 4.0, 6.0]);
    }

    /// Central differences of a function of single numbers.
    #[test]
    fn slopes_are_those_of_the_functions() {
        for step in -60..=60 {
            let x = step as f32 / 10.0;
            let wide = |function: fn(f32) -> f32| {
                f64::from(function(x + 0.01) - function(x - 0.01))
                    / f64::from((x + 0.01) - (x - 0.01))
            };
            for (function, slope) in [
                (gelu_tanh as fn(f32) -> f32, gelu_tanh_slope(x)),
                (gelu, gelu_slope(x)),
                (silu, silu_slope(x)),
            ] {
                assert!((wide(function) - f64::from(slope)).abs() < 1e-4, "at {x}: {slope}");
            }
        }
    }
}

//! Low-rank adapters (LoRA; Hu et al., 2022): a product of two narrow matrices beside a frozen weight.

use okapi_device::{self as device, DeviceArray};
use rayon::prelude::*;

use crate::array::{APART, Array};
use crate::layers::{Columns, Pass, add};
use crate::matrix::{Matrix, Target, Threads, multiply};
use crate::parameters::{Gradients, ParameterId, Parameters};
use crate::random::{Purpose, Random};

/// An adapter of a linear layer: `y += scale * dropout(x) A^T B^T`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LowRank {
    /// `A`: `rank` rows of `from` numbers.
    pub(crate) down: ParameterId,
    /// `B`: `to` rows of `rank` numbers.
    pub(crate) up: ParameterId,
    pub(crate) rank: usize,
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// `alpha / rank`.
    pub(crate) scale: f32,
    /// The share of numbers that is left out in training.
    pub(crate) dropout: f64,
}

/// What is left out in one pass: the same for the same seed and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropout {
    /// The training's.
    pub seed: u64,
    /// Its step.
    pub step: u32,
    /// Which part of the step's batch.
    pub part: u16,
}

/// Rows that one task of the pool works on.
const ROWS: usize = 32;

impl LowRank {
    fn down<'a>(&self, parameters: &'a Parameters) -> Matrix<'a> {
        Matrix::new(parameters.values(self.down), self.rank, self.from, self.from)
    }

    fn up<'a>(&self, parameters: &'a Parameters) -> Matrix<'a> {
        Matrix::new(parameters.values(self.up), self.to, self.rank, self.rank)
    }

    /// What numbers are left out by in a pass: the seed of their chance, and the step.
    fn chance(&self, pass: &Pass<'_>) -> Option<(u64, u32)> {
        let dropout = pass.dropout.filter(|_| self.dropout > 0.0)?;
        let layer = (self.down.number() as u64) << 32;
        Some((dropout.seed ^ layer ^ (u64::from(dropout.part) << 48), dropout.step))
    }

    /// Leaves numbers out, and makes the others larger so that the mean stays.
    fn drop_out(&self, pass: &Pass<'_>, x: &mut [f32]) {
        let Some((seed, step)) = self.chance(pass) else { return };
        let scale = (1.0 / (1.0 - self.dropout)) as f32;
        let threshold = (self.dropout * f64::from(u32::MAX)) as u32;
        x.par_chunks_mut(self.from * ROWS).enumerate().for_each(|(chunk, rows)| {
            for (row, x) in rows.chunks_mut(self.from).enumerate() {
                let row = (chunk * ROWS + row) as u32;
                let mut random = Random::new(seed, Purpose::Dropout, step, row);
                for x in x {
                    *x = if random.bits() < threshold { 0.0 } else { *x * scale };
                }
            }
        });
    }

    /// What goes into `A`.
    fn input(&self, pass: &Pass<'_>, x: &[f32]) -> Vec<f32> {
        let mut x = x.to_vec();
        self.drop_out(pass, &mut x);
        x
    }

    /// `x A^T`.
    fn narrow(&self, pass: &Pass<'_>, x: &[f32]) -> Vec<f32> {
        let rows = x.len() / self.from;
        let mut narrow = vec![0.0; rows * self.rank];
        let x = Matrix::new(x, rows, self.from, self.from);
        let to = Target { data: &mut narrow, step: self.rank, adds: false };
        pass.product.with_weight(to, x, self.down(pass.parameters), 1.0);
        narrow
    }

    /// Adds to some columns.
    pub(crate) fn forward_to(&self, pass: &Pass<'_>, x: &Array, y: &mut Array, columns: Columns) {
        let Columns { first, step } = columns;
        match (x, y) {
            (Array::Host(x), Array::Host(y)) => {
                let narrow = self.narrow(pass, &self.input(pass, x));
                let rows = Matrix::new(&narrow, narrow.len() / self.rank, self.rank, self.rank);
                let to = Target { data: &mut y[first..], step, adds: true };
                pass.product.with_weight(to, rows, self.up(pass.parameters), self.scale);
            }
            (Array::Device(x), Array::Device(y)) => {
                let there = self.there(pass);
                let narrow = there.narrow(&there.input(x));
                let rows = x.len() / self.from;
                let to = device::product::MatrixMut::new(y, first, rows, self.to, step);
                let narrow = device::product::Matrix::new(&narrow, 0, rows, self.rank, self.rank);
                device::product::multiply(to, narrow, there.up().transposed(), self.scale, true);
            }
            _ => panic!("{APART}"),
        }
    }

    fn there<'a>(&'a self, pass: &'a Pass<'a>) -> There<'a> {
        There { adapter: self, pass }
    }

    /// Adds to the gradients of `A`, of `B` and, if anybody needs it, of what went in, given that of what came out.
    pub(crate) fn backward(
        &self,
        pass: &Pass<'_>,
        gradients: &mut Gradients,
        x: &Array,
        (dy, columns): (&Array, Columns),
        dx: Option<&mut Array>,
    ) {
        match (x, dy) {
            (Array::Host(x), Array::Host(dy)) => {
                let dx = dx.map(Array::host_mut);
                let dy = (&dy[columns.first..], columns.step);
                self.backward_on_host(pass, gradients, x, dy, dx);
            }
            (Array::Device(x), Array::Device(dy)) => {
                self.there(pass).backward(gradients, x, (dy, columns), dx.map(Array::device_mut));
            }
            _ => panic!("{APART}"),
        }
    }

    fn backward_on_host(
        &self,
        pass: &Pass<'_>,
        gradients: &mut Gradients,
        x: &[f32],
        (dy, step): (&[f32], usize),
        dx: Option<&mut [f32]>,
    ) {
        let x = self.input(pass, x);
        let rows = x.len() / self.from;
        let dy = Matrix::new(dy, rows, self.to, step);
        if let Some(gradient) = gradients.host_mut(self.up) {
            let narrow = self.narrow(pass, &x);
            let narrow = Matrix::new(&narrow, rows, self.rank, self.rank);
            let to = Target { data: gradient, step: self.rank, adds: true };
            multiply(to, dy.transposed(), narrow, self.scale, Threads::All);
        }
        let mut d_narrow = vec![0.0; rows * self.rank];
        let to = Target { data: &mut d_narrow, step: self.rank, adds: false };
        multiply(to, dy, self.up(pass.parameters), self.scale, Threads::All);
        let d_narrow = Matrix::new(&d_narrow, rows, self.rank, self.rank);
        if let Some(gradient) = gradients.host_mut(self.down) {
            let x = Matrix::new(&x, rows, self.from, self.from);
            let to = Target { data: gradient, step: self.from, adds: true };
            multiply(to, d_narrow.transposed(), x, 1.0, Threads::All);
        }
        let Some(dx) = dx else { return };
        let mut d_input = x;
        let to = Target { data: &mut d_input, step: self.from, adds: false };
        multiply(to, d_narrow, self.down(pass.parameters), 1.0, Threads::All);
        self.drop_out(pass, &mut d_input);
        add(dx, &d_input);
    }

    /// `scale * B A`: what the adapter adds to the weight.
    pub(crate) fn product(&self, parameters: &Parameters) -> Vec<f32> {
        let mut product = vec![0.0; self.to * self.from];
        let to = Target { data: &mut product, step: self.from, adds: false };
        let (up, down) = (self.up(parameters), self.down(parameters));
        multiply(to, up, down, self.scale, Threads::All);
        product
    }
}

/// An adapter in a pass on a GPU.
struct There<'a> {
    adapter: &'a LowRank,
    pass: &'a Pass<'a>,
}

impl<'a> There<'a> {
    fn down(&self) -> device::product::Matrix<'a> {
        let LowRank { down, rank, from, .. } = *self.adapter;
        device::product::Matrix::new(self.pass.parameters.on_device(down), 0, rank, from, from)
    }

    fn up(&self) -> device::product::Matrix<'a> {
        let LowRank { up, rank, to, .. } = *self.adapter;
        device::product::Matrix::new(self.pass.parameters.on_device(up), 0, to, rank, rank)
    }

    fn drop_out(&self, x: &mut DeviceArray) {
        if let Some((seed, step)) = self.adapter.chance(self.pass) {
            device::dropout::drop_out(x, self.adapter.from, self.adapter.dropout, seed, step);
        }
    }

    /// What goes into `A`.
    fn input(&self, x: &DeviceArray) -> DeviceArray {
        let mut x = x.copy();
        self.drop_out(&mut x);
        x
    }

    /// `x A^T`.
    fn narrow(&self, x: &DeviceArray) -> DeviceArray {
        let LowRank { rank, from, .. } = *self.adapter;
        let rows = x.len() / from;
        let mut narrow = DeviceArray::zeros(x.device(), x.kind(), rows * rank);
        let to = device::product::MatrixMut::new(&mut narrow, 0, rows, rank, rank);
        let x = device::product::Matrix::new(x, 0, rows, from, from);
        device::product::multiply(to, x, self.down().transposed(), 1.0, false);
        narrow
    }

    fn backward(
        &self,
        gradients: &mut Gradients,
        x: &DeviceArray,
        (dy, columns): (&DeviceArray, Columns),
        dx: Option<&mut DeviceArray>,
    ) {
        let LowRank { down, up, rank, from, to, scale, .. } = *self.adapter;
        let rows = x.len() / from;
        let mut x = self.input(x);
        let dy = device::product::Matrix::new(dy, columns.first, rows, to, columns.step);
        if let Some(gradient) = gradients.device_mut(up) {
            let narrow = self.narrow(&x);
            let narrow = device::product::Matrix::new(&narrow, 0, rows, rank, rank);
            let gradient = device::product::MatrixMut::new(gradient, 0, to, rank, rank);
            device::product::multiply(gradient, dy.transposed(), narrow, scale, true);
        }
        let mut d_narrow = DeviceArray::zeros(x.device(), x.kind(), rows * rank);
        let target = device::product::MatrixMut::new(&mut d_narrow, 0, rows, rank, rank);
        device::product::multiply(target, dy, self.up(), scale, false);
        let d_narrow = device::product::Matrix::new(&d_narrow, 0, rows, rank, rank);
        if let Some(gradient) = gradients.device_mut(down) {
            let x = device::product::Matrix::new(&x, 0, rows, from, from);
            let gradient = device::product::MatrixMut::new(gradient, 0, rank, from, from);
            device::product::multiply(gradient, d_narrow.transposed(), x, 1.0, true);
        }
        let Some(dx) = dx else { return };
        let target = device::product::MatrixMut::new(&mut x, 0, rows, from, from);
        device::product::multiply(target, d_narrow, self.down(), 1.0, false);
        self.drop_out(&mut x);
        device::elementwise::add(dx, &x);
    }
}

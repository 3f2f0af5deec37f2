//! Number by number, and sums over rows.

use crate::array::{DeviceArray, Kind};
use crate::kernel::{Kernel, THREADS};

/// A function between two linear layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// GELU by tanh (Hendrycks and Gimpel, 2016): BLOOM's.
    GeluTanh,
    /// GELU by the error function: GPT-NeoX's.
    Gelu,
    /// SiLU: LLaMA's.
    Silu,
    /// What is above 0: a value head's.
    Relu,
}

/// Columns of rows that are `step` numbers apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Columns {
    /// Where the first row's begin.
    pub first: usize,
    /// How many.
    pub count: usize,
    /// Numbers from one row to the next.
    pub step: usize,
}

impl Columns {
    /// # Panics
    /// When they are not in every row.
    fn rows_of(self, array: &DeviceArray) -> usize {
        assert!(self.first + self.count <= self.step, "columns outside of their rows");
        assert_eq!(array.len() % self.step, 0, "a part of a row");
        array.len() / self.step
    }
}

/// Numbers that one thread works on at once, as kernels take sixteen bytes.
fn packs(array: &DeviceArray) -> usize {
    array.len().div_ceil(16 / array.kind().bytes())
}

fn assert_alike(one: &DeviceArray, other: &DeviceArray) {
    assert_eq!((one.kind(), one.len()), (other.kind(), other.len()), "arrays that are not alike");
}

/// `to += x`.
///
/// # Panics
/// When kinds or sizes differ.
pub fn add(to: &mut DeviceArray, x: &DeviceArray) {
    assert_alike(to, x);
    let kernel = Kernel::of("add", &[to.kind()]).array(to).array(x).size(to.len());
    kernel.pieces(to.device(), packs(to));
}

/// `to *= x`.
///
/// # Panics
/// When kinds or sizes differ.
pub fn multiply_by(to: &mut DeviceArray, x: &DeviceArray) {
    assert_alike(to, x);
    let kernel = Kernel::of("multiply_by", &[to.kind()]).array(to).array(x).size(to.len());
    kernel.pieces(to.device(), packs(to));
}

/// `to *= factor`.
pub fn scale_by(to: &mut DeviceArray, factor: f32) {
    let kernel = Kernel::of("scale_by", &[to.kind()]).array(to).f32(factor).size(to.len());
    kernel.pieces(to.device(), packs(to));
}

/// The numbers in another kind, rounded to the nearest.
#[must_use]
pub fn cast(x: &DeviceArray, kind: Kind) -> DeviceArray {
    if x.kind() == kind {
        return x.copy();
    }
    let y = DeviceArray::uninitialized(x.device(), kind, x.len());
    let kernel = Kernel::of("cast", &[kind, x.kind()]).array(&y).array(x).size(x.len());
    kernel.pieces(x.device(), x.len());
    y
}

/// Adds a bias to columns `first..first + bias.len()` of rows `step` apart.
///
/// # Panics
/// When the rows have no such columns, or the kinds differ.
pub fn add_bias(y: &mut DeviceArray, first: usize, step: usize, bias: &DeviceArray) {
    assert_eq!(y.kind(), bias.kind(), "kinds");
    let rows = Columns { first, count: bias.len(), step }.rows_of(y);
    let kernel = Kernel::of("add_bias", &[y.kind()]).part(y, first).array(bias);
    let kernel = kernel.size(rows).u32(bias.len()).size(step);
    kernel.columns(y.device(), bias.len(), rows);
}

/// Writes columns of one array's rows over columns of another's, rounded to its kind.
///
/// # Panics
/// When there are no such columns, or not as many rows and columns in both.
pub fn copy_columns(
    to: &mut DeviceArray,
    to_columns: Columns,
    from: &DeviceArray,
    from_columns: Columns,
) {
    let rows = to_columns.rows_of(to);
    assert_eq!(rows, from_columns.rows_of(from), "rows");
    assert_eq!(to_columns.count, from_columns.count, "columns");
    let kernel = Kernel::of("copy_columns", &[to.kind(), from.kind()]);
    let kernel = kernel.part(to, to_columns.first).size(to_columns.step);
    let kernel = kernel.part(from, from_columns.first).size(from_columns.step);
    let kernel = kernel.size(rows).u32(to_columns.count);
    kernel.columns(to.device(), to_columns.count, rows);
}

/// Rows that are added up together, before their sums are. It never changes, so that sums do not.
pub(crate) const ROWS_OF_PART: usize = 64;

/// Adds all rows' columns `first..first + gradient.len()` to `gradient`, which has single precision. Rows are
/// `step` apart.
///
/// # Panics
/// When the rows have no such columns.
pub fn sum_rows(gradient: &mut DeviceArray, dy: &DeviceArray, first: usize, step: usize) {
    let columns = gradient.len();
    let rows = Columns { first, count: columns, step }.rows_of(dy);
    let parts = rows.div_ceil(ROWS_OF_PART);
    let sums = DeviceArray::uninitialized(dy.device(), Kind::F32, parts * columns);
    let kernel = Kernel::of("sum_rows", &[dy.kind()]).array(&sums).part(dy, first);
    let kernel = kernel.size(rows).u32(columns).size(step).u32(ROWS_OF_PART);
    kernel.blocks(dy.device(), columns.div_ceil(THREADS as usize), parts);
    add_parts(gradient, &sums, parts);
}

/// Adds rows of sums to a gradient, in their order.
pub(crate) fn add_parts(gradient: &mut DeviceArray, sums: &DeviceArray, parts: usize) {
    assert_eq!((gradient.kind(), sums.len()), (Kind::F32, parts * gradient.len()));
    let kernel = Kernel::new("add_parts").array(gradient).array(sums);
    let kernel = kernel.u32(parts).u32(gradient.len());
    let blocks = if parts == 0 { 0 } else { gradient.len().div_ceil(THREADS as usize) };
    kernel.blocks(gradient.device(), blocks, 1);
}

/// The function of every number.
#[must_use]
pub fn activate(activation: Activation, x: &DeviceArray) -> DeviceArray {
    let y = DeviceArray::uninitialized(x.device(), x.kind(), x.len());
    let kernel = Kernel::of("activate", &[x.kind()]).array(&y).array(x);
    kernel.size(x.len()).u32(activation.number()).pieces(x.device(), packs(x));
    y
}

/// The gradient of what went in, in place of that of what came out.
///
/// # Panics
/// When kinds or sizes differ.
pub fn activate_backward(activation: Activation, x: &DeviceArray, dy: &mut DeviceArray) {
    assert_alike(x, dy);
    let kernel = Kernel::of("activate_backward", &[x.kind()]).array(dy).array(x);
    kernel.size(x.len()).u32(activation.number()).pieces(x.device(), packs(x));
}

impl Activation {
    /// What kernels know it by.
    fn number(self) -> usize {
        match self {
            Activation::GeluTanh => 0,
            Activation::Gelu => 1,
            Activation::Silu => 2,
            Activation::Relu => 3,
        }
    }
}

//! Products of matrices that lie in arrays.

use crate::array::{DeviceArray, Kind};
use crate::backend::{BatchProduct, Operand};

/// A matrix that lies in an array, row after row: its number at row `r` and column `c` is number `first + r *
/// step + c` of the array. In a batch it is the first one.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    array: &'a DeviceArray,
    first: usize,
    rows: usize,
    columns: usize,
    step: usize,
    is_transposed: bool,
}

/// Where a product goes: as a [`Matrix`] lies.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    array: &'a mut DeviceArray,
    first: usize,
    rows: usize,
    columns: usize,
    step: usize,
}

/// Several products of matrices of the same shapes. The matrices of a batch are so many numbers apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// How many products.
    pub count: usize,
    /// From one product to the next.
    pub to: usize,
    /// From one left factor to the next.
    pub left: usize,
    /// From one right factor to the next.
    pub right: usize,
}

impl Batch {
    /// One product.
    pub const ONE: Batch = Batch { count: 1, to: 0, left: 0, right: 0 };
}

/// How many numbers there are from the first of a matrix to behind its last.
fn extent(rows: usize, columns: usize, step: usize) -> usize {
    if rows == 0 || columns == 0 { 0 } else { (rows - 1) * step + columns }
}

impl<'a> Matrix<'a> {
    /// Rows `step` numbers apart, the first of which begins at number `first`.
    ///
    /// # Panics
    /// When the last row ends behind the array.
    pub fn new(
        array: &'a DeviceArray,
        first: usize,
        rows: usize,
        columns: usize,
        step: usize,
    ) -> Matrix<'a> {
        let fits = first + extent(rows, columns, step) <= array.len();
        assert!(columns <= step && fits, "out of bounds");
        Matrix { array, first, rows, columns, step, is_transposed: false }
    }

    /// Rows as columns and columns as rows.
    #[must_use]
    pub fn transposed(self) -> Matrix<'a> {
        let is_transposed = !self.is_transposed;
        Matrix { rows: self.columns, columns: self.rows, is_transposed, ..self }
    }

    /// What a batch of such matrices is to a device.
    fn operand(self, stride: usize, count: usize) -> Operand {
        let (rows, columns) =
            if self.is_transposed { (self.columns, self.rows) } else { (self.rows, self.columns) };
        check_batch(self.array, self.first, extent(rows, columns, self.step), stride, count);
        Operand {
            at: self.array.at(self.first),
            kind: self.array.kind(),
            step: self.step,
            is_transposed: self.is_transposed,
            stride,
        }
    }
}

impl<'a> MatrixMut<'a> {
    /// Rows `step` numbers apart, the first of which begins at number `first`.
    ///
    /// # Panics
    /// When the last row ends behind the array.
    pub fn new(
        array: &'a mut DeviceArray,
        first: usize,
        rows: usize,
        columns: usize,
        step: usize,
    ) -> MatrixMut<'a> {
        let fits = first + extent(rows, columns, step) <= array.len();
        assert!(columns <= step && fits, "out of bounds");
        MatrixMut { array, first, rows, columns, step }
    }
}

fn check_batch(array: &DeviceArray, first: usize, extent: usize, stride: usize, count: usize) {
    let last = first + count.saturating_sub(1) * stride + extent;
    assert!(last <= array.len(), "a batch is out of bounds");
}

/// `to = scale * left * right`, or with `adds` that added to `to`. The factors have one kind; `to` has that
/// kind, or single precision. Sums are taken in single precision and rounded once.
///
/// # Panics
/// When shapes or kinds do not match.
pub fn multiply(to: MatrixMut<'_>, left: Matrix<'_>, right: Matrix<'_>, scale: f32, adds: bool) {
    multiply_batch(to, left, right, scale, adds, Batch::ONE);
}

/// As [`multiply`], for every matrix of a batch. No two products may overlap; factors may.
///
/// # Panics
/// When shapes or kinds do not match, or the last of a batch ends behind its array.
pub fn multiply_batch(
    to: MatrixMut<'_>,
    left: Matrix<'_>,
    right: Matrix<'_>,
    scale: f32,
    adds: bool,
    batch: Batch,
) {
    let MatrixMut { array, first, step, .. } = to;
    let (rows, columns, inner) = (left.rows, right.columns, left.columns);
    assert_eq!((to.rows, to.columns, right.rows), (rows, columns, inner), "shapes of a product");
    let kind = left.array.kind();
    let kinds_match =
        right.array.kind() == kind && (array.kind() == kind || array.kind() == Kind::F32);
    assert!(kinds_match, "kinds of a product");
    let device = array.device();
    assert!(device.is_same(left.array.device()) && device.is_same(right.array.device()));
    if rows == 0 || columns == 0 || batch.count == 0 || (inner == 0 && adds) {
        return;
    }
    check_batch(array, first, extent(rows, columns, step), batch.to, batch.count);
    device.multiply(&BatchProduct {
        to: Operand {
            at: array.at(first),
            kind: array.kind(),
            step,
            is_transposed: false,
            stride: batch.to,
        },
        left: left.operand(batch.left, batch.count),
        right: right.operand(batch.right, batch.count),
        rows,
        columns,
        inner,
        scale,
        adds,
        batch: batch.count,
    });
}

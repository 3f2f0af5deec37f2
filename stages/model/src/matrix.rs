//! Matrices over slices, and their product: the one place that computes with raw pointers.

use gemm::Parallelism;

/// A matrix that lies in a slice: the number at row `r` and column `c` is `data[r * row_step + c *
/// column_step]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_step: usize,
    column_step: usize,
}

impl<'a> Matrix<'a> {
    /// Rows one after the other, `row_step` numbers from one to the next.
    ///
    /// # Panics
    /// When the last row ends behind the slice.
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize, row_step: usize) -> Matrix<'a> {
        assert!(columns <= row_step && fits(data.len(), rows, columns, row_step), "out of bounds");
        Matrix { data, rows, columns, row_step, column_step: 1 }
    }

    /// Some of its rows.
    ///
    /// # Panics
    /// When it has not so many.
    pub(crate) fn rows(self, first: usize, count: usize) -> Matrix<'a> {
        assert!(first + count <= self.rows && self.column_step == 1, "out of bounds");
        Matrix { data: &self.data[first * self.row_step..], rows: count, ..self }
    }

    /// How many rows.
    pub(crate) fn count(self) -> usize {
        self.rows
    }

    /// One of its rows.
    ///
    /// # Panics
    /// When it has not so many.
    pub(crate) fn row(self, row: usize) -> &'a [f32] {
        assert!(row < self.rows && self.column_step == 1, "out of bounds");
        &self.data[row * self.row_step..][..self.columns]
    }

    /// How many columns.
    pub(crate) fn columns(self) -> usize {
        self.columns
    }

    /// Rows as columns and columns as rows.
    pub(crate) fn transposed(self) -> Matrix<'a> {
        Matrix {
            rows: self.columns,
            columns: self.rows,
            row_step: self.column_step,
            column_step: self.row_step,
            ..self
        }
    }
}

fn fits(length: usize, rows: usize, columns: usize, row_step: usize) -> bool {
    rows == 0 || columns == 0 || (rows - 1) * row_step + columns <= length
}

/// Whose threads do the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The calling one.
    One,
    /// All of the current pool. The result is the same to the last bit: rows and columns are shared
    /// out, never a sum.
    All,
}

/// Where a product goes: rows `step` numbers apart.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    pub(crate) data: &'a mut [f32],
    pub(crate) step: usize,
    /// Whether it is added to what is there.
    pub(crate) adds: bool,
}

impl Target<'_> {
    /// Whether so many rows of so many numbers fit.
    pub(crate) fn holds(&self, rows: usize, columns: usize) -> bool {
        columns <= self.step && fits(self.data.len(), rows, columns, self.step)
    }
}

/// `to = scale * left * right`, or `to += scale * left * right`.
///
/// # Panics
/// When the sizes do not fit each other, or `to` is too short.
pub(crate) fn multiply(
    to: Target<'_>,
    left: Matrix<'_>,
    right: Matrix<'_>,
    scale: f32,
    threads: Threads,
) {
    let (rows, inner, columns) = (left.rows, left.columns, right.columns);
    assert_eq!(inner, right.rows, "the sizes do not fit each other");
    assert!(to.holds(rows, columns), "out of bounds");
    let Target { data: to, step: to_step, adds } = to;
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::All => Parallelism::Rayon(0),
    };
    let step = |step: usize| isize::try_from(step).expect("a slice is not that long");
    #[expect(unsafe_code, reason = "the product is not to be had otherwise at this speed")]
    // SAFETY: every place that is read or written is in its slice. For `to` that is asserted above, for
    // `left` and `right` by `Matrix::new`, whose bound transposing leaves as it is. `to` is borrowed
    // alone, so it overlaps neither, and all of it holds numbers.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            to.as_mut_ptr(),
            1,
            step(to_step),
            adds,
            left.data.as_ptr(),
            step(left.column_step),
            step(left.row_step),
            right.data.as_ptr(),
            step(right.column_step),
            step(right.row_step),
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// By the definition.
    fn plainly(left: &[f32], right: &[f32], rows: usize, inner: usize, columns: usize) -> Vec<f32> {
        let at = |row: usize, column: usize| -> f32 {
            (0..inner).map(|k| left[row * inner + k] * right[k * columns + column]).sum()
        };
        (0..rows * columns).map(|place| at(place / columns, place % columns)).collect()
    }

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|n| (((n * 7919 + seed * 104_729) % 2000) as f32 - 1000.0) / 500.0).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_product_is_one_whatever_the_steps_and_threads(
            rows in 0usize..20, inner in 0usize..30, columns in 0usize..20, gap in 0usize..3,
        ) {
            let (left, right) = (numbers(rows * inner, 1), numbers(inner * columns, 2));
            let expected = plainly(&left, &right, rows, inner, columns);
            // Each row with a gap after it.
            let spread = |data: &[f32], rows: usize, columns: usize| -> Vec<f32> {
                let row = |row: usize| {
                    let there = data[row * columns..(row + 1) * columns].iter().copied();
                    there.chain(std::iter::repeat_n(f32::NAN, gap))
                };
                (0..rows).flat_map(row).collect()
            };
            let left = spread(&left, rows, inner);
            let left = Matrix::new(&left, rows, inner, inner + gap);
            let turned: Vec<f32> =
                (0..inner * columns).map(|n| right[(n % inner) * columns + n / inner]).collect();
            for (right, threads) in [
                (Matrix::new(&right, inner, columns, columns), Threads::One),
                (Matrix::new(&turned, columns, inner, inner).transposed(), Threads::All),
            ] {
                let mut to = vec![f32::NAN; rows * columns];
                let data = &mut to;
                multiply(Target { data, step: columns, adds: false }, left, right, 1.0, threads);
                let data = &mut to;
                multiply(Target { data, step: columns, adds: true }, left, right, 2.0, threads);
                for (found, expected) in to.iter().zip(&expected) {
                    prop_assert!((found - 3.0 * expected).abs() < 3e-3, "{found} {expected}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "out of bounds")]
    fn a_matrix_does_not_reach_behind_its_slice() {
        let _ = Matrix::new(&[0.0; 11], 3, 4, 4);
    }

    #[test]
    #[should_panic(expected = "do not fit")]
    fn sizes_have_to_fit() {
        let data = [0.0; 12];
        let matrix = Matrix::new(&data, 3, 4, 4);
        let to = Target { data: &mut [0.0; 9], step: 3, adds: false };
        multiply(to, matrix, matrix, 1.0, Threads::One);
    }
}

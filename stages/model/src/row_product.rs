//! The product of rows with a weight in which every row is computed for itself: what a row gives is the same
//! to the last bit, whatever rows stand beside it and however many threads there are.
//!
//! A product in blocks (`matrix::multiply`) is as fast for many rows, but how it rounds depends on how many
//! they are. Where tokens are sampled, that would let the batch choose them. Here every number is one
//! chain of fused multiplications and additions, from the first column to the last; rows lie side by
//! side in a register, so that its width does not show either.

use rayon::prelude::*;

use crate::matrix::{Matrix, Target, Threads, multiply};

/// How the product of rows with a weight is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Product {
    /// In blocks, as fast as can be for the rows that there are.
    InBlocks,
    /// Every row for itself.
    RowByRow,
}

impl Product {
    /// `to = scale * rows * weight^T`, or `to += scale * rows * weight^T`, on all threads.
    ///
    /// # Panics
    /// When the sizes do not fit each other, or `to` is too short.
    pub(crate) fn with_weight(
        self,
        to: Target<'_>,
        rows: Matrix<'_>,
        weight: Matrix<'_>,
        scale: f32,
    ) {
        match self {
            Product::InBlocks => multiply(to, rows, weight.transposed(), scale, Threads::All),
            Product::RowByRow => multiply_rows(to, rows, weight, scale),
        }
    }
}

/// Rows that are computed together: four of the widest registers.
const BLOCK: usize = 64;

/// Rows are filled up to a multiple of this, with zeros.
const LANES: usize = 16;

/// Numbers of a row that one task computes.
const OUTPUTS: usize = 48;

/// Numbers of a row that are computed at once: with four registers of rows, 24 sums and what they read
/// fill the 32 registers.
const TILE: usize = 6;

/// Columns that one task turns into rows.
const COLUMNS: usize = 64;

fn multiply_rows(to: Target<'_>, rows: Matrix<'_>, weight: Matrix<'_>, scale: f32) {
    let (count, inner, outputs) = (rows.count(), rows.columns(), weight.count());
    assert_eq!(inner, weight.columns(), "the sizes do not fit each other");
    assert!(to.holds(count, outputs), "out of bounds");
    if count == 0 || outputs == 0 {
        return;
    }
    let turned = turn(rows);
    let Target { data, step, adds } = to;
    let mut tasks = Vec::new();
    let blocks = data.chunks_mut(step * BLOCK).zip((0..count).step_by(BLOCK));
    for (block, first) in blocks {
        let rows = BLOCK.min(count - first);
        let turned = &turned[first * inner..][..rows.next_multiple_of(LANES) * inner];
        let mut parts: Vec<Vec<&mut [f32]>> = Vec::new();
        parts.resize_with(outputs.div_ceil(OUTPUTS), || Vec::with_capacity(rows));
        for row in block.chunks_mut(step).take(rows) {
            let pieces = row[..outputs].chunks_mut(OUTPUTS);
            parts.iter_mut().zip(pieces).for_each(|(part, piece)| part.push(piece));
        }
        tasks.extend(parts.into_iter().enumerate().map(|(part, to)| (turned, part * OUTPUTS, to)));
    }
    tasks.into_par_iter().for_each(|(turned, first, mut to)| {
        let outputs = OUTPUTS.min(weight.count() - first);
        let width = to.len().next_multiple_of(LANES);
        let mut sums = [0.0; OUTPUTS * BLOCK];
        let sums = &mut sums[..outputs * width];
        let weight = weight.rows(first, outputs);
        pulp::Arch::new().dispatch(Sums { turned, width, weight, to: &mut *sums });
        for (row, to) in to.iter_mut().enumerate() {
            let sums = sums[row..].iter().step_by(width);
            for (to, sum) in to.iter_mut().zip(sums) {
                *to = if adds { *to + scale * sum } else { scale * sum };
            }
        }
    });
}

/// Columns as rows, block after block: of each block, for every column its numbers in the block's rows, and
/// zeros until there are a multiple of `LANES`.
fn turn(rows: Matrix<'_>) -> Vec<f32> {
    let (count, inner) = (rows.count(), rows.columns());
    let whole = count / BLOCK * BLOCK;
    let width = |first: usize| BLOCK.min((count - first).next_multiple_of(LANES));
    let rest = if whole < count { width(whole) } else { 0 };
    let mut turned = vec![0.0; inner * (whole + rest)];
    let blocks = turned.par_chunks_mut((BLOCK * inner).max(1)).enumerate();
    blocks.for_each(|(block, turned)| {
        let first = block * BLOCK;
        let width = width(first);
        let parts = turned.par_chunks_mut(width * COLUMNS).enumerate();
        parts.for_each(|(part, turned)| {
            for row in 0..BLOCK.min(count - first) {
                let numbers = &rows.row(first + row)[part * COLUMNS..];
                for (turned, number) in turned.chunks_exact_mut(width).zip(numbers) {
                    turned[row] = *number;
                }
            }
        });
    });
    turned
}

/// The sums of one block of rows with some rows of the weight: `width` numbers for each of these.
struct Sums<'a> {
    turned: &'a [f32],
    width: usize,
    weight: Matrix<'a>,
    to: &'a mut [f32],
}

impl pulp::WithSimd for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        let vectors = self.width / S::F32_LANES;
        let (turned, _) = S::as_simd_f32s(self.turned);
        let (to, _) = S::as_mut_simd_f32s(self.to);
        let mut sums = SimdSums { simd, turned, vectors, weight: self.weight, to };
        let (mut first, outputs) = (0, self.weight.count());
        while first < outputs {
            let tile = if first + TILE <= outputs { TILE } else { 1 };
            let mut vector = 0;
            while vector < vectors {
                let most = if S::REGISTER_COUNT >= 32 { 4 } else { 2 };
                let count = most.min(vectors - vector);
                match (tile, count) {
                    (TILE, 4) => sums.tile::<TILE, 4>(first, vector),
                    (TILE, 3) => sums.tile::<TILE, 3>(first, vector),
                    (TILE, 2) => sums.tile::<TILE, 2>(first, vector),
                    (TILE, _) => sums.tile::<TILE, 1>(first, vector),
                    (_, 4) => sums.tile::<1, 4>(first, vector),
                    (_, 3) => sums.tile::<1, 3>(first, vector),
                    (_, 2) => sums.tile::<1, 2>(first, vector),
                    _ => sums.tile::<1, 1>(first, vector),
                }
                vector += count;
            }
            first += tile;
        }
    }
}

/// The same in vectors.
struct SimdSums<'a, S: pulp::Simd> {
    simd: S,
    turned: &'a [S::f32s],
    vectors: usize,
    weight: Matrix<'a>,
    to: &'a mut [S::f32s],
}

impl<S: pulp::Simd> SimdSums<'_, S> {
    /// The sums of `O` rows of the weight with `L` vectors of rows. All sums stay in registers.
    #[inline(always)]
    fn tile<const O: usize, const L: usize>(&mut self, first: usize, vector: usize) {
        let simd = self.simd;
        let weights: [&[f32]; O] = std::array::from_fn(|output| self.weight.row(first + output));
        let mut sums = [[simd.splat_f32s(0.0); L]; O];
        for (column, x) in self.turned.chunks_exact(self.vectors).enumerate() {
            let x: [S::f32s; L] = std::array::from_fn(|number| x[vector + number]);
            for (sums, weights) in sums.iter_mut().zip(&weights) {
                let weight = simd.splat_f32s(weights[column]);
                for (sum, x) in sums.iter_mut().zip(&x) {
                    *sum = simd.mul_add_f32s(weight, *x, *sum);
                }
            }
        }
        for (output, sums) in sums.iter().enumerate() {
            let at = (first + output) * self.vectors + vector;
            self.to[at..at + L].copy_from_slice(sums);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|n| (((n * 7919 + seed * 104_729) % 2000) as f32 - 1000.0) / 500.0).collect()
    }

    fn product(rows: &[f32], weight: &[f32], inner: usize) -> Vec<f32> {
        let (count, outputs) = (rows.len() / inner, weight.len() / inner);
        let mut to = vec![f32::NAN; count * outputs];
        let target = Target { data: &mut to, step: outputs, adds: false };
        let rows = Matrix::new(rows, count, inner, inner);
        multiply_rows(target, rows, Matrix::new(weight, outputs, inner, inner), 1.0);
        to
    }

    /// By the definition: one chain of fused operations a number.
    #[test]
    fn every_number_is_one_chain_whatever_stands_beside_it() {
        for (count, inner, outputs) in [
            (1, 1, 1),
            (3, 7, 5),
            (16, 64, 6),
            (17, 65, 49),
            (63, 3, 96),
            (64, 130, 13),
            (131, 40, 55),
        ] {
            let (rows, weight) = (numbers(count * inner, 1), numbers(outputs * inner, 2));
            let found = product(&rows, &weight, inner);
            for (place, found) in found.iter().enumerate() {
                let row = &rows[place / outputs * inner..][..inner];
                let weight = &weight[place % outputs * inner..][..inner];
                let chain = row.iter().zip(weight).fold(0.0, |sum, (x, w)| w.mul_add(*x, sum));
                assert_eq!(
                    found.to_bits(),
                    f32::to_bits(chain),
                    "{count} {inner} {outputs}: {place}"
                );
            }
            let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
            assert_eq!(pool.install(|| product(&rows, &weight, inner)), found);
            assert_eq!(product(&rows[..inner], &weight, inner), found[..outputs]);
        }
    }

    #[test]
    fn what_is_added_to_and_what_lies_between_the_rows_stays() {
        let (rows, weight) = (numbers(70 * 9, 1), numbers(50 * 9, 2));
        let plain = product(&rows, &weight, 9);
        let mut to = vec![1.0; 69 * 53 + 50];
        let target = Target { data: &mut to, step: 53, adds: true };
        let rows = Matrix::new(&rows, 70, 9, 9);
        Product::RowByRow.with_weight(target, rows, Matrix::new(&weight, 50, 9, 9), 0.5);
        for (row, plain) in plain.chunks(50).enumerate() {
            let row = &to[row * 53..(row * 53 + 53).min(69 * 53 + 50)];
            assert!(row[..50].iter().zip(plain).all(|(to, plain)| *to == 1.0 + 0.5 * plain));
            assert!(row[50..].iter().all(|between| *between == 1.0));
        }
    }

    #[test]
    fn nothing_times_something_is_nothing() {
        assert!(product(&[], &[1.0, 2.0], 2).is_empty() && product(&[1.0, 2.0], &[], 2).is_empty());
        let mut to = [3.0; 4];
        let target = Target { data: &mut to, step: 2, adds: false };
        let (rows, weight) = (Matrix::new(&[], 2, 0, 0), Matrix::new(&[], 2, 0, 0));
        multiply_rows(target, rows, weight, 1.0);
        assert_eq!(to, [0.0; 4]);
    }
}

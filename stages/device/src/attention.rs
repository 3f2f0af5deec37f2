//! Causal attention over sequences that stand one after the other.
//!
//! Scores are never kept: those of some queries and heads at a time are computed, used and forgotten, and
//! computed again in the backward pass. How many are taken together depends on the sequence alone, so that
//! what it gets does not depend on what stands beside it.

use std::ops::Range;

use crate::array::{DeviceArray, Kind};
use crate::device::Device;
use crate::kernel::{Kernel, THREADS};
use crate::product::{Batch, Matrix, MatrixMut, multiply_batch};

/// Where queries, keys and values lie in the rows that attention reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLayout {
    /// Heads of queries.
    pub queries: usize,
    /// Heads of keys and values; each serves `queries / pairs` heads of queries.
    pub pairs: usize,
    /// Width of a head.
    pub width: usize,
    /// Numbers from one token to the next.
    pub row: usize,
    /// Whether the three of a head stand together (BLOOM, GPT-NeoX), or all queries before all keys
    /// before all values (LLaMA).
    pub interleaved: bool,
}

impl HeadLayout {
    /// Where a head's queries, keys and values begin in a row.
    pub fn places(&self, head: usize) -> [usize; 3] {
        if self.interleaved {
            return [0, 1, 2].map(|part| (3 * head + part) * self.width);
        }
        let pair = head / self.each();
        let keys = self.queries * self.width;
        let values = keys + self.pairs * self.width;
        [head * self.width, keys + pair * self.width, values + pair * self.width]
    }

    /// Heads of queries that share a head of keys.
    pub(crate) fn each(&self) -> usize {
        self.queries / self.pairs
    }

    /// From a head to the next in a row: of queries as of keys and values.
    pub(crate) fn head_step(&self) -> usize {
        if self.interleaved { 3 * self.width } else { self.width }
    }

    /// Numbers a token of what comes out.
    pub(crate) fn wide(&self) -> usize {
        self.queries * self.width
    }

    pub(crate) fn scale(&self) -> f32 {
        (self.width as f32).sqrt().recip()
    }

    /// The tokens of rows.
    ///
    /// # Panics
    /// When rows are not whole, or heads do not fit into them.
    pub(crate) fn tokens(&self, rows: &DeviceArray) -> usize {
        let three = (self.queries + 2 * self.pairs) * self.width;
        assert!(self.pairs > 0 && self.queries.is_multiple_of(self.pairs), "heads that share keys");
        assert!(!self.interleaved || self.queries == self.pairs, "three of each head");
        assert!(three <= self.row && rows.len().is_multiple_of(self.row), "heads in rows");
        rows.len() / self.row
    }
}

/// How much is computed at once.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Queries. Those at the end of a tile see more keys than those at its start: the smaller it is, the less is
    /// computed in vain.
    queries: usize,
    scores: usize,
}

const LIMITS: Limits = Limits { queries: 512, scores: 64 << 20 };

/// Some queries of a sequence, and some heads of keys.
#[derive(Debug, Clone)]
struct Tile {
    first: usize,
    count: usize,
    /// Keys that the last query sees.
    seen: usize,
    /// From one query's scores to the next one's.
    step: usize,
    pairs: Range<usize>,
}

/// Rows of scores begin at multiples of 16 bytes: a GPU multiplies others far more slowly.
const ALIGNMENT: usize = 8;

/// Keys and values that a sequence attends to: a row for each token, in heads of their own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sources<'a> {
    pub(crate) keys: &'a DeviceArray,
    pub(crate) values: &'a DeviceArray,
    /// Where the first head's begin.
    pub(crate) first: [usize; 2],
    /// From one token to the next.
    pub(crate) step: usize,
    /// From one head to the next.
    pub(crate) head_step: usize,
    /// How many tokens.
    pub(crate) count: usize,
}

/// A sequence that attends.
#[derive(Debug, Clone)]
pub(crate) struct Sequence<'a> {
    pub(crate) layout: HeadLayout,
    pub(crate) rows: &'a DeviceArray,
    /// Its queries among the rows. Their keys are the last ones.
    pub(crate) range: Range<usize>,
    pub(crate) sources: Sources<'a>,
    /// ALiBi's.
    pub(crate) slopes: Option<&'a DeviceArray>,
}

impl<'a> Sequence<'a> {
    /// One that attends to itself.
    fn within(
        rows: &'a DeviceArray,
        layout: HeadLayout,
        range: Range<usize>,
        slopes: Option<&'a DeviceArray>,
    ) -> Sequence<'a> {
        let [_, keys, values] = layout.places(0).map(|place| range.start * layout.row + place);
        let sources = Sources {
            keys: rows,
            values: rows,
            first: [keys, values],
            step: layout.row,
            head_step: layout.head_step(),
            count: range.len(),
        };
        Sequence { layout, rows, range, sources, slopes }
    }

    /// Keys before those of the first query.
    fn past(&self) -> usize {
        self.sources.count - self.range.len()
    }

    fn device(&self) -> &'a Device {
        self.rows.device()
    }

    fn tiles(&self, limits: Limits) -> impl Iterator<Item = Tile> {
        let HeadLayout { pairs, .. } = self.layout;
        let (count, past, each) = (self.range.len(), self.past(), self.layout.each());
        let most = (limits.scores / (each * self.sources.count).max(1)).clamp(1, limits.queries);
        (0..count).step_by(most).flat_map(move |first| {
            let count = most.min(count - first);
            let seen = past + first + count;
            let step = seen.next_multiple_of(ALIGNMENT);
            let together = (limits.scores / (each * count * step)).clamp(1, pairs);
            (0..pairs).step_by(together).map(move |pair| {
                let pairs = pair..(pair + together).min(pairs);
                Tile { first, count, seen, step, pairs }
            })
        })
    }

    /// The queries of a tile's heads that are `place`s in their groups, and how far the next group's are.
    fn queries(&self, tile: &Tile, place: usize) -> (Matrix<'a>, usize) {
        let HeadLayout { width, row, .. } = self.layout;
        let head = tile.pairs.start * self.layout.each() + place;
        let first = (self.range.start + tile.first) * row + self.layout.places(head)[0];
        let queries = Matrix::new(self.rows, first, tile.count, width, row);
        (queries, self.layout.each() * self.layout.head_step())
    }

    fn keys(&self, tile: &Tile) -> Matrix<'a> {
        let first = self.sources.first[0] + tile.pairs.start * self.sources.head_step;
        Matrix::new(self.sources.keys, first, tile.seen, self.layout.width, self.sources.step)
    }

    fn values(&self, tile: &Tile) -> Matrix<'a> {
        let first = self.sources.first[1] + tile.pairs.start * self.sources.head_step;
        Matrix::new(self.sources.values, first, tile.seen, self.layout.width, self.sources.step)
    }

    /// Where what a tile's queries get begins among all that comes out.
    fn out(&self, tile: &Tile, place: usize) -> usize {
        let head = tile.pairs.start * self.layout.each() + place;
        (self.range.start + tile.first) * self.layout.wide() + head * self.layout.width
    }

    /// How much each query attends to each key: `softmax(q k^T / sqrt(width) + bias)`, for each head `count`
    /// rows of `seen` numbers, `step` apart.
    fn shares(&self, tile: &Tile) -> DeviceArray {
        let Tile { count, seen, step, .. } = *tile;
        let each = self.layout.each();
        let heads = tile.pairs.len() * each;
        let mut scores = DeviceArray::uninitialized(self.device(), Kind::F32, heads * count * step);
        for place in 0..each {
            let (queries, left) = self.queries(tile, place);
            let to = MatrixMut::new(&mut scores, place * count * step, count, seen, step);
            let right = self.sources.head_step;
            let batch = Batch { count: tile.pairs.len(), to: each * count * step, left, right };
            let keys = self.keys(tile).transposed();
            multiply_batch(to, queries, keys, self.layout.scale(), false, batch);
        }
        let kind = self.rows.kind();
        let apart = (kind != Kind::F32)
            .then(|| DeviceArray::uninitialized(self.device(), kind, scores.len()));
        let kernel = Kernel::of("attention_shares", &[kind]);
        let kernel = kernel.array(apart.as_ref().unwrap_or(&scores)).array(&scores);
        let kernel = match self.slopes {
            Some(slopes) => kernel.part(slopes, tile.pairs.start * each),
            None => kernel.maybe(None),
        };
        self.start(kernel.u32(count).u32(seen), tile);
        apart.unwrap_or(scores)
    }

    /// Starts a kernel that does a row of scores with each warp.
    fn start(&self, kernel: Kernel, tile: &Tile) {
        let kernel = kernel.u32(tile.step).u32(self.past() + tile.first);
        let blocks = tile.count.div_ceil(THREADS as usize / 32);
        kernel.blocks(self.device(), blocks, tile.pairs.len() * self.layout.each());
    }

    /// Writes what the queries get.
    pub(crate) fn forward(&self, out: &mut DeviceArray) {
        self.forward_within(out, LIMITS);
    }

    fn forward_within(&self, out: &mut DeviceArray, limits: Limits) {
        let HeadLayout { width, .. } = self.layout;
        let (each, wide) = (self.layout.each(), self.layout.wide());
        for tile in self.tiles(limits) {
            let Tile { count, seen, step, .. } = tile;
            let shares = self.shares(&tile);
            for place in 0..each {
                let to = MatrixMut::new(out, self.out(&tile, place), count, width, wide);
                let left = Matrix::new(&shares, place * count * step, count, seen, step);
                let batch = Batch {
                    count: tile.pairs.len(),
                    to: each * width,
                    left: each * count * step,
                    right: self.sources.head_step,
                };
                multiply_batch(to, left, self.values(&tile), 1.0, false, batch);
            }
        }
    }

    /// Writes the gradients of the sequence's queries into its rows, given that of what came out, and adds those
    /// of its keys and values to their sums.
    fn backward_within(
        &self,
        d_out: &DeviceArray,
        d_rows: &mut DeviceArray,
        [d_keys, d_values]: &mut [DeviceArray; 2],
        limits: Limits,
    ) {
        let HeadLayout { pairs, width, row, .. } = self.layout;
        let (each, wide) = (self.layout.each(), self.layout.wide());
        let (scale, right) = (self.layout.scale(), self.sources.head_step);
        for tile in self.tiles(limits) {
            let Tile { first, count, seen, step, .. } = tile;
            let of_head = |place: usize| place * count * step;
            let shares = self.shares(&tile);
            let mut d_shares = DeviceArray::uninitialized(self.device(), Kind::F32, shares.len());
            let together = tile.pairs.len();
            // From pair to pair among scores, in what came out, and among the sums.
            let (of_scores, of_out, of_sums) = (each * count * step, each * width, width);
            let (sums_at, sums_step) =
                ((self.range.start * pairs + tile.pairs.start) * width, pairs * width);
            for place in 0..each {
                let d = Matrix::new(d_out, self.out(&tile, place), count, width, wide);
                let to = MatrixMut::new(&mut d_shares, of_head(place), count, seen, step);
                let batch = Batch { count: together, to: of_scores, left: of_out, right };
                multiply_batch(to, d, self.values(&tile).transposed(), 1.0, false, batch);
                let shares = Matrix::new(&shares, of_head(place), count, seen, step).transposed();
                let to = MatrixMut::new(d_values, sums_at, seen, width, sums_step);
                let batch = Batch { count: together, to: of_sums, left: of_scores, right: of_out };
                multiply_batch(to, shares, d, 1.0, true, batch);
            }
            let kernel = Kernel::of("attention_shares_backward", &[shares.kind()]);
            self.start(kernel.array(&shares).array(&d_shares).u32(count), &tile);
            let d_scores = shares;
            for place in 0..each {
                let (queries, of_queries) = self.queries(&tile, place);
                let d = Matrix::new(&d_scores, of_head(place), count, seen, step);
                let head = tile.pairs.start * each + place;
                let at = (self.range.start + first) * row + self.layout.places(head)[0];
                let to = MatrixMut::new(d_rows, at, count, width, row);
                let batch = Batch { count: together, to: of_queries, left: of_scores, right };
                multiply_batch(to, d, self.keys(&tile), scale, false, batch);
                let to = MatrixMut::new(d_keys, sums_at, seen, width, sums_step);
                let batch =
                    Batch { count: together, to: of_sums, left: of_scores, right: of_queries };
                multiply_batch(to, d.transposed(), queries, scale, true, batch);
            }
        }
    }
}

pub(crate) fn check_ranges(ranges: &[Range<usize>], tokens: usize) {
    let mut end = 0;
    for range in ranges {
        assert!(range.start == end && range.end >= end, "sequences one after the other");
        end = range.end;
    }
    assert_eq!(end, tokens, "sequences of all tokens");
}

pub(crate) fn check_slopes(slopes: Option<&DeviceArray>, layout: HeadLayout) {
    if let Some(slopes) = slopes {
        assert_eq!((slopes.kind(), slopes.len()), (Kind::F32, layout.queries), "a slope a head");
    }
}

/// Attention of every token to those before it in its sequence, and to itself. With slopes, one a head, a
/// score falls with the distance (ALiBi).
///
/// # Shapes
/// `rows`: `[T, layout.row]`, with queries, keys and values; `ranges`: the sequences, one after the other; what
/// comes out: `[T, queries * width]`.
///
/// # Panics
/// When sizes or kinds do not match.
#[must_use]
pub fn attention(
    rows: &DeviceArray,
    layout: HeadLayout,
    ranges: &[Range<usize>],
    slopes: Option<&DeviceArray>,
) -> DeviceArray {
    attention_within(rows, layout, ranges, slopes, LIMITS)
}

fn attention_within(
    rows: &DeviceArray,
    layout: HeadLayout,
    ranges: &[Range<usize>],
    slopes: Option<&DeviceArray>,
    limits: Limits,
) -> DeviceArray {
    let tokens = layout.tokens(rows);
    check_ranges(ranges, tokens);
    check_slopes(slopes, layout);
    let mut out = DeviceArray::uninitialized(rows.device(), rows.kind(), tokens * layout.wide());
    for range in ranges.iter().filter(|range| !range.is_empty()) {
        let sequence = Sequence::within(rows, layout, range.clone(), slopes);
        sequence.forward_within(&mut out, limits);
    }
    out
}

/// The gradient of the rows, given that of what [`attention`] made of them.
///
/// # Shapes
/// `d_out`: `[T, queries * width]`; what comes out: `[T, layout.row]`, 0 where rows hold no heads.
///
/// # Panics
/// When sizes or kinds do not match.
#[must_use]
pub fn attention_backward(
    rows: &DeviceArray,
    layout: HeadLayout,
    ranges: &[Range<usize>],
    slopes: Option<&DeviceArray>,
    d_out: &DeviceArray,
) -> DeviceArray {
    attention_backward_within(rows, layout, ranges, slopes, d_out, LIMITS)
}

fn attention_backward_within(
    rows: &DeviceArray,
    layout: HeadLayout,
    ranges: &[Range<usize>],
    slopes: Option<&DeviceArray>,
    d_out: &DeviceArray,
    limits: Limits,
) -> DeviceArray {
    let tokens = layout.tokens(rows);
    check_ranges(ranges, tokens);
    check_slopes(slopes, layout);
    let out = (d_out.kind(), d_out.len());
    assert_eq!(out, (rows.kind(), tokens * layout.wide()), "the gradient of what came out");
    let HeadLayout { pairs, width, row, .. } = layout;
    let mut d_rows = DeviceArray::zeros(rows.device(), rows.kind(), rows.len());
    // Those of keys and values are sums over queries: in single precision, whatever the rows are.
    let zeros = || DeviceArray::zeros(rows.device(), Kind::F32, tokens * pairs * width);
    let mut sums = [zeros(), zeros()]; // [T, pairs, width] each
    for range in ranges.iter().filter(|range| !range.is_empty()) {
        let sequence = Sequence::within(rows, layout, range.clone(), slopes);
        sequence.backward_within(d_out, &mut d_rows, &mut sums, limits);
    }
    let [_, keys, values] = layout.places(0);
    for (place, sums) in [keys, values].into_iter().zip(&sums) {
        if tokens > 0 {
            let kernel = Kernel::of("heads_to_rows", &[rows.kind()]).part(&d_rows, place);
            let kernel = kernel.size(row).size(layout.head_step()).array(sums).size(tokens);
            kernel.u32(pairs).u32(width).columns(rows.device(), pairs * width, tokens);
        }
    }
    d_rows
}

#[cfg(all(test, feature = "emulated"))]
mod tests {
    use super::*;

    /// Whatever is computed at once, the result is the same but for rounding.
    #[test]
    fn limits_change_no_numbers() {
        let device = Device::emulated(1 << 28);
        let layout = HeadLayout { queries: 6, pairs: 3, width: 5, row: 63, interleaved: false };
        let wave = |count: usize, step: f32| -> Vec<f32> {
            (0..count).map(|n| (n as f32 * step).sin()).collect()
        };
        let rows = DeviceArray::new(&device, Kind::F32, &wave(50 * 63, 0.37));
        let d_out = DeviceArray::new(&device, Kind::F32, &wave(50 * 30, 0.71));
        let slopes = DeviceArray::new(&device, Kind::F32, &[0.3, 0.1, 0.0, 0.2, 0.5, 0.4]);
        let run = |limits: Limits| {
            let ranges = [0..41, 41..41, 41..50];
            let out = attention_within(&rows, layout, &ranges, Some(&slopes), limits);
            let d =
                attention_backward_within(&rows, layout, &ranges, Some(&slopes), &d_out, limits);
            [out.read(), d.read()].concat()
        };
        let whole = run(LIMITS);
        for (queries, scores) in [(7, 1 << 20), (512, 1 << 10), (16, 900), (1, 1)] {
            for (part, whole) in run(Limits { queries, scores }).iter().zip(&whole) {
                assert!((part - whole).abs() < 1e-5, "{queries} {scores}: {part} {whole}");
            }
        }
    }
}

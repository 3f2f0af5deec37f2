//! Causal attention over sequences that stand one after the other.
//!
//! Scores are never kept: a tile of queries at a time is computed, used and forgotten, and computed again in
//! the backward pass. One task of the pool computes one head of keys and values, with all heads of
//! queries that share it, of one sequence. Keys and values are those of the same tokens, or those that
//! a cache holds of these and of all before them.

use rayon::prelude::*;

use crate::functions::{exp, largest, sum_of, wide};
use crate::kv_cache::HostLayer;
use crate::layers::add;
use crate::matrix::{Matrix, Target, Threads, multiply};
use crate::single_query::SingleQuery;

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
        self.positions_after(std::iter::repeat(0))
    }

    /// The place of each token in its sequence, of which so many tokens came before those here.
    pub(crate) fn positions_after(&self, past: impl IntoIterator<Item = usize>) -> Vec<usize> {
        let ranges = self.ranges().zip(past);
        ranges.flat_map(|(range, past)| past..past + range.len()).collect()
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
    pub(crate) fn places(&self, head: usize) -> [usize; 3] {
        if self.interleaved {
            return [0, 1, 2].map(|part| (3 * head + part) * self.width);
        }
        let pair = head / (self.queries / self.pairs);
        let keys = self.queries * self.width;
        let values = keys + self.pairs * self.width;
        [head * self.width, keys + pair * self.width, values + pair * self.width]
    }
}

/// Queries that are looked at together. Those at the end of a tile see more keys than those at its
/// start: the smaller it is, the less is computed in vain.
const TILE: usize = 64;

/// One head of one sequence: what it reads, in rows of its own.
struct Head<'a> {
    queries: Matrix<'a>,
    keys: Matrix<'a>,
    values: Matrix<'a>,
    /// Keys that stand before those of the first query.
    past: usize,
    /// ALiBi's.
    slope: Option<f32>,
}

impl Head<'_> {
    fn scale(&self) -> f32 {
        (self.queries.columns() as f32).sqrt().recip()
    }

    /// How much each query of a tile attends to each key that the last of them sees:
    /// `softmax(q k^T / sqrt(width) + bias)`.
    fn shares(&self, tile: Tile) -> Vec<f32> {
        let mut shares = vec![0.0; tile.count * tile.seen];
        let to = Target { data: &mut shares, step: tile.seen, adds: false };
        let keys = self.keys.rows(0, tile.seen).transposed();
        let queries = self.queries.rows(tile.first, tile.count);
        multiply(to, queries, keys, self.scale(), Threads::One);
        for (row, shares) in shares.chunks_exact_mut(tile.seen).enumerate() {
            let query = self.past + tile.first + row;
            let (seen, hidden) = shares.split_at_mut(query + 1);
            hidden.fill(0.0);
            if let Some(slope) = self.slope {
                for (key, score) in seen.iter_mut().enumerate() {
                    *score -= slope * (query - key) as f32;
                }
            }
            wide!(softmax(seen));
        }
        shares
    }

    fn tiles(&self) -> impl Iterator<Item = Tile> {
        let (count, past) = (self.queries.count(), self.past);
        (0..count).step_by(TILE).map(move |first| {
            let count = TILE.min(count - first);
            Tile { first, count, seen: past + first + count }
        })
    }

    /// Adds what the queries get.
    fn forward(&self, to: &mut [f32], step: usize) {
        if self.queries.count() == 1 {
            return pulp::Arch::new().dispatch(SingleQuery {
                query: self.queries.row(0),
                keys: self.keys,
                values: self.values,
                scale: self.scale(),
                slope: self.slope,
                to: &mut to[..self.values.columns()],
            });
        }
        for tile in self.tiles() {
            let shares = self.shares(tile);
            let shares = Matrix::new(&shares, tile.count, tile.seen, tile.seen);
            let data = &mut to[tile.first * step..];
            let values = self.values.rows(0, tile.seen);
            multiply(Target { data, step, adds: true }, shares, values, 1.0, Threads::One);
        }
    }

    /// Adds the gradients of queries, keys and values, given that of what came out.
    fn backward(&self, d_out: Matrix<'_>, d: [&mut [f32]; 3], step: usize) {
        let [d_queries, d_keys, d_values] = d;
        for tile in self.tiles() {
            let mut shares = self.shares(tile);
            let mut d_shares = vec![0.0; tile.count * tile.seen];
            let d_out = d_out.rows(tile.first, tile.count);
            let values = self.values.rows(0, tile.seen).transposed();
            let to = Target { data: &mut d_shares, step: tile.seen, adds: false };
            multiply(to, d_out, values, 1.0, Threads::One);
            let to = Target { data: &mut *d_values, step, adds: true };
            let matrix = Matrix::new(&shares, tile.count, tile.seen, tile.seen);
            multiply(to, matrix.transposed(), d_out, 1.0, Threads::One);
            // From shares to scores: share * (its gradient - the mean of all, by share).
            let rows = shares.chunks_exact_mut(tile.seen).zip(d_shares.chunks_exact(tile.seen));
            for (shares, d_shares) in rows {
                wide!({
                    let product = |share, d| f64::from(share) * f64::from(d);
                    let mean = sum_of(shares, d_shares, product) as f32;
                    for (share, d) in shares.iter_mut().zip(d_shares) {
                        *share *= d - mean;
                    }
                });
            }
            let d_scores = Matrix::new(&shares, tile.count, tile.seen, tile.seen);
            let to = Target { data: &mut d_queries[tile.first * step..], step, adds: true };
            multiply(to, d_scores, self.keys.rows(0, tile.seen), self.scale(), Threads::One);
            let to = Target { data: &mut *d_keys, step, adds: true };
            let queries = self.queries.rows(tile.first, tile.count);
            multiply(to, d_scores.transposed(), queries, self.scale(), Threads::One);
        }
    }
}

/// Some queries of a sequence, and how many keys the last of them sees.
#[derive(Debug, Clone, Copy)]
struct Tile {
    first: usize,
    count: usize,
    seen: usize,
}

/// Shares that add up to 1, by the exponential of each number.
#[inline(always)]
pub(crate) fn softmax(numbers: &mut [f32]) {
    let most = largest(numbers);
    numbers.iter_mut().for_each(|number| *number = exp(*number - most));
    let share = (1.0 / sum_of(numbers, numbers, |x, _| f64::from(x))) as f32;
    numbers.iter_mut().for_each(|number| *number *= share);
}

/// Attention of every token to those before it in its sequence and to itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attention<'a> {
    pub(crate) heads: Heads,
    /// ALiBi's, one a head, if positions are told that way.
    pub(crate) slopes: Option<&'a [f32]>,
}

impl Attention<'_> {
    /// Numbers a token of what comes out.
    fn wide(&self) -> usize {
        self.heads.queries * self.heads.width
    }

    /// The tasks: each sequence, by its number and its range, with each head of keys.
    fn tasks(&self, sequences: &Sequences) -> Vec<(usize, std::ops::Range<usize>, usize)> {
        let pairs = self.heads.pairs;
        let all = sequences.ranges().enumerate().filter(|(_, range)| !range.is_empty());
        all.flat_map(|(number, range)| (0..pairs).map(move |pair| (number, range.clone(), pair)))
            .collect()
    }

    /// The heads of queries that share a head of keys.
    fn sharing(&self, pair: usize) -> std::ops::Range<usize> {
        let each = self.heads.queries / self.heads.pairs;
        pair * each..(pair + 1) * each
    }

    /// A head of one sequence, of which `rows` hold `count` tokens, and a cache perhaps these and those
    /// before them.
    fn head<'a>(
        &self,
        rows: &'a [f32],
        count: usize,
        head: usize,
        cache: Option<&'a HostLayer>,
    ) -> Head<'a> {
        let Heads { width, row, .. } = self.heads;
        let places = self.heads.places(head);
        let [queries, keys, values] = places.map(|at| Matrix::new(&rows[at..], count, width, row));
        let slope = self.slopes.map(|slopes| slopes[head]);
        let Some(cache) = cache else { return Head { queries, keys, values, past: 0, slope } };
        let [keys, values] = cache.head(head / (self.heads.queries / self.heads.pairs));
        Head { queries, keys, values, past: cache.len() - count, slope }
    }

    /// `rows` hold queries, keys and values; what comes out has `queries * width` numbers a token. With
    /// caches, one a sequence, keys and values are theirs, which end with those of `rows`.
    pub(crate) fn forward(
        &self,
        rows: &[f32],
        sequences: &Sequences,
        caches: Option<&[&mut HostLayer]>,
    ) -> Vec<f32> {
        let Heads { width, row, .. } = self.heads;
        let tasks = self.tasks(sequences);
        let parts: Vec<Vec<f32>> = tasks
            .par_iter()
            .map(|(number, range, pair)| {
                let rows = &rows[range.start * row..range.end * row];
                let cache = caches.map(|caches| &*caches[*number]);
                let sharing = self.sharing(*pair);
                let step = sharing.len() * width;
                let mut part = vec![0.0; range.len() * step];
                for (place, head) in sharing.enumerate() {
                    let head = self.head(rows, range.len(), head, cache);
                    head.forward(&mut part[place * width..], step);
                }
                part
            })
            .collect();
        let mut to = vec![0.0; sequences.tokens.len() * self.wide()];
        for ((_, range, pair), part) in tasks.into_iter().zip(parts) {
            let sharing = self.sharing(pair);
            let step = sharing.len() * width;
            let rows = to.chunks_exact_mut(self.wide()).skip(range.start);
            for (to, from) in rows.zip(part.chunks_exact(step)) {
                to[sharing.start * width..][..step].copy_from_slice(from);
            }
        }
        to
    }

    /// The gradient of `rows`, given that of what came out.
    pub(crate) fn backward(&self, rows: &[f32], sequences: &Sequences, d_out: &[f32]) -> Vec<f32> {
        let Heads { width, row, .. } = self.heads;
        let tasks = self.tasks(sequences);
        // Of a task: the gradients of its queries head by head, and of its keys and values.
        let parts: Vec<Vec<f32>> = tasks
            .par_iter()
            .map(|(_, range, pair)| {
                let rows = &rows[range.start * row..range.end * row];
                let block = range.len() * width;
                let sharing = self.sharing(*pair);
                let mut part = vec![0.0; (sharing.len() + 2) * block];
                let (pairs, queries) = part.split_at_mut(2 * block);
                let (keys, values) = pairs.split_at_mut(block);
                for (head, queries) in sharing.zip(queries.chunks_exact_mut(block)) {
                    let at = range.start * self.wide() + head * width;
                    let d_out = Matrix::new(&d_out[at..], range.len(), width, self.wide());
                    let parts = [queries, &mut *keys, &mut *values];
                    self.head(rows, range.len(), head, None).backward(d_out, parts, width);
                }
                part
            })
            .collect();
        let mut to = vec![0.0; rows.len()];
        for ((_, range, pair), part) in tasks.into_iter().zip(parts) {
            let mut blocks = part.chunks_exact(range.len() * width);
            let sharing = self.sharing(pair);
            let [_, keys, values] = self.heads.places(sharing.start);
            let queries = sharing.map(|head| self.heads.places(head)[0]);
            for place in [keys, values].into_iter().chain(queries) {
                let block = blocks.next().into_iter().flat_map(|block| block.chunks_exact(width));
                let rows = to.chunks_exact_mut(row).skip(range.start);
                for (to, from) in rows.zip(block) {
                    add(&mut to[place..place + width], from);
                }
            }
        }
        to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_know_their_places() {
        let batch = Sequences::new(&[&[5, 6, 7][..], &[], &[8]]);
        assert_eq!(batch.positions(), [0, 1, 2, 0]);
        assert_eq!(batch.positions_after([3, 9, 1]), [3, 4, 5, 1]);
        assert_eq!(batch.ranges().collect::<Vec<_>>(), [0..3, 3..3, 3..4]);
    }

    #[test]
    fn a_token_attends_to_itself_and_to_what_came_before() {
        // One head of width 1: with equal scores the result is the mean of the values so far.
        let heads = Heads { queries: 1, pairs: 1, width: 1, row: 3, interleaved: true };
        let rows = [0.0, 1.0, 4.0, 0.0, 1.0, 8.0, 0.0, 1.0, 1.0];
        let two = Sequences::new(&[&[0, 0][..], &[0]]);
        let attention = Attention { heads, slopes: None };
        assert_eq!(attention.forward(&rows, &two, None), [4.0, 6.0, 1.0]);
    }

    /// The gradient by central differences, over several tiles and heads that share keys.
    #[test]
    fn gradients_are_those_of_differences() {
        let heads = Heads { queries: 4, pairs: 2, width: 3, row: 24, interleaved: false };
        let slopes = [0.3, 0.1, 0.0, 0.2];
        let attention = Attention { heads, slopes: Some(&slopes) };
        let (long, short) = (vec![0; TILE + 9], vec![0; 2]);
        let sequences = Sequences::new(&[long, vec![], short]);
        let wave = |count: usize, step: f32| -> Vec<f32> {
            (0..count).map(|n| (n as f32 * step).sin()).collect()
        };
        let rows = wave(sequences.tokens().len() * 24, 0.37);
        let weights = wave(sequences.tokens().len() * 12, 0.71);
        let loss = |rows: &[f32]| -> f64 {
            let out = attention.forward(rows, &sequences, None);
            out.iter().zip(&weights).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum()
        };
        let gradient = attention.backward(&rows, &sequences, &weights);
        for place in (0..rows.len()).step_by(41) {
            let moved = |by: f32| {
                let mut rows = rows.clone();
                rows[place] += by;
                loss(&rows)
            };
            let expected = (moved(0.01) - moved(-0.01)) / 0.02;
            let found = f64::from(gradient[place]);
            assert!((found - expected).abs() < 2e-3, "{place}: {found} {expected}");
        }
    }
}

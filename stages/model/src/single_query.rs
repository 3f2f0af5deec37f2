//! Attention of one query, as in every step of generation: a product of matrices would have more to prepare
//! than to compute.

use crate::attention::softmax;
use crate::functions::LANES;
use crate::matrix::Matrix;

/// A query of one head, and all that it sees.
pub(crate) struct SingleQuery<'a> {
    pub(crate) query: &'a [f32],
    pub(crate) keys: Matrix<'a>,
    pub(crate) values: Matrix<'a>,
    /// What scores are multiplied with.
    pub(crate) scale: f32,
    /// ALiBi's.
    pub(crate) slope: Option<f32>,
    /// What it gets is added here.
    pub(crate) to: &'a mut [f32],
}

/// Keys that are looked at together.
const KEYS: usize = 4;

impl pulp::WithSimd for SingleQuery<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        let SingleQuery { query, keys, values, scale, slope, to } = self;
        let count = keys.count();
        let mut shares = vec![0.0; count];
        let mut fours = shares.chunks_exact_mut(KEYS);
        let mut first = 0;
        for shares in &mut fours {
            let keys = std::array::from_fn(|key| keys.row(first + key));
            shares.copy_from_slice(&scores::<S, KEYS>(simd, query, keys));
            first += KEYS;
        }
        for share in fours.into_remainder() {
            [*share] = scores(simd, query, [keys.row(first)]);
            first += 1;
        }
        shares.iter_mut().for_each(|share| *share *= scale);
        if let Some(slope) = slope {
            for (key, share) in shares.iter_mut().enumerate() {
                *share -= slope * (count - 1 - key) as f32;
            }
        }
        softmax(&mut shares);
        add_weighted(to, &shares, |key| values.row(key));
    }
}

/// The scalar products of a query with keys. Each is sixteen sums side by side, which are added up by
/// halves, and what is left over: the same in registers of any width.
#[inline(always)]
fn scores<S: pulp::Simd, const K: usize>(simd: S, query: &[f32], keys: [&[f32]; K]) -> [f32; K] {
    let whole = query.len() / LANES * LANES;
    let vectors = LANES / S::F32_LANES;
    let (query, rest) = query.split_at(whole);
    let (query, _) = S::as_simd_f32s(query);
    let mut sums = [[simd.splat_f32s(0.0); LANES]; K];
    for (key, sums) in keys.iter().zip(&mut sums) {
        let (key, _) = S::as_simd_f32s(&key[..whole]);
        for (query, key) in query.chunks_exact(vectors).zip(key.chunks_exact(vectors)) {
            for (vector, sum) in sums[..vectors].iter_mut().enumerate() {
                *sum = simd.mul_add_f32s(query[vector], key[vector], *sum);
            }
        }
    }
    std::array::from_fn(|key| {
        let mut half = vectors / 2;
        while half > 0 {
            for vector in 0..half {
                sums[key][vector] = simd.add_f32s(sums[key][vector], sums[key][vector + half]);
            }
            half /= 2;
        }
        let rest = rest.iter().zip(&keys[key][whole..]);
        let rest = rest.fold(0.0, |sum, (x, y): (&f32, &f32)| x.mul_add(*y, sum));
        simd.reduce_sum_f32s(sums[key][0]) + rest
    })
}

/// Adds the sum of rows, each times its weight.
#[inline(always)]
fn add_weighted<'a>(to: &mut [f32], weights: &[f32], row: impl Fn(usize) -> &'a [f32]) {
    let mut first = 0;
    let mut parts = to.chunks_exact_mut(4 * LANES);
    for part in &mut parts {
        add_weighted_part::<{ 4 * LANES }>(part, weights, |number| &row(number)[first..]);
        first += 4 * LANES;
    }
    let mut parts = parts.into_remainder().chunks_exact_mut(LANES);
    for part in &mut parts {
        add_weighted_part::<LANES>(part, weights, |number| &row(number)[first..]);
        first += LANES;
    }
    for to in parts.into_remainder() {
        add_weighted_part::<1>(std::slice::from_mut(to), weights, |number| &row(number)[first..]);
        first += 1;
    }
}

/// The sums of so many columns stay in registers.
#[inline(always)]
fn add_weighted_part<'a, const N: usize>(
    to: &mut [f32],
    weights: &[f32],
    row: impl Fn(usize) -> &'a [f32],
) {
    let mut sums = [0f32; N];
    for (number, weight) in weights.iter().enumerate() {
        let row = &row(number)[..N];
        for lane in 0..N {
            sums[lane] = weight.mul_add(row[lane], sums[lane]);
        }
    }
    to.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, step: f32) -> Vec<f32> {
        (0..count).map(|n| (n as f32 * step).sin()).collect()
    }

    /// By the definition, in double precision; and the same to the last bit in narrower registers.
    #[test]
    fn a_query_gets_the_mean_of_values_by_their_shares() {
        for (width, count, slope) in
            [(1, 1, None), (6, 9, None), (16, 4, Some(0.3)), (64, 131, None), (83, 50, Some(0.01))]
        {
            let (query, keys) = (numbers(width, 1.1), numbers(count * width, 0.37));
            let values = numbers(count * width, 0.71);
            let attend = |run: &dyn Fn(SingleQuery<'_>)| {
                let mut to = vec![3.0; width];
                run(SingleQuery {
                    query: &query,
                    keys: Matrix::new(&keys, count, width, width),
                    values: Matrix::new(&values, count, width, width),
                    scale: 0.5,
                    slope,
                    to: &mut to,
                });
                to
            };
            let found = attend(&|of| pulp::Arch::new().dispatch(of));
            let scalar = attend(&|of| pulp::Simd::vectorize(pulp::Scalar, of));
            assert_eq!(found, scalar, "{width} {count}");
            #[cfg(target_arch = "x86_64")]
            if let Some(simd) = pulp::x86::V3::try_new() {
                let narrow = attend(&|of| pulp::Simd::vectorize(simd, of));
                assert_eq!(found, narrow, "{width} {count}");
            }
            let score = |key: usize| {
                let pairs = query.iter().zip(&keys[key * width..]);
                let product: f64 = pairs.map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
                (0.5 * product - f64::from(slope.unwrap_or(0.0)) * (count - 1 - key) as f64).exp()
            };
            let sum: f64 = (0..count).map(score).sum();
            for (column, found) in found.iter().enumerate() {
                let value = |key: usize| f64::from(values[key * width + column]);
                let mean: f64 = (0..count).map(|key| score(key) * value(key)).sum::<f64>() / sum;
                assert!((f64::from(*found) - 3.0 - mean).abs() < 2e-6, "{width} {count}: {column}");
            }
        }
    }
}

//! Functions of single numbers that a compiler can compute for many at once, and sums in a fixed order.
//!
//! Nothing here depends on how many are computed at once: the widest registers that a processor has are
//! used, and the results are the same to the last bit with the narrowest.

/// Computes an expression compiled for the widest registers of this processor. The functions that it calls
/// have to be inlined.
macro_rules! wide {
    ($work:expr) => {
        // Without the attribute a large closure is compiled apart, for any processor.
        pulp::Arch::new().dispatch(
            #[inline(always)]
            || $work,
        )
    };
}
pub(crate) use wide;

/// `e^x`, to two units in the last place: `2^n e^r` with `|r|` at most half of `ln 2`, and a polynomial for
/// `e^r` (Moshier, Cephes). Below -87 it stays at the smallest normal number.
#[inline(always)]
#[expect(clippy::excessive_precision, reason = "the digits are those of the source")]
pub(crate) fn exp(x: f32) -> f32 {
    /// Adding it leaves no bits behind the point, and the integer in the lowest ones.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.3, 88.3);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_375 + n * 2.121_944_40e-4;
    let mut power = 1.987_569_15e-4;
    for coefficient in
        [1.398_199_95e-3, 8.333_451_9e-3, 4.166_579_59e-2, 1.666_666_546e-1, 5.000_000_12e-1]
    {
        power = power * r + coefficient;
    }
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    (power * r * r + r + 1.0) * scale
}

/// The hyperbolic tangent, to 1e-7 absolutely.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let decay = exp(-2.0 * x.abs());
    ((1.0 - decay) / (1.0 + decay)).copysign(x)
}

/// The error function, to 3e-7 absolutely: a ratio of polynomials, as in the Eigen library.
#[inline(always)]
#[expect(clippy::excessive_precision, reason = "the digits are those of the source")]
pub(crate) fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let mut above = -2.726_142_258_013_06e-10;
    for coefficient in [
        2.770_681_424_959_02e-8,
        -2.101_024_024_825_08e-6,
        -5.692_506_394_623_46e-5,
        -7.349_906_303_268_55e-4,
        -2.954_599_808_540_25e-3,
        -1.609_603_332_624_15e-2,
    ] {
        above = above * square + coefficient;
    }
    let mut below = -1.456_607_184_649_96e-5;
    for coefficient in [
        -2.133_740_552_789_05e-4,
        -1.682_826_974_382_03e-3,
        -7.373_329_167_204_68e-3,
        -1.426_473_904_951_89e-2,
    ] {
        below = below * square + coefficient;
    }
    x * above / below
}

/// So many sums are taken side by side, and added up at the end: an order that fits every register.
pub(crate) const LANES: usize = 16;

/// The sum of a function of numbers at the same place in two slices of one length, in double precision.
#[inline(always)]
pub(crate) fn sum_of(x: &[f32], y: &[f32], of: impl Fn(f32, f32) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let (xs, ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let rest: f64 = xs.remainder().iter().zip(ys.remainder()).map(|(x, y)| of(*x, *y)).sum();
    for (xs, ys) in xs.zip(ys) {
        for lane in 0..LANES {
            lanes[lane] += of(xs[lane], ys[lane]);
        }
    }
    lanes.iter().sum::<f64>() + rest
}

/// The largest of some numbers.
#[inline(always)]
pub(crate) fn largest(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for chunk in chunks {
        for lane in 0..LANES {
            // Compared, not `max`: that would have to look for NaN.
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    lanes.into_iter().fold(rest, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_close_to_those_of_the_standard_library() {
        for step in -8_800..8_800 {
            let x = step as f32 / 100.0;
            if x > -87.0 {
                let expected = f64::from(x).exp();
                let off = (f64::from(exp(x)) - expected).abs() / expected;
                assert!(off < 2.5e-7, "exp({x}): {} {expected}", exp(x));
            }
            let off = (f64::from(tanh(x / 10.0)) - f64::from(x / 10.0).tanh()).abs();
            assert!(off < 1.5e-7, "tanh({})", x / 10.0);
        }
        assert!(exp(f32::NAN).is_nan() && tanh(f32::NAN).is_nan());
        assert!(exp(-1000.0) < 1.3e-38 && exp(1000.0) > 1e38);
    }

    #[test]
    fn the_error_function_has_its_known_values() {
        for (x, expected) in [
            (0.0, 0.0),
            (0.1, 0.112_462_916_018_284_9),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
            (2.5, 0.999_593_047_982_555),
            (3.0, 0.999_977_909_503_001_4),
            (7.0, 1.0),
        ] {
            assert!((f64::from(erf(x)) - expected).abs() < 3e-7, "{x}: {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
    }

    #[test]
    fn wide_loops_give_what_narrow_ones_give() {
        let x: Vec<f32> = (0..1003).map(|n| (n as f32 - 500.0) / 37.0).collect();
        let mut wide_loop = x.clone();
        wide!(wide_loop.iter_mut().for_each(|x| *x = exp(*x) + erf(*x) + tanh(*x)));
        let narrow: Vec<f32> = x.iter().map(|x| exp(*x) + erf(*x) + tanh(*x)).collect();
        assert_eq!(wide_loop, narrow);
        let square = |x: &[f32]| sum_of(x, x, |x, y| f64::from(x) * f64::from(y));
        assert_eq!(wide!(square(&x)), square(&x));
        assert_eq!(wide!(largest(&x)), 502.0 / 37.0);
    }
}

use okapi_device::adamw::{AdamWStep, adamw, joined, split, sum_of_all_squares, sum_of_squares};
use okapi_device::{DeviceArray, Kind};
use proptest::prelude::*;

use crate::support::{KINDS, array, device, wave};

/// One number's step, as the processor's optimiser computes it.
fn step_of(weight: &mut f32, gradient: f32, mean: &mut f32, square: &mut f32, step: &AdamWStep) {
    let gradient = gradient * step.clip;
    *mean = *mean * step.first + gradient * step.new_first;
    *square = *square * step.second + gradient * gradient * step.new_second;
    *weight = *weight * step.keep - step.size * *mean / (square.sqrt() * step.root + step.epsilon);
}

/// Ten steps with the processor's bits, in single precision and in halves of it.
#[test]
fn steps_have_the_processors_bits() {
    let device = device();
    for size in [0, 1, 33, 1000] {
        let mut weights = wave(size, 0.7);
        let (mut means, mut squares) = (vec![0f32; size], vec![0f32; size]);
        let zeros = || DeviceArray::zeros(&device, Kind::F32, size);
        let mut whole = DeviceArray::new(&device, Kind::F32, &weights);
        let (mut highs, mut lows) = split(&device, &weights);
        let [mut first, mut second, mut other_first, mut other_second] = [(); 4].map(|()| zeros());
        for number in 1..=10 {
            let gradient: Vec<f32> =
                wave(size, 0.1 * number as f64).iter().map(|x| x * 1e-3).collect();
            let step = AdamWStep::new([0.9, 0.999], 1e-8, 0.1, 1e-3, number, 0.37);
            for (place, gradient) in gradient.iter().enumerate() {
                let (mean, square) = (&mut means[place], &mut squares[place]);
                step_of(&mut weights[place], *gradient, mean, square, &step);
            }
            let gradient = DeviceArray::new(&device, Kind::F32, &gradient);
            adamw(&mut whole, None, &gradient, &mut first, &mut second, &step);
            let lows = Some(&mut lows);
            adamw(&mut highs, lows, &gradient, &mut other_first, &mut other_second, &step);
        }
        assert_eq!(whole.read(), weights);
        assert_eq!(joined(&highs, &lows), weights);
        assert_eq!((first.read(), second.read()), (means, squares));
        assert_eq!((other_first.read(), other_second.read()), (first.read(), second.read()));
        // What models compute with is the weight rounded.
        for (high, weight) in highs.read().iter().zip(&weights) {
            assert!((high - weight).abs() <= weight.abs() / 256.0, "{high} {weight}");
        }
    }
}

proptest! {
    #[test]
    fn halves_lose_nothing(bits in prop::collection::vec(any::<u32>(), 1..50)) {
        let device = device();
        let weights: Vec<f32> = bits.iter().map(|bits| f32::from_bits(*bits)).collect();
        let (highs, lows) = split(&device, &weights);
        for ((joined, high), weight) in joined(&highs, &lows).iter().zip(highs.read()).zip(&weights) {
            prop_assert!(joined.to_bits() == weight.to_bits() || joined.is_nan() && weight.is_nan());
            prop_assert_eq!(high.is_nan(), weight.is_nan());
        }
    }
}

/// More weights than are split at once.
#[test]
fn many_weights_are_split_in_parts() {
    let device = device();
    let weights: Vec<f32> =
        (0..(1 << 24) + 5).map(|n| f32::from_bits(0x3f00_0000 + 3 * n)).collect();
    let (highs, lows) = split(&device, &weights);
    assert!(joined(&highs, &lows) == weights);
}

/// A step on the device splits as the processor does, at every place where it could be another.
#[test]
fn a_step_splits_as_the_processor_does() {
    let device = device();
    let weights: Vec<f32> = [
        0x3f80_7fff_u32,
        0x3f80_8000,
        0x3f80_8001,
        0x3f81_8000,
        0xbf80_8000,
        0x7f7f_ffff,
        0,
        1,
        0x8000_0000,
        0x0000_8000,
    ]
    .iter()
    .map(|bits| f32::from_bits(*bits))
    .collect();
    let (mut highs, mut lows) = split(&device, &weights);
    let before = highs.read();
    let zeros = DeviceArray::zeros(&device, Kind::F32, weights.len());
    let (mut first, mut second) = (zeros.copy(), zeros.copy());
    let step = AdamWStep::new([0.9, 0.999], 1e-8, 0.0, 1e-3, 1, 1.0);
    adamw(&mut highs, Some(&mut lows), &zeros, &mut first, &mut second, &step);
    assert_eq!((joined(&highs, &lows), highs.read()), (weights, before));
    let nothing = DeviceArray::new(&device, Kind::F32, &[f32::NAN; 10]);
    adamw(&mut highs, Some(&mut lows), &nothing, &mut first, &mut second, &step);
    assert!(highs.read().iter().all(|x| x.is_nan()));
}

#[test]
fn squares_are_summed_in_double_precision() {
    let device = device();
    for kind in KINDS {
        let mut arrays = Vec::new();
        let mut all = 0.0;
        for size in [0, 1, 257, 32_768, 32_769, 100_003] {
            let (x, of) = array(&device, kind, &wave(size, 0.7));
            let expected: f64 = of.iter().map(|x| x * x).sum();
            assert!((sum_of_squares(&x) - expected).abs() <= 1e-12 * expected);
            all += expected;
            arrays.push(x);
        }
        let arrays: Vec<&DeviceArray> = arrays.iter().collect();
        let sum = sum_of_all_squares(&device, &arrays);
        assert!((sum - all).abs() <= 1e-12 * all);
        assert_eq!(sum.to_bits(), sum_of_all_squares(&device, &arrays).to_bits());
    }
    assert_eq!(sum_of_all_squares(&device, &[]), 0.0);
}

//! AdamW (Loshchilov and Hutter, 2019), as PyTorch computes it, with the gradient clipped by its norm.
//!
//! Weights in bfloat16 are halves of weights in single precision, which no step can lose: see [`split`].

use crate::array::{DeviceArray, Kind};
use crate::device::Device;
use crate::kernel::Kernel;

/// What is the same for all numbers of a parameter in a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// What gradients are multiplied with, so that their norm is not too large.
    pub clip: f32,
    /// What remains of the gradients' mean.
    pub first: f32,
    /// What a gradient adds to it.
    pub new_first: f32,
    /// What remains of the mean of their squares.
    pub second: f32,
    /// What a square adds to it.
    pub new_second: f32,
    /// What the root of the latter is multiplied with, as it began at 0.
    pub root: f32,
    /// Added to the root.
    pub epsilon: f32,
    /// The rate, divided by what the mean lacks, as it began at 0.
    pub size: f32,
    /// What remains of a weight that decays.
    pub keep: f32,
}

impl AdamWStep {
    /// Step number `steps`, from 1, at a rate. `clip` is what gradients are multiplied with.
    pub fn new(
        [beta1, beta2]: [f64; 2],
        epsilon: f64,
        weight_decay: f64,
        rate: f64,
        steps: u64,
        clip: f32,
    ) -> AdamWStep {
        let steps = steps as f64;
        AdamWStep {
            clip,
            first: beta1 as f32,
            new_first: (1.0 - beta1) as f32,
            second: beta2 as f32,
            new_second: (1.0 - beta2) as f32,
            root: (1.0 - beta2.powf(steps)).sqrt().recip() as f32,
            epsilon: epsilon as f32,
            size: (rate / (1.0 - beta1.powf(steps))) as f32,
            keep: (1.0 - rate * weight_decay) as f32,
        }
    }
}

/// Moves weights against their gradient, and its means along. Weights in bfloat16 come with their lower halves.
///
/// # Shapes
/// All have as many numbers; the gradient and its means, of itself and of its square, have single precision.
///
/// # Panics
/// When sizes or kinds do not match.
pub fn adamw(
    weights: &mut DeviceArray,
    lows: Option<&mut DeviceArray>,
    gradient: &DeviceArray,
    first: &mut DeviceArray,
    second: &mut DeviceArray,
    step: &AdamWStep,
) {
    for other in [gradient, first, second] {
        assert_eq!((other.kind(), other.len()), (Kind::F32, weights.len()), "a gradient's numbers");
    }
    let kernel = match lows {
        None => {
            assert_eq!(weights.kind(), Kind::F32, "weights without lower halves");
            Kernel::new("adamw_f32").array(weights)
        }
        Some(lows) => {
            assert_halves(weights, lows);
            Kernel::new("adamw_split").array(weights).array(lows)
        }
    };
    let kernel = kernel.array(gradient).array(first).array(second).size(weights.len());
    let kernel = kernel.f32(step.clip).f32(step.first).f32(step.new_first).f32(step.second);
    let kernel = kernel.f32(step.new_second).f32(step.root).f32(step.epsilon);
    kernel.f32(step.size).f32(step.keep).pieces(weights.device(), weights.len());
}

fn assert_halves(weights: &DeviceArray, lows: &DeviceArray) {
    assert_eq!((weights.kind(), lows.kind()), (Kind::Bf16, Kind::I16), "upper and lower halves");
    assert_eq!(weights.len(), lows.len(), "a lower half for each upper one");
}

/// Weights whose halves are made at once: more would take memory of the device for long.
const PART: usize = 1 << 24;

/// Weights in two halves: in bfloat16, rounded to the nearest, and of two as near away from 0; and what their bits
/// lack of those in single precision, a whole number from -32768 to 32767.
#[must_use]
pub fn split(device: &Device, weights: &[f32]) -> (DeviceArray, DeviceArray) {
    let highs = DeviceArray::uninitialized(device, Kind::Bf16, weights.len());
    let lows = DeviceArray::uninitialized(device, Kind::I16, weights.len());
    for (number, part) in weights.chunks(PART).enumerate() {
        let (first, whole) = (number * PART, DeviceArray::new(device, Kind::F32, part));
        let kernel = Kernel::new("split_halves").part(&highs, first).part(&lows, first);
        kernel.array(&whole).size(part.len()).pieces(device, part.len());
    }
    (highs, lows)
}

/// Waits for weights that are in two halves, and gives them to the processor as they were before [`split`].
///
/// # Panics
/// When these are no halves of the same weights.
#[must_use]
pub fn joined(weights: &DeviceArray, lows: &DeviceArray) -> Vec<f32> {
    assert_halves(weights, lows);
    let mut all = Vec::with_capacity(weights.len());
    for first in (0..weights.len()).step_by(PART) {
        let count = PART.min(weights.len() - first);
        let whole = DeviceArray::uninitialized(weights.device(), Kind::F32, count);
        let kernel = Kernel::new("join_halves").array(&whole);
        let kernel = kernel.part(weights, first).part(lows, first).size(count);
        kernel.pieces(weights.device(), count);
        all.extend(whole.read());
    }
    all
}

/// Numbers whose squares a block adds up. It never changes, so that sums do not.
const CHUNK: usize = 1 << 15;

/// The sum of the squares of all numbers, in double precision. Waits for it.
#[must_use]
pub fn sum_of_squares(array: &DeviceArray) -> f64 {
    sum_of_all_squares(array.device(), &[array])
}

/// The sum of the squares of all numbers of several arrays, in double precision. Waits for it once.
///
/// # Panics
/// When an array has whole numbers.
#[must_use]
pub fn sum_of_all_squares(device: &Device, arrays: &[&DeviceArray]) -> f64 {
    let chunks = |array: &DeviceArray| array.len().div_ceil(CHUNK);
    let all = arrays.iter().map(|array| chunks(array)).sum();
    let parts = DeviceArray::for_doubles(device, all);
    let mut first = 0;
    for array in arrays {
        // A sum takes the room of two whole numbers.
        let kernel = Kernel::of("sum_of_squares", &[array.kind()]).part(&parts, 2 * first);
        let kernel = kernel.array(array).size(array.len()).u32(CHUNK);
        kernel.blocks(device, chunks(array), 1);
        first += chunks(array);
    }
    let parts = parts.read_doubles();
    let mut rest = &parts[..];
    arrays.iter().fold(0.0, |sum, array| {
        let (these, others) = rest.split_at(chunks(array));
        rest = others;
        sum + these.iter().sum::<f64>()
    })
}

//! Numbers that are left out in training.

use crate::array::DeviceArray;
use crate::kernel::Kernel;

/// Leaves a share of the numbers out, and makes the others larger so that the mean stays. Which ones depends on
/// the seed, the step, and a number's row and column alone: they are those that the processor leaves out.
///
/// # Shapes
/// `x`: `[T, width]`.
///
/// # Panics
/// When the last row is not whole.
pub fn drop_out(x: &mut DeviceArray, width: usize, share: f64, seed: u64, step: u32) {
    assert!(width > 0 && x.len().is_multiple_of(width), "a part of a row");
    let threshold = (share * f64::from(u32::MAX)) as u32;
    let scale = (1.0 / (1.0 - share)) as f32;
    let kernel = Kernel::of("drop_out", &[x.kind()]).array(x).u32(width);
    let kernel = kernel.u32(threshold as usize).f32(scale).u64(seed).u32(step as usize);
    kernel.blocks(x.device(), x.len() / width, 1);
}

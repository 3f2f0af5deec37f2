//! Random numbers, for models that have learnt nothing.

use crate::array::DeviceArray;
use crate::kernel::Kernel;

/// Fills an array with numbers of the normal distribution with mean 0 and a deviation. The same seed gives the
/// same numbers, but for a GPU's roundings; they are not those of the processor.
pub fn fill_normal(x: &mut DeviceArray, deviation: f32, seed: u64) {
    let kernel = Kernel::of("fill_normal", &[x.kind()]).array(x).size(x.len());
    kernel.f32(deviation).u64(seed).pieces(x.device(), x.len().div_ceil(4));
}

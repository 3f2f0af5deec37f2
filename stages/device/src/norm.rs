//! Norms: every row with mean 0 and variance 1 (layer norm), or with mean square 1 (RMS norm; Zhang and
//! Sennrich, 2019), times a weight.

use crate::array::{DeviceArray, Kind};
use crate::elementwise::{ROWS_OF_PART, add_parts, sum_rows};
use crate::kernel::{Kernel, THREADS};

fn rows_of(x: &DeviceArray, weight: &DeviceArray) -> usize {
    assert_eq!(x.kind(), weight.kind(), "kinds");
    assert!(!weight.is_empty() && x.len().is_multiple_of(weight.len()), "a part of a row");
    x.len() / weight.len()
}

/// Layer norm with a bias, RMS norm without one.
///
/// # Shapes
/// `x`: `[T, C]`; `weight`, `bias`: `[C]`; what comes out: `[T, C]`.
///
/// # Panics
/// When sizes or kinds do not match.
#[must_use]
pub fn norm(
    x: &DeviceArray,
    weight: &DeviceArray,
    bias: Option<&DeviceArray>,
    epsilon: f64,
) -> DeviceArray {
    let rows = rows_of(x, weight);
    if let Some(bias) = bias {
        assert_eq!((bias.kind(), bias.len()), (weight.kind(), weight.len()), "a norm's bias");
    }
    let y = DeviceArray::uninitialized(x.device(), x.kind(), x.len());
    let kernel = Kernel::of("norm", &[x.kind()]).array(&y).array(x).array(weight).maybe(bias);
    kernel.u32(weight.len()).f32(epsilon as f32).blocks(x.device(), rows, 1);
    y
}

/// The gradients for `y = norm(x)`, given that of `y`: all are added to what is there. The statistics are
/// computed again.
///
/// # Shapes
/// `x`, `dy`, `dx`: `[T, C]`; `weight`: `[C]`; `d_weight`, `d_bias`: `[C]` in single precision.
///
/// # Panics
/// When sizes or kinds do not match.
#[expect(clippy::too_many_arguments, reason = "a norm has so many gradients")]
pub fn norm_backward(
    x: &DeviceArray,
    weight: &DeviceArray,
    is_layer_norm: bool,
    epsilon: f64,
    dy: &DeviceArray,
    dx: &mut DeviceArray,
    d_weight: Option<&mut DeviceArray>,
    d_bias: Option<&mut DeviceArray>,
) {
    let (rows, width, device) = (rows_of(x, weight), weight.len(), x.device());
    for other in [dy, dx] {
        assert_eq!((other.kind(), other.len()), (x.kind(), x.len()), "arrays that are not alike");
    }
    let kept = DeviceArray::uninitialized(device, Kind::F32, 2 * rows); // [T, mean and scale]
    let kernel = Kernel::of("norm_backward", &[x.kind()]).array(dx).array(&kept).array(x);
    let kernel = kernel.array(weight).array(dy).u32(width).f32(epsilon as f32);
    kernel.u32(usize::from(is_layer_norm)).blocks(device, rows, 1);
    if let Some(gradient) = d_weight {
        assert_eq!(gradient.len(), width, "the gradient of a norm's weight");
        let parts = rows.div_ceil(ROWS_OF_PART);
        let sums = DeviceArray::uninitialized(device, Kind::F32, parts * width);
        let kernel = Kernel::of("norm_weight_parts", &[x.kind()]).array(&sums).array(x);
        let kernel = kernel.array(dy).array(&kept).size(rows).u32(width).u32(ROWS_OF_PART);
        kernel.blocks(device, width.div_ceil(THREADS as usize), parts);
        add_parts(gradient, &sums, parts);
    }
    if let Some(gradient) = d_bias {
        assert_eq!(gradient.len(), width, "the gradient of a norm's bias");
        sum_rows(gradient, dy, 0, width);
    }
}

use okapi_device::norm::{norm, norm_backward};
use okapi_device::{DeviceArray, Kind};

use crate::support::{KINDS, array, assert_array, assert_close, device, tolerance, wave};

const EPSILON: f64 = 1e-5;

/// By the definition, row after row.
fn norm_of(x: &[f64], weight: &[f64], bias: Option<&[f64]>) -> Vec<f64> {
    let width = weight.len();
    let row = |x: &[f64]| -> Vec<f64> {
        let mean = bias.map_or(0.0, |_| x.iter().sum::<f64>() / width as f64);
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
        let normed = x.iter().map(|x| (x - mean) / (variance + EPSILON).sqrt());
        let graded = normed.zip(weight).map(|(n, weight)| n * weight).enumerate();
        graded.map(|(i, y)| y + bias.map_or(0.0, |bias| bias[i])).collect()
    };
    x.chunks_exact(width).flat_map(row).collect()
}

#[test]
fn norms_and_their_gradients() {
    let device = device();
    for (rows, width) in [(1, 1), (3, 31), (2, 33), (131, 7), (5, 257), (2, 1030), (0, 8)] {
        for (kind, has_bias) in KINDS.into_iter().flat_map(|kind| [(kind, true), (kind, false)]) {
            // Far from 0, where squares would eat the variance.
            let numbers: Vec<f32> = wave(rows * width, 0.7).iter().map(|x| 3.0 * x + 1.5).collect();
            let (x, x_of) = array(&device, kind, &numbers);
            let (weight, weight_of) = array(&device, kind, &wave(width, 1.9));
            let (bias, bias_of) = array(&device, kind, &wave(width, 2.9));
            let (bias, bias_of) =
                if has_bias { (Some(&bias), Some(&bias_of[..])) } else { (None, None) };
            assert_array(&norm(&x, &weight, bias, EPSILON), &norm_of(&x_of, &weight_of, bias_of));

            let (dy, dy_of) = array(&device, kind, &wave(rows * width, 1.3));
            let (mut dx, mut dx_of) = array(&device, kind, &wave(rows * width, 0.1));
            let (mut d_weight, mut d_weight_of) = array(&device, Kind::F32, &wave(width, 0.2));
            let (mut d_bias, mut d_bias_of) = array(&device, Kind::F32, &wave(width, 0.4));
            let (to_weight, to_bias) = (Some(&mut d_weight), Some(&mut d_bias));
            norm_backward(&x, &weight, has_bias, EPSILON, &dy, &mut dx, to_weight, to_bias);
            // Central differences of the definition, number by number.
            let differences = |of: &[f64], loss: &dyn Fn(&[f64]) -> f64, step: usize| -> Vec<f64> {
                let places = (0..of.len()).step_by(step);
                let slope = |place: usize| {
                    let moved = |by: f64| {
                        let mut of = of.to_vec();
                        of[place] += by;
                        loss(&of)
                    };
                    (moved(1e-5) - moved(-1e-5)) / 2e-5
                };
                places.map(slope).collect()
            };
            let weighed = |y: Vec<f64>| y.iter().zip(&dy_of).map(|(y, dy)| y * dy).sum::<f64>();
            let step = (rows * width / 64).max(1);
            let by_x = |x: &[f64]| weighed(norm_of(x, &weight_of, bias_of));
            let slopes = differences(&x_of, &by_x, step);
            let found: Vec<f32> = dx.read().into_iter().step_by(step).collect();
            dx_of = dx_of.into_iter().step_by(step).zip(slopes).map(|(x, d)| x + d).collect();
            // A row of one number has no slope but rounding.
            let near = if width == 1 { 1e-3 } else { tolerance(kind) };
            assert_close(&found, &dx_of, near.max(2e-5));
            let normed = norm_of(&x_of, &vec![1.0; width], bias_of.map(|_| &[0.0; 1030][..width]));
            for (place, (n, dy)) in normed.iter().zip(&dy_of).enumerate() {
                d_weight_of[place % width] += n * dy;
                d_bias_of[place % width] += dy;
            }
            assert_close(&d_weight.read(), &d_weight_of, 2e-5);
            assert_close(&d_bias.read(), &d_bias_of, 1e-5);
        }
    }
}

#[test]
fn a_norm_repeats_to_the_last_bit() {
    let device = device();
    let x = DeviceArray::new(&device, Kind::F32, &wave(257 * 333, 0.7));
    let weight = DeviceArray::new(&device, Kind::F32, &wave(333, 1.7));
    let run = || {
        let mut dx = DeviceArray::zeros(&device, Kind::F32, x.len());
        let mut d_weight = DeviceArray::zeros(&device, Kind::F32, 333);
        norm_backward(&x, &weight, false, EPSILON, &x, &mut dx, Some(&mut d_weight), None);
        [norm(&x, &weight, None, EPSILON), dx, d_weight].map(|array| array.read())
    };
    assert_eq!(run(), run());
}

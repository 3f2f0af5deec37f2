use okapi_device::elementwise::{
    Columns, activate, activate_backward, add, add_bias, cast, copy_columns, multiply_by, scale_by,
    sum_rows,
};
use okapi_device::{Activation, DeviceArray, Kind};

use crate::support::{KINDS, array, assert_array, assert_close, device, wave};

const SIZES: [usize; 7] = [0, 1, 7, 31, 33, 257, 5003];

#[test]
fn sums_and_products_are_number_by_number() {
    let device = device();
    for kind in KINDS {
        for size in SIZES {
            let (x, rounded_x) = array(&device, kind, &wave(size, 0.7));
            let (mut y, rounded_y) = array(&device, kind, &wave(size, 1.1));
            add(&mut y, &x);
            let sums: Vec<f64> = rounded_y.iter().zip(&rounded_x).map(|(y, x)| y + x).collect();
            assert_array(&y, &sums);
            let (mut y, _) = array(&device, kind, &wave(size, 1.1));
            multiply_by(&mut y, &x);
            let products: Vec<f64> = rounded_y.iter().zip(&rounded_x).map(|(y, x)| y * x).collect();
            assert_array(&y, &products);
            scale_by(&mut y, -3.0);
            assert_array(&y, &products.iter().map(|x| x * -3.0).collect::<Vec<_>>());
        }
    }
}

/// Sums in bfloat16 are those that the processor's arithmetic rounds to, to the last bit.
#[test]
fn bfloat16_is_rounded_to_the_nearest_even() {
    let device = device();
    let numbers: Vec<f32> = (0..4096).map(|n| f32::from_bits(0x3f80_0000 + n * 0x1357)).collect();
    let (mut y, rounded) = array(&device, Kind::Bf16, &numbers);
    let (x, others) = array(&device, Kind::Bf16, &wave(4096, 0.01));
    add(&mut y, &x);
    let expected: Vec<f32> = rounded
        .iter()
        .zip(&others)
        .map(|(x, y)| half::bf16::from_f32((*x as f32) + (*y as f32)).to_f32())
        .collect();
    assert_eq!(y.read(), expected);
    let single = DeviceArray::new(&device, Kind::F32, &numbers);
    assert_eq!(
        cast(&single, Kind::Bf16).read(),
        DeviceArray::new(&device, Kind::Bf16, &numbers).read()
    );
    assert_eq!(
        cast(&cast(&single, Kind::Bf16), Kind::F32).read(),
        cast(&single, Kind::Bf16).read()
    );
    assert_eq!(cast(&single, Kind::F32).read(), numbers);
}

#[test]
fn biases_and_their_gradients_know_columns() {
    let device = device();
    for kind in KINDS {
        for (rows, first, count, step) in
            [(3, 0, 5, 5), (1, 2, 3, 7), (257, 1, 33, 40), (130, 30, 300, 331), (0, 0, 4, 4)]
        {
            let (mut y, before) = array(&device, kind, &wave(rows * step, 0.3));
            let (bias, added) = array(&device, kind, &wave(count, 2.3));
            add_bias(&mut y, first, step, &bias);
            let mut after = before.clone();
            for row in 0..rows {
                for column in 0..count {
                    after[row * step + first + column] += added[column];
                }
            }
            assert_array(&y, &after);
            let (dy, of) = array(&device, kind, &wave(rows * step, 0.9));
            let (mut gradient, mut sums) = array(&device, Kind::F32, &wave(count, 5.0));
            sum_rows(&mut gradient, &dy, first, step);
            for row in 0..rows {
                for column in 0..count {
                    sums[column] += of[row * step + first + column];
                }
            }
            assert_array(&gradient, &sums);
        }
    }
}

#[test]
fn columns_are_copied_between_kinds() {
    let device = device();
    for (to_kind, from_kind) in KINDS.into_iter().flat_map(|to| KINDS.map(|from| (to, from))) {
        let (rows, count) = (33, 5);
        let (mut to, mut expected) = array(&device, to_kind, &wave(rows * 9, 0.3));
        let (from, numbers) = array(&device, from_kind, &wave(rows * 6, 0.7));
        let columns = |first, step| Columns { first, count, step };
        copy_columns(&mut to, columns(3, 9), &from, columns(1, 6));
        for row in 0..rows {
            for column in 0..count {
                expected[row * 9 + 3 + column] = numbers[row * 6 + 1 + column];
            }
        }
        assert_array(&to, &expected);
    }
}

/// The error function, by its series.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..120 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

fn function(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Relu => x.max(0.0),
    }
}

#[test]
fn activations_and_their_slopes() {
    let device = device();
    let all = [Activation::GeluTanh, Activation::Gelu, Activation::Silu, Activation::Relu];
    for (activation, kind) in all.into_iter().flat_map(|one| KINDS.map(|kind| (one, kind))) {
        for size in SIZES {
            let numbers: Vec<f32> = wave(size, 0.7).iter().map(|x| x * 4.0).collect();
            let (x, rounded) = array(&device, kind, &numbers);
            let expected: Vec<f64> = rounded.iter().map(|x| function(activation, *x)).collect();
            assert_array(&activate(activation, &x), &expected);
            let (mut dy, slopes) = array(&device, kind, &wave(size, 1.3));
            let difference =
                |x: f64| (function(activation, x + 1e-5) - function(activation, x - 1e-5)) / 2e-5;
            let expected: Vec<f64> =
                slopes.iter().zip(&rounded).map(|(dy, x)| dy * difference(*x)).collect();
            activate_backward(activation, &x, &mut dy);
            assert_array(&dy, &expected);
        }
        // Far out the functions stay numbers.
        let (x, _) = array(&device, kind, &[-1e4, -200.0, 200.0, 1e4]);
        let mut dy = DeviceArray::new(&device, kind, &[1.0; 4]);
        activate_backward(activation, &x, &mut dy);
        assert_close(&dy.read(), &[0.0, 0.0, 1.0, 1.0], 1e-6);
        let far = activate(activation, &x).read();
        assert!(far[..2].iter().all(|y| y.abs() < 1e-6) && far[2..] == x.read()[2..]);
    }
}

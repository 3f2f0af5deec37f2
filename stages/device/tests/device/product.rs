use okapi_device::product::{Batch, Matrix, MatrixMut, multiply, multiply_batch};
use okapi_device::{DeviceArray, Kind};
use proptest::prelude::*;

use crate::support::{KINDS, array, assert_close, device, tolerance, wave};

fn turned(matrix: Matrix<'_>, is_transposed: bool) -> Matrix<'_> {
    if is_transposed { matrix.transposed() } else { matrix }
}

/// Where a factor's number lies.
fn place(row: usize, column: usize, step: usize, is_transposed: bool) -> usize {
    if is_transposed { column * step + row } else { row * step + column }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn products_are_sums_of_products(
        [rows, columns, inner] in [1usize..20, 1usize..20, 1usize..20],
        [first, more] in [0usize..5, 0usize..5],
        transposed in any::<[bool; 2]>(),
        (is_bf16, to_f32, adds) in any::<(bool, bool, bool)>(),
        batch in 1usize..4,
    ) {
        let device = device();
        let kind = KINDS[usize::from(is_bf16)];
        let to_kind = if to_f32 { Kind::F32 } else { kind };
        let stored = |rows, columns, is_transposed| if is_transposed { (columns, rows) } else { (rows, columns) };
        let (left_rows, left_columns) = stored(rows, inner, transposed[0]);
        let (right_rows, right_columns) = stored(inner, columns, transposed[1]);
        let (left_step, right_step, to_step) = (left_columns + more, right_columns + 1, columns + more);
        let strides = [rows * to_step + 1, left_rows * left_step, right_rows * right_step + more];
        let (left, left_numbers) = array(&device, kind, &wave(first + batch * strides[1], 0.7));
        let (right, right_numbers) = array(&device, kind, &wave(first + batch * strides[2], 1.3));
        let (mut to, mut expected) = array(&device, to_kind, &wave(first + batch * strides[0], 0.2));
        for number in 0..batch {
            for row in 0..rows {
                for column in 0..columns {
                    let sum: f64 = (0..inner).map(|at| {
                        let left = place(row, at, left_step, transposed[0]);
                        let right = place(at, column, right_step, transposed[1]);
                        left_numbers[first + number * strides[1] + left] * right_numbers[first + number * strides[2] + right]
                    }).sum();
                    let to = &mut expected[first + number * strides[0] + row * to_step + column];
                    *to = 0.5 * sum + if adds { *to } else { 0.0 };
                }
            }
        }
        // Turned twice is not turned.
        let left = turned(Matrix::new(&left, first, left_rows, left_columns, left_step), transposed[0]).transposed().transposed();
        let right = turned(Matrix::new(&right, first, right_rows, right_columns, right_step), transposed[1]);
        let [to_stride, left_stride, right_stride] = strides;
        let strides = Batch { count: batch, to: to_stride, left: left_stride, right: right_stride };
        multiply_batch(MatrixMut::new(&mut to, first, rows, columns, to_step), left, right, 0.5, adds, strides);
        assert_close(&to.read(), &expected, tolerance(to_kind));
    }
}

#[test]
fn products_without_numbers() {
    let device = device();
    let mut to = DeviceArray::new(&device, Kind::F32, &[1.0; 6]);
    let empty = DeviceArray::zeros(&device, Kind::F32, 0);
    let left = Matrix::new(&empty, 0, 2, 0, 0);
    let right = Matrix::new(&empty, 0, 0, 3, 3);
    multiply(MatrixMut::new(&mut to, 0, 2, 3, 3), left, right, 1.0, true);
    assert_eq!(to.read(), [1.0; 6]);
    multiply(MatrixMut::new(&mut to, 0, 2, 3, 3), left, right, 1.0, false);
    assert_eq!(to.read(), [0.0; 6]);
}

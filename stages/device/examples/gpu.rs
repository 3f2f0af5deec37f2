//! What one runs first on a machine with an NVIDIA GPU: opens it, and compares what it computes with what the
//! processor does.
//!
//! ```text
//! cargo run --release -p okapi-device --features cuda --example gpu [NUMBER OF THE GPU]
//! ```

#![expect(clippy::print_stdout, reason = "a program that speaks to a terminal")]

use std::error::Error;
use std::time::Instant;

use okapi_device::elementwise::{Activation, activate, add};
use okapi_device::product::{Batch, Matrix, MatrixMut, multiply, multiply_batch};
use okapi_device::{Device, DeviceArray, DeviceError, Kind};

fn main() -> Result<(), Box<dyn Error>> {
    let ordinal = std::env::args().nth(1).map_or(Ok(0), |number| number.parse())?;
    let start = Instant::now();
    let device = Device::cuda(ordinal)?;
    println!("{}, opened in {:.1} s", device.describe(), start.elapsed().as_secs_f64());
    print_memory(&device, "at first")?;

    for kind in [Kind::F32, Kind::Bf16] {
        check_copies(&device, kind)?;
        check_kernels(&device, kind)?;
        check_products(&device, kind)?;
        check_threads(&device, kind)?;
        measure(&device, kind)?;
    }
    print_memory(&device, "after all that")?;
    check_exhaustion(&device)?;
    println!("all is as it should be");
    Ok(())
}

fn print_memory(device: &Device, when: &str) -> Result<(), DeviceError> {
    let memory = device.memory()?;
    let of = |bytes: usize| bytes as f64 / f64::from(1 << 30);
    println!("memory {when}: {:.2} of {:.2} GiB free", of(memory.free), of(memory.total));
    Ok(())
}

/// Numbers from -1 to 1 that are alike in nothing, and the same as they are after being rounded.
fn numbers(device: &Device, kind: Kind, count: usize, step: f64) -> (DeviceArray, Vec<f64>) {
    let numbers: Vec<f32> = (0..count).map(|n| (n as f64 * step + 0.3).sin() as f32).collect();
    let array = DeviceArray::new(device, kind, &numbers);
    let rounded = array.read().into_iter().map(f64::from).collect();
    (array, rounded)
}

/// Compares, as closely as a kind of numbers allows.
fn compare(what: &str, found: &DeviceArray, expected: &[f64]) -> Result<(), Box<dyn Error>> {
    found.device().synchronize()?;
    let numbers = found.read();
    let size = expected.iter().fold(1e-3_f64, |most, number| most.max(number.abs()));
    let away = numbers.iter().zip(expected).map(|(found, expected)| f64::from(*found) - expected);
    let away = away.fold(0.0, |most: f64, away| if away.abs() <= most { most } else { away.abs() });
    let most = if found.kind() == Kind::Bf16 { 1e-2 } else { 1e-5 };
    println!("{what} in {:?}: at most {:.1e} of the largest away", found.kind(), away / size);
    if numbers.len() != expected.len() || away.is_nan() || away > most * size {
        return Err(format!("{what} in {:?} is wrong", found.kind()).into());
    }
    Ok(())
}

/// More bytes than are on their way at once, and bytes that change after they were given.
fn check_copies(device: &Device, kind: Kind) -> Result<(), Box<dyn Error>> {
    let mut numbers: Vec<f32> = (0..20_000_003).map(|number| (number % 251) as f32).collect();
    let mut array = DeviceArray::new(device, kind, &numbers);
    for (place, number) in [(1, 7.0), (10_000_000, 8.0), (20_000_001, 9.0)] {
        array.write(place, &[number]);
        numbers[place] = number;
    }
    let copy = array.part(5, numbers.len() - 5);
    array.clear();
    let right = copy.read() == numbers[5..] && array.read().iter().all(|number| *number == 0.0);
    device.synchronize()?;
    println!("{} numbers in {kind:?} copied to and fro", numbers.len());
    if right { Ok(()) } else { Err(format!("copies in {kind:?} are wrong").into()) }
}

fn check_kernels(device: &Device, kind: Kind) -> Result<(), Box<dyn Error>> {
    let (mut x, x_numbers) = numbers(device, kind, 100_003, 0.7);
    let (y, y_numbers) = numbers(device, kind, 100_003, 1.3);
    add(&mut x, &y);
    let sum: Vec<f64> = x_numbers.iter().zip(&y_numbers).map(|(x, y)| x + y).collect();
    compare("a sum", &x, &sum)?;
    let silu: Vec<f64> = y_numbers.iter().map(|y| y / (1.0 + (-y).exp())).collect();
    compare("SiLU", &activate(Activation::Silu, &y), &silu)
}

/// Factors that lie as they are and transposed, sums in both kinds, one and several.
fn check_products(device: &Device, kind: Kind) -> Result<(), Box<dyn Error>> {
    let ([rows, columns, inner], count) = ([65, 130, 257], 3);
    for (case, to_kind) in [(0, kind), (1, kind), (2, Kind::F32), (3, Kind::F32)] {
        let (is_left_turned, is_right_turned, adds) = (case & 1 > 0, case & 2 > 0, case > 1);
        let count = if case == 0 { 1 } else { count };
        let (left, left_numbers) = numbers(device, kind, count * rows * inner, 0.7);
        let (right, right_numbers) = numbers(device, kind, count * inner * columns, 1.3);
        let (mut to, mut expected) = numbers(device, to_kind, count * rows * columns, 0.2);
        for (place, number) in expected.iter_mut().enumerate() {
            let (batch, row, column) =
                (place / (rows * columns), place / columns % rows, place % columns);
            let sum: f64 = (0..inner)
                .map(|at| {
                    let left = if is_left_turned { at * rows + row } else { row * inner + at };
                    let right =
                        if is_right_turned { column * inner + at } else { at * columns + column };
                    left_numbers[batch * rows * inner + left]
                        * right_numbers[batch * inner * columns + right]
                })
                .sum();
            *number = 0.5 * sum + if adds { *number } else { 0.0 };
        }
        let left = match is_left_turned {
            true => Matrix::new(&left, 0, inner, rows, rows).transposed(),
            false => Matrix::new(&left, 0, rows, inner, inner),
        };
        let right = match is_right_turned {
            true => Matrix::new(&right, 0, columns, inner, inner).transposed(),
            false => Matrix::new(&right, 0, inner, columns, columns),
        };
        let batch = Batch { count, to: rows * columns, left: rows * inner, right: inner * columns };
        let target = MatrixMut::new(&mut to, 0, rows, columns, columns);
        multiply_batch(target, left, right, 0.5, adds, batch);
        compare(&format!("products of {kind:?}"), &to, &expected)?;
    }
    let (mut to, _) = numbers(device, kind, 6, 0.2);
    let empty = DeviceArray::zeros(device, kind, 0);
    let (left, right) = (Matrix::new(&empty, 0, 2, 0, 0), Matrix::new(&empty, 0, 0, 3, 3));
    multiply(MatrixMut::new(&mut to, 0, 2, 3, 3), left, right, 1.0, false);
    compare("an empty product", &to, &[0.0; 6])
}

/// The same from several threads at once, each of which has to get exactly what one alone gets.
fn check_threads(device: &Device, kind: Kind) -> Result<(), Box<dyn Error>> {
    let size = 300;
    let (x, _) = numbers(device, kind, size * size, 0.7);
    let work = || {
        let mut to = DeviceArray::zeros(device, kind, size * size);
        let matrix = Matrix::new(&x, 0, size, size, size);
        let target = MatrixMut::new(&mut to, 0, size, size, size);
        multiply(target, matrix, matrix.transposed(), 1.0, false);
        activate(Activation::GeluTanh, &to).read()
    };
    let alone = work();
    let are_alike = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| (0..20).all(|_| work() == alone))).collect();
        threads.into_iter().all(|thread| thread.join().unwrap_or(false))
    });
    device.synchronize()?;
    println!("8 threads at once in {kind:?} get the same bits");
    if are_alike { Ok(()) } else { Err(format!("threads disturb each other in {kind:?}").into()) }
}

fn measure(device: &Device, kind: Kind) -> Result<(), DeviceError> {
    let (size, times) = (4096, 20);
    // Products of zeros would take less power, and so less time.
    let (x, _) = numbers(device, kind, size * size, 0.7);
    let mut to = DeviceArray::zeros(device, kind, size * size);
    let mut run = |times: usize| {
        let start = Instant::now();
        for _ in 0..times {
            let matrix = Matrix::new(&x, 0, size, size, size);
            let target = MatrixMut::new(&mut to, 0, size, size, size);
            multiply(target, matrix, matrix.transposed(), 1.0, false);
        }
        device.synchronize().map(|()| start.elapsed().as_secs_f64())
    };
    // The first one loads what cuBLAS needs.
    run(1)?;
    let operations = 2.0 * (times * size * size * size) as f64;
    println!(
        "products of {size} x {size} in {kind:?}: {:.1} TFLOP/s",
        operations / run(times)? / 1e12
    );
    Ok(())
}

/// What does not fit is a failure with figures. Nothing can be done with the device after it.
fn check_exhaustion(device: &Device) -> Result<(), Box<dyn Error>> {
    let memory = device.memory()?;
    // What was given back can be had again, whole.
    drop(DeviceArray::zeros(device, Kind::F32, memory.free / 2 / 4));
    drop(DeviceArray::zeros(device, Kind::Bf16, memory.free / 4 * 3 / 2));
    device.check()?;
    drop(DeviceArray::zeros(device, Kind::F32, memory.total / 2));
    match device.check() {
        Err(failure @ DeviceError::Memory { .. }) => {
            println!("too much memory: {failure}");
            Ok(())
        }
        other => Err(format!("twice the memory there is gave {other:?}").into()),
    }
}

use okapi_device::dropout::drop_out;
use okapi_device::random::fill_normal;
use okapi_device::{DeviceArray, Kind};

use crate::support::{KINDS, device, wave};

/// Philox4x32-10, once more.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let one = 0xd251_1f53_u64 * u64::from(counter[0]);
        let two = 0xcd9e_8d57_u64 * u64::from(counter[2]);
        let high = |product: u64| (product >> 32) as u32;
        counter = [
            high(two) ^ counter[1] ^ key[0],
            two as u32,
            high(one) ^ counter[3] ^ key[1],
            one as u32,
        ];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

/// A known answer that the authors publish with Random123.
#[test]
fn the_tests_philox_is_the_authors() {
    let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
    let found = philox(counter, [0xa409_3822, 0x299f_31d0]);
    assert_eq!(found, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
}

/// The processor's rule: the n-th number of a row is left out by the n-th bits of the row's stream.
#[test]
fn the_same_numbers_are_left_out_as_on_the_processor() {
    let device = device();
    let (seed, step, share) = (0x1234_5678_9abc_def0, 77, 0.3);
    for (rows, width) in [(1, 1), (3, 31), (5, 1030), (0, 4)] {
        let numbers = wave(rows * width, 0.7);
        let mut expected = numbers.clone();
        for (row, numbers) in expected.chunks_exact_mut(width).enumerate() {
            for (column, number) in numbers.iter_mut().enumerate() {
                let counter = [column as u32 / 4, step, row as u32, 3];
                let bits = philox(counter, [seed as u32, (seed >> 32) as u32])[column % 4];
                let is_out = bits < (share * f64::from(u32::MAX)) as u32;
                *number = if is_out { 0.0 } else { *number * (1.0 / (1.0 - share)) as f32 };
            }
        }
        let mut x = DeviceArray::new(&device, Kind::F32, &numbers);
        drop_out(&mut x, width, share, seed, step);
        assert_eq!(x.read(), expected);
        let mut half = DeviceArray::new(&device, Kind::Bf16, &numbers);
        drop_out(&mut half, width, share, seed, step);
        let zeros = |x: Vec<f32>| x.iter().map(|x| *x == 0.0).collect::<Vec<_>>();
        assert_eq!(zeros(half.read()), zeros(expected));
    }
}

#[test]
fn normal_numbers_are_normal() {
    let device = device();
    for kind in KINDS {
        let mut x = DeviceArray::zeros(&device, kind, 100_003);
        fill_normal(&mut x, 2.0, 5);
        let numbers: Vec<f64> = x.read().into_iter().map(f64::from).collect();
        let count = numbers.len() as f64;
        let moment =
            |power: i32| numbers.iter().map(|x| (x / 2.0).powi(power)).sum::<f64>() / count;
        assert!(moment(1).abs() < 0.02 && (moment(2) - 1.0).abs() < 0.02);
        assert!(moment(3).abs() < 0.05 && (moment(4) - 3.0).abs() < 0.1);
        // Neighbours know nothing of each other.
        for lag in 1..5 {
            let along: f64 = numbers.windows(lag + 1).map(|x| x[0] * x[lag] / 4.0).sum();
            assert!((along / count).abs() < 0.02, "{lag}");
        }
        let mut again = DeviceArray::zeros(&device, kind, 100_003);
        fill_normal(&mut again, 2.0, 5);
        assert_eq!(again.read(), x.read());
        fill_normal(&mut again, 2.0, 6);
        assert_ne!(again.read(), x.read());
    }
}

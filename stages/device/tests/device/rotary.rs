use okapi_device::rotary::turn;
use okapi_device::{DeviceArray, Kind};

use crate::support::{KINDS, array, assert_array, device, wave};

fn table(positions: usize, half: usize) -> Vec<f32> {
    let angle =
        |position: usize, pair: usize| position as f64 * 100f64.powf(-(pair as f64) / half as f64);
    let places = (0..positions).flat_map(|position| (0..half).map(move |pair| (position, pair)));
    places
        .flat_map(|(position, pair)| {
            let (sine, cosine) = angle(position, pair).sin_cos();
            [sine as f32, cosine as f32]
        })
        .collect()
}

#[test]
fn pairs_are_turned_and_back() {
    let device = device();
    for kind in KINDS {
        for (step, heads, half, positions) in [
            (16, vec![0, 4, 8], 2, vec![3u32, 70]),
            (700, vec![1, 301], 149, vec![0, 1, 99, 5]),
            (5, vec![3], 1, vec![7]),
            (8, vec![0], 2, vec![]),
        ] {
            let (mut rows, before) = array(&device, kind, &wave(positions.len() * step, 0.7));
            let turns = table(100, half);
            let mut expected = before.clone();
            for (row, position) in positions.iter().enumerate() {
                for head in &heads {
                    for pair in 0..half {
                        let at = 2 * (*position as usize * half + pair);
                        let (sine, cosine) = (f64::from(turns[at]), f64::from(turns[at + 1]));
                        let one = row * step + *head as usize + pair;
                        let (x, y) = (before[one], before[one + half]);
                        expected[one] = x * cosine - y * sine;
                        expected[one + half] = y * cosine + x * sine;
                    }
                }
            }
            let heads = DeviceArray::of_u32(&device, &heads);
            let positions = DeviceArray::of_u32(&device, &positions);
            let turns = DeviceArray::new(&device, Kind::F32, &turns);
            turn(&mut rows, step, &heads, &positions, &turns, half, false);
            assert_array(&rows, &expected);
            turn(&mut rows, step, &heads, &positions, &turns, half, true);
            assert_array(&rows, &before);
        }
    }
}

#[test]
fn a_position_that_the_table_lacks_shows() {
    let device = device();
    let mut rows = DeviceArray::new(&device, Kind::F32, &[1.0; 8]);
    let heads = DeviceArray::of_u32(&device, &[1]);
    let positions = DeviceArray::of_u32(&device, &[1, 2]);
    let turns = DeviceArray::new(&device, Kind::F32, &table(2, 1));
    turn(&mut rows, 4, &heads, &positions, &turns, 1, false);
    let is_none: Vec<bool> = rows.read().iter().map(|x| x.is_nan()).collect();
    assert_eq!(is_none, [false, false, false, false, false, true, true, false]);
}

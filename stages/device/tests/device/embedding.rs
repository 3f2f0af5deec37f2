use okapi_device::embedding::{gather, scatter_add};
use okapi_device::{DeviceArray, Kind};
use proptest::prelude::*;

use crate::support::{KINDS, array, assert_array, device, wave};

#[test]
fn rows_are_gathered_and_what_lacks_shows() {
    let device = device();
    for kind in KINDS {
        for width in [1, 31, 33, 300] {
            let (table, numbers) = array(&device, kind, &wave(7 * width, 0.7));
            let rows = [6u32, 0, 3, 3, 1];
            let gathered = gather(&table, width, &DeviceArray::of_u32(&device, &rows));
            let row = |row: &u32| numbers[*row as usize * width..][..width].to_vec();
            assert_array(&gathered, &rows.iter().flat_map(row).collect::<Vec<_>>());
            let lacking = gather(&table, width, &DeviceArray::of_u32(&device, &[7, u32::MAX]));
            assert!(lacking.read().iter().all(|x| x.is_nan()));
        }
        let table = DeviceArray::new(&device, kind, &[1.0]);
        assert!(gather(&table, 1, &DeviceArray::of_u32(&device, &[])).is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn rows_are_added_however_often_they_come(
        rows in prop::collection::vec(0u32..9, 0..40),
        width in prop::sample::select(vec![1usize, 5, 257]),
        kinds in prop::sample::select(vec![
            (Kind::F32, Kind::F32), (Kind::F32, Kind::Bf16), (Kind::Bf16, Kind::Bf16)
        ]),
    ) {
        let device = device();
        let (mut to, mut expected) = array(&device, kinds.0, &wave(9 * width, 0.3));
        let (d, numbers) = array(&device, kinds.1, &wave(rows.len() * width, 0.7));
        let before = to.copy();
        scatter_add(&mut to, width, &rows, &d);
        for (place, row) in rows.iter().enumerate() {
            for i in 0..width {
                expected[*row as usize * width + i] += numbers[place * width + i];
            }
        }
        assert_array(&to, &expected);
        let mut again = before;
        scatter_add(&mut again, width, &rows, &d);
        prop_assert_eq!(again.read(), to.read());
    }
}

use std::ops::Range;

use okapi_device::attention::{HeadLayout, attention, attention_backward};
use okapi_device::kv_cache::{KvLayer, append_to_caches, attention_with_caches};
use okapi_device::{Device, DeviceArray, Kind};
use proptest::prelude::*;

use crate::support::{KINDS, array, assert_array, assert_close, device, tolerance, wave};

const LAYOUTS: [HeadLayout; 6] = [
    HeadLayout { queries: 2, pairs: 2, width: 5, row: 30, interleaved: true },
    HeadLayout { queries: 3, pairs: 3, width: 33, row: 297, interleaved: false },
    HeadLayout { queries: 4, pairs: 2, width: 8, row: 64, interleaved: false },
    HeadLayout { queries: 6, pairs: 1, width: 3, row: 25, interleaved: false },
    HeadLayout { queries: 1, pairs: 1, width: 1, row: 3, interleaved: true },
    HeadLayout { queries: 2, pairs: 1, width: 300, row: 1200, interleaved: false },
];

/// A single token.
const ONE: [Range<usize>; 1] = [Range { start: 0, end: 1 }];

/// By the definition: each query of each head, one after the other.
fn attention_of(
    rows: &[f64],
    layout: HeadLayout,
    ranges: &[Range<usize>],
    slopes: Option<&[f64]>,
) -> Vec<f64> {
    let HeadLayout { queries, width, row, .. } = layout;
    let mut out = Vec::new();
    for range in ranges {
        for token in range.clone() {
            for head in 0..queries {
                let [query, key, value] = layout.places(head);
                let query = &rows[token * row + query..][..width];
                let seen = range.start..token + 1;
                let score = |other: usize| {
                    let key = &rows[other * row + key..][..width];
                    let product: f64 = query.iter().zip(key).map(|(x, y)| x * y).sum();
                    let slope = slopes.map_or(0.0, |slopes| slopes[head]);
                    (product / (width as f64).sqrt() - slope * (token - other) as f64).exp()
                };
                let shares: Vec<f64> = seen.clone().map(score).collect();
                let sum: f64 = shares.iter().sum();
                out.extend((0..width).map(|column| {
                    let values = seen.clone().map(|other| rows[other * row + value + column]);
                    values.zip(&shares).map(|(value, share)| value * share).sum::<f64>() / sum
                }));
            }
        }
    }
    out
}

fn slopes_for(device: &Device, layout: HeadLayout, has: bool) -> Option<(DeviceArray, Vec<f64>)> {
    let slopes = [0.3, 0.1, 0.0, 0.5, 0.02, 1.0];
    has.then(|| array(device, Kind::F32, &slopes[..layout.queries]))
}

#[test]
fn attention_is_that_of_the_definition() {
    let device = device();
    for (layout, kind) in LAYOUTS.into_iter().flat_map(|one| KINDS.map(|kind| (one, kind))) {
        for (ranges, has_slopes) in
            [(vec![0..1, 1..1, 1..34, 34..36], true), (vec![0..67, 67..67], false), (vec![], true)]
        {
            let tokens = ranges.last().map_or(0, |range: &Range<usize>| range.end);
            let (rows, rows_of) = array(&device, kind, &wave(tokens * layout.row, 0.7));
            let slopes = slopes_for(&device, layout, has_slopes);
            let slopes_of = slopes.as_ref().map(|(_, of)| &of[..]);
            let slopes = slopes.as_ref().map(|(slopes, _)| slopes);
            let expected = attention_of(&rows_of, layout, &ranges, slopes_of);
            assert_array(&attention(&rows, layout, &ranges, slopes), &expected);

            let (d_out, d_out_of) = array(&device, kind, &wave(expected.len(), 1.3));
            let d_rows = attention_backward(&rows, layout, &ranges, slopes, &d_out);
            assert_eq!((d_rows.len(), device.check()), (rows.len(), Ok(())));
            let loss = |rows: &[f64]| -> f64 {
                let out = attention_of(rows, layout, &ranges, slopes_of);
                out.iter().zip(&d_out_of).map(|(x, d)| x * d).sum()
            };
            let step = (rows.len() / 40).max(1) | 1;
            let slope = |place: usize| {
                let moved = |by: f64| {
                    let mut rows = rows_of.clone();
                    rows[place] += by;
                    loss(&rows)
                };
                (moved(1e-5) - moved(-1e-5)) / 2e-5
            };
            let expected: Vec<f64> = (0..rows.len()).step_by(step).map(slope).collect();
            let found: Vec<f32> = d_rows.read().into_iter().step_by(step).collect();
            assert_close(&found, &expected, tolerance(kind));
        }
    }
}

/// Over several tiles of queries.
#[test]
fn long_sequences_are_cut_into_tiles() {
    let device = device();
    let layout = HeadLayout { queries: 2, pairs: 1, width: 4, row: 16, interleaved: false };
    let ranges = [0..3, 3..1100];
    for kind in KINDS {
        let (rows, rows_of) = array(&device, kind, &wave(1100 * 16, 0.7));
        let slopes = slopes_for(&device, layout, true);
        let (slopes, slopes_of) = slopes.as_ref().map(|(one, other)| (one, &other[..])).unzip();
        let out = attention(&rows, layout, &ranges, slopes);
        assert_array(&out, &attention_of(&rows_of, layout, &ranges, slopes_of));
        let again = attention_backward(&rows, layout, &ranges, slopes, &out).read();
        assert_eq!(attention_backward(&rows, layout, &ranges, slopes, &out).read(), again);
        assert!(again.iter().all(|x| x.is_finite()));
        // What a sequence gets does not depend on what stands beside it.
        let alone = attention(
            &rows.part(3 * 16, 1097 * 16),
            layout,
            std::slice::from_ref(&(0..1097)),
            slopes,
        );
        assert_eq!(alone.read(), out.read()[3 * 8..]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Reading on, however the tokens come, is reading at once.
    #[test]
    fn caches_are_as_if_all_was_read_at_once(
        layout in prop::sample::select(LAYOUTS.to_vec()),
        kind in prop::sample::select(KINDS.to_vec()),
        steps in prop::collection::vec([0usize..4, 0usize..9, 1usize..2], 1..6),
        has_slopes in any::<bool>(),
        room in 0usize..5,
    ) {
        let device = device();
        let lens: Vec<usize> = (0..3).map(|one| steps.iter().map(|step| step[one]).sum()).collect();
        let inputs: Vec<_> = (0..3)
            .map(|one| array(&device, kind, &wave(lens[one] * layout.row, 0.7 + one as f64 * 0.1)))
            .collect();
        let slopes = slopes_for(&device, layout, has_slopes);
        let (slopes, slopes_of) = slopes.as_ref().map(|(one, other)| (one, &other[..])).unzip();
        let mut caches: Vec<KvLayer> =
            (0..3).map(|_| KvLayer::new(&device, kind, layout, room)).collect();
        let mut found = vec![Vec::new(); 3];
        for step in &steps {
            let mut rows = DeviceArray::zeros(&device, kind, step.iter().sum::<usize>() * layout.row);
            let (mut ranges, mut first) = (Vec::new(), 0);
            for (one, count) in step.iter().enumerate() {
                let read = caches[one].len() * layout.row;
                rows.copy_from(first * layout.row, &inputs[one].0, read, count * layout.row);
                ranges.push(first..first + count);
                first += count;
            }
            append_to_caches(&rows, layout, &ranges, &mut caches.iter_mut().collect::<Vec<_>>());
            let out = attention_with_caches(
                &rows, layout, &ranges, &caches.iter().collect::<Vec<_>>(), slopes,
            );
            let wide = layout.queries * layout.width;
            for (range, found) in ranges.iter().zip(&mut found) {
                found.extend(out.read_part(range.start * wide, range.len() * wide));
            }
        }
        for one in 0..3 {
            prop_assert!(caches[one].len() == lens[one] && caches[one].room() >= lens[one]);
            let all = 0..lens[one];
            let expected = attention_of(&inputs[one].1, layout, std::slice::from_ref(&all), slopes_of);
            assert_close(&found[one], &expected, tolerance(kind));
        }
        prop_assert_eq!(device.check(), Ok(()));
    }
}

/// More keys than fit into a block's shared memory, and single tokens beside longer sequences.
#[test]
fn a_single_token_may_see_many() {
    let device = device();
    let layout = HeadLayout { queries: 4, pairs: 2, width: 3, row: 24, interleaved: false };
    let count = 20_011;
    let (rows, rows_of) = array(&device, Kind::F32, &wave(count * 24, 0.7));
    let mut cache = KvLayer::new(&device, Kind::F32, layout, 0);
    cache.append(&rows, 0, count, layout);
    let last = rows.part((count - 1) * 24, 24);
    let slopes = slopes_for(&device, layout, true);
    for slopes in [slopes.as_ref(), None] {
        let (slopes, slopes_of) = slopes.map(|(one, other)| (one, &other[..])).unzip();
        let run = || attention_with_caches(&last, layout, &ONE, &[&cache], slopes).read();
        let mut expected = Vec::new();
        for head in 0..4 {
            let [query, key, value] = layout.places(head);
            let query = &rows_of[(count - 1) * 24 + query..][..3];
            let share = |token: usize| {
                let key = &rows_of[token * 24 + key..][..3];
                let product: f64 = query.iter().zip(key).map(|(x, y)| x * y).sum();
                let slope = slopes_of.map_or(0.0, |slopes| slopes[head]);
                (product / 3f64.sqrt() - slope * (count - 1 - token) as f64).exp()
            };
            let shares: Vec<f64> = (0..count).map(share).collect();
            let sum: f64 = shares.iter().sum();
            for column in 0..3 {
                let values = (0..count).map(|token| rows_of[token * 24 + value + column]);
                expected.push(values.zip(&shares).map(|(x, share)| x * share).sum::<f64>() / sum);
            }
        }
        assert_close(&run(), &expected, 1e-5);
        assert_eq!(run(), run());
    }
}

#[test]
fn a_cache_is_copied_cut_and_written_over() {
    let device = device();
    let layout = HeadLayout { queries: 4, pairs: 2, width: 3, row: 24, interleaved: false };
    let (rows, _) = array(&device, Kind::Bf16, &wave(9 * 24, 0.7));
    let mut cache = KvLayer::new(&device, Kind::Bf16, layout, 2);
    assert!(cache.is_empty());
    cache.append(&rows, 0, 7, layout);
    assert_eq!((cache.len(), cache.room()), (7, 7));
    let ask = |cache: &KvLayer| {
        let one = rows.part(0, 24);
        attention_with_caches(&one, layout, &ONE, &[cache], None).read()
    };
    let whole = ask(&cache);
    let mut copy = cache.copy(20);
    assert_eq!((copy.len(), copy.room(), ask(&copy)), (7, 20, whole.clone()));
    copy.truncate(30);
    assert_eq!(copy.len(), 7);
    copy.truncate(5);
    assert_ne!(ask(&copy), whole);
    copy.append(&rows, 5, 2, layout);
    assert_eq!((ask(&copy), ask(&cache)), (whole.clone(), whole));
    cache.append(&rows, 7, 1, layout);
    assert_eq!((cache.len(), cache.room(), cache.copy(0).room()), (8, 14, 8));
    // Room that nothing was written to is never looked at: it would show.
    assert!(ask(&cache).iter().all(|x| x.is_finite()));
}

/// Beside others a sequence gets the same to the last bit, for single tokens and for more.
#[test]
fn caches_know_nothing_of_each_other() {
    let device = device();
    let layout = HeadLayout { queries: 4, pairs: 2, width: 40, row: 320, interleaved: false };
    for kind in KINDS {
        let (rows, _) = array(&device, kind, &wave(70 * 320, 0.7));
        let mut caches = [(); 3].map(|()| KvLayer::new(&device, kind, layout, 0));
        for (number, cache) in caches.iter_mut().enumerate() {
            cache.append(&rows, number, 20 * number + 9, layout);
        }
        let ranges = [60..61, 61..64, 64..65].map(|range| range.start - 60..range.end - 60);
        let new = rows.part(60 * 320, 5 * 320);
        append_to_caches(&new, layout, &ranges, &mut caches.each_mut());
        let together =
            attention_with_caches(&new, layout, &ranges, &caches.each_ref(), None).read();
        for (range, cache) in ranges.iter().zip(&caches) {
            let own = new.part(range.start * 320, range.len() * 320);
            let all = 0..range.len();
            let alone =
                attention_with_caches(&own, layout, std::slice::from_ref(&all), &[cache], None);
            assert_eq!(alone.read(), together[range.start * 160..range.end * 160]);
        }
    }
}

use okapi_device::adamw::{AdamWStep, adamw, joined, split, sum_of_squares};
use okapi_device::attention::{HeadLayout, attention, attention_backward};
use okapi_device::dropout::drop_out;
use okapi_device::elementwise::{
    Columns, activate, activate_backward, add, add_bias, cast, copy_columns, sum_rows,
};
use okapi_device::embedding::{gather, scatter_add};
use okapi_device::head::{draw_tokens, logits_backward, token_scores, top_tokens};
use okapi_device::kv_cache::{KvLayer, attention_with_caches};
use okapi_device::norm::{norm, norm_backward};
use okapi_device::product::{Matrix, MatrixMut, multiply};
use okapi_device::random::fill_normal;
use okapi_device::rotary::turn;
use okapi_device::{Activation, Device, DeviceArray, DeviceError, DeviceMemory, Kind};

/// The first array that does not fit is what the device reports from then on; nothing else happens any more.
#[test]
fn memory_that_runs_out_is_kept_as_a_failure() {
    let device = Device::emulated(1000);
    let mut fits = DeviceArray::new(&device, Kind::F32, &[1.0; 100]);
    assert_eq!(device.memory(), Ok(DeviceMemory { free: 600, total: 1000 }));
    assert_eq!(device.check(), Ok(()));
    let mut large = DeviceArray::zeros(&device, Kind::F32, 151);
    let failure = Err(DeviceError::Memory { bytes: 604, free: 600, total: 1000 });
    assert_eq!(device.check(), failure);
    let other = large.copy();
    add(&mut large, &other);
    assert_eq!(large.read(), [0.0; 151]);
    // Nor does what would have fitted.
    let copy = cast(&fits, Kind::Bf16);
    let all = fits.copy();
    add(&mut fits, &all);
    assert_eq!((copy.read(), device.synchronize()), (vec![0.0; 100], failure.clone()));
    drop((fits, large, copy));
    assert_eq!(
        (device.memory(), device.check()),
        (Ok(DeviceMemory { free: 1000, total: 1000 }), failure)
    );
}

#[test]
fn what_is_freed_can_be_used_again() {
    let device = Device::emulated(1000);
    for _ in 0..3 {
        let array = DeviceArray::new(&device, Kind::F32, &[1.0; 250]);
        assert_eq!(array.read(), [1.0; 250]);
    }
    assert_eq!(device.synchronize(), Ok(()));
}

/// All operations, one after the other.
fn everything(device: &Device, kind: Kind) {
    let (tokens, width) = (9, 12);
    let layout = HeadLayout { queries: 2, pairs: 1, width: 6, row: 24, interleaved: false };
    let ids: Vec<u32> = (0..tokens as u32).collect();
    let ids_there = DeviceArray::of_u32(device, &ids);
    let mut table = DeviceArray::zeros(device, kind, 20 * width);
    fill_normal(&mut table, 1.0, 3);
    let weight = DeviceArray::new(device, kind, &[1.0; 12]);
    let x = gather(&table, width, &ids_there);
    let mut y = norm(&x, &weight, Some(&weight), 1e-5);
    add_bias(&mut y, 0, width, &weight);
    drop_out(&mut y, width, 0.5, 1, 2);
    let mut rows = DeviceArray::zeros(device, kind, tokens * 24);
    let columns = |first, step| Columns { first, count: 12, step };
    copy_columns(&mut rows, columns(3, 24), &y, columns(0, 12));
    let heads = DeviceArray::of_u32(device, &[0, 6]);
    let turns = DeviceArray::new(device, Kind::F32, &[0.6; 20 * 3 * 2]);
    turn(&mut rows, 24, &heads, &ids_there, &turns, 3, false);
    let ranges = [0..4, 4..9];
    let out = attention(&rows, layout, &ranges, None);
    let d_rows = attention_backward(&rows, layout, &ranges, None, &out);
    let mut caches = [(); 2].map(|()| KvLayer::new(device, kind, layout, 1));
    for (range, cache) in ranges.iter().zip(&mut caches) {
        cache.append(&rows, range.start, range.len(), layout);
    }
    let seen = attention_with_caches(&rows, layout, &ranges, &caches.each_ref(), None);
    let mut sum = DeviceArray::zeros(device, Kind::F32, 24);
    sum_rows(&mut sum, &d_rows, 0, 24);
    let active = activate(Activation::Gelu, &seen);
    let mut d = cast(&active, kind);
    add(&mut d, &active);
    activate_backward(Activation::Gelu, &seen, &mut d);
    let mut dx = d.copy();
    let [mut d_weight, mut d_bias] = [(); 2].map(|()| DeviceArray::zeros(device, Kind::F32, width));
    let (to_weight, to_bias) = (Some(&mut d_weight), Some(&mut d_bias));
    norm_backward(&x, &weight, true, 1e-5, &d, &mut dx, to_weight, to_bias);
    let mut logits = DeviceArray::zeros(device, Kind::F32, tokens * 20);
    let of_table = Matrix::new(&table, 0, 20, width, width).transposed();
    let to = MatrixMut::new(&mut logits, 0, tokens, 20, 20);
    multiply(to, Matrix::new(&dx, 0, tokens, width, width), of_table, 1.0, false);
    let scores = token_scores(&logits, 20, &ids_there);
    let (top, drawn) = (top_tokens(&logits, 20), draw_tokens(&logits, 20, 0.7, &[0.5; 9]));
    assert_eq!(top.read_u32().len(), drawn.read_u32().len());
    let d_logits = logits_backward(&logits, &scores, &ids_there, &[1.0; 9], Kind::F32);
    let mut d_table = DeviceArray::zeros(device, Kind::F32, 20 * 20);
    scatter_add(&mut d_table, 20, &ids, &d_logits);
    assert!(sum_of_squares(&d_table) >= 0.0);
    let (mut weights, mut lows) = split(device, &[1.0; 400]);
    let [mut first, mut second] = [(); 2].map(|()| DeviceArray::zeros(device, Kind::F32, 400));
    let step = AdamWStep::new([0.9, 0.999], 1e-8, 0.0, 1e-3, 1, 1.0);
    adamw(&mut weights, Some(&mut lows), &d_table, &mut first, &mut second, &step);
    assert_eq!(joined(&weights, &lows).len(), 400);
}

/// Wherever memory runs out, nothing panics, and the failure says so.
#[test]
fn memory_may_run_out_anywhere() {
    for kind in [Kind::F32, Kind::Bf16] {
        let mut ran_out = 0;
        for memory in (0..).step_by(97) {
            let device = Device::emulated(memory);
            everything(&device, kind);
            match device.check() {
                Ok(()) => break,
                Err(failure) => assert!(matches!(failure, DeviceError::Memory { .. })),
            }
            assert_eq!(device.memory(), Ok(DeviceMemory { free: memory, total: memory }));
            ran_out += 1;
        }
        assert!(ran_out > 50, "{ran_out}");
    }
}

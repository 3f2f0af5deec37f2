//! What a model computes on a GPU, by kernels that run on the processor, against what it computes there.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use okapi_device::{Device, Kind};
use okapi_model::twins::{Twin, compare};

/// Memory of the device.
const MEMORY: usize = 4 << 30;

fn agree(kind: Kind) {
    let twins = compare(&Device::emulated(MEMORY), kind, &mut |_| ()).unwrap();
    assert!(twins.len() > 40);
    let apart: Vec<&Twin> = twins.iter().filter(|twin| !twin.agrees()).collect();
    assert!(apart.is_empty(), "{apart:#?}");
}

#[test]
fn every_operation_agrees_with_its_twin_in_single_precision() {
    agree(Kind::F32);
}

#[test]
fn every_operation_agrees_with_its_twin_in_half_precision() {
    agree(Kind::Bf16);
}

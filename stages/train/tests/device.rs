//! What trainers do on a GPU, by kernels that run on the processor, against what they do there.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use okapi_device::{Device, Kind};
use okapi_model::twins::Twin;
use okapi_train::twins::compare;

fn agree(kind: Kind) {
    let folder = tempfile::tempdir().unwrap();
    let twins = compare(&Device::emulated(4 << 30), kind, folder.path(), &mut |_| ()).unwrap();
    let apart: Vec<&Twin> = twins.iter().filter(|twin| !twin.agrees()).collect();
    assert!(apart.is_empty() && twins.len() >= 9, "{apart:#?}");
}

#[test]
fn every_trainer_agrees_with_its_twin_in_single_precision() {
    agree(Kind::F32);
}

#[test]
fn every_trainer_agrees_with_its_twin_in_half_precision() {
    agree(Kind::Bf16);
}

//! Numbers to compute with, and how they are compared.

use okapi_device::{Device, DeviceArray, Kind};

/// A device with as much memory as any test needs: the GPU of the number `OKAPI_TEST_GPU` if there is one, all
/// tests on the same.
pub(crate) fn device() -> Device {
    #[cfg(feature = "cuda")]
    if let Ok(ordinal) = std::env::var("OKAPI_TEST_GPU") {
        static GPU: std::sync::OnceLock<Device> = std::sync::OnceLock::new();
        let open = || Device::cuda(ordinal.parse().expect("a number")).expect("a GPU");
        return GPU.get_or_init(open).clone();
    }
    Device::emulated(1 << 30)
}

pub(crate) const KINDS: [Kind; 2] = [Kind::F32, Kind::Bf16];

/// Numbers from -1 to 1 that are alike in nothing; `step` makes others.
pub(crate) fn wave(count: usize, step: f64) -> Vec<f32> {
    (0..count)
        .map(|n| ((n as f64 * step + 0.3).sin() * (1.0 + n as f64 * 1e-4).cos()) as f32)
        .collect()
}

/// An array, and its numbers as they are after being rounded to its kind.
pub(crate) fn array(device: &Device, kind: Kind, numbers: &[f32]) -> (DeviceArray, Vec<f64>) {
    let array = DeviceArray::new(device, kind, numbers);
    let rounded = array.read().into_iter().map(f64::from).collect();
    (array, rounded)
}

/// What numbers of a kind may be away from what they should be, measured by the largest that should be.
pub(crate) fn tolerance(kind: Kind) -> f64 {
    if kind == Kind::F32 { 1e-5 } else { 2e-2 }
}

#[track_caller]
pub(crate) fn assert_close(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let size = expected.iter().fold(1e-3f64, |most, number| most.max(number.abs()));
    for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
        let away = (f64::from(*found) - expected).abs();
        assert!(away <= tolerance * size, "number {place} is {found}, not {expected}");
    }
}

/// An array's numbers, as close as its kind lets them be.
#[track_caller]
pub(crate) fn assert_array(found: &DeviceArray, expected: &[f64]) {
    assert_close(&found.read(), expected, tolerance(found.kind()));
    assert_eq!(found.device().check(), Ok(()));
}

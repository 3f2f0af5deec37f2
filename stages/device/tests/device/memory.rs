use okapi_device::elementwise::{add, cast};
use okapi_device::{Device, DeviceArray, DeviceError, DeviceMemory, Kind};

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

//! A device, and the first thing that went wrong on it.

use std::sync::{Arc, OnceLock};

use crate::backend::{Address, Argument, Backend, BatchProduct};

/// One GPU with one queue. A copy is the same device.
#[derive(Debug, Clone)]
pub struct Device(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    backend: Box<dyn Backend>,
    failure: OnceLock<DeviceError>,
}

/// Why a device cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// There is none, or it cannot be used.
    #[error("no GPU can be used: {0}")]
    Unavailable(String),
    /// Its memory is too small.
    #[error(
        "the GPU has no {bytes} bytes left: {free} of {total} are free; fewer tokens or rows at once take less"
    )]
    Memory {
        /// Asked for.
        bytes: usize,
        /// Free at that time.
        free: usize,
        /// It has in all.
        total: usize,
    },
    /// Anything else.
    #[error("the GPU failed: {0}")]
    Failed(String),
}

/// How much memory a device has, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Free now.
    pub free: usize,
    /// In all.
    pub total: usize,
}

impl Device {
    #[cfg_attr(
        not(any(feature = "cuda", feature = "emulated")),
        expect(dead_code, reason = "without either there is no device")
    )]
    pub(crate) fn new(backend: Box<dyn Backend>) -> Device {
        Device(Arc::new(Shared { backend, failure: OnceLock::new() }))
    }

    /// What it is called.
    pub fn name(&self) -> String {
        self.0.backend.name()
    }

    /// Its name and what else results may depend on, such as `NVIDIA H200, compute 9.0, driver 13.0`.
    pub fn describe(&self) -> String {
        self.0.backend.describe()
    }

    /// Its memory.
    ///
    /// # Errors
    /// When it does not say.
    pub fn memory(&self) -> Result<DeviceMemory, DeviceError> {
        self.0.backend.memory()
    }

    /// Whether all that was asked so far could be begun.
    ///
    /// # Errors
    /// The first failure.
    pub fn check(&self) -> Result<(), DeviceError> {
        self.0.failure.get().map_or(Ok(()), |failure| Err(failure.clone()))
    }

    /// Waits for all that was asked.
    ///
    /// # Errors
    /// The first failure.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        self.attempt((), |backend| backend.synchronize());
        self.check()
    }

    /// Does something unless the device has failed; keeps the failure, and gives `otherwise`.
    fn attempt<T>(
        &self,
        otherwise: T,
        work: impl FnOnce(&dyn Backend) -> Result<T, DeviceError>,
    ) -> T {
        if self.0.failure.get().is_some() {
            return otherwise;
        }
        work(&*self.0.backend).unwrap_or_else(|failure| {
            // Somebody else's failure may have come first.
            let _ = self.0.failure.set(failure);
            otherwise
        })
    }

    /// Memory for so many bytes; `None` on a device that has failed.
    pub(crate) fn allocate(&self, bytes: usize) -> Option<Address> {
        self.attempt(None, |backend| backend.allocate(bytes).map(Some))
    }

    pub(crate) fn free(&self, at: Address, bytes: usize) {
        self.0.backend.free(at, bytes);
    }

    pub(crate) fn upload(&self, to: Address, bytes: &[u8]) {
        self.attempt((), |backend| backend.upload(to, bytes));
    }

    pub(crate) fn download(&self, from: Address, bytes: &mut [u8]) {
        self.attempt((), |backend| backend.download(from, bytes));
    }

    pub(crate) fn copy(&self, to: Address, from: Address, bytes: usize) {
        self.attempt((), |backend| backend.copy(to, from, bytes));
    }

    pub(crate) fn zero(&self, at: Address, bytes: usize) {
        self.attempt((), |backend| backend.zero(at, bytes));
    }

    pub(crate) fn launch(
        &self,
        kernel: &str,
        grid: [u32; 2],
        threads: u32,
        arguments: &[Argument],
    ) {
        if grid[0] > 0 && grid[1] > 0 {
            self.attempt((), |backend| backend.launch(kernel, grid, threads, arguments));
        }
    }

    pub(crate) fn multiply(&self, product: &BatchProduct) {
        self.attempt((), |backend| backend.multiply(product));
    }

    pub(crate) fn is_same(&self, other: &Device) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

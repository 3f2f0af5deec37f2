//! What a device has to be able to do: the seam between operations and the machine that runs them.

use std::fmt::Debug;

use crate::array::Kind;
use crate::device::{DeviceError, DeviceMemory};

/// A place in a device's memory.
pub(crate) type Address = u64;

/// One queue of a machine that computes. Everything but [`Backend::download`] may be done later, in order.
///
/// # Safety
/// Whoever calls gives only places in blocks that [`Backend::allocate`] gave and [`Backend::free`] has not taken,
/// and kernels their own arguments. [`Device`](crate::Device) and the operations see to it.
pub(crate) trait Backend: Debug + Send + Sync {
    /// What the machine is called, such as `NVIDIA H200`.
    fn name(&self) -> String;

    /// The name and what else results may depend on, such as `NVIDIA H200, compute 9.0, driver 13.0`.
    fn describe(&self) -> String {
        self.name()
    }

    fn memory(&self) -> Result<DeviceMemory, DeviceError>;

    /// Memory that holds anything.
    fn allocate(&self, bytes: usize) -> Result<Address, DeviceError>;

    /// Takes back what was allocated, when all that was asked before is done.
    fn free(&self, at: Address, bytes: usize);

    /// The bytes may change as soon as this returns.
    fn upload(&self, to: Address, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Waits until the bytes are there.
    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// The two do not overlap.
    fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<(), DeviceError>;

    fn zero(&self, at: Address, bytes: usize) -> Result<(), DeviceError>;

    /// Starts a kernel by its name. `grid` is the number of blocks, `threads` that of threads in each.
    fn launch(
        &self,
        kernel: &str,
        grid: [u32; 2],
        threads: u32,
        arguments: &[Argument],
    ) -> Result<(), DeviceError>;

    fn multiply(&self, product: &BatchProduct) -> Result<(), DeviceError>;

    /// Waits for all that was asked.
    fn synchronize(&self) -> Result<(), DeviceError>;
}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Argument {
    Address(Address),
    U32(u32),
    U64(u64),
    F32(f32),
}

/// Products of matrices whose rows are contiguous: for each number `b` of the batch, `to_b = scale * left_b *
/// right_b`, or that added to `to_b`.
///
/// Both factors have one kind; `to` has that kind or F32. Sums are taken in single precision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct BatchProduct {
    pub(crate) to: Operand,
    pub(crate) left: Operand,
    pub(crate) right: Operand,
    /// Rows of `to` and of `left`.
    pub(crate) rows: usize,
    /// Columns of `to` and of `right`.
    pub(crate) columns: usize,
    /// Columns of `left`, rows of `right`.
    pub(crate) inner: usize,
    pub(crate) scale: f32,
    pub(crate) adds: bool,
    /// How many products.
    pub(crate) batch: usize,
}

/// A matrix of a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Operand {
    /// Its first number.
    pub(crate) at: Address,
    pub(crate) kind: Kind,
    /// Numbers from one stored row to the next.
    pub(crate) step: usize,
    /// Whether what is stored is its transpose. Never so for `to`.
    pub(crate) is_transposed: bool,
    /// Numbers from one matrix of the batch to the next.
    pub(crate) stride: usize,
}

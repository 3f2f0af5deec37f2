//! Numbers on a GPU: memory, matrix products, and the operations that models are made of.
//!
//! A [`Device`] is one GPU with one queue. What is asked of it is done later, in the order in which it was
//! asked; only [`DeviceArray::read`] waits. All operations work on a [`DeviceArray`], in single precision or in
//! bfloat16; statistics, sums and gradients of weights are in single precision whatever the numbers are.
//!
//! The first failure of a device, such as memory that ran out, is kept: from then on the device does
//! nothing any more, and [`Device::check`] says what happened.
//!
//! Products of matrices are a library's; all else is done by the kernels in `kernels/`, plain CUDA C++. Sums are
//! taken in an order that never changes. Without a GPU the same kernels run on the processor (feature `emulated`,
//! `Device::emulated`), slowly and under stricter rules: so they are tested.
//!
//! This crate knows no model.

pub mod adamw;
mod array;
pub mod attention;
mod backend;
#[cfg(feature = "cuda")]
mod cuda;
mod device;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
#[cfg(feature = "emulated")]
mod emulated;
pub mod head;
mod kernel;
pub mod kv_cache;
pub mod norm;
pub mod product;
pub mod random;
pub mod rotary;

pub use array::{DeviceArray, Kind};
pub use device::{Device, DeviceError, DeviceMemory};
pub use elementwise::Activation;

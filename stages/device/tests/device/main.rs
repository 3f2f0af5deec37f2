//! Every operation against a computation that is obviously right, on a device that is emulated.

mod attention;
mod elementwise;
mod embedding;
mod memory;
mod norm;
mod product;
mod rotary;
mod support;

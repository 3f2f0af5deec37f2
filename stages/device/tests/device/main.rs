//! Every operation against a computation that is obviously right, on a device that is emulated.

mod adamw;
mod attention;
mod elementwise;
mod embedding;
mod head;
mod memory;
mod norm;
mod product;
mod random;
mod rotary;
mod support;

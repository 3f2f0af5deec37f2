//! The binary as its users meet it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod architecture;
mod commands;
mod crash;
mod downloads;
mod failures;
mod gpus;
mod quickstart;
mod races;
mod sandbox;
mod semantics;

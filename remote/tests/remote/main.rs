//! What a remote must do, whatever it is and however it behaves.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::print_stderr, reason = "a test that did not run says so")]

mod collection;
mod faults;
mod folder;
mod moto;
mod proxy;
mod support;

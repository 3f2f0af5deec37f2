//! What a remote must do, whatever it is and however it behaves.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod collection;
mod faults;
mod folder;
mod mending;
mod moto;
mod proxy;
mod records;
mod support;
mod webdav;

//! The store's promises, from outside.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod collection;
mod damage;
mod faults;
mod support;

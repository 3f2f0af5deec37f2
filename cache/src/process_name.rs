//! A name that no other process has that may use a store: numbers of processes are the same on different machines.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::LazyLock;

/// This process among all that use a store, on whatever machine: its number, for people, and sixteen random digits.
pub fn process_name() -> &'static str {
    // The standard library's only source of chance; it decides about names of temporary files alone.
    static NAME: LazyLock<String> = LazyLock::new(|| {
        let pid = std::process::id();
        format!("{pid}-{:016x}", RandomState::new().hash_one(pid))
    });
    &NAME
}

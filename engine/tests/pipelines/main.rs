//! Pipeline files: what is accepted, what is refused, and in which words.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

mod fixtures;
mod laws;
mod limits;
mod meaning;
mod stages;

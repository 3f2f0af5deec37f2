//! Pipeline files: what is accepted, what is refused, and in which words.

mod fixtures;
mod laws;
mod limits;
mod meaning;
mod stages;

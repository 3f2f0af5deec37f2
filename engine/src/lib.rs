//! From a pipeline file to a finished run. Knows no LLM, no tensor, no terminal.

pub mod diagnostic;
pub mod event;
pub mod graph;
pub mod port;

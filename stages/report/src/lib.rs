//! From scores and run data to a report.
//!
//! A [`Report`] holds what was run and what came of it. [`published`] has what the Okapi paper prints, to stand
//! beside.
//!
//! This crate knows no stage, no engine, no model, no clock, no file and no network: values in, bytes out.
//!
//! # Determinism
//! The same report is the same bytes.

mod document;
pub mod language;
pub mod published;

pub use document::{
    Curve, CurvePoint, DataSet, Fact, NodeTime, Rejects, Report, Score, Share, Source, Spend, Task,
};

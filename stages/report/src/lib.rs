//! From scores and run data to a report.
//!
//! A [`Report`] holds what was run and what came of it; [`html()`], [`markdown()`] and [`json()`] write it. Scores stand in
//! tables like those of the Okapi paper, with what it prints ([`published`]) beside; every number leads to the node
//! and the action that made it.
//!
//! The stage `report` makes a [`Report`] of what other nodes made. This crate knows no stage, no engine, no model, no
//! clock, no file and no network: values in, bytes out.
//!
//! # Determinism
//! The same report is the same bytes. The order of its scores, statistics and times does not matter.

mod answer_grid;
mod content;
mod document;
mod figure;
mod gain_table;
mod html;
mod json;
pub mod language;
mod length_table;
mod markdown;
mod markup;
mod number;
mod paper_figures;
mod provenance;
pub mod published;
pub mod published_lengths;
mod run_table;
mod score_grid;
mod score_table;
mod source_sets;
mod table;

pub use document::{
    AnswerScore, Curve, CurvePoint, DataSet, Fact, NodeTime, Rejects, Report, RootObject, RootVerb,
    RootVerbs, Score, Share, Source, Spend, Task,
};
pub use html::html;
pub use json::json;
pub use markdown::markdown;

//! A report as data: all that went in, and the tables that were made of it.

use serde::Serialize;

use crate::content::{Block, content};
use crate::document::Report;
use crate::provenance::Provenance;
use crate::table::Table;

#[derive(Serialize)]
struct Document<'r> {
    /// Of this format.
    version: u32,
    report: &'r Report,
    tables: Vec<Table>,
}

/// The report with its tables as JSON on one line.
pub fn json(report: &Report) -> String {
    let provenance = Provenance::of(report);
    let sections = content(report, &provenance).sections;
    let blocks = sections.into_iter().flat_map(|section| section.blocks);
    let tables = blocks.filter_map(|block| match block {
        Block::Table(table) | Block::Details(table) => Some(table),
        Block::Figures(..) | Block::Graph(_) => None,
    });
    let document = Document { version: Report::VERSION, report, tables: tables.collect() };
    let text = serde_json::to_string(&document);
    // Keys are texts and no field refuses: numbers that are none become `null`.
    format!("{}\n", text.expect("a report has nothing that JSON cannot hold"))
}

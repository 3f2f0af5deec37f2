//! Numbers that several nodes have a part in -> one row for all of their sources.

use std::collections::BTreeSet;

use crate::content::{Block, Section};
use crate::document::Source;
use crate::provenance::Provenance;
use crate::table::ColumnKind::{Number, Sources, Text};
use crate::table::{Cell, Row, Table};

/// The sources of one number, or of several that have the same.
#[derive(Debug, Clone, PartialEq)]
struct SourceSet {
    numbers: Vec<usize>,
    sources: Vec<Source>,
    /// The first number that has them.
    of: String,
}

/// Every set of two sources or more that a cell of a report has, numbered from 1 in the order of its tables.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct SourceSets {
    sets: Vec<SourceSet>,
}

impl SourceSets {
    pub(crate) fn of(sections: &[Section], provenance: &Provenance) -> SourceSets {
        let mut seen: BTreeSet<Vec<usize>> = BTreeSet::new();
        let mut sets = Vec::new();
        let tables = sections.iter().flat_map(|section| &section.blocks).filter_map(Block::table);
        for table in tables {
            for section in &table.sections {
                for row in section.rows.iter().chain(&section.summary) {
                    for (place, cell) in row.cells.iter().enumerate() {
                        let numbers = provenance.numbers(&cell.sources);
                        if numbers.len() < 2 || !seen.insert(numbers.clone()) {
                            continue;
                        }
                        let mut sources = cell.sources.clone();
                        sources.sort();
                        sources.dedup();
                        let of = name(table, section.title.as_deref(), row, place);
                        sets.push(SourceSet { numbers, sources, of });
                    }
                }
            }
        }
        SourceSets { sets }
    }

    /// What the set of these sources is called.
    pub(crate) fn label(&self, numbers: &[usize]) -> Option<String> {
        let place = self.sets.iter().position(|set| set.numbers == numbers)?;
        Some(label(place))
    }

    /// Each set with its sources; `None` without sets.
    pub(crate) fn table(&self) -> Option<Table> {
        let row = |(place, set): (usize, &SourceSet)| {
            Row::new([
                Cell::number(label(place), place as f64 + 1.0),
                Cell::text(&set.of),
                Cell { sources: set.sources.clone(), ..Cell::default() },
            ])
        };
        let columns =
            [("No.", Number), ("Number", Text), ("Nodes and actions, by their No.", Sources)];
        let rows: Vec<Row> = self.sets.iter().enumerate().map(row).collect();
        let table = Table::new("source-sets", "Means and sums", &columns);
        (!rows.is_empty()).then(|| table.section(rows, Vec::new()))
    }
}

fn label(place: usize) -> String {
    format!("M{}", place + 1)
}

/// The table, the section, what the row begins with, and the column.
fn name(table: &Table, section: Option<&str>, row: &Row, place: usize) -> String {
    let texts = table.columns.iter().zip(&row.cells);
    let texts = texts.take_while(|(column, _)| column.kind == Text).map(|(_, cell)| &*cell.text);
    let column = &*table.columns[place].title;
    let parts = section.into_iter().chain(texts).chain([column]).filter(|part| !part.is_empty());
    format!("{}: {}", table.title, parts.collect::<Vec<_>>().join(", "))
}

//! A table, free of any format.

use serde::Serialize;

use crate::document::Source;

/// Rows in sections under common columns.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Table {
    /// Unique in a report.
    pub(crate) id: String,
    pub(crate) title: String,
    /// What a reader must know, below the table.
    pub(crate) notes: Vec<String>,
    pub(crate) columns: Vec<Column>,
    pub(crate) sections: Vec<TableSection>,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Column {
    pub(crate) title: String,
    pub(crate) kind: ColumnKind,
}

/// How a column is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ColumnKind {
    Text,
    Number,
    /// A number of the paper's.
    Published,
    /// A digest.
    Code,
    /// The sources of a cell, all of them by their numbers.
    Sources,
}

/// Rows that are sorted among themselves.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct TableSection {
    pub(crate) title: Option<String>,
    pub(crate) rows: Vec<Row>,
    /// Averages or sums, below the rows however these are sorted.
    pub(crate) summary: Vec<Row>,
}

/// One row, a cell for each column.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) cells: Vec<Cell>,
}

/// What stands at one place; nothing, if nothing is known.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Cell {
    pub(crate) text: String,
    /// What rows are sorted by; without, the text.
    pub(crate) value: Option<f64>,
    /// In the unit of the text.
    pub(crate) standard_error: Option<f64>,
    /// The best of ours in its row.
    pub(crate) best: bool,
    /// What is said of the number when asked.
    pub(crate) title: Option<String>,
    /// Where it comes from.
    pub(crate) sources: Vec<Source>,
}

impl Table {
    pub(crate) fn new(id: &str, title: &str, columns: &[(&str, ColumnKind)]) -> Table {
        let column =
            |(title, kind): &(&str, ColumnKind)| Column { title: (*title).to_owned(), kind: *kind };
        Table {
            id: id.to_owned(),
            title: title.to_owned(),
            notes: Vec::new(),
            columns: columns.iter().map(column).collect(),
            sections: Vec::new(),
        }
    }

    pub(crate) fn section(mut self, rows: Vec<Row>, summary: Vec<Row>) -> Table {
        self.sections.push(TableSection { title: None, rows, summary });
        self
    }

    pub(crate) fn note(mut self, note: &str) -> Table {
        self.notes.push(note.to_owned());
        self
    }
}

impl Row {
    pub(crate) fn new(cells: impl Into<Vec<Cell>>) -> Row {
        Row { cells: cells.into() }
    }
}

impl Cell {
    pub(crate) fn text(text: &str) -> Cell {
        Cell { text: text.to_owned(), ..Cell::default() }
    }

    pub(crate) fn number(text: String, value: f64) -> Cell {
        Cell { text, value: Some(value).filter(|it| it.is_finite()), ..Cell::default() }
    }

    pub(crate) fn from(mut self, sources: &[&Source]) -> Cell {
        self.sources = sources.iter().map(|&source| source.clone()).collect();
        self
    }
}

//! A report as Markdown. Charts are left out: each has a table with its numbers.

use std::fmt::Write;

use crate::content::{Block, content};
use crate::document::Report;
use crate::number;
use crate::provenance::Provenance;
use crate::source_sets::SourceSets;
use crate::table::{Cell, ColumnKind, Row, Table};

/// The report as Markdown with tables as GitHub has them.
pub fn markdown(report: &Report) -> String {
    let provenance = Provenance::of(report);
    let mut text = format!("# {}\n", escape(&report.title));
    if !report.summary.is_empty() {
        let _ = write!(text, "\n{}\n", escape(&report.summary));
    }
    if !report.facts.is_empty() {
        text.push('\n');
    }
    for fact in &report.facts {
        let _ = writeln!(text, "- {}: {}", escape(&fact.name), escape(&fact.value));
    }
    let content = content(report, &provenance);
    let page = Page { provenance: &provenance, sets: &content.sets };
    for section in &content.sections {
        let tables = section.blocks.iter().filter_map(Block::table);
        let tables: Vec<String> = tables.map(|it| page.table(it)).collect();
        if !tables.is_empty() {
            let _ = write!(text, "\n## {}\n\n{}", section.title, tables.join("\n"));
        }
    }
    text
}

/// Sources that are listed beside a number.
const LISTED: usize = 4;

struct Page<'p> {
    provenance: &'p Provenance,
    sets: &'p SourceSets,
}

impl Page<'_> {
    fn table(&self, table: &Table) -> String {
        let mut text = format!("### {}\n\n", escape(&table.title));
        let titles = table.columns.iter().map(|column| escape(&column.title));
        push_row(&mut text, titles);
        let rules = table.columns.iter().map(|column| match column.kind {
            ColumnKind::Text | ColumnKind::Code | ColumnKind::Sources => "---".to_owned(),
            ColumnKind::Number | ColumnKind::Published => "---:".to_owned(),
        });
        push_row(&mut text, rules);
        let empty = |width: usize| (1..width).map(|_| String::new());
        for section in &table.sections {
            if let Some(title) = &section.title {
                let title = std::iter::once(format!("**{}**", escape(title)));
                push_row(&mut text, title.chain(empty(table.columns.len())));
            }
            for row in &section.rows {
                push_row(&mut text, self.cells(table, row));
            }
            for row in &section.summary {
                push_row(&mut text, self.cells(table, row));
            }
        }
        for note in &table.notes {
            let _ = write!(text, "\n{}\n", escape(note));
        }
        text
    }

    fn cells(&self, table: &Table, row: &Row) -> impl Iterator<Item = String> {
        let cells = table.columns.iter().zip(&row.cells);
        cells.map(|(column, cell)| self.cell(column.kind, cell))
    }

    /// The text with its error, and the numbers of its sources in the appendix.
    fn cell(&self, kind: ColumnKind, cell: &Cell) -> String {
        let mut text = escape(&cell.text);
        // What is no digest may hold what ends code.
        let is_plain = !text.is_empty() && text.chars().all(|it| it.is_ascii_alphanumeric());
        if kind == ColumnKind::Code && is_plain {
            text = format!("`{text}`");
        }
        if cell.best {
            text = format!("**{text}**");
        }
        if let Some(error) = cell.standard_error {
            let _ = write!(text, " ± {}", number::error(error));
        }
        let numbers = self.provenance.numbers(&cell.sources);
        let listed = numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        if kind == ColumnKind::Sources {
            return listed;
        }
        match numbers.len() {
            0 => text,
            1..=LISTED => format!("{text} <sup>{listed}</sup>"),
            // A long list has a row of its own.
            _ => format!("{text} <sup>{}</sup>", self.sets.label(&numbers).unwrap_or(listed)),
        }
    }
}

fn push_row(text: &mut String, cells: impl Iterator<Item = String>) {
    for cell in cells {
        let _ = write!(text, "| {cell} ");
    }
    text.push_str("|\n");
}

/// Text in which nothing is markup, on one line.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' | '\r' | '\t' => escaped.push(' '),
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '!' | '~' => {
                escaped.push('\\');
                escaped.push(letter);
            }
            other => escaped.push(other),
        }
    }
    escaped
}

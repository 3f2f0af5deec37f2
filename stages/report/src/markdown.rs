//! A report as Markdown. Charts are left out: each has a table with its numbers.

use std::fmt::Write;

use crate::content::{Block, sections};
use crate::document::Report;
use crate::number;
use crate::provenance::Provenance;
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
    for section in sections(report, &provenance) {
        let tables = section.blocks.iter().filter_map(|block| match block {
            Block::Table(table) | Block::Details(table) => Some(table),
            Block::Figures(..) | Block::Graph(_) => None,
        });
        let tables: Vec<String> = tables.map(|it| markdown_table(it, &provenance)).collect();
        if !tables.is_empty() {
            let _ = write!(text, "\n## {}\n\n{}", section.title, tables.join("\n"));
        }
    }
    text
}

fn markdown_table(table: &Table, provenance: &Provenance) -> String {
    let mut text = format!("### {}\n\n", escape(&table.title));
    let titles = table.columns.iter().map(|column| escape(&column.title));
    push_row(&mut text, titles);
    let rules = table.columns.iter().map(|column| match column.kind {
        ColumnKind::Text | ColumnKind::Code => "---".to_owned(),
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
            push_row(&mut text, cells(table, row, provenance));
        }
        for row in &section.summary {
            push_row(&mut text, cells(table, row, provenance));
        }
    }
    for note in &table.notes {
        let _ = write!(text, "\n{}\n", escape(note));
    }
    text
}

fn cells(table: &Table, row: &Row, provenance: &Provenance) -> impl Iterator<Item = String> {
    let cells = table.columns.iter().zip(&row.cells);
    cells.map(|(column, cell)| markdown_cell(column.kind, cell, provenance))
}

/// The text with its error, and the numbers of its sources in the appendix.
fn markdown_cell(kind: ColumnKind, cell: &Cell, provenance: &Provenance) -> String {
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
    let numbers: Vec<String> = cell
        .sources
        .iter()
        .filter_map(|source| provenance.number(source))
        .map(|number| number.to_string())
        .collect();
    match &numbers[..] {
        [] => text,
        // A long list tells nobody more than its length.
        [first, .., last] if numbers.len() > 4 => {
            format!("{text} <sup>{first}, … {last} ({})</sup>", numbers.len())
        }
        _ => format!("{text} <sup>{}</sup>", numbers.join(", ")),
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

//! A report as one HTML file that opens from disk, with no network.

use std::fmt::Write;

use crate::content::{Block, Section, content};
use crate::document::Report;
use crate::figure::Figure;
use crate::markup::escape;
use crate::number;
use crate::provenance::{Provenance, describe, short};
use crate::table::{Cell, Column, ColumnKind, Row, Table};

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

/// The report as a whole HTML document.
pub fn html(report: &Report) -> String {
    let provenance = Provenance::of(report);
    let sections = content(report, &provenance).sections;
    let page = Page { provenance: &provenance };
    let title = escape(&report.title);
    let mut body = String::new();
    for section in &sections {
        page.section(&mut body, section);
    }
    let contents: String = sections
        .iter()
        .map(|section| format!("<li><a href=\"#{}\">{}</a></li>", section.id, section.title))
        .collect();
    let facts: String = report
        .facts
        .iter()
        .map(|it| format!("<div><dt>{}</dt><dd>{}</dd></div>", escape(&it.name), escape(&it.value)))
        .collect();
    let facts =
        if facts.is_empty() { facts } else { format!("<dl class=\"facts\">{facts}</dl>\n") };
    let summary = match report.summary.as_str() {
        "" => String::new(),
        summary => format!("<p class=\"lead\">{}</p>\n", escape(summary)),
    };
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<header>\n\
         <button id=\"theme\" type=\"button\" hidden>Theme</button>\n\
         <h1>{title}</h1>\n{summary}{facts}<nav aria-label=\"Contents\"><ul>{contents}</ul></nav>\n</header>\n\
         <main>\n{body}</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n"
    )
}

struct Page<'p> {
    provenance: &'p Provenance,
}

impl Page<'_> {
    fn section(&self, body: &mut String, section: &Section) {
        let _ = writeln!(body, "<section id=\"{}\">\n<h2>{}</h2>", section.id, section.title);
        for block in &section.blocks {
            match block {
                Block::Figures(title, figures) => {
                    let title = escape(title);
                    let figures: String = figures.iter().map(figure).collect();
                    let _ =
                        writeln!(body, "<h3>{title}</h3>\n<div class=\"figures\">{figures}</div>");
                }
                Block::Table(table) => {
                    let title = escape(&table.title);
                    let _ = writeln!(body, "<h3 id=\"{}\">{title}</h3>", escape(&table.id));
                    self.table(body, table);
                }
                Block::Details(table) => {
                    let (id, title) = (escape(&table.id), escape(&table.title));
                    let rows: usize = table.sections.iter().map(|it| it.rows.len()).sum();
                    let _ = writeln!(
                        body,
                        "<details id=\"{id}\"><summary>{title} <small>{} {}</small></summary>",
                        number::count(rows as u64),
                        if rows == 1 { "row" } else { "rows" }
                    );
                    self.table(body, table);
                    body.push_str("</details>\n");
                }
                Block::Graph(svg) => {
                    // As an image, so that nothing in it can run or style the page.
                    let _ = writeln!(
                        body,
                        "<figure class=\"graph\" tabindex=\"0\"><img alt=\"The pipeline's graph\" \
                         src=\"data:image/svg+xml,{}\"></figure>",
                        percent_encode(svg)
                    );
                }
            }
        }
        body.push_str("</section>\n");
    }

    fn table(&self, body: &mut String, table: &Table) {
        let title = escape(&table.title);
        let _ = write!(
            body,
            "<div class=\"scroll\" role=\"region\" aria-label=\"{title}\" tabindex=\"0\"><table>\n<thead><tr>"
        );
        for column in &table.columns {
            let _ = write!(
                body,
                "<th scope=\"col\" class=\"{}\">{}</th>",
                class(column),
                heading(column)
            );
        }
        body.push_str("</tr></thead>\n");
        let rows = || table.sections.iter().flat_map(|it| it.rows.iter().chain(&it.summary));
        let has_errors: Vec<bool> = (0..table.columns.len())
            .map(|column| rows().any(|row| row.cells[column].standard_error.is_some()))
            .collect();
        for section in &table.sections {
            if let Some(title) = &section.title {
                let _ = writeln!(
                    body,
                    "<tbody class=\"title\"><tr><th scope=\"rowgroup\" colspan=\"{}\"><span>{}</span></th></tr></tbody>",
                    table.columns.len(),
                    escape(title)
                );
            }
            if !section.rows.is_empty() {
                body.push_str("<tbody class=\"rows\">\n");
                section.rows.iter().for_each(|row| self.row(body, table, row, &has_errors));
                body.push_str("</tbody>\n");
            }
            if !section.summary.is_empty() {
                body.push_str("<tbody class=\"summary\">\n");
                section.summary.iter().for_each(|row| self.row(body, table, row, &has_errors));
                body.push_str("</tbody>\n");
            }
        }
        body.push_str("</table></div>\n");
        for note in &table.notes {
            let _ = writeln!(body, "<p class=\"note\">{}</p>", escape(note));
        }
    }

    fn row(&self, body: &mut String, table: &Table, row: &Row, has_errors: &[bool]) {
        // Other places lead here.
        let number = row.cells.first().and_then(|cell| cell.value);
        let listed = table.columns.iter().zip(&row.cells);
        let listed = listed.filter(|(column, _)| column.kind == ColumnKind::Sources);
        let id = match (table.id.as_str(), number) {
            ("sources", Some(number)) => Some(format!("source-{number}")),
            _ => self.provenance.anchor(listed.flat_map(|(_, cell)| &cell.sources)),
        };
        let id = id.map_or_else(String::new, |id| format!(" id=\"{id}\""));
        let _ = write!(body, "<tr{id}>");
        for (place, (column, cell)) in table.columns.iter().zip(&row.cells).enumerate() {
            self.cell(body, column, cell, [place == 0, has_errors[place]]);
        }
        body.push_str("</tr>\n");
    }

    fn cell(
        &self,
        body: &mut String,
        column: &Column,
        cell: &Cell,
        [is_first, has_errors]: [bool; 2],
    ) {
        if column.kind == ColumnKind::Sources {
            let numbers = self.provenance.numbers(&cell.sources).into_iter();
            let links = numbers.map(|it| format!("<a href=\"#source-{it}\">{it}</a>"));
            let links = links.collect::<Vec<_>>().join(" ");
            let _ = write!(body, "<td class=\"{}\">{links}</td>", class(column));
            return;
        }
        let element = if is_first { "th scope=\"row\"" } else { "td" };
        let value = cell.value.map_or_else(String::new, |value| format!(" data-value=\"{value}\""));
        let about: Vec<String> = cell
            .title
            .iter()
            .cloned()
            .chain((!cell.sources.is_empty()).then(|| describe(&cell.sources)))
            .collect();
        let title = match about.is_empty() {
            true => String::new(),
            false => format!(" title=\"{}\"", escape(&about.join("; "))),
        };
        let mut text = match column.kind {
            ColumnKind::Code => {
                format!(
                    "<code title=\"{}\">{}</code>",
                    escape(&cell.text),
                    escape(short(&cell.text))
                )
            }
            _ => escape(&cell.text),
        };
        if cell.best {
            text = format!("<b>{text}</b>");
        }
        if let Some(anchor) = self.provenance.anchor(&cell.sources) {
            text = format!("<a href=\"#{anchor}\"{title}>{text}</a>");
        } else if !title.is_empty() {
            text = format!("<span{title}>{text}</span>");
        }
        // Space where others of the column have an error, so that digits stand below digits.
        match cell.standard_error {
            Some(error) => {
                let _ = write!(text, " <small>± {}</small>", number::error(error));
            }
            None if has_errors && cell.value.is_some() => text.push_str(" <small></small>"),
            None => {}
        }
        let end = &element[..2];
        let _ = write!(body, "<{element} class=\"{}\"{value}>{text}</{end}>", class(column));
    }
}

fn class(column: &Column) -> &'static str {
    match column.kind {
        ColumnKind::Text => "text",
        ColumnKind::Number => "number",
        ColumnKind::Published => "number published",
        ColumnKind::Code => "code",
        ColumnKind::Sources => "sources",
    }
}

/// What follows a comma goes on a line of its own.
fn heading(column: &Column) -> String {
    match column.title.split_once(", ") {
        Some((name, rest)) => format!("{}<small>{}</small>", escape(name), escape(rest)),
        None => escape(&column.title),
    }
}

fn figure(figure: &Figure) -> String {
    let Figure { title, caption, svg } = figure;
    format!(
        "<figure><figcaption><strong>{}</strong><span>{}</span></figcaption>{svg}</figure>\n",
        escape(title),
        escape(caption)
    )
}

/// As a URL has it: nothing is left that ends an attribute.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z'
            | b'A'..=b'Z'
            | b'0'..=b'9'
            | b'-'
            | b'_'
            | b'.'
            | b'/'
            | b':'
            | b'='
            | b','
            | b' ' => {
                encoded.push(byte as char);
            }
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

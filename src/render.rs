//! Mistakes in a pipeline file, for people and as JSON.

use std::path::Path;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use okapi_engine::diagnostic::{Diagnostic, Diagnostics, Severity};
use serde_json::{Value, json};

use crate::project::Unreadable;

/// Every mistake, with place, excerpt and hint, and a line that counts them.
pub(crate) fn to_text(diagnostics: &Diagnostics, color: bool) -> String {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let mut text = String::new();
    for item in &diagnostics.items {
        text.push_str(&one(&renderer, diagnostics, item));
        text.push_str("\n\n");
    }
    let errors = count(diagnostics, Severity::Error);
    let warnings = count(diagnostics, Severity::Warning);
    let plural = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    };
    let counts: Vec<_> = [(errors, "error"), (warnings, "warning")]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| plural(count, what))
        .collect();
    if !counts.is_empty() {
        text.push_str(&format!("{}: {}\n", diagnostics.file.display(), counts.join(", ")));
    }
    text
}

fn count(diagnostics: &Diagnostics, severity: Severity) -> usize {
    diagnostics.items.iter().filter(|item| item.severity == severity).count()
}

fn one(renderer: &Renderer, diagnostics: &Diagnostics, item: &Diagnostic) -> String {
    let level = match item.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(item.message.as_str()).id(item.code);
    let argument = item.span.argument().and_then(|index| diagnostics.arguments.get(index));
    let file = diagnostics.file.display().to_string();
    let shown;
    let snippet = if let Some(argument) = argument {
        let is_flag = argument.starts_with("--");
        shown = if is_flag { argument.clone() } else { format!("--set {argument}") };
        let end = shown.len();
        Snippet::source(&shown)
            .path("command line")
            .annotation(AnnotationKind::Primary.span(0..end))
    } else {
        let range = range(&diagnostics.text, item.span.start, item.span.end);
        let mut snippet = Snippet::source(&diagnostics.text)
            .path(&file)
            .annotation(AnnotationKind::Primary.span(range));
        for related in item.related.iter().filter(|related| related.span.argument().is_none()) {
            snippet = snippet.annotation(
                AnnotationKind::Context
                    .span(self::range(&diagnostics.text, related.span.start, related.span.end))
                    .label(related.message.as_str()),
            );
        }
        snippet
    };
    let mut group = title.element(snippet);
    if let Some(hint) = &item.hint {
        group = group.element(Level::HELP.message(hint.as_str()));
    }
    renderer.render(&[group])
}

/// A span as a range of whole characters inside the text; one over several lines ends with the
/// first, so that an excerpt stays an excerpt.
fn range(text: &str, start: u32, end: u32) -> std::ops::Range<usize> {
    let mut start = (start as usize).min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
    let mut end = (end as usize).clamp(start, line_end.max(start));
    while !text.is_char_boundary(end) {
        end += 1;
    }
    start..end
}

/// Why there is no pipeline file to check, in the shape of [`to_json`].
pub(crate) fn unreadable_to_json(unreadable: &Unreadable, pipeline: &Path) -> Value {
    match unreadable {
        Unreadable::Text(diagnostics) => to_json(diagnostics),
        Unreadable::File(code, failure) => document(&[json!({
            "code": code,
            "severity": "error",
            "message": failure.message(),
            "hint": failure.hint(),
            "file": pipeline.display().to_string(),
            "line": null,
            "column": null,
            "argument": null,
        })]),
    }
}

/// Every mistake as a JSON object.
pub(crate) fn to_json(diagnostics: &Diagnostics) -> Value {
    let items: Vec<_> = diagnostics
        .items
        .iter()
        .map(|item| {
            let argument = item.span.argument().and_then(|it| diagnostics.arguments.get(it));
            let (line, column) = diagnostics.line_column(item.span.start);
            json!({
                "code": item.code,
                "severity": match item.severity {
                    Severity::Error => "error",
                    Severity::Warning => "warning",
                },
                "message": item.message,
                "hint": item.hint,
                "file": argument.is_none().then(|| diagnostics.file.display().to_string()),
                "line": argument.is_none().then_some(line),
                "column": argument.is_none().then_some(column),
                "argument": argument,
            })
        })
        .collect();
    document(&items)
}

fn document(items: &[Value]) -> Value {
    json!({ "version": 1, "diagnostics": items })
}

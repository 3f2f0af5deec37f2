//! A mistake in a pipeline file, as data: what, where, and what to do about it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A place in a pipeline file (or in a command-line argument).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Span {
    /// Byte offset of the first byte.
    pub start: u32,
    /// Byte offset past the last byte.
    pub end: u32,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing will run.
    Error,
    /// Worth a look; the pipeline runs.
    Warning,
}

/// Where a diagnostic points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A span of the pipeline file.
    File(Span),
    /// A command-line argument, shown as written.
    Argument(String),
}

/// Another place that belongs to the mistake, with a word on what it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Related {
    /// Where in the pipeline file.
    pub span: Span,
    /// What is to be seen there, such as "first defined here".
    pub message: String,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// A stable, documented word such as `unknown-node`.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Where it is.
    pub place: Place,
    /// What is wrong: lower case, no final stop.
    pub message: String,
    /// What to do about it, such as "did you mean `translate`?".
    pub hint: Option<String>,
    /// Other places that matter.
    pub related: Vec<Related>,
}

/// Mistakes in one pipeline file, together with the text they point into.
#[derive(Debug, Clone)]
pub struct Diagnostics {
    /// The file, as the user named it.
    pub file: PathBuf,
    /// The text of the file.
    pub text: String,
    /// The mistakes, sorted by place.
    pub items: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Whether anything keeps the pipeline from running.
    pub fn has_errors(&self) -> bool {
        self.items.iter().any(|item| item.severity == Severity::Error)
    }

    /// Line and column (both from 1, the column in characters) of a byte offset.
    pub fn line_column(&self, offset: u32) -> (usize, usize) {
        let mut offset = (offset as usize).min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &self.text[..offset];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

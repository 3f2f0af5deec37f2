//! A mistake in a pipeline file, as data: what, where, and what to do about it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A place in a pipeline file (or in a command-line argument).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Span {
    /// Byte offset of the first byte.
    pub start: u32,
    /// Byte offset past the last byte.
    pub end: u32,
}

impl Span {
    /// The span that stands for the command line's `--set` argument of that index.
    pub fn of_argument(index: usize) -> Span {
        Span { start: u32::MAX, end: index as u32 }
    }

    /// The index of the `--set` argument that this span stands for.
    pub fn argument(self) -> Option<usize> {
        (self.start == u32::MAX).then_some(self.end as usize)
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing will run.
    Error,
    /// Worth a look; the pipeline runs.
    Warning,
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
    /// Where it is: in the pipeline file, or a `--set` argument ([`Span::argument`]).
    pub span: Span,
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
    /// The `--set` arguments.
    pub arguments: Vec<String>,
    /// The mistakes, sorted by place.
    pub items: Vec<Diagnostic>,
}

impl Diagnostic {
    /// An error.
    pub fn error(code: &'static str, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            code,
            severity: Severity::Error,
            span,
            message: message.into(),
            hint: None,
            related: Vec::new(),
        }
    }

    /// A warning.
    pub fn warning(code: &'static str, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(code, span, message) }
    }

    /// The same with a hint, if there is one.
    pub fn with_hint(mut self, hint: impl Into<Option<String>>) -> Diagnostic {
        self.hint = hint.into();
        self
    }

    /// The same with another place.
    pub fn with_related(mut self, span: Span, message: impl Into<String>) -> Diagnostic {
        self.related.push(Related { span, message: message.into() });
        self
    }
}

impl Diagnostics {
    /// Diagnostics of one file, sorted by place, each said once.
    pub fn new(
        file: &Path,
        text: &str,
        arguments: &[String],
        mut items: Vec<Diagnostic>,
    ) -> Diagnostics {
        items.sort_by(|a, b| {
            (a.span, a.severity, &a.message).cmp(&(b.span, b.severity, &b.message))
        });
        // One mistake in a node with many instances is one mistake.
        items.dedup_by(|a, b| a.span == b.span && a.message == b.message);
        Diagnostics {
            file: file.to_owned(),
            text: text.to_owned(),
            arguments: arguments.to_vec(),
            items,
        }
    }

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

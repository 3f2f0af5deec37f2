//! Collects mistakes while a pipeline file is read, so that all of them are reported at once.

use std::path::Path;

use crate::diagnostic::{Diagnostic, Diagnostics, Related, Severity, Span};
use crate::spec::codes;

/// More than this many mistakes help nobody; the rest are counted.
const MOST: usize = 200;

/// The mistakes found so far.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    items: Vec<Diagnostic>,
    /// How many mistakes were left out.
    left_out: usize,
    errors: usize,
}

/// A mistake just added, to hang a hint or another place on. Nothing if it was left out.
pub(crate) struct Finding<'a>(Option<&'a mut Diagnostic>);

impl Finding<'_> {
    /// Sets the hint, if there is one.
    pub(crate) fn hint(mut self, hint: impl Into<Option<String>>) -> Self {
        if let Some(diagnostic) = &mut self.0 {
            diagnostic.hint = hint.into();
        }
        self
    }

    /// Sets a hint that is always the same.
    pub(crate) fn help(self, hint: &str) -> Self {
        self.hint(hint.to_owned())
    }

    /// Adds another place, if it lies in the file.
    pub(crate) fn related(mut self, span: Span, message: impl Into<String>) -> Self {
        if let Some(diagnostic) = &mut self.0
            && span.argument().is_none()
        {
            diagnostic.related.push(Related { span, message: message.into() });
        }
        self
    }
}

/// A span for the graph, which knows no command-line arguments.
pub(crate) fn file_span(span: Span) -> Span {
    if span.argument().is_some() { Span::default() } else { span }
}

impl Findings {
    pub(crate) fn error(
        &mut self,
        code: &'static str,
        at: Span,
        message: impl Into<String>,
    ) -> Finding<'_> {
        self.errors += 1;
        self.add(Diagnostic::error(code, at, message))
    }

    pub(crate) fn warning(
        &mut self,
        code: &'static str,
        at: Span,
        message: impl Into<String>,
    ) -> Finding<'_> {
        self.add(Diagnostic::warning(code, at, message))
    }

    /// How many errors there are, to tell whether a step added some.
    pub(crate) fn errors(&self) -> usize {
        self.errors
    }

    /// Whether more mistakes would not be shown anyway.
    pub(crate) fn is_full(&self) -> bool {
        self.left_out > 0
    }

    fn add(&mut self, new: Diagnostic) -> Finding<'_> {
        debug_assert!(codes::meaning(new.code).is_some(), "no code {} in the table", new.code);
        // The instances of a node repeat its mistakes one after the other.
        let repeated = self.items.iter().rev().take(16).any(|item| {
            item.code == new.code && item.span == new.span && item.message == new.message
        });
        if repeated {
            return Finding(None);
        }
        // Warnings must not crowd out errors: they are counted apart, and only half as many kept.
        let most = if new.severity == Severity::Error { MOST } else { MOST / 2 };
        if self.items.len() >= most {
            self.left_out += usize::from(new.severity == Severity::Error);
            return Finding(None);
        }
        self.items.push(new);
        Finding(self.items.last_mut())
    }

    /// All mistakes, in the order of the file.
    pub(crate) fn finish(mut self, file: &Path, text: &str, arguments: &[String]) -> Diagnostics {
        if self.left_out > 0
            && let Some(last) = self.items.last_mut()
        {
            let note = format!("at least {} more mistakes are not shown", self.left_out);
            last.hint = Some(match last.hint.take() {
                Some(hint) => format!("{hint}; {note}"),
                None => note,
            });
        }
        Diagnostics::new(file, text, arguments, self.items)
    }
}

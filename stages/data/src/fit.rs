//! Rows of other people's files -> our rows.
//!
//! Each row type knows the layouts that the field publishes it in. Where a file uses other names,
//! a [`Mapping`] says which of its fields is which of ours.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::DataError;
use crate::source::{SourceRow, kind_of};

/// Which field of a file is which of ours: ours -> theirs. A dot reaches into an object.
pub type Mapping = BTreeMap<String, String>;

/// A row of ours that can be made of a row of a file.
pub trait Fit: Sized {
    /// The fields that a [`Mapping`] may name.
    const FIELDS: &'static [&'static str];

    /// Makes the row.
    ///
    /// # Errors
    /// When a field is missing or is not what it should be.
    fn fit(source: &mut SourceFields<'_>) -> Result<Self, DataError>;
}

/// The fields of one row of a file, as its layout and the mapping name them.
pub struct SourceFields<'a> {
    row: u64,
    fields: &'a SourceRow,
    mapping: &'a Mapping,
    convert: bool,
    converted: u64,
}

impl<'a> SourceFields<'a> {
    /// The fields of the row of that number. With `convert`, numbers, lists and missing values
    /// become text where text is expected: the released Okapi files hold such rows.
    pub fn new(row: u64, fields: &'a SourceRow, mapping: &'a Mapping, convert: bool) -> Self {
        SourceFields { row, fields, mapping, convert, converted: 0 }
    }

    /// How many values were converted.
    pub fn converted(&self) -> u64 {
        self.converted
    }

    /// The number of the row, from 1.
    pub fn row(&self) -> u64 {
        self.row
    }

    /// The value that is ours by that name. `theirs` are the names it has in known layouts; the
    /// first that is there counts.
    pub(crate) fn value(&self, ours: &str, theirs: &[&str]) -> Option<&'a Value> {
        match self.mapping.get(ours) {
            Some(path) => self.at(path),
            None => theirs.iter().find_map(|name| self.at(name)),
        }
    }

    /// Whether the row has a field of that name, whatever it holds.
    pub(crate) fn has(&self, theirs: &str) -> bool {
        self.at(theirs).is_some()
    }

    fn at(&self, path: &str) -> Option<&'a Value> {
        if let Some(value) = self.fields.get(path) {
            return Some(value);
        }
        let (first, rest) = path.split_once('.')?;
        rest.split('.').try_fold(self.fields.get(first)?, |value, name| value.get(name))
    }

    /// The name to blame for what is ours by that name.
    fn blamed(&self, ours: &str, theirs: &[&str]) -> String {
        match self.mapping.get(ours) {
            Some(path) => path.clone(),
            None => theirs
                .iter()
                .find(|name| self.at(name).is_some())
                .or(theirs.first())
                .map_or_else(|| ours.to_owned(), |&name| name.to_owned()),
        }
    }

    pub(crate) fn error(
        &self,
        ours: &str,
        theirs: &[&str],
        message: impl Into<String>,
    ) -> DataError {
        let field = Some(self.blamed(ours, theirs));
        DataError::Row { row: self.row, field, message: message.into() }
    }

    /// A text that must be there.
    pub(crate) fn text(&mut self, ours: &str, theirs: &[&str]) -> Result<String, DataError> {
        match self.value(ours, theirs) {
            Some(value) => self.as_text(value, ours, theirs),
            None => {
                let there: Vec<_> = self.fields.keys().map(String::as_str).collect();
                let message = format!(
                    "it is missing; the row has {}. `fields: {{{ours}: <name>}}` says which one it is",
                    there.join(", ")
                );
                Err(self.error(ours, theirs, message))
            }
        }
    }

    /// A text that may be missing; null is as good as missing.
    pub(crate) fn optional_text(
        &mut self,
        ours: &str,
        theirs: &[&str],
    ) -> Result<Option<String>, DataError> {
        match self.value(ours, theirs) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => self.as_text(value, ours, theirs).map(Some),
        }
    }

    /// A list of texts that must be there.
    pub(crate) fn texts(&mut self, ours: &str, theirs: &[&str]) -> Result<Vec<String>, DataError> {
        match self.value(ours, theirs) {
            Some(Value::Array(items)) => {
                items.iter().map(|item| self.as_text(item, ours, theirs)).collect()
            }
            Some(other) => {
                let message = format!("a list is expected, not {}", kind_of(other));
                Err(self.error(ours, theirs, message))
            }
            None => Err(self.error(ours, theirs, "it is missing")),
        }
    }

    /// So many flags, or none.
    pub(crate) fn flags(&mut self, name: &str, count: usize) -> Result<Vec<bool>, DataError> {
        let Some(value) = self.value(name, &[name]).filter(|value| !value.is_null()) else {
            return Ok(Vec::new());
        };
        match serde_json::from_value::<Vec<bool>>(value.clone()) {
            Ok(flags) if flags.len() == count || flags.is_empty() => Ok(flags),
            _ => {
                let message = format!("a list of {count} times true or false is expected");
                Err(self.error(name, &[name], message))
            }
        }
    }

    /// The row's own id, or its number from 0.
    pub(crate) fn id(&mut self) -> Result<String, DataError> {
        let id = match self.value("id", &["id"]) {
            // A number is as good an id as a text.
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::Null) | None => (self.row - 1).to_string(),
            Some(value) => self.as_text(value, "id", &["id"])?,
        };
        if id.is_empty() {
            return Err(self.error("id", &["id"], "it is empty"));
        }
        Ok(id)
    }

    fn as_text(&mut self, value: &Value, ours: &str, theirs: &[&str]) -> Result<String, DataError> {
        match value {
            Value::String(text) => Ok(text.clone()),
            _ if self.convert => {
                self.converted += 1;
                Ok(match value {
                    Value::Null => String::new(),
                    other => other.to_string(),
                })
            }
            other => {
                let shown = shorten(&other.to_string());
                let message = format!(
                    "a text is expected, not {}: {shown}; `convert: true` takes it as text",
                    kind_of(other)
                );
                Err(self.error(ours, theirs, message))
            }
        }
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text.to_owned(),
    }
}

//! Text to learn a language from: documents of plain text, and what data sets hold.

use std::path::Path;

use okapi_engine::port::PortKind;
use okapi_engine::stage_context::{InputPath, StageContext, StageError};
use serde_json::Value;

/// What a corpus may be made of.
pub(crate) const KINDS: [PortKind; 3] = [PortKind::Text, PortKind::Instructions, PortKind::Prompts];

/// The fields of rows that a reader sees, in the order in which they are read.
const FIELDS: [&str; 3] = ["instruction", "input", "output"];

/// The documents of a port, in the order of its inputs: of plain text, what stands between empty lines;
/// of rows, each with its fields under each other.
pub(crate) fn texts(context: &StageContext<'_>, port: &str) -> Result<Vec<String>, StageError> {
    let mut texts = Vec::new();
    match context.inputs.get(port) {
        None => {}
        Some(InputPath::Single(path)) => texts.extend(documents(path)?),
        Some(InputPath::Gathered { items, .. }) => {
            for (_, path) in items {
                texts.extend(documents(path)?);
            }
        }
    }
    Ok(texts)
}

fn documents(path: &Path) -> Result<Vec<String>, StageError> {
    let bytes =
        std::fs::read(path).map_err(|source| StageError::Io { path: path.to_owned(), source })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        StageError::failed(format!("the corpus is no UTF-8 at byte {place} of {}", name(path)))
    })?;
    Ok(rows(&text).unwrap_or_else(|| paragraphs(&text)))
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The texts of rows, if every line is a row; an artifact does not say of which kind it is.
fn rows(text: &str) -> Option<Vec<String>> {
    let row = |line: &str| {
        let row: Value = serde_json::from_str(line).ok()?;
        row.get("instruction")?.as_str()?;
        let fields = FIELDS.iter().filter_map(|name| row.get(*name)?.as_str());
        Some(fields.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n"))
    };
    text.lines().filter(|line| !line.is_empty()).map(row).collect()
}

fn paragraphs(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in text.lines() {
        match documents.last_mut() {
            Some(last) if !line.trim().is_empty() => {
                if !last.is_empty() {
                    last.push('\n');
                }
                last.push_str(line);
            }
            Some(last) if !last.is_empty() => documents.push(String::new()),
            _ => {}
        }
    }
    documents.retain(|document| !document.is_empty());
    documents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_end_at_empty_lines() {
        assert_eq!(paragraphs("a\nb\n\n \nc\n"), ["a\nb", "c"]);
        assert_eq!(paragraphs("\n\n"), Vec::<String>::new());
        assert_eq!(rows("a\n"), None);
    }

    #[test]
    fn rows_are_what_a_reader_sees_of_them() {
        let text = "{\"id\":\"1\",\"instruction\":\"Add.\",\"input\":\"\",\"output\":\"2\"}\n\
                    {\"id\":\"2\",\"instruction\":\"Say.\",\"input\":\"x\"}\n";
        assert_eq!(rows(text).unwrap(), ["Add.\n2", "Say.\nx"]);
    }
}

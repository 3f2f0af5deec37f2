//! A file of the field -> a file of ours.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::fit::{Fit, Mapping, SourceFields};
use crate::source::{Format, read};
use crate::{DataError, Instruction, Prompt, Question, Ranking, Response, Text};

/// What the rows of a file are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowKind {
    /// [`Instruction`]s.
    Instructions,
    /// [`Prompt`]s.
    Prompts,
    /// [`Question`]s.
    Questions,
    /// [`Ranking`]s.
    Rankings,
    /// [`Response`]s.
    Responses,
    /// Running text: the documents, an empty line between two.
    Text,
}

impl RowKind {
    /// The fields of ours that a mapping may name.
    pub fn fields(self) -> &'static [&'static str] {
        match self {
            RowKind::Instructions => Instruction::FIELDS,
            RowKind::Prompts => Prompt::FIELDS,
            RowKind::Questions => Question::FIELDS,
            RowKind::Rankings => Ranking::FIELDS,
            RowKind::Responses => Response::FIELDS,
            RowKind::Text => Text::FIELDS,
        }
    }

    /// The id of a row of ours, which must be of this kind; text has none.
    pub(crate) fn id_of(self, row: &[u8]) -> Result<String, String> {
        fn id<R: serde::de::DeserializeOwned>(
            row: &[u8],
            id: impl Fn(R) -> String,
        ) -> Result<String, String> {
            serde_json::from_slice(row).map(id).map_err(|error| error.to_string())
        }
        match self {
            RowKind::Instructions => id(row, |row: Instruction| row.id),
            RowKind::Prompts => id(row, |row: Prompt| row.id),
            RowKind::Questions => id(row, |row: Question| row.id),
            RowKind::Rankings => id(row, |row: Ranking| row.id),
            RowKind::Responses => id(row, |row: Response| row.id),
            RowKind::Text => Err("running text has no rows".to_owned()),
        }
    }
}

/// How a file is read.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// What its rows are to be.
    pub kind: RowKind,
    /// How it holds them.
    pub format: Format,
    /// Its names for our fields, where they are not those of a known layout.
    pub mapping: Mapping,
    /// Whether numbers, lists and missing values become text where text is expected.
    pub convert: bool,
}

/// What was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Imported {
    /// How many rows.
    pub rows: u64,
    /// How many values were converted to text.
    pub converted: u64,
}

/// Reads the rows of `path` and writes them to `to` as ours, JSON lines. `progress` hears the
/// number of rows now and then; if it says `false`, the import stops.
///
/// # Errors
/// At the first row that does not fit, and when something cannot be read or written.
pub fn import(
    path: &Path,
    options: &ImportOptions,
    to: &mut dyn Write,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<Imported, DataError> {
    match options.kind {
        RowKind::Instructions => {
            import_as(path, options, progress, |row: &Instruction| line(to, row, &row.id))
        }
        RowKind::Prompts => {
            import_as(path, options, progress, |row: &Prompt| line(to, row, &row.id))
        }
        RowKind::Questions => {
            import_as(path, options, progress, |row: &Question| line(to, row, &row.id))
        }
        RowKind::Rankings => {
            import_as(path, options, progress, |row: &Ranking| line(to, row, &row.id))
        }
        RowKind::Responses => {
            import_as(path, options, progress, |row: &Response| line(to, row, &row.id))
        }
        RowKind::Text => import_as(path, options, progress, |row: &Text| {
            to.write_all(row.text.trim_end().as_bytes())?;
            to.write_all(b"\n\n")?;
            Ok(None)
        }),
    }
}

/// Writes a row; says its id.
fn line(to: &mut dyn Write, row: &impl Serialize, id: &str) -> Result<Option<String>, DataError> {
    serde_json::to_writer(&mut *to, row).map_err(|error| DataError::Io(error.into()))?;
    to.write_all(b"\n")?;
    Ok(Some(id.to_owned()))
}

fn import_as<R: Fit>(
    path: &Path,
    options: &ImportOptions,
    progress: &mut dyn FnMut(u64) -> bool,
    mut write: impl FnMut(&R) -> Result<Option<String>, DataError>,
) -> Result<Imported, DataError> {
    let mut imported = Imported::default();
    let mut ids = BTreeSet::new();
    read(path, options.format, &mut |number, row| {
        let mut fields = SourceFields::new(number, &row, &options.mapping, options.convert);
        let fitted = R::fit(&mut fields)?;
        imported.rows += 1;
        imported.converted += fields.converted();
        if let Some(id) = write(&fitted)?
            && let Some(twice) = ids.replace(id)
        {
            let message = format!("the id `{twice}` has been there before");
            return Err(DataError::Row { row: number, field: Some("id".into()), message });
        }
        if number.is_multiple_of(4096) && !progress(number) {
            return Err(DataError::Io(std::io::ErrorKind::Interrupted.into()));
        }
        Ok(())
    })?;
    if imported.rows == 0 {
        return Err(DataError::File("it has no rows".into()));
    }
    progress(imported.rows);
    Ok(imported)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn try_import(
        kind: RowKind,
        rows: &Value,
        mapping: &[(&str, &str)],
        convert: bool,
    ) -> Result<(Vec<Value>, Imported), String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.json");
        std::fs::write(&path, rows.to_string()).unwrap();
        let mapping = mapping.iter().map(|&(ours, theirs)| (ours.into(), theirs.into())).collect();
        let options = ImportOptions { kind, format: Format::Json, mapping, convert };
        let mut bytes = Vec::new();
        let imported = import(&path, &options, &mut bytes, &mut |_| true)
            .map_err(|error| error.to_string())?;
        let text = String::from_utf8(bytes).unwrap();
        let rows = text.lines().filter(|line| !line.is_empty());
        Ok((rows.map(|line| serde_json::from_str(line).unwrap()).collect(), imported))
    }

    fn one(kind: RowKind, row: Value) -> Value {
        try_import(kind, &Value::Array(vec![row]), &[], false).unwrap().0.remove(0)
    }

    #[test]
    fn instructions_of_alpaca_and_of_seed_pools() {
        let row = json!({"instruction": "Add.", "input": "1 2", "output": "3"});
        assert_eq!(
            one(RowKind::Instructions, row),
            json!({"id": "0", "instruction": "Add.", "input": "1 2", "output": "3"})
        );
        let row = json!({"id": "seed_task_7", "name": "add", "instruction": "Add.",
            "instances": [{"input": "", "output": "3"}], "is_classification": false});
        assert_eq!(
            one(RowKind::Instructions, row),
            json!({"id": "seed_task_7", "instruction": "Add.", "input": "", "output": "3",
                "name": "add", "is_classification": false})
        );
        let prompt = json!({"id": 5, "prompt": "Why?"});
        assert_eq!(
            one(RowKind::Prompts, prompt),
            json!({"id": "5", "instruction": "Why?", "input": ""})
        );
    }

    #[test]
    fn rankings_of_pairs_and_of_more() {
        let pair = json!({"instruction": "Add.", "input": "", "prefered_output": "3",
            "rejected_output": "4", "other": 1});
        assert_eq!(
            one(RowKind::Rankings, pair),
            json!({"id": "0", "instruction": "Add.", "input": "", "responses": ["3", "4"],
                "ranks": [1, 2]})
        );
        let bad =
            json!([{"instruction": "Add.", "responses": ["3", "4", "5"], "ranks": [1, 1, 2]}]);
        let error = try_import(RowKind::Rankings, &bad, &[], false).unwrap_err();
        assert_eq!(error, "row 1, field `ranks`: [1, 1, 2] is no permutation of 1 to 3");
    }

    #[test]
    fn questions_in_the_layouts_of_the_hub_the_authors_and_the_mirror() {
        let arc = json!({"id": "Mercury_1", "task": "arc", "question": "Which?",
            "choices": ["a", "b", "c"], "answer": 2});
        for row in [
            json!({"id": "Mercury_1", "question": "Which?", "answerKey": "3",
                "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]}}),
            json!({"id": "Mercury_1", "question": "Which?", "answerKey": "C",
                "choices": {"text": ["a", "b", "c"], "label": ["A", "B", "C"]}}),
            json!({"id": "Mercury_1", "question": "Which?", "answerKey": "C",
                "choices": ["a", "b", "c"]}),
            json!({"id": "Mercury_1", "instruction": "Which?", "answer": "C", "option_a": "a",
                "option_b": "b", "option_c": "c", "option_d": null, "option_e": null}),
        ] {
            assert_eq!(one(RowKind::Questions, row.clone()), arc, "{row}");
        }
        let mmlu = json!({"id": "0", "task": "mmlu", "question": "Which?",
            "choices": ["a", "b", "c", "d"], "answer": 1, "subject": "anatomy"});
        for answer in [json!(1), json!("B")] {
            let row = json!({"question": "Which?", "choices": ["a", "b", "c", "d"],
                "answer": answer, "subject": "anatomy"});
            assert_eq!(one(RowKind::Questions, row), mmlu);
        }
        let row = json!({"ind": 24, "activity_label": "Roof", "ctx_a": "A man is on a roof.",
            "ctx_b": "he", "ctx": "A man is on a roof. he", "endings": ["x", "y", "z", "w"],
            "label": "3", "split": "val"});
        assert_eq!(
            one(RowKind::Questions, row),
            json!({"id": "24", "task": "hellaswag", "question": "A man is on a roof. he",
                "choices": ["x", "y", "z", "w"], "answer": 3,
                "hellaswag": {"activity_label": "Roof", "ctx_a": "A man is on a roof.",
                    "ctx_b": "he"}})
        );
    }

    #[test]
    fn names_of_other_files_are_mapped() {
        let rows = json!([{"q": {"text": "Add."}, "a": "3"}]);
        let mapping = [("instruction", "q.text"), ("output", "a")];
        let (mapped, _) = try_import(RowKind::Instructions, &rows, &mapping, false).unwrap();
        assert_eq!(mapped[0]["instruction"], "Add.");
        let error = try_import(RowKind::Instructions, &rows, &mapping[1..], false).unwrap_err();
        assert_eq!(
            error,
            "row 1, field `instruction`: it is missing; the row has a, q. `fields: {instruction: \
             <name>}` says which one it is"
        );
        let (texts, _) =
            try_import(RowKind::Text, &json!([{"t": "\"a\"\n"}]), &[("text", "t")], false).unwrap();
        assert_eq!(texts[0], "a");
    }

    #[test]
    fn what_does_not_fit_names_row_and_field() {
        let good = json!({"instruction": "Add.", "input": null, "output": "3"});
        for (bad, expected) in [
            (
                json!({"instruction": "Add.", "output": 3}),
                "row 2, field `output`: a text is expected, not a number: 3; `convert: true` takes \
                 it as text",
            ),
            (json!({"instruction": " ", "output": "3"}), "row 2, field `instruction`: it is empty"),
            (
                json!({"id": "0", "instruction": "Add.", "output": "3"}),
                "row 2, field `id`: the id `0` has been there before",
            ),
        ] {
            let rows = json!([good, bad]);
            let error = try_import(RowKind::Instructions, &rows, &[], false).unwrap_err();
            assert_eq!(error, expected);
        }
        let rows = json!([good, {"instruction": "Add.", "output": ["3", 4]}]);
        let (rows, imported) = try_import(RowKind::Instructions, &rows, &[], true).unwrap();
        assert_eq!(rows[1]["output"], "[\"3\",4]");
        assert_eq!(imported, Imported { rows: 2, converted: 1 });
        for (row, expected) in [
            (
                json!({"question": "?", "choices": ["a", "b"], "answer": 2}),
                "row 1, field `answer`: 2 names none of the 2 choices",
            ),
            (
                json!({"activity_label": "", "ctx_a": "", "ctx_b": "", "endings": ["a", "b"],
                    "label": ""}),
                "row 1, field `label`: it is empty: this split has no answers",
            ),
            (
                json!({"activity_label": "", "ctx_a": "", "ctx_b": "",
                    "endings": [{"zh": "a", "en": "b"}, "c"], "label": "0"}),
                "row 1, field `endings`: a text is expected, not an object: \
                 {\"en\":\"b\",\"zh\":\"a\"}; `convert: true` takes it as text",
            ),
        ] {
            let error = try_import(RowKind::Questions, &json!([row]), &[], false).unwrap_err();
            assert_eq!(error, expected);
        }
        let error = try_import(RowKind::Prompts, &json!([]), &[], false).unwrap_err();
        assert_eq!(error, "it has no rows");
    }
}

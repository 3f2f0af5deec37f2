//! Rows of JSON, JSON lines and Parquet files, one at a time.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::DataError;

/// A row of a file: names and values.
pub type SourceRow = Map<String, Value>;

/// How a file holds rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON array of objects.
    Json,
    /// One JSON object a line; empty lines count for nothing.
    JsonLines,
    /// Apache Parquet; snappy, zstd, gzip or no compression.
    Parquet,
}

impl Format {
    /// The names that pipelines use.
    pub const NAMES: [&str; 3] = ["json", "jsonl", "parquet"];

    /// The format of that name.
    pub fn from_name(name: &str) -> Option<Format> {
        match name {
            "json" => Some(Format::Json),
            "jsonl" => Some(Format::JsonLines),
            "parquet" => Some(Format::Parquet),
            _ => None,
        }
    }

    /// The format that a file's name promises.
    pub fn of_name(file: &str) -> Option<Format> {
        let (_, extension) = file.rsplit_once('.')?;
        match extension.to_ascii_lowercase().as_str() {
            "json" => Some(Format::Json),
            "jsonl" | "ndjson" => Some(Format::JsonLines),
            "parquet" => Some(Format::Parquet),
            _ => None,
        }
    }
}

/// What is done with each row: its number, from 1, and the row.
pub type Each<'a> = dyn FnMut(u64, SourceRow) -> Result<(), DataError> + 'a;

/// Reads every row of a file, in order, and stops at the first error.
///
/// # Errors
/// When the file cannot be read, is not of that format, or `each` fails.
pub fn read(path: &Path, format: Format, each: &mut Each<'_>) -> Result<(), DataError> {
    let file = File::open(path)?;
    match format {
        Format::Json => read_json(BufReader::new(file), each),
        Format::JsonLines => read_lines(BufReader::new(file), each),
        Format::Parquet => read_parquet(file, each),
    }
}

fn object(row: u64, value: Value) -> Result<SourceRow, DataError> {
    match value {
        Value::Object(object) => Ok(object),
        other => Err(DataError::Row {
            row,
            field: None,
            message: format!("an object is expected, not {}", kind_of(&other)),
        }),
    }
}

/// "a number", "a list", ...
pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing (null)",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn read_lines(mut file: impl BufRead, each: &mut Each<'_>) -> Result<(), DataError> {
    let mut line = Vec::new();
    let mut row = 0;
    for number in 1_u64.. {
        line.clear();
        if file.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let mut text = line.trim_ascii();
        if number == 1 {
            text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        }
        if text.is_empty() {
            continue;
        }
        row += 1;
        let value = serde_json::from_slice(text).map_err(|error| DataError::Row {
            row,
            field: None,
            message: format!("line {number} is no JSON: {error}"),
        })?;
        each(row, object(row, value)?)?;
    }
    Ok(())
}

/// Elements of the array go to `each` while the rest is still unread, so that the size of the file
/// does not matter.
fn read_json(mut file: impl BufRead, each: &mut Each<'_>) -> Result<(), DataError> {
    struct Rows<'a, 'b> {
        each: &'a mut Each<'b>,
        failure: &'a mut Option<DataError>,
    }

    impl<'de> Visitor<'de> for Rows<'_, '_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array of objects")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<(), A::Error> {
            let mut row = 0;
            while let Some(value) = rows.next_element::<Value>()? {
                row += 1;
                let done = object(row, value).and_then(|object| (self.each)(row, object));
                if let Err(error) = done {
                    *self.failure = Some(error);
                    // Whatever is said here, `failure` is what the caller hears.
                    return Err(serde::de::Error::custom("a row does not fit"));
                }
            }
            Ok(())
        }
    }

    impl<'de> DeserializeSeed<'de> for Rows<'_, '_> {
        type Value = ();

        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
            deserializer.deserialize_seq(self)
        }
    }

    if file.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
        file.consume(3);
    }
    let mut failure = None;
    let mut json = serde_json::Deserializer::from_reader(&mut file);
    let read = Rows { each, failure: &mut failure }.deserialize(&mut json);
    if let Some(failure) = failure {
        return Err(failure);
    }
    read.and_then(|()| json.end()).map_err(|error| {
        let hint = match serde_json::Error::is_data(&error) {
            true => "; the file must be one array of objects (for one object a line: format jsonl)",
            false => "",
        };
        DataError::File(format!("it is no JSON array of rows: {error}{hint}"))
    })?;
    Ok(())
}

fn read_parquet(file: File, each: &mut Each<'_>) -> Result<(), DataError> {
    let broken = |error: &dyn fmt::Display| DataError::File(format!("it is no Parquet: {error}"));
    let reader = SerializedFileReader::new(file).map_err(|error| broken(&error))?;
    let rows = reader.get_row_iter(None).map_err(|error| broken(&error))?;
    for (number, row) in (1..).zip(rows) {
        let row = row.map_err(|error| broken(&error))?;
        let mut object = SourceRow::new();
        for (name, field) in row.get_column_iter() {
            object.insert(name.clone(), json(field));
        }
        each(number, object)?;
    }
    Ok(())
}

fn json(field: &Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => Value::Bool(*value),
        Field::Byte(value) => Value::from(*value),
        Field::Short(value) => Value::from(*value),
        Field::Int(value) => Value::from(*value),
        Field::Long(value) => Value::from(*value),
        Field::UByte(value) => Value::from(*value),
        Field::UShort(value) => Value::from(*value),
        Field::UInt(value) => Value::from(*value),
        Field::ULong(value) => Value::from(*value),
        Field::Float(value) => number(f64::from(*value)),
        Field::Double(value) => number(*value),
        Field::Str(value) => Value::String(value.clone()),
        Field::Group(group) => Value::Object(
            group.get_column_iter().map(|(name, field)| (name.clone(), json(field))).collect(),
        ),
        Field::ListInternal(list) => Value::Array(list.elements().iter().map(json).collect()),
        // Bytes, dates, decimals and maps are in no data set of the field: as text they are seen.
        other => Value::String(other.to_string()),
    }
}

fn number(value: f64) -> Value {
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(content: &str, format: Format) -> Result<Vec<SourceRow>, DataError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, content).unwrap();
        let mut rows = Vec::new();
        read(&path, format, &mut |number, row| {
            rows.push(row);
            assert_eq!(number, rows.len() as u64);
            Ok(())
        })?;
        Ok(rows)
    }

    #[test]
    fn arrays_and_lines_give_the_same_rows() {
        let array = rows("\u{feff}[{\"a\": 1}, {\"a\": \"\\u00e4\"}]\n", Format::Json).unwrap();
        let lines = rows("\u{feff}{\"a\": 1}\r\n\n  {\"a\": \"ä\"}", Format::JsonLines).unwrap();
        assert_eq!(array, lines);
        assert_eq!(array.len(), 2);
        assert_eq!(rows("[]", Format::Json).unwrap().len(), 0);
        assert_eq!(rows("", Format::JsonLines).unwrap().len(), 0);
    }

    #[test]
    fn what_is_no_row_is_named() {
        for (content, format, expected) in [
            ("[{}, 3]", Format::Json, "row 2: an object is expected, not a number"),
            ("{}\n[1]\n", Format::JsonLines, "row 2: an object is expected, not a list"),
            ("{}\n\n{\n", Format::JsonLines, "row 2: line 3 is no JSON"),
            ("{\"rows\": []}", Format::Json, "one array of objects"),
            ("[{}] {}", Format::Json, "no JSON array"),
            ("[{}", Format::Json, "EOF"),
            ("PAR1", Format::Parquet, "it is no Parquet"),
        ] {
            let error = rows(content, format).unwrap_err().to_string();
            assert!(error.contains(expected), "{content}: {error}");
        }
    }
}

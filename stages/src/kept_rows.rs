//! What a stage has made so far, kept in its scratch folder, so that a run that was stopped goes on with the rest.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use okapi_engine::stage_context::StageError;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Rows in a file, one JSON object a line.
pub(crate) struct KeptRows<T> {
    path: PathBuf,
    rows: Vec<T>,
}

impl<T: Serialize + DeserializeOwned> KeptRows<T> {
    /// Reads what a run that was stopped has kept; a last line that is not whole was not.
    pub(crate) fn open(scratch: &Path, name: &str) -> Result<KeptRows<T>, StageError> {
        let path = scratch.join(name);
        let io = |source| StageError::Io { path: path.clone(), source };
        std::fs::create_dir_all(scratch).map_err(io)?;
        let mut kept = KeptRows { path: path.clone(), rows: Vec::new() };
        if let Ok(file) = File::open(&path) {
            let lines = BufReader::new(file).lines().map_while(Result::ok);
            kept.rows = lines.map_while(|line| serde_json::from_str(&line).ok()).collect();
            // As a whole again, so that what is appended begins on a line of its own.
            let whole: String = kept.rows.iter().map(line).collect();
            std::fs::write(&path, whole).map_err(io)?;
        }
        Ok(kept)
    }

    /// All of them, in the order in which they were made.
    pub(crate) fn rows(&self) -> &[T] {
        &self.rows
    }

    /// Adds some; they are on the disk when this returns.
    pub(crate) fn add(&mut self, rows: Vec<T>) -> Result<(), StageError> {
        let io = |source| StageError::Io { path: self.path.clone(), source };
        let mut file = File::options().append(true).create(true).open(&self.path).map_err(io)?;
        let lines: String = rows.iter().map(line).collect();
        file.write_all(lines.as_bytes()).and_then(|()| file.sync_data()).map_err(io)?;
        self.rows.extend(rows);
        Ok(())
    }
}

fn line(row: &impl Serialize) -> String {
    let mut line = serde_json::to_string(row).unwrap_or_default();
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_read_but_for_a_broken_end() {
        let folder = tempfile::tempdir().unwrap();
        let open = || KeptRows::<Vec<String>>::open(folder.path(), "rows.jsonl").unwrap();
        let row = |text: &str| vec![text.to_owned()];
        let mut kept = open();
        kept.add(vec![row("a"), row("b")]).unwrap();
        let mut file = File::options().append(true).open(&kept.path).unwrap();
        file.write_all(b"[\"c").unwrap();
        let mut again = open();
        assert_eq!(again.rows().len(), 2);
        again.add(vec![row("d")]).unwrap();
        assert_eq!(open().rows(), [row("a"), row("b"), row("d")]);
    }
}

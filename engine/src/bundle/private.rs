//! What must not be in a bundle: secrets, and who made it where.

use std::io::{self, Read};
use std::path::Path;

use memchr::memmem;

use super::{BundleError, files_below};

/// Shorter secrets and paths are found everywhere.
const SHORTEST: usize = 4;
/// Names are words of their own, and may be shorter.
const SHORTEST_NAME: usize = 3;

/// Names of users and hosts that say nothing about anybody.
const COMMON: [&str; 8] =
    ["root", "user", "admin", "ubuntu", "debian", "runner", "nobody", "localhost"];

/// Words that no file of a bundle may hold.
#[derive(Debug, Clone, Default)]
pub struct Private {
    /// What it is, the word, and whether it counts only where no letter or digit is beside it.
    words: Vec<(String, String, bool)>,
}

/// What is read of a file at once.
const PIECE: usize = 4 << 20;

impl Private {
    /// Adds a secret or a path: it counts wherever it is, also as JSON writes it.
    pub fn add(&mut self, what: impl Into<String>, value: impl Into<String>) {
        let (what, value) = (what.into(), value.into());
        let quoted = serde_json::Value::from(value.as_str()).to_string();
        let escaped = quoted.trim_matches('"').to_owned();
        if escaped != value {
            self.push(what.clone(), escaped, false);
        }
        self.push(what, value, false);
    }

    /// Adds a value that may be a secret, or a word like any other: it counts as a word of its own, unless it is short.
    pub fn add_value(&mut self, what: impl Into<String>, value: impl Into<String>) {
        let value = value.into();
        if value.len() > 2 * SHORTEST {
            self.push(what.into(), value, true);
        }
    }

    /// Adds a name: it counts as a word of its own, unless it is one that many have.
    pub fn add_name(&mut self, what: impl Into<String>, value: impl Into<String>) {
        let value = value.into();
        if !COMMON.contains(&value.as_str()) {
            self.push(what.into(), value, true);
        }
    }

    fn push(&mut self, what: String, value: String, is_word: bool) {
        let shortest = if is_word { SHORTEST_NAME } else { SHORTEST };
        if value.trim().len() >= shortest {
            self.words.push((what, value, is_word));
        }
    }

    /// Looks through every file below a folder.
    ///
    /// # Errors
    /// At the first file that holds something, or cannot be read.
    pub(super) fn search(&self, folder: &Path) -> Result<(), BundleError> {
        for file in files_below(folder)? {
            let path = folder.join(&file);
            let found = match self.held_by(file.as_bytes()) {
                Some(what) => Some(what),
                None => self.search_file(&path).map_err(|error| BundleError::io(&path, error))?,
            };
            if let Some(what) = found {
                return Err(BundleError::Private { file, what: what.to_owned() });
            }
        }
        Ok(())
    }

    /// Reads a file piece by piece, each with the end of the one before.
    fn search_file(&self, path: &Path) -> io::Result<Option<&str>> {
        let mut file = std::fs::File::open(path)?;
        let longest = self.words.iter().map(|(_, value, _)| value.len() + 2).max().unwrap_or(0);
        let (mut bytes, mut piece) = (Vec::new(), vec![0; PIECE]);
        loop {
            let read = file.read(&mut piece)?;
            bytes.extend_from_slice(&piece[..read]);
            if let Some(what) = self.held_by(&bytes) {
                return Ok(Some(what));
            }
            if read == 0 {
                return Ok(None);
            }
            bytes.drain(..bytes.len().saturating_sub(longest));
        }
    }

    /// What these bytes hold of all that is private.
    fn held_by(&self, bytes: &[u8]) -> Option<&str> {
        let mut words = self.words.iter();
        let found = words.find(|(_, value, is_word)| holds(bytes, value.as_bytes(), *is_word))?;
        Some(&found.0)
    }
}

fn holds(bytes: &[u8], value: &[u8], is_word: bool) -> bool {
    let beside =
        |place: Option<&u8>| place.is_some_and(|it| it.is_ascii_alphanumeric() || *it == b'_');
    memmem::find_iter(bytes, value).any(|at| {
        let before = at.checked_sub(1).and_then(|at| bytes.get(at));
        !is_word || !beside(before) && !beside(bytes.get(at + value.len()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_anywhere_and_names_as_words() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        let file = folder.path().join("a/b.txt");
        let mut private = Private::default();
        private.add("the key", "sk-123456");
        private.add_name("the user's name", "anna");
        private.add_name("the user's name", "root");
        private.add("nothing", "");
        private.add("the word", "a\"b\\c\n");
        for (text, found) in [
            ("{\"x\":\"a\\\"b\\\\c\\n\"}", Some("the word")),
            ("root of all, hannah, annalise", None),
            ("xsk-1234567", Some("the key")),
            ("by /home/anna/x", Some("the user's name")),
        ] {
            std::fs::write(&file, text).unwrap();
            let said = private.search(folder.path()).err().map(|error| error.to_string());
            assert_eq!(said, found.map(|what| format!("`a/b.txt` would hold {what}")));
        }
    }
}

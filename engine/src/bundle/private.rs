//! What must not be in a bundle: secrets, and who made it where.

use std::path::Path;

use memchr::memmem;

use super::{BundleError, files_below};

/// Shorter values are found everywhere.
const SHORTEST: usize = 4;

/// Names of users and hosts that say nothing about anybody.
const COMMON: [&str; 8] =
    ["root", "user", "admin", "ubuntu", "debian", "runner", "nobody", "localhost"];

/// Words that no file of a bundle may hold.
#[derive(Debug, Clone, Default)]
pub struct Private {
    /// What it is, the word, and whether it counts only where no letter or digit is beside it.
    words: Vec<(String, String, bool)>,
}

impl Private {
    /// Adds a secret or a path: it counts wherever it is.
    pub fn add(&mut self, what: impl Into<String>, value: impl Into<String>) {
        self.push(what.into(), value.into(), false);
    }

    /// Adds a name: it counts as a word of its own, unless it is one that many have.
    pub fn add_name(&mut self, what: impl Into<String>, value: impl Into<String>) {
        let value = value.into();
        if !COMMON.contains(&value.as_str()) {
            self.push(what.into(), value, true);
        }
    }

    fn push(&mut self, what: String, value: String, is_word: bool) {
        if value.trim().len() >= SHORTEST && value != "/" {
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
            let bytes = std::fs::read(&path).map_err(|error| BundleError::io(&path, error))?;
            for (what, value, is_word) in &self.words {
                if holds(&bytes, value.as_bytes(), *is_word)
                    || holds(file.as_bytes(), value.as_bytes(), *is_word)
                {
                    return Err(BundleError::Private { file, what: what.clone() });
                }
            }
        }
        Ok(())
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
        for (text, found) in [
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

//! What must not be in a bundle: secrets, and who made it where.

use std::io::{self, Read};
use std::path::Path;

use memchr::memmem;

use super::paths::absolute_path;
use super::{BundleError, PROJECT, PUBLISHED, files_below};

/// A kind of what is private.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrivateKind {
    /// A key, token or password.
    Secret,
    /// The name of a user.
    User,
    /// The name of a machine.
    Host,
    /// An absolute path.
    Path,
}

/// Shorter secrets and paths are found everywhere.
const SHORTEST: usize = 4;
/// Names are words of their own, and may be shorter.
const SHORTEST_NAME: usize = 3;

/// Names of users and hosts that say nothing about anybody.
const COMMON: [&str; 18] = [
    "root",
    "user",
    "admin",
    "ubuntu",
    "debian",
    "runner",
    "nobody",
    "localhost",
    "app",
    "build",
    "ci",
    "docker",
    "ec2-user",
    "guest",
    "jovyan",
    "node",
    "okapi",
    "vscode",
];

/// Values of variables that are no secrets, whatever the variable is called.
const TRIVIAL: [&str; 11] = [
    "true", "false", "none", "null", "yes", "auto", "disabled", "enabled", "default", "test",
    "prompt",
];

/// What no file of a bundle may hold.
#[derive(Debug, Clone, Default)]
pub struct Private {
    words: Vec<Word>,
    /// Kinds that may be in it all the same.
    allowed: Vec<PrivateKind>,
}

#[derive(Debug, Clone)]
struct Word {
    kind: PrivateKind,
    /// What it is, without its value.
    what: String,
    value: String,
    /// Whether it counts only where no letter or digit is before it.
    begins_word: bool,
    /// The same of what is behind it.
    ends_word: bool,
}

/// What is read of a file at once.
const PIECE: usize = 4 << 20;

impl Private {
    /// Nothing yet, and some kinds of it never.
    pub fn except(allowed: &[PrivateKind]) -> Private {
        Private { words: Vec::new(), allowed: allowed.to_vec() }
    }

    /// Adds a secret or a path: it counts wherever it is, also as JSON writes it; a path only where it ends, or goes on below.
    pub fn add(&mut self, kind: PrivateKind, what: impl Into<String>, value: impl Into<String>) {
        let (what, value) = (what.into(), value.into().trim().to_owned());
        let quoted = serde_json::Value::from(value.as_str()).to_string();
        let escaped = quoted.trim_matches('"').to_owned();
        if escaped != value {
            self.push(kind, what.clone(), escaped, false);
        }
        self.push(kind, what, value, false);
    }

    /// Adds the value of a variable that is a secret by its name, but may be a word like any other: it counts as a word of its own,
    /// unless it is a number or such as `false`.
    pub fn add_short_secret(&mut self, what: impl Into<String>, value: impl Into<String>) {
        let value = value.into().trim().to_owned();
        let is_number = value.bytes().all(|it| it.is_ascii_digit());
        if value.len() >= SHORTEST && !is_number && !TRIVIAL.contains(&&*value.to_lowercase()) {
            self.push(PrivateKind::Secret, what.into(), value, true);
        }
    }

    /// Adds the value of a variable that may be a secret, or a word like any other: it counts as a word of its own, unless it is
    /// short or such as `false` and `12`.
    pub fn add_value(&mut self, what: impl Into<String>, value: impl Into<String>) {
        let value = value.into().trim().to_owned();
        let is_mixed = value.bytes().any(|it| it.is_ascii_alphabetic())
            && value.bytes().any(|it| !it.is_ascii_lowercase());
        if value.len() > 2 * SHORTEST || is_mixed {
            self.push(PrivateKind::Secret, what.into(), value, true);
        }
    }

    /// Adds a name: it counts as a word of its own, unless it is one that many have.
    pub fn add_name(
        &mut self,
        kind: PrivateKind,
        what: impl Into<String>,
        value: impl Into<String>,
    ) {
        let value = value.into();
        if !COMMON.contains(&value.as_str()) {
            self.push(kind, what.into(), value, true);
        }
    }

    /// Lets names of the user through that this text has as words: it is to be written.
    pub fn allow_names_in(&mut self, text: &str) {
        self.words.retain(|word| {
            word.kind != PrivateKind::User || !word.is_in(text.as_bytes(), true, true)
        });
    }

    fn push(&mut self, kind: PrivateKind, what: String, value: String, is_word: bool) {
        let shortest = if is_word { SHORTEST_NAME } else { SHORTEST };
        if value.trim().len() >= shortest && !self.allowed.contains(&kind) {
            let ends_word = is_word || kind == PrivateKind::Path;
            self.words.push(Word { kind, what, value, begins_word: is_word, ends_word });
        }
    }

    /// Looks through every file below a folder: first through those that a user knows by name.
    ///
    /// # Errors
    /// At the first file that holds something, or cannot be read.
    pub(super) fn search(&self, folder: &Path) -> Result<(), BundleError> {
        let mut files = files_below(folder)?;
        let is_known = |file: &String| {
            [PROJECT, PUBLISHED].iter().any(|top| file.split('/').next() == Some(*top))
        };
        files.sort_by_key(|file| !is_known(file));
        for file in files {
            let path = folder.join(&file);
            let found = match self.held_by(file.as_bytes(), true, true) {
                Some(word) => Some(word),
                None => self.search_file(&path).map_err(|error| BundleError::io(&path, error))?,
            };
            if let Some(Word { kind, what, .. }) = found {
                return Err(BundleError::Private { file, what: what.clone(), kind: *kind });
            }
        }
        Ok(())
    }

    /// Looks for paths of this machine in a text that a user wrote, which is in this file of a bundle.
    ///
    /// # Errors
    /// At the first of them.
    pub(super) fn search_for_paths(&self, text: &str, file: &str) -> Result<(), BundleError> {
        match absolute_path(text).filter(|_| !self.allowed.contains(&PrivateKind::Path)) {
            None => Ok(()),
            Some(path) => Err(BundleError::Private {
                file: file.to_owned(),
                what: format!("the absolute path {path}"),
                kind: PrivateKind::Path,
            }),
        }
    }

    /// Reads a file piece by piece, each with the end of the one before.
    fn search_file(&self, path: &Path) -> io::Result<Option<&Word>> {
        let mut file = std::fs::File::open(path)?;
        let longest = self.words.iter().map(|word| word.value.len() + 2).max().unwrap_or(0);
        let (mut bytes, mut piece) = (Vec::new(), vec![0; PIECE]);
        let mut is_start = true;
        loop {
            let read = file.read(&mut piece)?;
            bytes.extend_from_slice(&piece[..read]);
            if let Some(word) = self.held_by(&bytes, is_start, read == 0) {
                return Ok(Some(word));
            }
            if read == 0 {
                return Ok(None);
            }
            let drained = bytes.len().saturating_sub(longest);
            bytes.drain(..drained);
            is_start &= drained == 0;
        }
    }

    /// What these bytes hold of all that is private. Where a file goes on before or behind them, a word at that edge is one of its
    /// own or not in another piece.
    fn held_by(&self, bytes: &[u8], is_start: bool, is_end: bool) -> Option<&Word> {
        self.words.iter().find(|word| word.is_in(bytes, is_start, is_end))
    }
}

impl Word {
    /// Whether these bytes hold it, as [`Private::held_by`] says.
    fn is_in(&self, bytes: &[u8], is_start: bool, is_end: bool) -> bool {
        let value = self.value.as_bytes();
        memmem::find_iter(bytes, value).any(|at| {
            let after = at + value.len();
            let goes_on_before = match at.checked_sub(1) {
                Some(at) => bytes.get(at).is_some_and(is_of_word),
                None => !is_start,
            };
            let goes_on_after = match bytes.get(after) {
                // A folder's name may go on with a hyphen.
                Some(byte) => is_of_word(byte) || self.kind == PrivateKind::Path && *byte == b'-',
                None => !is_end,
            };
            !(self.begins_word && goes_on_before || self.ends_word && goes_on_after)
        })
    }
}

fn is_of_word(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || *byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Private {
        let mut private = Private::default();
        private.add(PrivateKind::Secret, "the key", "sk-123456");
        private.add_name(PrivateKind::User, "the user's name", "anna");
        private.add_name(PrivateKind::User, "the user's name", "root");
        private.add(PrivateKind::Secret, "nothing", "");
        private.add(PrivateKind::Secret, "the word", "a\"b\\c\n");
        private.add_value("a short one", "pw12");
        private.add(PrivateKind::Path, "the project", "/mnt");
        private.add_short_secret("a word", "hunter");
        private.add_short_secret("no secret", "True");
        private.add(PrivateKind::Secret, "with an end", " line-end\n");
        private.add_value("no secret", "false");
        private.add_value("no secret", "100");
        private
    }

    #[test]
    fn secrets_are_found_anywhere_and_names_as_words() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        let file = folder.path().join("a/b.txt");
        for (text, found) in [
            ("{\"x\":\"a\\\"b\\\\c\\n\"}", Some("the word")),
            ("root of all, hannah, annalise, pw123, false, 100", None),
            ("xsk-1234567", Some("the key")),
            ("it is pw12.", Some("a short one")),
            ("by /home/anna/x", Some("the user's name")),
            ("https://example.org/mnt-data, /mnt2", None),
            ("in /mnt/x", Some("the project")),
            ("in /mnt.", Some("the project")),
            ("it is hunter", Some("a word")),
            ("hunters, true", None),
            ("yy line-end yy", Some("with an end")),
        ] {
            std::fs::write(&file, text).unwrap();
            let said = words().search(folder.path()).err().map(|error| error.to_string());
            assert_eq!(said, found.map(|what| format!("`a/b.txt` would hold {what}")));
        }
    }

    #[test]
    fn whoever_is_named_as_author_may_be_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "by anna").unwrap();
        let mut private = words();
        private.allow_names_in("Hannah B.");
        assert!(private.search(folder.path()).is_err());
        private.allow_names_in("anna b.");
        assert!(private.search(folder.path()).is_ok());
    }

    #[test]
    fn what_a_user_knows_by_name_is_named_first() {
        let folder = tempfile::tempdir().unwrap();
        for part in ["actions", "objects", "project"] {
            std::fs::create_dir(folder.path().join(part)).unwrap();
            std::fs::write(folder.path().join(part).join("a"), "by anna").unwrap();
        }
        let said = words().search(folder.path()).unwrap_err().to_string();
        assert_eq!(said, "`project/a` would hold the user's name");
    }

    #[test]
    fn where_a_file_is_cut_makes_no_difference() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        for (text, is_found) in [("hannah", false), (" anna ", true), ("xsk-1234567", true)] {
            for shift in 0..16 {
                let mut bytes = vec![b'.'; PIECE - shift];
                bytes.extend_from_slice(text.as_bytes());
                bytes.extend_from_slice(&[b'.'; 20]);
                std::fs::write(&file, &bytes).unwrap();
                let found = words().search(folder.path()).is_err();
                assert_eq!(found, is_found, "{text} at {}", bytes.len());
            }
        }
        std::fs::write(&file, "by anna").unwrap();
        assert!(words().search(folder.path()).is_err());
    }
}

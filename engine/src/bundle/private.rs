//! What must not be in a bundle: secrets, and who made it where.

use std::io::{self, Read};
use std::path::Path;

use memchr::memmem;

use super::{BundleError, files_below};

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
const COMMON: [&str; 8] =
    ["root", "user", "admin", "ubuntu", "debian", "runner", "nobody", "localhost"];

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
    /// Whether it counts only where no letter or digit is beside it.
    is_word: bool,
}

/// What is read of a file at once.
const PIECE: usize = 4 << 20;

impl Private {
    /// Nothing yet, and some kinds of it never.
    pub fn except(allowed: &[PrivateKind]) -> Private {
        Private { words: Vec::new(), allowed: allowed.to_vec() }
    }

    /// Adds a secret or a path: it counts wherever it is, also as JSON writes it.
    pub fn add(&mut self, kind: PrivateKind, what: impl Into<String>, value: impl Into<String>) {
        let (what, value) = (what.into(), value.into());
        let quoted = serde_json::Value::from(value.as_str()).to_string();
        let escaped = quoted.trim_matches('"').to_owned();
        if escaped != value {
            self.push(kind, what.clone(), escaped, false);
        }
        self.push(kind, what, value, false);
    }

    /// Adds the value of a variable that may be a secret, or a word like any other: it counts as a word of its own, unless it is
    /// short or such as `false` and `12`.
    pub fn add_value(&mut self, what: impl Into<String>, value: impl Into<String>) {
        let value = value.into();
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

    fn push(&mut self, kind: PrivateKind, what: String, value: String, is_word: bool) {
        let shortest = if is_word { SHORTEST_NAME } else { SHORTEST };
        if value.trim().len() >= shortest && !self.allowed.contains(&kind) {
            self.words.push(Word { kind, what, value, is_word });
        }
    }

    /// Looks through every file below a folder.
    ///
    /// # Errors
    /// At the first file that holds something, or cannot be read.
    pub(super) fn search(&self, folder: &Path) -> Result<(), BundleError> {
        for file in files_below(folder)? {
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
        self.words.iter().find(|word| {
            let value = word.value.as_bytes();
            memmem::find_iter(bytes, value).any(|at| {
                let is_edge = at == 0 && !is_start || at + value.len() == bytes.len() && !is_end;
                let before = at.checked_sub(1).and_then(|at| bytes.get(at));
                let after = bytes.get(at + value.len());
                !word.is_word || !is_edge && !is_of_word(before) && !is_of_word(after)
            })
        })
    }
}

fn is_of_word(byte: Option<&u8>) -> bool {
    byte.is_some_and(|it| it.is_ascii_alphanumeric() || *it == b'_')
}

/// Folders that every machine has.
const OF_SYSTEMS: [&str; 14] = [
    "bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "nix", "proc", "run", "sbin", "sys",
    "tmp", "usr",
];

/// Folders in which people and laboratories keep what is theirs.
const OF_PEOPLE: [&str; 16] = [
    "Users", "Volumes", "data", "gpfs", "home", "lustre", "media", "mnt", "nfs", "opt", "project",
    "projects", "root", "scratch", "srv", "work",
];

/// The first absolute path in a text that says something of a machine: none of the folders that all have, and not what merely
/// begins with a slash.
fn absolute_path(text: &str) -> Option<&str> {
    let opens = |it: char| it.is_whitespace() || "\"'`=:,;([{<>|&@".contains(it);
    let mut before = ' ';
    for (at, character) in text.char_indices() {
        let is_start = character == '/' && opens(before);
        before = character;
        if !is_start {
            continue;
        }
        let rest = &text[at + 1..];
        let is_part =
            |it: char| it.is_alphanumeric() || matches!(it, '.' | '_' | '-' | '+' | '~' | '$');
        let length = rest.find(|it: char| !is_part(it) && it != '/').unwrap_or(rest.len());
        let path = rest[..length].trim_end_matches(['/', '.']);
        let Some((first, below)) = path.split_once('/') else { continue };
        if first.is_empty() || below.is_empty() || OF_SYSTEMS.contains(&first) {
            continue;
        }
        if OF_PEOPLE.contains(&first) || Path::new("/").join(first).is_dir() {
            return Some(&text[at..=at + path.len()]);
        }
    }
    None
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
        ] {
            std::fs::write(&file, text).unwrap();
            let said = words().search(folder.path()).err().map(|error| error.to_string());
            assert_eq!(said, found.map(|what| format!("`a/b.txt` would hold {what}")));
        }
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

    #[test]
    fn paths_that_say_something_of_a_machine_are_known_by_their_form() {
        for (text, path) in [
            ("source: /data/seeds/a.jsonl", Some("/data/seeds/a.jsonl")),
            ("PYTHONPATH=/usr/lib/x:/opt/lab/lib.", Some("/opt/lab/lib")),
            ("cat '/home/anna/x'", Some("/home/anna/x")),
            ("https://example.org/data/x and s3://bucket/data/x", None),
            ("/usr/bin/python3 x > /dev/null; /tmp/x", None),
            ("and/or, 1/2, sed s/data/x/, /, //data/x", None),
            ("/no-such-folder-here/x", None),
            ("/data", None),
        ] {
            assert_eq!(absolute_path(text), path, "{text}");
        }
    }
}

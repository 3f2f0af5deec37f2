//! Folders as artifacts: a manifest that lists what is in them, stored as an object itself.
//!
//! ```json
//! {"entries":[{"kind":"dir","path":"a"},
//!             {"digest":"...","executable":false,"kind":"file","path":"a/b","size":3},
//!             {"kind":"symlink","path":"a/c","target":"b"}],
//!  "okapi_tree":1}
//! ```
//!
//! The manifest is canonical JSON; entries are sorted by the bytes of their paths. Every folder is
//! listed, so empty ones count. Times and owners do not count, nor permissions but the right to
//! execute. Symlinks must be relative and stay inside.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use crate::error::AtPath;
use crate::{Digest, StoreError, canonical_json};

/// Stores or hashes one file of a folder; returns digest and size.
pub(crate) type FileSink<'a> = dyn FnMut(&Path) -> Result<(Digest, u64), StoreError> + 'a;

/// The contents of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tree {
    /// Sorted by path.
    pub entries: Vec<TreeEntry>,
    /// The version of the manifest's format: 1.
    pub okapi_tree: u32,
}

/// One file, folder or symlink of a tree. Paths have `/` between parts and are relative to the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TreeEntry {
    /// A file.
    File {
        /// Where.
        path: String,
        /// Of its bytes.
        digest: Digest,
        /// In bytes.
        size: u64,
        /// Whether its owner may execute it.
        executable: bool,
    },
    /// A folder.
    Dir {
        /// Where.
        path: String,
    },
    /// A symlink.
    Symlink {
        /// Where.
        path: String,
        /// Relative, and inside the tree.
        target: String,
    },
}

impl TreeEntry {
    /// Where the entry lies in its tree.
    pub fn path(&self) -> &str {
        match self {
            TreeEntry::File { path, .. }
            | TreeEntry::Dir { path }
            | TreeEntry::Symlink { path, .. } => path,
        }
    }
}

impl Tree {
    /// Lists a folder; `store` stores or hashes each file and returns digest and size.
    pub(crate) fn of_folder(folder: &Path, store: &mut FileSink<'_>) -> Result<Tree, StoreError> {
        let mut entries = Vec::new();
        // A stack, not recursion: folders may be nested deeper than a thread's stack.
        let mut stack = vec![String::new()];
        while let Some(inside) = stack.pop() {
            let path = folder.join(&inside);
            for entry in fs::read_dir(&path).at(&path)? {
                let entry = entry.at(&path)?;
                let absolute = entry.path();
                let unstorable = |reason: &str| StoreError::Unstorable {
                    path: absolute.clone(),
                    reason: reason.to_owned(),
                };
                let name = entry.file_name();
                let name = name.to_str().ok_or_else(|| unstorable("its name is not UTF-8"))?;
                let path =
                    if inside.is_empty() { name.to_owned() } else { format!("{inside}/{name}") };
                let metadata = fs::symlink_metadata(&absolute).at(&absolute)?;
                if metadata.is_dir() {
                    entries.push(TreeEntry::Dir { path: path.clone() });
                    stack.push(path);
                } else if metadata.is_symlink() {
                    let target = fs::read_link(&absolute).at(&absolute)?;
                    let target = target
                        .to_str()
                        .ok_or_else(|| unstorable("its target is not UTF-8"))?
                        .to_owned();
                    if !stays_inside(&path, &target) {
                        return Err(unstorable(&format!(
                            "a symlink to `{target}`, which lies outside the folder"
                        )));
                    }
                    entries.push(TreeEntry::Symlink { path, target });
                } else if metadata.is_file() {
                    let executable = metadata.permissions().mode() & 0o100 != 0;
                    let (digest, size) = store(&absolute)?;
                    entries.push(TreeEntry::File { path, digest, size, executable });
                } else {
                    return Err(unstorable("neither a file, a folder nor a symlink"));
                }
            }
        }
        entries.sort_by(|a, b| a.path().as_bytes().cmp(b.path().as_bytes()));
        Ok(Tree { entries, okapi_tree: 1 })
    }

    /// The manifest's bytes.
    pub fn manifest(&self) -> String {
        let value = serde_json::to_value(self).expect("a tree has string keys only");
        canonical_json::to_string(&value)
    }

    /// Reads a manifest, and makes sure that nothing in it leaves the folder it is placed in.
    pub(crate) fn parse(manifest: &[u8]) -> Result<Tree, String> {
        let tree: Tree = serde_json::from_slice(manifest).map_err(|error| error.to_string())?;
        if tree.okapi_tree != 1 {
            return Err(format!("a tree of format {}", tree.okapi_tree));
        }
        for entry in &tree.entries {
            let path = Path::new(entry.path());
            let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
            if !plain || entry.path().is_empty() {
                return Err(format!("the path `{}` leaves the folder", entry.path()));
            }
            if let TreeEntry::Symlink { path, target } = entry
                && !stays_inside(path, target)
            {
                return Err(format!("the symlink `{path}` leaves the folder"));
            }
        }
        Ok(tree)
    }

    /// The files, with their digests.
    pub fn files(&self) -> impl Iterator<Item = (&str, &Digest)> {
        self.entries.iter().filter_map(|entry| match entry {
            TreeEntry::File { path, digest, .. } => Some((&path[..], digest)),
            _ => None,
        })
    }

    /// The bytes of all files.
    pub fn size(&self) -> u64 {
        self.entries
            .iter()
            .map(|entry| match entry {
                TreeEntry::File { size, .. } => *size,
                _ => 0,
            })
            .sum()
    }
}

/// Whether a symlink at `path` to `target` stays inside the tree, whatever else is in it.
fn stays_inside(path: &str, target: &str) -> bool {
    let mut depth = path.split('/').count() as i64 - 1;
    for part in Path::new(target).components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir => depth -= 1,
            Component::RootDir | Component::Prefix(_) => return false,
        }
        if depth < 0 {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symlinks_must_stay_inside() {
        assert!(stays_inside("a/b", "c"));
        assert!(stays_inside("a/b", "../c"));
        assert!(stays_inside("a", "b/../c"));
        assert!(!stays_inside("a", "../c"));
        assert!(!stays_inside("a/b", "../../c"));
        assert!(!stays_inside("a", "/etc/passwd"));
        assert!(!stays_inside("a", "b/../../a"));
    }

    #[test]
    fn a_manifest_that_leaves_its_folder_is_refused() {
        let entry = |path: &str| {
            format!(r#"{{"entries":[{{"kind":"dir","path":"{path}"}}],"okapi_tree":1}}"#)
        };
        assert!(Tree::parse(entry("a/b").as_bytes()).is_ok());
        for bad in ["../a", "/a", "a/../../b", "", "."] {
            assert!(Tree::parse(entry(bad).as_bytes()).is_err(), "{bad}");
        }
    }
}

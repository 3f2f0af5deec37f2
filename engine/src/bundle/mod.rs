//! Bundles: all that a third party needs to check a run, as one folder.
//!
//! ```text
//! README.md                what this is, and how it is checked
//! bundle.json              each node: its action, its inputs, the digests of its outputs, what was measured ([`Bundle`])
//! actions/<digest>.json    the documents of the actions, named by the BLAKE3 of their bytes
//! project/                 the pipeline, its prompts and tracked files, where they lie in the project
//! published/               the published outputs, the report among them
//! objects/<digest>         what else results refer to and is small: lineages, lists of files
//! environment.json         program, compiler, processor, GPUs: of the machine that wrote this, and of those that made results
//! costs.json               time and money by node
//! ro-crate-metadata.json   the same for programs of others: a Provenance Run Crate (`ro_crate`)
//! digests.b3               of every file; `b3sum --check` reads it
//! digests.sha256           of every file; `sha256sum --check` reads it
//! ```
//!
//! Outputs that are not published are named by digest only. [`export`] writes a bundle, [`open`] makes of one what an audit can look at.

mod export;
mod open;
mod paths;
mod private;
mod ro_crate;

use std::collections::BTreeMap;
use std::fs::FileType;
use std::io;
use std::path::{Path, PathBuf};

use okapi_cache::{ActionDigest, Artifact, ResultInfo, StoreError};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

pub use export::{Export, export};
pub use open::{OpenBundle, check, open};
pub use private::{Private, PrivateKind};

/// The version of `bundle.json`.
const VERSION: u32 = 1;

/// What a bundle says.
const BUNDLE: &str = "bundle.json";

/// The lists of digests: they list all other files.
const LISTS: [&str; 2] = ["digests.b3", "digests.sha256"];

/// The files by which a folder is known to be a bundle, or what is left of one.
pub const BUNDLE_FILES: [&str; 3] = [BUNDLE, LISTS[0], LISTS[1]];

/// The folders of a bundle.
const ACTIONS: &str = "actions";
const OBJECTS: &str = "objects";
const PROJECT: &str = "project";
const PUBLISHED: &str = "published";
const FOLDERS: [&str; 4] = [ACTIONS, OBJECTS, PROJECT, PUBLISHED];

/// What a bundle holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// The version of this file: 1.
    pub okapi_bundle: u32,
    /// The program that wrote it.
    pub okapi: String,
    /// The pipeline's name.
    pub name: String,
    /// The pipeline file, from the project's root.
    pub pipeline: String,
    /// The profile, if any.
    pub profile: Option<String>,
    /// `--set` arguments.
    pub set: Vec<String>,
    /// The nodes asked for; empty for all.
    pub targets: Vec<String>,
    /// The license of what is in it, as SPDX names it, if one is stated.
    pub license: Option<String>,
    /// Who made it, if that is said.
    pub author: Option<String>,
    /// In the order of the graph: inputs before their readers.
    pub nodes: Vec<BundledNode>,
}

impl Bundle {
    /// What of the pipeline it shows, if that is not all of it as the file has it: as arguments of a command line.
    pub fn made_with(&self) -> Option<String> {
        let profile = self.profile.iter().map(|it| format!("--profile {it}"));
        let set = self.set.iter().map(|it| format!("--set '{it}'"));
        let words: Vec<String> = profile.chain(set).chain(self.targets.iter().cloned()).collect();
        (!words.is_empty()).then(|| words.join(" "))
    }
}

/// An instance and its result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundledNode {
    /// Its name.
    pub node: String,
    /// Its stage.
    pub stage: String,
    /// The version of its stage.
    pub stage_version: u32,
    /// Its action.
    pub action: ActionDigest,
    /// Whose outputs it reads, by port: `instance:port`.
    pub inputs: BTreeMap<String, Vec<String>>,
    /// Its outputs, by port.
    pub outputs: BTreeMap<String, Artifact>,
    /// Where outputs are published, from the project's root, by port.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub published: BTreeMap<String, Vec<String>>,
    /// What was measured.
    pub result: ResultInfo,
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The folder is not free.
    #[error("{} is there already", path.display())]
    InTheWay {
        /// Where.
        path: PathBuf,
    },
    /// It is no bundle, or one of a newer okapi.
    #[error("{} is no bundle: {message}", path.display())]
    Bad {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A file of it would say where or by whom it was made, or give a secret away.
    #[error("`{file}` would hold {what}")]
    Private {
        /// In the bundle.
        file: String,
        /// What; without its value, if it is a secret or a name.
        what: String,
        /// Of which kind it is.
        kind: PrivateKind,
    },
    /// A node has no result that could be shown.
    #[error("`{node}` has no result")]
    NoResult {
        /// Its name.
        node: String,
    },
}

impl BundleError {
    fn io(path: &Path, source: io::Error) -> BundleError {
        BundleError::Io { path: path.to_owned(), source }
    }
}

/// The SHA-256 of a file, as text.
fn sha256(path: &Path) -> Result<String, BundleError> {
    let mut hasher = sha2::Sha256::new();
    let copied = std::fs::File::open(path).and_then(|mut file| io::copy(&mut file, &mut hasher));
    copied.map_err(|error| BundleError::io(path, error))?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// How the programs that check lists of digests write names that hold a line's end or a backslash: so, and with a
/// backslash before the whole line.
const ESCAPES: [(&str, &str); 3] = [("\\", "\\\\"), ("\n", "\\n"), ("\r", "\\r")];

/// A line of a list of digests, without its end.
fn line_of_list(digest: &str, file: &str) -> String {
    let escaped = ESCAPES.iter().fold(file.to_owned(), |name, (from, to)| name.replace(from, to));
    match escaped == file {
        true => format!("{digest}  {file}"),
        false => format!("\\{digest}  {escaped}"),
    }
}

/// Digest and name of a line of such a list; `None` if it is no such line.
fn split_line_of_list(line: &str) -> Option<(&str, String)> {
    let Some(line) = line.strip_prefix('\\') else {
        let (digest, file) = line.split_once("  ")?;
        return Some((digest, file.to_owned()));
    };
    let (digest, mut rest) = line.split_once("  ")?;
    let mut file = String::new();
    while let Some(at) = rest.find('\\') {
        let (from, to) = ESCAPES.iter().find(|(_, to)| rest[at..].starts_with(to))?;
        file.push_str(&rest[..at]);
        file.push_str(from);
        rest = &rest[at + to.len()..];
    }
    file.push_str(rest);
    Some((digest, file))
}

/// Whether a path from somewhere else stays in the folder that it is joined to.
fn stays_inside(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    !path.is_empty() && parts.all(|part| matches!(part, std::path::Component::Normal(_)))
}

/// Every regular file below a folder, from there, sorted. A folder that is not there has none.
fn files_below(folder: &Path) -> Result<Vec<String>, BundleError> {
    let all = entries_below(folder)?.into_iter();
    Ok(all.filter(|(_, kind)| kind.is_file()).map(|(name, _)| name).collect())
}

/// Whatever lies below a folder and is no folder, from there, sorted; and the folders that are empty.
fn entries_below(folder: &Path) -> Result<Vec<(String, FileType)>, BundleError> {
    let mut entries = Vec::new();
    if !folder.exists() {
        return Ok(entries);
    }
    let mut stack = vec![String::new()];
    while let Some(inside) = stack.pop() {
        let path = folder.join(&inside);
        let io = |error| BundleError::io(&path, error);
        let mut is_empty = true;
        for entry in std::fs::read_dir(&path).map_err(io)? {
            let entry = entry.map_err(io)?;
            is_empty = false;
            let name = entry.file_name().into_string().map_err(|name| BundleError::Bad {
                path: folder.to_owned(),
                message: format!("the name `{}` in it is not UTF-8", name.to_string_lossy()),
            })?;
            let name = if inside.is_empty() { name } else { format!("{inside}/{name}") };
            match entry.file_type().map_err(io)? {
                kind if kind.is_dir() => stack.push(name),
                kind => entries.push((name, kind)),
            }
        }
        if is_empty {
            entries.push((inside, std::fs::metadata(&path).map_err(io)?.file_type()));
        }
    }
    entries.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_can_stand_in_a_list_of_digests() {
        for name in ["a b.txt", "a\\n", "a\\\nb\r", "\\", "\n\n", "  x"] {
            let line = line_of_list("12", name);
            assert_eq!(line.lines().count(), 1, "{line:?}");
            assert_eq!(split_line_of_list(&line), Some(("12", name.to_owned())), "{line:?}");
        }
        assert_eq!(line_of_list("12", "a\\b\n"), "\\12  a\\\\b\\n");
        assert_eq!(split_line_of_list("\\12  a\\x"), None);
    }
}

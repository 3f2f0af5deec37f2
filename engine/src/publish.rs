//! Artifacts into the work tree, by the pipeline's `publish:`.
//!
//! After a run the published paths hold the artifacts, whatever lay there before. A file that was
//! published before and not touched since is replaced; anything else that stands in the way (an
//! edited file, a file that okapi never wrote) is kept beside it under a new name. The user's copy
//! is the user's: it is a copy or a reflink, never a link into the store.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use okapi_cache::{Artifact, Digest, Store, StoreError};
use serde::{Deserialize, Serialize};

use crate::graph::Graph;
use crate::run::Results;

/// What was published last at each path of a project, so that an edit is noticed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Ledger {
    version: u32,
    /// By path from the project's root.
    published: BTreeMap<String, Digest>,
    /// What was about to be published when this was written: after a kill any of it may be in place.
    #[serde(default)]
    pending: BTreeMap<String, Vec<Digest>>,
}

/// A path that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// From the project's root.
    pub path: String,
    /// The instance that made it.
    pub node: String,
    /// Where what lay there was kept, from the project's root.
    pub kept: Option<String>,
}

/// Why an artifact could not be placed.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The work tree refused.
    #[error("cannot publish to {}: {source}", path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path leads out of the project through a symlink.
    #[error("cannot publish to {}: it leads out of the project through a symlink", path.display())]
    Escapes {
        /// As written.
        path: PathBuf,
    },
}

/// Places every published artifact that is there and not in place yet.
///
/// # Errors
/// At the first path that cannot be written; those before it are in place.
pub fn publish(
    store: &Store,
    graph: &Graph,
    project_root: &Path,
    results: Results<'_>,
) -> Result<Vec<Placed>, PublishError> {
    let wanted: Vec<_> = graph
        .publish
        .iter()
        .filter_map(|entry| Some((entry, results.output(entry.instance, entry.port)?)))
        .collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut ledger = Ledger::read(store, project_root);
    let mut placed = Vec::new();
    let mut ledger_changed = false;
    let mut found = Vec::new();
    for (entry, artifact) in wanted {
        let path = project_root.join(&*entry.path);
        let present = artifact_at(store, &path)?;
        let is_ours = ledger.is_ours(&entry.path, present.map(|it| it.digest));
        found.push((entry, artifact, path, present, is_ours));
    }
    let to_place: BTreeMap<String, Digest> = found
        .iter()
        .filter(|(_, artifact, _, present, _)| !is_same(present.as_ref(), artifact))
        .map(|(entry, artifact, ..)| (entry.path.to_string(), artifact.digest))
        .collect();
    if !to_place.is_empty() {
        // Said before it is done: a run that is killed in between leaves files that are ours.
        for (path, digest) in to_place {
            ledger.pending.entry(path).or_default().push(digest);
        }
        ledger.write(store, project_root)?;
        ledger_changed = true;
    }
    for (entry, artifact, path, present, is_ours) in found {
        if !is_same(present.as_ref(), &artifact) {
            stays_inside(project_root, &path)?;
            let kept = match fs::symlink_metadata(&path) {
                // Looked at once more: placing what came before may have taken its time.
                Ok(_) if is_ours && artifact_at(store, &path)? == present => {
                    remove(&path)?;
                    None
                }
                Ok(_) => Some(set_aside(&path)?),
                Err(_) => None,
            };
            place(store, &artifact, &path)?;
            placed.push(Placed {
                path: entry.path.to_string(),
                node: graph.instances[entry.instance as usize].name.to_string(),
                kept: kept.map(|kept| {
                    kept.strip_prefix(project_root).unwrap_or(&kept).display().to_string()
                }),
            });
        }
        let before = ledger.published.insert(entry.path.to_string(), artifact.digest);
        ledger_changed |= before != Some(artifact.digest);
    }
    if ledger_changed {
        ledger.pending.clear();
        ledger.write(store, project_root)?;
    }
    Ok(placed)
}

fn place(store: &Store, artifact: &Artifact, path: &Path) -> Result<(), PublishError> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)
        .map_err(|source| PublishError::Io { path: path.to_owned(), source })?;
    Ok(store.place_in_one_step(artifact, path)?)
}

/// Whether what lies there is the artifact: the list of a folder's files, written as a file, has the folder's digest.
fn is_same(present: Option<&Artifact>, artifact: &Artifact) -> bool {
    present.is_some_and(|it| (it.kind, it.digest) == (artifact.kind, artifact.digest))
}

/// What lies at `path`; `None` if nothing does, or something that is no artifact.
fn artifact_at(store: &Store, path: &Path) -> Result<Option<Artifact>, PublishError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() || metadata.is_dir() => {
            // What cannot be read as an artifact (a tree with a socket in it) is the user's.
            Ok(store.digest_source(path).ok())
        }
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PublishError::Io { path: path.to_owned(), source }),
    }
}

/// Refuses a path whose nearest existing folder lies outside the project.
fn stays_inside(project_root: &Path, path: &Path) -> Result<(), PublishError> {
    let root = fs::canonicalize(project_root)
        .map_err(|source| PublishError::Io { path: project_root.to_owned(), source })?;
    let mut folder = path.parent();
    while let Some(candidate) = folder {
        if let Ok(real) = fs::canonicalize(candidate) {
            return match real.starts_with(&root) {
                true => Ok(()),
                false => Err(PublishError::Escapes { path: path.to_owned() }),
            };
        }
        folder = candidate.parent();
    }
    Err(PublishError::Escapes { path: path.to_owned() })
}

/// Renames what lies at `path` to `<name>.kept`, `<name>.kept-2`, ...
fn set_aside(path: &Path) -> Result<PathBuf, PublishError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for number in 1..10_000 {
        let suffix = if number == 1 { ".kept".to_owned() } else { format!(".kept-{number}") };
        let kept = path.with_file_name(format!("{name}{suffix}"));
        if fs::symlink_metadata(&kept).is_err() {
            fs::rename(path, &kept)
                .map_err(|source| PublishError::Io { path: path.to_owned(), source })?;
            return Ok(kept);
        }
    }
    let source = io::Error::other("too many kept copies lie beside it: remove some");
    Err(PublishError::Io { path: path.to_owned(), source })
}

fn remove(path: &Path) -> Result<(), PublishError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    };
    removed.map_err(|source| PublishError::Io { path: path.to_owned(), source })
}

impl Ledger {
    /// Whether okapi put there what lies at a path.
    fn is_ours(&self, path: &str, present: Option<Digest>) -> bool {
        let mut ours = self
            .published
            .get(path)
            .into_iter()
            .chain(self.pending.get(path).into_iter().flatten());
        present.is_some_and(|present| ours.any(|digest| *digest == present))
    }

    /// The ledger of a project; an empty one if there is none or it cannot be read: then what lies
    /// in the way is kept, and nothing is lost.
    fn read(store: &Store, project_root: &Path) -> Ledger {
        fs::read(Ledger::path(store, project_root))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .filter(|ledger: &Ledger| ledger.version == 1)
            .unwrap_or_default()
    }

    fn write(&mut self, store: &Store, project_root: &Path) -> Result<(), PublishError> {
        self.version = 1;
        let path = Ledger::path(store, project_root);
        let io = |source| PublishError::Io { path: path.clone(), source };
        fs::create_dir_all(path.parent().unwrap_or(&path)).map_err(io)?;
        let text = serde_json::to_vec(self).map_err(|error| io(io::Error::other(error)))?;
        Ok(store.write_file(&path, &text)?)
    }

    fn path(store: &Store, project_root: &Path) -> PathBuf {
        let name = Digest::of(project_root.as_os_str().as_encoded_bytes()).to_string();
        store.runs_folder().join("published").join(name)
    }
}

//! Keeps checked graphs in the store, so that an unchanged pipeline file is not parsed again:
//! parsing YAML is the largest single cost of a run in which nothing is to be done.
//!
//! The key is the digest of everything that checking looks at, except which files exist: the
//! pipeline's text and place, the profile, the overrides, the stages with their versions and params,
//! and this format's version. A file that has vanished since is found when the sources are hashed,
//! and the pipeline is then checked again to say so properly.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;

use okapi_cache::{Digest, Store, StoreError};

use crate::graph::Graph;
use crate::stage::StageRegistry;

/// Raised whenever the meaning or the encoding of [`Graph`] changes.
const VERSION: u32 = 1;

/// Everything that a checked graph depends on.
#[derive(Debug, Clone, Copy)]
pub struct GraphKey<'a> {
    /// The text of the pipeline file.
    pub text: &'a str,
    /// Its place from the project's root.
    pub pipeline: &'a str,
    /// The project's root: a script that names it is warned of, and symlinks are followed.
    pub project_root: &'a str,
    /// The profile.
    pub profile: Option<&'a str>,
    /// `--set` arguments.
    pub overrides: &'a [String],
}

impl GraphKey<'_> {
    /// The key's digest.
    pub fn digest(&self, registry: &StageRegistry) -> Digest {
        let stages: Vec<_> =
            registry.iter().map(|stage| stage.descriptor().fingerprint()).collect();
        let key = serde_json::json!({
            "okapi_graph": VERSION,
            "okapi": env!("CARGO_PKG_VERSION"),
            "text": Digest::of(self.text.as_bytes()).to_string(),
            "pipeline": self.pipeline,
            "project_root": self.project_root,
            "profile": self.profile,
            "overrides": self.overrides,
            "stages": Digest::of(stages.join("\n").as_bytes()).to_string(),
        });
        Digest::of(key.to_string().as_bytes())
    }
}

/// The graph kept under `key`, if there is one that is whole. The file begins with the digest of
/// the rest: a damaged one is as good as none.
pub fn get(store: &Store, key: &Digest) -> Option<Graph> {
    let mut file = fs::File::open(path(store, key)).ok()?;
    let mut digest = [0; 32];
    file.read_exact(&mut digest).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    if Digest::of(&bytes) != Digest::from_bytes(digest) {
        return None;
    }
    postcard::from_bytes(&bytes).ok()
}

/// Keeps a graph under `key`.
///
/// # Errors
/// When the store cannot be written.
pub fn put(store: &Store, key: &Digest, graph: &Graph) -> Result<(), StoreError> {
    let path = path(store, key);
    let body = postcard::to_allocvec(graph)
        .map_err(|error| StoreError::io(&path, io::Error::other(error)))?;
    let mut bytes = Digest::of(&body).as_bytes().to_vec();
    bytes.extend_from_slice(&body);
    fs::create_dir_all(store.graphs_folder())
        .map_err(|error| StoreError::io(&store.graphs_folder(), error))?;
    store.write_file(&path, &bytes)
}

fn path(store: &Store, key: &Digest) -> PathBuf {
    store.graphs_folder().join(key.to_string())
}

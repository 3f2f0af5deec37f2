//! A bundle -> what an audit can look at: a store with its results, and a project.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use okapi_cache::{Access, ArtifactKind, Commit, Digest, Durability, Store};
use sha2::Digest as _;

use super::{
    ACTIONS, BUNDLE, Bundle, BundleError, LISTS, OBJECTS, PROJECT, PUBLISHED, VERSION, files_below,
    hex, stays_inside,
};
use crate::manifest::{Manifest, ManifestText};

/// A bundle that was opened.
pub struct OpenBundle {
    /// What it says.
    pub bundle: Bundle,
    /// The project's root in it.
    pub project: PathBuf,
    /// The published outputs in it.
    pub published: PathBuf,
    /// Its results.
    pub store: Arc<Store>,
    /// The actions that it says its nodes had.
    pub manifest: Manifest,
    /// Files that are not what the lists of digests say: sentences.
    pub files: Vec<String>,
}

/// Opens a bundle; its results come into a new store at `scratch`.
///
/// # Errors
/// When it is no bundle, or cannot be read.
pub fn open(folder: &Path, scratch: &Path) -> Result<OpenBundle, BundleError> {
    let bad = |message: String| BundleError::Bad { path: folder.to_owned(), message };
    let path = folder.join(BUNDLE);
    let text = std::fs::read(&path).map_err(|error| BundleError::io(&path, error))?;
    let bundle: Bundle = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
    if bundle.okapi_bundle != VERSION {
        return Err(bad(format!("it is of version {}", bundle.okapi_bundle)));
    }
    let published = bundle.nodes.iter().flat_map(|node| node.published.values());
    if let Some(path) = published.chain([&bundle.pipeline]).find(|path| !stays_inside(path)) {
        return Err(bad(format!("the path `{path}` leaves it")));
    }
    let store = Arc::new(Store::open(scratch, Access::ReadWrite, Durability::None)?);
    let objects = folder.join(OBJECTS);
    for name in files_below(&objects)? {
        store.ingest(&objects.join(name), ArtifactKind::File)?;
    }
    let mut manifest = ManifestText::with_capacity(bundle.nodes.len());
    for node in &bundle.nodes {
        for (port, path) in &node.published {
            let path = folder.join(PUBLISHED).join(path);
            if let Some(output) = node.outputs.get(port)
                && path.exists()
            {
                store.ingest(&path, output.kind)?;
            }
        }
        let path = folder.join(ACTIONS).join(format!("{}.json", node.action));
        manifest.push(&node.node, &node.action);
        // One that is not there is said to be missing by the audit.
        if let Ok(document) = std::fs::read_to_string(&path) {
            store.commit(Commit {
                action: node.action,
                document,
                outputs: node.outputs.values().copied().collect(),
                info: node.result.clone(),
                lease: None,
            })?;
        }
    }
    store.flush()?;
    let manifest = Manifest::parse(&manifest.finish().0).map_err(|error| bad(error.to_string()))?;
    let (project, published) = (folder.join(PROJECT), folder.join(PUBLISHED));
    let files = compare_lists(folder)?;
    Ok(OpenBundle { bundle, project, published, store, manifest, files })
}

/// Where the files of a bundle are not what its lists of digests say.
fn compare_lists(folder: &Path) -> Result<Vec<String>, BundleError> {
    let mut found = Vec::new();
    let listed = |name: &str| -> Result<BTreeMap<String, String>, BundleError> {
        let path = folder.join(name);
        let text = std::fs::read_to_string(&path).map_err(|error| BundleError::io(&path, error))?;
        let lines = text.lines().filter_map(|line| line.split_once("  "));
        Ok(lines.map(|(digest, file)| (file.to_owned(), digest.to_owned())).collect())
    };
    let (mut b3, mut sha256) = (listed(LISTS[0])?, listed(LISTS[1])?);
    for file in files_below(folder)?.into_iter().filter(|file| !LISTS.contains(&file.as_str())) {
        let path = folder.join(&file);
        let content = std::fs::read(&path).map_err(|error| BundleError::io(&path, error))?;
        let digests = [Digest::of(&content).to_string(), hex(&sha2::Sha256::digest(&content))];
        for ((list, name), digest) in [&mut b3, &mut sha256].into_iter().zip(LISTS).zip(digests) {
            match list.remove(&file) {
                None => found.push(format!("the file `{file}` is not in {name}")),
                Some(listed) if listed != digest => {
                    found.push(format!("the file `{file}` is not what {name} says"));
                }
                Some(_) => {}
            }
        }
    }
    for (list, name) in [b3, sha256].iter().zip(LISTS) {
        found.extend(list.keys().map(|file| format!("the file `{file}` of {name} is not there")));
    }
    Ok(found)
}

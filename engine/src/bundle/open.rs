//! A bundle -> what an audit can look at: a store with its results, and a project.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use okapi_cache::{
    Access, Artifact, ArtifactKind, Commit, Durability, Store, StoreError, hash_source,
};
use serde_json::Value;

use super::export::{COSTS, ENVIRONMENT, README, costs, environment, nodes, readme};
use super::{
    ACTIONS, BUNDLE, Bundle, BundleError, FOLDERS, LISTS, OBJECTS, PROJECT, PUBLISHED, VERSION,
    entries_below, files_below, ro_crate, sha256, split_line_of_list, stays_inside,
};
use crate::audit::{AuditQuestion, Recorded};
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
    // Before anything of it is read: a pipe would be waited for, a link could lead anywhere.
    for (name, kind) in entries_below(folder)? {
        let is_plain =
            kind.is_file() || kind.is_dir() || kind.is_symlink() && is_inner_link(folder, &name);
        if !is_plain {
            return Err(bad(format!("`{name}` is neither a file nor a folder of it")));
        }
    }
    let path = folder.join(BUNDLE);
    let text = std::fs::read(&path).map_err(|error| BundleError::io(&path, error))?;
    let bundle: Bundle = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
    if bundle.okapi_bundle != VERSION {
        return Err(bad(format!("it is of version {}", bundle.okapi_bundle)));
    }
    let published = bundle.nodes.iter().flat_map(|node| node.published.values().flatten());
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
        let all = node.published.iter();
        for (port, path) in all.flat_map(|(port, paths)| paths.iter().map(move |it| (port, it))) {
            let path = folder.join(PUBLISHED).join(path);
            let Some(output) = node.outputs.get(port) else { continue };
            match store.ingest(&path, output.kind) {
                // What cannot be read as what it should be is compared, and named, by the audit.
                Err(StoreError::Unstorable { .. }) => {}
                Err(StoreError::Io { path: at, .. }) if at.starts_with(folder) => {}
                ingested => drop(ingested?),
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

/// Whether a link lies in the project or among published folders, and leads nowhere outside the bundle.
fn is_inner_link(folder: &Path, name: &str) -> bool {
    let lies_in = |part: &str| name.strip_prefix(part).is_some_and(|it| it.starts_with('/'));
    // Through one that leads nowhere nothing is read.
    let leads_out = match (std::fs::canonicalize(folder), std::fs::canonicalize(folder.join(name)))
    {
        (Ok(folder), Ok(target)) => !target.starts_with(folder),
        _ => false,
    };
    [PROJECT, PUBLISHED].into_iter().any(lies_in) && !leads_out
}

/// Whether a file is one of these, or lies in one of these folders.
fn is_among(name: &str, paths: &[&str]) -> bool {
    let mut rests = paths.iter().filter_map(|path| name.strip_prefix(path));
    rests.any(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Where the files of a bundle are not what its lists of digests say.
fn compare_lists(folder: &Path) -> Result<Vec<String>, BundleError> {
    let mut found = Vec::new();
    let mut lists = [BTreeMap::new(), BTreeMap::new()];
    for (list, name) in lists.iter_mut().zip(LISTS) {
        let Ok(text) = std::fs::read_to_string(folder.join(name)) else {
            found.push(format!("the list {name} is not there"));
            continue;
        };
        for line in text.lines() {
            match split_line_of_list(line) {
                Some((digest, file)) if !list.contains_key(&file) => {
                    list.insert(file, digest.to_owned());
                }
                Some((_, file)) => found.push(format!("{name} has the file `{file}` twice")),
                None => found.push(format!("{name} has a line without digest and name: `{line}`")),
            }
        }
    }
    for (file, kind) in entries_below(folder)? {
        if LISTS.contains(&file.as_str()) || kind.is_dir() {
            continue;
        }
        let path = folder.join(&file);
        // Links stay inside, and have the place of a file in no list.
        if !kind.is_file() {
            continue;
        }
        let digests = [hash_source(&path)?.digest.to_string(), sha256(&path)?];
        for ((list, name), digest) in lists.iter_mut().zip(LISTS).zip(digests) {
            match list.remove(&file) {
                None => found.push(format!("the file `{file}` is not in {name}")),
                Some(listed) if listed != digest => {
                    found.push(format!("the file `{file}` is not what {name} says"));
                }
                Some(_) => {}
            }
        }
    }
    for (list, name) in lists.iter().zip(LISTS) {
        found.extend(list.keys().map(|file| format!("the file `{file}` of {name} is not there")));
    }
    Ok(found)
}

/// The objects that results refer to beside their outputs.
fn needed_objects(opened: &OpenBundle, recorded: &[Option<Recorded>]) -> BTreeSet<String> {
    let mut needed = BTreeSet::new();
    let mut need = |artifact: &Artifact, with_files: bool| {
        needed.insert(artifact.digest.to_string());
        if artifact.kind == ArtifactKind::Tree
            && with_files
            && let Ok(tree) = opened.store.read_tree(&artifact.digest)
        {
            needed.extend(tree.files().map(|(_, digest)| digest.to_string()));
        }
    };
    for result in recorded.iter().flatten() {
        result.outputs.iter().for_each(|output| need(output, false));
        result.stored.iter().flat_map(|it| &it.info.keeps).for_each(|kept| need(kept, true));
    }
    needed
}

/// Where a bundle does not say what follows from its pipeline and from its own `bundle.json`: by instance, or for the whole.
///
/// # Errors
/// When its files cannot be read.
pub fn check(
    folder: &Path,
    opened: &OpenBundle,
    question: &AuditQuestion<'_>,
    recorded: &[Option<Recorded>],
) -> Result<Vec<(Option<String>, String)>, BundleError> {
    let bundle = &opened.bundle;
    let mut found: Vec<(Option<String>, String)> =
        opened.files.iter().map(|message| (None, message.clone())).collect();
    let mut whole = |message: String| found.push((None, message));
    // What is derived is derived again.
    let same = |file: &str, text: String| {
        std::fs::read_to_string(folder.join(file)).is_ok_and(|there| there == text)
    };
    let json = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    // Who wrote it is its word alone; the rest is that of `bundle.json`.
    let said = std::fs::read_to_string(folder.join(ENVIRONMENT)).unwrap_or_default();
    let said: Value = serde_json::from_str(&said).unwrap_or_default();
    if !said["written_by"].is_object() {
        whole(format!("`{ENVIRONMENT}` is not there, or does not say what wrote the bundle"));
    }
    for (file, text) in [
        (ENVIRONMENT, json(&environment(bundle, &said["written_by"]))),
        (COSTS, json(&costs(bundle))),
        (README, readme(bundle)),
        (ro_crate::METADATA, json(&ro_crate::metadata(bundle, folder)?)),
    ] {
        if !same(file, text) {
            whole(format!("`{file}` is not what follows from `{BUNDLE}`"));
        }
    }
    if bundle.name != question.graph.name {
        whole(format!("`{BUNDLE}` gives the pipeline another name"));
    }
    for name in files_below(&folder.join(ACTIONS))? {
        let is_named = name.strip_suffix(".json").and_then(|it| it.parse().ok());
        if !bundle.nodes.iter().any(|node| Some(node.action) == is_named) {
            whole(format!("`{ACTIONS}/{name}` is of no node"));
        }
    }
    let needed = needed_objects(opened, recorded);
    for name in files_below(&folder.join(OBJECTS))? {
        if hash_source(&folder.join(OBJECTS).join(&name))?.digest.to_string() != name {
            whole(format!("`{OBJECTS}/{name}` hashes to something else"));
        } else if !needed.contains(&name) {
            whole(format!("`{OBJECTS}/{name}` is of no node"));
        }
    }
    let sources = question.graph.sources.iter().map(|source| &*source.path);
    let tracked: Vec<&str> = sources.chain([&*bundle.pipeline]).collect();
    for (name, _) in entries_below(&folder.join(PROJECT))? {
        if !is_among(&name, &tracked) {
            whole(format!("`{PROJECT}/{name}` is tracked by no node"));
        }
    }
    let at_the_top = [BUNDLE, COSTS, README, ENVIRONMENT, ro_crate::METADATA, LISTS[0], LISTS[1]];
    for (name, kind) in entries_below(folder)? {
        let is_part = match name.split_once('/') {
            Some((top, _)) => FOLDERS.contains(&top),
            None if kind.is_dir() => FOLDERS.contains(&&*name),
            None => at_the_top.contains(&&*name),
        };
        if !is_part {
            whole(format!("`{name}` is no part of a bundle"));
        }
    }
    let published = bundle.nodes.iter().flat_map(|node| node.published.values().flatten());
    let paths: Vec<&str> = published.map(String::as_str).collect();
    for (name, _) in entries_below(&folder.join(PUBLISHED))? {
        if !name.is_empty() && !is_among(&name, &paths) {
            whole(format!("`{PUBLISHED}/{name}` is of no node"));
        }
    }
    // The same of every node whose result is there.
    let names: Vec<&str> = bundle.nodes.iter().map(|node| &*node.node).collect();
    let graph = question.graph.instances.iter().zip(&question.selection.needed);
    let wanted: Vec<&str> = graph.filter(|(_, needed)| **needed).map(|(it, _)| &*it.name).collect();
    if names != wanted {
        whole(format!("`{BUNDLE}` lists other nodes, or in another order, than the pipeline has"));
        return Ok(found);
    }
    // What is missing is said by the audit.
    let is_there = |it: &Option<Recorded>| it.as_ref().is_some_and(|it| it.stored.is_some());
    let mut all = recorded.iter().zip(&question.selection.needed);
    if all.any(|(it, needed)| *needed && !is_there(it)) {
        return Ok(found);
    }
    for (said, is) in bundle.nodes.iter().zip(nodes(question, recorded)?) {
        for (what, differs) in [
            ("stage", said.stage != is.stage),
            ("stage_version", said.stage_version != is.stage_version),
            ("inputs", said.inputs != is.inputs),
            ("outputs", said.outputs != is.outputs),
            ("published", said.published != is.published),
        ] {
            if differs {
                let message = format!("`{BUNDLE}` gives it another `{what}` than the pipeline");
                found.push((Some(said.node.clone()), message));
            }
        }
    }
    Ok(found)
}

//! Collection: what no kept result refers to is removed.
//!
//! The caller names the results to keep, the most valuable first. Everything that they refer to
//! stays: outputs, the files of trees, logs, prompts. Whatever else lies in the store goes, results
//! first and objects after, so that a crash in between leaves objects without results and never the
//! reverse.

use std::collections::BTreeSet;
use std::fs;

use crate::artifact::{Artifact, ArtifactKind};
use crate::error::AtPath;
use crate::run_guard::Alone;
use crate::store::Store;
use crate::tree::TreeEntry;
use crate::{ActionDigest, Digest, StoreError};

/// What to keep.
#[derive(Debug, Clone, Default)]
pub struct GcRequest {
    /// Results to keep, the most valuable first.
    pub keep: Vec<ActionDigest>,
    /// Drop kept results from the end of the list until their objects fit in so many bytes.
    pub max_size: Option<u64>,
}

/// What was, or would be, removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Results that stay.
    pub kept_actions: u64,
    /// Results that go.
    pub removed_actions: Vec<ActionDigest>,
    /// How long the work of those took, milliseconds: what making them again would cost.
    pub removed_work_ms: u64,
    /// Objects that stay.
    pub kept_objects: u64,
    /// Their bytes.
    pub kept_bytes: u64,
    /// Objects that go.
    pub removed_objects: u64,
    /// Their bytes.
    pub removed_bytes: u64,
}

/// Removes what `request` does not keep; without being alone it only says what would be removed.
///
/// # Errors
/// When the store cannot be read or written.
pub fn gc(
    store: &Store,
    request: &GcRequest,
    alone: Option<&Alone>,
) -> Result<GcReport, StoreError> {
    store.refresh()?;
    let mut kept = Vec::new();
    let mut marked = BTreeSet::new();
    let mut marked_bytes = 0;
    for action in &request.keep {
        let Some(cached) = store.lookup(action) else { continue };
        let mut objects = BTreeSet::new();
        for output in cached.outputs() {
            mark(store, output, &mut objects);
        }
        if let Some(stored) = store.document(action)? {
            objects.extend(stored.info.log);
            for artifact in &stored.info.keeps {
                mark(store, artifact, &mut objects);
            }
        }
        let new: Vec<_> = objects.difference(&marked).copied().collect();
        let bytes: u64 = new.iter().filter_map(|digest| store.object_size(digest)).sum();
        if request.max_size.is_some_and(|max| marked_bytes + bytes > max) {
            // The next one may be smaller, but it is worth less: the order is the caller's.
            break;
        }
        marked_bytes += bytes;
        marked.extend(new);
        kept.push(*action);
    }
    let mut report = GcReport { kept_actions: kept.len() as u64, ..GcReport::default() };
    let kept_set: BTreeSet<_> = kept.iter().copied().collect();
    for action in store.all_actions() {
        if !kept_set.contains(&action) {
            report.removed_work_ms +=
                store.lookup(&action).map_or(0, |it| u64::from(it.duration_ms()));
            report.removed_actions.push(action);
        }
    }
    let mut doomed = Vec::new();
    store.for_each_object(&mut |digest, path, size| {
        if marked.contains(&digest) {
            report.kept_objects += 1;
            report.kept_bytes += size;
        } else {
            report.removed_objects += 1;
            report.removed_bytes += size;
            doomed.push(path);
        }
        Ok(())
    })?;
    if alone.is_none() {
        return Ok(report);
    }
    if !report.removed_actions.is_empty() {
        store.retain_actions(&kept)?;
    }
    for path in doomed {
        fs::remove_file(&path).at(&path)?;
    }
    store.clear_leftovers()?;
    Ok(report)
}

/// Marks an artifact's objects. One that is not there marks nothing: its result is a miss anyway.
fn mark(store: &Store, artifact: &Artifact, objects: &mut BTreeSet<Digest>) {
    objects.insert(artifact.digest);
    if artifact.kind == ArtifactKind::Tree
        && let Ok(tree) = store.read_tree(&artifact.digest)
    {
        objects.extend(tree.entries.iter().filter_map(|entry| match entry {
            TreeEntry::File { digest, .. } => Some(*digest),
            _ => None,
        }));
    }
}

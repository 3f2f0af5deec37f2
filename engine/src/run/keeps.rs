//! What results keep beside their outputs: tracked files, prompts and lineage, for `explain` and audits. No result is made anew
//! for want of them, so a run puts back what is lost: it was damaged and set aside, or a remote did not have it.

use std::collections::BTreeMap;

use okapi_cache::StoreError;

use super::{RunRequest, Settled};
use crate::action::lineage_artifact;
use crate::evaluate::Evaluation;
use crate::graph::InstanceId;
use crate::lineage::{self, LineageScope};

/// Puts back what the results of this run keep and the store has not.
///
/// # Errors
/// When the store cannot be read or written, or a tracked file cannot be read.
pub(super) fn put_back(
    request: &RunRequest<'_>,
    evaluation: &Evaluation,
    later: &BTreeMap<InstanceId, Settled>,
) -> Result<(), StoreError> {
    let RunRequest { graph, sources, store, .. } = request;
    let action = |id: InstanceId| {
        let later = || Some(later.get(&id)?.action);
        evaluation.action(id).or_else(later)
    };
    let mut are_kept = vec![false; sources.len()];
    for (id, instance) in (0..).zip(&graph.instances) {
        let Some(its_action) = action(id) else { continue };
        let prompts = instance.prompts.iter().map(|(_, source)| source);
        for &source in instance.files.iter().chain(prompts) {
            are_kept[source as usize] = true;
        }
        if instance.lineage == LineageScope::None {
            continue;
        }
        // What is kept is looked for before the text is made anew, which may have thousands of ancestors.
        let kept = store.document(&its_action)?.and_then(|it| it.info.keeps.last().copied());
        if kept.is_none_or(|it| store.is_complete(&it)) {
            continue;
        }
        let text = lineage::text(graph, &lineage::measures_in(store), id, |ancestor| {
            action(ancestor).expect("ancestors of an instance with a result have results")
        });
        if let Some(text) = text.filter(|text| Some(lineage_artifact(text)) == kept) {
            store.put_bytes(text.as_bytes())?;
        }
    }
    for (source, artifact) in graph.sources.iter().zip(*sources).zip(are_kept).filter_map(
        |((source, artifact), is_kept)| Some((source, artifact.as_ref().filter(|_| is_kept)?)),
    ) {
        if !store.is_complete(artifact) {
            // One that has changed since it was hashed is stored as what it is now, and harms nobody.
            store.ingest(&request.project_root.join(&*source.path), artifact.kind)?;
        }
    }
    Ok(())
}

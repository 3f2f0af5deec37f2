//! `okapi gc`.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use okapi_cache::gc::{GcRequest, gc as collect};
use okapi_cache::{Access, ActionDigest, Durability, Store, StoreError};
use okapi_engine::executor::slurm::leftovers::{self, Leftover, LeftoverState};
use okapi_engine::run_record::{self, RunInfo};
use okapi_remote::Remote;
use serde_json::json;

use crate::cli::{GcArgs, Global, RemoteArgs};
use crate::env_vars;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::project;
use crate::sharing;
use crate::ui::{format, output};

/// What jobs of a killed run have made, or are about to read, no result refers to yet.
fn look_after_jobs(store: &Store, root: &Path, forget_jobs: bool) -> Result<(), Failure> {
    let mut jobs = leftovers::look_at(store, &leftovers::forget_settled(store));
    if forget_jobs {
        // Of those that see the store none is at work at this moment: it would keep the store to itself.
        if let Err(said) = leftovers::cancel(&jobs) {
            output::note(&format!("warning: the jobs were forgotten, and not cancelled: {said}"));
        }
    }
    let is_gone = |it: &Leftover| forget_jobs || it.state == LeftoverState::Gone;
    let gone = jobs.iter().filter(|it| is_gone(it));
    let remote = match gone.clone().any(|it| it.by_mail) {
        true => remote_of_jobs(root),
        false => None,
    };
    leftovers::forget(store, remote.as_ref(), gone);
    jobs.retain(|it| !is_gone(it));
    let of_state = |state| jobs.iter().filter(|it| it.state == state).count() as u64;
    let told: Vec<String> =
        [(LeftoverState::AtWork, "at work"), (LeftoverState::HasResult, "with a result")]
            .into_iter()
            .filter(|(state, _)| of_state(*state) > 0)
            .map(|(state, word)| format!("{} {word}", of_state(state)))
            .collect();
    if jobs.is_empty() {
        return Ok(());
    }
    let jobs = format::count(jobs.len() as u64, "job");
    let message =
        format!("a run that was killed has left {jobs} of a cluster: {}", told.join(", "));
    Err(Failure::unwritten(message).with_hint(
        "`okapi run` takes up what they make; `okapi gc --forget-jobs` cancels and forgets them"
            .to_owned(),
    ))
}

/// The remote on which there is something of jobs, if it is named as for a run.
fn remote_of_jobs(root: &Path) -> Option<Arc<Remote>> {
    let why = match sharing::for_jobs(&RemoteArgs::default(), root) {
        Ok(Some(named)) => return Some(named.remote),
        Ok(None) => {
            format!(
                "none that may be written is named by {} or the settings",
                env_vars::OKAPI_REMOTE
            )
        }
        Err(failure) => failure.message().to_owned(),
    };
    output::note(&format!(
        "warning: what jobs have on their remote stays there for `okapi gc --remote`: {why}"
    ));
    None
}

/// Removes what kept runs do not need.
pub(crate) fn gc(global: &Global, arguments: &GcArgs) -> Result<ExitCode, Failure> {
    if arguments.remote.is_some() {
        return super::share::gc(global, arguments);
    }
    let root = project::root_without_pipeline(global)?;
    // Looked for before it is opened for writing: a collector makes no store.
    project::open_store(global, &root, Access::ReadOnly, Durability::None)?;
    let store = project::open_store(global, &root, Access::ReadWrite, Durability::Batch)?;
    // From here on no run adds results that would be missed below.
    let alone = if arguments.dry_run { None } else { Some(store.alone()?) };
    if alone.is_some() {
        store.refresh()?;
        look_after_jobs(&store, &root, arguments.forget_jobs)?;
    }
    store.refresh()?;
    let (kept, dropped) = split(run_record::list(&store)?, arguments.keep_runs);
    let request = GcRequest { keep: actions_to_keep(&store, &kept)?, max_size: arguments.max_size };
    let report = collect(&store, &request, alone.as_ref())?;
    if alone.is_some() {
        run_record::remove(&store, &dropped, &kept)?;
    }
    if arguments.json {
        output::print_json(&json!({
            "version": 1,
            "dry_run": arguments.dry_run,
            "removed": {
                "objects": report.removed_objects,
                "bytes": report.removed_bytes,
                "results": report.removed_actions.len(),
                "work_ms": report.removed_work_ms,
                "runs": dropped.len(),
            },
            "kept": {
                "objects": report.kept_objects,
                "bytes": report.kept_bytes,
                "results": report.kept_actions,
                "runs": kept.len(),
            },
        }))?;
        return Ok(ExitCode::Done);
    }
    let verb = if arguments.dry_run { "would remove" } else { "removed" };
    output::print(&format!(
        "{verb} {} ({}) and {}; making them again would take {}\n\
         kept {} ({}) and {} of {}\n",
        format::count(report.removed_objects, "object"),
        format::size(report.removed_bytes),
        format::count(report.removed_actions.len() as u64, "result"),
        format::duration(report.removed_work_ms),
        format::count(report.kept_objects, "object"),
        format::size(report.kept_bytes),
        format::count(report.kept_actions, "result"),
        format::count(kept.len() as u64, "run"),
    ))?;
    Ok(ExitCode::Done)
}

/// Runs to keep and runs to drop, both with the newest first. The last run of each pipeline is kept,
/// however many runs of others came after it: a project's rare pipeline is not worth less.
fn split(mut runs: Vec<RunInfo>, keep: u64) -> (Vec<RunInfo>, Vec<RunInfo>) {
    runs.reverse();
    let mut pipelines = BTreeSet::new();
    let mut number = 0;
    runs.into_iter().partition(|run| {
        number += 1;
        pipelines.insert(run.pipeline.clone()) || number <= keep
    })
}

/// The results of every pipeline's newest state first, then those of the kept runs, the newest
/// first, then those that a killed run left.
fn actions_to_keep(store: &Store, kept: &[RunInfo]) -> Result<Vec<ActionDigest>, StoreError> {
    let pipelines: BTreeSet<_> = kept.iter().map(|run| run.pipeline.as_str()).collect();
    let heads = pipelines.into_iter().map(|pipeline| run_record::head(store, pipeline));
    let of_runs =
        kept.iter().filter_map(|run| run_record::manifest(store, &run.end.as_ref()?.manifest?));
    let mut seen = BTreeSet::new();
    let mut actions = Vec::new();
    for manifest in heads.chain(of_runs) {
        for (_, action) in manifest.iter() {
            if seen.insert(action) {
                actions.push(action);
            }
        }
    }
    actions.extend(left_by_killed_runs(store, kept, &seen)?);
    Ok(actions)
}

/// A run that was killed has no manifest, and its results may have cost hours. They are those made
/// since it began that no other run names; the newest first.
fn left_by_killed_runs(
    store: &Store,
    kept: &[RunInfo],
    known: &BTreeSet<ActionDigest>,
) -> Result<Vec<ActionDigest>, StoreError> {
    let killed = kept.iter().filter(|run| run.end.is_none());
    let Some(began) = killed.map(|run| run.started_unix_ms).min() else { return Ok(Vec::new()) };
    let mut left = Vec::new();
    for action in store.all_actions() {
        if known.contains(&action) {
            continue;
        }
        if let Some(stored) = store.document(&action)?
            && stored.info.finished_unix_ms >= began
        {
            left.push((stored.info.finished_unix_ms, action));
        }
    }
    left.sort_unstable_by(|a, b| b.cmp(a));
    Ok(left.into_iter().map(|(_, action)| action).collect())
}

#[cfg(test)]
mod tests {
    use okapi_cache::Digest;

    use super::*;

    fn run(id: &str, pipeline: &str) -> RunInfo {
        RunInfo {
            version: 1,
            id: id.to_owned(),
            okapi: String::new(),
            pipeline: pipeline.to_owned(),
            pipeline_digest: Digest::of(b""),
            profile: None,
            overrides: Vec::new(),
            targets: Vec::new(),
            started_unix_ms: 0,
            end: None,
        }
    }

    #[test]
    fn the_last_run_of_each_pipeline_is_kept() {
        let runs = ["1 a", "2 b", "3 a", "4 a"].map(|it| run(&it[..1], &it[2..]));
        let ids = |runs: &[RunInfo]| runs.iter().map(|run| run.id.clone()).collect::<String>();
        for (keep, kept, dropped) in [(1, "42", "31"), (2, "432", "1"), (9, "4321", "")] {
            let split = split(runs.to_vec(), keep);
            assert_eq!((&*ids(&split.0), &*ids(&split.1)), (kept, dropped));
        }
    }
}

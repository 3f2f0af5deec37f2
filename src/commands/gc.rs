//! `okapi gc`.

use std::collections::BTreeSet;
use std::fs;

use okapi_cache::gc::{GcRequest, gc as collect};
use okapi_cache::{ActionDigest, Store};
use okapi_engine::run_record::{self, RunInfo};

use crate::cli::{GcArgs, Global};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::project;
use crate::ui::{format, output};

/// Removes what kept runs do not need.
pub(crate) fn gc(global: &Global, arguments: &GcArgs) -> Result<ExitCode, Failure> {
    let root = project::root_without_pipeline(global)?;
    // Looked for before it is opened for writing: a collector makes no store.
    project::open_store(
        global,
        &root,
        okapi_cache::Access::ReadOnly,
        okapi_cache::Durability::None,
    )?;
    let store = project::open_store(
        global,
        &root,
        okapi_cache::Access::ReadWrite,
        okapi_cache::Durability::Batch,
    )?;
    let mut runs = run_record::list(&store)?;
    runs.reverse();
    let (kept, dropped) = runs.split_at(runs.len().min(arguments.keep_runs.max(1)));
    let request = GcRequest {
        keep: actions_to_keep(&store, kept),
        max_size: arguments.max_size,
        dry_run: arguments.dry_run,
    };
    let report = collect(&store, &request)?;
    if !arguments.dry_run {
        dropped.iter().try_for_each(|run| {
            let folder = store.runs_folder().join(&run.id);
            fs::remove_dir_all(&folder).map_err(|error| {
                Failure::failed(format!("cannot remove {}: {error}", folder.display()))
            })
        })?;
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

/// The results of every pipeline's newest state first, then those of the kept runs, the newest
/// first.
fn actions_to_keep(store: &Store, kept: &[RunInfo]) -> Vec<ActionDigest> {
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
    actions
}

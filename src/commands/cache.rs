//! `okapi cache`: what a store holds, and whether it is in order; `share` has what is about remotes.

use std::collections::{BTreeMap, BTreeSet};

use okapi_cache::verify::verify;
use okapi_cache::{Access, ActionDigest, Durability, Store};
use okapi_engine::run_record;
use okapi_engine::spend::Spend;
use serde_json::json;

use super::{runs, share};
use crate::cli::{CacheCommand, Global, RemoteArgs};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::project;
use crate::ui::{format, output, table};

/// Looks after the store.
pub(crate) fn cache(global: &Global, command: &CacheCommand) -> Result<ExitCode, Failure> {
    match command {
        CacheCommand::Stats { json } => stats(global, *json),
        CacheCommand::Verify { repair, json, remote: None, .. } => check(global, *repair, *json),
        CacheCommand::Verify { repair, json, sample, remote: Some(url) } => {
            share::verify(global, &RemoteArgs::of_flag(url), *sample, *repair, *json)
        }
        CacheCommand::Push(arguments) => share::push(global, arguments),
        CacheCommand::Pull(arguments) => share::pull(global, arguments),
    }
}

fn stats(global: &Global, as_json: bool) -> Result<ExitCode, Failure> {
    let store = runs::store(global)?;
    let stats = store.stats()?;
    let runs = run_record::list(&store)?;
    let mut spend = Spend::default();
    runs.iter().filter_map(|run| run.end.as_ref()).for_each(|end| spend.add(&end.spend));
    if as_json {
        output::print_json(&json!({
            "version": 1,
            "store": store.root().display().to_string(),
            "objects": stats.objects,
            "object_bytes": stats.object_bytes,
            "actions": stats.actions,
            "log_bytes": stats.log_bytes,
            "records": stats.records,
            "record_bytes": stats.record_bytes,
            "work_folders": stats.work_folders,
            "scratch_folders": stats.scratch_folders,
            "quarantined": stats.quarantined,
            "kept_runs": runs.len(),
            "teachers": spend,
        }))?;
        return Ok(ExitCode::Done);
    }
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("store", store.root().display().to_string()),
        row("objects", format!("{} ({})", stats.objects, format::size(stats.object_bytes))),
        row("results", format!("{} ({})", stats.actions, format::size(stats.log_bytes))),
        row("records", format!("{} ({})", stats.records, format::size(stats.record_bytes))),
        row("working folders", stats.work_folders.to_string()),
        row("scratch folders", stats.scratch_folders.to_string()),
        row("quarantined", stats.quarantined.to_string()),
    ];
    if !spend.is_empty() {
        let asked = format!(
            "{} for {}",
            format::money(spend.nano_usd),
            format::count(spend.requests, "request")
        );
        let saved = format!(
            "{} for {}",
            format::money(spend.saved_nano_usd),
            format::count(spend.recorded, "request")
        );
        rows.push(row(
            "teachers cost",
            format!("{asked} in the {} kept", format::count(runs.len() as u64, "run")),
        ));
        rows.push(row("records saved", saved));
    }
    output::print(&table::render(&rows))?;
    Ok(ExitCode::Done)
}

fn check(global: &Global, repair: bool, as_json: bool) -> Result<ExitCode, Failure> {
    let store = if repair {
        runs::store(global)?;
        let root = project::root_without_pipeline(global)?;
        project::open_store(global, &root, Access::ReadWrite, Durability::Batch)?
    } else {
        runs::store(global)?
    };
    let report = verify(&store, repair, &mut |_| {})?;
    let damaged: Vec<_> = report.damaged.iter().map(ToString::to_string).collect();
    let nodes = match report.incomplete.is_empty() && report.without_document.is_empty() {
        true => BTreeMap::new(),
        false => nodes_by_action(&store)?,
    };
    let named = |action: &ActionDigest| match nodes.get(action) {
        Some(node) => format!("`{node}` (action {action})"),
        None => format!("action {action}, which no kept run names,"),
    };
    let without_document = report.without_document.iter();
    let without_document: Vec<_> = without_document
        .map(|action| json!({ "action": action, "node": nodes.get(action) }))
        .collect();
    let incomplete: Vec<_> = report
        .incomplete
        .iter()
        .map(|(action, output)| {
            json!({ "action": action, "node": nodes.get(action), "output": output.digest })
        })
        .collect();
    if as_json {
        output::print_json(&json!({
            "version": 1,
            "good_objects": report.good_objects,
            "good_bytes": report.good_bytes,
            "good_records": report.good_records,
            "damaged": damaged,
            "incomplete": incomplete,
            "without_document": without_document,
            "damaged_log_bytes": report.damaged_log_bytes,
        }))?;
    } else {
        let mut text = format!(
            "{} in order ({})\n",
            format::count(report.good_objects, "object"),
            format::size(report.good_bytes)
        );
        for digest in &damaged {
            let done = if repair { ", moved to quarantine" } else { "" };
            text.push_str(&format!("damaged: object {digest}{done}\n"));
        }
        for (action, lost) in &report.incomplete {
            text.push_str(&format!(
                "incomplete: the result of {} lost its output {}; it will be made anew\n",
                named(action),
                lost.digest
            ));
        }
        for action in &report.without_document {
            text.push_str(&format!(
                "incomplete: the result of {} lost its document; `okapi run --force NODE` makes it anew\n",
                named(action)
            ));
        }
        if report.damaged_log_bytes > 0 {
            text.push_str(&format!(
                "damaged: {} of the logs of results and records; those will be made anew\n",
                format::size(report.damaged_log_bytes)
            ));
        }
        output::print(&text)?;
    }
    Ok(if report.is_clean() { ExitCode::Done } else { ExitCode::StoreTrouble })
}

/// An instance that has, or had, each action.
fn nodes_by_action(store: &Store) -> Result<BTreeMap<ActionDigest, String>, Failure> {
    let mut nodes = BTreeMap::new();
    let manifests: BTreeSet<_> =
        run_record::list(store)?.iter().filter_map(|run| run.end.as_ref()?.manifest).collect();
    for manifest in manifests.iter().filter_map(|digest| run_record::manifest(store, digest)) {
        for (name, action) in manifest.iter() {
            nodes.entry(action).or_insert_with(|| name.to_owned());
        }
    }
    Ok(nodes)
}

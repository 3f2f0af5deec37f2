//! `okapi diff`.

use okapi_cache::Store;
use okapi_engine::explain::with_lines;
use okapi_engine::manifest::Manifest;
use okapi_engine::run_diff::{Cause, Kind, MetricDiff, NodeDiff, RunDiff, compare, facts};
use okapi_engine::run_record::{self, RunInfo};
use serde_json::{Value, json};

use super::explain::change_to_json;
use super::runs;
use crate::cli::{DiffArgs, Global};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::ui::{color, output, run_diff};

/// Compares two runs.
pub(crate) fn diff(global: &Global, arguments: &DiffArgs) -> Result<ExitCode, Failure> {
    let store = runs::store(global)?;
    let old = runs::find(&store, &arguments.old)?;
    let new = runs::find(&store, &arguments.new)?;
    let (old_manifest, new_manifest) = (manifest(&store, &old)?, manifest(&store, &new)?);
    let diff =
        compare(&store, &okapi_stages::registry(), (&old, &old_manifest), (&new, &new_manifest))?;
    if arguments.json {
        output::print_json(&to_json(&store, &old, &new, &diff))?;
        return Ok(ExitCode::Done);
    }
    let shown = run_diff::Shown { all: arguments.all, colored: color::stdout(global.color) };
    output::print(&run_diff::render(&store, &old, &new, &diff, shown))?;
    Ok(ExitCode::Done)
}

fn manifest(store: &Store, run: &RunInfo) -> Result<Manifest, Failure> {
    run.end.as_ref().and_then(|end| run_record::manifest(store, &end.manifest?)).ok_or_else(|| {
        Failure::failed(format!("the run {} did not end, so it cannot be compared", run.id))
            .with_hint("`okapi runs` lists those that did".to_owned())
    })
}

fn to_json(store: &Store, old: &RunInfo, new: &RunInfo, diff: &RunDiff) -> Value {
    let facts = facts(old, new);
    let facts = facts.iter().map(|it| json!({ "fact": it.fact, "old": it.old, "new": it.new }));
    let metrics = diff.metrics();
    let metrics = metrics.iter().map(|(node, it)| {
        json!({ "node": node.node, "metric": it.metric, "old": it.old, "new": it.new })
    });
    let names = |cause| diff.caused_by(cause).map(|node| &node.node).collect::<Vec<_>>();
    json!({
        "version": 1,
        "old": old.id,
        "new": new.id,
        "facts": facts.collect::<Vec<_>>(),
        "metrics": metrics.collect::<Vec<_>>(),
        "first": names(Cause::Own),
        "dependants": names(Cause::Inputs),
        "same": diff.same,
        "nodes": diff.nodes.iter().map(|node| node_to_json(store, node)).collect::<Vec<_>>(),
    })
}

fn node_to_json(store: &Store, node: &NodeDiff) -> Value {
    // Here, version 1 has the metrics of instances that both runs have.
    let metrics = node.metrics.iter().filter(|_| node.kind == Kind::Changed);
    let metrics = metrics
        .map(|MetricDiff { metric, old, new }| json!({ "metric": metric, "old": old, "new": new }));
    let outputs = node.outputs.as_ref().map(|outputs| {
        let outputs = outputs.iter();
        outputs
            .map(|it| json!({ "port": it.port, "old": it.old, "new": it.new }))
            .collect::<Vec<_>>()
    });
    let fields = node
        .fields
        .iter()
        .map(|field| change_to_json(&with_lines(store, field.change.clone(), None, |_| None)));
    json!({
        "node": node.node,
        "change": run_diff::word(node.kind),
        "fields": fields.collect::<Vec<_>>(),
        "same_outputs": node.has_same_outputs(),
        "outputs": outputs,
        "metrics": metrics.collect::<Vec<_>>(),
    })
}

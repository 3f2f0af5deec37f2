//! `okapi diff`.

use std::collections::BTreeSet;

use okapi_cache::{ActionDigest, Store};
use okapi_engine::action_diff::{self, FieldChange};
use okapi_engine::manifest::Manifest;
use okapi_engine::run_record::{self, RunInfo};
use serde_json::json;

use super::runs;
use crate::cli::{DiffArgs, Global};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::ui::{format, output};

/// What differs in one node between two runs.
#[derive(serde::Serialize)]
struct NodeDiff {
    node: String,
    /// `added`, `removed` or `changed`.
    change: &'static str,
    fields: Vec<Field>,
    /// Whether the outputs are the same in spite of it.
    same_outputs: bool,
    metrics: Vec<Metric>,
}

#[derive(serde::Serialize)]
struct Field {
    field: String,
    old: Option<String>,
    new: Option<String>,
}

#[derive(serde::Serialize)]
struct Metric {
    metric: String,
    old: Option<f64>,
    new: Option<f64>,
}

/// Compares two runs.
pub(crate) fn diff(global: &Global, arguments: &DiffArgs) -> Result<ExitCode, Failure> {
    let store = runs::store(global)?;
    let old = runs::find(&store, &arguments.old)?;
    let new = runs::find(&store, &arguments.new)?;
    let (old_manifest, new_manifest) = (manifest(&store, &old)?, manifest(&store, &new)?);
    let names: BTreeSet<_> =
        old_manifest.iter().chain(new_manifest.iter()).map(|(name, _)| name).collect();
    let mut nodes = Vec::new();
    let mut same = 0;
    for name in names {
        let before = old_manifest.action(name);
        let after = new_manifest.action(name);
        if before == after {
            same += 1;
        } else {
            nodes.push(compare(&store, name, before, after)?);
        }
    }
    if arguments.json {
        output::print_json(&json!({
            "version": 1, "old": old.id, "new": new.id, "same": same, "nodes": nodes,
        }))?;
    } else {
        let mut text = format!("{} -> {}\n", old.id, new.id);
        nodes.iter().for_each(|node| text.push_str(&describe(node)));
        text.push_str(&format!(
            "{} changed, {same} the same\n",
            format::count(nodes.len() as u64, "node")
        ));
        output::print(&text)?;
    }
    Ok(ExitCode::Done)
}

fn manifest(store: &Store, run: &RunInfo) -> Result<Manifest, Failure> {
    run.end.as_ref().and_then(|end| run_record::manifest(store, &end.manifest?)).ok_or_else(|| {
        Failure::failed(format!("the run {} did not end, so it cannot be compared", run.id))
    })
}

fn compare(
    store: &Store,
    name: &str,
    before: Option<ActionDigest>,
    after: Option<ActionDigest>,
) -> Result<NodeDiff, Failure> {
    let change = match (before, after) {
        (None, _) => "added",
        (_, None) => "removed",
        _ => "changed",
    };
    let mut diff = NodeDiff {
        node: name.to_owned(),
        change,
        fields: Vec::new(),
        same_outputs: false,
        metrics: Vec::new(),
    };
    let (Some(before), Some(after)) = (before, after) else { return Ok(diff) };
    if let (Some(old), Some(new)) = (store.lookup(&before), store.lookup(&after)) {
        diff.same_outputs = old.outputs() == new.outputs();
    }
    let (Some(old), Some(new)) = (store.document(&before)?, store.document(&after)?) else {
        return Ok(diff);
    };
    let fields = |document: &str| action_diff::fields(document).unwrap_or_default();
    diff.fields = action_diff::diff(&fields(&old.document), &fields(&new.document))
        .into_iter()
        .map(|FieldChange { field, old, new }| Field { field, old, new })
        .collect();
    let metrics: BTreeSet<_> = old.info.metrics.keys().chain(new.info.metrics.keys()).collect();
    for metric in metrics {
        let (old, new) = (old.info.metrics.get(metric), new.info.metrics.get(metric));
        if old != new {
            diff.metrics.push(Metric {
                metric: metric.clone(),
                old: old.copied(),
                new: new.copied(),
            });
        }
    }
    Ok(diff)
}

fn describe(node: &NodeDiff) -> String {
    let outputs = if node.same_outputs { " (the outputs are the same)" } else { "" };
    let mut text = format!("{:8} {}{outputs}\n", node.change, node.node);
    let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "(none)".to_owned());
    for field in &node.fields {
        text.push_str(&format!(
            "         {}: {} -> {}\n",
            field.field,
            show(&field.old),
            show(&field.new)
        ));
    }
    for metric in &node.metrics {
        let show = |value: Option<f64>| value.map_or("(none)".to_owned(), |it| it.to_string());
        text.push_str(&format!(
            "         {}: {} -> {}\n",
            metric.metric,
            show(metric.old),
            show(metric.new)
        ));
    }
    text
}

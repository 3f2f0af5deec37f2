//! `okapi diff`.

use std::collections::BTreeSet;

use okapi_cache::{ActionDigest, ResultInfo, Store};
use okapi_engine::action::Action;
use okapi_engine::explain::{Change, explain};
use okapi_engine::manifest::Manifest;
use okapi_engine::run_record::{self, RunInfo};
use serde_json::{Value, json};

use super::explain::{change_to_json, describe_change};
use super::runs;
use crate::cli::{DiffArgs, Global};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::ui::{color, output};

/// What differs in one instance between two runs.
struct NodeDiff {
    node: String,
    kind: Kind,
    changes: Vec<Change>,
    metrics: Vec<Metric>,
    /// Whether the outputs are the same in spite of it; `None` if one side has been collected.
    same_outputs: Option<bool>,
}

#[derive(Clone, Copy)]
enum Kind {
    Added,
    Removed,
    Changed,
}

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
        let after = new_manifest.action(name);
        if old_manifest.action(name) == after {
            same += 1;
        } else {
            nodes.push(compare(&store, name, &old_manifest, after)?);
        }
    }
    if arguments.json {
        let nodes: Vec<_> = nodes.iter().map(to_json).collect();
        output::print_json(&json!({
            "version": 1, "old": old.id, "new": new.id, "same": same, "nodes": nodes,
        }))?;
        return Ok(ExitCode::Done);
    }
    let mut text = format!("{} -> {}\n", old.id, new.id);
    if old.pipeline != new.pipeline {
        text.push_str(&format!("pipeline: {} -> {}\n", old.pipeline, new.pipeline));
    }
    let colored = color::stdout(global.color);
    nodes.iter().for_each(|node| text.push_str(&describe(node, colored)));
    let different = nodes.len();
    text.push_str(&format!("nodes that differ: {different} of {}\n", different + same));
    output::print(&text)?;
    Ok(ExitCode::Done)
}

fn manifest(store: &Store, run: &RunInfo) -> Result<Manifest, Failure> {
    run.end.as_ref().and_then(|end| run_record::manifest(store, &end.manifest?)).ok_or_else(|| {
        Failure::failed(format!("the run {} did not end, so it cannot be compared", run.id))
            .with_hint("`okapi runs` lists those that did".to_owned())
    })
}

fn compare(
    store: &Store,
    name: &str,
    old: &Manifest,
    after: Option<ActionDigest>,
) -> Result<NodeDiff, Failure> {
    let before = old.action(name);
    let kind = match (before, after) {
        (None, _) => Kind::Added,
        (_, None) => Kind::Removed,
        _ => Kind::Changed,
    };
    let mut diff = NodeDiff {
        node: name.to_owned(),
        kind,
        changes: Vec::new(),
        metrics: Vec::new(),
        same_outputs: None,
    };
    let (Some(before), Some(after)) = (before, after) else { return Ok(diff) };
    if let (Some(old), Some(new)) = (store.lookup(&before), store.lookup(&after)) {
        diff.same_outputs = Some(old.outputs() == new.outputs());
    }
    let (Some(stored), Some(new)) = (store.document(&before)?, store.document(&after)?) else {
        return Ok(diff);
    };
    let action = Action { document: new.document, digest: after };
    // Both sides are past: the work tree has no say in them.
    diff.changes = explain(store, old, name, &action, |_| None)?.changes;
    diff.metrics = metrics(&stored.info, &new.info);
    Ok(diff)
}

fn metrics(old: &ResultInfo, new: &ResultInfo) -> Vec<Metric> {
    let names: BTreeSet<_> = old.metrics.keys().chain(new.metrics.keys()).collect();
    names
        .into_iter()
        .map(|name| Metric {
            metric: name.clone(),
            old: old.metrics.get(name).copied(),
            new: new.metrics.get(name).copied(),
        })
        .filter(|metric| metric.old != metric.new)
        .collect()
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Added => "added",
            Kind::Removed => "removed",
            Kind::Changed => "changed",
        }
    }
}

fn describe(node: &NodeDiff, colored: bool) -> String {
    let outputs = match (node.kind, node.same_outputs) {
        (Kind::Changed, Some(true)) => "  (its outputs are the same)",
        (Kind::Changed, None) => "  (one of the results has been collected)",
        _ => "",
    };
    let mut text = format!("{:8} {}{outputs}\n", node.kind.word(), node.node);
    for change in &node.changes {
        text.push_str(&format!("  {}\n", change.change.field));
        text.push_str(&describe_change(change, "    ", colored));
    }
    for Metric { metric, old, new } in &node.metrics {
        let show = |value: &Option<f64>| value.map_or("(none)".to_owned(), |it| it.to_string());
        text.push_str(&format!("  metric {metric}\n    {} -> {}\n", show(old), show(new)));
    }
    text
}

fn to_json(node: &NodeDiff) -> Value {
    let metrics: Vec<_> = node
        .metrics
        .iter()
        .map(|it| json!({ "metric": it.metric, "old": it.old, "new": it.new }))
        .collect();
    json!({
        "node": node.node,
        "change": node.kind.word(),
        "fields": node.changes.iter().map(change_to_json).collect::<Vec<_>>(),
        "same_outputs": node.same_outputs,
        "metrics": metrics,
    })
}

//! `okapi diff`.

use std::collections::{BTreeMap, BTreeSet};

use okapi_cache::{ActionDigest, Artifact, ResultInfo, Store};
use okapi_engine::action::Action;
use okapi_engine::action_diff::{FieldChange, fields};
use okapi_engine::explain::{Change, explain};
use okapi_engine::manifest::Manifest;
use okapi_engine::run_record::{self, RunInfo};
use okapi_engine::stage::Outputs;
use serde_json::{Value, json};

use super::explain::{change_to_json, describe_change};
use super::runs;
use crate::cli::{DiffArgs, Global};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::ui::{color, format, output};

/// What differs in one instance between two runs.
struct NodeDiff {
    node: String,
    kind: Kind,
    changes: Vec<Change>,
    metrics: Vec<Metric>,
    /// The output ports whose bytes differ; `None` if one side has been collected.
    outputs: Option<Vec<OutputDiff>>,
}

struct OutputDiff {
    port: String,
    old: Option<Artifact>,
    new: Option<Artifact>,
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
        outputs: None,
    };
    let (Some(before), Some(after)) = (before, after) else { return Ok(diff) };
    let (Some(stored), Some(new)) = (store.document(&before)?, store.document(&after)?) else {
        return Ok(diff);
    };
    if let (Some(old), Some(now)) = (store.lookup(&before), store.lookup(&after)) {
        diff.outputs = Some(differing_outputs(
            &outputs_by_port(&stored.document, old.outputs()),
            &outputs_by_port(&new.document, now.outputs()),
        ));
    }
    let action = Action { document: new.document, digest: after, lineage: None };
    // Both sides are past: the work tree has no say in them.
    diff.changes = explain(store, old, name, &action, |_| None)?.changes;
    diff.metrics = metrics(&stored.info, &new.info);
    Ok(diff)
}

/// The outputs of a result with the names of their ports: those that its document declares, or
/// those of its stage. Where neither fits, as after a change of the stage, they are numbered.
fn outputs_by_port(document: &str, outputs: &[Artifact]) -> BTreeMap<String, Artifact> {
    let fields = fields(document).unwrap_or_default();
    let declared = fields.keys().filter_map(|field| field.strip_prefix("outputs."));
    let mut ports: Vec<_> = declared.map(str::to_owned).collect();
    if ports.is_empty()
        && let Some(stage) = fields.get("stage").map(|stage| FieldChange::text(stage))
        && let Some(stage) = okapi_stages::registry().get(&stage)
        && let Outputs::Fixed(fixed) = stage.descriptor().outputs
    {
        ports.extend(fixed.iter().map(|port| port.name.to_owned()));
    }
    // Outputs are kept in the order of the sorted ports.
    ports.sort();
    if ports.len() != outputs.len() {
        ports = (1..=outputs.len()).map(|number| format!("number {number}")).collect();
    }
    ports.into_iter().zip(outputs.iter().copied()).collect()
}

fn differing_outputs(
    old: &BTreeMap<String, Artifact>,
    new: &BTreeMap<String, Artifact>,
) -> Vec<OutputDiff> {
    let ports: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    ports
        .into_iter()
        .map(|port| OutputDiff {
            port: port.clone(),
            old: old.get(port).copied(),
            new: new.get(port).copied(),
        })
        .filter(|output| output.old != output.new)
        .collect()
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
    let outputs = match (node.kind, &node.outputs) {
        (Kind::Changed, Some(differing)) if differing.is_empty() => "  (its outputs are the same)",
        (Kind::Changed, None) => "  (one of the results has been collected)",
        _ => "",
    };
    let mut text = format!("{:8} {}{outputs}\n", node.kind.word(), node.node);
    for change in &node.changes {
        text.push_str(&format!("  {}\n", change.change.field));
        text.push_str(&describe_change(change, "    ", colored));
    }
    for OutputDiff { port, old, new } in node.outputs.iter().flatten() {
        let show = |artifact: &Option<Artifact>| match artifact {
            Some(it) => format!("{} ({})", it.digest.short(), format::size(it.size)),
            None => "(none)".to_owned(),
        };
        text.push_str(&format!("  output {port}\n    {} -> {}\n", show(old), show(new)));
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
    let outputs = node.outputs.as_ref().map(|outputs| {
        let outputs = outputs.iter();
        outputs
            .map(|it| json!({ "port": it.port, "old": it.old, "new": it.new }))
            .collect::<Vec<_>>()
    });
    json!({
        "node": node.node,
        "change": node.kind.word(),
        "fields": node.changes.iter().map(change_to_json).collect::<Vec<_>>(),
        "same_outputs": node.outputs.as_ref().map(Vec::is_empty),
        "outputs": outputs,
        "metrics": metrics,
    })
}

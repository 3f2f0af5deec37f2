//! What differs between two runs, and where they part: in the nodes whose own fields differ, apart from those that
//! only read something else, and in those that gave another output for the same action.

use std::collections::{BTreeMap, BTreeSet};

use okapi_cache::{ActionDigest, Artifact, Digest, ResultInfo, Store, StoreError};
use serde_json::{Value, json};

use crate::action::parse_artifact;
use crate::action_diff::{FieldChange, diff, fields};
use crate::manifest::Manifest;
use crate::readers::Readers;
use crate::run_record::RunInfo;
use crate::run_reports::unsteady_between;
use crate::stage::{Outputs, StageRegistry};

/// What was asked of one run and not of the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FactDiff {
    /// The member of [`RunInfo`].
    pub fact: &'static str,
    /// Its old value.
    pub old: Value,
    /// Its new value.
    pub new: Value,
}

/// Two runs, compared.
#[derive(Debug)]
pub struct RunDiff {
    /// The instances that differ, by name.
    pub nodes: Vec<NodeDiff>,
    /// How many instances have the same action in both runs, and as far as is known the same outputs.
    pub same: usize,
}

/// What differs in one instance.
#[derive(Debug)]
pub struct NodeDiff {
    /// The instance.
    pub node: String,
    /// Which of the runs have it.
    pub kind: Kind,
    /// The fields that differ, by path; empty if the document of one side is not there any more.
    pub fields: Vec<FieldDiff>,
    /// The output ports whose bytes differ; `None` if one of the results is not there.
    pub outputs: Option<Vec<OutputDiff>>,
    /// The metrics that differ, by name.
    pub metrics: Vec<MetricDiff>,
    /// How far it is from the results; see [`Readers::steps_from_results`].
    pub steps_from_results: usize,
}

/// Which of two runs have an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The new one.
    Added,
    /// Both.
    Changed,
    /// Both, with one action, which gave other outputs when it was executed again.
    Unsteady,
    /// The old one.
    Removed,
}

/// Why an instance differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The runs part here: it came, went, a field of its own differs, or it gives another output each time.
    Own,
    /// Only what it reads differs.
    Inputs,
    /// What differs is not known, as a result has been collected.
    Unknown,
}

/// A field that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldDiff {
    /// The field and its values.
    pub change: FieldChange,
    /// Whether nothing that it reads explains it.
    pub is_own: bool,
}

/// An output that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputDiff {
    /// The port.
    pub port: String,
    /// The artifact of the old run.
    pub old: Option<Artifact>,
    /// The artifact of the new run.
    pub new: Option<Artifact>,
}

/// A metric that differs.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricDiff {
    /// Its name.
    pub metric: String,
    /// Its value in the old run.
    pub old: Option<f64>,
    /// Its value in the new run.
    pub new: Option<f64>,
}

impl NodeDiff {
    /// Why it differs.
    pub fn cause(&self) -> Cause {
        match self.kind {
            Kind::Added | Kind::Removed | Kind::Unsteady => Cause::Own,
            Kind::Changed if self.fields.is_empty() => Cause::Unknown,
            Kind::Changed if self.fields.iter().any(|field| field.is_own) => Cause::Own,
            Kind::Changed => Cause::Inputs,
        }
    }

    /// Whether its outputs came out the same; `None` if that is not known.
    pub fn has_same_outputs(&self) -> Option<bool> {
        self.outputs.as_ref().map(Vec::is_empty)
    }
}

impl RunDiff {
    /// Every metric that differs with its instance: results first, and nothing after what it reads from.
    pub fn metrics(&self) -> Vec<(&NodeDiff, &MetricDiff)> {
        let mut nodes: Vec<_> = self.nodes.iter().collect();
        // Stable: names stay in order.
        nodes.sort_by_key(|node| node.steps_from_results);
        nodes.into_iter().flat_map(|node| node.metrics.iter().map(move |it| (node, it))).collect()
    }

    /// The instances that differ for this cause, by name.
    pub fn caused_by(&self, cause: Cause) -> impl Iterator<Item = &NodeDiff> {
        self.nodes.iter().filter(move |node| node.cause() == cause)
    }
}

/// What was asked of one run and not of the other.
pub fn facts(old: &RunInfo, new: &RunInfo) -> Vec<FactDiff> {
    let values = |run: &RunInfo| {
        [
            ("pipeline", json!(run.pipeline)),
            ("pipeline_digest", json!(run.pipeline_digest)),
            ("profile", json!(run.profile)),
            ("overrides", json!(run.overrides)),
            ("targets", json!(run.targets)),
            ("okapi", json!(run.okapi)),
        ]
    };
    let pairs = values(old).into_iter().zip(values(new));
    pairs
        .filter(|((_, old), (_, new))| old != new)
        .map(|((fact, old), (_, new))| FactDiff { fact, old, new })
        .collect()
}

/// Compares what two runs left, each with its record. Stages of `registry` have the names of their ports.
///
/// # Errors
/// When the store cannot be read.
pub fn compare(
    store: &Store,
    registry: &StageRegistry,
    (old_run, old): (&RunInfo, &Manifest),
    (new_run, new): (&RunInfo, &Manifest),
) -> Result<RunDiff, StoreError> {
    let names: BTreeSet<_> = old.iter().chain(new.iter()).map(|(name, _)| name).collect();
    // The store has the last outputs of an action alone, so that only the records tell.
    let unsteady = unsteady_between(store, &old_run.id, &new_run.id)?;
    let is_unsteady = |name: &str| {
        let action = old.action(name).filter(|action| new.action(name) == Some(*action));
        action.is_some_and(|action| unsteady.contains(&action))
    };
    let is_same = |name: &str| old.action(name) == new.action(name) && !is_unsteady(name);
    let (same, differing): (Vec<&str>, Vec<&str>) = names.into_iter().partition(|it| is_same(it));
    let mut diff = RunDiff { nodes: Vec::with_capacity(differing.len()), same: same.len() };
    if differing.is_empty() {
        return Ok(diff);
    }
    let before = Readers::of(store, old)?;
    let after = Readers::of(store, new)?;
    let (steps_before, steps_after) = (before.steps_from_results(), after.steps_from_results());
    let steady = Steady { old: before.made_only_by(is_same), new: after.made_only_by(is_same) };
    for name in differing {
        let steps = steps_after.get(name).or_else(|| steps_before.get(name));
        let mut node = NodeDiff {
            node: name.to_owned(),
            kind: match (old.action(name), new.action(name)) {
                (None, _) => Kind::Added,
                (_, None) => Kind::Removed,
                _ if is_unsteady(name) => Kind::Unsteady,
                _ => Kind::Changed,
            },
            fields: Vec::new(),
            outputs: None,
            metrics: Vec::new(),
            steps_from_results: steps.copied().unwrap_or_default(),
        };
        // What came of it before is not there any more.
        if node.kind != Kind::Unsteady {
            fill(store, registry, &steady, old.action(name), new.action(name), &mut node)?;
        }
        diff.nodes.push(node);
    }
    Ok(diff)
}

/// The contents whose makers have the same action in both runs.
struct Steady {
    old: BTreeSet<Digest>,
    new: BTreeSet<Digest>,
}

impl Steady {
    /// Whether a field differs for a reason of the instance itself. An input does where what is read, or what was
    /// read before, comes from instances that are the same in both runs: it is read from another place.
    fn is_own(&self, change: &FieldChange) -> bool {
        if change.field == "lineage" {
            return false;
        }
        if !change.field.starts_with("inputs.") {
            return true;
        }
        let is_in = |value: &Option<String>, steady: &BTreeSet<Digest>| {
            let read = value.as_deref().and_then(|value| parse_artifact(&FieldChange::text(value)));
            read.is_some_and(|(_, digest)| steady.contains(&digest))
        };
        is_in(&change.old, &self.old) || is_in(&change.new, &self.new)
    }
}

fn fill(
    store: &Store,
    registry: &StageRegistry,
    steady: &Steady,
    before: Option<ActionDigest>,
    after: Option<ActionDigest>,
    node: &mut NodeDiff,
) -> Result<(), StoreError> {
    let stored = |action: Option<ActionDigest>| match action {
        Some(action) => store.document(&action),
        None => Ok(None),
    };
    let (old, new) = (stored(before)?, stored(after)?);
    node.metrics = match (node.kind, &old, &new) {
        // Of one side only, nothing can be said of what differs.
        (Kind::Changed, None, _) | (Kind::Changed, _, None) => Vec::new(),
        _ => metrics(old.as_ref().map(|it| &it.info), new.as_ref().map(|it| &it.info)),
    };
    let (Some(before), Some(after), Some(old), Some(new)) = (before, after, old, new) else {
        return Ok(());
    };
    let old = fields(&old.document).unwrap_or_default();
    let new = fields(&new.document).unwrap_or_default();
    if let (Some(was), Some(is)) = (store.lookup(&before), store.lookup(&after)) {
        node.outputs = Some(outputs(
            &outputs_by_port(registry, &old, was.outputs()),
            &outputs_by_port(registry, &new, is.outputs()),
        ));
    }
    let changes = diff(&old, &new).into_iter();
    node.fields =
        changes.map(|change| FieldDiff { is_own: steady.is_own(&change), change }).collect();
    Ok(())
}

/// The outputs of a result with the names of their ports: those that its document declares, or
/// those of its stage. Where neither fits, as after a change of the stage, they are numbered.
fn outputs_by_port(
    registry: &StageRegistry,
    fields: &BTreeMap<String, String>,
    outputs: &[Artifact],
) -> BTreeMap<String, Artifact> {
    let declared = fields.keys().filter_map(|field| field.strip_prefix("outputs."));
    let mut ports: Vec<_> = declared.map(str::to_owned).collect();
    if ports.is_empty()
        && let Some(stage) = fields.get("stage").map(|stage| FieldChange::text(stage))
        && let Some(stage) = registry.get(&stage)
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

fn outputs(old: &BTreeMap<String, Artifact>, new: &BTreeMap<String, Artifact>) -> Vec<OutputDiff> {
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

fn metrics(old: Option<&ResultInfo>, new: Option<&ResultInfo>) -> Vec<MetricDiff> {
    let names = [old, new].into_iter().flatten().flat_map(|info| info.metrics.keys());
    let value = |info: Option<&ResultInfo>, name: &str| info?.metrics.get(name).copied();
    names
        .collect::<BTreeSet<_>>()
        .into_iter()
        .map(|name| MetricDiff {
            metric: name.clone(),
            old: value(old, name),
            new: value(new, name),
        })
        .filter(|metric| metric.old != metric.new)
        .collect()
}

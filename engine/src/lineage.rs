//! Lineage: all that an instance's inputs were made from, for stages that say where numbers come from.
//!
//! An action names its inputs by content, so an action further up can change and leave it as it was. A document that
//! names those actions would then be wrong. So an instance whose stage asks for it
//! ([`Stage::lineage`](crate::stage::Stage::lineage)) has the digest of its lineage in its action:
//!
//! ```json
//! {"ancestors":{"count[lang=de]":{"action":"9c1f...","inputs":{"rows":["text[lang=de]"]},
//!    "metrics":{"rows":12.0},"stage":"import","stage_version":1}},
//!  "inputs":{"counts":{"lang=de":{"instance":"count[lang=de]","port":"counts"}}},
//!  "lineage":1}
//! ```
//!
//! The text is canonical JSON, kept in the store with the result, so that a later `explain` can say what differs.
//! Metrics are in it, for they are a function of the action; how long an execution took and what it paid is not, and
//! is in it only where that is asked for ([`LineageScope::ActionsAndTimes`]).

use std::collections::{BTreeMap, BTreeSet};

use okapi_cache::{ActionDigest, Store, canonical_json};
use serde::{Deserialize, Serialize};

use crate::graph::{Graph, InstanceId};

/// The version of the document.
const VERSION: u32 = 1;

/// What of its lineage enters an instance's action, and is handed to its stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LineageScope {
    /// None of it: early cutoff goes through all that is above.
    #[default]
    None,
    /// The actions of all ancestors, and what is a function of them.
    Actions,
    /// That, and how long each execution took and what it paid: another one is another lineage.
    ActionsAndTimes,
}

/// All that an instance's inputs were made from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lineage {
    /// The version of the document: 1.
    pub lineage: u32,
    /// Where each artifact comes from that the instance itself reads, by port and key; the key is empty where the
    /// port does not gather.
    pub inputs: BTreeMap<String, BTreeMap<String, Origin>>,
    /// Whatever these were made from, themselves included, by name.
    pub ancestors: BTreeMap<String, Ancestor>,
}

/// Which instance made an artifact, and on which port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// The instance's name.
    pub instance: String,
    /// The output port.
    pub port: String,
}

/// An instance that has a result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ancestor {
    /// Its stage.
    pub stage: String,
    /// The version of its stage.
    pub stage_version: u32,
    /// Its action.
    pub action: ActionDigest,
    /// Its node's `seed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// The instances that it reads from, by port.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, Vec<String>>,
    /// What its stage counted. Empty too if the details of its result are lost.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, f64>,
    /// The execution that made the result, where that is asked for and known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution: Option<Executed>,
}

/// How the execution went that made a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Executed {
    /// How long the work took, milliseconds.
    pub duration_ms: u64,
    /// What it paid to services outside, millionths of a US dollar.
    #[serde(default)]
    pub cost_micro_usd: u64,
}

/// What of a `declared` object a lineage holds.
#[derive(Deserialize)]
struct Declared {
    stage_version: u32,
    seed: Option<i64>,
}

/// The canonical text of the lineage of an instance, if its stage asks for one. `action_of` gives the action of each
/// of its ancestors; all of them have results.
pub(crate) fn text(
    graph: &Graph,
    store: &Store,
    instance: InstanceId,
    action_of: impl Fn(InstanceId) -> ActionDigest,
) -> Option<String> {
    let with_times = match graph.instances[instance as usize].lineage {
        LineageScope::None => return None,
        LineageScope::Actions => false,
        LineageScope::ActionsAndTimes => true,
    };
    let name = |id: InstanceId| graph.instances[id as usize].name.to_string();
    let inputs = graph.instances[instance as usize].inputs.iter().map(|input| {
        let origins = input.feeds.iter().map(|feed| {
            let port = graph.node(feed.instance).outputs[feed.port as usize].port.clone();
            (feed.key.to_string(), Origin { instance: name(feed.instance), port })
        });
        (input.port.to_string(), origins.collect())
    });
    let ancestor = |id: InstanceId| {
        let reader = &graph.instances[id as usize];
        let inputs = reader.inputs.iter().map(|input| {
            let from: BTreeSet<String> =
                input.feeds.iter().map(|feed| name(feed.instance)).collect();
            (input.port.to_string(), from.into_iter().collect())
        });
        let action = action_of(id);
        // What cannot be read is as good as lost.
        let info = store.document(&action).ok().flatten().map(|stored| stored.info);
        let executed = info.as_ref().map(|info| Executed {
            duration_ms: info.duration_ms,
            cost_micro_usd: info.cost_micro_usd.unwrap_or(0),
        });
        let declared: Option<Declared> = serde_json::from_str(&reader.declared).ok();
        Ancestor {
            stage: graph.node(id).stage.clone(),
            stage_version: declared.as_ref().map_or(0, |it| it.stage_version),
            action,
            seed: declared.and_then(|it| it.seed),
            inputs: inputs.collect(),
            metrics: info.map(|info| info.metrics).unwrap_or_default(),
            execution: executed.filter(|_| with_times),
        }
    };
    let lineage = Lineage {
        lineage: VERSION,
        inputs: inputs.collect(),
        ancestors: ancestors(graph, instance).map(|id| (name(id), ancestor(id))).collect(),
    };
    let value = serde_json::to_value(lineage).expect("names are texts and metrics are finite");
    Some(canonical_json::to_string(&value))
}

/// Whatever an instance's inputs are made from.
fn ancestors(graph: &Graph, instance: InstanceId) -> impl Iterator<Item = InstanceId> {
    // Inputs come before their readers, so one walk from the back marks all of them.
    let mut is_ancestor = vec![false; instance as usize + 1];
    is_ancestor[instance as usize] = true;
    for id in (0..=instance).rev().filter(|&id| id > 0) {
        if is_ancestor[id as usize] {
            let inputs = &graph.instances[id as usize].inputs;
            for feed in inputs.iter().flat_map(|input| &input.feeds) {
                is_ancestor[feed.instance as usize] = true;
            }
        }
    }
    (0..instance).filter(move |&id| is_ancestor[id as usize])
}

/// An ancestor that is other than it was, and not only because one above it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LineageChange {
    /// The ancestor.
    pub(crate) instance: String,
    /// What differs.
    pub(crate) what: String,
}

/// What differs between two lineages: the first ancestors on each way down, and how many differ in all.
pub(crate) fn changes(old: &Lineage, new: &Lineage) -> (Vec<LineageChange>, usize) {
    let names: BTreeSet<&String> = old.ancestors.keys().chain(new.ancestors.keys()).collect();
    let differing: BTreeSet<&String> = names
        .into_iter()
        .filter(|&name| old.ancestors.get(name) != new.ancestors.get(name))
        .collect();
    let is_first = |ancestor: &Ancestor| {
        !ancestor.inputs.values().flatten().any(|above| differing.contains(above))
    };
    let change = |name: &&String| {
        let what = match (old.ancestors.get(*name), new.ancestors.get(*name)) {
            (Some(old), Some(new)) if is_first(new) => what_differs(old, new),
            (None, Some(new)) if is_first(new) => "is new".to_owned(),
            (Some(_), None) => "is no ancestor any more".to_owned(),
            _ => return None,
        };
        Some(LineageChange { instance: (*name).clone(), what })
    };
    (differing.iter().filter_map(change).collect(), differing.len())
}

fn what_differs(old: &Ancestor, new: &Ancestor) -> String {
    if old.action != new.action {
        return format!("action {} -> {}", old.action.0.short(), new.action.0.short());
    }
    if old.metrics != new.metrics {
        let names: BTreeSet<&String> = old.metrics.keys().chain(new.metrics.keys()).collect();
        let names =
            names.into_iter().filter(|&name| old.metrics.get(name) != new.metrics.get(name));
        let names: Vec<&str> = names.map(String::as_str).collect();
        return format!("metrics {}", names.join(", "));
    }
    if old.execution != new.execution {
        return "it was executed again".to_owned();
    }
    "what it reads".to_owned()
}

#[cfg(test)]
mod tests {
    use okapi_cache::Digest;

    use super::*;

    fn lineage(ancestors: &[(&str, &str, &[&str])]) -> Lineage {
        let ancestors = ancestors.iter().map(|(name, action, reads)| {
            let reads: Vec<String> = reads.iter().map(|&it| it.to_owned()).collect();
            let ancestor = Ancestor {
                stage: "command".to_owned(),
                stage_version: 1,
                action: ActionDigest(Digest::of(action.as_bytes())),
                seed: None,
                inputs: BTreeMap::from([("in".to_owned(), reads)]),
                metrics: BTreeMap::new(),
                execution: None,
            };
            ((*name).to_owned(), ancestor)
        });
        Lineage { ancestors: ancestors.collect(), ..Lineage::default() }
    }

    fn first(old: &Lineage, new: &Lineage) -> (Vec<String>, usize) {
        let (first, all) = changes(old, new);
        (first.into_iter().map(|it| it.instance).collect(), all)
    }

    #[test]
    fn of_what_differs_the_first_are_named() {
        let old =
            lineage(&[("a", "1", &[]), ("b", "2", &["a"]), ("c", "3", &["b"]), ("d", "4", &[])]);
        let new =
            lineage(&[("a", "5", &[]), ("b", "6", &["a"]), ("c", "7", &["b"]), ("d", "4", &[])]);
        assert_eq!(first(&old, &new), (vec!["a".to_owned()], 3));
        assert_eq!(first(&old, &old), (vec![], 0));
        let without = lineage(&[("a", "1", &[]), ("c", "9", &["a"]), ("d", "4", &[])]);
        assert_eq!(first(&old, &without), (vec!["b".to_owned(), "c".to_owned()], 2));
        assert_eq!(first(&without, &old), (vec!["b".to_owned()], 2));
    }

    #[test]
    fn what_differs_is_said() {
        let old = lineage(&[("a", "1", &[])]).ancestors.remove("a").unwrap();
        let metrics = Ancestor { metrics: BTreeMap::from([("n".to_owned(), 1.0)]), ..old.clone() };
        let executed = Executed { duration_ms: 1, cost_micro_usd: 0 };
        let again = Ancestor { execution: Some(executed), ..old.clone() };
        assert_eq!(what_differs(&old, &metrics), "metrics n");
        assert_eq!(what_differs(&old, &again), "it was executed again");
    }
}

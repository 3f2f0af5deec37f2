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
use std::fmt::Write as _;

use okapi_cache::canonical_json::{write_string, write_value};
use okapi_cache::{ActionDigest, Measures, Store};
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
///
/// It is written as it goes, as there may be ten thousand ancestors, and each run asks for it.
pub(crate) fn text(
    graph: &Graph,
    measures: &dyn Fn(&ActionDigest) -> Measures,
    instance: InstanceId,
    action_of: impl Fn(InstanceId) -> ActionDigest,
) -> Option<String> {
    let with_times = match graph.instances[instance as usize].lineage {
        LineageScope::None => return None,
        LineageScope::Actions => false,
        LineageScope::ActionsAndTimes => true,
    };
    let mut text = String::from("{\"ancestors\":");
    write_map(&mut text, ancestors(graph, instance), |text, id| {
        write_string(text, &graph.instances[id as usize].name);
        text.push(':');
        write_ancestor(text, graph, measures, id, &action_of(id), with_times);
    });
    text.push_str(",\"inputs\":");
    write_map(&mut text, graph.instances[instance as usize].inputs.iter(), |text, input| {
        write_string(text, &input.port);
        text.push(':');
        write_map(text, input.feeds.iter(), |text, feed| {
            let port = &graph.node(feed.instance).outputs[feed.port as usize].port;
            write_string(text, &feed.key);
            text.push_str(":{\"instance\":");
            write_string(text, &graph.instances[feed.instance as usize].name);
            text.push_str(",\"port\":");
            write_string(text, port);
            text.push('}');
        });
    });
    write!(text, ",\"lineage\":{VERSION}}}").expect("writing to a string never fails");
    Some(text)
}

/// What the results in a store were measured to be. What cannot be read is as good as lost.
pub(crate) fn measures_in(store: &Store) -> impl Fn(&ActionDigest) -> Measures {
    |action| store.measures(action).ok().flatten().unwrap_or_default()
}

/// Writes an [`Ancestor`].
fn write_ancestor(
    text: &mut String,
    graph: &Graph,
    measures: &dyn Fn(&ActionDigest) -> Measures,
    id: InstanceId,
    action: &ActionDigest,
    with_times: bool,
) {
    let reader = &graph.instances[id as usize];
    let measures = measures(action);
    let declared: Option<Declared> = serde_json::from_str(&reader.declared).ok();
    // Writing to a string never fails, here and below.
    let _ = write!(text, "{{\"action\":\"{action}\"");
    if with_times && let Some(duration_ms) = measures.duration_ms {
        let cost_micro_usd = measures.cost_micro_usd.unwrap_or(0);
        let _ = write!(
            text,
            ",\"execution\":{{\"cost_micro_usd\":{cost_micro_usd},\"duration_ms\":{duration_ms}}}"
        );
    }
    if !reader.inputs.is_empty() {
        text.push_str(",\"inputs\":");
        write_map(text, reader.inputs.iter(), |text, input| {
            let feeds = input.feeds.iter();
            let mut from: Vec<&str> =
                feeds.map(|feed| &*graph.instances[feed.instance as usize].name).collect();
            from.sort_unstable();
            from.dedup();
            write_string(text, &input.port);
            text.push_str(":[");
            for (place, name) in from.into_iter().enumerate() {
                if place > 0 {
                    text.push(',');
                }
                write_string(text, name);
            }
            text.push(']');
        });
    }
    if !measures.metrics.is_empty() {
        text.push_str(",\"metrics\":");
        write_map(text, measures.metrics.iter(), |text, (name, value)| {
            write_string(text, name);
            text.push(':');
            write_value(text, &serde_json::Value::from(*value));
        });
    }
    if let Some(seed) = declared.as_ref().and_then(|it| it.seed) {
        let _ = write!(text, ",\"seed\":{seed}");
    }
    text.push_str(",\"stage\":");
    write_string(text, &graph.node(id).stage);
    let version = declared.map_or(0, |it| it.stage_version);
    let _ = write!(text, ",\"stage_version\":{version}}}");
}

fn write_map<T>(
    text: &mut String,
    members: impl Iterator<Item = T>,
    write: impl Fn(&mut String, T),
) {
    text.push('{');
    for (place, member) in members.enumerate() {
        if place > 0 {
            text.push(',');
        }
        write(text, member);
    }
    text.push('}');
}

/// Whatever an instance's inputs are made from, by name.
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
    let mut ids: Vec<_> = (0..instance).filter(|&id| is_ancestor[id as usize]).collect();
    ids.sort_unstable_by_key(|&id| &graph.instances[id as usize].name);
    ids.into_iter()
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

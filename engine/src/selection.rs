//! Which instances a command line asks for, and all that they need.

use std::collections::BTreeSet;

use crate::graph::{Graph, InstanceId};
use crate::suggest;

/// The instances that a command works on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The instances that were asked for, sorted.
    pub targets: Vec<InstanceId>,
    /// For every instance of the graph: is it a target, or needed by one?
    pub needed: Vec<bool>,
}

/// A target that matches nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no node or instance is named `{target}`")]
pub struct UnknownTarget {
    /// As written.
    pub target: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Selection {
    /// Selects every instance.
    pub fn everything(graph: &Graph) -> Selection {
        Selection {
            targets: (0..graph.instances.len() as InstanceId).collect(),
            needed: vec![true; graph.instances.len()],
        }
    }

    /// Selects what `targets` name, and all that it needs. A target is a node (all its instances),
    /// an instance (`translate[lang=ru]`), or some instances of a node
    /// (`train[size=7b]` takes every instance whose `size` is `7b`). No targets: everything.
    ///
    /// # Errors
    /// Every target that matches nothing.
    pub fn new(graph: &Graph, targets: &[String]) -> Result<Selection, Vec<UnknownTarget>> {
        if targets.is_empty() {
            return Ok(Selection::everything(graph));
        }
        let mut selected = BTreeSet::new();
        let mut unknown = Vec::new();
        for target in targets {
            let found = matching(graph, target);
            if found.is_empty() {
                unknown
                    .push(UnknownTarget { target: target.clone(), hint: hint_for(graph, target) });
            }
            selected.extend(found);
        }
        if !unknown.is_empty() {
            return Err(unknown);
        }
        let mut needed = vec![false; graph.instances.len()];
        for &target in &selected {
            needed[target as usize] = true;
        }
        // Inputs come before their readers, so one walk from the back marks all ancestors.
        for id in (0..graph.instances.len()).rev() {
            if needed[id] {
                for input in &graph.instances[id].inputs {
                    for feed in &input.feeds {
                        needed[feed.instance as usize] = true;
                    }
                }
            }
        }
        Ok(Selection { targets: selected.into_iter().collect(), needed })
    }

    /// Whether every instance is selected.
    pub fn is_everything(&self) -> bool {
        self.needed.iter().all(|&needed| needed)
    }

    /// How many instances are selected.
    pub fn len(&self) -> usize {
        self.needed.iter().filter(|&&needed| needed).count()
    }

    /// Whether nothing is selected.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The instances that one target names, sorted.
pub fn matching(graph: &Graph, target: &str) -> Vec<InstanceId> {
    let (node_name, wanted) = match target.split_once('[') {
        None => (target, None),
        Some((node, rest)) => match rest.strip_suffix(']') {
            Some(key) => (node, Some(key.split(',').collect::<Vec<_>>())),
            None => return Vec::new(),
        },
    };
    let Some(node) = graph.nodes.iter().position(|node| node.name == node_name) else {
        return Vec::new();
    };
    let instances = (0..graph.instances.len() as InstanceId)
        .filter(|&id| graph.instances[id as usize].node as usize == node);
    match wanted {
        None => instances.collect(),
        Some(wanted) => instances
            .filter(|&id| {
                let axes = axis_values(&graph.instances[id as usize].name);
                wanted.iter().all(|value| axes.contains(value))
            })
            .collect(),
    }
}

/// The `axis=value` parts of an instance's name, as written there.
pub fn axis_values(name: &str) -> Vec<&str> {
    match name.split_once('[').and_then(|(_, rest)| rest.strip_suffix(']')) {
        Some(key) => key.split(',').collect(),
        None => Vec::new(),
    }
}

fn hint_for(graph: &Graph, target: &str) -> Option<String> {
    let node_name = target.split('[').next().unwrap_or(target);
    if graph.nodes.iter().any(|node| node.name == node_name) {
        let example = graph
            .instances
            .iter()
            .find(|instance| instance.name.split('[').next() == Some(node_name))?;
        return Some(format!("an instance of this node is `{}`", example.name));
    }
    let names: Vec<_> = graph.nodes.iter().map(|node| node.name.as_str()).collect();
    if let Some(nearest) = suggest::nearest(node_name, names.iter().copied()) {
        return Some(format!("did you mean `{nearest}`?"));
    }
    let shown = names.iter().take(12).copied().collect::<Vec<_>>().join(", ");
    Some(format!("nodes of this pipeline: {shown}"))
}

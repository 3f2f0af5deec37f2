//! Which instances share a service outside whose rate any one of them can use up.
//!
//! A service that allows so many requests a minute gives two instances that ask it at once half of them each: together
//! they end when one after the other would have, but the first ends later, and so does all that waits for it. Hence the
//! schedule lets few of them ask at once ([`crate::schedule::ASKING_AT_ONCE`]).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::graph::Graph;
use crate::stage::{NodeField, StageRegistry};

/// A number for each service of a pipeline.
pub type ServiceId = u16;

/// The service of each instance, if it has one whose rate it shares with others.
pub fn services(graph: &Graph, registry: &StageRegistry) -> Vec<Option<ServiceId>> {
    let of_node = |name: &str| {
        registry.get(name).filter(|it| it.descriptor().fields.contains(&NodeField::Teacher))
    };
    let stages: Vec<_> = graph.nodes.iter().map(|node| of_node(&node.stage)).collect();
    let mut known: BTreeMap<String, ServiceId> = BTreeMap::new();
    let of_instance = |instance: &crate::graph::Instance| {
        let stage = stages[instance.node as usize]?;
        let declared: Value = serde_json::from_str(&instance.declared).ok()?;
        let settings: Value = serde_json::from_str(&instance.settings).ok()?;
        let name = stage.limiting_service(&declared, &settings)?;
        let next = ServiceId::try_from(known.len()).unwrap_or(ServiceId::MAX);
        Some(*known.entry(name).or_insert(next))
    };
    graph.instances.iter().map(of_instance).collect()
}

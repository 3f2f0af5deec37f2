//! How long each instance will probably take: what the schedule's critical path is made of.

use super::RunRequest;
use crate::graph::InstanceId;
use crate::manifest::Manifest;

/// The expected duration of each instance, milliseconds, at least 1.
///
/// An instance takes what it took the last time (under whatever action it had then); one that never
/// ran takes the mean of its node's other instances; a node that never ran, the mean of all.
pub(super) fn expected_durations(request: &RunRequest<'_>, previous: &Manifest) -> Vec<u64> {
    let instances = &request.graph.instances;
    let known: Vec<Option<u64>> = instances
        .iter()
        .map(|instance| {
            let action = previous.action(&instance.name)?;
            Some(u64::from(request.store.lookup(&action)?.duration_ms()))
        })
        .collect();
    let mut all = Mean::default();
    let mut by_node = vec![Mean::default(); request.graph.nodes.len()];
    for (instance, known) in instances.iter().zip(&known) {
        if let Some(duration) = known {
            all.add(*duration);
            by_node[instance.node as usize].add(*duration);
        }
    }
    let expected = |id: InstanceId| {
        let node = instances[id as usize].node as usize;
        known[id as usize].or(by_node[node].get()).or(all.get()).unwrap_or(1).max(1)
    };
    (0..instances.len() as InstanceId).map(expected).collect()
}

#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    sum: u64,
    count: u64,
}

impl Mean {
    fn add(&mut self, value: u64) {
        self.sum += value;
        self.count += 1;
    }

    fn get(self) -> Option<u64> {
        (self.count > 0).then(|| self.sum / self.count)
    }
}

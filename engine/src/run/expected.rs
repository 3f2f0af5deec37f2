//! How long each instance will probably take: what the schedule's critical path is made of.

use super::{RunRequest, question};
use crate::estimate::{Estimate, estimates};
use crate::evaluate::Evaluation;
use crate::graph::InstanceId;
use crate::manifest::Manifest;

/// What a request to a service is taken to take, milliseconds, where nothing was ever asked.
const REQUEST_MS: u64 = 10;
/// What an instance is taken to take, milliseconds, of which nobody can say anything.
const UNKNOWN_MS: u64 = 1000;

/// The expected duration of each instance, milliseconds, at least 1.
///
/// An instance takes what it took the last time (under whatever action it had then); one that never
/// ran takes the mean of its node's other instances; a node that never ran, the mean of all. Where nothing is there at
/// all, instances take what their stages reckon.
pub(super) fn expected_durations(
    request: &RunRequest<'_>,
    evaluation: &Evaluation,
    previous: &Manifest,
) -> Vec<u64> {
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
    if all.get().is_none() && evaluation.count_cached() == 0 {
        return reckoned_durations(request, evaluation);
    }
    let expected = |id: InstanceId| {
        let node = instances[id as usize].node as usize;
        known[id as usize].or(by_node[node].get()).or(all.get()).unwrap_or(1).max(1)
    };
    (0..instances.len() as InstanceId).map(expected).collect()
}

/// What the instances of a pipeline take of which nothing is there yet. Later it would cost too much to ask: stages then
/// read their inputs and count.
fn reckoned_durations(request: &RunRequest<'_>, evaluation: &Evaluation) -> Vec<u64> {
    let found = estimates(&question(request), evaluation, &request.registry, request.project_root);
    let reckoned = |id: InstanceId| found.get(&id).map_or(0, reckoned_duration);
    let count = request.graph.instances.len() as InstanceId;
    (0..count).map(|id| reckoned(id).max(UNKNOWN_MS)).collect()
}

fn reckoned_duration(estimate: &Estimate) -> u64 {
    let computing = estimate.work.map_or(0, |work| work.ms);
    computing.max(estimate.requests.saturating_mul(REQUEST_MS))
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

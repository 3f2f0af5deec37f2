//! Which instances compute on a GPU, where the pipeline leaves that to the machine.
//!
//! A pipeline file says nothing of the machine, and numbers from a GPU are not those of the processor to the last
//! bit. So the choice is made when the machine is known, and before any action is: it is written into `declared`,
//! and what was computed in one way is never taken for what was computed in the other.

use okapi_cache::canonical_json;

use crate::graph::{ALL_SLOTS, Graph};
use crate::machine::Machine;
use crate::stage::StageRegistry;

/// Has every stage that can compute on a GPU say, for each of its instances, whether it does, and gives those
/// that do as many as they take.
pub fn choose(graph: &mut Graph, registry: &StageRegistry, machine: &Machine) {
    let stages: Vec<_> = graph.nodes.iter().map(|node| registry.get(&node.stage)).collect();
    for instance in &mut graph.instances {
        let Some(stage) = stages[instance.node as usize].filter(|stage| stage.can_use_gpu()) else {
            continue;
        };
        let Ok(mut declared) = serde_json::from_str(&instance.declared) else { continue };
        let settings = serde_json::from_str(&instance.settings).unwrap_or_default();
        let there = match instance.is_on_cluster() {
            // What a job gets is what its node asks for.
            true => instance.resources.gpu as usize,
            false => machine.gpus.len(),
        };
        let gpus = stage.choose_device(&mut declared, &settings, there);
        instance.declared = canonical_json::to_string(&declared).into();
        if gpus > 0 && instance.resources.cpu_milli == ALL_SLOTS {
            // Where the node does not say, as many run beside each other as there are GPUs, and one share is left for
            // those that need none: else a teacher that is asked would keep a GPU idle.
            let shares = machine.gpus.len() as u32 + 1;
            instance.resources.cpu_milli = (machine.slots.saturating_mul(1000) / shares).max(1000);
        }
        instance.resources.gpu = instance.resources.gpu.max(gpus);
    }
}

//! Which instances compute on a GPU, where the pipeline leaves that to the machine.
//!
//! A pipeline file says nothing of the machine, and numbers from a GPU are not those of the processor to the last
//! bit. So the choice is made when the machine is known, and before any action is: it is written into `declared`,
//! and what was computed in one way is never taken for what was computed in the other.

use okapi_cache::canonical_json;
use serde_json::{Value, json};

use crate::graph::{ALL_SLOTS, Graph};
use crate::machine::Machine;
use crate::stage::StageRegistry;

/// The choice that was made on another machine: `is_on_gpu` says of an instance, by name, whether its result was computed on a
/// GPU. What the pipeline itself says stays as it is.
pub fn choose_as_recorded(
    graph: &mut Graph,
    registry: &StageRegistry,
    is_on_gpu: &dyn Fn(&str) -> bool,
) {
    let stages: Vec<_> = graph.nodes.iter().map(|node| registry.get(&node.stage)).collect();
    for instance in &mut graph.instances {
        let Some(stage) = stages[instance.node as usize].filter(|stage| stage.can_use_gpu()) else {
            continue;
        };
        let Ok(mut declared) = serde_json::from_str::<Value>(&instance.declared) else { continue };
        let settings = serde_json::from_str(&instance.settings).unwrap_or_default();
        let on_gpu = is_on_gpu(&instance.name);
        let is_open = !matches!(declared["params"]["device"].as_str(), Some("cpu" | "cuda"));
        // As if the pipeline had said it: this program may have been built without GPUs.
        if on_gpu
            && is_open
            && let Some(declared) = declared.as_object_mut()
        {
            let params = declared.entry("params").or_insert_with(|| json!({}));
            if let Some(params) = params.as_object_mut() {
                params.insert("device".to_owned(), json!("cuda"));
            }
        }
        stage.choose_device(&mut declared, &settings, usize::from(on_gpu));
        instance.declared = canonical_json::to_string(&declared).into();
    }
}

/// Whether the document of an action says that it was computed on a GPU.
pub fn is_on_gpu(document: &str) -> bool {
    let document: Value = serde_json::from_str(document).unwrap_or_default();
    document["declared"]["params"]["device"] == "cuda"
}

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

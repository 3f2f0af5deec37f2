//! The memory that stages take for their models: said by `plan`, and looked at before it is taken.

use std::collections::BTreeMap;

use okapi_engine::estimate::{
    Estimate, EstimateQuestion, Expected, MemoryEstimate, MemoryPart, MemoryRemedy,
};
use okapi_engine::machine::{gpu_memory, total_memory};
use okapi_engine::stage_context::{StageContext, StageError};
use okapi_model::{Keep, Learning, Memory, ModelConfig};
use serde_json::{Value, json};

use crate::{gpu, training};

/// What is known of the model of an input port before the run: its `config.json`.
pub(crate) fn config(question: &EstimateQuestion<'_>, port: &str) -> Option<Value> {
    match &question.inputs.get(port)?.first()?.1 {
        Expected::PresentTree(files) => {
            let bytes = std::fs::read(files.get("config.json")?).ok()?;
            serde_json::from_slice(&bytes).ok()
        }
        Expected::Facts(facts) => facts.get("config").cloned(),
        _ => None,
    }
}

/// An estimate of memory alone; with a port, of a model of that configuration that comes out there.
pub(crate) fn estimate(memory: MemoryEstimate, made: Option<(&str, Value)>) -> Estimate {
    let facts = made.map(|(port, config)| (port.to_owned(), json!({ "config": config })));
    let facts: BTreeMap<String, Value> = facts.into_iter().collect();
    Estimate { memory: Some(memory), facts, ..Estimate::default() }
}

/// The configuration of a model that is stored as a node's `dtype` says.
pub(crate) fn stored_as(declared: &Value, mut json: Value) -> Value {
    let dtype = declared["params"]["dtype"].as_str().filter(|dtype| *dtype != "same");
    if let (Some(dtype), Some(fields)) = (dtype, json.as_object_mut()) {
        fields.remove("dtype");
        fields.insert("torch_dtype".to_owned(), dtype.into());
    }
    json
}

/// Bytes that so many numbers take in a folder with this `config.json`.
pub(crate) fn stored_bytes(json: &Value, numbers: u64) -> u64 {
    let dtype = json["torch_dtype"].as_str().or(json["dtype"].as_str());
    numbers * if matches!(dtype, Some("float16" | "bfloat16")) { 2 } else { 4 }
}

/// The memory by what it is for.
pub(crate) fn parts(memory: &Memory) -> Vec<MemoryPart> {
    let Memory { weights, gradients, moments, activations, caches } = *memory;
    let parts = [
        ("weights", weights),
        ("gradients", gradients),
        ("moments", moments),
        ("activations", activations),
        ("caches", caches),
    ];
    let parts = parts.into_iter().filter(|(_, bytes)| *bytes > 0);
    parts.map(|(what, bytes)| MemoryPart { what, bytes }).collect()
}

/// What a training takes by its params and settings, and what would make it take less.
pub(crate) fn of_training(
    declared: &Value,
    settings: &Value,
    config: &ModelConfig,
    learning: Learning,
) -> MemoryEstimate {
    let longest = declared["params"]["max_length"].as_u64().unwrap_or(512) as usize;
    // A longer row is computed alone.
    let tokens = training::tokens_at_once(declared).max(longest);
    let keep = training::keep(settings);
    let there = gpu::kind(declared);
    let of = |tokens: usize, keep: Keep| config.training_memory(learning, tokens, keep).on(there);
    let mut remedies = Vec::new();
    let mut offer = |change: String, memory: Memory| {
        remedies.push(MemoryRemedy { change, bytes: memory.total() });
    };
    if keep == Keep::All {
        offer("`recompute: true`".to_owned(), of(tokens, Keep::Inputs));
    }
    if tokens > longest {
        offer(format!("`tokens_at_once: {longest}`"), of(longest, keep));
        if keep == Keep::All {
            let change = format!("`tokens_at_once: {longest}` with `recompute: true`");
            offer(change, of(longest, Keep::Inputs));
        }
    }
    if declared["params"]["method"] == "full" {
        // Adapters are small beside all else.
        let adapters = Learning { numbers: 0, ..learning };
        let memory = config.training_memory(adapters, longest, Keep::Inputs).on(there);
        offer("`method: lora` with the least of all else".to_owned(), memory);
    }
    MemoryEstimate { parts: parts(&of(tokens, keep)), remedies, on_gpu: there.is_some() }
}

/// Refuses what the machine's memory cannot hold, before any of it is taken.
pub(crate) fn check(context: &StageContext<'_>, memory: &MemoryEstimate) -> Result<(), StageError> {
    let has = match memory.on_gpu {
        true => gpu_memory().unwrap_or(u64::MAX),
        false => total_memory(),
    };
    if let Some(reason) = memory.too_much(has) {
        let parts: Vec<String> = memory
            .parts
            .iter()
            .map(|part| format!("{} {:.1} GiB", part.what, part.bytes as f64 / f64::from(1 << 30)))
            .collect();
        let hint = match memory.remedy(has) {
            Some(remedy) => format!("write {}", remedy.change),
            None => "take a smaller model, or a machine with more memory".to_owned(),
        };
        return Err(StageError::Failed {
            message: format!("it {reason} ({})", parts.join(", ")),
            hint: Some(hint),
            transient: false,
        });
    }
    let mebibytes = memory.bytes() >> 20;
    context.reporter.log(format!(
        "takes about {mebibytes} MiB of {}",
        if memory.on_gpu { "GPU memory" } else { "memory" }
    ));
    Ok(())
}

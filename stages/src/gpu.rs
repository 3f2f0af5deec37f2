//! Where a stage's model computes: on the processor, or on a GPU.

use okapi_device::{Device, DeviceError, Kind};
use okapi_engine::machine::ordinal_of_gpu;
use okapi_engine::stage::{Param, ParamDefault, ParamType};
use okapi_engine::stage_context::{StageContext, StageError};
use okapi_model::CausalLm;
use serde_json::{Value, json};

use crate::training;

pub(crate) const DEVICE: Param = Param {
    name: "device",
    ty: ParamType::Choice(&["auto", "cpu", "cuda"]),
    default: ParamDefault::Absent,
    identity: true,
    help: "what computes: the processor, or an NVIDIA GPU; `auto`, as if left out, is a GPU where this okapi was \
           built for them and the machine has one",
};
pub(crate) const GPU_DTYPE: Param = Param {
    name: "gpu_dtype",
    ty: ParamType::Choice(&["bf16", "f32"]),
    default: ParamDefault::Absent,
    identity: true,
    help: "how a GPU stores weights and activations; bf16 if left out. What learns has its master weights, \
           gradients and moments in f32 either way. The processor always computes in f32",
};

/// Whether this okapi can use a GPU, if there is one.
pub(crate) const HAS_CUDA: bool = cfg!(any(feature = "cuda", feature = "emulated"));

/// What is computed together, which changes how a GPU rounds, and on the processor nothing.
const TOGETHER: [&str; 2] = ["rows_at_once", "tokens_at_once"];

/// Decides whether an instance computes on a GPU, on a machine that has so many; gives how many it takes.
pub(crate) fn choose(declared: &mut Value, settings: &Value, gpus: usize) -> u32 {
    let Some(params) = declared.as_object_mut() else { return 0 };
    let params = params.entry("params").or_insert_with(|| json!({}));
    let Some(params) = params.as_object_mut() else { return 0 };
    let takes = match params.get("device").and_then(Value::as_str) {
        Some("cuda") => true,
        Some("cpu") => false,
        _ => gpus > 0 && HAS_CUDA,
    };
    if takes {
        params.insert("device".to_owned(), json!("cuda"));
        params.entry("gpu_dtype").or_insert_with(|| json!("bf16"));
        for name in TOGETHER {
            if let Some(value) = settings.get(name) {
                params.insert(name.to_owned(), value.clone());
            }
        }
    } else {
        // What the processor computes is the same however the choice was written.
        params.remove("device");
        params.remove("gpu_dtype");
    }
    u32::from(takes)
}

/// How the GPU of an instance stores its numbers; `None` for one that computes on the processor.
pub(crate) fn kind(declared: &Value) -> Option<Kind> {
    let params = &declared["params"];
    (params["device"] == "cuda").then(|| match params["gpu_dtype"].as_str() {
        Some("f32") => Kind::F32,
        _ => Kind::Bf16,
    })
}

/// The GPU that an instance was given, and how its numbers are stored there; `None` for one that computes on
/// the processor.
pub(crate) fn open(context: &StageContext<'_>) -> Result<Option<(Device, Kind)>, StageError> {
    let Some(kind) = kind(context.declared) else { return Ok(None) };
    let id = context.gpus.first().map_or("0", String::as_str);
    let device = open_ordinal(ordinal_of_gpu(id)).map_err(|error| failure(&error))?;
    context.reporter.log(format!("computes on {}", device.name()));
    Ok(Some((device, kind)))
}

/// The GPU at a place among those that CUDA shows.
#[cfg(feature = "cuda")]
pub(crate) fn open_ordinal(ordinal: usize) -> Result<Device, DeviceError> {
    Device::cuda(ordinal)
}

/// The processor, with the GPU's kernels.
#[cfg(all(feature = "emulated", not(feature = "cuda")))]
pub(crate) fn open_ordinal(_: usize) -> Result<Device, DeviceError> {
    Ok(Device::emulated(8 << 30))
}

/// No GPU.
#[cfg(not(any(feature = "cuda", feature = "emulated")))]
pub(crate) fn open_ordinal(_: usize) -> Result<Device, DeviceError> {
    let message = "this okapi was built without CUDA; `scripts/build-cuda.sh` builds one with it";
    Err(DeviceError::Unavailable(message.to_owned()))
}

/// Brings a model to a GPU.
pub(crate) fn bring(model: &mut CausalLm, device: &Device, kind: Kind) -> Result<(), StageError> {
    model.move_to_device(device, kind).map_err(|error| training::failure(&error.into()))
}

/// Brings a model that is only asked to a GPU.
pub(crate) fn bring_to_ask(
    model: &mut CausalLm,
    device: &Device,
    kind: Kind,
) -> Result<(), StageError> {
    model.move_to_device_to_ask(device, kind).map_err(|error| training::failure(&error.into()))
}

/// Has work done with a model on the GPU that the instance was given, or on the processor. What of it is to
/// learn has been decided. Afterwards the model is back.
pub(crate) fn with<T>(
    context: &StageContext<'_>,
    model: &mut CausalLm,
    work: impl FnOnce(&mut CausalLm) -> Result<T, StageError>,
) -> Result<T, StageError> {
    if let Some((device, kind)) = open(context)? {
        bring(model, &device, kind)?;
    }
    let done = work(model)?;
    model.move_to_host().map_err(|error| training::failure(&error.into()))?;
    Ok(done)
}

/// A GPU that failed, for the user.
pub(crate) fn failure(error: &DeviceError) -> StageError {
    let hint = match error {
        DeviceError::Unavailable(_) => Some(
            "write `device: cpu`, or build okapi with `scripts/build-cuda.sh`; `okapi selftest --device cuda` \
             says what is missing",
        ),
        DeviceError::Memory { .. } => {
            Some("write a smaller `tokens_at_once` or `rows_at_once`, or `recompute: true`")
        }
        DeviceError::Failed(_) => None,
    };
    StageError::Failed {
        message: error.to_string(),
        hint: hint.map(str::to_owned),
        transient: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_processor_computes_is_named_alike_however_it_was_chosen() {
        let settings = json!({ "rows_at_once": 64, "recompute": true });
        for params in [json!({}), json!({ "device": "cpu" }), json!({ "device": "auto" })] {
            let mut declared = json!({ "params": params });
            assert_eq!(choose(&mut declared, &settings, 0), 0);
            assert_eq!((declared.clone(), kind(&declared)), (json!({ "params": {} }), None));
        }
        let mut declared = json!({ "params": { "device": "cpu", "gpu_dtype": "f32", "batch": 3 } });
        assert_eq!(choose(&mut declared, &settings, 8), 0);
        assert_eq!(declared, json!({ "params": { "batch": 3 } }));
    }

    #[test]
    fn what_a_gpu_computes_says_so() {
        let mut declared = json!({ "params": { "device": "cuda" } });
        let settings = json!({ "rows_at_once": 64, "recompute": true });
        let taken = choose(&mut declared, &settings, 0);
        assert_eq!((taken, kind(&declared)), (1, Some(Kind::Bf16)));
        let expected = json!({ "device": "cuda", "gpu_dtype": "bf16", "rows_at_once": 64 });
        assert_eq!(declared["params"], expected);
        let mut declared = json!({ "params": { "device": "cuda", "gpu_dtype": "f32" } });
        let taken = choose(&mut declared, &settings, 2);
        assert_eq!((taken, kind(&declared)), (1, Some(Kind::F32)));
        // Left to the machine, it depends on whether this program can use a GPU at all.
        let mut declared = json!({});
        assert_eq!(choose(&mut declared, &settings, 2), u32::from(HAS_CUDA));
    }
}

//! What `okapi selftest` does: every operation and every trainer of a device against its twin, and how fast the
//! device is.

use std::path::Path;
use std::time::Duration;

use okapi_device::{Device, DeviceError, Kind};
use okapi_model::sizes::{NAMES, SpecialTokens, new_config, published};
use okapi_model::twins::{self, Twin};
use okapi_model::{Keep, ModelError};
use okapi_train::throughput::{self, Throughput, ThroughputOptions};
use okapi_train::{TrainError, twins as trainers};

use crate::gpu;

/// What is to be tested, and how long.
#[derive(Debug, Clone, PartialEq)]
pub struct SelftestOptions {
    /// The place of a GPU among those that CUDA shows; `None` for the processor.
    pub gpu: Option<usize>,
    /// Whether operations and trainers are compared.
    pub compares: bool,
    /// The published model whose size the throughput is measured with; `None` for the largest that fits.
    pub model: Option<String>,
    /// Whether the throughput is measured, and for how long: each of training, scoring and sampling.
    pub time: Option<Duration>,
    /// Tokens of an example.
    pub length: usize,
    /// Tokens of a step.
    pub tokens_at_once: usize,
    /// Responses that are written at once.
    pub rows: usize,
}

/// What was found.
#[derive(Debug)]
pub struct Selftest {
    /// What was tested.
    pub device: String,
    /// Operations, models and trainers.
    pub twins: Vec<Twin>,
    /// The size of model, and how fast it was.
    pub throughput: Option<(String, Throughput)>,
}

/// Why nothing was found.
#[derive(Debug, thiserror::Error)]
pub enum SelftestError {
    /// There is no such published model.
    #[error("no published model is named `{0}`; there are {names}", names = names())]
    Size(String),
    /// The GPU cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A computation failed.
    #[error(transparent)]
    Train(#[from] TrainError),
}

fn names() -> String {
    NAMES.join(", ")
}

impl From<ModelError> for SelftestError {
    fn from(error: ModelError) -> SelftestError {
        TrainError::from(error).into()
    }
}

/// Threads that trainings on the processor are compared with one for.
const THREADS: usize = 3;

/// Tests a device. `folder` is for checkpoints, and empty; `said` is told what is under way.
///
/// # Errors
/// When the device cannot be used, or fails.
pub fn selftest(
    options: &SelftestOptions,
    folder: &Path,
    said: &mut dyn FnMut(&str),
) -> Result<Selftest, SelftestError> {
    let device = options.gpu.map(gpu::open_ordinal).transpose()?;
    let name = match &device {
        Some(device) => device.name(),
        None => format!("the processor, {} threads", rayon::current_num_threads()),
    };
    let mut found = Vec::new();
    if options.compares {
        match &device {
            Some(device) => {
                for kind in [Kind::F32, Kind::Bf16] {
                    let mut said =
                        |what: &str| said(&format!("comparing {what} in {}", name_of(kind)));
                    found.extend(twins::compare(device, kind, &mut said)?);
                    let folder = folder.join(name_of(kind));
                    found.extend(trainers::compare(device, kind, &folder, &mut said)?);
                }
            }
            None => {
                said("comparing trainers with one thread and with several");
                found.extend(trainers::compare_threads(THREADS, folder)?);
            }
        }
    }
    let throughput = match options.time {
        Some(time) => {
            let size = match &options.model {
                Some(size) => size.clone(),
                None => usual_size(device.as_ref())?.to_owned(),
            };
            let (family, sizes, vocabulary) =
                published(&size).ok_or_else(|| SelftestError::Size(size.clone()))?;
            let special = SpecialTokens { bos: 1, eos: 2, pad: 3 };
            let config = new_config(family, &sizes, vocabulary, special);
            let config = config.map_err(ModelError::from)?;
            let options = ThroughputOptions {
                length: options.length,
                tokens_at_once: options.tokens_at_once,
                rows: options.rows,
                time,
                keep: if device.is_some() { Keep::Inputs } else { Keep::All },
            };
            let there = device.as_ref().map(|device| (device, Kind::Bf16));
            let mut said = |what: &str| said(&format!("{size}: {what}"));
            let measured = throughput::measure(config, there, &options, &mut said)?;
            Some((size, measured))
        }
        None => None,
    };
    Ok(Selftest { device: name, twins: found, throughput })
}

/// How a kind is written in pipelines.
pub fn name_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Bf16 => "bf16",
        _ => "f32",
    }
}

/// The largest model that can be trained in full: a number of it takes 16 bytes on a GPU.
fn usual_size(device: Option<&Device>) -> Result<&'static str, DeviceError> {
    let Some(device) = device else { return Ok("pythia-70m") };
    let free = device.memory()?.free as u64;
    let fits = |numbers: u64| 16 * numbers + (12 << 30) <= free;
    let sizes = [
        ("bloom-7b1", 7_069_016_064),
        ("bloom-3b", 3_002_557_440),
        ("bloom-1b7", 1_722_408_960),
        ("bloom-1b1", 1_065_314_304),
    ];
    let sizes = sizes.into_iter().find(|(_, numbers)| fits(*numbers));
    Ok(sizes.map_or("bloom-560m", |(name, _)| name))
}

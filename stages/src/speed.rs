//! How long models compute, before they ever did: their operations, over speeds that are assumed.
//!
//! All assumptions stand here. Once a node has run, what it took counts instead.

use okapi_device::Kind;
use okapi_engine::estimate::{Estimate, EstimateQuestion, WorkEstimate};

use crate::gpu;

/// The peak of an H100 or H200 (SXM) in bf16 without sparsity, by NVIDIA's data sheet, operations a second.
const GPU_BF16: f64 = 989e12;
/// The same in f32.
const GPU_F32: f64 = 67e12;
/// The share of the peak that training and reading long batches reach; what well-made training code reports for models
/// of this size.
const GPU_READS: f64 = 0.4;
/// The share that sampling reaches: a step reads all weights for one token a row, so that memory limits it.
const GPU_SAMPLES: f64 = 0.1;
/// Of one processor: the README's benchmarks measured 154e9 with two threads for a step of training (8 texts of 256
/// tokens, 13.8 million numbers that a token meets, 1.10 s), and 78e9 for sampling.
const PROCESSOR_READS: f64 = 75e9;
const PROCESSOR_SAMPLES: f64 = 39e9;

const ON_GPU_BF16: &str = "a GPU reaches 40 % of an H100's 989 TFLOP/s (bf16) in training and reading, 10 % in sampling: \
     not measured; once a node has run, what it took counts";
const ON_GPU_F32: &str = "a GPU reaches 40 % of an H100's 67 TFLOP/s (f32) in training and reading, 10 % in sampling: not \
     measured; once a node has run, what it took counts";
const ON_PROCESSOR: &str = "a processor reaches 75 GFLOP/s in training and reading, 39 in sampling (of the README's benchmarks); once \
     a node has run, what it took counts";

/// What a model computes, operations.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Operations {
    /// Of passes over whole texts, forward and back.
    pub(crate) read: f64,
    /// Of tokens that are sampled one by one.
    pub(crate) sampled: f64,
}

/// Adds what an instance computes, and how long that takes.
pub(crate) fn add_work(
    estimate: &mut Estimate,
    question: &EstimateQuestion<'_>,
    operations: Operations,
) {
    let processors = f64::from(question.processors);
    let (reads, samples, assumption) = match gpu::kind(question.declared) {
        Some(Kind::Bf16) => (GPU_READS * GPU_BF16, GPU_SAMPLES * GPU_BF16, ON_GPU_BF16),
        Some(_) => (GPU_READS * GPU_F32, GPU_SAMPLES * GPU_F32, ON_GPU_F32),
        None => (processors * PROCESSOR_READS, processors * PROCESSOR_SAMPLES, ON_PROCESSOR),
    };
    let Operations { read, sampled } = operations;
    estimate.work = Some(WorkEstimate {
        operations: read + sampled,
        ms: (1000.0 * (read / reads + sampled / samples)).ceil() as u64,
        on_gpu: gpu::kind(question.declared).is_some(),
    });
    estimate.assumptions.push(assumption);
}

//! Decoder-only language models in the Hugging Face folder layout: BLOOM, LLaMA and GPT-NeoX.
//!
//! So far what a folder says of its model ([`config`]), what its weights are ([`checkpoint`]: every tensor
//! by name, shape and type, checked before anything is computed with it), and the forward pass
//! ([`CausalLm`]).
//!
//! This crate knows no stage, no engine and no network.

mod attention;
mod causal_lm;
pub mod checkpoint;
pub mod config;
mod layers;
mod matrix;

pub use attention::Sequences;
pub use causal_lm::{CausalLm, ModelError};
pub use checkpoint::{Checkpoint, CheckpointError};
pub use config::{BloomConfig, ConfigError, GptNeoxConfig, LlamaConfig, ModelConfig, RopeScaling};

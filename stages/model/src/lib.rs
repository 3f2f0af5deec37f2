//! Decoder-only language models in the Hugging Face folder layout: BLOOM, LLaMA and GPT-NeoX.
//!
//! So far what a folder says of its model ([`config`]) and what its weights are ([`checkpoint`]): every
//! tensor by name, shape and type, checked before anything is computed with it.
//!
//! This crate knows no stage, no engine and no network.

pub mod checkpoint;
pub mod config;

pub use checkpoint::{Checkpoint, CheckpointError};
pub use config::{BloomConfig, ConfigError, GptNeoxConfig, LlamaConfig, ModelConfig, RopeScaling};

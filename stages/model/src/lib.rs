//! Decoder-only language models in the Hugging Face folder layout: BLOOM, LLaMA and GPT-NeoX.
//!
//! What a folder says of its model ([`config`]), what its weights are ([`checkpoint`]: every tensor
//! by name, shape and type, checked before anything is computed with it), how texts become ids
//! ([`Tokenizer`]), the forward pass ([`CausalLm`]), and generation ([`CausalLm::generate`]). A
//! [`RewardModel`] has such a model's states, and gives a text one number.
//!
//! This crate knows no stage, no engine and no network.

mod adapter;
mod array;
mod attention;
mod block;
mod causal_lm;
pub mod checkpoint;
pub mod config;
mod families;
mod folder;
mod functions;
mod generate;
mod head;
mod kv_cache;
mod layers;
mod low_rank;
mod matrix;
mod memory;
mod on_device;
mod parameters;
mod pickle;
pub mod pickle_file;
mod pickled_tensor;
mod positions;
pub mod random;
mod reward_model;
mod row_product;
mod sampling;
mod scalar_head;
mod single_query;
pub mod sizes;
mod stored_model;
mod stored_zip;
pub mod tensor_file;
mod tensor_writer;
mod tokenizer;
mod tokenizer_class;
mod tokenizer_folder;
mod tokenizer_training;
pub mod twins;
mod value_head;
mod work;

pub use adapter::LoraOptions;
pub use array::Array;
pub use attention::Sequences;
pub use causal_lm::{CausalLm, Forward, Keep, ModelError};
pub use checkpoint::{Checkpoint, CheckpointError};
pub use config::{BloomConfig, ConfigError, GptNeoxConfig, LlamaConfig, ModelConfig, RopeScaling};
pub use generate::{
    FinishReason, GenerateError, GenerateOptions, GenerateProgress, GenerateWatch, Generated,
};
pub use head::{Place, TokenScore};
pub use kv_cache::KvCache;
pub use low_rank::Dropout;
pub use memory::{Learning, Memory};
pub use parameters::{DeviceValues, Gradients, Parameter, ParameterId, Parameters};
pub use reward_model::RewardModel;
pub use sampling::SamplingOptions;
pub use scalar_head::ScalarHead;
pub use stored_model::{Seen, StoredModel};
pub use tokenizer::{Tokenizer, TokenizerError};
pub use tokenizer_training::TokenizerTrainOptions;
pub use value_head::ValueHead;

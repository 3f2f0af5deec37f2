//! Training of language models: what is learnt from (examples, in batches, with a loss), how weights move
//! (optimiser, schedule), and the loop around both, which can be killed at any step and goes on as if it had
//! not been.
//!
//! Everything is a function of its inputs and a seed: the same training gives the same bytes whatever
//! the number of threads, and however often it was interrupted.
//!
//! This crate knows no stage, no engine and no network.

mod adamw;
mod batches;
mod learning_rate;
pub mod ppo;
mod reward_model;
mod sft;
pub mod tensorboard;
pub mod throughput;
mod train_state;
mod trainer;
pub mod twins;

pub use adamw::{AdamW, AdamWOptions};
pub use batches::Batches;
pub use learning_rate::{LearningRate, Schedule};
pub use reward_model::{RankedResponse, Ranking, RewardModeling, RewardOptions, Unit};
pub use sft::{Average, Example, Sft};
pub use train_state::CheckpointEvery;
pub use trainer::{
    Batch, CurveRow, Measures, Objective, OnPart, Outcome, Part, Progress, Select, TrainError,
    TrainOptions, Watch, train,
};

//! Multiple-choice evaluation of language models: ARC, HellaSwag and MMLU, in any language.
//!
//! Questions become items: prompts with examples before them, as a [`Protocol`] puts them ([`items`]). An
//! [`Evaluation`] has them as tokens, and computes with a model how probable each choice is, reading once what
//! choices and items have in common. Each item's scores are kept ([`ItemScore`]); a [`Summary`] is made of them.
//!
//! Both protocols give what the programs of the field give with the same model and questions: EleutherAI's
//! lm-evaluation-harness, and the fork of it that is behind the tables of the Okapi paper. The tests hold them to
//! fixtures that were made with the harness itself and with a script for the fork.
//!
//! This crate knows no stage, no engine and no network.

mod arc;
mod encoding;
mod error;
mod evaluation;
mod few_shot;
mod harness_files;
mod hellaswag;
mod log_likelihood;
mod metric;
mod mmlu;
mod python_random;
mod python_text;
mod task;

pub use encoding::{Encoded, Encoder, max_length};
pub use error::EvalError;
pub use evaluation::{ChoiceScore, Evaluation, ItemScore, ItemScorer};
pub use harness_files::HarnessFiles;
pub use log_likelihood::{LogLikelihood, Scorer};
pub use metric::{Score, Summary};
pub use python_random::PythonRandom;
pub use task::{Edition, Item, Protocol, Setting, items};

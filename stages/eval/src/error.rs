//! What stops an evaluation.

use okapi_data::Task;
use okapi_model::{ModelError, TokenizerError};

/// An evaluation that cannot be made, or not go on.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// A question of another benchmark.
    #[error(
        "question `{id}` is of {}, not of {}; give each benchmark a node of its own",
        name(*found), name(*expected)
    )]
    OtherTask {
        /// The question.
        id: String,
        /// What it is of.
        found: Task,
        /// What is evaluated.
        expected: Task,
    },
    /// A question that a prompt cannot be made of.
    #[error("question `{id}`: {message}")]
    Question {
        /// The question.
        id: String,
        /// What is wrong, and what helps.
        message: String,
    },
    /// No examples were given where there have to be some.
    #[error(
        "{shots} examples before each question are asked for, and none are given; give the {split}, or set the \
         number to 0"
    )]
    NoExamples {
        /// How many are wanted.
        shots: usize,
        /// Where they come from.
        split: &'static str,
    },
    /// Fewer examples than are drawn.
    #[error(
        "{wanted} examples cannot be drawn from {found}{of}; give more of them, or ask for fewer"
    )]
    FewExamples {
        /// How many are drawn.
        wanted: usize,
        /// How many there are.
        found: usize,
        /// Where, in words that follow.
        of: String,
    },
    /// A text that the model cannot score.
    #[error("question `{id}`, choice {choice}: {message}")]
    Choice {
        /// The question.
        id: String,
        /// The place of the choice, from 1.
        choice: usize,
        /// What is wrong, and what helps.
        message: String,
    },
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl EvalError {
    pub(crate) fn question(id: &str, message: impl Into<String>) -> EvalError {
        EvalError::Question { id: id.to_owned(), message: message.into() }
    }
}

/// What a benchmark is called.
pub(crate) fn name(task: Task) -> &'static str {
    match task {
        Task::Arc => "ARC",
        Task::HellaSwag => "HellaSwag",
        Task::Mmlu => "MMLU",
    }
}

//! Rows of data: their kinds, and the files they come from.
//!
//! A data set is a file of JSON lines, one row a line, of one kind: [`Instruction`], [`Question`],
//! [`Ranking`], [`Prompt`], [`Response`] or [`Text`]. [`source`] reads the files that the field publishes (JSON,
//! JSON lines, Parquet), [`fit`] turns their rows into ours, and [`mod@import`] does both; what does not fit is an error that
//! names the row and the field.
//!
//! This crate knows no stage, no network and no model.

pub mod describe;
pub mod fit;
pub mod import;
mod instruction;
pub mod language;
pub mod length;
pub mod mix;
pub mod novelty;
pub mod overlap;
mod prompt;
pub mod prompt_template;
mod question;
mod ranking;
mod reject;
mod response;
pub mod root_verb;
pub mod rouge;
pub mod self_instruct;
pub mod source;
mod text;
pub mod translation;
pub mod verdict;

pub use instruction::Instruction;
pub use prompt::Prompt;
pub use question::{HellaSwagContext, Question, Task};
pub use ranking::Ranking;
pub use reject::{Reject, RejectCounts};
pub use response::Response;
pub use text::Text;

/// A row that does not fit, or a file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A row is not what it should be.
    #[error("row {row}{}: {message}", field.as_ref().map(|it| format!(", field `{it}`")).unwrap_or_default())]
    Row {
        /// From 1, in the order of the file.
        row: u64,
        /// The field of the file's row, if one is to blame.
        field: Option<String>,
        /// What is wrong.
        message: String,
    },
    /// The file as a whole is not what it should be.
    #[error("{0}")]
    File(String),
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

//! Teachers: where text comes from.
//!
//! A [`Teacher`] answers a [`Request`]. There are two kinds: [`openai`] asks a server, [`offline`]
//! goes by rules and a small closed world. Around either of them a [`Caller`] looks up what was
//! answered before, keeps what is answered now, counts tokens and money and stops at the budget, so
//! that every call is paid once.
//!
//! This crate knows no stage and no rows; of the store it knows the record cache.

pub mod ask;
mod budget;
mod caller;
mod limits;
pub mod offline;
pub mod openai;
mod pool;
mod pricing;
mod request;
mod retry;
mod sample;
pub mod serve;
mod teacher;

pub use budget::Budget;
pub use caller::{
    Asked, Caller, CallerParts, Costs, Experience, InFlight, Ledger, Record, Stop, Used,
};
pub use limits::Limits;
pub use pool::{Endpoint, Teachers, price};
pub use pricing::Price;
pub use request::{Answer, Finish, Message, Request, Role, Usage, estimated_tokens};
pub use sample::{AskedAnew, Sample};
pub use teacher::{Answering, Teacher, TeacherError};

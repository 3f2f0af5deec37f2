//! A remote: results and objects in an object store that several machines share, as a second level behind a store.
//!
//! ```text
//! okapi/v1/object/ab/cdef...   an object: bytes by their BLAKE3                          keys
//! okapi/v1/action/ab/cdef...   the result of an action, as a document of its own         fetch, push
//! okapi/v1/record/ab/cdef...   answers of teachers, if the user shares them              records
//! okapi/v1/run/NAME.json       what a run ended with: the roots of collection            runs, collect
//! okapi/v1/job/PLACE/PART/...  jobs of a cluster whose nodes do not see the store        jobs
//! ```
//!
//! # What it promises
//!
//! - **A remote costs time, never correctness.** Every byte that arrives is hashed before it is used; what is not what
//!   its name says is thrown away and is a miss. Down, slow, full, forbidden or lying, it is a miss.
//! - **Every wait ends.** Requests are bounded in time and tries ([`Limits`]); a remote that fails again and again is set
//!   aside for the rest of the run, which is said once.
//! - **Objects before results**, so that a result that can be read is whole, unless something was lost or collected,
//!   which is a miss.
//! - **Two writers agree**: results are created, not overwritten. Nothing depends on that being atomic, as stores differ:
//!   of two results of one action either is right.
//! - **No secret is kept or said**: credentials come from the environment, and messages lose queries and passwords.
//!
//! It is no protection from those who may write to the remote: a result is believed as far as it is consistent. Where not
//! all who write are trusted, let the trusted ones write and the others read.

mod address;
mod breaker;
mod collect;
mod error;
mod fetch;
mod jobs;
mod keys;
mod limits;
mod options;
mod parts;
mod push;
mod records;
mod remote;
mod requests;
mod runs;
mod unusable;
mod verify;
mod writes;

pub use address::{AUTHORIZATION, AUTHORIZATION_HOST, Address};
pub use collect::{CollectRequest, Collection};
pub use error::RemoteError;
pub use fetch::Moved;
pub use keys::{JobKey, JobPart, Key, Kind};
pub use limits::Limits;
pub use options::Options;
pub use push::{Pushed, Replace};
pub use records::RecordsMoved;
pub use remote::{Obtained, Remote};
pub use requests::Listed;
pub use runs::RunRoot;
pub use verify::{RemoteReport, Repaired, Roots, Wrong};

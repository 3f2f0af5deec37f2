//! The store: bytes, digests, crash safety. Knows no stage, no YAML, no LLM.
//!
//! ```text
//! .okapi/
//!   format          "okapi store 1"
//!   objects/ab/cd.. blobs by BLAKE3, read-only           cas, tree
//!   actions.log     action digest -> outputs             action_cache, log_file
//!   documents.log   action documents, result details     action_cache
//!   stat.log        source files seen                    stat_cache
//!   records.log     what teachers answered, by request   record_cache, log_file
//!   records.index   where each is; made anew if lost     record_cache
//!   locks/          one lease per running action         lease
//!   inflight/       one marker per run                   run_guard
//!   run.lock        shared by runs, exclusive for gc     run_guard
//!   work/ scratch/  folders of running actions           (the engine's)
//!   runs/ graphs/   run records, checked graphs          (the engine's)
//!   jobs/           what a run and the jobs of a cluster tell each other (the engine's)
//!   tensorboard/    curves while they grow               (the stages')
//!   tmp/            files that are not whole yet         atomic_write
//!   quarantine/     what was found damaged
//! ```
//!
//! # What it promises
//!
//! - **Nothing is visible before it is whole.** A file is written in `tmp/`, and renamed. A result
//!   is written after its outputs, as one framed and checksummed record. A crash, `kill -9` or full
//!   disk at any instant leaves a store in which everything that can be read is correct.
//! - **After a power cut too.** Objects reach the disk before the results that name them
//!   ([`Durability`]); objects that a power cut left damaged are found when the next run begins.
//! - **Each action is executed once**, however many runs want it: [`Lease`].
//! - **What is damaged is never used**: logs are checksummed, sizes are compared at every hit,
//!   [`verify::verify`] compares every byte.
//! - **Files are the truth.** Every index is made from them and checked against them.

mod action_cache;
mod artifact;
mod atomic_write;
mod boot;
pub mod canonical_json;
mod cas;
mod commit_queue;
mod digest;
mod error;
mod file_hash;
pub mod gc;
mod hashing_file;
mod incoming;
mod inspect;
mod lease;
mod log_file;
mod materialize;
mod process_name;
mod record_cache;
mod record_index;
mod result_file;
mod run_guard;
mod stat_cache;
mod store;
mod tree;
pub mod verify;

pub use action_cache::{CachedOutputs, Measures, ResultInfo, StoredAction};
pub use artifact::{Artifact, ArtifactKind};
pub use atomic_write::Faults;
pub use commit_queue::{Commit, Durability};
pub use digest::{ActionDigest, Digest, ParseDigestError, PieceHasher};
pub use error::StoreError;
pub use hashing_file::{HashingFile, Written};
pub use incoming::{Arrival, Incoming};
pub use inspect::{ObjectState, hash_source};
pub use lease::{Holder, Lease};
pub use materialize::Placement;
pub use process_name::process_name;
pub use record_cache::{PlacedRecord, RecordCache};
pub use result_file::{LONGEST_RESULT_FILE, ResultFile, ResultFileError};
pub use run_guard::{Alone, RunGuard};
pub use store::{Access, Store, StoreStats};
pub use tree::{Tree, TreeEntry};

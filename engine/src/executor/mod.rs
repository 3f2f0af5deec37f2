//! Where actions are executed. The executor is handed a [`Job`] (an action and what it reads) and
//! answers with an outcome; it shares no memory with the scheduler, so that a cluster can stand in
//! for this machine.
//!
//! [`local`] executes in the calling thread. [`slurm`] submits jobs, in each of which a [`worker`] does the same with the
//! store of the run, and leaves what came of it in a `job_folder`; where nodes do not see that store, a [`far_worker`] does it in
//! one of its own, and everything goes by way of a remote (`mailbox`).

mod action_lock;
pub mod command_process;
pub mod far_worker;
pub mod job_cause;
mod job_folder;
pub(crate) mod job_maker;
pub mod local;
mod mailbox;
pub mod poll;
mod said;
pub mod sandbox;
pub mod slurm;
pub mod watchdog;
pub mod work_folder;
pub mod worker;

pub use local::{Execution, ExecutionError, Executor, Job};

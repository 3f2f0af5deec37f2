//! Where actions are executed. The executor is handed a [`Job`] (an action and what it reads) and
//! answers with an outcome; it shares no memory with the scheduler, so that a cluster can stand in
//! for this machine.

pub mod command_process;
pub(crate) mod job_maker;
pub mod local;
pub mod poll;
pub mod sandbox;
pub mod watchdog;
pub mod work_folder;

pub use local::{Execution, ExecutionError, Executor, Job};

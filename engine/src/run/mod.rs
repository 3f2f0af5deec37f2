//! The run: a loop around the schedule that executes what has no result.
//!
//! 1. [`evaluate`] settles every instance whose result is there. If that is all of them, a remote gets
//!    what earlier runs owe it, and what results keep beside their outputs is put back where it is lost.
//! 2. The rest goes to the [`Schedule`](crate::schedule::Schedule). When an instance becomes ready its inputs are known, so
//!    its action is: [`decide`](crate::evaluate::decide) again (an input that came out as before gives the old action, and
//!    its result: early cutoff), else take the lease on the action and execute it in a thread.
//! 3. A finished instance's result is queued for the store and its readers become ready.
//!
//! Another run may hold the lease. Then the instance is set aside and looked at again: the result
//! of the other run is used as soon as it is there, and if the other run dies, this one takes over.

mod assemble;
mod expected;
pub mod interrupts;
mod jobs;
mod keeps;
mod remote;
mod request;
mod runner;

pub use remote::has_unsent;
pub(crate) use remote::output_kinds;
pub use request::{Results, RunRequest, RunSummary, Settled};

use std::sync::Arc;

use okapi_cache::StoreError;
use okapi_remote::Remote;

use crate::evaluate::{Evaluation, NOTHING_ELSEWHERE, Question, evaluate};
use crate::event::Event;
use runner::Runner;

/// Brings the selected instances up to date. Events go to `emit`, in the calling thread.
///
/// # Errors
/// When the store refuses before anything has run. Failures of instances are in the summary.
pub fn run(
    request: &RunRequest<'_>,
    evaluation: &Evaluation,
    emit: &mut dyn FnMut(Event),
) -> Result<RunSummary, StoreError> {
    let cached = evaluation.count_cached();
    if cached > 0 {
        emit(Event::Cached { count: cached });
    }
    let owes =
        |remote: &Arc<Remote>| remote.can_write() && has_unsent(&request.store, remote.shown());
    let is_done = evaluation.is_up_to_date() && !request.remote.as_ref().is_some_and(owes);
    let summary = match is_done {
        true => RunSummary::nothing_to_do(cached),
        false => {
            let mut runner = Runner::new(request, evaluation);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|source| StoreError::io(request.store.root(), source))?;
            runtime.block_on(runner.drive(emit));
            runner.into_summary(cached)
        }
    };
    // Only people read it: a run that could not put it back has not failed.
    if let Err(error) = keeps::put_back(request, evaluation, &summary.later) {
        let message = format!("prompts, files or lineages are not kept with results: {error}");
        emit(Event::Warning { message });
    }
    Ok(summary)
}

/// Evaluates anew, as [`run`] needs it.
pub fn evaluate_for_run(request: &RunRequest<'_>) -> Evaluation {
    evaluate(&question(request))
}

fn question<'a>(request: &'a RunRequest<'_>) -> Question<'a> {
    Question {
        graph: request.graph,
        selection: request.selection,
        sources: request.sources,
        passed_env: request.passed_env,
        forced: request.forced,
        machine: request.machine,
        store: &request.store,
        elsewhere: &NOTHING_ELSEWHERE,
    }
}

//! What teachers have answered, before a run and after it: from the remote and to it, if the user says that answers are shared.

use std::sync::atomic::{AtomicBool, Ordering};

use okapi_cache::Store;
use okapi_engine::evaluate::{Evaluation, State};
use okapi_engine::event::Event;
use okapi_remote::{RecordsMoved, Remote, RemoteError};

use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::project::Loaded;
use crate::temporary::at_signals;

/// Brings answers that others have paid for, if a run may ask for any.
pub(crate) fn before_run(
    remote: &Remote,
    store: &Store,
    loaded: &Loaded,
    evaluation: &Evaluation,
    say: &mut dyn FnMut(Event),
) -> Result<RecordsMoved, Failure> {
    let instances = loaded.graph.instances.iter().zip(&evaluation.states);
    let mut to_do = instances
        .filter(|(_, state)| !matches!(state, State::NotSelected | State::Cached { .. }))
        .map(|(instance, _)| instance);
    let asks = |declared: &str| {
        let declared: serde_json::Value = serde_json::from_str(declared).unwrap_or_default();
        !declared["teacher"].is_null()
    };
    if !remote.shares_records() || !to_do.any(|instance| asks(&instance.declared)) {
        return Ok(RecordsMoved::default());
    }
    carry(remote, say, || remote.fetch_records(store))
}

/// Sends what was answered.
pub(crate) fn after_run(
    remote: &Remote,
    store: &Store,
    say: &mut dyn FnMut(Event),
) -> Result<RecordsMoved, Failure> {
    match remote.shares_records() && remote.can_write() {
        true => carry(remote, say, || remote.send_records(store)),
        false => Ok(RecordsMoved::default()),
    }
}

/// What fails with the remote costs only money, and is said; a signal ends it, and the run.
fn carry(
    remote: &Remote,
    say: &mut dyn FnMut(Event),
    work: impl FnOnce() -> Result<RecordsMoved, RemoteError>,
) -> Result<RecordsMoved, Failure> {
    let is_stopped = AtomicBool::new(false);
    let stop = || {
        is_stopped.store(true, Ordering::Relaxed);
        remote.stop();
    };
    let carried = at_signals(stop, work);
    for message in remote.take_notices() {
        say(Event::Warning { message });
    }
    if is_stopped.load(Ordering::Relaxed) {
        return Err(Failure::silent(ExitCode::Interrupted));
    }
    match carried {
        Ok(moved) => Ok(moved),
        Err(RemoteError::Store(error)) => Err(error.into()),
        Err(error) => {
            if !error.is_silent() {
                let message = format!("answers of teachers were not shared: {error}");
                say(Event::Warning { message });
            }
            Ok(RecordsMoved::default())
        }
    }
}

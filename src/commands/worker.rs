//! `okapi worker`: one job of a cluster.

use std::sync::Arc;
use std::time::Duration;

use okapi_cache::{Access, ActionDigest, Durability, Store};
use okapi_engine::executor::ExecutionError;
use okapi_engine::executor::far_worker::FarJob;
use okapi_engine::executor::worker::{Worker, action_of};

use crate::cli::{Global, WorkerArgs};
use crate::env_vars;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::program;
use crate::project;
use crate::sharing;
use crate::temporary::{TemporaryFolder, unless_interrupted};

/// Does the work of one job, and leaves what came of it where the run finds it.
pub(crate) fn worker(global: &Global, arguments: &WorkerArgs) -> Result<ExitCode, Failure> {
    let is_done = match (&arguments.place, &arguments.action, &global.store) {
        (Some(place), Some(action), _) => {
            far(place, action, Duration::from_secs(arguments.remote_timeout))?
        }
        (_, _, Some(path)) => {
            let store = Arc::new(Store::open(path, Access::ReadWrite, Durability::Batch)?);
            let (batch, index) = (arguments.batch.as_deref(), arguments.index.unwrap_or_default());
            let action = action_of(&store, batch.unwrap_or_default(), index)
                .map_err(|error| Failure::failed(format!("this job has nothing to do: {error}")))?;
            // As a run of its own: the collector stays away, and files that are being written stay.
            let _guard = store.enter_run()?;
            with_worker(&store, batch, |worker| Ok(worker.work(&action)?))?
        }
        _ => {
            return Err(Failure::usage("a job has to be told its store").with_hint(
                "`okapi run --executor slurm` submits jobs with all that they need".to_owned(),
            ));
        }
    };
    Ok(if is_done { ExitCode::Done } else { ExitCode::Failed })
}

/// The same on a node that does not see the store: in one of its own, for the time of the job, among temporary files.
fn far(place: &str, action: &ActionDigest, timeout: Duration) -> Result<bool, Failure> {
    let job = FarJob::new(sharing::of_job(timeout)?, place.to_owned(), *action);
    let folder = TemporaryFolder::named("okapi-worker");
    let failure =
        |error: ExecutionError| Failure::failed(error.to_string()).with_hint(error.hint());
    let store = unless_interrupted(&[&folder], || prepare(&job, &folder)).map_err(|error| {
        job.give_up(&job_name(), &error);
        failure(error)
    })?;
    // From here on signals are the worker's to hear.
    with_worker(&store, None, |worker| job.work(worker).map_err(failure))
}

/// A store with all that the work reads. It is gone with the job: nothing in it has to last.
fn prepare(job: &FarJob, folder: &TemporaryFolder) -> Result<Arc<Store>, ExecutionError> {
    let made = folder.make_locked();
    made.map_err(|source| ExecutionError::Io { path: folder.path.clone(), source })?;
    let store = Store::open(&folder.path, Access::ReadWrite, Durability::None)?;
    job.receive(&store)?;
    Ok(Arc::new(store))
}

fn with_worker<T>(
    store: &Arc<Store>,
    batch: Option<&str>,
    work: impl FnOnce(&Worker<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    work(&Worker {
        store: Arc::clone(store),
        registry: Arc::new(okapi_stages::registry()),
        launcher: &|hidden, warn| {
            project::launcher(hidden.is_none(), hidden.unwrap_or_default(), store, warn)
        },
        program: &program::version(),
        job: &job_name(),
        batch,
    })
}

/// The cluster's name for this job.
fn job_name() -> String {
    env_vars::slurm_job().unwrap_or_else(|| std::process::id().to_string())
}

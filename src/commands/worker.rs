//! `okapi worker`: one job of a cluster.

use std::sync::Arc;

use okapi_cache::{Access, Durability, Store};
use okapi_engine::executor::worker::{Worker, action_of};

use crate::cli::{Global, WorkerArgs};
use crate::env_vars;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::program;
use crate::project;
use crate::ui::output;

/// Does the work of one job, and leaves what came of it in the store.
pub(crate) fn worker(global: &Global, arguments: &WorkerArgs) -> Result<ExitCode, Failure> {
    let Some(path) = &global.store else {
        return Err(Failure::usage("a job has to be told its store").with_hint(
            "`okapi run --executor slurm` submits jobs with all that they need".to_owned(),
        ));
    };
    let store = Arc::new(Store::open(path, Access::ReadWrite, Durability::Batch)?);
    // As a run of its own: the collector stays away, and files that are being written stay.
    let _guard = store.enter_run()?;
    let action = action_of(&store, &arguments.batch, arguments.index)
        .map_err(|error| Failure::failed(format!("this job has nothing to do: {error}")))?;
    let job = env_vars::slurm_job().unwrap_or_else(|| std::process::id().to_string());
    let worker = Worker {
        store: Arc::clone(&store),
        registry: Arc::new(okapi_stages::registry()),
        launcher: &|hidden| {
            let mut warn = |message: String| output::note(&message);
            project::launcher(hidden.is_none(), hidden.unwrap_or_default(), &store, &mut warn)
        },
        program: &program::version(),
        job: &job,
    };
    match worker.work(&action)? {
        true => Ok(ExitCode::Done),
        false => Ok(ExitCode::Failed),
    }
}

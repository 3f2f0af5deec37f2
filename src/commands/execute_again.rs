//! Executing recorded nodes again, for `audit --reexecute` and `run --check-determinism`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use okapi_cache::{Store, StoreError};
use okapi_engine::audit::reexecute::{Again, Ended, Reexecution, reexecute, scratch_store};
use okapi_engine::audit::{AuditQuestion, Recorded};
use okapi_engine::executor::ExecutionError;
use okapi_engine::executor::work_folder::remove;
use okapi_engine::graph::InstanceId;
use okapi_engine::machine::{Machine, free_disk};
use okapi_engine::manifest::Manifest;
use okapi_engine::stage_context::StageError;
use okapi_teacher::{AskedAnew, Stop, TeacherError};

use crate::failure::Failure;
use crate::project::{self, Loaded};
use crate::temporary::at_signals;
use crate::ui::output;

/// What is to be executed again, and how.
pub(crate) struct ExecuteAgain<'a> {
    pub(crate) loaded: &'a Loaded,
    pub(crate) store: &'a Arc<Store>,
    pub(crate) manifest: &'a Manifest,
    pub(crate) recorded: &'a [Option<Recorded>],
    pub(crate) machine: &'a Machine,
    /// Whether commands see the rest of the project.
    pub(crate) no_sandbox: bool,
    /// How many threads a stage gets, by the number that it had.
    pub(crate) threads: &'a dyn Fn(usize) -> usize,
    /// So many of the requests that are answered from records are asked anew.
    pub(crate) ask_anew: usize,
    /// What these are drawn with.
    pub(crate) sample_seed: u32,
}

/// What an audit looks at.
pub(crate) fn question<'a>(
    loaded: &'a Loaded,
    store: &'a Store,
    manifest: &'a Manifest,
) -> AuditQuestion<'a> {
    AuditQuestion {
        graph: &loaded.graph,
        selection: &loaded.selection,
        sources: &loaded.sources,
        passed_env: &loaded.passed_env,
        store,
        manifest,
        is_bundle: false,
    }
}

impl ExecuteAgain<'_> {
    /// Executes these instances in an empty store below the folder for temporary files, which is removed afterwards.
    pub(crate) fn run(
        &self,
        ids: &[InstanceId],
        each: &mut dyn FnMut(InstanceId, Again),
    ) -> Result<(Ended, Vec<AskedAnew>), Failure> {
        let made = tempfile::Builder::new().prefix("okapi-again-").tempdir();
        let folder = Room(made.map_err(|error| {
            Failure::failed(format!("there is no room for a store of its own: {error}"))
                .with_hint(TMPDIR.to_owned())
        })?);
        // What helps a store that is full does not help one that lasts for a moment.
        let of_scratch = |error: StoreError| match error {
            StoreError::Full { path } if path.starts_with(folder.path()) => {
                let message =
                    format!("there is no room for a store of its own: {}", path.display());
                Failure::failed(message).with_hint(TMPDIR.to_owned())
            }
            error => Failure::from(error),
        };
        let scratch = scratch_store(folder.path()).map_err(of_scratch)?;
        let root = &self.loaded.place.root;
        let hidden: [PathBuf; 3] =
            [root.clone(), self.store.root().to_owned(), scratch.root().to_owned()];
        let (registry, teachers) =
            okapi_stages::registry_of_records(self.ask_anew, self.sample_seed);
        let mut warn = |message: String| output::note(&message);
        let request = Reexecution {
            question: question(self.loaded, self.store, self.manifest),
            recorded: self.recorded,
            store: Arc::clone(self.store),
            launcher: project::launcher(self.no_sandbox, &hidden, &scratch, &mut warn),
            scratch,
            project_root: root,
            registry: Arc::new(registry),
            machine: self.machine,
            threads: self.threads,
            formats: &okapi_stages::difference_of_tensors,
        };
        let ended = reexecute(&request, ids, each).map_err(of_scratch)?;
        let asked = match teachers.sample() {
            Some(sample) if self.ask_anew > 0 && ended == Ended::Done => {
                let stop = Stop::default();
                let asked =
                    at_signals(|| stop.at_once(), || sample.ask_anew(self.store.records(), &stop));
                match asked {
                    Err(TeacherError::Cancelled) => return Ok((Ended::Interrupted, Vec::new())),
                    asked => asked.map_err(|error| {
                        Failure::failed(format!("a teacher cannot be asked anew: {error}"))
                    })?,
                }
            }
            _ => Vec::new(),
        };
        Ok((ended, asked))
    }
}

/// A folder that is removed at the end, also where work that was given up is writing into it at that moment.
struct Room(tempfile::TempDir);

impl Room {
    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        for _ in 0..TRIES {
            if remove(self.path()).is_ok() {
                return;
            }
            std::thread::sleep(BETWEEN_TRIES);
        }
    }
}

const TRIES: usize = 50;
const BETWEEN_TRIES: Duration = Duration::from_millis(10);

/// What to do where there is no room for temporary files.
pub(crate) const TMPDIR: &str = "set TMPDIR to a folder with room";

/// With less room than this left, a command that fails may have failed for want of it.
const HARDLY_ANY_ROOM: u64 = 4 << 20;

/// Whether a failure says something of this machine, and nothing of the result.
pub(crate) fn is_trouble_here(error: &ExecutionError) -> bool {
    let has_room = || free_disk(&std::env::temp_dir()).is_none_or(|free| free > HARDLY_ANY_ROOM);
    let is_command = matches!(error, ExecutionError::Stage(StageError::Command { .. }));
    is_command && !has_room()
        || matches!(
            error,
            ExecutionError::Store(_)
                | ExecutionError::Io { .. }
                | ExecutionError::Stage(StageError::Io { .. } | StageError::Records { .. })
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a store whose records could not be read every node that had asked a teacher was called corrupt.
    #[test]
    fn records_that_cannot_be_read_say_nothing_of_a_result() {
        let message = "records.index: Permission denied".to_owned();
        assert!(is_trouble_here(&StageError::Records { message }.into()));
        let message = "no answer is recorded".to_owned();
        assert!(!is_trouble_here(&StageError::Unrecorded { message }.into()));
    }
}

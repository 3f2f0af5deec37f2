//! What a running stage may touch: its inputs, its params, the places for its outputs, and the
//! words it has for progress and for failure.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use okapi_cache::{Artifact, HashingFile, Placement, RecordCache, Store, StoreError, Written};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::executor::command_process::Launcher;
use crate::lineage::Lineage;
use crate::spend::Spend;

/// What is handed to [`crate::stage::Stage::run`].
pub struct StageContext<'a> {
    /// The instance's name, for messages.
    pub instance: &'a str,
    /// The resolved `declared` object of the action (`params`, `run`, `env`, ...).
    pub declared: &'a serde_json::Value,
    /// Params that are no part of the identity.
    pub settings: &'a serde_json::Value,
    /// Values of the variables named by `pass_env`, those that are set.
    pub passed_env: &'a BTreeMap<String, String>,
    /// Where each input lies, by port.
    pub inputs: &'a BTreeMap<String, InputPath>,
    /// Each tracked file or folder, by project path.
    pub files: &'a BTreeMap<String, SourceFile>,
    /// Where each prompt lies, by name.
    pub prompts: &'a BTreeMap<String, PathBuf>,
    /// Where each output must be written, by port. The folders above exist, the paths do not.
    pub outputs: &'a BTreeMap<String, PathBuf>,
    /// All that the inputs were made from, for stages that ask for it ([`crate::stage::Stage::lineage`]).
    pub lineage: Option<&'a Lineage>,
    /// The working folder: private to this instance, gone after success.
    pub work: &'a WorkFolder,
    /// A folder kept between tries of the same action, for checkpoints. Made when asked for.
    pub scratch: &'a Path,
    /// A folder for curves that somebody watches while they grow: of this instance and this action,
    /// and kept. Made when asked for.
    pub tensorboard: &'a Path,
    /// GPU ids handed to this instance, as `CUDA_VISIBLE_DEVICES` spells them.
    pub gpus: &'a [String],
    /// The most threads the work should keep busy.
    pub threads: usize,
    /// Where progress and log lines go.
    pub reporter: &'a Reporter,
    /// Raised when the run is being stopped or the time is up.
    pub cancel: &'a Cancellation,
    /// What commands are started with.
    pub launcher: &'a Launcher,
    /// What services outside answered before: every call is paid once.
    pub records: &'a RecordCache,
    /// What [`StageContext::place_source`] takes files from.
    pub(crate) store: &'a Store,
}

impl StageContext<'_> {
    /// Opens the file of an output, which is hashed while it is written. The stage hands what
    /// [`HashingFile::finish`] returns to [`StageSuccess::written`].
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create_output(&self, port: &str) -> Result<HashingFile, StageError> {
        let path = self
            .outputs
            .get(port)
            .ok_or_else(|| StageError::failed(format!("the stage has no output `{port}`")))?;
        HashingFile::create(path).map_err(|source| StageError::Io { path: path.clone(), source })
    }

    /// Places what a tracked file or folder held when it was hashed at `path`, which must not exist.
    /// The project's own may be edited at any moment. Files may share their bytes with the store:
    /// they are for reading, moving and removing.
    ///
    /// # Errors
    /// When the store has lost it, or the place cannot be written.
    pub fn place_source(&self, source: &SourceFile, path: &Path) -> Result<(), StageError> {
        Ok(self.store.place(&source.artifact, path, Placement::Shared)?)
    }
}

/// A tracked file or folder of the project. Its content is in the store already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Where to read it: a private copy in the working folder if the stage takes `files:`, else
    /// the project's own.
    pub path: PathBuf,
    /// What it held when it was hashed.
    pub artifact: Artifact,
}

/// Where an input lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputPath {
    /// One artifact.
    Single(PathBuf),
    /// A folder, and in it each artifact by its key.
    Gathered {
        /// The folder.
        folder: PathBuf,
        /// Key and path of each artifact, sorted by key.
        items: Vec<(String, PathBuf)>,
    },
}

/// The private folder of a running instance.
#[derive(Debug, Clone)]
pub struct WorkFolder {
    /// The folder itself; everything below lies in it.
    pub root: PathBuf,
    /// Where a command starts: tracked files lie here at their project paths.
    pub current_dir: PathBuf,
    /// What the instance writes to stdout.
    pub stdout: PathBuf,
    /// What the instance writes to stderr.
    pub stderr: PathBuf,
    /// A folder for temporary files.
    pub tmp: PathBuf,
    /// A share of the lease on the action, for whoever ends its commands after okapi was killed.
    pub lease: Option<Arc<OwnedFd>>,
}

impl WorkFolder {
    /// The folder at a place, with no lease.
    pub fn at(root: PathBuf) -> WorkFolder {
        WorkFolder {
            current_dir: root.join("cwd"),
            stdout: root.join("stdout"),
            stderr: root.join("stderr"),
            tmp: root.join("tmp"),
            root,
            lease: None,
        }
    }
}

/// What a stage reports on success, beside its outputs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StageSuccess {
    /// Numbers worth keeping with the result, by name. They are a function of the action: nothing of how the work
    /// went, such as seconds or answers that were recorded before, belongs here.
    pub metrics: BTreeMap<String, f64>,
    /// Outputs whose content is in the store already, by port: nothing was written for them.
    pub stored: BTreeMap<String, Artifact>,
    /// Outputs that were hashed while they were written ([`StageContext::create_output`]), by
    /// port. Others are hashed when the stage is done.
    pub written: BTreeMap<String, Written>,
}

/// Why a stage failed.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The work itself failed; the message is for the user.
    #[error("{message}")]
    Failed {
        /// What went wrong.
        message: String,
        /// What to do about it.
        hint: Option<String>,
        /// Whether trying again may help.
        transient: bool,
    },
    /// A command ended with a failure.
    #[error("the command {how}")]
    Command {
        /// "exited with status 3" or "was killed by signal 9".
        how: String,
        /// The last lines of its stderr.
        stderr_tail: Vec<String>,
    },
    /// The next request could have gone over the budget.
    #[error("{message}")]
    BudgetReached {
        /// What was left, and what was asked.
        message: String,
    },
    /// An answer that is needed is not recorded, and nobody may be asked.
    #[error("{message}")]
    Unrecorded {
        /// Which.
        message: String,
    },
    /// The records of what teachers answered cannot be read or written.
    #[error("{message}")]
    Records {
        /// Why.
        message: String,
    },
    /// The time was up.
    #[error("timed out after {} s", *.after_ms as f64 / 1000.0)]
    TimedOut {
        /// The node's timeout, milliseconds.
        after_ms: u64,
    },
    /// The run is being stopped.
    #[error("stopped because the run is being interrupted")]
    Cancelled,
    /// The file system refused.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StageError {
    /// A failure with a message, not worth another try.
    pub fn failed(message: impl Into<String>) -> StageError {
        StageError::Failed { message: message.into(), hint: None, transient: false }
    }
}

/// Tells a stage to stop. Shared between the run loop and the stage's thread.
#[derive(Debug, Clone, Default)]
pub struct Cancellation {
    shared: Arc<CancellationState>,
}

#[derive(Debug, Default)]
struct CancellationState {
    requested: AtomicBool,
    at_once: AtomicBool,
    timed_out: AtomicBool,
    withdrawn: AtomicBool,
    /// The process group of the running command.
    group: Mutex<Option<Pid>>,
}

impl Cancellation {
    /// Asks the stage to stop: a running command gets SIGTERM.
    pub fn request(&self) {
        self.shared.requested.store(true, Ordering::Release);
        self.signal(Signal::TERM);
    }

    /// Asks the stage to stop because its time is up.
    pub fn time_out(&self) {
        self.shared.timed_out.store(true, Ordering::Release);
        self.request();
    }

    /// Ends a running command at once.
    pub fn kill(&self) {
        self.shared.requested.store(true, Ordering::Release);
        self.shared.at_once.store(true, Ordering::Release);
        self.signal(Signal::KILL);
    }

    /// Says that the work need not begin: a job of a cluster that waits is taken back, one that has begun goes on.
    pub fn withdraw(&self) {
        self.shared.withdrawn.store(true, Ordering::Release);
    }

    /// Whether the work need not begin any more.
    pub fn is_withdrawn(&self) -> bool {
        self.shared.withdrawn.load(Ordering::Acquire)
    }

    /// Whether the stage was asked to stop. Long work looks here now and then.
    pub fn is_requested(&self) -> bool {
        self.shared.requested.load(Ordering::Acquire)
    }

    /// Whether there is no time left to end what has begun.
    pub fn is_urgent(&self) -> bool {
        self.shared.at_once.load(Ordering::Acquire)
    }

    /// Whether the stage was asked to stop because its time is up.
    pub fn is_timed_out(&self) -> bool {
        self.shared.timed_out.load(Ordering::Acquire)
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = *self.group() {
            // The group may have ended this moment; there is nothing to do about it then.
            let _ = kill_process_group(group, signal);
        }
    }

    /// The process group that a request to stop is sent to. Whoever sets it looks at
    /// [`Cancellation::is_requested`] afterwards: a request may have come just before.
    pub(crate) fn group(&self) -> MutexGuard<'_, Option<Pid>> {
        self.shared.group.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a stage says while it works.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// So much of the work is done.
    Progress {
        /// Units done.
        done: u64,
        /// Units in all, if known.
        total: Option<u64>,
        /// What is counted: `rows`, `bytes`, `steps`.
        unit: Cow<'static, str>,
    },
    /// What was measured at a step of the work, by name: `loss`, `reward`.
    Measures {
        /// From 1.
        step: u64,
        /// The measures.
        values: BTreeMap<String, f64>,
    },
    /// So much was asked of services outside since the last such report.
    Spend(Spend),
    /// A line for the node's log.
    Log(String),
    /// The work is a job of a cluster.
    OnCluster {
        /// The cluster's name for it.
        job: String,
        /// Where it works, once it does.
        host: Option<String>,
    },
}

/// Where a stage's reports go.
pub struct Reporter {
    send: Box<dyn Fn(Report) + Send + Sync>,
    /// Where lines are kept with the result, for stages that write to no stderr of their own.
    kept: Mutex<Option<std::fs::File>>,
}

impl Reporter {
    /// A reporter that hands every report to `send`.
    pub fn new(send: impl Fn(Report) + Send + Sync + 'static) -> Reporter {
        Reporter { send: Box::new(send), kept: Mutex::default() }
    }

    /// Says how far the work is.
    pub fn progress(&self, done: u64, total: Option<u64>, unit: &'static str) {
        (self.send)(Report::Progress { done, total, unit: unit.into() });
    }

    /// Says what was measured at a step of the work.
    pub fn measures(&self, step: u64, values: BTreeMap<String, f64>) {
        (self.send)(Report::Measures { step, values });
    }

    /// Says what was asked of services outside since it was said last. All of it has to be said,
    /// whether or not the stage succeeds.
    pub fn spend(&self, spend: Spend) {
        (self.send)(Report::Spend(spend));
    }

    /// Writes a line to the node's log.
    pub fn log(&self, line: impl Into<String>) {
        use std::io::Write as _;
        let line = line.into();
        if let Some(file) = &mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner) {
            // The line is on its way to the run's events all the same.
            let _ = writeln!(file, "{line}");
        }
        (self.send)(Report::Log(line));
    }

    /// Keeps all lines from now on in a file, too.
    pub(crate) fn keep_in(&self, path: &Path) {
        let file = std::fs::File::options().create(true).append(true).open(path).ok();
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = file;
    }
}

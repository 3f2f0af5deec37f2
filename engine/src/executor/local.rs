//! Executes actions on this machine: working folder, stage, outputs into the store.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use okapi_cache::{Artifact, ArtifactKind, Digest, Store, StoreError};
use serde::{Deserialize, Serialize};

use super::action_lock::ActionLock;
use super::command_process::Launcher;
use super::job_cause::JobCause;
use super::work_folder::{IdleFolders, Prepared};
use crate::action::Action;
use crate::graph::Output;
use crate::lineage::Lineage;
use crate::stage::{NodeField, StageRegistry};
use crate::stage_context::{
    Cancellation, Reporter, StageContext, StageError, StageSuccess, WorkFolder,
};

/// What an executor is handed: an action, and where to find what it names by digest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// The instance's name, for messages.
    pub instance: String,
    /// The action.
    pub action: Action,
    /// The stage's name.
    pub stage: String,
    /// The `declared` object of the action.
    pub declared: serde_json::Value,
    /// Params that are no part of the identity.
    pub settings: serde_json::Value,
    /// Values of `pass_env` variables that are set. They are never written down.
    #[serde(skip)]
    pub passed_env: BTreeMap<String, String>,
    /// Inputs, sorted by port.
    pub inputs: Vec<JobInput>,
    /// Tracked files.
    pub files: Vec<JobSource>,
    /// Prompts by name.
    pub prompts: Vec<(String, JobSource)>,
    /// Whether tracked files are placed in the working folder (the stage takes `files:`).
    pub places_files: bool,
    /// Output ports, sorted by name.
    pub outputs: Vec<Output>,
    /// GPU ids handed out.
    pub gpus: Vec<String>,
    /// The most threads to keep busy.
    pub threads: usize,
    /// A share of the lease on the action.
    #[serde(skip)]
    pub lease: Option<Arc<OwnedFd>>,
}

/// What one input port reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobInput {
    /// The port.
    pub port: String,
    /// Whether several artifacts are gathered.
    pub gathered: bool,
    /// Key and artifact of each.
    pub items: Vec<(String, Artifact)>,
}

/// A tracked file or folder as it was hashed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobSource {
    /// From the project's root.
    pub path: Box<str>,
    /// On this machine; `None` where the project is not seen, and the store has it.
    pub absolute: Option<PathBuf>,
    /// What it held.
    pub artifact: Artifact,
}

/// What came of a job.
#[derive(Debug)]
pub struct Execution {
    /// The outputs, in the order of the ports.
    pub outputs: Vec<Artifact>,
    /// What the stage reported.
    pub success: StageSuccess,
    /// How long the stage worked, milliseconds.
    pub duration_ms: u64,
    /// What it wrote to stdout and stderr, in the store.
    pub log: Option<Digest>,
    /// What the result is kept with of the machine that made it, if that is another one.
    pub environment: Option<BTreeMap<String, String>>,
}

/// Why a job gave no result.
#[derive(Debug, thiserror::Error)]
pub enum ExecutionError {
    /// The stage failed.
    #[error(transparent)]
    Stage(#[from] StageError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A tracked file changed between planning and running.
    #[error("`{path}` changed while the run was using it")]
    SourceChanged {
        /// From the project's root.
        path: String,
    },
    /// The work wrote to one of its inputs.
    #[error("it wrote to its input {}; inputs are read-only: write to $OKAPI_OUTPUT_<PORT>", path.display())]
    InputModified {
        /// In the working folder.
        path: PathBuf,
    },
    /// A declared output was not made.
    #[error("it did not make its output `{port}`")]
    OutputMissing {
        /// The port.
        port: String,
        /// What lies in the outputs' folder instead.
        present: Vec<String>,
    },
    /// An output is a folder where a file was declared, or the reverse.
    #[error("its output `{port}` is {found}, but the node declares {declared}")]
    OutputKind {
        /// The port.
        port: String,
        /// "a folder".
        found: &'static str,
        /// "a file".
        declared: &'static str,
    },
    /// Something lies in the outputs' folder that no output declares.
    #[error("it left `{name}` in the outputs' folder, which the node does not declare")]
    OutputUndeclared {
        /// File name.
        name: String,
    },
    /// A cluster ended the job, or did not take it.
    #[error("{message}")]
    Job {
        /// Why.
        cause: JobCause,
        /// The same in words.
        message: String,
        /// What to do about it.
        hint: Option<String>,
        /// The last lines that the job wrote.
        log_tail: Vec<String>,
    },
    /// The stage panicked: a fault in okapi.
    #[error("the stage panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl ExecutionError {
    pub(super) fn io(path: &Path, source: io::Error) -> ExecutionError {
        ExecutionError::Io { path: path.to_owned(), source }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            ExecutionError::Stage(StageError::Failed { hint, .. }) => hint.clone(),
            ExecutionError::Stage(StageError::TimedOut { .. }) => {
                Some("raise the node's `timeout`; what is cached does not depend on it".into())
            }
            ExecutionError::Stage(StageError::BudgetReached { .. }) => Some(
                "raise `--budget` and run again: what was answered is kept and not asked again"
                    .into(),
            ),
            ExecutionError::SourceChanged { .. } => Some("run again".into()),
            ExecutionError::Job { hint, .. } => hint.clone(),
            ExecutionError::OutputMissing { port, present } if present.is_empty() => Some(format!(
                "write it to \"$OKAPI_OUTPUT_{}\"",
                port.to_ascii_uppercase().replace('-', "_")
            )),
            ExecutionError::OutputMissing { present, .. } => {
                Some(format!("it made {}", present.join(", ")))
            }
            ExecutionError::OutputUndeclared { name } => {
                Some(format!("declare `{name}` under `outputs:`, or write it to \"$TMPDIR\""))
            }
            _ => None,
        }
    }

    /// Whether another try of the same may end otherwise.
    pub fn is_worth_another_try(&self) -> bool {
        match self {
            ExecutionError::Stage(StageError::Failed { transient, .. }) => *transient,
            ExecutionError::Stage(StageError::Command { .. } | StageError::TimedOut { .. }) => true,
            ExecutionError::Stage(StageError::Io { .. }) | ExecutionError::Io { .. } => true,
            ExecutionError::OutputMissing { .. } => true,
            ExecutionError::Job { cause, .. } => cause.is_worth_another_try(),
            _ => false,
        }
    }

    /// Whether the store itself is in trouble, so that no other job can do better.
    pub fn is_store_trouble(&self) -> bool {
        matches!(self, ExecutionError::Store(error) if error.is_store_trouble())
    }
}

/// Executes jobs, each in the calling thread.
#[derive(Clone)]
pub struct Executor {
    store: Arc<Store>,
    registry: Arc<StageRegistry>,
    launcher: Launcher,
    idle: Arc<IdleFolders>,
    /// Where teachers' answers are looked up.
    answered_in: Arc<Store>,
    is_job: bool,
}

impl Executor {
    /// An executor that finds inputs and puts outputs in `store`, knows the stages of `registry`,
    /// and starts commands by `launcher`.
    pub fn new(store: Arc<Store>, registry: Arc<StageRegistry>, launcher: Launcher) -> Executor {
        let answered_in = Arc::clone(&store);
        Executor { store, registry, launcher, idle: Arc::default(), answered_in, is_job: false }
    }

    /// The same within a job of a cluster, which has made sure that nobody else works on the same.
    pub(crate) fn of_job(self) -> Executor {
        Executor { is_job: true, ..self }
    }

    /// The same, with the teachers' answers of another store.
    pub(crate) fn with_answers_of(self, other: Arc<Store>) -> Executor {
        Executor { answered_in: other, ..self }
    }

    /// Executes one job. On success the working folder is gone; on failure it stays, with a script
    /// `run-by-hand` for a command, until the action is tried again.
    ///
    /// # Errors
    /// Whatever kept the outputs from being made. Nothing is published then.
    pub fn execute(
        &self,
        job: &Job,
        reporter: &Reporter,
        cancel: &Cancellation,
    ) -> Result<Execution, ExecutionError> {
        let _alone = match !self.is_job && ActionLock::is_there(&self.store, &job.action.digest) {
            true => self.wait_for_job(job, reporter, cancel)?,
            false => None,
        };
        let prepared = Prepared::new(&self.store, &self.idle, job)?;
        let lineage = self.keep_lineage(job)?;
        let work = WorkFolder { lease: job.lease.clone(), ..WorkFolder::at(prepared.root.clone()) };
        let scratch = self.store.scratch_folder(&job.action.digest);
        let tensorboard = self.store.tensorboard_folder().join(&job.instance);
        let tensorboard = tensorboard.join(&job.action.digest.to_string()[..8]);
        let mut context = StageContext {
            instance: &job.instance,
            declared: &job.declared,
            settings: &job.settings,
            passed_env: &job.passed_env,
            inputs: &prepared.inputs,
            files: &prepared.files,
            prompts: &prepared.prompts,
            outputs: &prepared.outputs,
            lineage: lineage.as_ref(),
            work: &work,
            scratch: &scratch,
            tensorboard: &tensorboard,
            gpus: &job.gpus,
            threads: job.threads,
            reporter,
            cancel,
            launcher: &self.launcher,
            records: self.answered_in.records(),
            store: &self.store,
        };
        if job.stage != "command" {
            reporter.keep_in(&work.stderr);
        }
        let started = Instant::now();
        let success = self.run_stage(&job.stage, &mut context);
        let duration_ms = started.elapsed().as_millis() as u64;
        let success = match success {
            Ok(success) => success,
            Err(error) => {
                // The rest of the store must not suffer from a command that wrote to an input and
                // then failed.
                let inputs = prepared.check_inputs(&self.store);
                write_script(&context, &job.stage)?;
                return match inputs {
                    Err(modified) => Err(modified),
                    Ok(()) => Err(error),
                };
            }
        };
        let outputs = prepared
            .check_inputs(&self.store)
            .and_then(|()| self.take_outputs(job, &prepared, &success))
            .inspect_err(|_| {
                // Whether the script can be written matters less than the failure itself.
                let _ = write_script(&context, &job.stage);
            })?;
        let log = self.store_log(&work)?;
        prepared.finish(&self.idle);
        remove_scratch(&scratch);
        Ok(Execution { outputs, success, duration_ms, log, environment: None })
    }

    /// A job of a cluster that a run before this one submitted may be at work on the same, in the same folders.
    fn wait_for_job(
        &self,
        job: &Job,
        reporter: &Reporter,
        cancel: &Cancellation,
    ) -> Result<Option<ActionLock>, ExecutionError> {
        let tell = || {
            let line = "a job of a cluster is at work on the same, and is waited for";
            reporter.log(line);
        };
        let is_over = || cancel.is_requested();
        let lock = ActionLock::wait(&self.store, &job.action.digest, is_over, tell);
        match lock.map_err(|error| ExecutionError::io(&self.store.jobs_folder(), error))? {
            Some(lock) => Ok(Some(lock)),
            None => Err(StageError::Cancelled.into()),
        }
    }

    /// Puts the lineage that the action names into the store.
    fn keep_lineage(&self, job: &Job) -> Result<Option<Lineage>, ExecutionError> {
        let Some(text) = &job.action.lineage else { return Ok(None) };
        self.store.put_bytes(text.as_bytes())?;
        let lineage = serde_json::from_str(text);
        Ok(Some(lineage.map_err(|error| {
            StageError::failed(format!("the lineage cannot be read back: {error}"))
        })?))
    }

    fn run_stage(
        &self,
        name: &str,
        context: &mut StageContext<'_>,
    ) -> Result<StageSuccess, ExecutionError> {
        let stage = self
            .registry
            .get(name)
            .ok_or_else(|| StageError::failed(format!("no stage is named {name}")))?;
        let run = std::panic::AssertUnwindSafe(|| stage.run(context));
        match std::panic::catch_unwind(run) {
            Ok(Err(StageError::Store(error))) => Err(ExecutionError::Store(error)),
            Ok(result) => Ok(result?),
            Err(panic) => Err(ExecutionError::Panicked { message: panic_message(&*panic) }),
        }
    }

    fn take_outputs(
        &self,
        job: &Job,
        prepared: &Prepared,
        success: &StageSuccess,
    ) -> Result<Vec<Artifact>, ExecutionError> {
        let folder = prepared.root.join("out");
        let present = list(&folder)?;
        for name in &present {
            if !prepared.outputs.contains_key(name) {
                return Err(ExecutionError::OutputUndeclared { name: name.clone() });
            }
        }
        for output in &job.outputs {
            if !present.contains(&output.port) && !success.stored.contains_key(&output.port) {
                return Err(ExecutionError::OutputMissing { port: output.port.clone(), present });
            }
        }
        // All outputs are looked at before the first is moved.
        for output in job.outputs.iter().filter(|output| present.contains(&output.port)) {
            check_kind(&folder.join(&output.port), output)?;
        }
        job.outputs
            .iter()
            .map(|output| match success.stored.get(&output.port) {
                Some(artifact) => Ok(*artifact),
                None => {
                    let path = folder.join(&output.port);
                    match success.written.get(&output.port) {
                        Some(written) => Ok(self.store.adopt_written(&path, *written)?),
                        None => Ok(self.store.adopt(&path, output.kind.artifact_kind())?),
                    }
                }
            })
            .collect()
    }

    /// Keeps what the instance wrote to stdout and stderr, if anything.
    fn store_log(&self, work: &WorkFolder) -> Result<Option<Digest>, ExecutionError> {
        let mut log = Vec::new();
        append_log(work, &mut log).map_err(|source| ExecutionError::io(&work.root, source))?;
        if log.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.store.put_bytes(&log)?.digest))
    }
}

/// Writes stdout and then stderr of an instance to `log`, each under a heading if both are there.
///
/// # Errors
/// When they cannot be read or `log` cannot be written.
pub fn append_log(work: &WorkFolder, log: &mut dyn Write) -> io::Result<()> {
    let size = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    let (out, err) = (size(&work.stdout), size(&work.stderr));
    for (path, bytes, heading) in
        [(&work.stdout, out, "--- stdout ---"), (&work.stderr, err, "--- stderr ---")]
    {
        if bytes == 0 {
            continue;
        }
        if out > 0 && err > 0 {
            writeln!(log, "{heading}")?;
        }
        io::copy(&mut fs::File::open(path)?, log)?;
    }
    Ok(())
}

fn check_kind(path: &Path, output: &Output) -> Result<(), ExecutionError> {
    let metadata = fs::symlink_metadata(path).map_err(|source| ExecutionError::io(path, source))?;
    let found = if metadata.is_dir() {
        "a folder"
    } else if metadata.is_file() {
        "a file"
    } else if metadata.is_symlink() {
        "a symlink"
    } else {
        "neither a file nor a folder"
    };
    let declared = match output.kind.artifact_kind() {
        ArtifactKind::File => "a file",
        ArtifactKind::Tree => "a folder",
    };
    if found == declared {
        return Ok(());
    }
    Err(ExecutionError::OutputKind { port: output.port.clone(), found, declared })
}

fn list(folder: &Path) -> Result<Vec<String>, ExecutionError> {
    let read = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    };
    read().map_err(|source| ExecutionError::io(folder, source))
}

/// Scratch that was never used is an empty folder or none; a used one has served its purpose once
/// the result is whole.
fn remove_scratch(scratch: &Path) {
    // A leftover is found again by `okapi gc`.
    let _ = super::work_folder::remove(scratch);
}

/// The name of the script that runs a failed command by hand.
pub const SCRIPT: &str = "run-by-hand";

/// Writes a script that runs a failed command again, with the same folder and environment.
fn write_script(context: &StageContext<'_>, stage: &str) -> Result<(), ExecutionError> {
    let takes_run = stage == "command";
    debug_assert!(takes_run == (context.declared.get("run").is_some()) || !takes_run);
    if !takes_run {
        return Ok(());
    }
    let quote = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    let mut script =
        String::from("#!/bin/sh\n# Runs this node's command by hand, as okapi ran it.\n");
    script.push_str(&format!(
        "cd {} || exit\n",
        quote(&context.work.current_dir.display().to_string())
    ));
    script.push_str("exec env -i \\\n");
    for (name, value) in crate::command_stage::environment(context) {
        // Values taken from the caller may be secrets: the script takes them from its own caller.
        if context.passed_env.contains_key(&name) {
            script.push_str(&format!("  {name}=\"${name}\" \\\n"));
        } else {
            script.push_str(&format!("  {name}={} \\\n", quote(&value)));
        }
    }
    let run = context.declared["run"].as_str().unwrap_or_default();
    script.push_str(&format!("  /bin/sh -eu -c {}\n", quote(run)));
    let path = context.work.root.join(SCRIPT);
    fs::write(&path, script).map_err(|source| ExecutionError::io(&path, source))
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

/// Whether a stage takes tracked files into its working folder.
pub fn places_files(fields: &[NodeField]) -> bool {
    fields.contains(&NodeField::Files)
}

//! One job of a cluster, seen from inside: reads what is to be done, does it, and leaves what came of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use okapi_cache::{ActionDigest, Digest, Store, StoreError};
use tokio::sync::mpsc;

use super::action_lock::ActionLock;
use super::command_process::Launcher;
use super::job_folder::{
    JOB, JobFile, JobFolders, JobOutcome, LIST, OutcomeFile, ReportLine, ReportWriter, SUBMITTED,
    Submitted, VERSION, read_whole, write_whole,
};
use super::{Execution, ExecutionError, Executor, Job};
use crate::environment;
use crate::graph::Resources;
use crate::machine::Machine;
use crate::run::interrupts::{Interrupts, sleep_until};
use crate::schedule::Grant;
use crate::stage::StageRegistry;
use crate::stage_context::{Cancellation, Report, Reporter, StageError};

/// Makes what commands are started with, given what they must not see, if anything; what cannot be seen to is told.
pub type MakeLauncher<'a> = dyn Fn(Option<&[PathBuf]>, &mut dyn FnMut(String)) -> Launcher + 'a;

/// What a job is started with.
pub struct Worker<'a> {
    /// The store, which the coordinator of the run sees, too.
    pub store: Arc<Store>,
    /// The stages.
    pub registry: Arc<StageRegistry>,
    /// What commands are started with.
    pub launcher: &'a MakeLauncher<'a>,
    /// okapi's version and source revision.
    pub program: &'a str,
    /// The cluster's name for this job.
    pub job: &'a str,
    /// The jobs that it was submitted with, if whoever waits for it says in the store whom it waits for.
    pub batch: Option<&'a str>,
}

/// The action of a job: so many lines into the list of its batch.
///
/// # Errors
/// When there is no such list or line.
pub fn action_of(store: &Store, batch: &str, index: usize) -> io::Result<ActionDigest> {
    let path = JobFolders::of(store).batch(batch).join(LIST);
    let list = fs::read_to_string(path)?;
    let line = list.lines().nth(index).and_then(|line| line.parse().ok());
    line.ok_or_else(|| io::Error::other(format!("the batch {batch} has no job {index}")))
}

/// How long work gets to end after a signal, before it is ended: less than clusters wait.
const GRACE: Duration = Duration::from_secs(20);
/// A signal that comes so long before the end of the job's time, or later, comes because of it.
const NEAR_LIMIT: Duration = Duration::from_secs(150);
/// How long what was written before a job was submitted may take to be seen by it: some networks show files late.
const UNTIL_SEEN: Duration = Duration::from_secs(15);
/// How long another job with the same action is waited for.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long it is listened for a signal after a command has ended: Slurm sends it to all processes of a job, and which of them hears it
/// first is chance.
const UNTIL_HEARD: Duration = Duration::from_millis(100);

impl Worker<'_> {
    /// Does the work of an action. Gives whether there is a result.
    ///
    /// # Errors
    /// When what is to be done cannot be read, or what came of it cannot be written.
    pub fn work(&self, action: &ActionDigest) -> Result<bool, StoreError> {
        let folders = JobFolders::of(&self.store);
        let began = Instant::now();
        while !self.is_waited_for(&folders, action) {
            if began.elapsed() > UNTIL_SEEN {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_secs(1));
        }
        let began = Instant::now();
        let alone = ActionLock::wait(&self.store, action, || began.elapsed() > PATIENCE, || {});
        // It is held until what came of it is written.
        let Some(_alone) = alone.map_err(|error| StoreError::io(&folders.job(action), error))?
        else {
            let error = StageError::Failed {
                message: "another job works on the same".to_owned(),
                hint: Some("`squeue --me` lists it; what it makes is taken".to_owned()),
                transient: true,
            };
            let try_name =
                read_whole(&folders.job(action).join(JOB)).map(|it: JobFile| it.try_name);
            let outcome = JobOutcome::failed(&error.into());
            self.leave(&folders, action, try_name.unwrap_or_default(), outcome)?;
            return Ok(false);
        };
        // Meanwhile it may have been given up.
        if !self.is_waited_for(&folders, action) {
            return Ok(false);
        }
        let folder = folders.job(action);
        let path = folder.join(JOB);
        let file: JobFile = read_whole(&path)
            .filter(|file: &JobFile| file.okapi_job == VERSION)
            .ok_or_else(|| StoreError::io(&path, io::Error::other("it is no job of this okapi")))?;
        let known: Option<OutcomeFile> = read_whole(&folders.outcome(action));
        if known.is_some_and(|known| matches!(known.outcome, JobOutcome::Done { .. })) {
            // Another job was there before this one.
            return Ok(true);
        }
        let try_name = file.try_name.clone();
        let (outcome, grant) = self.outcome(&folder, file, Instant::now())?;
        let environment = environment::describe(self.program, &grant);
        let outcome = JobOutcome::of(outcome.result, outcome.at_limit, environment);
        let is_done = matches!(outcome, JobOutcome::Done { .. });
        self.leave(&folders, action, try_name, outcome)?;
        Ok(is_done)
    }

    /// Whether somebody waits for this job, and not for another one with the same action: one that was given up for lost may work on,
    /// or begin late.
    fn is_waited_for(&self, folders: &JobFolders, action: &ActionDigest) -> bool {
        let submitted: Option<Submitted> = read_whole(&folders.job(action).join(SUBMITTED));
        self.batch.is_none_or(|batch| submitted.is_some_and(|it| it.batch == batch))
    }

    /// Leaves what came of it to whoever waits for it.
    fn leave(
        &self,
        folders: &JobFolders,
        action: &ActionDigest,
        try_name: String,
        outcome: JobOutcome,
    ) -> Result<(), StoreError> {
        // What it refers to comes first.
        self.store.flush()?;
        self.store.sync()?;
        if !self.is_waited_for(folders, action) {
            return Ok(());
        }
        let job = self.job.to_owned();
        let outcome = OutcomeFile { okapi_outcome: VERSION, try_name, job, outcome };
        write_whole(&self.store, &folders.outcome(action), &outcome)
    }

    fn outcome(
        &self,
        folder: &Path,
        file: JobFile,
        began: Instant,
    ) -> Result<(Ended, Grant), StoreError> {
        let JobFile { mut job, pass_env, gpus, .. } = file;
        let machine = Machine::detect(None, std::env::var("CUDA_VISIBLE_DEVICES").ok().as_deref());
        let ended = |result| Ended { result, at_limit: false };
        let mut grant = Grant {
            resources: Resources { cpu_milli: job.threads as u32 * 1000, memory: 0, gpu: gpus },
            gpus: Vec::new(),
            is_on_cluster: false,
        };
        if file.program != self.program {
            let error = StageError::Failed {
                message: format!(
                    "the run is one of okapi {}, and the okapi of this node is {}",
                    file.program, self.program
                ),
                hint: Some("put the same program where `slurm: {okapi: ...}` names it".to_owned()),
                transient: false,
            };
            return Ok((ended(Err(error.into())), grant));
        }
        if machine.gpus.len() < gpus as usize {
            let error = StageError::Failed {
                message: format!(
                    "the job asked for {gpus} GPU(s), and CUDA_VISIBLE_DEVICES offers {}",
                    machine.gpus.len()
                ),
                hint: Some("give `slurm: {gres: ...}` as your cluster names its GPUs".to_owned()),
                transient: false,
            };
            return Ok((ended(Err(error.into())), grant));
        }
        job.gpus = machine.gpus.into_iter().take(gpus as usize).collect();
        grant.gpus.clone_from(&job.gpus);
        let set =
            pass_env.iter().filter_map(|name| Some((name.clone(), std::env::var(name).ok()?)));
        job.passed_env = set.collect();
        if let Some(name) = pass_env.iter().find(|name| !is_as_named(&job, name)) {
            let error = StageError::Failed {
                message: format!("the variable {name} has another value in the job than in the run"),
                hint: Some(
                    "results depend on it: `slurm: {setup: ...}` may not change what is under `pass_env`"
                        .to_owned(),
                ),
                transient: false,
            };
            return Ok((ended(Err(error.into())), grant));
        }
        let reporter = reporter(folder).map_err(|error| StoreError::io(folder, error))?;
        let launcher = (self.launcher)(file.hidden.as_deref(), &mut |message| {
            reporter.log(message);
        });
        let executor = Executor::new(Arc::clone(&self.store), Arc::clone(&self.registry), launcher);
        let executor = executor.of_job();
        let cancel = Cancellation::default();
        let (sender, receiver) = mpsc::unbounded_channel();
        let times = Times {
            timeout: file.timeout_ms.map(|ms| (ms, began + Duration::from_millis(ms))),
            limit: file.limit_ms.map(|ms| began + Duration::from_millis(ms)),
        };
        let thread = {
            let cancel = cancel.clone();
            move || {
                // It is listened to until the work has ended.
                let _ = sender.send(executor.execute(&job, &reporter, &cancel));
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| StoreError::io(folder, error))?;
        let ended = runtime.block_on(async {
            let interrupts = Interrupts::new()?;
            std::thread::spawn(thread);
            Ok(watch(interrupts, receiver, &cancel, times).await)
        });
        Ok((ended.map_err(|error: io::Error| StoreError::io(folder, error))?, grant))
    }
}

/// Whether a variable has the value of which the action has the digest.
fn is_as_named(job: &Job, name: &str) -> bool {
    let document: serde_json::Value =
        serde_json::from_str(&job.action.document).unwrap_or_default();
    let value = job.passed_env.get(name);
    let here = value.map(|value| format!("value:{}", Digest::of(value.as_bytes())));
    document["env"][name].as_str() == here.as_deref()
}

/// How the work ended.
struct Ended {
    result: Result<Execution, ExecutionError>,
    at_limit: bool,
}

/// When work has to end.
struct Times {
    /// The node's timeout: how long it is, milliseconds, and when it is over.
    timeout: Option<(u64, Instant)>,
    /// When the cluster ends the job.
    limit: Option<Instant>,
}

/// Waits for the end of the work, and sees to it that it comes.
async fn watch(
    mut interrupts: Interrupts,
    mut receiver: mpsc::UnboundedReceiver<Result<Execution, ExecutionError>>,
    cancel: &Cancellation,
    times: Times,
) -> Ended {
    let mut next = times.timeout.map(|(_, at)| at);
    let mut at_limit = false;
    loop {
        tokio::select! {
            result = receiver.recv() => {
                let gone = || ExecutionError::Panicked { message: "the work ended without a word".to_owned() };
                let result = result.unwrap_or_else(|| Err(gone()));
                if !cancel.is_requested()
                    && tokio::time::timeout(UNTIL_HEARD, interrupts.next()).await.is_ok()
                {
                    at_limit |= is_near(times.limit);
                    return Ended { result: Err(StageError::Cancelled.into()), at_limit };
                }
                let is_stopped = matches!(result, Err(ExecutionError::Stage(StageError::Cancelled)));
                return match times.timeout.filter(|_| is_stopped && cancel.is_timed_out()) {
                    Some((after_ms, _)) => {
                        Ended { result: Err(StageError::TimedOut { after_ms }.into()), at_limit }
                    }
                    None => Ended { result, at_limit },
                };
            }
            () = sleep_until(next) => {
                match cancel.is_requested() {
                    true => cancel.kill(),
                    false => cancel.time_out(),
                }
                next = Some(Instant::now() + GRACE);
            }
            () = interrupts.next() => {
                at_limit |= is_near(times.limit);
                cancel.request();
                next = Some(Instant::now() + GRACE);
            }
        }
    }
}

/// Whether the job's time is nearly up.
fn is_near(limit: Option<Instant>) -> bool {
    limit.is_some_and(|limit| limit.saturating_duration_since(Instant::now()) < NEAR_LIMIT)
}

/// How often progress is written down.
const BETWEEN_PROGRESS: Duration = Duration::from_secs(1);

/// Writes what the work says into the job's folder, which somebody reads over the network.
fn reporter(folder: &Path) -> io::Result<Reporter> {
    let mut writer = ReportWriter::open(folder)?;
    writer.write(&ReportLine::Began { host: environment::host() });
    let state = Mutex::new((writer, None::<Instant>));
    Ok(Reporter::new(move |report| {
        let (writer, last) = &mut *state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Report::Progress { done, total, .. } = &report {
            let is_soon = last.is_some_and(|last| last.elapsed() < BETWEEN_PROGRESS);
            if is_soon && Some(*done) != *total {
                return;
            }
            *last = Some(Instant::now());
        }
        writer.write(&ReportLine::of(report));
    }))
}

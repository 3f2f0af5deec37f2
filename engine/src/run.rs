//! The run: a loop around the schedule that executes what has no result.
//!
//! 1. [`evaluate`] settles every instance whose result is there. If that is all of them, nothing
//!    else happens.
//! 2. The rest goes to the [`Schedule`]. When an instance becomes ready its inputs are known, so
//!    its action is: [`decide`] again (an input that came out as before gives the old action, and
//!    its result: early cutoff), else take the lease on the action and execute it in a thread.
//! 3. A finished instance's result is queued for the store and its readers become ready.
//!
//! Another run may hold the lease. Then the instance is set aside and looked at again: the result
//! of the other run is used as soon as it is there, and if the other run dies, this one takes over.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use okapi_cache::{Artifact, Commit, Lease, ResultInfo, Store, StoreError};
use tokio::sync::mpsc;

use crate::action::{Action, ActionWriter, PassedEnv};
use crate::evaluate::{Decision, Evaluation, Miss, Question, State, decide, evaluate};
use crate::event::{Event, Outcome};
use crate::executor::command_process::Launcher;
use crate::executor::local::{JobInput, JobSource, SCRIPT, places_files};
use crate::executor::{Execution, ExecutionError, Executor, Job};
use crate::explain::reason_in_a_line;
use crate::graph::{Feed, Graph, InstanceId};
use crate::machine::Machine;
use crate::manifest::Manifest;
use crate::retry::wait_before_next;
use crate::schedule::{Grant, Schedule, Standing};
use crate::selection::Selection;
use crate::stage::StageRegistry;
use crate::stage_context::{Cancellation, Report, Reporter, StageError};

/// How often an action that another run is executing is looked at.
const LEASE_POLL: Duration = Duration::from_millis(20);

/// What a run is asked to do.
pub struct RunRequest<'a> {
    /// The checked pipeline.
    pub graph: &'a Graph,
    /// The instances to bring up to date.
    pub selection: &'a Selection,
    /// The artifact of each source that a selected instance tracks.
    pub sources: &'a [Option<Artifact>],
    /// The project's root on this machine.
    pub project_root: &'a std::path::Path,
    /// Values for `pass_env`.
    pub passed_env: &'a PassedEnv,
    /// For every instance: must it run even if there is a result?
    pub forced: &'a [bool],
    /// What the machine has.
    pub machine: &'a Machine,
    /// Whether to go on with what does not depend on a failed instance.
    pub keep_going: bool,
    /// How long running commands get to end after an interrupt.
    pub grace: Duration,
    /// The store.
    pub store: Arc<Store>,
    /// The stages.
    pub registry: Arc<StageRegistry>,
    /// What commands are started with.
    pub launcher: Launcher,
    /// What the pipeline's last run left behind, for the reasons in events.
    pub previous: &'a dyn Fn() -> Manifest,
    /// The folder for logs of failed instances.
    pub logs: PathBuf,
}

/// How a run ended.
#[derive(Debug)]
pub struct RunSummary {
    /// In a word.
    pub outcome: Outcome,
    /// Instances that ran.
    pub ran: u64,
    /// Instances whose results were found.
    pub cached: u64,
    /// Instances that failed.
    pub failed: u64,
    /// Instances that were not run.
    pub skipped: u64,
    /// The store's trouble, if that is how it ended.
    pub store_error: Option<StoreError>,
    /// Action and outputs of every instance that has a result.
    pub settled: Vec<Option<Settled>>,
    /// Instances that ran, in the order in which they finished.
    pub executed: Vec<InstanceId>,
}

/// The result of an instance.
#[derive(Debug, Clone)]
pub struct Settled {
    /// Its action.
    pub action: okapi_cache::ActionDigest,
    /// Its outputs, in the order of its node's ports.
    pub outputs: Vec<Artifact>,
}

/// Brings the selected instances up to date. Events go to `emit`, in the calling thread.
///
/// # Errors
/// When the store refuses before anything has run. Failures of instances are in the summary.
pub fn run(
    request: &RunRequest<'_>,
    evaluation: &Evaluation,
    emit: &mut dyn FnMut(Event),
) -> Result<RunSummary, StoreError> {
    let mut runner = Runner::new(request, evaluation);
    let cached = runner.count_cached();
    if cached > 0 {
        emit(Event::Cached { count: cached });
    }
    if !evaluation.is_up_to_date() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| StoreError::io(request.store.root(), source))?;
        runtime.block_on(runner.drive(emit));
    }
    Ok(runner.into_summary(cached))
}

/// Evaluates anew, as [`run`] needs it.
pub fn evaluate_for_run(request: &RunRequest<'_>) -> Evaluation {
    evaluate(&Question {
        graph: request.graph,
        selection: request.selection,
        sources: request.sources,
        passed_env: request.passed_env,
        forced: request.forced,
        machine: request.machine,
        store: &request.store,
    })
}

/// What a job's thread sends to the loop.
enum Message {
    Report(InstanceId, Report),
    Ended(InstanceId, Result<Execution, ExecutionError>),
}

/// An instance that is being executed.
struct Running {
    action: Action,
    grant: Grant,
    lease: Lease,
    cancel: Cancellation,
    attempt: u32,
    deadline: Option<Instant>,
}

/// An instance that is neither ready nor running for now.
enum Aside {
    /// Another run is executing its action.
    Leased,
    /// It failed and will be tried again then.
    BackingOff { until: Instant },
}

struct Runner<'a> {
    request: &'a RunRequest<'a>,
    evaluation: &'a Evaluation,
    schedule: Schedule<'a>,
    /// Outputs of instances that were settled by this run.
    outputs: BTreeMap<InstanceId, Settled>,
    running: BTreeMap<InstanceId, Running>,
    aside: BTreeMap<InstanceId, Aside>,
    attempts: BTreeMap<InstanceId, u32>,
    previous: Option<Manifest>,
    executor: Executor,
    sender: mpsc::UnboundedSender<Message>,
    receiver: Option<mpsc::UnboundedReceiver<Message>>,
    executed: Vec<InstanceId>,
    cached_later: u64,
    failed: u64,
    skipped: u64,
    interrupted: bool,
    store_error: Option<StoreError>,
}

impl<'a> Runner<'a> {
    fn new(request: &'a RunRequest<'a>, evaluation: &'a Evaluation) -> Runner<'a> {
        let to_settle: Vec<bool> = evaluation
            .states
            .iter()
            .map(|state| !matches!(state, State::NotSelected | State::Cached { .. }))
            .collect();
        let (sender, receiver) = mpsc::unbounded_channel();
        Runner {
            request,
            evaluation,
            schedule: Schedule::new(request.graph, request.machine, &to_settle, |_| 1),
            outputs: BTreeMap::new(),
            running: BTreeMap::new(),
            aside: BTreeMap::new(),
            attempts: BTreeMap::new(),
            previous: None,
            executor: Executor {
                store: Arc::clone(&request.store),
                registry: Arc::clone(&request.registry),
                launcher: request.launcher.clone(),
            },
            sender,
            receiver: Some(receiver),
            executed: Vec::new(),
            cached_later: 0,
            failed: 0,
            skipped: 0,
            interrupted: false,
            store_error: None,
        }
    }

    fn count_cached(&self) -> u64 {
        let cached = |state: &&State| matches!(state, State::Cached { .. });
        self.evaluation.states.iter().filter(cached).count() as u64
    }

    /// The loop. Everything that changes the run's state happens here, in one thread.
    async fn drive(&mut self, emit: &mut dyn FnMut(Event)) {
        let Some(mut receiver) = self.receiver.take() else { return };
        let mut interrupts = match Interrupts::new() {
            Ok(interrupts) => interrupts,
            Err(source) => {
                self.store_error = Some(StoreError::io(self.request.store.root(), source));
                return;
            }
        };
        let mut kill_at = None;
        loop {
            if !self.is_stopping() {
                self.start_what_can_start(emit);
            }
            if self.running.is_empty() && (self.is_stopping() || self.is_stuck_or_finished()) {
                break;
            }
            let wake = self.next_wake(kill_at);
            tokio::select! {
                biased;
                () = interrupts.next() => {
                    if self.interrupted {
                        self.running.values().for_each(|running| running.cancel.kill());
                    } else {
                        self.interrupted = true;
                        kill_at = Some(Instant::now() + self.request.grace);
                        emit(Event::Interrupted { running: self.running.len() as u64 });
                        self.running.values().for_each(|running| running.cancel.request());
                    }
                }
                message = receiver.recv() => {
                    if let Some(message) = message {
                        self.receive(message, emit);
                    }
                    // Whatever else has arrived meanwhile costs no further turn of the loop.
                    while let Ok(message) = receiver.try_recv() {
                        self.receive(message, emit);
                    }
                }
                () = sleep_until(wake) => {
                    let now = Instant::now();
                    if kill_at.is_some_and(|at| at <= now) {
                        kill_at = None;
                        self.running.values().for_each(|running| running.cancel.kill());
                    }
                    self.wake(now);
                }
            }
        }
        self.count_unsettled(emit);
        if let Err(error) = self.request.store.flush() {
            self.store_error.get_or_insert(error);
        }
    }

    /// Whether no new instance may start.
    fn is_stopping(&self) -> bool {
        self.interrupted
            || self.store_error.is_some()
            || (self.failed > 0 && !self.request.keep_going)
    }

    /// Whether nothing is left that this run could do.
    fn is_stuck_or_finished(&self) -> bool {
        self.schedule.is_finished() || self.aside.is_empty()
    }

    fn next_wake(&self, kill_at: Option<Instant>) -> Option<Instant> {
        let deadlines = self.running.values().filter_map(|running| running.deadline);
        let aside = self.aside.values().map(|aside| match aside {
            Aside::Leased => Instant::now() + LEASE_POLL,
            Aside::BackingOff { until } => *until,
        });
        deadlines.chain(aside).chain(kill_at).min()
    }

    /// Times out what ran too long, and makes ready what waited long enough.
    fn wake(&mut self, now: Instant) {
        for running in self.running.values_mut() {
            match running.deadline {
                Some(deadline) if deadline <= now && !running.cancel.is_timed_out() => {
                    running.cancel.time_out();
                    // A command that ignores SIGTERM is killed after the grace period.
                    running.deadline = Some(now + self.request.grace);
                }
                Some(deadline) if deadline <= now => {
                    running.cancel.kill();
                    running.deadline = None;
                }
                _ => {}
            }
        }
        let due: Vec<_> = self
            .aside
            .iter()
            .filter(|(_, aside)| match aside {
                Aside::Leased => true,
                Aside::BackingOff { until } => *until <= now,
            })
            .map(|(&id, _)| id)
            .collect();
        for id in due {
            self.schedule.put_back(id);
        }
    }

    fn start_what_can_start(&mut self, emit: &mut dyn FnMut(Event)) {
        while let Some(id) = self.schedule.take_ready() {
            self.consider(id, emit);
            if self.is_stopping() {
                break;
            }
        }
    }

    /// A ready instance: use its result, wait for another run's, or execute it.
    fn consider(&mut self, id: InstanceId, emit: &mut dyn FnMut(Event)) {
        let request = self.request;
        let instance = &request.graph.instances[id as usize];
        let waited = matches!(self.aside.remove(&id), Some(Aside::Leased));
        let action = self.action(id);
        if instance.resources.gpu as usize > request.machine.gpus.len() {
            self.fail(id, blocked_by_gpus(request, id), emit);
            return;
        }
        let forced = request.forced[id as usize];
        let miss = match decide(&request.store, &action.digest, forced) {
            Decision::Hit(cached) => {
                self.settle_from_cache(id, &action, &cached, emit);
                return;
            }
            Decision::Miss(miss) => miss,
        };
        let lease = match request.store.try_lease(&action.digest) {
            Ok(Some(lease)) => lease,
            Ok(None) => {
                if !waited {
                    let holder = request.store.lease_holder(&action.digest);
                    emit(Event::NodeWaiting {
                        node: instance.name.to_string(),
                        holder: holder.map_or_else(|| "another run".into(), |it| it.to_string()),
                    });
                }
                self.aside.insert(id, Aside::Leased);
                return;
            }
            Err(error) => {
                self.store_error = Some(error);
                self.schedule.put_back(id);
                return;
            }
        };
        // The other run may have finished between the look-up and the lease.
        if !forced {
            if let Err(error) = request.store.refresh() {
                self.store_error = Some(error);
                self.schedule.put_back(id);
                return;
            }
            if let Decision::Hit(cached) = decide(&request.store, &action.digest, false) {
                drop(lease);
                self.settle_from_cache(id, &action, &cached, emit);
                return;
            }
        }
        self.start(id, action, miss, lease, emit);
    }

    fn settle_from_cache(
        &mut self,
        id: InstanceId,
        action: &Action,
        cached: &okapi_cache::CachedOutputs,
        emit: &mut dyn FnMut(Event),
    ) {
        self.cached_later += 1;
        emit(Event::NodeCached {
            node: self.name(id),
            action: action.digest.to_string(),
            saved_ms: u64::from(cached.duration_ms()),
        });
        let outputs = cached.outputs().to_vec();
        self.outputs.insert(id, Settled { action: action.digest, outputs });
        self.schedule.done(id);
    }

    fn start(
        &mut self,
        id: InstanceId,
        action: Action,
        miss: Miss,
        lease: Lease,
        emit: &mut dyn FnMut(Event),
    ) {
        let request = self.request;
        let instance = &request.graph.instances[id as usize];
        let attempt = self.attempts.get(&id).copied().unwrap_or(0) + 1;
        self.attempts.insert(id, attempt);
        let previous = self.previous.get_or_insert_with(|| (request.previous)());
        emit(Event::NodeStarted {
            node: instance.name.to_string(),
            action: action.digest.to_string(),
            reason: reason_in_a_line(&request.store, previous, &instance.name, &action, miss),
            attempt,
        });
        let grant = self.schedule.grant(id);
        let job = match self.job(id, &action, &grant) {
            Ok(job) => job,
            Err(error) => {
                self.schedule.release(grant);
                self.fail(id, error, emit);
                return;
            }
        };
        let cancel = Cancellation::default();
        let timeout = instance.timeout_ms.map(Duration::from_millis);
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let running = Running { action, grant, lease, cancel: cancel.clone(), attempt, deadline };
        self.running.insert(id, running);
        let executor = self.executor.clone();
        let sender = self.sender.clone();
        let reports = self.sender.clone();
        std::thread::spawn(move || {
            let reporter = Reporter::new(move |report| {
                // The loop lives as long as any job; after it nobody listens.
                let _ = reports.send(Message::Report(id, report));
            });
            let outcome = executor.execute(&job, &reporter, &cancel);
            let _ = sender.send(Message::Ended(id, outcome));
        });
    }

    fn receive(&mut self, message: Message, emit: &mut dyn FnMut(Event)) {
        match message {
            Message::Report(id, Report::Progress { done, total, unit }) => {
                emit(Event::NodeProgress { node: self.name(id), done, total, unit: unit.into() });
            }
            Message::Report(id, Report::Log(line)) => {
                emit(Event::NodeLog { node: self.name(id), line });
            }
            Message::Ended(id, outcome) => {
                let Some(running) = self.running.remove(&id) else { return };
                self.schedule.release(running.grant.clone());
                match outcome {
                    Ok(execution) => self.finish(id, running, execution, emit),
                    Err(error) => self.recover(id, running, error, emit),
                }
            }
        }
    }

    fn finish(
        &mut self,
        id: InstanceId,
        running: Running,
        execution: Execution,
        emit: &mut dyn FnMut(Event),
    ) {
        let request = self.request;
        let node = request.graph.node(id);
        let determinism =
            request.registry.get(&node.stage).map(|stage| stage.descriptor().determinism);
        let before = request.store.lookup(&running.action.digest).map(|it| it.outputs().to_vec());
        let action = running.action.digest;
        let info = ResultInfo {
            metrics: execution.success.metrics,
            duration_ms: execution.duration_ms,
            finished_unix_ms: crate::clock::unix_ms(),
            determinism: determinism.map_or("unknown", |it| it.name()).to_owned(),
            environment: crate::environment::describe(&running.grant),
            log: execution.log,
            cost_micro_usd: None,
            keeps: self.sources_of(id),
        };
        let output_bytes = execution.outputs.iter().map(|output| output.size).sum();
        let unchanged = match before {
            Some(before) => before == execution.outputs,
            None => self.previous_outputs(id).is_some_and(|before| before == execution.outputs),
        };
        let committed = request.store.commit(Commit {
            action,
            document: running.action.document,
            outputs: execution.outputs.clone(),
            info,
            lease: Some(running.lease),
        });
        if let Err(error) = committed {
            self.schedule.failed(id);
            self.failed += 1;
            self.store_error = Some(error);
            return;
        }
        emit(Event::NodeFinished {
            node: self.name(id),
            action: action.to_string(),
            duration_ms: execution.duration_ms,
            output_bytes,
            unchanged,
        });
        self.executed.push(id);
        self.outputs.insert(id, Settled { action, outputs: execution.outputs });
        self.schedule.done(id);
    }

    /// Tries a failed instance again, or gives it up.
    fn recover(
        &mut self,
        id: InstanceId,
        running: Running,
        error: ExecutionError,
        emit: &mut dyn FnMut(Event),
    ) {
        let retries = self.request.graph.instances[id as usize].retries;
        let stopped = matches!(error, ExecutionError::Stage(StageError::Cancelled));
        if stopped && !running.cancel.is_timed_out() {
            // Stopped with the run: it neither failed nor finished.
            self.schedule.put_back(id);
            return;
        }
        let error = if stopped {
            let after_ms = self.request.graph.instances[id as usize].timeout_ms.unwrap_or(0);
            ExecutionError::Stage(StageError::TimedOut { after_ms })
        } else {
            error
        };
        if running.attempt <= retries && !self.is_stopping() && is_worth_another_try(&error) {
            let wait = wait_before_next(running.attempt, &running.action.digest);
            emit(Event::NodeRetrying {
                node: self.name(id),
                attempt: running.attempt,
                message: error.to_string(),
                wait_ms: wait.as_millis() as u64,
            });
            self.aside.insert(id, Aside::BackingOff { until: Instant::now() + wait });
            return;
        }
        drop(running.lease);
        self.fail(id, error, emit);
    }

    /// Gives an instance up, and all that depends on it.
    fn fail(&mut self, id: InstanceId, error: ExecutionError, emit: &mut dyn FnMut(Event)) {
        let action = self.action(id);
        let kept = self.keep_log(id, &action);
        let script = self.request.store.work_folder(&action.digest).join(SCRIPT);
        let stderr_tail = match &error {
            ExecutionError::Stage(StageError::Command { stderr_tail, .. }) => stderr_tail.clone(),
            _ => Vec::new(),
        };
        emit(Event::NodeFailed {
            node: self.name(id),
            message: error.to_string(),
            hint: error.hint(),
            stderr_tail,
            log: kept.map(|path| path.display().to_string()),
            by_hand: script.exists().then(|| format!("sh {}", script.display())),
        });
        self.failed += 1;
        for skipped in self.schedule.failed(id) {
            self.skipped += 1;
            emit(Event::NodeSkipped { node: self.name(skipped), because_of: self.name(id) });
        }
        if let ExecutionError::Store(store_error) = error
            && store_error.is_store_trouble()
        {
            self.store_error.get_or_insert(store_error);
        }
    }

    /// Copies a failed instance's output into the run's folder; the working folder is made anew by
    /// the next try.
    fn keep_log(&self, id: InstanceId, action: &Action) -> Option<PathBuf> {
        let root = self.request.store.work_folder(&action.digest);
        let work = crate::stage_context::WorkFolder {
            current_dir: root.join("cwd"),
            stdout: root.join("stdout"),
            stderr: root.join("stderr"),
            tmp: root.join("tmp"),
            root,
        };
        let path = crate::run_record::log_path(&self.request.logs, &self.name(id));
        crate::run_record::write_log(&path, &work).ok()
    }

    /// Counts what the end of the run left undone.
    fn count_unsettled(&mut self, emit: &mut dyn FnMut(Event)) {
        for id in 0..self.request.graph.instances.len() as InstanceId {
            match self.schedule.standing(id) {
                Standing::Ready | Standing::Waiting { .. } => self.skipped += 1,
                _ => {}
            }
        }
        let _ = emit;
    }

    fn into_summary(self, cached: u64) -> RunSummary {
        let outcome = if self.store_error.is_some() {
            Outcome::StoreTrouble
        } else if self.interrupted {
            Outcome::Interrupted
        } else if self.failed > 0 || self.skipped > 0 {
            Outcome::Failed
        } else {
            Outcome::Succeeded
        };
        let mut later = self.outputs;
        let settled = self
            .evaluation
            .states
            .iter()
            .enumerate()
            .map(|(id, state)| match state {
                State::Cached { action, first_output, .. } => {
                    let count = self.request.graph.node(id as InstanceId).outputs.len();
                    let first = *first_output as usize;
                    let outputs = self.evaluation.artifacts[first..first + count].to_vec();
                    Some(Settled { action: *action, outputs })
                }
                _ => later.remove(&(id as InstanceId)),
            })
            .collect();
        RunSummary {
            outcome,
            ran: self.executed.len() as u64,
            cached: cached + self.cached_later,
            failed: self.failed,
            skipped: self.skipped,
            store_error: self.store_error,
            settled,
            executed: self.executed,
        }
    }

    fn name(&self, id: InstanceId) -> String {
        self.request.graph.instances[id as usize].name.to_string()
    }

    /// The artifact that a feed reads; its instance has a result.
    fn artifact(&self, feed: &Feed) -> Artifact {
        self.evaluation
            .artifact(feed)
            .or_else(|| Some(self.outputs.get(&feed.instance)?.outputs[feed.port as usize]))
            .expect("inputs of a ready instance have results")
    }

    fn action(&self, id: InstanceId) -> Action {
        let writer = ActionWriter {
            graph: self.request.graph,
            sources: self.request.sources,
            passed_env: self.request.passed_env,
        };
        let mut document = String::new();
        let digest = writer.write(id, &mut document, |feed| self.artifact(feed));
        Action { document, digest }
    }

    /// Tracked files and prompts of an instance: kept with its result, so that a later `explain`
    /// can show what changed in them.
    fn sources_of(&self, id: InstanceId) -> Vec<Artifact> {
        let instance = &self.request.graph.instances[id as usize];
        let prompts = instance.prompts.iter().map(|(_, source)| source);
        let sources = instance.files.iter().chain(prompts);
        sources.filter_map(|&source| self.request.sources[source as usize]).collect()
    }

    fn previous_outputs(&self, id: InstanceId) -> Option<Vec<Artifact>> {
        let previous = self.previous.as_ref()?;
        let name = &self.request.graph.instances[id as usize].name;
        let action = previous.action(name)?;
        Some(self.request.store.lookup(&action)?.outputs().to_vec())
    }

    fn job(&self, id: InstanceId, action: &Action, grant: &Grant) -> Result<Job, ExecutionError> {
        let request = self.request;
        let graph = request.graph;
        let instance = &graph.instances[id as usize];
        let node = graph.node(id);
        let parse = |text: &str| {
            serde_json::from_str(text).map_err(|error| {
                StageError::failed(format!("the checked pipeline holds bad JSON: {error}"))
            })
        };
        let source = |id: u32| JobSource {
            path: graph.sources[id as usize].path.clone(),
            absolute: request.project_root.join(&*graph.sources[id as usize].path),
            artifact: request.sources[id as usize]
                .expect("a selected instance's sources have been digested"),
        };
        let fields =
            request.registry.get(&node.stage).map_or(&[][..], |stage| stage.descriptor().fields);
        Ok(Job {
            instance: instance.name.to_string(),
            action: action.clone(),
            stage: node.stage.clone(),
            declared: parse(&instance.declared)?,
            settings: parse(&instance.settings)?,
            passed_env: node
                .pass_env
                .iter()
                .filter_map(|name| Some((name.clone(), request.passed_env.get(name)?.clone()?)))
                .collect(),
            inputs: instance
                .inputs
                .iter()
                .map(|input| JobInput {
                    port: input.port.to_string(),
                    gathered: input.gathered,
                    items: input
                        .feeds
                        .iter()
                        .map(|feed| (feed.key.to_string(), self.artifact(feed)))
                        .collect(),
                })
                .collect(),
            files: instance.files.iter().map(|&id| source(id)).collect(),
            prompts: instance
                .prompts
                .iter()
                .map(|(name, id)| (name.to_string(), source(*id)))
                .collect(),
            places_files: places_files(fields),
            outputs: node.outputs.clone(),
            gpus: grant.gpus.clone(),
            threads: (grant.resources.cpu_milli / 1000).max(1) as usize,
        })
    }
}

fn blocked_by_gpus(request: &RunRequest<'_>, id: InstanceId) -> ExecutionError {
    let wanted = request.graph.instances[id as usize].resources.gpu;
    let found = request.machine.gpus.len();
    ExecutionError::Stage(StageError::Failed {
        message: format!("it asks for {wanted} GPU(s) and this machine offers {found}"),
        hint: Some("lower `resources: {gpu: ...}`, or widen CUDA_VISIBLE_DEVICES".into()),
        transient: false,
    })
}

fn is_worth_another_try(error: &ExecutionError) -> bool {
    match error {
        ExecutionError::Stage(StageError::Failed { transient, .. }) => *transient,
        ExecutionError::Stage(StageError::Command { .. } | StageError::TimedOut { .. }) => true,
        ExecutionError::Stage(StageError::Cancelled) => false,
        ExecutionError::Stage(StageError::Io { .. }) | ExecutionError::Io { .. } => true,
        ExecutionError::OutputMissing { .. } => true,
        _ => false,
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}

/// SIGINT, SIGTERM and SIGHUP, one as good as the other.
struct Interrupts {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Interrupts {
    fn new() -> std::io::Result<Interrupts> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Interrupts {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}

//! The loop of a run: one thread owns all of a run's state; jobs run in threads and send messages.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use okapi_cache::{ActionDigest, CachedOutputs, Commit, Lease, ResultInfo, StoreError};
use tokio::sync::mpsc;

use super::expected::expected_durations;
use super::interrupts::{Interrupts, sleep_until};
use super::jobs::{Raised, TRIES_FOR_CLUSTER};
use super::remote::{Answer, Shared};
use super::{RunRequest, RunSummary, Settled};
use crate::action::{Action, kept_with};
use crate::evaluate::{Decision, Evaluation, Miss, NOTHING_ELSEWHERE, State, decide};
use crate::event::{Event, Outcome};
use crate::executor::local::SCRIPT;
use crate::executor::slurm::Slurm;
use crate::executor::{Execution, ExecutionError, Executor};
use crate::explain::reason_in_a_line;
use crate::graph::InstanceId;
use crate::manifest::Manifest;
use crate::retry::{wait_before_next, wait_for_other_run};
use crate::schedule::{Grant, Schedule, Standing};
use crate::service::services;
use crate::spend::Spend;
use crate::stage_context::{Cancellation, Report, Reporter, StageError, WorkFolder};

/// What a job's thread sends to the loop.
pub(super) enum Message {
    Report(InstanceId, Report),
    Ended(InstanceId, Result<Execution, ExecutionError>),
    Remote(Answer),
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
    /// Another run is executing its action; it is looked for a result then.
    Leased { since: Instant, until: Instant },
    /// It failed and will be tried again then.
    BackingOff { until: Instant },
}

pub(super) struct Runner<'a> {
    pub(super) request: &'a RunRequest<'a>,
    pub(super) evaluation: &'a Evaluation,
    pub(super) schedule: Schedule<'a>,
    /// Outputs of instances that were settled by this run.
    pub(super) outputs: BTreeMap<InstanceId, Settled>,
    running: BTreeMap<InstanceId, Running>,
    aside: BTreeMap<InstanceId, Aside>,
    /// Ready instances that have waited for another run, and since when: it is said once.
    waited: BTreeMap<InstanceId, Instant>,
    attempts: BTreeMap<InstanceId, u32>,
    /// The lineages of ready instances, as texts.
    pub(super) lineages: BTreeMap<InstanceId, String>,
    pub(super) previous: Manifest,
    executor: Executor,
    pub(super) sender: mpsc::UnboundedSender<Message>,
    receiver: Option<mpsc::UnboundedReceiver<Message>>,
    executed: Vec<InstanceId>,
    cached_later: u64,
    failed: u64,
    skipped: u64,
    pub(super) interrupted: bool,
    budget_reached: bool,
    /// What each instance asked of services outside in this run.
    spends: BTreeMap<InstanceId, Spend>,
    pub(super) store_error: Option<StoreError>,
    pub(super) shared: Shared,
    slurm: Option<Slurm>,
    /// What tries after the first ask for, where one ran out of memory or time.
    pub(super) raised: BTreeMap<InstanceId, Raised>,
}

impl<'a> Runner<'a> {
    pub(super) fn new(request: &'a RunRequest<'a>, evaluation: &'a Evaluation) -> Runner<'a> {
        let to_settle: Vec<bool> = evaluation
            .states
            .iter()
            .map(|state| !matches!(state, State::NotSelected | State::Cached { .. }))
            .collect();
        let (sender, receiver) = mpsc::unbounded_channel();
        let previous = (request.previous)();
        let expected = expected_durations(request, evaluation, &previous);
        let services = services(request.graph, &request.registry);
        let (graph, machine) = (request.graph, request.machine);
        let mut schedule = Schedule::with_services(graph, machine, &to_settle, services, |id| {
            expected[id as usize]
        });
        if request.remote.is_some() {
            schedule.look_elsewhere_first();
        }
        Runner {
            request,
            evaluation,
            schedule,
            outputs: BTreeMap::new(),
            running: BTreeMap::new(),
            aside: BTreeMap::new(),
            waited: BTreeMap::new(),
            attempts: BTreeMap::new(),
            lineages: BTreeMap::new(),
            previous,
            executor: Executor::new(
                Arc::clone(&request.store),
                Arc::clone(&request.registry),
                request.launcher.clone(),
            ),
            sender,
            receiver: Some(receiver),
            executed: Vec::new(),
            cached_later: 0,
            failed: 0,
            skipped: 0,
            interrupted: false,
            budget_reached: false,
            spends: BTreeMap::new(),
            store_error: None,
            shared: Shared::default(),
            slurm: None,
            raised: BTreeMap::new(),
        }
    }

    /// The loop. Everything that changes the run's state happens here, in one thread.
    pub(super) async fn drive(&mut self, emit: &mut dyn FnMut(Event)) {
        let Some(mut receiver) = self.receiver.take() else { return };
        let mut interrupts = match Interrupts::new() {
            Ok(interrupts) => interrupts,
            Err(source) => {
                self.store_error = Some(StoreError::io(self.request.store.root(), source));
                return;
            }
        };
        let mut kill_at = None;
        self.offer_unsent();
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
                is_wanted_no_more = interrupts.next_is_interrupt() => {
                    if self.interrupted {
                        self.running.values().for_each(|running| running.cancel.kill());
                    } else {
                        self.interrupted = true;
                        kill_at = Some(Instant::now() + self.request.grace);
                        emit(Event::Interrupted { running: self.running.len() as u64 });
                        for running in self.running.values() {
                            // Jobs of a cluster can do without this process, and the next run finds them.
                            match running.grant.is_on_cluster && !is_wanted_no_more {
                                true => running.cancel.kill(),
                                false => running.cancel.request(),
                            }
                        }
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
        self.count_unsettled();
        let flushed = self.request.store.flush();
        if let (Ok(()), Some(slurm)) = (&flushed, &self.slurm) {
            let actions = self.executed.iter().filter_map(|id| Some(self.outputs.get(id)?.action));
            slurm.forget(actions);
        }
        if let Err(error) = flushed {
            self.store_error.get_or_insert(error);
        }
        self.finish_sending(&mut receiver, &mut interrupts, emit).await;
    }

    /// Whether no new instance may start.
    fn is_stopping(&self) -> bool {
        self.interrupted
            || self.store_error.is_some()
            || (self.failed > 0 && !self.request.keep_going)
    }

    /// Whether nothing is left that this run could do.
    fn is_stuck_or_finished(&self) -> bool {
        self.schedule.is_finished() || self.aside.is_empty() && self.shared.asking.is_empty()
    }

    fn next_wake(&self, kill_at: Option<Instant>) -> Option<Instant> {
        let deadlines = self.running.values().filter_map(|running| running.deadline);
        let aside = self.aside.values().map(|aside| match aside {
            Aside::Leased { until, .. } => *until,
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
                Aside::Leased { until, .. } => *until <= now,
                Aside::BackingOff { until } => *until <= now,
            })
            .map(|(&id, _)| id)
            .collect();
        for id in due {
            // Out of here before it is ready again: one that stays ready for want of a slot must not be
            // put back twice.
            if let Some(Aside::Leased { since, .. }) = self.aside.remove(&id) {
                self.waited.insert(id, since);
            }
            self.schedule.put_back(id);
        }
    }

    fn start_what_can_start(&mut self, emit: &mut dyn FnMut(Event)) {
        self.look_elsewhere(emit);
        while let Some(id) = self.schedule.take_ready() {
            self.consider(id, emit);
            self.look_elsewhere(emit);
            if self.is_stopping() {
                break;
            }
        }
    }

    /// A ready instance: use its result, wait for another run's, or execute it.
    fn consider(&mut self, id: InstanceId, emit: &mut dyn FnMut(Event)) {
        let request = self.request;
        let instance = &request.graph.instances[id as usize];
        let waited = self.waited.remove(&id);
        let action = self.action(id);
        let forced = request.forced[id as usize];
        let miss = match decide(&request.store, &NOTHING_ELSEWHERE, &action.digest, forced) {
            Decision::Hit(cached) => {
                self.settle_from_cache(id, &action, &cached, emit);
                return;
            }
            Decision::Miss(miss) => miss,
            Decision::Elsewhere(_) => Miss::NoResult,
        };
        if !instance.is_on_cluster() && instance.resources.gpu as usize > request.machine.gpus.len()
        {
            self.fail(id, blocked_by_gpus(request, id), emit);
            return;
        }
        let lease = match request.store.try_lease(&action.digest) {
            Ok(Some(lease)) => lease,
            Ok(None) => {
                if waited.is_none() {
                    let holder = request.store.lease_holder(&action.digest);
                    emit(Event::NodeWaiting {
                        node: instance.name.to_string(),
                        holder: holder.map_or_else(|| "another run".into(), |it| it.to_string()),
                    });
                }
                let now = Instant::now();
                let since = waited.unwrap_or(now);
                let until = now + wait_for_other_run(now.saturating_duration_since(since));
                self.aside.insert(id, Aside::Leased { since, until });
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
            if let Some(cached) = self.hit(&action.digest, false) {
                drop(lease);
                self.settle_from_cache(id, &action, &cached, emit);
                return;
            }
        }
        self.start(id, action, miss, lease, emit);
    }

    /// The result of an action that can be used as it is.
    pub(super) fn hit(&self, action: &ActionDigest, forced: bool) -> Option<CachedOutputs> {
        match decide(&self.request.store, &NOTHING_ELSEWHERE, action, forced) {
            Decision::Hit(cached) => Some(cached),
            Decision::Miss(_) | Decision::Elsewhere(_) => None,
        }
    }

    pub(super) fn settle_from_cache(
        &mut self,
        id: InstanceId,
        action: &Action,
        cached: &CachedOutputs,
        emit: &mut dyn FnMut(Event),
    ) {
        self.cached_later += 1;
        emit(Event::NodeCached {
            node: self.name(id),
            action: action.digest.to_string(),
            saved_ms: u64::from(cached.duration_ms()),
            fetched_bytes: self.take_fetched(id),
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
        emit(Event::NodeStarted {
            node: instance.name.to_string(),
            action: action.digest.to_string(),
            reason: reason_in_a_line(&request.store, &self.previous, &instance.name, &action, miss),
            attempt,
        });
        let grant = self.schedule.grant(id);
        let job = match self.job(id, &action, &grant, &lease) {
            Ok(job) => job,
            Err(error) => {
                self.schedule.release(grant);
                self.fail(id, error, emit);
                return;
            }
        };
        let cancel = Cancellation::default();
        // A job elsewhere may wait in a queue; it keeps its time itself.
        let timeout =
            instance.timeout_ms.map(Duration::from_millis).filter(|_| !grant.is_on_cluster);
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let is_on_cluster = grant.is_on_cluster;
        let running = Running { action, grant, lease, cancel: cancel.clone(), attempt, deadline };
        self.running.insert(id, running);
        let sender = self.sender.clone();
        let reports = self.sender.clone();
        // The loop lives as long as any job; after it nobody listens.
        let report = move |report| drop(reports.send(Message::Report(id, report)));
        let done = move |outcome| drop(sender.send(Message::Ended(id, outcome)));
        if is_on_cluster {
            let (report, done) = (Box::new(report), Box::new(done));
            let order = self.order(id, job, cancel, report, done);
            self.slurm().submit(order);
            return;
        }
        let executor = self.executor.clone();
        std::thread::spawn(move || {
            done(executor.execute(&job, &Reporter::new(report), &cancel));
        });
    }

    /// Whoever talks to Slurm, from the first job on.
    fn slurm(&mut self) -> &Slurm {
        let RunRequest { store, jobs, .. } = self.request;
        self.slurm.get_or_insert_with(|| Slurm::start(Arc::clone(store), jobs.clone()))
    }

    fn receive(&mut self, message: Message, emit: &mut dyn FnMut(Event)) {
        match message {
            Message::Remote(answer) => self.receive_answer(answer, emit),
            Message::Report(id, Report::Progress { done, total, unit }) => {
                emit(Event::NodeProgress { node: self.name(id), done, total, unit: unit.into() });
            }
            Message::Report(id, Report::Measures { step, values }) => {
                emit(Event::NodeMeasures { node: self.name(id), step, values });
            }
            Message::Report(id, Report::Spend(more)) => {
                let spend = self.spends.entry(id).or_default();
                spend.add(&more);
                let spend = *spend;
                emit(Event::NodeSpend { node: self.name(id), spend });
            }
            Message::Report(id, Report::OnCluster { job, host }) => {
                emit(Event::NodeSubmitted { node: self.name(id), job, host });
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
        mut execution: Execution,
        emit: &mut dyn FnMut(Event),
    ) {
        let request = self.request;
        // JSON has no word for them, so the details of the result could not be read back.
        execution.success.metrics.retain(|_, value| value.is_finite());
        let node = request.graph.node(id);
        let determinism =
            request.registry.get(&node.stage).map(|stage| stage.descriptor().determinism);
        let before = request.store.lookup(&running.action.digest).map(|it| it.outputs().to_vec());
        let action = running.action.digest;
        let spend = self.spends.get(&id).copied().unwrap_or_default();
        let info = ResultInfo {
            metrics: execution.success.metrics.clone(),
            duration_ms: execution.duration_ms,
            finished_unix_ms: crate::clock::unix_ms(),
            determinism: determinism.map_or("unknown", |it| it.name()).to_owned(),
            environment: execution
                .environment
                .unwrap_or_else(|| crate::environment::describe(request.program, &running.grant)),
            log: execution.log,
            cost_micro_usd: (!spend.is_empty()).then_some(spend.nano_usd / 1000),
            keeps: kept_with(request.graph, request.sources, id, &running.action),
        };
        let output_bytes = execution.outputs.iter().map(|output| output.size).sum();
        let unsteady = before.as_ref().is_some_and(|before| *before != execution.outputs);
        let unchanged = match before {
            Some(_) => !unsteady,
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
            unsteady,
            metrics: execution.success.metrics,
            spend,
        });
        self.executed.push(id);
        self.offer(id, action);
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
        let mut retries = self.request.graph.instances[id as usize].retries;
        if let ExecutionError::Job { cause, .. } = &error {
            self.raise(id, *cause);
            if cause.is_of_cluster() {
                retries = retries.max(TRIES_FOR_CLUSTER);
            }
        }
        let stopped = matches!(error, ExecutionError::Stage(StageError::Cancelled));
        if stopped && !running.cancel.is_timed_out() {
            // Stopped with the run: it neither failed nor finished.
            self.schedule.put_back(id);
            return;
        }
        if matches!(error, ExecutionError::Stage(StageError::BudgetReached { .. })) {
            self.budget_reached = true;
        }
        let error = if stopped {
            let after_ms = self.request.graph.instances[id as usize].timeout_ms.unwrap_or(0);
            ExecutionError::Stage(StageError::TimedOut { after_ms })
        } else {
            error
        };
        if running.attempt <= retries && !self.is_stopping() && error.is_worth_another_try() {
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
            ExecutionError::Job { log_tail, .. } => log_tail.clone(),
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
        if !self.request.keep_going {
            // What works may end its work; what has not begun need not.
            let on_cluster = self.running.values().filter(|running| running.grant.is_on_cluster);
            on_cluster.for_each(|running| running.cancel.withdraw());
        }
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
        let work = WorkFolder::at(self.request.store.work_folder(&action.digest));
        let path = crate::run_record::log_path(&self.request.logs, &self.name(id));
        crate::run_record::write_log(&path, &work).ok()
    }

    /// Counts what the end of the run left undone.
    fn count_unsettled(&mut self) {
        for id in 0..self.request.graph.instances.len() as InstanceId {
            match self.schedule.standing(id) {
                Standing::Ready | Standing::Waiting { .. } => self.skipped += 1,
                _ => {}
            }
        }
    }

    pub(super) fn into_summary(self, cached: u64) -> RunSummary {
        let outcome = if self.store_error.is_some() {
            Outcome::StoreTrouble
        } else if self.interrupted {
            Outcome::Interrupted
        } else if self.budget_reached {
            Outcome::BudgetReached
        } else if self.failed > 0 || self.skipped > 0 {
            Outcome::Failed
        } else {
            Outcome::Succeeded
        };
        let mut spend = Spend::default();
        self.spends.values().for_each(|it| spend.add(it));
        RunSummary {
            outcome,
            spend,
            ran: self.executed.len() as u64,
            cached: cached + self.cached_later,
            failed: self.failed,
            skipped: self.skipped,
            store_error: self.store_error,
            later: self.outputs,
            executed: self.executed,
        }
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

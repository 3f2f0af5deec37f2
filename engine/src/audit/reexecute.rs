//! Executes recorded actions again, in an empty store of their own, and compares what comes out.
//!
//! Each instance gets the inputs that are recorded for it, so that none waits for another, and a result that comes out
//! differently has no effect on others. Teachers are not asked: their answers are those of the audited store.
//!
//! Instances with one action (twins) are executed once: they would work in one folder, for its name comes from the action, and what
//! comes out says as much of the one as of the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use okapi_cache::{Access, ActionDigest, Artifact, Durability, Store, StoreError};
use tokio::sync::mpsc;

use super::chain::Chain;
use super::difference::{Difference, Formats, difference};
use super::{AuditQuestion, Recorded};
use crate::action::Action;
use crate::executor::command_process::Launcher;
use crate::executor::job_maker::JobMaker;
use crate::executor::{Execution, ExecutionError, Executor, Job};
use crate::graph::{Feed, InstanceId};
use crate::machine::Machine;
use crate::run::interrupts::{Interrupts, sleep_until};
use crate::schedule::Grant;
use crate::stage::StageRegistry;
use crate::stage_context::{Cancellation, Reporter, StageError};

/// What is to be executed again, and with what.
pub struct Reexecution<'a> {
    /// What is audited.
    pub question: AuditQuestion<'a>,
    /// The recorded results.
    pub recorded: &'a [Option<Recorded>],
    /// The same store as the question's, for the threads.
    pub store: Arc<Store>,
    /// The store of its own, empty.
    pub scratch: Arc<Store>,
    /// The project's root on this machine.
    pub project_root: &'a std::path::Path,
    /// Stages whose teachers know recorded answers only.
    pub registry: Arc<StageRegistry>,
    /// What commands are started with.
    pub launcher: Launcher,
    /// What the machine has.
    pub machine: &'a Machine,
    /// How many threads a stage gets that could take another number than it had, by its number of slots.
    pub threads: &'a dyn Fn(usize) -> usize,
    /// Compares files whose format the engine does not know.
    pub formats: &'a Formats<'a>,
}

/// What came of executing an instance again.
#[derive(Debug, Clone)]
pub enum Again {
    /// The same, to the byte.
    Same,
    /// Something else.
    Different(Vec<Difference>),
    /// Nothing: it failed.
    Failed(Arc<ExecutionError>),
    /// It was not executed, for this reason.
    NotExecuted(String),
}

/// How executing again ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All were executed that can be.
    Done,
    /// By a signal.
    Interrupted,
}

/// A store of its own, empty, in a folder that exists.
///
/// # Errors
/// When the folder cannot be written.
pub fn scratch_store(folder: &std::path::Path) -> Result<Arc<Store>, StoreError> {
    Ok(Arc::new(Store::open(folder, Access::ReadWrite, Durability::None)?))
}

/// Instances in execution.
struct Running {
    twins: Vec<InstanceId>,
    grant: Grant,
    cancel: Cancellation,
    /// When its node's timeout ends it.
    deadline: Option<Instant>,
}

/// Executes these instances again, as many at once as the machine has room for; `each` is told what came of each.
///
/// # Errors
/// When a store cannot be read or written.
pub fn reexecute(
    request: &Reexecution<'_>,
    ids: &[InstanceId],
    each: &mut dyn FnMut(InstanceId, Again),
) -> Result<Ended, StoreError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| StoreError::io(request.scratch.root(), source))?;
    runtime.block_on(drive(request, ids, each))
}

async fn drive(
    request: &Reexecution<'_>,
    ids: &[InstanceId],
    each: &mut dyn FnMut(InstanceId, Again),
) -> Result<Ended, StoreError> {
    let mut interrupts =
        Interrupts::new().map_err(|source| StoreError::io(request.scratch.root(), source))?;
    let chain = Chain::new(&request.question, request.recorded)?;
    let (store, registry) = (Arc::clone(&request.scratch), Arc::clone(&request.registry));
    let executor = Executor::new(store, registry, request.launcher.clone())
        .with_answers_of(Arc::clone(&request.store));
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let mut free = Free::of(request.machine);
    let mut running: BTreeMap<InstanceId, Running> = BTreeMap::new();
    let mut waiting = executable_twins(request, &chain, ids, each).into_iter().peekable();
    let mut ended = Ended::Done;
    loop {
        while ended == Ended::Done
            && let Some(twins) = waiting.peek()
        {
            let id = twins[0];
            let Some(grant) = free.take(request, id, running.is_empty()) else { break };
            let twins = waiting.next().unwrap_or_default();
            let action = chain.action(id).expect("what is executable has an action");
            let job = match prepare(request, id, &action, &grant) {
                Ok(job) => job,
                Err(error) => {
                    free.give(&grant);
                    tell(&twins, &not_prepared(error)?, each);
                    continue;
                }
            };
            let cancel = Cancellation::default();
            let timeout = timeout_ms(request, &twins);
            let deadline = timeout.map(|ms| Instant::now() + Duration::from_millis(ms));
            running.insert(id, Running { twins, grant, cancel: cancel.clone(), deadline });
            let (executor, sender) = (executor.clone(), sender.clone());
            std::thread::spawn(move || {
                // Nobody listens: what is said of the work was said when it was done first.
                let outcome = executor.execute(&job, &Reporter::new(|_| {}), &cancel);
                let _ = sender.send((id, outcome));
            });
        }
        if running.is_empty() {
            return Ok(ended);
        }
        tokio::select! {
            Some((id, outcome)) = receiver.recv() => {
                let Some(it) = running.remove(&id) else { continue };
                free.give(&it.grant);
                if ended == Ended::Done {
                    let outcome = match it.cancel.is_timed_out() {
                        true => Err(timed_out(request, &it.twins)),
                        false => outcome,
                    };
                    tell(&it.twins, &compare(request, id, outcome)?, each);
                }
            }
            () = sleep_until(running.values().filter_map(|it| it.deadline).min()) => {
                let now = Instant::now();
                for it in running.values_mut().filter(|it| it.deadline.is_some_and(|at| at <= now)) {
                    // A command that does not end when it is asked to is ended.
                    match it.cancel.is_timed_out() {
                        true => it.cancel.kill(),
                        false => it.cancel.time_out(),
                    }
                    it.deadline = Some(now + PATIENCE);
                }
            }
            () = interrupts.next() => {
                for it in running.values() {
                    match ended {
                        Ended::Done => it.cancel.request(),
                        Ended::Interrupted => it.cancel.kill(),
                    }
                }
                ended = Ended::Interrupted;
            }
        }
    }
}

/// How long a command gets to end when its time is up.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest time that one of them may take; none where one may take as long as it likes.
fn timeout_ms(request: &Reexecution<'_>, twins: &[InstanceId]) -> Option<u64> {
    let timeouts = twins.iter().map(|&id| request.question.graph.instances[id as usize].timeout_ms);
    timeouts.reduce(|one, other| Some(one?.max(other?))).flatten()
}

fn timed_out(request: &Reexecution<'_>, twins: &[InstanceId]) -> ExecutionError {
    let after_ms = timeout_ms(request, twins).unwrap_or(0);
    ExecutionError::Stage(StageError::TimedOut { after_ms })
}

fn tell(twins: &[InstanceId], again: &Again, each: &mut dyn FnMut(InstanceId, Again)) {
    twins.iter().for_each(|&id| each(id, again.clone()));
}

/// The instances that can be executed, those with one action together, in the order of the first of each; `each` is told of the
/// others.
fn executable_twins(
    request: &Reexecution<'_>,
    chain: &Chain<'_>,
    ids: &[InstanceId],
    each: &mut dyn FnMut(InstanceId, Again),
) -> Vec<Vec<InstanceId>> {
    let mut all: Vec<Vec<InstanceId>> = Vec::new();
    let mut places: BTreeMap<ActionDigest, usize> = BTreeMap::new();
    for &id in ids {
        match executable(request, chain, id) {
            Err(reason) => each(id, Again::NotExecuted(reason)),
            Ok(action) => {
                let place = *places.entry(action).or_insert(all.len());
                match all.get_mut(place) {
                    Some(twins) => twins.push(id),
                    None => all.push(vec![id]),
                }
            }
        }
    }
    all
}

/// The action of an instance, if it can be executed here as it was.
fn executable(
    request: &Reexecution<'_>,
    chain: &Chain<'_>,
    id: InstanceId,
) -> Result<ActionDigest, String> {
    let Some(recorded) = &request.recorded[id as usize] else {
        return Err("it has no recorded result".to_owned());
    };
    let Some(action) = chain.action(id) else {
        return Err("what it reads is not there".to_owned());
    };
    if action.digest != recorded.action {
        return Err("it has changed since".to_owned());
    }
    let gpus = request.question.graph.instances[id as usize].resources.gpu as usize;
    match gpus > request.machine.gpus.len() {
        true => Err(format!("it takes {gpus} GPU(s), and this machine offers fewer")),
        false => Ok(action.digest),
    }
}

/// What is said of an instance whose inputs cannot be had. That they are damaged is said of who made them.
fn not_prepared(error: ExecutionError) -> Result<Again, StoreError> {
    match error {
        ExecutionError::Store(StoreError::Missing { .. } | StoreError::Unstorable { .. }) => {
            Ok(Again::NotExecuted(format!("what it reads is not as it was: {error}")))
        }
        ExecutionError::Store(error) => Err(error),
        error => Ok(Again::Failed(Arc::new(error))),
    }
}

/// Brings what an instance reads into the store of its own.
fn prepare(
    request: &Reexecution<'_>,
    id: InstanceId,
    action: &Action,
    grant: &Grant,
) -> Result<Job, ExecutionError> {
    let AuditQuestion { graph, sources, passed_env, store, .. } = request.question;
    let recorded = |feed: &Feed| -> Artifact {
        let result = request.recorded[feed.instance as usize].as_ref();
        result.expect("what is executable has inputs").outputs[usize::from(feed.port)]
    };
    for feed in graph.instances[id as usize].inputs.iter().flat_map(|input| &input.feeds) {
        request.scratch.copy_from(store, &recorded(feed))?;
    }
    let (project_root, registry) = (request.project_root, &*request.registry);
    let maker = JobMaker { graph, sources, project_root, passed_env, registry };
    let mut job = maker.job(id, action, recorded, grant, None)?;
    job.threads = (request.threads)(job.threads).max(1);
    Ok(job)
}

/// What a failure says of a result: nothing, where somebody does not answer who did when it was made.
fn of_failure(error: ExecutionError) -> Again {
    match error {
        ExecutionError::Stage(StageError::Failed { message, transient: true, .. }) => {
            Again::NotExecuted(message)
        }
        error => Again::Failed(Arc::new(error)),
    }
}

fn compare(
    request: &Reexecution<'_>,
    id: InstanceId,
    outcome: Result<Execution, ExecutionError>,
) -> Result<Again, StoreError> {
    let execution = match outcome {
        Ok(execution) => execution,
        Err(error) => return Ok(of_failure(error)),
    };
    let Some(recorded) = &request.recorded[id as usize] else { return Ok(Again::Same) };
    let mut differences = Vec::new();
    let ports = &request.question.graph.node(id).outputs;
    for ((output, was), is) in ports.iter().zip(&recorded.outputs).zip(&execution.outputs) {
        if was != is {
            let (store, scratch) = (&request.store, &request.scratch);
            let found = difference((store, was), (scratch, is), request.formats)?;
            let what = format!("output `{}`{}", output.port, found.what);
            differences.push(Difference { what, ..found });
        }
    }
    let mut is = execution.success.metrics;
    // As when a result is kept: JSON has no word for them.
    is.retain(|_, value| value.is_finite());
    // Of a result without its document no more is known.
    let was = recorded.stored.as_ref().map_or(&is, |stored| &stored.info.metrics);
    let names: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    for name in names {
        let (was, is) = (was.get(name), is.get(name));
        if was != is {
            let show = |value: Option<&f64>| value.map_or("none".to_owned(), f64::to_string);
            let what =
                format!("metric `{name}`: {} is recorded, {} comes out", show(was), show(is));
            let apart = was.zip(is).map(|(was, is)| (was - is).abs() / was.abs().max(is.abs()));
            differences.push(Difference { what, relative: apart });
        }
    }
    Ok(match differences.is_empty() {
        true => Again::Same,
        false => Again::Different(differences),
    })
}

/// What of the machine nobody uses.
struct Free {
    cpu_milli: u32,
    memory: u64,
    gpus: Vec<String>,
}

impl Free {
    fn of(machine: &Machine) -> Free {
        let cpu_milli = machine.slots.saturating_mul(1000);
        Free { cpu_milli, memory: machine.memory, gpus: machine.gpus.clone() }
    }

    /// Room for an instance, if there is; one that is alone gets all that it asks for.
    fn take(&mut self, request: &Reexecution<'_>, id: InstanceId, is_alone: bool) -> Option<Grant> {
        let asked = request.question.graph.instances[id as usize].resources;
        let resources = request.machine.clamp(asked);
        let fits = resources.cpu_milli <= self.cpu_milli && resources.memory <= self.memory;
        if !fits && !is_alone || resources.gpu as usize > self.gpus.len() {
            return None;
        }
        self.cpu_milli = self.cpu_milli.saturating_sub(resources.cpu_milli);
        self.memory = self.memory.saturating_sub(resources.memory);
        let gpus = self.gpus.split_off(self.gpus.len() - resources.gpu as usize);
        Some(Grant { resources, gpus, is_on_cluster: false })
    }

    fn give(&mut self, grant: &Grant) {
        self.cpu_milli += grant.resources.cpu_milli;
        self.memory += grant.resources.memory;
        self.gpus.extend(grant.gpus.iter().cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that could not be downloaded again made its node corrupt.
    #[test]
    fn a_server_that_does_not_answer_says_nothing_of_a_result() {
        let failed = |transient: bool| {
            let message = "no answer from example.org: connection refused".to_owned();
            of_failure(StageError::Failed { message, hint: None, transient }.into())
        };
        assert!(matches!(failed(true), Again::NotExecuted(it) if it.contains("example.org")));
        assert!(matches!(failed(false), Again::Failed(_)));
    }
}

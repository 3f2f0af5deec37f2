//! The plan: what a run would do, why, and what it would cost. Runs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use okapi_cache::{ActionDigest, Store};
use serde::Serialize;

use crate::action::{Action, ActionWriter};
use crate::bill::{Bill, bill};
use crate::estimate::{Estimate, MemoryEstimate, WorkEstimate, estimates};
use crate::evaluate::{Evaluation, Question, State};
use crate::explain::reason_in_a_line;
use crate::graph::InstanceId;
use crate::lineage;
use crate::machine::gpu_memory;
use crate::manifest::Manifest;
use crate::repeats::repeats;
use crate::stage::{NodeField, StageRegistry};

/// The version of `okapi plan --json`.
pub const VERSION: u32 = 1;

/// What a run would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// The version of this document.
    pub version: u32,
    /// The pipeline's name.
    pub pipeline: String,
    /// One entry per selected instance, in topological order.
    pub nodes: Vec<PlannedNode>,
    /// Sums.
    pub summary: PlanSummary,
    /// What the instances that are not cached would cost, once [`Plan::add_estimates`] has asked their stages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bill: Option<Bill>,
}

/// What a run would do with one instance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlannedNode {
    /// The instance.
    pub node: String,
    /// What would happen.
    pub verdict: Verdict,
    /// Its action, where it is known already.
    pub action: Option<ActionDigest>,
    /// Why: what changed, or on which instance it waits.
    pub reason: Option<String>,
    /// The instance that it waits for.
    pub waits_for: Option<String>,
    /// How long the work took the last time, milliseconds: what running costs, or what the cache
    /// saves.
    pub last_duration_ms: Option<u64>,
    /// GPUs that it asks for.
    pub gpus: u32,
    /// What it would ask of services outside, if it runs and asks any, as far as that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,
    /// The memory that it would take, as far as that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryEstimate>,
    /// What it would compute with a model, as far as that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub work: Option<WorkEstimate>,
    /// Bytes of its outputs, if they would be fetched from the remote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fetched_bytes: Option<u64>,
    /// Bytes that its outputs would take in the store, as far as they are known and worth saying.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// Whether it asks a service outside, and how much is not known before its inputs are there.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unforeseen: bool,
    /// Whether it computes with a model, and how long is not known.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unreckoned: bool,
    /// The instance before it that is the same action, which is run and paid once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_as: Option<String>,
}

/// What an instance took the last time says nothing of what it would compute now if one is so many times the other:
/// then it was another model, or other data.
const ALIKE: u64 = 10;
/// Below this, it is not the operations that take the time.
const SHORT_MS: u64 = 60_000;

impl PlannedNode {
    /// How long it would take, milliseconds: as long as the last time, or if it never did such work, as long as its
    /// operations take at the speeds that are assumed.
    pub fn expected_ms(&self) -> Option<u64> {
        match (self.last_duration_ms, self.work) {
            (_, Some(work)) if self.is_reckoned() => Some(work.ms),
            (last, _) => last,
        }
    }

    /// Whether that is reckoned from its operations.
    pub fn is_reckoned(&self) -> bool {
        let Some(work) = self.work else { return false };
        self.last_duration_ms.is_none_or(|last| {
            let (less, more) = (last.min(work.ms), last.max(work.ms));
            more > SHORT_MS && more / ALIKE > less
        })
    }
}

/// What would happen to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Its result is used.
    Cached,
    /// Its result is on the remote, is fetched and used.
    Fetched,
    /// It runs.
    Runs,
    /// It runs unless the inputs that are made anew come out as before.
    MayRun,
    /// It cannot run on this machine, or needs one that cannot.
    Blocked,
}

/// Sums over a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PlanSummary {
    /// Instances whose result is used.
    pub cached: u64,
    /// Instances whose result would be fetched from the remote.
    #[serde(skip_serializing_if = "is_zero")]
    pub fetched: u64,
    /// Bytes of their outputs.
    #[serde(skip_serializing_if = "is_zero")]
    pub fetched_bytes: u64,
    /// Instances that run.
    pub runs: u64,
    /// Instances that may run.
    pub may_run: u64,
    /// Instances that cannot run.
    pub blocked: u64,
    /// Work of the instances that run, as long as it took the last time, milliseconds.
    pub estimated_ms: u64,
    /// The same with those that may run: the upper end of the range.
    pub estimated_ms_at_most: u64,
    /// Of `estimated_ms_at_most`, GPU time, milliseconds: duration times GPUs.
    pub estimated_gpu_ms_at_most: u64,
    /// Instances that run or may run and have never run before: their cost is not known.
    pub unknown_cost: u64,
    /// What the cached results took to make, milliseconds.
    pub saved_ms: u64,
    /// Requests to services outside, of the instances that run or may run, that would have to be
    /// answered.
    pub requests: u64,
    /// Requests whose answers are recorded already.
    pub recorded: u64,
    /// Tokens that would be read.
    pub prompt_tokens: u64,
    /// Tokens that would be written.
    pub completion_tokens: u64,
    /// What that would cost, in billionths of a US dollar, as far as prices are known.
    pub nano_usd: u64,
    /// Instances that would ask a service whose price is not known.
    pub unpriced: u64,
    /// Instances that would ask a service, nobody knows yet how much.
    pub unforeseen: u64,
}

impl Plan {
    /// Whether a run would execute anything, or cannot.
    pub fn is_up_to_date(&self) -> bool {
        self.summary.runs + self.summary.may_run + self.summary.blocked == 0
    }

    /// Adds what the instances that run or may run would ask of services outside, and the memory that they
    /// would take. Those that cannot have it are blocked, with what needs them.
    pub fn add_estimates(
        &mut self,
        question: &Question<'_>,
        evaluation: &Evaluation,
        registry: &StageRegistry,
        project_root: &Path,
    ) {
        let estimates = estimates(question, evaluation, registry, project_root);
        let mut by_name: BTreeMap<&str, Estimate> = estimates
            .into_iter()
            .map(|(id, estimate)| (&*question.graph.instances[id as usize].name, estimate))
            .collect();
        let stage = |id: usize| registry.get(&question.graph.node(id as InstanceId).stage);
        let asks = |id: usize| {
            stage(id).is_some_and(|it| it.descriptor().fields.contains(&NodeField::Teacher))
        };
        let computes = |id: usize| stage(id).is_some_and(|it| it.can_use_gpu());
        let repeats = repeats(question, evaluation);
        let selected = evaluation.states.iter().enumerate();
        let selected = selected.filter(|(_, state)| !matches!(state, State::NotSelected));
        let mut blocked: BTreeMap<InstanceId, String> = BTreeMap::new();
        let mut assumptions = BTreeSet::new();
        let mut stages = Vec::with_capacity(self.nodes.len());
        for (node, (id, state)) in self.nodes.iter_mut().zip(selected) {
            stages.push(&question.graph.node(id as InstanceId).stage[..]);
            let mut estimate = by_name.remove(node.node.as_str());
            if let Some(estimate) = &mut estimate {
                node.memory = estimate.memory.take();
                node.work = estimate.work;
                node.disk_bytes = estimate.disk_bytes;
                assumptions.extend(estimate.assumptions.drain(..));
            }
            let is_cached = matches!(state, State::Cached { .. } | State::Elsewhere { .. });
            node.unforeseen = estimate.is_none() && !is_cached && asks(id);
            node.unreckoned = !is_cached && computes(id) && node.expected_ms().is_none();
            node.estimate = estimate.filter(Estimate::asks);
            if let Some(one) = repeats.get(&(id as InstanceId)).filter(|_| !is_cached) {
                let name = question.graph.instances[*one as usize].name.to_string();
                node.reason = Some(format!("the same action as {name}"));
                node.same_as = Some(name);
                (node.unforeseen, node.unreckoned) = (false, false);
                (node.estimate, node.work, node.disk_bytes) = (None, None, None);
            }
            if let Some(reason) = self.summary.block(node, question, id as InstanceId, &blocked) {
                node.reason = Some(reason);
                blocked.insert(id as InstanceId, node.node.clone());
                continue;
            }
            self.summary.unforeseen += u64::from(node.unforeseen);
            if let Some(estimate) = &node.estimate {
                self.summary.add_estimate(estimate);
            }
        }
        self.bill = Some(bill(self.nodes.iter().zip(stages), assumptions));
    }
}

/// Makes the plan from what [`crate::evaluate::evaluate`] found.
pub fn plan(question: &Question<'_>, evaluation: &Evaluation, previous: &Manifest) -> Plan {
    let graph = question.graph;
    let mut nodes = Vec::new();
    let mut summary = PlanSummary::default();
    let mut blocked = vec![false; graph.instances.len()];
    for (id, state) in evaluation.states.iter().enumerate() {
        let instance = &graph.instances[id];
        let mut node = PlannedNode {
            node: instance.name.to_string(),
            verdict: Verdict::Cached,
            action: None,
            reason: None,
            waits_for: None,
            last_duration_ms: None,
            gpus: instance.resources.gpu,
            estimate: None,
            memory: None,
            work: None,
            fetched_bytes: None,
            disk_bytes: None,
            unforeseen: false,
            unreckoned: false,
            same_as: None,
        };
        match *state {
            State::NotSelected => continue,
            State::Cached { action, duration_ms, .. } => {
                node.action = Some(action);
                node.last_duration_ms = Some(u64::from(duration_ms));
            }
            State::Elsewhere { action, duration_ms, bytes, .. } => {
                node.verdict = Verdict::Fetched;
                node.action = Some(action);
                node.last_duration_ms = Some(u64::from(duration_ms));
                node.fetched_bytes = Some(bytes);
            }
            State::Runs { action, miss } => {
                let known = known_action(question, evaluation, id as InstanceId, action);
                node.verdict = Verdict::Runs;
                node.action = Some(action);
                node.reason =
                    Some(reason_in_a_line(question.store, previous, &instance.name, &known, miss));
            }
            State::Blocked { action, gpus } => {
                blocked[id] = true;
                node.verdict = Verdict::Blocked;
                node.action = Some(action);
                node.reason = Some(lacks_gpus(gpus, question.machine.gpus.len()));
            }
            State::Waits { on } => {
                let name = graph.instances[on as usize].name.to_string();
                blocked[id] = blocked[on as usize];
                let (verdict, reason) = if blocked[id] {
                    (Verdict::Blocked, format!("needs {name}, which is blocked"))
                } else if previous.action(&instance.name).is_none() {
                    (Verdict::Runs, "never run before".to_owned())
                } else {
                    (Verdict::MayRun, format!("waits for {name}"))
                };
                node.verdict = verdict;
                node.reason = Some(reason);
                node.waits_for = Some(name);
            }
        }
        if !matches!(node.verdict, Verdict::Cached | Verdict::Fetched) {
            node.last_duration_ms = last_duration(question.store, previous, &instance.name);
        }
        summary.add(&node);
        nodes.push(node);
    }
    Plan { version: VERSION, pipeline: graph.name.clone(), nodes, summary, bill: None }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn lacks_gpus(gpus: u32, offered: usize) -> String {
    format!("asks for {gpus} GPU(s); this machine offers {offered}")
}

impl PlanSummary {
    fn add_estimate(&mut self, estimate: &Estimate) {
        self.requests += estimate.requests;
        self.recorded += estimate.recorded;
        self.prompt_tokens += estimate.prompt_tokens;
        self.completion_tokens += estimate.completion_tokens;
        self.nano_usd += estimate.nano_usd.unwrap_or(0);
        self.unpriced += u64::from(estimate.nano_usd.is_none() && estimate.requests > 0);
    }

    /// Blocks a node that is to run if it, or one that it needs, cannot have the GPUs or the memory that it would take.
    /// Gives the reason.
    fn block(
        &mut self,
        node: &mut PlannedNode,
        question: &Question<'_>,
        id: InstanceId,
        blocked: &BTreeMap<InstanceId, String>,
    ) -> Option<String> {
        if matches!(node.verdict, Verdict::Cached | Verdict::Fetched | Verdict::Blocked) {
            return None;
        }
        let instance = &question.graph.instances[id as usize];
        let is_on_cluster = instance.is_on_cluster();
        let needed =
            instance.inputs.iter().flat_map(|input| &input.feeds).map(|feed| feed.instance);
        let reason = match needed.filter_map(|it| blocked.get(&it)).next() {
            Some(name) => format!("needs {name}, which is blocked"),
            None if !is_on_cluster && node.gpus as usize > question.machine.gpus.len() => {
                lacks_gpus(node.gpus, question.machine.gpus.len())
            }
            None => {
                let memory = node.memory.as_ref()?;
                let has = match (is_on_cluster, memory.on_gpu) {
                    (false, false) => question.machine.memory,
                    (false, true) => gpu_memory()?,
                    // What the GPUs of a cluster have is not known here.
                    (true, true) => return None,
                    (true, false) => Some(instance.resources.memory).filter(|asked| *asked > 0)?,
                };
                memory.too_much(has)?
            }
        };
        let mut without = PlanSummary::default();
        without.add(node);
        self.runs -= without.runs;
        self.may_run -= without.may_run;
        self.estimated_ms -= without.estimated_ms;
        self.estimated_ms_at_most -= without.estimated_ms_at_most;
        self.estimated_gpu_ms_at_most -= without.estimated_gpu_ms_at_most;
        self.unknown_cost -= without.unknown_cost;
        node.verdict = Verdict::Blocked;
        self.blocked += 1;
        Some(reason)
    }

    fn add(&mut self, node: &PlannedNode) {
        let last = node.last_duration_ms;
        match node.verdict {
            Verdict::Cached => {
                self.cached += 1;
                self.saved_ms += last.unwrap_or(0);
                return;
            }
            Verdict::Fetched => {
                self.fetched += 1;
                self.fetched_bytes += node.fetched_bytes.unwrap_or(0);
                self.saved_ms += last.unwrap_or(0);
                return;
            }
            Verdict::Runs => {
                self.runs += 1;
                self.estimated_ms += last.unwrap_or(0);
            }
            Verdict::MayRun => self.may_run += 1,
            Verdict::Blocked => {
                self.blocked += 1;
                return;
            }
        }
        self.estimated_ms_at_most += last.unwrap_or(0);
        self.estimated_gpu_ms_at_most += last.unwrap_or(0) * u64::from(node.gpus);
        self.unknown_cost += u64::from(last.is_none());
    }
}

/// The action document of an instance whose inputs are known.
pub fn known_action(
    question: &Question<'_>,
    evaluation: &Evaluation,
    id: InstanceId,
    digest: ActionDigest,
) -> Action {
    let writer = ActionWriter {
        graph: question.graph,
        sources: question.sources,
        passed_env: question.passed_env,
    };
    let mut document = String::new();
    let measures = |action: &ActionDigest| question.measures(action);
    let lineage = lineage::text(question.graph, &measures, id, |ancestor| {
        evaluation
            .action(ancestor)
            .expect("the ancestors of an instance with a known action have results")
    });
    writer.write(id, &mut document, lineage.as_deref(), |feed| {
        evaluation.artifact(feed).expect("the inputs of an instance with a known action are known")
    });
    Action { document, digest, lineage }
}

fn last_duration(store: &Store, previous: &Manifest, instance: &str) -> Option<u64> {
    let cached = store.lookup(&previous.action(instance)?)?;
    Some(u64::from(cached.duration_ms()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_took_counts_unless_it_was_other_work() {
        let node = |last_duration_ms: Option<u64>, reckoned_ms: Option<u64>| PlannedNode {
            node: "n".to_owned(),
            verdict: Verdict::Runs,
            action: None,
            reason: None,
            waits_for: None,
            last_duration_ms,
            gpus: 0,
            estimate: None,
            memory: None,
            work: reckoned_ms.map(|ms| WorkEstimate { operations: 1.0, ms, on_gpu: false }),
            fetched_bytes: None,
            disk_bytes: None,
            unforeseen: false,
            unreckoned: false,
            same_as: None,
        };
        let hour = 3_600_000;
        for (last, reckoned, expected) in [
            (None, None, None),
            (Some(5), None, Some(5)),
            (None, Some(hour), Some(hour)),
            // The speeds that are assumed are off.
            (Some(9 * hour), Some(hour), Some(9 * hour)),
            (Some(hour), Some(9 * hour), Some(hour)),
            // It was a small model that ran, and it is a large one now; or the reverse.
            (Some(3_000), Some(40 * hour), Some(40 * hour)),
            (Some(40 * hour), Some(3_000), Some(3_000)),
            // Starting takes the time.
            (Some(2_000), Some(10), Some(2_000)),
        ] {
            assert_eq!(node(last, reckoned).expected_ms(), expected, "{last:?} {reckoned:?}");
        }
    }
}

//! Audits: does the store hold what the pipeline says, and does what it holds come from what the pipeline says?
//!
//! An audit believes nothing that was remembered. It looks at the results that the pipeline's last run left behind (its
//! [`Manifest`]), and asks of each, in this order:
//!
//! 1. Are the action's document, its outputs and all objects in them there, and do they hash to their names?
//! 2. Is the document the one that the pipeline gives *now*: the file, prompts and tracked files as they are, and as inputs the
//!    outputs recorded for the nodes above? So a node that was edited since is named alone, and not all that depends on it.
//! 3. Are metrics, times and costs those that the run reported when it made the result?
//!
//! [`reexecute`] goes further: it makes results again, in a store of its own, and compares.

mod chain;
pub mod difference;
mod measured;
mod objects;
mod published;
pub mod reexecute;

pub use published::published;

use std::collections::BTreeSet;

use okapi_cache::{ActionDigest, Artifact, Store, StoreError, StoredAction};
use serde::Serialize;

use crate::action::PassedEnv;
use crate::evaluate::{NOTHING_ELSEWHERE, Question, State, evaluate};
use crate::graph::{Graph, InstanceId};
use crate::machine::Machine;
use crate::manifest::Manifest;
use crate::selection::Selection;

/// What is audited.
#[derive(Clone, Copy)]
pub struct AuditQuestion<'a> {
    /// The checked pipeline.
    pub graph: &'a Graph,
    /// The instances to look at.
    pub selection: &'a Selection,
    /// The artifact of each source that a selected instance tracks, hashed now.
    pub sources: &'a [Option<Artifact>],
    /// Values for `pass_env`.
    pub passed_env: &'a PassedEnv,
    /// Where results are.
    pub store: &'a Store,
    /// The action that each instance had in the pipeline's last run.
    pub manifest: &'a Manifest,
    /// Whether this is a bundle: outputs that were not published, values of the environment and records of runs are not in it.
    pub is_bundle: bool,
}

/// What an audit says of an instance, from the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All that was looked at holds.
    Verified,
    /// The result is whole, and the pipeline asks for another one by now.
    ChangedSince,
    /// Something is not there.
    Missing,
    /// Something is not what it says it is.
    Corrupt,
}

/// Something that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub verdict: Verdict,
    /// What does not hold: a sentence without its stop.
    pub message: String,
    /// What to do about it.
    pub hint: Option<&'static str>,
}

/// What an audit found of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeAudit {
    /// The instance's name.
    pub node: String,
    /// The worst of the findings.
    pub verdict: Verdict,
    /// Its recorded action.
    pub action: Option<ActionDigest>,
    /// What does not hold.
    pub findings: Vec<Finding>,
    /// What is worth a word and holds all the same.
    pub notes: Vec<String>,
}

impl NodeAudit {
    /// Adds a finding.
    pub fn add(&mut self, finding: Finding) {
        self.verdict = self.verdict.max(finding.verdict);
        self.findings.push(finding);
    }
}

/// What an audit found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// By instance, results first: from the end of the graph to its seeds.
    pub nodes: Vec<NodeAudit>,
    /// Objects that were hashed.
    pub objects: u64,
    /// Their bytes, as far as they are what their names say.
    pub bytes: u64,
    /// Objects that are known by their digests alone, in a bundle.
    pub elsewhere: u64,
    /// Instances whose metrics, times and costs could be compared with nothing: what the runs reported that made them is not there.
    pub unreported: u64,
}

impl Audit {
    /// Adds what was found of an instance. One that the pipeline does not have is listed, too.
    pub fn add(&mut self, node: &str, finding: Finding) {
        match self.nodes.iter_mut().find(|it| it.node == node) {
            Some(it) => it.add(finding),
            None => {
                let (node, verdict) = (node.to_owned(), finding.verdict);
                let (findings, notes) = (vec![finding], Vec::new());
                self.nodes.push(NodeAudit { node, verdict, action: None, findings, notes });
            }
        }
    }

    /// Adds a note on an instance that was looked at.
    pub fn note(&mut self, node: &str, note: String) {
        if let Some(found) = self.nodes.iter_mut().find(|it| it.node == node) {
            found.notes.push(note);
        }
    }

    /// Whether all holds.
    pub fn holds(&self) -> bool {
        self.nodes.iter().all(|node| node.verdict == Verdict::Verified)
    }
}

/// The recorded result of an instance, as the store has it.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Its action.
    pub action: ActionDigest,
    /// Its outputs, in the order of its node's ports.
    pub outputs: Vec<Artifact>,
    /// The action's document and the details of the result, if they can be read.
    pub stored: Option<StoredAction>,
}

/// The recorded result of every selected instance; `None` for one that has none.
///
/// # Errors
/// When the store cannot be read.
pub fn recorded(question: &AuditQuestion<'_>) -> Result<Vec<Option<Recorded>>, StoreError> {
    let of_instance = |id: usize| {
        if !question.selection.needed[id] {
            return Ok(None);
        }
        let name = &question.graph.instances[id].name;
        let Some(action) = question.manifest.action(name) else { return Ok(None) };
        let Some(cached) = question.store.lookup(&action) else { return Ok(None) };
        let stored = question.store.document(&action)?;
        Ok(Some(Recorded { action, outputs: cached.outputs().to_vec(), stored }))
    };
    (0..question.graph.instances.len()).map(of_instance).collect()
}

/// Audits the recorded results. `progress` is told how many bytes have been hashed since it was told last, from any thread.
///
/// # Errors
/// When the store cannot be read.
pub fn audit(
    question: &AuditQuestion<'_>,
    recorded: &[Option<Recorded>],
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Audit, StoreError> {
    let AuditQuestion { graph, selection, manifest, .. } = *question;
    let objects = objects::inspect(question, recorded, progress)?;
    let chain = chain::Chain::new(question, recorded)?;
    let reports = &chain.reports;
    let mut nodes = Vec::new();
    let mut said_of_kept = BTreeSet::new();
    let left_out = left_out(question);
    for id in (0..graph.instances.len()).rev().filter(|&id| selection.needed[id]) {
        let name = &*graph.instances[id].name;
        let action = manifest.action(name);
        let mut node = NodeAudit {
            node: name.to_owned(),
            verdict: Verdict::Verified,
            action,
            findings: Vec::new(),
            notes: Vec::new(),
        };
        match &recorded[id] {
            None => node.add(nothing_recorded(action.is_some(), left_out[id])),
            Some(result) => {
                let ports = &graph.node(id as InstanceId).outputs;
                objects.look_at(result, ports).into_iter().for_each(|it| node.add(it));
                let kept = objects.look_at_kept(question, result, &mut said_of_kept);
                kept.into_iter().for_each(|it| node.add(it));
                node.notes.extend(objects.lost_log(result));
                chain.look_at(id as InstanceId, result).into_iter().for_each(|it| node.add(it));
                measured::compare(result, reports).into_iter().for_each(|it| node.add(it));
            }
        }
        nodes.push(node);
    }
    Ok(Audit {
        nodes,
        objects: objects.len(),
        bytes: objects.good_bytes(),
        elsewhere: objects.elsewhere(),
        unreported: recorded
            .iter()
            .flatten()
            .filter(|it| !measured::is_reported(it, reports))
            .count() as u64,
    })
}

/// The instances that the last run left out, and whose results are in the store all the same: it had another profile.
fn left_out(question: &AuditQuestion<'_>) -> Vec<bool> {
    let AuditQuestion { graph, selection, sources, passed_env, store, manifest, .. } = *question;
    let is_unknown =
        |id: usize| selection.needed[id] && manifest.action(&graph.instances[id].name).is_none();
    let all = 0..graph.instances.len();
    if question.is_bundle || !all.clone().any(is_unknown) {
        return vec![false; graph.instances.len()];
    }
    // Where it would be executed does not matter to what there is.
    let machine = Machine { slots: 1, memory: 0, gpus: Vec::new(), cluster_jobs: 0 };
    let evaluation = evaluate(&Question {
        graph,
        selection,
        sources,
        passed_env,
        forced: &vec![false; graph.instances.len()],
        machine: &machine,
        store,
        elsewhere: &NOTHING_ELSEWHERE,
    });
    all.map(|id| is_unknown(id) && matches!(evaluation.states[id], State::Cached { .. })).collect()
}

fn nothing_recorded(ran: bool, is_left_out: bool) -> Finding {
    let (message, hint) = match (ran, is_left_out) {
        (true, _) => ("its result is not in the store any more", "`okapi run` makes it again"),
        (false, false) => ("no run has made its result", "`okapi run` makes it"),
        (false, true) => (
            "the last run left it out, and a result of an earlier one is in the store",
            "`okapi run` finds it, with the profile and the settings of this audit; or audit with those of the last run",
        ),
    };
    Finding { verdict: Verdict::Missing, message: message.to_owned(), hint: Some(hint) }
}

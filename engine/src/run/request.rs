//! What a run is asked to do, and how it ended.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use okapi_cache::{ActionDigest, Artifact, Store, StoreError};
use okapi_remote::Remote;

use crate::action::PassedEnv;
use crate::evaluate::Evaluation;
use crate::event::Outcome;
use crate::executor::command_process::Launcher;
use crate::executor::slurm::JobSettings;
use crate::graph::{Feed, Graph, InstanceId};
use crate::machine::Machine;
use crate::manifest::Manifest;
use crate::selection::Selection;
use crate::spend::Spend;
use crate::stage::StageRegistry;

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
    /// okapi's version and source revision, kept with results.
    pub program: &'a str,
    /// What commands are started with.
    pub launcher: Launcher,
    /// What jobs of a cluster are started with.
    pub jobs: JobSettings,
    /// What the pipeline's last run left behind, for the reasons in events.
    pub previous: &'a dyn Fn() -> Manifest,
    /// The folder for logs of failed instances.
    pub logs: PathBuf,
    /// Where results are looked for that the store does not have, and sent.
    pub remote: Option<Arc<Remote>>,
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
    /// What was asked of services outside.
    pub spend: Spend,
    /// The store's trouble, if that is how it ended.
    pub store_error: Option<StoreError>,
    /// The results of instances that were settled after the run began.
    pub later: BTreeMap<InstanceId, Settled>,
    /// Instances that ran, in the order in which they finished.
    pub executed: Vec<InstanceId>,
}

impl RunSummary {
    /// The summary of a run that found every result.
    pub(super) fn nothing_to_do(cached: u64) -> RunSummary {
        RunSummary {
            outcome: Outcome::Succeeded,
            ran: 0,
            cached,
            failed: 0,
            skipped: 0,
            spend: Spend::default(),
            store_error: None,
            later: BTreeMap::new(),
            executed: Vec::new(),
        }
    }
}

/// The result of an instance.
#[derive(Debug, Clone)]
pub struct Settled {
    /// Its action.
    pub action: ActionDigest,
    /// Its outputs, in the order of its node's ports.
    pub outputs: Vec<Artifact>,
}

/// Every result that there is after a run: those that were found before it, and those of the run.
#[derive(Clone, Copy)]
pub struct Results<'a> {
    /// What was found before.
    pub evaluation: &'a Evaluation,
    /// What came later.
    pub later: &'a BTreeMap<InstanceId, Settled>,
}

impl Results<'_> {
    /// The action of an instance that has a result.
    pub fn action(&self, id: InstanceId) -> Option<ActionDigest> {
        self.evaluation.action(id).or_else(|| Some(self.later.get(&id)?.action))
    }

    /// An output of an instance that has a result.
    pub fn output(&self, id: InstanceId, port: u16) -> Option<Artifact> {
        let feed = Feed { key: Box::default(), instance: id, port };
        self.evaluation
            .artifact(&feed)
            .or_else(|| Some(self.later.get(&id)?.outputs[port as usize]))
    }
}

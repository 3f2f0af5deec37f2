//! From an instance and the results so far to its action and its job.

use std::sync::Arc;

use okapi_cache::{Artifact, Lease};

use super::runner::Runner;
use crate::action::{Action, ActionWriter};
use crate::executor::job_maker::JobMaker;
use crate::executor::{ExecutionError, Job};
use crate::graph::{Feed, InstanceId};
use crate::lineage;
use crate::schedule::Grant;

impl Runner<'_> {
    pub(super) fn name(&self, id: InstanceId) -> String {
        self.request.graph.instances[id as usize].name.to_string()
    }

    /// The artifact that a feed reads; its instance has a result.
    pub(super) fn artifact(&self, feed: &Feed) -> Artifact {
        self.evaluation
            .artifact(feed)
            .or_else(|| Some(self.outputs.get(&feed.instance)?.outputs[feed.port as usize]))
            .expect("inputs of a ready instance have results")
    }

    pub(super) fn action(&mut self, id: InstanceId) -> Action {
        let lineage = self.lineage(id);
        let writer = ActionWriter {
            graph: self.request.graph,
            sources: self.request.sources,
            passed_env: self.request.passed_env,
        };
        let mut document = String::new();
        let digest =
            writer.write(id, &mut document, lineage.as_deref(), |feed| self.artifact(feed));
        Action { document, digest, lineage }
    }

    /// The text of a ready instance's lineage. It is made once: another run's execution is looked for many times.
    fn lineage(&mut self, id: InstanceId) -> Option<String> {
        if let Some(known) = self.lineages.get(&id) {
            return Some(known.clone());
        }
        let (graph, store) = (self.request.graph, &self.request.store);
        let text = lineage::text(graph, &lineage::measures_in(store), id, |ancestor| {
            let later = || Some(self.outputs.get(&ancestor)?.action);
            self.evaluation
                .action(ancestor)
                .or_else(later)
                .expect("ancestors of a ready instance have results")
        })?;
        self.lineages.insert(id, text.clone());
        Some(text)
    }

    pub(super) fn previous_outputs(&self, id: InstanceId) -> Option<Vec<Artifact>> {
        let name = &self.request.graph.instances[id as usize].name;
        let action = self.previous.action(name)?;
        Some(self.request.store.lookup(&action)?.outputs().to_vec())
    }

    pub(super) fn job(
        &self,
        id: InstanceId,
        action: &Action,
        grant: &Grant,
        lease: &Lease,
    ) -> Result<Job, ExecutionError> {
        let request = self.request;
        let maker = JobMaker {
            graph: request.graph,
            sources: request.sources,
            project_root: request.project_root,
            passed_env: request.passed_env,
            registry: &request.registry,
        };
        // Without it another run may begin the action a moment early, should this one be killed.
        let lease = lease.share().ok().map(Arc::new);
        maker.job(id, action, |feed| self.artifact(feed), grant, lease)
    }
}

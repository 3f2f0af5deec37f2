//! From an instance and the results so far to a job: its action, its inputs, its files.

use std::sync::Arc;

use okapi_cache::{Artifact, Lease};

use super::runner::Runner;
use crate::action::{Action, ActionWriter, lineage_artifact};
use crate::executor::local::{JobInput, JobSource, places_files};
use crate::executor::{ExecutionError, Job};
use crate::graph::{Feed, InstanceId};
use crate::lineage;
use crate::schedule::Grant;
use crate::stage_context::StageError;

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
        let text = lineage::text(graph, store, id, |ancestor| {
            let later = || Some(self.outputs.get(&ancestor)?.action);
            self.evaluation
                .action(ancestor)
                .or_else(later)
                .expect("ancestors of a ready instance have results")
        })?;
        self.lineages.insert(id, text.clone());
        Some(text)
    }

    /// Tracked files, prompts and lineage of an instance: kept with its result, so that a later `explain`
    /// can show what changed in them.
    pub(super) fn keeps(&self, id: InstanceId, action: &Action) -> Vec<Artifact> {
        let instance = &self.request.graph.instances[id as usize];
        let prompts = instance.prompts.iter().map(|(_, source)| source);
        let sources = instance.files.iter().chain(prompts);
        let sources = sources.filter_map(|&source| self.request.sources[source as usize]);
        sources.chain(action.lineage.as_deref().map(lineage_artifact)).collect()
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
            // Without it another run may begin the action a moment early, should this one be killed.
            lease: lease.share().ok().map(Arc::new),
        })
    }
}

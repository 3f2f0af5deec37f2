//! From an instance, its action and the artifacts that it reads to a job.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use okapi_cache::Artifact;

use super::local::{JobInput, JobSource, places_files};
use super::{ExecutionError, Job};
use crate::action::{Action, PassedEnv};
use crate::graph::{Feed, Graph, InstanceId};
use crate::schedule::Grant;
use crate::stage::StageRegistry;
use crate::stage_context::StageError;

/// Makes the jobs of one graph.
#[derive(Clone, Copy)]
pub(crate) struct JobMaker<'a> {
    pub(crate) graph: &'a Graph,
    /// The artifact of each source that a selected instance tracks.
    pub(crate) sources: &'a [Option<Artifact>],
    /// The project's root on this machine.
    pub(crate) project_root: &'a Path,
    pub(crate) passed_env: &'a PassedEnv,
    pub(crate) registry: &'a StageRegistry,
}

impl JobMaker<'_> {
    /// The job of an instance; `reads` gives the artifact that a feed reads.
    pub(crate) fn job(
        &self,
        id: InstanceId,
        action: &Action,
        reads: impl Fn(&Feed) -> Artifact,
        grant: &Grant,
        lease: Option<Arc<OwnedFd>>,
    ) -> Result<Job, ExecutionError> {
        let graph = self.graph;
        let instance = &graph.instances[id as usize];
        let node = graph.node(id);
        let parse = |text: &str| {
            serde_json::from_str(text).map_err(|error| {
                StageError::failed(format!("the checked pipeline holds bad JSON: {error}"))
            })
        };
        let source = |id: u32| JobSource {
            path: graph.sources[id as usize].path.clone(),
            absolute: Some(self.project_root.join(&*graph.sources[id as usize].path)),
            artifact: self.sources[id as usize]
                .expect("a selected instance's sources have been digested"),
        };
        let fields =
            self.registry.get(&node.stage).map_or(&[][..], |stage| stage.descriptor().fields);
        let passed = node.pass_env.iter();
        let passed =
            passed.filter_map(|name| Some((name.clone(), self.passed_env.get(name)?.clone()?)));
        let inputs = instance.inputs.iter().map(|input| JobInput {
            port: input.port.to_string(),
            gathered: input.gathered,
            items: input.feeds.iter().map(|feed| (feed.key.to_string(), reads(feed))).collect(),
        });
        let prompts = instance.prompts.iter();
        Ok(Job {
            instance: instance.name.to_string(),
            action: action.clone(),
            stage: node.stage.clone(),
            declared: parse(&instance.declared)?,
            settings: parse(&instance.settings)?,
            passed_env: passed.collect(),
            inputs: inputs.collect(),
            files: instance.files.iter().map(|&id| source(id)).collect(),
            prompts: prompts.map(|(name, id)| (name.to_string(), source(*id))).collect(),
            places_files: places_files(fields),
            outputs: node.outputs.clone(),
            gpus: grant.gpus.clone(),
            threads: (grant.resources.cpu_milli / 1000).max(1) as usize,
            lease,
        })
    }
}

//! What a node would ask of services and what that would cost, before it runs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use okapi_cache::RecordCache;
use serde::Serialize;
use serde_json::Value;

use crate::evaluate::{Evaluation, Question, State};
use crate::graph::{Feed, InstanceId};

/// The rows that a data set will have.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RowsEstimate {
    /// How many.
    pub rows: u64,
    /// Bytes of text in one, on average.
    pub bytes_per_row: f64,
}

/// What is known of an artifact before the run.
#[derive(Debug, Clone, PartialEq)]
pub enum Expected {
    /// It is there.
    Present(PathBuf),
    /// It will have rows such as these.
    Rows(RowsEstimate),
    /// Nothing.
    Unknown,
}

/// What a stage is asked: everything that is known of one instance before it runs.
pub struct EstimateQuestion<'a> {
    /// The resolved `declared` object of the action.
    pub declared: &'a Value,
    /// Params that are no part of the identity.
    pub settings: &'a Value,
    /// Inputs by port: key and what is known of each artifact.
    pub inputs: &'a BTreeMap<String, Vec<(String, Expected)>>,
    /// Where each prompt lies, by name.
    pub prompts: &'a BTreeMap<String, PathBuf>,
    /// What services answered before.
    pub records: &'a RecordCache,
}

/// What an instance would ask and cost.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// Requests that would have to be answered.
    pub requests: u64,
    /// Requests whose answers are recorded already.
    pub recorded: u64,
    /// Tokens that would be read.
    pub prompt_tokens: u64,
    /// Tokens that would be written.
    pub completion_tokens: u64,
    /// What it would cost, in billionths of a US dollar, where the price is known.
    pub nano_usd: Option<u64>,
    /// Whether the requests were counted one by one, as the inputs are there; else they are
    /// reckoned from what the inputs will be.
    pub counted: bool,
    /// The rows that it would make, by output port.
    #[serde(skip)]
    pub outputs: BTreeMap<String, RowsEstimate>,
}

impl Estimate {
    /// Whether anything would be asked at all.
    pub fn asks(&self) -> bool {
        self.requests + self.recorded > 0
    }
}

/// Asks the stages of all instances that would run, in the order of the graph.
pub(crate) fn estimates(
    question: &Question<'_>,
    evaluation: &Evaluation,
    registry: &crate::stage::StageRegistry,
    project_root: &std::path::Path,
) -> BTreeMap<InstanceId, Estimate> {
    let graph = question.graph;
    let mut found: BTreeMap<InstanceId, Estimate> = BTreeMap::new();
    for (id, instance) in (0..).zip(&graph.instances) {
        let state = &evaluation.states[id as usize];
        if matches!(state, State::NotSelected | State::Cached { .. }) {
            continue;
        }
        let Some(stage) = registry.get(&graph.node(id).stage) else { continue };
        let parse = |text: &str| serde_json::from_str(text).unwrap_or_default();
        let (declared, settings): (Value, Value) =
            (parse(&instance.declared), parse(&instance.settings));
        let inputs = instance
            .inputs
            .iter()
            .map(|input| {
                let items = input.feeds.iter().map(|feed| {
                    (feed.key.to_string(), expected(question, evaluation, &found, feed))
                });
                (input.port.to_string(), items.collect())
            })
            .collect();
        let prompts = instance
            .prompts
            .iter()
            .map(|(name, source)| {
                let path = project_root.join(&*graph.sources[*source as usize].path);
                (name.to_string(), path)
            })
            .collect();
        let question = EstimateQuestion {
            declared: &declared,
            settings: &settings,
            inputs: &inputs,
            prompts: &prompts,
            records: question.store.records(),
        };
        if let Some(estimate) = stage.estimate(&question) {
            found.insert(id, estimate);
        }
    }
    found
}

fn expected(
    question: &Question<'_>,
    evaluation: &Evaluation,
    found: &BTreeMap<InstanceId, Estimate>,
    feed: &Feed,
) -> Expected {
    if let Some(artifact) = evaluation.artifact(feed) {
        return Expected::Present(question.store.object_path(&artifact.digest));
    }
    let port = &question.graph.node(feed.instance).outputs[feed.port as usize].port;
    match found.get(&feed.instance).and_then(|estimate| estimate.outputs.get(port)) {
        Some(rows) => Expected::Rows(*rows),
        None => Expected::Unknown,
    }
}

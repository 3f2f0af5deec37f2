//! What a node would ask of services, what that would cost, what memory it would take, what it would compute and
//! store, before it runs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use okapi_cache::{ArtifactKind, RecordCache};
use serde::Serialize;
use serde_json::Value;

use crate::evaluate::{Evaluation, Question, State};
use crate::graph::{Feed, InstanceId};

/// The rows that a data set will have.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RowsEstimate {
    /// How many.
    pub rows: u64,
    /// Bytes of one, on average.
    pub bytes_per_row: f64,
    /// Tokens of what is asked in one, on average.
    pub prompt_tokens: f64,
    /// Answers in one.
    pub responses: f64,
    /// Tokens of all of them.
    pub response_tokens: f64,
}

impl RowsEstimate {
    /// All of their bytes.
    pub fn bytes(&self) -> u64 {
        (self.rows as f64 * self.bytes_per_row).round() as u64
    }
}

/// What an instance would compute with a model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct WorkEstimate {
    /// Operations with floating-point numbers.
    pub operations: f64,
    /// How long they take at the speeds that are assumed, milliseconds.
    pub ms: u64,
    /// Whether it is a GPU's time.
    pub on_gpu: bool,
}

/// The memory that an instance would take while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryEstimate {
    /// What it is for.
    pub parts: Vec<MemoryPart>,
    /// What would take less.
    pub remedies: Vec<MemoryRemedy>,
    /// Whether it is a GPU's memory.
    pub on_gpu: bool,
}

/// Memory for one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryPart {
    /// `weights`, `activations`.
    pub what: &'static str,
    /// How much.
    pub bytes: u64,
}

/// What to write so that an instance takes less.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryRemedy {
    /// As it is written: "`recompute: true`".
    pub change: String,
    /// All that it would take then.
    pub bytes: u64,
}

impl MemoryEstimate {
    /// All of it, bytes.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    /// Why an instance cannot run with so many bytes, and what to do about it; `None` if it can.
    pub fn too_much(&self, memory: u64) -> Option<String> {
        if self.bytes() <= memory {
            return None;
        }
        let (needs, has) = (gibibytes(self.bytes()), gibibytes(memory));
        let remedy = match self.remedy(memory) {
            Some(remedy) => format!("; {} takes {}", remedy.change, gibibytes(remedy.bytes)),
            None => String::new(),
        };
        let whose = if self.on_gpu { "GPU memory" } else { "memory" };
        Some(format!("takes {needs} of {whose}, and there are {has}{remedy}"))
    }

    /// The first remedy with which it fits into so many bytes.
    pub fn remedy(&self, memory: u64) -> Option<&MemoryRemedy> {
        self.remedies.iter().find(|remedy| remedy.bytes <= memory)
    }
}

fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// What is known of an artifact before the run.
#[derive(Debug, Clone, PartialEq)]
pub enum Expected {
    /// It is there: a file.
    Present(PathBuf),
    /// It is there: a folder, with where each of its files lies.
    PresentTree(BTreeMap<String, PathBuf>),
    /// What the stage that will make it says of it: [`Estimate::facts`].
    Facts(Value),
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
    /// Processors that it would have.
    pub processors: u32,
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
    /// What else is known of what it would make, by output port: for other stages to read, and nobody else.
    #[serde(skip)]
    pub facts: BTreeMap<String, Value>,
    /// The memory that it would take, if that is worth saying.
    #[serde(skip)]
    pub memory: Option<MemoryEstimate>,
    /// What it would compute with a model.
    #[serde(skip)]
    pub work: Option<WorkEstimate>,
    /// Bytes that its outputs would take in the store, as far as they are worth saying.
    #[serde(skip)]
    pub disk_bytes: Option<u64>,
    /// What was assumed, for the user: sentences.
    #[serde(skip)]
    pub assumptions: Vec<&'static str>,
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
        if matches!(state, State::NotSelected | State::Cached { .. } | State::Elsewhere { .. }) {
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
        let granted = question.machine.clamp(instance.resources);
        let question = EstimateQuestion {
            declared: &declared,
            settings: &settings,
            inputs: &inputs,
            prompts: &prompts,
            processors: (granted.cpu_milli / 1000).max(1),
            records: question.store.records(),
        };
        if let Some(mut estimate) = stage.estimate(&question) {
            if estimate.disk_bytes.is_none() && !estimate.outputs.is_empty() {
                let bytes = estimate.outputs.values().map(RowsEstimate::bytes);
                estimate.disk_bytes = Some(bytes.sum());
            }
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
        let state = &evaluation.states[feed.instance as usize];
        if matches!(state, State::Elsewhere { .. }) && !question.store.is_complete(&artifact) {
            return Expected::Unknown;
        }
        let place = |digest| question.store.object_path(digest);
        return match artifact.kind {
            ArtifactKind::File => Expected::Present(place(&artifact.digest)),
            ArtifactKind::Tree => match question.store.read_tree(&artifact.digest) {
                Ok(tree) => Expected::PresentTree(
                    tree.files().map(|(path, digest)| (path.to_owned(), place(digest))).collect(),
                ),
                // What is damaged is found when it is used.
                Err(_) => Expected::Unknown,
            },
        };
    }
    let port = &question.graph.node(feed.instance).outputs[feed.port as usize].port;
    let Some(estimate) = found.get(&feed.instance) else { return Expected::Unknown };
    match (estimate.outputs.get(port), estimate.facts.get(port)) {
        (Some(rows), _) => Expected::Rows(*rows),
        (None, Some(facts)) => Expected::Facts(facts.clone()),
        (None, None) => Expected::Unknown,
    }
}

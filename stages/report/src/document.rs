//! All that goes into a report.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::published::Base;
use crate::published_lengths::PublishedSet;

/// What was run, and what came of it. Any part may be empty: partial results are results.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Of this format: 1.
    pub version: u32,
    /// What stands on top.
    pub title: String,
    /// A few sentences below it.
    #[serde(default)]
    pub summary: String,
    /// What was run: pipeline, profile, seeds, ...; in this order.
    #[serde(default)]
    pub facts: Vec<Fact>,
    /// By model, the paper's base model whose published scores are shown beside.
    #[serde(default)]
    pub compare_with: BTreeMap<String, Base>,
    /// By the name of a data set, the paper's whose published lengths are shown beside.
    #[serde(default)]
    pub compare_sets: BTreeMap<String, PublishedSet>,
    /// What must be known of all scores: below each table of them.
    #[serde(default)]
    pub score_note: String,
    /// One for each evaluation.
    #[serde(default)]
    pub scores: Vec<Score>,
    /// One for each model and language whose open-ended answers were judged.
    #[serde(default)]
    pub answers: Vec<AnswerScore>,
    /// One for each training.
    #[serde(default)]
    pub curves: Vec<Curve>,
    /// One for each data set.
    #[serde(default)]
    pub statistics: Vec<DataSet>,
    /// Rows that were set aside.
    #[serde(default)]
    pub rejects: Vec<Rejects>,
    /// What teachers were asked.
    #[serde(default)]
    pub spend: Vec<Spend>,
    /// How long nodes took.
    #[serde(default)]
    pub times: Vec<NodeTime>,
    /// The pipeline's graph as SVG.
    #[serde(default)]
    pub graph: Option<String>,
}

impl Report {
    /// The format's version.
    pub const VERSION: u32 = 1;
}

/// One thing to know of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fact {
    /// Such as `profile`.
    pub name: String,
    /// Such as `offline`.
    pub value: String,
}

/// Where a number comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The node's instance: `evaluate[lang=de,task=arc]`.
    pub node: String,
    /// The digest of the action that made it.
    pub action: String,
}

impl Source {
    /// The node's name, without which of its instances it is.
    pub fn node_name(&self) -> &str {
        self.node.split('[').next().unwrap_or_default()
    }
}

/// A benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// AI2 Reasoning Challenge.
    Arc,
    /// HellaSwag.
    HellaSwag,
    /// Massive Multitask Language Understanding.
    Mmlu,
}

impl Task {
    /// As people write it.
    pub fn title(self) -> &'static str {
        match self {
            Task::Arc => "ARC",
            Task::HellaSwag => "HellaSwag",
            Task::Mmlu => "MMLU",
        }
    }

    /// As the format has it.
    pub fn key(self) -> &'static str {
        match self {
            Task::Arc => "arc",
            Task::HellaSwag => "hellaswag",
            Task::Mmlu => "mmlu",
        }
    }
}

/// A share of right answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// From 0 to 1.
    pub value: f64,
    /// Its standard error over the questions.
    #[serde(default)]
    pub standard_error: Option<f64>,
}

/// What one evaluation gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// The benchmark.
    pub task: Task,
    /// The code of the questions' language.
    pub language: String,
    /// How the model was made: `base`, `bloomz`, `sft`, `rlhf`, or any other name.
    pub method: String,
    /// What it was made of.
    pub model: String,
    /// How many parameters the model has, where that is known.
    #[serde(default)]
    pub parameters: Option<u64>,
    /// The seed of what was trained.
    pub seed: u64,
    /// By whose rules questions were asked: `harness`, `harness_original`, `authors`.
    pub protocol: String,
    /// Examples before each question.
    pub shots: u32,
    /// Questions.
    pub n: u64,
    /// The right choice is the most probable.
    pub acc: Share,
    /// The right choice is the most probable by character.
    pub acc_norm: Share,
    /// Where it comes from.
    pub source: Source,
}

/// What a model's open-ended answers are worth in one language, as the second paper (Chen et al., 2024) scores them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerScore {
    /// The family that the model is of: `BLOOM`.
    pub base: String,
    /// How many parameters the model has.
    pub parameters: u64,
    /// How its weights were tuned: `lora`, `full`.
    pub tuning: String,
    /// What it was tuned on: `multilingual`, `monolingual`, `english_only`, `downsampled`, or any other name.
    pub recipe: String,
    /// The code of the language that was asked in.
    pub language: String,
    /// The training's seed.
    pub seed: u64,
    /// Prompts that were answered.
    pub n: u64,
    /// The judge's grades, 1 to 3, of answers in the language asked for, summed: of 50 prompts, 0 to 150.
    pub score: f64,
    /// The sum of all grades, whatever language the answers are in.
    #[serde(default)]
    pub judged: Option<f64>,
    /// Where it comes from.
    pub source: Source,
}

/// How a training went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curve {
    /// What was trained: `sft`, `reward_model`, `ppo`.
    pub stage: String,
    /// What it was made of.
    pub model: String,
    /// The code of the data's language, if it was one.
    #[serde(default)]
    pub language: Option<String>,
    /// The training's seed.
    pub seed: u64,
    /// By step, ascending.
    pub points: Vec<CurvePoint>,
    /// Where it comes from.
    pub source: Source,
}

/// What one step gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CurvePoint {
    /// From 1.
    pub step: u64,
    /// By name: `loss`, `reward`, `kl`, ...
    pub measures: BTreeMap<String, f64>,
}

/// How long the texts of a data set are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSet {
    /// What it is: `Alpaca`, `Generated`.
    pub name: String,
    /// The code of its language.
    pub language: String,
    /// How many rows it has.
    pub rows: u64,
    /// What lengths count: `tokens`, `words`.
    pub unit: String,
    /// The mean length of prompts.
    pub prompt: f64,
    /// The mean length of responses, where there are some.
    #[serde(default)]
    pub response: Option<f64>,
    /// What its instructions ask for, where that was looked for.
    #[serde(default)]
    pub root_verbs: Option<RootVerbs>,
    /// Where it comes from.
    pub source: Source,
}

/// The most frequent root verbs of instructions, with their most frequent objects.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootVerbs {
    /// The share of all rows, from 0 to 1, that these verbs and objects make up.
    pub covered_share: f64,
    /// The most frequent first.
    pub verbs: Vec<RootVerb>,
}

/// A root verb.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootVerb {
    /// The verb: `write`.
    pub verb: String,
    /// How many instructions have it with an object.
    pub count: u64,
    /// The most frequent first.
    pub objects: Vec<RootObject>,
}

/// What a root verb asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootObject {
    /// The noun: `poem`.
    pub object: String,
    /// How many instructions have it with the verb.
    pub count: u64,
}

/// Rows that were set aside by one rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rejects {
    /// The stage that did it.
    pub stage: String,
    /// The rule that they broke.
    pub reason: String,
    /// How many.
    pub count: u64,
    /// Where it comes from.
    pub source: Source,
}

/// What a node asked of teachers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spend {
    /// Its stage.
    pub stage: String,
    /// Requests.
    pub requests: u64,
    /// Tokens that were sent.
    pub prompt_tokens: u64,
    /// Tokens that came back.
    pub completion_tokens: u64,
    /// Millionths of a US dollar, where it is said what was paid.
    #[serde(default)]
    pub micro_usd: Option<u64>,
    /// Where it comes from.
    pub source: Source,
}

/// How long a node took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeTime {
    /// Its stage.
    pub stage: String,
    /// Seconds of execution, without waiting.
    pub seconds: f64,
    /// Where it comes from.
    pub source: Source,
}

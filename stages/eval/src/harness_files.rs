//! Scores in the files that the lm-evaluation-harness writes, so that what reads those reads ours.
//!
//! `results_<date>.json` has the scores of each task, `samples_<task>_<date>.jsonl` every question with its prompts
//! and what the model made of them. Of the harness's fields those are left out that say when and on which machine it
//! ran: the same scores are the same bytes. `doc` is the question as okapi has it.

use std::collections::BTreeMap;

use okapi_data::{Question, Task};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::evaluation::{ChoiceScore, ItemScore};
use crate::metric::{Score, Summary};
use crate::task::{Edition, Item, Protocol, Setting};

/// What stands in place of the date in names of files, where the harness's readers look for one.
const NO_DATE: &str = "1970-01-01T00-00-00.000000";

/// An evaluation, to be written as the harness does it.
#[derive(Debug, Clone, Copy)]
pub struct HarnessFiles<'a> {
    /// What was evaluated.
    pub setting: &'a Setting,
    /// The code of the questions' language, which names of tasks end with.
    pub language: Option<&'a str>,
    /// All questions.
    pub questions: &'a [Question],
    /// Those that were asked.
    pub items: &'a [Item],
    /// The scores of each.
    pub scores: &'a [ItemScore],
    /// The scores of all.
    pub summary: &'a Summary,
    /// Tokens that the model reads at most.
    pub max_length: usize,
}

impl HarnessFiles<'_> {
    /// The name of the file of results.
    pub fn results_name() -> String {
        format!("results_{NO_DATE}.json")
    }

    /// The name of a task's file of samples.
    pub fn samples_name(task: &str) -> String {
        format!("samples_{task}_{NO_DATE}.jsonl")
    }

    /// The tasks, with the places of their items.
    pub fn tasks(&self) -> BTreeMap<String, Vec<usize>> {
        let mut tasks: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (place, score) in self.scores.iter().enumerate() {
            let name = match &score.subject {
                Some(subject) if self.setting.is_by_subject() => format!("mmlu_{subject}"),
                _ => self.name(),
            };
            tasks.entry(name).or_default().push(place);
        }
        tasks
    }

    /// What the harness calls the task, or the group of tasks.
    fn name(&self) -> String {
        let name = match (self.setting.protocol, self.setting.task) {
            (Protocol::Harness(Edition::Original), Task::Arc) => return "arc_challenge".to_owned(),
            (Protocol::Harness(Edition::Original), Task::HellaSwag) => {
                return "hellaswag".to_owned();
            }
            (Protocol::Harness(Edition::Original), Task::Mmlu) => return "mmlu".to_owned(),
            (_, Task::Arc) => "arc",
            (_, Task::HellaSwag) => "hellaswag",
            (Protocol::Harness(_), Task::Mmlu) => "m_mmlu",
            (Protocol::Authors, Task::Mmlu) => "mmlu",
        };
        self.language.map_or(name.to_owned(), |language| format!("{name}_{language}"))
    }

    /// The version that the harness gives its tasks.
    fn version(&self) -> f64 {
        match (self.setting.protocol, self.setting.task) {
            (Protocol::Harness(Edition::Translated), Task::Arc) => 2.0,
            (Protocol::Harness(Edition::Translated), Task::Mmlu)
            | (Protocol::Authors, Task::Arc | Task::Mmlu) => 0.0,
            _ => 1.0,
        }
    }

    /// The metrics that the harness reports of the task.
    fn metrics(&self) -> &'static [&'static str] {
        match (self.setting.protocol, self.setting.task) {
            (Protocol::Harness(_), Task::Mmlu) => &["acc"],
            _ => &["acc", "acc_norm"],
        }
    }

    /// The scores of a task or group.
    fn scored(&self, name: &str, alias: &str, scores: [Score; 2]) -> Value {
        let mut found = json!({ "name": name, "alias": alias, "sample_len": scores[0].n });
        for (metric, score) in self.metrics().iter().zip(scores) {
            let error = score.standard_error.map_or(json!("N/A"), |error| json!(error));
            found[format!("{metric},none")] = json!(score.value);
            found[format!("{metric}_stderr,none")] = error;
        }
        found
    }

    /// The document of results.
    pub fn results(&self) -> Value {
        let Summary { acc, acc_norm, subjects } = self.summary;
        let (group, is_group) = (self.name(), self.setting.is_by_subject());
        let tasks = self.tasks();
        let mut results = Map::new();
        for task in tasks.keys() {
            let subject = task.strip_prefix("mmlu_").filter(|_| is_group);
            let (alias, scores) = match subject {
                Some(subject) => (subject, subjects[subject]),
                None => (task.as_str(), [*acc, *acc_norm]),
            };
            results.insert(task.clone(), self.scored(task, alias, scores));
        }
        let mut groups = Map::new();
        let mut group_subtasks = Map::new();
        if is_group {
            let mut scored = self.scored(&group, &group, [*acc, *acc_norm]);
            scored["sample_count"] = json!({ "acc,none": acc.n });
            results.insert(group.clone(), scored.clone());
            groups.insert(group.clone(), scored);
            group_subtasks.insert(group.clone(), json!(tasks.keys().collect::<Vec<_>>()));
        }
        let each = |value: &dyn Fn(&str, &[usize]) -> Value| -> Map<String, Value> {
            tasks.iter().map(|(task, items)| (task.clone(), value(task, items))).collect()
        };
        let with_group = |value: &dyn Fn(&str) -> Value| -> Map<String, Value> {
            let mut all = each(&|task, _| value(task));
            if is_group {
                all.insert(group.clone(), value(&group));
            }
            all
        };
        let Setting { shots, limit, seed, .. } = *self.setting;
        let higher: Map<String, Value> =
            self.metrics().iter().map(|metric| ((*metric).to_owned(), json!(true))).collect();
        let hashes = |_: &str, items: &[usize]| {
            let all: String = items.iter().flat_map(|item| self.hashes(*item)).collect();
            json!(hash(&all))
        };
        let config = |task: &str, _: &[usize]| {
            json!({
                "task": task,
                "num_fewshot": shots,
                "output_type": "multiple_choice",
                "target_delimiter": " ",
                "fewshot_delimiter": "\n\n",
                "repeats": 1,
                "metadata": { "version": self.version() },
            })
        };
        let mut document = json!({
            "results": results,
            "group_subtasks": group_subtasks,
            "configs": each(&config),
            "versions": with_group(&|name| match is_group && name == group {
                true => json!("2"),
                false => json!(self.version()),
            }),
            "n-shot": with_group(&|_| json!(shots)),
            "higher_is_better": with_group(&|_| json!(higher)),
            "n-samples": each(&|task, items| {
                json!({ "original": self.original(task), "effective": items.len() })
            }),
            "config": { "model": "okapi", "limit": limit, "fewshot_seed": seed },
            "max_length": self.max_length,
            "task_hashes": each(&hashes),
        });
        if is_group {
            document["groups"] = json!(groups);
        }
        document
    }

    /// Questions of a task, those that were not asked among them.
    fn original(&self, task: &str) -> usize {
        let is_of = |question: &&Question| match &question.subject {
            Some(subject) if self.setting.is_by_subject() => {
                task.strip_prefix("mmlu_") == Some(subject)
            }
            _ => true,
        };
        self.questions.iter().filter(is_of).count()
    }

    /// The question as it came, as it was put, and its answer as the task names it.
    fn doc(&self, item: usize) -> (Value, String) {
        let Item { number, context, preface, choices, gold, .. } = &self.items[item];
        let question = &self.questions[*number];
        let mut doc = serde_json::to_value(question).unwrap_or_default();
        let has_letters = (self.setting.protocol, self.setting.task)
            == (Protocol::Harness(Edition::Translated), Task::Mmlu);
        if self.setting.task != Task::Mmlu {
            doc["query"] = json!(context[*preface..]);
            doc["choices"] = json!(choices);
            doc["gold"] = json!(gold);
        }
        let target = match choices.get(*gold) {
            Some(letter) if has_letters => letter.clone(),
            _ => gold.to_string(),
        };
        (doc, target)
    }

    /// Digests of the question, of the prompt and of the answer.
    fn hashes(&self, item: usize) -> [String; 3] {
        let (doc, target) = self.doc(item);
        let doc = serde_json::to_string_pretty(&doc).unwrap_or_default();
        [hash(&doc), hash(&self.items[item].context), hash(&target)]
    }

    /// The row of an item.
    pub fn sample(&self, doc_id: usize, item: usize) -> Value {
        let (doc, target) = self.doc(item);
        let [doc_hash, prompt_hash, target_hash] = self.hashes(item);
        let Item { context, .. } = &self.items[item];
        let continuations = self.items[item].continuations().enumerate();
        let arguments: Map<String, Value> = continuations
            .map(|(place, continuation)| {
                let argument = json!({ "arg_0": context, "arg_1": continuation });
                (format!("gen_args_{place}"), argument)
            })
            .collect();
        let score = &self.scores[item];
        let answer = |choice: &ChoiceScore| {
            let is_greedy = if choice.is_greedy { "True" } else { "False" };
            [format!("{:?}", choice.log_likelihood), is_greedy.to_owned()]
        };
        let answers: Vec<[String; 2]> = score.choices.iter().map(answer).collect();
        let mut sample = json!({
            "doc_id": doc_id,
            "doc": doc,
            "target": target,
            "arguments": arguments,
            "resps": answers.iter().map(|answer| [answer]).collect::<Vec<_>>(),
            "filtered_resps": answers,
            "filter": "none",
            "metrics": self.metrics(),
            "doc_hash": doc_hash,
            "prompt_hash": prompt_hash,
            "target_hash": target_hash,
        });
        let right = [score.predicted == score.gold, score.predicted_norm == score.gold];
        for (metric, is_right) in self.metrics().iter().zip(right) {
            sample[*metric] = json!(f64::from(u8::from(is_right)));
        }
        sample
    }
}

fn hash(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

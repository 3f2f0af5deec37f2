//! `release`: a model as a folder that the Hugging Face hub takes, with a card that says what it was made of.

use std::fmt::Write as _;
use std::path::Path;

use okapi_engine::lineage::{Lineage, LineageScope};
use okapi_engine::port::{Accepts, PortKind};
use okapi_engine::stage::{
    Determinism, InputPort, Inputs, OutputKind, OutputPort, Outputs, Param, ParamDefault,
    ParamType, Stage, StageDescriptor,
};
use okapi_engine::stage_context::{InputPath, StageContext, StageError, StageSuccess};
use serde_json::{Value, json};

use crate::card::{self, CARD, one_line};
use crate::report_rows::{OneShare, Summary, items, summary};

/// The stage.
pub(crate) struct Release;

const DOCUMENTATION: &str = "\
Puts a model, its adapter or a reward model into a folder as the Hugging Face hub has them: its files as they are, and a new
README.md, the card, with what the hub reads of it (languages, license, base model, data sets, results) and what a
person wants to know: how it was trained, how it did at benchmarks, and every node that had a part in it, with the digest of
its action.

    release:
      for_each: {lang: [de, vi]}
      stage: release
      inputs: {model: \"rlhf:model\", scores: [\"arc[method=rlhf]:summary\"]}
      params:
        title: An assistant in ${each.lang}
        languages: [\"${each.lang}\"]
        base_model: bigscience/bloom-7b1
        license: bigscience-bloom-rail-1.0

`scores` are summaries from `evaluate`. That they are of this model, the pipeline has to see to: they stand in the card as they
come. As the card names actions, the folder is made anew when an action above it changes, even where the model stays.

Upload it with `hf upload OWNER/NAME FOLDER`.";

static PARAMS: [Param; 7] = [
    card::required_text("title", "what the model is called"),
    card::text("summary", "a few sentences below the title"),
    card::text("license", "the license, as the hub names it: `apache-2.0`"),
    card::texts("languages", "codes of the languages it is for"),
    card::text("base_model", "the model of the hub that it was made from, `OWNER/NAME`"),
    card::texts("datasets", "data sets of the hub that it was made from, `OWNER/NAME`"),
    Param {
        name: "adapter",
        ty: ParamType::Bool,
        default: ParamDefault::Value("false"),
        identity: true,
        help: "the adapter alone, of a model that was tuned with LoRA; needs `base_model` to be of use",
    },
];

static DESCRIPTOR: StageDescriptor = StageDescriptor {
    name: "release",
    version: 1,
    summary: "puts a model into a folder that the Hugging Face hub takes, with a card",
    documentation: DOCUMENTATION,
    inputs: Inputs::Fixed(&[
        InputPort {
            name: "model",
            accepts: Accepts::Kinds(&[PortKind::Model, PortKind::RewardModel]),
            required: true,
            gathers: false,
            help: "the model",
        },
        InputPort {
            name: "scores",
            accepts: Accepts::Kinds(&[PortKind::Scores]),
            required: false,
            gathers: true,
            help: "how it did: summaries, from `evaluate`",
        },
    ]),
    outputs: Outputs::Fixed(&[OutputPort {
        name: "folder",
        kind: OutputKind::Fixed(PortKind::Tree),
        help: "the folder",
    }]),
    params: &PARAMS,
    prompts: &[],
    fields: &[],
    determinism: Determinism::Bytes,
};

impl Stage for Release {
    fn descriptor(&self) -> &'static StageDescriptor {
        &DESCRIPTOR
    }

    fn lineage(&self, _: &Value) -> LineageScope {
        LineageScope::Actions
    }

    fn run(&self, context: &mut StageContext<'_>) -> Result<StageSuccess, StageError> {
        let lineage = card::lineage_of(context)?;
        let InputPath::Single(model) = &context.inputs["model"] else {
            return Err(StageError::failed("`model` takes one model"));
        };
        let folder = context.outputs["folder"].clone();
        let params = &context.declared["params"];
        let is_adapter = params["adapter"].as_bool().unwrap_or(false);
        let from = if is_adapter { model.join("adapter") } else { model.clone() };
        if !from.exists() {
            let message = "the model has no adapter: write `method: lora` in the node that tunes it, or leave `adapter` out";
            return Err(StageError::failed(message));
        }
        copy_folder(&from, &folder, context)?;
        let mut results = Vec::new();
        for item in items(context, lineage, "scores") {
            results.push(summary(&item)?);
        }
        results.sort_by(|one, other| place(one).cmp(&place(other)));
        let text = |name: &str| params.get(name).and_then(Value::as_str);
        let texts = |name: &str| -> Vec<&str> {
            params[name].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
        };
        let card = Card {
            title: text("title").unwrap_or_default(),
            summary: text("summary").unwrap_or_default(),
            license: text("license"),
            languages: texts("languages"),
            base_model: text("base_model"),
            datasets: texts("datasets"),
            is_adapter,
            own: &std::fs::read_to_string(model.join(CARD)).unwrap_or_default(),
            results: &results,
            lineage,
        };
        let path = folder.join(CARD);
        std::fs::write(&path, card.text()).map_err(|source| StageError::Io { path, source })?;
        let mut success = StageSuccess::default();
        success.metrics.insert("scores".to_owned(), results.len() as f64);
        Ok(success)
    }
}

/// Copies all files but the card.
fn copy_folder(from: &Path, to: &Path, context: &StageContext<'_>) -> Result<(), StageError> {
    let failed = |source| StageError::Io { path: from.to_owned(), source };
    std::fs::create_dir_all(to).map_err(failed)?;
    for entry in std::fs::read_dir(from).map_err(failed)? {
        if context.cancel.is_requested() {
            return Err(StageError::Cancelled);
        }
        let entry = entry.map_err(failed)?;
        let target = to.join(entry.file_name());
        if entry.file_type().map_err(failed)?.is_dir() {
            copy_folder(&entry.path(), &target, context)?;
        } else if entry.file_name() != CARD {
            // Bytes alone: what comes out of the store cannot be written to.
            let failed = |source| StageError::Io { path: entry.path(), source };
            let mut source = std::fs::File::open(entry.path()).map_err(failed)?;
            let mut copy = std::fs::File::create(&target).map_err(failed)?;
            std::io::copy(&mut source, &mut copy).map_err(failed)?;
        }
    }
    Ok(())
}

/// Where a result stands among others.
fn place(it: &Summary) -> (&str, Option<&str>, &str, u32) {
    (it.task.key(), it.language.as_deref(), &it.protocol, it.shots)
}

/// The README.md that the hub shows. Nothing in it depends on time or place.
struct Card<'a> {
    title: &'a str,
    summary: &'a str,
    license: Option<&'a str>,
    languages: Vec<&'a str>,
    base_model: Option<&'a str>,
    datasets: Vec<&'a str>,
    is_adapter: bool,
    /// The card that the training wrote.
    own: &'a str,
    results: &'a [Summary],
    lineage: &'a Lineage,
}

impl Card<'_> {
    fn text(&self) -> String {
        let (head, body) = parts(self.own);
        // JSON texts are YAML's too. Writing to a string never fails.
        let mut text = String::from("---\n");
        let library = if self.is_adapter { "peft" } else { "transformers" };
        let _ = writeln!(text, "library_name: {library}");
        if let Some(task) = head.lines().find(|line| line.starts_with("pipeline_tag:")) {
            let _ = writeln!(text, "{task}");
        }
        text.push_str(&card::list("language", self.languages.iter().copied()));
        if let Some(license) = self.license {
            let _ = writeln!(text, "license: {}", Value::from(license));
        }
        if let Some(base) = self.base_model {
            let relation = if self.is_adapter { "adapter" } else { "finetune" };
            let _ = writeln!(text, "base_model: {}", Value::from(base));
            let _ = writeln!(text, "base_model_relation: {relation}");
        }
        text.push_str(&card::list("datasets", self.datasets.iter().copied()));
        let _ = writeln!(text, "tags:\n- okapi");
        if !self.results.is_empty() {
            let results: Vec<Value> = self.results.iter().map(in_index).collect();
            let index = json!([{"name": self.title, "results": results}]);
            let _ = writeln!(text, "model-index: {index}");
        }
        let _ = writeln!(text, "---\n\n# {}\n", one_line(self.title));
        if !self.summary.is_empty() {
            let _ = writeln!(text, "{}\n", self.summary);
        }
        if !body.is_empty() {
            // Its title becomes a section of this one.
            let _ = writeln!(text, "#{}\n", body.trim());
        }
        if !self.results.is_empty() {
            let _ = writeln!(text, "## Evaluation\n");
            let _ =
                writeln!(text, "| benchmark | language | protocol | shots | n | acc | acc_norm |");
            let _ = writeln!(text, "|---|---|---|---:|---:|---:|---:|");
            for it in self.results {
                let language = it.language.as_deref().unwrap_or_default();
                let (task, protocol, shots, n) = (it.task.key(), &it.protocol, it.shots, it.n);
                let (acc, acc_norm) = (percent(&it.scores.acc), percent(&it.scores.acc_norm));
                let cells = format!(
                    "{task} | {language} | {protocol} | {shots} | {n} | {acc} | {acc_norm}"
                );
                let _ = writeln!(text, "| {cells} |");
            }
            text.push('\n');
        }
        text.push_str(&card::provenance(self.lineage));
        text
    }
}

/// The head of a card and what is below it.
fn parts(card: &str) -> (&str, &str) {
    let below = card.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---\n"));
    let (head, body) = below.unwrap_or(("", card));
    (head, body.trim())
}

/// In percent, with the standard error.
fn percent(share: &OneShare) -> String {
    match share.standard_error {
        Some(error) => format!("{:.1} ± {:.1}", 100.0 * share.value, 100.0 * error),
        None => format!("{:.1}", 100.0 * share.value),
    }
}

/// A result as the hub's `model-index` has it.
fn in_index(it: &Summary) -> Value {
    let name = match &it.language {
        Some(language) => format!("{} ({language})", it.task.key()),
        None => it.task.key().to_owned(),
    };
    json!({
        "task": {"type": "text-generation"},
        "dataset": {"name": name, "type": it.task.key(), "args": {"num_few_shot": it.shots, "protocol": it.protocol}},
        "metrics": [
            {"type": "acc", "value": it.scores.acc.value},
            {"type": "acc_norm", "value": it.scores.acc_norm.value},
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_has_what_the_training_said_the_scores_and_the_actions() {
        let lineage = serde_json::from_value(json!({
            "lineage": 1,
            "inputs": {},
            "ancestors": {"sft": {"stage": "sft", "stage_version": 2, "action": "0".repeat(64)}},
        }));
        let results = serde_json::from_value::<Summary>(json!({
            "task": "arc", "language": "de", "protocol": "authors", "shots": 25, "n": 100,
            "scores": {"acc": {"value": 0.25, "standard_error": 0.04}, "acc_norm": {"value": 0.5}},
        }));
        let card = Card {
            title: "An: assistant",
            summary: "",
            license: None,
            languages: vec!["de", "no"],
            base_model: Some("a/b"),
            datasets: Vec::new(),
            is_adapter: true,
            own: "---\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n\n# Supervised\n\nIt answers.\n",
            results: &[results.unwrap()],
            lineage: &lineage.unwrap(),
        };
        let text = card.text();
        let head = "---\nlibrary_name: peft\npipeline_tag: text-generation\nlanguage:\n- \"de\"\n- \"no\"\n\
                    base_model: \"a/b\"\nbase_model_relation: adapter\ntags:\n- okapi\nmodel-index: [{";
        assert!(text.starts_with(head), "{text}");
        assert!(text.contains("\n# An: assistant\n\n## Supervised\n\nIt answers.\n"), "{text}");
        assert!(text.contains("| arc | de | authors | 25 | 100 | 25.0 ± 4.0 | 50.0 |"), "{text}");
        assert!(text.contains(&format!("| sft | sft 2 | `{}` |", "0".repeat(64))), "{text}");
    }
}

//! `evaluate`, with a model and questions whose scores the harness knows.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::sandbox::Sandbox;

const PIPELINE: &str = "
okapi: 1
name: evaluations
nodes:
  model: {stage: import_model, params: {path: model}}
  questions: {stage: import, params: {path: questions.jsonl, kind: questions}}
  examples: {stage: import, params: {path: examples.jsonl, kind: questions}}
  harness:
    stage: evaluate
    inputs: {model: model, questions: questions, examples: examples}
    params: {task: arc, shots: 25, language: de, log_samples: true, tokens_at_once: 2000}
  authors:
    stage: evaluate
    inputs: {model: model, questions: questions, examples: examples}
    params: {task: arc, protocol: authors}
publish:
  results/harness.jsonl: harness:scores
  results/harness.json: harness:summary
  results/lm_eval: harness:lm_eval
  results/authors.json: authors:summary
  results/authors.jsonl: authors:scores
";

fn fixtures() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/eval")
}

fn fixture(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(fixtures().join(name)).unwrap()).unwrap()
}

/// Questions as the translations of ARC are published.
fn published(questions: &Value) -> String {
    let row = |question: &Value| {
        let letter = |place: usize| ["a", "b", "c", "d", "e"][place];
        let choices = question["choices"].as_array().unwrap();
        let options = choices.iter().enumerate();
        let mut row: Map<String, Value> = options
            .map(|(place, choice)| (format!("option_{}", letter(place)), choice.clone()))
            .collect();
        let answer = question["answer"].as_u64().unwrap() as usize;
        row.insert("id".to_owned(), json!(format!("ARC-{}", question["id"].as_str().unwrap())));
        row.insert("instruction".to_owned(), question["question"].clone());
        row.insert("answer".to_owned(), json!(letter(answer).to_uppercase()));
        Value::Object(row).to_string()
    };
    questions.as_array().unwrap().iter().map(|question| row(question) + "\n").collect()
}

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new(PIPELINE);
    let questions = fixture("questions.json");
    sandbox.write("questions.jsonl", &published(&questions["arc/de/test"]));
    sandbox.write("examples.jsonl", &published(&questions["arc/de/train"]));
    let model = sandbox.path("model");
    fs::create_dir(&model).unwrap();
    for file in fs::read_dir(fixtures().join("models/bloom")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), model.join(file.file_name())).unwrap();
    }
    sandbox
}

/// What a fixture says of the run with these questions.
fn expected(name: &str) -> Value {
    let fixture = fixture(name);
    let runs = fixture["runs"].as_array().unwrap();
    runs.iter().find(|run| run["questions"] == "arc/de/test").unwrap().clone()
}

#[test]
fn a_model_gets_the_scores_that_the_harness_gives_it() {
    let sandbox = sandbox();
    sandbox.run();
    for protocol in ["harness", "authors"] {
        let expected = expected(&format!("{protocol}.json"));
        let summary: Value =
            serde_json::from_str(&sandbox.read(&format!("results/{protocol}.json"))).unwrap();
        assert_eq!((&summary["protocol"], &summary["shots"]), (&protocol.into(), &25.into()));
        assert_eq!((&summary["n"], &summary["max_length"]), (&30.into(), &512.into()));
        assert!(summary["cut"].as_u64().unwrap() > 20, "{summary}");
        assert_eq!(summary["language"].as_str(), (protocol == "harness").then_some("de"));
        for metric in ["acc", "acc_norm"] {
            let results = &expected["models"]["bloom"]["results"];
            let printed = |value: &Value| format!("{:.4}", value.as_f64().unwrap());
            let score = &summary["scores"][metric];
            assert_eq!(printed(&score["value"]), printed(&results[metric]));
            let error = &results[format!("{metric}_stderr")];
            assert_eq!(printed(&score["standard_error"]), printed(error));
        }
        let scores = sandbox.read(&format!("results/{protocol}.jsonl"));
        let rows: Vec<Value> =
            scores.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let numbers: Vec<&Value> = rows.iter().map(|row| &row["number"]).collect();
        assert_eq!(json!(numbers), expected["numbers"]);
    }
    let results = sandbox.read("results/lm_eval/results_1970-01-01T00-00-00.000000.json");
    let results: Value = serde_json::from_str(&results).unwrap();
    assert_eq!(results["n-samples"]["arc_de"], json!({ "effective": 30, "original": 30 }));
    let samples = sandbox.read("results/lm_eval/samples_arc_de_1970-01-01T00-00-00.000000.jsonl");
    assert_eq!(samples.lines().count(), 30);
}

#[test]
fn an_evaluation_that_was_stopped_ends_with_the_same_bytes() {
    let sandbox = sandbox();
    sandbox.run();
    let expected = sandbox.read("results/harness.jsonl");
    // How many tokens at once is no part of what comes out.
    sandbox.edit("p.yaml", "tokens_at_once: 2000", "tokens_at_once: 100");
    assert!(sandbox.run().is_empty());
    sandbox.edit("p.yaml", "shots: 25", "max_length: 512, shots: 25");
    let mut kills = 0;
    for _ in 0..4 {
        let mut run = sandbox.start(&["run", "p.yaml", "-q"]);
        std::thread::sleep(Duration::from_millis(120));
        run.kill().unwrap();
        // One that goes on from those before may have come to its end.
        kills += u32::from(!run.wait().unwrap().success());
    }
    assert!(kills > 0, "nothing was stopped");
    sandbox.run();
    assert_eq!(sandbox.read("results/harness.jsonl"), expected);
}

#[test]
fn what_is_missing_is_said() {
    let sandbox = sandbox();
    sandbox.edit(
        "p.yaml",
        ", examples: examples}\n    params: {task: arc, protocol",
        "}\n    params: {task: arc, protocol",
    );
    let said = sandbox.okapi(&["run", "p.yaml", "authors"]);
    assert_eq!(said.code, Some(1));
    for words in ["25 examples before each question are asked for", "give the training split"] {
        assert!(said.stderr.contains(words), "{}", said.stderr);
    }
}

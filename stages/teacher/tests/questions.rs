//! The questions that pipelines ask are those that the world gives.

use std::path::Path;

use okapi_data::Task;
use okapi_teacher::offline::{facts, questions};
use serde_json::Value;

#[test]
fn the_files_of_questions_and_facts_are_up_to_date() {
    let written = |name: &str| -> Vec<Value> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../pipelines/okapi/questions");
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let hint = "cargo run -p okapi-teacher --example questions -- pipelines/okapi/questions";
    for (name, task) in [("arc", Task::Arc), ("hellaswag", Task::HellaSwag), ("mmlu", Task::Mmlu)] {
        let (examples, test) = questions(task, 50, 100).unwrap();
        assert_eq!(written(&format!("{name}_train.jsonl")), examples, "run {hint}");
        assert_eq!(written(&format!("{name}_test.jsonl")), test, "run {hint}");
    }
    assert_eq!(written("facts.jsonl"), facts().unwrap(), "run {hint}");
}

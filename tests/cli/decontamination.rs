//! `decontaminate`, as a user runs it.

use crate::sandbox::Sandbox;

const PIPELINE: &str = r#"
okapi: 1
name: clean
nodes:
  rows: {stage: import, params: {path: rows.jsonl, kind: instructions}}
  arc: {stage: import, params: {path: arc.jsonl, kind: questions}}
  mmlu: {stage: import, params: {path: mmlu.jsonl, kind: questions}}
  clean: {stage: decontaminate, inputs: {data: rows, questions: [arc, mmlu]}}
"#;

#[test]
fn rows_that_hold_a_question_are_set_aside_with_the_question() {
    let sandbox = Sandbox::new(PIPELINE);
    let rows = [
        r#"{"id": "a", "instruction": "Say it briefly. What is the capital of Peru? Thanks.", "output": "Lima"}"#,
        r#"{"id": "b", "instruction": "Name the capital. Country: Peru.", "output": "Lima"}"#,
        r#"{"id": "c", "instruction": "What is the opposite of the word", "input": "“cold”?", "output": "hot"}"#,
        r#"{"id": "d", "instruction": "Ask me something.", "output": "what is the CAPITAL of peru"}"#,
    ];
    sandbox.write("rows.jsonl", &rows.join("\n"));
    let arc = r#"{"id": "ARC-1", "question": "What is the capital of Peru?", "choices": ["Lima", "Rome"], "answerKey": "A"}"#;
    sandbox.write("arc.jsonl", arc);
    let mmlu = r#"{"id": "word/7", "question": "What is the opposite of the word “cold”?", "choices": ["hot", "wet", "big", "old"], "answer": 0}"#;
    sandbox.write("mmlu.jsonl", mmlu);
    sandbox.run();
    let rows = |port: &str| -> Vec<serde_json::Value> {
        let said = sandbox.okapi(&["get", "p.yaml", port, "out.jsonl", "--overwrite"]);
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        sandbox.read("out.jsonl").lines().map(|it| serde_json::from_str(it).unwrap()).collect()
    };
    let kept = rows("clean:data");
    assert!(kept.len() == 1 && kept[0]["id"] == "b", "{kept:?}");
    let rejects = rows("clean:rejects");
    let found: Vec<_> = rejects.iter().map(|it| (&it["id"], &it["neighbour"])).collect();
    let expected = serde_json::json!([["a", "ARC-1"], ["c", "word/7"], ["d", "ARC-1"]]);
    assert_eq!(serde_json::json!(found), expected);
    // Two words in a row are in every row here.
    sandbox.edit(
        "p.yaml",
        "[arc, mmlu]}",
        "[arc, mmlu]}, params: {words: 2, max_reject_rate: 0.5}",
    );
    let said = sandbox.okapi(&["run", "p.yaml"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("4 of 4 rows were set aside (4 benchmark)"), "{}", said.stderr);
}

#[test]
fn open_ended_prompts_are_looked_for_too() {
    let from = "questions: [arc, mmlu]";
    let sandbox = Sandbox::new(
        &PIPELINE
            .replace(from, "prompts: mmlu")
            .replace("arc.jsonl, kind: questions", "rows.jsonl")
            .replace("kind: questions", "kind: prompts"),
    );
    sandbox.write(
        "rows.jsonl",
        "{\"instruction\": \"What is your name, please?\", \"output\": \"Kim\"}\n{\"instruction\": \"Who are you?\", \"output\": \"Kim\"}\n",
    );
    sandbox.write("mmlu.jsonl", "{\"id\": \"p\", \"prompt\": \"What is your name?\"}\n");
    sandbox.run();
    let said = sandbox.okapi(&["get", "p.yaml", "clean:data", "out.jsonl"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let kept = sandbox.read("out.jsonl");
    assert!(kept.lines().count() == 1 && kept.contains("Who are you?"), "{kept}");

    sandbox.edit("p.yaml", ", prompts: mmlu", "");
    let said = sandbox.okapi(&["check", "p.yaml"]);
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("give `questions` or `prompts`, or both"), "{}", said.stderr);
}

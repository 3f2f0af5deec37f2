//! `import` of rows, as the field publishes them.

use serde_json::{Value, json};

use crate::sandbox::Sandbox;

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/fixtures/import/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn sandbox(params: &str) -> Sandbox {
    let sandbox = Sandbox::new(&format!(
        "okapi: 1\nname: rows\nnodes:\n  rows: {{stage: import, params: {{{params}}}}}\n"
    ));
    for name in ["arc.parquet", "mmlu.parquet", "alpaca.parquet"] {
        std::fs::write(sandbox.path(name), fixture(name)).unwrap();
    }
    sandbox
}

fn rows(sandbox: &Sandbox) -> Vec<Value> {
    sandbox.run();
    let said = sandbox.okapi(&["get", "p.yaml", "rows", "out.jsonl", "--overwrite"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    sandbox.read("out.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn parquet_files_of_the_hub_become_rows() {
    let arc = rows(&sandbox("path: arc.parquet, kind: questions"));
    assert_eq!(arc.len(), 2);
    assert_eq!(
        arc[1],
        json!({"id": "own_2", "task": "arc", "question": "What falls from clouds?",
            "choices": ["sand", "wood", "rain"], "answer": 2})
    );
    let mmlu = rows(&sandbox("path: mmlu.parquet, kind: questions"));
    assert_eq!(mmlu[1]["question"], "Welche Farbe hat Schnee? „weiß“?");
    assert_eq!((&mmlu[1]["answer"], &mmlu[1]["task"]), (&json!(1), &json!("mmlu")));
    let alpaca = rows(&sandbox("path: alpaca.parquet, kind: instructions"));
    assert_eq!(alpaca.len(), 3000);
    assert_eq!(
        alpaca[2998],
        json!({"id": "2998", "instruction": "Write the number 2998.", "input": "in digits",
            "output": "2998"})
    );
}

#[test]
fn a_row_that_does_not_fit_is_named_and_can_be_converted() {
    let sandbox = sandbox("path: data.json, kind: instructions");
    sandbox.write(
        "data.json",
        r#"[{"instruction": "a", "output": "b"}, {"instruction": "c", "output": 7}]"#,
    );
    let said = sandbox.okapi(&["run", "p.yaml"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("row 2, field `output`"), "{}", said.stderr);
    assert!(said.stderr.contains("convert: true"), "{}", said.stderr);
    sandbox.edit("p.yaml", "kind: instructions", "kind: instructions, convert: true");
    assert_eq!(rows(&sandbox)[1]["output"], "7");
}

#[test]
fn params_that_cannot_work_are_found_before_anything_runs() {
    for (params, expected) in [
        ("path: data.bin, kind: prompts", "say which one by `format`"),
        ("path: data.json, kind: prompts, fields: {question: q}", "none of id, instruction, input"),
        ("path: data.json, kind: file, fields: {text: t}", "`fields` is for rows"),
        ("path: data.json, kind: text, format: json", "`format` is for rows"),
    ] {
        let sandbox = sandbox(params);
        sandbox.write("data.json", "[]");
        sandbox.write("data.bin", "");
        let said = sandbox.okapi(&["check", "p.yaml"]);
        assert_eq!(said.code, Some(2), "{params}");
        assert!(said.stderr.contains(expected), "{params}: {}", said.stderr);
    }
}

#[test]
fn texts_are_taken_from_rows_where_a_field_is_named() {
    let sandbox = sandbox("path: data.jsonl, kind: text, fields: {text: doc.body}");
    sandbox
        .write("data.jsonl", "{\"doc\": {\"body\": \"one\\n\"}}\n{\"doc\": {\"body\": \"two\"}}\n");
    sandbox.run();
    assert_eq!(sandbox.okapi(&["show", "p.yaml", "rows"]).stdout, "one\n\ntwo\n\n");
}

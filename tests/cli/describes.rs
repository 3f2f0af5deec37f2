//! `describe`, over the instances of a node.

use serde_json::{Value, json};

use crate::sandbox::Sandbox;

const PIPELINE: &str = r#"
okapi: 1
name: describes
vars: {languages: [en, de]}
nodes:
  rows:
    for_each: {lang: "${vars.languages}"}
    stage: import
    params: {path: "${each.lang}.jsonl", kind: instructions}
  words: {stage: import, params: {path: tokenizer, kind: tree}}
  all: {stage: describe, inputs: {data: rows, tokenizer: words}}
  german: {stage: describe, inputs: {data: "rows[lang=de]"}, params: {root_verbs: false}}
"#;

/// Words between spaces, of which all but three are unknown; texts would be cut to two tokens, and
/// special ones put around them.
fn tokenizer() -> Value {
    json!({
        "version": "1.0",
        "truncation": {
            "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0
        },
        "padding": null,
        "added_tokens": [
            {"id": 1, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true}
        ],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}
            ],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}
        },
        "decoder": null,
        "model": {
            "type": "WordLevel",
            "vocab": {"<unk>": 0, "<s>": 1, "write": 2, "a": 3, "poem": 4},
            "unk_token": "<unk>"
        }
    })
}

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new(PIPELINE);
    sandbox.write("tokenizer/tokenizer.json", &tokenizer().to_string());
    let rows = |rows: &[(&str, &str, &str)]| -> String {
        rows.iter()
            .map(|(instruction, input, output)| {
                let row = json!({"instruction": instruction, "input": input, "output": output});
                format!("{row}\n")
            })
            .collect()
    };
    sandbox.write(
        "en.jsonl",
        &rows(&[
            ("Write a poem.", "", "Roses, violets."),
            ("Please write two short poems about", "the sea", "Waves."),
            ("Name a river.", "", "Elbe"),
            ("Why?", "", "So."),
        ]),
    );
    sandbox.write("de.jsonl", &rows(&[("Schreib ein Gedicht.", "über Käse", "Käse!")]));
    sandbox
}

fn statistics(sandbox: &Sandbox, node: &str) -> Value {
    let said = sandbox.okapi(&["get", "p.yaml", node, "out.json", "--overwrite"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    serde_json::from_str(&sandbox.read("out.json")).unwrap()
}

#[test]
fn each_language_is_described_under_its_key() {
    let sandbox = sandbox();
    sandbox.run();
    let all = statistics(&sandbox, "all");
    assert_eq!(all["version"], 1);
    let english = &all["sets"]["lang=en"];
    assert_eq!(english["rows"], 4);
    // Marks are tokens of their own: 4, 8, 4 and 2. No text is cut, no special token is put before.
    assert_eq!(english["prompt"]["tokens"], json!({"mean": 4.5, "median": 4, "p95": 8, "max": 8}));
    assert_eq!(english["prompt"]["words"]["max"], 8);
    assert_eq!(english["response"]["tokens"]["max"], 4);
    assert_eq!(
        english["root_verbs"],
        json!({
            "with_verb": 3, "with_object": 3, "covered_share": 0.75,
            "verbs": [
                {"verb": "write", "count": 2, "objects": [{"object": "poem", "count": 2}]},
                {"verb": "name", "count": 1, "objects": [{"object": "river", "count": 1}]},
            ],
        })
    );
    let german = &all["sets"]["lang=de"];
    assert!(german.get("root_verbs").is_none());
    let prompt = &german["prompt"];
    assert_eq!((&prompt["tokens"]["max"], &prompt["words"]["max"]), (&json!(6), &json!(5)));
    assert_eq!((&prompt["characters"]["max"], &prompt["bytes"]["max"]), (&json!(30), &json!(32)));
    // Without a tokenizer, there are no tokens.
    let single = statistics(&sandbox, "german");
    let mut expected = german.clone();
    for texts in ["prompt", "response"] {
        expected[texts].as_object_mut().unwrap().remove("tokens");
    }
    assert_eq!(single["sets"], json!({"rows[lang=de]": expected}));
}

#[test]
fn a_folder_without_a_tokenizer_is_refused() {
    let sandbox = sandbox();
    std::fs::rename(sandbox.path("tokenizer/tokenizer.json"), sandbox.path("tokenizer/vocab.txt"))
        .unwrap();
    let said = sandbox.okapi(&["run", "p.yaml"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("has no tokenizer.json"), "{}", said.stderr);
    sandbox.write("tokenizer/tokenizer.json", "{}");
    let said = sandbox.okapi(&["run", "p.yaml"]);
    assert!(said.stderr.contains("tokenizer.json cannot be read"), "{}", said.stderr);
}

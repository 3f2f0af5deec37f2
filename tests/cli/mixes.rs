//! `mix`, over the instances of a node.

use std::collections::BTreeSet;

use crate::sandbox::Sandbox;

const PIPELINE: &str = r#"
okapi: 1
name: mixes
vars: {languages: [de, "no", ru]}
nodes:
  rows:
    for_each: {lang: "${vars.languages}"}
    stage: import
    params: {path: "${each.lang}.jsonl", kind: instructions}
  train: {stage: mix, seed: 7, inputs: {data: rows}, params: {by: id, share: 0.8, order: shuffled}}
  check: {stage: command, inputs: {train: "train:data", valid: "train:rest"}, run: 'cat "$OKAPI_INPUT_TRAIN" "$OKAPI_INPUT_VALID" | wc -l > "$OKAPI_OUTPUT_N"', outputs: {n: text}}
"#;

fn ids(sandbox: &Sandbox, port: &str) -> BTreeSet<String> {
    let said = sandbox.okapi(&["get", "p.yaml", port, "out.jsonl", "--overwrite"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let text = sandbox.read("out.jsonl");
    let rows = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    rows.map(|row| row["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_split_keeps_translations_together_and_an_added_row_moves_no_other() {
    let sandbox = Sandbox::new(PIPELINE);
    let rows = |lang: &str, count: u32| -> String {
        (0..count)
            .map(|row| format!("{{\"instruction\": \"{lang} {row}\", \"output\": \"x\"}}\n"))
            .collect()
    };
    for lang in ["de", "no", "ru"] {
        sandbox.write(&format!("{lang}.jsonl"), &rows(lang, 20));
    }
    sandbox.run();
    assert_eq!(sandbox.okapi(&["show", "p.yaml", "check"]).stdout.trim(), "60");
    let (train, rest) = (ids(&sandbox, "train:data"), ids(&sandbox, "train:rest"));
    assert_eq!((train.len(), rest.len()), (48, 12));
    let rows_of = |ids: &BTreeSet<String>| -> BTreeSet<String> {
        ids.iter().map(|id| id.rsplit_once('/').unwrap().1.to_owned()).collect()
    };
    assert!(rows_of(&train).is_disjoint(&rows_of(&rest)));
    assert!(train.iter().any(|id| id.starts_with("lang=no/")), "{train:?}");
    // Five more rows of one language: four go to train, and nothing that was there changes sides.
    sandbox.write("de.jsonl", &rows("de", 25));
    sandbox.run();
    let larger = ids(&sandbox, "train:data");
    assert_eq!(rows_of(&larger).len(), 20);
    assert!(larger.intersection(&train).count() >= 36, "{larger:?}");
}

#[test]
fn more_than_there_is_cannot_be_taken() {
    let sandbox = Sandbox::new(&PIPELINE.replace("share: 0.8", "count: 21"));
    for lang in ["de", "no", "ru"] {
        sandbox.write(&format!("{lang}.jsonl"), "{\"instruction\": \"a\", \"output\": \"b\"}\n");
    }
    let said = sandbox.okapi(&["run", "p.yaml"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("21 ids are asked for, and there are 1"), "{}", said.stderr);
    sandbox.edit("p.yaml", "count: 21", "count: 21, share: 0.5");
    let said = sandbox.okapi(&["check", "p.yaml"]);
    assert!(said.stderr.contains("not both"), "{}", said.stderr);
}

//! `dataset`: folders as the Hugging Face hub has them.

use crate::sandbox::Sandbox;

const PIPELINE: &str = r#"
okapi: 1
name: sets
nodes:
  rows:
    for_each: {lang: [de, ta], size: [small, large]}
    stage: import
    params: {path: "${each.lang}.jsonl", kind: instructions}
  english: {stage: import, params: {path: en.jsonl, kind: instructions}}
  one_size: {stage: dataset, inputs: {data: ["rows[size=small]:data", english]}, params: {title: "Of one size"}}
  all: {stage: dataset, inputs: {data: "rows:data"}, params: {title: All, license: cc-by-4.0}}
publish: {results/all: all, results/one: one_size}
"#;

#[test]
fn every_input_is_a_configuration_and_the_card_tells_of_it() {
    let sandbox = Sandbox::new(PIPELINE);
    let row = "{\"instruction\": \"a\", \"output\": \"b\"}\n";
    for (lang, rows) in [("de", 2), ("ta", 3), ("en", 1)] {
        sandbox.write(&format!("{lang}.jsonl"), &row.repeat(rows));
    }
    sandbox.run();
    let card = sandbox.read("results/all/README.md");
    for part in [
        "license: \"cc-by-4.0\"\nlanguage:\n- \"de\"\n- \"ta\"\n",
        "- config_name: \"lang_de_size_small\"\n  data_files: \"data/lang_de_size_small.jsonl\"\n",
        "| lang_ta_size_large | 3 |",
        "| rows[lang=ta,size=large] | import 2 | `",
    ] {
        assert!(card.contains(part), "{part}: {card}");
    }
    assert_eq!(sandbox.read("results/all/data/lang_ta_size_large.jsonl").lines().count(), 3);
    assert_eq!(sandbox.read("results/one/data/english.jsonl").lines().count(), 1);
    assert_eq!(sandbox.read("results/one/data/de.jsonl").lines().count(), 2);
    // The rows stay as they are, and what made them does not: the card says so.
    sandbox.edit("p.yaml", "path: en.jsonl,", "path: en.jsonl, convert: true,");
    let said = sandbox.okapi(&["run", "p.yaml"]);
    assert!(said.stderr.contains("run     one_size"), "{}", said.stderr);
    assert!(!said.stderr.contains("run     all"), "{}", said.stderr);
}

//! `dataset`: folders as the Hugging Face hub has them.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

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

/// That others load the rows with it, tests/croissant/check.py shows.
#[test]
fn a_data_set_is_described_for_programs() {
    let sandbox = Sandbox::new(PIPELINE);
    for (lang, rows) in [("de", 2), ("ta", 3), ("en", 1)] {
        sandbox.write(
            &format!("{lang}.jsonl"),
            &"{\"instruction\": \"ü\", \"output\": \"b\"}\n".repeat(rows),
        );
    }
    sandbox.run();
    let text = sandbox.read("results/one/croissant.json");
    let all: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(all["name"], "Of one size");
    assert_eq!(all["description"], "6 rows in 3 configurations, made by okapi.");
    assert_eq!(all["inLanguage"], json!(["de", "ta"]));
    let makers = ["english", "rows[lang=de,size=small]", "rows[lang=ta,size=small]"];
    let based_on = all["isBasedOn"].as_array().unwrap();
    assert!(based_on.iter().map(|it| &it["name"]).eq(makers), "{based_on:?}");
    let card = sandbox.read("results/one/README.md");
    for made in based_on {
        let action = made["identifier"]["value"].as_str().unwrap();
        assert!(card.contains(&format!("`{action}`")), "{action}: {card}");
    }
    for (name, maker) in [("english", 0), ("de", 1), ("ta", 2)] {
        let path = format!("data/{name}.jsonl");
        let files = all["distribution"].as_array().unwrap();
        let file = files.iter().find(|file| file["contentUrl"] == path).unwrap();
        let content = sandbox.read(&format!("results/one/{path}"));
        assert_eq!(file["sha256"], format!("{:x}", Sha256::digest(&content)));
        assert_eq!(file["contentSize"], format!("{} B", content.len()));
        assert_eq!(file["isBasedOn"]["name"], makers[maker]);
        let sets = all["recordSet"].as_array().unwrap();
        let set = sets.iter().find(|set| set["name"] == name).unwrap();
        let fields: Vec<&Value> =
            set["field"].as_array().unwrap().iter().map(|field| &field["name"]).collect();
        assert_eq!(fields, ["id", "input", "instruction", "output"]);
    }
    // Nothing in it is of its time or place.
    let elsewhere = Sandbox::new(PIPELINE);
    for name in ["de.jsonl", "ta.jsonl", "en.jsonl"] {
        elsewhere.write(name, &sandbox.read(name));
    }
    elsewhere.run();
    assert_eq!(elsewhere.read("results/one/croissant.json"), text);
}

#[test]
fn what_programs_would_not_understand_is_refused_before_the_run() {
    for (param, message) in [
        ("version: v2", "`version` must be three numbers such as 1.0.0, not `v2`"),
        ("date_published: May", "`date_published` must be a day such as 2026-01-31, not `May`"),
        ("url: example.org", "`url` must begin with `https://` or `http://`, not `example.org`"),
    ] {
        let sandbox =
            Sandbox::new(&PIPELINE.replace("title: All", &format!("title: All, {param}")));
        let said = sandbox.okapi(&["check", "p.yaml"]);
        assert_eq!(said.code, Some(2), "{}", said.stderr);
        assert!(said.stderr.contains(message), "{}", said.stderr);
    }
}

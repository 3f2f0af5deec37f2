//! `runs`, `log` and `diff`: what past runs left.

use std::fs;

use crate::sandbox::{Said, Sandbox};

const PIPELINE: &str = r#"
okapi: 1
name: history
vars: {sign: "+"}
nodes:
  each:
    for_each: {n: [1, 2]}
    stage: command
    prompts: {text: prompt.txt}
    run: 'echo "${vars.sign}${each.n}" > "$OKAPI_OUTPUT_O"; echo said ${each.n}'
    outputs: {o: text}
  sum:
    stage: command
    inputs: {all: each}
    run: 'cat "$OKAPI_INPUT_ALL"/* > "$OKAPI_OUTPUT_O"'
    outputs: {o: text}
"#;

fn project() -> Sandbox {
    let sandbox = Sandbox::new(PIPELINE);
    sandbox.write("prompt.txt", "first\nsecond\n");
    sandbox.run();
    sandbox
}

fn ids(sandbox: &Sandbox) -> Vec<String> {
    let runs = sandbox.okapi(&["runs", "--json", "-n", "0"]).json();
    let runs = runs["runs"].as_array().unwrap();
    runs.iter().map(|run| run["id"].as_str().unwrap().to_owned()).collect()
}

fn refused(said: &Said, expected: &str) {
    assert_eq!(said.code, Some(2), "{}{}", said.stdout, said.stderr);
    assert!(said.stderr.contains(expected), "no `{expected}` in {}", said.stderr);
}

#[test]
fn runs_are_named_by_id_by_its_beginning_and_by_age() {
    let sandbox = project();
    sandbox.run();
    let [newest, oldest] = &ids(&sandbox)[..] else { panic!("two runs") };
    let log = |run: &str| sandbox.okapi(&["log", run, "--json"]);
    let begins_with = |said: Said, id: &str| {
        let first = said.events().remove(0);
        assert_eq!(first["version"], 1, "{first}");
        assert_eq!((&first["event"], &first["run"]), (&"run_started".into(), &id.into()));
    };
    begins_with(log("last"), newest);
    begins_with(log("last~1"), oldest);
    begins_with(log(oldest), oldest);
    begins_with(log(&oldest[..oldest.len() - 1]), oldest);
    let shared: String = newest
        .chars()
        .zip(oldest.chars())
        .take_while(|(a, b)| a == b)
        .map(|(character, _)| character)
        .collect();
    refused(&log(&shared), "begins the ids of 2 runs");
    refused(&log("last~2"), "the store holds 2 runs");
    refused(&log("last~x"), "names no run");
    refused(&log("latest"), "no run");
}

#[test]
fn a_log_reads_as_the_run_did() {
    let sandbox = project();
    let said = sandbox.okapi(&["log"]);
    assert!(said.stdout.contains("done    sum  [3/3]"), "{}", said.stdout);
    assert!(said.stdout.contains("3 ran, 0 cached, 0 failed"), "{}", said.stdout);
    // A node without a run is a mistake that is easily made.
    refused(&sandbox.okapi(&["log", "sum"]), "okapi log last 'sum'");
    refused(&sandbox.okapi(&["log", "last", "each"]), "'each[n=1]', 'each[n=2]'");
    refused(&sandbox.okapi(&["log", "last", "summ"]), "did you mean 'sum'?");
    sandbox.run();
    let said = sandbox.okapi(&["log", "last", "each[n=2]"]);
    assert_eq!(said.stdout, "said 2\n", "a cached node has the log of the run that made it");
}

#[test]
fn diff_shows_lines_of_texts_and_which_outputs_stayed() {
    let sandbox = project();
    sandbox.write("prompt.txt", "first\nother\n");
    sandbox.run();
    let said = sandbox.okapi(&["diff"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    for expected in [
        "changed  each[n=1]  (its outputs are the same)\n",
        "  prompts.text\n",
        "    -second\n    +other\n",
        "nodes that differ: 2 of 3\n",
    ] {
        assert!(said.stdout.contains(expected), "no `{expected}` in {}", said.stdout);
    }
    let json = sandbox.okapi(&["diff", "--json"]).json();
    assert_eq!((&json["version"], &json["same"]), (&1.into(), &1.into()));
    assert_eq!(json["nodes"][0]["same_outputs"], true);
    assert_eq!(json["nodes"][0]["fields"][0]["field"], "prompts.text");
}

#[test]
fn diff_shows_values_and_nodes_that_came_and_went() {
    let sandbox = project();
    sandbox.edit("p.yaml", "n: [1, 2]", "n: [2, 3]");
    sandbox.edit("p.yaml", "sign: \"+\"", "sign: \"-\"");
    sandbox.run();
    let said = sandbox.okapi(&["diff", "last~1", "last"]);
    for expected in ["removed  each[n=1]\n", "changed  each[n=2]\n", "added    each[n=3]\n", " -> "]
    {
        assert!(said.stdout.contains(expected), "no `{expected}` in {}", said.stdout);
    }
    let same = sandbox.okapi(&["diff", "last", "last"]);
    assert!(same.stdout.ends_with("nodes that differ: 0 of 3\n"), "{}", same.stdout);
}

#[test]
fn a_run_says_what_the_cache_saved() {
    let sandbox = Sandbox::new(&PIPELINE.replace("run: '", "run: 'sleep 0.02; "));
    sandbox.write("prompt.txt", "first");
    let said = sandbox.okapi(&["run", "p.yaml"]);
    assert!(!said.stderr.contains("the cache saved"), "nothing was cached: {}", said.stderr);
    let saved = |said: &Said| {
        let (_, saved) = said.stderr.trim_end().split_once("; the cache saved about ").unwrap();
        saved.strip_suffix(" ms").unwrap().parse::<u64>().unwrap()
    };
    let all = saved(&sandbox.okapi(&["run", "p.yaml"]));
    assert!(all >= 60, "{all}");
    // What is found only on the way counts too: `sum` reads the same bytes.
    sandbox.edit("p.yaml", "echo said", "echo  said");
    let said = sandbox.okapi(&["run", "p.yaml"]);
    assert!(said.stderr.contains("2 ran, 1 cached"), "{}", said.stderr);
    let of_sum = saved(&said);
    assert!(of_sum >= 20 && of_sum <= all - 40, "{of_sum} of {all}");
}

#[test]
fn diff_names_the_output_whose_bytes_differ() {
    let sandbox = Sandbox::new(
        r#"
okapi: 1
name: ports
vars: {word: one}
nodes:
  data: {stage: import, params: {path: data.txt}}
  two:
    stage: command
    inputs: {data: data}
    run: 'echo ${vars.word} > "$OKAPI_OUTPUT_CHANGING"; echo stays > "$OKAPI_OUTPUT_SAME"'
    outputs: {same: text, changing: text}
"#,
    );
    sandbox.write("data.txt", "old");
    sandbox.run();
    sandbox.write("data.txt", "newer");
    sandbox.run_with(&["--set", "vars.word=three"]);
    let said = sandbox.okapi(&["diff"]).stdout;
    let outputs: Vec<_> = said.lines().filter(|line| line.starts_with("  output ")).collect();
    assert_eq!(outputs, ["  output data", "  output changing"], "{said}");
    assert!(said.contains(" (3 B) -> ") && said.contains(" (5 B)\n"), "{said}");
    let json = sandbox.okapi(&["diff", "--json"]).json();
    let ports = |node: usize| {
        let outputs = json["nodes"][node]["outputs"].as_array().unwrap();
        outputs.iter().map(|output| output["port"].clone()).collect::<Vec<_>>()
    };
    assert_eq!((ports(0), ports(1)), (vec!["data".into()], vec!["changing".into()]), "{json}");
    assert_eq!(json["nodes"][0]["outputs"][0]["new"]["size"], 5);
}

#[test]
fn a_run_that_was_killed_is_listed_and_cannot_be_compared() {
    let sandbox = project();
    sandbox.run();
    let id = ids(&sandbox).remove(0);
    let record = format!(".okapi/runs/{id}/run.json");
    let mut info: serde_json::Value = serde_json::from_str(&sandbox.read(&record)).unwrap();
    info["end"] = serde_json::Value::Null;
    fs::remove_file(sandbox.path(&record)).unwrap();
    sandbox.write(&record, &info.to_string());
    assert!(sandbox.okapi(&["runs"]).stdout.contains("running, or killed"));
    let said = sandbox.okapi(&["diff"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("did not end"), "{}", said.stderr);
}

#[test]
fn looking_back_makes_no_store() {
    let sandbox = Sandbox::new(PIPELINE);
    for command in ["runs", "log", "diff", "gc"] {
        refused(&sandbox.okapi(&[command]), "there is no store");
    }
    assert!(!sandbox.path(".okapi").exists());
}

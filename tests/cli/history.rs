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
        "changed  each[n=1] and 1 more instance  (their outputs are the same)\n",
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
    assert!(said.contains("  and in what it reads: inputs.data\n"), "{said}");
    let json = sandbox.okapi(&["diff", "--json"]).json();
    let ports = |node: usize| {
        let outputs = json["nodes"][node]["outputs"].as_array().unwrap();
        outputs.iter().map(|output| output["port"].clone()).collect::<Vec<_>>()
    };
    assert_eq!((ports(0), ports(1)), (vec!["data".into()], vec!["changing".into()]), "{json}");
    assert_eq!(json["nodes"][0]["outputs"][0]["new"]["size"], 5);
}

/// Rows of three languages, put together by language, then all of them; a command after each language.
const LEVELS: &str = r#"
okapi: 1
name: levels
vars: {languages: [de, fr, ru], share: 0.5}
nodes:
  rows:
    for_each: {lang: "${vars.languages}"}
    stage: import
    params: {path: "${each.lang}.jsonl", kind: instructions}
  part:
    for_each: {lang: "${vars.languages}"}
    stage: mix
    seed: 7
    inputs: {data: rows}
    params: {share: "${vars.share}"}
  lines:
    for_each: {lang: "${vars.languages}"}
    stage: command
    inputs: {rows: "part:data"}
    run: 'echo at least one > "$OKAPI_OUTPUT_O"'
    outputs: {o: text}
  whole: {stage: mix, inputs: {data: "part:data"}}
  last:
    stage: command
    inputs: {all: "whole:data", lines: lines}
    run: 'wc -l < "$OKAPI_INPUT_ALL" > "$OKAPI_OUTPUT_O"'
    outputs: {o: text}
"#;

fn levels() -> Sandbox {
    let sandbox = Sandbox::new(LEVELS);
    for lang in ["de", "fr", "ru"] {
        let row = |row| format!("{{\"instruction\": \"{lang} {row}\", \"output\": \"x\"}}\n");
        sandbox.write(&format!("{lang}.jsonl"), &(0..8).map(row).collect::<String>());
    }
    sandbox.run();
    sandbox
}

/// What `diff` says after its first line, which names the runs.
fn differs(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let said = sandbox.okapi(&[&["diff"], arguments].concat());
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let (runs, rest) = said.stdout.split_once('\n').unwrap();
    assert!(runs.contains(" -> "), "{runs}");
    rest.to_owned()
}

#[test]
fn diff_says_what_came_out_where_the_runs_part_and_what_follows() {
    let sandbox = levels();
    sandbox.run_with(&["--set", "vars.share=0.75"]);
    // What `whole` counts comes before what it reads from.
    insta::assert_snapshot!(differs(&sandbox, &[]), @r"
    --set: (none) -> vars.share=0.75
    pipeline file: the same

    node           metric  old  new  change
    whole          rows    12   18   +6
    part[lang=de]  rest    4    2    -2
    part[lang=de]  rows    4    6    +2
    part[lang=fr]  rest    4    2    -2
    part[lang=fr]  rows    4    6    +2
    part[lang=ru]  rest    4    2    -2
    part[lang=ru]  rows    4    6    +2

    the runs part in 3 nodes:
    changed  part[lang=de] and 2 more instances
      params.share
        0.5 -> 0.75

    only what they read differs in 5 nodes:
      last
      lines[3 instances]  all have the same outputs: early cutoff ended it there
      whole

    nodes that differ: 8 of 11
    ");
    let json = sandbox.okapi(&["diff", "--json"]).json();
    assert_eq!(json["version"], 1);
    assert_eq!(json["facts"][0]["fact"], "overrides");
    assert_eq!(json["facts"].as_array().unwrap().len(), 1);
    let metric = serde_json::json!({"node": "whole", "metric": "rows", "old": 12.0, "new": 18.0});
    assert_eq!(json["metrics"][0], metric);
    assert_eq!(
        json["first"],
        serde_json::json!(["part[lang=de]", "part[lang=fr]", "part[lang=ru]"])
    );
    let dependants = ["last", "lines[lang=de]", "lines[lang=fr]", "lines[lang=ru]", "whole"];
    assert_eq!(json["dependants"], serde_json::json!(dependants));
    assert_eq!(json["nodes"][1]["node"], "lines[lang=de]");
    assert_eq!(json["nodes"][1]["same_outputs"], true);
    assert_eq!(json["same"], 3);
}

#[test]
fn diff_lists_every_node_with_its_fields_if_asked() {
    let sandbox = levels();
    sandbox.run_with(&["--set", "vars.share=0.75"]);
    let short = differs(&sandbox, &[]);
    let all = differs(&sandbox, &["--all"]);
    for of_all in ["changed  part[lang=fr]\n", "changed  whole\n", "  inputs.data.lang=ru\n"] {
        assert!(all.contains(of_all), "no `{of_all}` in {all}");
        assert!(!short.contains(of_all), "`{of_all}` in {short}");
    }
    assert!(all.contains("changed  lines[lang=ru]  (its outputs are the same)\n"), "{all}");
}

#[test]
fn diff_has_the_metrics_of_nodes_that_came() {
    let sandbox = levels();
    sandbox.write("it.jsonl", "{\"instruction\": \"it 0\", \"output\": \"x\"}\n");
    sandbox.run_with(&["--set", "vars.languages=[de,fr,it,ru]"]);
    let said = differs(&sandbox, &[]);
    for expected in ["rows[lang=it]  rows       (none)  1\n", "added    rows[lang=it]\n"] {
        assert!(said.contains(expected), "no `{expected}` in {said}");
    }
    let json = sandbox.okapi(&["diff", "--json"]).json();
    let came = ["lines[lang=it]", "part[lang=it]", "rows[lang=it]"];
    assert_eq!(json["first"], serde_json::json!(came));
    assert_eq!(json["dependants"], serde_json::json!(["last", "whole"]));
    assert_eq!(json["metrics"].as_array().unwrap().last().unwrap()["old"], serde_json::Value::Null);
}

#[test]
fn diff_says_what_was_asked_of_one_run_only() {
    let sandbox = levels();
    sandbox.edit("p.yaml", "okapi: 1", "okapi: 1\nprofiles: {half: {vars: {share: 0.25}}}");
    sandbox.run_with(&["--profile", "half", "part[lang=de]"]);
    let said = differs(&sandbox, &[]);
    let asked: Vec<_> = said.lines().take_while(|line| !line.is_empty()).collect();
    let expected =
        ["profile: (none) -> half", "targets: (all) -> part[lang=de]", "pipeline file: changed"];
    assert_eq!(asked, expected, "{said}");
    let same = differs(&sandbox, &["last", "last"]);
    assert_eq!(same.lines().next(), Some("pipeline file: the same"));
}

#[test]
fn a_node_that_reads_from_another_place_is_where_the_runs_part() {
    let sandbox = levels();
    sandbox.edit("p.yaml", "inputs: {all: \"whole:data\"", "inputs: {all: \"rows[lang=de]\"");
    sandbox.run();
    // Nothing that it read or reads differs, so it is itself what differs.
    let json = sandbox.okapi(&["diff", "--json"]).json();
    assert_eq!(json["first"], serde_json::json!(["last"]), "{json}");
    assert_eq!(json["dependants"], serde_json::json!([]), "{json}");
    let said = differs(&sandbox, &[]);
    assert!(said.contains("changed  last\n  inputs.all\n"), "{said}");
}

#[test]
fn diff_does_without_results_that_were_collected() {
    let sandbox = levels();
    sandbox.run_with(&["--set", "vars.share=0.75"]);
    // As a collection with a small `--max-size` leaves it: no result at all.
    for log in ["actions.log", "documents.log"] {
        fs::remove_file(sandbox.path(&format!(".okapi/{log}"))).unwrap();
    }
    insta::assert_snapshot!(differs(&sandbox, &[]), @r"
    --set: (none) -> vars.share=0.75
    pipeline file: the same

    what differs is not known, as a result has been collected, in 8 nodes:
      last
      lines[3 instances]
      part[3 instances]
      whole

    nodes that differ: 8 of 11
    ");
}

#[test]
fn a_text_that_several_nodes_have_is_compared_once() {
    let sandbox = Sandbox::new(&format!(
        "{PIPELINE}  too:\n    stage: command\n    prompts: {{text: prompt.txt}}\n    \
         run: 'echo > \"$OKAPI_OUTPUT_O\"'\n    outputs: {{o: text}}\n"
    ));
    sandbox.write("prompt.txt", "first\nsecond\n");
    sandbox.run();
    sandbox.write("prompt.txt", "first\nother\n");
    sandbox.run();
    let said = differs(&sandbox, &[]);
    assert_eq!(said.matches("    +other\n").count(), 1, "{said}");
    let of_the_other =
        "changed  too  (its outputs are the same)\n  prompts.text\n    as in each[n=1]\n";
    assert!(said.contains(of_the_other), "{said}");
    assert_eq!(differs(&sandbox, &["--all"]).matches("    +other\n").count(), 3);
}

#[test]
fn of_many_instances_that_part_in_unlike_values_only_some_are_listed() {
    let pipeline = PIPELINE.replace("n: [1, 2]", "n: [1, 2, 3, 4, 5]");
    let sandbox = Sandbox::new(&pipeline);
    sandbox.write("prompt.txt", "first");
    sandbox.run();
    sandbox.run_with(&["--set", "vars.sign=x"]);
    let said = differs(&sandbox, &[]);
    assert!(said.contains("changed  each[n=3]\n"), "{said}");
    assert!(!said.contains("each[n=4]"), "{said}");
    assert!(said.contains("and 2 more instances of each in run (--all)\n"), "{said}");
    assert!(differs(&sandbox, &["--all"]).contains("changed  each[n=5]\n"));
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

/// The reader of an output that came out otherwise was named, or nobody.
#[test]
fn a_node_that_gives_another_output_each_time_is_where_runs_part() {
    let sandbox = Sandbox::new(
        r#"
okapi: 1
nodes:
  a: {stage: command, run: 'echo a > "$OKAPI_OUTPUT_O"', outputs: {o: text}}
  b: {stage: command, inputs: {x: a}, run: 'od -An -N8 -tx8 /dev/urandom > "$OKAPI_OUTPUT_O"', outputs: {o: text}}
  c: {stage: command, inputs: {x: b}, run: 'cat "$OKAPI_INPUT_X" > "$OKAPI_OUTPUT_O"', outputs: {o: text}}
"#,
    );
    sandbox.run();
    sandbox.run_with(&["--force", "b"]);
    let said = differs(&sandbox, &[]);
    let expected = "pipeline file: the same\n\nthe runs part in 1 node:\nunsteady b  (gave another output for the same action)\n\n\
                    only what they read differs in 1 node:\n  c\n\nnodes that differ: 2 of 3\n";
    assert_eq!(said, expected);
    // Alone, and the other way about; and of one that gives the same again nothing is said.
    sandbox.run_with(&["--force", "b", "b"]);
    sandbox.run_with(&["--force", "a", "a"]);
    assert!(differs(&sandbox, &["last", "last~2"]).contains("unsteady b"));
    assert!(differs(&sandbox, &["last~2", "last~1"]).ends_with("nodes that differ: 1 of 3\n"));
    assert!(differs(&sandbox, &[]).ends_with("nodes that differ: 0 of 3\n"));
}

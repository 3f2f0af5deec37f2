//! Teachers, from seeds to rankings: with the offline teacher, over HTTP, and by batches.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::sandbox::{Said, Sandbox, names};

const PIPELINE: &str = r#"
okapi: 1
vars: {languages: [de, ta, en], skill: 1}
teachers:
  chat: {kind: offline, skill: "${vars.skill}"}
profiles:
  server:
    teachers:
      chat: {kind: openai, model: okapi-offline, base_url: 'http://ADDRESS/v1', input_price: 1, output_price: 2}
  batch:
    teachers:
      chat: {kind: openai, model: okapi-offline, base_url: 'http://ADDRESS/v1', input_price: 1, output_price: 2, mode: batch}
nodes:
  seeds: {stage: import, params: {path: seeds.jsonl, kind: instructions}}
  tasks:
    stage: self_instruct
    inputs: {seeds: seeds}
    prompts: {generate: prompts/self_instruct.j2}
    teacher: chat
    seed: 5
    params: {count: 30}
  translate:
    for_each: {lang: "${vars.languages}"}
    stage: translate
    inputs: {data: "tasks:examples"}
    prompts: {translate: prompts/translate.j2}
    teacher: chat
    params: {language: "${each.lang}"}
  answers:
    for_each: {lang: "${vars.languages}"}
    stage: command
    inputs: {rows: "translate:data"}
    files: [answer.sh]
    run: sh answer.sh < "$OKAPI_INPUT_ROWS" > "$OKAPI_OUTPUT_RESPONSES"
    outputs: {responses: responses}
  rank:
    for_each: {lang: "${vars.languages}"}
    stage: rank
    inputs: {responses: answers}
    prompts: {translate: prompts/rank_translate.j2, rank: prompts/rank.j2}
    teacher: chat
    params: {language: "${each.lang}", second_pass: true}
  languages:
    for_each: {lang: "${vars.languages}"}
    stage: identify_language
    inputs: {responses: answers}
    params: {language: "${each.lang}"}
  judge:
    for_each: {lang: "${vars.languages}"}
    stage: judge
    inputs: {responses: answers, languages: languages}
    prompts: {judge: prompts/judge.j2}
    teacher: chat
"#;

/// Three responses to each row: the answer, the answer with a word too many, and nothing.
const ANSWER: &str = r#"
sed -E 's/^\{"id":"([^"]*)","instruction":"(.*)","input":"","output":"(.*)"\}$/{"id":"\1","instruction":"\2","input":"","responses":["x \3","\3",""]}/'
"#;

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new(PIPELINE);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["self_instruct", "translate", "rank_translate", "rank", "judge"] {
        let path = format!("prompts/{name}.j2");
        sandbox.write(&path, &std::fs::read_to_string(root.join(&path)).unwrap());
    }
    let seeds = root.join("pipelines/okapi/seed_tasks.jsonl");
    sandbox.write("seeds.jsonl", &std::fs::read_to_string(seeds).unwrap());
    sandbox.write("answer.sh", ANSWER);
    sandbox
}

fn run(sandbox: &Sandbox, more: &[&str]) -> Said {
    sandbox.okapi(&[&["run", "p.yaml", "--progress", "json"], more].concat())
}

/// Requests that were paid, and requests answered from records, of each node (its instances together).
fn asked(said: &Said) -> BTreeMap<String, (u64, u64)> {
    let mut asked: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for event in said.events().iter().filter(|event| event["event"] == "node_finished") {
        let node = event["node"].as_str().unwrap().split('[').next().unwrap().to_owned();
        let number = |name: &str| event["spend"][name].as_u64().unwrap_or(0);
        let sums = asked.entry(node).or_default();
        *sums = (sums.0 + number("requests"), sums.1 + number("recorded"));
    }
    asked.retain(|_, sums| *sums != (0, 0));
    asked
}

fn rows(sandbox: &Sandbox, port: &str, more: &[&str]) -> Vec<Value> {
    text(sandbox, port, more).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text(sandbox: &Sandbox, port: &str, more: &[&str]) -> String {
    let said =
        sandbox.okapi(&[&["get", "p.yaml", port, "out.jsonl", "--overwrite"], more].concat());
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    sandbox.read("out.jsonl")
}

/// The outputs that teachers have a part in.
fn outputs(sandbox: &Sandbox, more: &[&str]) -> Vec<String> {
    let ports = [
        "tasks:examples",
        "tasks:rejects",
        "translate[lang=ta]:data",
        "rank[lang=de]:rankings",
        "judge[lang=ta]:scores",
    ];
    ports.iter().map(|port| text(sandbox, port, more)).collect()
}

/// `okapi teacher serve`, until it is dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
}

impl Server {
    pub(crate) fn start(sandbox: &Sandbox, more: &[&str]) -> Server {
        let arguments = [&["teacher", "serve", "--port", "0"], more].concat();
        let mut child = sandbox.command(&arguments).stderr(Stdio::inherit()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let (_, rest) = line.split_once("http://").unwrap();
        let address = rest.split_once("/v1").unwrap().0.to_owned();
        sandbox.edit("p.yaml", "ADDRESS", &address);
        Server { child, address }
    }

    fn get(&self, path: &str) -> Value {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn from_seeds_to_judged_answers_without_a_network() {
    let sandbox = sandbox();
    let said = run(&sandbox, &[]);
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    assert!(sandbox.run().is_empty(), "a second run has nothing to do");

    let tasks = rows(&sandbox, "tasks:examples", &[]);
    assert_eq!(tasks.len(), 30);
    let rules: std::collections::BTreeSet<String> = rows(&sandbox, "tasks:rejects", &[])
        .iter()
        .map(|reject| reject["rule"].as_str().unwrap().to_owned())
        .collect();
    assert!(rules.contains("surplus") && rules.contains("blacklist"), "{rules:?}");
    for lang in ["de", "ta", "en"] {
        let translated = rows(&sandbox, &format!("translate[lang={lang}]:data"), &[]);
        assert_eq!(translated.len(), 30, "{lang}");
        for (before, after) in tasks.iter().zip(&translated) {
            assert_eq!(before["id"], after["id"]);
            assert_eq!(before["instruction"] == after["instruction"], lang == "en", "{after}");
        }
        // The bare answer is best, nothing is worst, in every language.
        for ranking in rows(&sandbox, &format!("rank[lang={lang}]:rankings"), &[]) {
            assert_eq!(ranking["ranks"], serde_json::json!([2, 1, 3]), "{ranking}");
        }
        let scores = rows(&sandbox, &format!("judge[lang={lang}]:scores"), &[]);
        assert_eq!(scores.len(), 90);
        assert!(scores.iter().all(|score| score["response"] != 2 || score["score"] == 0));
    }
}

#[test]
fn an_edited_ranking_prompt_asks_only_the_ranking_turn_again() {
    let sandbox = sandbox();
    let said = run(&sandbox, &[]);
    // Two passes of two turns for 30 rows in two languages; in English only the second turn.
    assert_eq!(asked(&said)["rank"], (2 * 2 * 2 * 30 + 2 * 30, 0));

    sandbox.edit("prompts/rank.j2", "Now rank", "Please rank");
    let plan = sandbox.okapi(&["plan", "p.yaml", "--json"]).json();
    let foreseen: Vec<_> = plan["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|node| !node["estimate"].is_null())
        .collect();
    assert_eq!(foreseen.len(), 3, "{plan}");
    let said = run(&sandbox, &[]);
    assert_eq!(said.executed(), names(&["rank[lang=de]", "rank[lang=en]", "rank[lang=ta]"]));
    // Those of the second turn are new, those of the first are not asked again.
    assert_eq!(asked(&said)["rank"], (2 * 3 * 30, 2 * 2 * 30));
    // What was foreseen is what was asked.
    assert_eq!(plan["summary"]["requests"], 2 * 3 * 30);
    assert_eq!(plan["summary"]["recorded"], 2 * 2 * 30);

    // Back again, and nobody is asked: the results are there, and so are the records.
    sandbox.edit("prompts/rank.j2", "Please rank", "Now rank");
    assert!(sandbox.run().is_empty());
    let said = run(&sandbox, &["--force", "rank"]);
    assert_eq!(asked(&said)["rank"], (0, 300));
    let stats = sandbox.okapi(&["cache", "stats", "--json"]).json();
    assert_eq!(stats["teachers"]["recorded"], 2 * 2 * 30 + 300, "{stats}");
}

#[test]
fn added_rows_ask_for_themselves_alone() {
    let sandbox = sandbox();
    run(&sandbox, &["translate"]);
    sandbox.edit("p.yaml", "count: 30", "count: 40");
    let said = run(&sandbox, &["translate"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(asked(&said)["translate"], (2 * 10, 2 * 30));
}

#[test]
fn a_server_gives_the_same_bytes_at_any_concurrency_and_by_batches() {
    let sandbox = sandbox();
    let server = Server::start(&sandbox, &[]);
    run(&sandbox, &[]);
    let offline = outputs(&sandbox, &[]);
    let concurrencies = ["1", "32"];
    for concurrency in concurrencies {
        let store = format!("store-{concurrency}");
        let set = format!("teachers.chat.concurrency={concurrency}");
        let said = run(&sandbox, &["--profile", "server", "--set", &set, "--store", &store]);
        assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
        assert_eq!(
            outputs(&sandbox, &["--profile", "server", "--set", &set, "--store", &store]),
            offline
        );
        // How it is asked is no part of what is asked: another concurrency has nothing to do.
        let again = run(
            &sandbox,
            &["--profile", "server", "--set", "teachers.chat.concurrency=7", "--store", &store],
        );
        assert_eq!(again.executed(), names(&[]));
    }
    let with_batch = ["--profile", "batch", "--store", "store-batch"];
    let said = run(&sandbox, &with_batch);
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    assert_eq!(outputs(&sandbox, &with_batch), offline);
    assert!(server.get("/v1/batches")["data"].as_array().unwrap().len() >= 6);
    // Another way to ask, but the same node and the same records.
    let live = run(&sandbox, &["--profile", "server", "--store", "store-batch"]);
    assert_eq!(live.executed(), names(&[]));
}

/// The most instances of `translate` that ran at once.
fn most_at_once(said: &Said) -> usize {
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    let (mut running, mut most) = (0, 0);
    for event in said.events() {
        if !event["node"].as_str().is_some_and(|node| node.starts_with("translate[")) {
            continue;
        }
        match event["event"].as_str() {
            Some("node_started") => running += 1,
            Some("node_finished") => running -= 1,
            _ => {}
        }
        most = most.max(running);
    }
    most
}

#[test]
fn few_nodes_ask_a_live_server_at_once_and_all_of_them_by_batches() {
    let sandbox = sandbox();
    let _server = Server::start(&sandbox, &[]);
    let at_once = |more: &[&str]| {
        let languages = ["-j", "8", "--set", "vars.languages=[de,ta,en,fr,es,it,ru]", "translate"];
        most_at_once(&run(&sandbox, &[&languages, more].concat()))
    };
    assert_eq!(at_once(&["--store", "live", "--profile", "server"]), 4);
    assert_eq!(at_once(&["--store", "batch", "--profile", "batch"]), 7);
    assert_eq!(at_once(&["--store", "offline"]), 7);
}

#[test]
fn a_first_run_begins_with_what_leads_to_most_requests() {
    let sandbox = sandbox();
    // What is expected of an import need not be so.
    sandbox.write(
        "p.yaml",
        "
okapi: 1
teachers: {chat: {kind: offline}}
nodes:
  few: {stage: import, params: {path: seeds.jsonl, kind: instructions, expected_rows: 1}}
  many: {stage: import, params: {path: seeds.jsonl, kind: instructions, expected_rows: 200}}
  few_in: &translate
    stage: translate
    inputs: {data: few}
    prompts: {translate: prompts/translate.j2}
    teacher: chat
    params: {language: de, max_reject_rate: 1}
  many_in: {<<: *translate, inputs: {data: many}}
",
    );
    let said = run(&sandbox, &["-j", "1"]);
    let events = said.events();
    let started = events.iter().filter(|event| event["event"] == "node_started");
    let order: Vec<_> = started.map(|event| event["node"].as_str().unwrap()).collect();
    // The other two have the same inputs, and so their results are there.
    assert_eq!(order, ["many", "many_in"], "{}\n{}", said.stdout, said.stderr);
}

#[test]
fn a_batch_is_found_again_after_a_kill() {
    let sandbox = sandbox();
    let server = Server::start(&sandbox, &["--delay-ms", "1500"]);
    let target = ["--profile", "batch", "--set", "vars.languages=[de]"];
    run(&sandbox, &[&target[..], &["tasks"]].concat());
    let before = server.get("/v1/batches")["data"].as_array().unwrap().len();
    let arguments = [&["run", "p.yaml", "-q"], &target[..], &["translate"]].concat();
    let mut child = sandbox.start(&arguments);
    for _ in 0..200 {
        if server.get("/v1/batches")["data"].as_array().unwrap().len() > before {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // It takes a moment until the batch's id is written down.
    std::thread::sleep(std::time::Duration::from_millis(300));
    child.kill().unwrap();
    child.wait().unwrap();
    let said = run(&sandbox, &[&target[..], &["translate"]].concat());
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    assert_eq!(asked(&said)["translate"], (30, 0));
    let after = server.get("/v1/batches")["data"].as_array().unwrap().len();
    assert_eq!(after, before + 1, "no second batch was paid for");
}

#[test]
fn a_budget_ends_the_run_and_the_next_one_goes_on() {
    let sandbox = sandbox();
    let _server = Server::start(&sandbox, &[]);
    let all = ["--profile", "server", "translate"];
    let said = run(&sandbox, &[&all[..], &["--budget", "0.03"]].concat());
    assert_eq!(said.code, Some(4), "{}\n{}", said.stdout, said.stderr);
    let end = said.events().into_iter().find(|event| event["event"] == "run_finished").unwrap();
    assert_eq!(end["outcome"], "budget_reached");
    let spent = end["spend"]["nano_usd"].as_u64().unwrap();
    assert!((1..=30_000_000).contains(&spent), "{end}");
    let first = end["spend"]["requests"].as_u64().unwrap();

    let whole = run(&sandbox, &all);
    assert_eq!(whole.code, Some(0), "{}", whole.stderr);
    let end = whole.events().into_iter().find(|event| event["event"] == "run_finished").unwrap();
    let second = end["spend"]["requests"].as_u64().unwrap();
    let records = sandbox.okapi(&["cache", "stats", "--json"]).json()["records"].as_u64().unwrap();
    assert_eq!(records, first + second, "nothing was paid twice");
    for bad in [
        &["--budget", "much"][..],
        &["--budget", "-1"],
        &[
            "--budget",
            "1",
            "--profile",
            "server",
            "--set",
            "teachers.chat.input_price=null",
            "--set",
            "teachers.chat.output_price=null",
        ],
    ] {
        let said = sandbox.okapi(&[&["run", "p.yaml"], bad].concat());
        assert_eq!(said.code, Some(2), "{bad:?}: {}", said.stderr);
    }
}

#[test]
fn what_was_answered_before_a_kill_is_not_asked_again() {
    let sandbox = sandbox();
    let _server = Server::start(&sandbox, &["--delay-ms", "40"]);
    let all = ["--profile", "server", "--set", "teachers.chat.concurrency=4", "translate"];
    let mut child = sandbox.start(&[&["run", "p.yaml", "-q"], &all[..]].concat());
    let records = || {
        let stats = sandbox.okapi(&["cache", "stats", "--json"]);
        if stats.code == Some(0) { stats.json()["records"].as_u64().unwrap() } else { 0 }
    };
    while records() < 10 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let kept = records();
    let said = run(&sandbox, &all);
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    let all: Vec<(u64, u64)> = asked(&said).into_values().collect();
    let paid: u64 = all.iter().map(|sums| sums.0).sum();
    assert_eq!(records(), kept + paid);
    assert!(kept > 0 && paid > 0, "{kept} before the kill, {paid} after it");
}

#[test]
fn prompts_are_checked_before_anything_is_asked() {
    let sandbox = sandbox();
    for (from, to, expected) in [
        ("{{ count }}", "{{ cuont }}", "prompts/rank.j2:6: there is no variable `cuont`"),
        ("{{ count }}", "four", "the prompt prompts/rank.j2: it does not use the variable `count`"),
    ] {
        let before = sandbox.read("prompts/rank.j2");
        sandbox.edit("prompts/rank.j2", from, to);
        for command in ["check", "plan", "run"] {
            let said = sandbox.okapi(&[command, "p.yaml"]);
            assert_eq!(said.code, Some(2), "{command}: {}", said.stderr);
            assert!(said.stderr.contains(expected), "{command}: {}", said.stderr);
        }
        sandbox.write("prompts/rank.j2", &before);
        // A pipeline that is known to be in order is not known to have its prompts in order.
        assert_eq!(sandbox.okapi(&["check", "p.yaml"]).code, Some(0));
        assert_eq!(sandbox.okapi(&["plan", "p.yaml"]).code, Some(0));
    }
}

#[test]
fn too_many_rejects_fail_a_node_and_say_why() {
    let sandbox = sandbox();
    sandbox.edit(
        "p.yaml",
        "params: {language: \"${each.lang}\"}\n  answers",
        "params: {language: \"${each.lang}\", attempts: 1}\n  answers",
    );
    // What the phrase books do not cover comes back as it was.
    sandbox.write("seeds.jsonl", "{\"id\": \"a\", \"instruction\": \"Write a long poem about the sea.\", \"output\": \"The sea is wide and blue.\"}\n");
    sandbox.edit("p.yaml", "inputs: {data: \"tasks:examples\"}", "inputs: {data: seeds}");
    let said = sandbox.okapi(&["run", "p.yaml", "translate[lang=de]"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("1 of 1 rows were set aside (1 copied)"), "{}", said.stderr);
    assert!(
        said.stderr.contains("`instruction`: it is the original, word for word"),
        "{}",
        said.stderr
    );
    sandbox.edit("p.yaml", "attempts: 1", "attempts: 1, max_reject_rate: 1");
    let said = run(&sandbox, &["translate[lang=de]"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(asked(&said)["translate"], (0, 1));
    let rejects = rows(&sandbox, "translate[lang=de]:rejects", &[]);
    assert_eq!((rejects.len(), &rejects[0]["row"]["id"]), (1, &"a".into()));
    assert!(rejects[0]["answer"].as_str().unwrap().contains("poem"));
}

#[test]
fn a_careless_ranker_is_told_from_a_careful_one_by_its_second_pass() {
    let sandbox = sandbox();
    let metrics = |skill: &str| {
        let set = ["--set", "vars.languages=[de]", "--set", skill];
        let said = run(&sandbox, &[&set[..], &["rank"]].concat());
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        let shown =
            sandbox.okapi(&[&["show", "p.yaml", "rank[lang=de]", "--metrics"], &set[..]].concat());
        shown.json()["metrics"].clone()
    };
    let careful = metrics("nodes.rank.teacher=chat");
    assert_eq!(
        (&careful["kendall_tau"], &careful["mean_rank_of_first"]),
        (&1.0.into(), &2.5.into())
    );
    sandbox.edit("p.yaml", "profiles:", "  careless: {kind: offline, skill: 0.2}\nprofiles:");
    let careless = metrics("nodes.rank.teacher=careless");
    assert!(careless["kendall_tau"].as_f64().unwrap() < 0.9, "{careless}");
}

#[test]
fn questions_of_all_three_benchmarks_are_translated_with_their_choices() {
    let sandbox = sandbox();
    sandbox.write(
        "p.yaml",
        r#"
okapi: 1
teachers: {chat: {kind: offline}}
nodes:
  questions: {stage: import, params: {path: questions.jsonl, kind: questions}}
  translate:
    stage: translate
    inputs: {data: questions}
    prompts: {translate: prompts/translate.j2}
    teacher: chat
    params: {language: fr, kind: questions}
"#,
    );
    sandbox.write(
        "questions.jsonl",
        r#"{"id": "ARC-1", "question": "What is the capital of this country: Japan?", "choices": {"text": ["Oslo", "Tokyo", "Lima"], "label": ["A", "B", "C"]}, "answerKey": "B"}
{"id": "m-1", "question": "How many sides does this geometric shape have: triangle?", "choices": ["3", "4", "5", "6"], "answer": 0, "subject": "geometry"}
{"id": "h-1", "activity_label": "shape", "ctx_a": "I want to train my memory.", "ctx_b": "An explanation is not necessary.", "ctx": "I want to train my memory. An explanation is not necessary.", "endings": ["The capital: Paris.", "The capital: Oslo.", "The colour: red.", "It is of this class: bird."], "label": "0"}
"#,
    );
    let said = run(&sandbox, &["--set", "nodes.translate.params.max_reject_rate=1"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let set = ["--set", "nodes.translate.params.max_reject_rate=1"];
    let rows = rows(&sandbox, "translate:data", &set);
    let arc = &rows[0];
    assert_eq!(arc["question"], "Quelle est la capitale de ce pays\u{a0}: Japon\u{a0}?", "{arc}");
    assert_eq!(
        (&arc["choices"][1], &arc["answer"], &arc["task"]),
        (&"Tokyo".into(), &1.into(), &"arc".into())
    );
    let mmlu = &rows[1];
    assert_eq!(mmlu["choices"], serde_json::json!(["3", "4", "5", "6"]));
    assert_ne!(mmlu["question"], "How many sides does this geometric shape have: triangle?");
    // What the phrase books do not know stays as it was; the rest of the question is translated.
    if let Some(hellaswag) = rows.get(2) {
        let context = &hellaswag["hellaswag"];
        let whole = format!(
            "{} {}",
            context["ctx_a"].as_str().unwrap(),
            context["ctx_b"].as_str().unwrap()
        );
        assert_eq!(hellaswag["question"], whole.as_str());
        assert_ne!(context["ctx_a"], "I want to train my memory.");
    }
}

//! What is not repeatable is found: every stage executes twice, with another number of threads.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::sandbox::{Said, Sandbox};

/// A node of each stage there is.
const EVERY_STAGE: &str = r#"
okapi: 1
name: every-stage
teachers:
  chat: {kind: offline, skill: 0.8, kinds: [add, colour, capital, opposite]}
nodes:
  seeds: {stage: import, params: {path: seeds.jsonl, kind: instructions}}
  questions: {stage: import, params: {path: questions.jsonl, kind: questions}}
  tasks:
    stage: self_instruct
    inputs: {seeds: seeds}
    prompts: {generate: self_instruct.j2}
    teacher: chat
    seed: 1
    params: {count: 60, rouge_threshold: 0.95}
  clean: {stage: decontaminate, inputs: {data: "tasks:examples", questions: questions}}
  translated:
    stage: translate
    inputs: {data: "clean:data"}
    prompts: {translate: translate.j2}
    teacher: chat
    params: {language: de}
  some: {stage: mix, inputs: {data: "translated:data"}, seed: 1, params: {share: 0.6, order: shuffled}}
  statistics: {stage: describe, inputs: {data: ["clean:data"]}}
  counted:
    stage: command
    inputs: {rows: "some:data"}
    run: wc -l < "$OKAPI_INPUT_ROWS" > "$OKAPI_OUTPUT_COUNT"
    outputs: {count: text}
  new: {stage: init_model, inputs: {corpus: "some:data"}, seed: 1, params: {family: llama, layers: 2, hidden: 32, heads: 2, vocabulary: 400, positions: 256}}
  given: {stage: import_model, params: {path: given}}
  base: {stage: pretrain, inputs: {model: new, corpus: "some:data"}, seed: 1, params: {epochs: 2, batch: 4, max_length: 64}}
  sft:
    stage: sft
    inputs: {model: "base:model", examples: "some:data"}
    prompts: {prompt: question_answer.j2}
    seed: 1
    params: {epochs: 2, batch: 4, learning_rate: 3.0e-3, warmup: 2, max_length: 128}
  responses:
    stage: generate
    inputs: {model: "sft:model", prompts: "some:rest"}
    prompts: {prompt: question_answer.j2}
    seed: 1
    params: {samples: 3, max_new_tokens: 12}
  rank:
    stage: rank
    inputs: {responses: responses}
    prompts: {translate: rank_translate.j2, rank: rank.j2}
    teacher: chat
    params: {language: de, max_reject_rate: 1}
  reward_model:
    stage: reward_model
    inputs: {model: "sft:model", rankings: "rank:rankings"}
    prompts: {prompt: question_answer.j2}
    seed: 1
    params: {batch: 4, learning_rate: 1.0e-3, warmup: 2, max_length: 128}
  ppo:
    stage: ppo
    inputs: {policy: "sft:model", reward_model: "reward_model:reward_model", prompts: "some:rest"}
    prompts: {prompt: question_answer.j2}
    seed: 1
    params: {iterations: 2, rollouts: 8, batch: 4, passes: 2, learning_rate: 1.0e-3, max_prompt_tokens: 64, max_new_tokens: 12}
  answers:
    stage: answer
    inputs: {model: "ppo:model", prompts: "some:rest"}
    prompts: {prompt: question_answer.j2}
    params: {max_new_tokens: 12}
  languages: {stage: identify_language, inputs: {responses: answers}, params: {language: de}}
  judge:
    stage: judge
    inputs: {responses: answers, languages: languages}
    prompts: {judge: judge.j2}
    teacher: chat
  arc: {stage: evaluate, inputs: {model: "ppo:model", questions: questions}, params: {task: arc, language: en}}
  report: {stage: report, inputs: {scores: "arc:summary", curves: ["sft:curve", "ppo:curve"], rejects: "rank:rejects"}, params: {title: Every stage}}
  data_set: {stage: dataset, inputs: {data: "some:data"}, params: {title: Rows}}
  release: {stage: release, inputs: {model: "ppo:model", scores: "arc:summary"}, params: {title: A model}}
"#;

fn project() -> Sandbox {
    let sandbox = Sandbox::new(EVERY_STAGE);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["self_instruct", "translate", "rank_translate", "rank", "judge", "question_answer"]
    {
        let text = fs::read_to_string(root.join(format!("prompts/{name}.j2"))).unwrap();
        sandbox.write(&format!("{name}.j2"), &text);
    }
    let seeds = fs::read_to_string(root.join("pipelines/okapi/seed_tasks.jsonl")).unwrap();
    sandbox.write("seeds.jsonl", &seeds);
    let question = |n: u32| {
        let row = json!({"id": n.to_string(), "question": format!("Which is {n}?"), "choices": ["1", "2", "3", "4"], "answerKey": "A"});
        format!("{row}\n")
    };
    sandbox.write("questions.jsonl", &(0..6).map(question).collect::<String>());
    let given = root.join("tests/fixtures/eval/models/bloom");
    for file in fs::read_dir(given).unwrap().map(Result::unwrap) {
        fs::create_dir_all(sandbox.path("given")).unwrap();
        fs::copy(file.path(), sandbox.path("given").join(file.file_name())).unwrap();
    }
    sandbox
}

#[test]
fn every_stage_gives_the_same_bytes_on_any_number_of_threads() {
    let sandbox = project();
    let stages: Value = sandbox.okapi(&["stages", "--json"]).json();
    let all: BTreeSet<&str> = stages["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["stage"].as_str().unwrap())
        .collect();
    let tested: BTreeSet<&str> = EVERY_STAGE
        .split("stage: ")
        .skip(1)
        .map(|rest| {
            rest.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
                .next()
                .unwrap()
        })
        .collect();
    assert_eq!(tested, all, "a stage is not tested here");

    let mut locks = Vec::new();
    for jobs in ["1", "2"] {
        let sandbox = project();
        let said = sandbox.okapi(&[
            "run",
            "p.yaml",
            "-j",
            jobs,
            "--check-determinism",
            "--lock",
            "--progress",
            "plain",
        ]);
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        let nodes = EVERY_STAGE.matches("stage: ").count();
        let last = format!("executed twice: {nodes} gave the same bytes, 0 did not\n");
        assert!(said.stderr.contains(&last), "{}", said.stderr);
        locks.push(sandbox.read("p.lock"));
    }
    assert!(locks[0] == locks[1], "one thread and two give other results");
}

#[test]
fn what_is_not_repeatable_is_named() {
    let sandbox = Sandbox::new(
        r#"
okapi: 1
nodes:
  same: {stage: command, run: 'echo 1 > "$OKAPI_OUTPUT_TEXT"', outputs: {text: text}}
  lot: {stage: command, run: 'echo a; od -An -N8 -tx8 /dev/urandom > "$OKAPI_OUTPUT_LOT"; echo 1 > "$OKAPI_OUTPUT_TEXT"', outputs: {lot: text, text: text}}
  folder:
    stage: command
    inputs: {text: "lot:text"}
    run: mkdir "$OKAPI_OUTPUT_ALL"; cp "$OKAPI_INPUT_TEXT" "$OKAPI_OUTPUT_ALL/a"; od -An -N8 -tx8 /dev/urandom > "$OKAPI_OUTPUT_ALL/b"
    outputs: {all: tree}
"#,
    );
    let said = sandbox.okapi(&["run", "p.yaml", "--check-determinism", "--quiet"]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    let lines: BTreeSet<&str> =
        said.stderr.lines().map(|line| line.split(": `").next().unwrap()).collect();
    let expected = [
        "differs folder  output `all`: file `b`, line 1",
        "differs lot  output `lot`, line 1",
        "executed twice: 1 gave the same bytes, 2 did not",
    ];
    assert_eq!(lines, BTreeSet::from(expected));
    // The results are kept all the same: it is up to the user what to do about it.
    assert!(sandbox.run().is_empty());
}

/// What was executed twice had its inputs taken away under its hands.
#[test]
fn nothing_is_collected_while_nodes_are_executed_twice() {
    let sandbox = Sandbox::new(
        r#"
okapi: 1
nodes:
  n: {stage: command, run: 'echo > "$OKAPI_OUTPUT_O"; test -e FOLDER/once || { touch FOLDER/once; exit; }; touch FOLDER/twice; until test -e FOLDER/go; do sleep 0.01; done', outputs: {o: text}}
"#,
    );
    let folder = fs::canonicalize(sandbox.path("")).unwrap().display().to_string();
    sandbox.edit("p.yaml", "FOLDER", &folder);
    let child = sandbox.start(&["run", "p.yaml", "--check-determinism", "--no-sandbox"]);
    let patience = Instant::now() + Duration::from_secs(60);
    while !sandbox.path("twice").exists() {
        assert!(Instant::now() < patience, "nothing is executed twice");
        std::thread::sleep(Duration::from_millis(5));
    }
    let collected = sandbox.okapi(&["gc"]);
    sandbox.write("go", "");
    let said = Said::of(child.wait_with_output().unwrap());
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(collected.code != Some(0) && collected.stderr.contains("in use"), "{collected:?}");
}

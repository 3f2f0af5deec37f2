//! `report`, made by a small pipeline: from new tasks to scores in two languages.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::sandbox::{Sandbox, names};

const PIPELINE: &str = r#"
okapi: 1
name: reports
vars: {languages: [de, fr]}
teachers: {chat: {kind: offline}}
nodes:
  seeds: {stage: import, params: {path: seeds.jsonl, kind: instructions}}
  tasks:
    stage: self_instruct
    inputs: {seeds: seeds}
    prompts: {generate: prompts/self_instruct.j2}
    teacher: chat
    seed: 5
    params: {count: 20}
  translate:
    for_each: {lang: "${vars.languages}"}
    stage: translate
    inputs: {data: "tasks:examples"}
    prompts: {translate: prompts/translate.j2}
    teacher: chat
    params: {language: "${each.lang}", max_reject_rate: 1}
  base:
    stage: init_model
    inputs: {corpus: seeds}
    seed: 3
    params: {family: llama, layers: 1, hidden: 16, vocabulary: 300, positions: 128}
  sft:
    for_each: {lang: "${vars.languages}"}
    stage: sft
    inputs: {model: base, examples: "translate:data"}
    prompts: {prompt: prompts/instruction.j2}
    seed: 1
    params: {epochs: 1, batch: 4, warmup: 2, learning_rate: 5.0e-3, max_length: 96}
  questions:
    for_each: {lang: "${vars.languages}"}
    stage: import
    params: {path: "${each.lang}.jsonl", kind: questions}
  evaluate_base:
    for_each: {lang: "${vars.languages}"}
    stage: evaluate
    inputs: {model: base, questions: questions}
    params: {task: arc, language: "${each.lang}"}
  evaluate:
    for_each: {lang: "${vars.languages}"}
    stage: evaluate
    inputs: {model: "sft:model", questions: questions}
    params: {task: arc}
  lengths: {stage: describe, inputs: {data: "translate:data", tokenizer: base}}
  report:
    stage: report
    inputs:
      scores: ["evaluate_base:summary", "evaluate:summary"]
      curves: "sft:curve"
      statistics: lengths
      rejects: ["tasks:rejects", "translate:rejects"]
    params: {title: A small report, compare_with: {base: bloom}}
publish:
  results/report.html: "report:html"
  results/report.md: "report:markdown"
  results/report.json: "report:data"
"#;

fn questions(language: &str) -> String {
    let answers = ["A", "B", "C", "D"];
    let row = |number: usize| {
        let choice = |place: usize| format!("{} {language}", (number * 7 + place * 5) % 11);
        let row = json!({
            "id": format!("ARC-Challenge/test/{number}"),
            "instruction": format!("Which number is {number} in {language}?"),
            "option_a": choice(0), "option_b": choice(1), "option_c": choice(2), "option_d": choice(3),
            "answer": answers[number % 4],
        });
        format!("{row}\n")
    };
    (0..12).map(row).collect()
}

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new(PIPELINE);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["self_instruct", "translate", "instruction", "judge"] {
        let path = format!("prompts/{name}.j2");
        sandbox.write(&path, &std::fs::read_to_string(root.join(&path)).unwrap());
    }
    let seeds = root.join("pipelines/okapi/seed_tasks.jsonl");
    sandbox.write("seeds.jsonl", &std::fs::read_to_string(seeds).unwrap());
    for language in ["de", "fr"] {
        sandbox.write(&format!("{language}.jsonl"), &questions(language));
    }
    sandbox
}

fn data(sandbox: &Sandbox) -> Value {
    serde_json::from_str(&sandbox.read("results/report.json")).unwrap()
}

fn metrics(sandbox: &Sandbox, instance: &str) -> Value {
    let said = sandbox.okapi(&["show", "p.yaml", instance, "--metrics"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    said.json()
}

#[test]
fn every_number_leads_to_its_node_and_action() {
    let sandbox = sandbox();
    sandbox.run();
    let report = &data(&sandbox)["report"];
    let scores = report["scores"].as_array().unwrap();
    let labels: BTreeMap<&str, [&Value; 5]> = scores
        .iter()
        .map(|score| {
            let labels = ["language", "method", "model", "seed", "n"].map(|label| &score[label]);
            (score["source"]["node"].as_str().unwrap(), labels)
        })
        .collect();
    let expected = |language: &str, method: &str, seed: u64| {
        [json!(language), json!(method), json!("base"), json!(seed), json!(12)]
    };
    for (node, expected) in [
        ("evaluate[lang=de]", expected("de", "sft", 1)),
        ("evaluate[lang=fr]", expected("fr", "sft", 1)),
        ("evaluate_base[lang=de]", expected("de", "base", 3)),
        ("evaluate_base[lang=fr]", expected("fr", "base", 3)),
    ] {
        assert_eq!(labels[node], expected.each_ref(), "{node}");
    }
    let html = sandbox.read("results/report.html");
    for score in scores {
        let instance = score["source"]["node"].as_str().unwrap();
        let result = metrics(&sandbox, instance);
        assert_eq!(score["source"]["action"], result["action"]);
        assert_eq!(score["acc_norm"]["value"], result["metrics"]["acc_norm"]);
        let action = result["action"].as_str().unwrap();
        let title = format!("{instance} @ {}", &action[..12]);
        assert!(html.contains(&title), "the page does not say `{title}`");
        assert!(html.contains(action));
    }
    let spend = |instance: &str| {
        let spend = report["spend"].as_array().unwrap();
        spend.iter().find(|it| it["source"]["node"] == instance).unwrap().clone()
    };
    let asked = metrics(&sandbox, "translate[lang=fr]");
    assert_eq!(
        json!(spend("translate[lang=fr]")["requests"].as_f64()),
        asked["metrics"]["requests"]
    );
    assert!(spend("tasks")["completion_tokens"].as_u64().unwrap() > 100);
    // Nothing that depends on how the run went.
    assert_eq!((&report["times"], &spend("tasks")["micro_usd"]), (&json!([]), &Value::Null));
    assert_eq!(report["statistics"].as_array().unwrap().len(), 2);
    assert_eq!(report["curves"].as_array().unwrap().len(), 2);
    let graph = report["graph"].as_str().unwrap();
    assert!(graph.contains(">sft × 2</text>") && !graph.contains(">report</text>"), "{graph}");
    for part in [
        "A small report",
        "<th scope=\"row\" class=\"text\">",
        "Accuracy by language and method",
        "Paper",
    ] {
        assert!(html.contains(part), "the page lacks `{part}`");
    }
    assert!(sandbox.read("results/report.md").contains("| German | 12 <sup>"));
    assert!(sandbox.run().is_empty());
    let plan = sandbox.okapi(&["plan", "p.yaml", "--json"]).json();
    assert_eq!(plan["summary"]["cached"], 15);
}

#[test]
fn it_is_made_anew_when_an_action_above_it_changes_and_no_byte_does() {
    let sandbox = sandbox();
    sandbox.run();
    let before = data(&sandbox);
    sandbox.edit("p.yaml", "max_reject_rate: 1}", "max_reject_rate: 0.9}");
    let plan = sandbox.okapi(&["plan", "p.yaml", "--json"]).json();
    let verdict = |node: &str| {
        let nodes = plan["nodes"].as_array().unwrap();
        nodes.iter().find(|it| it["node"] == node).unwrap()["verdict"].clone()
    };
    assert_eq!(
        (verdict("report"), verdict("evaluate_base[lang=de]")),
        (json!("may_run"), json!("cached"))
    );
    sandbox.run_with(&["translate"]);
    let explained = sandbox.okapi(&["explain", "p.yaml", "report"]).stdout;
    assert!(
        explained.starts_with("report runs: lineage from translate[lang=de] and 1 more changed"),
        "{explained}"
    );
    assert!(explained.contains("            translate[lang=fr]: action "), "{explained}");
    assert_eq!(sandbox.run(), names(&["report"]));
    let after = data(&sandbox);
    assert_eq!(after["report"]["statistics"][0]["rows"], before["report"]["statistics"][0]["rows"]);
    assert_ne!(after["report"]["spend"], before["report"]["spend"]);

    // What is no part of an identity changes no lineage; nor does doing it again.
    sandbox.edit("p.yaml", "max_length: 96}", "max_length: 96, checkpoint_steps: 3}");
    sandbox.edit("p.yaml", "params: {task: arc}", "params: {task: arc, tokens_at_once: 99}");
    assert!(sandbox.run().is_empty());
    assert_eq!(
        sandbox.run_with(&["--force", "translate"]),
        names(&["translate[lang=de]", "translate[lang=fr]"])
    );
}

#[test]
fn killed_again_and_again_it_is_the_same_to_the_byte() {
    let whole = sandbox();
    whole.run();
    let killed = sandbox();
    let mut kills = 0;
    for wait in [150, 60, 250, 100, 350, 80, 200, 120, 300, 50] {
        let mut run = killed.start(&["run", "p.yaml", "-q"]);
        std::thread::sleep(Duration::from_millis(wait));
        run.kill().unwrap();
        kills += u32::from(!run.wait().unwrap().success());
    }
    assert!(kills > 1, "only {kills} kills hit the run");
    killed.run();
    for name in ["report.html", "report.md", "report.json"] {
        let path = format!("results/{name}");
        assert!(killed.read(&path) == whole.read(&path), "{name} differs");
    }
}

#[test]
fn with_times_it_is_of_one_run() {
    let sandbox = sandbox();
    sandbox.edit("p.yaml", "title: A small report,", "title: A small report, times: true,");
    sandbox.run();
    let report = &data(&sandbox)["report"];
    assert_eq!(report["times"].as_array().unwrap().len(), 14);
    assert_eq!(report["spend"][0]["micro_usd"], 0);
    assert!(sandbox.read("results/report.html").contains("Time by node"));
    assert!(sandbox.run().is_empty());
    // Another execution took another time, or the same by chance.
    let again = sandbox.run_with(&["--force", "sft"]);
    assert!(again.is_subset(&names(&["sft[lang=de]", "sft[lang=fr]", "report"])), "{again:?}");
}

#[test]
fn one_language_and_one_part_alone_are_a_report() {
    let sandbox = sandbox();
    sandbox.edit("p.yaml", "[de, fr]", "[fr]");
    sandbox.edit(
        "p.yaml",
        "[\"evaluate_base:summary\", \"evaluate:summary\"]",
        "evaluate_base:summary",
    );
    for line in [
        "      curves: \"sft:curve\"\n",
        "      statistics: lengths\n",
        "      rejects: [\"tasks:rejects\", \"translate:rejects\"]\n",
    ] {
        sandbox.edit("p.yaml", line, "");
    }
    let said = sandbox.okapi(&["run", "p.yaml", "report"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let said = sandbox.okapi(&["get", "p.yaml", "report:html", "out.html"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let html = sandbox.read("out.html");
    assert!(html.contains("French") && !html.contains("German"));
    assert!(!html.contains("id=\"training\"") && !html.contains("id=\"data\""));
    assert!(!html.contains("id=\"resources\""), "nobody was asked for this");
}

#[test]
fn a_data_set_has_one_name_in_all_languages_and_english_once() {
    let sandbox = sandbox();
    sandbox.edit("p.yaml", "[de, fr]", "[de, en]");
    sandbox.write("en.jsonl", &questions("en"));
    sandbox.edit(
        "p.yaml",
        "data: \"translate:data\", tokenizer",
        "data: [\"tasks:examples\", \"translate:data\"], tokenizer",
    );
    for line in [
        "      scores: [\"evaluate_base:summary\", \"evaluate:summary\"]\n",
        "      curves: \"sft:curve\"\n",
        "      rejects: [\"tasks:rejects\", \"translate:rejects\"]\n",
    ] {
        sandbox.edit("p.yaml", line, "");
    }
    sandbox.edit(
        "p.yaml",
        "compare_with: {base: bloom}}",
        "labels: {language: en}, sets: {tasks: New, translate: New}, compare_sets: {New: generated}}",
    );
    let said = sandbox.okapi(&["run", "p.yaml", "report"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let said = sandbox.okapi(&["get", "p.yaml", "report:data", "out.json"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let data: Value = serde_json::from_str(&sandbox.read("out.json")).unwrap();
    let sets = data["report"]["statistics"].as_array().unwrap();
    let named: BTreeMap<_, _> =
        sets.iter().map(|set| (set["language"].as_str().unwrap(), &set["name"])).collect();
    let new = json!("New");
    assert_eq!((sets.len(), named), (2, BTreeMap::from([("de", &new), ("en", &new)])));
    let english = sets.iter().find(|set| set["language"] == "en").unwrap();
    assert!(!english["root_verbs"]["verbs"].as_array().unwrap().is_empty(), "{english}");
    let tables = data["tables"].as_array().unwrap();
    let lengths = tables.iter().find(|table| table["id"] == "statistics").unwrap();
    let columns: Vec<&str> = lengths["columns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["title"].as_str().unwrap())
        .collect();
    assert_eq!(columns[3], "New, prompt, paper");
    assert_eq!(lengths["sections"][0]["rows"][0]["cells"][3]["text"], "51.2");
    assert!(tables.iter().any(|table| table["id"] == "root-verbs"));
}

/// Two models, of two recipes, whose answers are judged; one answers in English whatever it is asked in.
const ANSWERS: &str = r#"
  answer:
    for_each: {lang: "${vars.languages}", recipe: [multilingual, monolingual]}
    stage: command
    inputs: {model: "sft:model", rows: "translate:data"}
    run: |
      said='\1'
      test ${each.recipe} = multilingual || said='I do not know what to say about such a question.'
      sed -E "s/\"output\":\"(.*)\"\\}$/\"responses\":[\"$said\"]}/" "$OKAPI_INPUT_ROWS" > "$OKAPI_OUTPUT_RESPONSES"
    outputs: {responses: responses}
  identify:
    for_each: {lang: "${vars.languages}", recipe: [multilingual, monolingual]}
    stage: identify_language
    inputs: {responses: answer}
    params: {language: "${each.lang}"}
  judge:
    for_each: {lang: "${vars.languages}", recipe: [multilingual, monolingual]}
    stage: judge
    inputs: {responses: answer}
    prompts: {judge: prompts/judge.j2}
    teacher: chat
    params: {max_reject_rate: 1}
  second:
    stage: report
    inputs: {judged: "judge:scores", languages: identify}
    params: {labels: {tuning: full}, families: {base: LLaMA}}
publish:
  results/second.json: "second:data"
  results/second.html: "second:html"
"#;

#[test]
fn open_ended_answers_count_where_they_are_in_their_language() {
    let sandbox = sandbox();
    sandbox.edit("p.yaml", "publish:\n", ANSWERS.strip_prefix('\n').unwrap());
    let run = |expected| {
        let said = sandbox.okapi(&["run", "p.yaml", "second"]);
        assert_eq!(said.code, Some(expected), "{}", said.stderr);
        said.stderr
    };
    run(0);
    let read = |artifact: &str| {
        let said = sandbox.okapi(&["get", "p.yaml", artifact, "out", "--overwrite"]);
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        sandbox.read("out")
    };
    let rows = |artifact: &str| -> Vec<Value> {
        read(artifact).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let report: Value = serde_json::from_str(&read("second:data")).unwrap();
    let answers = report["report"]["answers"].as_array().unwrap();
    assert_eq!(answers.len(), 4);
    let parameters = metrics(&sandbox, "base")["metrics"]["parameters"].clone();
    for answer in answers {
        let key =
            answer["source"]["node"].as_str().unwrap().strip_prefix("judge").unwrap().to_owned();
        let judged = rows(&format!("judge{key}:scores"));
        let identified = rows(&format!("identify{key}"));
        let (mut score, mut sum) = (0, 0);
        for row in &judged {
            let rating = row["rating"].as_u64().unwrap();
            let language = identified.iter().find(|it| it["id"] == row["id"]).unwrap();
            sum += rating;
            score += if language["in_language"] == true { rating } else { 0 };
        }
        let number = |name: &str| answer[name].as_f64().unwrap() as u64;
        assert_eq!(
            (number("score"), number("judged"), number("n")),
            (score, sum, judged.len() as u64)
        );
        let recipe = answer["recipe"].as_str().unwrap();
        assert!(key.contains(recipe));
        assert!(sum > 0 && (score > 0) == (recipe == "multilingual"), "{answer}");
        assert!(key.contains(answer["language"].as_str().unwrap()));
        assert_eq!((&answer["base"], &answer["tuning"]), (&json!("LLaMA"), &json!("full")));
        assert_eq!(json!(answer["parameters"].as_f64()), parameters);
        assert_eq!(answer["seed"], 1);
    }
    assert!(read("second:html").contains("Open-ended answers"));

    sandbox.edit("p.yaml", "languages: identify}", "languages: \"identify[lang=de]\"}");
    let said = run(1);
    assert!(said.contains("nothing says which of them are in their language"), "{said}");
    sandbox.edit(
        "p.yaml",
        "judged: \"judge:scores\", languages: \"identify[lang=de]\"}",
        "judged: \"judge[lang=fr]:scores\", languages: identify}",
    );
    let said = run(1);
    assert!(said.contains("which nothing on `judged` judged"), "{said}");
    // What the judge was told itself is as good.
    sandbox.edit(
        "p.yaml",
        "judged: \"judge[lang=fr]:scores\", languages: identify}",
        "judged: \"judge:scores\"}",
    );
    sandbox.edit(
        "p.yaml",
        "inputs: {responses: answer}\n    prompts: {judge",
        "inputs: {responses: answer, languages: identify}\n    prompts: {judge",
    );
    run(0);
    let again: Value = serde_json::from_str(&read("second:data")).unwrap();
    let scores = |report: &Value| -> Vec<Value> {
        report["report"]["answers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it["score"].clone())
            .collect()
    };
    assert_eq!(scores(&again), scores(&report));
    sandbox.edit("p.yaml", "judged: \"judge:scores\"}", "languages: identify}");
    let said = sandbox.okapi(&["check", "p.yaml"]);
    assert!(said.stderr.contains("the input `judged` lacks them"), "{}", said.stderr);
}

#[test]
fn what_is_missing_or_said_twice_is_an_error_that_says_what_to_write() {
    let checked = |from: &str, to: &str, words: &[&str]| {
        let sandbox = sandbox();
        sandbox.edit("p.yaml", from, to);
        let said = sandbox.okapi(&["check", "p.yaml"]);
        assert_eq!(said.code, Some(2), "{}", said.stderr);
        words.iter().for_each(|words| assert!(said.stderr.contains(words), "{}", said.stderr));
    };
    checked("compare_with: {base: bloom}", "axes: {langage: l}", &["did you mean `language`?"]);
    checked("{base: bloom}", "{base: gpt}", &["it is one of: `bloom`, `llama`"]);
    let inputs = PIPELINE.split_once("stage: report\n").unwrap().1;
    let inputs = inputs.split_once("    params").unwrap().0;
    checked(inputs, "", &["there is nothing to report: give at least one input"]);

    let sandbox = sandbox();
    let fails = |words: &[&str]| {
        let said = sandbox.okapi(&["run", "p.yaml"]);
        assert_eq!(said.code, Some(1), "{}", said.stderr);
        words.iter().for_each(|words| assert!(said.stderr.contains(words), "{}", said.stderr));
    };
    sandbox.edit("p.yaml", "\"evaluate:summary\"", "\"evaluate:scores\"");
    fails(&["`evaluate[lang=de]` gave for `scores` is no summary", "`NODE:summary`"]);
    sandbox.edit("p.yaml", "\"evaluate:scores\"", "\"evaluate:summary\"");
    sandbox.edit(
        "p.yaml",
        "title: A small",
        "methods: {evaluate_base: sft}, labels: {seed: '1'}, title: A small",
    );
    fails(&[
        "`evaluate[lang=de]` and `evaluate_base[lang=de]` both give the score of one evaluation (ARC, language de,",
    ]);
    sandbox.edit(
        "p.yaml",
        "methods: {evaluate_base: sft}, labels: {seed: '1'}",
        "axes: {language: language}",
    );
    fails(&[
        "nothing says the language of `evaluate[lang=de]`: it has no axis `language`",
        "`axes: {language: AXIS}` (it has lang)",
    ]);
}

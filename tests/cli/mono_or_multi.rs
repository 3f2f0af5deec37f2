//! `pipelines/mono-or-multi.yaml`: the second paper's experiments, much reduced, and its bill at the paper's size.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::sandbox::Sandbox;

const PIPELINE: &str = "pipelines/mono-or-multi.yaml";

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new("");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for path in [
        PIPELINE,
        "pipelines/mono-or-multi/budget.sh",
        "pipelines/mono-or-multi/prompts.jsonl",
        "pipelines/okapi/questions/facts.jsonl",
        "pipelines/okapi/seed_tasks.jsonl",
        "prompts/instruction.j2",
        "prompts/judge.j2",
        "prompts/question_answer.j2",
        "prompts/self_instruct.j2",
        "prompts/translate.j2",
    ] {
        sandbox.write(path, &std::fs::read_to_string(root.join(path)).unwrap());
    }
    sandbox
}

/// One small model, two languages that are seen and one that is not.
const REDUCED: [&str; 20] = [
    "--set",
    "vars.languages=[de, en]",
    "--set",
    "vars.seen=[de, en]",
    "--set",
    "vars.tested=[de, en, 'no']",
    "--set",
    "vars.known=[de, en, 'no']",
    "--set",
    "vars.models=[bloom-small]",
    "--set",
    "vars.tunings=[full]",
    "--set",
    "vars.counted_by=bloom-small",
    "--set",
    "vars.new_tasks=60",
    "--set",
    "vars.rows=40",
    "--set",
    "nodes.base.params.epochs=1",
];

#[test]
fn recipes_are_compared_within_equal_budgets() {
    let sandbox = sandbox();
    let run = |more: &[&str]| {
        let arguments = [&["run", PIPELINE][..], &REDUCED, more].concat();
        sandbox.okapi(&arguments)
    };
    let said = run(&[]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let report: Value =
        serde_json::from_str(&sandbox.read("results/mono-or-multi/report.json")).unwrap();
    let answers = report["report"]["answers"].as_array().unwrap();
    let text = |answer: &Value, name: &str| answer[name].as_str().unwrap().to_owned();
    let asked: BTreeSet<String> = answers
        .iter()
        .map(|it| format!("{} {}", text(it, "recipe"), text(it, "language")))
        .collect();
    let mut expected: BTreeSet<String> =
        ["monolingual de", "monolingual en"].map(Into::into).into();
    for recipe in ["downsampled", "english_only", "multilingual"] {
        expected.extend(["de", "en", "no"].map(|language| format!("{recipe} {language}")));
    }
    assert_eq!(asked, expected);
    for answer in answers {
        assert_eq!((answer["n"].as_u64(), text(answer, "base")), (Some(50), "BLOOM".to_owned()));
        let (score, judged) = (answer["score"].as_f64(), answer["judged"].as_f64());
        assert!(score <= judged && judged >= Some(50.0), "{answer}");
    }
    let page = sandbox.read("results/mono-or-multi/report.html");
    assert!(page.contains("Lost to the wrong language") && page.contains("Means over languages"));
    let budget = sandbox.read("results/mono-or-multi/budget.txt");
    let rows = |recipe: &str| {
        let line = budget.lines().find(|line| line.starts_with(recipe)).unwrap();
        line.split_whitespace().nth(2).unwrap().parse::<u64>().unwrap()
    };
    assert_eq!((rows("downsampled"), rows("multilingual"), rows("english_only")), (40, 80, 40));

    // Nothing that is learnt holds what is asked.
    let prompts = sandbox.read("pipelines/mono-or-multi/prompts.jsonl");
    for port in ["english:data", "clean_facts:data"] {
        let get = [&["get", PIPELINE, port, "out.jsonl", "--overwrite"][..], &REDUCED].concat();
        assert_eq!(sandbox.okapi(&get).code, Some(0));
        let learnt = sandbox.read("out.jsonl");
        for prompt in prompts.lines() {
            let prompt: Value = serde_json::from_str(prompt).unwrap();
            assert!(!learnt.contains(prompt["prompt"].as_str().unwrap()), "{prompt}");
        }
    }

    let again = run(&[]);
    assert!(again.stderr.contains("0 ran,"), "{}", again.stderr);
    let unequal = run(&["--set", "nodes.downsampled.params.count=30", "--keep-going"]);
    assert_eq!(unequal.code, Some(1));
    assert!(unequal.stderr.contains("downsampled has 30 rows, not 40"), "{}", unequal.stderr);
}

#[test]
fn the_paper_has_its_bill() {
    let sandbox = sandbox();
    for profile in [&[][..], &["--profile", "paper"]] {
        let said = sandbox.okapi(&[&["check", PIPELINE][..], profile].concat());
        assert_eq!(said.code, Some(0), "{}", said.stderr);
    }
    let said = sandbox.okapi(&["plan", PIPELINE, "--profile", "paper"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    // 15 models, LoRA and full; 3 recipes in 8 languages and one in 6, of which two are the same model in English; 50 prompts.
    let all = said.stdout.lines().find(|line| line.starts_with("in all")).unwrap_or_default();
    assert!(all.contains(" 43,500 ") && all.contains('$'), "{}", said.stdout);
    // Nothing is left out in silence, OpenLLaMA neither.
    let said = sandbox.okapi(&["plan", PIPELINE, "--profile", "paper", "--json"]);
    let bill = said.json()["bill"].clone();
    assert_eq!(
        (&bill["total"]["unreckoned"], &bill["total"]["unforeseen"]),
        (&0.into(), &0.into())
    );
    let nodes = bill["nodes"].as_array().unwrap();
    let charges = |name: &str| &nodes.iter().find(|it| it["node"] == name).unwrap()["charges"];
    assert_eq!(charges("sft_english_only")["repeated"], 30);
    assert_eq!(charges("sft_english_only")["gpu_ms"], 0);
    assert_eq!(charges("judge_monolingual")["repeated"], 30);
    // Of a model whose sizes nobody knows, that is said.
    let set = "nodes.base.params.repository=o/other@6fb184ff23774c25bf84b3628e49c8b78372c7be";
    let said = sandbox.okapi(&["plan", PIPELINE, "--profile", "paper", "--set", set]);
    assert!(said.stdout.contains("time and disk unknown: "), "{}", said.stdout);
    assert!(said.stdout.contains("`sft_multilingual`"), "{}", said.stdout);
}

/// Before anything is downloaded: the commit of a model, and a digest. As it comes, all is pinned.
#[test]
fn what_is_not_pinned_is_not_run() {
    let sandbox = sandbox();
    let check = [PIPELINE, "--profile", "paper"];
    let said = sandbox.okapi(&[&["check"][..], &check].concat());
    assert!(!said.stderr.contains("cannot run before"), "{}", said.stderr);
    let commit = format!("vars.repositories.bloom-1b7=bigscience/bloom-1b7@{}", "0".repeat(40));
    let digest = format!("vars.instruction_digests.zh=sha256:{}", "0".repeat(64));
    let arguments = [PIPELINE, "--profile", "paper", "--set", &commit, "--set", &digest];
    let said = sandbox.okapi(&[&["run"][..], &arguments].concat());
    assert_eq!(said.code, Some(2), "{}", said.stderr);
    assert_eq!(said.stdout, "");
    for expected in [
        "error: 2 instances cannot run before the pipeline has what it leaves to be filled in:",
        "base[model=bloom-1b7]: the commit of bigscience/bloom-1b7 is all zeros; `git ls-remote https://huggingface.co/",
        "instructions[lang=zh]: `digest` is all zeros for https://raw.githubusercontent.com/",
        "hint: nothing was begun",
    ] {
        assert!(said.stderr.contains(expected), "{expected}: {}", said.stderr);
    }
    let said = sandbox.okapi(&[&["check"][..], &arguments].concat());
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(said.stderr.contains("note: 2 instances cannot run before"), "{}", said.stderr);
    // What does not need them is not kept from running.
    let plan = [&["plan"][..], &arguments, &["base[model=bloom-560m]"]].concat();
    assert_eq!(sandbox.okapi(&plan).code, Some(0));
}

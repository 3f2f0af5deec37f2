//! Stages that train: from data to models, killed, stopped and told nonsense.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::sandbox::Sandbox;

const PIPELINE: &str = r#"
okapi: 1
name: training
nodes:
  rows: {stage: import, params: {path: rows.jsonl, kind: instructions}}
  base:
    stage: init_model
    inputs: {corpus: rows}
    seed: 3
    params: {family: llama, layers: 2, hidden: 32, vocabulary: 300, positions: 40}
  sft:
    stage: sft
    inputs: {model: base, examples: rows}
    prompts: {prompt: prompt.j2}
    seed: 5
    params: {epochs: 4, batch: 4, warmup: 4, learning_rate: 5.0e-3, checkpoint_steps: 2}
publish:
  results/curve.jsonl: sft:curve
"#;

fn rows() -> String {
    let row = |n: u32| {
        let (one, other) = (n % 7, n % 5);
        format!(
            "{{\"id\": \"{n}\", \"instruction\": \"Add {one} and {other}.\", \"output\": \"{one} and {other} are {}.\"}}\n",
            one + other
        )
    };
    (0..60).map(row).collect()
}

fn sandbox(pipeline: &str) -> Sandbox {
    let sandbox = Sandbox::new(pipeline);
    sandbox.write("rows.jsonl", &rows());
    sandbox.write("prompt.j2", "{{ instruction }}{{ input }}\nAnswer:\n\n");
    sandbox
}

fn weights(sandbox: &Sandbox, port: &str) -> Vec<u8> {
    let said = sandbox.okapi(&["get", "p.yaml", port, "out", "--overwrite"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    std::fs::read(sandbox.path("out/model.safetensors")).unwrap()
}

fn losses(sandbox: &Sandbox) -> Vec<f64> {
    let curve = sandbox.read("results/curve.jsonl");
    let row = |line| serde_json::from_str::<Value>(line).unwrap()["loss"].as_f64().unwrap();
    curve.lines().map(row).collect()
}

#[test]
fn a_training_learns_and_ends_alike_however_often_it_is_killed_and_on_any_threads() {
    let whole = sandbox(PIPELINE);
    whole.run();
    let (expected, curve) = (weights(&whole, "sft:model"), whole.read("results/curve.jsonl"));
    let losses = losses(&whole);
    assert_eq!(losses.len(), 52);
    assert!(losses[51] < 0.6 * losses[0], "{losses:?}");
    let scratch = std::fs::read_dir(whole.path(".okapi/scratch")).unwrap().count();
    assert_eq!(scratch, 0, "checkpoints of what is done are removed");

    // With one thread, and killed some time after each checkpoint.
    let killed = sandbox(&PIPELINE.replace("seed: 5", "seed: 5\n    resources: {cpu: 1}"));
    let mut kills = 0;
    for wait in [20, 35, 50, 15, 25, 40] {
        let mut run = killed.start(&["run", "p.yaml", "-q"]);
        let folder = killed.path(".okapi/scratch");
        let state = || {
            let folders = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            let files = folders.map(|it| it.path().join("state.safetensors"));
            files.filter_map(|file| std::fs::metadata(file).ok()?.modified().ok()).max()
        };
        let (before, begun) = (state(), Instant::now());
        while state() == before && run.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(120), "there is no checkpoint");
            std::thread::sleep(Duration::from_millis(2));
        }
        std::thread::sleep(Duration::from_millis(wait));
        run.kill().unwrap();
        kills += u32::from(!run.wait().unwrap().success());
    }
    assert!(kills > 1, "only {kills} kills hit the training");
    killed.run();
    assert!(weights(&killed, "sft:model") == expected, "other weights");
    assert_eq!(killed.read("results/curve.jsonl"), curve);

    // How often it is saved is nobody's business but the run's.
    whole.edit("p.yaml", "checkpoint_steps: 2", "checkpoint_minutes: 1, recompute: true");
    assert!(whole.run().is_empty());
    // TensorBoard has a file to watch, with all steps.
    let folder = whole.path(".okapi/tensorboard/sft");
    let runs: Vec<_> = std::fs::read_dir(folder).unwrap().collect();
    assert_eq!(runs.len(), 1);
}

#[test]
fn adapters_learn_beside_a_model_that_stays() {
    let sandbox =
        sandbox(&PIPELINE.replace("params: {epochs: 4", "params: {method: lora, epochs: 4"));
    sandbox.run();
    let losses = losses(&sandbox);
    assert!(losses[losses.len() - 1] < losses[0], "{losses:?}");
    let merged = weights(&sandbox, "sft:model");
    let adapter = std::fs::read_to_string(sandbox.path("out/adapter/adapter_config.json")).unwrap();
    let adapter: Value = serde_json::from_str(&adapter).unwrap();
    assert_eq!(adapter["target_modules"], serde_json::json!(["k_proj", "q_proj", "v_proj"]));
    assert_eq!((&adapter["r"], &adapter["lora_alpha"]), (&8.into(), &16.0.into()));
    assert!(std::fs::metadata(sandbox.path("out/adapter/adapter_model.safetensors")).is_ok());
    assert!(merged != weights(&sandbox, "base"));
}

#[test]
fn what_cannot_be_trained_is_said_with_its_remedy() {
    for (from, to, expected) in [
        ("positions: 40", "positions: 12", "row `0` has 20 tokens, and the model 12 positions"),
        ("batch: 4", "batch: 4, max_length: 10, too_long: fail", "row `0` has"),
        (
            "batch: 4",
            "batch: 4, max_length: 4, loss_on: response",
            "nothing to learn from in 60 rows",
        ),
        (
            "batch: 4",
            "batch: 4, lora_targets: [c_attn], method: lora",
            "no layer called c_attn; it has q_proj, k_proj",
        ),
        ("learning_rate: 5.0e-3, ", "learning_rate: 1.0e+30, ", "diverged at step"),
        (
            "epochs: 4, batch: 4",
            "epochs: 1, batch: 54",
            "rises for 4 steps, and there are 1: it reaches 0",
        ),
    ] {
        let sandbox = sandbox(PIPELINE);
        sandbox.edit("p.yaml", from, to);
        let said = sandbox.okapi(&["run", "p.yaml"]);
        assert_eq!(said.code, Some(1), "{to}: {}", said.stderr);
        assert!(said.stderr.contains(expected), "{to}: {}", said.stderr);
    }
    for (from, to, expected) in [
        ("warmup: 4", "warmup: 4, warmup_share: 0.1", "give `warmup` or `warmup_share`, not both"),
        ("batch: 4", "batch: 4, select: best, validation_share: 0", "write `select: last`"),
        ("hidden: 32", "hidden: 33, heads: 2", "33 cannot be split over 2 heads"),
        ("hidden: 32", "like: pythia-70m", "leave `family` out, or `like`"),
        (
            "family: llama, layers: 2, hidden: 32, vocabulary: 300, positions: 40",
            "like: gpt-2",
            "there is no model `gpt-2`",
        ),
        ("warmup: 4", "warmup: 4, lora_rank: 4", "`lora_rank` is for `method: lora`"),
    ] {
        let sandbox = sandbox(PIPELINE);
        sandbox.edit("p.yaml", from, to);
        let said = sandbox.okapi(&["check", "p.yaml"]);
        assert_eq!(said.code, Some(2), "{to}: {}", said.stderr);
        assert!(said.stderr.contains(expected), "{to}: {}", said.stderr);
    }
}

#[test]
fn a_reward_model_learns_what_people_would_rather_have() {
    let rankings = "
  rankings:
    stage: command
    inputs: {rows: rows}
    run: |
      sed 's/\"output\":\"\\([^\"]*\\)\"/\"responses\":[\"\\1\",\"No idea, sorry.\"],\"ranks\":[1,2]/' \
        \"$OKAPI_INPUT_ROWS\" > \"$OKAPI_OUTPUT_RANKINGS\"
    outputs: {rankings: rankings}
  reward:
    stage: reward_model
    inputs: {model: sft:model, rankings: rankings}
    prompts: {prompt: prompt.j2}
    params: {batch: 8, epochs: 3, warmup: 2, learning_rate: 3.0e-3, train_blocks: 1, train_embeddings: false}
publish:
  results/reward.jsonl: reward:curve
";
    let sandbox = sandbox(&PIPELINE.replace("\npublish:\n", rankings));
    sandbox.run();
    let curve = sandbox.read("results/reward.jsonl");
    let last: Value = serde_json::from_str(curve.lines().last().unwrap()).unwrap();
    assert_eq!(last["validation_accuracy"], 1.0, "{last}");
    let _ = weights(&sandbox, "reward:reward_model");
    let config = std::fs::read_to_string(sandbox.path("out/config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["architectures"][0], "LlamaForSequenceClassification");
}

#[test]
fn text_is_learnt_document_by_document() {
    let sandbox = sandbox(
        "
okapi: 1
name: text
nodes:
  text: {stage: import, params: {path: text.txt, kind: text}}
  base: {stage: init_model, inputs: {corpus: text}, params: {family: gpt_neox, layers: 1, hidden: 32, vocabulary: 280}}
  learnt:
    stage: pretrain
    inputs: {model: base, corpus: text}
    params: {epochs: 3, batch: 4, max_length: 32, learning_rate: 1.0e-2, validation_share: 0.2}
publish:
  results/curve.jsonl: learnt:curve
",
    );
    let text: String = (0..50).map(|n| format!("The number {n} follows {}.\n\n", n - 1)).collect();
    sandbox.write("text.txt", &text);
    sandbox.run();
    let losses = losses(&sandbox);
    assert!(losses[losses.len() - 1] < 0.8 * losses[0], "{losses:?}");
}

#[test]
fn responses_are_the_same_whoever_is_computed_beside_them_and_however_often_it_is_stopped() {
    let nodes = "
  responses:
    stage: generate
    inputs: {model: sft:model, prompts: rows}
    prompts: {prompt: prompt.j2}
    seed: 7
    params: {samples: 2, max_new_tokens: 12, rows_at_once: 4}
  answers:
    stage: answer
    inputs: {model: sft:model, prompts: rows}
    prompts: {prompt: prompt.j2}
    params: {max_new_tokens: 12, stop: [\"are\"]}
publish:
  results/responses.jsonl: responses
  results/answers.jsonl: answers
";
    let sandbox = sandbox(&PIPELINE.replace("\npublish:\n", nodes));
    sandbox.run();
    let rows = |name: &str| -> Vec<Value> {
        let text = sandbox.read(name);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (responses, answers) = (rows("results/responses.jsonl"), rows("results/answers.jsonl"));
    assert_eq!((responses.len(), answers.len()), (60, 60));
    for (number, row) in responses.iter().enumerate() {
        assert_eq!(row["id"], number.to_string());
        assert_eq!(row["responses"].as_array().unwrap().len(), 2);
        assert_eq!(row["ended"].as_array().unwrap().len(), 2);
    }
    let differ = |row: &&Value| row["responses"][0] != row["responses"][1];
    assert!(responses.iter().filter(differ).count() > 10, "samples are drawn apart");
    for row in &answers {
        let text = row["responses"][0].as_str().unwrap();
        assert!(!text.contains("are") && text == text.trim(), "{text}");
    }
    // How many at once is no part of what comes out.
    let expected = sandbox.read("results/responses.jsonl");
    sandbox.edit("p.yaml", "rows_at_once: 4", "rows_at_once: 4096");
    assert!(sandbox.run().is_empty());
    sandbox.edit("p.yaml", "seed: 7", "seed: 7\n    epoch: 1");
    sandbox.run();
    assert_eq!(sandbox.read("results/responses.jsonl"), expected);
    // Nor is a stop in the middle.
    sandbox.edit("p.yaml", "rows_at_once: 4096", "rows_at_once: 1");
    sandbox.edit("p.yaml", "epoch: 1", "epoch: 2");
    for _ in 0..3 {
        let mut run = sandbox.start(&["run", "p.yaml", "-q"]);
        std::thread::sleep(Duration::from_millis(60));
        run.kill().unwrap();
        run.wait().unwrap();
    }
    sandbox.run();
    assert_eq!(sandbox.read("results/responses.jsonl"), expected);
}

#[test]
fn memory_is_said_before_it_is_taken_and_what_cannot_fit_is_refused() {
    let nodes = "
  large: {stage: init_model, inputs: {corpus: rows}, params: {like: pythia-70m, vocabulary: 50304}}
  huge:
    stage: sft
    inputs: {model: large, examples: rows}
    prompts: {prompt: prompt.j2}
    params: {tokens_at_once: 1073741824}
  after: {stage: answer, inputs: {model: huge:model, prompts: rows}, prompts: {prompt: prompt.j2}}
publish:
";
    let sandbox = sandbox(&PIPELINE.replace("\npublish:\n", nodes));
    let plan = sandbox.okapi(&["plan", "p.yaml", "--json"]).json();
    let node = |name: &str| {
        let nodes = plan["nodes"].as_array().unwrap();
        nodes.iter().find(|node| node["node"] == name).unwrap().clone()
    };
    // 4 bytes for each of the weights, before there is a model.
    let large = &node("large")["memory"]["parts"][0];
    assert_eq!((&large["what"], &large["bytes"]), (&"weights".into(), &281_706_496.into()));
    let huge = node("huge");
    assert_eq!(huge["verdict"], "blocked");
    let reason = huge["reason"].as_str().unwrap();
    assert!(reason.contains("`tokens_at_once: 512` takes"), "{reason}");
    let parts = huge["memory"]["parts"].as_array().unwrap();
    let names: Vec<_> = parts.iter().map(|part| part["what"].as_str().unwrap()).collect();
    assert_eq!(names, ["weights", "gradients", "moments", "activations"]);
    assert_eq!(node("after")["reason"], "needs huge, which is blocked");
    assert_eq!(plan["summary"]["blocked"], 2);
    assert_eq!(node("sft")["verdict"], "runs");
    // A run that does not ask first is told so at once.
    sandbox.edit("p.yaml", "checkpoint_steps: 2", "tokens_at_once: 1073741824");
    let said = sandbox.okapi(&["run", "p.yaml", "sft"]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(said.stderr.contains("hint: write `tokens_at_once: 512`"), "{}", said.stderr);
    assert!(said.stderr.contains("of memory, and there are"), "{}", said.stderr);
}

#[test]
fn a_policy_is_rewarded_and_ends_alike_however_often_it_is_killed() {
    let nodes = r#"
  rankings:
    stage: command
    inputs: {rows: rows}
    run: |
      sed 's/"output":"\([^"]*\)"/"responses":["\1","are are are are"],"ranks":[2,1]/' \
        "$OKAPI_INPUT_ROWS" > "$OKAPI_OUTPUT_RANKINGS"
    outputs: {rankings: rankings}
  reward:
    stage: reward_model
    inputs: {model: sft:model, rankings: rankings}
    prompts: {prompt: prompt.j2}
    params: {batch: 8, epochs: 3, warmup: 2, learning_rate: 3.0e-3}
  ppo:
    stage: ppo
    inputs: {policy: sft:model, reward_model: "reward:reward_model", prompts: rows}
    prompts: {prompt: prompt.j2}
    seed: 3
    params:
      {iterations: 12, rollouts: 24, batch: 12, learning_rate: 3.0e-3, train_blocks: 1, max_prompt_tokens: 24,
       max_new_tokens: 8, kl: 0.02}
publish:
  results/ppo.jsonl: ppo:curve
"#;
    let pipeline = PIPELINE.replace("\npublish:\n", nodes);
    let whole = sandbox(&pipeline);
    whole.run();
    let curve = whole.read("results/ppo.jsonl");
    let rows: Vec<Value> = curve.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let measure = |row: usize, name: &str| rows[row][name].as_f64().unwrap();
    assert_eq!(rows.len(), 12);
    assert!(measure(11, "reward") > measure(0, "reward") + 0.5, "{curve}");
    assert!(measure(0, "kl").abs() < 1e-3 && measure(11, "kl") < 60.0, "{curve}");
    let expected = weights(&whole, "ppo:model");
    // Each of them has the prompt that it was trained with.
    for port in ["ppo:model", "reward:reward_model", "sft:model"] {
        let said = whole.okapi(&["get", "p.yaml", port, "out", "--overwrite"]);
        assert_eq!(said.code, Some(0), "{port}: {}", said.stderr);
        let template = whole.read("out/chat_template.jinja");
        assert!(template.contains("{{ instruction }}{{ input }}\nAnswer:\n"), "{port}: {template}");
        let card = whole.read("out/README.md");
        assert!(card.contains("## Prompt\n") && card.contains("\nAnswer:\n"), "{port}: {card}");
    }
    assert!(expected != weights(&whole, "sft:model"));

    let killed = sandbox(&pipeline);
    killed.okapi(&["run", "p.yaml", "reward"]);
    let mut kills = 0;
    for wait in [60, 90, 120, 150] {
        let mut run = killed.start(&["run", "p.yaml", "-q"]);
        std::thread::sleep(Duration::from_millis(wait));
        run.kill().unwrap();
        kills += u32::from(!run.wait().unwrap().success());
    }
    assert!(kills > 1, "only {kills} kills hit the training");
    killed.run();
    assert!(weights(&killed, "ppo:model") == expected, "other weights");
    assert_eq!(killed.read("results/ppo.jsonl"), curve);
}

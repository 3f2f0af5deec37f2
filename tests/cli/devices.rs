//! Stages with a model on a GPU: what is planned, and, where kernels run on the processor, what is computed.

use serde_json::Value;

use crate::sandbox::{Said, Sandbox};

const PIPELINE: &str = r#"
okapi: 1
name: devices
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
    params: {epochs: 2, batch: 8, warmup: 2, learning_rate: 5.0e-3}
  answers:
    stage: answer
    inputs: {model: sft:model, prompts: rows}
    prompts: {prompt: prompt.j2}
    params: {max_new_tokens: 6}
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
    params: {batch: 8, epochs: 1, warmup: 2, learning_rate: 3.0e-3}
  ppo:
    stage: ppo
    inputs: {policy: sft:model, reward_model: "reward:reward_model", prompts: rows}
    prompts: {prompt: prompt.j2}
    seed: 3
    params:
      {iterations: 2, rollouts: 8, batch: 4, learning_rate: 3.0e-3, train_blocks: 1, max_prompt_tokens: 24,
       max_new_tokens: 5}
publish:
  results/sft.jsonl: sft:curve
  results/ppo.jsonl: ppo:curve
"#;

fn sandbox(pipeline: &str) -> Sandbox {
    let sandbox = Sandbox::new(pipeline);
    let row = |n: u32| {
        let (one, other) = (n % 7, n % 5);
        let text = format!("Add {one} and {other}.");
        format!(
            "{{\"id\":\"{n}\",\"instruction\":\"{text}\",\"output\":\"It is {}.\"}}\n",
            one + other
        )
    };
    sandbox.write("rows.jsonl", &(0..24).map(row).collect::<String>());
    sandbox.write("prompt.j2", "{{ instruction }}{{ input }}\nAnswer:\n\n");
    sandbox
}

fn plan(sandbox: &Sandbox, gpus: &str) -> Value {
    let mut command = sandbox.command(&["plan", "p.yaml", "--json"]);
    Said::of(command.env("CUDA_VISIBLE_DEVICES", gpus).output().unwrap()).json()
}

#[test]
fn a_node_that_wants_a_gpu_waits_for_one_and_what_the_processor_computes_is_the_same_by_any_name() {
    let sandbox = sandbox(PIPELINE);
    sandbox.run_with(&["sft"]);
    // The same, however the choice is written.
    sandbox.edit("p.yaml", "epochs: 2", "device: cpu, gpu_dtype: f32, epochs: 2");
    assert!(sandbox.run_with(&["sft"]).is_empty());
    sandbox.edit("p.yaml", "device: cpu, gpu_dtype: f32", "device: auto");
    assert!(sandbox.run_with(&["sft"]).is_empty());
    sandbox.edit("p.yaml", "device: auto", "device: cuda");
    let planned = plan(&sandbox, "");
    let sft = planned["nodes"].as_array().unwrap().iter().find(|node| node["node"] == "sft");
    let sft = sft.unwrap_or_else(|| panic!("{planned}"));
    assert_eq!(sft["verdict"], "blocked", "{sft}");
    assert!(sft.to_string().contains("asks for 1 GPU(s); this machine offers 0"), "{sft}");
    // What it would take is a GPU's memory.
    let planned = plan(&sandbox, "0").to_string();
    assert!(planned.contains("\"on_gpu\":true"), "{planned}");
    let said = sandbox.okapi(&["check", "p.yaml"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    sandbox.edit("p.yaml", "device: cuda", "device: tpu");
    let said = sandbox.okapi(&["check", "p.yaml"]);
    assert!(said.code == Some(2) && said.stderr.contains("tpu"), "{}", said.stderr);
}

#[cfg(not(any(feature = "cuda", feature = "emulated")))]
#[test]
fn a_program_without_gpus_says_so() {
    let sandbox = sandbox(&PIPELINE.replace("epochs: 2", "device: cuda, epochs: 2"));
    let mut command = sandbox.command(&["run", "p.yaml", "sft"]);
    let said = Said::of(command.env("CUDA_VISIBLE_DEVICES", "0").output().unwrap());
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("built without CUDA"), "{}", said.stderr);
    assert!(said.stderr.contains("build-cuda.sh"), "{}", said.stderr);
    let said = sandbox.okapi(&["selftest", "--device", "cuda"]);
    assert!(said.code == Some(1) && said.stderr.contains("built without CUDA"), "{}", said.stderr);
}

#[test]
fn a_selftest_compares_and_measures() {
    let sandbox = Sandbox::new("");
    let said = sandbox.okapi(&["selftest", "--device", "cpu", "--seconds", "0", "--json"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let found = said.json();
    let twins = found["twins"].as_array().unwrap();
    assert!(twins.len() == 5 && twins.iter().all(|twin| twin["agrees"] == true), "{found}");
    let said = sandbox.okapi(&["selftest", "--model", "gpt-5", "--no-compare"]);
    assert!(said.code == Some(2) && said.stderr.contains("bloom-7b1"), "{}", said.stderr);
}

/// The whole way on a GPU, which here is the processor with the GPU's kernels.
#[cfg(feature = "emulated")]
#[test]
fn the_whole_way_goes_over_a_gpu() {
    let sandbox = sandbox(PIPELINE);
    let run = |gpus: &str| {
        let mut command = sandbox.command(&["run", "p.yaml", "--progress", "json"]);
        let said = Said::of(command.env("CUDA_VISIBLE_DEVICES", gpus).output().unwrap());
        assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
        said.executed()
    };
    let losses = |name: &str, measure: &str| -> Vec<f64> {
        let curve = sandbox.read(name);
        let rows = curve.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        rows.map(|row| row[measure].as_f64().unwrap()).collect()
    };
    assert_eq!(run("0").len(), 7);
    assert!(run("0").is_empty());
    let there = losses("results/sft.jsonl", "loss");
    let rewards = losses("results/ppo.jsonl", "reward");
    assert!(rewards.len() == 2 && rewards.iter().all(|reward| reward.is_finite()));
    let mut command = sandbox.command(&["show", "p.yaml", "answers"]);
    let shown = Said::of(command.env("CUDA_VISIBLE_DEVICES", "0").output().unwrap());
    assert_eq!(shown.stdout.lines().count(), 24, "{}", shown.stderr);

    // On the processor it is something else, and nearly the same.
    let ran = run("");
    assert!(ran.contains("sft") && ran.contains("ppo") && !ran.contains("base"), "{ran:?}");
    let here = losses("results/sft.jsonl", "loss");
    assert!(here != there && here.len() == there.len());
    for (here, there) in here.iter().zip(&there) {
        assert!((here - there).abs() < 0.1, "{here} {there}");
    }
    // Both are kept.
    assert!(run("0").is_empty() && run("").is_empty());
}

//! GPUs are handed out by id, within the set that okapi was given.

use crate::sandbox::{Said, Sandbox};

const PIPELINE: &str = r#"
okapi: 1
name: gpus
nodes:
  one:
    for_each: {n: [1, 2, 3, 4]}
    stage: command
    run: 'echo "${each.n} $CUDA_VISIBLE_DEVICES" > "$OKAPI_OUTPUT_O"; sleep 0.05'
    outputs: {o: text}
    resources: {gpu: 1}
  none: {stage: command, run: 'echo "[$CUDA_VISIBLE_DEVICES]" > "$OKAPI_OUTPUT_O"', outputs: {o: text}}
  all: {stage: command, inputs: {i: one}, run: 'cut -d " " -f 2 -s "$OKAPI_INPUT_I"/* | sort -u > "$OKAPI_OUTPUT_O"', outputs: {o: text}}
"#;

#[test]
fn ids_come_from_the_visible_set() {
    let sandbox = Sandbox::new(PIPELINE);
    let mut command = sandbox.command(&["run", "p.yaml", "-j", "4"]);
    let said = Said::of(command.env("CUDA_VISIBLE_DEVICES", "5,GPU-77").output().unwrap());
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(sandbox.okapi(&["show", "p.yaml", "all"]).stdout, "5\nGPU-77\n");
    assert_eq!(sandbox.okapi(&["show", "p.yaml", "none"]).stdout, "[]\n");
}

#[test]
fn a_node_that_asks_for_more_gpus_than_there_are_is_blocked() {
    let sandbox = Sandbox::new(&PIPELINE.replace("gpu: 1", "gpu: 3"));
    let mut command = sandbox.command(&["plan", "p.yaml", "--json"]);
    let plan = Said::of(command.env("CUDA_VISIBLE_DEVICES", "0,1").output().unwrap()).json();
    assert_eq!(plan["summary"]["blocked"], 5, "{plan}");
    assert_eq!(plan["summary"]["runs"], 1);
    let said = sandbox.okapi(&["run", "p.yaml", "-k"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("GPU"), "{}", said.stderr);
}

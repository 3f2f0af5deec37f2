//! The order in which nodes start.

use crate::sandbox::Sandbox;

fn started(sandbox: &Sandbox) -> Vec<String> {
    let said = sandbox.okapi(&["run", "p.yaml", "-j", "1", "--progress", "json"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    said.events()
        .iter()
        .filter(|event| event["event"] == "node_started")
        .map(|event| event["node"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn what_took_longest_the_last_time_starts_first() {
    let node = |name: &str, seconds: &str| {
        format!(
            "  {name}: {{stage: command, run: 'sleep {seconds}; echo 1 > \"$OKAPI_OUTPUT_O\"', outputs: {{o: text}}}}\n"
        )
    };
    let nodes = node("a", "0") + &node("b", "0.2") + &node("c", "0") + &node("d", "0.1");
    let sandbox = Sandbox::new(&format!("okapi: 1\nname: order\nnodes:\n{nodes}"));
    started(&sandbox);
    sandbox.write("p.yaml", &sandbox.read("p.yaml").replace("echo 1", "echo 2"));
    let order = started(&sandbox);
    assert_eq!(order[..2], ["b", "d"], "{order:?}");
}

//! What a failing node shows, and what goes on without it.

use std::fs;

use crate::sandbox::{Sandbox, names};

fn node(run: &str) -> String {
    format!(
        "okapi: 1\nname: failures\nnodes:\n  n:\n    stage: command\n    run: |\n      {run}\n    outputs: {{o: file}}\n"
    )
}

#[test]
fn a_failure_shows_stderr_the_log_and_how_to_run_it_by_hand() {
    let sandbox = Sandbox::new(&node("echo to stdout; echo the reason >&2; exit 7"));
    let said = sandbox.okapi(&["run", "p.yaml"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("exited with status 7"), "{}", said.stderr);
    assert!(said.stderr.contains("| the reason"), "{}", said.stderr);
    let log = sandbox.okapi(&["log", "last", "n"]);
    assert_eq!(log.stdout, "--- stdout ---\nto stdout\n--- stderr ---\nthe reason\n");
    let by_hand =
        said.stderr.lines().find_map(|line| line.trim().strip_prefix("by hand: ")).unwrap();
    let again = std::process::Command::new("sh").args(["-c", by_hand]).output().unwrap();
    assert_eq!(again.status.code(), Some(7), "{by_hand}");
    assert_eq!(again.stderr, b"the reason\n");
}

#[test]
fn keep_going_finishes_what_does_not_depend_on_the_failure() {
    let sandbox = Sandbox::new(
        r#"
okapi: 1
name: keep-going
nodes:
  bad: {stage: command, run: "exit 1", outputs: {o: file}}
  after: {stage: command, inputs: {i: bad}, run: 'cp "$OKAPI_INPUT_I" "$OKAPI_OUTPUT_O"', outputs: {o: file}}
  good: {stage: command, run: 'echo 1 > "$OKAPI_OUTPUT_O"', outputs: {o: file}}
  fine: {stage: command, inputs: {i: good}, run: 'cp "$OKAPI_INPUT_I" "$OKAPI_OUTPUT_O"', outputs: {o: file}}
"#,
    );
    let said = sandbox.okapi(&["run", "p.yaml", "-k", "-j", "1", "--progress", "json"]);
    assert_eq!(said.code, Some(1));
    assert_eq!(said.executed(), names(&["good", "fine"]));
    let skipped: Vec<_> =
        said.events().into_iter().filter(|event| event["event"] == "node_skipped").collect();
    assert_eq!(skipped.len(), 1);
    assert_eq!((&skipped[0]["node"], &skipped[0]["because_of"]), (&"after".into(), &"bad".into()));
}

#[test]
fn outputs_must_be_made_declared_and_of_the_right_kind() {
    for (run, expected) in [
        ("true", "did not make its output `o`"),
        ("echo 1 > \"$OKAPI_OUTPUT_O\"; echo 2 > ../out/extra", "left `extra`"),
        ("mkdir \"$OKAPI_OUTPUT_O\"", "is a folder, but the node declares a file"),
        ("ln -s /etc/passwd \"$OKAPI_OUTPUT_O\"", "is a symlink"),
    ] {
        let said = Sandbox::new(&node(run)).okapi(&["run", "p.yaml"]);
        assert_eq!(said.code, Some(1), "{run}");
        assert!(said.stderr.contains(expected), "{run}: {}", said.stderr);
    }
}

#[test]
fn a_tree_with_an_absolute_symlink_is_refused() {
    let tree = |target: &str| {
        node(&format!("mkdir \"$OKAPI_OUTPUT_O\"; ln -s {target} \"$OKAPI_OUTPUT_O/link\""))
            .replace("o: file", "o: tree")
    };
    let said = Sandbox::new(&tree("/etc/passwd")).okapi(&["run", "p.yaml"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("/etc/passwd"), "{}", said.stderr);
    assert_eq!(Sandbox::new(&tree("other")).okapi(&["run", "p.yaml"]).code, Some(0));
}

#[test]
fn an_input_cannot_be_changed_behind_the_stores_back() {
    let sandbox = Sandbox::new(
        r#"
okapi: 1
name: inputs
nodes:
  a: {stage: command, run: 'echo original > "$OKAPI_OUTPUT_O"', outputs: {o: file}}
  b:
    stage: command
    inputs: {i: a}
    run: |
      chmod u+w "$OKAPI_INPUT_I" || true
      echo changed >> "$OKAPI_INPUT_I"
      echo done > "$OKAPI_OUTPUT_O"
    outputs: {o: file}
"#,
    );
    let said = sandbox.okapi(&["run", "p.yaml"]);
    assert_ne!(said.code, Some(0), "{}", said.stderr);
    let shown = sandbox.okapi(&["run", "p.yaml", "a", "-q"]);
    assert_eq!(shown.code, Some(0), "what was damaged is made anew: {}", shown.stderr);
    assert_eq!(sandbox.okapi(&["show", "p.yaml", "a"]).stdout, "original\n");
}

#[test]
fn a_timeout_ends_the_command_and_a_retry_tries_it_again() {
    let sandbox = Sandbox::new(
        "okapi: 1\nname: t\nnodes:\n  n: {stage: command, timeout: 0.2, run: 'sleep 600', outputs: {o: file}}\n",
    );
    let said = sandbox.okapi(&["run", "p.yaml"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("timed out after 0.2 s"), "{}", said.stderr);

    // The scratch folder is kept between tries: the second one finds what the first left.
    let sandbox = Sandbox::new(&node(
        "if [ -e \"$OKAPI_SCRATCH/tried\" ]; then echo 2 > \"$OKAPI_OUTPUT_O\"; else mkdir -p \"$OKAPI_SCRATCH\"; touch \"$OKAPI_SCRATCH/tried\"; exit 1; fi",
    ).replace("    outputs", "    retries: 1\n    outputs"));
    let said = sandbox.okapi(&["run", "p.yaml", "--progress", "json"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(said.events().iter().any(|event| event["event"] == "node_retrying"));
}

#[test]
fn a_passed_variable_is_part_of_the_identity_and_never_written_down() {
    let sandbox = Sandbox::new(
        "okapi: 1\nname: e\nnodes:\n  n: {stage: command, pass_env: [TOKEN], run: 'test \"$TOKEN\" && echo ok > \"$OKAPI_OUTPUT_O\"; test -z \"${HOME##*/tmp}\"', outputs: {o: file}}\n",
    );
    let run = |token: &str| {
        let mut command = sandbox.command(&["run", "p.yaml", "--progress", "json"]);
        crate::sandbox::Said::of(command.env("TOKEN", token).output().unwrap())
    };
    assert_eq!(run("s3cret-one").executed(), names(&["n"]));
    assert_eq!(run("s3cret-one").executed(), names(&[]));
    assert_eq!(run("s3cret-two").executed(), names(&["n"]));
    let grep = std::process::Command::new("grep")
        .args(["-rlE", "s3cret-(one|two)"])
        .arg(sandbox.path(".okapi"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&grep.stdout), "");
}

#[test]
fn stores_that_cannot_be_used_are_refused_with_exit_code_3() {
    let sandbox = Sandbox::new(&node("echo 1 > \"$OKAPI_OUTPUT_O\""));
    assert_eq!(sandbox.okapi(&["run", "p.yaml"]).code, Some(0));
    fs::write(sandbox.path(".okapi/format"), "okapi store 999\n").unwrap();
    let said = sandbox.okapi(&["run", "p.yaml"]);
    assert_eq!(said.code, Some(3));
    assert!(said.stderr.contains("format 999"), "{}", said.stderr);
    sandbox.write("other/file", "");
    let said = sandbox.okapi(&["run", "p.yaml", "--store", "other"]);
    assert_eq!(said.code, Some(3));
    assert!(said.stderr.contains("is not an okapi store"), "{}", said.stderr);
}

#[test]
fn a_damaged_object_is_found_named_and_healed() {
    let sandbox = Sandbox::new(&node("echo precious > \"$OKAPI_OUTPUT_O\""));
    assert_eq!(sandbox.run(), names(&["n"]));
    let digest = sandbox.okapi(&["explain", "p.yaml", "n", "--json"]).json();
    assert_eq!(digest["nodes"][0]["verdict"], "cached");
    let object = fs::read_dir(sandbox.path(".okapi/objects"))
        .unwrap()
        .flat_map(|shard| fs::read_dir(shard.unwrap().path()).unwrap())
        .map(|entry| entry.unwrap().path())
        .find(|path| fs::read(path).unwrap() == b"precious\n")
        .unwrap();
    fs::remove_file(&object).unwrap();
    fs::write(&object, "poisoned\n").unwrap();
    let said = sandbox.okapi(&["cache", "verify"]);
    assert_eq!(said.code, Some(3));
    assert!(said.stdout.contains("damaged: object"), "{}", said.stdout);
    assert_eq!(sandbox.okapi(&["cache", "verify", "--repair"]).code, Some(3));
    assert_eq!(sandbox.run(), names(&["n"]));
    assert_eq!(sandbox.okapi(&["show", "p.yaml", "n"]).stdout, "precious\n");
    assert_eq!(sandbox.okapi(&["cache", "verify"]).code, Some(0));
}

#[test]
fn events_that_cannot_be_written_are_no_success() {
    let sandbox = Sandbox::new(&node("echo 1 > \"$OKAPI_OUTPUT_O\""));
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = sandbox.command(&["run", "p.yaml", "--progress", "json"]);
    let said = crate::sandbox::Said::of(command.stdout(full).output().unwrap());
    assert_eq!(said.code, Some(3), "{said:?}");
    assert!(said.stderr.contains("cannot write events to stdout: No space left"), "{said:?}");
    assert_eq!(
        sandbox.okapi(&["plan", "p.yaml", "--check"]).code,
        Some(0),
        "the run itself is done"
    );
    assert!(sandbox.okapi(&["log", "--json"]).stdout.contains("\"event\":\"run_finished\""));
    // Somebody who has read enough is another matter.
    let mut child = sandbox.start(&["run", "p.yaml", "--progress", "json"]);
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_run_that_the_store_ends_has_an_end_in_its_record() {
    let sandbox = Sandbox::new(&node("echo 1 > \"$OKAPI_OUTPUT_O\""));
    sandbox.run();
    sandbox.edit("p.yaml", "echo 1", "echo 2");
    // Where the state after the run is kept there is no folder any more.
    fs::remove_dir_all(sandbox.path(".okapi/runs/manifests")).unwrap();
    sandbox.write(".okapi/runs/manifests", "");
    let said = sandbox.okapi(&["run", "p.yaml"]);
    assert_eq!(said.code, Some(3), "{said:?}");
    assert!(said.stderr.contains("runs/manifests"), "{said:?}");
    assert!(said.stderr.contains("stopped by the store: 1 ran"), "{said:?}");
    let end = &sandbox.okapi(&["runs", "--json"]).json()["runs"][0]["end"];
    assert_eq!((&end["outcome"], &end["ran"]), (&"store_trouble".into(), &1.into()), "{end}");
    let log = sandbox.okapi(&["log"]).stdout;
    assert!(log.contains("runs/manifests") && log.contains("stopped by the store"), "{log}");
}

#[test]
fn a_run_begins_with_its_first_event_whatever_a_power_cut_left() {
    let sandbox = Sandbox::new(&node("echo precious > \"$OKAPI_OUTPUT_O\""));
    sandbox.run();
    sandbox.write(".okapi/inflight/1-0", "another boot");
    let object = fs::read_dir(sandbox.path(".okapi/objects"))
        .unwrap()
        .flat_map(|shard| fs::read_dir(shard.unwrap().path()).unwrap())
        .map(|entry| entry.unwrap().path())
        .find(|path| fs::read(path).unwrap() == b"precious\n")
        .unwrap();
    fs::remove_file(&object).unwrap();
    fs::write(&object, "\0\0\0\0\0\0\0\0\n").unwrap();
    let said = sandbox.okapi(&["run", "p.yaml", "--progress", "json"]);
    let kinds: Vec<_> = said.events().iter().map(|event| event["event"].clone()).collect();
    assert_eq!(kinds[..2], ["run_started", "warning"], "{kinds:?}");
    assert_eq!(said.executed(), names(&["n"]));
}

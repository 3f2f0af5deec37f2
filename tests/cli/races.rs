//! Several runs on one store, and runs that are told to stop.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Child;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::sandbox::{Said, Sandbox};

/// Every execution leaves a line in `ran/`, outside the project, one file per execution.
fn counting(sandbox: &Sandbox, nodes: usize) {
    let ran = sandbox.path("ran");
    fs::create_dir_all(&ran).unwrap();
    let mut pipeline = String::from("okapi: 1\nname: race\nnodes:\n");
    for node in 0..nodes {
        let input =
            if node >= 4 { format!("inputs: {{i: n{}}}, ", node - 4) } else { String::new() };
        pipeline.push_str(&format!(
            "  n{node}: {{stage: command, {input}run: 'mktemp {}/n{node}.XXXXXX >&2; echo {node} > \"$OKAPI_OUTPUT_O\"', outputs: {{o: file}}}}\n",
            ran.display()
        ));
    }
    sandbox.write("p.yaml", &pipeline);
}

#[test]
fn two_and_eight_runs_at_once_execute_each_action_once() {
    for runs in [2, 8] {
        let sandbox = Sandbox::new("");
        let nodes = 24;
        counting(&sandbox, nodes);
        let children: Vec<Child> = (0..runs)
            .map(|_| sandbox.start(&["run", "p.yaml", "--no-sandbox", "-j", "2"]))
            .collect();
        for child in children {
            let said = Said::of(child.wait_with_output().unwrap());
            assert_eq!(said.code, Some(0), "{}", said.stderr);
        }
        let executions = fs::read_dir(sandbox.path("ran")).unwrap().count();
        assert_eq!(executions, nodes, "with {runs} runs at once");
        assert_eq!(sandbox.okapi(&["cache", "verify"]).code, Some(0));
    }
}

/// Starts a run whose one command says its process number and then sleeps.
fn sleeping(script: &str) -> (Sandbox, Child, Pid) {
    let sandbox = Sandbox::new(&format!(
        "okapi: 1\nname: sleep\nnodes:\n  n:\n    stage: command\n    run: |\n      {script}\n    outputs: {{o: file}}\n"
    ));
    let fifo = sandbox.path("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    sandbox.edit("p.yaml", "FIFO", fifo.to_str().unwrap());
    let child = sandbox.start(&["run", "p.yaml", "--no-sandbox", "--grace", "1"]);
    let mut line = String::new();
    BufReader::new(fs::File::open(&fifo).unwrap()).read_line(&mut line).unwrap();
    let pid = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
    (sandbox, child, pid)
}

fn wait_until_gone(pid: Pid) {
    for _ in 0..1000 {
        // A zombie that nobody has waited for yet still counts as a process.
        let state = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        let zombie = state.is_ok_and(|stat| stat.contains(") Z"));
        if zombie || test_kill_process(pid).is_err() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("process {} is an orphan", pid.as_raw_nonzero());
}

#[test]
fn ctrl_c_ends_commands_politely_and_exits_with_130() {
    let (sandbox, child, pid) = sleeping(
        "trap 'echo was asked to stop >&2; exit 1' TERM; echo $$ > FIFO; sleep 600 & wait",
    );
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let said = Said::of(child.wait_with_output().unwrap());
    assert_eq!(said.code, Some(130), "{}", said.stderr);
    wait_until_gone(pid);
    let runs = sandbox.okapi(&["runs", "--json"]).json();
    assert_eq!(runs["runs"][0]["end"]["outcome"], "interrupted");
}

/// `nohup` once did not help: the run took the signal over, and ended by it.
#[test]
fn a_run_that_was_told_to_ignore_a_hang_up_goes_on() {
    let sandbox = Sandbox::new(
        "okapi: 1\nnodes:\n  n: {stage: command, run: 'echo > BEGUN; read go < GO; echo > \"$OKAPI_OUTPUT_O\"', outputs: {o: file}}\n",
    );
    for name in ["BEGUN", "GO"] {
        let fifo = sandbox.path(name);
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        sandbox.edit("p.yaml", name, fifo.to_str().unwrap());
    }
    let run = sandbox.command(&["run", "p.yaml", "--no-sandbox", "--grace", "1"]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(run.get_program());
    shell.args(run.get_args()).current_dir(sandbox.path(""));
    shell.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = shell.spawn().unwrap();
    fs::read(sandbox.path("BEGUN")).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
    assert_eq!(ignored & 1, 1, "it waits for what it was told to ignore");
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    // Open for reading, too, and until the end: so nobody is waited for, and what is written waits for the reader.
    let go = fs::OpenOptions::new().read(true).write(true).open(sandbox.path("GO"));
    let mut go = go.unwrap();
    std::io::Write::write_all(&mut go, b"go\n").unwrap();
    let said = Said::of(child.wait_with_output().unwrap());
    drop(go);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
}

#[test]
fn a_command_that_ignores_the_request_is_killed_after_the_grace_period() {
    let (_sandbox, child, pid) =
        sleeping("trap '' TERM; echo $$ > FIFO; while :; do sleep 1; done");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(Said::of(child.wait_with_output().unwrap()).code, Some(130));
    wait_until_gone(pid);
}

#[test]
fn a_grace_period_longer_than_a_day_is_refused() {
    // Added to the clock, it would overflow in the middle of an interrupt.
    let sandbox = Sandbox::new("");
    counting(&sandbox, 1);
    let said = sandbox.okapi(&["run", "p.yaml", "--grace", "18446744073709551615"]);
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("86400"), "{}", said.stderr);
}

#[test]
fn a_killed_okapi_leaves_no_orphan() {
    let (_sandbox, mut child, pid) = sleeping("echo $$ > FIFO; sleep 600");
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until_gone(pid);
}

/// It works in folders of the same names, into which the watchdog of the killed run looks for orphans.
#[test]
fn a_run_right_after_a_kill_keeps_its_commands() {
    let sandbox = Sandbox::new("");
    let ran = sandbox.path("ran");
    fs::create_dir_all(&ran).unwrap();
    sandbox.write(
        "p.yaml",
        &format!(
            "okapi: 1\nname: again\nnodes:\n  n:\n    for_each: {{n: [1, 2, 3, 4]}}\n    stage: command\n    run: mktemp {}/XXXXXX >&2; sleep 0.5; echo ${{each.n}} > \"$OKAPI_OUTPUT_O\"\n    outputs: {{o: text}}\n",
            ran.display()
        ),
    );
    let mut child = sandbox.start(&["run", "p.yaml", "--no-sandbox", "-j", "4"]);
    let begun = || fs::read_dir(&ran).unwrap().count();
    while begun() < 4 {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(sandbox.run_with(&["--no-sandbox", "-j", "4"]).len(), 4);
    assert_eq!(begun(), 8);
}

#[test]
fn what_a_script_leaves_in_the_background_ends_with_it() {
    let sandbox = Sandbox::new(
        "okapi: 1\nname: b\nnodes:\n  n: {stage: command, run: 'sleep 600 & echo $! > \"$OKAPI_OUTPUT_O\"', outputs: {o: text}}\n",
    );
    sandbox.run();
    let pid = sandbox.okapi(&["show", "p.yaml", "n"]).stdout.trim().parse().unwrap();
    wait_until_gone(Pid::from_raw(pid).unwrap());
}

/// Each run waits for nodes of the other and has no free slot when they are done.
#[test]
fn two_runs_with_more_nodes_than_slots_wait_for_each_other() {
    let sandbox = Sandbox::new(
        r#"
okapi: 1
nodes:
  n:
    for_each: {n: [1, 2, 3, 4, 5, 6, 7, 8]}
    stage: command
    run: sleep 0.4; echo ${each.n} > "$OKAPI_OUTPUT_O"
    outputs: {o: text}
"#,
    );
    let first = sandbox.start(&["run", "p.yaml", "-j", "2", "--progress", "json"]);
    std::thread::sleep(Duration::from_millis(200));
    let second = sandbox.start(&["run", "p.yaml", "-j", "2", "--progress", "json"]);
    let (first, second) = (first.wait_with_output().unwrap(), second.wait_with_output().unwrap());
    let (first, second) = (Said::of(first), Said::of(second));
    for said in [&first, &second] {
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        let settled = said
            .events()
            .iter()
            .filter(|event| {
                ["node_finished", "node_cached"].contains(&event["event"].as_str().unwrap())
            })
            .count();
        assert_eq!(settled, 8, "{}", said.stdout);
    }
    assert_eq!(first.executed().len() + second.executed().len(), 8);
}

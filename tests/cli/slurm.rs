//! Runs on a real cluster: what comes out is what comes out here, and whoever is killed, stopped or comes late costs time and no result.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::{Cluster, end, events, faketime, many, marks, slow, start, text, until};
use crate::sandbox::{Said, Sandbox};

#[test]
fn what_comes_out_of_jobs_is_what_comes_out_here() {
    let Some(cluster) = Cluster::start(&[]) else { return };
    let (here, there) = (many(), many());
    here.run_with(&["--lock"]);
    let said = cluster.run(&there, &["--lock"]);
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    assert_eq!(there.read("p.lock"), here.read("p.lock"));
    let submitted: BTreeMap<String, String> = events(&said, "node_submitted")
        .iter()
        .map(|event| (text(&event["node"]), text(&event["job"])))
        .collect();
    // Like instances went into the queue together, and what is to stay here stayed.
    let array = |n: u32| submitted[&format!("part[n={n}]")].split_once('_').unwrap().0;
    assert!((1..4).all(|n| array(n) == array(0)), "{submitted:?}");
    let expected =
        ["all", "part[n=0]", "part[n=1]", "part[n=2]", "part[n=3]", "seeds", "tiny", "tuned"];
    assert_eq!(submitted.keys().collect::<Vec<_>>(), expected);
    // Whoever asks teachers is one process, with one rate and one budget.
    assert_eq!(said.executed().iter().filter(|node| node.starts_with("translated")).count(), 2);
    // Curves and the log are those of any run.
    assert!(!events(&said, "node_measures").is_empty());
    let log = there.okapi(&["log", "last", "tuned"]);
    assert_eq!(log.code, Some(0), "{}", log.stderr);
    // Nothing is left of the jobs, and nothing is left to do.
    assert_eq!(fs::read_dir(there.path(".okapi/jobs/batches")).unwrap().count(), 0);
    assert!(cluster.run(&there, &[]).executed().is_empty());
    assert_eq!(there.okapi(&["audit", "p.yaml", "--locked"]).code, Some(0));
}

/// No clock of a node is compared with the one here: not that of jobs, nor that of the files that they write.
#[test]
fn clocks_of_nodes_that_are_wrong_do_no_harm() {
    let Some(faketime) = faketime() else { return };
    let Some(cluster) = Cluster::start(&[]) else { return };
    let here = many();
    here.run_with(&["--lock"]);
    for skew in ["-3h", "+40d"] {
        let there = many();
        let slurm = format!(
            "slurm: {{time: 5m, setup: 'export LD_PRELOAD={faketime} FAKETIME={skew}; date > {}'}}",
            there.path("date").display()
        );
        there.edit("p.yaml", "slurm: {time: 5m}", &slurm);
        there.edit(
            "p.yaml",
            "    resources: {cpu: 2, mem: 200M}",
            "    timeout: 60s\n    resources: {cpu: 2, mem: 200M}",
        );
        let said = cluster.run(&there, &["--lock"]);
        assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
        assert_eq!(there.read("p.lock"), here.read("p.lock"));
        // They were wrong indeed.
        let now = Command::new("date").output().unwrap().stdout;
        let hour = |text: &str| text.split(':').next().unwrap().to_owned();
        assert_ne!(hour(&there.read("date")), hour(&String::from_utf8(now).unwrap()));
        assert!(cluster.run(&there, &[]).executed().is_empty());
        let said = there.okapi(&["audit", "p.yaml", "--locked"]);
        assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
        assert_eq!(there.okapi(&["gc"]).code, Some(0));
        assert!(cluster.run(&there, &[]).executed().is_empty());
    }
}

#[test]
fn the_jobs_of_a_killed_coordinator_are_found_again() {
    let Some(cluster) = Cluster::start(&[]) else { return };
    let sandbox = slow(6, "");
    let mut child = start(&cluster, &sandbox);
    until("the jobs to begin", || marks(&sandbox).len() == 3);
    child.kill().unwrap();
    child.wait().unwrap();
    let said = end(start(&cluster, &sandbox));
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    // Each worked once, and the second run submitted none of them.
    assert_eq!(marks(&sandbox), ["1", "2", "3"]);
    assert_eq!(sandbox.published().len(), 3);
    assert_eq!(cluster.ask("squeue --noheader --array --states=all").lines().count(), 3);
    // Killed again when all has ended, and before anybody has looked.
    let sandbox = slow(2, "");
    let mut child = start(&cluster, &sandbox);
    until("the jobs to begin", || marks(&sandbox).len() == 3);
    child.kill().unwrap();
    child.wait().unwrap();
    until("the jobs to end", || cluster.ask("squeue --noheader").is_empty());
    let said = end(start(&cluster, &sandbox));
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    assert_eq!(marks(&sandbox), ["1", "2", "3"]);
}

#[test]
fn a_worker_that_is_killed_is_named_and_tried_again() {
    let Some(cluster) = Cluster::start(&[]) else { return };
    let kill_one = |sandbox: &Sandbox| {
        until("the jobs to begin", || marks(sandbox).len() == 3);
        let store = sandbox.path(".okapi").display().to_string();
        let listed =
            Command::new("pgrep").args(["-f", &format!("okapi worker --store {store}")]).output();
        let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
        let pid: i32 = listed.lines().next().unwrap().parse().unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    };
    let sandbox = slow(6, "    retries: 1");
    let child = start(&cluster, &sandbox);
    kill_one(&sandbox);
    let said = end(child);
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    let retried = events(&said, "node_retrying");
    assert_eq!(retried.len(), 1, "{}", said.stdout);
    assert!(text(&retried[0]["message"]).contains("without a result"), "{retried:?}");
    assert_eq!(marks(&sandbox).len(), 4);
    // Without another try it fails, and what did not fail is kept.
    let sandbox = slow(6, "");
    let child = start(&cluster, &sandbox);
    kill_one(&sandbox);
    let said = end(child);
    assert_eq!(said.code, Some(1), "{}", said.stdout);
    let said = end(start(&cluster, &sandbox));
    assert_eq!(said.code, Some(0), "{}", said.stdout);
    assert_eq!(said.executed().len(), 1);
}

#[test]
fn an_interrupt_cancels_the_jobs() {
    let Some(cluster) = Cluster::start(&[]) else { return };
    let sandbox = slow(60, "");
    let child = start(&cluster, &sandbox);
    until("the jobs to begin", || marks(&sandbox).len() == 3);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let said = end(child);
    assert_eq!(said.code, Some(130), "{}\n{}", said.stdout, said.stderr);
    until("the queue to be empty", || cluster.ask("squeue --noheader").is_empty());
    // Nothing of them is taken for running by the next run.
    sandbox.edit("p.yaml", "sleep 60", "sleep 0");
    assert_eq!(end(start(&cluster, &sandbox)).code, Some(0));
}

#[test]
fn a_failure_takes_back_what_only_waits() {
    let Some(cluster) = Cluster::start(&[]) else { return };
    // The first to begin takes the whole node, and fails while the others wait for it.
    let sandbox = slow(1, "");
    sandbox.edit("p.yaml", "mem: 200M", "cpu: 8, mem: 200M");
    sandbox.edit("p.yaml", "sleep 1;", "sleep 3; exit 3;");
    let said = end(start(&cluster, &sandbox));
    assert_eq!(said.code, Some(1), "{}\n{}", said.stdout, said.stderr);
    // The next one may have begun in the moment between, and then goes on.
    assert!(marks(&sandbox).len() < 3, "{}", said.stdout);
    until("the queue to be empty", || cluster.ask("squeue --noheader").is_empty());
}

#[test]
fn the_collector_leaves_a_store_alone_whose_jobs_may_be_at_work() {
    let Some(cluster) = Cluster::start(&[]) else { return };
    let sandbox = slow(5, "");
    let mut child = start(&cluster, &sandbox);
    until("the jobs to begin", || marks(&sandbox).len() == 3);
    child.kill().unwrap();
    child.wait().unwrap();
    let said = sandbox.okapi(&["gc"]);
    assert_eq!(said.code, Some(3), "{}", said.stdout);
    until("the jobs to end", || cluster.ask("squeue --noheader").is_empty());
    let said = sandbox.okapi(&["gc"]);
    assert_eq!(said.code, Some(3), "{}", said.stdout);
    assert!(said.stderr.contains("3 jobs of a cluster"), "{}", said.stderr);
    assert_eq!(end(start(&cluster, &sandbox)).code, Some(0));
    assert_eq!(marks(&sandbox), ["1", "2", "3"]);
    assert_eq!(sandbox.okapi(&["gc"]).code, Some(0));
}

#[test]
fn jobs_get_the_gpus_that_they_ask_for() {
    let Some(cluster) = Cluster::start(&[]) else { return };
    let sandbox = Sandbox::new(
        r#"
okapi: 1
name: gpus
nodes:
  work:
    for_each: {n: [1, 2, 3]}
    stage: command
    resources: {gpu: 1, mem: 200M}
    run: sleep ${each.n}; echo "$CUDA_VISIBLE_DEVICES" > "$OKAPI_OUTPUT_DATA"
    outputs: {data: text}
publish: {"results/${each.n}": work}
"#,
    );
    let said = cluster.run(&sandbox, &[]);
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    let seen = sandbox.published();
    let seen: Vec<&str> = seen.values().map(|it| std::str::from_utf8(it).unwrap().trim()).collect();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|gpu| ["0", "1"].contains(gpu)), "{seen:?}");
    // Here there is none, and `plan` says so.
    let said = sandbox.okapi(&["plan", "p.yaml", "--force", "work"]);
    assert!(said.stdout.contains("3 blocked"), "{}", said.stdout);
    let said = sandbox.okapi(&["plan", "p.yaml", "--force", "work", "--executor", "slurm"]);
    assert!(said.stdout.contains("3 to run"), "{}", said.stdout);
}

/// Whoever is told to stop and takes its time is not joined by another one that does the same.
#[test]
fn two_jobs_never_work_on_the_same_at_once() {
    let Some(cluster) = Cluster::start(&[]) else { return };
    let sandbox = Sandbox::new(
        r#"
okapi: 1
name: stubborn
nodes:
  work:
    stage: command
    pass_env: [MARK]
    resources: {mem: 200M}
    run: trap "" TERM; (echo one; echo begun >> "$MARK"; sleep 8; echo two) > "$OKAPI_OUTPUT_DATA"
    outputs: {data: text}
publish: {result: work}
"#,
    );
    sandbox.write("mark", "");
    let child = start(&cluster, &sandbox);
    until("the job to begin", || marks(&sandbox).len() == 1);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(end(child).code, Some(130));
    let said = end(start(&cluster, &sandbox));
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    assert_eq!(sandbox.read("result"), "one\ntwo\n");
    // Nor does this machine join a job.
    sandbox.edit("p.yaml", "echo two", "echo three");
    let mut child = start(&cluster, &sandbox);
    until("the job to begin", || marks(&sandbox).len() == 3);
    child.kill().unwrap();
    child.wait().unwrap();
    let mut command = sandbox.command(&["run", "p.yaml", "--no-sandbox", "--progress", "json"]);
    let said = Said::of(command.env("MARK", sandbox.path("mark")).output().unwrap());
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    assert!(said.stdout.contains("is waited for"), "{}", said.stdout);
    assert_eq!(sandbox.read("result"), "one\nthree\n");
}

#[test]
fn lines_before_a_job_are_heeded_when_they_fail_and_may_change_nothing_that_counts() {
    let Some(cluster) = Cluster::start(&[]) else { return };
    let sandbox = slow(0, "    slurm: {setup: 'no-such-module load cuda'}");
    let said = end(start(&cluster, &sandbox));
    assert_eq!(said.code, Some(1), "{}", said.stdout);
    let failed = &events(&said, "node_failed")[0];
    assert!(text(&failed["message"]).contains("before its work began"), "{failed}");
    assert!(failed["stderr_tail"].to_string().contains("no-such-module"), "{failed}");
    assert!(fs::read_to_string(text(&failed["log"])).unwrap().contains("no-such-module"));
    assert!(marks(&sandbox).is_empty());
    // What a login shell has is there.
    sandbox.write("home/.bash_profile", "module() { export LOADED=\"$2\"; }\n");
    sandbox.edit("p.yaml", "no-such-module load cuda", "module load cuda; test \"$LOADED\" = cuda");
    let mut command = cluster.command(&sandbox, &["--no-sandbox"]);
    command.env("MARK", sandbox.path("mark")).env("HOME", sandbox.path("home"));
    let said = Said::of(command.output().unwrap());
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    // Results are named by the values that the coordinator saw.
    sandbox.edit("p.yaml", "module load cuda; test \"$LOADED\" = cuda", "export MARK=/dev/null");
    sandbox.edit("p.yaml", "sleep 0", "sleep 0.1");
    let said = end(start(&cluster, &sandbox));
    assert_eq!(said.code, Some(1), "{}", said.stdout);
    let failed = &events(&said, "node_failed")[0];
    assert!(text(&failed["message"]).contains("the variable MARK"), "{failed}");
}

#[test]
fn only_an_interrupt_and_only_what_waits_is_taken_back() {
    let Some(cluster) = Cluster::start(&[]) else { return };
    // A machine that goes down ends its programs in order: the jobs are none of its business.
    let sandbox = slow(8, "");
    sandbox.edit("p.yaml", "sleep 8;", "echo working on ${each.n}; sleep 8;");
    let child = start(&cluster, &sandbox);
    until("the jobs to begin", || marks(&sandbox).len() == 3);
    // What they write can be read while they work.
    until("what the job writes", || {
        sandbox.okapi(&["log", "last", "work[n=2]"]).stdout.contains("working on 2")
    });
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let said = end(child);
    assert_eq!(said.code, Some(130), "{}", said.stdout);
    assert!(said.stdout.contains("goes on by itself"), "{}", said.stdout);
    let said = end(start(&cluster, &sandbox));
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    assert_eq!(marks(&sandbox), ["1", "2", "3"]);
    // Of jobs that are found again one has failed: the others go on.
    let sandbox = slow(8, "");
    sandbox.edit("p.yaml", "sleep 8;", "sleep 2; test ${each.n} != 2; sleep 6;");
    sandbox.edit("p.yaml", "run: echo", "run: set -e; echo");
    let mut child = start(&cluster, &sandbox);
    until("the jobs to begin", || marks(&sandbox).len() == 3);
    child.kill().unwrap();
    child.wait().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let said = end(start(&cluster, &sandbox));
    assert_eq!(said.code, Some(1), "{}", said.stdout);
    assert_eq!(said.executed().len(), 2, "{}", said.stdout);
    assert_eq!(marks(&sandbox), ["1", "2", "3"]);
}

#[test]
fn jobs_that_nobody_comes_back_for_can_be_forgotten() {
    let Some(cluster) = Cluster::start(&[]) else { return };
    let sandbox = Sandbox::new(
        r#"
okapi: 1
name: two
nodes:
  first: {stage: command, run: 'echo 1 > "$OKAPI_OUTPUT_DATA"', outputs: {data: text}}
  second:
    stage: command
    inputs: {first: first}
    pass_env: [MARK]
    run: echo 2 >> "$MARK"; sleep 60; echo 2 > "$OKAPI_OUTPUT_DATA"
    outputs: {data: text}
"#,
    );
    sandbox.write("mark", "");
    let mut child = start(&cluster, &sandbox);
    until("the second job to begin", || marks(&sandbox).len() == 1);
    child.kill().unwrap();
    child.wait().unwrap();
    // While it works nothing is collected; when it has gone, nothing keeps the collector away.
    let gc = |more: &[&str]| {
        let mut command = sandbox.command(&[&["gc"][..], more].concat());
        Said::of(command.env("SLURM_CONF", cluster.conf()).output().unwrap())
    };
    assert_eq!(gc(&[]).code, Some(3));
    cluster.ask("scancel --me");
    until("the queue to be empty", || cluster.ask("squeue --noheader").is_empty());
    let said = gc(&[]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    // A result that nobody has taken up yet is asked about.
    sandbox.edit("p.yaml", "sleep 60", "sleep 1");
    let mut child = start(&cluster, &sandbox);
    until("the second job to begin", || marks(&sandbox).len() == 2);
    child.kill().unwrap();
    child.wait().unwrap();
    until("the queue to be empty", || cluster.ask("squeue --noheader").is_empty());
    let said = gc(&[]);
    assert_eq!(said.code, Some(3), "{}", said.stdout);
    assert!(said.stderr.contains("1 with a result"), "{}", said.stderr);
    assert_eq!(gc(&["--forget-jobs"]).code, Some(0));
    assert_eq!(gc(&[]).code, Some(0));
}

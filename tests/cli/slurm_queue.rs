//! What a real cluster does to jobs: takes them or does not, ends them, loses its node, or does not answer.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use crate::cluster::{Cluster, LATE, end, events, marks, slow, start, text, until};
use crate::sandbox::{Said, Sandbox};

#[test]
fn a_job_whose_time_is_up_says_so_and_goes_on_where_it_was() {
    let Some(cluster) = Cluster::start(&[]) else { return };
    // The shortest time that Slurm gives is a minute.
    let sandbox = slow(1, "    slurm: {partition: short, time: 30s}\n    retries: 1");
    sandbox.edit("p.yaml", "{n: [1, 2, 3]}", "{n: [1]}");
    let run = "if test -e \"$OKAPI_SCRATCH/half\"; then sleep 1; else mkdir -p \"$OKAPI_SCRATCH\"; touch \"$OKAPI_SCRATCH/half\"; sleep 300; fi;";
    sandbox.edit("p.yaml", "sleep 1;", run);
    let said = end(start(&cluster, &sandbox));
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    let retried = events(&said, "node_retrying");
    assert_eq!(retried.len(), 1, "{}", said.stdout);
    assert!(text(&retried[0]["message"]).contains("ran into its time limit"), "{retried:?}");
}

#[test]
fn a_submission_without_an_answer_is_looked_for_before_it_is_made_again() {
    let Some(cluster) = Cluster::start(&[]) else { return };
    let lie = "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1";
    for submits in [true, false] {
        let sandbox = slow(1, "");
        // The first call is answered by nothing, whether or not it was heard.
        let first = if submits { "/usr/bin/sbatch \"$@\" > /dev/null;" } else { "" };
        let script = format!(
            "echo x >> $HERE/calls\nif [ \"$(wc -l < $HERE/calls)\" = 1 ]; then {first} {lie}; fi\nexec /usr/bin/sbatch \"$@\"\n"
        );
        let mut command = cluster.command_with_sbatch(&sandbox, &["--no-sandbox"], &script);
        let said = Said::of(command.env("MARK", sandbox.path("mark")).output().unwrap());
        assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
        assert_eq!(marks(&sandbox), ["1", "2", "3"]);
        let expected = if submits { 1 } else { 2 };
        assert_eq!(sandbox.read("bin/calls").lines().count(), expected);
    }
}

#[test]
fn what_a_cluster_never_takes_fails_at_once_with_a_remedy() {
    let Some(cluster) = Cluster::start(&[]) else { return };
    for (options, words) in [
        ("slurm: {partition: nowhere}", ["partition", "sinfo"]),
        ("slurm: {gres: 'gpu:7'}", ["node configuration", "resources"]),
        ("slurm: {extra: [--no-such-option]}", ["no-such-option", "extra"]),
    ] {
        let sandbox = slow(0, &format!("    {options}"));
        let begun = Instant::now();
        let said = cluster.run(&sandbox, &["--keep-going"]);
        assert_eq!(said.code, Some(1), "{}", said.stdout);
        let failed = events(&said, "node_failed");
        assert_eq!(failed.len(), 3, "{}", said.stdout);
        let told = failed[0].to_string();
        assert!(words.iter().all(|word| told.contains(word)), "{options}: {told}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{options}");
    }
}

#[test]
fn a_full_queue_is_waited_for() {
    let Some(cluster) = Cluster::start(&[
        ("OKAPI_TEST_SLURM_MAX_JOBS", "4"),
        ("OKAPI_TEST_SLURM_MIN_JOB_AGE", "2"),
    ]) else {
        return;
    };
    let held = ["sbatch", "--parsable", "--mem=10M", "--wrap", "sleep 4"];
    for _ in 0..3 {
        let mut command = Command::new(held[0]);
        command
            .args(&held[1..])
            .env("SLURM_CONF", cluster.conf())
            .current_dir(cluster.folder.path());
        assert!(command.status().unwrap().success());
    }
    let sandbox = slow(0, "");
    let said = end(start(&cluster, &sandbox));
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    let told: BTreeSet<String> =
        events(&said, "node_log").iter().map(|event| text(&event["line"])).collect();
    assert!(told.iter().any(|line| line.contains("takes no more jobs for now")), "{told:?}");
    assert_eq!(marks(&sandbox), ["1", "2", "3"]);
}

#[test]
fn a_drained_node_and_a_controller_that_is_away_cost_time_only() {
    let Some(cluster) = Cluster::start(&[]) else { return };
    cluster.ask("scontrol update nodename=node1 state=drain reason=test");
    let sandbox = slow(4, "");
    let child = start(&cluster, &sandbox);
    std::thread::sleep(Duration::from_secs(7));
    assert!(marks(&sandbox).is_empty());
    cluster.ask("scontrol update nodename=node1 state=resume");
    until("the jobs to begin", || marks(&sandbox).len() == 3);
    // What the jobs leave behind is found without it.
    kill_process(cluster.controller(), Signal::STOP).unwrap();
    let said = end(child);
    kill_process(cluster.controller(), Signal::CONT).unwrap();
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    let told: Vec<String> =
        events(&said, "node_log").iter().map(|event| text(&event["line"])).collect();
    assert!(told.iter().any(|line| line.contains("drained")), "{told:?}");
    assert_eq!(marks(&sandbox), ["1", "2", "3"]);
}

#[test]
fn what_runs_out_of_memory_gets_more() {
    let Some(cluster) = Cluster::start(&[]) else { return };
    let pipeline = |retries: u32| {
        format!(
            r#"
okapi: 1
name: large
nodes:
  work:
    stage: command
    resources: {{mem: 60M}}
    retries: {retries}
    slurm: {{more_memory: 10}}
    run: (head -c 200000000 /dev/zero; sleep 5) | tail -n 1 | wc -c > "$OKAPI_OUTPUT_DATA"
    outputs: {{data: text}}
"#
        )
    };
    let sandbox = Sandbox::new(&pipeline(0));
    let said = cluster.run(&sandbox, &[]);
    assert_eq!(said.code, Some(1), "{}", said.stdout);
    let failed = &events(&said, "node_failed")[0];
    assert!(text(&failed["message"]).contains("ran out of memory"), "{failed}");
    assert!(text(&failed["hint"]).contains("more_memory"), "{failed}");
    sandbox.write("p.yaml", &pipeline(1));
    let said = cluster.run(&sandbox, &[]);
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
}

#[test]
fn a_timeout_counts_from_the_moment_at_which_a_job_begins() {
    let Some(cluster) = Cluster::start(&[]) else { return };
    // Only one fits at a time, so the last waits longer than it may work.
    let sandbox = slow(3, "    timeout: 6s");
    sandbox.edit("p.yaml", "mem: 200M", "cpu: 8, mem: 200M");
    let said = end(start(&cluster, &sandbox));
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    sandbox.edit("p.yaml", "sleep 3", "sleep 60");
    let said = end(start(&cluster, &sandbox));
    assert_eq!(said.code, Some(1), "{}", said.stdout);
    let failed = &events(&said, "node_failed")[0];
    assert!(text(&failed["message"]).contains("timed out after 6 s"), "{failed}");
}

#[test]
fn a_job_that_somebody_cancels_is_not_submitted_again() {
    let Some(cluster) = Cluster::start(&[]) else { return };
    let sandbox = slow(60, "    retries: 2");
    let mut command = cluster.command(&sandbox, &["--no-sandbox", "--keep-going"]);
    // Options that people keep in their environment hide no job from us.
    command.env("SQUEUE_PARTITION", "short").env("SQUEUE_FORMAT", "%i");
    let child = command.env("MARK", sandbox.path("mark")).spawn().unwrap();
    until("the jobs to begin", || marks(&sandbox).len() == 3);
    cluster.ask("scancel --me");
    let said = end(child);
    assert_eq!(said.code, Some(1), "{}\n{}", said.stdout, said.stderr);
    let failed = events(&said, "node_failed");
    assert_eq!(failed.len(), 3, "{}", said.stdout);
    assert!(failed.iter().all(|it| text(&it["message"]).contains("was cancelled")), "{failed:?}");
    assert!(events(&said, "node_retrying").is_empty());
    assert_eq!(marks(&sandbox).len(), 3);
}

/// A controller that is busy may take a submission up after its program has given up on it.
#[test]
fn a_submission_that_comes_through_late_is_not_worked_on_twice() {
    let Some(cluster) = Cluster::start(&[]) else { return };
    let sandbox = slow(1, "");
    let mut command = cluster.command_with_sbatch(&sandbox, &["--no-sandbox"], LATE);
    command.env("MARK", sandbox.path("mark"));
    let said = Said::of(command.output().unwrap());
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    std::thread::sleep(Duration::from_secs(6));
    until("the queue to be empty", || cluster.ask("squeue --noheader").is_empty());
    assert_eq!(marks(&sandbox), ["1", "2", "3"]);
}

#[test]
fn more_jobs_than_a_queue_holds_go_in_by_and_by() {
    let Some(cluster) = Cluster::start(&[
        ("OKAPI_TEST_SLURM_MAX_JOBS", "5"),
        ("OKAPI_TEST_SLURM_MIN_JOB_AGE", "2"),
    ]) else {
        return;
    };
    let sandbox = slow(0, "");
    sandbox.edit("p.yaml", "{n: [1, 2, 3]}", "{n: [1, 2, 3, 4, 5, 6, 7, 8]}");
    let said = end(start(&cluster, &sandbox));
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    assert_eq!(marks(&sandbox).len(), 8);
}

#[test]
fn a_job_that_makes_room_for_another_is_tried_again() {
    let Some(cluster) = Cluster::start(&[]) else { return };
    for ignores in ["", "trap '' TERM; "] {
        let sandbox = slow(0, "");
        sandbox.edit("p.yaml", "{n: [1, 2, 3]}", "{n: [1]}");
        sandbox.edit("p.yaml", "mem: 200M", "cpu: 8, mem: 200M");
        let run = format!(
            "run: \"{ignores}echo ${{each.n}} >> $MARK; test $(wc -l < $MARK) -gt 1 || sleep 60; echo 1 > $OKAPI_OUTPUT_DATA\""
        );
        let line = sandbox
            .read("p.yaml")
            .lines()
            .find(|it| it.contains("run:"))
            .unwrap()
            .trim()
            .to_owned();
        sandbox.edit("p.yaml", &line, &run);
        let child = start(&cluster, &sandbox);
        until("the job to begin", || marks(&sandbox).len() == 1);
        let mut command = Command::new("sbatch");
        command.args(["--partition=high", "--cpus-per-task=8", "--mem=100M", "--wrap", "sleep 2"]);
        command.env("SLURM_CONF", cluster.conf()).current_dir(cluster.folder.path());
        assert!(command.status().unwrap().success());
        let said = end(child);
        assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
        let retried = events(&said, "node_retrying");
        assert_eq!(retried.len(), 1, "{}", said.stdout);
        assert!(text(&retried[0]["message"]).contains("was preempted"), "{retried:?}");
    }
}

#[test]
fn a_node_that_goes_down_is_named_and_the_work_is_done_elsewhere_or_later() {
    let Some(cluster) = Cluster::start(&[]) else { return };
    let sandbox = slow(6, "");
    sandbox.edit("p.yaml", "{n: [1, 2, 3]}", "{n: [1]}");
    let child = start(&cluster, &sandbox);
    until("the job to begin", || marks(&sandbox).len() == 1);
    cluster.ask("scontrol update nodename=node1 state=down reason=test");
    std::thread::sleep(Duration::from_secs(1));
    cluster.ask("scontrol update nodename=node1 state=resume");
    let said = end(child);
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    let retried = events(&said, "node_retrying");
    assert_eq!(retried.len(), 1, "{}", said.stdout);
    assert!(text(&retried[0]["message"]).contains("the node went down"), "{retried:?}");
    assert!(!text(&retried[0]["message"]).contains("()"), "{retried:?}");
    assert_eq!(sandbox.published().len(), 1);
}

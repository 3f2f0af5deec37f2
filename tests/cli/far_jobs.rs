//! Jobs on a node that does not see the project nor its store: everything comes and goes by way of a remote.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::{Cluster, LATE, end, events, files_in, many, outside, slow, text, until};
use crate::moto::Moto;
use crate::proxy::{Fault, Proxy};
use crate::sandbox::{Said, Sandbox};

#[test]
fn nodes_that_do_not_see_the_store_get_everything_by_way_of_a_remote() {
    let (here, there, outside) = (many(), many(), outside());
    let hidden = there.path("").display().to_string();
    let Some(cluster) = Cluster::start(&[("OKAPI_TEST_SLURM_HIDDEN", &hidden)]) else { return };
    let node = outside.path().join("node").display().to_string();
    let slurm = format!(
        "slurm: {{time: 5m, store: remote, setup: 'export TMPDIR={node}; ls {hidden} > {node}/seen'}}"
    );
    there.edit("p.yaml", "slurm: {time: 5m}", &slurm);
    // Without a remote that may be written nothing is begun.
    for arguments in [&[][..], &["--remote", "r", "--remote-read-only"]] {
        let said = cluster.run(&there, arguments);
        assert_eq!(said.code, Some(2), "{}\n{}", said.stdout, said.stderr);
        assert!(said.stderr.contains("store: remote"), "{}", said.stderr);
    }
    here.run_with(&["--lock"]);
    let remote = outside.path().join("remote");
    let said = cluster.run(&there, &["--lock", "--remote", remote.to_str().unwrap()]);
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    assert_eq!(there.read("p.lock"), here.read("p.lock"));
    let submitted: BTreeSet<String> =
        events(&said, "node_submitted").iter().map(|event| text(&event["node"])).collect();
    assert_eq!(submitted.len(), 8, "{submitted:?}");
    assert!(!events(&said, "node_measures").is_empty());
    assert_eq!(there.okapi(&["log", "last", "tuned"]).code, Some(0));
    // The node saw nothing of the project, and nothing is left there or of the jobs.
    assert_eq!(fs::read_to_string(outside.path().join("node/seen")).unwrap(), "");
    assert_eq!(fs::read_dir(outside.path().join("node")).unwrap().count(), 1);
    assert_eq!(files_in(&remote.join("okapi/v1/job")), 0);
    let said = cluster.run(&there, &["--remote", remote.to_str().unwrap()]);
    assert!(said.executed().is_empty());
}

/// With a service as remote whose credentials the jobs need, and which fails for a while.
#[test]
fn jobs_by_way_of_a_remote_outlive_the_coordinator_and_failures_of_the_remote() {
    let Some(moto) = Moto::start() else { return };
    let proxy = Proxy::start(moto.address);
    proxy.follow(|_| Fault::None);
    let (sandbox, outside) = (slow(6, "    slurm: {store: remote}"), outside());
    let hidden = sandbox.path("").display().to_string();
    let Some(cluster) = Cluster::start(&[("OKAPI_TEST_SLURM_HIDDEN", &hidden)]) else { return };
    let mark = outside.path().join("mark");
    let marks = || fs::read_to_string(&mark).unwrap().lines().count();
    let start = || {
        let mut command = cluster.command(&sandbox, &["--no-sandbox"]);
        command
            .env("AWS_ENDPOINT_URL", &proxy.address)
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "SECRET-key")
            .env("AWS_REGION", "us-east-1")
            .env("OKAPI_REMOTE", "s3://okapi/team");
        command.env("MARK", &mark).spawn().unwrap()
    };
    let mut child = start();
    until("the jobs to begin", || marks() == 3);
    child.kill().unwrap();
    child.wait().unwrap();
    // What the jobs send now is not taken; they try again.
    proxy.follow(|it| if it.path.contains("/ended/") { Fault::Status(500) } else { Fault::None });
    let child = start();
    std::thread::sleep(Duration::from_secs(12));
    proxy.follow(|_| Fault::None);
    let said = end(child);
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    assert!(!said.stdout.contains("SECRET") && !said.stderr.contains("SECRET"));
    assert_eq!(marks(), 3, "{}", said.stdout);
    assert_eq!(sandbox.published().len(), 3);
    assert_eq!(cluster.ask("squeue --noheader --array --states=all").lines().count(), 3);
}

/// Of a job that cannot be done as its node lacks what it needs, the run says why.
#[test]
fn what_a_far_job_lacks_is_said_by_the_run() {
    let (sandbox, outside) = (slow(0, "    slurm: {store: remote}"), outside());
    let hidden = sandbox.path("").display().to_string();
    let Some(cluster) = Cluster::start(&[("OKAPI_TEST_SLURM_HIDDEN", &hidden)]) else { return };
    sandbox.edit("p.yaml", "store: remote", "store: remote, setup: 'export TMPDIR=/nowhere'");
    let remote = outside.path().join("remote").display().to_string();
    let said = cluster.run(&sandbox, &["--remote", &remote]);
    assert_eq!(said.code, Some(1), "{}\n{}", said.stdout, said.stderr);
    assert!(said.stdout.contains("/nowhere"), "{}", said.stdout);
}

#[test]
fn what_far_jobs_make_waits_for_the_run_that_wants_it_and_nothing_else_takes_its_place() {
    let (sandbox, outside) = (slow(2, "    slurm: {store: remote}"), outside());
    sandbox.edit("p.yaml", "{n: [1, 2, 3]}", "{n: [1]}");
    let hidden = sandbox.path("").display().to_string();
    let Some(cluster) = Cluster::start(&[("OKAPI_TEST_SLURM_HIDDEN", &hidden)]) else { return };
    let mark = outside.path().join("mark");
    let marks = || fs::read_to_string(&mark).unwrap().lines().count();
    let remote = outside.path().join("remote");
    let start = |key: &str| {
        let mut command =
            cluster.command(&sandbox, &["--no-sandbox", "--remote", remote.to_str().unwrap()]);
        // Keys of teachers are no business of the cluster's.
        command.env("AZURE_OPENAI_API_KEY", key).env("MARK", &mark).spawn().unwrap()
    };
    let mut child = start("SECRET");
    until("the job to begin", || marks() == 1);
    child.kill().unwrap();
    child.wait().unwrap();
    until("the queue to be empty", || cluster.ask("squeue --noheader").is_empty());
    // It is on the remote, and the collector knows that.
    let mut gc = sandbox.command(&["gc"]);
    let said = Said::of(gc.env("SLURM_CONF", cluster.conf()).output().unwrap());
    assert_eq!(said.code, Some(3), "{}", said.stdout);
    let said = end(start("SECRET"));
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    assert_eq!(marks(), 1);
    // What a try says late that was given up takes nothing from the next.
    cluster.ask("scontrol update nodename=node1 state=drain reason=test");
    sandbox.edit(
        "p.yaml",
        "sleep 2",
        "env > $OKAPI_OUTPUT_DATA.env; mv $OKAPI_OUTPUT_DATA.env $MARK.env; sleep 1",
    );
    let child = start("SECRET");
    let jobs = |part: &str| {
        let place = fs::read_dir(remote.join("okapi/v1/job")).ok()?.flatten().next()?.path();
        fs::read_dir(place.join(part)).ok()?.flatten().next().map(|it| it.path())
    };
    until("the work to be sent", || jobs("work").is_some());
    let work = jobs("work").unwrap();
    let ended = work.parent().unwrap().with_file_name("ended");
    fs::create_dir_all(&ended).unwrap();
    let late = r#"{"okapi_outcome":1,"try_name":"another","job":"999","outcome":{"stopped":{"at_limit":false}}}"#;
    fs::write(ended.join(work.file_name().unwrap()), late).unwrap();
    until("what is late to be thrown away", || jobs("ended").is_none());
    cluster.ask("scontrol update nodename=node1 state=resume");
    let said = end(child);
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    assert_eq!(marks(), 2);
    assert!(!fs::read_to_string(outside.path().join("mark.env")).unwrap().contains("SECRET"));
}

/// A remote that lies costs time.
#[test]
fn what_is_damaged_on_its_way_to_a_far_job_is_sent_again() {
    let sandbox = Sandbox::new(
        r#"
okapi: 1
name: damaged
slurm: {store: remote}
nodes:
  here: {stage: command, executor: local, run: 'echo what is read > "$OKAPI_OUTPUT_DATA"', outputs: {data: text}}
  there:
    stage: command
    inputs: {data: here}
    resources: {mem: 200M}
    run: cp "$OKAPI_INPUT_DATA" "$OKAPI_OUTPUT_COPY"; echo 1 >> "$OKAPI_OUTPUT_COPY"
    outputs: {copy: text}
publish: {result: there}
"#,
    );
    let outside = outside();
    let hidden = sandbox.path("").display().to_string();
    let Some(cluster) = Cluster::start(&[("OKAPI_TEST_SLURM_HIDDEN", &hidden)]) else { return };
    let remote = outside.path().join("remote");
    let arguments = ["--remote", remote.to_str().unwrap()];
    assert_eq!(cluster.run(&sandbox, &arguments).code, Some(0));
    assert!(damage(&remote) > 0);
    sandbox.edit("p.yaml", "echo 1 >>", "echo 2 >>");
    let said = cluster.run(&sandbox, &arguments);
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    let retried = events(&said, "node_retrying");
    assert_eq!(retried.len(), 1, "{}", said.stdout);
    assert!(text(&retried[0]["message"]).contains("is damaged there"), "{retried:?}");
    assert_eq!(sandbox.read("result"), "what is read\n2\n");
}

/// What a far job writes, from its first line: while it works, when it fails, and as far as it came when it is killed.
#[test]
fn the_log_of_a_far_job_is_read_as_that_of_any_other() {
    let sandbox = Sandbox::new(
        r#"
okapi: 1
name: talks
slurm: {store: remote, time: 5m}
nodes:
  work:
    for_each: {end: [fails, waits]}
    stage: command
    pass_env: [GO]
    resources: {mem: 200M}
    run: |
      echo it begins; seq 1 40 >&2
      if [ ${each.end} = waits ]; then sleep 600; fi
      while ! [ -e "$GO" ]; do sleep 0.2; done
      exit 3
    outputs: {data: text}
"#,
    );
    let outside = outside();
    let hidden = sandbox.path("").display().to_string();
    let Some(cluster) = Cluster::start(&[("OKAPI_TEST_SLURM_HIDDEN", &hidden)]) else { return };
    let (remote, go) = (outside.path().join("remote"), outside.path().join("go"));
    let arguments = ["--no-sandbox", "--keep-going", "--remote", remote.to_str().unwrap()];
    let child = cluster.command(&sandbox, &arguments).env("GO", &go).spawn().unwrap();
    let log = |end: &str| sandbox.okapi(&["log", "last", &format!("work[end={end}]")]).stdout;
    let is_whole = |log: &str| log.contains("it begins") && log.contains("\n1\n2\n3\n");
    for node in ["fails", "waits"] {
        until("the job to be heard", || is_whole(&log(node)));
    }
    // One ends by itself, the other is killed with all that belongs to it.
    fs::write(&go, "").unwrap();
    until("one job to end", || cluster.ask("squeue --noheader --array").lines().count() == 1);
    let worker = format!("okapi worker --place {}", place(&sandbox));
    let listed = Command::new("pgrep").args(["-f", &worker]).output().unwrap();
    let pid = String::from_utf8(listed.stdout).unwrap().trim().parse().unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let said = end(child);
    assert_eq!(said.code, Some(1), "{}\n{}", said.stdout, said.stderr);
    let failed = events(&said, "node_failed");
    assert_eq!(failed.len(), 2, "{}", said.stdout);
    for event in &failed {
        let node = text(&event["node"]);
        assert_eq!(event["stderr_tail"].as_array().unwrap().last().unwrap(), "40", "{event}");
        let said = sandbox.okapi(&["log", "last", &node]);
        assert!(said.code == Some(0) && is_whole(&said.stdout), "{}\n{}", said.stdout, said.stderr);
    }
    let how = |end: &str| {
        let of = |it: &&serde_json::Value| text(&it["node"]).contains(end);
        text(&failed.iter().find(of).unwrap()["message"])
    };
    assert!(how("fails").contains("status 3") && !how("waits").contains("status"), "{failed:?}");
}

/// A remote that damages what a job has sent: it is made again, and written over what is there.
#[test]
fn what_a_far_job_made_and_is_damaged_is_made_and_sent_again() {
    let (sandbox, outside) = (slow(1, "    slurm: {store: remote}"), outside());
    sandbox.edit("p.yaml", "{n: [1, 2, 3]}", "{n: [1]}");
    let hidden = sandbox.path("").display().to_string();
    let Some(cluster) = Cluster::start(&[("OKAPI_TEST_SLURM_HIDDEN", &hidden)]) else { return };
    let (remote, mark) = (outside.path().join("remote"), outside.path().join("mark"));
    let marks = || fs::read_to_string(&mark).unwrap().lines().count();
    let start = || {
        let arguments = ["--no-sandbox", "--remote", remote.to_str().unwrap()];
        cluster.command(&sandbox, &arguments).env("MARK", &mark).spawn().unwrap()
    };
    let mut child = start();
    until("the job to begin", || marks() == 1);
    child.kill().unwrap();
    child.wait().unwrap();
    until("the job to end", || cluster.ask("squeue --noheader").is_empty());
    assert!(damage(&remote) > 0);
    let said = end(start());
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    let retried = events(&said, "node_retrying");
    assert_eq!(retried.len(), 1, "{}", said.stdout);
    assert!(text(&retried[0]["message"]).contains("is damaged there"), "{retried:?}");
    assert_eq!((marks(), sandbox.read("results/1")), (2, "1\n".to_owned()));
    // Nobody finds anything damaged there any more.
    let said = sandbox.okapi(&["cache", "verify", &format!("--remote={}", remote.display())]);
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
}

/// The name of a store on its remote.
fn place(sandbox: &Sandbox) -> String {
    let jobs = fs::read_dir(sandbox.path(".okapi/jobs")).unwrap().flatten();
    let is_place = |it: &fs::DirEntry| it.file_name().to_string_lossy().starts_with("place-");
    fs::read_to_string(jobs.into_iter().find(is_place).unwrap().path()).unwrap()
}

/// A remote that goes away here and comes back, as a folder does that is mounted: it looks like an empty one.
#[test]
fn what_a_far_job_made_is_waited_for_when_the_remote_goes_away() {
    let (sandbox, outside) = (slow(0, "    slurm: {store: remote}"), outside());
    sandbox.edit("p.yaml", "{n: [1, 2, 3]}", "{n: [1]}");
    sandbox.edit("p.yaml", "sleep 0;", "echo the first line >&2; sleep 1; exit 4;");
    let hidden = sandbox.path("").display().to_string();
    let Some(cluster) = Cluster::start(&[("OKAPI_TEST_SLURM_HIDDEN", &hidden)]) else { return };
    let (remote, mark) = (outside.path().join("remote"), outside.path().join("mark"));
    let marks = || fs::read_to_string(&mark).unwrap().lines().count();
    let arguments = ["--no-sandbox", "--remote", remote.to_str().unwrap()];
    let child = cluster.command(&sandbox, &arguments).env("MARK", &mark).spawn().unwrap();
    let coordinator = Pid::from_child(&child);
    until("the job to begin", || marks() == 1);
    kill_process(coordinator, Signal::STOP).unwrap();
    until("the job to end", || cluster.ask("squeue --noheader").is_empty());
    let away = outside.path().join("away");
    fs::rename(&remote, &away).unwrap();
    fs::create_dir(&remote).unwrap();
    kill_process(coordinator, Signal::CONT).unwrap();
    // Long enough for one that is gone to be given up.
    std::thread::sleep(Duration::from_secs(20));
    fs::remove_dir_all(&remote).unwrap();
    fs::rename(&away, &remote).unwrap();
    let said = end(child);
    let failed = events(&said, "node_failed");
    assert_eq!(failed.len(), 1, "{}\n{}", said.stdout, said.stderr);
    assert!(text(&failed[0]["message"]).contains("status 4"), "{failed:?}");
    assert!(said.stdout.contains("the remote fails, and is tried again"), "{}", said.stdout);
    let said = sandbox.okapi(&["log", "last", "work[n=1]"]);
    assert_eq!(said.stdout, "the first line\n", "{}", said.stderr);
    assert_eq!(files_in(&remote.join("okapi/v1/job")), 0);
}

/// Both jobs of a submission that was made twice work, each in a store of its own: whichever ends first is taken.
#[test]
fn a_far_job_that_was_submitted_twice_has_one_result() {
    let (sandbox, outside) = (slow(20, "    slurm: {store: remote}"), outside());
    sandbox.edit("p.yaml", "{n: [1, 2, 3]}", "{n: [1]}");
    let hidden = sandbox.path("").display().to_string();
    let Some(cluster) = Cluster::start(&[("OKAPI_TEST_SLURM_HIDDEN", &hidden)]) else { return };
    let (remote, mark) = (outside.path().join("remote"), outside.path().join("mark"));
    let arguments = ["--no-sandbox", "--remote", remote.to_str().unwrap()];
    let mut command = cluster.command_with_sbatch(&sandbox, &arguments, LATE);
    // So late that it is made again, and so early that the other is at work still.
    let said = Said::of(command.env("MARK", &mark).env("LATE", "45").output().unwrap());
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    assert!(events(&said, "node_retrying").is_empty(), "{}", said.stdout);
    assert_eq!(fs::read_to_string(&mark).unwrap(), "1\n1\n");
    until("the queue to be empty", || cluster.ask("squeue --noheader").is_empty());
    assert_eq!(files_in(&remote.join("okapi/v1/job")), 0);
}

/// What a job says of its own end comes by way of the remote, and then nothing of it is there any more.
#[test]
fn a_far_job_that_somebody_cancels_is_named_at_once() {
    let (sandbox, outside) = (slow(300, "    slurm: {store: remote}"), outside());
    sandbox.edit("p.yaml", "{n: [1, 2, 3]}", "{n: [1]}");
    let hidden = sandbox.path("").display().to_string();
    let Some(cluster) = Cluster::start(&[("OKAPI_TEST_SLURM_HIDDEN", &hidden)]) else { return };
    let (remote, mark) = (outside.path().join("remote"), outside.path().join("mark"));
    let arguments = ["--no-sandbox", "--remote", remote.to_str().unwrap()];
    let child = cluster.command(&sandbox, &arguments).env("MARK", &mark).spawn().unwrap();
    until("the job to begin", || fs::read_to_string(&mark).unwrap() == "1\n");
    cluster.ask("scancel --me");
    let said = end(child);
    assert_eq!(said.code, Some(1), "{}\n{}", said.stdout, said.stderr);
    let failed = events(&said, "node_failed");
    assert!(text(&failed[0]["message"]).contains("was cancelled"), "{failed:?}");
    assert!(!said.stdout.contains("the remote fails"), "{}", said.stdout);
    assert_eq!(files_in(&remote.join("okapi/v1/job")), 0);
}

/// A coordinator that is killed while it submits does not know the job's name.
#[test]
fn a_far_job_without_a_known_name_is_cancelled_and_forgotten() {
    let (sandbox, outside) = (slow(300, "    slurm: {store: remote}"), outside());
    sandbox.edit("p.yaml", "{n: [1, 2, 3]}", "{n: [1, 2]}");
    let hidden = sandbox.path("").display().to_string();
    let Some(cluster) = Cluster::start(&[("OKAPI_TEST_SLURM_HIDDEN", &hidden)]) else { return };
    let (remote, mark) = (outside.path().join("remote"), outside.path().join("mark"));
    let arguments = ["--no-sandbox", "--remote", remote.to_str().unwrap()];
    let never_ends = "/usr/bin/sbatch \"$@\" > /dev/null; exec sleep 30\n";
    let mut command = cluster.command_with_sbatch(&sandbox, &arguments, never_ends);
    let mut child = command.env("MARK", &mark).spawn().unwrap();
    until("the jobs to begin", || fs::read_to_string(&mark).unwrap().lines().count() == 2);
    child.kill().unwrap();
    child.wait().unwrap();
    let gc = |more: &[&str]| {
        let mut command = sandbox.command(&[&["gc"][..], more].concat());
        command.env("SLURM_CONF", cluster.conf()).env("OKAPI_REMOTE", &remote);
        Said::of(command.output().unwrap())
    };
    let said = gc(&[]);
    assert!(said.code == Some(3) && said.stderr.contains("2 at work"), "{}", said.stderr);
    let said = gc(&["--forget-jobs"]);
    assert_eq!((said.code, &*said.stderr), (Some(0), ""), "{}", said.stdout);
    // A job that ends takes back what it said meanwhile.
    until("nothing to be left", || {
        cluster.ask("squeue --noheader").is_empty() && files_in(&remote.join("okapi/v1/job")) == 0
    });
}

/// Changes all objects of a remote; they are as long as before. Gives how many there are.
fn damage(remote: &Path) -> usize {
    let mut damaged = 0;
    for shard in fs::read_dir(remote.join("okapi/v1/object")).unwrap().flatten() {
        for object in fs::read_dir(shard.path()).unwrap().flatten() {
            let mut bytes = fs::read(object.path()).unwrap();
            bytes.iter_mut().for_each(|byte| *byte ^= 1);
            fs::write(object.path(), bytes).unwrap();
            damaged += 1;
        }
    }
    damaged
}

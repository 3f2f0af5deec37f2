//! Jobs on a node that does not see the project nor its store: everything comes and goes by way of a remote.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use crate::cluster::{Cluster, end, events, files_in, many, outside, slow, text, until};
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
    // Everything is as long as it was, and something else.
    let objects = remote.join("okapi/v1/object");
    for shard in fs::read_dir(objects).unwrap().flatten() {
        for object in fs::read_dir(shard.path()).unwrap().flatten() {
            let mut bytes = fs::read(object.path()).unwrap();
            bytes.iter_mut().for_each(|byte| *byte ^= 1);
            fs::write(object.path(), bytes).unwrap();
        }
    }
    sandbox.edit("p.yaml", "echo 1 >>", "echo 2 >>");
    let said = cluster.run(&sandbox, &arguments);
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    let retried = events(&said, "node_retrying");
    assert_eq!(retried.len(), 1, "{}", said.stdout);
    assert!(text(&retried[0]["message"]).contains("is damaged there"), "{retried:?}");
    assert_eq!(sandbox.read("result"), "what is read\n2\n");
}

//! Runs on a real cluster of one node (`tests/slurm/cluster.sh`): what comes out is what comes out here, and whatever happens to
//! jobs, the coordinator or the cluster costs time and no result. Without Slurm's programs, or not as root, these say so and end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::moto::Moto;
use crate::proxy::{Fault, Proxy};
use crate::sandbox::{Said, Sandbox};

/// A cluster of this test alone.
struct Cluster {
    folder: tempfile::TempDir,
    port: u16,
    settings: Vec<(&'static str, String)>,
}

impl Cluster {
    /// Starts one; `None` where that cannot be done.
    #[expect(clippy::print_stderr, reason = "whoever reads what tests say should know")]
    fn start(settings: &[(&'static str, &str)]) -> Option<Cluster> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let is_there = |program: &str| {
            ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"]
                .iter()
                .any(|folder| fs::exists(format!("{folder}/{program}")).unwrap_or(false))
        };
        let needed = ["slurmctld", "slurmd", "sbatch", "munged"];
        if !rustix::process::geteuid().is_root() || !needed.into_iter().all(is_there) {
            eprintln!("skipped: it takes root and Slurm ({})", needed.join(", "));
            return None;
        }
        // Tests run beside each other, in processes of their own.
        let place =
            std::process::id() % 5_000 + 5_000 * u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let cluster = Cluster {
            folder: tempfile::tempdir().unwrap(),
            port: 20_000 + 2 * (place % 5_000) as u16,
            settings: settings.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(),
        };
        cluster.control("start");
        Some(cluster)
    }

    fn control(&self, verb: &str) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/slurm/cluster.sh");
        let mut command = Command::new("bash");
        command.args([script, verb]).arg(self.folder.path());
        command.env("OKAPI_TEST_SLURM_PORT", self.port.to_string());
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        assert!(command.stdin(Stdio::null()).status().unwrap().success(), "cluster.sh {verb}");
    }

    fn conf(&self) -> String {
        self.folder.path().join("slurm.conf").display().to_string()
    }

    /// What a program of Slurm says.
    fn ask(&self, line: &str) -> String {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().unwrap());
        let output = command.args(words).env("SLURM_CONF", self.conf()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The daemon that keeps the queue.
    fn controller(&self) -> Pid {
        let pid = fs::read_to_string(self.folder.path().join("slurmctld.pid")).unwrap();
        Pid::from_raw(pid.trim().parse().unwrap()).unwrap()
    }

    fn command(&self, sandbox: &Sandbox, more: &[&str]) -> Command {
        let arguments =
            [&["run", "p.yaml", "--executor", "slurm", "--progress", "json"], more].concat();
        let mut command = sandbox.command(&arguments);
        command.env("SLURM_CONF", self.conf());
        command
    }

    fn run(&self, sandbox: &Sandbox, more: &[&str]) -> Said {
        Said::of(self.command(sandbox, more).output().unwrap())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.control("stop");
    }
}

/// The events of a kind.
fn events(said: &Said, kind: &str) -> Vec<Value> {
    said.events().into_iter().filter(|event| event["event"] == kind).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Waits until something holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(90), "waited for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A remote, and other folders that nodes see which do not see the project.
fn outside() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["remote", "node"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("mark"), "").unwrap();
    folder
}

/// What lies in a folder, however deep.
fn files_in(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|it| if it.path().is_dir() { files_in(&it.path()) } else { 1 }).sum()
}

/// Nodes that write a line when they run, and take a while.
fn slow(seconds: u32, more: &str) -> Sandbox {
    let sandbox = Sandbox::new(&format!(
        r#"
okapi: 1
name: slow
nodes:
  work:
    for_each: {{n: [1, 2, 3]}}
    stage: command
    pass_env: [MARK]
    resources: {{mem: 200M}}
{more}
    run: echo ${{each.n}} >> "$MARK"; sleep {seconds}; echo ${{each.n}} > "$OKAPI_OUTPUT_DATA"
    outputs: {{data: text}}
publish: {{"results/${{each.n}}": work}}
"#
    ));
    sandbox.write("mark", "");
    sandbox
}

/// Starts a run of such nodes that see the file that they write to.
fn start(cluster: &Cluster, sandbox: &Sandbox) -> Child {
    let mut command = cluster.command(sandbox, &["--no-sandbox"]);
    command.env("MARK", sandbox.path("mark")).spawn().unwrap()
}

fn marks(sandbox: &Sandbox) -> Vec<String> {
    let mut marks: Vec<String> = sandbox.read("mark").lines().map(str::to_owned).collect();
    marks.sort();
    marks
}

fn end(child: Child) -> Said {
    Said::of(child.wait_with_output().unwrap())
}

const MANY: &str = r#"
okapi: 1
name: many
slurm: {time: 5m}
teachers:
  chat: {kind: offline}
nodes:
  seeds: {stage: import, params: {path: seeds.jsonl, kind: instructions}}
  translated:
    for_each: {lang: [de, ru]}
    stage: translate
    inputs: {data: seeds}
    prompts: {translate: translate.j2}
    teacher: chat
    params: {language: "${each.lang}", max_reject_rate: 1}
  part:
    for_each: {n: [0, 1, 2, 3]}
    stage: command
    inputs: {rows: seeds}
    files: [part.sh]
    resources: {cpu: 2, mem: 200M}
    run: sh part.sh ${each.n} < "$OKAPI_INPUT_ROWS" > "$OKAPI_OUTPUT_ROWS"
    outputs: {rows: instructions}
  all: {stage: mix, inputs: {data: part}, params: {order: shuffled}, seed: 3}
  tiny:
    stage: init_model
    inputs: {corpus: "all:data"}
    params: {family: bloom, layers: 1, hidden: 16, heads: 2, vocabulary: 300}
    seed: 1
    resources: {cpu: 2, mem: 500M}
  tuned:
    stage: sft
    inputs: {model: tiny, examples: "all:data"}
    prompts: {prompt: prompt.j2}
    params: {epochs: 2, batch: 4, learning_rate: 0.01, max_length: 64}
    seed: 1
    resources: {mem: 500M}
  here: {stage: command, executor: local, run: 'echo ${SLURM_JOB_ID:-none} > "$OKAPI_OUTPUT_T"', outputs: {t: text}}
publish: {results/all: "all:data", results/tuned: "tuned:model", results/here: here}
"#;

fn many() -> Sandbox {
    let sandbox = Sandbox::new(MANY);
    let row = |n: u32| format!("{{\"instruction\":\"Say {n}.\",\"output\":\"It is {n}.\"}}\n");
    sandbox.write("seeds.jsonl", &(0..40).map(row).collect::<String>());
    sandbox.write("part.sh", "awk \"NR % 4 == $1\"\n");
    let translate = concat!(env!("CARGO_MANIFEST_DIR"), "/prompts/translate.j2");
    sandbox.write("translate.j2", &fs::read_to_string(translate).unwrap());
    sandbox.write("prompt.j2", "{{ instruction }}\n{{ input }}\n");
    sandbox
}

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

/// The library that shows programs another time.
#[expect(clippy::print_stderr, reason = "whoever reads what tests say should know")]
fn faketime() -> Option<String> {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut libraries = folders.map(|it| it.path().join("faketime/libfaketime.so.1"));
    let library = libraries.find(|it| it.exists());
    if library.is_none() {
        eprintln!("skipped: it takes libfaketime");
    }
    Some(library?.display().to_string())
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
fn a_submission_without_an_answer_is_looked_for_before_it_is_made_again() {
    let Some(cluster) = Cluster::start(&[]) else { return };
    let lie = "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1";
    for submits in [true, false] {
        let sandbox = slow(1, "");
        // The first call is answered by nothing, whether or not it was heard.
        let first = if submits { "/usr/bin/sbatch \"$@\" > /dev/null;" } else { "" };
        let calls = sandbox.path("calls").display().to_string();
        let script = format!(
            "#!/bin/sh\necho x >> {calls}\nif [ \"$(wc -l < {calls})\" = 1 ]; then {first} {lie}; fi\nexec /usr/bin/sbatch \"$@\"\n"
        );
        sandbox.write("bin/sbatch", &script);
        let mut mode = fs::metadata(sandbox.path("bin/sbatch")).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
        fs::set_permissions(sandbox.path("bin/sbatch"), mode).unwrap();
        let mut command = cluster.command(&sandbox, &["--no-sandbox"]);
        let path = format!("{}:{}", sandbox.path("bin").display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).env("MARK", sandbox.path("mark"));
        let said = Said::of(command.output().unwrap());
        assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
        assert_eq!(marks(&sandbox), ["1", "2", "3"]);
        let expected = if submits { 1 } else { 2 };
        assert_eq!(sandbox.read("calls").lines().count(), expected);
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
    let script = "#!/bin/sh\ncat > /tmp/.okapi-late-$PPID\nif [ ! -e \"$CALLED\" ]; then touch \"$CALLED\"\n\
        (sleep 25; /usr/bin/sbatch \"$@\" < /tmp/.okapi-late-$PPID) > /dev/null 2>&1 &\n\
        echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1\nfi\n\
        exec /usr/bin/sbatch \"$@\" < /tmp/.okapi-late-$PPID\n";
    let script =
        script.replace("/tmp/.okapi-late-$PPID", &sandbox.path("script").display().to_string());
    sandbox.write(
        "bin/sbatch",
        &script.replace("$CALLED", &sandbox.path("called").display().to_string()),
    );
    let mut mode = fs::metadata(sandbox.path("bin/sbatch")).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
    fs::set_permissions(sandbox.path("bin/sbatch"), mode).unwrap();
    let mut command = cluster.command(&sandbox, &["--no-sandbox"]);
    let path = format!("{}:{}", sandbox.path("bin").display(), std::env::var("PATH").unwrap());
    command.env("PATH", path).env("MARK", sandbox.path("mark"));
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

//! A real cluster of one node (`tests/slurm/cluster.sh`) for a test alone, and pipelines for it. Without Slurm's programs, or not as root,
//! tests say so and end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use serde_json::Value;

use crate::sandbox::{Said, Sandbox};

/// A cluster of this test alone.
pub(crate) struct Cluster {
    pub(crate) folder: tempfile::TempDir,
    port: u16,
    settings: Vec<(&'static str, String)>,
}

impl Cluster {
    /// Starts one; `None` where that cannot be done.
    #[expect(clippy::print_stderr, reason = "whoever reads what tests say should know")]
    pub(crate) fn start(settings: &[(&'static str, &str)]) -> Option<Cluster> {
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

    pub(crate) fn control(&self, verb: &str) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/slurm/cluster.sh");
        let mut command = Command::new("bash");
        command.args([script, verb]).arg(self.folder.path());
        command.env("OKAPI_TEST_SLURM_PORT", self.port.to_string());
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        assert!(command.stdin(Stdio::null()).status().unwrap().success(), "cluster.sh {verb}");
    }

    pub(crate) fn conf(&self) -> String {
        self.folder.path().join("slurm.conf").display().to_string()
    }

    /// What a program of Slurm says.
    pub(crate) fn ask(&self, line: &str) -> String {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().unwrap());
        let output = command.args(words).env("SLURM_CONF", self.conf()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The daemon that keeps the queue.
    pub(crate) fn controller(&self) -> Pid {
        let pid = fs::read_to_string(self.folder.path().join("slurmctld.pid")).unwrap();
        Pid::from_raw(pid.trim().parse().unwrap()).unwrap()
    }

    pub(crate) fn command(&self, sandbox: &Sandbox, more: &[&str]) -> Command {
        let arguments =
            [&["run", "p.yaml", "--executor", "slurm", "--progress", "json"], more].concat();
        let mut command = sandbox.command(&arguments);
        command.env("SLURM_CONF", self.conf());
        command
    }

    /// The same with another program in the place of `sbatch`, in which `$HERE` is its folder.
    pub(crate) fn command_with_sbatch(
        &self,
        sandbox: &Sandbox,
        more: &[&str],
        script: &str,
    ) -> Command {
        let here = sandbox.path("bin");
        let script = script.replace("$HERE", &here.display().to_string());
        sandbox.write("bin/sbatch", &format!("#!/bin/sh\n{script}"));
        let mut mode = fs::metadata(here.join("sbatch")).unwrap().permissions();
        mode.set_mode(0o755);
        fs::set_permissions(here.join("sbatch"), mode).unwrap();
        let mut command = self.command(sandbox, more);
        let path = format!("{}:{}", here.display(), std::env::var("PATH").unwrap());
        command.env("PATH", path);
        command
    }

    pub(crate) fn run(&self, sandbox: &Sandbox, more: &[&str]) -> Said {
        Said::of(self.command(sandbox, more).output().unwrap())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.control("stop");
    }
}

/// The events of a kind.
pub(crate) fn events(said: &Said, kind: &str) -> Vec<Value> {
    said.events().into_iter().filter(|event| event["event"] == kind).collect()
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(90), "waited for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A remote, and other folders that nodes see which do not see the project.
pub(crate) fn outside() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["remote", "node"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("mark"), "").unwrap();
    folder
}

/// What lies in a folder, however deep.
pub(crate) fn files_in(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|it| if it.path().is_dir() { files_in(&it.path()) } else { 1 }).sum()
}

/// An `sbatch` whose first call has no answer, and comes through after `LATE` seconds.
pub(crate) const LATE: &str = "cat > $HERE/script
if [ ! -e $HERE/called ]; then
  touch $HERE/called
  (sleep ${LATE:-25}; /usr/bin/sbatch \"$@\" < $HERE/script) > /dev/null 2>&1 &
  echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1
fi
exec /usr/bin/sbatch \"$@\" < $HERE/script
";

/// Nodes that write a line when they run, and take a while.
pub(crate) fn slow(seconds: u32, more: &str) -> Sandbox {
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
pub(crate) fn start(cluster: &Cluster, sandbox: &Sandbox) -> Child {
    let mut command = cluster.command(sandbox, &["--no-sandbox"]);
    command.env("MARK", sandbox.path("mark")).spawn().unwrap()
}

pub(crate) fn marks(sandbox: &Sandbox) -> Vec<String> {
    let mut marks: Vec<String> = sandbox.read("mark").lines().map(str::to_owned).collect();
    marks.sort();
    marks
}

pub(crate) fn end(child: Child) -> Said {
    Said::of(child.wait_with_output().unwrap())
}

pub(crate) const MANY: &str = r#"
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

pub(crate) fn many() -> Sandbox {
    let sandbox = Sandbox::new(MANY);
    let row = |n: u32| format!("{{\"instruction\":\"Say {n}.\",\"output\":\"It is {n}.\"}}\n");
    sandbox.write("seeds.jsonl", &(0..40).map(row).collect::<String>());
    sandbox.write("part.sh", "awk \"NR % 4 == $1\"\n");
    let translate = concat!(env!("CARGO_MANIFEST_DIR"), "/prompts/translate.j2");
    sandbox.write("translate.j2", &fs::read_to_string(translate).unwrap());
    sandbox.write("prompt.j2", "{{ instruction }}\n{{ input }}\n");
    sandbox
}

/// The library that shows programs another time.
#[expect(clippy::print_stderr, reason = "whoever reads what tests say should know")]
pub(crate) fn faketime() -> Option<String> {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut libraries = folders.map(|it| it.path().join("faketime/libfaketime.so.1"));
    let library = libraries.find(|it| it.exists());
    if library.is_none() {
        eprintln!("skipped: it takes libfaketime");
    }
    Some(library?.display().to_string())
}

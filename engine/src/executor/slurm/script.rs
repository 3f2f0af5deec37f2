//! What `sbatch` is told: options, and the script of a job.

use std::path::{Path, PathBuf};

use okapi_cache::ActionDigest;

use super::JobSettings;
use crate::executor::job_folder::JobFolders;
use crate::graph::Resources;
use crate::placement::SlurmOptions;

/// What jobs have in common that can be submitted at once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Likeness {
    pub(super) node: String,
    pub(super) options: Vec<String>,
    pub(super) setup: String,
    /// Variables that a job takes from the coordinator, beside those that all take; with their values.
    pub(super) env: Vec<(String, String)>,
    /// The program, if the node is to find it elsewhere than this one is.
    pub(super) okapi: Option<PathBuf>,
    /// Whether what it reads and makes comes and goes by way of a remote.
    pub(super) by_mail: bool,
}

/// What is added to a node's timeout where no time is asked for: starting and storing take some.
const MARGIN_MS: u64 = 180_000;

/// The time to ask for, if any, milliseconds.
pub(super) fn time_limit(options: &SlurmOptions, timeout_ms: Option<u64>) -> Option<u64> {
    options.time_ms.or_else(|| Some(timeout_ms? + MARGIN_MS))
}

/// Options for what a job needs.
pub(super) fn options_for(
    resources: Resources,
    options: &SlurmOptions,
    limit_ms: Option<u64>,
) -> Vec<String> {
    let processors = resources.cpu_milli.div_ceil(1000).max(1);
    let mut words = vec![format!("--cpus-per-task={processors}")];
    if resources.memory > 0 {
        words.push(format!("--mem={}M", resources.memory.div_ceil(1 << 20)));
    }
    match (&options.gres, resources.gpu) {
        (Some(gres), _) => words.push(format!("--gres={gres}")),
        (None, 0) => {}
        (None, gpus) => words.push(format!("--gres=gpu:{gpus}")),
    }
    if let Some(limit) = limit_ms {
        words.push(format!("--time={}", limit.div_ceil(60_000).max(1)));
        // Before the end, so that the job can say that it was the time.
        let early = (limit / 10_000).clamp(5, 60);
        words.push(format!("--signal=B:TERM@{early}"));
    }
    for (name, value) in [
        ("partition", &options.partition),
        ("account", &options.account),
        ("qos", &options.qos),
        ("constraint", &options.constraint),
    ] {
        words.extend(value.iter().map(|value| format!("--{name}={value}")));
    }
    words.extend(options.extra.iter().cloned());
    words
}

/// Variables that all jobs take over: those with which this program was found and started.
const TAKEN_OVER: [&str; 7] =
    ["PATH", "HOME", "USER", "LOGNAME", "LANG", "LD_LIBRARY_PATH", "RUST_BACKTRACE"];

/// Variables that the jobs of a batch take over beside [`TAKEN_OVER`], with their values.
pub(super) fn env_of_batch(like: &Likeness, settings: &JobSettings) -> Vec<(String, String)> {
    let mail = settings.mail.as_ref().filter(|_| like.by_mail);
    like.env.iter().chain(mail.iter().flat_map(|mail| &mail.env)).cloned().collect()
}

/// All options of a batch of so many jobs.
pub(super) fn options_of_batch(
    like: &Likeness,
    batch: &str,
    count: usize,
    folders: &JobFolders,
    settings: &JobSettings,
) -> Vec<String> {
    // A percent sign begins a pattern there.
    let logs = folders.batch(batch).join("log-").display().to_string().replace('%', "%%");
    let place = if count > 1 { "%a" } else { "0" };
    let env = env_of_batch(like, settings);
    let names = TAKEN_OVER.into_iter().chain(env.iter().map(|(name, _)| name.as_str()));
    // The folder is not seen there.
    let output = if like.by_mail { "/dev/null".to_owned() } else { format!("{logs}{place}") };
    let mut words = vec![
        format!("--job-name=okapi-{}", like.node),
        format!("--comment={batch}"),
        format!("--output={output}"),
        "--open-mode=append".to_owned(),
        "--ntasks=1".to_owned(),
        // A job that is lost is submitted anew, with all that was learnt.
        "--no-requeue".to_owned(),
        "--chdir=/".to_owned(),
        format!("--export={}", names.collect::<Vec<_>>().join(",")),
    ];
    if count > 1 {
        words.push(format!("--array=0-{}", count - 1));
    }
    words.extend(like.options.iter().cloned());
    words
}

/// The script of a batch. This program takes the shell's place, so that signals reach it.
pub(super) fn script(
    like: &Likeness,
    batch: &str,
    actions: &[ActionDigest],
    settings: &JobSettings,
    store: &Path,
) -> String {
    let quote = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', "'\\''"));
    // What a person types at a prompt, such as `module load`, has to be there: that is what login shells read.
    let shell = if like.setup.is_empty() { "sh" } else { "bash -l" };
    let mut text = format!("#!/bin/{shell}\n# Jobs of okapi: {}.\n", like.node.replace('\n', " "));
    if !like.setup.is_empty() {
        text.push_str("set -e\n");
        text.push_str(like.setup.trim_end());
        text.push('\n');
    }
    let okapi = quote(like.okapi.as_ref().unwrap_or(&settings.okapi));
    let task = "\"${SLURM_ARRAY_TASK_ID:-0}\"";
    match settings.mail.as_ref().filter(|_| like.by_mail) {
        None => text.push_str(&format!(
            "exec {okapi} worker --store {} --batch '{batch}' --index {task}\n",
            quote(store),
        )),
        // The list of the batch is not seen there, but this script is.
        Some(mail) => {
            text.push_str(&format!("case {task} in\n"));
            for (index, action) in actions.iter().enumerate() {
                text.push_str(&format!("{index}) action={action} ;;\n"));
            }
            text.push_str(&format!(
                "esac\nexec {okapi} worker --place '{}' --action \"$action\" --remote-timeout {}\n",
                mail.place,
                mail.timeout.as_secs(),
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_does_not_see_the_store_is_told_all_that_settings_say_of_the_remote() {
        let folder = tempfile::tempdir().unwrap();
        let named = folder.path().display().to_string();
        let address = okapi_remote::Address::parse(&named, folder.path()).unwrap();
        let remote = okapi_remote::Remote::open(&address, &okapi_remote::Options::default());
        let mail = super::super::Mail {
            remote: std::sync::Arc::new(remote.unwrap()),
            place: "here".to_owned(),
            env: vec![("OKAPI_REMOTE".to_owned(), named)],
            timeout: std::time::Duration::from_secs(90),
        };
        let settings =
            JobSettings { okapi: "/bin/okapi".into(), mail: Some(mail), ..JobSettings::default() };
        let action = ActionDigest(okapi_cache::Digest::of(b"work"));
        let mut like = Likeness {
            node: "node".to_owned(),
            options: Vec::new(),
            setup: String::new(),
            env: Vec::new(),
            okapi: None,
            by_mail: true,
        };
        let told = |like: &Likeness| script(like, "batch", &[action], &settings, Path::new("/s"));
        let line =
            "exec '/bin/okapi' worker --place 'here' --action \"$action\" --remote-timeout 90\n";
        assert!(told(&like).ends_with(line), "{}", told(&like));
        like.by_mail = false;
        assert!(told(&like).contains("--store '/s'"), "{}", told(&like));
    }

    #[test]
    fn resources_become_options() {
        let resources = Resources { cpu_milli: 2500, memory: (3 << 30) + 1, gpu: 2 };
        let options = SlurmOptions {
            partition: Some("gpu".into()),
            extra: vec!["--exclusive".into()],
            ..SlurmOptions::default()
        };
        let limit = time_limit(&options, Some(600_000));
        let words = options_for(resources, &options, limit);
        let expected = [
            "--cpus-per-task=3",
            "--mem=3073M",
            "--gres=gpu:2",
            "--time=13",
            "--signal=B:TERM@60",
            "--partition=gpu",
            "--exclusive",
        ];
        assert_eq!(words, expected);
        let half = Resources { cpu_milli: 500, memory: 0, gpu: 0 };
        let options = SlurmOptions { gres: Some("gpu:a100:1".into()), ..SlurmOptions::default() };
        assert_eq!(options_for(half, &options, None), ["--cpus-per-task=1", "--gres=gpu:a100:1"]);
    }
}

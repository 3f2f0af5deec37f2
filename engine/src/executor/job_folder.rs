//! What the coordinator of a run and the jobs of a cluster tell each other: files in the store, which both see.
//!
//! ```text
//! jobs/<action digest>/job.json        what is to be done; written before the job is submitted
//! jobs/<action digest>/submitted.json  the cluster's name for the job
//! jobs/<action digest>/reports.jsonl   what the job says while it works
//! jobs/batches/<name>/                 what was submitted at once: the script, a line for each job, what the jobs wrote
//! jobs/ended/<action digest>.json      what came of it, until the coordinator has seen it
//! jobs/locks/<action digest>           locked by whoever works on it (`action_lock`)
//! jobs/place-<number of the folder>    the store's name on a remote, if jobs come and go by way of one (`mailbox`)
//! ```
//!
//! A file of `ended/` is whole when it has its name, and what it refers to is in the store before it: it is the truth of what came
//! of a job, whatever the cluster says. One folder for all of them, so that one look finds those that are new.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use okapi_cache::{ActionDigest, Artifact, Digest, Store, StoreError, process_name};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::job_cause::JobCause;
use super::local::{Execution, ExecutionError, Job};
use crate::clock::unix_ms;
use crate::spend::Spend;
use crate::stage_context::{Report, StageError, StageSuccess};

/// The version of these files.
pub(crate) const VERSION: u32 = 1;

/// The folders of a store in which jobs are told of.
#[derive(Debug, Clone)]
pub(crate) struct JobFolders {
    root: PathBuf,
}

/// Writes one of these files, which is whole when it has its name.
pub(crate) fn write_whole(
    store: &Store,
    path: &Path,
    value: &impl Serialize,
) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(value).map_err(|error| StoreError::io(path, error.into()))?;
    store.write_file(path, &bytes)
}

impl JobFolders {
    pub(crate) fn of(store: &Store) -> JobFolders {
        JobFolders { root: store.jobs_folder() }
    }

    /// Makes what all jobs share.
    pub(crate) fn create(&self) -> io::Result<()> {
        fs::create_dir_all(self.ended())?;
        fs::create_dir_all(self.root.join("batches"))
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn job(&self, action: &ActionDigest) -> PathBuf {
        self.root.join(action.to_string())
    }

    pub(crate) fn batch(&self, name: &str) -> PathBuf {
        self.root.join("batches").join(name)
    }

    fn ended(&self) -> PathBuf {
        self.root.join("ended")
    }

    pub(crate) fn outcome(&self, action: &ActionDigest) -> PathBuf {
        self.ended().join(format!("{action}.json"))
    }

    /// Puts what came of a job, which is known now, where it is not found again; or, for the run after one that was killed then,
    /// back.
    pub(crate) fn put_aside(&self, action: &ActionDigest, is_known: bool) {
        let (one, other) = (self.outcome(action), self.job(action).join(OUTCOME));
        let (from, to) = if is_known { (one, other) } else { (other, one) };
        // Where it is not, there is nothing to put.
        let _ = fs::rename(from, to);
    }

    /// The name of the store among those that share a remote. A copy of its files has another one, for what comes for the one would be lost
    /// to the other.
    pub(crate) fn place(&self, store: &Store) -> Result<String, StoreError> {
        let made = fs::create_dir_all(&self.root).and_then(|()| fs::metadata(&self.root));
        let folder = made.map_err(|error| StoreError::io(&self.root, error))?;
        let path = self.root.join(format!("{PLACE}-{}", folder.ino()));
        let io = |error| StoreError::io(&path, error);
        let known = || fs::read_to_string(&path).map(|text| text.trim().to_owned());
        match known() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other.map_err(io),
        }
        let name = Digest::of(format!("{}-{}", process_name(), unix_ms()).as_bytes()).to_string();
        let name = &name[..16];
        let new = self.root.join(format!("new-{name}"));
        store.write_file(&new, name.as_bytes())?;
        // Whoever is the first gives the name.
        let linked = fs::hard_link(&new, &path);
        let _ = fs::remove_file(&new);
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(io(error)),
            _ => known().map_err(io),
        }
    }

    /// The actions whose jobs have ended, and of which that is not known yet.
    pub(crate) fn all_ended(&self) -> io::Result<Vec<ActionDigest>> {
        let mut actions = Vec::new();
        for entry in fs::read_dir(self.ended())? {
            let name = entry?.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(".json"));
            actions.extend(name.and_then(|name| name.parse::<ActionDigest>().ok()));
        }
        Ok(actions)
    }

    /// Forgets that a job was submitted, and what it said.
    pub(crate) fn forget_try(&self, action: &ActionDigest) {
        // What is not there need not be removed.
        for name in [SUBMITTED, REPORTS, OUTCOME] {
            let _ = fs::remove_file(self.job(action).join(name));
        }
        let _ = fs::remove_file(self.outcome(action));
    }

    /// Removes what was written of batches none of whose jobs anybody waits for.
    pub(crate) fn sweep_batches(&self) {
        let batches = fs::read_dir(self.root.join("batches")).into_iter().flatten().flatten();
        for batch in batches {
            let list = fs::read_to_string(batch.path().join(LIST)).unwrap_or_default();
            let mut actions = list.lines().filter_map(|line| line.parse::<ActionDigest>().ok());
            if !actions.any(|action| self.job(&action).exists()) {
                // The next sweep finds what stays.
                let _ = fs::remove_dir_all(batch.path());
            }
        }
    }

    /// Forgets a job: its result is in the store proper, or it failed for good.
    pub(crate) fn remove(&self, action: &ActionDigest) {
        // What stays behind is of an action that has a result: it is never looked at.
        let _ = fs::remove_dir_all(self.job(action));
        let _ = fs::remove_file(self.outcome(action));
    }
}

/// Reads a file that was written at once; `None` if it is not there, or not what it should be.
pub(crate) fn read_whole<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// What is to be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct JobFile {
    pub(crate) okapi_job: u32,
    pub(crate) job: Job,
    /// The variables whose values the job takes from its own environment.
    pub(crate) pass_env: Vec<String>,
    /// How many GPUs it takes of those that the cluster gives it.
    pub(crate) gpus: u32,
    /// The time after which the work is stopped, milliseconds.
    pub(crate) timeout_ms: Option<u64>,
    /// The time that the cluster was asked for, if any, milliseconds.
    pub(crate) limit_ms: Option<u64>,
    /// What commands do not see; `None` if they see everything.
    pub(crate) hidden: Option<Vec<PathBuf>>,
    /// Version and source revision of the okapi that says so: no other does the work.
    pub(crate) program: String,
    /// Tells this try from others of the same.
    pub(crate) try_name: String,
    /// Objects that are damaged on the remote by way of which what it makes comes: it sends them anew.
    #[serde(default)]
    pub(crate) damaged: Vec<Digest>,
}

impl JobFile {
    /// All that the work reads.
    pub(crate) fn reads(&self) -> Vec<Artifact> {
        let inputs = self.job.inputs.iter().flat_map(|input| &input.items);
        let sources = self.job.files.iter().chain(self.job.prompts.iter().map(|(_, it)| it));
        inputs.map(|(_, it)| *it).chain(sources.map(|it| it.artifact)).collect()
    }
}

/// The cluster's name for a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Submitted {
    /// `17`, or `17_3` for one of an array; `None` between the moment before it is submitted and the one after.
    pub(crate) job: Option<String>,
    /// The batch that it is in.
    pub(crate) batch: String,
    /// Its place in it.
    pub(crate) index: usize,
    /// The store's name on the remote by way of which what it makes comes, if it does.
    #[serde(default)]
    pub(crate) place: Option<String>,
}

/// What came of a job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct OutcomeFile {
    pub(crate) okapi_outcome: u32,
    /// The try that it is of.
    pub(crate) try_name: String,
    /// The cluster's name for the job that says so.
    pub(crate) job: String,
    pub(crate) outcome: JobOutcome,
}

/// An execution elsewhere, or why there is none.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum JobOutcome {
    Done {
        outputs: Vec<Artifact>,
        metrics: BTreeMap<String, f64>,
        duration_ms: u64,
        log: Option<Digest>,
        environment: BTreeMap<String, String>,
    },
    Failed {
        message: String,
        hint: Option<String>,
        /// Of a command: how it ended, and the last lines of its stderr.
        command: Option<(String, Vec<String>)>,
        transient: bool,
    },
    TimedOut {
        after_ms: u64,
    },
    /// What it was sent did not arrive as it was.
    Unreceived {
        message: String,
        hint: Option<String>,
    },
    /// A signal ended it.
    Stopped {
        /// Whether the time that the cluster gave it was nearly up.
        at_limit: bool,
    },
}

impl JobOutcome {
    /// As the job tells it.
    pub(crate) fn of(
        ended: Result<Execution, ExecutionError>,
        at_limit: bool,
        environment: BTreeMap<String, String>,
    ) -> JobOutcome {
        let error = match ended {
            Ok(Execution { outputs, mut success, duration_ms, log, .. }) => {
                // JSON has no word for others.
                success.metrics.retain(|_, value| value.is_finite());
                let metrics = success.metrics;
                return JobOutcome::Done { outputs, metrics, duration_ms, log, environment };
            }
            Err(error) => error,
        };
        match &error {
            ExecutionError::Stage(StageError::Cancelled) => JobOutcome::Stopped { at_limit },
            ExecutionError::Stage(StageError::TimedOut { after_ms }) => {
                JobOutcome::TimedOut { after_ms: *after_ms }
            }
            error => JobOutcome::failed(error),
        }
    }

    /// Nothing came of it.
    pub(crate) fn failed(error: &ExecutionError) -> JobOutcome {
        if let ExecutionError::Job { cause: JobCause::Mail, message, hint, .. } = error {
            return JobOutcome::Unreceived { message: message.clone(), hint: hint.clone() };
        }
        JobOutcome::Failed {
            message: error.to_string(),
            hint: error.hint(),
            command: match error {
                ExecutionError::Stage(StageError::Command { how, stderr_tail }) => {
                    Some((how.clone(), stderr_tail.clone()))
                }
                _ => None,
            },
            transient: error.is_worth_another_try(),
        }
    }

    /// As the coordinator takes it; `None` for one that was stopped, of which the cluster knows the reason.
    pub(crate) fn into_result(self) -> Option<Result<Execution, ExecutionError>> {
        Some(match self {
            JobOutcome::Done { outputs, metrics, duration_ms, log, environment } => {
                let success = StageSuccess { metrics, ..StageSuccess::default() };
                let environment = Some(environment);
                Ok(Execution { outputs, success, duration_ms, log, environment })
            }
            JobOutcome::Failed { command: Some((how, stderr_tail)), .. } => {
                Err(StageError::Command { how, stderr_tail }.into())
            }
            JobOutcome::Failed { message, hint, transient, .. } => {
                Err(StageError::Failed { message, hint, transient }.into())
            }
            JobOutcome::TimedOut { after_ms } => Err(StageError::TimedOut { after_ms }.into()),
            JobOutcome::Unreceived { message, hint } => Err(ExecutionError::Job {
                cause: JobCause::Mail,
                message,
                hint,
                log_tail: Vec::new(),
            }),
            JobOutcome::Stopped { .. } => return None,
        })
    }
}

/// A line of `reports.jsonl`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReportLine {
    Began { host: String },
    Progress { done: u64, total: Option<u64>, unit: String },
    Measures { step: u64, values: BTreeMap<String, f64> },
    Spend(Spend),
    Log(String),
}

impl ReportLine {
    pub(crate) fn of(report: Report) -> ReportLine {
        match report {
            Report::Progress { done, total, unit } => {
                ReportLine::Progress { done, total, unit: unit.into_owned() }
            }
            Report::Measures { step, values } => ReportLine::Measures { step, values },
            Report::Spend(spend) => ReportLine::Spend(spend),
            Report::Log(line) => ReportLine::Log(line),
            Report::OnCluster { host, .. } => ReportLine::Began { host: host.unwrap_or_default() },
        }
    }

    pub(crate) fn into_report(self, job: &str) -> Report {
        match self {
            ReportLine::Began { host } => {
                Report::OnCluster { job: job.to_owned(), host: Some(host) }
            }
            ReportLine::Progress { done, total, unit } => {
                Report::Progress { done, total, unit: unit.into() }
            }
            ReportLine::Measures { step, values } => Report::Measures { step, values },
            ReportLine::Spend(spend) => Report::Spend(spend),
            ReportLine::Log(line) => Report::Log(line),
        }
    }
}

/// Where what a job says is written.
pub(crate) struct ReportWriter {
    file: fs::File,
}

impl ReportWriter {
    pub(crate) fn open(folder: &Path) -> io::Result<ReportWriter> {
        let file = fs::File::options().create(true).append(true).open(folder.join(REPORTS))?;
        Ok(ReportWriter { file })
    }

    pub(crate) fn write(&mut self, line: &ReportLine) {
        let Ok(mut text) = serde_json::to_vec(line) else { return };
        text.push(b'\n');
        // What a job says on its way is for the eye.
        let _ = self.file.write_all(&text);
    }
}

/// Reads what a job has said since the last look; a line that is not whole yet waits.
#[derive(Debug, Default)]
pub(crate) struct ReportReader {
    offset: u64,
}

impl ReportReader {
    pub(crate) fn read(&mut self, folder: &Path) -> Vec<ReportLine> {
        self.read_new(folder).unwrap_or_default()
    }

    fn read_new(&mut self, folder: &Path) -> io::Result<Vec<ReportLine>> {
        let mut file = fs::File::open(folder.join(REPORTS))?;
        if file.metadata()?.len() <= self.offset {
            return Ok(Vec::new());
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut text = Vec::new();
        file.take(MOST_AT_ONCE).read_to_end(&mut text)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.offset += whole as u64;
        let lines = text[..whole].split(|byte| *byte == b'\n');
        Ok(lines.filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }
}

/// What is to be done.
pub(crate) const JOB: &str = "job.json";
/// What the job says while it works.
pub(crate) const REPORTS: &str = "reports.jsonl";
/// What came of it, once whoever waits for it knows that.
pub(crate) const OUTCOME: &str = "outcome.json";
/// The list of a batch's actions.
pub(crate) const LIST: &str = "list";
/// Where the cluster's name for a job is written.
pub(crate) const SUBMITTED: &str = "submitted.json";

/// The name of the store among those that share a remote; behind it stands the number of the folder.
const PLACE: &str = "place";

/// What is read of a job's reports in one look.
const MOST_AT_ONCE: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_of_a_store_has_another_name_on_a_remote() {
        use okapi_cache::{Access, Durability};

        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            Store::open(&folder.path().join(name), Access::ReadWrite, Durability::None).unwrap()
        };
        let place = |name: &str| {
            let store = open(name);
            JobFolders::of(&store).place(&store).unwrap()
        };
        let first = place("store");
        assert_eq!(place("store"), first);
        let copy = open("copy").jobs_folder();
        fs::create_dir_all(&copy).unwrap();
        for entry in fs::read_dir(folder.path().join("store/jobs")).unwrap().flatten() {
            fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
        assert_ne!(place("copy"), first);
        // Wherever it is moved to, it keeps its own.
        fs::rename(folder.path().join("store"), folder.path().join("moved")).unwrap();
        assert_eq!(place("moved"), first);
    }

    #[test]
    fn reports_are_read_once_and_only_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        let mut reader = ReportReader::default();
        assert!(reader.read(folder.path()).is_empty());
        let mut writer = ReportWriter::open(folder.path()).unwrap();
        writer.write(&ReportLine::Log("one".into()));
        writer.file.write_all(b"{\"log\":\"tw").unwrap();
        let said = |lines: Vec<ReportLine>| {
            lines.into_iter().map(|line| format!("{line:?}")).collect::<Vec<_>>()
        };
        assert_eq!(said(reader.read(folder.path())), ["Log(\"one\")"]);
        assert!(reader.read(folder.path()).is_empty());
        writer.file.write_all(b"o\"}\nno json\n").unwrap();
        assert_eq!(said(reader.read(folder.path())), ["Log(\"two\")"]);
    }
}

//! What a run leaves in the store's `runs` folder.
//!
//! ```text
//! runs/<id>/run.json        what was asked and how it ended; written when the run starts, and again
//! runs/<id>/events.jsonl    everything the run said, one event a line
//! runs/<id>/logs/<node>     what failed instances wrote to stdout and stderr
//! runs/manifests/<digest>   the action of each instance (`manifest`), shared by runs
//! runs/heads/<pipeline>     the digest of the pipeline's newest manifest
//! runs/fetched              results that no run fetched, but a command: a line each, milliseconds since 1970 and the action
//! runs/unsent/<remote>      results that a remote should have and does not (`run::remote`)
//! ```
//!
//! An id is the time at which the run began and four digits that keep two runs of one millisecond
//! apart. Ids sort in the order of the runs, whatever the clock does: where it has jumped back, a
//! run takes the stamp of the newest run there is, and the next number.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use okapi_cache::{Digest, Store, StoreError};
use serde::{Deserialize, Serialize};

use crate::clock::{compact_utc, unix_ms};
use crate::event::{Event, Outcome};
use crate::executor::local::append_log;
use crate::manifest::Manifest;
use crate::spend::Spend;
use crate::stage_context::WorkFolder;

/// The version of `run.json`.
const VERSION: u32 = 1;

/// How many ids are tried for a run.
const TRIES: u32 = 10_000;

/// What was asked of a run, and how it ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// The version of this record.
    pub version: u32,
    /// The run's id.
    pub id: String,
    /// okapi's version.
    pub okapi: String,
    /// The pipeline file, from the project's root.
    pub pipeline: String,
    /// The digest of the pipeline file's bytes.
    pub pipeline_digest: Digest,
    /// The profile, if any.
    pub profile: Option<String>,
    /// `--set` arguments.
    pub overrides: Vec<String>,
    /// The nodes asked for; empty for all.
    pub targets: Vec<String>,
    /// When it began, milliseconds since 1970.
    pub started_unix_ms: u64,
    /// How it ended; `None` while it runs, or if it was killed.
    pub end: Option<RunEnd>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunEnd {
    /// In a word.
    pub outcome: Outcome,
    /// Instances that ran.
    pub ran: u64,
    /// Instances whose results were found.
    pub cached: u64,
    /// Instances that failed.
    pub failed: u64,
    /// Instances that were not run.
    pub skipped: u64,
    /// How long it took, milliseconds. It does not count while the machine sleeps.
    pub duration_ms: u64,
    /// When it ended, milliseconds since 1970; filled in when the record ends, and not in those of the first okapi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_unix_ms: Option<u64>,
    /// What was asked of services outside.
    #[serde(default, skip_serializing_if = "Spend::is_empty")]
    pub spend: Spend,
    /// The action of each instance afterwards.
    pub manifest: Option<Digest>,
}

/// A run's id: the stamp of [`compact_utc`] and a number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct RunId {
    stamp: String,
    number: u32,
}

impl RunId {
    fn parse(name: &str) -> Option<RunId> {
        let (stamp, number) = name.rsplit_once('-')?;
        let is_stamp = stamp.len() == 19
            && stamp.bytes().enumerate().all(|(at, byte)| match at {
                8 => byte == b'-',
                15 => byte == b'.',
                _ => byte.is_ascii_digit(),
            });
        (is_stamp && number.len() == 4)
            .then(|| Some(RunId { stamp: stamp.to_owned(), number: number.parse().ok()? }))?
    }

    /// The id after this one.
    fn next(&self) -> RunId {
        if self.number < 9999 {
            return RunId { stamp: self.stamp.clone(), number: self.number + 1 };
        }
        // The next stamp in the order of the text; that it may be no time that exists is no matter.
        let mut digits = self.stamp.clone().into_bytes();
        for digit in digits.iter_mut().rev().filter(|byte| byte.is_ascii_digit()) {
            if *digit < b'9' {
                *digit += 1;
                break;
            }
            *digit = b'0';
        }
        RunId { stamp: String::from_utf8_lossy(&digits).into_owned(), number: 0 }
    }
}

impl std::fmt::Display for RunId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{:04}", self.stamp, self.number)
    }
}

/// The first id for a run that begins now: behind all there are.
fn first_id_from(runs: &Path, now_unix_ms: u64) -> Result<RunId, StoreError> {
    let mut newest = None;
    for entry in fs::read_dir(runs).map_err(|error| StoreError::io(runs, error))? {
        let name = entry.map_err(|error| StoreError::io(runs, error))?.file_name();
        newest = newest.max(name.to_str().and_then(RunId::parse));
    }
    let now = RunId { stamp: compact_utc(now_unix_ms), number: 0 };
    Ok(match newest {
        Some(newest) if newest >= now => newest.next(),
        _ => now,
    })
}

/// A run being recorded.
pub struct RunRecord {
    info: RunInfo,
    folder: PathBuf,
    events: BufWriter<fs::File>,
}

impl RunRecord {
    /// Begins a record. `info`'s id, version and time are filled in.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn begin(store: &Store, mut info: RunInfo) -> Result<RunRecord, StoreError> {
        info.version = VERSION;
        info.started_unix_ms = unix_ms();
        let runs = store.runs_folder();
        let mut id = first_id_from(&runs, info.started_unix_ms)?;
        for _ in 0..TRIES {
            info.id = id.to_string();
            let folder = runs.join(&info.id);
            match fs::create_dir(&folder) {
                Ok(()) => {
                    let path = folder.join("events.jsonl");
                    let file = fs::File::create_new(&path)
                        .map_err(|error| StoreError::io(&path, error))?;
                    let record = RunRecord { info, folder, events: BufWriter::new(file) };
                    record.write_info(store)?;
                    return Ok(record);
                }
                // Another run began in this moment.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => id = id.next(),
                Err(error) => return Err(StoreError::io(&folder, error)),
            }
        }
        Err(StoreError::io(&runs, io::Error::other("too many runs begin at once")))
    }

    /// The run's id.
    pub fn id(&self) -> &str {
        &self.info.id
    }

    /// The folder for logs of failed instances.
    pub fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    /// Keeps an event. Progress is for the eye and is not kept.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn keep(&mut self, event: &Event) -> Result<(), StoreError> {
        if let Event::NodeProgress { .. } | Event::NodeMeasures { .. } | Event::NodeSpend { .. } =
            event
        {
            return Ok(());
        }
        let path = self.folder.join("events.jsonl");
        let mut line = serde_json::to_vec(event)
            .map_err(|error| StoreError::io(&path, io::Error::other(error)))?;
        line.push(b'\n');
        // Out at once: a killed run must not take what it said with it.
        let written = self.events.write_all(&line).and_then(|()| self.events.flush());
        written.map_err(|error| StoreError::io(&path, error))
    }

    /// Ends the record.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn finish(mut self, store: &Store, mut end: RunEnd) -> Result<RunInfo, StoreError> {
        let path = self.folder.join("events.jsonl");
        self.events.flush().map_err(|error| StoreError::io(&path, error))?;
        end.finished_unix_ms = Some(unix_ms());
        self.info.end = Some(end);
        self.write_info(store)?;
        Ok(self.info)
    }

    fn write_info(&self, store: &Store) -> Result<(), StoreError> {
        let path = self.folder.join("run.json");
        let mut text = serde_json::to_vec_pretty(&self.info)
            .map_err(|error| StoreError::io(&path, io::Error::other(error)))?;
        text.push(b'\n');
        store.write_file(&path, &text)
    }
}

/// Every recorded run, oldest first. A folder whose record cannot be read is left out.
///
/// # Errors
/// When the store cannot be read.
pub fn list(store: &Store) -> Result<Vec<RunInfo>, StoreError> {
    let runs = store.runs_folder();
    let mut infos = Vec::new();
    for entry in fs::read_dir(&runs).map_err(|error| StoreError::io(&runs, error))? {
        let path = entry.map_err(|error| StoreError::io(&runs, error))?.path().join("run.json");
        let Ok(text) = fs::read(&path) else { continue };
        if let Ok(info) = serde_json::from_slice::<RunInfo>(&text) {
            infos.push(info);
        }
    }
    infos.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(infos)
}

/// Removes the records of `dropped` runs, and the manifests that only they refer to. `kept` are all
/// other runs.
///
/// # Errors
/// When the store cannot be read or written.
pub fn remove(store: &Store, dropped: &[RunInfo], kept: &[RunInfo]) -> Result<(), StoreError> {
    let manifest = |run: &RunInfo| run.end.as_ref()?.manifest;
    // Only manifests of dropped runs are looked at: one that a run is about to refer to is not
    // among them.
    let mut unused: BTreeSet<_> = dropped.iter().filter_map(manifest).collect();
    for digest in kept.iter().filter_map(manifest) {
        unused.remove(&digest);
    }
    let pipelines: BTreeSet<_> =
        kept.iter().chain(dropped).map(|run| run.pipeline.as_str()).collect();
    for digest in pipelines.into_iter().filter_map(|pipeline| head_digest(store, pipeline)) {
        unused.remove(&digest);
    }
    for run in dropped {
        let folder = store.runs_folder().join(&run.id);
        fs::remove_dir_all(&folder).map_err(|error| StoreError::io(&folder, error))?;
    }
    for digest in unused {
        let path = manifest_path(store, &digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::io(&path, error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The events of a run, in order. A line that was cut by a crash ends them.
///
/// # Errors
/// When they cannot be read.
pub fn events(store: &Store, id: &str) -> Result<Vec<Event>, StoreError> {
    let path = store.runs_folder().join(id).join("events.jsonl");
    let text = fs::read_to_string(&path).map_err(|error| StoreError::io(&path, error))?;
    Ok(text.lines().map_while(|line| serde_json::from_str(line).ok()).collect())
}

/// The log of a failed instance in a run's `logs` folder.
pub fn log_path(logs: &Path, instance: &str) -> PathBuf {
    // Instance names hold no `/`; their length is bounded by the check of the pipeline.
    logs.join(format!("{instance}.log"))
}

/// Copies what an instance wrote to stdout and stderr to `path`.
pub(crate) fn write_log(path: &Path, work: &WorkFolder) -> io::Result<PathBuf> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = fs::File::create(path)?;
    append_log(work, &mut file)?;
    Ok(path.to_owned())
}

/// The newest manifest of a pipeline; an empty one if there is none or it cannot be read, which
/// costs explanations and nothing else.
pub fn head(store: &Store, pipeline: &str) -> Manifest {
    head_digest(store, pipeline).and_then(|digest| manifest(store, &digest)).unwrap_or_default()
}

/// Whether it is written which manifest of a pipeline is the newest, but in a form that nobody can read.
pub fn is_head_damaged(store: &Store, pipeline: &str) -> bool {
    head_path(store, pipeline).symlink_metadata().is_ok()
        && head_digest(store, pipeline).and_then(|it| manifest(store, &it)).is_none()
}

/// The digest of the newest manifest of a pipeline.
pub fn head_digest(store: &Store, pipeline: &str) -> Option<Digest> {
    fs::read_to_string(head_path(store, pipeline)).ok()?.trim_end().parse().ok()
}

/// The manifest of that digest.
pub fn manifest(store: &Store, digest: &Digest) -> Option<Manifest> {
    let text = fs::read_to_string(manifest_path(store, digest)).ok()?;
    if Digest::of(text.as_bytes()) != *digest {
        return None;
    }
    Manifest::parse(&text).ok()
}

/// Keeps a manifest and makes it the newest of its pipeline.
///
/// # Errors
/// When the store cannot be written.
pub fn set_head(
    store: &Store,
    pipeline: &str,
    text: &str,
    digest: &Digest,
) -> Result<(), StoreError> {
    let path = manifest_path(store, digest);
    if !path.exists() {
        make_parent(&path)?;
        store.write_file(&path, text.as_bytes())?;
    }
    if head_digest(store, pipeline) != Some(*digest) {
        let head = head_path(store, pipeline);
        make_parent(&head)?;
        store.write_file(&head, format!("{digest}\n").as_bytes())?;
    }
    Ok(())
}

fn make_parent(path: &Path) -> Result<(), StoreError> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(|error| StoreError::io(folder, error))
}

fn manifest_path(store: &Store, digest: &Digest) -> PathBuf {
    store.runs_folder().join("manifests").join(digest.to_string())
}

fn head_path(store: &Store, pipeline: &str) -> PathBuf {
    // Named by digest: a pipeline's path may hold characters that a file name cannot.
    store.runs_folder().join("heads").join(Digest::of(pipeline.as_bytes()).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_up_when_the_clock_goes_back() {
        let runs = tempfile::tempdir().unwrap();
        let mut ids = Vec::new();
        // Forward, the same moment again, back by an hour, by thirty years, and forward again.
        for unix_ms in
            [1_795_215_055_007, 1_795_215_055_007, 1_795_211_455_007, 0, 1_795_215_055_008]
        {
            let id = first_id_from(runs.path(), unix_ms).unwrap();
            fs::create_dir(runs.path().join(id.to_string())).unwrap();
            ids.push(id.to_string());
        }
        assert!(ids.is_sorted(), "{ids:?}");
        assert_eq!(ids[2], "20261120-225055.007-0002");
        assert_eq!(ids[4], "20261120-225055.008-0000");
        let last = RunId { stamp: "20261231-235959.999".into(), number: 9999 };
        assert_eq!(last.next().to_string(), "20261231-235960.000-0000");
        assert!(last.next() > last);
        assert_eq!(RunId::parse("manifests"), None);
        assert_eq!(RunId::parse(&last.to_string()), Some(last));
    }
}

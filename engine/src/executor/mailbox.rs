//! What the coordinator of a run and jobs that do not see its store tell each other: by way of a remote.
//!
//! ```text
//! coordinator                          remote                       job
//! what the work reads, then `work` ->  objects, job/PLACE/work  ->  into a store of its own
//! reports, stdout and stderr       <-  job/PLACE/said           <-  now and then
//! outputs, then jobs/ended/<...>   <-  objects, job/PLACE/ended <-  outputs, then what came of it
//! ```
//!
//! At both ends the files are those of `job_folder`, so whoever reads them need not know how they came. `PLACE` is the name of the
//! coordinator's store: several may share a remote.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::sync::Arc;

use okapi_cache::{ActionDigest, Artifact, Digest, Store, StoreError};
use okapi_remote::{JobKey, JobPart, Key, Remote, RemoteError};
use serde::de::DeserializeOwned;

use super::ExecutionError;
use super::job_cause::JobCause;
use super::job_folder::{
    JOB, JobFile, JobFolders, JobOutcome, OutcomeFile, SUBMITTED, Submitted, VERSION, read_whole,
    write_whole,
};
use super::said::{AT_THE_END, Said};
use super::work_folder::{self, store_source};
use crate::stage_context::StageError;

/// Why something did not go through.
#[derive(Debug)]
pub(crate) enum MailError {
    /// The same may succeed later.
    Later(RemoteError),
    /// It will not.
    Never(ExecutionError),
}

impl From<RemoteError> for MailError {
    fn from(error: RemoteError) -> MailError {
        match error {
            error if error.may_pass() => MailError::Later(error),
            RemoteError::Store(error) => MailError::Never(error.into()),
            // Sent again, it may arrive as it was.
            error @ (RemoteError::Damaged { .. } | RemoteError::Incomplete { .. }) => {
                MailError::Never(ExecutionError::Job {
                    cause: JobCause::Mail,
                    message: format!("the remote: {error}"),
                    hint: error.hint().map(str::to_owned),
                    log_tail: Vec::new(),
                })
            }
            error => MailError::Never(
                StageError::Failed {
                    message: format!("the remote: {error}"),
                    hint: error.hint().map(str::to_owned),
                    transient: false,
                }
                .into(),
            ),
        }
    }
}

impl From<ExecutionError> for MailError {
    fn from(error: ExecutionError) -> MailError {
        MailError::Never(error)
    }
}

impl From<StoreError> for MailError {
    fn from(error: StoreError) -> MailError {
        MailError::Never(error.into())
    }
}

/// Tells what is written over from what was there before: its size, and when it was written.
pub(crate) type Edition = (u64, u64);

/// The jobs of one store, on a remote.
#[derive(Debug, Clone)]
pub(crate) struct Mailbox {
    remote: Arc<Remote>,
    place: String,
}

impl Mailbox {
    /// Those of the store with this name.
    pub(crate) fn open(remote: Arc<Remote>, place: String) -> Mailbox {
        Mailbox { remote, place }
    }

    fn key(&self, part: JobPart, action: &ActionDigest) -> JobKey {
        JobKey { place: self.place.clone(), part, action: *action }
    }

    /// Sends what a job is to do, with all that it reads, as the job's folder in `store` has it.
    pub(crate) fn send_work(&self, store: &Store, action: &ActionDigest) -> Result<(), MailError> {
        let path = JobFolders::of(store).job(action).join(JOB);
        let mut file: JobFile = read_whole(&path).ok_or_else(|| {
            StoreError::io(&path, io::Error::other("what is to be done cannot be read"))
        })?;
        for source in
            file.job.files.iter_mut().chain(file.job.prompts.iter_mut().map(|it| &mut it.1))
        {
            store_source(store, source)?;
            source.absolute = None;
        }
        // What commands are to be kept from is not there.
        file.hidden = file.hidden.map(|_| Vec::new());
        // What an earlier try said is not what this one says.
        for part in [JobPart::Ended, JobPart::Said] {
            self.remote.delete_job(&self.key(part, action))?;
        }
        let work = store.work_folder(action);
        work_folder::remove(&work).map_err(|error| StoreError::io(&work, error))?;
        self.remote.put_artifacts(store, &file.reads(), None)?;
        file.damaged = self.remote.damaged();
        let text =
            serde_json::to_vec(&file).map_err(|error| StoreError::io(&path, error.into()))?;
        self.remote.put_job(&self.key(JobPart::Work, action), text)?;
        Ok(())
    }

    /// Brings what a job is to do, with all that it reads, into a store.
    pub(crate) fn receive_work(
        &self,
        store: &Store,
        action: &ActionDigest,
    ) -> Result<(), MailError> {
        let Some(file) = self.read::<JobFile>(JobPart::Work, action)? else {
            let error = StageError::Failed {
                message: format!("{} has no work for this job", self.remote.shown()),
                hint: Some("it was cancelled, or another okapi has taken what it did".to_owned()),
                transient: true,
            };
            return Err(MailError::Never(error.into()));
        };
        if file.job.action.digest != *action {
            let error = StageError::failed("the remote has other work under this name");
            return Err(MailError::Never(error.into()));
        }
        self.remote.fetch_artifacts(store, &file.reads(), None)?;
        let folders = JobFolders::of(store);
        let folder = folders.job(action);
        folders
            .create()
            .and_then(|()| fs::create_dir_all(&folder))
            .map_err(|error| StoreError::io(&folder, error))?;
        write_whole(store, &folder.join(JOB), &file)?;
        Ok(())
    }

    /// Sends what a job says so far.
    pub(crate) fn send_said(
        &self,
        action: &ActionDigest,
        said: Vec<u8>,
    ) -> Result<(), RemoteError> {
        self.remote.put_job(&self.key(JobPart::Said, action), said)
    }

    /// Sends what came of a job, as the job's store has it: everything that it refers to, what the job said, and then that. Of a try that
    /// nobody waits for any more nothing is sent.
    pub(crate) fn send_outcome(
        &self,
        store: &Store,
        action: &ActionDigest,
    ) -> Result<(), MailError> {
        let folders = JobFolders::of(store);
        let path = folders.outcome(action);
        let outcome: OutcomeFile = read_whole(&path)
            .ok_or_else(|| StoreError::io(&path, io::Error::other("it cannot be read")))?;
        let path = folders.job(action).join(JOB);
        let work: JobFile = read_whole(&path)
            .ok_or_else(|| StoreError::io(&path, io::Error::other("it cannot be read")))?;
        if !self.is_waited_for(action, &work, &outcome)? {
            return Ok(());
        }
        let (outputs, log) = refers_to(&outcome.outcome);
        self.remote.distrust(work.damaged.iter().copied());
        self.remote.put_artifacts(store, &outputs, log)?;
        // That takes time.
        if !self.is_waited_for(action, &work, &outcome)? {
            return Ok(());
        }
        self.send_said(action, Said::read(store, action, AT_THE_END).encode())?;
        let text =
            serde_json::to_vec(&outcome).map_err(|error| StoreError::io(&path, error.into()))?;
        self.remote.put_job(&self.key(JobPart::Ended, action), text)?;
        Ok(())
    }

    /// Whether somebody waits for what came of this try: another may have taken its place, or a job that was submitted twice may have
    /// ended elsewhere.
    fn is_waited_for(
        &self,
        action: &ActionDigest,
        work: &JobFile,
        outcome: &OutcomeFile,
    ) -> Result<bool, MailError> {
        if let Some(there) = self.read::<JobFile>(JobPart::Work, action)? {
            return Ok(there.try_name == outcome.try_name && !self.has_better(action, outcome)?);
        }
        if self.has_inputs(work)? == Some(false) {
            return Err(MailError::Later(self.is_gone(action)));
        }
        // Nobody listens any more.
        let _ = self.remote.delete_job(&self.key(JobPart::Said, action));
        Ok(false)
    }

    /// Whether the remote still has something that a job reads: a folder that is not mounted looks like an empty one. `None` for one that
    /// reads nothing.
    fn has_inputs(&self, work: &JobFile) -> Result<Option<bool>, RemoteError> {
        let reads = work.reads();
        reads.first().map(|input| self.remote.has_object(&input.digest)).transpose()
    }

    /// What there is to say where all that was there of a job is gone.
    fn is_gone(&self, action: &ActionDigest) -> RemoteError {
        RemoteError::Request {
            what: "find",
            key: Key::Job(self.key(JobPart::Work, action)).to_string(),
            message: "it was there when the job was submitted (if it is gone for good: `okapi gc --forget-jobs`)"
                .to_owned(),
            forbidden: false,
        }
    }

    /// Whether there is an outcome of the same try that is worth as much.
    fn has_better(&self, action: &ActionDigest, ours: &OutcomeFile) -> Result<bool, MailError> {
        let is_done = |outcome: &OutcomeFile| matches!(outcome.outcome, JobOutcome::Done { .. });
        let there = match self.read::<OutcomeFile>(JobPart::Ended, action) {
            // One that cannot be read is worth nothing.
            Err(MailError::Never(_)) => None,
            other => other?.filter(|there| there.try_name == ours.try_name),
        };
        // One of two jobs that fails says nothing of the other.
        let is_as_good = |there: &OutcomeFile| !is_done(ours) && there.job == ours.job;
        Ok(there.is_some_and(|there| is_done(&there) || is_as_good(&there)))
    }

    /// Says that nothing came of a job, and why, if anybody waits for it.
    pub(crate) fn send_failure(
        &self,
        action: &ActionDigest,
        job: &str,
        error: &ExecutionError,
    ) -> Result<(), MailError> {
        let Some(work) = self.read::<JobFile>(JobPart::Work, action)? else { return Ok(()) };
        let outcome = JobOutcome::failed(error);
        let (try_name, job) = (work.try_name, job.to_owned());
        let file = OutcomeFile { okapi_outcome: VERSION, try_name, job, outcome };
        if self.has_better(action, &file)? {
            return Ok(());
        }
        let key = self.key(JobPart::Ended, action);
        let text = serde_json::to_vec(&file).map_err(|error| RemoteError::Damaged {
            key: Key::Job(key.clone()).to_string(),
            message: error.to_string(),
        })?;
        Ok(self.remote.put_job(&key, text)?)
    }

    /// The jobs that have ended.
    pub(crate) fn ended(&self) -> Result<BTreeSet<ActionDigest>, RemoteError> {
        Ok(self.list(JobPart::Ended)?.into_keys().collect())
    }

    /// The jobs that were sent what they are to do.
    pub(crate) fn work(&self) -> Result<BTreeSet<ActionDigest>, RemoteError> {
        Ok(self.list(JobPart::Work)?.into_keys().collect())
    }

    /// The newest that each job has said.
    pub(crate) fn said(&self) -> Result<BTreeMap<ActionDigest, Edition>, RemoteError> {
        self.list(JobPart::Said)
    }

    /// Brings what a job said to where whatever any job says is looked for.
    pub(crate) fn receive_said(
        &self,
        store: &Store,
        action: &ActionDigest,
    ) -> Result<(), MailError> {
        match self.remote.job(&self.key(JobPart::Said, action)) {
            Ok(said) => {
                let said = said.and_then(|bytes| Said::decode(&bytes));
                let ours: Option<JobFile> =
                    read_whole(&JobFolders::of(store).job(action).join(JOB));
                // One that was given up may still have something to say.
                let is_ours = |said: &Said| ours.is_some_and(|ours| ours.try_name == said.try_name);
                let said = said.filter(is_ours);
                Ok(said.map_or(Ok(()), |said| said.leave(store, action))?)
            }
            // It is for the eye.
            Err(RemoteError::Damaged { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Brings what came of a job into the store, what it refers to first, and takes everything of the job off the remote.
    pub(crate) fn receive_outcome(
        &self,
        store: &Store,
        action: &ActionDigest,
    ) -> Result<(), MailError> {
        let folders = JobFolders::of(store);
        let path = folders.job(action).join(JOB);
        let ours: Option<JobFile> = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(StoreError::io(&path, error).into()),
            Ok(text) => serde_json::from_slice(&text).ok(),
        };
        let Some(outcome) = self.read::<OutcomeFile>(JobPart::Ended, action)? else {
            let work = self.read::<JobFile>(JobPart::Work, action)?;
            return match ours.filter(|_| work.is_none()) {
                Some(ours) if self.has_inputs(&ours)? == Some(false) => {
                    Err(MailError::Later(self.is_gone(action)))
                }
                _ => Ok(()),
            };
        };
        let submitted: Option<Submitted> = read_whole(&folders.job(action).join(SUBMITTED));
        let ours = ours.filter(|ours| ours.try_name == outcome.try_name);
        // Of two jobs of one try the one that is not waited for may end badly, and the other work on.
        let is_other = submitted.and_then(|it| it.job).is_some_and(|job| job != outcome.job);
        let is_done = matches!(outcome.outcome, JobOutcome::Done { .. });
        let Some(ours) = ours.filter(|_| is_done || !is_other) else {
            // Of a try that was given up, or of that other job.
            return Ok(self.remote.delete_job(&self.key(JobPart::Ended, action))?);
        };
        if matches!(outcome.outcome, JobOutcome::Unreceived { .. }) {
            // The next try is sent all of it anew.
            self.remote.distrust_artifacts(store, &ours.reads());
        }
        let (outputs, log) = refers_to(&outcome.outcome);
        self.remote.fetch_artifacts(store, &outputs, log)?;
        let said = self.receive_said(store, action);
        match outcome.outcome {
            JobOutcome::Done { .. } => {
                // All that it wrote is in the log. What stays is collected some time.
                let _ = work_folder::remove(&store.work_folder(action));
            }
            // It says why.
            _ => said?,
        }
        store.flush()?;
        store.sync()?;
        write_whole(store, &folders.outcome(action), &outcome)?;
        self.forget(action);
        Ok(())
    }

    /// Takes everything of a job off the remote.
    pub(crate) fn forget(&self, action: &ActionDigest) {
        for part in JobPart::ALL {
            // What stays is collected some time.
            let _ = self.remote.delete_job(&self.key(part, action));
        }
    }

    fn list(&self, part: JobPart) -> Result<BTreeMap<ActionDigest, Edition>, RemoteError> {
        let listed = self.remote.jobs(&self.place, part)?.into_iter();
        Ok(listed
            .filter_map(|listed| match listed.key {
                Key::Job(key) => Some((key.action, (listed.size, listed.modified_unix_ms))),
                _ => None,
            })
            .collect())
    }

    fn read<T: DeserializeOwned>(
        &self,
        part: JobPart,
        action: &ActionDigest,
    ) -> Result<Option<T>, MailError> {
        let key = self.key(part, action);
        let Some(bytes) = self.remote.job(&key)? else { return Ok(None) };
        let read = serde_json::from_slice(&bytes);
        Ok(Some(read.map_err(|error| RemoteError::Damaged {
            key: Key::Job(key).to_string(),
            message: error.to_string(),
        })?))
    }
}

/// What an outcome refers to, which has to be there before it.
fn refers_to(outcome: &JobOutcome) -> (Vec<Artifact>, Option<Digest>) {
    match outcome {
        JobOutcome::Done { outputs, log, .. } => (outputs.clone(), *log),
        _ => (Vec::new(), None),
    }
}

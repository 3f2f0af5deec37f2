//! A job on a node that does not see the store of its run: everything comes and goes by way of a remote.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use okapi_cache::{ActionDigest, Digest, Store};
use okapi_remote::Remote;

use super::ExecutionError;
use super::mailbox::{MailError, Mailbox};
use super::said::{AT_WORK, Said};
use super::worker::Worker;
use crate::stage_context::StageError;

/// How long a remote that fails is tried again after that: what was computed is worth some patience.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often at least, however long each time takes.
const FEW_TRIES: u32 = 4;
const BETWEEN_TRIES: Duration = Duration::from_secs(10);
/// When what a job says is sent for the first time: that it has begun. Then it takes twice as long each time, up to the last, and longer
/// where it is long.
const FIRST_REPORT: Duration = Duration::from_secs(1);
const BETWEEN_REPORTS: Duration = Duration::from_secs(15);
/// How long what is being sent is waited for at the end.
const UNTIL_SENT: Duration = Duration::from_secs(5);
const BYTES_PER_SECOND: u64 = 32 << 10;

/// A job of the store that goes by some name on a remote.
pub struct FarJob {
    mailbox: Mailbox,
    action: ActionDigest,
}

impl FarJob {
    /// The job that does `action` for the store with the name `place`.
    pub fn new(remote: Arc<Remote>, place: String, action: ActionDigest) -> FarJob {
        FarJob { mailbox: Mailbox::open(remote, place), action }
    }

    /// Brings what is to be done, and all that it reads, into a store.
    ///
    /// # Errors
    /// When there is nothing to be done, or something of it cannot be had.
    pub fn receive(&self, store: &Store) -> Result<(), ExecutionError> {
        patiently(|| self.mailbox.receive_work(store, &self.action))
    }

    /// Tells whoever waits for it why nothing was done; `job` is the cluster's name for this one.
    pub fn give_up(&self, job: &str, error: &ExecutionError) {
        // Who cannot be told is told by the cluster that the job has failed.
        let _ = self.mailbox.send_failure(&self.action, job, error);
    }

    /// Does it in the store of `worker`, which has received it, and sends what came of it. Gives whether there is a result.
    ///
    /// # Errors
    /// When the store fails, or what came of it cannot be sent.
    pub fn work(&self, worker: &Worker<'_>) -> Result<bool, ExecutionError> {
        let reports = self.send_said(&worker.store);
        let is_done = worker.work(&self.action);
        // What it is sending must not come later than what it said last.
        reports.end();
        let is_done = is_done?;
        patiently(|| self.mailbox.send_outcome(&worker.store, &self.action))?;
        Ok(is_done)
    }

    /// Sends now and then what the job says, until that is ended.
    fn send_said(&self, store: &Arc<Store>) -> Sending {
        let (open, closed) = channel::<()>();
        let store = Arc::clone(store);
        let (mailbox, action) = (self.mailbox.clone(), self.action);
        let thread = thread::spawn(move || {
            let (mut sent, mut pause, mut wait) = (None, FIRST_REPORT, FIRST_REPORT);
            while matches!(closed.recv_timeout(wait), Err(RecvTimeoutError::Timeout)) {
                let said = Said::read(&store, &action, AT_WORK).encode();
                let (digest, length) = (Digest::of(&said), said.len() as u64);
                pause = (pause * 2).min(BETWEEN_REPORTS);
                wait = pause + Duration::from_secs(length / BYTES_PER_SECOND);
                // It is for the eye; the whole of it is sent with what came of the job.
                if sent != Some(digest) && mailbox.send_said(&action, said).is_ok() {
                    sent = Some(digest);
                }
            }
        });
        Sending { open, thread }
    }
}

/// A thread that sends what a job says.
struct Sending {
    open: Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Sending {
    /// Waits until nothing more is sent, for a while.
    fn end(self) {
        drop(self.open);
        // Whoever was told to end has no time to lose.
        let until = Instant::now() + UNTIL_SENT;
        while !self.thread.is_finished() && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Tries for some time what may succeed later.
fn patiently(mut send: impl FnMut() -> Result<(), MailError>) -> Result<(), ExecutionError> {
    let (mut until, mut tries) = (None, 0);
    loop {
        let error = match send() {
            Ok(()) => return Ok(()),
            Err(MailError::Never(error)) => return Err(error),
            Err(MailError::Later(error)) => error,
        };
        // What is large may take longer than that by itself.
        tries += 1;
        let until = *until.get_or_insert_with(|| Instant::now() + PATIENCE);
        if Instant::now() > until && tries >= FEW_TRIES {
            let message = format!("the remote: {error}");
            let hint = error.hint().map(str::to_owned);
            return Err(StageError::Failed { message, hint, transient: true }.into());
        }
        thread::sleep(BETWEEN_TRIES);
    }
}

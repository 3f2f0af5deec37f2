//! Results become durable in groups.
//!
//! A sync costs about as much as a small command runs, so results wait in a queue for up to
//! [`LONGEST_WAIT`] or until [`LARGEST_GROUP`] have gathered. Then a thread of the store's own
//!
//! 1. makes the objects that the results name reach the disk: one `syncfs`;
//! 2. appends the documents and then the results to their logs, and syncs those;
//! 3. gives back the leases: from here on other processes can read the results.
//!
//! What a power cut can lose is the bookkeeping of the last group: that work is done again. It
//! cannot leave a result without its outputs. A killed process loses at most the same.

use std::fs::File;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::action_cache::{ActionCache, ResultInfo, StoredAction};
use crate::atomic_write::AtomicWriter;
use crate::error::AtPath;
use crate::{ActionDigest, Artifact, Lease, StoreError};

const LONGEST_WAIT: Duration = Duration::from_millis(50);
const LARGEST_GROUP: usize = 100;

/// How hard results are made to survive a power cut. Nothing less than a power cut loses any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// In groups; a power cut costs the work of about the last 50 ms.
    Batch,
    /// Each result by itself, at once.
    Full,
    /// Left to the system: a power cut may cost the work of the last half minute, and the next run
    /// checks what that left behind.
    None,
}

/// A result on its way into the store.
#[derive(Debug)]
pub struct Commit {
    /// The action.
    pub action: ActionDigest,
    /// Its document.
    pub document: String,
    /// Its outputs, in the order of the sorted port names. They are in the store.
    pub outputs: Vec<Artifact>,
    /// The details.
    pub info: ResultInfo,
    /// The lease on the action, given back when others can read the result.
    pub lease: Option<Lease>,
}

enum Message {
    Result(ActionDigest, Vec<Artifact>, Option<Lease>),
    Flush(Sender<()>),
}

/// The queue and its thread.
#[derive(Debug)]
pub(crate) struct CommitQueue {
    sender: Option<Sender<Message>>,
    thread: Option<JoinHandle<()>>,
    trouble: Arc<Mutex<Option<StoreError>>>,
}

pub(crate) struct Backend {
    pub(crate) root: File,
    pub(crate) root_path: std::path::PathBuf,
    pub(crate) actions: Arc<ActionCache>,
    pub(crate) writer: Arc<AtomicWriter>,
    pub(crate) durability: Durability,
}

impl CommitQueue {
    pub(crate) fn start(backend: Backend) -> CommitQueue {
        let (sender, receiver) = channel();
        let trouble = Arc::new(Mutex::new(None));
        let reported = Arc::clone(&trouble);
        let thread = std::thread::spawn(move || serve(&backend, &receiver, &reported));
        CommitQueue { sender: Some(sender), thread: Some(thread), trouble }
    }

    /// Queues a result. It is known to this process at once.
    pub(crate) fn push(&self, actions: &ActionCache, commit: Commit) -> Result<(), StoreError> {
        self.check()?;
        let Commit { action, document, outputs, info, lease } = commit;
        actions.remember(action, &outputs, StoredAction { version: 1, document, info });
        self.send(Message::Result(action, outputs, lease))
    }

    /// Waits until everything queued is durable.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        let (done, wait) = channel();
        self.send(Message::Flush(done))?;
        // The thread answers or has ended; both end the wait.
        let _ = wait.recv();
        self.check()
    }

    fn send(&self, message: Message) -> Result<(), StoreError> {
        let sent = self.sender.as_ref().map(|sender| sender.send(message));
        match sent {
            Some(Ok(())) => Ok(()),
            _ => Err(StoreError::Failed { message: "the commit thread has ended".to_owned() }),
        }
    }

    fn check(&self) -> Result<(), StoreError> {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match trouble.take() {
            None => Ok(()),
            Some(error) => {
                // The first to ask gets the error itself, everybody after that a word of it.
                *trouble = Some(StoreError::Failed { message: error.to_string() });
                Err(error)
            }
        }
    }
}

impl Drop for CommitQueue {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; what it had is lost, as by a kill.
            let _ = thread.join();
        }
    }
}

fn serve(backend: &Backend, receiver: &Receiver<Message>, trouble: &Mutex<Option<StoreError>>) {
    while let Ok(first) = receiver.recv() {
        let mut group = Group::default();
        let mut open = group.add(first) && backend.durability != Durability::Full;
        let deadline = Instant::now() + LONGEST_WAIT;
        while open && group.results.len() < LARGEST_GROUP {
            let left = deadline.saturating_duration_since(Instant::now());
            match receiver.recv_timeout(left) {
                Ok(message) => open = group.add(message),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => open = false,
            }
        }
        let failed = trouble.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if !failed
            && !group.results.is_empty()
            && let Err(error) = backend.write(&group.results)
        {
            *trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
        drop(group.leases);
        for waiting in group.flushes {
            // Whoever asked may have gone.
            let _ = waiting.send(());
        }
    }
}

#[derive(Default)]
struct Group {
    results: Vec<(ActionDigest, Vec<Artifact>)>,
    leases: Vec<Lease>,
    flushes: Vec<Sender<()>>,
}

impl Group {
    /// Adds a message; says whether the group may wait for more.
    fn add(&mut self, message: Message) -> bool {
        match message {
            Message::Result(action, outputs, lease) => {
                self.results.push((action, outputs));
                self.leases.extend(lease);
                true
            }
            Message::Flush(done) => {
                self.flushes.push(done);
                false
            }
        }
    }
}

impl Backend {
    fn write(&self, results: &[(ActionDigest, Vec<Artifact>)]) -> Result<(), StoreError> {
        let sync = self.durability != Durability::None;
        if sync {
            self.writer.faults.check().at(&self.root_path)?;
            rustix::fs::syncfs(&self.root).at(&self.root_path)?;
        }
        self.actions.append(results, sync, &self.writer.faults)
    }
}

//! Executes actions as jobs of Slurm.
//!
//! One thread keeps all jobs of a run (`queue`): those that became ready at about the same time are submitted together, now and
//! then Slurm is asked how all of them stand, and it is looked for what they left behind. That is the truth of what came of a job
//! (`job_folder`): Slurm's states lag, and only tell when to look, and why nothing is there. Another thread (`desk`) talks to
//! Slurm, whose programs may take minutes. Where nodes do not see the store, others carry what jobs read and make (`post`).
//!
//! Jobs outlive this process. What a killed run submitted is found by the next one, by the action, and not submitted twice.

mod cancelling;
mod client;
mod desk;
mod endings;
pub mod leftovers;
mod post;
mod queue;
mod script;
mod states;
mod submission;

use std::path::PathBuf;
use std::sync::mpsc::{SendError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use okapi_cache::{ActionDigest, Store, StoreError};
use okapi_remote::Remote;

use super::action_lock::ActionLock;
use super::job_folder::JobFolders;
use super::mailbox::Mailbox;
use super::{Execution, ExecutionError, Job};
use crate::graph::Resources;
use crate::placement::SlurmOptions;
use crate::stage_context::{Cancellation, Report, StageError};
use client::Programs;
use desk::Desk;
use post::Post;
use queue::{Message, Queue};

/// What all jobs of a run are started with.
#[derive(Debug, Clone, Default)]
pub struct JobSettings {
    /// This program, where nodes of the cluster find it.
    pub okapi: PathBuf,
    /// Version and source revision of this program.
    pub program: String,
    /// What commands do not see; `None` if they see everything.
    pub hidden: Option<Vec<PathBuf>>,
    /// The way to nodes that do not see the store, if there is one.
    pub mail: Option<Mail>,
}

/// A remote by way of which jobs get what they read, and give back what they make.
#[derive(Debug, Clone)]
pub struct Mail {
    /// The remote.
    pub remote: Arc<Remote>,
    /// The name of the store there.
    pub place: String,
    /// Variables by which the nodes reach it, with their values.
    pub env: Vec<(String, String)>,
    /// How long a request to it may take that moves nothing.
    pub timeout: Duration,
}

/// The name of a store among those that share a remote.
///
/// # Errors
/// When it has none yet, and cannot be given one.
pub fn place(store: &Store) -> Result<String, StoreError> {
    JobFolders::of(store).place(store)
}

/// What is to be done, and who is told of it.
pub struct Order {
    /// The work.
    pub job: Job,
    /// The node, for people who look into the queue.
    pub node: String,
    /// What it needs.
    pub resources: Resources,
    /// What Slurm is asked for beside that.
    pub options: SlurmOptions,
    /// The time after which the work is stopped, milliseconds.
    pub timeout_ms: Option<u64>,
    /// Whether it is to be done even if a job of an earlier run has left what came of it.
    pub is_forced: bool,
    /// Tells it to stop.
    pub cancel: Cancellation,
    /// Is told how it goes.
    pub report: Box<dyn Fn(Report) + Send>,
    /// Is told what came of it.
    pub done: Box<dyn FnOnce(Result<Execution, ExecutionError>) + Send>,
}

/// The jobs of a run.
pub struct Slurm {
    queue: Mutex<Sender<Message>>,
    thread: Option<JoinHandle<()>>,
    store: Arc<Store>,
}

impl Slurm {
    /// Begins to talk to Slurm; the thread ends with the value and the last job.
    pub fn start(store: Arc<Store>, settings: JobSettings) -> Slurm {
        let (sender, receiver) = channel();
        let for_later = Arc::clone(&store);
        let desk = Desk::open(Programs, sender.clone());
        let mail = settings.mail.as_ref();
        let post = mail.map(|mail| {
            let mailbox = Mailbox::open(Arc::clone(&mail.remote), mail.place.clone());
            Post::open(&mailbox, &store, &sender)
        });
        let queue = Queue::new(desk, post, store, settings);
        let thread = Some(std::thread::spawn(move || queue.serve(&receiver)));
        Slurm { queue: Mutex::new(sender), thread, store: for_later }
    }

    /// Hands over a job.
    pub fn submit(&self, order: Order) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(SendError(Message::Order(order))) = queue.send(Message::Order(Box::new(order))) {
            let gone = StageError::failed("nobody talks to Slurm any more");
            (order.done)(Err(gone.into()));
        }
    }

    /// Forgets jobs whose results the store keeps by now.
    pub fn forget(&self, actions: impl Iterator<Item = ActionDigest>) {
        let folders = JobFolders::of(&self.store);
        actions.for_each(|action| {
            folders.remove(&action);
            ActionLock::forget(&self.store, &action);
        });
        folders.sweep_batches();
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        // One that has gone already need not be told.
        let _ = queue.send(Message::NoMore);
        drop(queue);
        // What has served and is left on a remote costs others a look.
        let until = Instant::now() + post::UNTIL_CLOSED;
        let is_at_work = || self.thread.as_ref().is_some_and(|thread| !thread.is_finished());
        while is_at_work() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

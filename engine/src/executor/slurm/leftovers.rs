//! Jobs that killed runs have left: which of them matter to nobody any more.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use okapi_cache::{ActionDigest, Store};
use okapi_remote::Remote;

use super::client::{Cluster, Programs};
use super::states::{Standing, standing};
use crate::executor::action_lock::ActionLock;
use crate::executor::job_folder::{
    JobFolders, JobOutcome, OUTCOME, OutcomeFile, SUBMITTED, Submitted, read_whole,
};
use crate::executor::mailbox::Mailbox;

/// A job of a killed run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// What it does.
    pub action: ActionDigest,
    /// The cluster's name for it, if that is known.
    pub job: Option<String>,
    /// How it stands.
    pub state: LeftoverState,
    /// Whether there is something of it on a remote.
    pub by_mail: bool,
}

/// How a job of a killed run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftoverState {
    /// The cluster has it still, or cannot be asked.
    AtWork,
    /// It has made a result, which the next run takes up; or may have, on a remote.
    HasResult,
    /// It has ended, and left nothing of use.
    Gone,
}

/// Forgets the jobs whose results the store keeps. Gives the others, as far as they were submitted.
pub fn forget_settled(store: &Store) -> Vec<ActionDigest> {
    let folders = JobFolders::of(store);
    let mut left = Vec::new();
    for action in folders.all_submitted_or_ended() {
        let kept = store.lookup(&action);
        match kept.is_some_and(|it| store.missing_output(&it).is_none()) {
            true => folders.remove(&action),
            false if folders.is_submitted(&action) => left.push(action),
            false => {}
        }
    }
    folders.sweep_batches();
    folders.all_locks().iter().for_each(|action| ActionLock::forget(store, action));
    left
}

/// Says of jobs how they stand, after one question to the cluster.
pub fn look_at(store: &Store, actions: &[ActionDigest]) -> Vec<Leftover> {
    if actions.is_empty() {
        return Vec::new();
    }
    let folders = JobFolders::of(store);
    let place = folders.place(store).ok();
    let states = Programs.states();
    let stands = |action: &ActionDigest| {
        let submitted: Option<Submitted> = read_whole(&folders.job(action).join(SUBMITTED));
        // One of another store, of which this is a copy, is that one's business.
        let submitted = submitted.filter(|it| it.place.is_none() || it.place == place);
        let places = [folders.outcome(action), folders.job(action).join(OUTCOME)];
        let outcome = places.iter().find_map(|path| read_whole::<OutcomeFile>(path));
        let known = submitted.as_ref().and_then(|it| it.job.as_deref());
        let at_work =
            states.as_ref().ok().zip(submitted.as_ref()).and_then(|(states, submitted)| {
                states.iter().find(|state| {
                    // Of one whose submission had no answer, the name is that in its batch.
                    known.is_none_or(|job| state.id == job)
                        && (known.is_some() || place_in_array(&state.id) == submitted.index)
                        && state.batch == submitted.batch
                        && matches!(standing(&state.state), Standing::Queued | Standing::Working)
                })
            });
        // Who cannot be asked may have it.
        let is_at_work = at_work.is_some() || states.is_err() && submitted.is_some();
        // What it may have made is on a remote, where nobody has looked.
        let is_away = submitted.as_ref().is_some_and(|it| it.place.is_some());
        let state = match outcome.map(|it| it.outcome) {
            Some(JobOutcome::Done { .. }) => LeftoverState::HasResult,
            _ if is_at_work => LeftoverState::AtWork,
            None if is_away => LeftoverState::HasResult,
            _ => LeftoverState::Gone,
        };
        let by_mail = is_away;
        let job = at_work.map(|it| it.id.clone()).or_else(|| submitted.and_then(|it| it.job));
        Leftover { action: *action, job, state, by_mail }
    };
    actions.iter().map(stands).collect()
}

/// Forgets jobs, and what they have made, here and on the remote by which it comes, if there is one.
pub fn forget<'a>(
    store: &Store,
    remote: Option<&Arc<Remote>>,
    leftovers: impl Iterator<Item = &'a Leftover>,
) {
    let folders = JobFolders::of(store);
    let open = |remote: &Arc<Remote>| {
        let place = folders.place(store).ok()?;
        Some(Mailbox::open(Arc::clone(remote), place))
    };
    let mailbox = remote.and_then(open);
    for left in leftovers {
        if let Some(mailbox) = mailbox.as_ref().filter(|_| left.by_mail) {
            mailbox.forget(&left.action);
        }
        folders.remove(&left.action);
    }
    folders.sweep_batches();
}

/// The place of a job in its array; the first for one that is in none.
fn place_in_array(id: &str) -> usize {
    id.split_once('_').and_then(|(_, index)| index.parse().ok()).unwrap_or(0)
}

/// Cancels jobs that are at work.
///
/// # Errors
/// When the cluster cannot be asked, with what it says.
pub fn cancel(leftovers: &[Leftover]) -> Result<(), String> {
    let at_work = leftovers.iter().filter(|it| it.state == LeftoverState::AtWork);
    let ids: Vec<String> = at_work.filter_map(|it| it.job.clone()).collect();
    match ids.is_empty() {
        true => Ok(()),
        false => Programs.cancel(&ids, false).map_err(|error| error.to_string()),
    }
}

impl JobFolders {
    /// The actions whose jobs were submitted, or have left something, and are not forgotten.
    fn all_submitted_or_ended(&self) -> BTreeSet<ActionDigest> {
        let submitted = self.named_in(self.root()).into_iter().filter(|it| self.is_submitted(it));
        submitted.chain(self.all_ended().unwrap_or_default()).collect()
    }

    fn is_submitted(&self, action: &ActionDigest) -> bool {
        self.job(action).join(SUBMITTED).exists()
    }

    /// The actions on which somebody works, or has.
    fn all_locks(&self) -> Vec<ActionDigest> {
        self.named_in(&self.root().join("locks"))
    }

    fn named_in(&self, folder: &std::path::Path) -> Vec<ActionDigest> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }
}

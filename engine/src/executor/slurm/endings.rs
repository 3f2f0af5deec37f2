//! Jobs that end without a result, as far as is known: why, and when to stop waiting for one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use okapi_cache::{ActionDigest, Store};

use super::client::{ClientError, JobState};
use super::desk::Question;
use super::queue::{PATIENCE, Queue, Stand, Ticket};
use super::states::{Standing, explain, is_out_of_memory, standing, stuck};
use crate::executor::ExecutionError;
use crate::executor::job_cause::JobCause;
use crate::executor::job_folder::{JobFolders, ReportReader};
use crate::stage_context::{Report, WorkFolder};

/// How long the result of a job that ended by itself may take to be seen here: other nodes' files are, on some networks, seen late.
const UNTIL_SEEN: Duration = Duration::from_secs(120);
/// The same for one that was ended, and may have done its work just before.
const UNTIL_SEEN_OF_KILLED: Duration = Duration::from_secs(5);
/// Lines of a job's log that are shown when it fails.
const TAIL: usize = 12;

/// A job that has ended without a result, as far as is known.
pub(super) struct End {
    pub(super) since: Instant,
    pub(super) standing: Standing,
    /// Slurm's word for it.
    pub(super) word: String,
    /// What it says itself, if Slurm may know better.
    pub(super) own: Option<ExecutionError>,
    /// Whether Slurm has said its last word of it, or has none: as long as it winds a job up it names no cause.
    is_final: bool,
    account: Account,
}

/// Whether what Slurm's accounting wrote down of a job is known: it may have more than the queue still knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Account {
    Unknown,
    AskedFor,
    Known,
}

impl End {
    pub(super) fn new(
        since: Instant,
        standing: Standing,
        word: &str,
        own: Option<ExecutionError>,
    ) -> End {
        End {
            since,
            standing,
            word: word.to_owned(),
            own,
            is_final: false,
            account: Account::Unknown,
        }
    }
}

impl Queue {
    /// How all jobs stand.
    pub(super) fn take_states(&mut self, states: Result<Vec<JobState>, ClientError>, now: Instant) {
        let states = match states {
            Ok(states) => states,
            Err(error) => {
                let since = *self.silent_since.get_or_insert(now);
                self.ask_at = now + self.interval.wait_after(false);
                if now.duration_since(since) > PATIENCE {
                    self.give_all_up(&error);
                }
                return;
            }
        };
        self.silent_since = None;
        self.find_unknown(&states, now);
        let by_id: BTreeMap<&str, &JobState> =
            states.iter().map(|state| (state.id.as_str(), state)).collect();
        let mut has_ended = false;
        for ticket in self.tickets.values_mut() {
            let Stand::Submitted { id, .. } = &ticket.stand else { continue };
            // The same name may be that of another job, where a cluster was set up anew.
            let state =
                by_id.get(id.as_str()).filter(|state| Some(&*state.batch) == ticket.batch());
            ticket.is_ours |= state.is_some();
            let (standing, word) = match state.map(|state| (standing(&state.state), state)) {
                // It has left the queue.
                None => (Standing::Ended, "Slurm knows nothing of it any more"),
                Some((Standing::Queued, state)) => {
                    let why = state.reason.as_deref().and_then(stuck);
                    if let Some(why) = why.filter(|why| ticket.told != Some(why)) {
                        ticket.told = Some(why);
                        (ticket.report)(Report::Log(format!("the job {id} waits: {why}")));
                    }
                    continue;
                }
                Some((Standing::Working, _)) => continue,
                // It has a status of its own only if it could say why.
                Some((Standing::Ended, state))
                    if state.state == "FAILED"
                        && state.reason.as_deref() != Some("NonZeroExitCode") =>
                {
                    (Standing::Killed(JobCause::Lost), "it was killed")
                }
                Some((standing, state)) => (standing, &*state.state),
            };
            has_ended |= ticket.end.is_none();
            let end = ticket.end.get_or_insert_with(|| End::new(now, standing, word, None));
            end.is_final = true;
            if end.standing == Standing::Ended {
                (end.standing, end.word) = (standing, word.to_owned());
            }
        }
        let is_open = |end: &End| end.own.is_some() && !end.is_final;
        let is_asked_for = self.tickets.values().any(|it| it.end.as_ref().is_some_and(is_open));
        self.ask_at = now + self.interval.wait_after(has_ended || is_asked_for);
        if has_ended {
            self.look_soon(now);
        }
    }

    fn give_all_up(&mut self, error: &ClientError) {
        let all: Vec<ActionDigest> = self.tickets.keys().copied().collect();
        for action in all {
            // Their folders stay: the next run finds them.
            let (cause, message) = (JobCause::Unreachable, error.to_string());
            let (_, hint) = explain(cause, "", "");
            let error = ExecutionError::Job { cause, message, hint, log_tail: Vec::new() };
            self.finish(&action, Err(error));
        }
    }

    /// Gives up jobs that have ended, and whose results have not been seen for long enough.
    pub(super) fn give_up_what_is_lost(&mut self, now: Instant) {
        let is_due = |(action, ticket): &(&ActionDigest, &Ticket)| {
            let Some(end) = &ticket.end else { return false };
            let until = end.since + until_seen(ticket, end);
            // What was sent by way of a remote is not missing as long as nobody could look for it.
            let has_all = !ticket.like.by_mail
                || self.post.as_ref().is_some_and(|post| post.has_all_of(action, until));
            now > until && has_all
        };
        let due: Vec<ActionDigest> =
            self.tickets.iter().filter(is_due).map(|(action, _)| *action).collect();
        let mut ids = Vec::new();
        for action in due {
            // A last look: it may be there by now.
            if self.take_outcome(&action, now) {
                continue;
            }
            let is_silent = self.tickets.get(&action).is_some_and(|it| {
                it.like.by_mail && it.end.as_ref().is_some_and(|end| end.own.is_none())
            });
            if is_silent && self.post.as_mut().is_some_and(|post| post.ask_for(&action)) {
                continue;
            }
            let Some(ticket) = self.tickets.get_mut(&action) else { continue };
            if std::mem::take(&mut ticket.is_adopted) {
                // Of the job of an earlier run nobody is to be told.
                ticket.stand = Stand::Waiting;
                ticket.end = None;
                ticket.reader = ReportReader::default();
                let by_mail = ticket.like.by_mail;
                if let Some(post) = &mut self.post {
                    post.finish(&action);
                }
                self.folders.forget_try(&action);
                match by_mail {
                    true => self.send_work(action),
                    false => self.wait_for_others(now),
                }
                continue;
            }
            let Some(end) = &mut ticket.end else { continue };
            match &ticket.stand {
                Stand::Submitted { id, .. }
                    if end.standing == Standing::Ended && end.own.is_none() =>
                {
                    match end.account {
                        Account::Unknown => ids.push(id.clone()),
                        Account::AskedFor => {}
                        Account::Known => self.lose(&action),
                    }
                }
                _ => self.lose(&action),
            }
        }
        if !ids.is_empty() && !self.desk.is_busy() {
            for ticket in self.tickets.values_mut() {
                let Stand::Submitted { id, .. } = &ticket.stand else { continue };
                if let Some(end) = ticket.end.as_mut().filter(|_| ids.contains(id)) {
                    end.account = Account::AskedFor;
                }
            }
            self.desk.put(Question::Account(ids));
        }
    }

    pub(super) fn take_account(&mut self, states: &[JobState]) {
        for ticket in self.tickets.values_mut() {
            let Stand::Submitted { id, .. } = &ticket.stand else { continue };
            let asked = |end: &&mut End| end.account == Account::AskedFor;
            let Some(end) = ticket.end.as_mut().filter(asked) else { continue };
            end.account = Account::Known;
            if let Some(state) = states.iter().find(|state| state.id == *id) {
                (end.standing, end.word) = (standing(&state.state), state.state.clone());
            }
        }
    }

    /// Says why there is no result of a job.
    fn lose(&mut self, action: &ActionDigest) {
        self.listen_to(action);
        let Some(ticket) = self.tickets.get_mut(action) else { return };
        let Some(end) = ticket.end.take() else { return };
        // What is not there because it never began.
        let by_mail = ticket.like.by_mail;
        let (id, log) = match &ticket.stand {
            // What Slurm wrote is not seen here.
            Stand::Submitted { id, .. } if by_mail => (id.clone(), said_last(&self.store, action)),
            Stand::Submitted { id, batch, index } => {
                (id.clone(), log(&self.folders, batch, *index))
            }
            _ => (String::new(), Vec::new()),
        };
        let log_tail = log[log.len().saturating_sub(TAIL)..].to_vec();
        let is_new = !ticket.has_begun && end.own.is_none();
        let cause = match end.standing {
            _ if is_out_of_memory(&log_tail) => JobCause::OutOfMemory,
            Standing::Killed(cause) => cause,
            _ if is_new && end.word == "FAILED" => JobCause::NeverBegan,
            _ => JobCause::Lost,
        };
        if is_new && !by_mail {
            keep_log(&self.store, action, &log);
        }
        let error = match end.own {
            // It knows as much as Slurm does.
            Some(own) if cause == JobCause::Lost => own,
            _ => {
                let (message, mut hint) = explain(cause, &id, &end.word);
                if by_mail && matches!(cause, JobCause::NeverBegan | JobCause::Lost) {
                    hint = Some(FAR.to_owned());
                }
                ExecutionError::Job { cause, message, hint, log_tail }
            }
        };
        self.forget_mail(action);
        self.folders.remove(action);
        self.finish(action, Err(error));
    }
}

/// What may be wrong with a job of which nothing came by way of the remote.
const FAR: &str = "was it killed, does this program lie there (`slurm: {okapi: ...}`), did a line of `setup` fail, has TMPDIR room, and does the node reach the remote?";

/// How long after its end the result of a job may still be seen.
fn until_seen(ticket: &Ticket, end: &End) -> Duration {
    let never_began = end.word == "FAILED" && !ticket.has_begun;
    match end.standing {
        _ if end.own.is_some() && end.is_final => Duration::ZERO,
        Standing::Killed(_) => UNTIL_SEEN_OF_KILLED,
        _ if never_began => UNTIL_SEEN_OF_KILLED,
        _ => UNTIL_SEEN,
    }
}

/// What a job and Slurm wrote.
fn log(folders: &JobFolders, batch: &str, index: usize) -> Vec<String> {
    lines(&folders.batch(batch).join(format!("log-{index}")))
}

/// What a job that does not see the store has sent of what its work wrote to stderr.
fn said_last(store: &Store, action: &ActionDigest) -> Vec<String> {
    lines(&WorkFolder::at(store.work_folder(action)).stderr)
}

fn lines(path: &Path) -> Vec<String> {
    let text = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
}

/// Puts what a job wrote before its work began where the log of a failed instance is looked for.
fn keep_log(store: &Store, action: &ActionDigest, log: &[String]) {
    let folder = store.work_folder(action);
    // The last lines are shown in any case.
    let _ = fs::create_dir_all(&folder)
        .and_then(|()| fs::write(folder.join("stdout"), b""))
        .and_then(|()| fs::write(folder.join("stderr"), log.join("\n") + "\n"));
}

//! The jobs of a run, from the order to the end, in one thread.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use okapi_cache::{ActionDigest, Store, process_name};

use super::desk::{Answer, Desk, Question};
use super::endings::End;
use super::leftovers::forget_settled;
use super::post::{Delivery, Post};
use super::script::{Likeness, options_for, time_limit};
use super::states::{Standing, explain};
use super::submission::Pace;
use super::{JobSettings, Order};
use crate::clock::unix_ms;
use crate::executor::job_cause::JobCause;
use crate::executor::job_folder::{
    JOB, JobFile, JobFolders, JobOutcome, OutcomeFile, ReportReader, SUBMITTED, Submitted, VERSION,
    read_whole,
};
use crate::executor::poll::PollInterval;
use crate::executor::{Execution, ExecutionError};
use crate::placement::StoreAccess;
use crate::stage_context::{Cancellation, Report, StageError};

/// How long ready jobs wait for others to be submitted with them.
const GATHER: Duration = Duration::from_millis(100);
/// How often it is looked whether jobs have ended: that costs the cluster nothing.
const LOOK: Duration = Duration::from_millis(400);
/// How often it is looked what jobs say, and of how many at once.
const LISTEN: Duration = Duration::from_secs(2);
const LISTEN_TO: usize = 64;
/// How long nothing at all may be taken, or answered, before that counts as a failure.
pub(super) const PATIENCE: Duration = Duration::from_secs(3600);
/// What the thread is told.
pub(super) enum Message {
    Order(Box<Order>),
    Answer(Answer),
    Delivery(Delivery),
    /// There will be no more orders.
    NoMore,
}

/// Where a job stands, as far as is known here.
pub(super) enum Stand {
    /// What it reads is being sent to where its node finds it; or is to be sent again then.
    Unsent { again: Option<Instant> },
    /// It is to be submitted.
    Waiting,
    /// It is being submitted, or may have been, with this batch, at this place in it.
    Unknown { batch: String, index: usize, since: Instant },
    /// It has been.
    Submitted { id: String, batch: String, index: usize },
}

impl Stand {
    /// Whether the cluster has it, or may have it.
    pub(super) fn is_with_cluster(&self) -> bool {
        matches!(self, Stand::Unknown { .. } | Stand::Submitted { .. })
    }
}

/// A job, and who is told of it.
pub(super) struct Ticket {
    pub(super) stand: Stand,
    pub(super) like: Likeness,
    pub(super) cancel: Cancellation,
    pub(super) report: Box<dyn Fn(Report) + Send>,
    pub(super) done: Box<dyn FnOnce(Result<Execution, ExecutionError>) + Send>,
    pub(super) reader: ReportReader,
    pub(super) end: Option<End>,
    /// What was last said of why it waits.
    pub(super) told: Option<&'static str>,
    /// It has begun to work.
    pub(super) has_begun: bool,
    /// An earlier run submitted it.
    pub(super) is_adopted: bool,
    /// That the cluster's job of this name is this one is known: names come again where a cluster is set up anew.
    pub(super) is_ours: bool,
    /// It was to be taken back, and has begun before that.
    pub(super) goes_on: bool,
}

impl Ticket {
    /// The batch that it was submitted in.
    pub(super) fn batch(&self) -> Option<&str> {
        match &self.stand {
            Stand::Submitted { batch, .. } | Stand::Unknown { batch, .. } => Some(batch),
            Stand::Unsent { .. } | Stand::Waiting => None,
        }
    }
}

/// All jobs of a run that have not come to an end.
pub(super) struct Queue {
    pub(super) desk: Desk,
    /// The way to nodes that do not see the store, if there are any.
    pub(super) post: Option<Post>,
    pub(super) store: Arc<Store>,
    pub(super) folders: JobFolders,
    pub(super) settings: JobSettings,
    pub(super) tickets: BTreeMap<ActionDigest, Ticket>,
    pub(super) pace: Pace,
    look_at: Instant,
    listen_at: Instant,
    listen_from: Option<ActionDigest>,
    pub(super) interval: PollInterval,
    pub(super) ask_at: Instant,
    asked_at: Option<Instant>,
    /// Since when the cluster has taken, or answered, nothing.
    pub(super) silent_since: Option<Instant>,
    has_begun: bool,
    /// How many were begun.
    tries: u64,
}

impl Queue {
    pub(super) fn new(
        desk: Desk,
        post: Option<Post>,
        store: Arc<Store>,
        settings: JobSettings,
    ) -> Queue {
        let now = Instant::now();
        Queue {
            desk,
            post,
            folders: JobFolders::of(&store),
            store,
            settings,
            tickets: BTreeMap::new(),
            pace: Pace::default(),
            look_at: now,
            listen_at: now,
            listen_from: None,
            interval: PollInterval::default(),
            ask_at: now,
            asked_at: None,
            silent_since: None,
            has_begun: false,
            tries: 0,
        }
    }

    /// Works until nobody orders any more and all jobs have ended.
    pub(super) fn serve(mut self, messages: &Receiver<Message>) {
        let mut is_open = true;
        while is_open || !self.tickets.is_empty() {
            let pause = if self.tickets.is_empty() { PATIENCE } else { self.turn(Instant::now()) };
            let mut next = messages.recv_timeout(pause);
            while let Ok(message) = next {
                match message {
                    Message::Order(order) => self.accept(*order),
                    Message::Answer(answer) => self.take_answer(answer, Instant::now()),
                    Message::Delivery(delivery) => self.take_delivery(delivery, Instant::now()),
                    Message::NoMore => is_open = false,
                }
                next = messages.try_recv().map_err(|_| RecvTimeoutError::Timeout);
            }
        }
        if let Some(post) = self.post {
            post.close();
        }
    }

    /// Does what is due. Gives how long nothing will be.
    fn turn(&mut self, now: Instant) -> Duration {
        if self.look_at <= now {
            self.look(now);
            self.look_at = now + LOOK;
        }
        if self.listen_at <= now {
            self.listen();
            self.listen_at = now + LISTEN;
        }
        self.give_up_what_is_lost(now);
        self.stop_what_is_cancelled();
        if !self.desk.is_busy() && self.pace.at.is_some_and(|at| at <= now) {
            self.submit();
        }
        let is_with_cluster = |it: &Ticket| it.stand.is_with_cluster();
        // Whatever hurry there is: one question in so long a time.
        let is_early = self.asked_at.is_some_and(|at| now < at + PollInterval::SHORTEST);
        let is_due = self.ask_at <= now && !is_early && !self.desk.is_busy();
        if is_due && self.tickets.values().any(is_with_cluster) {
            self.asked_at = Some(now);
            self.desk.put(Question::States);
        }
        let mail = self.turn_post(now);
        let submission = self.pace.at.filter(|_| !self.desk.is_busy());
        let due = [submission, mail, Some(self.look_at), Some(self.listen_at)]
            .into_iter()
            .flatten()
            .min();
        due.map_or(LOOK, |at| at.saturating_duration_since(now))
    }

    /// Takes an order: finds out whether it was submitted before, else writes down what is to be done.
    fn accept(&mut self, order: Order) {
        let Order { job, node, resources, options, timeout_ms, is_forced, cancel, report, done } =
            order;
        let action = job.action.digest;
        if let Err(error) = self.begin() {
            return done(Err(self.trouble(error)));
        }
        let limit_ms = time_limit(&options, timeout_ms);
        let like = Likeness {
            node,
            options: options_for(resources, &options, limit_ms),
            setup: options.setup.unwrap_or_default(),
            env: job.passed_env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            okapi: options.okapi,
            by_mail: options.store == Some(StoreAccess::Remote),
        };
        let by_mail = like.by_mail;
        self.folders.put_aside(&action, false);
        if is_forced && self.folders.outcome(&action).exists() {
            self.folders.remove(&action);
        }
        let place = self.place(by_mail);
        let submitted: Option<Submitted> = read_whole(&self.folders.job(&action).join(SUBMITTED));
        // What one of another store makes, of which this may be a copy, never comes here; what has come is as good as any.
        let is_here = self.folders.outcome(&action).exists();
        let stand = match submitted.filter(|it| is_here || it.place == place) {
            Some(Submitted { job: Some(id), batch, index, .. }) => {
                report(Report::OnCluster { job: id.clone(), host: None });
                Stand::Submitted { id, batch, index }
            }
            Some(Submitted { job: None, batch, index, .. }) => {
                Stand::Unknown { batch, index, since: Instant::now() }
            }
            None => Stand::Waiting,
        };
        let file = JobFile {
            okapi_job: VERSION,
            pass_env: job.passed_env.keys().cloned().collect(),
            gpus: resources.gpu,
            timeout_ms,
            limit_ms,
            hidden: self.settings.hidden.clone(),
            program: self.settings.program.clone(),
            try_name: format!("{}-{}-{}", unix_ms(), process_name(), self.tries),
            damaged: Vec::new(),
            job,
        };
        self.tries += 1;
        let now = Instant::now();
        if matches!(stand, Stand::Waiting) {
            if let Err(error) = self.write_job(&action, &file) {
                return done(Err(self.trouble(error)));
            }
            self.wait_for_others(now);
        }
        let is_new = matches!(stand, Stand::Waiting);
        let ticket = Ticket {
            is_adopted: !is_new,
            stand,
            like,
            cancel,
            report,
            done,
            reader: ReportReader::default(),
            end: None,
            told: None,
            has_begun: false,
            is_ours: is_new,
            goes_on: false,
        };
        self.tickets.insert(action, ticket);
        // Whether it has begun matters to whoever decides about it next.
        self.listen_to(&action);
        if by_mail && is_new {
            self.send_work(action);
        }
    }

    /// The store's name on the remote, for jobs that come and go by way of one.
    pub(super) fn place(&self, by_mail: bool) -> Option<String> {
        self.settings.mail.as_ref().filter(|_| by_mail).map(|mail| mail.place.clone())
    }

    /// Others that are ready at about the same time are submitted together with what is ready now.
    pub(super) fn wait_for_others(&mut self, now: Instant) {
        self.pace.at.get_or_insert(now + GATHER);
    }

    /// Makes the folders, and forgets jobs of earlier runs whose results are in the store proper.
    fn begin(&mut self) -> io::Result<()> {
        if self.has_begun {
            return Ok(());
        }
        self.folders.create()?;
        forget_settled(&self.store);
        self.has_begun = true;
        Ok(())
    }

    fn write_job(&self, action: &ActionDigest, file: &JobFile) -> io::Result<()> {
        // What an earlier try said is not what this one says.
        self.folders.remove(action);
        let folder = self.folders.job(action);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(JOB), serde_json::to_vec(file)?)
    }

    pub(super) fn trouble(&self, error: io::Error) -> ExecutionError {
        ExecutionError::Io { path: self.store.jobs_folder(), source: error }
    }

    fn take_answer(&mut self, answer: Answer, now: Instant) {
        self.desk.answered();
        match answer {
            Answer::Submitted(batch, result) => self.submitted(&batch, result, now),
            Answer::States(states) => self.take_states(states, now),
            Answer::Account(states) => self.take_account(&states),
            Answer::Cancelled(ids, result) => self.cancelled(&ids, &result),
            Answer::Withdrawn(ids, states) => self.withdrawn(&ids, states.as_deref(), now),
        }
    }

    /// Looks for what jobs have left behind.
    fn look(&mut self, now: Instant) {
        for action in self.folders.all_ended().unwrap_or_default() {
            self.take_outcome(&action, now);
        }
    }

    /// Takes what a job left behind, if it is all there. Gives whether the job has come to its end with that.
    pub(super) fn take_outcome(&mut self, action: &ActionDigest, now: Instant) -> bool {
        let Some(ticket) = self.tickets.get_mut(action) else { return false };
        if ticket.end.as_ref().is_some_and(|end| end.own.is_some()) {
            return false;
        }
        let Some(OutcomeFile { okapi_outcome: VERSION, job, outcome, .. }) =
            read_whole(&self.folders.outcome(action))
        else {
            return false;
        };
        let is_current = match &ticket.stand {
            // By mail only this try comes, and one that was submitted twice has worked in two places.
            Stand::Submitted { id, .. } => *id == job || ticket.like.by_mail,
            // A job of a run before this one.
            Stand::Unsent { .. } | Stand::Waiting | Stand::Unknown { .. } => true,
        };
        if !is_current {
            // Another job, which was given up: whether it was alone at its work nobody knows.
            let _ = fs::remove_file(self.folders.outcome(action));
            return false;
        }
        if let JobOutcome::Done { outputs, .. } = &outcome
            && !outputs.iter().all(|output| self.store.is_complete(output))
        {
            // They were there before the outcome, and will be seen here, too, unless they were collected.
            let word = "its outputs are not in the store";
            ticket.end.get_or_insert_with(|| End::new(now, Standing::Ended, word, None));
            return false;
        }
        for line in ticket.reader.read(&self.folders.job(action)) {
            (ticket.report)(line.into_report(&job));
        }
        let own = match outcome {
            JobOutcome::Stopped { at_limit } => {
                let cause = if at_limit { JobCause::TimeLimit } else { JobCause::Cancelled };
                let (message, hint) = explain(cause, &job, "");
                ExecutionError::Job { cause, message, hint, log_tail: Vec::new() }
            }
            outcome => match outcome.into_result() {
                Some(Err(error)) if is_killed(&error) => error,
                Some(result) => {
                    match result {
                        Ok(_) => self.folders.put_aside(action, true),
                        Err(_) => self.folders.remove(action),
                    }
                    self.finish(action, result);
                    return true;
                }
                None => return false,
            },
        };
        // Who ended it, and why, Slurm knows better, if it says so in time.
        ticket.end = Some(End::new(now, Standing::Ended, "FAILED", Some(own)));
        self.ask_at = now;
        false
    }

    /// Passes on what some of the jobs say, others the next time.
    fn listen(&mut self) {
        let is_next = |action: &ActionDigest| self.listen_from.is_none_or(|from| *action > from);
        let all: Vec<ActionDigest> = self
            .tickets
            .iter()
            .filter(|(_, it)| matches!(it.stand, Stand::Submitted { .. }))
            .map(|(action, _)| *action)
            .collect();
        let (after, before): (Vec<_>, Vec<_>) = all.into_iter().partition(is_next);
        let some: Vec<_> = after.into_iter().chain(before).take(LISTEN_TO).collect();
        self.listen_from = some.last().copied();
        some.iter().for_each(|action| self.listen_to(action));
    }

    /// Passes on what a job has said since the last look.
    pub(super) fn listen_to(&mut self, action: &ActionDigest) {
        let Some(ticket) = self.tickets.get_mut(action) else { return };
        let Stand::Submitted { id, .. } = &ticket.stand else { return };
        for line in ticket.reader.read(&self.folders.job(action)) {
            ticket.has_begun = true;
            (ticket.report)(line.into_report(id));
        }
    }

    pub(super) fn finish(
        &mut self,
        action: &ActionDigest,
        result: Result<Execution, ExecutionError>,
    ) {
        if let Some(post) = &mut self.post {
            post.finish(action);
        }
        if let Some(ticket) = self.tickets.remove(action) {
            (ticket.done)(result);
        }
    }
}

/// Whether something outside ended a command: where memory runs out, the system ends one process, and Slurm knows why.
fn is_killed(error: &ExecutionError) -> bool {
    match error {
        // A shell tells of a signal to what it started by a status above 128.
        ExecutionError::Stage(StageError::Command { how, .. }) => {
            ["signal 9", "signal 15", "status 137", "status 143"].iter().any(|it| how.ends_with(it))
        }
        _ => false,
    }
}

//! Jobs on nodes that do not see the store: what they read is sent before they are submitted, and it is looked now and then for
//! what they have sent back, which then lies where any job would have left it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use okapi_cache::{ActionDigest, Store};
use okapi_remote::RemoteError;

use super::queue::{Message, PATIENCE, Queue, Stand, Ticket};
use crate::executor::ExecutionError;
use crate::executor::job_cause::JobCause;
use crate::executor::mailbox::{Edition, MailError, Mailbox};
use crate::stage_context::{Report, StageError};

/// How many jobs' things are on their way at once.
const CARRIERS: usize = 4;
/// How long after a look that found something the next follows; after each that found nothing it takes twice as long.
const SOON: Duration = Duration::from_secs(2);
const LATE: Duration = Duration::from_secs(16);
/// How often it is looked what jobs say.
const BETWEEN_REPORTS: Duration = Duration::from_secs(15);
/// Of how many jobs at most what they say is fetched at once.
const REPORTS_AT_ONCE: usize = 32;
/// How often the things of a job are carried, however long each time takes, before that counts as failing for long.
const FEW_TRIES: u32 = 4;
/// How often what came of a job is fetched before it counts as damaged.
const TRIES_TO_BRING: u32 = 8;
/// How long what is left to be carried is waited for when nothing else is.
pub(super) const UNTIL_CLOSED: Duration = Duration::from_secs(5);
/// The wait after something that may succeed later.
const WAIT: Duration = Duration::from_secs(30);

/// What is to be carried.
enum Errand {
    Send(ActionDigest),
    Look { began: Instant, with_said: bool, with_work: bool },
    Bring(ActionDigest),
    BringSaid(ActionDigest),
    Forget(ActionDigest),
}

/// What was.
pub(super) enum Delivery {
    Sent(ActionDigest, Result<(), MailError>),
    Looked { began: Instant, found: Result<Found, RemoteError> },
    Brought(ActionDigest, Result<(), MailError>),
    BroughtSaid(ActionDigest),
}

/// What there is on the remote.
pub(super) struct Found {
    ended: BTreeSet<ActionDigest>,
    /// If that was asked.
    said: Option<BTreeMap<ActionDigest, Edition>>,
    /// What jobs were sent to do, if that was asked.
    work: Option<BTreeSet<ActionDigest>>,
}

/// The way to and from the remote.
pub(super) struct Post {
    /// One for each carrier; those of one action go to one, so that they are done in their order. The last one looks.
    errands: Vec<Sender<Errand>>,
    threads: Vec<thread::JoinHandle<()>>,
    look_at: Instant,
    wait: Duration,
    reports_at: Instant,
    is_looking: bool,
    /// When the last look began that saw something.
    seen: Option<Instant>,
    /// Since when nobody could look.
    blind_since: Option<Instant>,
    /// Since when the things of a job could not be carried, and how often they were tried.
    failing_since: BTreeMap<ActionDigest, (Instant, u32)>,
    /// What is on its way here.
    bringing: BTreeSet<ActionDigest>,
    bringing_said: BTreeSet<ActionDigest>,
    /// What the last look found of jobs that have ended, and has not been brought.
    found: BTreeSet<ActionDigest>,
    /// Jobs that have ended, as far as is known, and of which the last look did not even find what they were sent.
    missing: BTreeSet<ActionDigest>,
    /// Jobs that seem lost, and whose outcome was asked for by its name.
    asked: BTreeSet<ActionDigest>,
    /// How often what came of a job could not be brought as it is damaged, or not all there.
    damaged: BTreeMap<ActionDigest, u32>,
    /// What has been brought, or is, of what jobs say.
    said: BTreeMap<ActionDigest, Edition>,
}

impl Post {
    /// Begins to carry; the threads end with the value.
    pub(super) fn open(
        mailbox: &Mailbox,
        store: &Arc<Store>,
        deliveries: &Sender<Message>,
    ) -> Post {
        let carriers = (0..=CARRIERS).map(|_| {
            let (errands, receiver) = channel();
            let (mailbox, store) = (mailbox.clone(), Arc::clone(store));
            let deliveries = deliveries.clone();
            let thread = thread::spawn(move || carry(&mailbox, &store, &receiver, &deliveries));
            (errands, thread)
        });
        let (errands, threads) = carriers.unzip();
        Post {
            errands,
            threads,
            look_at: Instant::now(),
            wait: SOON,
            reports_at: Instant::now(),
            is_looking: false,
            seen: None,
            blind_since: None,
            failing_since: BTreeMap::new(),
            bringing: BTreeSet::new(),
            bringing_said: BTreeSet::new(),
            found: BTreeSet::new(),
            missing: BTreeSet::new(),
            asked: BTreeSet::new(),
            damaged: BTreeMap::new(),
            said: BTreeMap::new(),
        }
    }

    fn go(&self, errand: Errand) {
        let carrier = match &errand {
            Errand::Look { .. } => CARRIERS,
            Errand::Send(action)
            | Errand::Bring(action)
            | Errand::BringSaid(action)
            | Errand::Forget(action) => usize::from(action.0.as_bytes()[0]) % CARRIERS,
        };
        // The threads live as long as this value.
        let _ = self.errands[carrier].send(errand);
    }

    /// Whether everything that a job may have sent before this moment is here.
    pub(super) fn has_all_of(&self, action: &ActionDigest, moment: Instant) -> bool {
        let is_to_come = [&self.bringing, &self.bringing_said, &self.found, &self.missing]
            .into_iter()
            .any(|of| of.contains(action));
        self.seen.is_some_and(|seen| seen > moment) && !is_to_come
    }

    /// A job has come to its end.
    pub(super) fn finish(&mut self, action: &ActionDigest) {
        self.failing_since.remove(action);
        self.damaged.remove(action);
        self.said.remove(action);
        self.found.remove(action);
        self.missing.remove(action);
        self.asked.remove(action);
    }

    /// Asks for what came of a job by its name, if that was not done: a listing may be older than what it lists. Gives whether it is.
    pub(super) fn ask_for(&mut self, action: &ActionDigest) -> bool {
        let is_asked = self.asked.insert(*action);
        if is_asked && self.bringing.insert(*action) {
            self.go(Errand::Bring(*action));
        }
        is_asked
    }

    /// Lets the carriers end what they were given, for a while.
    pub(super) fn close(self) {
        drop(self.errands);
        let until = Instant::now() + UNTIL_CLOSED;
        while self.threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Runs errands until nobody can give any more.
fn carry(
    mailbox: &Mailbox,
    store: &Store,
    errands: &Receiver<Errand>,
    deliveries: &Sender<Message>,
) {
    for errand in errands {
        let delivery = match errand {
            Errand::Send(action) => Delivery::Sent(action, mailbox.send_work(store, &action)),
            Errand::Look { began, with_said, with_work } => {
                Delivery::Looked { began, found: look(mailbox, with_said, with_work) }
            }
            Errand::Bring(action) => {
                Delivery::Brought(action, mailbox.receive_outcome(store, &action))
            }
            Errand::BringSaid(action) => {
                // It is for the eye, and comes again with what came of the job.
                let _ = mailbox.receive_said(store, &action);
                Delivery::BroughtSaid(action)
            }
            Errand::Forget(action) => {
                mailbox.forget(&action);
                continue;
            }
        };
        if deliveries.send(Message::Delivery(delivery)).is_err() {
            return;
        }
    }
}

fn look(mailbox: &Mailbox, with_said: bool, with_work: bool) -> Result<Found, RemoteError> {
    let said = if with_said { Some(mailbox.said()?) } else { None };
    let ended = mailbox.ended()?;
    // Asked last: a job that ends meanwhile is not missing.
    let work = if with_work { Some(mailbox.work()?) } else { None };
    Ok(Found { ended, said, work })
}

impl Queue {
    /// Sends what a job is to do.
    pub(super) fn send_work(&mut self, action: ActionDigest) {
        let Some(ticket) = self.tickets.get_mut(&action) else { return };
        match &self.post {
            Some(post) => {
                ticket.stand = Stand::Unsent { again: None };
                post.go(Errand::Send(action));
            }
            None => {
                let error = StageError::failed(
                    "the job is to get its inputs by way of a remote, and there is none",
                );
                self.finish(&action, Err(error.into()));
            }
        }
    }

    /// Nobody waits for a job any more.
    pub(super) fn forget_mail(&self, action: &ActionDigest) {
        let by_mail = self.tickets.get(action).is_some_and(|ticket| ticket.like.by_mail);
        if let Some(post) = self.post.as_ref().filter(|_| by_mail) {
            post.go(Errand::Forget(*action));
        }
    }

    /// Does what is due with the remote. Gives when something will be.
    pub(super) fn turn_post(&mut self, now: Instant) -> Option<Instant> {
        let again: Vec<ActionDigest> = self
            .tickets
            .iter()
            .filter(|(_, it)| matches!(it.stand, Stand::Unsent { again: Some(at) } if at <= now))
            .map(|(action, _)| *action)
            .collect();
        again.into_iter().for_each(|action| self.send_work(action));
        let mut away =
            self.tickets.values().filter(|it| it.like.by_mail && it.stand.is_with_cluster());
        let is_away = away.clone().next().is_some();
        // Of one that says no more it matters what it said last.
        let has_ended = away.any(|it| it.end.is_some());
        let post = self.post.as_mut()?;
        if !is_away {
            // Whoever does not look is not blind.
            post.blind_since = None;
            return None;
        }
        if post.is_looking {
            return None;
        }
        if post.look_at <= now {
            post.is_looking = true;
            let with_said = has_ended || post.reports_at <= now;
            if with_said {
                post.reports_at = now + BETWEEN_REPORTS;
            }
            post.go(Errand::Look { began: now, with_said, with_work: has_ended });
            return None;
        }
        Some(post.look_at)
    }

    /// Something has ended: what came of it is probably there.
    pub(super) fn look_soon(&mut self, now: Instant) {
        if let Some(post) = &mut self.post {
            post.look_at = post.look_at.min(now + Duration::from_secs(1));
        }
    }

    pub(super) fn take_delivery(&mut self, delivery: Delivery, now: Instant) {
        match delivery {
            Delivery::Sent(action, Ok(())) => {
                if let Some(post) = &mut self.post {
                    post.failing_since.remove(&action);
                }
                let ticket = self.tickets.get_mut(&action);
                // What a ticket before it sent says nothing of this one.
                if let Some(ticket) = ticket
                    && matches!(ticket.stand, Stand::Unsent { again: None })
                {
                    ticket.stand = Stand::Waiting;
                    self.wait_for_others(now);
                }
            }
            Delivery::Sent(action, Err(MailError::Never(error))) => {
                self.folders.remove(&action);
                self.finish(&action, Err(error));
            }
            Delivery::Sent(action, Err(MailError::Later(error))) => {
                self.cannot_carry(action, &error, now);
                if let Some(ticket) = self.tickets.get_mut(&action) {
                    ticket.stand = Stand::Unsent { again: Some(now + WAIT) };
                }
            }
            Delivery::Looked { began, found } => {
                let Some(post) = &mut self.post else { return };
                post.is_looking = false;
                match found {
                    Ok(found) => {
                        post.seen = Some(began);
                        post.blind_since = None;
                        self.fetch(found, now);
                    }
                    Err(error) => {
                        post.look_at = now + WAIT;
                        self.cannot_look(&error, now);
                    }
                }
            }
            Delivery::BroughtSaid(action) => {
                if let Some(post) = &mut self.post {
                    post.bringing_said.remove(&action);
                }
            }
            Delivery::Brought(action, result) => {
                if let Some(post) = &mut self.post {
                    post.bringing.remove(&action);
                    post.said.remove(&action);
                }
                match result {
                    Ok(()) => drop(self.take_outcome(&action, now)),
                    Err(MailError::Later(error)) => {
                        if let Some(post) = &mut self.post {
                            // The next look finds it again, or it is asked for again after that.
                            post.found.insert(action);
                            post.asked.remove(&action);
                        }
                        self.cannot_carry(action, &error, now);
                    }
                    // What is wrong is here, or with the way there: what the job has made waits for the next run.
                    Err(MailError::Never(error)) if !is_damaged(&error) => {
                        self.finish(&action, Err(error));
                    }
                    Err(MailError::Never(error)) => {
                        let Some(post) = &mut self.post else { return };
                        post.found.insert(action);
                        post.asked.remove(&action);
                        let damaged = post.damaged.entry(action).or_default();
                        *damaged += 1;
                        // What was cut off on its way comes whole another time.
                        if *damaged < TRIES_TO_BRING {
                            return;
                        }
                        self.forget_mail(&action);
                        self.folders.remove(&action);
                        self.finish(&action, Err(error));
                    }
                }
            }
        }
    }

    /// Brings what has ended, and what some of the others say.
    fn fetch(&mut self, found: Found, now: Instant) {
        let Some(post) = &mut self.post else { return };
        let is_ours = |action: &ActionDigest| {
            self.tickets.get(action).is_some_and(|it| it.like.by_mail && it.stand.is_with_cluster())
        };
        post.found = found.ended.into_iter().filter(is_ours).collect();
        post.wait = if post.found.is_empty() { (post.wait * 2).min(LATE) } else { SOON };
        post.look_at = now + post.wait;
        for action in post.found.clone() {
            if post.bringing.insert(action) {
                post.go(Errand::Bring(action));
            }
        }
        let mut room = REPORTS_AT_ONCE;
        for (action, edition) in found.said.unwrap_or_default() {
            let is_new = post.said.get(&action) != Some(&edition);
            if !is_new || !is_ours(&action) || post.bringing.contains(&action) {
                continue;
            }
            let has_ended = self.tickets.get(&action).is_some_and(|it| it.end.is_some());
            if !has_ended && room == 0 {
                continue;
            }
            room = room.saturating_sub(1);
            post.said.insert(action, edition);
            post.bringing_said.insert(action);
            post.go(Errand::BringSaid(action));
        }
        let Some(work) = found.work else { return };
        // One of an earlier run is begun anew.
        let has_ended = |it: &Ticket| {
            it.like.by_mail && it.stand.is_with_cluster() && it.end.is_some() && !it.is_adopted
        };
        let ended = self.tickets.iter().filter(|(_, it)| has_ended(it));
        let missing = ended.map(|(action, _)| *action);
        // One that is being brought, or is here, may be there no more.
        let is_seen = |it: &ActionDigest| {
            work.contains(it)
                || post.found.contains(it)
                || post.bringing.contains(it)
                || self.folders.outcome(it).exists()
        };
        post.missing = missing.filter(|it| !is_seen(it)).collect();
        for action in post.missing.clone() {
            // A folder that is not mounted looks like an empty one.
            let error = RemoteError::Request {
                what: "find",
                key: action.to_string(),
                message: "what the job was sent is not there any more".to_owned(),
                forbidden: false,
            };
            self.cannot_carry(action, &error, now);
        }
    }

    /// The remote does not say what there is, which concerns all jobs that are away.
    fn cannot_look(&mut self, error: &RemoteError, now: Instant) {
        let Some(post) = &mut self.post else { return };
        let since = *post.blind_since.get_or_insert(now);
        let is_away = |it: &Ticket| it.like.by_mail && it.stand.is_with_cluster();
        let all = self.tickets.iter().filter(|(_, it)| is_away(it));
        let all = all.map(|(action, _)| *action).collect();
        self.remote_fails(all, since, error, now);
    }

    /// The remote does not take, or give, the things of a job.
    fn cannot_carry(&mut self, action: ActionDigest, error: &RemoteError, now: Instant) {
        let Some(post) = &mut self.post else { return };
        let (since, tries) = post.failing_since.entry(action).or_insert((now, 0));
        *tries += 1;
        // What is large may take longer than any patience.
        let since = if *tries < FEW_TRIES { now } else { *since };
        self.remote_fails(vec![action], since, error, now);
    }

    /// The remote has failed jobs for some time. When that is long they fail, too.
    fn remote_fails(
        &mut self,
        actions: Vec<ActionDigest>,
        since: Instant,
        error: &RemoteError,
        now: Instant,
    ) {
        let is_given_up = now.duration_since(since) > PATIENCE;
        for action in actions {
            if is_given_up {
                // Their folders stay: the next run finds what was submitted.
                let hint = error.hint().map(str::to_owned);
                let message = format!("the remote: {error}");
                let error = StageError::Failed { message, hint, transient: false };
                self.finish(&action, Err(error.into()));
            } else if let Some(ticket) = self.tickets.get_mut(&action)
                && ticket.told != Some(FAILS)
            {
                ticket.told = Some(FAILS);
                (ticket.report)(Report::Log(format!("{FAILS}: {error}")));
            }
        }
    }
}

/// Whether something did not arrive as it was: sent again it may.
fn is_damaged(error: &ExecutionError) -> bool {
    matches!(error, ExecutionError::Job { cause: JobCause::Mail, .. })
}

const FAILS: &str = "the remote fails, and is tried again";

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use okapi_cache::{Access, Digest, Durability, StoreError};
    use okapi_remote::{Address, Options, Remote};

    use super::*;
    use crate::executor::job_folder::ReportReader;
    use crate::executor::slurm::JobSettings;
    use crate::executor::slurm::client::Programs;
    use crate::executor::slurm::desk::Desk;
    use crate::executor::slurm::endings::End;
    use crate::executor::slurm::script::Likeness;
    use crate::executor::slurm::states::Standing;
    use crate::stage_context::Cancellation;

    fn action(name: &str) -> ActionDigest {
        ActionDigest(Digest::of(name.as_bytes()))
    }

    /// Three jobs: one whose things are to be sent, and two that the cluster has.
    fn queue(folder: &std::path::Path, ended: &Sender<ActionDigest>) -> Queue {
        let store = Store::open(&folder.join("store"), Access::ReadWrite, Durability::None);
        let store = Arc::new(store.unwrap());
        std::fs::create_dir(folder.join("remote")).unwrap();
        let address = Address::parse("remote", folder).unwrap();
        let remote = Arc::new(Remote::open(&address, &Options::default()).unwrap());
        let mailbox = Mailbox::open(remote, "here".to_owned());
        let (messages, _) = channel();
        let post = Post::open(&mailbox, &store, &messages);
        let desk = Desk::open(Programs, messages);
        let mut queue = Queue::new(desk, Some(post), store, JobSettings::default());
        let submitted =
            |id: &str| Stand::Submitted { id: id.to_owned(), batch: String::new(), index: 0 };
        let stands = [
            ("unsent", Stand::Unsent { again: None }),
            ("one", submitted("1")),
            ("two", submitted("2")),
        ];
        for (name, stand) in stands {
            let (action, ended) = (action(name), ended.clone());
            let ticket = Ticket {
                stand,
                like: Likeness {
                    node: name.to_owned(),
                    options: Vec::new(),
                    setup: String::new(),
                    env: Vec::new(),
                    okapi: None,
                    by_mail: true,
                },
                cancel: Cancellation::default(),
                report: Box::new(|_| {}),
                done: Box::new(move |result| {
                    assert!(result.is_err());
                    ended.send(action).unwrap();
                }),
                reader: ReportReader::default(),
                end: None,
                told: None,
                has_begun: false,
                is_adopted: false,
                is_ours: true,
                goes_on: false,
            };
            queue.tickets.insert(action, ticket);
        }
        queue
    }

    #[test]
    fn a_remote_that_fails_one_job_for_long_fails_that_one_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (ended, hear) = channel();
        let mut queue = queue(folder.path(), &ended);
        let later = || Err(MailError::Later(RemoteError::SetAside));
        let found = || Ok(Found { ended: BTreeSet::new(), said: None, work: None });
        let start = Instant::now();
        let soon = start + PATIENCE / 2;
        let late = start + PATIENCE + Duration::from_secs(1);
        // What is sent fails, and what is read does not.
        queue.take_delivery(Delivery::Sent(action("unsent"), later()), start);
        queue.take_delivery(Delivery::Looked { began: start, found: found() }, start);
        queue.take_delivery(Delivery::Brought(action("one"), later()), soon);
        assert!(hear.try_recv().is_err());
        for _ in 1..FEW_TRIES {
            assert!(hear.try_recv().is_err());
            queue.take_delivery(Delivery::Sent(action("unsent"), later()), late);
        }
        assert_eq!(hear.try_iter().collect::<Vec<_>>(), [action("unsent")]);
        // Nobody can look; a look that sees something begins the time anew.
        let blind = |began| Delivery::Looked { began, found: Err(RemoteError::SetAside) };
        queue.take_delivery(blind(start), late);
        queue.take_delivery(Delivery::Looked { began: late, found: found() }, late);
        queue.take_delivery(blind(late), late + PATIENCE);
        assert!(hear.try_recv().is_err());
        queue.take_delivery(blind(late), late + PATIENCE * 2 + Duration::from_secs(1));
        let mut all = hear.try_iter().collect::<Vec<_>>();
        all.sort();
        let mut expected = vec![action("one"), action("two")];
        expected.sort();
        assert_eq!(all, expected);
    }

    /// A listing that has something of ours, or has less than it must, is no reason to give a job up.
    #[test]
    fn what_has_ended_and_cannot_be_brought_is_not_lost() {
        let folder = tempfile::tempdir().unwrap();
        let (ended, hear) = channel();
        let mut queue = queue(folder.path(), &ended);
        let start = Instant::now();
        for name in ["one", "two"] {
            let end = End::new(start, Standing::Ended, "COMPLETED", None);
            queue.tickets.get_mut(&action(name)).unwrap().end = Some(end);
        }
        let looked = |began, ended: &[&str], work: &[&str]| {
            let all = |names: &[&str]| names.iter().map(|name| action(name)).collect();
            let found = Found { ended: all(ended), said: None, work: Some(all(work)) };
            Delivery::Looked { began, found: Ok(found) }
        };
        let later = start + Duration::from_secs(600);
        // What came of one is there and cannot be brought; of the other not even what it was sent is.
        queue.take_delivery(looked(later, &["one"], &["one"]), later);
        let failed = || Err(MailError::Later(RemoteError::SetAside));
        queue.take_delivery(Delivery::Brought(action("one"), failed()), later);
        let has_all =
            |queue: &Queue, name| queue.post.as_ref().unwrap().has_all_of(&action(name), start);
        assert!(!has_all(&queue, "one") && !has_all(&queue, "two"));
        queue.give_up_what_is_lost(later);
        assert!(hear.try_recv().is_err());
        // What is here need not be there.
        let outcome = queue.folders.outcome(&action("two"));
        queue.folders.create().unwrap();
        std::fs::write(&outcome, "").unwrap();
        queue.take_delivery(looked(later, &["one"], &["one"]), later);
        assert!(has_all(&queue, "two"));
        std::fs::remove_file(&outcome).unwrap();
        queue.take_delivery(looked(later, &["one"], &["one"]), later);
        assert!(!has_all(&queue, "two"));
        // Where what it was sent is there, and nothing came of it, nothing will.
        queue.take_delivery(looked(later, &["one"], &["one", "two"]), later);
        assert!(!has_all(&queue, "one") && has_all(&queue, "two"));
        // It is asked for once more, by its name.
        let post = queue.post.as_mut().unwrap();
        assert!(post.ask_for(&action("two")) && !post.ask_for(&action("two")));
        assert!(!has_all(&queue, "two"));
        // Where nobody answers it is asked again after the next look.
        queue.take_delivery(Delivery::Brought(action("two"), failed()), later);
        assert!(!has_all(&queue, "two"));
        queue.take_delivery(looked(later, &["one"], &["one", "two"]), later);
        assert!(has_all(&queue, "two") && queue.post.as_mut().unwrap().ask_for(&action("two")));
    }

    #[test]
    fn what_cannot_be_taken_here_stays_for_the_next_run_and_what_is_damaged_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let (ended, hear) = channel();
        let mut queue = queue(folder.path(), &ended);
        let path = |queue: &Queue, name| queue.folders.job(&action(name));
        for name in ["one", "two"] {
            std::fs::create_dir_all(path(&queue, name)).unwrap();
        }
        let now = Instant::now();
        let full = StoreError::Full { path: folder.path().to_owned() };
        let result = Err(MailError::Never(full.into()));
        queue.take_delivery(Delivery::Brought(action("one"), result), now);
        assert_eq!(hear.try_iter().collect::<Vec<_>>(), [action("one")]);
        assert!(path(&queue, "one").exists());
        for time in 1..=TRIES_TO_BRING {
            let error = RemoteError::Damaged { key: "x".to_owned(), message: "cut".to_owned() };
            queue.take_delivery(Delivery::Brought(action("two"), Err(error.into())), now);
            assert_eq!(hear.try_iter().count(), usize::from(time == TRIES_TO_BRING), "{time}");
        }
        assert!(!path(&queue, "two").exists());
    }
}

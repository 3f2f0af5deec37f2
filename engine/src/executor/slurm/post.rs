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
/// How often what came of a job is fetched before it counts as damaged.
const TRIES_TO_BRING: u32 = 8;
/// The wait after something that may succeed later.
const WAIT: Duration = Duration::from_secs(30);

/// What is to be carried.
enum Errand {
    Send(ActionDigest),
    Look { began: Instant, with_said: bool },
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
    ended: Vec<ActionDigest>,
    said: BTreeMap<ActionDigest, Edition>,
}

/// The way to and from the remote.
pub(super) struct Post {
    /// One for each carrier; those of one action go to one, so that they are done in their order.
    errands: Vec<Sender<Errand>>,
    look_at: Instant,
    wait: Duration,
    reports_at: Instant,
    is_looking: bool,
    /// When the last look began that saw something.
    seen: Option<Instant>,
    /// Since when nobody could look.
    blind_since: Option<Instant>,
    /// Since when the things of a job could not be carried.
    failing_since: BTreeMap<ActionDigest, Instant>,
    /// What is on its way here.
    bringing: BTreeSet<ActionDigest>,
    bringing_said: BTreeSet<ActionDigest>,
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
        let errands = (0..CARRIERS).map(|_| {
            let (errands, receiver) = channel();
            let (mailbox, store) = (mailbox.clone(), Arc::clone(store));
            let deliveries = deliveries.clone();
            thread::spawn(move || carry(&mailbox, &store, &receiver, &deliveries));
            errands
        });
        let errands = errands.collect();
        Post {
            errands,
            look_at: Instant::now(),
            wait: SOON,
            reports_at: Instant::now(),
            is_looking: false,
            seen: None,
            blind_since: None,
            failing_since: BTreeMap::new(),
            bringing: BTreeSet::new(),
            bringing_said: BTreeSet::new(),
            damaged: BTreeMap::new(),
            said: BTreeMap::new(),
        }
    }

    fn go(&self, errand: Errand) {
        let carrier = match &errand {
            Errand::Look { .. } => 0,
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
        let is_under_way = self.bringing.contains(action) || self.bringing_said.contains(action);
        self.seen.is_some_and(|seen| seen > moment) && !is_under_way
    }

    /// A job has come to its end.
    pub(super) fn finish(&mut self, action: &ActionDigest) {
        self.failing_since.remove(action);
        self.damaged.remove(action);
        self.said.remove(action);
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
            Errand::Look { began, with_said } => {
                Delivery::Looked { began, found: look(mailbox, with_said) }
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

fn look(mailbox: &Mailbox, with_said: bool) -> Result<Found, RemoteError> {
    let said = if with_said { mailbox.said()? } else { BTreeMap::new() };
    Ok(Found { ended: mailbox.ended()?, said })
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
        let post = self.post.as_mut().filter(|_| is_away)?;
        if post.is_looking {
            return None;
        }
        if post.look_at <= now {
            post.is_looking = true;
            let with_said = has_ended || post.reports_at <= now;
            if with_said {
                post.reports_at = now + BETWEEN_REPORTS;
            }
            post.go(Errand::Look { began: now, with_said });
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
                if let Some(ticket) = self.tickets.get_mut(&action) {
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
                        let is_new = !found.ended.is_empty();
                        post.wait = if is_new { SOON } else { (post.wait * 2).min(LATE) };
                        post.look_at = now + post.wait;
                        post.seen = Some(began);
                        post.blind_since = None;
                        self.fetch(found);
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
                    // The next look finds it again.
                    Err(MailError::Later(error)) => self.cannot_carry(action, &error, now),
                    Err(MailError::Never(error)) => {
                        let Some(post) = &mut self.post else { return };
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
    fn fetch(&mut self, found: Found) {
        let Some(post) = &mut self.post else { return };
        let is_ours = |action: &ActionDigest| {
            self.tickets.get(action).is_some_and(|it| it.like.by_mail && it.stand.is_with_cluster())
        };
        for action in found.ended.into_iter().filter(is_ours) {
            if post.bringing.insert(action) {
                post.go(Errand::Bring(action));
            }
        }
        let mut room = REPORTS_AT_ONCE;
        for (action, edition) in found.said {
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
        let since = *post.failing_since.entry(action).or_insert(now);
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

const FAILS: &str = "the remote fails, and is tried again";

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use okapi_cache::{Access, Digest, Durability};
    use okapi_remote::{Address, Options, Remote};

    use super::*;
    use crate::executor::job_folder::ReportReader;
    use crate::executor::slurm::JobSettings;
    use crate::executor::slurm::client::Programs;
    use crate::executor::slurm::desk::Desk;
    use crate::executor::slurm::script::Likeness;
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
        let found = || Ok(Found { ended: Vec::new(), said: BTreeMap::new() });
        let start = Instant::now();
        let soon = start + PATIENCE / 2;
        let late = start + PATIENCE + Duration::from_secs(1);
        // What is sent fails, and what is read does not.
        queue.take_delivery(Delivery::Sent(action("unsent"), later()), start);
        queue.take_delivery(Delivery::Looked { began: start, found: found() }, start);
        queue.take_delivery(Delivery::Brought(action("one"), later()), soon);
        assert!(hear.try_recv().is_err());
        queue.take_delivery(Delivery::Sent(action("unsent"), later()), late);
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
}

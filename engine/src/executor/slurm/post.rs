//! Jobs on nodes that do not see the store: what they read is sent before they are submitted, and it is looked now and then for
//! what they have sent back, which then lies where any job would have left it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use okapi_cache::{ActionDigest, Store};
use okapi_remote::RemoteError;

use super::queue::{Message, PATIENCE, Queue, Stand};
use crate::executor::mailbox::{MailError, Mailbox};
use crate::stage_context::{Report, StageError};

/// How many jobs' things are on their way at once.
const CARRIERS: usize = 4;
/// How long after a look that found something the next follows; after each that found nothing it takes twice as long.
const SOON: Duration = Duration::from_secs(2);
const LATE: Duration = Duration::from_secs(16);
/// How often it is looked for what jobs say.
const BETWEEN_REPORTS: Duration = Duration::from_secs(30);
/// Of how many jobs at most what they say is fetched at once.
const REPORTS_AT_ONCE: usize = 32;
/// How often what came of a job is fetched before it counts as damaged.
const TRIES_TO_BRING: u32 = 8;
/// The wait after something that may succeed later.
const WAIT: Duration = Duration::from_secs(30);

/// What is to be carried.
enum Errand {
    Send(ActionDigest),
    Look { began: Instant, with_reports: bool },
    Bring(ActionDigest),
    BringReports(ActionDigest),
    Forget(ActionDigest),
}

/// What was.
pub(super) enum Delivery {
    Sent(ActionDigest, Result<(), MailError>),
    Looked { began: Instant, found: Result<Found, RemoteError> },
    Brought(ActionDigest, Result<(), MailError>),
}

/// What there is on the remote.
pub(super) struct Found {
    ended: Vec<ActionDigest>,
    said: BTreeMap<ActionDigest, u64>,
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
    failing_since: Option<Instant>,
    bringing: BTreeSet<ActionDigest>,
    /// How often what came of a job could not be brought as it is damaged, or not all there.
    failed: BTreeMap<ActionDigest, u32>,
    said: BTreeMap<ActionDigest, u64>,
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
            failing_since: None,
            bringing: BTreeSet::new(),
            failed: BTreeMap::new(),
            said: BTreeMap::new(),
        }
    }

    fn go(&self, errand: Errand) {
        let carrier = match &errand {
            Errand::Look { .. } => 0,
            Errand::Send(action)
            | Errand::Bring(action)
            | Errand::BringReports(action)
            | Errand::Forget(action) => usize::from(action.0.as_bytes()[0]) % CARRIERS,
        };
        // The threads live as long as this value.
        let _ = self.errands[carrier].send(errand);
    }

    /// Whether everything that a job may have sent before this moment is here.
    pub(super) fn has_all_of(&self, action: &ActionDigest, moment: Instant) -> bool {
        self.seen.is_some_and(|seen| seen > moment) && !self.bringing.contains(action)
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
            Errand::Look { began, with_reports } => {
                Delivery::Looked { began, found: look(mailbox, with_reports) }
            }
            Errand::Bring(action) => {
                Delivery::Brought(action, mailbox.receive_outcome(store, &action))
            }
            Errand::BringReports(action) => {
                // They are for the eye, and come again with what came of the job.
                let _ = mailbox.receive_reports(store, &action);
                continue;
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

fn look(mailbox: &Mailbox, with_reports: bool) -> Result<Found, RemoteError> {
    let said = if with_reports { mailbox.said()? } else { BTreeMap::new() };
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
        let is_away = self.tickets.values().any(|it| it.like.by_mail && it.stand.is_with_cluster());
        let post = self.post.as_mut().filter(|_| is_away)?;
        if post.is_looking {
            return None;
        }
        if post.look_at <= now {
            post.is_looking = true;
            let with_reports = post.reports_at <= now;
            if with_reports {
                post.reports_at = now + BETWEEN_REPORTS;
            }
            post.go(Errand::Look { began: now, with_reports });
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
                    post.failing_since = None;
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
                self.fail_later(&error, now);
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
                        post.failing_since = None;
                        self.fetch(found);
                    }
                    Err(error) => {
                        post.look_at = now + WAIT;
                        self.fail_later(&error, now);
                    }
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
                    Err(MailError::Later(error)) => self.fail_later(&error, now),
                    Err(MailError::Never(error)) => {
                        let Some(post) = &mut self.post else { return };
                        let failed = post.failed.entry(action).or_default();
                        *failed += 1;
                        // What was cut off on its way comes whole another time.
                        if *failed < TRIES_TO_BRING {
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
        for (action, length) in found.said {
            let is_new = post.said.get(&action) != Some(&length);
            if room > 0 && is_new && is_ours(&action) && !post.bringing.contains(&action) {
                post.said.insert(action, length);
                post.go(Errand::BringReports(action));
                room -= 1;
            }
        }
    }

    /// The remote failed. After a long time of nothing else, all that depends on it does.
    fn fail_later(&mut self, error: &RemoteError, now: Instant) {
        let Some(post) = &mut self.post else { return };
        let since = *post.failing_since.get_or_insert(now);
        let all: Vec<ActionDigest> = self
            .tickets
            .iter()
            .filter(|(_, it)| it.like.by_mail)
            .map(|(action, _)| *action)
            .collect();
        let is_given_up = now.duration_since(since) > PATIENCE;
        for action in all {
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

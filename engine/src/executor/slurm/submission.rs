//! Submitting what waits: like jobs together, and with a name that finds them again.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use okapi_cache::{ActionDigest, StoreError};

use super::client::{ClientError, JobState};
use super::desk::{Batch, Question};
use super::endings::End;
use super::queue::{PATIENCE, Queue, Stand};
use super::script::{Likeness, env_of_batch, options_of_batch, script};
use super::states::{Refusal, Standing, refusal};
use crate::clock::unix_ms;
use crate::executor::ExecutionError;
use crate::executor::job_cause::JobCause;
use crate::executor::job_folder::{LIST, SUBMITTED, Submitted, write_whole};
use crate::executor::poll::PollInterval;
use crate::stage_context::{Report, StageError};

/// The most jobs of an array: Slurm's own limit, where nobody changed it.
const MOST_AT_ONCE: usize = 1000;
/// The wait after a submission that may succeed later, at first and at last.
const FIRST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How long it is looked for a submission without an answer before it is made again. One that comes through later still finds that
/// nobody waits for it; or, where it does not see the store, works in one of its own, and the first that ends is taken.
const UNTIL_KNOWN: Duration = Duration::from_secs(20);
const FULL: &str = "the cluster takes no more jobs for now (`--cluster-jobs N` keeps fewer there)";

/// When the next submission is due, and how large it may be.
pub(super) struct Pace {
    pub(super) at: Option<Instant>,
    wait: Duration,
    most_at_once: usize,
    /// What was not taken the last time: others go before it.
    refused: Option<Likeness>,
    batches: u64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { at: None, wait: FIRST_WAIT, most_at_once: MOST_AT_ONCE, refused: None, batches: 0 }
    }
}

impl Queue {
    /// Submits the largest group of like jobs that wait.
    pub(super) fn submit(&mut self) {
        let mut groups: BTreeMap<&Likeness, Vec<ActionDigest>> = BTreeMap::new();
        for (action, ticket) in &self.tickets {
            if matches!(ticket.stand, Stand::Waiting) {
                groups.entry(&ticket.like).or_default().push(*action);
            }
        }
        let refused = self.pace.refused.as_ref();
        let order =
            |(like, all): &(&Likeness, Vec<ActionDigest>)| (Some(*like) != refused, all.len());
        let Some((like, mut actions)) = groups.into_iter().max_by_key(order) else {
            self.pace.at = None;
            return;
        };
        actions.truncate(self.pace.most_at_once);
        self.pace.batches += 1;
        let name = format!("okapi-{}-{}-{}", unix_ms(), std::process::id(), self.pace.batches);
        let batch = Batch {
            options: options_of_batch(like, &name, actions.len(), &self.folders, &self.settings),
            script: script(like, &name, &actions, &self.settings, self.store.root()),
            env: env_of_batch(like, &self.settings),
            name,
            actions,
        };
        if let Err(error) = self.write_batch(&batch) {
            let trouble = error.to_string();
            for action in &batch.actions {
                self.finish(action, Err(StageError::failed(trouble.clone()).into()));
            }
            return;
        }
        let since = Instant::now();
        self.stand(&batch, |batch, index| {
            let batch = batch.name.clone();
            Stand::Unknown { batch, index, since }
        });
        self.desk.put(Question::Submit(batch));
    }

    fn stand(&mut self, batch: &Batch, stand: impl Fn(&Batch, usize) -> Stand) {
        for (index, action) in batch.actions.iter().enumerate() {
            if let Some(ticket) = self.tickets.get_mut(action) {
                ticket.stand = stand(batch, index);
            }
        }
    }

    /// Writes down what is about to be submitted: whoever comes after a crash knows what to look for.
    fn write_batch(&self, batch: &Batch) -> Result<(), StoreError> {
        let folder = self.folders.batch(&batch.name);
        fs::create_dir_all(&folder).map_err(|error| StoreError::io(&folder, error))?;
        self.store.write_file(&folder.join("script"), batch.script.as_bytes())?;
        let lines: String = batch.actions.iter().map(|action| format!("{action}\n")).collect();
        self.store.write_file(&folder.join(LIST), lines.as_bytes())?;
        for (index, action) in batch.actions.iter().enumerate() {
            let by_mail = self.tickets.get(action).is_some_and(|it| it.like.by_mail);
            let place = self.place(by_mail);
            let submitted = Submitted { job: None, batch: batch.name.clone(), index, place };
            write_whole(&self.store, &self.folders.job(action).join(SUBMITTED), &submitted)?;
        }
        Ok(())
    }

    /// What the cluster said to a batch.
    pub(super) fn submitted(
        &mut self,
        batch: &Batch,
        result: Result<String, ClientError>,
        now: Instant,
    ) {
        let error = match result {
            Ok(id) => {
                self.silent_since = None;
                self.pace.wait = FIRST_WAIT;
                self.pace.refused = None;
                self.pace.most_at_once = (self.pace.most_at_once * 2).min(MOST_AT_ONCE);
                let count = batch.actions.len();
                for (index, action) in batch.actions.iter().enumerate() {
                    let id = if count == 1 { id.clone() } else { format!("{id}_{index}") };
                    self.name_job(action, id, &batch.name, index);
                }
                self.ask_at = self.ask_at.max(now + PollInterval::SHORTEST);
                return;
            }
            Err(error) => error,
        };
        let said = error.to_string();
        match refusal(&error) {
            Refusal::Unknown => {
                // The cluster is asked for them by the name of the batch.
                self.ask_at = now;
                self.silent_since.get_or_insert(now);
                self.wait_to_submit(now);
            }
            Refusal::Later => {
                self.forget_try(batch);
                let since = *self.silent_since.get_or_insert(now);
                // There may be room for some of them, or for others.
                self.pace.most_at_once = (batch.actions.len() / 2).max(1);
                let first = batch.actions.first().and_then(|first| self.tickets.get(first));
                self.pace.refused = first.map(|ticket| ticket.like.clone());
                self.tell(&batch.actions, FULL, &said);
                // As long as others of this run are there, room will be made.
                let is_alone = !self.tickets.values().any(|it| it.stand.is_with_cluster());
                if is_alone && now.duration_since(since) > PATIENCE {
                    self.refuse(&batch.actions, JobCause::Unreachable, &said, None);
                }
                self.wait_to_submit(now);
            }
            Refusal::Never(_) if is_array_too_large(&said, batch.actions.len()) => {
                self.forget_try(batch);
                self.pace.most_at_once = (batch.actions.len() / 2).max(1);
            }
            Refusal::Never(hint) => self.refuse(&batch.actions, JobCause::Refused, &said, hint),
        }
    }

    fn wait_to_submit(&mut self, now: Instant) {
        self.pace.at = Some(now + self.pace.wait);
        self.pace.wait = (self.pace.wait * 2).min(LONGEST_WAIT);
    }

    fn forget_try(&mut self, batch: &Batch) {
        for action in &batch.actions {
            self.folders.forget_try(action);
        }
        self.stand(batch, |_, _| Stand::Waiting);
    }

    /// Writes down the cluster's name for a job.
    fn name_job(&mut self, action: &ActionDigest, id: String, batch: &str, index: usize) {
        let Some(ticket) = self.tickets.get_mut(action) else { return };
        let place = self.settings.mail.as_ref().filter(|_| ticket.like.by_mail);
        let place = place.map(|mail| mail.place.clone());
        let submitted = Submitted { job: Some(id.clone()), batch: batch.to_owned(), index, place };
        // Without it the job is found by its batch.
        let _ = write_whole(&self.store, &self.folders.job(action).join(SUBMITTED), &submitted);
        (ticket.report)(Report::OnCluster { job: id.clone(), host: None });
        ticket.stand = Stand::Submitted { id, batch: batch.to_owned(), index };
        ticket.is_ours = true;
    }

    /// Finds jobs of which nobody knew whether they had been submitted; those that had not are to be.
    pub(super) fn find_unknown(&mut self, states: &[JobState], now: Instant) {
        let unknown: Vec<(ActionDigest, String, usize, Instant)> = self
            .tickets
            .iter()
            .filter_map(|(action, ticket)| match &ticket.stand {
                Stand::Unknown { batch, index, since } => {
                    Some((*action, batch.clone(), *index, *since))
                }
                _ => None,
            })
            .collect();
        for (action, batch, index, since) in unknown {
            let of_batch = states.iter().filter(|state| state.batch == batch);
            let found =
                of_batch.map(|state| state.id.clone()).find(|id| match id.split_once('_') {
                    None => true,
                    Some((_, task)) => task.parse() == Ok(index),
                });
            match found {
                Some(id) => self.name_job(&action, id, &batch, index),
                // A busy controller may work through it yet.
                None if now.duration_since(since) < UNTIL_KNOWN => {}
                None => {
                    let Some(ticket) = self.tickets.get_mut(&action) else { continue };
                    if ticket.is_adopted && ticket.like.by_mail {
                        // It may have come and gone, and what it has made be on the remote.
                        let word = "Slurm knows nothing of it any more";
                        ticket
                            .end
                            .get_or_insert_with(|| End::new(now, Standing::Ended, word, None));
                    } else if ticket.end.is_none() {
                        ticket.stand = Stand::Waiting;
                        self.pace.at.get_or_insert(now);
                    }
                }
            }
        }
    }

    fn refuse(
        &mut self,
        actions: &[ActionDigest],
        cause: JobCause,
        message: &str,
        hint: Option<&'static str>,
    ) {
        for action in actions {
            let (message, hint) = (message.to_owned(), hint.map(str::to_owned));
            let error = ExecutionError::Job { cause, message, hint, log_tail: Vec::new() };
            self.forget_mail(action);
            self.folders.remove(action);
            self.finish(action, Err(error));
        }
    }

    fn tell(&mut self, actions: &[ActionDigest], what: &'static str, said: &str) {
        for action in actions {
            if let Some(ticket) = self.tickets.get_mut(action).filter(|it| it.told != Some(what)) {
                ticket.told = Some(what);
                (ticket.report)(Report::Log(format!("{what}: {said}")));
            }
        }
    }
}

/// Whether a cluster takes arrays, but none so large.
fn is_array_too_large(said: &str, jobs: usize) -> bool {
    jobs > 1 && said.to_lowercase().contains("job array")
}

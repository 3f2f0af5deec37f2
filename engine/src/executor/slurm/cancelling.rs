//! Jobs that are not wanted any more: all of them where the user says so, those that have not begun where another one has failed.

use std::time::Instant;

use okapi_cache::ActionDigest;

use super::client::{ClientError, JobState};
use super::desk::Question;
use super::queue::{Queue, Stand, Ticket};
use super::states::{Standing, standing};
use crate::executor::job_cause::JobCause;
use crate::stage_context::{Report, StageError};

impl Queue {
    /// Ends the jobs that were told to stop.
    pub(super) fn stop_what_is_cancelled(&mut self) {
        let stopped: Vec<ActionDigest> = self
            .tickets
            .iter()
            .filter(|(_, ticket)| {
                ticket.cancel.is_requested() || (ticket.cancel.is_withdrawn() && !ticket.goes_on)
            })
            .map(|(action, _)| *action)
            .collect();
        let (mut ids, mut waiting) = (Vec::new(), Vec::new());
        for action in stopped {
            let Some(ticket) = self.tickets.get(&action) else { continue };
            match &ticket.stand {
                Stand::Unsent { .. } | Stand::Waiting => {
                    self.forget_mail(&action);
                    self.folders.remove(&action);
                    self.finish(&action, Err(StageError::Cancelled.into()));
                }
                _ if ticket.cancel.is_urgent() => {
                    let left = "the job goes on by itself; the next run finds it";
                    (ticket.report)(Report::Log(left.to_owned()));
                    self.finish(&action, Err(StageError::Cancelled.into()));
                }
                // It will be known soon.
                Stand::Unknown { .. } => {}
                // So is whether it is the job of that name.
                Stand::Submitted { .. } if !ticket.is_ours => {}
                Stand::Submitted { id, .. } if ticket.cancel.is_requested() => ids.push(id.clone()),
                Stand::Submitted { id, .. } => waiting.push(id.clone()),
            }
        }
        if !ids.is_empty() && !self.desk.is_busy() {
            self.desk.put(Question::Cancel(ids));
        }
        if !waiting.is_empty() && !self.desk.is_busy() {
            self.desk.put(Question::Withdraw(waiting));
        }
    }

    /// Takes back what was not to begin and has not; what has begun goes on.
    pub(super) fn withdrawn(
        &mut self,
        ids: &[String],
        states: Result<&[JobState], &ClientError>,
        now: Instant,
    ) {
        let asked: Vec<(ActionDigest, String)> = self
            .tickets
            .iter()
            .filter_map(|(action, ticket)| match &ticket.stand {
                Stand::Submitted { id, .. } if ids.contains(id) => Some((*action, id.clone())),
                _ => None,
            })
            .collect();
        for (action, id) in asked {
            let state = states.map(|all| all.iter().find(|state| state.id == id));
            let is_back = match state {
                Ok(Some(state)) => standing(&state.state) == Standing::Killed(JobCause::Cancelled),
                // It has left the queue, one way or the other: what it has made may be on the remote.
                Ok(None) => self.tickets.get(&action).is_none_or(|it| !it.like.by_mail),
                // Nobody knows.
                Err(_) => false,
            };
            if is_back && !self.take_outcome(&action, now) {
                self.forget_mail(&action);
                self.folders.remove(&action);
                self.finish(&action, Err(StageError::Cancelled.into()));
            } else if let Some(ticket) = self.tickets.get_mut(&action) {
                ticket.goes_on = true;
            }
        }
    }

    /// What became of jobs that were to be ended.
    pub(super) fn cancelled(&mut self, ids: &[String], result: &Result<(), ClientError>) {
        let of_ids = |ticket: &Ticket| match &ticket.stand {
            Stand::Submitted { id, .. } => ids.contains(id),
            _ => false,
        };
        let actions: Vec<ActionDigest> =
            self.tickets.iter().filter(|(_, it)| of_ids(it)).map(|(action, _)| *action).collect();
        for action in actions {
            match result {
                Ok(()) => {
                    self.forget_mail(&action);
                    self.folders.remove(&action);
                }
                Err(error) => {
                    let message = format!(
                        "the job could not be cancelled, and may go on; the next run finds it: {error}"
                    );
                    if let Some(ticket) = self.tickets.get(&action) {
                        (ticket.report)(Report::Log(message));
                    }
                }
            }
            self.finish(&action, Err(StageError::Cancelled.into()));
        }
    }
}

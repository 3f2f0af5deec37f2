//! Instances as jobs of a cluster: what each is asked for, and what another try is.

use super::runner::Runner;
use crate::executor::job_cause::JobCause;
use crate::executor::slurm::Order;
use crate::executor::{Execution, ExecutionError, Job};
use crate::graph::InstanceId;
use crate::stage_context::{Cancellation, Report};

/// How often a job is tried again at least where the cluster ended it, and not the work.
pub(super) const TRIES_FOR_CLUSTER: u32 = 3;

/// By how much another try is asked for more, thousandths.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raised {
    memory: u64,
    time: u64,
}

impl Default for Raised {
    fn default() -> Raised {
        Raised { memory: 1000, time: 1000 }
    }
}

impl Runner<'_> {
    /// What Slurm is asked to do for an instance.
    pub(super) fn order(
        &self,
        id: InstanceId,
        job: Job,
        cancel: Cancellation,
        report: Box<dyn Fn(Report) + Send>,
        done: Box<dyn FnOnce(Result<Execution, ExecutionError>) + Send>,
    ) -> Order {
        let graph = self.request.graph;
        let instance = &graph.instances[id as usize];
        let raised = self.raised.get(&id).copied().unwrap_or_default();
        let more = |amount: u64, thousandths: u64| {
            (u128::from(amount) * u128::from(thousandths) / 1000).try_into().unwrap_or(u64::MAX)
        };
        let mut resources = instance.resources;
        resources.memory = more(resources.memory, raised.memory);
        let mut options = instance.slurm.as_deref().cloned().unwrap_or_default();
        options.time_ms = options.time_ms.map(|time| more(time, raised.time));
        let node = graph.node(id).name.clone();
        Order {
            job,
            node,
            resources,
            options,
            timeout_ms: instance.timeout_ms,
            is_forced: self.request.forced[id as usize],
            cancel,
            report,
            done,
        }
    }

    /// Remembers what the next try needs more of.
    pub(super) fn raise(&mut self, id: InstanceId, cause: JobCause) {
        let Some(options) = &self.request.graph.instances[id as usize].slurm else { return };
        let raised = self.raised.entry(id).or_default();
        match cause {
            JobCause::OutOfMemory => {
                raised.memory =
                    raised.memory * u64::from(options.more_memory.unwrap_or(1000)) / 1000;
            }
            JobCause::TimeLimit => {
                raised.time = raised.time * u64::from(options.more_time.unwrap_or(1000)) / 1000;
            }
            _ => {}
        }
    }
}

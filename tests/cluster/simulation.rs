//! The schedule of a run with a fake executor and a simulated clock: each step goes to the next moment at which
//! something ends. What decides is the schedule itself, as `okapi run` has it.

use std::time::{Duration, Instant};

use okapi_engine::executor::poll::PollInterval;
use okapi_engine::graph::{Graph, InstanceId};
use okapi_engine::machine::Machine;
use okapi_engine::schedule::{Grant, Schedule};
use okapi_engine::service::ServiceId;

/// What an instance does while it runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Work {
    /// A job of the cluster: it holds GPUs for so many seconds.
    Job { seconds: f64 },
    /// So many requests to a teacher. Instances that ask at the same time have equal shares of what its provider allows.
    Asking { requests: f64 },
    /// So many seconds beside the coordinator.
    Local { seconds: f64 },
}

/// Where instances run.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    pub(crate) machine: Machine,
    /// What the teachers' provider allows.
    pub(crate) requests_per_second: f64,
    /// From the moment a job is handed over until it works, seconds.
    pub(crate) start_seconds: f64,
}

/// How a run went.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) makespan: f64,
    pub(crate) jobs: u64,
    pub(crate) queries: u64,
    /// The most instances that ran at once.
    pub(crate) most_running: usize,
    /// The real time that the schedule took for all of its decisions.
    pub(crate) deciding: Duration,
}

/// An instance that runs.
struct Running {
    id: InstanceId,
    grant: Grant,
    left: Left,
}

enum Left {
    /// It ends at this moment, and is seen to have ended at once (`false`) or by the next query (`true`).
    Until(f64, bool),
    Requests(f64),
}

/// Runs all instances. `weights` are what the schedule believes, `work` is what happens.
pub(crate) fn simulate(
    graph: &Graph,
    work: &[Work],
    services: &[Option<ServiceId>],
    weights: &[u64],
    cluster: &Cluster,
) -> Outcome {
    let everything = vec![true; graph.instances.len()];
    let mut deciding = Duration::ZERO;
    let mut decide = |began: Instant| deciding += began.elapsed();
    let began = Instant::now();
    let mut schedule =
        Schedule::with_services(graph, &cluster.machine, &everything, services.to_vec(), |id| {
            weights[id as usize]
        });
    decide(began);
    let mut running: Vec<Running> = Vec::new();
    let (mut now, mut jobs, mut queries, mut most_running) = (0.0, 0, 0, 0);
    // The next query, while there are jobs to ask for.
    let mut poll: Option<(f64, PollInterval)> = None;
    loop {
        let began = Instant::now();
        while let Some(id) = schedule.take_ready() {
            let grant = schedule.grant(id);
            let left = match work[id as usize] {
                Work::Job { seconds } => {
                    jobs += 1;
                    let mut interval = PollInterval::default();
                    poll.get_or_insert_with(|| {
                        (now + interval.wait_after(false).as_secs_f64(), interval)
                    });
                    Left::Until(now + cluster.start_seconds + seconds, true)
                }
                Work::Local { seconds } => Left::Until(now + seconds, false),
                Work::Asking { requests } => Left::Requests(requests),
            };
            running.push(Running { id, grant, left });
        }
        decide(began);
        most_running = most_running.max(running.len());
        if schedule.is_finished() {
            break;
        }
        assert!(!running.is_empty(), "the schedule is stuck with work left");
        let asking = running.iter().filter(|it| matches!(it.left, Left::Requests(_))).count();
        let rate = cluster.requests_per_second / asking.max(1) as f64;
        let ends = running.iter().filter_map(|it| match it.left {
            Left::Until(at, false) => Some(at),
            Left::Until(_, true) => None,
            Left::Requests(left) => Some(now + left / rate),
        });
        let next = ends.chain(poll.map(|(at, _)| at)).fold(f64::INFINITY, f64::min);
        let asked = rate * (next - now);
        now = next;
        let is_query = poll.is_some_and(|(at, _)| at <= now);
        let (mut ended, mut job_ended) = (Vec::new(), false);
        for it in std::mem::take(&mut running) {
            let Running { id, grant, left } = it;
            let left = match left {
                Left::Requests(left) => Left::Requests(left - asked),
                other => other,
            };
            let is_over = match left {
                Left::Until(at, is_job) => at <= now && (!is_job || is_query),
                // Less than one request is what rounding left.
                Left::Requests(left) => left < 0.5,
            };
            if is_over {
                job_ended |= matches!(left, Left::Until(_, true));
                ended.push((id, grant));
            } else {
                running.push(Running { id, grant, left });
            }
        }
        if let Some((at, interval)) = poll.as_mut().filter(|_| is_query) {
            queries += 1;
            *at = now + interval.wait_after(job_ended).as_secs_f64();
        }
        if !running.iter().any(|it| matches!(it.left, Left::Until(_, true))) {
            poll = None;
        }
        let began = Instant::now();
        for (id, grant) in ended {
            schedule.release(grant);
            schedule.done(id);
        }
        decide(began);
    }
    Outcome { makespan: now, jobs, queries, most_running, deciding }
}

/// No run can be shorter than the longest of these, seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LowerBound {
    /// The longest path, each instance with all that the teacher gives.
    pub(crate) critical_path: f64,
    /// All jobs, spread over all GPUs without a gap.
    pub(crate) gpus: f64,
    /// All requests, at all that the provider allows.
    pub(crate) teacher: f64,
}

impl LowerBound {
    pub(crate) fn of(graph: &Graph, work: &[Work], cluster: &Cluster) -> LowerBound {
        let (mut gpu_seconds, mut requests) = (0.0, 0.0);
        let mut paths = vec![0.0_f64; work.len()];
        for (id, instance) in graph.instances.iter().enumerate() {
            let seconds = match work[id] {
                Work::Job { seconds } => {
                    gpu_seconds += seconds * f64::from(instance.resources.gpu);
                    seconds
                }
                Work::Local { seconds } => seconds,
                Work::Asking { requests: some } => {
                    requests += some;
                    some / cluster.requests_per_second
                }
            };
            let feeds = instance.inputs.iter().flat_map(|input| &input.feeds);
            let before = feeds.map(|feed| paths[feed.instance as usize]).fold(0.0, f64::max);
            paths[id] = before + seconds;
        }
        LowerBound {
            critical_path: paths.into_iter().fold(0.0, f64::max),
            gpus: gpu_seconds / cluster.machine.gpus.len() as f64,
            teacher: requests / cluster.requests_per_second,
        }
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.critical_path.max(self.gpus).max(self.teacher)
    }
}

//! The scheduler: which instance runs next. A pure state machine: no clock, no threads, no store.
//!
//! ```text
//!            all inputs made             slot free             work done
//!  Waiting ────────────────▶ Ready ────────────────▶ Running ───────────▶ Done
//!     │                        ▲  ╲                     │  │
//!     │                        │   ╲ result found       │  └──────────▶ Failed
//!     │ a needed one failed    │    ╲─────────────────▶ Done              │
//!     ▼                        └───────────────────────┘                  │
//!  Skipped ◀─────────────────── put back (retry, lease) ◀─────────────────┘ its readers
//! ```
//!
//! Every change of state goes through `Schedule::set`. Ready instances leave in the order of the
//! longest path still ahead of them; ties go to the smaller id, so that the order is repeatable. One that
//! asks a service of which [`ASKING_AT_ONCE`] ask already stays ready until one of them ends.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use crate::graph::{Graph, InstanceId, Resources};
use crate::machine::Machine;
use crate::service::ServiceId;

/// How many instances ask one service at once. One uses up its rate, but not while it begins and ends, nor if it has
/// only a few rows.
pub const ASKING_AT_ONCE: u32 = 4;

/// Where an instance stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Not part of this run, or known before it began: readers need not wait for it.
    Settled,
    /// Some inputs are still to be made.
    Waiting {
        /// How many feeds.
        unmet: u32,
    },
    /// All inputs are there.
    Ready,
    /// It was taken and has its resources.
    Running,
    /// It has a result.
    Done,
    /// It failed for good.
    Failed,
    /// It will not run: this instance, on which it depends, failed.
    Skipped {
        /// The one that failed.
        because_of: InstanceId,
    },
}

/// What a running instance holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Processor slots and memory, never more than the machine has; of a job elsewhere, what it is to get there.
    pub resources: Resources,
    /// GPU ids of this machine.
    pub gpus: Vec<String>,
    /// Whether it is a place in a cluster's queue, and nothing of this machine.
    pub is_on_cluster: bool,
}

/// What an instance asks for, as a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Demand {
    /// Processors, memory and GPUs of this machine, and a service.
    Here(u32, u64, u32, Option<ServiceId>),
    /// A place in a cluster's queue.
    Cluster,
}

/// The state of a run's instances.
#[derive(Debug)]
pub struct Schedule<'a> {
    graph: &'a Graph,
    machine: &'a Machine,
    standing: Vec<Standing>,
    /// Readers of each unsettled instance: `readers[first_reader[i]..first_reader[i + 1]]`.
    first_reader: Vec<u32>,
    readers: Vec<InstanceId>,
    /// Longest path from the instance to the end of the run, its own weight included.
    path_ahead: Vec<u64>,
    /// Ready instances by what they ask for, so that a thousand that wait for the one GPU do not
    /// stand before the one that needs none.
    ready: BTreeMap<Demand, BinaryHeap<(u64, Reverse<InstanceId>)>>,
    /// Instances that have just become ready, if they are to be looked for elsewhere before they wait for a slot.
    new: Option<BTreeSet<(Reverse<u64>, InstanceId)>>,
    free_cpu_milli: u32,
    free_memory: u64,
    free_gpus: Vec<String>,
    free_cluster_jobs: u32,
    /// The service of each instance; no entries if none has one.
    services: Vec<Option<ServiceId>>,
    /// How many instances ask each service.
    asking: Vec<u32>,
    running: usize,
    unsettled: usize,
}

impl<'a> Schedule<'a> {
    /// A schedule of the instances for which `to_settle` holds; all others count as settled.
    /// `weight` estimates how long an instance takes, in any unit.
    pub fn new(
        graph: &'a Graph,
        machine: &'a Machine,
        to_settle: &[bool],
        weight: impl Fn(InstanceId) -> u64,
    ) -> Schedule<'a> {
        Schedule::with_services(graph, machine, to_settle, Vec::new(), weight)
    }

    /// The same, with the service that each instance shares with others.
    pub fn with_services(
        graph: &'a Graph,
        machine: &'a Machine,
        to_settle: &[bool],
        services: Vec<Option<ServiceId>>,
        weight: impl Fn(InstanceId) -> u64,
    ) -> Schedule<'a> {
        let count = graph.instances.len();
        let mut unmet = vec![0_u32; count];
        let mut first_reader = vec![0_u32; count + 1];
        let feeds = |id: usize| graph.instances[id].inputs.iter().flat_map(|input| &input.feeds);
        for id in (0..count).filter(|&id| to_settle[id]) {
            for feed in feeds(id).filter(|feed| to_settle[feed.instance as usize]) {
                unmet[id] += 1;
                first_reader[feed.instance as usize + 1] += 1;
            }
        }
        for id in 0..count {
            first_reader[id + 1] += first_reader[id];
        }
        let mut fill = first_reader.clone();
        let mut readers = vec![0; first_reader[count] as usize];
        for id in (0..count).filter(|&id| to_settle[id]) {
            for feed in feeds(id).filter(|feed| to_settle[feed.instance as usize]) {
                let place = &mut fill[feed.instance as usize];
                readers[*place as usize] = id as InstanceId;
                *place += 1;
            }
        }
        let mut path_ahead = vec![0_u64; count];
        for id in (0..count).rev().filter(|&id| to_settle[id]) {
            let range = first_reader[id] as usize..first_reader[id + 1] as usize;
            let longest = readers[range].iter().map(|&reader| path_ahead[reader as usize]).max();
            path_ahead[id] = longest.unwrap_or(0).saturating_add(weight(id as InstanceId).max(1));
        }
        let mut schedule = Schedule {
            graph,
            machine,
            standing: vec![Standing::Settled; count],
            first_reader,
            readers,
            path_ahead,
            ready: BTreeMap::new(),
            new: None,
            free_cpu_milli: machine.slots.saturating_mul(1000),
            free_memory: machine.memory,
            free_gpus: machine.gpus.clone(),
            free_cluster_jobs: machine.cluster_jobs,
            asking: vec![0; services.iter().flatten().max().map_or(0, |last| *last as usize + 1)],
            services,
            running: 0,
            unsettled: 0,
        };
        for id in (0..count).filter(|&id| to_settle[id]) {
            schedule.unsettled += 1;
            let standing = match unmet[id] {
                0 => Standing::Ready,
                unmet => Standing::Waiting { unmet },
            };
            schedule.set(id as InstanceId, standing);
        }
        schedule
    }

    /// From now on an instance that becomes ready leaves by [`Schedule::take_new`] first, whether or not what it asks
    /// for is free: looking for its result elsewhere takes no slot.
    pub fn look_elsewhere_first(&mut self) {
        let ready = std::mem::take(&mut self.ready).into_values().flatten();
        self.new = Some(ready.map(|(path, Reverse(id))| (Reverse(path), id)).collect());
    }

    /// Takes the instance with the longest path ahead among those that have become ready and were not taken before. The
    /// caller says [`Schedule::done`] or [`Schedule::put_back`].
    pub fn take_new(&mut self) -> Option<InstanceId> {
        self.new.as_mut()?.pop_first().map(|(_, id)| id)
    }

    /// Where an instance stands.
    pub fn standing(&self, id: InstanceId) -> Standing {
        self.standing[id as usize]
    }

    /// How many instances are running.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Whether nothing is left to settle.
    pub fn is_finished(&self) -> bool {
        self.unsettled == 0
    }

    /// Takes the ready instance with the longest path ahead among those whose demands are free
    /// now. The caller looks its result up and then says [`Schedule::done`], [`Schedule::grant`]
    /// or [`Schedule::put_back`].
    pub fn take_ready(&mut self) -> Option<InstanceId> {
        let fits = |demand: &Demand| match *demand {
            Demand::Cluster => self.free_cluster_jobs > 0,
            Demand::Here(cpu_milli, memory, gpus, service) => {
                cpu_milli <= self.free_cpu_milli
                    && memory <= self.free_memory
                    && gpus as usize <= self.free_gpus.len()
                    && service.is_none_or(|it| self.asking[it as usize] < ASKING_AT_ONCE)
            }
        };
        let (_, queue) = self
            .ready
            .iter_mut()
            .filter(|(demand, queue)| fits(demand) && !queue.is_empty())
            .max_by_key(|(_, queue)| queue.peek().copied())?;
        queue.pop().map(|(_, Reverse(id))| id)
    }

    /// Grants an instance that was just taken what it needs to run.
    pub fn grant(&mut self, id: InstanceId) -> Grant {
        let instance = &self.graph.instances[id as usize];
        if instance.is_on_cluster() {
            self.free_cluster_jobs -= 1;
            self.set(id, Standing::Running);
            return Grant { resources: instance.resources, gpus: Vec::new(), is_on_cluster: true };
        }
        let resources = self.demand(id);
        self.free_cpu_milli -= resources.cpu_milli;
        self.free_memory -= resources.memory;
        let gpus = self.free_gpus.drain(..resources.gpu as usize).collect();
        self.set(id, Standing::Running);
        Grant { resources, gpus, is_on_cluster: false }
    }

    fn demand(&self, id: InstanceId) -> Resources {
        self.machine.clamp(self.graph.instances[id as usize].resources)
    }

    fn service(&self, id: InstanceId) -> Option<ServiceId> {
        self.services.get(id as usize).copied().flatten()
    }

    /// Gives back what a running instance held.
    pub fn release(&mut self, grant: Grant) {
        if grant.is_on_cluster {
            self.free_cluster_jobs += 1;
            return;
        }
        self.free_cpu_milli += grant.resources.cpu_milli;
        self.free_memory += grant.resources.memory;
        self.free_gpus.extend(grant.gpus);
        // Ids are handed out in the order of the visible set.
        let order = &self.machine.gpus;
        self.free_gpus.sort_by_key(|id| order.iter().position(|other| other == id));
    }

    /// Makes an instance ready (again): it could not be granted, or will be tried once more.
    pub fn put_back(&mut self, id: InstanceId) {
        self.set(id, Standing::Ready);
    }

    /// The instance has a result: readers that waited for nothing else become ready.
    pub fn done(&mut self, id: InstanceId) {
        self.set(id, Standing::Done);
        for position in self.readers_of(id) {
            let reader = self.readers[position];
            if let Standing::Waiting { unmet } = self.standing[reader as usize] {
                let standing = match unmet - 1 {
                    0 => Standing::Ready,
                    unmet => Standing::Waiting { unmet },
                };
                self.set(reader, standing);
            }
        }
    }

    /// The instance failed for good. Everything that depends on it is skipped; returns what was.
    pub fn failed(&mut self, id: InstanceId) -> Vec<InstanceId> {
        self.set(id, Standing::Failed);
        let mut skipped = Vec::new();
        let mut stack = vec![id];
        while let Some(next) = stack.pop() {
            for position in self.readers_of(next) {
                let reader = self.readers[position];
                if matches!(self.standing[reader as usize], Standing::Waiting { .. }) {
                    self.set(reader, Standing::Skipped { because_of: id });
                    skipped.push(reader);
                    stack.push(reader);
                }
            }
        }
        skipped.sort_unstable();
        skipped
    }

    fn readers_of(&self, id: InstanceId) -> std::ops::Range<usize> {
        self.first_reader[id as usize] as usize..self.first_reader[id as usize + 1] as usize
    }

    /// The one place where a standing changes.
    fn set(&mut self, id: InstanceId, standing: Standing) {
        let before = std::mem::replace(&mut self.standing[id as usize], standing);
        let service = self.service(id);
        if before == Standing::Running {
            self.running -= 1;
            service.into_iter().for_each(|it| self.asking[it as usize] -= 1);
        }
        match standing {
            Standing::Ready => {
                let path = self.path_ahead[id as usize];
                let is_new = !matches!(before, Standing::Ready | Standing::Running);
                match &mut self.new {
                    Some(new) if is_new => {
                        new.insert((Reverse(path), id));
                    }
                    _ => {
                        let Resources { cpu_milli, memory, gpu } = self.demand(id);
                        let demand = match self.graph.instances[id as usize].is_on_cluster() {
                            true => Demand::Cluster,
                            false => Demand::Here(cpu_milli, memory, gpu, service),
                        };
                        let queue = self.ready.entry(demand).or_default();
                        queue.push((path, Reverse(id)));
                    }
                }
            }
            Standing::Running => {
                self.running += 1;
                service.into_iter().for_each(|it| self.asking[it as usize] += 1);
            }
            Standing::Done | Standing::Failed | Standing::Skipped { .. } => self.unsettled -= 1,
            Standing::Settled | Standing::Waiting { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Span;
    use crate::graph::{Feed, Input, Instance, Node, Output};
    use crate::lineage::LineageScope;
    use crate::port::PortKind;
    use proptest::prelude::*;

    /// A graph in which instance `i` reads `reads[i]`.
    fn graph(reads: &[Vec<usize>], resources: &[Resources]) -> Graph {
        let span = Span::default();
        let output = Output { port: "o".into(), kind: PortKind::File };
        Graph {
            name: "schedule".into(),
            nodes: vec![Node {
                name: "n".into(),
                stage: "s".into(),
                axes: vec![],
                outputs: vec![output],
                pass_env: vec![],
                span,
            }],
            instances: reads
                .iter()
                .enumerate()
                .map(|(id, reads)| Instance {
                    name: format!("n{id}").into(),
                    node: 0,
                    declared: "{}".into(),
                    settings: "{}".into(),
                    files: Box::default(),
                    prompts: Box::default(),
                    inputs: reads
                        .iter()
                        .map(|&read| Input {
                            port: format!("p{read}").into(),
                            gathered: false,
                            feeds: [Feed { key: "".into(), instance: read as u32, port: 0 }].into(),
                        })
                        .collect(),
                    lineage: LineageScope::None,
                    resources: resources[id],
                    timeout_ms: None,
                    retries: 0,
                    place: None,
                    slurm: None,
                })
                .collect(),
            sources: vec![],
            publish: vec![],
        }
    }

    #[test]
    fn the_longest_path_goes_first() {
        // 0 -> 2 -> 3, and 1 alone.
        let graph = graph(&[vec![], vec![], vec![0], vec![2]], &[Resources::default(); 4]);
        let machine = Machine { slots: 1, memory: 0, gpus: vec![], cluster_jobs: 0 };
        let mut schedule = Schedule::new(&graph, &machine, &[true; 4], |_| 1);
        assert_eq!(schedule.take_ready(), Some(0));
        schedule.put_back(0);
        assert_eq!(schedule.take_ready(), Some(0));
        schedule.done(0);
        assert_eq!(schedule.take_ready(), Some(2));
    }

    #[test]
    fn what_is_looked_for_elsewhere_waits_for_no_slot() {
        // 0 -> 2, and 1 alone; one slot.
        let graph = graph(&[vec![], vec![], vec![0]], &[Resources::default(); 3]);
        let machine = Machine { slots: 1, memory: 0, gpus: vec![], cluster_jobs: 0 };
        let mut schedule = Schedule::new(&graph, &machine, &[true; 3], |_| 1);
        schedule.look_elsewhere_first();
        assert_eq!(schedule.take_ready(), None);
        assert_eq!(schedule.take_new(), Some(0));
        schedule.put_back(0);
        assert_eq!(schedule.take_ready(), Some(0));
        let grant = schedule.grant(0);
        // The slot is taken, and the other can be looked for all the same.
        assert_eq!(schedule.take_new(), Some(1));
        assert_eq!(schedule.take_new(), None);
        schedule.put_back(1);
        assert_eq!(schedule.take_ready(), None);
        schedule.release(grant);
        // One that failed and is tried again was looked for before.
        schedule.put_back(0);
        assert_eq!(schedule.take_new(), None);
        assert_eq!(schedule.take_ready(), Some(0));
        schedule.done(0);
        assert_eq!(schedule.take_new(), Some(2));
        schedule.done(2);
        assert_eq!(schedule.take_ready(), Some(1));
        schedule.done(1);
        assert!(schedule.is_finished());
    }

    #[test]
    fn what_waits_for_the_gpu_does_not_stand_before_what_needs_none() {
        let gpu = Resources { gpu: 1, ..Resources::default() };
        let resources = [gpu, gpu, gpu, Resources::default()];
        let graph = graph(&[vec![], vec![], vec![], vec![]], &resources);
        let machine = Machine { slots: 4, memory: 0, gpus: vec!["7".into()], cluster_jobs: 0 };
        let mut schedule = Schedule::new(&graph, &machine, &[true; 4], |_| 1);
        let first = schedule.take_ready().unwrap();
        assert_eq!(schedule.grant(first).gpus, ["7"]);
        assert_eq!(schedule.take_ready(), Some(3));
        assert_eq!(schedule.take_ready(), None);
    }

    #[test]
    fn few_ask_a_service_at_once_and_hold_up_nobody_else() {
        let graph = graph(&vec![vec![]; 8], &[Resources::default(); 8]);
        let machine = Machine { slots: 100, memory: 0, gpus: vec![], cluster_jobs: 0 };
        // Six ask one service, one asks another, one asks none.
        let services = [vec![Some(0); 6], vec![Some(1), None]].concat();
        let mut schedule =
            Schedule::with_services(&graph, &machine, &[true; 8], services, |id| 8 - u64::from(id));
        let mut started = Vec::new();
        let mut grants = Vec::new();
        while let Some(id) = schedule.take_ready() {
            started.push(id);
            grants.push(schedule.grant(id));
        }
        assert_eq!(started, [0, 1, 2, 3, 6, 7]);
        // One is done, one will be tried again: two places, and the longest path first.
        schedule.release(grants.remove(0));
        schedule.done(0);
        schedule.release(grants.remove(0));
        schedule.put_back(1);
        for expected in [1, 4] {
            assert_eq!(schedule.take_ready(), Some(expected));
            schedule.grant(expected);
        }
        assert_eq!(schedule.take_ready(), None);
    }

    proptest! {
        #[test]
        fn everything_settles_and_nothing_is_over_granted(
            reads in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..3), 1..20),
            demands in prop::collection::vec((0_u32..3000, 0_u64..200, 0_u32..2), 20),
            fates in prop::collection::vec(0_u8..10, 20),
        ) {
            let reads: Vec<Vec<usize>> = reads
                .iter()
                .enumerate()
                .map(|(id, reads)| {
                    let reads = reads.iter().filter(|_| id > 0);
                    reads.map(|index| index.index(id.max(1))).collect()
                })
                .collect();
            let resources: Vec<_> = demands
                .iter()
                .map(|&(cpu_milli, memory, gpu)| Resources { cpu_milli, memory, gpu })
                .collect();
            let graph = graph(&reads, &resources);
            let machine = Machine { slots: 2, memory: 100, gpus: vec!["0".into()], cluster_jobs: 0 };
            let mut schedule = Schedule::new(&graph, &machine, &vec![true; reads.len()], |_| 1);
            let mut running: Vec<(InstanceId, Grant)> = Vec::new();
            let mut failed = Vec::new();
            while !schedule.is_finished() {
                while let Some(id) = schedule.take_ready() {
                    for &read in &reads[id as usize] {
                        prop_assert_eq!(schedule.standing(read as u32), Standing::Done);
                    }
                    running.push((id, schedule.grant(id)));
                }
                let cpu: u32 = running.iter().map(|(_, grant)| grant.resources.cpu_milli).sum();
                let memory: u64 = running.iter().map(|(_, grant)| grant.resources.memory).sum();
                let gpus: usize = running.iter().map(|(_, grant)| grant.gpus.len()).sum();
                prop_assert!(cpu <= 2000 && memory <= 100 && gpus <= 1);
                prop_assert!(!running.is_empty(), "stuck with work left");
                prop_assert_eq!(schedule.running(), running.len());
                let (id, grant) = running.remove(0);
                schedule.release(grant);
                match fates[id as usize] {
                    0 => {
                        failed.push(id);
                        schedule.failed(id);
                    }
                    _ => schedule.done(id),
                }
            }
            for id in 0..reads.len() as u32 {
                let expected_failure = failed.contains(&id);
                let standing = schedule.standing(id);
                prop_assert_eq!(standing == Standing::Failed, expected_failure);
                let needs_bad = reads[id as usize].iter().any(|&read| {
                    !matches!(schedule.standing(read as u32), Standing::Done)
                });
                prop_assert_eq!(matches!(standing, Standing::Skipped { .. }), needs_bad);
            }
        }
    }
}

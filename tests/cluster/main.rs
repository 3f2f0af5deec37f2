//! A run at the size that no test reaches: the real pipeline under the real schedule, with a fake executor and a
//! simulated clock. `cargo test --test cluster -- --nocapture` prints what came out; ARCHITECTURE.md has it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod chance;
mod pipeline;
mod simulation;

use chance::Chance;
use okapi_cache::ArtifactKind;
use okapi_engine::executor::poll::PollInterval;
use okapi_engine::machine::Machine;
use okapi_engine::schedule::ASKING_AT_ONCE;
use okapi_engine::service::ServiceId;
use pipeline::Pipeline;
use simulation::{Cluster, LowerBound, Work, simulate};

/// What a provider allows in a minute.
const REQUESTS_PER_MINUTE: f64 = 10_000.0;
/// From the moment a job is handed over until it works: the queue's turn, a process, a model in memory.
const START_SECONDS: f64 = 20.0;
/// Processor slots of the cluster for each GPU.
const SLOTS_PER_GPU: u32 = 16;
/// Jobs take so much longer or shorter than reckoned, as a standard deviation of the logarithm: a third.
const DEVIATION: f64 = 0.3;
/// Each measure is the mean of as many runs.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=3;

/// What the schedule believes of durations.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Beliefs {
    /// What will happen: a run like the one before.
    Exact,
    /// What stages reckon: a first run.
    Reckoned,
    /// Off by a factor of four and more, up or down.
    Wrong,
    /// Nothing: all are equal.
    None,
}

/// What surprises a run, beside durations that are off by a third.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stragglers {
    None,
    /// One job in fifty takes three times as long: a slow machine.
    OneInFifty,
}

/// How runs went, on average.
#[derive(Debug, Clone, Copy)]
struct Measures {
    hours: f64,
    bound_hours: f64,
    /// The makespan by the lower bound.
    ratio: f64,
    queries: f64,
    jobs: u64,
    most_running: usize,
    deciding_ms: f64,
}

fn cluster(gpus: u32, requests_per_minute: f64) -> Cluster {
    let machine = Machine {
        slots: gpus * SLOTS_PER_GPU,
        memory: u64::MAX,
        gpus: (0..gpus).map(|gpu| gpu.to_string()).collect(),
        cluster_jobs: 0,
    };
    let requests_per_second = requests_per_minute / 60.0;
    Cluster { machine, requests_per_second, start_seconds: START_SECONDS }
}

/// What happens: what was reckoned, off by chance.
fn surprised(work: &[Work], stragglers: Stragglers, seed: u64) -> Vec<Work> {
    let mut chance = Chance::new(seed);
    let mut off = || {
        let is_slow = chance.uniform() < 0.02 && stragglers == Stragglers::OneInFifty;
        chance.log_normal(DEVIATION) * if is_slow { 3.0 } else { 1.0 }
    };
    let happens = |work: &Work| match *work {
        Work::Job { seconds } => Work::Job { seconds: seconds * off() },
        Work::Local { seconds } => Work::Local { seconds: seconds * off() },
        asking @ Work::Asking { .. } => asking,
    };
    work.iter().map(happens).collect()
}

/// What the schedule is told, milliseconds.
fn weights(beliefs: Beliefs, reckoned: &[Work], actual: &[Work], cluster: &Cluster) -> Vec<u64> {
    let mut chance = Chance::new(99);
    let seconds = |work: &Work| match *work {
        Work::Job { seconds } | Work::Local { seconds } => seconds,
        Work::Asking { requests } => requests / cluster.requests_per_second,
    };
    let weight = |(reckoned, actual): (&Work, &Work)| match beliefs {
        Beliefs::Exact => seconds(actual),
        Beliefs::Reckoned => seconds(reckoned),
        Beliefs::Wrong => seconds(reckoned) * chance.log_normal(1.4),
        Beliefs::None => 1.0,
    };
    reckoned.iter().zip(actual).map(weight).map(|seconds| (seconds * 1000.0) as u64).collect()
}

fn measure(
    pipeline: &Pipeline,
    services: &[Option<ServiceId>],
    cluster: &Cluster,
    beliefs: Beliefs,
    stragglers: Stragglers,
) -> Measures {
    let runs: Vec<_> = SEEDS
        .map(|seed| {
            let actual = surprised(&pipeline.work, stragglers, seed);
            let weights = weights(beliefs, &pipeline.work, &actual, cluster);
            let bound = LowerBound::of(&pipeline.graph, &actual, cluster).seconds();
            (simulate(&pipeline.graph, &actual, services, &weights, cluster), bound)
        })
        .collect();
    let mean = |of: &dyn Fn(&(simulation::Outcome, f64)) -> f64| {
        runs.iter().map(of).sum::<f64>() / runs.len() as f64
    };
    assert!(runs.iter().all(|(run, bound)| run.makespan >= *bound), "below the lower bound");
    Measures {
        hours: mean(&|(run, _)| run.makespan / 3600.0),
        bound_hours: mean(&|(_, bound)| bound / 3600.0),
        ratio: mean(&|(run, bound)| run.makespan / bound),
        queries: mean(&|(run, _)| run.queries as f64),
        jobs: runs[0].0.jobs,
        most_running: runs.iter().map(|(run, _)| run.most_running).max().unwrap_or(0),
        deciding_ms: mean(&|(run, _)| run.deciding.as_secs_f64() * 1e3),
    }
}

/// Prints a row of the table; gives the ratios without and with stragglers.
#[expect(clippy::print_stdout, reason = "a table for people")]
fn row(
    pipeline: &Pipeline,
    services: &[Option<ServiceId>],
    cluster: &Cluster,
    beliefs: Beliefs,
    known: &str,
) -> [f64; 2] {
    let [calm, slow] = [Stragglers::None, Stragglers::OneInFifty]
        .map(|stragglers| measure(pipeline, services, cluster, beliefs, stragglers));
    println!(
        "| {} | {:.0} | {known} | {:.1} | {:.1} | {:.2} | {:.2} | {:.0} |",
        cluster.machine.gpus.len(),
        cluster.requests_per_second * 60.0,
        calm.hours,
        calm.bound_hours,
        calm.ratio,
        slow.ratio,
        calm.queries
    );
    [calm.ratio, slow.ratio]
}

#[test]
fn a_run_on_a_cluster_takes_little_longer_than_it_must() {
    println!("| GPUs | requests/min | known | hours | at least | ratio | stragglers | queries |");
    // With 64 GPUs the teacher is about as busy as they are: what nobody foresees costs the more.
    for (gpus, per_minute, most_reckoned, most_wrong) in [
        (8, REQUESTS_PER_MINUTE, 1.05, 1.05),
        (64, REQUESTS_PER_MINUTE, 1.35, 1.40),
        (64, 2.0 * REQUESTS_PER_MINUTE, 1.15, 1.30),
    ] {
        let cluster = cluster(gpus, per_minute);
        let pipeline = Pipeline::load(&cluster.machine);
        let bound = LowerBound::of(&pipeline.graph, &pipeline.work, &cluster);
        let [path, jobs, teacher] =
            [bound.critical_path, bound.gpus, bound.teacher].map(|seconds| seconds / 3600.0);
        println!("reckoned: longest path {path:.1} h, jobs {jobs:.1} h, teacher {teacher:.1} h");
        let of = |services, beliefs, known| row(&pipeline, services, &cluster, beliefs, known);
        let exact = of(&pipeline.services, Beliefs::Exact, "exactly");
        let reckoned = of(&pipeline.services, Beliefs::Reckoned, "as reckoned");
        let wrong = of(&pipeline.services, Beliefs::Wrong, "badly");
        let nobody_shares = vec![None; pipeline.services.len()];
        let without = of(&nobody_shares, Beliefs::None, "not at all, and all ask at once");
        assert!(exact.iter().all(|ratio| *ratio <= 1.10), "{exact:?}");
        assert!(reckoned.iter().all(|ratio| *ratio <= most_reckoned), "{reckoned:?}");
        assert!(wrong.iter().all(|ratio| *ratio <= most_wrong), "{wrong:?}");
        assert!(without[0] > reckoned[0] && without[1] > reckoned[1], "what are the rules for?");
    }
}

#[test]
fn the_coordinator_of_a_run_has_little_to_do() {
    let cluster = cluster(64, REQUESTS_PER_MINUTE);
    let pipeline = Pipeline::load(&cluster.machine);
    let (services, stragglers) = (&pipeline.services, Stragglers::None);
    let run = measure(&pipeline, services, &cluster, Beliefs::Exact, stragglers);
    println!(
        "{} jobs, {:.0} queries, {} instances at once at most, {:.0} ms for all decisions",
        run.jobs, run.queries, run.most_running, run.deciding_ms
    );
    // One query each 30 s, and a few more for each end.
    let most = run.hours * 120.0 + run.jobs as f64 * PollInterval::EXTRA_QUERIES as f64;
    assert!(run.queries <= most, "{} queries, more than {most}", run.queries);
    // Jobs, what asks a teacher, and what takes a minute beside them.
    assert!(run.most_running <= 2 * 64, "{} at once", run.most_running);
}

#[test]
fn a_run_has_as_many_jobs_as_its_axes_say() {
    let pipeline = Pipeline::load(&cluster(8, REQUESTS_PER_MINUTE).machine);
    let artifacts = |kind: ArtifactKind| {
        let instances = pipeline.graph.instances.iter();
        let outputs = instances.flat_map(|it| &pipeline.graph.nodes[it.node as usize].outputs);
        outputs.filter(|output| output.kind.artifact_kind() == kind).count()
    };
    let jobs = pipeline.work.iter().filter(|work| matches!(work, Work::Job { .. })).count();
    println!(
        "{} instances, {jobs} of them jobs, make {} files and {} folders",
        pipeline.graph.instances.len(),
        artifacts(ArtifactKind::File),
        artifacts(ArtifactKind::Tree),
    );
    let (languages, models, seeds, benchmarks) = (26, 2, 3, 3);
    // Two SFTs, responses, the reward model and PPO; SFT and RLHF at each benchmark.
    let of_each = languages * models * seeds * (5 + 2 * benchmarks);
    // No seed makes another base model, or another BLOOMZ: the same action is executed once.
    assert_eq!(jobs, of_each + languages * (models + 1) * benchmarks);
}

#[test]
fn jobs_on_all_gpus_leave_processors_to_what_asks_a_teacher() {
    for gpus in [1, 8, 64] {
        let cluster = cluster(gpus, REQUESTS_PER_MINUTE);
        let pipeline = Pipeline::load(&cluster.machine);
        let on_gpus = pipeline.graph.instances.iter().filter(|it| it.resources.gpu > 0);
        let most = on_gpus.map(|it| it.resources.cpu_milli).max().unwrap();
        let left = cluster.machine.slots * 1000 - most * gpus;
        assert!(left >= ASKING_AT_ONCE * 1000, "{gpus} GPUs leave {left} thousandths of a slot");
    }
}

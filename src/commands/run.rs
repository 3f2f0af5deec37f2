//! `okapi run`.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use okapi_cache::{Access, Digest, Store, StoreError};
use okapi_engine::clock::unix_ms;
use okapi_engine::evaluate::State;
use okapi_engine::event::{Event, Outcome, VERSION};
use okapi_engine::executor::command_process::Launcher;
use okapi_engine::executor::slurm::{self, JobSettings, Mail};
use okapi_engine::graph::{Graph, Instance, InstanceId, Publish};
use okapi_engine::lock_file::{self, LockFile};
use okapi_engine::machine::Machine;
use okapi_engine::manifest::ManifestText;
use okapi_engine::placement::{Place, StoreAccess};
use okapi_engine::port::PortKind;
use okapi_engine::publish::publish;
use okapi_engine::run::{Results, RunRequest, evaluate_for_run, has_unsent, run as run_engine};
use okapi_engine::run_record::{self, RunEnd, RunInfo, RunRecord};
use okapi_engine::spend::Spend;
use okapi_engine::stage::StageRegistry;
use okapi_remote::RecordsMoved;

use serde_json::Value;

use super::determinism;
use super::share::put_root;
use super::shared_records;
use crate::cli::{Global, Progress, RunArgs};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::placeholders::Placeholders;
use crate::program;
use crate::project::{self, Loaded};
use crate::sharing::{self, JobRemote};
use crate::ui::output;
use crate::ui::progress::{self, Display};

/// Brings nodes up to date.
pub(crate) fn run(global: &Global, arguments: &RunArgs) -> Result<ExitCode, Failure> {
    let started = Instant::now();
    let place = project::locate_or_default(global, arguments.pipeline.pipeline.as_deref())?;
    let registry = Arc::new(okapi_stages::registry_with_budget(arguments.budget));
    let store = Arc::new(project::open_store(
        global,
        &place.root,
        Access::ReadWrite,
        arguments.durability.into(),
    )?);
    let guard = store.enter_run()?;
    let loaded = project::prepare(
        global,
        &arguments.pipeline.overlay,
        place,
        &registry,
        &store,
        &arguments.targets,
        &arguments.force,
    )?;
    let is_selected = |id: usize| loaded.selection.needed[id];
    Placeholders::of(&loaded.graph, &registry, is_selected).refuse()?;
    if arguments.budget.is_some() {
        refuse_without_prices(&loaded)?;
    }
    let mut reporter = Reporter::new(arguments, &store, &loaded)?;
    let mut machine = project::machine(arguments.jobs);
    machine.cluster_jobs = arguments.cluster_jobs.unwrap_or(machine.cluster_jobs);
    reporter.say(&Event::RunStarted {
        version: VERSION,
        run: reporter.record.id().to_owned(),
        pipeline: loaded.graph.name.clone(),
        total: loaded.selection.len() as u64,
        jobs: u64::from(machine.slots),
    });
    for digest in &guard.recovered {
        reporter.say(&Event::Warning {
            message: format!(
                "the object {} was damaged when the machine went down; it was set aside and what needs it is made anew",
                digest.short()
            ),
        });
    }
    // How it ended if it does not get far enough to know better.
    let mut end = RunEnd {
        outcome: Outcome::StoreTrouble,
        ran: 0,
        cached: 0,
        failed: 0,
        skipped: 0,
        duration_ms: 0,
        finished_unix_ms: None,
        spend: Spend::default(),
        manifest: None,
    };
    let worked = work(arguments, &loaded, &store, registry, &machine, &mut reporter, &mut end);
    end.duration_ms = started.elapsed().as_millis() as u64;
    if let Err(failure) = &worked {
        reporter.keep(failure);
        if failure.exit_code() == ExitCode::StoreTrouble {
            end.outcome = Outcome::StoreTrouble;
        }
    }
    let outcome = end.outcome;
    let finished = reporter.finish(&store, end);
    // What ended the run says more than what came of it.
    worked?;
    let unshown = finished?;
    if let Some(error) = unshown {
        return Err(Failure::unwritten(format!("cannot write events to stdout: {error}"))
            .with_hint("the run has ended; `okapi log --json` prints its events".to_owned()));
    }
    let checked = match outcome == Outcome::Succeeded && arguments.check_determinism {
        true => determinism::check(arguments, &loaded, &store, &machine)?,
        false => ExitCode::Done,
    };
    // Only now: what was executed twice read its inputs from the store, and no collector may take them away.
    drop(guard);
    if outcome == Outcome::Succeeded && !arguments.quiet && arguments.progress != Progress::Json {
        for path in reports(&loaded) {
            output::note(&format!("open {path}"));
        }
    }
    Ok(match outcome {
        Outcome::Succeeded => checked,
        Outcome::Failed => ExitCode::Failed,
        Outcome::BudgetReached => ExitCode::BudgetReached,
        Outcome::Interrupted => ExitCode::Interrupted,
        Outcome::StoreTrouble => ExitCode::StoreTrouble,
    })
}

/// The published reports that are there, in the order in which the pipeline names them: what a person looks at first.
fn reports(loaded: &Loaded) -> Vec<&str> {
    let is_report = |entry: &&Publish| {
        let outputs = &loaded.graph.node(entry.instance).outputs;
        outputs.get(usize::from(entry.port)).is_some_and(|it| it.kind == PortKind::Report)
    };
    let mut entries: Vec<_> = loaded.graph.publish.iter().filter(is_report).collect();
    entries.sort_by_key(|entry| entry.span);
    let paths = entries.into_iter().map(|entry| &*entry.path);
    paths.filter(|path| loaded.place.root.join(path).is_file()).collect()
}

/// A budget means nothing where nobody knows what a call costs.
fn refuse_without_prices(loaded: &Loaded) -> Result<(), Failure> {
    let selected = loaded.graph.instances.iter().enumerate();
    for (_, instance) in selected.filter(|(id, _)| loaded.selection.needed[*id]) {
        let parse = |text: &str| serde_json::from_str(text).unwrap_or_default();
        let (declared, settings): (Value, Value) =
            (parse(&instance.declared), parse(&instance.settings));
        let teacher = &declared["teacher"];
        if !teacher.is_null() && !okapi_stages::has_price(teacher, &settings["teacher"]) {
            let message = format!("--budget needs the price of what `{}` asks", instance.name);
            return Err(Failure::usage(message).with_hint(
                "give the teacher its `input_price` and `output_price`, US dollars per million tokens"
                    .to_owned(),
            ));
        }
    }
    Ok(())
}

/// What lies between the beginning and the end of a run's record. `end` is filled in as far as it
/// gets.
fn work(
    arguments: &RunArgs,
    loaded: &Loaded,
    store: &Arc<Store>,
    registry: Arc<StageRegistry>,
    machine: &Machine,
    reporter: &mut Reporter,
    end: &mut RunEnd,
) -> Result<(), Failure> {
    let pipeline = &loaded.place.pipeline;
    let previous = || run_record::head(store, pipeline);
    let program = program::version();
    let mut request = RunRequest {
        program: &program,
        graph: &loaded.graph,
        selection: &loaded.selection,
        sources: &loaded.sources,
        project_root: &loaded.place.root,
        passed_env: &loaded.passed_env,
        forced: &loaded.forced,
        machine,
        keep_going: arguments.keep_going,
        grace: Duration::from_secs(arguments.grace),
        store: Arc::clone(store),
        registry,
        launcher: Launcher::default(),
        jobs: JobSettings {
            okapi: std::env::current_exe().unwrap_or_else(|_| "okapi".into()),
            program: program.clone(),
            mail: None,
            hidden: (!arguments.no_sandbox)
                .then(|| vec![loaded.place.root.clone(), store.root().to_owned()]),
        },
        previous: &previous,
        logs: reporter.record.logs(),
        remote: None,
    };
    let evaluation = evaluate_for_run(&request);
    let root = &loaded.place.root;
    // Nothing to do, nothing to ask; what could not be sent is sent all the same.
    if !evaluation.is_up_to_date()
        || sharing::writable(&arguments.remote, root)?.is_some_and(|it| has_unsent(store, &it))
    {
        request.remote = sharing::open_if_asked(&arguments.remote, root, &mut |message| {
            reporter.say(&Event::Warning { message });
        })?;
    }
    let fetched = match &request.remote {
        Some(remote) => {
            shared_records::before_run(remote, store, loaded, &evaluation, &mut |it| {
                reporter.say(&it);
            })?
        }
        None => RecordsMoved::default(),
    };
    if !evaluation.is_up_to_date() {
        request.jobs.mail = mail(arguments, loaded, store)?;
    }
    reporter.saved_ms = evaluation.states.iter().map(saved_by).sum();
    if !evaluation.is_up_to_date() {
        // Rules for commands are made only when something runs.
        request.launcher = project::launcher(
            arguments.no_sandbox,
            &[loaded.place.root.clone(), store.root().to_owned()],
            store,
            &mut |message| reporter.say(&Event::Warning { message }),
        );
    }
    let summary = run_engine(&request, &evaluation, &mut |event| reporter.say(&event))?;
    end.outcome = summary.outcome;
    end.ran = summary.ran;
    end.cached = summary.cached;
    end.failed = summary.failed;
    end.skipped = summary.skipped;
    end.spend = summary.spend;
    let results = Results { evaluation: &evaluation, later: &summary.later };
    let kept = keep_manifest(store, pipeline, &loaded.graph, results);
    if let Some(remote) = &request.remote {
        let sent = shared_records::after_run(remote, store, &mut |it| reporter.say(&it))?;
        if fetched.records + sent.records > 0 {
            reporter.say(&Event::RecordsShared {
                remote: remote.shown().to_owned(),
                fetched: fetched.records,
                fetched_bytes: fetched.bytes,
                sent: sent.records,
                sent_bytes: sent.bytes,
            });
        }
    }
    if let Some(remote) = request.remote.take().filter(|it| it.can_write()) {
        // What it keeps is a convenience of collection: a run that could not write it has not failed.
        let head = run_record::head(store, pipeline);
        let run = reporter.record.id().to_owned();
        if let Err(failure) = put_root(&remote, store, &run, pipeline, unix_ms(), &head) {
            reporter.say(&Event::Warning { message: failure.message().to_owned() });
        }
    }
    end.manifest = kept.as_ref().ok().copied();
    if arguments.lock && summary.outcome == Outcome::Succeeded {
        write_lock(arguments, store, loaded, results)?;
    }
    let published = match publishes(arguments, summary.outcome) && kept.is_ok() {
        true => place_published(store, loaded, results, reporter),
        false => Ok(()),
    };
    let saved = store.save_source_digests().and_then(|()| store.sync());
    // The first error is the one that the others may come from.
    match summary.store_error {
        Some(error) => Err(error.into()),
        None => kept.map(|_| ()).and(saved.map_err(Failure::from)).and(published),
    }
}

/// The way to nodes that do not see the store, if any of those that may run is for such a node.
fn mail(arguments: &RunArgs, loaded: &Loaded, store: &Store) -> Result<Option<Mail>, Failure> {
    let is_far = |(id, instance): &(usize, &Instance)| {
        let access = instance.slurm.as_ref().and_then(|options| options.store);
        loaded.selection.needed[*id]
            && instance.place == Some(Place::Slurm)
            && access == Some(StoreAccess::Remote)
    };
    let mut instances = loaded.graph.instances.iter().enumerate();
    let Some((_, far)) = instances.find(is_far) else { return Ok(None) };
    match sharing::for_jobs(&arguments.remote, &loaded.place.root)? {
        Some(JobRemote { remote, env, timeout }) => {
            Ok(Some(Mail { remote, env, timeout, place: slurm::place(store)? }))
        }
        None => Err(Failure::usage(format!(
            "`{}` has `slurm: {{store: remote}}`, and there is no remote that may be written",
            far.name
        ))
        .with_hint(
            "name one by --remote, or under `remote` in okapi.settings.yaml; where nodes see the store, say `store: shared`"
                .to_owned(),
        )),
    }
}

/// How long the work took whose result was found before anything ran, milliseconds.
fn saved_by(state: &State) -> u64 {
    match state {
        State::Cached { duration_ms, .. } => u64::from(*duration_ms),
        _ => 0,
    }
}

/// Events go to the display and to the run's record.
struct Reporter {
    display: Box<dyn Display>,
    record: RunRecord,
    trouble: Option<StoreError>,
    /// How long the work took whose results were found, milliseconds.
    saved_ms: u64,
}

impl Reporter {
    fn new(arguments: &RunArgs, store: &Store, loaded: &Loaded) -> Result<Reporter, Failure> {
        let info = RunInfo {
            version: 0,
            id: String::new(),
            okapi: env!("CARGO_PKG_VERSION").to_owned(),
            pipeline: loaded.place.pipeline.clone(),
            pipeline_digest: loaded.place.digest,
            profile: arguments.pipeline.overlay.profile.clone(),
            overrides: arguments.pipeline.overlay.overrides.clone(),
            targets: arguments.targets.clone(),
            started_unix_ms: 0,
            end: None,
        };
        Ok(Reporter {
            display: progress::choose(arguments.progress, arguments.quiet),
            record: RunRecord::begin(store, info)?,
            trouble: None,
            saved_ms: 0,
        })
    }

    fn say(&mut self, event: &Event) {
        if let Event::NodeCached { saved_ms, .. } = event {
            self.saved_ms += saved_ms;
        }
        if let Err(error) = self.record.keep(event) {
            // The run itself is worth more than its record.
            self.trouble.get_or_insert(error);
        }
        self.display.show(event);
    }

    /// Keeps what ended the run in its record. It is said when the program ends.
    fn keep(&mut self, failure: &Failure) {
        let event = Event::Warning { message: failure.message().to_owned() };
        if let Err(error) = self.record.keep(&event) {
            self.trouble.get_or_insert(error);
        }
    }

    /// Ends the display and the record. Gives the reason if what was asked for on stdout could not
    /// be written.
    fn finish(mut self, store: &Store, end: RunEnd) -> Result<Option<io::Error>, Failure> {
        self.display.saved(self.saved_ms);
        self.say(&Event::RunFinished {
            outcome: end.outcome,
            ran: end.ran,
            cached: end.cached,
            failed: end.failed,
            skipped: end.skipped,
            duration_ms: end.duration_ms,
            spend: end.spend,
        });
        let finished = self.record.finish(store, end);
        if let Some(error) = self.trouble {
            tracing::warn!("the run's record is incomplete: {error}");
        }
        finished?;
        Ok(self.display.trouble())
    }
}

/// Remembers which action each instance has now: from this run, or from the last for those that
/// this run left alone.
fn keep_manifest(
    store: &Store,
    pipeline: &str,
    graph: &Graph,
    results: Results<'_>,
) -> Result<Digest, Failure> {
    let ids = 0..graph.instances.len() as u32;
    let complete = ids.clone().all(|id| results.action(id).is_some());
    let previous = if complete { None } else { Some(run_record::head(store, pipeline)) };
    let mut manifest = ManifestText::with_capacity(graph.instances.len());
    for id in ids {
        let name = &graph.instances[id as usize].name;
        let before = || previous.as_ref()?.action(name);
        if let Some(action) = results.action(id).or_else(before) {
            manifest.push(name, &action);
        }
    }
    let (text, digest) = manifest.finish();
    run_record::set_head(store, pipeline, &text, &digest)?;
    Ok(digest)
}

/// Writes the lock file: also of instances that this run left alone, if they have a result.
fn write_lock(
    arguments: &RunArgs,
    store: &Store,
    loaded: &Loaded,
    results: Results<'_>,
) -> Result<(), Failure> {
    let overlay = &arguments.pipeline.overlay;
    let manifest = run_record::head(store, &loaded.place.pipeline);
    let action_of = |id: InstanceId| {
        let before = || manifest.action(&loaded.graph.instances[id as usize].name);
        results.action(id).or_else(before)
    };
    let profile = overlay.profile.as_deref();
    let lock = LockFile::of(&loaded.graph, store, profile, &overlay.overrides, action_of);
    let path = lock_file::path_beside(&loaded.place.named);
    let before = LockFile::read(&path).ok();
    if let Some(other) = before.and_then(|it| it.other_overlay(profile, &overlay.overrides)) {
        output::note(&format!(
            "warning: {} was written with {other}: what it said of that is gone now",
            path.display()
        ));
    }
    let is_new = lock.write(&path).map_err(|error| Failure::failed(error.to_string()))?;
    if !arguments.quiet && arguments.progress != Progress::Json {
        let done = if is_new { "wrote" } else { "unchanged:" };
        output::note(&format!("{done} {}", path.display()));
    }
    Ok(())
}

fn publishes(arguments: &RunArgs, outcome: Outcome) -> bool {
    let usable = match outcome {
        Outcome::Succeeded => true,
        Outcome::Failed | Outcome::BudgetReached => arguments.keep_going,
        Outcome::Interrupted | Outcome::StoreTrouble => false,
    };
    usable && !arguments.no_publish
}

fn place_published(
    store: &Store,
    loaded: &Loaded,
    results: Results<'_>,
    reporter: &mut Reporter,
) -> Result<(), Failure> {
    let placed = publish(store, &loaded.graph, &loaded.place.root, results)
        .map_err(|error| Failure::failed(error.to_string()))?;
    for placed in placed {
        reporter.say(&Event::Published { path: placed.path, node: placed.node, kept: placed.kept });
    }
    Ok(())
}

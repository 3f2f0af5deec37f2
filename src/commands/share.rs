//! `okapi cache push` and `pull`, and what `cache verify` and `gc` do with a remote.

use std::collections::BTreeSet;

use okapi_cache::{Access, ActionDigest, Digest, Durability, Store};
use okapi_engine::clock::unix_ms;
use okapi_engine::evaluate::{State, evaluate};
use okapi_engine::manifest::Manifest;
use okapi_engine::run_record::{self, RunInfo};
use okapi_engine::run_reports::note_fetched;
use okapi_remote::{
    CollectRequest, Kind, Moved, Pushed, RecordsMoved, Remote, Repaired, Replace, Roots, RunRoot,
};
use serde_json::json;

use crate::cli::{GcArgs, Global, PullArgs, PushArgs, RemoteArgs};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::project;
use crate::sharing;
use crate::ui::{format, output};

/// Sends results to the remote.
pub(crate) fn push(global: &Global, arguments: &PushArgs) -> Result<ExitCode, Failure> {
    let root = match &arguments.pipeline {
        Some(_) => None,
        None => Some(project::root_without_pipeline(global)?),
    };
    let place = match (&arguments.pipeline, &root) {
        (Some(pipeline), _) => Some(project::locate(global, pipeline).map_err(Failure::from)?),
        _ => None,
    };
    let root = place.as_ref().map(|place| place.root.clone()).or(root).unwrap_or_default();
    // Looked for before it is opened for writing: sending makes no store.
    project::open_store(global, &root, Access::ReadOnly, Durability::None)?;
    let store = project::open_store(global, &root, Access::ReadWrite, Durability::Batch)?;
    // What is being sent is not collected meanwhile.
    let _guard = store.enter_run()?;
    store.refresh()?;
    let remote = sharing::open(&arguments.remote, &root)?;
    let mut runs = run_record::list(&store)?;
    runs.retain(|run| place.as_ref().is_none_or(|place| place.pipeline == run.pipeline));
    let actions: Vec<ActionDigest> = match &place {
        Some(place) => {
            let head = run_record::head(&store, &place.pipeline);
            head.iter().map(|(_, action)| action).collect::<BTreeSet<_>>().into_iter().collect()
        }
        None => store.all_actions(),
    };
    let replace = if arguments.force { Replace::Any } else { Replace::Damaged };
    let mut tally = Tally::default();
    remote.push_all(&store, &actions, replace, &mut |action, became| match became {
        Ok(became) => tally.add(action, &became),
        Err(error) if error.is_silent() => tally.failed += 1,
        Err(error) => {
            tally.failed += 1;
            if tally.failed <= 3 {
                let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
                output::note(&format!("warning: {error}{hint}"));
            }
        }
    });
    if remote.shares_records() {
        let sent = remote.send_records(&store);
        tally.records = sent.map_err(|error| sharing::failure(&error, ExitCode::Failed))?;
    }
    remote.take_notices().iter().for_each(|notice| output::note(&format!("warning: {notice}")));
    if tally.failed == 0 {
        for run in &runs {
            if let Some(root) = root_of_kept(&store, run) {
                put_run(&remote, &store, &run.id, &root)?;
            }
        }
    }
    if arguments.json {
        output::print_json(&tally.json(remote.shown()))?;
    } else {
        output::print(&tally.text(remote.shown()))?;
    }
    Ok(if tally.failed == 0 { ExitCode::Done } else { ExitCode::Failed })
}

/// Writes down on the remote what a run ended with: what collection there keeps.
pub(crate) fn put_root(
    remote: &Remote,
    store: &Store,
    run: &str,
    pipeline: &str,
    ended_unix_ms: u64,
    manifest: &Manifest,
) -> Result<(), Failure> {
    put_run(remote, store, run, &root_of(pipeline, ended_unix_ms, manifest))
}

fn put_run(remote: &Remote, store: &Store, run: &str, root: &RunRoot) -> Result<(), Failure> {
    if root.actions.is_empty() {
        return Ok(());
    }
    let put = remote.put_run(&name_of(store, run), root);
    put.map_err(|error| sharing::failure(&error, ExitCode::Failed))
}

fn root_of(pipeline: &str, ended_unix_ms: u64, manifest: &Manifest) -> RunRoot {
    let actions = manifest.iter().map(|(_, action)| action).collect();
    RunRoot::new(pipeline.to_owned(), ended_unix_ms, actions)
}

/// The name of a run on the remote. Another store may have a run of the same moment; what tells them apart says nothing of
/// either.
fn name_of(store: &Store, run: &str) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let whose = Digest::of(format!("{host}\n{}", store.root().display()).as_bytes());
    format!("{run}-{}", whose.short())
}

/// What [`put_root`] would write of a run that this store keeps.
fn root_of_kept(store: &Store, run: &RunInfo) -> Option<RunRoot> {
    let end = run.end.as_ref()?;
    let manifest = run_record::manifest(store, &end.manifest?)?;
    Some(root_of(&run.pipeline, run.started_unix_ms + end.duration_ms, &manifest))
}

#[derive(Default)]
struct Tally {
    moved: Moved,
    new: u64,
    agreed: u64,
    replaced: u64,
    not_here: u64,
    failed: u64,
    differ: Vec<ActionDigest>,
    records: RecordsMoved,
}

impl Tally {
    fn add(&mut self, action: ActionDigest, became: &Pushed) {
        let moved = match became {
            Pushed::New(moved) => {
                self.new += 1;
                *moved
            }
            Pushed::Agreed(moved) => {
                self.agreed += 1;
                *moved
            }
            Pushed::Replaced(moved) => {
                self.replaced += 1;
                *moved
            }
            Pushed::Differs { .. } => {
                self.differ.push(action);
                Moved::default()
            }
            Pushed::NotHere => {
                self.not_here += 1;
                Moved::default()
            }
        };
        self.moved.add(moved);
    }

    fn json(&self, remote: &str) -> serde_json::Value {
        json!({
            "version": 1,
            "remote": remote,
            "new": self.new,
            "there_already": self.agreed,
            "replaced": self.replaced,
            "differ": self.differ,
            "incomplete_here": self.not_here,
            "failed": self.failed,
            "sent_objects": self.moved.objects,
            "sent_bytes": self.moved.bytes,
            "sent_records": self.records.records,
        })
    }

    fn text(&self, remote: &str) -> String {
        let mut text = format!(
            "sent {} ({}, {}) to {remote}; {} there already\n",
            format::count(self.new + self.replaced, "result"),
            format::count(self.moved.objects, "object"),
            format::size(self.moved.bytes),
            self.agreed,
        );
        if self.records.records > 0 {
            text.push_str(&format!(
                "sent {} of teachers ({})\n",
                format::count(self.records.records, "answer"),
                format::size(self.records.bytes),
            ));
        }
        for action in &self.differ {
            text.push_str(&format!(
                "differs: the remote has another result of action {action} and keeps it; --force sends ours\n"
            ));
        }
        if self.not_here > 0 {
            let results = format::count(self.not_here, "result");
            text.push_str(&format!("not sent: {results} that lost an output here\n"));
        }
        if self.failed > 0 {
            let results = format::count(self.failed, "result");
            text.push_str(&format!("not sent: {results}; push again to send the rest\n"));
        }
        text
    }
}

/// Fetches what a pipeline needs and the remote has.
pub(crate) fn pull(global: &Global, arguments: &PullArgs) -> Result<ExitCode, Failure> {
    let place = project::locate_or_default(global, arguments.pipeline.pipeline.as_deref())?;
    let registry = okapi_stages::registry();
    let root = place.root.clone();
    let store = project::open_store(global, &root, Access::ReadWrite, Durability::Batch)?;
    let _guard = store.enter_run()?;
    let overlay = &arguments.pipeline.overlay;
    let loaded =
        project::prepare(global, overlay, place, &registry, &store, &arguments.targets, &[])?;
    let remote = sharing::open(&arguments.remote, &root)?;
    let machine = project::machine(None);
    let mut asked = BTreeSet::new();
    let (mut results, mut moved) = (0_u64, Moved::default());
    // A result that was fetched gives its readers their inputs, and so their actions.
    let missing = loop {
        let evaluation = evaluate(&loaded.question(&machine, &store));
        let runs = evaluation.states.iter().filter_map(|state| match state {
            State::Runs { action, .. } | State::Blocked { action, .. } => Some(*action),
            _ => None,
        });
        let wanted: Vec<_> = runs.filter(|action| asked.insert(*action)).collect();
        let fetched = remote.pull_all(&store, &wanted);
        let fetched = fetched.map_err(|error| sharing::failure(&error, ExitCode::Failed))?;
        if fetched.is_empty() {
            let is_missing =
                |state: &&State| !matches!(state, State::NotSelected | State::Cached { .. });
            break evaluation.states.iter().filter(is_missing).count() as u64;
        }
        note_fetched(&store, fetched.keys())?;
        results += fetched.len() as u64;
        fetched.values().for_each(|it| moved.add(*it));
    };
    let records = match remote.shares_records() {
        true => remote.fetch_records(&store),
        false => Ok(RecordsMoved::default()),
    };
    let records = records.map_err(|error| sharing::failure(&error, ExitCode::Failed))?;
    store.flush()?;
    store.sync()?;
    remote.take_notices().iter().for_each(|notice| output::note(&format!("warning: {notice}")));
    if arguments.json {
        output::print_json(&json!({
            "version": 1,
            "remote": remote.shown(),
            "results": results,
            "objects": moved.objects,
            "bytes": moved.bytes,
            "records": records.records,
            "failed": remote.failures(),
            "to_be_run": missing,
        }))?;
    } else {
        output::print(&format!(
            "fetched {} ({}, {}) from {}; {} left to run\n",
            format::count(results, "result"),
            format::count(moved.objects, "object"),
            format::size(moved.bytes),
            remote.shown(),
            format::count(missing, "instance"),
        ))?;
        if records.records > 0 {
            let answers = format::count(records.records, "answer");
            let size = format::size(records.bytes);
            output::print(&format!("fetched {answers} of teachers ({size})\n"))?;
        }
    }
    // What was not asked for because nobody answered may be there.
    let is_whole = remote.can_read() && remote.failures() == 0;
    Ok(if is_whole { ExitCode::Done } else { ExitCode::Failed })
}

/// Hashes what the remote has.
pub(crate) fn verify(
    global: &Global,
    remote: &RemoteArgs,
    sample: Option<usize>,
    repair: bool,
    as_json: bool,
) -> Result<ExitCode, Failure> {
    let root = project::root_without_pipeline(global)?;
    let store = project::open_store(global, &root, Access::ReadWrite, Durability::Batch)?;
    let _guard = store.enter_run()?;
    let remote = sharing::open(remote, &root)?;
    let runs = run_record::list(&store)?;
    let roots: &Roots<'_> = &|name| {
        let run = runs.iter().find(|run| name_of(&store, &run.id) == name)?;
        root_of_kept(&store, run)
    };
    let report = remote.verify(&store, sample, repair.then_some(roots), &|_| {});
    let report = report.map_err(|error| sharing::failure(&error, ExitCode::Failed))?;
    let done = |repaired: Option<Repaired>| match repaired {
        None => "",
        Some(Repaired::Sent) => "; sent again from this store",
        Some(Repaired::Deleted) => "; deleted, as this store does not have it",
    };
    if as_json {
        let wrong = report.wrong.iter().map(|wrong| {
            let done = done(wrong.repaired).trim_start_matches("; ");
            json!({ "key": wrong.key.to_string(), "message": wrong.message, "done": done })
        });
        let wrong: Vec<_> = wrong.collect();
        output::print_json(&json!({
            "version": 1,
            "remote": remote.shown(),
            "good_objects": report.good_objects,
            "good_bytes": report.good_bytes,
            "good_results": report.good_results,
            "good_runs": report.good_runs,
            "good_packs": report.good_packs,
            "not_looked_at": report.not_looked_at,
            "wrong": wrong,
        }))?;
    } else {
        let mut text = format!(
            "{} in order ({}), {} in order, {} in order",
            format::count(report.good_objects, "object"),
            format::size(report.good_bytes),
            format::count(report.good_results, "result"),
            format::count(report.good_runs, "run"),
        );
        if report.good_packs > 0 {
            let packs = format::count(report.good_packs, "pack");
            text.push_str(&format!(", {packs} of answers in order"));
        }
        if report.not_looked_at > 0 {
            text.push_str(&format!("; {} not looked at", report.not_looked_at));
        }
        text.push('\n');
        for wrong in &report.wrong {
            text.push_str(&format!(
                "wrong: {}: {}{}\n",
                wrong.key,
                wrong.message,
                done(wrong.repaired)
            ));
        }
        output::print(&text)?;
    }
    Ok(if report.wrong.is_empty() { ExitCode::Done } else { ExitCode::StoreTrouble })
}

/// Collects on the remote; without `--delete` it only says what would go.
pub(crate) fn gc(global: &Global, arguments: &GcArgs) -> Result<ExitCode, Failure> {
    let root = project::root_without_pipeline(global)?;
    let store = project::open_store(global, &root, Access::ReadWrite, Durability::Batch)?;
    let _guard = store.enter_run()?;
    let remote = sharing::open(&arguments.remote_args(), &root)?;
    let request = CollectRequest {
        keep_runs: usize::try_from(arguments.keep_runs).unwrap_or(usize::MAX),
        max_size: arguments.max_size,
        written_before_unix_ms: unix_ms().saturating_sub(arguments.grace_hours * 3_600_000),
    };
    let failure = |error| sharing::failure(&error, ExitCode::Failed);
    let found = remote.survey(&store, &request).map_err(failure)?;
    let deletes = arguments.delete && !arguments.dry_run;
    if deletes {
        remote.remove(&found).map_err(failure)?;
    }
    if arguments.json {
        output::print_json(&json!({
            "version": 1,
            "remote": remote.shown(),
            "dry_run": !deletes,
            "removed": {
                "objects": found.count(Kind::Object),
                "bytes": found.doomed_bytes(),
                "results": found.count(Kind::Action),
                "runs": found.count(Kind::Run),
            },
            "kept": {
                "objects": found.kept_objects,
                "bytes": found.kept_bytes,
                "young_bytes": found.young_bytes,
                "results": found.kept_results,
                "runs": found.kept_runs,
            },
        }))?;
        return Ok(ExitCode::Done);
    }
    let verb = if deletes { "removed" } else { "would remove" };
    let mut text = format!(
        "{verb} {} ({}), {} and {} from {}\nkept {} ({}), {} and {}\n",
        format::count(found.count(Kind::Object), "object"),
        format::size(found.doomed_bytes()),
        format::count(found.count(Kind::Action), "result"),
        format::count(found.count(Kind::Run), "run"),
        remote.shown(),
        format::count(found.kept_objects, "object"),
        format::size(found.kept_bytes),
        format::count(found.kept_results, "result"),
        format::count(found.kept_runs, "run"),
    );
    if found.young_bytes > 0 {
        let hours = arguments.grace_hours;
        let young = format::size(found.young_bytes);
        text.push_str(&format!("of that, {young} only because it is younger than {hours} h\n"));
    }
    if !deletes && !found.doomed.is_empty() {
        text.push_str("--delete removes it\n");
    }
    output::print(&text)?;
    Ok(ExitCode::Done)
}

//! `okapi log`.

use std::collections::BTreeSet;
use std::fs::File;

use okapi_cache::{ActionDigest, Store};
use okapi_engine::event::Event;
use okapi_engine::executor::local::append_log;
use okapi_engine::manifest::Manifest;
use okapi_engine::run_record;
use okapi_engine::stage_context::WorkFolder;

use super::runs;
use crate::cli::{Global, LogArgs};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::ui::output;
use crate::ui::progress::Plain;

/// Shows what a run, or one node of it, wrote.
pub(crate) fn log(global: &Global, arguments: &LogArgs) -> Result<ExitCode, Failure> {
    let store = runs::store(global)?;
    let run = runs::find(&store, &arguments.run).map_err(|failure| match &arguments.node {
        // Whoever names a node alone means the newest run.
        None => failure.with_hint(format!(
            "`okapi runs` lists them; for a node of the newest: okapi log last '{}'",
            arguments.run
        )),
        Some(_) => failure,
    })?;
    let Some(node) = &arguments.node else { return events(&store, &run.id, arguments.json) };
    let failed = run_record::log_path(&store.runs_folder().join(&run.id).join("logs"), node);
    if let Ok(mut file) = File::open(&failed) {
        output::copy(&mut file)?;
        return Ok(ExitCode::Done);
    }
    // The log of a node that was cached is that of the run that made the result.
    let manifest = run
        .end
        .as_ref()
        .and_then(|end| run_record::manifest(&store, &end.manifest?))
        .unwrap_or_default();
    let standing = standing(&store, &run.id, node)?;
    if let Some(Standing::AtWork(action)) = standing
        // The run after one that was killed may have taken up what it made.
        && store.document(&action)?.is_none()
    {
        return at_work(&store, &action, node);
    }
    let Some(action) = manifest.action(node).or(standing.map(Standing::action)) else {
        return Err(Failure::usage(format!("the run {} has no result of `{node}`", run.id))
            .with_hint(similar(&manifest, &run_record::events(&store, &run.id)?, node)));
    };
    let stored = store
        .document(&action)?
        .ok_or_else(|| Failure::failed(format!("the result of `{node}` has been collected")))?;
    match stored.info.log {
        None => output::note(&format!("{node} wrote nothing")),
        Some(digest) => {
            let path = store.object_path(&digest);
            let mut file = File::open(&path).map_err(|error| {
                Failure::failed(format!("cannot read {}: {error}", path.display()))
            })?;
            output::copy(&mut file)?;
        }
    }
    Ok(ExitCode::Done)
}

/// What a run that has not ended in order says of a node.
#[derive(Debug, Clone, Copy)]
enum Standing {
    /// It was begun, and has not ended as far as is known.
    AtWork(ActionDigest),
    /// It has a result.
    Done(ActionDigest),
}

impl Standing {
    fn action(self) -> ActionDigest {
        match self {
            Standing::AtWork(action) | Standing::Done(action) => action,
        }
    }
}

/// How a node stands by the events of a run.
fn standing(store: &Store, run: &str, node: &str) -> Result<Option<Standing>, Failure> {
    let mut standing = None;
    for event in run_record::events(store, run)? {
        match event {
            Event::NodeStarted { node: it, action, .. } if it == node => {
                standing = action.parse().ok().map(Standing::AtWork);
            }
            Event::NodeFinished { node: it, action, .. }
            | Event::NodeCached { node: it, action, .. }
                if it == node =>
            {
                standing = action.parse().ok().map(Standing::Done);
            }
            Event::NodeFailed { node: it, .. } if it == node => standing = None,
            Event::RunFinished { .. } if matches!(standing, Some(Standing::AtWork(_))) => {
                standing = None;
            }
            _ => {}
        }
    }
    Ok(standing)
}

/// What a node has written so far that is at work, here or on a node of a cluster.
fn at_work(store: &Store, action: &ActionDigest, node: &str) -> Result<ExitCode, Failure> {
    let work = WorkFolder::at(store.work_folder(action));
    let mut log = Vec::new();
    // Before it begins there is nothing.
    let _ = append_log(&work, &mut log);
    match log.is_empty() {
        true => output::note(&format!("{node} has not ended, and has written nothing yet")),
        false => output::copy(&mut log.as_slice())?,
    }
    Ok(ExitCode::Done)
}

/// What a run said, as `run` shows it or as it is recorded.
fn events(store: &Store, run: &str, as_json: bool) -> Result<ExitCode, Failure> {
    let mut plain = Plain::new(false);
    let mut text = String::new();
    for event in run_record::events(store, run)? {
        let line = if as_json { serde_json::to_string(&event).ok() } else { plain.lines(&event) };
        if let Some(line) = line {
            text.push_str(&line);
            text.push('\n');
        }
    }
    output::print(&text)?;
    Ok(ExitCode::Done)
}

fn similar(manifest: &Manifest, events: &[Event], node: &str) -> Option<String> {
    let start = format!("{node}[");
    // A run that has not ended has no manifest.
    let begun = events.iter().filter_map(|event| match event {
        Event::NodeStarted { node, .. } => Some(&**node),
        _ => None,
    });
    let names: BTreeSet<&str> = manifest.iter().map(|(name, _)| name).chain(begun).collect();
    let instances = names.iter().filter(|name| name.starts_with(&start));
    let instances: Vec<_> = instances.take(5).map(|name| format!("'{name}'")).collect();
    if !instances.is_empty() {
        return Some(format!("name an instance, such as {}", instances.join(", ")));
    }
    let near = okapi_engine::suggest::nearest(node, names)?;
    Some(format!("did you mean '{near}'?"))
}

//! `okapi log`.

use std::fs::File;

use okapi_cache::Store;
use okapi_engine::manifest::Manifest;
use okapi_engine::run_record;

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
    let Some(action) = manifest.action(node) else {
        return Err(Failure::usage(format!("the run {} has no result of `{node}`", run.id))
            .with_hint(similar(&manifest, node)));
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

fn similar(manifest: &Manifest, node: &str) -> Option<String> {
    let start = format!("{node}[");
    let instances = manifest.iter().map(|(name, _)| name).filter(|name| name.starts_with(&start));
    let instances: Vec<_> = instances.take(5).map(|name| format!("'{name}'")).collect();
    if !instances.is_empty() {
        return Some(format!("name an instance, such as {}", instances.join(", ")));
    }
    let near = okapi_engine::suggest::nearest(node, manifest.iter().map(|(name, _)| name))?;
    Some(format!("did you mean '{near}'?"))
}

//! `okapi log`.

use std::fs::File;

use okapi_engine::run_record;

use super::runs;
use crate::cli::{Global, LogArgs};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::ui::output;

/// Shows what a run, or one node of it, wrote.
pub(crate) fn log(global: &Global, arguments: &LogArgs) -> Result<ExitCode, Failure> {
    let store = runs::store(global)?;
    let run = runs::find(&store, &arguments.run)?;
    let Some(node) = &arguments.node else {
        let mut text = String::new();
        for event in run_record::events(&store, &run.id)? {
            text.push_str(&serde_json::to_string(&event).unwrap_or_default());
            text.push('\n');
        }
        output::print(&text)?;
        return Ok(ExitCode::Done);
    };
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
        let names: Vec<_> = manifest.iter().map(|(name, _)| name).collect();
        let near = okapi_engine::suggest::nearest(node, names.iter().copied());
        return Err(Failure::usage(format!("the run {} has no result of `{node}`", run.id))
            .with_hint(near.map(|near| format!("did you mean `{near}`?"))));
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

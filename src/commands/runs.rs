//! `okapi runs`, and how commands name a run.

use okapi_cache::Store;
use okapi_engine::clock::readable_utc;
use okapi_engine::event::Outcome;
use okapi_engine::run_record::{self, RunInfo};
use serde_json::json;

use crate::cli::{Global, RunsArgs};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::project;
use crate::ui::{format, output, table};

/// Lists past runs, the newest first.
pub(crate) fn runs(global: &Global, arguments: &RunsArgs) -> Result<ExitCode, Failure> {
    let store = store(global)?;
    let mut runs = run_record::list(&store)?;
    runs.reverse();
    if arguments.count > 0 {
        runs.truncate(arguments.count);
    }
    if arguments.json {
        output::print_json(&json!({ "version": 1, "runs": runs }))?;
        return Ok(ExitCode::Done);
    }
    let mut rows = vec![
        ["RUN", "BEGAN (UTC)", "PIPELINE", "OUTCOME", "RAN", "CACHED", "FAILED", "TOOK"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(runs.iter().map(row));
    output::print(&table::render(&rows))?;
    Ok(ExitCode::Done)
}

fn row(run: &RunInfo) -> Vec<String> {
    let mut row = vec![run.id.clone(), readable_utc(run.started_unix_ms), run.pipeline.clone()];
    match &run.end {
        Some(end) => row.extend([
            outcome(end.outcome).to_owned(),
            end.ran.to_string(),
            end.cached.to_string(),
            end.failed.to_string(),
            format::duration(end.duration_ms),
        ]),
        None => row.push("running, or killed".to_owned()),
    }
    row
}

fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded => "succeeded",
        Outcome::Failed => "failed",
        Outcome::BudgetReached => "budget reached",
        Outcome::Interrupted => "interrupted",
        Outcome::StoreTrouble => "store trouble",
    }
}

/// The store of the project around the current folder.
pub(crate) fn store(global: &Global) -> Result<Store, Failure> {
    let root = project::root_without_pipeline(global)?;
    project::open_store(global, &root, okapi_cache::Access::ReadOnly, okapi_cache::Durability::None)
}

/// The run that `last`, `last~N`, an id, or the beginning of one names.
pub(crate) fn find(store: &Store, name: &str) -> Result<RunInfo, Failure> {
    let mut runs = run_record::list(store)?;
    let unknown = |message: String| {
        Failure::usage(message).with_hint(
            "`okapi runs` lists them; `last` is the newest, `last~1` the one before".to_owned(),
        )
    };
    if let Some(back) = name.strip_prefix("last") {
        let back: usize = match back.strip_prefix('~') {
            Some(number) => {
                number.parse().map_err(|_| unknown(format!("`{name}` names no run")))?
            }
            None if back.is_empty() => 0,
            None => return Err(unknown(format!("`{name}` names no run"))),
        };
        let count = runs.len();
        return match back < count {
            true => Ok(runs.swap_remove(count - 1 - back)),
            false => Err(unknown(format!(
                "there is no `{name}`: the store holds {}",
                format::count(count as u64, "run")
            ))),
        };
    }
    let mut found: Vec<_> = runs.into_iter().filter(|run| run.id.starts_with(name)).collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(unknown(format!("no run is named `{name}`"))),
        count => Err(unknown(format!("`{name}` begins the ids of {count} runs"))),
    }
}

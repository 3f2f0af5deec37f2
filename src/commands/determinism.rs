//! `okapi run --check-determinism`.

use std::sync::Arc;

use indicatif::ProgressBar;
use okapi_cache::Store;
use okapi_engine::audit::recorded;
use okapi_engine::audit::reexecute::{Again, Ended};
use okapi_engine::graph::InstanceId;
use okapi_engine::machine::Machine;
use okapi_engine::run_record;

use super::execute_again::{ExecuteAgain, is_trouble_here, question};
use crate::cli::{Progress, RunArgs};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::project::Loaded;
use crate::ui::{audit as ui, output};

/// Executes every selected node again, with another number of threads, and names those that give another result.
pub(crate) fn check(
    arguments: &RunArgs,
    loaded: &Loaded,
    store: &Arc<Store>,
    machine: &Machine,
) -> Result<ExitCode, Failure> {
    let manifest = run_record::head(store, &loaded.place.pipeline);
    let recorded = recorded(&question(loaded, store, &manifest))?;
    let request = ExecuteAgain {
        loaded,
        store,
        manifest: &manifest,
        recorded: &recorded,
        machine,
        no_sandbox: arguments.no_sandbox,
        threads: &|threads| if threads > 1 { 1 } else { 2 },
        ask_anew: 0,
        sample_seed: 0,
    };
    let all = 0..loaded.graph.instances.len() as InstanceId;
    let ids: Vec<InstanceId> = all.filter(|&id| loaded.selection.needed[id as usize]).collect();
    let (mut same, mut others, mut left) = (0, 0, 0);
    let mut trouble = None;
    let bar = match arguments.quiet || arguments.progress == Progress::Json {
        true => ProgressBar::hidden(),
        false => ui::executing(ids.len() as u64),
    };
    let (ended, _) = request.run(&ids, &mut |id, again| {
        bar.inc(1);
        let name = &loaded.graph.instances[id as usize].name;
        bar.set_message(name.to_string());
        let note = |text: String| bar.suspend(|| output::note(&text));
        match again {
            Again::Same => same += 1,
            Again::Different(differences) => {
                others += 1;
                for difference in differences {
                    note(format!("differs {name}  {}", difference.what));
                }
            }
            Again::Failed(error) if is_trouble_here(&error) => {
                trouble.get_or_insert(format!("`{name}` cannot be executed again: {error}"));
            }
            Again::Failed(error) => {
                others += 1;
                note(format!("differs {name}  it fails the second time: {error}"));
            }
            Again::NotExecuted(reason) => {
                left += 1;
                note(format!("left    {name}  {reason}"));
            }
        }
    })?;
    bar.finish_and_clear();
    if let Some(trouble) = trouble {
        let hint = "is there room below $TMPDIR, and are all programs here?";
        return Err(Failure::failed(trouble).with_hint(hint.to_owned()));
    }
    if ended == Ended::Interrupted {
        return Ok(ExitCode::Interrupted);
    }
    // What was not executed twice proves nothing.
    let holds = others == 0 && (same > 0 || left == 0);
    if !arguments.quiet || !holds {
        let left = if left > 0 { format!(", {left} left out") } else { String::new() };
        output::note(&format!(
            "executed twice: {same} gave the same bytes, {others} did not{left}"
        ));
    }
    Ok(if holds { ExitCode::Done } else { ExitCode::Failed })
}

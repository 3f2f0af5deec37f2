//! `okapi plan`.

use okapi_engine::evaluate::evaluate;
use okapi_engine::plan::{Plan, PlannedNode, Verdict, plan as make_plan};
use okapi_engine::run_record;

use crate::cli::{Global, PlanArgs};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::project;
use crate::ui::{format, output, table};

/// Instances of one node with one verdict are listed one by one up to this number.
const LISTED: usize = 10;

/// Shows what a run would do.
pub(crate) fn plan(global: &Global, arguments: &PlanArgs) -> Result<ExitCode, Failure> {
    let place = project::locate_or_default(global, arguments.pipeline.pipeline.as_deref())?;
    let registry = okapi_stages::registry();
    let store = project::open_store_to_look(global, &place.root)?;
    let loaded = project::prepare(
        global,
        &arguments.pipeline.overlay,
        place,
        &registry,
        &store,
        &arguments.targets,
        &arguments.force,
    )?;
    let machine = project::machine(None);
    let question = loaded.question(&machine, &store);
    let evaluation = evaluate(&question);
    let previous = run_record::head(&store, &loaded.place.pipeline);
    let plan = make_plan(&question, &evaluation, &previous);
    if arguments.json {
        output::print_json(&plan)?;
    } else if arguments.check {
        output::print(&summary(&plan))?;
    } else {
        output::print(&(listing(&plan, arguments.all) + &summary(&plan)))?;
    }
    Ok(match arguments.check && !plan.is_up_to_date() {
        true => ExitCode::WouldRun,
        false => ExitCode::Done,
    })
}

/// A verdict as it is printed.
pub(crate) fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Cached => "cached",
        Verdict::Runs => "runs",
        Verdict::MayRun => "may run",
        Verdict::Blocked => "blocked",
    }
}

fn listing(plan: &Plan, all: bool) -> String {
    let node_of = |node: &PlannedNode| node.node.split('[').next().unwrap_or_default().to_owned();
    let mut rows = Vec::new();
    let mut rest: &[PlannedNode] = &plan.nodes;
    while let Some(first) = rest.first() {
        let same =
            |node: &PlannedNode| node_of(node) == node_of(first) && node.verdict == first.verdict;
        let length = rest.iter().take_while(|node| same(node)).count();
        let (group, others) = rest.split_at(length);
        rest = others;
        let folded = group.len() > LISTED || first.verdict == Verdict::Cached && group.len() > 1;
        if folded && !all {
            rows.push(vec![
                word(first.verdict).to_owned(),
                format!("{}[{}]", node_of(first), format::count(group.len() as u64, "instance")),
                first.reason.clone().unwrap_or_default(),
                cost(group),
            ]);
            continue;
        }
        for node in group {
            rows.push(vec![
                word(node.verdict).to_owned(),
                node.node.clone(),
                node.reason.clone().unwrap_or_default(),
                cost(std::slice::from_ref(node)),
            ]);
        }
    }
    table::render(&rows)
}

/// What the work of some instances took the last time, as far as they ever ran.
fn cost(group: &[PlannedNode]) -> String {
    let known: Vec<_> = group.iter().filter_map(|node| node.last_duration_ms).collect();
    let total = || format::duration(known.iter().sum());
    match group.len() - known.len() {
        0 => total(),
        _ if known.is_empty() => "unknown".to_owned(),
        unknown => format!("{}, {unknown} unknown", total()),
    }
}

fn summary(plan: &Plan) -> String {
    let sums = &plan.summary;
    let mut line = format!(
        "{} cached, {} to run, {} may run, {} blocked",
        sums.cached, sums.runs, sums.may_run, sums.blocked
    );
    if !plan.is_up_to_date() {
        let never_ran = format!("{} that never ran", format::count(sums.unknown_cost, "node"));
        if sums.unknown_cost > 0 && sums.unknown_cost == sums.runs + sums.may_run {
            line.push_str(&format!("; of unknown cost: {never_ran}"));
        } else {
            let least = format::duration(sums.estimated_ms);
            let most = format::duration(sums.estimated_ms_at_most);
            let range = if least == most { least } else { format!("{least} to {most}") };
            line.push_str(&format!("; about {range} of work"));
            if sums.unknown_cost > 0 {
                line.push_str(&format!(" and {never_ran}"));
            }
        }
        if sums.estimated_gpu_ms_at_most > 0 {
            let gpu = format::duration(sums.estimated_gpu_ms_at_most);
            line.push_str(&format!(", of GPUs at most {gpu}"));
        }
    }
    if sums.saved_ms > 0 {
        line.push_str(&format!("; the cache saves {}", format::duration(sums.saved_ms)));
    }
    line.push('\n');
    line
}

//! `okapi plan`.

use std::collections::BTreeMap;

use okapi_engine::estimate::Estimate;
use okapi_engine::evaluate::{FoundElsewhere, Question, ask_remote, evaluate, evaluate_with};
use okapi_engine::plan::{Plan, PlannedNode, Verdict, plan as make_plan};
use okapi_engine::run_record;

use crate::cli::{Global, PlanArgs};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::project;
use crate::sharing;
use crate::ui::{bill, format, output, table};

/// Instances of one node with one verdict are listed one by one up to this number, unless they are cached.
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
    let remote = sharing::open_if_asked(&arguments.remote, &loaded.place.root, &mut |message| {
        output::note(&format!("warning: {message}"));
    })?;
    let (evaluation, elsewhere) = match &remote {
        Some(remote) => evaluate_with(&question, &mut |actions| ask_remote(remote, actions)),
        None => (evaluate(&question), FoundElsewhere::new()),
    };
    let question = Question { elsewhere: &elsewhere, ..question };
    let notices = remote.iter().flat_map(|remote| remote.take_notices());
    notices.for_each(|notice| output::note(&format!("warning: {notice}")));
    let previous = run_record::head(&store, &loaded.place.pipeline);
    let mut plan = make_plan(&question, &evaluation, &previous);
    plan.add_estimates(&question, &evaluation, &registry, &loaded.place.root);
    if arguments.json {
        output::print_json(&plan)?;
    } else if arguments.check {
        output::print(&summary(&plan))?;
    } else {
        let bill = plan.bill.as_ref().map(|bill| bill::render(bill, arguments.all));
        let text = listing(&plan, arguments.all) + &bill.unwrap_or_default() + &summary(&plan);
        output::print(&text)?;
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
        Verdict::Fetched => "fetched",
        Verdict::Runs => "runs",
        Verdict::MayRun => "may run",
        Verdict::Blocked => "blocked",
    }
}

fn listing(plan: &Plan, all: bool) -> String {
    let mut rows = Vec::new();
    for group in groups(plan, all) {
        let first = group[0];
        let is_there = matches!(first.verdict, Verdict::Cached | Verdict::Fetched);
        let folded = group.len() > LISTED || is_there && group.len() > 1;
        if folded {
            let instances = format::count(group.len() as u64, "instance");
            rows.push(row(format!("{}[{instances}]", node_of(first)), &group));
        } else {
            let each = group.iter();
            rows.extend(each.map(|node| row(node.node.clone(), std::slice::from_ref(node))));
        }
    }
    table::render(&rows)
}

/// The instances of each node that have one verdict, where the first of them stands: also such as have others between
/// them, as those of one method have. With `all`, each instance by itself.
fn groups(plan: &Plan, all: bool) -> Vec<Vec<&PlannedNode>> {
    if all {
        return plan.nodes.iter().map(|node| vec![node]).collect();
    }
    let mut places: BTreeMap<(&str, Verdict), usize> = BTreeMap::new();
    let mut groups: Vec<Vec<&PlannedNode>> = Vec::new();
    for node in &plan.nodes {
        let place = *places.entry((node_of(node), node.verdict)).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.push(node),
            None => groups.push(vec![node]),
        }
    }
    groups
}

fn node_of(instance: &PlannedNode) -> &str {
    instance.node.split('[').next().unwrap_or_default()
}

/// A line about instances that have one verdict.
fn row(name: String, group: &[&PlannedNode]) -> Vec<String> {
    let first = group[0];
    vec![
        word(first.verdict).to_owned(),
        name,
        first.reason.clone().unwrap_or_default(),
        cost(group),
        needed(group),
    ]
}

/// What the work of some instances took the last time, as far as they ever ran; else what their operations would take.
fn cost(group: &[&PlannedNode]) -> String {
    let known: Vec<_> = group.iter().filter_map(|node| node.expected_ms()).collect();
    let about = if group.iter().any(|node| node.is_reckoned()) { "about " } else { "" };
    let total = || format!("{about}{}", format::duration(known.iter().sum()));
    match group.len() - known.len() {
        0 => total(),
        _ if known.is_empty() => "unknown".to_owned(),
        unknown => format!("{}, {unknown} unknown", total()),
    }
}

/// What some instances would fetch and ask of teachers, and the memory that each would take; empty if nothing.
fn needed(group: &[&PlannedNode]) -> String {
    let memory = group.iter().filter_map(|node| node.memory.as_ref());
    let most = memory.max_by_key(|memory| memory.bytes());
    let memory = most.map_or(String::new(), |memory| {
        let parts = memory.parts.iter();
        let parts: Vec<_> =
            parts.map(|part| format!("{} {}", part.what, format::size(part.bytes))).collect();
        let whose = if memory.on_gpu { "GPU memory" } else { "memory" };
        format!("{whose} {}: {}", format::size(memory.bytes()), parts.join(", "))
    });
    let bytes: u64 = group.iter().filter_map(|node| node.fetched_bytes).sum();
    let is_fetched = group.iter().any(|node| node.fetched_bytes.is_some());
    let fetched = if is_fetched { format::size(bytes) } else { String::new() };
    [fetched, asked(group), memory]
        .into_iter()
        .filter(|text| !text.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

/// What some instances would ask of teachers; empty if nothing.
fn asked(group: &[&PlannedNode]) -> String {
    let estimates: Vec<_> = group.iter().filter_map(|node| node.estimate.as_ref()).collect();
    if estimates.is_empty() {
        let unforeseen = group.iter().any(|node| node.unforeseen);
        return if unforeseen { "requests unknown".to_owned() } else { String::new() };
    }
    let total = |of: fn(&Estimate) -> u64| estimates.iter().map(|estimate| of(estimate)).sum();
    let bill = Bill {
        requests: total(|it| it.requests),
        recorded: total(|it| it.recorded),
        tokens: total(|it| it.prompt_tokens + it.completion_tokens),
        nano_usd: total(|it| it.nano_usd.unwrap_or(0)),
        is_priced: estimates.iter().all(|it| it.nano_usd.is_some() || it.requests == 0),
        is_counted: estimates.iter().all(|it| it.counted),
    };
    bill.text()
}

/// What would be asked of teachers, and what that would cost.
struct Bill {
    requests: u64,
    recorded: u64,
    tokens: u64,
    nano_usd: u64,
    is_priced: bool,
    is_counted: bool,
}

impl Bill {
    fn text(&self) -> String {
        let about = if self.is_counted { "" } else { "about " };
        let mut text = format!("{about}{}", format::count(self.requests, "request"));
        if self.recorded > 0 {
            text.push_str(&format!(" ({} more are recorded)", self.recorded));
        }
        if self.requests > 0 {
            text.push_str(&format!(", about {} tokens", format::thousands(self.tokens)));
            match self.is_priced {
                true => text.push_str(&format!(", {}", format::money(self.nano_usd))),
                false => text.push_str(", price unknown"),
            }
        }
        text
    }
}

fn summary(plan: &Plan) -> String {
    let sums = &plan.summary;
    let mut line = format!(
        "{} cached, {} to run, {} may run, {} blocked",
        sums.cached, sums.runs, sums.may_run, sums.blocked
    );
    if sums.fetched > 0 {
        let bytes = format::size(sums.fetched_bytes);
        line = format!("{} on the remote ({bytes}), {line}", sums.fetched);
    }
    if !plan.is_up_to_date() {
        let nodes = plan.nodes.iter();
        let is_reckoned = |node: &&PlannedNode| {
            let can_run = matches!(node.verdict, Verdict::Runs | Verdict::MayRun);
            node.is_reckoned() && node.last_duration_ms.is_none() && can_run
        };
        let reckoned = nodes.filter(is_reckoned);
        let reckoned = reckoned.count() as u64;
        let mut never_ran = format!("{} that never ran", format::count(sums.unknown_cost, "node"));
        if reckoned > 0 {
            never_ran.push_str(&format!(" ({reckoned} reckoned above)"));
        }
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
    if sums.requests + sums.recorded > 0 {
        let bill = Bill {
            requests: sums.requests,
            recorded: sums.recorded,
            tokens: sums.prompt_tokens + sums.completion_tokens,
            nano_usd: sums.nano_usd,
            is_priced: sums.unpriced == 0,
            is_counted: plan
                .nodes
                .iter()
                .filter_map(|it| it.estimate.as_ref())
                .all(|it| it.counted),
        };
        // The bill above has what needs another machine, too.
        let whose = if sums.blocked > 0 { "teachers, of what can run here" } else { "teachers" };
        line.push_str(&format!("\n{whose}: {}", bill.text()));
        if sums.unforeseen > 0 {
            let nodes = format::count(sums.unforeseen, "node");
            line.push_str(&format!("; and {nodes} whose inputs must be there first"));
        }
    }
    line.push('\n');
    line
}

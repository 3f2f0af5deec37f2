//! `okapi explain`.

use std::collections::BTreeMap;

use okapi_engine::evaluate::{State, evaluate};
use okapi_engine::explain::{Change, Explanation, explain as explain_action};
use okapi_engine::graph::{Graph, InstanceId};
use okapi_engine::plan::{PlannedNode, Verdict, known_action, plan as make_plan};
use okapi_engine::run_record;
use okapi_engine::selection::matching;
use serde_json::{Value, json};

use super::plan::word;
use crate::cli::{ExplainArgs, Global};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::project;
use crate::ui::{change, color, format, output};

/// So many instances of a node are explained unless all are asked for.
const LISTED: usize = 20;

/// Shows why a node runs, or why not.
pub(crate) fn explain(global: &Global, arguments: &ExplainArgs) -> Result<ExitCode, Failure> {
    let place = project::locate(global, &arguments.pipeline.pipeline)?;
    let registry = okapi_stages::registry();
    let store = project::open_store_to_look(global, &place.root)?;
    let targets = std::slice::from_ref(&arguments.node);
    let loaded = project::prepare(
        global,
        &arguments.pipeline.overlay,
        place,
        &registry,
        &store,
        targets,
        &[],
    )?;
    let machine = project::machine(None);
    let question = loaded.question(&machine, &store);
    let evaluation = evaluate(&question);
    let previous = run_record::head(&store, &loaded.place.pipeline);
    let plan = make_plan(&question, &evaluation, &previous);
    let planned: BTreeMap<_, _> =
        plan.nodes.iter().map(|node| (node.node.as_str(), node)).collect();
    let instances = matching(&loaded.graph, &arguments.node);
    let shown = match arguments.all || arguments.json {
        true => instances.len(),
        false => instances.len().min(LISTED),
    };
    let colored = color::stdout(global.color);
    let mut text = String::new();
    let mut items = Vec::new();
    for &id in &instances[..shown] {
        let name = &*loaded.graph.instances[id as usize].name;
        let Some(planned) = planned.get(name) else { continue };
        let known = match evaluation.states[id as usize] {
            State::Cached { action, .. }
            | State::Elsewhere { action, .. }
            | State::Runs { action, .. }
            | State::Blocked { action, .. } => {
                Some(known_action(&question, &evaluation, id, action))
            }
            State::NotSelected | State::Waits { .. } => None,
        };
        let explanation = match &known {
            Some(action) => {
                let new_text = |field: &str| present_text(&loaded, id, field);
                Some(explain_action(&store, &previous, name, action, new_text)?)
            }
            None => None,
        };
        if arguments.json {
            items.push(to_json(planned, explanation.as_ref()));
            continue;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        let reason = planned.reason.as_deref().map_or(String::new(), |it| format!(": {it}"));
        text.push_str(&format!("{name} {}{reason}\n", verdict_phrase(planned.verdict)));
        match &explanation {
            Some(explanation) => text.push_str(&describe(explanation, planned.verdict, colored)),
            None => text.push_str(&waiting(planned)),
        }
    }
    if arguments.json {
        output::print_json(&json!({ "version": 1, "nodes": items }))?;
        return Ok(ExitCode::Done);
    }
    if shown < instances.len() {
        let more = format::count((instances.len() - shown) as u64, "instance");
        text.push_str(&format!("\nand {more} more; --all shows them\n"));
    }
    output::print(&text)?;
    Ok(ExitCode::Done)
}

fn verdict_phrase(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Cached => "is cached",
        other => word(other),
    }
}

/// The present text of a tracked file or prompt, which the store may not have yet.
fn present_text(loaded: &project::Loaded, id: InstanceId, field: &str) -> Option<String> {
    let graph: &Graph = &loaded.graph;
    let instance = &graph.instances[id as usize];
    let source = if let Some(path) = field.strip_prefix("files.") {
        instance.files.iter().copied().find(|&it| &*graph.sources[it as usize].path == path)
    } else {
        let name = field.strip_prefix("prompts.")?;
        instance.prompts.iter().find(|(it, _)| &**it == name).map(|(_, source)| *source)
    }?;
    std::fs::read_to_string(loaded.place.root.join(&*graph.sources[source as usize].path)).ok()
}

fn describe(explanation: &Explanation, verdict: Verdict, colored: bool) -> String {
    let mut text = format!("  action    {}\n", explanation.action);
    match explanation.previous {
        None => text.push_str("  before    it has no earlier result in this pipeline\n"),
        Some(previous) if previous == explanation.action => {
            text.push_str(&format!(
                "  before    the same: all {} fields are equal\n",
                explanation.equal_fields
            ));
        }
        Some(previous) => {
            text.push_str(&format!("  before    {previous}\n"));
            for change in &explanation.changes {
                text.push_str(&format!("  changed   {}\n", change.change.field));
                text.push_str(&change::describe(change, "            ", colored));
            }
            text.push_str(&format!(
                "  unchanged {}\n",
                format::count(explanation.equal_fields as u64, "field")
            ));
        }
    }
    if let Some(ms) = explanation.previous_duration_ms {
        let duration = format::duration(ms);
        text.push_str(&match verdict {
            Verdict::Cached => format!("  saves     {duration}\n"),
            _ => format!("  cost      {duration}, as the last time\n"),
        });
    }
    text
}

/// A change for `--json`.
pub(super) fn change_to_json(change: &Change) -> Value {
    json!({
        "field": change.change.field,
        "old": change.change.old,
        "new": change.change.new,
        "diff": change.lines,
    })
}

/// What can be said of an instance whose inputs are not there yet.
fn waiting(planned: &PlannedNode) -> String {
    let on = planned.waits_for.as_deref().unwrap_or("an input");
    match planned.verdict {
        Verdict::MayRun => format!(
            "  its action is known once {on} has run; if that comes out as before, this is cached\n"
        ),
        Verdict::Blocked => format!("  its action is known once {on} has run\n"),
        Verdict::Cached | Verdict::Fetched | Verdict::Runs => {
            format!("  it runs for the first time, once {on} has run\n")
        }
    }
}

fn to_json(planned: &PlannedNode, explanation: Option<&Explanation>) -> Value {
    let changes: Vec<_> = explanation
        .iter()
        .flat_map(|explanation| &explanation.changes)
        .map(change_to_json)
        .collect();
    json!({
        "node": planned.node,
        "verdict": planned.verdict,
        "reason": planned.reason,
        "action": explanation.map(|it| it.action),
        "previous": explanation.and_then(|it| it.previous),
        "changes": changes,
        "equal_fields": explanation.map(|it| it.equal_fields),
        "last_duration_ms": explanation.and_then(|it| it.previous_duration_ms),
    })
}

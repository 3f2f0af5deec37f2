//! What differs between two runs, for people: what was asked, what came out, where they part, and what follows.

use std::collections::{BTreeMap, BTreeSet};

use okapi_cache::{Artifact, Store};
use okapi_engine::action_diff::FieldChange;
use okapi_engine::explain::with_lines;
use okapi_engine::run_diff::{Cause, Kind, MetricDiff, NodeDiff, OutputDiff, RunDiff, facts};
use okapi_engine::run_record::RunInfo;
use serde_json::Value;

use crate::ui::{change, format, table};

/// So many metrics are listed.
const METRICS: usize = 20;

/// So many instances of a node are listed that part in the same members of their action but not in the same values.
const UNLIKE: usize = 3;

/// How much is said.
#[derive(Clone, Copy)]
pub(crate) struct Shown {
    /// Every metric and instance, each with all of its fields.
    pub(crate) all: bool,
    /// With colours.
    pub(crate) colored: bool,
}

/// All that differs, from the top.
pub(crate) fn render(
    store: &Store,
    old: &RunInfo,
    new: &RunInfo,
    diff: &RunDiff,
    shown: Shown,
) -> String {
    let sections = [
        asked(old, new),
        metrics(diff, shown.all),
        parting(store, diff, shown),
        following(store, diff, Cause::Inputs, shown),
        following(store, diff, Cause::Unknown, shown),
    ];
    let mut text: String =
        sections.into_iter().filter(|it| !it.is_empty()).map(|it| it + "\n").collect();
    let different = diff.nodes.len();
    text.push_str(&format!("nodes that differ: {different} of {}\n", different + diff.same));
    text
}

/// How an instance differs.
pub(crate) fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Added => "added",
        Kind::Removed => "removed",
        Kind::Changed => "changed",
        Kind::Unsteady => "unsteady",
    }
}

fn asked(old: &RunInfo, new: &RunInfo) -> String {
    let mut text = format!("{} -> {}\n", old.id, new.id);
    let facts = facts(old, new);
    for fact in facts.iter().filter(|fact| fact.fact != "pipeline_digest") {
        let (name, nothing) = match fact.fact {
            "overrides" => ("--set", "(none)"),
            "targets" => ("targets", "(all)"),
            other => (other, "(none)"),
        };
        let show = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Array(items) if !items.is_empty() => {
                let items = items.iter().filter_map(Value::as_str);
                items.collect::<Vec<_>>().join(" ")
            }
            _ => nothing.to_owned(),
        };
        text.push_str(&format!("{name}: {} -> {}\n", show(&fact.old), show(&fact.new)));
    }
    text.push_str(match facts.iter().any(|fact| fact.fact == "pipeline_digest") {
        true => "pipeline file: changed\n",
        false => "pipeline file: the same\n",
    });
    text
}

/// The metrics that differ, results first.
fn metrics(diff: &RunDiff, all: bool) -> String {
    let metrics = diff.metrics();
    let listed = metrics.iter().filter(|(_, it)| all || is_of_the_result(&it.metric));
    let listed: Vec<_> = listed.take(if all { usize::MAX } else { METRICS }).collect();
    let mut rows = Vec::new();
    if !listed.is_empty() {
        rows.push(["node", "metric", "old", "new", "change"].map(str::to_owned).to_vec());
    }
    rows.extend(listed.iter().map(|(node, metric)| {
        let [old, new, change] = numbers(metric);
        vec![node.node.clone(), metric.metric.clone(), old, new, change]
    }));
    let mut text = table::render(&rows);
    match (metrics.len() - listed.len(), listed.is_empty()) {
        (0, _) => {}
        (more, false) => text.push_str(&format!("and {more} more (--all)\n")),
        (more, true) => {
            let metrics = format::count(more as u64, "metric");
            text.push_str(&format!("{metrics}, of details only (--all)\n"));
        }
    }
    text
}

/// Whether a metric is neither a detail, which has a dot in its name, nor an error that follows from what it is of, nor
/// the effort behind the result.
fn is_of_the_result(metric: &str) -> bool {
    !metric.contains('.') && !metric.ends_with("_stderr") && !okapi_stages::counts_requests(metric)
}

/// The old value, the new one, and the difference.
fn numbers(metric: &MetricDiff) -> [String; 3] {
    let (Some(old), Some(new)) = (metric.old, metric.new) else {
        let show = |value: Option<f64>| value.map_or("(none)".to_owned(), format::number);
        return [show(metric.old), show(metric.new), String::new()];
    };
    let sign = if new > old { '+' } else { '-' };
    let change = format!("{sign}{}", format::number((new - old).abs()));
    let [short_old, short_new] = [old, new].map(format::number);
    if short_old != short_new {
        return [short_old, short_new, change];
    }
    // As many digits as it takes to tell them apart.
    let written = |digits: usize| [old, new].map(|it| format!("{it:.digits$}"));
    let apart = (3..=17).map(written).find(|[old, new]| old != new);
    let [old, new] = apart.unwrap_or_else(|| [old, new].map(|it| it.to_string()));
    [old, new, change]
}

/// The instances in which the runs part; those that part alike in one entry.
fn parting(store: &Store, diff: &RunDiff, shown: Shown) -> String {
    let mut text = heading("the runs part in", diff, Cause::Own);
    let mut told = Told::new();
    if shown.all {
        for node in diff.caused_by(Cause::Own) {
            text.push_str(&entry(store, &[node], &mut told, shown));
        }
        return text;
    }
    let mut nodes: BTreeMap<_, BTreeMap<_, Vec<&NodeDiff>>> = BTreeMap::new();
    for node in diff.caused_by(Cause::Own) {
        let own = node.fields.iter().filter(|field| field.is_own).map(|field| &field.change);
        let members: BTreeSet<_> = own.clone().map(|it| member(&it.field)).collect();
        let values: Vec<_> = own.map(|it| (&it.field, &it.old, &it.new)).collect();
        let entries = nodes.entry((node_of(node), node.kind, members)).or_default();
        entries.entry((values, ports_read(node))).or_default().push(node);
    }
    for ((name, _, members), entries) in nodes {
        let mut entries: Vec<_> = entries.into_values().collect();
        entries.sort_by_key(|entry| &entry[0].node);
        let rest = entries.split_off(entries.len().min(UNLIKE));
        for alike in &entries {
            text.push_str(&entry(store, alike, &mut told, shown));
        }
        let more: usize = rest.iter().map(Vec::len).sum();
        if more > 0 {
            let members: Vec<_> = members.into_iter().collect();
            let instances = format::count(more as u64, "more instance");
            let members = members.join(", ");
            text.push_str(&format!("and {instances} of {name} in {members} (--all)\n"));
        }
    }
    text
}

/// Field, old and new value of what was told in full, and of which instance.
type Told<'a> = BTreeMap<(&'a str, Option<&'a str>, Option<&'a str>), &'a str>;

/// Instances that part alike, with the fields in which they do. A prompt that many nodes have is told of once.
fn entry<'a>(store: &Store, alike: &[&'a NodeDiff], told: &mut Told<'a>, shown: Shown) -> String {
    let Some(first) = alike.first() else { return String::new() };
    let more = match alike.len() - 1 {
        0 => String::new(),
        more => format!(" and {}", format::count(more as u64, "more instance")),
    };
    let note = outputs_note(alike);
    let mut text = format!("{:8} {}{more}{note}\n", word(first.kind), first.node);
    for field in first.fields.iter().filter(|field| field.is_own || shown.all) {
        text.push_str(&format!("  {}\n", field.change.field));
        let FieldChange { field: path, old, new } = &field.change;
        let before = told.entry((path, old.as_deref(), new.as_deref())).or_insert(&first.node);
        let change = with_lines(store, field.change.clone(), None, |_| None);
        match change.lines {
            Some(_) if *before != first.node && !shown.all => {
                text.push_str(&format!("    as in {before}\n"));
            }
            _ => text.push_str(&change::describe(&change, "    ", shown.colored)),
        }
    }
    let ports = ports_read(first);
    if !ports.is_empty() && !shown.all && first.cause() == Cause::Own {
        let ports: Vec<_> = ports.into_iter().collect();
        text.push_str(&format!("  and in what it reads: {}\n", ports.join(", ")));
    }
    if alike.len() == 1 {
        for OutputDiff { port, old, new } in first.outputs.iter().flatten() {
            let show = |artifact: &Option<Artifact>| match artifact {
                Some(it) => format!("{} ({})", it.digest.short(), format::size(it.size)),
                None => "(none)".to_owned(),
            };
            text.push_str(&format!("  output {port}\n    {} -> {}\n", show(old), show(new)));
        }
    }
    text
}

fn outputs_note(alike: &[&NodeDiff]) -> String {
    let count = |outputs| alike.iter().filter(|node| node.has_same_outputs() == outputs).count();
    let same = count(Some(true));
    match alike {
        [first, ..] if first.kind == Kind::Unsteady => {
            "  (gave another output for the same action)".to_owned()
        }
        [only] if only.kind == Kind::Changed && only.outputs.is_none() => {
            "  (one of the results has been collected)".to_owned()
        }
        [_] if same == 1 => "  (its outputs are the same)".to_owned(),
        _ if same == alike.len() => "  (their outputs are the same)".to_owned(),
        _ if same > 0 => format!("  ({same} of them have the same outputs)"),
        _ => String::new(),
    }
}

/// The instances that differ for another cause, a line each node; with `all`, each instance with its fields.
fn following(store: &Store, diff: &RunDiff, cause: Cause, shown: Shown) -> String {
    let mut nodes: BTreeMap<_, Vec<&NodeDiff>> = BTreeMap::new();
    for node in diff.caused_by(cause) {
        nodes.entry(node_of(node)).or_default().push(node);
    }
    let what = match cause {
        Cause::Unknown => "what differs is not known, as a result has been collected, in",
        _ => "only what they read differs in",
    };
    let heading = heading(what, diff, cause);
    if shown.all {
        let mut told = Told::new();
        let nodes = nodes.into_values().flatten();
        let entries = nodes.map(|node| entry(store, &[node], &mut told, shown));
        return heading + &entries.collect::<String>();
    }
    let row = |(name, instances): (&str, Vec<&NodeDiff>)| {
        let same = instances.iter().filter(|it| it.has_same_outputs() == Some(true)).count();
        let ended = "the same outputs: early cutoff ended it there";
        let (name, note) = match (&instances[..], same) {
            ([only], 0) => (only.node.clone(), String::new()),
            ([only], _) => (only.node.clone(), ended.to_owned()),
            (_, 0) => (folded(name, instances.len()), String::new()),
            (_, same) if same == instances.len() => {
                (folded(name, same), format!("all have {ended}"))
            }
            (_, 1) => (folded(name, instances.len()), format!("1 has {ended}")),
            (_, same) => (folded(name, instances.len()), format!("{same} have {ended}")),
        };
        vec![format!("  {name}"), note]
    };
    heading + &table::render(&nodes.into_iter().map(row).collect::<Vec<_>>())
}

fn heading(what: &str, diff: &RunDiff, cause: Cause) -> String {
    match diff.caused_by(cause).count() {
        0 => String::new(),
        nodes => format!("{what} {}:\n", format::count(nodes as u64, "node")),
    }
}

fn folded(name: &str, instances: usize) -> String {
    format!("{name}[{}]", format::count(instances as u64, "instance"))
}

fn node_of(node: &NodeDiff) -> &str {
    node.node.split('[').next().unwrap_or_default()
}

/// The member of an action that a field is in.
fn member(field: &str) -> &str {
    field.split('.').next().unwrap_or_default()
}

/// Where an instance reads something else, as far as that is not its own doing.
fn ports_read(node: &NodeDiff) -> BTreeSet<&str> {
    let read = node.fields.iter().filter(|field| !field.is_own);
    read.map(|field| port(&field.change)).collect()
}

/// `inputs.rows` of `inputs.rows.lang=de`.
fn port(change: &FieldChange) -> &str {
    let field = &change.field;
    let end = field.match_indices('.').nth(1).map_or(field.len(), |(at, _)| at);
    &field[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(old: Option<f64>, new: Option<f64>) -> String {
        numbers(&MetricDiff { metric: "acc".to_owned(), old, new }).join(" ").trim_end().to_owned()
    }

    #[test]
    fn numbers_have_the_digits_that_tell_them_apart() {
        assert_eq!(shown(Some(0.61), Some(0.6)), "0.61 0.6 -0.01");
        assert_eq!(shown(Some(1200.0), Some(1205.0)), "1200 1205 +5");
        assert_eq!(shown(Some(0.481_02), Some(0.481_23)), "0.4810 0.4812 +2.10e-4");
        assert_eq!(
            shown(Some(1e-20), Some(1.0001e-20)),
            "0.00000000000000000001 0.000000000000000000010001 +1.00e-24"
        );
        assert_eq!(shown(None, Some(0.5)), "(none) 0.5");
    }

    #[test]
    fn details_and_effort_are_not_of_the_result() {
        for (metric, expected) in [
            ("acc", true),
            ("acc_stderr", false),
            ("rejects", true),
            ("rejects.too_long", false),
            ("requests", false),
            ("prompt_tokens", false),
            ("tokens", true),
        ] {
            assert_eq!(is_of_the_result(metric), expected, "{metric}");
        }
    }
}

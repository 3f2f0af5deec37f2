//! `publish:` -> destinations in the work tree, one per instance.

use std::collections::BTreeSet;

use crate::check::node::NodeDraft;
use crate::check::paths::Sources;
use crate::check::reference::{NodeIndex, instances};
use crate::diagnostic::Span;
use crate::graph::Publish;
use crate::resolve::vars::{AxisValue, TextKind, Variables};
use crate::spec::expect;
use crate::spec::findings::{Findings, file_span};
use crate::spec::yaml::{Entry, Node};

/// Reads all destinations. Instances are numbered in the order of the file.
pub(crate) fn read(
    section: &Node,
    index: &NodeIndex<'_, '_>,
    sources: &Sources<'_>,
    pipeline_file: Option<&str>,
    variables: &mut Variables,
    findings: &mut Findings,
) -> Vec<Publish> {
    let mut publish = Vec::new();
    for entry in section.entries() {
        read_one(entry, index, sources, variables, &mut publish, findings);
    }
    publish.sort_by(|one, other| (&one.path, one.span).cmp(&(&other.path, other.span)));
    report_clashes(&publish, sources, pipeline_file, findings);
    publish
}

fn read_one(
    entry: &Entry,
    index: &NodeIndex<'_, '_>,
    sources: &Sources<'_>,
    variables: &mut Variables,
    publish: &mut Vec<Publish>,
    findings: &mut Findings,
) -> Option<()> {
    let value = variables.substitute(&entry.value, TextKind::Value, &[], findings);
    let written = expect::text(&value, "what to publish", findings)?;
    let target = index.resolve(&written, value.span, None, findings)?;
    let draft = &index.drafts[target.node];
    let (axes, port, selection) = (draft.axes.as_ref()?, target.port?, target.selection?);
    for (axis, position) in axes.axes.iter().zip(&selection) {
        let reference = format!("${{each.{}}}", axis.name);
        if position.is_none() && axis.values.len() > 1 && !entry.key.contains(&reference) {
            let (count, node) = (axis.values.len(), &draft.name);
            findings
                .error(
                    "publish-conflict",
                    entry.key_span,
                    format!("`{}` would hold {count} instances of `{node}`", entry.key),
                )
                .hint(format!(
                    "put `{reference}` into the destination, or publish one: `{node}[{}={}]`",
                    axis.name, axis.texts[0]
                ));
            return None;
        }
    }
    for (_, local) in instances(axes, &selection) {
        let destination = destination(entry, draft, local, variables, findings)?;
        let path = sources.normalize(&destination, "the destination", entry.key_span, findings)?;
        publish.push(Publish {
            path: path.into_boxed_str(),
            instance: draft.first_instance + local,
            port,
            span: file_span(entry.key_span),
        });
    }
    Some(())
}

fn destination(
    entry: &Entry,
    draft: &NodeDraft<'_>,
    local: u32,
    variables: &mut Variables,
    findings: &mut Findings,
) -> Option<String> {
    if !entry.key.contains("${") {
        return Some(entry.key.to_string());
    }
    let axes = draft.axes.as_ref()?;
    let each: Vec<AxisValue<'_>> = axes
        .axes
        .iter()
        .zip(axes.digits(local))
        .map(|(axis, digit)| AxisValue { axis: &axis.name, value: &axis.values[digit as usize] })
        .collect();
    let node = variables.text(&entry.key, entry.key_span, TextKind::Value, &each, findings);
    expect::text_like(&node, "the destination", findings).map(|text| text.to_string())
}

/// No destination may be, hold or lie within another one, a tracked file, or the pipeline file.
fn report_clashes(
    publish: &[Publish],
    sources: &Sources<'_>,
    pipeline_file: Option<&str>,
    findings: &mut Findings,
) {
    // With a `/` behind every path, "holds" is "is a prefix of"; sorted, what a path holds follows
    // it directly.
    let read = sources.items().iter().map(|source| &*source.path).chain(pipeline_file);
    let read: BTreeSet<String> = read.map(|path| format!("{path}/")).collect();
    let mut destinations: Vec<(String, Span)> =
        publish.iter().map(|one| (format!("{}/", one.path), one.span)).collect();
    destinations.sort();
    let mut holders: Vec<&(String, Span)> = Vec::new();
    for one in &destinations {
        let path = one.0.trim_end_matches('/');
        if let Some(other) = clash(&one.0, &read) {
            findings
                .error(
                    "publish-conflict",
                    one.1,
                    format!(
                        "the destination `{path}` would overwrite `{}`, which the pipeline reads",
                        other.trim_end_matches('/')
                    ),
                )
                .help("publish into a folder that holds nothing else");
        }
        while holders.last().is_some_and(|holder| !one.0.starts_with(&holder.0)) {
            holders.pop();
        }
        if let Some(holder) = holders.last() {
            let other = holder.0.trim_end_matches('/');
            let message = if path == other {
                format!("two artifacts have the destination `{path}`")
            } else {
                format!("the destination `{path}` lies within the destination `{other}`")
            };
            findings
                .error("publish-conflict", one.1, message)
                .related(holder.1, "the other one")
                .help("give each artifact a place of its own");
        }
        holders.push(one);
    }
}

/// The member of `taken` that is, holds or lies within `path`.
fn clash<'t>(path: &str, taken: &'t BTreeSet<String>) -> Option<&'t str> {
    if let Some(inside) = taken.range(path.to_owned()..).next()
        && inside.starts_with(path)
    {
        return Some(inside);
    }
    path.match_indices('/').find_map(|(slash, _)| taken.get(&path[..=slash]).map(String::as_str))
}

//! References to outputs: `node`, `node:port`, `node[lang=de]`, `node[lang=de]:port`.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::check::node::NodeDraft;
use crate::diagnostic::Span;
use crate::resolve::for_each::{Axes, Axis};
use crate::spec::expect::shortened;
use crate::spec::findings::Findings;
use crate::suggest;

/// A reference as written.
#[derive(Debug, PartialEq)]
pub(crate) struct Reference<'t> {
    pub(crate) node: &'t str,
    /// Axis and value, as written.
    pub(crate) fixed: Vec<(&'t str, &'t str)>,
    pub(crate) port: Option<&'t str>,
}

impl<'t> Reference<'t> {
    /// Reads a reference. `None` if it has not the form of one.
    pub(crate) fn parse(text: &'t str) -> Option<Reference<'t>> {
        let (node, rest) = match text.find(['[', ':']) {
            Some(end) => text.split_at(end),
            None => (text, ""),
        };
        let mut fixed = Vec::new();
        let rest = match rest.strip_prefix('[') {
            Some(inner) => {
                let (inner, after) = inner.split_once(']')?;
                for pair in inner.split(',') {
                    let (axis, value) = pair.split_once('=')?;
                    fixed.push((axis.trim(), value.trim()));
                }
                after
            }
            None => rest,
        };
        let port = match rest {
            "" => None,
            rest => Some(rest.strip_prefix(':')?.trim()),
        };
        let node = node.trim();
        let is_word = |word: &str| {
            !word.is_empty()
                && word
                    .chars()
                    .all(|other| other.is_ascii_alphanumeric() || matches!(other, '_' | '-'))
        };
        (is_word(node) && port.is_none_or(is_word)).then_some(Reference { node, fixed, port })
    }
}

/// The nodes of a pipeline by name.
pub(crate) struct NodeIndex<'d, 'a> {
    pub(crate) drafts: &'d [NodeDraft<'a>],
    by_name: BTreeMap<Rc<str>, usize>,
}

/// What a reference means, seen from one reader.
#[derive(Debug)]
pub(crate) struct Target {
    /// Index of the node.
    pub(crate) node: usize,
    /// Index into the node's outputs; `None` if the mistake is reported already.
    pub(crate) port: Option<u16>,
    /// For each axis of the node: the position of the value that is meant, or `None` for all of
    /// them. `None` as a whole if the mistake is reported already.
    pub(crate) selection: Option<Vec<Option<u32>>>,
}

impl<'d, 'a> NodeIndex<'d, 'a> {
    pub(crate) fn new(drafts: &'d [NodeDraft<'a>]) -> NodeIndex<'d, 'a> {
        let by_name =
            drafts.iter().enumerate().map(|(id, draft)| (draft.name.clone(), id)).collect();
        NodeIndex { drafts, by_name }
    }

    /// Finds what `written` refers to, as seen from an instance of a reader with axes. `None` if
    /// there is not even such a node.
    pub(crate) fn resolve(
        &self,
        written: &str,
        at: Span,
        reader: Option<(&Axes, u32)>,
        findings: &mut Findings,
    ) -> Option<Target> {
        let Some(reference) = Reference::parse(written) else {
            let message = format!("`{}` is no reference to an output", shortened(written));
            findings
                .error("bad-reference", at, message)
                .help("write `NODE`, `NODE:PORT`, `NODE[AXIS=VALUE]` or `NODE[AXIS=VALUE]:PORT`");
            return None;
        };
        let Some(&node) = self.by_name.get(reference.node) else {
            let names = self.drafts.iter().map(|draft| &*draft.name);
            findings
                .error("unknown-node", at, format!("there is no node `{}`", reference.node))
                .hint(suggest::hint(reference.node, "nodes", names));
            return None;
        };
        let draft = &self.drafts[node];
        let port = port(draft, &reference, at, findings);
        let selection = selection(draft, &reference, at, reader, findings);
        Some(Target { node, port, selection })
    }
}

fn port(
    draft: &NodeDraft<'_>,
    reference: &Reference<'_>,
    at: Span,
    findings: &mut Findings,
) -> Option<u16> {
    let outputs = draft.outputs.as_ref()?;
    let names = || outputs.iter().map(|output| output.port.as_str());
    let node = &draft.name;
    if let Some(port) = reference.port {
        let found = outputs.iter().position(|output| output.port == port);
        if found.is_none() {
            findings
                .error("unknown-port", at, format!("node `{node}` has no output `{port}`"))
                .related(draft.span, "the node")
                .hint(suggest::hint(port, "its outputs", names()));
        }
        return found.map(|port| port as u16);
    }
    match outputs.len() {
        1 => Some(0),
        0 => {
            findings
                .error("unknown-port", at, format!("node `{node}` has no outputs"))
                .related(draft.span, "the node")
                .help("declare them there: `outputs: {NAME: file}`");
            None
        }
        _ => {
            let listed: Vec<_> = names().map(|name| format!("`{node}:{name}`")).collect();
            findings
                .error("ambiguous-port", at, format!("node `{node}` has several outputs"))
                .hint(format!("say which: {}", listed.join(" or ")));
            None
        }
    }
}

fn selection(
    draft: &NodeDraft<'_>,
    reference: &Reference<'_>,
    at: Span,
    reader: Option<(&Axes, u32)>,
    findings: &mut Findings,
) -> Option<Vec<Option<u32>>> {
    let node = &draft.name;
    let axes = &draft.axes.as_ref()?.axes;
    let mut good = true;
    let mut selection: Vec<Option<u32>> = vec![None; axes.len()];
    for (name, value) in &reference.fixed {
        let Some(axis) = axes.iter().position(|axis| axis.name == *name) else {
            let hint = suggest::hint(name, "its axes", axes.iter().map(|axis| &*axis.name))
                .unwrap_or_else(|| format!("`{node}` has no `for_each`"));
            findings
                .error(
                    "unknown-axis",
                    at,
                    format!("node `{node}` has no axis `{}`", shortened(name)),
                )
                .related(draft.span, "the node")
                .hint(hint);
            good = false;
            continue;
        };
        selection[axis] = axes[axis].position(value);
        if selection[axis].is_none() {
            unknown_instance(draft, &axes[axis], value, at, findings);
            good = false;
        }
    }
    let Some((reader, instance)) = reader else { return good.then_some(selection) };
    for (own, digit) in reader.axes.iter().zip(reader.digits(instance)) {
        let Some(axis) = axes.iter().position(|axis| axis.name == own.name) else { continue };
        if reference.fixed.iter().any(|(name, _)| *name == own.name) {
            continue;
        }
        selection[axis] = axes[axis].position_of_key(&own.keys[digit as usize]);
        if selection[axis].is_none() {
            unknown_instance(draft, &axes[axis], &own.texts[digit as usize], at, findings);
            good = false;
        }
    }
    good.then_some(selection)
}

fn unknown_instance(
    draft: &NodeDraft<'_>,
    axis: &Axis,
    value: &str,
    at: Span,
    findings: &mut Findings,
) {
    let name = &axis.name;
    let values = axis.texts.iter().map(|text| &**text);
    let first = axis.values.first().map_or(draft.span, |value| value.span);
    findings
        .error(
            "unknown-instance",
            at,
            format!("there is no `{}[{name}={}]`", draft.name, shortened(value)),
        )
        .related(first, "its values begin here")
        .hint(suggest::hint(value, &format!("values of `{name}`"), values));
}

/// The instances of a node that a selection means, with the key of each: the values of the axes
/// that are gathered over.
pub(crate) fn instances(axes: &Axes, selection: &[Option<u32>]) -> Vec<(Box<str>, u32)> {
    let free: Vec<usize> = (0..selection.len()).filter(|axis| selection[*axis].is_none()).collect();
    let base: u32 = selection
        .iter()
        .zip(&axes.strides)
        .map(|(position, stride)| position.unwrap_or(0) * stride)
        .sum();
    let mut found = vec![(String::new(), base)];
    for axis in free {
        let (keys, stride) = (&axes.axes[axis].keys, axes.strides[axis]);
        let separator = if found[0].0.is_empty() { "" } else { "," };
        found = found
            .iter()
            .flat_map(|(key, instance)| {
                keys.iter().zip(0u32..).map(move |(value, digit)| {
                    (format!("{key}{separator}{value}"), instance + digit * stride)
                })
            })
            .collect();
    }
    found.into_iter().map(|(key, instance)| (key.into_boxed_str(), instance)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_references() {
        let reference = |node, fixed: &[(&'static str, &'static str)], port| {
            Some(Reference { node, fixed: fixed.to_vec(), port })
        };
        for (text, expected) in [
            ("a", reference("a", &[], None)),
            ("a:out", reference("a", &[], Some("out"))),
            ("a[x=1]", reference("a", &[("x", "1")], None)),
            ("a[x=1, y=b/c]:out", reference("a", &[("x", "1"), ("y", "b/c")], Some("out"))),
            ("", None),
            ("a b", None),
            ("a:", None),
            ("a[x]", None),
            ("a[x=1", None),
            ("a[x=1]out", None),
            (":out", None),
        ] {
            assert_eq!(Reference::parse(text), expected, "{text}");
        }
    }
}

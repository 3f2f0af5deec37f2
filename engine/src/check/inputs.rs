//! `inputs:` of an instance -> what feeds each port.
//!
//! Axes that the reader shares with the node it reads are matched; axes that the reader lacks are
//! gathered over; `[axis=value]` fixes one.

use std::collections::BTreeSet;

use crate::check::node::NodeDraft;
use crate::check::order::Edges;
use crate::check::reference::{NodeIndex, Target, instances};
use crate::diagnostic::Span;
use crate::graph::{Feed, Input};
use crate::port::Accepts;
use crate::resolve::for_each::Axes;
use crate::resolve::vars::{AxisValue, TextKind, Variables};
use crate::spec::expect;
use crate::spec::findings::Findings;
use crate::spec::yaml::{Entry, Node, Value};
use crate::stage::{InputPort, Inputs};
use crate::suggest;

/// Reads inputs, and keeps which node reads which.
pub(crate) struct InputReader<'i, 'd, 'a> {
    pub(crate) index: &'i NodeIndex<'d, 'a>,
    pub(crate) edges: Edges,
}

/// A reader: the node, its number, and one of its instances.
#[derive(Clone, Copy)]
pub(crate) struct ReaderInstance<'r> {
    pub(crate) node: &'r NodeDraft<'r>,
    pub(crate) id: u32,
    pub(crate) instance: u32,
    pub(crate) each: &'r [AxisValue<'r>],
}

/// Reports ports that do not exist, and required ones that nothing feeds. Once per node.
pub(crate) fn check_ports(node: &NodeDraft<'_>, findings: &mut Findings) {
    let field = node.field("inputs");
    let entries = field.map_or(&[][..], Node::entries);
    let Some(checker) = node.stage else { return };
    let stage = checker.descriptor();
    let Inputs::Fixed(ports) = stage.inputs else {
        for entry in entries {
            expect::identifier(&entry.key, "an input port", entry.key_span, findings);
        }
        return;
    };
    for entry in entries {
        if !ports.iter().any(|port| port.name == &*entry.key) {
            let hint = suggest::hint(&entry.key, "its inputs", ports.iter().map(|port| port.name))
                .unwrap_or_else(|| "the stage reads nothing from other nodes".to_owned());
            let message = format!("stage `{}` has no input `{}`", stage.name, entry.key);
            findings.error("unknown-port", entry.key_span, message).hint(hint);
        }
    }
    for port in ports.iter().filter(|port| port.required) {
        if !entries.iter().any(|entry| &*entry.key == port.name) {
            let message = format!(
                "node `{}` lacks the input `{}` of stage `{}`",
                node.name, port.name, stage.name
            );
            findings.error("missing-input", node.span, message).hint(format!(
                "add `inputs: {{{}: NODE}}` ({}): {}",
                port.name, port.accepts, port.help
            ));
        }
    }
    let given: Vec<&str> = entries.iter().map(|entry| &*entry.key).collect();
    if let Err(message) = checker.check_inputs(&given) {
        let at = field.map_or(node.span, |field| field.span);
        findings
            .error("missing-input", at, format!("node `{}`: {message}", node.name))
            .hint(format!("see `okapi stages {}`", stage.name));
    }
}

impl InputReader<'_, '_, '_> {
    /// The inputs of one instance. The feeds' instances are numbered in the order of the file.
    pub(crate) fn read(
        &mut self,
        reader: ReaderInstance<'_>,
        variables: &mut Variables,
        findings: &mut Findings,
    ) -> Box<[Input]> {
        let Some(field) = reader.node.field("inputs") else { return Box::default() };
        let field = variables.substitute(field, TextKind::Value, reader.each, findings);
        let what = format!("`inputs` of `{}`", reader.node.name);
        let mut inputs: Vec<Input> = Vec::new();
        for entry in expect::map(&field, &what, findings) {
            let port = match reader.node.stage.map(|stage| stage.descriptor().inputs) {
                Some(Inputs::Fixed(ports)) => ports.iter().find(|port| port.name == &*entry.key),
                _ => None,
            };
            inputs.extend(self.input(reader, entry, port, findings));
        }
        inputs.sort_by(|one, other| one.port.cmp(&other.port));
        inputs.into_boxed_slice()
    }

    fn input(
        &mut self,
        reader: ReaderInstance<'_>,
        entry: &Entry,
        port: Option<&InputPort>,
        findings: &mut Findings,
    ) -> Option<Input> {
        let (items, is_list) = match &entry.value.value {
            Value::List(items) => (items.as_slice(), true),
            _ => (std::slice::from_ref(&entry.value), false),
        };
        if items.is_empty() {
            let message = format!("the input `{}` is an empty list", entry.key);
            findings
                .error("missing-input", entry.value.span, message)
                .help("name at least one node, or remove the input");
            return None;
        }
        let axes = reader.node.axes.as_ref().map(|axes| (axes, reader.instance));
        let mut parts = Vec::with_capacity(items.len());
        let mut good = axes.is_some();
        for item in items {
            let written = expect::text(item, &format!("the input `{}`", entry.key), findings);
            let target =
                written.and_then(|text| self.index.resolve(&text, item.span, axes, findings));
            let Some(target) = target else {
                good = false;
                continue;
            };
            self.edges.entry((reader.id, target.node as u32)).or_insert(item.span);
            good &= self.check_kind(&target, item.span, entry, port, findings);
            match Part::of(target, item.span, self.index) {
                Some(part) => parts.push(part),
                None => good = false,
            }
        }
        if !good {
            return None;
        }
        let gathers_axes = parts.iter().any(|part| part.selection.contains(&None));
        let gathered = is_list || gathers_axes || port.is_some_and(|port| port.gathers);
        if gathered && port.is_some_and(|port| !port.gathers) {
            report_several(entry, &parts, findings);
            return None;
        }
        let feeds = feeds(&parts, gathered, findings)?;
        Some(Input { port: Box::from(&*entry.key), gathered, feeds })
    }

    fn check_kind(
        &self,
        target: &Target,
        at: Span,
        entry: &Entry,
        port: Option<&InputPort>,
        findings: &mut Findings,
    ) -> bool {
        let from = &self.index.drafts[target.node];
        let outputs = from.outputs.as_deref().unwrap_or_default();
        let Some(output) = target.port.map(|port| &outputs[usize::from(port)]) else {
            return false;
        };
        let accepts = port.map_or(Accepts::Any, |port| port.accepts);
        if accepts.accepts(output.kind) {
            return true;
        }
        let fitting: Vec<String> = outputs
            .iter()
            .filter(|output| accepts.accepts(output.kind))
            .map(|output| format!("`{}:{}`", from.name, output.port))
            .collect();
        let hint = if fitting.is_empty() {
            format!("feed it with an output of kind {accepts}")
        } else {
            format!("did you mean {}?", fitting.join(" or "))
        };
        let message = format!(
            "the input `{}` takes {accepts}, but `{}:{}` is {}",
            entry.key, from.name, output.port, output.kind
        );
        findings.error("kind-mismatch", at, message).related(from.span, "the node").hint(hint);
        false
    }
}

/// One reference of an input, with nothing wrong about it.
struct Part<'p> {
    node: &'p NodeDraft<'p>,
    axes: &'p Axes,
    port: u16,
    selection: Vec<Option<u32>>,
    span: Span,
}

fn report_several(entry: &Entry, parts: &[Part<'_>], findings: &mut Findings) {
    let gathered = parts.iter().find_map(|part| {
        let axis = part.selection.iter().position(Option::is_none)?;
        Some((part, &part.axes.axes[axis]))
    });
    let Some((part, axis)) = gathered else {
        let message = format!("the input `{}` takes one artifact, not a list", entry.key);
        findings.error("gathers", entry.value.span, message).help(
            "name one node without the brackets, or join the artifacts by a node of their own",
        );
        return;
    };
    let (node, axis_name) = (&part.node.name, &axis.name);
    let first = axis.texts.first().map_or("...", |text| text);
    findings
        .error(
            "gathers",
            part.span,
            format!(
                "the input `{}` takes one artifact, but `{node}` has {} instances over `{axis_name}`",
                entry.key,
                axis.values.len(),
            ),
        )
        .related(part.node.span, "the node")
        .hint(format!(
            "give this node the axis too (`for_each: {{{axis_name}: ...}}`), or choose one: \
             `{node}[{axis_name}={first}]`"
        ));
}

fn feeds(parts: &[Part<'_>], gathered: bool, findings: &mut Findings) -> Option<Box<[Feed]>> {
    // The instances of one reference are told apart by the axes they are gathered over, several
    // references by the full names of what they mean.
    let by_axes = parts.len() == 1 && parts[0].selection.contains(&None);
    let mut feeds: Vec<Feed> = Vec::new();
    let mut seen: BTreeSet<(u32, u16)> = BTreeSet::new();
    for part in parts {
        for (key, local) in instances(part.axes, &part.selection) {
            let instance = part.node.first_instance + local;
            if parts.len() > 1 && !seen.insert((instance, part.port)) {
                findings
                    .error("duplicate-instance", part.span, "an artifact stands twice in this list")
                    .help("remove one of the two references");
                return None;
            }
            let key = match (gathered, by_axes) {
                (false, _) => Box::default(),
                (true, true) => key,
                (true, false) => part.full_name(local),
            };
            feeds.push(Feed { key, instance, port: part.port });
        }
    }
    feeds.sort_by(|one, other| one.key.cmp(&other.key));
    Some(feeds.into_boxed_slice())
}

impl<'p> Part<'p> {
    /// `None` if a mistake in the reference is reported already.
    fn of(target: Target, span: Span, index: &'p NodeIndex<'_, '_>) -> Option<Part<'p>> {
        let node = &index.drafts[target.node];
        let axes = node.axes.as_ref()?;
        Some(Part { node, axes, port: target.port?, selection: target.selection?, span })
    }

    /// `node[lang=de]`, with the port behind it if the node has several.
    fn full_name(&self, local: u32) -> Box<str> {
        let mut name = self.node.name.to_string();
        if !self.axes.axes.is_empty() {
            let digits = self.axes.axes.iter().zip(self.axes.digits(local));
            let keys: Vec<&str> = digits.map(|(axis, digit)| &*axis.keys[digit as usize]).collect();
            name.push('[');
            name.push_str(&keys.join(","));
            name.push(']');
        }
        let outputs = self.node.outputs.as_deref().unwrap_or_default();
        if outputs.len() > 1 {
            name.push(':');
            name.push_str(&outputs[usize::from(self.port)].port);
        }
        name.into_boxed_str()
    }
}

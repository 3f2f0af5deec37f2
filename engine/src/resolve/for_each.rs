//! `for_each`: axes and their values, and the instances that their product makes.

use std::collections::BTreeMap;

use crate::diagnostic::Span;
use crate::graph::instance_key;
use crate::resolve::vars::{TextKind, Variables, scalar_text};
use crate::spec::expect;
use crate::spec::findings::Findings;
use crate::spec::yaml::{Entry, Node, Value};

/// The most instances of one node.
const MOST_INSTANCES: usize = 1_000_000;

/// One axis.
#[derive(Debug)]
pub(crate) struct Axis {
    pub(crate) name: String,
    pub(crate) values: Vec<Node>,
    /// The text of each value, as the user sees it.
    pub(crate) texts: Vec<Box<str>>,
    /// `lang=ru` for each value: escaped, as it stands in instance names.
    pub(crate) keys: Vec<Box<str>>,
    /// From the key to the position of the value.
    positions: BTreeMap<Box<str>, u32>,
}

/// The axes of a node. Instances are numbered through their product, the last axis fastest.
#[derive(Debug, Default)]
pub(crate) struct Axes {
    pub(crate) axes: Vec<Axis>,
    /// How far the number of an instance moves with each axis' value.
    pub(crate) strides: Vec<u32>,
    pub(crate) instances: u32,
}

impl Axis {
    /// The position of a value, by its text as written in a reference (escaped or not) or by its
    /// own text.
    pub(crate) fn position(&self, text: &str) -> Option<u32> {
        let as_written = format!("{}={text}", self.name);
        let escaped = || instance_key(&[(&self.name, text)]);
        self.positions
            .get(as_written.as_str())
            .or_else(|| self.positions.get(escaped().as_str()))
            .copied()
    }

    /// The position of a value that another axis has under this key.
    pub(crate) fn position_of_key(&self, key: &str) -> Option<u32> {
        self.positions.get(key).copied()
    }
}

impl Axes {
    /// A node without `for_each`: one instance.
    pub(crate) fn single() -> Axes {
        Axes { axes: Vec::new(), strides: Vec::new(), instances: 1 }
    }

    /// The value position of each axis in an instance.
    pub(crate) fn digits(&self, instance: u32) -> impl Iterator<Item = u32> + '_ {
        self.axes
            .iter()
            .zip(&self.strides)
            .map(move |(axis, stride)| instance / stride % axis.values.len() as u32)
    }
}

/// Reads a node's `for_each`. `None` when it cannot be expanded.
pub(crate) fn axes(
    node: &Node,
    of: &str,
    variables: &mut Variables,
    findings: &mut Findings,
) -> Option<Axes> {
    let errors = findings.errors();
    let resolved = variables.substitute(node, TextKind::Value, &[], findings);
    if resolved.entries().is_empty() && matches!(resolved.value, Value::Map(_) | Value::Null) {
        findings
            .error("empty-for-each", node.span, format!("`for_each` of `{of}` has no axes"))
            .help("write `for_each: {AXIS: [VALUE, ...]}`, or remove it");
        return None;
    }
    let mut axes = Vec::new();
    for entry in expect::map(&resolved, &format!("`for_each` of `{of}`"), findings) {
        axes.extend(axis(entry, of, findings));
    }
    if findings.errors() > errors {
        return None;
    }
    let mut strides = vec![1u32; axes.len()];
    let mut instances = 1usize;
    for (position, axis) in axes.iter().enumerate().rev() {
        strides[position] = instances as u32;
        instances = instances.saturating_mul(axis.values.len());
        if instances > MOST_INSTANCES {
            findings
                .error(
                    "too-large",
                    node.span,
                    format!("`{of}` has more than {MOST_INSTANCES} instances"),
                )
                .help("split the work into fewer, larger instances");
            return None;
        }
    }
    Some(Axes { axes, strides, instances: instances as u32 })
}

fn axis(entry: &Entry, of: &str, findings: &mut Findings) -> Option<Axis> {
    let Entry { key: name, key_span, value } = entry;
    let is_name = expect::identifier(name, "an axis", *key_span, findings);
    let Value::List(items) = &value.value else {
        match &value.value {
            Value::Null => empty(name, of, value.span, findings),
            Value::Invalid => {}
            _ => {
                findings
                    .error(
                        "wrong-type",
                        value.span,
                        format!(
                            "the axis `{name}` must be a list of values, found {}",
                            value.found()
                        ),
                    )
                    .help("write `[a, b, c]`, or a `${vars.NAME}` that is a list");
            }
        }
        return None;
    };
    if items.is_empty() {
        empty(name, of, value.span, findings);
        return None;
    }
    let mut axis = Axis {
        name: name.to_string(),
        values: Vec::with_capacity(items.len()),
        texts: Vec::with_capacity(items.len()),
        keys: Vec::with_capacity(items.len()),
        positions: BTreeMap::new(),
    };
    for item in items {
        let Some(text) = scalar_text(&item.value) else {
            if !matches!(item.value, Value::Invalid) {
                findings
                    .error(
                        "wrong-type",
                        item.span,
                        format!(
                            "a value of the axis `{name}` must be a text or number, found {}",
                            item.found()
                        ),
                    )
                    .help("keep what belongs to a value in `vars`, by its name");
            }
            continue;
        };
        if text.is_empty() {
            findings
                .error("bad-value", item.span, format!("a value of the axis `{name}` is empty"))
                .help("instances are named by their values: give it a name");
            continue;
        }
        let key = instance_key(&[(name, &text)]).into_boxed_str();
        if let Some(earlier) = axis.positions.get(&key) {
            let first = axis.values[*earlier as usize].span;
            findings
                .error(
                    "duplicate-instance",
                    item.span,
                    format!("`{of}` would have two instances `{of}[{}]`", expect::shortened(&key)),
                )
                .related(first, "the same value")
                .help("remove one of the two values");
            continue;
        }
        axis.positions.insert(key.clone(), axis.values.len() as u32);
        axis.values.push(item.clone());
        axis.texts.push(text.into_boxed_str());
        axis.keys.push(key);
    }
    is_name.then_some(axis)
}

fn empty(axis: &str, of: &str, at: Span, findings: &mut Findings) {
    findings
        .error("empty-for-each", at, format!("the axis `{axis}` of `{of}` has no values"))
        .help("an axis without values makes no instances: give it some, or remove the node");
}

//! `${vars.x}`, `${each.axis}`, and `${vars.x[each.axis]}`, which is what the mapping `x` has for the value of the axis.
//!
//! A scalar that is one reference and nothing else takes the value with its type; a reference
//! within a text is written out. `$${` stands for `${`. A script belongs to the shell: there, only
//! `${vars.` and `${each.` are ours and every other `${` is left alone.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::diagnostic::Span;
use crate::spec::expect::shortened;
use crate::spec::findings::Findings;
use crate::spec::yaml::{DEEPEST, Entry, Node, Value};
use crate::suggest;

/// The longest chain of variables that refer to each other.
const LONGEST_CHAIN: usize = 64;
/// The most values that references among variables may make.
const MOST_VALUES: usize = 1_000_000;
/// The longest text that references may make, bytes.
const LONGEST_TEXT: usize = 1 << 20;

/// Who reads a text after its references are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TextKind {
    /// okapi: every `${` is a reference.
    Value,
    /// The shell: a `${` that is not ours is left alone.
    Script,
}

/// The value of an axis in an instance.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AxisValue<'a> {
    pub(crate) axis: &'a str,
    pub(crate) value: &'a Node,
}

/// The variables of a pipeline. References among them are followed on demand and remembered.
#[derive(Debug)]
pub(crate) struct Variables {
    tree: Rc<Node>,
    /// By path as written; `None` where a mistake is reported already.
    resolved: BTreeMap<String, Option<Rc<Node>>>,
    /// Paths being resolved, outermost first: a path that comes up again closes a circle.
    chain: Vec<String>,
    /// What references among variables have made so far.
    made: usize,
    /// What references in the field at hand have made so far.
    made_here: usize,
    /// Set once a limit is passed, so that nothing more is expanded.
    exhausted: bool,
}

/// One step of a path.
#[derive(Debug, Clone, PartialEq)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl Variables {
    pub(crate) fn new(tree: Node) -> Variables {
        Variables {
            tree: Rc::new(tree),
            resolved: BTreeMap::new(),
            chain: Vec::new(),
            made: 0,
            made_here: 0,
            exhausted: false,
        }
    }

    /// Resolves every variable, so that mistakes in unused ones are reported too.
    pub(crate) fn resolve_all(&mut self, findings: &mut Findings) {
        let tree = Rc::clone(&self.tree);
        for Entry { key, key_span, .. } in tree.entries() {
            if crate::spec::expect::name(key, "variable", *key_span, findings) {
                self.lookup(key, *key_span, findings);
            }
        }
    }

    /// `node` with every reference replaced.
    pub(crate) fn substitute<'n>(
        &mut self,
        node: &'n Node,
        kind: TextKind,
        each: &[AxisValue<'_>],
        findings: &mut Findings,
    ) -> Cow<'n, Node> {
        if !has_reference(node) {
            return Cow::Borrowed(node);
        }
        self.made_here = 0;
        Cow::Owned(self.replaced(node, kind, each, findings))
    }

    /// Counts what a reference makes; `false`, and reported, beyond the limit. Without this, a
    /// handful of lists that repeat each other ten times would fill the memory.
    fn afford(&mut self, cost: usize, at: Span, findings: &mut Findings) -> bool {
        let made = if self.chain.is_empty() { &mut self.made_here } else { &mut self.made };
        *made += cost;
        if *made <= MOST_VALUES && !self.exhausted {
            return true;
        }
        if !self.exhausted {
            findings
                .error(
                    "too-large",
                    at,
                    format!("references expand to more than {MOST_VALUES} values"),
                )
                .help("variables that repeat each other grow fast: repeat less");
        }
        self.exhausted = true;
        false
    }

    fn replaced(
        &mut self,
        node: &Node,
        kind: TextKind,
        each: &[AxisValue<'_>],
        findings: &mut Findings,
    ) -> Node {
        let value = match &node.value {
            Value::Text(text) if text.contains("${") => {
                return self.text(text, node.span, kind, each, findings);
            }
            Value::List(items) => Value::List(
                items.iter().map(|item| self.replaced(item, kind, each, findings)).collect(),
            ),
            Value::Map(entries) => Value::Map(
                entries
                    .iter()
                    .map(|entry| Entry {
                        key: entry.key.clone(),
                        key_span: entry.key_span,
                        value: self.replaced(&entry.value, kind, each, findings),
                    })
                    .collect(),
            ),
            other => other.clone(),
        };
        Node { span: node.span, value }
    }

    /// Replaces the references in one text.
    pub(crate) fn text(
        &mut self,
        text: &str,
        at: Span,
        kind: TextKind,
        each: &[AxisValue<'_>],
        findings: &mut Findings,
    ) -> Node {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        let mut invalid = false;
        while let Some(dollar) = rest.find("${") {
            let inner = &rest[dollar + 2..];
            let ours = inner.starts_with("vars.") || inner.starts_with("each.");
            let escaped = rest[..dollar].ends_with('$');
            if kind == TextKind::Script && !ours {
                out.push_str(&rest[..dollar + 2]);
                rest = inner;
                continue;
            }
            if escaped {
                out.push_str(&rest[..dollar - 1]);
                out.push_str("${");
                rest = inner;
                continue;
            }
            let Some(close) = inner.find('}') else {
                findings
                    .error("bad-reference", at, format!("`${{{}` is not closed", shortened(inner)))
                    .help("close it with `}`, or write `$${` for a literal `${`");
                return Node { span: at, value: Value::Invalid };
            };
            let reference = &inner[..close];
            let Some(value) = self.reference(reference, at, each, findings) else {
                invalid = true;
                rest = &inner[close + 1..];
                continue;
            };
            if dollar == 0 && close + 1 == inner.len() && rest.len() == text.len() {
                let (values, height) = extent(&value);
                // The depth of what is made stays within what the rest of the program recurses.
                let cost = if height > DEEPEST / 2 { MOST_VALUES + 1 } else { values };
                if !self.afford(cost, at, findings) {
                    return Node { span: at, value: Value::Invalid };
                }
                return Node { span: at, value: value.value.clone() };
            }
            out.push_str(&rest[..dollar]);
            if !push_scalar(&mut out, &value.value) {
                if !matches!(value.value, Value::Invalid) {
                    findings
                        .error(
                            "wrong-type",
                            at,
                            format!(
                                "`${{{reference}}}` is {}, which cannot stand within a text",
                                value.found()
                            ),
                        )
                        .related(value.span, "its value")
                        .help("refer to one of its values, or make the reference the whole value");
                }
                invalid = true;
            }
            if out.len() > LONGEST_TEXT {
                findings
                    .error("too-large", at, format!("the text has more than {LONGEST_TEXT} bytes"))
                    .help("keep long texts in a file of the project");
                return Node { span: at, value: Value::Invalid };
            }
            rest = &inner[close + 1..];
        }
        out.push_str(rest);
        invalid |= !self.afford(1 + out.len() / 64, at, findings);
        let value = if invalid { Value::Invalid } else { Value::Text(Rc::from(out)) };
        Node { span: at, value }
    }

    fn reference(
        &mut self,
        reference: &str,
        at: Span,
        each: &[AxisValue<'_>],
        findings: &mut Findings,
    ) -> Option<Rc<Node>> {
        if let Some(path) = reference.strip_prefix("vars.") {
            return match path.split_once("[each.") {
                None => self.lookup(path, at, findings),
                Some((path, rest)) => self.of_axis(path, rest, at, each, findings),
            };
        }
        if let Some(axis) = reference.strip_prefix("each.") {
            if let Some(found) = each.iter().find(|value| value.axis == axis) {
                return Some(Rc::new(found.value.clone()));
            }
            let finding = findings.error(
                "unknown-axis",
                at,
                format!("`${{{}}}` names an axis that is not there", shortened(reference)),
            );
            if each.is_empty() {
                finding.help(
                    "`${each.AXIS}` has a value only in a node with `for_each: {AXIS: [...]}`",
                );
            } else {
                finding.hint(suggest::hint(
                    axis,
                    "axes of this node",
                    each.iter().map(|value| value.axis),
                ));
            }
            return None;
        }
        let known =
            suggest::nearest(reference, self.tree.entries().iter().map(|entry| &*entry.key));
        let hint = match known {
            Some(name) => format!("did you mean `${{vars.{name}}}`?"),
            None => {
                "write `${vars.NAME}` or `${each.AXIS}`; `$${` stands for a literal `${`".to_owned()
            }
        };
        findings
            .error(
                "bad-reference",
                at,
                format!("`${{{}}}` refers to nothing", shortened(reference)),
            )
            .hint(hint);
        None
    }

    /// `path[each.rest`: what a mapping has for the value of an axis, or a part of that.
    fn of_axis(
        &mut self,
        path: &str,
        rest: &str,
        at: Span,
        each: &[AxisValue<'_>],
        findings: &mut Findings,
    ) -> Option<Rc<Node>> {
        let Some((axis, rest)) = rest.split_once(']') else {
            let written = format!("{path}[each.{rest}");
            findings
                .error(
                    "bad-reference",
                    at,
                    format!("`vars.{}` cannot be read", shortened(&written)),
                )
                .help("what a mapping has for the value of an axis is `${vars.NAME[each.AXIS]}`");
            return None;
        };
        let value = self.reference(&format!("each.{axis}"), at, each, findings)?;
        let mut found = self.lookup(path, at, findings)?;
        let mut name = path.to_owned();
        let first = scalar_text(&value.value)?;
        let others = rest.strip_prefix('.').into_iter().flat_map(|rest| rest.split('.'));
        for key in std::iter::once(first.as_str()).chain(others) {
            let Some(next) = found.get(key) else {
                let names = found.entries().iter().map(|entry| &*entry.key);
                let message =
                    format!("`vars.{}` has nothing for `{}`", shortened(&name), shortened(key));
                let hint = suggest::hint(key, "it has", names);
                findings.error("unknown-variable", at, message).hint(hint);
                return None;
            };
            found = Rc::new(next.clone());
            name = format!("{name}.{key}");
        }
        Some(found)
    }

    fn lookup(&mut self, path: &str, at: Span, findings: &mut Findings) -> Option<Rc<Node>> {
        if let Some(known) = self.resolved.get(path) {
            return known.clone();
        }
        if self.exhausted {
            return None;
        }
        if let Some(start) = self.chain.iter().position(|open| open == path) {
            let circle: Vec<&str> =
                self.chain[start..].iter().map(String::as_str).chain([path]).collect();
            findings
                .error(
                    "variable-cycle",
                    at,
                    format!("variables refer to each other: {}", circle.join(" -> ")),
                )
                .help("give one of them a value of its own");
            self.resolved.insert(path.to_owned(), None);
            return None;
        }
        if self.chain.len() >= LONGEST_CHAIN {
            findings
                .error(
                    "too-large",
                    at,
                    format!("variables refer to each other more than {LONGEST_CHAIN} deep"),
                )
                .help("shorten the chain of references");
            self.exhausted = true;
            return None;
        }
        let Some(steps) = steps(path) else {
            findings
                .error("bad-reference", at, format!("`vars.{}` cannot be read", shortened(path)))
                .help("a reference is `${vars.NAME}`, `${vars.NAME.KEY}`, `${vars.NAME[0]}` or `${vars.NAME[each.AXIS]}`");
            return None;
        };
        self.chain.push(path.to_owned());
        let found = self.walk(&steps, path, at, findings);
        self.chain.pop();
        let found = found.filter(|node| !matches!(node.value, Value::Invalid)).map(Rc::new);
        // A member of a circle may have failed only because of where the circle was entered, but
        // it is part of the mistake all the same.
        self.resolved.entry(path.to_owned()).or_insert(found).clone()
    }

    /// Follows `steps` from the root of the variables and resolves what is there.
    fn walk(
        &mut self,
        steps: &[Step<'_>],
        path: &str,
        at: Span,
        findings: &mut Findings,
    ) -> Option<Node> {
        let tree = Rc::clone(&self.tree);
        let mut node = Cow::Borrowed(&*tree);
        for (depth, step) in steps.iter().enumerate() {
            if let Value::Text(text) = &node.value
                && text.starts_with("${")
            {
                let text = text.clone();
                node = Cow::Owned(self.text(&text, node.span, TextKind::Value, &[], findings));
                if matches!(node.value, Value::Invalid) {
                    return None;
                }
            }
            let next = match (step, &node.value) {
                (Step::Key(key), Value::Map(_)) => node.get(key).cloned(),
                (Step::Index(index), Value::List(items)) => items.get(*index).cloned(),
                _ => None,
            };
            let Some(next) = next else {
                self.report_unknown(&node, step, depth, path, at, findings);
                return None;
            };
            node = Cow::Owned(next);
        }
        Some(self.replaced(&node, TextKind::Value, &[], findings))
    }

    fn report_unknown(
        &self,
        node: &Node,
        step: &Step<'_>,
        depth: usize,
        path: &str,
        at: Span,
        findings: &mut Findings,
    ) {
        let message = format!("there is no variable `{}`", shortened(path));
        let hint = match (step, &node.value) {
            (Step::Key(key), Value::Map(entries)) => {
                let names = entries.iter().map(|entry| &*entry.key);
                match suggest::nearest(key, names.clone()) {
                    Some(near) if depth == 0 => Some(format!("did you mean `${{vars.{near}}}`?")),
                    Some(near) => Some(format!("did you mean `{near}`?")),
                    None if entries.is_empty() => Some("the file has no `vars`".to_owned()),
                    None => suggest::hint(key, "there are", names),
                }
            }
            (Step::Index(_), Value::List(items)) => {
                Some(format!("the list has {} values, counted from 0", items.len()))
            }
            (Step::Key(key), _) => Some(format!("`{key}` is asked of {}", node.found())),
            (Step::Index(index), _) => Some(format!("`[{index}]` is asked of {}", node.found())),
        };
        findings.error("unknown-variable", at, message).hint(hint);
    }
}

/// Whether anything in the tree needs replacing.
pub(crate) fn has_reference(node: &Node) -> bool {
    match &node.value {
        Value::Text(text) => text.contains("${"),
        Value::List(items) => items.iter().any(has_reference),
        Value::Map(entries) => entries.iter().any(|entry| has_reference(&entry.value)),
        _ => false,
    }
}

/// A tree whose values all lie at `at`, as those of a command-line argument do.
pub(crate) fn spans_set_to(node: Node, at: Span) -> Node {
    let value = match node.value {
        Value::List(items) => {
            Value::List(items.into_iter().map(|item| spans_set_to(item, at)).collect())
        }
        Value::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|entry| Entry { key_span: at, value: spans_set_to(entry.value, at), ..entry })
                .collect(),
        ),
        other => other,
    };
    Node { span: at, value }
}

/// How many values a tree has, and how deep it is.
fn extent(node: &Node) -> (usize, usize) {
    let children: &mut dyn Iterator<Item = &Node> = match &node.value {
        Value::List(items) => &mut items.iter(),
        Value::Map(entries) => &mut entries.iter().map(|entry| &entry.value),
        _ => return (1, 1),
    };
    let (mut values, mut height) = (1, 0);
    for child in children {
        let below = extent(child);
        values += below.0;
        height = height.max(below.1);
    }
    (values, height + 1)
}

/// `a.b[0].c` as steps.
fn steps(path: &str) -> Option<Vec<Step<'_>>> {
    let mut steps = Vec::new();
    for part in path.split('.') {
        let (key, indices) = match part.find('[') {
            Some(bracket) => part.split_at(bracket),
            None => (part, ""),
        };
        if key.is_empty()
            || !key.chars().all(|other| other.is_ascii_alphanumeric() || matches!(other, '_' | '-'))
        {
            return None;
        }
        steps.push(Step::Key(key));
        let mut rest = indices;
        while !rest.is_empty() {
            let (index, after) = rest.strip_prefix('[')?.split_once(']')?;
            steps.push(Step::Index(index.parse().ok()?));
            rest = after;
        }
    }
    Some(steps)
}

/// Writes a scalar into a text. `false` if the value is none, or nothing.
fn push_scalar(text: &mut String, value: &Value) -> bool {
    use std::fmt::Write as _;
    let written = match value {
        Value::Bool(value) => write!(text, "{value}"),
        Value::Int(value) => write!(text, "{value}"),
        Value::Float(value) => write!(text, "{value:?}"),
        Value::Text(value) => {
            text.push_str(value);
            Ok(())
        }
        _ => return false,
    };
    written.is_ok()
}

/// The text of an axis value.
pub(crate) fn scalar_text(value: &Value) -> Option<String> {
    let mut text = String::new();
    push_scalar(&mut text, value).then_some(text)
}

//! Reading typed values out of the tree, and saying what is wrong with those that do not fit.

use crate::diagnostic::{Diagnostic, Span};
use crate::spec::yaml::{Key, Node, Value};
use crate::suggest::did_you_mean;

/// The entries of a mapping; reports anything else. Nothing (`null`) counts as an empty mapping.
pub fn map<'a>(node: &'a Node, what: &str, diagnostics: &mut Vec<Diagnostic>) -> &'a [(Key, Node)] {
    match &node.value {
        Value::Map(entries) => entries,
        Value::Null => &[],
        _ => {
            diagnostics.push(wrong_type(node, what, "a mapping"));
            &[]
        }
    }
}

/// The items of a list; reports anything else.
pub fn list<'a>(node: &'a Node, what: &str, diagnostics: &mut Vec<Diagnostic>) -> &'a [Node] {
    match &node.value {
        Value::List(items) => items,
        _ => {
            diagnostics.push(wrong_type(node, what, "a list").with_hint(
                matches!(node.value, Value::String(_)).then(|| "write it as `[...]`".to_owned()),
            ));
            &[]
        }
    }
}

/// A text; reports anything else.
pub fn string<'a>(node: &'a Node, what: &str, diagnostics: &mut Vec<Diagnostic>) -> Option<&'a str> {
    match &node.value {
        Value::String(text) => Some(text),
        _ => {
            let quoted = matches!(node.value, Value::Bool(_) | Value::Int(_) | Value::Float(_));
            diagnostics.push(
                wrong_type(node, what, "a text")
                    .with_hint(quoted.then(|| "quote it if it is meant as text".to_owned())),
            );
            None
        }
    }
}

/// A whole number within bounds; reports anything else.
pub fn integer(
    node: &Node,
    what: &str,
    min: i64,
    max: i64,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<i64> {
    match node.value {
        Value::Int(number) if (min..=max).contains(&number) => Some(number),
        Value::Int(number) => {
            let bounds = if max == i64::MAX {
                format!("at least {min}")
            } else {
                format!("from {min} to {max}")
            };
            let message = format!("{what} must be {bounds}, not {number}");
            diagnostics.push(Diagnostic::error("out-of-range", node.span, message));
            None
        }
        _ => {
            diagnostics.push(wrong_type(node, what, "a whole number"));
            None
        }
    }
}

/// The diagnostic for a value of the wrong type.
pub fn wrong_type(node: &Node, what: &str, wanted: &str) -> Diagnostic {
    let message = format!("{what} must be {wanted}, not {}", node.describe());
    Diagnostic::error("wrong-type", node.span, message)
}

/// Reports every key that is not known.
pub fn only_keys(
    entries: &[(Key, Node)],
    what: &str,
    known: &[&str],
    diagnostics: &mut Vec<Diagnostic>,
) {
    for (key, _) in entries {
        if !known.contains(&&*key.text) {
            let message = format!("{what} has no key `{}`", key.text);
            let hint = did_you_mean(&key.text, known)
                .unwrap_or_else(|| format!("it has: {}", known.join(", ")));
            diagnostics.push(Diagnostic::error("unknown-key", key.span, message).with_hint(hint));
        }
    }
}

/// Reports a key that is not there.
pub fn missing_key(span: Span, what: &str, key: &str) -> Diagnostic {
    Diagnostic::error("missing-key", span, format!("{what} has no `{key}`"))
}

/// Whether a name may be used for nodes, ports, axes and variables: it becomes part of file names,
/// of references (`node[axis=value]:port`) and of environment variables.
pub fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
        && name.len() <= 100
}

/// Reports a name that cannot be one.
pub fn check_name(key: &Key, what: &str, diagnostics: &mut Vec<Diagnostic>) -> bool {
    let good = is_name(&key.text);
    if !good {
        let message = format!("`{}` cannot be the name of {what}", key.text);
        diagnostics.push(Diagnostic::error("bad-name", key.span, message).with_hint(
            "a name is up to 100 letters, digits, `_` and `-`, and begins with a letter".to_owned(),
        ));
    }
    good
}

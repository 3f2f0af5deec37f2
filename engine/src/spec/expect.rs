//! Typed reading of values: each function says what was found and what was wanted.

use std::rc::Rc;

use crate::diagnostic::Span;
use crate::spec::findings::Findings;
use crate::spec::yaml::{Entry, Node, Value};
use crate::suggest;

/// Reports a value of the wrong type. Silent about values that are reported already.
pub(crate) fn wrong_type(node: &Node, what: &str, wanted: &str, findings: &mut Findings) {
    if matches!(node.value, Value::Invalid) {
        return;
    }
    findings.error(
        "wrong-type",
        node.span,
        format!("{what} must be {wanted}, found {}", node.found()),
    );
}

pub(crate) fn text(node: &Node, what: &str, findings: &mut Findings) -> Option<Rc<str>> {
    match &node.value {
        Value::Text(text) => Some(text.clone()),
        Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
            findings
                .error(
                    "wrong-type",
                    node.span,
                    format!("{what} must be a text, found {}", node.found()),
                )
                .help("write it in quotes");
            None
        }
        _ => {
            wrong_type(node, what, "a text", findings);
            None
        }
    }
}

/// A text, or a scalar that has only one way to be written as text.
pub(crate) fn text_like(node: &Node, what: &str, findings: &mut Findings) -> Option<Rc<str>> {
    match &node.value {
        Value::Int(value) => Some(Rc::from(value.to_string())),
        Value::Bool(value) => Some(Rc::from(value.to_string())),
        _ => text(node, what, findings),
    }
}

pub(crate) fn map<'a>(node: &'a Node, what: &str, findings: &mut Findings) -> &'a [Entry] {
    match &node.value {
        Value::Map(entries) => entries,
        // `nodes:` with nothing below is a mapping without entries.
        Value::Null => &[],
        _ => {
            wrong_type(node, what, "a mapping", findings);
            &[]
        }
    }
}

pub(crate) fn list<'a>(node: &'a Node, what: &str, findings: &mut Findings) -> &'a [Node] {
    match &node.value {
        Value::List(items) => items,
        Value::Null => &[],
        _ => {
            wrong_type(node, what, "a list", findings);
            &[]
        }
    }
}

pub(crate) fn whole(
    node: &Node,
    what: &str,
    (min, max): (i64, i64),
    findings: &mut Findings,
) -> Option<i64> {
    match node.value {
        Value::Int(value) if (min..=max).contains(&value) => Some(value),
        Value::Int(value) => {
            findings
                .error("bad-value", node.span, format!("{what} is {value}, out of bounds"))
                .hint(bounds(min, max));
            None
        }
        Value::Float(value) if value.fract() == 0.0 => {
            findings
                .error(
                    "wrong-type",
                    node.span,
                    format!("{what} must be a whole number, found {value:?}"),
                )
                .hint(format!("write `{value:.0}`"));
            None
        }
        _ => {
            wrong_type(node, what, "a whole number", findings);
            None
        }
    }
}

/// "at least 1", or "from 1 to 5".
fn bounds(min: i64, max: i64) -> String {
    if max == i64::MAX {
        format!("it must be at least {min}")
    } else {
        format!("it must be from {min} to {max}")
    }
}

pub(crate) fn boolean(node: &Node, what: &str, findings: &mut Findings) -> Option<bool> {
    match &node.value {
        Value::Bool(value) => Some(*value),
        Value::Text(word) => {
            let meant = match word.to_ascii_lowercase().as_str() {
                "yes" | "on" | "y" => Some("true"),
                "no" | "off" | "n" => Some("false"),
                _ => None,
            };
            let finding = findings.error(
                "wrong-type",
                node.span,
                format!("{what} must be `true` or `false`, found {}", node.found()),
            );
            if let Some(meant) = meant {
                finding.hint(format!(
                    "`{word}` is text in YAML 1.2 (it may be a language code): write `{meant}`"
                ));
            }
            None
        }
        _ => {
            wrong_type(node, what, "`true` or `false`", findings);
            None
        }
    }
}

/// Reports the keys of a mapping that have no meaning.
pub(crate) fn known_keys(entries: &[Entry], place: &str, known: &[&str], findings: &mut Findings) {
    for entry in entries {
        if !known.contains(&&*entry.key) {
            findings
                .error(
                    "unknown-key",
                    entry.key_span,
                    format!("unknown key `{}` in {place}", entry.key),
                )
                .hint(suggest::hint(&entry.key, "known keys", known.iter().copied()));
        }
    }
}

/// Names of nodes, vars, teachers and profiles: letters, digits, `_` and `-`, no digit or `-` first.
pub(crate) fn name(text: &str, what: &str, at: Span, findings: &mut Findings) -> bool {
    let good = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text.chars().all(|other| other.is_ascii_alphanumeric() || matches!(other, '_' | '-'))
        && text.len() <= 100;
    if !good {
        findings
            .error("bad-name", at, format!("`{}` is no name for a {what}", shortened(text)))
            .help(
                "a name has up to 100 letters a-z, digits, `_` and `-`, and begins with a letter",
            );
    }
    good
}

/// Names of ports, prompts and axes, which become names of variables: `[a-z][a-z0-9_]*`.
pub(crate) fn identifier(text: &str, what: &str, at: Span, findings: &mut Findings) -> bool {
    let good = text.starts_with(|first: char| first.is_ascii_lowercase())
        && text
            .chars()
            .all(|other| other.is_ascii_lowercase() || other.is_ascii_digit() || other == '_')
        && text.len() <= 64;
    if !good {
        findings
            .error("bad-name", at, format!("`{}` is no name for {what}", shortened(text)))
            .help("it has up to 64 small letters, digits and `_`, and begins with a letter");
    }
    good
}

/// A text that is fit for a message.
pub(crate) fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    let mut line: String =
        text.chars().take(MOST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().count() > MOST {
        line.push_str("...");
    }
    line
}

//! YAML text into a tree in which every key and value knows its place in the text.
//!
//! The YAML crate parses; what a plain scalar means is decided here, from its text, by the core
//! schema of YAML 1.2 and without the traps of its predecessors: `no`, `yes`, `on`, `off` are words,
//! and what looks like a number of another notation (`010`, `0x1F`, `1_000`) stays text, with a
//! warning.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::options::DuplicateKeyPolicy;
use serde_yaml::{Options, Spanned};

use crate::diagnostic::{Diagnostic, Span};

/// A value and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it stands.
    pub span: Span,
    /// What it is.
    pub value: Value,
}

/// A YAML value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a point or an exponent.
    Float(f64),
    /// Text.
    String(Box<str>),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the text; keys are unique.
    Map(Vec<(Key, Node)>),
}

/// A mapping's key and its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// Where it stands.
    pub span: Span,
    /// Its text.
    pub text: Box<str>,
}

impl Node {
    /// The value of a key, if this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => {
                entries.iter().find(|(it, _)| &*it.text == key).map(|(_, node)| node)
            }
            _ => None,
        }
    }

    /// What this is, for messages: "a number", "text".
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => format!("`{value}`"),
            Value::Int(value) => format!("the number {value}"),
            Value::Float(value) => format!("the number {value:?}"),
            Value::String(text) if text.chars().count() > 40 || text.contains('\n') => {
                "a text".to_owned()
            }
            Value::String(text) => format!("the text `{text}`"),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }
}

/// Parses a whole pipeline file.
///
/// # Errors
/// The one syntax error that ended the parse; nothing else can be said of such a text.
pub fn parse(text: &str, diagnostics: &mut Vec<Diagnostic>) -> Result<Node, Box<Diagnostic>> {
    if text.len() >= u32::MAX as usize {
        let message = "the file is larger than 4 GiB";
        return Err(Box::new(Diagnostic::error("too-large", Span::default(), message)));
    }
    parse_with(text, &mut |span| span, diagnostics)
}

/// Parses the value of a `--set` argument.
///
/// # Errors
/// The syntax error.
pub fn parse_argument(
    text: &str,
    index: usize,
    diagnostics: &mut Vec<Diagnostic>,
) -> Result<Node, Box<Diagnostic>> {
    parse_with(text, &mut |_| Span::of_argument(index), diagnostics)
}

fn parse_with(
    text: &str,
    place: &mut dyn FnMut(Span) -> Span,
    diagnostics: &mut Vec<Diagnostic>,
) -> Result<Node, Box<Diagnostic>> {
    // The budget bounds memory and time for hostile texts; a pipeline of 100,000 nodes fits easily.
    let options = serde_yaml::options! {
        strict_booleans: true,
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        budget: serde_yaml::budget! {
            max_events: 60_000_000,
            max_nodes: 30_000_000,
            max_depth: 64,
            max_total_scalar_bytes: 1 << 30,
        },
    };
    let raw = from_text(text, options)
        .map_err(|error| Box::new(syntax_error(text, &error, place)))?;
    Ok(Builder { text, place, diagnostics }.node(raw))
}

fn from_text(text: &str, options: Options) -> Result<Spanned<Raw>, serde_yaml::Error> {
    serde_yaml::from_str_with_options(text, options)
}

fn syntax_error(
    text: &str,
    error: &serde_yaml::Error,
    place: &mut dyn FnMut(Span) -> Span,
) -> Diagnostic {
    let start = error.location().map_or(0, |location| {
        byte_offset(text, location.line() as usize, location.column() as usize)
    });
    let message = error.without_snippet().to_string();
    // The crate's own "line L column C:" is said by the place already.
    let message = match message.split_once(": ") {
        Some((head, rest)) if head.contains("line ") => rest,
        _ => &message,
    };
    let message = message.lines().next().unwrap_or("not valid YAML").to_owned();
    let tab = text.get(..start).is_some_and(|before| {
        let line = before.rsplit('\n').next().unwrap_or_default();
        line.trim_matches([' ', '\t']).is_empty() && text[start..].starts_with('\t') || line.ends_with('\t')
    });
    let multiple = message.contains("multiple YAML documents");
    let hint = if tab {
        Some("indent with blanks: YAML allows no tabs there".to_owned())
    } else if multiple {
        Some("a pipeline is one document: remove the `---`".to_owned())
    } else {
        None
    };
    let message =
        if multiple { "the file holds more than one document".to_owned() } else { message };
    let span = place(Span { start: start as u32, end: (start + 1).min(text.len().max(1)) as u32 });
    Diagnostic::error("yaml-syntax", span, message).with_hint(hint)
}

/// The byte offset of a line and a column, both from 1, the column in characters.
fn byte_offset(text: &str, line: usize, column: usize) -> usize {
    let mut start = 0;
    for _ in 1..line {
        match text[start..].find('\n') {
            Some(newline) => start += newline + 1,
            None => return text.len(),
        }
    }
    let rest = &text[start..];
    start + rest.char_indices().nth(column.saturating_sub(1)).map_or(rest.len(), |(at, _)| at)
}

/// What the YAML crate hands over, before plain scalars are given their meaning.
enum Raw {
    /// A scalar that the crate takes for text: quoted, a block, or a plain word.
    Text(Box<str>),
    /// A scalar that the crate takes for something else: always a plain one.
    Plain,
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<Raw>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.into()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Plain)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

struct Builder<'a> {
    text: &'a str,
    place: &'a mut dyn FnMut(Span) -> Span,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl Builder<'_> {
    /// The nesting is bounded by the budget, and so is this recursion.
    fn node(&mut self, raw: Spanned<Raw>) -> Node {
        let span = self.span(&raw.referenced);
        let value = match raw.value {
            Raw::Text(text) => {
                // A plain word may still be a number in disguise.
                let plain = self.source(&raw.defined);
                if plain == Some(&*text) { self.plain(&text, span) } else { Value::String(text) }
            }
            Raw::Plain => match self.source(&raw.defined).map(str::to_owned) {
                Some(text) => self.plain(&text, span),
                None => Value::Null,
            },
            Raw::List(items) => Value::List(items.into_iter().map(|item| self.node(item)).collect()),
            Raw::Map(entries) => Value::Map(self.map(entries)),
        };
        Node { span, value }
    }

    fn map(&mut self, raw: Vec<(Spanned<Raw>, Spanned<Raw>)>) -> Vec<(Key, Node)> {
        let mut entries: Vec<(Key, Node)> = Vec::with_capacity(raw.len());
        let mut seen: BTreeMap<Box<str>, Span> = BTreeMap::new();
        for (raw_key, raw_value) in raw {
            let span = self.span(&raw_key.referenced);
            let merged = raw_key.referenced != raw_key.defined;
            let text = match raw_key.value {
                Raw::Text(text) => text,
                Raw::Plain => self.source(&raw_key.defined).unwrap_or_default().into(),
                Raw::List(_) | Raw::Map(_) => {
                    let message = "a key must be a word, not a list or a mapping";
                    self.diagnostics.push(Diagnostic::error("yaml-key", span, message));
                    continue;
                }
            };
            if let Some(first) = seen.get(&text) {
                // What a merge (`<<`) brings yields to what is written out.
                if !merged {
                    let message = format!("the key `{text}` is given twice");
                    self.diagnostics.push(
                        Diagnostic::error("duplicate-key", span, message)
                            .with_related(*first, "first given here"),
                    );
                }
                continue;
            }
            seen.insert(text.clone(), span);
            let value = self.node(raw_value);
            entries.push((Key { span, text }, value));
        }
        entries
    }

    /// The meaning of a plain scalar, by the core schema.
    fn plain(&mut self, text: &str, span: Span) -> Value {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
            "true" | "True" | "TRUE" => return Value::Bool(true),
            "false" | "False" | "FALSE" => return Value::Bool(false),
            _ => {}
        }
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        let starts_like_a_number = digits.starts_with(|first: char| first.is_ascii_digit() || first == '.');
        if !starts_like_a_number {
            return Value::String(text.into());
        }
        let whole = digits.bytes().all(|byte| byte.is_ascii_digit());
        if whole && (digits == "0" || !digits.starts_with('0')) {
            if let Ok(number) = text.parse() {
                return Value::Int(number);
            }
        } else if !whole && is_float(digits) {
            if let Ok(number) = text.parse::<f64>()
                && number.is_finite()
            {
                return Value::Float(number);
            }
        } else if let Some(what) = number_in_disguise(digits) {
            let message = format!("`{text}` is taken as text: it looks like {what}");
            self.diagnostics.push(
                Diagnostic::warning("number-like-text", span, message)
                    .with_hint("quote it if it is text; write a plain decimal number if it is one".to_owned()),
            );
        }
        Value::String(text.into())
    }

    fn span(&mut self, location: &serde_yaml::Location) -> Span {
        let span = location.span();
        let start = span.byte_offset().unwrap_or(0) as u32;
        let end = start.saturating_add(span.byte_len().unwrap_or(0) as u32);
        (self.place)(Span { start, end })
    }

    fn source(&self, location: &serde_yaml::Location) -> Option<&str> {
        let span = location.span();
        let start = span.byte_offset()? as usize;
        self.text.get(start..start + span.byte_len()? as usize)
    }
}

/// `1.5`, `.5`, `1.`, `1e3`, `2.0e-5`.
fn is_float(digits: &str) -> bool {
    let (mantissa, exponent) = match digits.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (digits, None),
    };
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let exponent_is_good = exponent.is_none_or(|exponent| {
        let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !exponent.is_empty() && all_digits(exponent)
    });
    let mantissa_is_good = match mantissa.split_once('.') {
        Some((whole, part)) => all_digits(whole) && all_digits(part) && whole.len() + part.len() > 0,
        None => !mantissa.is_empty() && all_digits(mantissa),
    };
    exponent_is_good && mantissa_is_good
}

/// What a text looks like that YAML 1.1, or another language, would take for a number.
fn number_in_disguise(digits: &str) -> Option<&'static str> {
    let rest = digits.get(1..).unwrap_or_default();
    if digits.len() > 1 && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return digits.starts_with('0').then_some("an octal number");
    }
    let radix = |prefix: &str, what| {
        let body = rest.strip_prefix(prefix)?;
        (!body.is_empty() && body.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(what)
    };
    if digits.starts_with('0') {
        let disguise = radix("o", "an octal number")
            .or_else(|| radix("x", "a hexadecimal number"))
            .or_else(|| radix("b", "a binary number"));
        if disguise.is_some() {
            return disguise;
        }
    }
    let underscored = digits.contains('_')
        && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_')
        && !digits.ends_with('_');
    underscored.then_some("a number with separators")
}

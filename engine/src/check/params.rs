//! `params:` -> typed JSON, by the stage's descriptor.

use serde_json::{Map, Number, Value as Json};

use crate::check::paths::Sources;
use crate::diagnostic::Span;
use crate::graph::SourceId;
use crate::port::PortKind;
use crate::spec::expect;
use crate::spec::findings::Findings;
use crate::spec::yaml::{Entry, Node, Value};
use crate::stage::{Param, ParamDefault, ParamType};
use crate::suggest;

/// The params of an instance, or of a teacher.
#[derive(Debug, Default)]
pub(crate) struct Params {
    /// Those that are part of the identity, defaults filled in.
    pub(crate) declared: Map<String, Json>,
    /// The others.
    pub(crate) settings: Map<String, Json>,
}

/// Where files that params name are tracked.
pub(crate) struct Tracked<'s, 'a> {
    pub(crate) sources: &'s mut Sources<'a>,
    pub(crate) files: Vec<SourceId>,
}

/// Whose params are read, in the words of its diagnostics.
pub(crate) struct Owner<'a> {
    /// "node `x`" or "teacher `x`".
    pub(crate) name: String,
    /// Where it is defined.
    pub(crate) at: Span,
    /// "stage `translate`" or "kind `openai`".
    pub(crate) kind: String,
    /// What `okapi stages` calls it.
    pub(crate) page: &'a str,
    /// The key that the params stand under, if they have one of their own.
    pub(crate) under: Option<&'a str>,
    /// What it takes.
    pub(crate) params: &'a [Param],
}

/// Reads params, of which those that are `entries` are given.
pub(crate) fn read(
    entries: &[&Entry],
    owner: &Owner<'_>,
    tracked: &mut Tracked<'_, '_>,
    findings: &mut Findings,
) -> Params {
    let mut params = Params::default();
    for entry in entries {
        if !owner.params.iter().any(|param| param.name == &*entry.key) {
            let names = owner.params.iter().map(|param| param.name);
            let hint = suggest::hint(&entry.key, "its params", names)
                .unwrap_or_else(|| format!("see `okapi stages {}`", owner.page));
            let message = format!("{} has no param `{}`", owner.kind, entry.key);
            findings.error("unknown-param", entry.key_span, message).hint(hint);
        }
    }
    for param in owner.params {
        let value = entries
            .iter()
            .find(|entry| &*entry.key == param.name)
            .map(|entry| &entry.value)
            // Nothing after the key is as if the key were not there.
            .filter(|value| {
                !matches!(value.value, Value::Null) || matches!(param.ty, ParamType::Any)
            });
        let json = match value {
            Some(value) => convert(value, &param.ty, param.name, tracked, findings),
            None => default(param, owner, findings),
        };
        if let Some(json) = json {
            let into = if param.identity { &mut params.declared } else { &mut params.settings };
            into.insert(param.name.to_owned(), json);
        }
    }
    params
}

fn default(param: &Param, owner: &Owner<'_>, findings: &mut Findings) -> Option<Json> {
    match param.default {
        ParamDefault::Absent => None,
        ParamDefault::Value(text) => {
            let json = serde_json::from_str(text).unwrap_or_else(|_| Json::from(text));
            Some(with_floats(json, &param.ty))
        }
        ParamDefault::Required => {
            let (name, kind) = (&owner.name, &owner.kind);
            let message = format!("{name} lacks the param `{}` of {kind}", param.name);
            let line = match owner.under {
                Some(under) => format!("{under}: {{{}: ...}}", param.name),
                None => format!("{}: ...", param.name),
            };
            findings
                .error("missing-param", owner.at, message)
                .hint(format!("add `{line}`: {}", param.help));
            None
        }
    }
}

/// `2` and `2.0` mean the same where a float is wanted, and must be the same in an identity.
fn with_floats(json: Json, ty: &ParamType) -> Json {
    match (json, ty) {
        (Json::Number(number), ParamType::Float { .. }) => {
            number.as_f64().and_then(Number::from_f64).map_or(Json::Null, Json::Number)
        }
        (Json::Array(items), ParamType::List(ty)) => {
            Json::Array(items.into_iter().map(|item| with_floats(item, ty)).collect())
        }
        (Json::Object(members), ParamType::Map(ty)) => Json::Object(
            members.into_iter().map(|(name, item)| (name, with_floats(item, ty))).collect(),
        ),
        (json, _) => json,
    }
}

fn convert(
    node: &Node,
    ty: &ParamType,
    name: &str,
    tracked: &mut Tracked<'_, '_>,
    findings: &mut Findings,
) -> Option<Json> {
    let what = format!("`{name}`");
    match *ty {
        ParamType::Bool => expect::boolean(node, &what, findings).map(Json::Bool),
        ParamType::Int { min, max } => {
            expect::whole(node, &what, (min, max), findings).map(Json::from)
        }
        ParamType::Float { min, max } => float(node, &what, ty, (min, max), findings),
        ParamType::String => expect::text(node, &what, findings).map(|text| Json::from(&*text)),
        ParamType::Choice(words) => choice(node, name, words, findings),
        ParamType::PortKind => {
            let names = PortKind::ALL.map(PortKind::name);
            choice(node, name, &names, findings)
        }
        ParamType::Source => {
            let written = expect::text(node, &what, findings)?;
            let id = tracked.sources.track(&written, &what, node.span, findings)?;
            tracked.files.push(id);
            Some(Json::from(tracked.sources.path(id)))
        }
        ParamType::List(ty) => {
            let Value::List(items) = &node.value else {
                expect::wrong_type(node, &what, "a list", findings);
                return None;
            };
            // Every item is looked at, even after one that is wrong.
            let items: Vec<Option<Json>> =
                items.iter().map(|item| convert(item, ty, name, tracked, findings)).collect();
            items.into_iter().collect::<Option<Vec<Json>>>().map(Json::Array)
        }
        ParamType::Map(ty) => {
            let Value::Map(entries) = &node.value else {
                expect::wrong_type(node, &what, "a mapping", findings);
                return None;
            };
            let mut members = Map::new();
            for entry in entries {
                let json = convert(&entry.value, ty, &entry.key, tracked, findings);
                members.extend(json.map(|json| (entry.key.to_string(), json)));
            }
            Some(Json::Object(members))
        }
        ParamType::Any => json(node),
    }
}

fn float(
    node: &Node,
    what: &str,
    ty: &ParamType,
    (min, max): (f64, f64),
    findings: &mut Findings,
) -> Option<Json> {
    let value = match node.value {
        Value::Int(value) => value as f64,
        Value::Float(value) => value,
        _ => {
            expect::wrong_type(node, what, "a number", findings);
            return None;
        }
    };
    if !(min..=max).contains(&value) {
        findings
            .error("bad-value", node.span, format!("{what} is {value:?}, out of bounds"))
            .hint(format!("it must be {ty}"));
        return None;
    }
    Number::from_f64(value).map(Json::Number)
}

fn choice(node: &Node, name: &str, words: &[&str], findings: &mut Findings) -> Option<Json> {
    let word = expect::text(node, &format!("`{name}`"), findings)?;
    if words.contains(&&*word) {
        return Some(Json::from(&*word));
    }
    findings
        .error("bad-value", node.span, format!("`{name}` cannot be `{}`", expect::shortened(&word)))
        .hint(suggest::hint(&word, "it is one of", words.iter().copied()));
    None
}

/// Any value as JSON. `None` if part of it is reported already.
pub(crate) fn json(node: &Node) -> Option<Json> {
    Some(match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => Json::from(*value),
        Value::Float(value) => Json::Number(Number::from_f64(*value)?),
        Value::Text(text) => Json::from(&**text),
        Value::List(items) => Json::Array(items.iter().map(json).collect::<Option<_>>()?),
        Value::Map(entries) => {
            let mut members = Map::new();
            for entry in entries {
                members.insert(entry.key.to_string(), json(&entry.value)?);
            }
            Json::Object(members)
        }
        Value::Invalid => return None,
    })
}

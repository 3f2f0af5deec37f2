//! `teachers:` -> what of each enters an action, and what only changes how it is asked.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::{Value as Json, json};

use crate::check::params::{self, Owner, Tracked};
use crate::check::paths::Sources;
use crate::resolve::vars::{TextKind, Variables};
use crate::spec::expect;
use crate::spec::findings::Findings;
use crate::spec::yaml::{Entry, Node};
use crate::stage::StageRegistry;
use crate::suggest;

/// A teacher, opaque to the engine.
#[derive(Debug)]
pub(crate) struct Teacher {
    /// What enters an action: its kind, the kind's version, the params that change an answer.
    pub(crate) declared: Json,
    /// What does not, if anything: how fast and how often it is asked, what it costs, who asks.
    pub(crate) settings: Option<Json>,
}

/// Reads all teachers.
pub(crate) fn teachers(
    section: &Node,
    variables: &mut Variables,
    registry: &StageRegistry,
    sources: &mut Sources<'_>,
    findings: &mut Findings,
) -> BTreeMap<Rc<str>, Teacher> {
    let mut teachers = BTreeMap::new();
    for entry in section.entries() {
        expect::name(&entry.key, "teacher", entry.key_span, findings);
        let value = variables.substitute(&entry.value, TextKind::Value, &[], findings);
        let teacher = teacher(entry, &value, registry, sources, findings);
        // One that is wrong is known all the same: its users are not to blame.
        let teacher = teacher.unwrap_or(Teacher { declared: Json::Null, settings: None });
        teachers.insert(entry.key.clone(), teacher);
    }
    teachers
}

fn teacher(
    entry: &Entry,
    value: &Node,
    registry: &StageRegistry,
    sources: &mut Sources<'_>,
    findings: &mut Findings,
) -> Option<Teacher> {
    let name = format!("teacher `{}`", entry.key);
    let keys = expect::map(value, &name, findings);
    let Some(kind) = value.get("kind") else {
        findings
            .error("missing-key", entry.key_span, format!("{name} has no `kind`"))
            .help("write for example `kind: offline`");
        return None;
    };
    let written = expect::text(kind, "`kind`", findings)?;
    let Some(found) = registry.teacher(&written) else {
        let message = format!("there is no kind of teacher `{}`", expect::shortened(&written));
        let names: Vec<_> = registry.teachers().map(|kind| kind.name).collect();
        findings.error("unknown-teacher", kind.span, message).hint(suggest::hint(
            &written,
            "kinds of teachers",
            names,
        ));
        return None;
    };
    let owner = Owner {
        name,
        at: entry.key_span,
        kind: format!("kind `{}`", found.name),
        page: found.name,
        under: None,
        params: found.params,
    };
    let given: Vec<&Entry> = keys.iter().filter(|key| &*key.key != "kind").collect();
    let mut tracked = Tracked { sources, files: Vec::new() };
    let read = params::read(&given, &owner, &mut tracked, findings);
    let mut declared = read.declared;
    // What is written out but says nothing is as if it were not there.
    declared.retain(|_, value| !(value == false || *value == json!([]) || *value == json!({})));
    declared.insert("kind".to_owned(), found.name.into());
    declared.insert("version".to_owned(), found.version.into());
    let settings = (!read.settings.is_empty()).then_some(Json::Object(read.settings));
    Some(Teacher { declared: Json::Object(declared), settings })
}

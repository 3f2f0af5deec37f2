//! `teachers:` -> what of each enters an action, and what only changes how it is asked.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::{Map, Value as Json};

use crate::check::params;
use crate::resolve::vars::{TextKind, Variables};
use crate::spec::expect;
use crate::spec::findings::Findings;
use crate::spec::yaml::Node;

/// Keys of a teacher that never change an answer: how fast and how often it is asked, what it
/// costs, and who asks.
const SETTINGS: [&str; 8] = [
    "api_key_env",
    "concurrency",
    "max_retries",
    "price",
    "requests_per_minute",
    "retries",
    "timeout",
    "tokens_per_minute",
];

/// A teacher, opaque to the engine.
#[derive(Debug)]
pub(crate) struct Teacher {
    /// What enters an action.
    pub(crate) declared: Json,
    /// What does not, if anything.
    pub(crate) settings: Option<Json>,
}

/// Reads all teachers.
pub(crate) fn teachers(
    section: &Node,
    variables: &mut Variables,
    findings: &mut Findings,
) -> BTreeMap<Rc<str>, Teacher> {
    let mut teachers = BTreeMap::new();
    for entry in section.entries() {
        expect::name(&entry.key, "teacher", entry.key_span, findings);
        let value = variables.substitute(&entry.value, TextKind::Value, &[], findings);
        let what = format!("teacher `{}`", entry.key);
        let keys = expect::map(&value, &what, findings);
        let (mut declared, mut settings) = (Map::new(), Map::new());
        for key in keys {
            let into = if SETTINGS.contains(&&*key.key) { &mut settings } else { &mut declared };
            into.extend(params::json(&key.value).map(|json| (key.key.to_string(), json)));
        }
        if value.get("kind").is_none() {
            findings
                .error("missing-key", entry.key_span, format!("{what} has no `kind`"))
                .help("write for example `kind: offline`");
        }
        let settings = (!settings.is_empty()).then_some(Json::Object(settings));
        let teacher = Teacher { declared: Json::Object(declared), settings };
        teachers.insert(entry.key.clone(), teacher);
    }
    teachers
}

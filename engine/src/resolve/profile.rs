//! Overlays: `profiles:` of the file, and `--set` of the command line.
//!
//! Mappings are merged key by key; anything else replaces what was there; `null` removes it. A node that is not there
//! is added if it has a `stage`.

use std::collections::BTreeSet;
use std::rc::Rc;

use crate::diagnostic::Span;
use crate::resolve::vars::spans_set_to;
use crate::spec::expect;
use crate::spec::findings::Findings;
use crate::spec::parse::{NODE_KEYS, Sections};
use crate::spec::yaml::{self, Entry, Node, Value};
use crate::suggest;

/// The sections that a profile may change.
const SECTIONS: [&str; 5] = ["vars", "teachers", "executor", "slurm", "nodes"];

/// Checks all profiles of the file and lays the chosen one over it.
pub(crate) fn apply(
    sections: &mut Sections,
    chosen: Option<&str>,
    argument: Span,
    findings: &mut Findings,
) {
    let profiles = std::mem::replace(&mut sections.profiles, Node::no_entries(Span::default()));
    let added = added(&profiles);
    for entry in profiles.entries() {
        check(entry, sections, &added, findings);
    }
    let Some(chosen) = chosen else { return };
    let Some(profile) = profiles.get(chosen) else {
        let names = profiles.entries().iter().map(|entry| &*entry.key);
        let hint = suggest::hint(chosen, "profiles", names)
            .unwrap_or_else(|| "the file has no `profiles`".to_owned());
        findings
            .error("unknown-profile", argument, format!("there is no profile `{chosen}`"))
            .hint(hint);
        return;
    };
    for Entry { key, value, .. } in profile.entries() {
        match &**key {
            "vars" => merge(&mut sections.vars, value),
            "teachers" => merge_teachers(&mut sections.teachers, value),
            "executor" => sections.executor = Some(value.clone()),
            "slurm" => merge(&mut sections.slurm, value),
            "nodes" => merge(&mut sections.nodes, value),
            _ => {}
        }
    }
}

/// The nodes that profiles add.
fn added(profiles: &Node) -> BTreeSet<Rc<str>> {
    let nodes = profiles.entries().iter().filter_map(|profile| profile.value.get("nodes"));
    let entries = nodes.flat_map(|nodes| nodes.entries());
    let new = entries.filter(|entry| entry.value.get("stage").is_some());
    new.map(|entry| entry.key.clone()).collect()
}

/// What can be said of a profile whether or not it is chosen.
fn check(profile: &Entry, sections: &Sections, added: &BTreeSet<Rc<str>>, findings: &mut Findings) {
    let place = format!("profile `{}`", profile.key);
    expect::name(&profile.key, "profile", profile.key_span, findings);
    let entries = expect::map(&profile.value, &place, findings);
    expect::known_keys(entries, &place, &SECTIONS, findings);
    for Entry { key, value, .. } in entries.iter().filter(|entry| &*entry.key != "executor") {
        let overlays = expect::map(value, &format!("`{key}` of {place}"), findings);
        if &**key != "nodes" {
            continue;
        }
        for overlay in overlays {
            // One that says what it does is new; anything else is meant for a node that there is.
            let is_new = overlay.value.get("stage").is_some();
            // What one profile adds, another one that takes over its nodes (`<<`) may take away.
            let is_taken_away =
                matches!(overlay.value.value, Value::Null) && added.contains(&overlay.key);
            if !is_new && !is_taken_away && sections.nodes.get(&overlay.key).is_none() {
                let names = sections.nodes.entries().iter().map(|entry| &*entry.key);
                findings
                    .error(
                        "unknown-node",
                        overlay.key_span,
                        format!("{place} changes a node `{}` that does not exist", overlay.key),
                    )
                    .hint(
                        suggest::hint(&overlay.key, "nodes", names)
                            .unwrap_or_else(|| "a node with a `stage` would be added".to_owned()),
                    );
            }
            let fields = expect::map(&overlay.value, &format!("node `{}`", overlay.key), findings);
            expect::known_keys(fields, &format!("node `{}`", overlay.key), &NODE_KEYS, findings);
        }
    }
}

fn merge(base: &mut Node, overlay: &Node) {
    let (Value::Map(entries), Value::Map(changes)) = (&mut base.value, &overlay.value) else {
        *base = overlay.clone();
        return;
    };
    for change in changes {
        let position = entries.iter().position(|entry| entry.key == change.key);
        match (position, &change.value.value) {
            (Some(position), Value::Null) => {
                entries.remove(position);
            }
            (None, Value::Null) => {}
            (Some(position), _) => merge(&mut entries[position].value, &change.value),
            (None, _) => entries.push(change.clone()),
        }
    }
}

/// As [`merge`]; a teacher that becomes one of another kind keeps nothing of what it was.
fn merge_teachers(base: &mut Node, overlay: &Node) {
    if let (Value::Map(teachers), Value::Map(changes)) = (&mut base.value, &overlay.value) {
        let kind = |teacher: &Node| match &teacher.get("kind")?.value {
            Value::Text(kind) => Some(kind.clone()),
            _ => None,
        };
        teachers.retain(|teacher| {
            let change = changes.iter().find(|change| change.key == teacher.key);
            let new = change.and_then(|change| kind(&change.value));
            new.is_none() || new == kind(&teacher.value)
        });
    }
    merge(base, overlay);
}

/// Lays one `path=value` of the command line over the file.
pub(crate) fn override_value(
    sections: &mut Sections,
    written: &str,
    argument: Span,
    findings: &mut Findings,
) {
    let Some((path, text)) = written.split_once('=') else {
        findings
            .error("bad-override", argument, "an override has the form `vars.NAME=VALUE`")
            .help("for example `--set vars.count=3`");
        return;
    };
    let mut own = Findings::default();
    let value = match yaml::parse(text, &mut own) {
        _ if own.errors() > 0 => {
            findings
                .error("bad-override", argument, format!("the value of `{path}` is not valid YAML"))
                .help("put a text with special characters in quotes");
            return;
        }
        Some(value) => spans_set_to(value, argument),
        None => Node { span: argument, value: Value::Text("".into()) },
    };
    let parts: Vec<&str> = path.trim().split('.').collect();
    let (section, what) = match parts[0] {
        "vars" => (&mut sections.vars, "variables"),
        "teachers" => (&mut sections.teachers, "teachers"),
        "nodes" => (&mut sections.nodes, "nodes"),
        "slurm" => (&mut sections.slurm, "options of Slurm"),
        other => {
            findings
                .error(
                    "bad-override",
                    argument,
                    format!("`{}` cannot be set", expect::shortened(other)),
                )
                .hint(suggest::hint(
                    other,
                    "what can be set begins with",
                    ["vars", "teachers", "slurm", "nodes"],
                ));
            return;
        }
    };
    let is_vars = parts[0] == "vars";
    let mut node = section;
    let mut reached = parts[0].to_owned();
    for (depth, part) in parts.iter().enumerate().skip(1) {
        let last = depth + 1 == parts.len();
        let position = node.entries().iter().position(|entry| &*entry.key == *part);
        // A node's fields and params may be left out in the file: the stage knows them. So may all of `slurm`.
        let may_add = !is_vars && depth > 1 || parts[0] == "slurm";
        if position.is_none() && !may_add {
            let names: Vec<_> = node.entries().iter().map(|entry| entry.key.clone()).collect();
            let names = names.iter().map(|name| &**name);
            let hint = match suggest::nearest(part, names.clone()) {
                // The whole path, so that it can be copied.
                Some(near) => {
                    let path = [&[&reached, near], &parts[depth + 1..]].concat().join(".");
                    format!("did you mean `{path}`?")
                }
                None => suggest::hint(part, what, names)
                    .unwrap_or_else(|| format!("`{reached}` holds no such key")),
            };
            findings
                .error("bad-override", argument, format!("there is no `{reached}.{part}` to set"))
                .hint(hint);
            return;
        }
        let Value::Map(entries) = &mut node.value else {
            findings
                .error("bad-override", argument, format!("`{reached}` has no keys to set"))
                .hint(format!("set `{reached}` as a whole"));
            return;
        };
        let position = position.unwrap_or_else(|| {
            let value = Node::no_entries(argument);
            entries.push(Entry { key: (*part).into(), key_span: argument, value });
            entries.len() - 1
        });
        reached.push('.');
        reached.push_str(part);
        if last {
            let entry = &mut entries[position];
            entry.key_span = argument;
            entry.value = value;
            return;
        }
        node = &mut entries[position].value;
    }
    findings
        .error("bad-override", argument, format!("`{path}` is a whole section"))
        .hint(format!("name what to set in it: `{path}.NAME=VALUE`"));
}

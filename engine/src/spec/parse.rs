//! Tree -> the sections of a pipeline file.

use crate::diagnostic::Span;
use crate::spec::expect;
use crate::spec::findings::Findings;
use crate::spec::yaml::{Entry, Node, Value};

/// The format version that this okapi reads.
pub(crate) const FORMAT_VERSION: i64 = 1;

/// The keys of a pipeline file.
pub(crate) const TOP_KEYS: [&str; 10] = [
    "okapi", "name", "doc", "vars", "profiles", "teachers", "executor", "slurm", "nodes", "publish",
];

/// The keys of a node.
pub(crate) const NODE_KEYS: [&str; 19] = [
    "stage",
    "doc",
    "for_each",
    "inputs",
    "params",
    "prompts",
    "teacher",
    "run",
    "files",
    "env",
    "pass_env",
    "outputs",
    "resources",
    "timeout",
    "retries",
    "seed",
    "epoch",
    "executor",
    "slurm",
];

/// The sections of a pipeline file, each still a tree: profiles and overrides change them before
/// they are read further.
#[derive(Debug)]
pub(crate) struct Sections {
    pub(crate) name: String,
    pub(crate) vars: Node,
    pub(crate) profiles: Node,
    pub(crate) teachers: Node,
    /// Where nodes that do not say it are executed.
    pub(crate) executor: Option<Node>,
    pub(crate) slurm: Node,
    pub(crate) nodes: Node,
    pub(crate) publish: Node,
}

/// Splits a document into its sections. `None` when it is for another version of okapi, or no
/// pipeline at all: anything more that could be said of it would mislead.
pub(crate) fn sections(document: Option<Node>, findings: &mut Findings) -> Option<Sections> {
    let Some(document) = document.filter(|node| !matches!(node.value, Value::Null)) else {
        findings
            .error("empty", Span::default(), "the pipeline file is empty")
            .help("begin with `okapi: 1` and `nodes:`, or let `okapi init` write an example");
        return None;
    };
    let Node { value: Value::Map(entries), span } = document else {
        findings
            .error(
                "wrong-type",
                document.span,
                format!("a pipeline file must be a mapping, found {}", document.found()),
            )
            .help("begin with `okapi: 1` and `nodes:`");
        return None;
    };
    let start = Span { start: span.start, end: span.start };
    check_version(&entries, start, findings)?;
    expect::known_keys(&entries, "the pipeline file", &TOP_KEYS, findings);

    let mut sections = Sections {
        name: String::new(),
        vars: Node::no_entries(start),
        profiles: Node::no_entries(start),
        teachers: Node::no_entries(start),
        executor: None,
        slurm: Node::no_entries(start),
        nodes: Node::no_entries(start),
        publish: Node::no_entries(start),
    };
    let mut has_nodes = false;
    for Entry { key, value, .. } in entries {
        let what = format!("`{key}`");
        let section = match &*key {
            "name" => {
                if let Some(name) = expect::text(&value, &what, findings)
                    && expect::name(&name, "pipeline", value.span, findings)
                {
                    sections.name = name.to_string();
                }
                continue;
            }
            "doc" => {
                expect::text(&value, &what, findings);
                continue;
            }
            "vars" => &mut sections.vars,
            "profiles" => &mut sections.profiles,
            "teachers" => &mut sections.teachers,
            "executor" => {
                sections.executor = Some(value);
                continue;
            }
            "slurm" => &mut sections.slurm,
            "nodes" => {
                has_nodes = true;
                &mut sections.nodes
            }
            "publish" => &mut sections.publish,
            _ => continue,
        };
        // Reports anything but a mapping; such a section then has no entries.
        if !matches!(value.value, Value::Map(_)) {
            expect::map(&value, &what, findings);
            continue;
        }
        *section = value;
    }
    if !has_nodes {
        findings
            .error("missing-key", start, "the pipeline file has no `nodes`")
            .help("add `nodes:` with one entry per node");
    }
    Some(sections)
}

fn check_version(entries: &[Entry], start: Span, findings: &mut Findings) -> Option<()> {
    let Some(entry) = entries.iter().find(|entry| &*entry.key == "okapi") else {
        findings.error("missing-key", start, "the pipeline file has no `okapi`").hint(format!(
            "add `okapi: {FORMAT_VERSION}`, the version of the format, as first line"
        ));
        return Some(());
    };
    match entry.value.value {
        Value::Int(FORMAT_VERSION) => Some(()),
        Value::Int(version) if version > FORMAT_VERSION => {
            findings
                .error(
                    "version",
                    entry.value.span,
                    format!(
                        "the file is of format version {version}; this okapi reads {FORMAT_VERSION}"
                    ),
                )
                .help("use a newer okapi for this pipeline");
            None
        }
        Value::Int(version) => {
            findings
                .error("version", entry.value.span, format!("there is no format version {version}"))
                .hint(format!("write `okapi: {FORMAT_VERSION}`"));
            Some(())
        }
        _ => {
            findings
                .error(
                    "wrong-type",
                    entry.value.span,
                    format!("`okapi` must be the format version, found {}", entry.value.found()),
                )
                .hint(format!("write `okapi: {FORMAT_VERSION}`"));
            Some(())
        }
    }
}

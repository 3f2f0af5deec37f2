//! What the instances of a node share: its stage, axes, output ports.

use std::rc::Rc;

use crate::check::params;
use crate::diagnostic::Span;
use crate::graph::Output;
use crate::port::PortKind;
use crate::resolve::for_each::{self, Axes};
use crate::resolve::vars::{TextKind, Variables};
use crate::spec::expect;
use crate::spec::findings::Findings;
use crate::spec::parse::NODE_KEYS;
use crate::spec::yaml::{Entry, Node as Tree, Value};
use crate::stage::{NodeField, OutputKind, Outputs, ParamDefault, Stage, StageRegistry};
use crate::suggest;

/// A node of the file, as far as it is the same for all instances.
pub(crate) struct NodeDraft<'a> {
    pub(crate) name: Rc<str>,
    /// Where its key stands.
    pub(crate) span: Span,
    pub(crate) fields: &'a [Entry],
    /// `None` if there is no such stage.
    pub(crate) stage: Option<&'a dyn Stage>,
    /// `None` if they cannot be expanded; `axis_names` has what was written.
    pub(crate) axes: Option<Axes>,
    pub(crate) axis_names: Vec<Rc<str>>,
    /// Sorted by port; `None` if they are not known because of a mistake.
    pub(crate) outputs: Option<Vec<Output>>,
    pub(crate) pass_env: Vec<String>,
    /// The number of its first instance, in the order of the file.
    pub(crate) first_instance: u32,
}

impl NodeDraft<'_> {
    pub(crate) fn field(&self, key: &str) -> Option<&Tree> {
        self.fields.iter().find(|entry| &*entry.key == key).map(|entry| &entry.value)
    }

    /// Whether the stage is known to take a field.
    pub(crate) fn takes(&self, field: NodeField) -> bool {
        self.stage.is_some_and(|stage| stage.descriptor().fields.contains(&field))
    }
}

/// Reads the shared part of one node.
pub(crate) fn draft<'a>(
    entry: &'a Entry,
    registry: &'a StageRegistry,
    variables: &mut Variables,
    findings: &mut Findings,
) -> NodeDraft<'a> {
    let name = entry.key.clone();
    expect::name(&name, "node", entry.key_span, findings);
    let fields = expect::map(&entry.value, &format!("node `{name}`"), findings);
    expect::known_keys(fields, &format!("node `{name}`"), &NODE_KEYS, findings);
    let mut draft = NodeDraft {
        name,
        span: entry.key_span,
        fields,
        stage: None,
        axes: Some(Axes::single()),
        axis_names: Vec::new(),
        outputs: None,
        pass_env: Vec::new(),
        first_instance: 0,
    };
    if let Some(doc) = draft.field("doc") {
        expect::text(doc, "`doc`", findings);
    }
    if matches!(entry.value.value, Value::Map(_) | Value::Null) {
        draft.stage = stage(&draft, registry, variables, findings);
    }
    if let Some(stage) = draft.stage {
        report_unused_fields(&draft, stage, findings);
    }
    if let Some(axes) = draft.field("for_each") {
        let names = axes.entries().iter().map(|axis| axis.key.clone()).collect();
        let expanded = for_each::axes(axes, &draft.name, variables, findings);
        draft.axes = expanded;
        draft.axis_names = names;
    }
    draft.outputs = draft.stage.and_then(|stage| outputs(&draft, stage, variables, findings));
    draft.pass_env = pass_env(&draft, variables, findings);
    draft
}

fn stage<'a>(
    draft: &NodeDraft<'_>,
    registry: &'a StageRegistry,
    variables: &mut Variables,
    findings: &mut Findings,
) -> Option<&'a dyn Stage> {
    let Some(field) = draft.field("stage") else {
        findings
            .error("missing-key", draft.span, format!("node `{}` has no `stage`", draft.name))
            .help("add `stage: command`, or another one that `okapi stages` lists");
        return None;
    };
    let field = variables.substitute(field, TextKind::Value, &[], findings);
    let written = expect::text(&field, "`stage`", findings)?;
    let found = registry.get(&written);
    if found.is_none() {
        let message = format!("there is no stage `{}`", expect::shortened(&written));
        findings.error("unknown-stage", field.span, message).hint(suggest::hint(
            &written,
            "stages",
            registry.names().collect::<Vec<_>>(),
        ));
    }
    found
}

fn report_unused_fields(draft: &NodeDraft<'_>, stage: &dyn Stage, findings: &mut Findings) {
    let stage = stage.descriptor();
    for field in draft.fields {
        let known = NodeField::ALL.into_iter().find(|known| known.key() == &*field.key);
        if known.is_some_and(|known| !stage.fields.contains(&known)) {
            let message = format!("stage `{}` does not take `{}`", stage.name, field.key);
            findings
                .error("unused-field", field.key_span, message)
                .hint(format!("remove it; see `okapi stages {}`", stage.name));
        }
    }
}

fn outputs(
    draft: &NodeDraft<'_>,
    stage: &dyn Stage,
    variables: &mut Variables,
    findings: &mut Findings,
) -> Option<Vec<Output>> {
    let mut outputs: Vec<Output> = match stage.descriptor().outputs {
        Outputs::Fixed(ports) => ports
            .iter()
            .map(|port| {
                let kind = match port.kind {
                    OutputKind::Fixed(kind) => Some(kind),
                    OutputKind::Param(param) => {
                        param_kind(draft, stage, param, variables, findings)
                    }
                };
                kind.map(|kind| Output { port: port.name.to_owned(), kind })
            })
            .collect::<Option<_>>()?,
        Outputs::Declared => declared_outputs(draft, variables, findings)?,
    };
    outputs.sort_by(|one, other| one.port.cmp(&other.port));
    Some(outputs)
}

/// The kind that a param names. Other mistakes in it are reported where params are read.
fn param_kind(
    draft: &NodeDraft<'_>,
    stage: &dyn Stage,
    name: &str,
    variables: &mut Variables,
    findings: &mut Findings,
) -> Option<PortKind> {
    let given = draft.field("params").and_then(|params| params.get(name));
    if let Some(given) = given.filter(|given| !matches!(given.value, Value::Null)) {
        // The kind belongs to the node's port, so it cannot differ between instances.
        if matches!(&given.value, Value::Text(text) if text.contains("${each.")) {
            findings
                .error(
                    "bad-value",
                    given.span,
                    format!("`{name}` must be the same for all instances"),
                )
                .help("write one kind, or make two nodes");
            return None;
        }
        let mut unheard = Findings::default();
        let given = variables.substitute(given, TextKind::Value, &[], &mut unheard);
        let json = params::json(&given)?;
        return PortKind::from_name(json.as_str()?);
    }
    let param = stage.descriptor().params.iter().find(|param| param.name == name)?;
    match param.default {
        ParamDefault::Value(text) => {
            PortKind::from_name(serde_json::from_str::<String>(text).ok()?.as_str())
        }
        ParamDefault::Required | ParamDefault::Absent => None,
    }
}

fn declared_outputs(
    draft: &NodeDraft<'_>,
    variables: &mut Variables,
    findings: &mut Findings,
) -> Option<Vec<Output>> {
    let Some(field) = draft.field("outputs") else {
        findings
            .error("missing-key", draft.span, format!("node `{}` has no `outputs`", draft.name))
            .help("add `outputs: {NAME: file}`: what a node makes is what is kept of it");
        return None;
    };
    let errors = findings.errors();
    let field = variables.substitute(field, TextKind::Value, &[], findings);
    let mut outputs = Vec::new();
    for entry in expect::map(&field, &format!("`outputs` of `{}`", draft.name), findings) {
        expect::identifier(&entry.key, "an output port", entry.key_span, findings);
        let what = format!("the kind of `{}`", entry.key);
        let Some(kind) = expect::text(&entry.value, &what, findings) else { continue };
        if let Some(kind) = PortKind::from_name(&kind) {
            outputs.push(Output { port: entry.key.to_string(), kind });
            continue;
        }
        let message = format!("there is no kind `{}`", expect::shortened(&kind));
        findings.error("bad-value", entry.value.span, message).hint(suggest::hint(
            &kind,
            "kinds",
            PortKind::ALL.map(PortKind::name),
        ));
    }
    if outputs.len() > usize::from(u16::MAX) {
        findings
            .error("too-large", field.span, "a node has too many outputs")
            .help("make one output of kind `tree`");
    }
    (findings.errors() == errors).then_some(outputs)
}

fn pass_env(
    draft: &NodeDraft<'_>,
    variables: &mut Variables,
    findings: &mut Findings,
) -> Vec<String> {
    let Some(field) = draft.field("pass_env") else { return Vec::new() };
    let field = variables.substitute(field, TextKind::Value, &[], findings);
    let mut names = Vec::new();
    for item in expect::list(&field, "`pass_env`", findings) {
        let Some(name) = expect::text(item, "a variable's name", findings) else { continue };
        if !variable_name(&name, item.span, findings) {
            continue;
        }
        if draft.field("env").is_some_and(|env| env.get(&name).is_some()) {
            findings
                .error("duplicate-key", item.span, format!("`{name}` stands in `env` too"))
                .help("either give it a value or take the caller's");
            continue;
        }
        names.push(name.to_string());
    }
    names.sort();
    names.dedup();
    names
}

/// Whether a name is fit for an environment variable of the user's.
pub(crate) fn variable_name(name: &str, at: Span, findings: &mut Findings) -> bool {
    let good = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.chars().all(|other| other.is_ascii_alphanumeric() || other == '_');
    if !good {
        let message = format!("`{}` is no name for a variable", expect::shortened(name));
        findings
            .error("bad-name", at, message)
            .help("it has letters, digits and `_`, and does not begin with a digit");
        return false;
    }
    if name.starts_with("OKAPI_") || name == "CUDA_VISIBLE_DEVICES" {
        findings
            .error("bad-name", at, format!("`{name}` is set by okapi itself"))
            .help("choose another name");
        return false;
    }
    true
}

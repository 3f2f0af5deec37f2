//! The fields of one instance, all but its inputs.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;

use okapi_cache::canonical_json;
use serde_json::{Map, Value as Json};

use crate::check::node::{NodeDraft, variable_name};
use crate::check::params::{self, Owner, Tracked};
use crate::check::paths::Sources;
use crate::check::teacher::Teacher;
use crate::check::{placement, quantity};
use crate::graph::{ALL_SLOTS, Instance, NodeId, Resources, SourceId, instance_key};
use crate::lineage::LineageScope;
use crate::placement::{Place, SlurmOptions};
use crate::resolve::vars::{AxisValue, TextKind, Variables};
use crate::spec::expect;
use crate::spec::findings::Findings;
use crate::spec::yaml::{Entry, Node as Tree, Value};
use crate::stage::{NodeField, Outputs, Stage};
use crate::suggest;

/// The longest key of an instance, bytes: it becomes the name of a file.
const LONGEST_KEY: usize = 200;

/// What all instances are read with.
pub(crate) struct Surroundings<'a, 's> {
    pub(crate) variables: &'s mut Variables,
    pub(crate) sources: &'s mut Sources<'a>,
    pub(crate) teachers: &'s BTreeMap<Rc<str>, Teacher>,
    /// What holds for nodes that do not say where they are executed, and what of Slurm they ask.
    pub(crate) placement: (Option<Place>, &'s SlurmOptions),
    /// The project's root as text, if it is one that a script may be warned of.
    pub(crate) project: Option<&'s str>,
    pub(crate) findings: &'s mut Findings,
}

/// One instance on its way from the file.
struct Reader<'n, 'a, 's> {
    node: &'n NodeDraft<'n>,
    each: &'n [AxisValue<'n>],
    around: &'n mut Surroundings<'a, 's>,
}

/// Reads one instance of a node, given the values of its axes and their texts.
pub(crate) fn read(
    node: &NodeDraft<'_>,
    id: NodeId,
    each: &[AxisValue<'_>],
    texts: &[(&str, &str)],
    around: &mut Surroundings<'_, '_>,
) -> Instance {
    let errors = around.findings.errors();
    let mut reader = Reader { node, each, around };
    let mut declared = Map::new();
    let mut settings = Map::new();
    let mut files = Vec::new();

    if let Some(stage) = node.stage {
        let stage = stage.descriptor();
        declared.insert("stage".to_owned(), Json::from(stage.name));
        declared.insert("stage_version".to_owned(), Json::from(stage.version));
        let params = reader.params(&mut files);
        if !params.declared.is_empty() {
            declared.insert("params".to_owned(), Json::Object(params.declared));
        }
        settings = params.settings;
        if matches!(stage.outputs, Outputs::Declared) {
            let outputs = node.outputs.iter().flatten();
            let kinds = outputs.map(|output| (output.port.clone(), Json::from(output.kind.name())));
            declared.insert("outputs".to_owned(), Json::Object(kinds.collect()));
        }
    }
    if let Some(script) = reader.script() {
        declared.insert("run".to_owned(), Json::from(&*script));
    }
    let env = reader.env();
    if !env.is_empty() {
        declared.insert("env".to_owned(), Json::Object(env));
    }
    if let Some(seed) = reader.whole("seed", (i64::MIN, i64::MAX)) {
        declared.insert("seed".to_owned(), Json::from(seed));
    }
    // An epoch of 0 is the same as none: nothing is disowned.
    if let Some(epoch) = reader.whole("epoch", (0, i64::MAX)).filter(|epoch| *epoch != 0) {
        declared.insert("epoch".to_owned(), Json::from(epoch));
    }
    if let Some(teacher) = reader.teacher() {
        declared.insert("teacher".to_owned(), teacher.declared.clone());
        settings.extend(teacher.settings.clone().map(|value| ("teacher".to_owned(), value)));
    }
    files.extend(reader.files());
    let sources = &*reader.around.sources;
    files.sort_by(|one, other| sources.path(*one).cmp(sources.path(*other)));
    files.dedup();
    let prompts = reader.prompts();
    let resources = reader.resources();
    let timeout_ms = reader.timeout();
    let retries = reader.whole("retries", (0, 1000)).unwrap_or(0) as u32;
    let (place, slurm) = reader.placement();

    let declared = Json::Object(declared);
    if around.findings.errors() == errors {
        ask_stage(node, &declared, around.findings);
    }
    Instance {
        name: name(node, texts, around.findings),
        node: id,
        declared: canonical_json::to_string(&declared).into_boxed_str(),
        settings: canonical_json::to_string(&Json::Object(settings)).into_boxed_str(),
        files: files.into_boxed_slice(),
        prompts: prompts.into_boxed_slice(),
        inputs: Box::default(),
        lineage: node.stage.map_or(LineageScope::None, |stage| stage.lineage(&declared)),
        resources,
        timeout_ms,
        retries,
        place,
        slurm,
    }
}

/// What only the stage itself can say, once all else is right.
fn ask_stage(node: &NodeDraft<'_>, declared: &Json, findings: &mut Findings) {
    let Some(stage) = node.stage else { return };
    if let Err(message) = stage.check(declared) {
        let params = node.fields.iter().find(|field| &*field.key == "params");
        let at = params.map_or(node.span, |params| params.key_span);
        findings
            .error("stage", at, format!("node `{}`: {message}", node.name))
            .hint(format!("see `okapi stages {}`", stage.descriptor().name));
    }
}

fn name(node: &NodeDraft<'_>, texts: &[(&str, &str)], findings: &mut Findings) -> Box<str> {
    if texts.is_empty() {
        return Box::from(&*node.name);
    }
    let key = instance_key(texts);
    if key.len() > LONGEST_KEY {
        let at = node.field("for_each").map_or(node.span, |axes| axes.span);
        let message = format!("the name of an instance of `{}` has {} bytes", node.name, key.len());
        findings.error("bad-value", at, message).hint(format!(
            "the part in brackets has {LONGEST_KEY} bytes at most: use short axis values"
        ));
    }
    format!("{}[{key}]", node.name).into_boxed_str()
}

impl<'n, 's> Reader<'n, '_, 's> {
    /// A field of the node, its references replaced.
    fn field(&mut self, key: &str, kind: TextKind) -> Option<Cow<'n, Tree>> {
        let node = self.node;
        let field = node.field(key)?;
        Some(self.around.variables.substitute(field, kind, self.each, self.around.findings))
    }

    fn params(&mut self, files: &mut Vec<SourceId>) -> params::Params {
        let given = self.field("params", TextKind::Value);
        let Some(stage) = self.node.stage else { return params::Params::default() };
        let stage = stage.descriptor();
        let findings = &mut *self.around.findings;
        let under = format!("`params` of `{}`", self.node.name);
        let entries = given.as_deref().map_or(&[][..], |it| expect::map(it, &under, findings));
        let entries: Vec<&Entry> = entries.iter().collect();
        let owner = Owner {
            name: format!("node `{}`", self.node.name),
            at: self.node.span,
            kind: format!("stage `{}`", stage.name),
            page: stage.name,
            under: Some("params"),
            params: stage.params,
        };
        let mut tracked = Tracked { sources: self.around.sources, files: Vec::new() };
        let read = params::read(&entries, &owner, &mut tracked, findings);
        files.append(&mut tracked.files);
        read
    }

    fn script(&mut self) -> Option<Rc<str>> {
        let Some(field) = self.field("run", TextKind::Script) else {
            if self.node.takes(NodeField::Run) {
                let message = format!("node `{}` has no `run`", self.node.name);
                self.around
                    .findings
                    .error("missing-key", self.node.span, message)
                    .help("add `run:` with the script to run");
            }
            return None;
        };
        let findings = &mut *self.around.findings;
        let script = expect::text(&field, "`run`", findings)?;
        if script.trim().is_empty() {
            findings
                .error("bad-value", field.span, "`run` is empty")
                .help("write the script to run");
            return None;
        }
        if script.contains('\0') {
            findings.error("bad-value", field.span, "`run` holds a zero byte").help("remove it");
        }
        if let Some(project) = self.around.project.filter(|project| script.contains(project)) {
            let message = format!(
                "the script of `{}` reads outside its declared inputs: it names {project}",
                self.node.name
            );
            findings
                .warning("undeclared-read", field.span, message)
                .help("name the files under `files:` and use their paths from the project's root");
        }
        Some(script)
    }

    fn env(&mut self) -> Map<String, Json> {
        let mut env = Map::new();
        let Some(field) = self.field("env", TextKind::Value) else { return env };
        let findings = &mut *self.around.findings;
        for entry in expect::map(&field, "`env`", findings) {
            variable_name(&entry.key, entry.key_span, findings);
            let what = format!("the variable `{}`", entry.key);
            let Some(text) = expect::text_like(&entry.value, &what, findings) else { continue };
            if text.contains('\0') {
                findings
                    .error("bad-value", entry.value.span, format!("{what} holds a zero byte"))
                    .help("remove it");
            }
            env.insert(entry.key.to_string(), Json::from(&*text));
        }
        env
    }

    fn whole(&mut self, key: &str, bounds: (i64, i64)) -> Option<i64> {
        let field = self.field(key, TextKind::Value)?;
        if matches!(field.value, Value::Null) {
            return None;
        }
        expect::whole(&field, &format!("`{key}`"), bounds, self.around.findings)
    }

    fn teacher(&mut self) -> Option<&'s Teacher> {
        let Some(field) = self.field("teacher", TextKind::Value) else {
            if self.node.takes(NodeField::Teacher) {
                let message = format!("node `{}` has no `teacher`", self.node.name);
                self.around
                    .findings
                    .error("missing-key", self.node.span, message)
                    .help("add `teacher: NAME`, one of those under `teachers:`");
            }
            return None;
        };
        let teachers = self.around.teachers;
        let findings = &mut *self.around.findings;
        let name = expect::text(&field, "`teacher`", findings)?;
        let found = teachers.get(&name);
        if found.is_none() {
            let hint = suggest::hint(&name, "teachers", teachers.keys().map(|name| &**name))
                .unwrap_or_else(|| "the file has no `teachers`".to_owned());
            let message = format!("there is no teacher `{}`", expect::shortened(&name));
            findings.error("unknown-teacher", field.span, message).hint(hint);
        }
        found
    }

    fn files(&mut self) -> Vec<SourceId> {
        let Some(field) = self.field("files", TextKind::Value) else { return Vec::new() };
        let Surroundings { sources, findings, .. } = &mut *self.around;
        let mut files = Vec::new();
        for item in expect::list(&field, "`files`", findings) {
            if let Some(path) = expect::text(item, "a tracked file", findings) {
                files.extend(sources.track(&path, "the tracked file", item.span, findings));
            }
        }
        files
    }

    fn prompts(&mut self) -> Vec<(Box<str>, SourceId)> {
        let slots = self.node.stage.map_or(&[][..], |stage| stage.descriptor().prompts);
        let field = self.field("prompts", TextKind::Value);
        let node = self.node;
        let Surroundings { sources, findings, .. } = &mut *self.around;
        let entries = match &field {
            Some(field) => expect::map(field, "`prompts`", findings),
            None => &[],
        };
        let mut prompts: Vec<(Box<str>, SourceId)> = Vec::new();
        for entry in entries {
            if slots.is_empty() {
                // A stage without slots, such as `command`, takes whatever it is given.
                expect::identifier(&entry.key, "a prompt", entry.key_span, findings);
            } else if !slots.iter().any(|slot| slot.name == &*entry.key) {
                if node.takes(NodeField::Prompts) {
                    let message = format!("node `{}` takes no prompt `{}`", node.name, entry.key);
                    let names = slots.iter().map(|slot| slot.name);
                    let hint = suggest::hint(&entry.key, "its prompts", names);
                    findings.error("unknown-prompt", entry.key_span, message).hint(hint);
                }
                continue;
            }
            let what = format!("the prompt `{}`", entry.key);
            if let Some(path) = expect::text(&entry.value, &what, findings) {
                let id = sources.track(&path, &what, entry.value.span, findings);
                prompts.extend(id.map(|id| (Box::from(&*entry.key), id)));
            }
        }
        for slot in slots {
            if !entries.iter().any(|entry| &*entry.key == slot.name) {
                let message = format!("node `{}` has no prompt `{}`", node.name, slot.name);
                findings.error("missing-prompt", node.span, message).hint(format!(
                    "add `prompts: {{{}: path/to/file.j2}}`: {}",
                    slot.name, slot.help
                ));
            }
        }
        prompts.sort();
        prompts
    }

    fn resources(&mut self) -> Resources {
        let mut resources = Resources::default();
        if self.node.stage.is_some_and(Stage::takes_all_slots) {
            resources.cpu_milli = ALL_SLOTS;
        }
        match self.field("resources", TextKind::Value) {
            Some(field) => quantity::resources(&field, resources, self.around.findings),
            None => resources,
        }
    }

    /// Where it is executed, and what Slurm is asked for: as the node says, else as the pipeline.
    fn placement(&mut self) -> (Option<Place>, Option<Box<SlurmOptions>>) {
        let common = self.around.placement;
        let place = match self.field("executor", TextKind::Value) {
            Some(field) => placement::executor(&field, self.around.findings),
            None => common.0,
        };
        let own = self.field("slurm", TextKind::Value);
        let own = own.map(|field| placement::slurm(&field, self.around.findings));
        let slurm = own.unwrap_or_default().over(common.1);
        (place, (slurm != SlurmOptions::default()).then(|| Box::new(slurm)))
    }

    fn timeout(&mut self) -> Option<u64> {
        let field = self.field("timeout", TextKind::Value)?;
        if matches!(field.value, Value::Null) {
            return None;
        }
        quantity::timeout(&field, self.around.findings)
    }
}

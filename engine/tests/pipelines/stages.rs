//! Stages to check pipelines against. None of them ever runs.

use std::path::PathBuf;

use okapi_engine::diagnostic::{Diagnostics, Severity};
use okapi_engine::graph::Graph;
use okapi_engine::load::{LoadRequest, load};
use okapi_engine::port::{Accepts, PortKind};
use okapi_engine::stage::{
    Determinism, InputPort, Inputs, NodeField, OutputKind, OutputPort, Outputs, Param,
    ParamDefault, ParamType, PromptSlot, Stage, StageDescriptor, StageRegistry, TeacherKind,
};
use okapi_engine::stage_context::{StageContext, StageError, StageSuccess};
use serde_json::Value;

struct Described(&'static StageDescriptor);

impl Stage for Described {
    fn descriptor(&self) -> &'static StageDescriptor {
        self.0
    }

    fn check(&self, declared: &Value) -> Result<(), String> {
        let params = &declared["params"];
        if self.0.name == "read" && params.get("path").is_none() {
            return Err("give `path`".to_owned());
        }
        Ok(())
    }

    fn run(&self, _: &mut StageContext<'_>) -> Result<StageSuccess, StageError> {
        Err(StageError::failed("this stage is only ever checked"))
    }
}

const fn param(name: &'static str, ty: ParamType, default: ParamDefault) -> Param {
    Param { name, ty, default, identity: true, help: "for tests" }
}

/// Brings in a file, of the kind that a param names.
static READ: StageDescriptor = StageDescriptor {
    name: "read",
    version: 3,
    summary: "brings in a file",
    documentation: "Brings in a file.",
    inputs: Inputs::Fixed(&[]),
    outputs: Outputs::Fixed(&[OutputPort {
        name: "data",
        kind: OutputKind::Param("kind"),
        help: "the file",
    }]),
    params: &[
        param("path", ParamType::Source, ParamDefault::Absent),
        param("kind", ParamType::PortKind, ParamDefault::Value("\"file\"")),
    ],
    prompts: &[],
    fields: &[],
    determinism: Determinism::Bytes,
};

/// Has params of every type.
static TRAIN: StageDescriptor = StageDescriptor {
    name: "train",
    version: 1,
    summary: "makes a model",
    documentation: "Makes a model.",
    inputs: Inputs::Fixed(&[
        InputPort {
            name: "examples",
            accepts: Accepts::Kinds(&[PortKind::Instructions]),
            required: true,
            gathers: false,
            help: "what to learn",
        },
        InputPort {
            name: "base",
            accepts: Accepts::Kinds(&[PortKind::Model]),
            required: false,
            gathers: false,
            help: "what to begin with",
        },
    ]),
    outputs: Outputs::Fixed(&[
        OutputPort { name: "model", kind: OutputKind::Fixed(PortKind::Model), help: "the model" },
        OutputPort { name: "curve", kind: OutputKind::Fixed(PortKind::Curve), help: "the losses" },
    ]),
    params: &[
        param("rate", ParamType::Float { min: 0.0, max: 1.0 }, ParamDefault::Value("1")),
        param("epochs", ParamType::Int { min: 1, max: 100 }, ParamDefault::Value("3")),
        param("method", ParamType::Choice(&["full", "lora"]), ParamDefault::Value("\"full\"")),
        param("shuffle", ParamType::Bool, ParamDefault::Value("true")),
        param("title", ParamType::String, ParamDefault::Absent),
        param("layers", ParamType::List(&ParamType::Int { min: 0, max: 99 }), ParamDefault::Absent),
        param("weights", ParamType::Map(&FRACTION), ParamDefault::Absent),
        param("extra", ParamType::Any, ParamDefault::Absent),
        Param { identity: false, ..param("log_every", POSITIVE, ParamDefault::Value("10")) },
    ],
    prompts: &[],
    fields: &[NodeField::Seed],
    determinism: Determinism::Bytes,
};

static FRACTION: ParamType = ParamType::Float { min: 0.0, max: 1.0 };
const POSITIVE: ParamType = ParamType::Int { min: 1, max: i64::MAX };

/// Reads many artifacts and asks a teacher.
static JUDGE: StageDescriptor = StageDescriptor {
    name: "judge",
    version: 1,
    summary: "judges models",
    documentation: "Judges models.",
    inputs: Inputs::Fixed(&[InputPort {
        name: "models",
        accepts: Accepts::Kinds(&[PortKind::Model]),
        required: true,
        gathers: true,
        help: "what to judge",
    }]),
    outputs: Outputs::Fixed(&[OutputPort {
        name: "scores",
        kind: OutputKind::Fixed(PortKind::Scores),
        help: "the scores",
    }]),
    params: &[param("count", POSITIVE, ParamDefault::Required)],
    prompts: &[PromptSlot { name: "rate", variables: &[], help: "asks for a rating" }],
    fields: &[NodeField::Teacher, NodeField::Prompts],
    determinism: Determinism::Unknown,
};

static OPENAI: TeacherKind = TeacherKind {
    name: "openai",
    version: 2,
    summary: "asks a server",
    documentation: "Asks a server.",
    params: &[
        param("model", ParamType::String, ParamDefault::Required),
        param("temperature", ParamType::Float { min: 0.0, max: 2.0 }, ParamDefault::Absent),
        Param { identity: false, ..param("concurrency", POSITIVE, ParamDefault::Value("8")) },
        Param { identity: false, ..param("api_key_env", ParamType::String, ParamDefault::Absent) },
    ],
};

static OFFLINE: TeacherKind = TeacherKind {
    name: "offline",
    version: 1,
    summary: "goes by rules",
    documentation: "Goes by rules.",
    params: &[],
};

/// `command` and the stages of this file.
pub(crate) fn registry() -> StageRegistry {
    let mut registry = StageRegistry::with_builtin();
    for descriptor in [&READ, &TRAIN, &JUDGE] {
        registry.add(Box::new(Described(descriptor)));
    }
    registry.add_teacher(&OFFLINE);
    registry.add_teacher(&OPENAI);
    registry
}

/// The folder of the fixtures, which is the project of each of them.
pub(crate) fn project() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/pipelines")
}

/// Loads a text as `NAME.yaml` in the folder `dir` of the fixtures' project.
pub(crate) fn load_text(
    text: &str,
    dir: &str,
    profile: Option<&str>,
    overrides: &[&str],
) -> (Option<Graph>, Diagnostics) {
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    let request = LoadRequest {
        text,
        file: "test.yaml".as_ref(),
        pipeline_dir: dir,
        profile,
        overrides: &overrides,
        project_root: &project(),
    };
    load(request, &registry())
}

/// The graph of a text that has nothing wrong with it.
pub(crate) fn graph(text: &str) -> Graph {
    let (graph, diagnostics) = load_text(text, "valid", None, &[]);
    let Some(graph) = graph else { panic!("{}", render(&diagnostics)) };
    assert!(diagnostics.items.is_empty(), "{}", render(&diagnostics));
    graph
}

/// One line a mistake, and one more for its hint and each other place.
pub(crate) fn render(diagnostics: &Diagnostics) -> String {
    let mut text = String::new();
    for item in &diagnostics.items {
        let place = match item.span.argument() {
            Some(argument) => diagnostics.arguments[argument].clone(),
            None => {
                let (line, column) = diagnostics.line_column(item.span.start);
                format!("{line}:{column}")
            }
        };
        let severity = match item.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        text += &format!("{place}: {severity}[{}]: {}\n", item.code, item.message);
        for related in &item.related {
            let (line, column) = diagnostics.line_column(related.span.start);
            text += &format!("  {line}:{column}: {}\n", related.message);
        }
        if let Some(hint) = &item.hint {
            text += &format!("  hint: {hint}\n");
        }
    }
    text
}

/// All of a graph but the places in the file, an instance a paragraph.
pub(crate) fn describe(graph: &Graph) -> String {
    let mut text = format!("pipeline {}\n", graph.name);
    let port =
        |instance: u32, port: u16| graph.node(instance).outputs[usize::from(port)].port.as_str();
    for node in &graph.nodes {
        text += &format!("node {} ({})", node.name, node.stage);
        text += &format!(" axes {:?}", node.axes);
        for output in &node.outputs {
            text += &format!(" {}:{}", output.port, output.kind);
        }
        text += &format!(" pass_env {:?}\n", node.pass_env);
    }
    for instance in &graph.instances {
        text += &format!("\n{}\n  {}\n", instance.name, instance.declared);
        if &*instance.settings != "{}" {
            text += &format!("  settings {}\n", instance.settings);
        }
        for file in &instance.files {
            text += &format!("  file {}\n", graph.sources[*file as usize].path);
        }
        for (name, file) in &instance.prompts {
            text += &format!("  prompt {name} = {}\n", graph.sources[*file as usize].path);
        }
        for input in &instance.inputs {
            let how = if input.gathered { "gathers" } else { "reads" };
            text += &format!("  {} {how}", input.port);
            for feed in &input.feeds {
                let from = &graph.instances[feed.instance as usize].name;
                text += &format!(" {}={from}:{}", feed.key, port(feed.instance, feed.port));
            }
            text.push('\n');
        }
        let needs = instance.resources;
        text += &format!(
            "  cpu {} mem {} gpu {} timeout {:?} retries {}\n",
            needs.cpu_milli, needs.memory, needs.gpu, instance.timeout_ms, instance.retries
        );
    }
    for one in &graph.publish {
        let from = &graph.instances[one.instance as usize].name;
        text += &format!("\npublish {} = {from}:{}", one.path, port(one.instance, one.port));
    }
    text.push('\n');
    text
}

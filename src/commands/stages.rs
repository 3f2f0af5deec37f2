//! `okapi stages`.

use okapi_engine::stage::{
    Inputs, OutputKind, Outputs, Param, ParamDefault, StageDescriptor, TeacherKind,
};
use serde_json::{Value, json};

use crate::cli::StagesArgs;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::ui::{output, table};

/// Lists the stages and the kinds of teachers, or documents one.
pub(crate) fn stages(arguments: &StagesArgs) -> Result<ExitCode, Failure> {
    let registry = okapi_stages::registry();
    let Some(name) = &arguments.name else {
        if arguments.json {
            let stages = registry.iter().map(|stage| stage.descriptor());
            return print_json(stages, registry.teachers());
        }
        let row = |name: &str, summary: &str| vec![name.to_owned(), summary.to_owned()];
        let stages: Vec<_> = registry
            .iter()
            .map(|stage| row(stage.descriptor().name, stage.descriptor().summary))
            .collect();
        let teachers: Vec<_> =
            registry.teachers().map(|kind| row(kind.name, kind.summary)).collect();
        let teachers = table::render(&teachers);
        output::print(&format!("{}\nkinds of teachers:\n{teachers}", table::render(&stages)))?;
        return Ok(ExitCode::Done);
    };
    if let Some(stage) = registry.get(name) {
        if arguments.json {
            return print_json([stage.descriptor()], []);
        }
        output::print(&document(stage.descriptor()))?;
        return Ok(ExitCode::Done);
    }
    if let Some(kind) = registry.teacher(name) {
        if arguments.json {
            return print_json([], [kind]);
        }
        output::print(&document_teacher(kind))?;
        return Ok(ExitCode::Done);
    }
    let names = registry.names().chain(registry.teachers().map(|kind| kind.name));
    let near = okapi_engine::suggest::nearest(name, names);
    Err(Failure::usage(format!("no stage and no kind of teacher is named `{name}`"))
        .with_hint(near.map(|near| format!("did you mean `{near}`?"))))
}

fn print_json<'a>(
    stages: impl IntoIterator<Item = &'a StageDescriptor>,
    teachers: impl IntoIterator<Item = &'a TeacherKind>,
) -> Result<ExitCode, Failure> {
    let stages: Vec<_> = stages.into_iter().map(to_json).collect();
    let teachers: Vec<_> = teachers
        .into_iter()
        .map(|kind| {
            json!({
                "kind": kind.name,
                "version": kind.version,
                "summary": kind.summary,
                "documentation": kind.documentation,
                "params": params_to_json(kind.params),
            })
        })
        .collect();
    output::print_json(&json!({ "version": 1, "stages": stages, "teachers": teachers }))?;
    Ok(ExitCode::Done)
}

/// A stage; `inputs` and `outputs` are null where the node names its own.
fn to_json(descriptor: &StageDescriptor) -> Value {
    let inputs = match descriptor.inputs {
        Inputs::Any => Value::Null,
        Inputs::Fixed(ports) => ports
            .iter()
            .map(|port| {
                json!({
                    "port": port.name,
                    "accepts": port.accepts.to_string(),
                    "required": port.required,
                    "gathers": port.gathers,
                    "help": port.help,
                })
            })
            .collect(),
    };
    let outputs = match descriptor.outputs {
        Outputs::Declared => Value::Null,
        Outputs::Fixed(ports) => ports
            .iter()
            .map(|port| {
                let (kind, param) = match port.kind {
                    OutputKind::Fixed(kind) => (Some(kind), None),
                    OutputKind::Param(param) => (None, Some(param)),
                };
                json!({
                    "port": port.name, "kind": kind, "kind_of_param": param, "help": port.help,
                })
            })
            .collect(),
    };
    let prompts: Vec<_> = descriptor
        .prompts
        .iter()
        .map(|slot| {
            let variables: Vec<_> = slot
                .variables
                .iter()
                .map(|(name, help)| json!({ "variable": name, "help": help }))
                .collect();
            json!({ "prompt": slot.name, "help": slot.help, "variables": variables })
        })
        .collect();
    let fields: Vec<_> = descriptor.fields.iter().map(|field| field.key()).collect();
    json!({
        "stage": descriptor.name,
        "version": descriptor.version,
        "summary": descriptor.summary,
        "documentation": descriptor.documentation,
        "inputs": inputs,
        "outputs": outputs,
        "params": params_to_json(descriptor.params),
        "prompts": prompts,
        "fields": fields,
        "determinism": descriptor.determinism.name(),
    })
}

fn params_to_json(params: &[Param]) -> Vec<Value> {
    params
        .iter()
        .map(|param| {
            let default: Option<Value> = match param.default {
                ParamDefault::Value(text) => serde_json::from_str(text).ok(),
                ParamDefault::Required | ParamDefault::Absent => None,
            };
            json!({
                "param": param.name,
                "type": param.ty.to_string(),
                "required": matches!(param.default, ParamDefault::Required),
                "default": default,
                "identity": param.identity,
                "help": param.help,
            })
        })
        .collect()
}

fn document_params(params: &[Param], text: &mut String) {
    for param in params {
        let default = match param.default {
            ParamDefault::Required => ", required".to_owned(),
            ParamDefault::Absent => String::new(),
            ParamDefault::Value(value) => format!(", {value} if left out"),
        };
        text.push_str(&format!("- `{}` ({}{default}): {}\n", param.name, param.ty, param.help));
    }
}

fn document_teacher(kind: &TeacherKind) -> String {
    let mut text = format!(
        "# {} (a kind of teacher, version {})\n\n{}\n\n## Part of the identity\n\n",
        kind.name, kind.version, kind.documentation
    );
    let (identity, settings): (Vec<Param>, Vec<Param>) =
        kind.params.iter().partition(|param| param.identity);
    document_params(&identity, &mut text);
    if !settings.is_empty() {
        text.push_str("\n## No part of it\n\n");
        document_params(&settings, &mut text);
    }
    text
}

fn document(descriptor: &StageDescriptor) -> String {
    let mut text = format!(
        "# {} (version {})\n\n{}\n\n## Inputs\n\n",
        descriptor.name, descriptor.version, descriptor.documentation
    );
    match descriptor.inputs {
        Inputs::Any => {
            text.push_str("Any ports, of any kind; each takes one artifact or a gathering.\n");
        }
        Inputs::Fixed([]) => text.push_str("None.\n"),
        Inputs::Fixed(ports) => {
            for port in ports {
                let needed = if port.required { "" } else { ", optional" };
                let gathers = if port.gathers { ", gathers" } else { "" };
                text.push_str(&format!(
                    "- `{}` ({}{needed}{gathers}): {}\n",
                    port.name, port.accepts, port.help
                ));
            }
        }
    }
    text.push_str("\n## Outputs\n\n");
    match descriptor.outputs {
        Outputs::Declared => text.push_str("As the node declares: `outputs: {port: kind}`.\n"),
        Outputs::Fixed(ports) => {
            for port in ports {
                let kind = match port.kind {
                    OutputKind::Fixed(kind) => kind.name().to_owned(),
                    OutputKind::Param(param) => format!("the kind that `{param}` names"),
                };
                text.push_str(&format!("- `{}` ({kind}): {}\n", port.name, port.help));
            }
        }
    }
    if !descriptor.params.is_empty() {
        text.push_str("\n## Params\n\n");
        document_params(descriptor.params, &mut text);
    }
    if !descriptor.prompts.is_empty() {
        text.push_str("\n## Prompts\n\n");
        for slot in descriptor.prompts {
            text.push_str(&format!("- `{}`: {}. It has to use\n", slot.name, slot.help));
            for (variable, help) in slot.variables {
                text.push_str(&format!("  - `{variable}`: {help}\n"));
            }
        }
    }
    if !descriptor.fields.is_empty() {
        let fields: Vec<_> =
            descriptor.fields.iter().map(|field| format!("`{}`", field.key())).collect();
        text.push_str(&format!("\n## Node fields\n\n{}\n", fields.join(", ")));
    }
    text.push_str(&format!("\nDeterminism: {}.\n", descriptor.determinism.name()));
    text
}

//! `okapi stages`.

use okapi_engine::stage::{Inputs, OutputKind, Outputs, ParamDefault, StageDescriptor};
use serde_json::{Value, json};

use crate::cli::StagesArgs;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::ui::{output, table};

/// Lists the stages, or documents one.
pub(crate) fn stages(arguments: &StagesArgs) -> Result<ExitCode, Failure> {
    let registry = okapi_stages::registry();
    let Some(name) = &arguments.name else {
        if arguments.json {
            return print_json(registry.iter().map(|stage| stage.descriptor()));
        }
        let rows: Vec<_> = registry
            .iter()
            .map(|stage| {
                let descriptor = stage.descriptor();
                vec![descriptor.name.to_owned(), descriptor.summary.to_owned()]
            })
            .collect();
        output::print(&table::render(&rows))?;
        return Ok(ExitCode::Done);
    };
    let Some(stage) = registry.get(name) else {
        let near = okapi_engine::suggest::nearest(name, registry.names());
        return Err(Failure::usage(format!("no stage is named `{name}`"))
            .with_hint(near.map(|near| format!("did you mean `{near}`?"))));
    };
    if arguments.json {
        return print_json([stage.descriptor()]);
    }
    output::print(&document(stage.descriptor()))?;
    Ok(ExitCode::Done)
}

fn print_json<'a>(
    stages: impl IntoIterator<Item = &'a StageDescriptor>,
) -> Result<ExitCode, Failure> {
    let stages: Vec<_> = stages.into_iter().map(to_json).collect();
    output::print_json(&json!({ "version": 1, "stages": stages }))?;
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
    let params: Vec<_> = descriptor
        .params
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
        .collect();
    let fields: Vec<_> = descriptor.fields.iter().map(|field| field.key()).collect();
    json!({
        "stage": descriptor.name,
        "version": descriptor.version,
        "summary": descriptor.summary,
        "documentation": descriptor.documentation,
        "inputs": inputs,
        "outputs": outputs,
        "params": params,
        "fields": fields,
        "determinism": descriptor.determinism.name(),
    })
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
        for param in descriptor.params {
            let default = match param.default {
                ParamDefault::Required => ", required".to_owned(),
                ParamDefault::Absent => String::new(),
                ParamDefault::Value(value) => format!(", {value} if left out"),
            };
            text.push_str(&format!("- `{}` ({}{default}): {}\n", param.name, param.ty, param.help));
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

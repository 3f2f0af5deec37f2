//! The JSON Schema of pipeline files, made from the same tables that checking uses. Editors take
//! completion and hover texts from it.

use serde_json::{Map, Value, json};

use crate::placement::{Place, StoreAccess};
use crate::port::PortKind;
use crate::stage::{
    Inputs, NodeField, Outputs, Param, ParamDefault, ParamType, StageDescriptor, StageRegistry,
};

/// The schema, JSON Schema draft 2020-12. Wherever a value may come from a variable, a text with
/// a `${...}` reference is accepted too.
pub fn schema(registry: &StageRegistry) -> Value {
    let stages: Vec<_> = registry.names().collect();
    let stage_help: Vec<_> = registry
        .iter()
        .map(|stage| {
            let descriptor = stage.descriptor();
            format!("- `{}`: {}", descriptor.name, descriptor.summary)
        })
        .collect();
    let conditions: Vec<_> = registry.iter().map(|stage| condition(stage.descriptor())).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "okapi pipeline",
        "description": "A pipeline: nodes, each a stage with inputs and params, run by `okapi run`.",
        "type": "object",
        "required": ["okapi", "nodes"],
        "additionalProperties": false,
        "properties": {
            "okapi": described(json!({ "const": 1 }), "The version of the pipeline format: 1."),
            "name": described(json!({ "type": "string" }), "The pipeline's name; the file's name if left out."),
            "doc": described(json!({ "type": "string" }), "What the pipeline does, for people."),
            "vars": described(
                json!({ "type": "object" }),
                "Variables. `${vars.x}` stands for the value of `x`, with its type if it is all there is.",
            ),
            "profiles": described(
                json!({
                    "type": "object",
                    "additionalProperties": {
                        "type": "object",
                        "additionalProperties": false,
                        "properties": {
                            "vars": { "type": "object" },
                            "teachers": { "type": "object" },
                            "executor": executor(),
                            "slurm": { "type": "object" },
                            "nodes": { "type": "object" },
                        },
                    },
                }),
                "Named overlays over vars, teachers, executor, slurm and nodes, chosen by `--profile`. Mappings are merged, anything else is replaced, `null` removes, a node with a `stage` may be new.",
            ),
            "teachers": described(
                json!({ "type": "object", "additionalProperties": { "$ref": "#/$defs/teacher" } }),
                "Where text comes from, by name.",
            ),
            "executor": executor(),
            "slurm": slurm(),
            "nodes": described(
                json!({ "type": "object", "minProperties": 1, "additionalProperties": { "$ref": "#/$defs/node" } }),
                "The nodes by name.",
            ),
            "publish": described(
                json!({ "type": "object", "additionalProperties": { "type": "string" } }),
                "Artifacts to place in the work tree after a run: path -> `node` or `node:port`. For a node with `for_each`, write its axes into the path: `results/${each.lang}.txt: count`.",
            ),
        },
        "$defs": {
            "node": {
                "type": "object",
                "required": ["stage"],
                "additionalProperties": false,
                "properties": node_properties(&stages, &stage_help),
                "allOf": conditions,
            },
            "teacher": teacher(registry),
            "reference": { "type": "string", "pattern": "\\$\\{" },
            "whole_reference": { "type": "string", "pattern": "^\\$\\{[^{}]+\\}$" },
            "scalar": { "type": ["string", "number", "boolean"] },
            "input": { "type": "string", "minLength": 1 },
        },
    })
}

fn described(mut schema: Value, text: &str) -> Value {
    schema["description"] = Value::String(text.to_owned());
    schema
}

/// The schema, or a text that holds a reference.
fn or_reference(schema: &Value) -> Value {
    json!({ "anyOf": [schema, { "$ref": "#/$defs/reference" }] })
}

/// The schema of a list or a mapping, or a text that is one reference to such a value: within a
/// longer text there is no place for it.
fn or_whole_reference(schema: &Value) -> Value {
    json!({ "anyOf": [schema, { "$ref": "#/$defs/whole_reference" }] })
}

fn node_properties(stages: &[&str], stage_help: &[String]) -> Value {
    let kinds: Vec<_> = PortKind::ALL.iter().map(|kind| kind.name()).collect();
    let scalars = json!({ "type": "object", "additionalProperties": { "$ref": "#/$defs/scalar" } });
    json!({
        "stage": described(
            or_reference(&json!({ "enum": stages })),
            &format!("What the node does.\n\n{}", stage_help.join("\n")),
        ),
        "doc": described(json!({ "type": "string" }), "What the node is for, for people."),
        "for_each": described(
            or_whole_reference(&json!({
                "type": "object",
                "minProperties": 1,
                "additionalProperties": or_whole_reference(&json!({
                    "type": "array", "minItems": 1, "items": { "$ref": "#/$defs/scalar" },
                })),
            })),
            "One instance per combination of these values; `${each.axis}` stands for the value, `${vars.x[each.axis]}` for what the mapping `x` has for it.",
        ),
        "inputs": described(
            or_whole_reference(&json!({
                "type": "object",
                "additionalProperties": {
                    "anyOf": [
                        { "$ref": "#/$defs/input" },
                        { "type": "array", "minItems": 1, "items": { "$ref": "#/$defs/input" } },
                    ],
                },
            })),
            "What each port reads: `node`, `node:port`, `node[axis=value]`, or a list of those. Axes that this node has too are matched; all others are gathered.",
        ),
        "params": described(or_whole_reference(&json!({ "type": "object" })), "The stage's params."),
        "prompts": described(
            or_whole_reference(&json!({ "type": "object", "additionalProperties": { "type": "string" } })),
            "Prompt files by name, tracked by content.",
        ),
        "teacher": described(json!({ "type": "string" }), "The teacher that answers, by name."),
        "run": described(json!({ "type": "string" }), "A shell script. Inputs are at $OKAPI_INPUT_<PORT>, outputs go to $OKAPI_OUTPUT_<PORT>."),
        "files": described(
            or_whole_reference(&json!({ "type": "array", "items": { "type": "string" } })),
            "Files and folders of the project that the script uses, tracked by content.",
        ),
        "env": described(or_whole_reference(&scalars), "Environment variables with their values; part of the node's identity."),
        "pass_env": described(
            or_whole_reference(&json!({ "type": "array", "items": { "type": "string" } })),
            "Environment variables taken from the caller; their values are part of the node's identity and are never written down.",
        ),
        "outputs": described(
            or_whole_reference(&json!({
                "type": "object",
                "minProperties": 1,
                "additionalProperties": or_reference(&json!({ "enum": kinds })),
            })),
            "Output ports with their kinds: `file`, `tree`, or a kind of rows or model.",
        ),
        "resources": described(
            or_whole_reference(&json!({
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "cpu": described(or_reference(&json!({ "type": "number", "exclusiveMinimum": 0 })), "Processor slots; 1 if left out."),
                    "mem": described(json!({ "type": ["string", "integer"] }), "Memory: `512M`, `16G`, or bytes."),
                    "gpu": described(or_reference(&json!({ "type": "integer", "minimum": 0 })), "Whole GPUs, handed out by id."),
                },
            })),
            "What the node needs while it runs. It never decides whether the node runs again.",
        ),
        "timeout": described(
            json!({ "type": ["string", "number"] }),
            "The longest it may run: `90s`, `10m`, `2h`, or seconds.",
        ),
        "retries": described(or_reference(&json!({ "type": "integer", "minimum": 0 })), "How many times a failure is tried again."),
        "seed": described(or_reference(&json!({ "type": "integer" })), "The seed for whatever is random."),
        "executor": executor(),
        "slurm": slurm(),
        "epoch": described(or_reference(&json!({ "type": "integer", "minimum": 0 })), "Raise it to disown all earlier results of the node."),
    })
}

fn executor() -> Value {
    described(
        or_reference(&json!({ "enum": Place::ALL.map(Place::name) })),
        "Where nodes are executed: `local`, or as jobs of `slurm`. Nodes that ask a teacher or the hub stay local. It never decides whether a node runs again.",
    )
}

fn slurm() -> Value {
    let word =
        |help: &str| described(or_reference(&json!({ "type": ["string", "integer"] })), help);
    let factor = |help: &str| {
        let number = json!({ "type": "number", "minimum": 1, "maximum": 100 });
        described(or_reference(&number), help)
    };
    let properties = json!({
        "partition": word("`--partition` of `sbatch`."),
        "account": word("`--account` of `sbatch`."),
        "qos": word("`--qos` of `sbatch`."),
        "constraint": word("`--constraint` of `sbatch`."),
        "gres": word("`--gres` of `sbatch`, such as `gpu:a100:2`, in place of the GPUs under `resources`."),
        "time": described(json!({ "type": ["string", "number"] }), "`--time` of `sbatch`: `30m`, `12h`, or seconds. Left out: the node's `timeout` and a little more, else what the partition gives."),
        "setup": described(json!({ "type": "string" }), "Shell lines that each job begins with, such as `module load cuda`."),
        "more_memory": factor("By how much more memory each try after one that ran out of it gets: 2 doubles it. Needs `retries`."),
        "more_time": factor("By how much more time each try after one that ran out of it gets. Needs `retries`."),
        "store": described(or_reference(&json!({ "enum": StoreAccess::ALL.map(StoreAccess::name) })), "How jobs get at the store: `shared`, under the path that it has here; or `remote`, where nodes do not see it: what they read and make comes and goes by way of the remote (`--remote`)."),
        "okapi": described(json!({ "type": "string" }), "This program as nodes find it: a path, or a name on their PATH. Left out: the path that it has here."),
        "extra": described(json!({ "type": "array", "items": { "type": "string", "pattern": "^--" } }), "More options of `sbatch`, each a word such as `--exclusive`. Those of a node are added to those of the pipeline."),
    });
    let object =
        json!({ "type": "object", "additionalProperties": false, "properties": properties });
    described(
        or_whole_reference(&object),
        "What jobs of Slurm are asked for beside `resources`. It never decides whether a node runs again.",
    )
}

/// Teachers: their kinds, and what each takes.
fn teacher(registry: &StageRegistry) -> Value {
    let kinds: Vec<_> = registry.teachers().map(|kind| kind.name).collect();
    let help: Vec<_> =
        registry.teachers().map(|kind| format!("- `{}`: {}", kind.name, kind.summary)).collect();
    let kind = described(
        or_reference(&json!({ "enum": kinds })),
        &format!("What answers.\n\n{}", help.join("\n")),
    );
    let conditions: Vec<_> = registry
        .teachers()
        .map(|known| {
            let (mut properties, required) = params_schema(known.params);
            properties.insert("kind".to_owned(), Value::Bool(true));
            json!({
                "if": { "properties": { "kind": { "const": known.name } }, "required": ["kind"] },
                "then": {
                    "properties": properties,
                    "required": required,
                    "additionalProperties": false,
                },
            })
        })
        .collect();
    json!({
        "type": "object",
        "required": ["kind"],
        "properties": { "kind": kind },
        "allOf": conditions,
    })
}

/// The schema of each param, and the names of those that must be given.
fn params_schema(params: &[Param]) -> (Map<String, Value>, Vec<&'static str>) {
    let schemas = params.iter().map(|param| (param.name.to_owned(), param_schema(param)));
    let required = params.iter().filter(|param| matches!(param.default, ParamDefault::Required));
    (schemas.collect(), required.map(|param| param.name).collect())
}

/// What holds for nodes of one stage: its params, and only the fields and ports that it takes.
fn condition(descriptor: &StageDescriptor) -> Value {
    let mut properties = Map::new();
    let mut required = vec![];
    let (params, required_params) = params_schema(descriptor.params);
    if !required_params.is_empty() {
        required.push("params");
    }
    properties.insert(
        "params".to_owned(),
        or_whole_reference(&json!({
            "type": "object",
            "additionalProperties": false,
            "properties": params,
            "required": required_params,
        })),
    );
    if let Inputs::Fixed(ports) = descriptor.inputs {
        let mut inputs = Map::new();
        let mut needed = vec![];
        for port in ports {
            inputs.insert(port.name.to_owned(), described(json!({}), port.help));
            if port.required {
                needed.push(port.name);
            }
        }
        if !needed.is_empty() {
            required.push("inputs");
        }
        properties.insert(
            "inputs".to_owned(),
            json!({ "additionalProperties": false, "properties": inputs, "required": needed }),
        );
    }
    if !descriptor.prompts.is_empty() {
        let slots = descriptor.prompts.iter();
        let prompts: Map<_, _> = slots
            .clone()
            .map(|slot| (slot.name.to_owned(), described(json!({ "type": "string" }), slot.help)))
            .collect();
        let names: Vec<_> = slots.map(|slot| slot.name).collect();
        required.push("prompts");
        properties.insert(
            "prompts".to_owned(),
            or_whole_reference(&json!({
                "type": "object",
                "additionalProperties": false,
                "properties": prompts,
                "required": names,
            })),
        );
    }
    if descriptor.fields.contains(&NodeField::Teacher) {
        required.push("teacher");
    }
    for field in NodeField::ALL {
        if !descriptor.fields.contains(&field) {
            properties.insert(field.key().to_owned(), Value::Bool(false));
        }
    }
    if descriptor.fields.contains(&NodeField::Run) {
        required.push("run");
    }
    if matches!(descriptor.outputs, Outputs::Declared) {
        required.push("outputs");
    }
    json!({
        "if": { "properties": { "stage": { "const": descriptor.name } }, "required": ["stage"] },
        "then": { "properties": properties, "required": required },
    })
}

fn param_schema(param: &Param) -> Value {
    let mut schema = type_schema(&param.ty);
    match param.ty {
        ParamType::String | ParamType::Source | ParamType::Any => {}
        ParamType::List(_) | ParamType::Map(_) => schema = or_whole_reference(&schema),
        _ => schema = or_reference(&schema),
    }
    if let ParamDefault::Value(text) = param.default
        && let Ok(default) = serde_json::from_str::<Value>(text)
    {
        schema["default"] = default;
    }
    described(schema, param.help)
}

fn type_schema(ty: &ParamType) -> Value {
    match ty {
        ParamType::Bool => json!({ "type": "boolean" }),
        ParamType::Int { min, max } => {
            let mut schema = json!({ "type": "integer" });
            if *min != i64::MIN {
                schema["minimum"] = json!(min);
            }
            if *max != i64::MAX {
                schema["maximum"] = json!(max);
            }
            schema
        }
        ParamType::Float { min, max } => {
            let mut schema = json!({ "type": "number" });
            if *min > f64::MIN {
                schema["minimum"] = json!(min);
            }
            if *max < f64::MAX {
                schema["maximum"] = json!(max);
            }
            schema
        }
        ParamType::String | ParamType::Source => json!({ "type": "string" }),
        ParamType::Choice(words) => json!({ "enum": words }),
        ParamType::PortKind => {
            let kinds: Vec<_> = PortKind::ALL.iter().map(|kind| kind.name()).collect();
            json!({ "enum": kinds })
        }
        ParamType::List(item) => {
            json!({ "type": "array", "items": or_reference(&type_schema(item)) })
        }
        ParamType::Map(item) => {
            json!({ "type": "object", "additionalProperties": or_reference(&type_schema(item)) })
        }
        ParamType::Any => json!({}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loading takes `outputs: "${vars.outputs}"` and the like; an editor must not underline it.
    #[test]
    fn every_list_and_mapping_of_a_node_may_be_one_reference() {
        let schema = schema(&StageRegistry::with_builtin());
        let whole = json!({ "$ref": "#/$defs/whole_reference" });
        let fields = schema["$defs"]["node"]["properties"].as_object().unwrap();
        for field in [
            "for_each",
            "inputs",
            "params",
            "prompts",
            "files",
            "env",
            "pass_env",
            "outputs",
            "resources",
        ] {
            let accepted = fields[field]["anyOf"].as_array();
            assert!(accepted.is_some_and(|it| it.contains(&whole)), "{field}: {}", fields[field]);
        }
        let structured =
            |schema: &Value| matches!(schema["type"].as_str(), Some("object" | "array"));
        let missed: Vec<_> = fields.iter().filter(|(_, schema)| structured(schema)).collect();
        assert!(missed.is_empty(), "{missed:?}");
    }
}

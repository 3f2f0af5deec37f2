//! The `command` stage: any program, in a folder of its own. What makes okapi a general engine.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::executor::command_process::describe;
use crate::stage::{Determinism, Inputs, NodeField, Outputs, Stage, StageDescriptor};
use crate::stage_context::{InputPath, StageContext, StageError, StageSuccess};

/// Runs a shell script.
pub struct CommandStage;

/// How much of stderr a failure shows.
const TAIL_LINES: usize = 20;
const TAIL_BYTES: u64 = 16 * 1024;

const DOCUMENTATION: &str = "\
Runs a script with `sh -eu`. It starts in an empty folder of its own, shaped like the project: each
file or folder named under `files:` lies there at its path from the project's root. Paths in the
variables below are relative to that folder, so that a program that writes them into its output
writes the same on every machine.

| variable | holds |
|---|---|
| `OKAPI_INPUT_<PORT>` | the input: a file, or a folder for a tree; for gathered inputs a folder with one entry per instance, named `axis=value` |
| `OKAPI_OUTPUT_<PORT>` | where to write the output: a file, or a folder that the script makes |
| `OKAPI_PROMPT_<NAME>` | the prompt's file |
| `OKAPI_SEED` | the node's `seed`, if it has one |
| `OKAPI_SCRATCH` | a folder that is kept between tries of the same action, for checkpoints |
| `CUDA_VISIBLE_DEVICES` | the GPUs handed to this node; empty for a node that asks for none |

`<PORT>` is the port's name in capitals, `-` written `_`. Of the caller's environment only `PATH` is
passed on; `HOME` and `TMPDIR` are a temporary folder, `LC_ALL=C.UTF-8`, `TZ=UTC`. `env:` sets more
variables; `pass_env:` names variables to take from the caller, and their values are part of the
node's identity.

Every declared output must be made and nothing else may be left in the outputs' folder. Where the
kernel has Landlock, reading the rest of the project or the store fails with \"permission denied\".
Network access is not restricted.";

static DESCRIPTOR: StageDescriptor = StageDescriptor {
    name: "command",
    version: 1,
    summary: "runs any program in a folder of its own",
    documentation: DOCUMENTATION,
    inputs: Inputs::Any,
    outputs: Outputs::Declared,
    params: &[],
    prompts: &[],
    fields: &[
        NodeField::Run,
        NodeField::Env,
        NodeField::PassEnv,
        NodeField::Files,
        NodeField::Prompts,
        NodeField::Outputs,
        NodeField::Seed,
    ],
    determinism: Determinism::Unknown,
};

impl Stage for CommandStage {
    fn descriptor(&self) -> &'static StageDescriptor {
        &DESCRIPTOR
    }

    fn run(&self, context: &mut StageContext<'_>) -> Result<StageSuccess, StageError> {
        let script = context.declared["run"]
            .as_str()
            .ok_or_else(|| StageError::failed("the node has no `run`"))?;
        let mut command = Command::new("/bin/sh");
        command.args(["-eu", "-c", script]).env_clear().envs(environment(context));
        let status = context.launcher.run(command, context.work, context.cancel)?;
        if status.success() {
            return Ok(StageSuccess::default());
        }
        Err(StageError::Command { how: describe(status), stderr_tail: tail(&context.work.stderr) })
    }
}

/// The variables that a command sees.
pub(crate) fn environment(context: &StageContext<'_>) -> BTreeMap<String, String> {
    let relative = |path: &Path| relative_to_current_dir(context, path);
    let mut variables = BTreeMap::new();
    let mut set = |name: String, value: String| {
        variables.insert(name, value);
    };
    set(
        "PATH".into(),
        std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".into()),
    );
    for name in ["HOME", "TMPDIR"] {
        set(name.into(), context.work.tmp.display().to_string());
    }
    set("LC_ALL".into(), "C.UTF-8".into());
    set("TZ".into(), "UTC".into());
    set("CUDA_VISIBLE_DEVICES".into(), context.gpus.join(","));
    set("OKAPI_SCRATCH".into(), context.scratch.display().to_string());
    if let Some(seed) = context.declared.get("seed") {
        set("OKAPI_SEED".into(), seed.to_string());
    }
    for (port, input) in context.inputs {
        let path = match input {
            InputPath::Single(path) => path,
            InputPath::Gathered { folder, .. } => folder,
        };
        set(variable("OKAPI_INPUT_", port), relative(path));
    }
    for (port, path) in context.outputs {
        set(variable("OKAPI_OUTPUT_", port), relative(path));
    }
    for (name, path) in context.prompts {
        set(variable("OKAPI_PROMPT_", name), relative(path));
    }
    for (name, value) in context.passed_env {
        set(name.clone(), value.clone());
    }
    if let Some(Value::Object(declared)) = context.declared.get("env") {
        for (name, value) in declared {
            set(name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        }
    }
    variables
}

fn variable(prefix: &str, port: &str) -> String {
    format!("{prefix}{}", port.to_ascii_uppercase().replace('-', "_"))
}

/// `in/rows` as seen from `cwd`: `../in/rows`.
fn relative_to_current_dir(context: &StageContext<'_>, path: &Path) -> String {
    match path.strip_prefix(&context.work.root) {
        Ok(inside) => PathBuf::from("..").join(inside).display().to_string(),
        Err(_) => path.display().to_string(),
    }
}

/// The last lines of a file, bytes that are no UTF-8 replaced.
fn tail(path: &Path) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(|&line| line.to_owned()).collect()
}

//! What this program is, and what it runs on: for results and bundles. Nothing of it enters an action.

use std::process::{Command, Stdio};

use okapi_engine::environment;
use serde_json::{Value, json};

/// The commit that it was built from, with `-dirty` if files differed from it; `unknown` outside of a clone.
const REVISION: &str = env!("OKAPI_REVISION");

/// The version and the revision.
pub(crate) fn version() -> String {
    format!("{} ({REVISION})", env!("CARGO_PKG_VERSION"))
}

/// The program, its compiler, and the machine: without its name and whose it is.
pub(crate) fn described() -> Value {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    json!({
        "okapi": {"version": env!("CARGO_PKG_VERSION"), "revision": REVISION},
        "compiler": env!("OKAPI_COMPILER"),
        "target": env!("OKAPI_TARGET"),
        "cuda": okapi_stages::has_cuda(),
        "processor": {
            "model": environment::processor(), "features": environment::processor_features(), "threads": threads,
        },
        "gpus": gpus(),
    })
}

/// Name, memory and driver of each NVIDIA GPU, as the driver's own program says it.
fn gpus() -> Vec<String> {
    let question = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"];
    let mut program = Command::new("nvidia-smi");
    let asked = program.args(question).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let Ok(output) = asked else { return Vec::new() };
    String::from_utf8_lossy(&output.stdout).lines().map(|line| line.trim().to_owned()).collect()
}

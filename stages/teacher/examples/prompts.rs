//! Writes the test prompts of `pipelines/mono-or-multi.yaml`.
//!
//!     cargo run -p okapi-teacher --example prompts -- pipelines/mono-or-multi/prompts.jsonl

use std::error::Error;
use std::fs;

use okapi_teacher::offline::prompts;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("say to which file")?;
    let rows = prompts(50).ok_or("the world has not so many")?;
    fs::write(path, rows.iter().map(|row| format!("{row}\n")).collect::<String>())?;
    Ok(())
}

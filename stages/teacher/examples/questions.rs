//! Writes the questions of `pipelines/okapi/questions`, and the facts that they ask for.
//!
//!     cargo run -p okapi-teacher --example questions -- pipelines/okapi/questions

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use okapi_data::Task;
use okapi_teacher::offline::{facts, questions};

fn main() -> Result<(), Box<dyn Error>> {
    let folder: PathBuf = std::env::args_os().nth(1).ok_or("say in which folder")?.into();
    for (name, task) in [("arc", Task::Arc), ("hellaswag", Task::HellaSwag), ("mmlu", Task::Mmlu)] {
        let (examples, test) = questions(task, 50, 100).ok_or("the world has not so many")?;
        for (split, rows) in [("train", examples), ("test", test)] {
            fs::write(folder.join(format!("{name}_{split}.jsonl")), lines(&rows))?;
        }
    }
    fs::write(folder.join("facts.jsonl"), lines(&facts().ok_or("the world has no facts")?))?;
    Ok(())
}

fn lines(rows: &[serde_json::Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

//! `okapi init`.

use std::fs;
use std::io::{self, Write};
use std::path::{Component, Path};

use serde_json::json;

use crate::cli::InitArgs;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::ui::output;

const IGNORED: &str = ".okapi/\nresults/\n";

/// What became of a file.
#[derive(Clone, Copy)]
enum Fate {
    Written,
    Extended,
    Left,
}

impl Fate {
    fn name(self) -> &'static str {
        match self {
            Fate::Written => "written",
            Fate::Extended => "extended",
            Fate::Left => "left",
        }
    }

    fn describe(self, path: &Path) -> String {
        let path = path.display();
        match self {
            Fate::Written => format!("wrote {path}"),
            Fate::Extended => format!("added .okapi/ to {path}"),
            Fate::Left => format!("left {path} as it is"),
        }
    }
}

/// Writes a pipeline to begin with, and nothing over what is there.
pub(crate) fn init(arguments: &InitArgs) -> Result<ExitCode, Failure> {
    let folder = &arguments.folder;
    let schema = okapi_engine::spec::schema::schema(&okapi_stages::registry());
    let schema = serde_json::to_string_pretty(&schema)
        .map_err(|error| Failure::failed(format!("the schema cannot be written: {error}")))?;
    let schema = format!("{schema}\n");
    let example = arguments.example.files();
    let pipeline = example.first().map_or("okapi.yaml", |(path, _)| path);
    let around = [("okapi.schema.json", schema.as_str()), (".gitignore", IGNORED)];
    let mut files = Vec::new();
    for (name, content) in example.iter().copied().chain(around) {
        let path = folder.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|error| {
                Failure::failed(format!("cannot make {}: {error}", folder.display()))
            })?;
        }
        let fate = match write_new(&path, content) {
            Ok(()) => Fate::Written,
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Failure::failed(format!("cannot write {}: {error}", path.display())));
            }
            Err(_) if name == ".gitignore" => ignore_the_store(&path)?,
            Err(_) => Fate::Left,
        };
        if !arguments.json {
            output::note(&fate.describe(&path));
        }
        files.push(json!({ "path": path.display().to_string(), "fate": fate.name() }));
    }
    if arguments.json {
        let pipeline = folder.join(pipeline).display().to_string();
        let folder = folder.display().to_string();
        let document =
            json!({ "version": 1, "project": folder, "pipeline": pipeline, "files": files });
        output::print_json(&document)?;
    } else {
        output::note(&next(folder, pipeline));
    }
    Ok(ExitCode::Done)
}

/// What to type next. The store and the results belong into the new folder, so that is where to go first.
fn next(folder: &Path, pipeline: &str) -> String {
    let run = match pipeline {
        "okapi.yaml" => "okapi run".to_owned(),
        _ => format!("okapi run {pipeline}"),
    };
    let is_here = folder.components().all(|part| part == Component::CurDir);
    match folder.display().to_string() {
        _ if is_here => format!("next: {run}"),
        name if name.chars().all(is_plain) => format!("next: cd {name} && {run}"),
        name => format!("next: cd '{}' && {run}", name.replace('\'', r"'\''")),
    }
}

/// Whether a shell takes a letter for itself.
fn is_plain(letter: char) -> bool {
    letter.is_alphanumeric() || "/._-".contains(letter)
}

fn write_new(path: &Path, content: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).create_new(true).open(path)?.write_all(content.as_bytes())
}

/// Adds the store to a list of ignored paths that is there already.
fn ignore_the_store(path: &Path) -> Result<Fate, Failure> {
    let cannot =
        |error: io::Error| Failure::failed(format!("cannot add to {}: {error}", path.display()));
    let text = fs::read(path).map_err(cannot)?;
    let has_it = text
        .split(|byte| *byte == b'\n')
        .any(|line| matches!(line.trim_ascii(), b".okapi" | b".okapi/" | b"/.okapi" | b"/.okapi/"));
    if has_it {
        return Ok(Fate::Left);
    }
    let separator = if text.is_empty() || text.ends_with(b"\n") { "" } else { "\n" };
    let mut file = fs::OpenOptions::new().append(true).open(path).map_err(cannot)?;
    file.write_all(format!("{separator}.okapi/\n").as_bytes()).map_err(cannot)?;
    Ok(Fate::Extended)
}

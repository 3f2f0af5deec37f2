//! `okapi init`.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::cli::InitArgs;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::ui::output;

const PIPELINE: &str = include_str!("init.yaml");

const IGNORED: &str = ".okapi/\nresults/\n";

/// Writes a small pipeline to begin with, and nothing over what is there.
pub(crate) fn init(arguments: &InitArgs) -> Result<ExitCode, Failure> {
    let folder = &arguments.folder;
    fs::create_dir_all(folder)
        .map_err(|error| Failure::failed(format!("cannot make {}: {error}", folder.display())))?;
    let schema = okapi_engine::spec::schema::schema(&okapi_stages::registry());
    let schema = serde_json::to_string_pretty(&schema)
        .map_err(|error| Failure::failed(format!("the schema cannot be written: {error}")))?;
    for (name, content) in [
        ("okapi.yaml", PIPELINE),
        ("okapi.schema.json", &*format!("{schema}\n")),
        (".gitignore", IGNORED),
    ] {
        let path = folder.join(name);
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .and_then(|mut file| file.write_all(content.as_bytes()));
        match written {
            Ok(()) => output::note(&format!("wrote {}", path.display())),
            Err(error)
                if error.kind() == std::io::ErrorKind::AlreadyExists && name == ".gitignore" =>
            {
                ignore_the_store(&path)?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                output::note(&format!("left {} as it is", path.display()));
            }
            Err(error) => {
                return Err(Failure::failed(format!("cannot write {}: {error}", path.display())));
            }
        }
    }
    output::note(&format!("next: okapi run {}", folder.join("okapi.yaml").display()));
    Ok(ExitCode::Done)
}

/// Adds the store to a list of ignored paths that is there already.
fn ignore_the_store(path: &Path) -> Result<(), Failure> {
    let cannot = |error: std::io::Error| {
        Failure::failed(format!("cannot add to {}: {error}", path.display()))
    };
    let text = fs::read(path).map_err(cannot)?;
    let has_it = text
        .split(|byte| *byte == b'\n')
        .any(|line| matches!(line.trim_ascii(), b".okapi" | b".okapi/" | b"/.okapi" | b"/.okapi/"));
    if has_it {
        output::note(&format!("left {} as it is", path.display()));
        return Ok(());
    }
    let separator = if text.is_empty() || text.ends_with(b"\n") { "" } else { "\n" };
    let mut file = fs::OpenOptions::new().append(true).open(path).map_err(cannot)?;
    file.write_all(format!("{separator}.okapi/\n").as_bytes()).map_err(cannot)?;
    output::note(&format!("added .okapi/ to {}", path.display()));
    Ok(())
}

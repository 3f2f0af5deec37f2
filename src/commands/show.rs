//! `okapi show`.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use okapi_cache::{ArtifactKind, TreeEntry};

use crate::cli::{Global, ShowArgs};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::ui::{format, output, table};

/// So many bytes tell whether a file is text.
const SAMPLE: u64 = 8192;

/// Looks at an artifact.
pub(crate) fn show(global: &Global, arguments: &ShowArgs) -> Result<ExitCode, Failure> {
    let (store, artifact) = super::get::find(global, &arguments.pipeline, &arguments.artifact)?;
    if artifact.kind == ArtifactKind::Tree {
        let tree = store.read_tree(&artifact.digest)?;
        let rows: Vec<_> = tree
            .entries
            .iter()
            .map(|entry| match entry {
                TreeEntry::File { path, size, .. } => vec![format::size(*size), path.clone()],
                TreeEntry::Dir { path } => vec![String::new(), format!("{path}/")],
                TreeEntry::Symlink { path, target } => {
                    vec![String::new(), format!("{path} -> {target}")]
                }
            })
            .collect();
        output::print(&table::render(&rows))?;
        return Ok(ExitCode::Done);
    }
    let path = store.object_path(&artifact.digest);
    let cannot = |error| Failure::failed(format!("cannot read {}: {error}", path.display()));
    let mut sample = Vec::new();
    let mut file = File::open(&path).map_err(cannot)?;
    file.by_ref().take(SAMPLE).read_to_end(&mut sample).map_err(cannot)?;
    let text = match std::str::from_utf8(&sample) {
        Ok(_) => true,
        // A character may be cut by the end of the sample.
        Err(error) => error.error_len().is_none(),
    };
    if !text || sample.contains(&0) {
        output::print(&format!(
            "binary, {}, blake3 {}\n",
            format::size(artifact.size),
            artifact.digest
        ))?;
        return Ok(ExitCode::Done);
    }
    let mut reader = BufReader::new(File::open(&path).map_err(cannot)?);
    if arguments.lines == 0 {
        output::copy(&mut reader)?;
        return Ok(ExitCode::Done);
    }
    let mut line = Vec::new();
    for _ in 0..arguments.lines {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(cannot)? == 0 {
            return Ok(ExitCode::Done);
        }
        output::print_bytes(&line)?;
    }
    if !reader.fill_buf().map_err(cannot)?.is_empty() {
        output::note(&format!(
            "... the first {} lines of {}; -n 0 shows all",
            arguments.lines,
            format::size(artifact.size)
        ));
    }
    Ok(ExitCode::Done)
}

//! `okapi show`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use okapi_cache::{ArtifactKind, Digest, Store, TreeEntry};
use serde_json::json;

use super::get;
use crate::cli::{Global, ShowArgs};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::ui::{format, indent_json, output, table};

/// So many bytes tell whether a file is text.
const SAMPLE: u64 = 8192;

/// JSON documents up to this size are indented. A larger one is data, and shown as it is.
const LONGEST_JSON: u64 = 1024 * 1024;

/// Looks at an artifact.
pub(crate) fn show(global: &Global, arguments: &ShowArgs) -> Result<ExitCode, Failure> {
    if arguments.metrics {
        return show_metrics(global, arguments);
    }
    let found = get::find(global, &arguments.pipeline, &arguments.artifact)?;
    let (store, artifact) = (&found.store, &found.artifact);
    if artifact.kind == ArtifactKind::Tree {
        return show_tree(store, &artifact.digest);
    }
    let path = store.object_path(&artifact.digest);
    if !is_text(&path).map_err(|error| cannot_read(&path, &error))? {
        output::print(&format!(
            "binary, {}, blake3 {}\n",
            format::size(artifact.size),
            artifact.digest
        ))?;
        return Ok(ExitCode::Done);
    }
    // `-n 0` gives the bytes as they are.
    if arguments.lines > 0
        && let Some(text) = store.read_text(&artifact.digest, LONGEST_JSON)?
        && let Some(indented) = indent_json::indent(&text)
    {
        return show_lines(indented.as_bytes(), arguments.lines, indented.len() as u64);
    }
    let file = File::open(&path).map_err(|error| cannot_read(&path, &error))?;
    show_lines(file, arguments.lines, artifact.size)
}

fn show_metrics(global: &Global, arguments: &ShowArgs) -> Result<ExitCode, Failure> {
    let (instance, _) = get::split_port(&arguments.artifact);
    let (found, ()) = get::find_result(global, &arguments.pipeline, instance, |_, _| Ok(()))?;
    let stored = found.store.document(&found.action)?;
    let info = stored.map(|stored| stored.info).ok_or_else(|| {
        Failure::failed(format!("the details of the result of `{}` are lost", found.instance))
    })?;
    output::print_json(&json!({
        "version": 1,
        "node": found.instance,
        "action": found.action,
        "metrics": info.metrics,
        "duration_ms": info.duration_ms,
        "cost_micro_usd": info.cost_micro_usd,
    }))?;
    Ok(ExitCode::Done)
}

fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot read {}: {error}", path.display()))
}

fn show_tree(store: &Store, digest: &Digest) -> Result<ExitCode, Failure> {
    let tree = store.read_tree(digest)?;
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
    Ok(ExitCode::Done)
}

fn is_text(path: &Path) -> io::Result<bool> {
    let mut sample = Vec::new();
    File::open(path)?.take(SAMPLE).read_to_end(&mut sample)?;
    let utf8 = match std::str::from_utf8(&sample) {
        Ok(_) => true,
        // A character may be cut by the end of the sample.
        Err(error) => error.error_len().is_none() && sample.len() as u64 == SAMPLE,
    };
    Ok(utf8 && !sample.contains(&0))
}

fn show_lines(text: impl Read, lines: usize, size: u64) -> Result<ExitCode, Failure> {
    let mut head = Head { text, lines_left: if lines == 0 { usize::MAX } else { lines }, read: 0 };
    output::copy(&mut head)?;
    if head.lines_left == 0 && head.read < size {
        output::note(&format!(
            "... the first {} of {}; -n 0 shows all",
            format::count(lines as u64, "line"),
            format::size(size)
        ));
    }
    Ok(ExitCode::Done)
}

/// The first lines of a text, in pieces: a single line may be larger than memory.
struct Head<R> {
    text: R,
    lines_left: usize,
    read: u64,
}

impl<R: Read> Read for Head<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.lines_left == 0 {
            return Ok(0);
        }
        let filled = self.text.read(buffer)?;
        let mut ends = buffer[..filled].iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let taken = match ends.nth(self.lines_left - 1) {
            Some((last, _)) => {
                self.lines_left = 0;
                last + 1
            }
            None => {
                self.lines_left -= buffer[..filled].iter().filter(|byte| **byte == b'\n').count();
                filled
            }
        };
        self.read += taken as u64;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_at_its_line_whatever_the_size_of_the_pieces() {
        let text = "one\ntwo\n\nfour\nfive";
        for piece in 1..text.len() + 2 {
            for (lines, expected) in [(1, "one\n"), (3, "one\ntwo\n\n"), (9, text)] {
                let mut head = Head { text: text.as_bytes(), lines_left: lines, read: 0 };
                let mut got = Vec::new();
                let mut buffer = vec![0; piece];
                loop {
                    match head.read(&mut buffer).unwrap() {
                        0 => break,
                        filled => got.extend_from_slice(&buffer[..filled]),
                    }
                }
                assert_eq!(String::from_utf8(got).unwrap(), expected, "pieces of {piece}");
                assert_eq!(head.read, expected.len() as u64);
            }
        }
    }
}

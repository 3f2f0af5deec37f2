//! Are the published files still what the pipeline made?

use std::path::Path;

use okapi_cache::hash_source;

use super::{AuditQuestion, Finding, Recorded, Verdict};

const PLACES: &str = "`okapi run` places what it made, and keeps what lies there beside it";

/// The published files and folders below `root` that are not the recorded outputs, with the instances that made those.
pub fn published(
    question: &AuditQuestion<'_>,
    recorded: &[Option<Recorded>],
    root: &Path,
) -> Vec<(String, Finding)> {
    let mut findings = Vec::new();
    for entry in &question.graph.publish {
        let id = entry.instance as usize;
        let Some(result) = recorded[id].as_ref() else { continue };
        let Some(output) = result.outputs.get(usize::from(entry.port)) else { continue };
        let path = root.join(&*entry.path);
        let name = question.graph.instances[id].name.to_string();
        let (verdict, message, hint) = match hash_source(&path) {
            // The list of a folder's files, written as a file, has the folder's digest.
            Ok(found) if (found.kind, found.digest) == (output.kind, output.digest) => continue,
            // A link that leads nowhere among them.
            _ if !path.exists() => {
                let message = format!("what it made for `{}` is not there", entry.path);
                (Verdict::Missing, message, "`okapi run` places what it made")
            }
            Ok(_) => {
                let message = format!("what lies at `{}` is not what it made", entry.path);
                (Verdict::ChangedSince, message, PLACES)
            }
            // A pipe, or a link that leads out of a folder: no output is such.
            Err(error) => {
                let message = format!("what lies at `{}` is not what it made: {error}", entry.path);
                (Verdict::ChangedSince, message, PLACES)
            }
        };
        findings.push((name, Finding { verdict, message, hint: Some(hint) }));
    }
    findings
}

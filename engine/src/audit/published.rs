//! Are the published files still what the pipeline made?

use std::path::Path;

use okapi_cache::{StoreError, hash_source};

use super::{AuditQuestion, Finding, Recorded, Verdict};

/// The published files and folders that differ from the recorded outputs, with the instances that made those. One that is
/// not there says nothing wrong.
///
/// # Errors
/// When one is there and cannot be read.
pub fn published(
    question: &AuditQuestion<'_>,
    recorded: &[Option<Recorded>],
    project_root: &Path,
) -> Result<Vec<(String, Finding)>, StoreError> {
    let mut findings = Vec::new();
    for entry in &question.graph.publish {
        let id = entry.instance as usize;
        let Some(result) = recorded[id].as_ref() else { continue };
        let Some(output) = result.outputs.get(usize::from(entry.port)) else { continue };
        let path = project_root.join(&*entry.path);
        if !path.exists() || hash_source(&path)?.digest == output.digest {
            continue;
        }
        let finding = Finding {
            verdict: Verdict::ChangedSince,
            message: format!("what lies at `{}` is not what it made", entry.path),
            hint: Some("`okapi run` places what it made, and keeps what lies there beside it"),
        };
        findings.push((question.graph.instances[id].name.to_string(), finding));
    }
    Ok(findings)
}

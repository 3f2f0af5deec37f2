//! Are the published files still what the pipeline made?

use std::path::Path;

use okapi_cache::{StoreError, hash_source};

use super::{AuditQuestion, Finding, Recorded, Verdict};

/// The published files and folders below `root` that differ from the recorded outputs, with the instances that made those.
/// One that is not there says nothing wrong, but in a bundle.
///
/// # Errors
/// When one is there and cannot be read.
pub fn published(
    question: &AuditQuestion<'_>,
    recorded: &[Option<Recorded>],
    root: &Path,
) -> Result<Vec<(String, Finding)>, StoreError> {
    let mut findings = Vec::new();
    for entry in &question.graph.publish {
        let id = entry.instance as usize;
        let Some(result) = recorded[id].as_ref() else { continue };
        let Some(output) = result.outputs.get(usize::from(entry.port)) else { continue };
        let path = root.join(&*entry.path);
        let name = question.graph.instances[id].name.to_string();
        if !path.exists() {
            if question.is_bundle {
                let message = format!("what it made for `{}` is not there", entry.path);
                findings.push((name, Finding { verdict: Verdict::Missing, message, hint: None }));
            }
            continue;
        }
        if hash_source(&path)?.digest == output.digest {
            continue;
        }
        let finding = Finding {
            verdict: Verdict::ChangedSince,
            message: format!("what lies at `{}` is not what it made", entry.path),
            hint: match question.is_bundle {
                true => None,
                false => {
                    Some("`okapi run` places what it made, and keeps what lies there beside it")
                }
            },
        };
        findings.push((name, finding));
    }
    Ok(findings)
}

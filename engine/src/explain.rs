//! Why an instance runs, or why it need not: its action against the one it had before.

use okapi_cache::{ActionDigest, ArtifactKind, Store, StoreError};
use similar::TextDiff;

use crate::action::{Action, parse_artifact};
use crate::action_diff::{FieldChange, diff, fields};
use crate::evaluate::Miss;
use crate::manifest::Manifest;

/// How many differing fields a line names.
const FIELDS_IN_A_LINE: usize = 3;

/// Texts longer than this are not compared line by line.
const LONGEST_TEXT: u64 = 1024 * 1024;

/// An instance's action against the one it had in the pipeline's last run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The action now.
    pub action: ActionDigest,
    /// The action in the last run that had this instance.
    pub previous: Option<ActionDigest>,
    /// What differs; empty if nothing does or if there is no previous action.
    pub changes: Vec<Change>,
    /// How many fields are the same.
    pub equal_fields: usize,
    /// How long the work took the last time, milliseconds.
    pub previous_duration_ms: Option<u64>,
}

/// A field that differs, with the lines that differ if both sides are texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The field and its values.
    pub change: FieldChange,
    /// A unified diff of the two texts: of a script, a prompt, a tracked file, an input.
    pub lines: Option<String>,
}

/// Compares an instance's action document with the one it had before. `new_text` gives the present
/// content of a field that names a file which is not in the store yet, such as an edited prompt.
///
/// # Errors
/// When the store cannot be read.
pub fn explain(
    store: &Store,
    previous: &Manifest,
    instance: &str,
    action: &Action,
    new_text: impl Fn(&str) -> Option<String>,
) -> Result<Explanation, StoreError> {
    let mut explanation = Explanation {
        action: action.digest,
        previous: previous.action(instance),
        changes: Vec::new(),
        equal_fields: 0,
        previous_duration_ms: None,
    };
    let new = fields(&action.document).unwrap_or_default();
    let stored = match explanation.previous {
        Some(previous) => store.document(&previous)?,
        None => None,
    };
    let Some(stored) = stored else { return Ok(explanation) };
    explanation.previous_duration_ms = Some(stored.info.duration_ms);
    let old = fields(&stored.document).unwrap_or_default();
    let changes = diff(&old, &new);
    explanation.equal_fields = new.len() - changes.iter().filter(|it| it.new.is_some()).count();
    for change in changes {
        let lines = line_diff(store, &change, &new_text);
        explanation.changes.push(Change { change, lines });
    }
    Ok(explanation)
}

/// The reason in one line, for events: `params.count changed`, `never run before`.
pub fn reason_in_a_line(
    store: &Store,
    previous: &Manifest,
    instance: &str,
    action: &Action,
    miss: Miss,
) -> String {
    match miss {
        Miss::Forced => return "forced".to_owned(),
        Miss::LostOutput(artifact) => {
            return format!("lost output {}", artifact.digest.short());
        }
        Miss::NoResult => {}
    }
    let Some(before) = previous.action(instance) else { return "never run before".to_owned() };
    if before == action.digest {
        return "no result yet".to_owned();
    }
    let Ok(Some(stored)) = store.document(&before) else { return "not in the cache".to_owned() };
    let old = fields(&stored.document).unwrap_or_default();
    let new = fields(&action.document).unwrap_or_default();
    let changes = diff(&old, &new);
    let mut names: Vec<_> =
        changes.iter().take(FIELDS_IN_A_LINE).map(|change| change.field.as_str()).collect();
    let more = changes.len().saturating_sub(FIELDS_IN_A_LINE);
    let more = format!("{more} more");
    if changes.len() > FIELDS_IN_A_LINE {
        names.push(&more);
    }
    format!("{} changed", names.join(", "))
}

/// The lines that differ between the old and the new text of a field.
fn line_diff(
    store: &Store,
    change: &FieldChange,
    new_text: &impl Fn(&str) -> Option<String>,
) -> Option<String> {
    let old_value = FieldChange::text(change.old.as_deref()?);
    let new_value = FieldChange::text(change.new.as_deref()?);
    let stored = |value: &str| match parse_artifact(value)? {
        (ArtifactKind::File, digest) => store.read_text(&digest, LONGEST_TEXT).ok().flatten(),
        (ArtifactKind::Tree, digest) => tree_listing(store, &digest),
    };
    let (old, new) = if parse_artifact(&new_value).is_some() {
        let new = stored(&new_value).or_else(|| new_text(&change.field))?;
        (stored(&old_value)?, new)
    } else if old_value.contains('\n') || new_value.contains('\n') {
        (old_value, new_value)
    } else {
        return None;
    };
    let diff = TextDiff::from_lines(&old, &new);
    Some(diff.unified_diff().context_radius(2).to_string())
}

/// A tree's manifest as text, one entry a line, so that two can be compared.
fn tree_listing(store: &Store, digest: &okapi_cache::Digest) -> Option<String> {
    let manifest = store.read_text(digest, LONGEST_TEXT).ok().flatten()?;
    let manifest: serde_json::Value = serde_json::from_str(&manifest).ok()?;
    let entries = manifest.get("entries")?.as_array()?;
    Some(entries.iter().map(|entry| format!("{entry}\n")).collect())
}

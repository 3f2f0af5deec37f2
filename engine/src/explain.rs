//! Why an instance runs, or why it need not: its action against the one it had before.

use std::fmt::Write as _;

use okapi_cache::{ActionDigest, ArtifactKind, Store, StoreError};
use similar::TextDiff;

use crate::action::{Action, parse_artifact};
use crate::action_diff::{FieldChange, diff, fields};
use crate::evaluate::Miss;
use crate::lineage::{self, Lineage, LineageChange};
use crate::manifest::Manifest;

/// How many differing fields a line names.
const FIELDS_IN_A_LINE: usize = 3;

/// How many differing ancestors are listed.
const ANCESTORS_LISTED: usize = 20;

/// The field of a document that names a lineage.
const LINEAGE: &str = "lineage";

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
    let changes = changes.into_iter();
    explanation.changes = changes
        .map(|change| with_lines(store, change, action.lineage.as_deref(), &new_text))
        .collect();
    Ok(explanation)
}

/// A change with the lines that differ. `lineage` is the text of the new lineage if it may not be in the store yet,
/// `new_text` as in [`explain`].
pub fn with_lines(
    store: &Store,
    change: FieldChange,
    lineage: Option<&str>,
    new_text: impl Fn(&str) -> Option<String>,
) -> Change {
    let lines = match change.field == LINEAGE {
        true => lineage_diff(store, &change, lineage),
        false => line_diff(store, &change, &new_text),
    };
    Change { change, lines }
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
    let name = |change: &FieldChange| match change.field == LINEAGE {
        true => lineage_in_a_line(store, change, action.lineage.as_deref()),
        false => change.field.clone(),
    };
    let mut names: Vec<_> = changes.iter().take(FIELDS_IN_A_LINE).map(name).collect();
    let more = changes.len().saturating_sub(FIELDS_IN_A_LINE);
    if more > 0 {
        names.push(format!("{more} more"));
    }
    format!("{} changed", names.join(", "))
}

/// `lineage from sft[lang=de] and 3 more`, as far as that is known.
fn lineage_in_a_line(store: &Store, change: &FieldChange, new: Option<&str>) -> String {
    let first = lineage_changes(store, change, new).map(|(first, _)| first);
    match first.as_deref() {
        None | Some([]) => LINEAGE.to_owned(),
        Some([only]) => format!("{LINEAGE} from {}", only.instance),
        Some([one, others @ ..]) => {
            format!("{LINEAGE} from {} and {} more", one.instance, others.len())
        }
    }
}

/// The ancestors that differ, a line each: of a way down only the first.
fn lineage_diff(store: &Store, change: &FieldChange, new: Option<&str>) -> Option<String> {
    let (first, all) = lineage_changes(store, change, new)?;
    let mut text = String::new();
    for LineageChange { instance, what } in first.iter().take(ANCESTORS_LISTED) {
        // Writing to a string never fails.
        let _ = writeln!(text, "{instance}: {what}");
    }
    match all - first.len().min(ANCESTORS_LISTED) {
        0 => {}
        1 => text.push_str("and 1 more ancestor\n"),
        more => {
            let _ = writeln!(text, "and {more} more ancestors");
        }
    }
    Some(text)
}

/// The first ancestors that differ, and how many do; `None` if a lineage is not there any more, or what an instance
/// reads itself is all that differs.
fn lineage_changes(
    store: &Store,
    change: &FieldChange,
    new: Option<&str>,
) -> Option<(Vec<LineageChange>, usize)> {
    let stored = |value: &str| {
        let (_, digest) = parse_artifact(&FieldChange::text(value))?;
        store.read_text(&digest, u64::MAX).ok().flatten()
    };
    let parse = |text: &str| serde_json::from_str::<Lineage>(text).ok();
    let old = parse(&stored(change.old.as_deref()?)?)?;
    let new = match new {
        Some(text) => parse(text)?,
        None => parse(&stored(change.new.as_deref()?)?)?,
    };
    Some(lineage::changes(&old, &new)).filter(|(first, _)| !first.is_empty())
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

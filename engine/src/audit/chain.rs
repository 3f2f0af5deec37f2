//! Does each recorded action follow from the pipeline as it is now and from the results recorded above it?

use okapi_cache::{ArtifactKind, Digest, canonical_json};
use serde_json::{Map, Value};

use super::{AuditQuestion, Finding, Recorded, Verdict};
use crate::action::{Action, ActionWriter, kept_with, parse_artifact};
use crate::action_diff::{FieldChange, diff, fields};
use crate::graph::{Feed, InstanceId};
use crate::lineage;

/// Longer values are not shown.
const LONGEST_VALUE: usize = 60;

/// The recorded results as the links of a chain.
pub(super) struct Chain<'a> {
    question: &'a AuditQuestion<'a>,
    recorded: &'a [Option<Recorded>],
    /// By instance: whether it and all above it have results.
    complete: Vec<bool>,
}

impl<'a> Chain<'a> {
    pub(super) fn new(
        question: &'a AuditQuestion<'a>,
        recorded: &'a [Option<Recorded>],
    ) -> Chain<'a> {
        let mut complete = vec![false; recorded.len()];
        // Inputs come before their readers.
        for (id, instance) in question.graph.instances.iter().enumerate() {
            let mut feeds = instance.inputs.iter().flat_map(|input| &input.feeds);
            complete[id] = recorded[id].is_some()
                && feeds.all(|feed| {
                    complete[feed.instance as usize] && reads(recorded, feed).is_some()
                });
        }
        Chain { question, recorded, complete }
    }

    /// The action that the pipeline gives an instance now, if all above it have results.
    pub(super) fn action(&self, id: InstanceId) -> Option<Action> {
        let AuditQuestion { graph, sources, passed_env, store, .. } = *self.question;
        if !self.complete[id as usize] {
            return None;
        }
        let of = |id: InstanceId| self.recorded[id as usize].as_ref();
        let lineage = lineage::text(graph, &lineage::measures_in(store), id, |ancestor| {
            of(ancestor).expect("all above a complete instance have results").action
        });
        let writer = ActionWriter { graph, sources, passed_env };
        let mut document = String::new();
        let digest = writer.write(id, &mut document, lineage.as_deref(), |feed| {
            reads(self.recorded, feed).expect("all above a complete instance have results")
        });
        Some(Action { document, digest, lineage })
    }

    /// The fields in which the recorded action differs from the one that the pipeline gives now.
    pub(super) fn look_at(&self, id: InstanceId, result: &Recorded) -> Vec<Finding> {
        // What cannot be followed is said of what is missing above.
        let Some(now) = self.action(id) else { return Vec::new() };
        let Some(stored) = &result.stored else { return Vec::new() };
        let kept = || {
            let AuditQuestion { graph, sources, .. } = *self.question;
            match stored.info.keeps == kept_with(graph, sources, id, &now) {
                true => Vec::new(),
                false => vec![kept_others()],
            }
        };
        if now.digest == result.action {
            return kept();
        }
        if Digest::of(stored.document.as_bytes()) != result.action.0 {
            // It says so itself, and what it holds is worth nothing.
            return Vec::new();
        }
        let old = fields(&stored.document).unwrap_or_default();
        let new = fields(&now.document).unwrap_or_default();
        let changes = diff(&old, &new);
        if changes.is_empty() {
            return vec![other_form()];
        }
        if self.question.is_bundle && changes.iter().all(is_of_environment) {
            // Values of the environment are in no document, and those of another machine say nothing; all else has to
            // be the same to the byte.
            return match with_environment_of(&stored.document, &now.document) == stored.document {
                true => kept(),
                false => vec![other_form()],
            };
        }
        changes.iter().map(finding).collect()
    }
}

fn other_form() -> Finding {
    Finding {
        verdict: Verdict::Corrupt,
        message: "its document says what the pipeline says, but not in the form in which documents are written".to_owned(),
        hint: Some("`okapi run` makes the result anew"),
    }
}

fn kept_others() -> Finding {
    Finding {
        verdict: Verdict::Corrupt,
        message: "its result keeps other prompts, files or lineage than its action names"
            .to_owned(),
        hint: Some("`okapi run --force NODE` makes the result again"),
    }
}

/// Whether a change is that of a variable which both documents have.
fn is_of_environment(change: &FieldChange) -> bool {
    change.field.starts_with("pass_env.") && change.old.is_some() && change.new.is_some()
}

/// A document with the values of variables that another has.
fn with_environment_of(other: &str, document: &str) -> String {
    let parse = |text: &str| serde_json::from_str::<Map<String, Value>>(text).unwrap_or_default();
    let mut mixed = parse(document);
    mixed.extend(parse(other).remove("env").map(|env| ("env".to_owned(), env)));
    canonical_json::to_string(&mixed.into())
}

/// The artifact that a feed reads.
fn reads(recorded: &[Option<Recorded>], feed: &Feed) -> Option<okapi_cache::Artifact> {
    recorded[feed.instance as usize].as_ref()?.outputs.get(usize::from(feed.port)).copied()
}

fn finding(change: &FieldChange) -> Finding {
    let FieldChange { field, old, new } = change;
    let (recorded, now) = (shown(old.as_deref()), shown(new.as_deref()));
    let is_from_above = field.starts_with("inputs.") || field == "lineage";
    let message = match is_from_above {
        true => format!("its `{field}` is {recorded}, and what is recorded above gives {now}"),
        false => format!("`{field}` was {recorded}, and is {now} now"),
    };
    let hint = match is_from_above {
        true => "a node above has another result by now: `okapi run` brings this one up to date",
        false => "`okapi explain PIPELINE NODE` shows what changed; undo it, or `okapi run`",
    };
    Finding { verdict: Verdict::ChangedSince, message, hint: Some(hint) }
}

fn shown(value: Option<&str>) -> String {
    let Some(value) = value else { return "not there".to_owned() };
    let text = FieldChange::text(value);
    if let Some((kind, digest)) = parse_artifact(&text) {
        let kind = if kind == ArtifactKind::File { "file" } else { "tree" };
        return format!("{kind} {}", digest.short());
    }
    match text.chars().count() > LONGEST_VALUE || text.contains('\n') {
        true => {
            let start: String = text.chars().take(LONGEST_VALUE).collect();
            let line = start.lines().next().unwrap_or_default();
            format!("`{line} ...`")
        }
        false => format!("`{text}`"),
    }
}

//! Does each recorded action follow from the pipeline as it is now and from the results recorded above it?

use std::collections::{BTreeMap, BTreeSet};

use okapi_cache::{ActionDigest, Artifact, ArtifactKind, Digest, StoreError, canonical_json};
use serde_json::{Map, Value};

use super::{AuditQuestion, Finding, Recorded, Verdict};
use crate::action::{Action, ActionWriter, kept_with, parse_artifact};
use crate::action_diff::{FieldChange, diff, fields};
use crate::graph::{Feed, InstanceId};
use crate::lineage::{self, LineageScope};
use crate::run_reports::{Measured, Reports, reports};

/// Longer values are not shown.
const LONGEST_VALUE: usize = 60;

/// The recorded results as the links of a chain.
pub(super) struct Chain<'a> {
    question: &'a AuditQuestion<'a>,
    recorded: &'a [Option<Recorded>],
    /// What runs reported when they made the results.
    pub(super) reports: Reports,
    /// By instance: the first above it that has no result.
    lacks_above: Vec<Option<InstanceId>>,
}

/// An action as far as the results above give it.
struct Partly {
    document: String,
    /// What is kept with its result, as far as it is known.
    keeps: Vec<Artifact>,
    /// The fields whose values are not known, with the instance that has no result.
    unknown: BTreeMap<String, InstanceId>,
}

impl<'a> Chain<'a> {
    /// # Errors
    /// When the store cannot be read.
    pub(super) fn new(
        question: &'a AuditQuestion<'a>,
        recorded: &'a [Option<Recorded>],
    ) -> Result<Chain<'a>, StoreError> {
        let mut lacks_above: Vec<Option<InstanceId>> = vec![None; recorded.len()];
        // Inputs come before their readers.
        for (id, instance) in question.graph.instances.iter().enumerate() {
            let feeds = instance.inputs.iter().flat_map(|input| &input.feeds);
            let mut lacking = feeds.filter_map(|feed| match reads(recorded, feed) {
                None => Some(feed.instance),
                Some(_) => lacks_above[feed.instance as usize],
            });
            lacks_above[id] = lacking.next();
        }
        let made = recorded.iter().flatten().filter_map(|result| {
            Some((result.action, Measured::of(&result.stored.as_ref()?.info)))
        });
        let reports = reports(question.store, made.collect())?;
        Ok(Chain { question, recorded, reports, lacks_above })
    }

    /// The action that the pipeline gives an instance now, if the results are there that it comes from.
    pub(super) fn action(&self, id: InstanceId) -> Option<Action> {
        let lineage = self.lineage(id).ok()?;
        let instance = &self.question.graph.instances[id as usize];
        let mut feeds = instance.inputs.iter().flat_map(|input| &input.feeds);
        if !feeds.all(|feed| reads(self.recorded, feed).is_some()) {
            return None;
        }
        let mut document = String::new();
        let digest = self.writer().write(id, &mut document, lineage.as_deref(), |feed| {
            reads(self.recorded, feed).expect("what an instance reads was looked for")
        });
        Some(Action { document, digest, lineage })
    }

    fn writer(&self) -> ActionWriter<'a> {
        let AuditQuestion { graph, sources, passed_env, .. } = *self.question;
        ActionWriter { graph, sources, passed_env }
    }

    /// The text of an instance's lineage, if it has one; an error names an ancestor without a result.
    fn lineage(&self, id: InstanceId) -> Result<Option<String>, InstanceId> {
        let AuditQuestion { graph, store, .. } = *self.question;
        if graph.instances[id as usize].lineage == LineageScope::None {
            return Ok(None);
        }
        if let Some(lacking) = self.lacks_above[id as usize] {
            return Err(lacking);
        }
        let in_store = lineage::measures_in(store);
        // Of a forged metric its own node is told, and not all whose lineage has it.
        let reported = |action: &ActionDigest| {
            let mut measures = in_store(action);
            if let Some(report) = self.reports.get(action) {
                measures.metrics.clone_from(&report.metrics);
                if report.times_are_known {
                    measures.duration_ms = Some(report.measured.duration_ms);
                    measures.cost_micro_usd = report.measured.cost_micro_usd;
                }
            }
            measures
        };
        Ok(lineage::text(graph, &reported, id, |ancestor| {
            let result = self.recorded[ancestor as usize].as_ref();
            result.expect("nothing lacks above it").action
        }))
    }

    /// What the results that are there give of an action that cannot be recomputed.
    fn action_partly(&self, id: InstanceId) -> Partly {
        let AuditQuestion { graph, sources, .. } = *self.question;
        let mut unknown = BTreeMap::new();
        for input in &graph.instances[id as usize].inputs {
            for feed in input.feeds.iter().filter(|feed| reads(self.recorded, feed).is_none()) {
                let field = match input.gathered {
                    true => format!("inputs.{}.{}", input.port, feed.key),
                    false => format!("inputs.{}", input.port),
                };
                unknown.insert(field, feed.instance);
            }
        }
        let lineage = self.lineage(id).unwrap_or_else(|lacking| {
            unknown.insert("lineage".to_owned(), lacking);
            Some(String::new())
        });
        let nothing = Artifact { kind: ArtifactKind::File, digest: Digest::of(b""), size: 0 };
        let mut document = String::new();
        let digest = self.writer().write(id, &mut document, lineage.as_deref(), |feed| {
            reads(self.recorded, feed).unwrap_or(nothing)
        });
        let lineage = lineage.filter(|_| !unknown.contains_key("lineage"));
        let action = Action { document, digest, lineage };
        let keeps = kept_with(graph, sources, id, &action);
        Partly { document: action.document, keeps, unknown }
    }

    /// The fields in which the recorded action differs from the one that the pipeline gives now.
    pub(super) fn look_at(&self, id: InstanceId, result: &Recorded) -> Vec<Finding> {
        let Some(stored) = &result.stored else { return Vec::new() };
        let Some(now) = self.action(id) else { return self.look_at_partly(id, result) };
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
        let changes = changes(&stored.document, &now.document);
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

    /// The same of an instance whose action cannot be recomputed: it is never verified.
    fn look_at_partly(&self, id: InstanceId, result: &Recorded) -> Vec<Finding> {
        let Some(stored) = &result.stored else { return Vec::new() };
        if Digest::of(stored.document.as_bytes()) != result.action.0 {
            return Vec::new();
        }
        let Partly { document, keeps, unknown } = self.action_partly(id);
        let name = |id: &InstanceId| &*self.question.graph.instances[*id as usize].name;
        let mut found = Vec::new();
        for change in changes(&stored.document, &document) {
            match unknown.get(&change.field) {
                Some(_) if change.old.is_some() && change.new.is_some() => {}
                Some(lacking) => found.push(is_new(&change.field, name(lacking))),
                None if self.question.is_bundle && is_of_environment(&change) => {}
                None => found.push(finding(&change)),
            }
        }
        let lineages = usize::from(unknown.contains_key("lineage"));
        let are_kept = stored.info.keeps.starts_with(&keeps)
            && stored.info.keeps.len() == keeps.len() + lineages;
        // Where other files are tracked by now, that is said.
        if found.is_empty() && !are_kept {
            found.push(kept_others());
        }
        if found.is_empty() {
            let lacking: BTreeSet<InstanceId> = unknown.into_values().collect();
            found.push(not_recomputed(&lacking.iter().map(name).collect::<Vec<_>>()));
        }
        found
    }
}

/// What differs between a recorded document and the one of now.
fn changes(recorded: &str, now: &str) -> Vec<FieldChange> {
    let (old, new) = (fields(recorded).unwrap_or_default(), fields(now).unwrap_or_default());
    diff(&old, &new)
}

fn is_new(field: &str, lacking: &str) -> Finding {
    Finding {
        verdict: Verdict::ChangedSince,
        message: format!(
            "`{field}` was not there, and is what `{lacking}` gives now, which has no result"
        ),
        hint: Some("`okapi explain PIPELINE NODE` shows what changed; undo it, or `okapi run`"),
    }
}

fn not_recomputed(lacking: &[&str]) -> Finding {
    let above = match lacking {
        [first, _, ..] => format!("`{first}` and {} more above it have", lacking.len() - 1),
        _ => format!("`{}` above it has", lacking.first().copied().unwrap_or_default()),
    };
    Finding {
        verdict: Verdict::Missing,
        message: format!("its action cannot be recomputed, for {above} no result"),
        hint: None,
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

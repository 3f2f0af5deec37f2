//! Are the bytes of the recorded results there, and what their names say?

use std::collections::{BTreeMap, BTreeSet};

use okapi_cache::{Artifact, ArtifactKind, Digest, ObjectState, StoreError, Tree, TreeEntry};

use super::{AuditQuestion, Finding, Recorded, Verdict};
use crate::graph::Output;

/// What to do about an object that is lost or damaged.
const MAKE_AGAIN: &str =
    "`okapi cache verify --repair` sets damaged objects aside, and `okapi run` makes them again";

/// The same of what is kept of prompts, files and lineages.
const PUT_BACK: &str = "`okapi cache verify --repair` sets damaged objects aside, and `okapi run` puts these back where they are the \
                        ones of now; else `okapi run --force NODE`";

/// What was found of every object that the recorded results need.
pub(super) struct Objects {
    states: BTreeMap<Digest, ObjectState>,
    /// The folders whose manifests can be read.
    trees: BTreeMap<Digest, Tree>,
    /// What is not there may be elsewhere.
    is_bundle: bool,
}

/// Hashes every object of every recorded result, each once.
pub(super) fn inspect(
    question: &AuditQuestion<'_>,
    recorded: &[Option<Recorded>],
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Objects, StoreError> {
    let store = question.store;
    let mut wanted = BTreeSet::new();
    let mut trees = BTreeMap::new();
    for artifact in recorded.iter().flatten().flat_map(kept_artifacts) {
        wanted.insert(artifact.digest);
        if artifact.kind == ArtifactKind::Tree
            && let Ok(tree) = store.read_tree(&artifact.digest)
        {
            wanted.extend(tree.files().map(|(_, digest)| *digest));
            trees.insert(artifact.digest, tree);
        }
    }
    wanted.extend(recorded.iter().flatten().filter_map(|it| it.stored.as_ref()?.info.log));
    let wanted: Vec<Digest> = wanted.into_iter().collect();
    let states = store.inspect(&wanted, progress)?;
    Ok(Objects {
        states: wanted.into_iter().zip(states).collect(),
        trees,
        is_bundle: question.is_bundle,
    })
}

/// The outputs of a result, and what is kept with it.
fn kept_artifacts(result: &Recorded) -> impl Iterator<Item = Artifact> {
    let keeps = result.stored.iter().flat_map(|stored| &stored.info.keeps);
    result.outputs.iter().chain(keeps).copied()
}

impl Objects {
    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        self.states.len() as u64 - self.elsewhere()
    }

    /// How many are not there, and need not be.
    pub(super) fn elsewhere(&self) -> u64 {
        let missing = self.states.values().filter(|it| **it == ObjectState::Missing);
        if self.is_bundle { missing.count() as u64 } else { 0 }
    }

    /// The bytes of those that are what their names say.
    pub(super) fn good_bytes(&self) -> u64 {
        let size = |state: &ObjectState| match state {
            ObjectState::Good { size } => *size,
            _ => 0,
        };
        self.states.values().map(size).sum()
    }

    /// What does not hold of a result's own bytes.
    pub(super) fn look_at(&self, result: &Recorded, ports: &[Output]) -> Vec<Finding> {
        let mut findings = Vec::new();
        if ports.len() != result.outputs.len() {
            let (has, wanted) = (result.outputs.len(), ports.len());
            findings.push(Finding {
                verdict: Verdict::Corrupt,
                message: format!("its result has {has} outputs, and its stage {wanted}"),
                hint: Some("the stage has changed since: `okapi run` makes the result anew"),
            });
        }
        for (output, artifact) in ports.iter().zip(&result.outputs) {
            let what = format!("its output `{}`", output.port);
            let declared = output.kind.artifact_kind();
            if artifact.kind != declared {
                // Taken for the list of its files alone, a folder would be looked at no further.
                findings.push(wrong_kind(&what, artifact.kind, declared));
                continue;
            }
            self.check(&what, artifact, self.is_bundle, &mut findings);
        }
        let Some(stored) = &result.stored else {
            findings.push(Finding {
                verdict: Verdict::Missing,
                message: "the document of its action cannot be read".to_owned(),
                hint: Some("`okapi run --force NODE` makes the result again"),
            });
            return findings;
        };
        let found = Digest::of(stored.document.as_bytes());
        if found != result.action.0 {
            let (found, action) = (found.short(), result.action.0.short());
            findings.push(Finding {
                verdict: Verdict::Corrupt,
                message: format!("the document of its action {action} hashes to {found}"),
                hint: Some("`okapi run --force NODE` makes the result again"),
            });
        }
        if let Some(log) = stored.info.log
            && self.states.get(&log) != Some(&ObjectState::Missing)
        {
            let hint = "`okapi cache verify --repair` sets it aside; no result depends on a log";
            let found = self.finding("its log", &log, None, false);
            findings.extend(found.map(|it| Finding { hint: Some(hint), ..it }));
        }
        findings
    }

    /// What does not hold of the prompts, files and lineage that are kept with a result. What many results keep is `said` of the
    /// first.
    pub(super) fn look_at_kept(
        &self,
        question: &AuditQuestion<'_>,
        result: &Recorded,
        said: &mut BTreeSet<Artifact>,
    ) -> Vec<Finding> {
        let mut findings = Vec::new();
        for kept in result.stored.iter().flat_map(|stored| &stored.info.keeps) {
            let before = findings.len();
            if said.contains(kept) {
                continue;
            }
            let mut sources = question.graph.sources.iter().zip(question.sources);
            let what = match sources.find(|(_, artifact)| artifact.as_ref() == Some(kept)) {
                Some((source, _)) => format!("the kept `{}`", source.path),
                None => "what is kept of its prompts, files and lineage".to_owned(),
            };
            self.check(&what, kept, false, &mut findings);
            if findings.len() > before {
                said.insert(*kept);
            }
        }
        for finding in findings.iter_mut().filter(|it| it.hint == Some(MAKE_AGAIN)) {
            finding.hint = Some(PUT_BACK);
        }
        findings
    }

    /// A note on a log that is not there: only people read it, and nothing can bring it back.
    pub(super) fn lost_log(&self, result: &Recorded) -> Option<String> {
        let log = result.stored.as_ref()?.info.log?;
        let is_lost = self.states.get(&log) == Some(&ObjectState::Missing);
        is_lost.then(|| format!("its log, the object {}, is not in the store", log.short()))
    }

    /// Looks at an artifact. `may_be_elsewhere` says that its files, but not the list of them, need not be here.
    fn check(
        &self,
        what: &str,
        artifact: &Artifact,
        may_be_elsewhere: bool,
        findings: &mut Vec<Finding>,
    ) {
        let before = findings.len();
        match artifact.kind {
            ArtifactKind::File => {
                findings.extend(self.finding(
                    what,
                    &artifact.digest,
                    Some(artifact.size),
                    may_be_elsewhere,
                ));
            }
            ArtifactKind::Tree => {
                let manifest = format!("the list of files of {what}");
                findings.extend(self.finding(&manifest, &artifact.digest, None, false));
                let Some(tree) = self.trees.get(&artifact.digest) else {
                    if findings.len() == before {
                        findings.push(not_a_list(what));
                    }
                    return;
                };
                if Digest::of(tree.manifest().as_bytes()) != artifact.digest
                    && findings.len() == before
                {
                    findings.push(not_a_list(what));
                }
                for entry in &tree.entries {
                    if let TreeEntry::File { path, digest, size, .. } = entry {
                        let what = format!("the file `{path}` of {what}");
                        findings.extend(self.finding(&what, digest, Some(*size), may_be_elsewhere));
                    }
                }
                if tree.size() != artifact.size && findings.len() == before {
                    findings.push(wrong_size(what, tree.size(), artifact.size));
                }
            }
        }
    }

    fn finding(
        &self,
        what: &str,
        digest: &Digest,
        recorded_size: Option<u64>,
        may_be_elsewhere: bool,
    ) -> Option<Finding> {
        let short = digest.short();
        let (verdict, message) = match self.states.get(digest).unwrap_or(&ObjectState::Missing) {
            ObjectState::Good { size } => {
                let recorded = recorded_size.filter(|recorded| recorded != size)?;
                return Some(wrong_size(what, *size, recorded));
            }
            ObjectState::Missing if may_be_elsewhere => return None,
            ObjectState::Unreadable => {
                (Verdict::Corrupt, format!("{what}, the object {short}, cannot be read"))
            }
            ObjectState::Missing => {
                (Verdict::Missing, format!("{what}, the object {short}, is not in the store"))
            }
            ObjectState::Damaged { found } => {
                let found = found.short();
                (Verdict::Corrupt, format!("{what}, the object {short}, hashes to {found}"))
            }
        };
        Some(Finding { verdict, message, hint: Some(MAKE_AGAIN) })
    }
}

fn not_a_list(what: &str) -> Finding {
    Finding {
        verdict: Verdict::Corrupt,
        message: format!(
            "the list of files of {what} is not in the form in which lists are written"
        ),
        hint: Some("`okapi run --force NODE` makes the result again"),
    }
}

fn wrong_kind(what: &str, recorded: ArtifactKind, declared: ArtifactKind) -> Finding {
    let (recorded, declared) = (recorded.in_words(), declared.in_words());
    Finding {
        verdict: Verdict::Corrupt,
        message: format!("{what} is recorded as {recorded}, and its node declares {declared}"),
        hint: Some("`okapi run --force NODE` makes the result again"),
    }
}

fn wrong_size(what: &str, size: u64, recorded: u64) -> Finding {
    Finding {
        verdict: Verdict::Corrupt,
        message: format!("{what} has {size} bytes, and its result says {recorded}"),
        hint: Some("`okapi run --force NODE` makes the result again"),
    }
}

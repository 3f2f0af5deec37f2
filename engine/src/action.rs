//! The action: the document of all that determines an instance's outputs, and its digest.
//!
//! A document is one canonical JSON object (see `okapi_cache::canonical_json`):
//!
//! ```json
//! {"action":1,
//!  "declared":{"outputs":{"counts":"file"},"run":"wc -w ...","stage":"command","stage_version":1},
//!  "env":{"MODEL":"value:1f83..."},
//!  "files":{"scripts/count.py":"file:6a09..."},
//!  "inputs":{"rows":"file:bb67...","all":{"lang=de":"file:3c6e...","lang=ru":"file:a54f..."}},
//!  "lineage":"file:77d0...",
//!  "prompts":{"generate":"file:510e..."}}
//! ```
//!
//! `declared` comes from the checked graph as it is. `env` holds digests of the values of
//! `pass_env` (a value may be a secret, and documents are kept), `null` for a variable that is not
//! set. Inputs enter by the digest of their content, not by the action
//! that made them: that is what makes early cutoff. `lineage` is the digest of all that they were made from, for
//! the few stages that tell of it (see [`crate::lineage`]). Empty members are left out, so that a field
//! added to the format later changes no digest of a pipeline that does not use it.
//!
//! No path of the machine, no time, no job count and no store enters a document.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use okapi_cache::canonical_json::write_string;
use okapi_cache::{ActionDigest, Artifact, ArtifactKind, Digest};

use serde::{Deserialize, Serialize};

use crate::graph::{Feed, Graph, InstanceId};

/// An instance's action: the document and its digest, the BLAKE3 of the document's bytes; and the lineage that it
/// names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// The canonical JSON.
    pub document: String,
    /// Its digest.
    pub digest: ActionDigest,
    /// The text of its lineage, if it has one that is not in the store already.
    pub lineage: Option<String>,
}

/// Values of the environment variables that nodes pass on, by name; `None` for one that is not set.
pub type PassedEnv = BTreeMap<String, Option<String>>;

/// Writes the action documents of one graph.
#[derive(Debug, Clone, Copy)]
pub struct ActionWriter<'a> {
    /// The checked pipeline.
    pub graph: &'a Graph,
    /// The artifact of each source of the graph; `None` for one outside the selection.
    pub sources: &'a [Option<Artifact>],
    /// Values for `pass_env`.
    pub passed_env: &'a PassedEnv,
}

impl ActionWriter<'_> {
    /// Writes the document of `instance` into `document` (which is cleared first) and returns its
    /// digest. `lineage` is the text of its lineage, if it has one; `artifact_of` gives the artifact that each
    /// input reads.
    pub fn write(
        &self,
        instance: InstanceId,
        document: &mut String,
        lineage: Option<&str>,
        artifact_of: impl Fn(&Feed) -> Artifact,
    ) -> ActionDigest {
        let node = self.graph.node(instance);
        let instance = &self.graph.instances[instance as usize];
        document.clear();
        document.push_str("{\"action\":1,\"declared\":");
        document.push_str(&instance.declared);
        if !node.pass_env.is_empty() {
            document.push_str(",\"env\":");
            write_object(document, &node.pass_env, |document, name| {
                write_string(document, name);
                document.push(':');
                match self.passed_env.get(name.as_str()).and_then(Option::as_ref) {
                    Some(value) => {
                        let digest = Digest::of(value.as_bytes());
                        write!(document, "\"value:{digest}\"")
                            .expect("writing to a string never fails");
                    }
                    None => document.push_str("null"),
                }
            });
        }
        if !instance.files.is_empty() {
            document.push_str(",\"files\":");
            write_object(document, &instance.files, |document, &source| {
                write_string(document, &self.graph.sources[source as usize].path);
                document.push(':');
                write_artifact(document, self.source(source));
            });
        }
        if !instance.inputs.is_empty() {
            document.push_str(",\"inputs\":");
            write_object(document, &instance.inputs, |document, input| {
                write_string(document, &input.port);
                document.push(':');
                if input.gathered {
                    write_object(document, &input.feeds, |document, feed| {
                        write_string(document, &feed.key);
                        document.push(':');
                        write_artifact(document, artifact_of(feed));
                    });
                } else {
                    write_artifact(document, artifact_of(&input.feeds[0]));
                }
            });
        }
        if let Some(lineage) = lineage {
            document.push_str(",\"lineage\":");
            write_artifact(document, lineage_artifact(lineage));
        }
        if !instance.prompts.is_empty() {
            document.push_str(",\"prompts\":");
            write_object(document, &instance.prompts, |document, (name, source)| {
                write_string(document, name);
                document.push(':');
                write_artifact(document, self.source(*source));
            });
        }
        document.push('}');
        ActionDigest(Digest::of(document.as_bytes()))
    }

    fn source(&self, source: u32) -> Artifact {
        // The selection's sources are digested before any action is written.
        self.sources[source as usize].expect("a selected instance's sources have been digested")
    }
}

fn write_object<T>(document: &mut String, members: &[T], write: impl Fn(&mut String, &T)) {
    document.push('{');
    for (position, member) in members.iter().enumerate() {
        if position > 0 {
            document.push(',');
        }
        write(document, member);
    }
    document.push('}');
}

/// What is kept with the result of an instance beside its outputs: tracked files, prompts and lineage, so that a later
/// `explain` can show what changed in them.
pub(crate) fn kept_with(
    graph: &Graph,
    sources: &[Option<Artifact>],
    id: InstanceId,
    action: &Action,
) -> Vec<Artifact> {
    let instance = &graph.instances[id as usize];
    let prompts = instance.prompts.iter().map(|(_, source)| source);
    let tracked = instance.files.iter().chain(prompts);
    let tracked = tracked.filter_map(|&source| sources[source as usize]);
    tracked.chain(action.lineage.as_deref().map(lineage_artifact)).collect()
}

/// A lineage as an artifact.
pub(crate) fn lineage_artifact(text: &str) -> Artifact {
    let digest = Digest::of(text.as_bytes());
    Artifact { kind: ArtifactKind::File, digest, size: text.len() as u64 }
}

fn write_artifact(document: &mut String, artifact: Artifact) {
    let kind = match artifact.kind {
        ArtifactKind::File => "file",
        ArtifactKind::Tree => "tree",
    };
    write!(document, "\"{kind}:{}\"", artifact.digest).expect("writing to a string never fails");
}

/// Reads the artifact back from its form in a document, without its size.
pub fn parse_artifact(text: &str) -> Option<(ArtifactKind, Digest)> {
    let (kind, digest) = text.split_once(':')?;
    let kind = match kind {
        "file" => ArtifactKind::File,
        "tree" => ArtifactKind::Tree,
        _ => return None,
    };
    Some((kind, digest.parse().ok()?))
}

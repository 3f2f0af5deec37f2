//! Collection on the remote: what no kept run refers to goes, results first and objects after.
//!
//! Other writers may be at work. Whatever is younger than the grace stays: its result may be on its way. An older object
//! that a writer finds there and does not send again may go between its look and its result: then that result is
//! incomplete, which is a miss wherever it is asked for, and mended by whoever makes or pushes it anew, or by `verify`.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, TryStreamExt, stream};
use okapi_cache::{ActionDigest, Artifact, ArtifactKind, Digest, Store, TreeEntry};
use serde::Deserialize;
use serde_json::Value;

use crate::error::RemoteError;
use crate::keys::{JobPart, Key, Kind};
use crate::remote::Remote;
use crate::requests::{Listed, Requests, Size};

/// What is there of a job goes when it has ended. Where who submitted it was killed and never came back, it stays so much longer than
/// what is young: jobs may wait in a queue, and work, for weeks.
const JOBS_STAY_MS: u64 = 30 * 24 * 3600 * 1000;
/// The longest document about a job.
const LONGEST_JOB: u64 = 64 << 20;

/// What to keep.
#[derive(Debug, Clone)]
pub struct CollectRequest {
    /// How many runs, the newest; the newest of each pipeline is always kept.
    pub keep_runs: usize,
    /// Drop each kept run whose objects do not fit in so many bytes beside those of newer ones, the newest of a pipeline too.
    pub max_size: Option<u64>,
    /// Whatever was written after this stays, milliseconds since 1970.
    pub written_before_unix_ms: u64,
}

/// What is, or would be, removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collection {
    /// Runs that stay.
    pub kept_runs: u64,
    /// Results that stay.
    pub kept_results: u64,
    /// Objects that stay.
    pub kept_objects: u64,
    /// Their bytes.
    pub kept_bytes: u64,
    /// Of those, bytes that stay only because they are young.
    pub young_bytes: u64,
    /// What goes, in the order in which it goes: runs, what was left of jobs, results, objects.
    pub doomed: Vec<Listed>,
}

impl Collection {
    /// Bytes that go.
    pub fn doomed_bytes(&self) -> u64 {
        self.doomed.iter().map(|listed| listed.size).sum()
    }

    /// How many of a kind go.
    pub fn count(&self, kind: Kind) -> u64 {
        let is = |listed: &&Listed| {
            matches!(
                (&listed.key, kind),
                (Key::Object(_), Kind::Object)
                    | (Key::Action(_), Kind::Action)
                    | (Key::Record(_), Kind::Record)
                    | (Key::Run(_), Kind::Run)
                    | (Key::Job(_), Kind::Job)
            )
        };
        self.doomed.iter().filter(is).count() as u64
    }
}

impl Remote {
    /// Finds what can go. Nothing is removed. Manifests of folders are read through `store`.
    ///
    /// # Errors
    /// When anything cannot be read that says what is to be kept: then nothing may go.
    pub fn survey(
        &self,
        store: &Store,
        request: &CollectRequest,
    ) -> Result<Collection, RemoteError> {
        let mut runs = self.runs()?;
        let mut pipelines = BTreeSet::new();
        let mut number = 0;
        let (mut kept, mut dropped): (Vec<_>, Vec<_>) = runs.drain(..).partition(|(_, run)| {
            number += 1;
            pipelines.insert(run.pipeline.clone()) || number <= request.keep_runs
        });
        self.wait(async {
            let requests = self.requests();
            let objects = requests.list(Kind::Object).await?;
            let sizes: BTreeMap<Digest, u64> = objects.iter().filter_map(object_size).collect();
            let mut marked = BTreeSet::new();
            let mut actions: BTreeSet<ActionDigest> = BTreeSet::new();
            let mut bytes = 0;
            for (name, run) in std::mem::take(&mut kept) {
                let new: Vec<_> =
                    run.actions.iter().filter(|it| !actions.contains(it)).copied().collect();
                let found = requests.objects_of(store, &new).await?;
                let more: u64 = found.difference(&marked).filter_map(|it| sizes.get(it)).sum();
                // An older one may be smaller, and be all that its pipeline has.
                if request.max_size.is_some_and(|max| bytes + more > max) {
                    dropped.push((name, run));
                    continue;
                }
                bytes += more;
                marked.extend(found);
                actions.extend(new);
                kept.push((name, run));
            }
            let mut collection =
                Collection { kept_runs: kept.len() as u64, ..Collection::default() };
            let jobs = requests.list(Kind::Job).await?;
            marked.extend(requests.needed_by_jobs(store, &jobs).await?);
            let is_old = |listed: &Listed| listed.modified_unix_ms < request.written_before_unix_ms;
            let dropped: BTreeSet<_> = dropped.into_iter().map(|(name, _)| name).collect();
            let goes =
                |listed: &Listed| matches!(&listed.key, Key::Run(name) if dropped.contains(name));
            let listed = requests.list(Kind::Run).await?;
            collection.doomed.extend(listed.into_iter().filter(|it| goes(it) && is_old(it)));
            let left = |listed: &Listed| {
                listed.modified_unix_ms.saturating_add(JOBS_STAY_MS)
                    < request.written_before_unix_ms
            };
            collection.doomed.extend(jobs.into_iter().filter(left));
            for listed in requests.list(Kind::Action).await? {
                let Key::Action(action) = &listed.key else { continue };
                if actions.contains(action) || !is_old(&listed) {
                    collection.kept_results += 1;
                } else {
                    collection.doomed.push(listed);
                }
            }
            for listed in objects {
                let Key::Object(digest) = &listed.key else { continue };
                let is_marked = marked.contains(digest);
                if !is_marked && is_old(&listed) {
                    collection.doomed.push(listed);
                    continue;
                }
                collection.kept_objects += 1;
                collection.kept_bytes += listed.size;
                collection.young_bytes += if is_marked { 0 } else { listed.size };
            }
            Ok(collection)
        })
    }

    /// Removes what was found. Objects go when all results have gone: a crash leaves objects without results.
    ///
    /// # Errors
    /// When the remote fails, or may not be written.
    pub fn remove(&self, collection: &Collection) -> Result<(), RemoteError> {
        self.check_writable()?;
        let (objects, others): (Vec<&Listed>, Vec<&Listed>) =
            collection.doomed.iter().partition(|it| matches!(it.key, Key::Object(_)));
        for group in [others, objects] {
            let removed = stream::iter(group).map(|listed| self.requests().delete(&listed.key));
            let removed = removed.buffer_unordered(self.requests().limits.parallel);
            self.wait(removed.try_collect::<()>())?;
        }
        Ok(())
    }
}

impl Requests {
    /// Every object that jobs are to read, or have made: no result names those yet.
    async fn needed_by_jobs(
        &self,
        store: &Store,
        jobs: &[Listed],
    ) -> Result<BTreeSet<Digest>, RemoteError> {
        let is_read = |listed: &&Listed| matches!(&listed.key, Key::Job(job) if matches!(job.part, JobPart::Work | JobPart::Ended));
        let found = stream::iter(jobs.iter().filter(is_read)).map(|listed| async move {
            // One that went meanwhile needs nothing, and of what is damaged nobody can make use.
            let text = self.get(&listed.key, LONGEST_JOB).await?.unwrap_or_default();
            let document = serde_json::from_slice(&text).unwrap_or_default();
            let (mut artifacts, mut named) = (Vec::new(), BTreeSet::new());
            named_in(&document, &mut artifacts, &mut named);
            named.extend(self.named_by(store, artifacts.iter()).await?);
            Ok::<_, RemoteError>(named)
        });
        let sets: Vec<BTreeSet<Digest>> =
            found.buffer_unordered(self.limits.parallel).try_collect().await?;
        Ok(sets.into_iter().flatten().collect())
    }

    /// Every object that the results of these actions name. A result that is not there names none.
    async fn objects_of(
        &self,
        store: &Store,
        actions: &[ActionDigest],
    ) -> Result<BTreeSet<Digest>, RemoteError> {
        let found = stream::iter(actions).map(|action| async move {
            match self.result(action).await {
                Ok(Some(result)) => {
                    let artifacts = result.outputs.iter().chain(&result.info.keeps);
                    let mut named = self.named_by(store, artifacts).await?;
                    named.extend(result.info.log);
                    Ok(named)
                }
                // One that is damaged is a miss to all who ask: it keeps nothing.
                Ok(None) | Err(RemoteError::Damaged { .. } | RemoteError::BadResult { .. }) => {
                    Ok(BTreeSet::new())
                }
                Err(error) => Err(error),
            }
        });
        let sets: Vec<BTreeSet<Digest>> =
            found.buffer_unordered(self.limits.parallel).try_collect().await?;
        Ok(sets.into_iter().flatten().collect())
    }

    /// Every object of artifacts; files of folders are told by their manifests, which are fetched.
    pub(crate) async fn named_by(
        &self,
        store: &Store,
        artifacts: impl Iterator<Item = &Artifact>,
    ) -> Result<BTreeSet<Digest>, RemoteError> {
        let mut named = BTreeSet::new();
        for artifact in artifacts {
            named.insert(artifact.digest);
            if artifact.kind != ArtifactKind::Tree {
                continue;
            }
            if store.object_size(&artifact.digest).is_none() {
                match self.fetch(store, &artifact.digest, Size::AtMost(256 << 20)).await {
                    Ok(_) | Err(RemoteError::Damaged { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            if let Ok(tree) = store.read_tree(&artifact.digest) {
                named.extend(tree.entries.into_iter().filter_map(|entry| match entry {
                    TreeEntry::File { digest, .. } => Some(digest),
                    _ => None,
                }));
            }
        }
        Ok(named)
    }
}

/// The artifacts and digests in a document about a job, whatever else is in it: only the engine knows that.
fn named_in(value: &Value, artifacts: &mut Vec<Artifact>, named: &mut BTreeSet<Digest>) {
    match value {
        Value::Object(members) => match Artifact::deserialize(value) {
            Ok(artifact) => artifacts.push(artifact),
            Err(_) => members.values().for_each(|it| named_in(it, artifacts, named)),
        },
        Value::Array(items) => items.iter().for_each(|it| named_in(it, artifacts, named)),
        Value::String(text) => named.extend(text.parse::<Digest>().ok()),
        _ => {}
    }
}

fn object_size(listed: &Listed) -> Option<(Digest, u64)> {
    match listed.key {
        Key::Object(digest) => Some((digest, listed.size)),
        _ => None,
    }
}

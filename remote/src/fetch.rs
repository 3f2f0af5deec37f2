//! From the remote into a store: results, and the objects that they name.

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt, stream};
use okapi_cache::{
    ActionDigest, Artifact, ArtifactKind, Digest, LONGEST_RESULT_FILE, ResultFile, Store,
    StoreError, TreeEntry,
};

use crate::error::RemoteError;
use crate::keys::Key;
use crate::requests::{Requests, Size};

/// The longest manifest of a folder: a million files.
const LONGEST_MANIFEST: u64 = 256 << 20;
/// The longest log that is fetched.
const LONGEST_LOG: u64 = 64 << 20;

/// What was transferred.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Moved {
    /// Adds another.
    pub fn add(&mut self, other: Moved) {
        self.objects += other.objects;
        self.bytes += other.bytes;
    }
}

impl Requests {
    /// The result of an action, if the remote has one that can be used. Of its objects nothing is known.
    pub(crate) async fn result(
        &self,
        action: &ActionDigest,
    ) -> Result<Option<ResultFile>, RemoteError> {
        let key = Key::Action(*action);
        let Some(bytes) = self.get(&key, LONGEST_RESULT_FILE).await? else { return Ok(None) };
        let damaged = |message: &str| RemoteError::Damaged {
            key: key.to_string(),
            message: message.to_owned(),
        };
        let text = String::from_utf8(bytes).map_err(|_| damaged("it is no text"))?;
        let read = ResultFile::decode(&text, action);
        read.map(Some).map_err(|source| RemoteError::BadResult { key: key.to_string(), source })
    }

    /// Brings everything that a result names into the store: its outputs, and as far as they are there its log and what
    /// it keeps. A result whose outputs cannot be had is remembered as one to be sent anew.
    pub(crate) async fn fetch_objects(
        &self,
        store: &Store,
        result: &ResultFile,
    ) -> Result<Moved, RemoteError> {
        let fetched = self.fetch_artifacts(store, &result.outputs).await;
        match &fetched {
            Err(RemoteError::Incomplete { .. }) => self.unusable.add_result(result.action),
            Err(RemoteError::Damaged { .. }) => {
                self.unusable.add_result(result.action);
                self.doubt(store, &result.outputs);
            }
            _ => {}
        }
        let mut moved = fetched?;
        let beside = async {
            let mut moved = self.fetch_artifacts(store, &result.info.keeps).await?;
            moved.add(self.fetch_log(store, result.info.log).await?);
            Ok(moved)
        };
        match beside.await {
            Ok(more) => moved.add(more),
            Err(RemoteError::Store(error)) => return Err(error.into()),
            // Only people read it: the result is whole without.
            Err(_) => {}
        }
        Ok(moved)
    }

    /// The first object that is damaged ends the fetching: others that have not arrived may be, too.
    pub(crate) fn doubt(&self, store: &Store, outputs: &[Artifact]) {
        let lacking = |digest: &Digest| store.object_size(digest).is_none();
        for output in outputs {
            let manifest = (output.kind == ArtifactKind::Tree)
                .then(|| store.read_tree(&output.digest).ok())
                .flatten();
            let files = manifest.into_iter().flat_map(|manifest| manifest.entries);
            let files = files.filter_map(|entry| match entry {
                TreeEntry::File { digest, .. } => Some(digest),
                _ => None,
            });
            let objects = files.chain([output.digest]).filter(lacking);
            objects.for_each(|digest| self.unusable.add_object(digest));
        }
    }

    /// Brings what an execution wrote for people.
    pub(crate) async fn fetch_log(
        &self,
        store: &Store,
        log: Option<Digest>,
    ) -> Result<Moved, RemoteError> {
        match log.filter(|log| store.object_size(log).is_none()) {
            Some(log) => self.fetch_all(store, vec![(log, Size::AtMost(LONGEST_LOG))]).await,
            None => Ok(Moved::default()),
        }
    }

    pub(crate) async fn fetch_artifacts(
        &self,
        store: &Store,
        artifacts: &[Artifact],
    ) -> Result<Moved, RemoteError> {
        let mut wanted = BTreeMap::new();
        for artifact in artifacts {
            match artifact.kind {
                ArtifactKind::File
                    if store.object_size(&artifact.digest) == Some(artifact.size) => {}
                ArtifactKind::File => {
                    wanted.insert(artifact.digest, Size::Exactly(artifact.size));
                }
                ArtifactKind::Tree if store.object_size(&artifact.digest).is_some() => {}
                ArtifactKind::Tree => {
                    wanted.insert(artifact.digest, Size::AtMost(LONGEST_MANIFEST));
                }
            }
        }
        // Manifests first: they say which files there are.
        let mut moved = self.fetch_all(store, wanted.into_iter().collect()).await?;
        let mut files = BTreeMap::new();
        for tree in artifacts.iter().filter(|artifact| artifact.kind == ArtifactKind::Tree) {
            let damaged = |message: String| RemoteError::Damaged {
                key: Key::Object(tree.digest).to_string(),
                message,
            };
            let manifest = match store.read_tree(&tree.digest) {
                Ok(manifest) => manifest,
                Err(error @ (StoreError::Full { .. } | StoreError::ReadOnly { .. })) => {
                    return Err(error.into());
                }
                Err(error) => return Err(damaged(format!("it is no folder: {error}"))),
            };
            if manifest.size() != tree.size {
                let message = format!(
                    "its files have {} bytes, and the result says {}",
                    manifest.size(),
                    tree.size
                );
                return Err(damaged(message));
            }
            for entry in manifest.entries {
                if let TreeEntry::File { digest, size, .. } = entry
                    && store.object_size(&digest) != Some(size)
                {
                    files.insert(digest, Size::Exactly(size));
                }
            }
        }
        moved.add(self.fetch_all(store, files.into_iter().collect()).await?);
        Ok(moved)
    }

    async fn fetch_all(
        &self,
        store: &Store,
        objects: Vec<(Digest, Size)>,
    ) -> Result<Moved, RemoteError> {
        let fetched = stream::iter(objects).map(|(digest, size)| async move {
            let bytes = self.fetch(store, &digest, size).await?;
            bytes.ok_or(RemoteError::Incomplete { digest })
        });
        let sizes: Vec<u64> = fetched.buffer_unordered(self.limits.parallel).try_collect().await?;
        Ok(Moved { objects: sizes.len() as u64, bytes: sizes.iter().sum() })
    }
}

//! From a store to the remote: objects first, then the result that names them.

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt, stream};
use okapi_cache::{
    ActionDigest, Artifact, ArtifactKind, Digest, ResultFile, Store, StoreError, TreeEntry,
};

use crate::error::RemoteError;
use crate::fetch::Moved;
use crate::keys::Key;
use crate::requests::{LARGEST_WHOLE, PARTS_FROM, Requests};
use crate::writes::Created;

/// What became of a result that was offered.
#[derive(Debug, Clone, PartialEq)]
pub enum Pushed {
    /// The remote has it now.
    New(Moved),
    /// The remote had it, with the same outputs.
    Agreed(Moved),
    /// The remote had one with other outputs and keeps it: the action is not repeatable.
    Differs {
        /// What the remote has.
        there: Vec<Artifact>,
    },
    /// The remote had another, or one that was damaged or had lost objects, and has this one now.
    Replaced(Moved),
    /// There is no such result in the store, or one of its outputs is lost.
    NotHere,
}

/// When a result takes the place of one that the remote has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replace {
    /// If that one cannot be used: it cannot be read, or lacks objects.
    Damaged,
    /// Always.
    Any,
}

impl Requests {
    /// Offers a result with its objects.
    pub(crate) async fn push(
        &self,
        store: &Store,
        action: &ActionDigest,
        replace: Replace,
    ) -> Result<Pushed, RemoteError> {
        let Some(result) = store.result_file(action)? else { return Ok(Pushed::NotHere) };
        if result.outputs.iter().any(|output| !store.is_complete(output)) {
            return Ok(Pushed::NotHere);
        }
        let mut replace = replace;
        if replace != Replace::Any
            && let Ok(Some(there)) = self.result(action).await
        {
            if there.outputs == result.outputs {
                return self.mend(store, &there).await;
            }
            if self.is_usable(store, &there).await? {
                return Ok(Pushed::Differs { there: there.outputs });
            }
            replace = Replace::Any;
        }
        let outputs = result.outputs.iter().chain(&result.info.keeps);
        let objects = objects_of(store, outputs, result.info.log);
        let moved = self.put_objects(store, objects).await?;
        let key = Key::Action(*action);
        let text = result.encode().into_bytes();
        if replace == Replace::Any {
            self.put(&key, text).await?;
            self.unusable.remove_result(action);
            return Ok(Pushed::Replaced(moved));
        }
        if self.create(&key, text.clone()).await? == Created::Yes {
            return Ok(Pushed::New(moved));
        }
        match self.result(action).await {
            // Another writer was faster.
            Ok(Some(there)) => Ok(compare(&result, &there, moved)),
            Ok(None) => {
                self.put(&key, text).await?;
                Ok(Pushed::New(moved))
            }
            Err(RemoteError::Damaged { .. } | RemoteError::BadResult { .. }) => {
                self.put(&key, text).await?;
                Ok(Pushed::Replaced(moved))
            }
            Err(error) => Err(error),
        }
    }

    /// Sends what has been lost, or was seen to be damaged, of the objects of a result that is there.
    async fn mend(&self, store: &Store, there: &ResultFile) -> Result<Pushed, RemoteError> {
        let named = there.outputs.iter().chain(&there.info.keeps);
        let moved = self.put_objects(store, objects_of(store, named, there.info.log)).await?;
        self.unusable.remove_result(&there.action);
        Ok(match moved.objects {
            0 => Pushed::Agreed(moved),
            _ => Pushed::Replaced(moved),
        })
    }

    /// Whether a result that is there is of use to anybody, as far as that can be seen without its bytes.
    async fn is_usable(&self, store: &Store, there: &ResultFile) -> Result<bool, RemoteError> {
        if self.unusable.has_result(&there.action) {
            return Ok(false);
        }
        if self.lacking(store, there, &BTreeMap::new()).await?.is_some() {
            return Ok(false);
        }
        // Manifests were fetched, and may have been damaged.
        Ok(!there.outputs.iter().any(|output| self.unusable.has_object(&output.digest)))
    }

    /// An object that a result needs and the remote does not have. `listed` are some that it has.
    pub(crate) async fn lacking(
        &self,
        store: &Store,
        result: &ResultFile,
        listed: &BTreeMap<Digest, u64>,
    ) -> Result<Option<Digest>, RemoteError> {
        for digest in self.named_by(store, result.outputs.iter()).await? {
            // A listing may lag behind.
            if !listed.contains_key(&digest) && self.size(&Key::Object(digest)).await?.is_none() {
                return Ok(Some(digest));
            }
        }
        Ok(None)
    }

    /// Sends the objects that the remote does not have.
    pub(crate) async fn put_objects(
        &self,
        store: &Store,
        objects: Vec<(Digest, u64)>,
    ) -> Result<Moved, RemoteError> {
        let sent = stream::iter(objects).map(|(digest, size)| self.put_object(store, digest, size));
        let sent = sent.buffer_unordered(self.limits.parallel);
        let add = |mut all: Moved, one: Moved| async move {
            all.add(one);
            Ok(all)
        };
        sent.try_fold(Moved::default(), add).await
    }

    /// Sends an object unless the remote has one of its size that was not seen to be damaged.
    pub(crate) async fn put_object(
        &self,
        store: &Store,
        digest: Digest,
        size: u64,
    ) -> Result<Moved, RemoteError> {
        let key = Key::Object(digest);
        match self.size(&key).await? {
            Some(there) if there == size && !self.unusable.has_object(&digest) => {
                return Ok(Moved::default());
            }
            there => self.send_object(store, digest, size, there.is_some()).await?,
        }
        Ok(Moved { objects: 1, bytes: size })
    }

    /// Sends an object; `over` writes over what is there.
    pub(crate) async fn send_object(
        &self,
        store: &Store,
        digest: Digest,
        size: u64,
        over: bool,
    ) -> Result<(), RemoteError> {
        let path = store.object_path(&digest);
        let found = if size >= PARTS_FROM && self.has_parts {
            self.put_in_parts(&digest, &path, size).await?
        } else if size <= LARGEST_WHOLE {
            self.put_whole(&digest, &path, size, over).await?
        } else {
            return Err(RemoteError::TooLarge { digest, bytes: size, limit: LARGEST_WHOLE });
        };
        if found != digest {
            return Err(damaged_here(store, &digest));
        }
        self.unusable.remove_object(&digest);
        Ok(())
    }
}

/// Moves a damaged object aside, and says so.
fn damaged_here(store: &Store, digest: &Digest) -> RemoteError {
    let path = store.object_path(digest);
    let error = store.check_object(digest).err();
    error.unwrap_or(StoreError::Missing { digest: *digest, path }).into()
}

fn compare(ours: &ResultFile, there: &ResultFile, moved: Moved) -> Pushed {
    match ours.outputs == there.outputs {
        true => Pushed::Agreed(moved),
        false => Pushed::Differs { there: there.outputs.clone() },
    }
}

/// Every object of artifacts and of a log that the store has, with its size.
pub(crate) fn objects_of<'a>(
    store: &Store,
    artifacts: impl Iterator<Item = &'a Artifact>,
    log: Option<Digest>,
) -> Vec<(Digest, u64)> {
    let mut objects = BTreeMap::new();
    let mut add = |digest: Digest| {
        if let Some(size) = store.object_size(&digest) {
            objects.insert(digest, size);
        }
    };
    for artifact in artifacts {
        add(artifact.digest);
        if artifact.kind == ArtifactKind::Tree
            && let Ok(tree) = store.read_tree(&artifact.digest)
        {
            for entry in tree.entries {
                if let TreeEntry::File { digest, .. } = entry {
                    add(digest);
                }
            }
        }
    }
    log.into_iter().for_each(&mut add);
    objects.into_iter().collect()
}

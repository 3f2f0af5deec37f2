//! Looks at single objects without changing anything: is what is there what its name says?

use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::artifact::{Artifact, ArtifactKind};
use crate::cas::hash_file;
use crate::store::Store;
use crate::tree::Tree;
use crate::{Digest, StoreError};

/// What an object was found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectState {
    /// What its name says.
    Good {
        /// In bytes.
        size: u64,
    },
    /// Not there.
    Missing,
    /// Something that is no file, or may not be read.
    Unreadable,
    /// Something else.
    Damaged {
        /// What its bytes hash to.
        found: Digest,
    },
}

impl Store {
    /// Hashes these objects, with all processors, and says what they are, in their order. `progress` is told how many
    /// bytes have been hashed since it was told last, from any thread.
    ///
    /// # Errors
    /// When one is there and cannot be read.
    pub fn inspect(
        &self,
        objects: &[Digest],
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Vec<ObjectState>, StoreError> {
        let next = AtomicUsize::new(0);
        let found = Mutex::new(vec![ObjectState::Missing; objects.len()]);
        let work = || -> Result<(), StoreError> {
            while let Some((place, digest)) = take(&next, objects) {
                let state = self.inspect_object(digest)?;
                if let ObjectState::Good { size } = state {
                    progress(size);
                }
                found.lock().unwrap_or_else(PoisonError::into_inner)[place] = state;
            }
            Ok(())
        };
        let helpers = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            let helpers: Vec<_> = (1..helpers).map(|_| scope.spawn(work)).collect();
            let mut result = work();
            for helper in helpers {
                let panicked =
                    || StoreError::io(self.root(), io::Error::other("a thread panicked"));
                result = result.and(helper.join().unwrap_or_else(|_| Err(panicked())));
            }
            result
        })?;
        Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Copies an artifact from another store, and makes sure that it is what its name says.
    ///
    /// # Errors
    /// When an object is missing or damaged there, or this store cannot be written.
    pub fn copy_from(&self, other: &Store, artifact: &Artifact) -> Result<(), StoreError> {
        let mut objects = vec![artifact.digest];
        if artifact.kind == ArtifactKind::Tree {
            objects.extend(other.read_tree(&artifact.digest)?.files().map(|(_, digest)| *digest));
        }
        for digest in objects {
            if self.object_size(&digest).is_some() {
                continue;
            }
            let path = other.object_path(&digest);
            let found = self.ingest(&path, ArtifactKind::File)?.digest;
            if found != digest {
                let reason = format!("the object hashes to {}", found.short());
                return Err(StoreError::Unstorable { path, reason });
            }
        }
        Ok(())
    }

    fn inspect_object(&self, digest: &Digest) -> Result<ObjectState, StoreError> {
        match hash_file(&self.object_path(digest)) {
            Ok((found, size)) if found == *digest => Ok(ObjectState::Good { size }),
            Ok((found, _)) => Ok(ObjectState::Damaged { found }),
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(ObjectState::Missing)
            }
            Err(StoreError::Io { .. } | StoreError::Unstorable { .. }) => {
                Ok(ObjectState::Unreadable)
            }
            Err(error) => Err(error),
        }
    }
}

/// The next of these that nobody has taken.
fn take<'a, T>(next: &AtomicUsize, of: &'a [T]) -> Option<(usize, &'a T)> {
    let place = next.fetch_add(1, Ordering::Relaxed);
    Some((place, of.get(place)?))
}

/// The artifact that a file or folder outside a store is, hashed now: nothing that was remembered is believed.
///
/// # Errors
/// When it cannot be read.
pub fn hash_source(path: &Path) -> Result<Artifact, StoreError> {
    if path.is_dir() {
        let tree = Tree::of_folder(path, &mut |file| hash_file(file))?;
        let digest = Digest::of(tree.manifest().as_bytes());
        return Ok(Artifact { kind: ArtifactKind::Tree, digest, size: tree.size() });
    }
    let (digest, size) = hash_file(path)?;
    Ok(Artifact { kind: ArtifactKind::File, digest, size })
}

//! Jobs of a cluster whose nodes do not see the store: what they are to do goes there by way of the remote, and what came of it
//! comes back. Unlike results, which are shared, all of this concerns one store and is removed when it has served.

use okapi_cache::{Artifact, Digest, Store, StoreError};

use crate::error::RemoteError;
use crate::fetch::Moved;
use crate::keys::{JobKey, JobPart, Key, is_run_name, job_folder};
use crate::push::objects_of;
use crate::remote::Remote;
use crate::requests::Listed;

/// The longest part of a job that is read, bytes.
const LONGEST: u64 = 64 << 20;

impl Remote {
    /// Sends artifacts, and what was written for people, as far as the remote does not have them; waits.
    ///
    /// # Errors
    /// When the remote fails or may not be written, or the store lacks something of an artifact.
    pub fn put_artifacts(
        &self,
        store: &Store,
        artifacts: &[Artifact],
        log: Option<Digest>,
    ) -> Result<Moved, RemoteError> {
        self.check_writable()?;
        if let Some(lacking) = artifacts.iter().find(|artifact| !store.is_complete(artifact)) {
            let (digest, path) = (lacking.digest, store.object_path(&lacking.digest));
            return Err(StoreError::Missing { digest, path }.into());
        }
        let objects = objects_of(store, artifacts.iter(), log);
        self.wait(self.requests().put_objects(store, objects))
    }

    /// Takes objects for damaged that the remote has: the next time they are sent, they are written over.
    pub fn distrust(&self, objects: impl IntoIterator<Item = Digest>) {
        objects.into_iter().for_each(|object| self.requests().unusable.add_object(object));
    }

    /// The same for all that the store has of artifacts.
    pub fn distrust_artifacts(&self, store: &Store, artifacts: &[Artifact]) {
        let objects = objects_of(store, artifacts.iter(), None);
        self.distrust(objects.into_iter().map(|(object, _)| object));
    }

    /// The objects that are, or may be, damaged on the remote, as far as this process has seen it.
    pub fn damaged(&self) -> Vec<Digest> {
        self.requests().unusable.objects()
    }

    /// Whether the remote has an object; waits.
    ///
    /// # Errors
    /// When the remote fails.
    pub fn has_object(&self, object: &Digest) -> Result<bool, RemoteError> {
        Ok(self.wait(self.requests().size(&Key::Object(*object)))?.is_some())
    }

    /// Brings artifacts into the store, and what was written for people if it is there; waits.
    ///
    /// # Errors
    /// When the remote fails, lacks something, or has something damaged; or the store cannot take it.
    pub fn fetch_artifacts(
        &self,
        store: &Store,
        artifacts: &[Artifact],
        log: Option<Digest>,
    ) -> Result<Moved, RemoteError> {
        self.wait(async {
            let fetched = self.requests().fetch_artifacts(store, artifacts).await;
            if matches!(fetched, Err(RemoteError::Damaged { .. })) {
                self.requests().doubt(store, artifacts);
            }
            let mut moved = fetched?;
            match self.requests().fetch_log(store, log).await {
                Ok(more) => moved.add(more),
                Err(RemoteError::Incomplete { .. }) => {}
                Err(error) => return Err(error),
            }
            Ok(moved)
        })
    }

    /// Writes a part of a job, whatever is there; waits.
    ///
    /// # Errors
    /// When the remote fails or may not be written, or the place has no name that one may have.
    pub fn put_job(&self, key: &JobKey, bytes: Vec<u8>) -> Result<(), RemoteError> {
        self.check_writable()?;
        let key = checked(key)?;
        self.wait(self.requests().put(&key, bytes))
    }

    /// Reads a part of a job, if it is there; waits.
    ///
    /// # Errors
    /// When the remote fails, or the part is longer than any should be.
    pub fn job(&self, key: &JobKey) -> Result<Option<Vec<u8>>, RemoteError> {
        let key = checked(key)?;
        // Whoever waits for it has time, and some write much.
        self.wait(self.requests().get_within(&key, LONGEST, LONGEST))
    }

    /// One part of all jobs of a place; waits.
    ///
    /// # Errors
    /// When the remote fails.
    pub fn jobs(&self, place: &str, part: JobPart) -> Result<Vec<Listed>, RemoteError> {
        self.wait(self.requests().list_folder(&job_folder(place, part)))
    }

    /// Removes a part of a job, if it is there; waits.
    ///
    /// # Errors
    /// When the remote fails, or may not be written.
    pub fn delete_job(&self, key: &JobKey) -> Result<(), RemoteError> {
        self.check_writable()?;
        let key = checked(key)?;
        self.wait(self.requests().delete(&key))
    }
}

fn checked(key: &JobKey) -> Result<Key, RemoteError> {
    match is_run_name(&key.place) {
        true => Ok(Key::Job(key.clone())),
        false => Err(RemoteError::Request {
            what: "name",
            key: key.place.clone(),
            message: "it is no name for a place".to_owned(),
            forbidden: false,
        }),
    }
}

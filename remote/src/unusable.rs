//! What a remote has that nobody can use, as far as this process has seen it: whoever makes such a thing anew sends it there, so that not
//! everyone pays for it.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use okapi_cache::{ActionDigest, Digest};

/// Objects that are, or may be, damaged there, and results that are, or that name what is damaged or not there.
#[derive(Debug, Default)]
pub(crate) struct Unusable {
    objects: Mutex<BTreeSet<Digest>>,
    results: Mutex<BTreeSet<ActionDigest>>,
}

impl Unusable {
    pub(crate) fn add_object(&self, object: Digest) {
        lock(&self.objects).insert(object);
    }

    pub(crate) fn has_object(&self, object: &Digest) -> bool {
        lock(&self.objects).contains(object)
    }

    pub(crate) fn objects(&self) -> Vec<Digest> {
        lock(&self.objects).iter().copied().collect()
    }

    /// It was written anew.
    pub(crate) fn remove_object(&self, object: &Digest) {
        lock(&self.objects).remove(object);
    }

    pub(crate) fn add_result(&self, action: ActionDigest) {
        lock(&self.results).insert(action);
    }

    pub(crate) fn has_result(&self, action: &ActionDigest) -> bool {
        lock(&self.results).contains(action)
    }

    /// It was written anew, with its objects.
    pub(crate) fn remove_result(&self, action: &ActionDigest) {
        lock(&self.results).remove(action);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

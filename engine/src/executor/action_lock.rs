//! Who works on an action: jobs of a cluster may outlive whoever submitted them, and two at once would share a working folder.
//!
//! A lease tells coordinators apart, and is given back when one of them ends. This is held by the work itself, for as long as there is
//! any, in a file that stays where it is: whoever removed it under a job would let another one in.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use okapi_cache::{ActionDigest, Store};

/// Held while work on an action goes on.
#[derive(Debug)]
pub(crate) struct ActionLock {
    file: File,
    path: PathBuf,
}

/// How often it is looked whether the work has ended.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

fn path(store: &Store, action: &ActionDigest) -> PathBuf {
    store.jobs_folder().join("locks").join(action.to_string())
}

impl ActionLock {
    /// Takes it as soon as nobody else has it; `None` when `is_over` says so before that. `tell` is called once if it has to be waited for.
    ///
    /// # Errors
    /// When the file cannot be made or locked.
    pub(crate) fn wait(
        store: &Store,
        action: &ActionDigest,
        is_over: impl Fn() -> bool,
        tell: impl FnOnce(),
    ) -> io::Result<Option<ActionLock>> {
        let mut tell = Some(tell);
        loop {
            if let Some(lock) = ActionLock::take(store, action)? {
                return Ok(Some(lock));
            }
            if is_over() {
                return Ok(None);
            }
            if let Some(tell) = tell.take() {
                tell();
            }
            std::thread::sleep(BETWEEN_LOOKS);
        }
    }

    /// Takes it if nobody has it.
    fn take(store: &Store, action: &ActionDigest) -> io::Result<Option<ActionLock>> {
        let path = path(store, action);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = File::options().create(true).append(true).open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Between the opening and the locking somebody may have removed it.
        let (ours, there) = (file.metadata()?, fs::metadata(&path));
        let is_ours =
            there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()));
        Ok(is_ours.then_some(ActionLock { file, path }))
    }

    /// Whether work on an action may go on that this process does not know: there was a job at some time.
    pub(crate) fn is_there(store: &Store, action: &ActionDigest) -> bool {
        path(store, action).exists()
    }

    /// Removes it, if nobody has it.
    pub(crate) fn forget(store: &Store, action: &ActionDigest) {
        // What stays is a file of no bytes.
        if let Ok(Some(lock)) = ActionLock::take(store, action) {
            let _ = fs::remove_file(&lock.path);
            drop(lock.file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use okapi_cache::{Access, Digest, Durability};

    #[test]
    fn one_at_a_time_has_it_and_nobody_loses_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), Access::ReadWrite, Durability::None).unwrap();
        let action = ActionDigest(Digest::of(b"work"));
        assert!(!ActionLock::is_there(&store, &action));
        let first = ActionLock::take(&store, &action).unwrap().unwrap();
        assert!(ActionLock::take(&store, &action).unwrap().is_none());
        // Whoever would forget it while it is held does not.
        ActionLock::forget(&store, &action);
        assert!(ActionLock::is_there(&store, &action));
        let over = ActionLock::wait(&store, &action, || true, || {}).unwrap();
        assert!(over.is_none());
        drop(first);
        assert!(ActionLock::wait(&store, &action, || false, || {}).unwrap().is_some());
        ActionLock::forget(&store, &action);
        assert!(!ActionLock::is_there(&store, &action));
        assert!(ActionLock::take(&store, &action).unwrap().is_some());
    }
}

//! One process executes an action, others wait: a `flock` per action.
//!
//! The kernel frees the lock however its holder ends, so there is nothing to recover. The file's
//! content (who holds it, since when) is for messages only; what is in it never decides anything.
//!
//! A holder that is killed may leave a command that still runs for a moment. Whoever ends it has a
//! share of the lock ([`Lease::share`]), so that nobody else begins the action before it is gone.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::StoreError;
use crate::error::AtPath;

/// The right to execute an action. Dropping it gives it back.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    file: File,
}

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process number.
    pub pid: u32,
    /// Host name.
    pub host: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)
    }
}

impl Lease {
    /// Takes the lease at `path`, unless another holds it.
    pub(crate) fn try_take(path: PathBuf) -> Result<Option<Lease>, StoreError> {
        // Bounded: each turn means that a holder gave the lease back in this very moment.
        for _ in 0..100 {
            let mut file =
                OpenOptions::new().create(true).read(true).append(true).open(&path).at(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(StoreError::io(&path, error)),
            }
            // The holder before us may have removed the name between our open and our lock: then
            // this lock is on a file that nobody else will ever open.
            let ours = file.metadata().at(&path)?.ino();
            if fs::metadata(&path).is_ok_and(|metadata| metadata.ino() == ours) {
                let holder = Holder { pid: std::process::id(), host: host() };
                if let Ok(text) = serde_json::to_vec(&holder) {
                    // For messages only.
                    let _ = file.set_len(0).and_then(|()| file.write_all(&text));
                }
                return Ok(Some(Lease { path, file }));
            }
        }
        Ok(None)
    }

    /// Holds the lock with this one. A lease that is given back is free at once, shares or not; one
    /// whose holder was killed, when the last share is closed.
    ///
    /// # Errors
    /// When the process has too many open files.
    pub fn share(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// Who holds the lease at `path`, as far as can be read.
    pub(crate) fn holder(path: &Path) -> Option<Holder> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // While the lock is still held, so that nobody locks a name that is about to vanish
        // without noticing.
        let _ = fs::remove_file(&self.path);
    }
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    #[test]
    fn a_lease_has_one_holder_and_garbage_does_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lease");
        fs::write(&path, "garbage\0").unwrap();
        let lease = Lease::try_take(path.clone()).unwrap().unwrap();
        assert!(Lease::try_take(path.clone()).unwrap().is_none());
        assert_eq!(Lease::holder(&path).unwrap().pid, std::process::id());
        drop(lease);
        assert!(Lease::try_take(path).unwrap().is_some());
    }

    #[test]
    fn a_share_keeps_the_lease_of_a_killed_holder_and_of_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lease");
        let lease = Lease::try_take(path.clone()).unwrap().unwrap();
        let share = lease.share().unwrap();
        drop(lease);
        let lease = Lease::try_take(path.clone()).unwrap().unwrap();
        drop(share);
        // As a killed holder leaves it: its handle closed, the name still there.
        let share = lease.share().unwrap();
        fs::hard_link(&path, folder.path().join("kept")).unwrap();
        drop(lease);
        fs::rename(folder.path().join("kept"), &path).unwrap();
        assert!(Lease::try_take(path.clone()).unwrap().is_none());
        drop(share);
        assert!(Lease::try_take(path).unwrap().is_some());
    }

    #[test]
    fn threads_that_race_are_never_inside_together() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, taken) = (AtomicBool::new(false), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while taken.load(Ordering::SeqCst) < 400 {
                        if let Some(lease) = Lease::try_take(folder.path().join("l")).unwrap() {
                            assert!(!inside.swap(true, Ordering::SeqCst));
                            taken.fetch_add(1, Ordering::SeqCst);
                            inside.store(false, Ordering::SeqCst);
                            drop(lease);
                        }
                    }
                });
            }
        });
    }
}

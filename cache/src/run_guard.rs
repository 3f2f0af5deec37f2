//! Who is using the store, and what crashed runs left behind.
//!
//! Every run holds a shared `flock` on `run.lock` (the collector takes it exclusively) and one on a
//! marker of its own in `inflight/`. A marker that can be locked belongs to a run that ended without
//! removing it:
//!
//! - it was killed, and the machine is still up: everything that it wrote is there as written;
//! - the machine went down (the marker names another boot): objects of that run may be at their
//!   names without their bytes. All that are not older than the marker are hashed again; what is
//!   damaged goes to `quarantine/`, and its results become misses.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::boot::boot_id;
use crate::error::AtPath;
use crate::store::Store;
use crate::{Digest, StoreError};

/// A run in progress. Dropping it says that the run ended in order.
#[derive(Debug)]
pub struct RunGuard {
    marker: PathBuf,
    _marker_lock: File,
    _store_lock: File,
    /// Objects that were found damaged and set aside when the run began.
    pub recovered: Vec<Digest>,
}

impl RunGuard {
    pub(crate) fn enter(store: &Store) -> Result<RunGuard, StoreError> {
        let store_lock = open_lock(&store.root().join("run.lock"))?;
        // Waits for a collector to finish, which is a matter of seconds.
        store_lock.lock_shared().at(&store.root().join("run.lock"))?;
        let inflight = store.root().join("inflight");
        let gate_path = inflight.join("gate");
        // One run at a time looks at the markers of the others.
        let gate = open_lock(&gate_path)?;
        gate.lock().at(&gate_path)?;
        let recovered = recover(store, &inflight)?;
        let marker = unused_name(&inflight);
        let mut marker_lock = open_lock(&marker)?;
        marker_lock.lock().at(&marker)?;
        marker_lock.write_all(boot_id().as_bytes()).at(&marker)?;
        Ok(RunGuard { marker, _marker_lock: marker_lock, _store_lock: store_lock, recovered })
    }
}

impl Drop for RunGuard {
    fn drop(&mut self) {
        // While it is still locked. A marker that stays costs the next run a look.
        let _ = fs::remove_file(&self.marker);
    }
}

/// The store without any run in it. Dropping it lets runs in again.
#[derive(Debug)]
pub struct Alone {
    _lock: File,
}

/// Takes the store for the collector alone.
pub(crate) fn exclusive(store: &Store) -> Result<Alone, StoreError> {
    let path = store.root().join("run.lock");
    let lock = open_lock(&path)?;
    match lock.try_lock() {
        Ok(()) => Ok(Alone { _lock: lock }),
        Err(fs::TryLockError::WouldBlock) => {
            Err(StoreError::InUse { path: store.root().to_owned() })
        }
        Err(fs::TryLockError::Error(error)) => Err(StoreError::io(&path, error)),
    }
}

fn open_lock(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new().create(true).append(true).open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            StoreError::ReadOnly { path: path.parent().unwrap_or(path).to_owned() }
        }
        _ => StoreError::io(path, error),
    })
}

fn unused_name(inflight: &Path) -> PathBuf {
    let pid = std::process::id();
    (0_u32..)
        .map(|number| inflight.join(format!("{pid}-{number}")))
        .find(|path| !path.exists())
        .unwrap_or_else(|| inflight.join(pid.to_string()))
}

/// Looks at the markers of runs that are gone.
fn recover(store: &Store, inflight: &Path) -> Result<Vec<Digest>, StoreError> {
    let boot = boot_id();
    let mut alone = true;
    let mut suspect_since: Option<(i64, i64)> = None;
    let mut gone = Vec::new();
    for entry in fs::read_dir(inflight).at(inflight)? {
        let path = entry.at(inflight)?.path();
        if path.file_name().is_some_and(|name| name == "gate") {
            continue;
        }
        let Ok(marker) = File::open(&path) else { continue };
        if marker.try_lock().is_err() {
            alone = false;
            continue;
        }
        let metadata = marker.metadata().at(&path)?;
        if fs::read_to_string(&path).at(&path)? != boot {
            let began = (metadata.mtime(), metadata.mtime_nsec());
            suspect_since = Some(suspect_since.map_or(began, |since| since.min(began)));
        }
        gone.push(path);
    }
    let damaged = match suspect_since {
        Some(since) => store.quarantine_damaged_since(since)?,
        None => Vec::new(),
    };
    // Only after the objects have been looked at: a crash in between leaves the markers.
    for path in gone {
        fs::remove_file(&path).at(&path)?;
    }
    if alone {
        store.clear_tmp()?;
    }
    Ok(damaged)
}

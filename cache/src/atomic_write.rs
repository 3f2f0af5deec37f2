//! The only place that creates files in a store: nothing is visible before it is whole.
//!
//! A file is written under a name of its own in `tmp/`, on the same file system, and renamed to its
//! place when its last byte is written. Whether the bytes have reached the disk by then is a second
//! question, answered by the commit queue: a power cut may lose the newest files, and
//! `recovery` finds those that it left damaged.
//!
//! Tests make writes fail on purpose: see [`Faults`].

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::AtPath;
use crate::{Digest, StoreError, process_name};

/// Makes the k-th write to a store fail, and every later one, as a full disk does.
#[derive(Debug, Default)]
pub struct Faults {
    /// How many writes still succeed; 0 switches faults off.
    left: AtomicU64,
}

impl Faults {
    /// Lets `writes` writes succeed and then none.
    pub fn after(writes: u64) -> Faults {
        Faults { left: AtomicU64::new(writes + 1) }
    }

    /// Asked before each write.
    pub(crate) fn check(&self) -> io::Result<()> {
        let left = self.left.load(Ordering::Relaxed);
        match left {
            0 => Ok(()),
            1 => Err(io::ErrorKind::StorageFull.into()),
            _ => {
                self.left.store(left - 1, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

/// The next number of a temporary file of this process: one process may have a store open twice.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Creates temporary files and gives them their names.
#[derive(Debug)]
pub(crate) struct AtomicWriter {
    tmp: PathBuf,
    pub(crate) faults: Faults,
}

impl AtomicWriter {
    pub(crate) fn new(tmp: PathBuf, faults: Faults) -> AtomicWriter {
        AtomicWriter { tmp, faults }
    }

    /// A name in `tmp/` that nobody else uses, on no machine: process, and a number within it.
    pub(crate) fn temp_path(&self) -> PathBuf {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        self.tmp.join(format!("{}-{number}", process_name()))
    }

    /// Writes `bytes` to `path`, which holds the old content or the new, never a part.
    pub(crate) fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let temp = self.temp_path();
        let written = self
            .create(&temp)
            .and_then(|mut file| file.write_all(bytes).at(&temp))
            .and_then(|()| self.publish(&temp, path));
        remove_on_error(written, &temp)
    }

    pub(crate) fn create(&self, temp: &Path) -> Result<File, StoreError> {
        self.faults.check().at(temp)?;
        File::create_new(temp).at(temp)
    }

    /// Renames a finished file to its place.
    pub(crate) fn publish(&self, temp: &Path, path: &Path) -> Result<(), StoreError> {
        self.faults.check().at(path)?;
        fs::rename(temp, path).at(path)
    }
}

/// Copies `from` to the new file `to`, hashing on the way.
pub(crate) fn copy_hashing(
    from: &mut dyn Read,
    from_path: &Path,
    mut to: File,
    to_path: &Path,
) -> Result<(Digest, u64), StoreError> {
    let mut hasher = blake3::Hasher::new();
    let mut size = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(StoreError::io(from_path, error)),
        };
        let bytes = &buffer[..count];
        // From this size on several threads hash faster than one.
        if count >= 256 * 1024 {
            hasher.update_rayon(bytes);
        } else {
            hasher.update(bytes);
        }
        to.write_all(bytes).at(to_path)?;
        size += count as u64;
    }
    Ok((Digest::from_bytes(*hasher.finalize().as_bytes()), size))
}

pub(crate) fn remove_on_error<T>(
    result: Result<T, StoreError>,
    temp: &Path,
) -> Result<T, StoreError> {
    if result.is_err() {
        // The first error is the one that matters.
        let _ = fs::remove_file(temp);
    }
    result
}

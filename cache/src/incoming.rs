//! An object that arrives from elsewhere in pieces: it enters the store only if it is what was asked for.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use crate::error::AtPath;
use crate::hashing_file::HashingFile;
use crate::store::Store;
use crate::{Digest, StoreError};

/// What came of an object that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It is what was asked for, and in the store.
    Accepted {
        /// In bytes.
        size: u64,
    },
    /// It is something else, and gone.
    Refused {
        /// What its bytes hash to.
        found: Digest,
        /// How many there were.
        size: u64,
    },
}

/// A file in the store's `tmp/` that is hashed while it is written. Dropped, it is removed.
#[derive(Debug)]
pub struct Incoming<'a> {
    store: &'a Store,
    path: PathBuf,
    file: Option<HashingFile>,
}

impl Store {
    /// Begins to take in an object.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn receive(&self) -> Result<Incoming<'_>, StoreError> {
        let path = self.new_temp_path()?;
        let file = HashingFile::create(&path).at(&path)?;
        Ok(Incoming { store: self, path, file: Some(file) })
    }
}

impl Incoming<'_> {
    /// How many bytes have arrived.
    pub fn size(&self) -> u64 {
        self.file.as_ref().map_or(0, HashingFile::size)
    }

    /// Takes the next piece.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let file = self.file.as_mut().expect("the file is there until it is accepted");
        file.write_all(bytes).at(&self.path)
    }

    /// Ends it: the object enters the store if it hashes to `expected`.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn accept(mut self, expected: &Digest) -> Result<Arrival, StoreError> {
        let file = self.file.take().expect("the file is there until it is accepted");
        let written = file.finish().at(&self.path)?;
        if written.digest != *expected {
            return Ok(Arrival::Refused { found: written.digest, size: written.size });
        }
        self.store.adopt_written(&self.path, written)?;
        Ok(Arrival::Accepted { size: written.size })
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        // Moved away if it was accepted; what cannot be removed is swept by the next run.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Access, Durability, Faults};

    #[test]
    fn only_what_was_asked_for_enters_and_nothing_is_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), Access::ReadWrite, Durability::None).unwrap();
        let left = || fs::read_dir(store.root().join("tmp")).unwrap().count();
        let digest = Digest::of(b"hello world");

        let mut good = store.receive().unwrap();
        good.write(b"hello ").unwrap();
        good.write(b"world").unwrap();
        assert_eq!(good.size(), 11);
        assert_eq!(good.accept(&digest).unwrap(), Arrival::Accepted { size: 11 });
        assert_eq!(store.object_size(&digest), Some(11));

        let other = Digest::of(b"other");
        let mut bad = store.receive().unwrap();
        bad.write(b"hello world").unwrap();
        let refused = Arrival::Refused { found: digest, size: 11 };
        assert_eq!(bad.accept(&other).unwrap(), refused);
        assert_eq!(store.object_size(&other), None);

        drop(store.receive().unwrap());
        assert_eq!(left(), 0);
    }

    #[test]
    fn a_disk_that_is_full_is_an_error_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        for writes in 0..2 {
            let faults = Faults::after(writes);
            let (access, durability) = (Access::ReadWrite, Durability::None);
            let store = Store::open_with_faults(folder.path(), access, durability, faults).unwrap();
            let digest = Digest::of(b"x");
            let stored = store.receive().and_then(|mut incoming| {
                incoming.write(b"x")?;
                incoming.accept(&digest)
            });
            assert!(matches!(stored, Err(StoreError::Full { .. })), "{writes}: {stored:?}");
            assert_eq!(store.object_size(&digest), None);
            assert_eq!(fs::read_dir(store.root().join("tmp")).unwrap().count(), 0);
        }
    }
}

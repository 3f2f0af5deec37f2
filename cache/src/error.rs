//! What can go wrong with a store. Every error names a path.

use std::io;
use std::path::{Path, PathBuf};

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk (or a quota) is full. Nothing was published.
    #[error("no space is left for {}", path.display())]
    Full {
        /// What was being written.
        path: PathBuf,
    },
    /// The store lies on a file system, or in a folder, that cannot be written.
    #[error("the store {} cannot be written", path.display())]
    ReadOnly {
        /// The store.
        path: PathBuf,
    },
    /// The store was made by a newer okapi.
    #[error("the store {} has format {found}; this okapi knows format {known}", path.display())]
    NewerFormat {
        /// The store.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format known here.
        known: u32,
    },
    /// The folder holds something that is no store.
    #[error("{} is not an okapi store", path.display())]
    NotAStore {
        /// The folder.
        path: PathBuf,
    },
    /// Runs are using the store.
    #[error("the store {} is in use by a run", path.display())]
    InUse {
        /// The store.
        path: PathBuf,
    },
    /// A file or folder cannot be stored as it is.
    #[error("{}: {reason}", path.display())]
    Unstorable {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Stored content is damaged. It has been moved to quarantine and is never used.
    #[error("the stored object {digest} is damaged; it was moved to {}", quarantine.display())]
    Damaged {
        /// The object.
        digest: crate::Digest,
        /// Where it is now.
        quarantine: PathBuf,
    },
    /// Something that a manifest or a caller names is not stored.
    #[error("the object {digest} is not in the store {}", path.display())]
    Missing {
        /// The object.
        digest: crate::Digest,
        /// The store.
        path: PathBuf,
    },
    /// An earlier write failed; nothing is written any more.
    #[error("writing to the store failed earlier: {message}")]
    Failed {
        /// What failed.
        message: String,
    },
}

impl StoreError {
    /// An error of the file system at `path`.
    pub fn io(path: &Path, source: io::Error) -> StoreError {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { path },
            io::ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly { path },
            _ => StoreError::Io { path, source },
        }
    }

    /// Whether somebody else could write here, or the file system cannot be written.
    pub(crate) fn is_not_writable(&self) -> bool {
        match self {
            StoreError::ReadOnly { .. } => true,
            StoreError::Io { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            _ => false,
        }
    }

    /// Whether the store as a whole is in trouble, rather than one file handed to it.
    pub fn is_store_trouble(&self) -> bool {
        !matches!(self, StoreError::Unstorable { .. })
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            StoreError::Full { .. } => {
                Some("free some space (`okapi gc` helps), then run again: what is done is kept")
            }
            StoreError::ReadOnly { .. } => Some("name a store that can be written by --store"),
            StoreError::NewerFormat { .. } => Some("use a newer okapi, or another --store"),
            StoreError::NotAStore { .. } => Some("name another folder by --store"),
            StoreError::InUse { .. } => Some("wait for the run to end"),
            StoreError::Damaged { .. } | StoreError::Missing { .. } => {
                Some("run again: what is lost is made anew; `okapi cache verify` looks at the rest")
            }
            _ => None,
        }
    }
}

/// Adds the path to errors of the file system.
pub(crate) trait AtPath<T> {
    fn at(self, path: &Path) -> Result<T, StoreError>;
}

impl<T> AtPath<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::io(path, source))
    }
}

impl<T> AtPath<T> for rustix::io::Result<T> {
    fn at(self, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::io(path, source.into()))
    }
}

//! The content-addressable store: digest -> bytes.
//!
//! ```text
//! objects/ab/cdef...   the bytes whose BLAKE3 begins with ab, mode 0444
//! ```
//!
//! An object is at its name whole or not at all. Nothing ever writes to one.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, OFlags, StatxFlags, statx};

use crate::atomic_write::{AtomicWriter, copy_hashing, remove_on_error};
use crate::error::AtPath;
use crate::file_hash::hash_open_file;
use crate::hashing_file::Written;
use crate::{Digest, StoreError};

/// The objects of a store.
#[derive(Debug)]
pub(crate) struct Cas {
    objects: PathBuf,
    folder: File,
}

impl Cas {
    pub(crate) fn open(objects: PathBuf) -> Result<Cas, StoreError> {
        let folder = File::open(&objects).at(&objects)?;
        Ok(Cas { objects, folder })
    }

    /// Where an object lies if it is there.
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.to_string();
        self.objects.join(&hex[..2]).join(&hex[2..])
    }

    /// Whether an object of that size is there: one system call, relative to the open folder.
    pub(crate) fn contains(&self, digest: &Digest, size: u64) -> bool {
        self.size(digest) == Some(size)
    }

    /// The size of an object, if it is there.
    pub(crate) fn size(&self, digest: &Digest) -> Option<u64> {
        let mut name = [0_u8; 66];
        let hex = blake3::Hash::from_bytes(*digest.as_bytes()).to_hex();
        let (shard, rest) = hex.as_bytes().split_at(2);
        name[..2].copy_from_slice(shard);
        name[2] = b'/';
        name[3..65].copy_from_slice(rest);
        let name = std::ffi::CStr::from_bytes_until_nul(&name).ok()?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let stat = statx(&self.folder, name, flags, StatxFlags::SIZE | StatxFlags::TYPE).ok()?;
        Some(stat.stx_size)
    }

    /// Opens an object.
    pub(crate) fn open_object(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.path(digest);
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(StoreError::Missing { digest: *digest, path: self.objects.clone() })
            }
            other => other.at(&path),
        }
    }

    /// Gives a finished temporary file its place as an object.
    pub(crate) fn publish(
        &self,
        writer: &AtomicWriter,
        temp: &Path,
        digest: &Digest,
        size: u64,
    ) -> Result<(), StoreError> {
        if self.contains(digest, size) {
            return fs::remove_file(temp).at(temp);
        }
        let place = || {
            fs::set_permissions(temp, Permissions::from_mode(0o444)).at(temp)?;
            let path = self.path(digest);
            match writer.publish(temp, &path) {
                Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    let shard = path.parent().unwrap_or(&path);
                    fs::create_dir_all(shard).at(shard)?;
                    writer.publish(temp, &path)
                }
                other => other,
            }
        };
        remove_on_error(place(), temp)
    }

    /// Stores bytes.
    pub(crate) fn put_bytes(
        &self,
        writer: &AtomicWriter,
        bytes: &[u8],
    ) -> Result<(Digest, u64), StoreError> {
        let digest = Digest::of(bytes);
        let size = bytes.len() as u64;
        if !self.contains(&digest, size) {
            let temp = writer.temp_path();
            let written = writer.create(&temp).and_then(|mut file| {
                writer
                    .faults
                    .check()
                    .and_then(|()| io::Write::write_all(&mut file, bytes))
                    .at(&temp)
            });
            remove_on_error(written, &temp)?;
            self.publish(writer, &temp, &digest, size)?;
        }
        Ok((digest, size))
    }

    /// Stores a copy of a file, hashing while copying. A file system that shares blocks between
    /// files (reflink) makes the copy cost nothing; then the file is hashed by itself.
    pub(crate) fn ingest_file(
        &self,
        writer: &AtomicWriter,
        path: &Path,
    ) -> Result<(Digest, u64), StoreError> {
        let mut file = open_regular(path)?;
        let temp = writer.temp_path();
        let copy = writer.create(&temp)?;
        let stored = match rustix::fs::ioctl_ficlone(&copy, &file) {
            Ok(()) => hash_file(&temp),
            Err(_) => copy_hashing(&mut file, path, copy, &temp),
        };
        let (digest, size) = remove_on_error(stored, &temp)?;
        self.publish(writer, &temp, &digest, size)?;
        Ok((digest, size))
    }

    /// Moves a finished file into the store. It must lie on the store's file system.
    pub(crate) fn adopt_file(
        &self,
        writer: &AtomicWriter,
        path: &Path,
    ) -> Result<(Digest, u64), StoreError> {
        // A file with a second name could be written to through it later.
        if fs::symlink_metadata(path).at(path)?.nlink() > 1 {
            return self.ingest_file(writer, path);
        }
        let (digest, size) = hash_file(path)?;
        self.publish(writer, path, &digest, size)?;
        Ok((digest, size))
    }

    /// Moves a file whose digest is known into the store.
    pub(crate) fn adopt_written(
        &self,
        writer: &AtomicWriter,
        path: &Path,
        written: Written,
    ) -> Result<(), StoreError> {
        let size = fs::symlink_metadata(path).at(path)?.len();
        if size != written.size {
            let reason = format!("{} bytes were written to it, but it has {size}", written.size);
            return Err(StoreError::Unstorable { path: path.to_owned(), reason });
        }
        self.publish(writer, path, &written.digest, size)
    }

    /// Every object with its size, in no order; `each` may fail.
    pub(crate) fn for_each(
        &self,
        each: &mut dyn FnMut(Digest, PathBuf, u64) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for shard in fs::read_dir(&self.objects).at(&self.objects)? {
            let shard = shard.at(&self.objects)?.path();
            let Some(prefix) = shard.file_name().and_then(|name| name.to_str()) else { continue };
            let prefix = prefix.to_owned();
            for entry in fs::read_dir(&shard).at(&shard)? {
                let entry = entry.at(&shard)?;
                let name = entry.file_name();
                let digest = name.to_str().and_then(|rest| format!("{prefix}{rest}").parse().ok());
                if let Some(digest) = digest {
                    let size = entry.metadata().at(&entry.path())?.len();
                    each(digest, entry.path(), size)?;
                }
            }
        }
        Ok(())
    }
}

/// Opens a regular file for reading; never blocks on a pipe.
pub(crate) fn open_regular(path: &Path) -> Result<File, StoreError> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file =
        File::from(rustix::fs::openat(CWD, path, flags, rustix::fs::Mode::empty()).at(path)?);
    if !file.metadata().at(path)?.is_file() {
        let reason = "neither a file nor a folder".to_owned();
        return Err(StoreError::Unstorable { path: path.to_owned(), reason });
    }
    Ok(file)
}

/// Digest and size of a file's bytes.
pub(crate) fn hash_file(path: &Path) -> Result<(Digest, u64), StoreError> {
    hash_open_file(&open_regular(path)?, path)
}

/// A file to write an artifact's copy to.
pub(crate) fn create_file(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new().write(true).create_new(true).open(path).at(path)
}

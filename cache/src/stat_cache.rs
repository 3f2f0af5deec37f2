//! Source files are hashed once and remembered by what the file system says of them.
//!
//! An entry is trusted if size, mtime, ctime, inode and device are all as remembered. ctime cannot
//! be set by a program, so a file whose mtime was put back is seen. And an entry is trusted only if
//! the file had been left alone for a moment when it was hashed (git's rule for racy timestamps):
//! a file written twice within one tick of the clock has the same times after both.
//!
//! `stat.log` holds one record per hashed file, the last one counting: digest of the path (16 bytes
//! of it), size, mtime, ctime (nanoseconds), inode, device, the time of hashing, digest. Losing it
//! costs hashing.

#![expect(
    clippy::disallowed_types,
    reason = "maps keyed by digests are looked up; what is listed from them is sorted first"
)]

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::hash::BuildHasherDefault;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::action_cache::DigestHasher;
use crate::artifact::{Artifact, ArtifactKind};
use crate::atomic_write::AtomicWriter;
use crate::cas::hash_file;
use crate::error::AtPath;
use crate::log_file::LogFile;
use crate::tree::Tree;
use crate::{Digest, StoreError};

/// How long a file must have been left alone. Kernel clocks tick every 4 ms or faster.
const SETTLED_NS: i128 = 10_000_000;
/// The same for file systems that keep whole seconds.
const SETTLED_COARSE_NS: i128 = 2_000_000_000;
/// From so many files on, two threads look at them.
const PARALLEL_FROM: usize = 512;

type Key = [u8; 16];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    mtime_ns: i64,
    ctime_ns: i64,
    inode: u64,
    device: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    stamp: Stamp,
    seen_at_ns: i64,
    digest: Digest,
}

/// The remembered digests.
#[derive(Debug)]
pub(crate) struct StatCache {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    log: LogFile,
    loaded: bool,
    entries: HashMap<Key, Entry, BuildHasherDefault<DigestHasher>>,
    records: usize,
    new: Vec<Key>,
}

impl StatCache {
    pub(crate) fn new(root: &Path) -> StatCache {
        let log = LogFile::new(root.join("stat.log"), "stat");
        let state =
            State { log, loaded: false, entries: HashMap::default(), records: 0, new: Vec::new() };
        StatCache { state: Mutex::new(state) }
    }

    /// The artifacts of these files and folders, in their order.
    pub(crate) fn digest_sources(
        &self,
        paths: &[PathBuf],
        writer: &AtomicWriter,
    ) -> Vec<Result<Artifact, StoreError>> {
        let clock = FileSystemClock { writer, now: OnceLock::new() };
        let digest_all = |paths: &[PathBuf]| -> Vec<_> {
            paths.iter().map(|path| self.digest_source(path, &clock)).collect()
        };
        if paths.len() < PARALLEL_FROM {
            return digest_all(paths);
        }
        let (front, back) = paths.split_at(paths.len() / 2);
        drop(self.load());
        std::thread::scope(|scope| {
            let back = scope.spawn(|| digest_all(back));
            let mut all = digest_all(front);
            match back.join() {
                Ok(rest) => all.extend(rest),
                Err(panic) => std::panic::resume_unwind(panic),
            }
            all
        })
    }

    fn digest_source(
        &self,
        path: &Path,
        clock: &FileSystemClock<'_>,
    ) -> Result<Artifact, StoreError> {
        let metadata = fs::metadata(path).at(path)?;
        if metadata.is_dir() {
            let tree = Tree::of_folder(path, &mut |file| {
                let metadata = fs::symlink_metadata(file).at(file)?;
                self.digest_file(file, &metadata, clock)
            })?;
            let digest = Digest::of(tree.manifest().as_bytes());
            return Ok(Artifact { kind: ArtifactKind::Tree, digest, size: tree.size() });
        }
        let (digest, size) = self.digest_file(path, &metadata, clock)?;
        Ok(Artifact { kind: ArtifactKind::File, digest, size })
    }

    fn digest_file(
        &self,
        path: &Path,
        metadata: &Metadata,
        clock: &FileSystemClock<'_>,
    ) -> Result<(Digest, u64), StoreError> {
        let key = key(path);
        let stamp = Stamp::of(metadata);
        if let Some(entry) = self.load().entries.get(&key)
            && entry.stamp == stamp
            && is_settled(&stamp, entry.seen_at_ns)
        {
            return Ok((entry.digest, stamp.size));
        }
        let seen_at_ns = clock.now()?;
        let (digest, size) = hash_file(path)?;
        // Only if nothing changed while it was read.
        if let Ok(after) = fs::metadata(path)
            && Stamp::of(&after) == stamp
            && size == stamp.size
        {
            let mut state = self.load();
            state.entries.insert(key, Entry { stamp, seen_at_ns, digest });
            state.new.push(key);
        }
        Ok((digest, size))
    }

    /// Writes what is new to the log. Nothing depends on it, so it is not synced.
    pub(crate) fn save(&self, writer: &AtomicWriter) -> Result<(), StoreError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        if state.new.is_empty() {
            return Ok(());
        }
        let mut keys = std::mem::take(&mut state.new);
        if state.records + keys.len() > 4 * state.entries.len() + 1000 {
            keys = state.entries.keys().copied().collect();
            keys.sort_unstable();
            let records: Vec<_> = keys.iter().map(|key| encode(key, &state.entries[key])).collect();
            state.log.replace(&records, &writer.temp_path())?;
            state.records = records.len();
            return Ok(());
        }
        let records: Vec<_> = keys.iter().map(|key| encode(key, &state.entries[key])).collect();
        let entries = &mut state.entries;
        let mut others = 0;
        state.log.append(&records, false, &writer.faults, &mut |_, payload| {
            if let Some((key, entry)) = decode(payload) {
                entries.entry(key).or_insert(entry);
                others += 1;
            }
        })?;
        state.records += records.len() + others;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, read from the log at first use. A log that cannot be read is as good as none.
    fn load(&self) -> std::sync::MutexGuard<'_, State> {
        let mut guard = self.lock();
        if !guard.loaded {
            let state = &mut *guard;
            state.loaded = true;
            let (entries, records) = (&mut state.entries, &mut state.records);
            let _ = state.log.read_new(&mut |_, payload| {
                if let Some((key, entry)) = decode(payload) {
                    entries.insert(key, entry);
                    *records += 1;
                }
            });
        }
        guard
    }
}

/// The clock of the file system, which may not be the host's: the time of a file just written.
struct FileSystemClock<'a> {
    writer: &'a AtomicWriter,
    now: OnceLock<i64>,
}

impl FileSystemClock<'_> {
    fn now(&self) -> Result<i64, StoreError> {
        if let Some(now) = self.now.get() {
            return Ok(*now);
        }
        let temp = self.writer.temp_path();
        let file = fs::File::create(&temp).at(&temp)?;
        let stamp = Stamp::of(&file.metadata().at(&temp)?);
        // A leftover does no harm and is swept up by a later run.
        let _ = fs::remove_file(&temp);
        Ok(*self.now.get_or_init(|| stamp.mtime_ns))
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        let ns = |seconds: i64, nanoseconds: i64| {
            seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
        };
        Stamp {
            size: metadata.len(),
            mtime_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
            device: metadata.dev(),
        }
    }
}

fn is_settled(stamp: &Stamp, seen_at_ns: i64) -> bool {
    let newest = i128::from(stamp.mtime_ns.max(stamp.ctime_ns));
    let coarse = stamp.mtime_ns % 1_000_000_000 == 0 && stamp.ctime_ns % 1_000_000_000 == 0;
    let margin = if coarse { SETTLED_COARSE_NS } else { SETTLED_NS };
    newest + margin < i128::from(seen_at_ns)
}

fn key(path: &Path) -> Key {
    let digest = Digest::of(path.as_os_str().as_bytes());
    let mut key = [0; 16];
    key.copy_from_slice(&digest.as_bytes()[..16]);
    key
}

fn encode(key: &Key, entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(96);
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(&entry.stamp.size.to_le_bytes());
    bytes.extend_from_slice(&entry.stamp.mtime_ns.to_le_bytes());
    bytes.extend_from_slice(&entry.stamp.ctime_ns.to_le_bytes());
    bytes.extend_from_slice(&entry.stamp.inode.to_le_bytes());
    bytes.extend_from_slice(&entry.stamp.device.to_le_bytes());
    bytes.extend_from_slice(&entry.seen_at_ns.to_le_bytes());
    bytes.extend_from_slice(entry.digest.as_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<(Key, Entry)> {
    let bytes: &[u8; 96] = bytes.try_into().ok()?;
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        word
    };
    let mut key = [0; 16];
    key.copy_from_slice(&bytes[..16]);
    let mut digest = [0; 32];
    digest.copy_from_slice(&bytes[64..]);
    let stamp = Stamp {
        size: u64::from_le_bytes(word(16)),
        mtime_ns: i64::from_le_bytes(word(24)),
        ctime_ns: i64::from_le_bytes(word(32)),
        inode: u64::from_le_bytes(word(40)),
        device: u64::from_le_bytes(word(48)),
    };
    let seen_at_ns = i64::from_le_bytes(word(56));
    Some((key, Entry { stamp, seen_at_ns, digest: Digest::from_bytes(digest) }))
}

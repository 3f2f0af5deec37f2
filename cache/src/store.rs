//! The store: one folder, and the handles to what is in it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::action_cache::{ActionCache, CachedOutputs, Measures, StoredAction};
use crate::artifact::{Artifact, ArtifactKind};
use crate::atomic_write::{AtomicWriter, Faults};
use crate::cas::{Cas, hash_file};
use crate::commit_queue::{Backend, Commit, CommitQueue, Durability};
use crate::error::AtPath;
use crate::hashing_file::Written;
use crate::lease::{Holder, Lease};
use crate::materialize::{self, Placement};
use crate::record_cache::RecordCache;
use crate::run_guard::{self, Alone, RunGuard};
use crate::stat_cache::StatCache;
use crate::tree::{FileSink, Tree, TreeEntry};
use crate::{ActionDigest, Digest, StoreError};

/// The format of stores that this code writes.
const FORMAT: u32 = 1;

/// What the store is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading and writing. A folder that does not exist or is empty becomes a store.
    ReadWrite,
    /// Reading only: nothing is written, on any file system.
    ReadOnly,
}

/// An open store. See the crate's documentation for what is in it and what it promises.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    cas: Cas,
    writer: Arc<AtomicWriter>,
    actions: Arc<ActionCache>,
    stats: StatCache,
    records: RecordCache,
    /// Objects that were hashed before they were used: inode and time of the last write.
    checked: Mutex<BTreeMap<Digest, (u64, i64, i64)>>,
    queue: Option<CommitQueue>,
    /// Objects were published since the last sync.
    unsynced: AtomicBool,
    durability: Durability,
}

impl Store {
    /// Opens the store at `root`.
    ///
    /// # Errors
    /// When there is no store, or one of a newer format, or the folder holds something else, or it
    /// cannot be read (or written, if that is asked for).
    pub fn open(root: &Path, access: Access, durability: Durability) -> Result<Store, StoreError> {
        Store::open_with_faults(root, access, durability, Faults::default())
    }

    /// Opens a store whose writes fail after a while, for tests.
    #[doc(hidden)]
    pub fn open_with_faults(
        root: &Path,
        access: Access,
        durability: Durability,
        faults: Faults,
    ) -> Result<Store, StoreError> {
        if access == Access::ReadWrite {
            initialise(root)?;
        }
        check_format(root)?;
        let root = fs::canonicalize(root).at(root)?;
        let writer = Arc::new(AtomicWriter::new(root.join("tmp"), faults));
        let actions = Arc::new(ActionCache::open(&root)?);
        let queue = match access {
            Access::ReadOnly => None,
            Access::ReadWrite => Some(CommitQueue::start(Backend {
                root: File::open(&root).at(&root)?,
                root_path: root.clone(),
                actions: Arc::clone(&actions),
                writer: Arc::clone(&writer),
                durability,
            })),
        };
        Ok(Store {
            cas: Cas::open(root.join("objects"))?,
            stats: StatCache::new(&root),
            checked: Mutex::default(),
            records: RecordCache::new(&root, access == Access::ReadWrite, Faults::default()),
            writer,
            actions,
            queue,
            unsynced: AtomicBool::new(false),
            durability,
            root,
        })
    }

    /// The store's folder, absolute and without symlinks.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What teachers have answered.
    pub fn records(&self) -> &RecordCache {
        &self.records
    }

    // Results.

    /// The result of an action, as far as this process knows. Whether its outputs are still there
    /// is another question: [`Store::missing_output`].
    pub fn lookup(&self, action: &ActionDigest) -> Option<CachedOutputs> {
        self.actions.lookup(action)
    }

    /// The first output that is not in the store with its recorded size.
    pub fn missing_output(&self, cached: &CachedOutputs) -> Option<Artifact> {
        cached.outputs().iter().find(|output| !self.is_complete(output)).copied()
    }

    /// Whether every object of an artifact is in the store with its recorded size.
    pub fn is_complete(&self, artifact: &Artifact) -> bool {
        match artifact.kind {
            ArtifactKind::File => self.cas.contains(&artifact.digest, artifact.size),
            ArtifactKind::Tree => self.read_tree(&artifact.digest).is_ok_and(|tree| {
                tree.entries.iter().all(|entry| match entry {
                    TreeEntry::File { digest, size, .. } => self.cas.contains(digest, *size),
                    _ => true,
                })
            }),
        }
    }

    /// Learns the results that other processes have added.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn refresh(&self) -> Result<(), StoreError> {
        self.actions.refresh()
    }

    /// The document of an action that has a result, with the result's details.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn document(&self, action: &ActionDigest) -> Result<Option<StoredAction>, StoreError> {
        self.actions.document(action)
    }

    /// What was measured of an action that has a result.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn measures(&self, action: &ActionDigest) -> Result<Option<Measures>, StoreError> {
        self.actions.measures(action)
    }

    /// Queues a result. This process knows it at once; others when it is durable.
    ///
    /// # Errors
    /// When the store is read-only, or an earlier write failed.
    pub fn commit(&self, commit: Commit) -> Result<(), StoreError> {
        match &self.queue {
            Some(queue) => queue.push(&self.actions, commit),
            None => Err(StoreError::ReadOnly { path: self.root.clone() }),
        }
    }

    /// Waits until every queued result is durable.
    ///
    /// # Errors
    /// When one could not be written.
    pub fn flush(&self) -> Result<(), StoreError> {
        match &self.queue {
            Some(queue) => queue.flush(),
            None => Ok(()),
        }
    }

    /// Every action with a result, sorted.
    pub fn all_actions(&self) -> Vec<ActionDigest> {
        self.actions.actions()
    }

    pub(crate) fn retain_actions(&self, keep: &[ActionDigest]) -> Result<(), StoreError> {
        self.actions.retain(keep, &|| self.writer.temp_path())
    }

    /// Bytes of the logs that cannot be read.
    pub fn damaged_log_bytes(&self) -> u64 {
        self.actions.log_sizes().1 + self.records.damaged_bytes()
    }

    // Leases and runs.

    /// Takes the right to execute an action; `None` if another holds it.
    ///
    /// # Errors
    /// When the lock cannot be made.
    pub fn try_lease(&self, action: &ActionDigest) -> Result<Option<Lease>, StoreError> {
        Lease::try_take(self.lease_path(action))
    }

    /// Who holds the lease on an action, for a message.
    pub fn lease_holder(&self, action: &ActionDigest) -> Option<Holder> {
        Lease::holder(&self.lease_path(action))
    }

    fn lease_path(&self, action: &ActionDigest) -> PathBuf {
        self.root.join("locks").join(action.to_string())
    }

    /// Says that a run begins: recovers from crashes, and keeps the collector away.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn enter_run(&self) -> Result<RunGuard, StoreError> {
        RunGuard::enter(self)
    }

    /// Keeps runs away for as long as the result lives: whoever collects must decide what to keep
    /// while nobody adds to it.
    ///
    /// # Errors
    /// When runs are using the store.
    pub fn alone(&self) -> Result<Alone, StoreError> {
        run_guard::exclusive(self)
    }

    /// Makes what was stored outside of any commit durable, at the end of a run.
    ///
    /// # Errors
    /// When the system cannot.
    pub fn sync(&self) -> Result<(), StoreError> {
        if self.unsynced.swap(false, Ordering::Relaxed) && self.durability != Durability::None {
            let root = File::open(&self.root).at(&self.root)?;
            rustix::fs::syncfs(&root).at(&self.root)?;
        }
        Ok(())
    }

    // Objects.

    /// A name in `tmp/` for a file that is not whole yet.
    pub(crate) fn new_temp_path(&self) -> Result<PathBuf, StoreError> {
        let path = self.writer.temp_path();
        if self.queue.is_none() {
            return Err(StoreError::ReadOnly { path: self.root.clone() });
        }
        self.writer.faults.check().at(&path)?;
        Ok(path)
    }

    /// Where an object lies if it is there. Nobody may write to it.
    pub fn object_path(&self, digest: &Digest) -> PathBuf {
        self.cas.path(digest)
    }

    /// The size of an object, if it is there.
    pub fn object_size(&self, digest: &Digest) -> Option<u64> {
        self.cas.size(digest)
    }

    /// Stores bytes as a file.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Artifact, StoreError> {
        self.unsynced.store(true, Ordering::Relaxed);
        let (digest, size) = self.cas.put_bytes(&self.writer, bytes)?;
        Ok(Artifact { kind: ArtifactKind::File, digest, size })
    }

    /// Stores a copy of a file or folder.
    ///
    /// # Errors
    /// When it cannot be read or stored, or is no `kind`.
    pub fn ingest(&self, path: &Path, kind: ArtifactKind) -> Result<Artifact, StoreError> {
        self.store_with(path, kind, &mut |file| self.cas.ingest_file(&self.writer, file))
    }

    /// Moves a finished file or folder, which lies on the store's file system, into the store.
    ///
    /// # Errors
    /// When it cannot be read or stored, or is no `kind`.
    pub fn adopt(&self, path: &Path, kind: ArtifactKind) -> Result<Artifact, StoreError> {
        self.store_with(path, kind, &mut |file| self.cas.adopt_file(&self.writer, file))
    }

    /// Moves a file that was hashed while it was written ([`crate::HashingFile`]) into the store.
    /// It must lie on the store's file system, and nobody else may have written to it.
    ///
    /// # Errors
    /// When it cannot be moved, or has another size than was written.
    pub fn adopt_written(&self, path: &Path, written: Written) -> Result<Artifact, StoreError> {
        self.unsynced.store(true, Ordering::Relaxed);
        self.cas.adopt_written(&self.writer, path, written)?;
        Ok(Artifact { kind: ArtifactKind::File, digest: written.digest, size: written.size })
    }

    fn store_with(
        &self,
        path: &Path,
        kind: ArtifactKind,
        store: &mut FileSink<'_>,
    ) -> Result<Artifact, StoreError> {
        self.unsynced.store(true, Ordering::Relaxed);
        match kind {
            ArtifactKind::File => {
                let (digest, size) = store(path)?;
                Ok(Artifact { kind, digest, size })
            }
            ArtifactKind::Tree => {
                let tree = Tree::of_folder(path, store)?;
                let manifest = self.put_bytes(tree.manifest().as_bytes())?;
                Ok(Artifact { kind, digest: manifest.digest, size: tree.size() })
            }
        }
    }

    /// Places an artifact at `path`, which must not exist and whose folder must.
    ///
    /// # Errors
    /// When an object is missing or the place cannot be written.
    pub fn place(
        &self,
        artifact: &Artifact,
        path: &Path,
        placement: Placement,
    ) -> Result<(), StoreError> {
        self.check_artifact(artifact)?;
        materialize::place(&self.cas, artifact, path, placement)
    }

    /// Hashes every object of an artifact that is about to be used, unless this process has done so
    /// and the file system says that it is the same file, unwritten since. A damaged one is moved to
    /// `quarantine/`: the result that names it is a miss from then on.
    fn check_artifact(&self, artifact: &Artifact) -> Result<(), StoreError> {
        self.check_object_once(&artifact.digest)?;
        if artifact.kind == ArtifactKind::Tree {
            for entry in &self.read_tree(&artifact.digest)?.entries {
                if let TreeEntry::File { digest, .. } = entry {
                    self.check_object_once(digest)?;
                }
            }
        }
        Ok(())
    }

    fn check_object_once(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.cas.path(digest);
        // What is missing is found, and named, by whoever places it.
        let Ok(metadata) = fs::metadata(&path) else { return Ok(()) };
        let seen = (metadata.ino(), metadata.mtime(), metadata.mtime_nsec());
        let checked = || self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if checked().get(digest) == Some(&seen) {
            return Ok(());
        }
        self.check_object(digest)?;
        checked().insert(*digest, seen);
        Ok(())
    }

    /// Places an artifact for the user at `path`, where a file may lie: it is replaced in one step.
    /// What a crash leaves behind lies in the store, not beside the user's files, unless those are
    /// on another file system.
    ///
    /// # Errors
    /// When an object is missing or the place cannot be written.
    pub fn place_in_one_step(&self, artifact: &Artifact, path: &Path) -> Result<(), StoreError> {
        let through = |temp: &Path| {
            let placed = self
                .place(artifact, temp, Placement::Private)
                .and_then(|()| fs::rename(temp, path).at(path));
            if placed.is_err() {
                // The first error is the one that matters.
                let _ = remove_any(temp);
            }
            placed
        };
        match through(&self.writer.temp_path()) {
            Err(StoreError::Io { source, .. })
                if source.kind() == io::ErrorKind::CrossesDevices =>
            {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                through(&path.with_file_name(format!(".{name}.okapi-{}", std::process::id())))
            }
            other => other,
        }
    }

    /// The contents of a stored folder.
    ///
    /// # Errors
    /// When the manifest is missing or is none.
    pub fn read_tree(&self, digest: &Digest) -> Result<Tree, StoreError> {
        materialize::read_tree(&self.cas, digest)
    }

    /// An object as text; `None` if it is missing, longer than `longest` bytes, or no UTF-8.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_text(&self, digest: &Digest, longest: u64) -> Result<Option<String>, StoreError> {
        if self.cas.size(digest).is_none_or(|size| size > longest) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let path = self.cas.path(digest);
        self.cas.open_object(digest)?.take(longest).read_to_end(&mut bytes).at(&path)?;
        Ok(String::from_utf8(bytes).ok())
    }

    /// Hashes an object again; a damaged one is moved to quarantine.
    ///
    /// # Errors
    /// When it is damaged, or cannot be read. One that is not there is in order.
    pub fn check_object(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.cas.path(digest);
        match hash_file(&path) {
            Ok((found, _)) if found == *digest => Ok(()),
            Ok(_) => {
                // A store that cannot be written keeps it where it is; it is not used all the same.
                let quarantine = self.quarantine(digest).unwrap_or(path);
                Err(StoreError::Damaged { digest: *digest, quarantine })
            }
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) fn quarantine(&self, digest: &Digest) -> Result<PathBuf, StoreError> {
        let path = self.cas.path(digest);
        let target = self.root.join("quarantine").join(digest.to_string());
        fs::rename(&path, &target).at(&path)?;
        Ok(target)
    }

    pub(crate) fn for_each_object(
        &self,
        each: &mut dyn FnMut(Digest, PathBuf, u64) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.cas.for_each(each)
    }

    /// Hashes every object that is not older than `since` (seconds, nanoseconds), less a margin for
    /// clocks that tick coarsely, and moves damaged ones to quarantine.
    pub(crate) fn quarantine_damaged_since(
        &self,
        since: (i64, i64),
    ) -> Result<Vec<Digest>, StoreError> {
        let since = (since.0 - 5, since.1);
        let mut damaged = Vec::new();
        self.cas.for_each(&mut |digest, path, _| {
            let metadata = fs::metadata(&path).at(&path)?;
            let changed = (metadata.ctime(), metadata.ctime_nsec());
            let written = (metadata.mtime(), metadata.mtime_nsec());
            if changed.max(written) >= since && hash_file(&path)?.0 != digest {
                damaged.push(digest);
            }
            Ok(())
        })?;
        for digest in &damaged {
            self.quarantine(digest)?;
        }
        Ok(damaged)
    }

    // Sources.

    /// The artifact that a file or folder outside the store is, remembered from the last look if
    /// the file system says that it is the same.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn digest_source(&self, path: &Path) -> Result<Artifact, StoreError> {
        let mut found = self.stats.digest_sources(&[path.to_owned()], &self.writer);
        found.pop().unwrap_or_else(|| Err(StoreError::io(path, io::ErrorKind::NotFound.into())))
    }

    /// The same for many, in their order.
    pub fn digest_sources(&self, paths: &[PathBuf]) -> Vec<Result<Artifact, StoreError>> {
        self.stats.digest_sources(paths, &self.writer)
    }

    /// Remembers what was hashed for later processes.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn save_source_digests(&self) -> Result<(), StoreError> {
        match self.queue {
            Some(_) => self.stats.save(&self.writer),
            None => Ok(()),
        }
    }

    // Folders for others.

    /// The private working folder of an action.
    pub fn work_folder(&self, action: &ActionDigest) -> PathBuf {
        self.root.join("work").join(&action.to_string()[..16])
    }

    /// The folder of working folders.
    pub fn work_folders(&self) -> PathBuf {
        self.root.join("work")
    }

    /// The folder that an action keeps between tries.
    pub fn scratch_folder(&self, action: &ActionDigest) -> PathBuf {
        self.root.join("scratch").join(&action.to_string()[..16])
    }

    /// The folder of scratch folders.
    pub fn scratch_folders(&self) -> PathBuf {
        self.root.join("scratch")
    }

    /// The folder of live curves: what is in it is for the eye, and may be deleted at any time.
    pub fn tensorboard_folder(&self) -> PathBuf {
        self.root.join("tensorboard")
    }

    /// The folder of run records.
    pub fn runs_folder(&self) -> PathBuf {
        self.root.join("runs")
    }

    /// The folder in which a run and the jobs of a cluster tell each other how they are; made when there are such jobs.
    pub fn jobs_folder(&self) -> PathBuf {
        self.root.join("jobs")
    }

    /// The folder of checked graphs.
    pub fn graphs_folder(&self) -> PathBuf {
        self.root.join("graphs")
    }

    /// Writes a small file inside the store; it holds the old content or the new, never a part.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        self.writer.write(path, bytes)
    }

    /// Sizes, for people.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn stats(&self) -> Result<StoreStats, StoreError> {
        let mut stats = StoreStats {
            actions: self.actions.actions().len() as u64,
            log_bytes: self.actions.log_sizes().0,
            records: self.records.len()?,
            record_bytes: self.records.bytes(),
            ..StoreStats::default()
        };
        self.cas.for_each(&mut |_, _, size| {
            stats.objects += 1;
            stats.object_bytes += size;
            Ok(())
        })?;
        for (folder, count) in [
            ("work", &mut stats.work_folders),
            ("scratch", &mut stats.scratch_folders),
            ("quarantine", &mut stats.quarantined),
        ] {
            let folder = self.root.join(folder);
            *count = fs::read_dir(&folder).at(&folder)?.count() as u64;
        }
        Ok(stats)
    }

    /// Removes temporary files of processes that are gone.
    pub(crate) fn clear_tmp(&self) -> Result<(), StoreError> {
        let tmp = self.root.join("tmp");
        for entry in fs::read_dir(&tmp).at(&tmp)? {
            let path = entry.at(&tmp)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let process = name.split('-').next().unwrap_or_default();
            if !Path::new("/proc").join(process).exists() {
                // Another process may be sweeping too.
                let _ = remove_any(&path);
            }
        }
        Ok(())
    }

    /// Removes working folders of failed or killed instances and checked graphs; the caller is
    /// alone in the store. Scratch stays: it may hold hours of work.
    pub(crate) fn clear_leftovers(&self) -> Result<(), StoreError> {
        for folder in ["work", "graphs"] {
            let folder = self.root.join(folder);
            for entry in fs::read_dir(&folder).at(&folder)? {
                let path = entry.at(&folder)?.path();
                let removed =
                    if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                removed.at(&path)?;
            }
        }
        Ok(())
    }
}

/// Sizes of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub object_bytes: u64,
    /// Results.
    pub actions: u64,
    /// Bytes of the logs that hold them.
    pub log_bytes: u64,
    /// Answers of teachers.
    pub records: u64,
    /// Bytes of the log that holds them.
    pub record_bytes: u64,
    /// Working folders of failed, killed or running instances.
    pub work_folders: u64,
    /// Folders with checkpoints of unfinished actions.
    pub scratch_folders: u64,
    /// Damaged objects and logs that were set aside.
    pub quarantined: u64,
}

const FOLDERS: [&str; 9] =
    ["objects", "tmp", "work", "scratch", "locks", "inflight", "runs", "graphs", "quarantine"];

/// Makes a folder that does not exist, or is empty, a store; finishes what a crash left half made.
fn initialise(root: &Path) -> Result<(), StoreError> {
    let format = root.join("format");
    if format.exists() {
        return Ok(());
    }
    fs::create_dir_all(root).map_err(|error| read_only_or(root, error))?;
    for entry in fs::read_dir(root).at(root)? {
        let name = entry.at(root)?.file_name();
        let known = name.to_str().is_some_and(|name| {
            FOLDERS.contains(&name) || name == ".gitignore" || name.starts_with("format.")
        });
        // Another process may have finished the same work since the first look.
        if !known && format.exists() {
            return Ok(());
        }
        if !known {
            return Err(StoreError::NotAStore { path: root.to_owned() });
        }
    }
    for folder in FOLDERS {
        let folder = root.join(folder);
        fs::create_dir_all(&folder).map_err(|error| read_only_or(root, error))?;
    }
    // A store inside a repository is never committed.
    let ignore = root.join(".gitignore");
    fs::write(&ignore, "*\n").at(&ignore)?;
    // The format comes last: a store without one is not whole yet.
    let temp = root.join(format!("format.{}", std::process::id()));
    fs::write(&temp, format!("okapi store {FORMAT}\n")).at(&temp)?;
    fs::rename(&temp, &format).at(&format)
}

fn remove_any(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path)?.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

fn read_only_or(root: &Path, error: io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::PermissionDenied => StoreError::ReadOnly { path: root.to_owned() },
        _ => StoreError::io(root, error),
    }
}

fn check_format(root: &Path) -> Result<(), StoreError> {
    let not_a_store = || StoreError::NotAStore { path: root.to_owned() };
    let text = match fs::read_to_string(root.join("format")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(not_a_store()),
        Err(error) => return Err(StoreError::io(&root.join("format"), error)),
    };
    let found = text
        .strip_prefix("okapi store ")
        .and_then(|rest| rest.strip_suffix('\n'))
        .and_then(|number| number.parse().ok())
        .ok_or_else(not_a_store)?;
    if found > FORMAT {
        let path = root.to_owned();
        return Err(StoreError::NewerFormat { path, found, known: FORMAT });
    }
    Ok(())
}

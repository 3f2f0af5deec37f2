//! The private folder in which an instance works.
//!
//! ```text
//! work/<action digest, 16 digits>/
//!   cwd/        where a command starts; tracked files lie here at their project paths
//!   in/<port>   inputs; in/<port>/<key> where several are gathered
//!   out/<port>  outputs, to be written
//!   prompts/    prompts by name
//!   tmp/        TMPDIR and HOME
//!   stdout, stderr
//! ```
//!
//! The name comes from the action, so that a path that a program writes into its output is the
//! same each time. The lease on the action makes sure that the folder has one user.
//!
//! Making and removing five folders costs a good part of what a small command costs. So a folder
//! that has served is emptied and kept, and gets the name of the next action (`IdleFolders`).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use okapi_cache::{Artifact, ArtifactKind, Placement, Store, StoreError, process_name};

use super::local::{ExecutionError, Job, JobSource};
use crate::stage_context::{InputPath, SourceFile};

const PARTS: [&str; 4] = ["cwd", "in", "out", "tmp"];

/// Files that every instance writes anew: they stay, for making and removing them costs more.
const STREAMS: [&str; 2] = ["stdout", "stderr"];

/// Empty working folders that wait for the next instance.
#[derive(Default)]
pub(super) struct IdleFolders {
    paths: Mutex<Vec<PathBuf>>,
    made: AtomicU64,
}

impl IdleFolders {
    fn paths(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an empty working folder at `root`, where a failed try may have left one.
    fn make(&self, root: &Path) -> io::Result<()> {
        // Not in the condition below: there the lock would be held until the end of the block.
        let idle = self.paths().pop();
        if let Some(idle) = idle {
            match fs::rename(&idle, root) {
                Ok(()) => return Ok(()),
                // Something is in the way: it is removed below, and the idle one may serve again.
                Err(_) => self.paths().push(idle),
            }
        }
        remove(root)?;
        for part in PARTS {
            fs::create_dir_all(root.join(part))?;
        }
        Ok(())
    }

    /// Empties a folder that has served and keeps it. What cannot be emptied is removed.
    fn keep(&self, root: &Path) {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let idle = root.with_file_name(format!("idle-{}-{number}", process_name()));
        match empty(root).and_then(|()| fs::rename(root, &idle)) {
            Ok(()) => self.paths().push(idle),
            // A folder that stays behind costs space only; the next try of the action removes it.
            Err(_) => drop(remove(root)),
        }
    }
}

impl Drop for IdleFolders {
    fn drop(&mut self) {
        for path in self.paths().drain(..) {
            // `okapi gc` finds what stays behind.
            let _ = remove(&path);
        }
    }
}

/// Removes everything in a working folder but its parts, and everything in those. Streams are made
/// empty. Fails if a part
/// is gone or locked: the next instance must find what a new folder would give it.
fn empty(root: &Path) -> io::Result<()> {
    let mut parts = 0;
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let part = PARTS.iter().any(|part| entry.file_name() == *part);
        if STREAMS.iter().any(|stream| entry.file_name() == *stream) {
            // With a second name it could be written to from elsewhere.
            let metadata = entry.metadata()?;
            if !metadata.is_file() || metadata.nlink() > 1 {
                remove_entry(&entry)?;
            } else if metadata.len() > 0 {
                fs::File::options().write(true).truncate(true).open(entry.path())?;
            }
        } else if part && entry.file_type()?.is_dir() {
            parts += usize::from(entry.metadata()?.permissions().mode() & 0o700 == 0o700);
            for inside in fs::read_dir(entry.path())? {
                remove_entry(&inside?)?;
            }
        } else {
            remove_entry(&entry)?;
        }
    }
    match parts == PARTS.len() {
        true => Ok(()),
        false => Err(io::Error::other("the working folder is not as it was made")),
    }
}

fn remove_entry(entry: &fs::DirEntry) -> io::Result<()> {
    match entry.file_type()?.is_dir() {
        true => remove(&entry.path()),
        false => fs::remove_file(entry.path()),
    }
}

/// A prepared folder and what lies in it.
pub(super) struct Prepared {
    pub(super) root: PathBuf,
    pub(super) inputs: BTreeMap<String, InputPath>,
    pub(super) files: BTreeMap<String, SourceFile>,
    pub(super) prompts: BTreeMap<String, PathBuf>,
    pub(super) outputs: BTreeMap<String, PathBuf>,
    /// Every placed input with what the file system said of it, to see whether it was written to.
    placed: Vec<(PathBuf, Artifact, Stamp)>,
}

#[derive(PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: Option<std::time::SystemTime>,
}

impl Prepared {
    /// Makes the folder anew and fills it.
    pub(super) fn new(
        store: &Store,
        idle: &IdleFolders,
        job: &Job,
    ) -> Result<Prepared, ExecutionError> {
        let root = store.work_folder(&job.action.digest);
        idle.make(&root).map_err(|source| ExecutionError::io(&root, source))?;
        let mut prepared = Prepared {
            inputs: BTreeMap::new(),
            files: BTreeMap::new(),
            prompts: BTreeMap::new(),
            outputs: job
                .outputs
                .iter()
                .map(|output| (output.port.clone(), root.join("out").join(&output.port)))
                .collect(),
            placed: Vec::new(),
            root,
        };
        prepared.place_inputs(store, job)?;
        prepared.place_sources(store, job)?;
        Ok(prepared)
    }

    fn place_inputs(&mut self, store: &Store, job: &Job) -> Result<(), ExecutionError> {
        for input in &job.inputs {
            let path = self.root.join("in").join(&input.port);
            let placed = if input.gathered {
                make_folder(&path)?;
                let mut items = Vec::with_capacity(input.items.len());
                for (key, artifact) in &input.items {
                    let item = path.join(key);
                    self.place(store, artifact, &item)?;
                    items.push((key.clone(), item));
                }
                InputPath::Gathered { folder: path, items }
            } else {
                self.place(store, &input.items[0].1, &path)?;
                InputPath::Single(path)
            };
            self.inputs.insert(input.port.clone(), placed);
        }
        Ok(())
    }

    fn place(
        &mut self,
        store: &Store,
        artifact: &Artifact,
        path: &Path,
    ) -> Result<(), ExecutionError> {
        store.place(artifact, path, Placement::Shared)?;
        let stamp = stamp(path).map_err(|source| ExecutionError::io(path, source))?;
        self.placed.push((path.to_owned(), *artifact, stamp));
        Ok(())
    }

    /// Puts tracked files into the store and from there into the folder: what runs is what was
    /// hashed, whatever happens to the project meanwhile.
    fn place_sources(&mut self, store: &Store, job: &Job) -> Result<(), ExecutionError> {
        for file in &job.files {
            let artifact = store_source(store, file)?;
            let path = match &file.absolute {
                Some(absolute) if !job.places_files => absolute.clone(),
                _ => {
                    let path = self.root.join("cwd").join(&*file.path);
                    if let Some(folder) = path.parent() {
                        make_folder(folder)?;
                    }
                    match artifact.kind {
                        ArtifactKind::File => self.place(store, &artifact, &path)?,
                        // Interpreters leave compiled modules beside the sources they load.
                        ArtifactKind::Tree => store.place(&artifact, &path, Placement::Private)?,
                    }
                    path
                }
            };
            self.files.insert(file.path.to_string(), SourceFile { path, artifact });
        }
        for (name, file) in &job.prompts {
            let artifact = store_source(store, file)?;
            let folder = self.root.join("prompts");
            make_folder(&folder)?;
            let path = folder.join(name);
            self.place(store, &artifact, &path)?;
            self.prompts.insert(name.clone(), path);
        }
        Ok(())
    }

    /// Whether the work wrote to an input. Inputs may share their bytes with the store, so such an
    /// object is checked before anything else uses it.
    pub(super) fn check_inputs(&self, store: &Store) -> Result<(), ExecutionError> {
        for (path, artifact, before) in &self.placed {
            if stamp(path).ok().as_ref() != Some(before) {
                store.check_object(&artifact.digest)?;
                return Err(ExecutionError::InputModified { path: path.clone() });
            }
        }
        Ok(())
    }

    /// Says that the folder has served.
    pub(super) fn finish(&self, idle: &IdleFolders) {
        idle.keep(&self.root);
    }
}

/// Puts a tracked file into the store and makes sure that it still is what was planned.
pub(super) fn store_source(store: &Store, file: &JobSource) -> Result<Artifact, ExecutionError> {
    if store.is_complete(&file.artifact) {
        return Ok(file.artifact);
    }
    let Some(absolute) = &file.absolute else {
        let digest = file.artifact.digest;
        return Err(StoreError::Missing { digest, path: store.object_path(&digest) }.into());
    };
    let stored = store.ingest(absolute, file.artifact.kind)?;
    if stored.digest != file.artifact.digest {
        return Err(ExecutionError::SourceChanged { path: file.path.to_string() });
    }
    Ok(stored)
}

fn make_folder(path: &Path) -> Result<(), ExecutionError> {
    fs::create_dir_all(path).map_err(|source| ExecutionError::io(path, source))
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let metadata = fs::symlink_metadata(path)?;
    Ok(Stamp { size: metadata.len(), modified: metadata.modified().ok() })
}

/// Removes a folder with all that a command may have left in it, folders without write permission
/// included.
///
/// # Errors
/// When something in it stays; that it is not there is none.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            make_writable(path)?;
            fs::remove_dir_all(path)
        }
        other => other,
    }
}

fn make_writable(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            make_writable(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(root: &Path) -> usize {
        PARTS.iter().filter(|part| fs::read_dir(root.join(part)).unwrap().next().is_none()).count()
    }

    #[test]
    fn a_folder_that_served_serves_again() {
        let folder = tempfile::tempdir().unwrap();
        let idle = IdleFolders::default();
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        idle.make(&first).unwrap();
        fs::write(first.join("stdout"), "x").unwrap();
        fs::create_dir_all(first.join("cwd/a/b")).unwrap();
        idle.keep(&first);
        assert!(!first.exists());
        idle.make(&second).unwrap();
        assert_eq!((parts(&second), fs::read_dir(&second).unwrap().count()), (4, 5));
        assert_eq!(fs::read(second.join("stdout")).unwrap(), b"");
        idle.keep(&second);
        drop(idle);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    /// A run that was killed leaves folders. The lock on the idle ones was once held while one was
    /// put back, which the same thread then waited for.
    #[test]
    fn a_folder_in_the_way_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let idle = IdleFolders::default();
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        idle.make(&first).unwrap();
        idle.keep(&first);
        fs::create_dir_all(second.join("out")).unwrap();
        fs::write(second.join("out/left"), "x").unwrap();
        idle.make(&second).unwrap();
        assert_eq!(parts(&second), 4);
        assert_eq!(idle.paths().len(), 1, "the idle one was not used");
    }

    #[test]
    fn a_folder_that_was_tampered_with_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let idle = IdleFolders::default();
        let root = folder.path().join("root");
        let tamperings: [fn(&Path); 3] = [
            |root| fs::remove_dir(root.join("tmp")).unwrap(),
            |root| {
                fs::remove_dir(root.join("out")).unwrap();
                std::os::unix::fs::symlink("/", root.join("out")).unwrap();
            },
            |root| {
                fs::set_permissions(root.join("cwd"), fs::Permissions::from_mode(0o555)).unwrap();
            },
        ];
        for tamper in tamperings {
            idle.make(&root).unwrap();
            tamper(&root);
            idle.keep(&root);
            assert_eq!((root.exists(), idle.paths().len()), (false, 0));
        }
    }
}

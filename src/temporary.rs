//! Folders that are there for a while: neither a failure nor a signal leaves them behind, and what a process that was killed has left
//! is found by its kind.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use okapi_cache::Digest;
use okapi_engine::environment;
use okapi_engine::executor::work_folder::remove;
use okapi_engine::run::interrupts::Interrupts;
use tokio::sync::oneshot;

use crate::exit_code::ExitCode;
use crate::ui::output;

/// A folder for as long as the value lives. Its name is known before it is made, so that there is no moment in which a signal
/// could leave it; and nobody can guess it, so that what gets that name later was made here.
pub(crate) struct TemporaryFolder {
    pub(crate) path: PathBuf,
    /// Whether what has that name may be removed: nothing had it before.
    is_ours: AtomicBool,
    /// A lock that is held for as long as somebody needs the folder, and where it is.
    held: OnceLock<(File, PathBuf)>,
    /// The folders above that were not there, from the innermost.
    made_above: Vec<PathBuf>,
}

impl TemporaryFolder {
    /// One among the temporary ones, whose name begins so. Nothing is made; what processes have left there that were killed is removed.
    pub(crate) fn named(prefix: &str) -> TemporaryFolder {
        let folder = std::env::temp_dir();
        sweep(&folder, prefix);
        let name = format!("{prefix}-{}-{}", machine(), lot());
        TemporaryFolder::at(folder.join(name), Vec::new())
    }

    /// One beside the name that it will get. Nothing is made.
    pub(crate) fn beside(named: &Path) -> TemporaryFolder {
        let name = named.file_name().unwrap_or_default().to_string_lossy();
        let above = named.ancestors().skip(1);
        let is_new = |it: &&Path| !it.as_os_str().is_empty() && !it.exists();
        let made_above = above.take_while(is_new).map(Path::to_owned).collect();
        TemporaryFolder::at(named.with_file_name(format!(".{name}.okapi-{}", lot())), made_above)
    }

    fn at(path: PathBuf, made_above: Vec<PathBuf>) -> TemporaryFolder {
        let is_ours = AtomicBool::new(path.symlink_metadata().is_err());
        TemporaryFolder { path, is_ours, held: OnceLock::new(), made_above }
    }

    /// Makes it, for nobody else to read.
    pub(crate) fn make(&self) -> io::Result<()> {
        let made = fs::DirBuilder::new().mode(0o700).create(&self.path);
        if made.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
            self.is_ours.store(false, Ordering::Release);
        }
        made
    }

    /// The same for one among the temporary ones: as long as this process lives nobody takes it for left.
    pub(crate) fn make_locked(&self) -> io::Result<()> {
        let path = lock_of(&self.path);
        let lock = File::options().create_new(true).append(true).open(&path)?;
        // Where nothing can be locked nobody sweeps, either.
        let _ = lock.try_lock();
        let _ = self.held.set((lock, path));
        self.make()
    }

    fn is_ours(&self) -> bool {
        self.is_ours.load(Ordering::Acquire)
    }

    /// Moves it away while somebody may be writing into it, and puts a file in its place: so nothing in it is made anew.
    /// Gives whether that is done.
    fn take_from_a_writer(&self) -> bool {
        if !self.is_ours() {
            return true;
        }
        let mut aside = self.path.as_os_str().to_owned();
        aside.push(".removed");
        if self.path.is_dir() {
            let _ = fs::rename(&self.path, &aside);
        }
        let is_held = self.path.is_file() || fs::File::create_new(&self.path).is_ok();
        // What somebody writes at this moment is removed the next time.
        let is_gone = fs::remove_dir_all(&aside).is_ok() || !Path::new(&aside).exists();
        is_held && is_gone
    }

    fn remove_lock(&self) {
        if let Some((_, path)) = self.held.get() {
            let _ = fs::remove_file(path);
        }
    }

    fn remove_above(&self) {
        for folder in &self.made_above {
            // One that holds something is needed.
            let _ = fs::remove_dir(folder);
        }
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        if self.is_ours() {
            // One that was never made, or has got its name, is not there.
            let _ = remove(&self.path);
            self.remove_lock();
        }
        self.remove_above();
    }
}

/// How long after it was made a lock may not be held yet.
const UNTIL_LOCKED: Duration = Duration::from_secs(60);

/// The lock that says whether somebody needs a folder, beside it.
fn lock_of(folder: &Path) -> PathBuf {
    let mut path = folder.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}

/// This machine, in eight digits: where machines share their temporary files, a lock may be seen by the one that holds it alone.
fn machine() -> String {
    Digest::of(environment::host().as_bytes()).to_string()[..8].to_owned()
}

/// Removes the folders of this machine whose names begin so and whose locks nobody holds.
fn sweep(folder: &Path, prefix: &str) {
    let Ok(user) = fs::metadata("/proc/self").map(|it| it.uid()) else { return };
    let prefix = format!("{prefix}-{}-", machine());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let lot = name.to_str().and_then(|name| name.strip_prefix(&prefix)?.strip_suffix(".lock"));
        let is_lot = |lot: &str| lot.len() == 16 && lot.bytes().all(|it| it.is_ascii_hexdigit());
        // Of the entry itself: a link leads elsewhere.
        let Ok(metadata) = entry.metadata() else { continue };
        let age = metadata.modified().ok().and_then(|it| it.elapsed().ok());
        let is_left = metadata.is_file()
            && metadata.uid() == user
            && lot.is_some_and(is_lot)
            && age.is_some_and(|age| age > UNTIL_LOCKED);
        if !is_left {
            continue;
        }
        let lock = File::options().append(true).open(entry.path());
        let Some(lock) = lock.ok().filter(|lock| lock.try_lock().is_ok()) else { continue };
        let left = entry.path().with_extension("");
        // What stays is swept another time.
        if left.symlink_metadata().is_err() || left.is_dir() && remove(&left).is_ok() {
            let _ = fs::remove_file(entry.path());
        }
        drop(lock);
    }
}

/// What nobody can guess.
fn lot() -> String {
    // The keys of a map of the standard library: they come from the system, and are others each time.
    format!("{:016x}", RandomState::new().hash_one(std::process::id()))
}

/// Does work that fills these folders. A signal meanwhile removes them, and ends the program.
pub(crate) fn unless_interrupted<T>(folders: &[&TemporaryFolder], work: impl FnOnce() -> T) -> T {
    beside_signals(work, async |mut interrupts, mut is_finished| {
        tokio::select! {
            _ = &mut is_finished => return,
            () = interrupts.next() => {}
        }
        remove_from_a_writer(folders, is_finished).await;
        output::note("interrupted");
        #[expect(clippy::exit, reason = "the work may go on in the other thread")]
        std::process::exit(ExitCode::Interrupted.into());
    })
}

/// Does work that ends in order when `stop` is called, as it is at each signal.
pub(crate) fn at_signals<T>(stop: impl Fn() + Sync, work: impl FnOnce() -> T) -> T {
    beside_signals(work, async |mut interrupts, mut is_finished| {
        loop {
            tokio::select! {
                _ = &mut is_finished => return,
                () = interrupts.next() => stop(),
            }
        }
    })
}

/// Does work while another thread waits for signals, or for the end of the work.
fn beside_signals<T>(
    work: impl FnOnce() -> T,
    wait: impl AsyncFnOnce(Interrupts, oneshot::Receiver<()>) + Send,
) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let interrupts = runtime.as_ref().ok().and_then(|runtime| {
        let _entered = runtime.enter();
        Interrupts::new().ok()
    });
    // Where signals cannot be waited for they do what they always do.
    let (Ok(runtime), Some(interrupts)) = (runtime, interrupts) else { return work() };
    let (finished, is_finished) = oneshot::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || runtime.block_on(wait(interrupts, is_finished)));
        // Dropped when the work is done, also by a panic.
        let _finished = finished;
        work()
    })
}

/// Removes folders for good: without them the work fails, and is waited for, if only for a while.
async fn remove_from_a_writer(folders: &[&TemporaryFolder], is_finished: oneshot::Receiver<()>) {
    let mut left: Vec<_> = folders.to_vec();
    for _ in 0..TRIES {
        left.retain(|folder| !folder.take_from_a_writer());
        if left.is_empty() {
            break;
        }
        tokio::time::sleep(BETWEEN_TRIES).await;
    }
    let _ = tokio::time::timeout(PATIENCE, is_finished).await;
    for folder in folders.iter().filter(|folder| folder.is_ours()) {
        let _ = fs::remove_file(&folder.path);
        folder.remove_lock();
        folder.remove_above();
    }
}

const TRIES: usize = 50;
const BETWEEN_TRIES: Duration = Duration::from_millis(10);
/// How long work gets to notice that its folder is gone; some of it only reads.
const PATIENCE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    /// A name that could be guessed was once made by somebody else, and what they had in it was removed.
    #[test]
    fn what_somebody_else_made_stays() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join("there");
        fs::create_dir(&there).unwrap();
        fs::write(there.join("kept"), "x").unwrap();
        let before = TemporaryFolder::at(there.clone(), Vec::new());
        assert!(before.make().is_err() && before.take_from_a_writer());
        drop(before);
        let meanwhile = TemporaryFolder::at(folder.path().join("meanwhile"), Vec::new());
        fs::create_dir(&meanwhile.path).unwrap();
        assert!(meanwhile.make().is_err());
        drop(meanwhile);
        assert!(there.join("kept").exists() && folder.path().join("meanwhile").exists());

        let ours = TemporaryFolder::at(folder.path().join("ours"), Vec::new());
        ours.make().unwrap();
        fs::write(ours.path.join("gone"), "x").unwrap();
        drop(ours);
        assert!(!folder.path().join("ours").exists());
    }

    #[test]
    fn what_a_killed_process_has_left_is_swept_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let here = machine();
        let within = |name: &str| folder.path().join(name.replace("HERE", &here));
        let long_ago = std::time::SystemTime::now() - UNTIL_LOCKED * 2;
        let make = |name: &str, is_old: bool| {
            fs::create_dir_all(within(name).join("a")).unwrap();
            fs::write(within(name).join("a/b"), "x").unwrap();
            let lock = File::create(lock_of(&within(name))).unwrap();
            if is_old {
                lock.set_modified(long_ago).unwrap();
            }
        };
        let at_work = TemporaryFolder::at(within("x-HERE-00000000000000aa"), Vec::new());
        at_work.make_locked().unwrap();
        let lock = lock_of(&at_work.path);
        File::options().append(true).open(&lock).unwrap().set_modified(long_ago).unwrap();
        // Of another machine, of another kind, of somebody else's making, and new.
        let kept = ["x-00000000-00000000000000bb", "y-HERE-00000000000000cc", "x-HERE-of-somebody"];
        kept.iter().for_each(|name| make(name, true));
        make("x-HERE-00000000000000dd", false);
        make("x-HERE-00000000000000ee", true);
        // The lock of something that is a link is no reason to follow it.
        std::os::unix::fs::symlink(within(kept[1]), within("x-HERE-00000000000000ff")).unwrap();
        File::create(within("x-HERE-00000000000000ff.lock"))
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
        sweep(folder.path(), "x");
        assert!(!within("x-HERE-00000000000000ee").exists());
        assert!(!within("x-HERE-00000000000000ee.lock").exists());
        assert!(at_work.path.exists() && within("x-HERE-00000000000000dd").exists());
        assert!(kept.iter().all(|name| within(name).join("a/b").exists()));
        // The next one finds it when its process is no more; one that ends in order leaves nothing.
        let path = at_work.path.clone();
        at_work.is_ours.store(false, Ordering::Release);
        drop(at_work);
        assert!(path.exists());
        sweep(folder.path(), "x");
        assert!(!path.exists() && !lock.exists());
        let other = TemporaryFolder::at(within("x-HERE-00000000000000ab"), Vec::new());
        other.make_locked().unwrap();
        drop(other);
        assert!(!within("x-HERE-00000000000000ab.lock").exists());
    }

    #[test]
    fn no_name_comes_twice() {
        let (one, other) = (TemporaryFolder::named("x"), TemporaryFolder::named("x"));
        assert_ne!(one.path, other.path);
        let (one, other) = (Path::new("a/b"), Path::new("a/b"));
        assert_ne!(TemporaryFolder::beside(one).path, TemporaryFolder::beside(other).path);
    }
}

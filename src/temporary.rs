//! Folders that are there for a while: neither a failure nor a signal leaves them behind.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use okapi_engine::run::interrupts::Interrupts;
use tokio::sync::oneshot;

use crate::exit_code::ExitCode;
use crate::ui::output;

/// A folder for as long as the value lives. Its name is known before it is made, so that there is no moment in which a signal
/// could leave it.
pub(crate) struct TemporaryFolder {
    pub(crate) path: PathBuf,
    /// The folders above that were not there, from the innermost.
    made_above: Vec<PathBuf>,
}

impl TemporaryFolder {
    /// One among the temporary ones, whose name begins so. Nothing is made.
    pub(crate) fn named(prefix: &str) -> TemporaryFolder {
        let path = std::env::temp_dir().join(format!("{prefix}-{}", std::process::id()));
        TemporaryFolder { path, made_above: Vec::new() }
    }

    /// One beside the name that it will get. Nothing is made.
    pub(crate) fn beside(named: &Path) -> TemporaryFolder {
        let name = named.file_name().unwrap_or_default().to_string_lossy();
        let above = named.ancestors().skip(1);
        let is_new = |it: &&Path| !it.as_os_str().is_empty() && !it.exists();
        TemporaryFolder {
            path: named.with_file_name(format!(".{name}.okapi-{}", std::process::id())),
            made_above: above.take_while(is_new).map(Path::to_owned).collect(),
        }
    }

    /// Makes it, for nobody else to read.
    pub(crate) fn make(&self) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(&self.path)
    }

    /// Moves it away while somebody may be writing into it, and puts a file in its place: so nothing in it is made anew.
    /// Gives whether that is done.
    fn take_from_a_writer(&self) -> bool {
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

    fn remove_above(&self) {
        for folder in &self.made_above {
            // One that holds something is needed.
            let _ = fs::remove_dir(folder);
        }
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // One that was never made, or has got its name, is not there.
        let _ = fs::remove_dir_all(&self.path);
        self.remove_above();
    }
}

/// Does work that fills these folders. A signal meanwhile removes them, and ends the program.
pub(crate) fn unless_interrupted<T>(folders: &[&TemporaryFolder], work: impl FnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let interrupts = runtime.as_ref().ok().and_then(|runtime| {
        let _entered = runtime.enter();
        Interrupts::new().ok()
    });
    // Where signals cannot be waited for they do what they always do.
    let (Ok(runtime), Some(mut interrupts)) = (runtime, interrupts) else { return work() };
    let (finished, mut is_finished) = oneshot::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = &mut is_finished => return,
                    () = interrupts.next() => {}
                }
                remove_from_a_writer(folders, is_finished).await;
                output::note("interrupted");
                #[expect(clippy::exit, reason = "the work may go on in the other thread")]
                std::process::exit(ExitCode::Interrupted.into());
            });
        });
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
    for folder in folders {
        let _ = fs::remove_file(&folder.path);
        folder.remove_above();
    }
}

const TRIES: usize = 50;
const BETWEEN_TRIES: Duration = Duration::from_millis(10);
/// How long work gets to notice that its folder is gone; some of it only reads.
const PATIENCE: Duration = Duration::from_millis(500);

//! One command as a process: started in the sandbox, watched, ended with all that it started.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::sandbox::{Sandbox, SandboxError};
use super::watchdog::Watchdog;
use crate::stage_context::{Cancellation, StageError, WorkFolder};

/// What the commands of a run are started with.
#[derive(Clone, Default)]
pub struct Launcher {
    /// The rules that commands are held to; none if the kernel has no Landlock.
    pub sandbox: Option<Arc<Sandbox>>,
    /// The okapi executable, for the watchdog; none in tests inside one process.
    pub okapi: Option<PathBuf>,
    watchdog: Arc<OnceLock<Option<Watchdog>>>,
}

impl Launcher {
    /// A launcher. The watchdog starts with the first command.
    pub fn new(sandbox: Option<Arc<Sandbox>>, okapi: Option<PathBuf>) -> Launcher {
        Launcher { sandbox, okapi, watchdog: Arc::default() }
    }

    fn watchdog(&self) -> Option<&Watchdog> {
        let start = || Watchdog::start(self.okapi.as_deref()?).ok();
        self.watchdog.get_or_init(start).as_ref()
    }

    /// Runs `command` to its end, stdout and stderr into the working folder's files.
    ///
    /// The command leads a process group of its own. When it ends, whatever is left of the group
    /// is killed: a job that a script left in the background must not write to outputs that are
    /// being hashed.
    ///
    /// # Errors
    /// When the program cannot be started, or the run is being stopped, or the time is up.
    pub fn run(
        &self,
        mut command: Command,
        work: &WorkFolder,
        cancel: &Cancellation,
    ) -> Result<ExitStatus, StageError> {
        let create = |path: &PathBuf| {
            File::create(path).map_err(|source| StageError::Io { path: path.clone(), source })
        };
        command
            .current_dir(&work.current_dir)
            .stdin(Stdio::null())
            .stdout(create(&work.stdout)?)
            .stderr(create(&work.stderr)?)
            .process_group(0);
        // Before the command, so that there is someone to tell of it at once.
        let watchdog = self.watchdog();
        let mut child = self.spawn(&mut command).map_err(|source| StageError::Io {
            path: PathBuf::from(command.get_program()),
            source,
        })?;
        let group = Pid::from_child(&child);
        if let Some(watchdog) = watchdog {
            watchdog.begin(group);
        }
        *cancel.group() = Some(group);
        if cancel.is_requested() {
            // The request came before there was a group to signal.
            let _ = kill_process_group(group, Signal::TERM);
        }
        let status = wait(&mut child, group, cancel);
        if let Some(watchdog) = watchdog {
            watchdog.end(group);
        }
        let status = status.map_err(|source| StageError::Io {
            path: PathBuf::from(command.get_program()),
            source,
        })?;
        if cancel.is_requested() && !status.success() {
            return Err(StageError::Cancelled);
        }
        Ok(status)
    }

    /// Starts the process from a thread that has entered the sandbox. Rules hold for a thread and
    /// its children, so neither this process nor `posix_spawn`'s speed is lost.
    fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let Some(sandbox) = &self.sandbox else { return command.spawn() };
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| match sandbox.enter() {
                Ok(()) => command.spawn(),
                Err(SandboxError::Io(error)) => Err(error),
                Err(error) => Err(io::Error::other(error.to_string())),
            });
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the sandbox thread panicked")))
        })
    }
}

/// Waits for the leader to end, kills what is left of its group while the leader's number cannot
/// be given to another process yet, and only then takes the leader's status.
fn wait(child: &mut Child, group: Pid, cancel: &Cancellation) -> io::Result<ExitStatus> {
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    loop {
        match waitid(WaitId::Pid(group), ended) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => break,
        }
    }
    *cancel.group() = None;
    let _ = kill_process_group(group, Signal::KILL);
    child.wait()
}

/// "exited with status 3", "was killed by signal 9 (KILL)".
pub fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code @ 126), _) => format!("exited with status {code} (found, but not executable)"),
        (Some(code @ 127), _) => format!("exited with status {code} (a program was not found)"),
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(9)) => "was killed by signal 9 (out of memory?)".to_owned(),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended in an unknown way".to_owned(),
    }
}

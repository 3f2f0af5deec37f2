//! One command as a process: started in the sandbox, watched, ended with all that it started.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::sandbox::Sandbox;
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
    /// Threads that wait for a command to start.
    spawners: Arc<Mutex<Vec<Spawner>>>,
}

impl Launcher {
    /// A launcher. The watchdog starts with the first command.
    pub fn new(sandbox: Option<Arc<Sandbox>>, okapi: Option<PathBuf>) -> Launcher {
        Launcher { sandbox, okapi, watchdog: Arc::default(), spawners: Arc::default() }
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
        let program = PathBuf::from(command.get_program());
        if let Some(watchdog) = watchdog {
            watchdog.enter(&work.root, work.lease.as_deref());
        }
        let spawned = self.spawn(command);
        let mut child = spawned.map_err(|source| {
            if let Some(watchdog) = watchdog {
                watchdog.leave(&work.root);
            }
            StageError::Io { path: program.clone(), source }
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
        let ended = wait(group, cancel);
        if let Some(watchdog) = watchdog {
            // While the leader's number is still its own.
            watchdog.end(group);
        }
        let status = ended.and_then(|()| child.wait());
        if let Some(watchdog) = watchdog {
            watchdog.leave(&work.root);
        }
        let status = status.map_err(|source| StageError::Io { path: program, source })?;
        // Whatever its status says: what was told to stop may have left half of its work.
        if cancel.is_requested() {
            return Err(StageError::Cancelled);
        }
        Ok(status)
    }

    /// Starts the process from a thread that has entered the sandbox. Rules hold for a thread and
    /// its children, so neither this process nor `posix_spawn`'s speed is lost.
    fn spawn(&self, command: Command) -> io::Result<Child> {
        let Some(sandbox) = &self.sandbox else {
            let mut command = command;
            return command.spawn();
        };
        let idle = self.spawners().pop();
        let spawner = match idle {
            Some(spawner) => spawner,
            None => Spawner::start(Arc::clone(sandbox))?,
        };
        let child = spawner.spawn(command);
        self.spawners().push(spawner);
        child
    }

    fn spawners(&self) -> MutexGuard<'_, Vec<Spawner>> {
        self.spawners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that has entered the sandbox and starts processes for others. It cannot leave the
/// sandbox again, so it does nothing else; it is kept, for entering costs as much as a spawn.
struct Spawner {
    commands: Sender<Command>,
    children: Receiver<io::Result<Child>>,
}

impl Spawner {
    fn start(sandbox: Arc<Sandbox>) -> io::Result<Spawner> {
        let (commands, inbox) = channel::<Command>();
        let (outbox, children) = channel();
        std::thread::Builder::new().name("spawner".to_owned()).spawn(move || {
            let entered = sandbox.enter();
            for mut command in inbox {
                let child = match &entered {
                    Ok(()) => command.spawn(),
                    Err(error) => Err(io::Error::other(error.to_string())),
                };
                if outbox.send(child).is_err() {
                    return;
                }
            }
        })?;
        Ok(Spawner { commands, children })
    }

    fn spawn(&self, command: Command) -> io::Result<Child> {
        let gone = || io::Error::other("the thread that starts commands has ended");
        self.commands.send(command).map_err(|_| gone())?;
        self.children.recv().map_err(|_| gone())?
    }
}

/// Waits for the leader to end and kills what is left of its group, while the leader's number cannot
/// be given to another process yet: its status has to be taken afterwards.
fn wait(group: Pid, cancel: &Cancellation) -> io::Result<()> {
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
    Ok(())
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

//! No orphans, even after `kill -9`: a small process that outlives okapi by a moment and ends the
//! commands that okapi left running.
//!
//! okapi cannot clean up after its own SIGKILL, and the parent-death signal of Linux is tied to a
//! thread and to `fork`, which is slow in a large process. So the first command of a run starts a
//! second okapi with the hidden argument [`ARGUMENT`]. It reads which process groups begin and end
//! from a pipe. When the pipe closes, whatever way okapi ended, it kills the groups that are left.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;

use rustix::process::{Pid, Signal, kill_process_group};

/// The argument with which the watchdog is started.
pub const ARGUMENT: &str = "__watchdog";

const BEGIN: u8 = b'+';
const END: u8 = b'-';

/// The okapi side of the pipe.
pub struct Watchdog {
    child: Mutex<(Child, Option<ChildStdin>)>,
}

impl Watchdog {
    /// Starts the watchdog, `program` being the okapi executable.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start(program: &Path) -> io::Result<Watchdog> {
        let mut command = Command::new(program);
        command.arg(ARGUMENT).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // Its own group: a Ctrl-C at the terminal must not end it before okapi has ended.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn()?;
        let pipe = child.stdin.take();
        Ok(Watchdog { child: Mutex::new((child, pipe)) })
    }

    /// A process group began.
    pub fn begin(&self, group: Pid) {
        self.tell(BEGIN, group);
    }

    /// A process group ended.
    pub fn end(&self, group: Pid) {
        self.tell(END, group);
    }

    fn tell(&self, word: u8, group: Pid) {
        let mut message = [0; 5];
        message[0] = word;
        message[1..].copy_from_slice(&group.as_raw_nonzero().get().to_le_bytes());
        if let Ok(mut child) = self.child.lock()
            && let Some(pipe) = &mut child.1
        {
            // A watchdog that died leaves the run as it would be without one.
            let _ = pipe.write_all(&message);
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Ok(child) = self.child.get_mut() {
            // Closing the pipe ends it; all groups have ended by now.
            child.1 = None;
            let _ = child.0.wait();
        }
    }
}

/// The watchdog's side: reads until the pipe closes, then kills the groups that are left.
pub fn watch(mut pipe: impl Read) {
    let mut groups = BTreeSet::new();
    let mut message = [0; 5];
    while pipe.read_exact(&mut message).is_ok() {
        let raw = i32::from_le_bytes([message[1], message[2], message[3], message[4]]);
        match message[0] {
            BEGIN => groups.insert(raw),
            _ => groups.remove(&raw),
        };
    }
    for group in groups.into_iter().filter_map(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

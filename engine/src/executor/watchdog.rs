//! No orphans, even after `kill -9`: a small process that outlives okapi by a moment and ends the
//! commands that okapi left running.
//!
//! okapi cannot clean up after its own SIGKILL, and the parent-death signal of Linux is tied to a
//! thread and to `fork`, which is slow in a large process. So the first command of a run starts a
//! second okapi with the hidden argument [`ARGUMENT`]. It reads which process groups begin and end
//! from a pipe. When the pipe closes, whatever way okapi ended, it kills the groups that are left.
//!
//! A group has no number before it is there, and okapi may be killed in that moment. So the watchdog is told
//! before a command starts in which folder that will be, and at the end also looks for processes in
//! the folders of commands that have not ended.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal, getpgid, kill_process_group};

/// The argument with which the watchdog is started.
pub const ARGUMENT: &str = "__watchdog";

const BEGIN: u8 = b'+';
const END: u8 = b'-';
const ENTER: u8 = b'>';
const LEAVE: u8 = b'<';

/// When to look for processes that were being started when okapi ended, milliseconds apart.
const LOOKS: [u64; 4] = [0, 20, 80, 200];

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

    /// A command is about to start in a folder of its own.
    pub fn enter(&self, folder: &Path) {
        self.tell_folder(ENTER, folder);
    }

    /// The command in that folder has ended.
    pub fn leave(&self, folder: &Path) {
        self.tell_folder(LEAVE, folder);
    }

    fn tell_folder(&self, word: u8, folder: &Path) {
        let path = folder.as_os_str().as_bytes();
        let length = (path.len() as u32).to_le_bytes();
        self.send(&[&[word], &length[..], path].concat());
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
        self.send(&message);
    }

    fn send(&self, message: &[u8]) {
        if let Ok(mut child) = self.child.lock()
            && let Some(pipe) = &mut child.1
        {
            // A watchdog that died leaves the run as it would be without one.
            let _ = pipe.write_all(message);
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
    let mut folders = BTreeSet::new();
    let mut message = [0; 5];
    while pipe.read_exact(&mut message).is_ok() {
        let number = [message[1], message[2], message[3], message[4]];
        let raw = i32::from_le_bytes(number);
        match message[0] {
            BEGIN => drop(groups.insert(raw)),
            END => drop(groups.remove(&raw)),
            word => {
                let mut path = vec![0; u32::from_le_bytes(number) as usize];
                if pipe.read_exact(&mut path).is_err() {
                    break;
                }
                let folder = PathBuf::from(OsString::from_vec(path));
                match word {
                    ENTER => drop(folders.insert(folder)),
                    _ => drop(folders.remove(&folder)),
                }
            }
        };
    }
    for group in groups.into_iter().filter_map(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    if folders.is_empty() {
        return;
    }
    for pause in LOOKS {
        std::thread::sleep(Duration::from_millis(pause));
        for group in groups_in(&folders) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// The groups of processes that work in any of these folders.
fn groups_in(folders: &BTreeSet<PathBuf>) -> Vec<Pid> {
    let mut groups = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let raw = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(process) = raw.and_then(Pid::from_raw) else { continue };
        let Ok(folder) = std::fs::read_link(entry.path().join("cwd")) else { continue };
        if folders.iter().any(|it| folder.starts_with(it)) {
            groups.extend(getpgid(Some(process)).ok());
        }
    }
    groups
}

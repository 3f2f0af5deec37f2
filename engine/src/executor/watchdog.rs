//! No orphans, even after `kill -9`: a small process that outlives okapi by a moment and ends the
//! commands that okapi left running.
//!
//! okapi cannot clean up after its own SIGKILL, and the parent-death signal of Linux is tied to a
//! thread and to `fork`, which is slow in a large process. So the first command of a run starts a
//! second okapi with the hidden argument [`ARGUMENT`]. It reads which process groups begin and end
//! from a socket. When the socket closes, whatever way okapi ended, it kills the groups that are
//! left.
//!
//! A group has no number before it is there, and okapi may be killed in that moment. So the watchdog
//! is told before a command starts in which folder that will be, and at the end also looks for
//! processes in the folders of commands that have not ended. A process that was being started holds
//! okapi's end of the socket until it has become the command, so at the end each is one.
//!
//! Nobody else may be hit, above all not the next run, which does the same work in folders of the
//! same names:
//!
//! - a number is killed only if it still names the process that was told of: numbers come again;
//! - a process in a folder is killed only if its group's leader has lost its parent, and so has
//!   the same one now as the watchdog. A living okapi is the parent of its commands, a terminal that
//!   of its shell;
//! - the watchdog has a share of the lease on each action whose command has not ended, so that
//!   another run begins it only when this one's command is gone.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::{Pid, Signal, kill_process_group};

/// The argument with which the watchdog is started.
pub const ARGUMENT: &str = "__watchdog";

const BEGIN: u8 = b'+';
const END: u8 = b'-';
const ENTER: u8 = b'>';
const LEAVE: u8 = b'<';

/// When to look into the folders, milliseconds apart, while anybody is there: okapi's threads end one
/// after the other, and its children get their new parent only then.
const LOOKS: [u64; 7] = [0, 2, 8, 20, 80, 200, 1000];

/// The okapi side of the socket.
pub struct Watchdog {
    child: Mutex<(Child, Option<UnixStream>)>,
}

impl Watchdog {
    /// Starts the watchdog, `program` being the okapi executable.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start(program: &Path) -> io::Result<Watchdog> {
        let (ours, its) = UnixStream::pair()?;
        let mut command = Command::new(program);
        command.arg(ARGUMENT).stdin(OwnedFd::from(its));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        // Its own group: a Ctrl-C at the terminal must not end it before okapi has ended.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn()?;
        Ok(Watchdog { child: Mutex::new((child, Some(ours))) })
    }

    /// A command is about to start, and works in a folder of its own, which `lease` says is ours.
    pub fn enter(&self, folder: &Path, lease: Option<&OwnedFd>) {
        self.tell_folder(ENTER, folder, lease);
    }

    /// The command in that folder has ended.
    pub fn leave(&self, folder: &Path) {
        self.tell_folder(LEAVE, folder, None);
    }

    fn tell_folder(&self, word: u8, folder: &Path, lease: Option<&OwnedFd>) {
        if let Ok(child) = self.child.lock()
            && let Some(socket) = &child.1
        {
            // A watchdog that died leaves the run as it would be without one.
            let _ = send(socket, &folder_message(word, folder), lease);
        }
    }

    /// A process group began, whose leader nobody has waited for yet.
    pub fn begin(&self, group: Pid) {
        self.tell_group(BEGIN, group);
    }

    /// A process group ended; its leader has not been waited for yet.
    pub fn end(&self, group: Pid) {
        self.tell_group(END, group);
    }

    fn tell_group(&self, word: u8, group: Pid) {
        if let Ok(child) = self.child.lock()
            && let Some(socket) = &child.1
        {
            let _ = send(socket, &group_message(word, group), None);
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Ok(child) = self.child.get_mut() {
            // Closing the socket ends it; all groups have ended by now.
            child.1 = None;
            let _ = child.0.wait();
        }
    }
}

fn folder_message(word: u8, folder: &Path) -> Vec<u8> {
    let path = folder.as_os_str().as_bytes();
    let length = (path.len() as u32).to_le_bytes();
    [&[word], &length[..], path].concat()
}

fn group_message(word: u8, group: Pid) -> Vec<u8> {
    let number = group.as_raw_nonzero().get().to_le_bytes();
    let mut message = [&[word], &number[..]].concat();
    if word == BEGIN {
        // Where the kernel does not say, the group is found by its folder.
        let started = process(group).map_or(0, |leader| leader.started);
        message.extend(started.to_le_bytes());
    }
    message
}

fn send(mut socket: &UnixStream, message: &[u8], lease: Option<&OwnedFd>) -> io::Result<()> {
    let mut sent = 0;
    if let Some(lease) = lease {
        let lease = [lease.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        beside.push(SendAncillaryMessage::ScmRights(&lease));
        let bytes = [IoSlice::new(message)];
        // The kernel refuses when too many files are on their way. The words matter more.
        sent = retry_on_intr(|| sendmsg(socket, &bytes, &mut beside, SendFlags::NOSIGNAL))
            .unwrap_or_default();
    }
    socket.write_all(&message[sent..])
}

/// The end of the socket that is read.
struct Inbox<S> {
    socket: S,
    /// What came beside the bytes and was not taken yet.
    lease: Option<OwnedFd>,
}

impl<S: AsFd> Inbox<S> {
    /// Fills `bytes`; `None` when the socket has closed.
    fn read(&mut self, bytes: &mut [u8]) -> Option<()> {
        let mut filled = 0;
        while filled < bytes.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut beside = RecvAncillaryBuffer::new(&mut space);
            let rest = &mut [IoSliceMut::new(&mut bytes[filled..])];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let read = retry_on_intr(|| recvmsg(&self.socket, rest, &mut beside, flags)).ok()?;
            if read.bytes == 0 {
                return None;
            }
            for message in beside.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = message {
                    self.lease = received.last();
                }
            }
            filled += read.bytes;
        }
        Some(())
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Some(bytes)
    }
}

/// What has begun and not ended.
#[derive(Default)]
struct Unfinished {
    /// When the leader of each group began.
    groups: BTreeMap<i32, u64>,
    /// Each folder, with the share of the lease on the action.
    folders: BTreeMap<PathBuf, Option<OwnedFd>>,
}

impl Unfinished {
    /// Reads a message; `None` when there are no more.
    fn hear(&mut self, inbox: &mut Inbox<impl AsFd>) -> Option<()> {
        let [word] = inbox.array()?;
        let number = inbox.array()?;
        match word {
            BEGIN => {
                let started = u64::from_le_bytes(inbox.array()?);
                self.groups.insert(i32::from_le_bytes(number), started);
            }
            END => {
                self.groups.remove(&i32::from_le_bytes(number));
            }
            _ => {
                let mut path = vec![0; u32::from_le_bytes(number) as usize];
                inbox.read(&mut path)?;
                let folder = PathBuf::from(OsString::from_vec(path));
                match word {
                    ENTER => drop(self.folders.insert(folder, inbox.lease.take())),
                    _ => drop(self.folders.remove(&folder)),
                }
            }
        }
        Some(())
    }
}

/// The watchdog's side: reads until the socket closes, then kills what is left.
pub fn watch(socket: impl AsFd) {
    let mut inbox = Inbox { socket, lease: None };
    let mut unfinished = Unfinished::default();
    while unfinished.hear(&mut inbox).is_some() {}
    for (&group, &started) in &unfinished.groups {
        if let Some(group) = Pid::from_raw(group) {
            kill_begun(group, started);
        }
    }
    for pause in LOOKS {
        std::thread::sleep(Duration::from_millis(pause));
        if !kill_orphans(&unfinished.folders, parent_id()) {
            break;
        }
    }
    // Only now the leases are given back.
    drop(unfinished);
}

/// Kills a group, unless its number has gone to another process. It goes to none while the group has
/// members, so a group without a leader is the one that was told of.
fn kill_begun(group: Pid, started: u64) {
    if process(group).is_none_or(|leader| leader.started == started) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Kills the groups of processes that work in any of these folders, those whose leader was left by its
/// parent to `adopter`. Says whether anybody works there, orphan or not.
fn kill_orphans(folders: &BTreeMap<PathBuf, Option<OwnedFd>>, adopter: u32) -> bool {
    let mut anybody = false;
    if folders.is_empty() {
        return anybody;
    }
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(number) = number.and_then(Pid::from_raw) else { continue };
        if !works_in(&entry.path(), folders) {
            continue;
        }
        anybody = true;
        let Some(group) = process(number).and_then(|it| Pid::from_raw(it.group)) else { continue };
        // A living okapi waits for a leader only when no member is left: without a leader, they are
        // orphans.
        if process(group).is_none_or(|leader| leader.parent == adopter) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
    anybody
}

/// Whether a process is in a folder, or writes there what it says: commands start so, and some go
/// elsewhere.
fn works_in(process: &Path, folders: &BTreeMap<PathBuf, Option<OwnedFd>>) -> bool {
    ["cwd", "fd/1", "fd/2"].iter().any(|link| {
        let Ok(place) = std::fs::read_link(process.join(link)) else { return false };
        folders.keys().any(|folder| place.starts_with(folder))
    })
}

/// What the kernel says of a process.
struct Process {
    parent: u32,
    group: i32,
    /// Ticks since the machine started. With the number, it names one process.
    started: u64,
}

fn process(number: Pid) -> Option<Process> {
    let path = format!("/proc/{}/stat", number.as_raw_nonzero());
    let stat = std::fs::read(path).ok()?;
    // The program's name is in parentheses and may hold any byte, also a parenthesis.
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let fields = std::str::from_utf8(&stat[end + 1..]).ok()?;
    let mut fields = fields.split_ascii_whitespace();
    Some(Process {
        parent: fields.nth(1)?.parse().ok()?,
        group: fields.next()?.parse().ok()?,
        started: fields.nth(16)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::time::Instant;

    use super::*;

    /// A process that is killed at the end of the test.
    struct Sleeper(Child);

    impl Sleeper {
        fn start(folder: &Path, stdout: Option<File>) -> Sleeper {
            let mut command = Command::new("sleep");
            command.arg("600").current_dir(folder).process_group(0);
            command.stdout(stdout.map_or_else(Stdio::null, Stdio::from)).stderr(Stdio::null());
            Sleeper(command.spawn().unwrap())
        }

        fn group(&self) -> Pid {
            Pid::from_child(&self.0)
        }

        fn is_alive(&mut self) -> bool {
            // A signal is on its way for a moment.
            std::thread::sleep(Duration::from_millis(50));
            self.0.try_wait().unwrap().is_none()
        }

        fn was_killed(&mut self) -> bool {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(10) {
                if let Some(status) = self.0.try_wait().unwrap() {
                    return status.signal() == Some(9);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            false
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn one(folder: &Path) -> BTreeMap<PathBuf, Option<OwnedFd>> {
        BTreeMap::from([(fs::canonicalize(folder).unwrap(), None)])
    }

    #[test]
    fn a_number_that_names_another_process_by_now_is_left_alone() {
        let mut sleeper = Sleeper::start(Path::new("/"), None);
        let started = process(sleeper.group()).unwrap().started;
        kill_begun(sleeper.group(), started - 1);
        assert!(sleeper.is_alive());
        kill_begun(sleeper.group(), started);
        assert!(sleeper.was_killed());
    }

    /// The next run works in the same folders while the watchdog of a killed one still looks there.
    #[test]
    fn a_process_in_a_folder_is_killed_only_if_its_parent_left_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut sleeper = Sleeper::start(folder.path(), None);
        let folders = one(folder.path());
        let someone = sleeper.0.id();
        assert!(kill_orphans(&folders, someone));
        assert!(sleeper.is_alive());
        assert!(kill_orphans(&folders, std::process::id()));
        assert!(sleeper.was_killed());
        assert!(!kill_orphans(&folders, std::process::id()));
    }

    #[test]
    fn a_process_that_went_elsewhere_or_whose_folder_is_gone_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let (root, cwd) = (folder.path().join("root"), folder.path().join("root/cwd"));
        fs::create_dir_all(&cwd).unwrap();
        let folders = one(&root);
        let stdout = File::create(root.join("stdout")).unwrap();
        let mut elsewhere = Sleeper::start(Path::new("/"), Some(stdout));
        let mut inside = Sleeper::start(&cwd, None);
        fs::remove_dir_all(&root).unwrap();
        assert!(kill_orphans(&folders, std::process::id()));
        assert!(elsewhere.was_killed() && inside.was_killed());
    }

    #[test]
    fn what_begun_and_did_not_end_is_killed_when_the_socket_closes() {
        let (ours, its) = UnixStream::pair().unwrap();
        let mut ended = Sleeper::start(Path::new("/"), None);
        let mut begun = Sleeper::start(Path::new("/"), None);
        send(&ours, &group_message(BEGIN, ended.group()), None).unwrap();
        send(&ours, &group_message(BEGIN, begun.group()), None).unwrap();
        send(&ours, &group_message(END, ended.group()), None).unwrap();
        drop(ours);
        watch(its);
        assert!(begun.was_killed());
        assert!(ended.is_alive());
    }

    #[test]
    fn a_lease_is_held_until_the_command_has_ended_or_the_watchdog_is_through() {
        let folder = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(folder.path()).unwrap();
        let (left, entered) = (root.join("left"), root.join("entered"));
        let lock = |path: &Path| File::create(path).unwrap();
        let is_free = |path: &Path| lock(path).try_lock().is_ok();
        // A process that another test starts has all files of this one for a moment.
        let becomes_free = |path: &Path| {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_secs(10) {
                if is_free(path) {
                    return true;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            false
        };
        let (ours, its) = UnixStream::pair().unwrap();
        // Not an orphan: the watchdog looks again and again, and does not touch it.
        let mut other = Sleeper::start(&root, None);
        for lease in [&left, &entered] {
            let file = lock(lease);
            file.lock().unwrap();
            send(&ours, &folder_message(ENTER, lease), Some(&file.into())).unwrap();
        }
        send(&ours, &folder_message(LEAVE, &left), None).unwrap();
        send(&ours, &folder_message(ENTER, &root), None).unwrap();
        let watch = std::thread::spawn(move || watch(its));
        assert!(becomes_free(&left));
        assert!(!is_free(&entered));
        drop(ours);
        watch.join().unwrap();
        assert!(becomes_free(&entered));
        assert!(other.is_alive());
    }
}

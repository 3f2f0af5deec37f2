//! An append-only file of records that several processes write to.
//!
//! ```text
//! "okapi log <kind> 1\n"
//! frame*   = marker u32, length u32, crc32 u32 of (length, payload), payload
//! ```
//!
//! Appending happens under an exclusive `flock`. The appender first reads what others have added
//! since it last looked; what it finds there that is no whole frame was left by a process that was
//! killed while it wrote, and is cut off. Then its records go out in one write. Readers take no
//! lock: they stop at the first frame that is not whole yet.
//!
//! A frame that is damaged in the middle of the file (a bad disk, a stray edit) costs that record
//! only: reading goes on at the next marker whose frame is whole, and the damage is counted.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::StoreError;
use crate::atomic_write::Faults;
use crate::error::AtPath;

const MARKER: u32 = 0x10_6B_A7_1F;
pub(crate) const FRAME_HEADER: usize = 12;
/// How much is read at once: a log may be larger than the memory, and a reader keeps less of it than it reads.
const WINDOW: u64 = 8 * 1024 * 1024;
/// No record is longer; a length beyond it is damage.
const LONGEST: u32 = 256 * 1024 * 1024;

/// One log, as one process sees it.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    header: String,
    file: Option<File>,
    /// Where the next unread frame begins.
    end: u64,
    /// Bytes that were skipped because they are damaged.
    pub(crate) skipped: u64,
    /// How much is read at once.
    window: u64,
}

/// What [`LogFile::read_new`] found.
pub(crate) struct NewRecords {
    /// Whether the file was replaced since the last look: what was known before is void.
    pub(crate) replaced: bool,
}

impl LogFile {
    pub(crate) fn new(path: PathBuf, kind: &str) -> LogFile {
        let header = format!("okapi log {kind} 1\n");
        LogFile { path, header, file: None, end: 0, skipped: 0, window: WINDOW }
    }

    /// Hands every record that is new since the last look to `each`, with the offset of its
    /// payload.
    pub(crate) fn read_new(
        &mut self,
        each: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<NewRecords, StoreError> {
        let replaced = self.reopen()?;
        self.read_windows(self.end, each)?;
        Ok(NewRecords { replaced })
    }

    /// The same for every record from `offset` on, which is where a frame begins, or 0. Returns where the last whole
    /// frame ends.
    pub(crate) fn read_from(
        &mut self,
        offset: u64,
        each: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<u64, StoreError> {
        self.reopen()?;
        self.read_windows(offset, each)
    }

    fn read_windows(
        &mut self,
        offset: u64,
        each: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<u64, StoreError> {
        let mut at = offset;
        let mut bytes = Vec::new();
        loop {
            let end = self.read_window(at, &mut bytes, each)?;
            if end <= at {
                self.end = end;
                return Ok(end);
            }
            at = end;
        }
    }

    /// The same for as many records as are read at once, and at least one. Returns where they end, which is `offset` where no whole
    /// frame begins there.
    pub(crate) fn read_some(
        &mut self,
        offset: u64,
        each: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<u64, StoreError> {
        self.reopen()?;
        self.read_window(offset, &mut Vec::new(), each)
    }

    fn read_window(
        &mut self,
        offset: u64,
        bytes: &mut Vec<u8>,
        each: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<u64, StoreError> {
        let Some(file) = &self.file else { return Ok(0) };
        let length = file.metadata().at(&self.path)?.len();
        let at = offset.max(self.header.len() as u64);
        let mut window = self.window;
        if at >= length {
            return Ok(at);
        }
        loop {
            let until = length.min(at + window);
            bytes.resize((until - at) as usize, 0);
            read_up_to(file, bytes, at).at(&self.path)?;
            let (end, skipped) = scan(bytes, at, each);
            self.skipped += skipped;
            if end > at || until == length {
                return Ok(end);
            }
            // A frame that is longer than the window.
            window *= 2;
        }
    }

    /// Appends records, each with the offset that its payload got handed to `placed`. Records that
    /// others added meanwhile are handed to `each` first. If the write fails, none is in the file.
    pub(crate) fn append(
        &mut self,
        records: &[Vec<u8>],
        sync: bool,
        faults: &Faults,
        each: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<Appended, StoreError> {
        let lock = self.lock()?;
        let NewRecords { replaced } = self.read_new(each)?;
        self.append_locked(records, sync, faults, replaced, lock)
    }

    /// Appends records without looking at what is there: for a log that is only read by offset.
    /// A frame that a killed process left unfinished stays where it is; no offset leads to it.
    pub(crate) fn append_unread(
        &mut self,
        records: &[Vec<u8>],
        sync: bool,
        faults: &Faults,
    ) -> Result<Appended, StoreError> {
        let lock = self.lock()?;
        self.end = self.size();
        self.append_locked(records, sync, faults, false, lock)
    }

    fn append_locked(
        &mut self,
        records: &[Vec<u8>],
        sync: bool,
        faults: &Faults,
        replaced: bool,
        lock: File,
    ) -> Result<Appended, StoreError> {
        let Some(file) = &self.file else {
            return Err(StoreError::io(&self.path, io::ErrorKind::NotFound.into()));
        };
        if file.metadata().at(&self.path)?.len() > self.end {
            // A frame that was never finished: its writer is dead, for we hold the lock.
            file.set_len(self.end).at(&self.path)?;
        }
        let mut bytes = Vec::with_capacity(records.iter().map(|it| it.len() + FRAME_HEADER).sum());
        let mut offsets = Vec::with_capacity(records.len());
        for record in records {
            write_frame(&mut bytes, record);
            offsets.push(self.end + (bytes.len() - record.len()) as u64);
        }
        let written = faults
            .check()
            .and_then(|()| file.write_all_at(&bytes, self.end))
            .and_then(|()| if sync { file.sync_data() } else { Ok(()) });
        if let Err(error) = written {
            // Best effort: a torn tail is cut off by the next appender in any case.
            let _ = file.set_len(self.end);
            return Err(StoreError::io(&self.path, error));
        }
        self.end += bytes.len() as u64;
        drop(lock);
        Ok(Appended { offsets, replaced })
    }

    /// Reads the payload of `length` bytes at `offset`, as `read_new` or `append` gave it.
    pub(crate) fn read_at(&mut self, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
        if self.file.is_none() {
            self.reopen()?;
        }
        let missing = || StoreError::io(&self.path, io::ErrorKind::UnexpectedEof.into());
        let file = self.file.as_ref().ok_or_else(missing)?;
        let start = offset.checked_sub(FRAME_HEADER as u64).ok_or_else(missing)?;
        let mut frame = vec![0; FRAME_HEADER + length];
        file.read_exact_at(&mut frame, start).at(&self.path)?;
        match parse_frame(&frame) {
            Some(payload) if payload.len() == length => Ok(frame.split_off(FRAME_HEADER)),
            _ => Err(StoreError::io(&self.path, io::Error::other("a damaged record"))),
        }
    }

    /// The same; `None` where the log is not there, is cut off before, or is damaged at that place.
    pub(crate) fn read_whole(
        &mut self,
        offset: u64,
        length: usize,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        use io::ErrorKind::{Other, UnexpectedEof};
        match self.read_at(offset, length) {
            Err(StoreError::Io { source, .. })
                if matches!(source.kind(), Other | UnexpectedEof)
                    && source.raw_os_error().is_none() =>
            {
                Ok(None)
            }
            read => read.map(Some),
        }
    }

    /// Replaces the whole file by `records`, atomically. Other processes notice at their next look.
    pub(crate) fn replace(&mut self, records: &[Vec<u8>], temp: &Path) -> Result<(), StoreError> {
        let mut replacement = self.begin_replacement(temp)?;
        for record in records {
            replacement.push(record)?;
        }
        self.finish_replacement(replacement)
    }

    /// Begins a file that will take the place of this one, at `temp`. Nobody appends meanwhile; this one can be read.
    pub(crate) fn begin_replacement(&mut self, temp: &Path) -> Result<Replacement, StoreError> {
        let lock = self.lock()?;
        let mut file = BufWriter::with_capacity(1 << 20, File::create(temp).at(temp)?);
        file.write_all(self.header.as_bytes()).at(temp)?;
        let end = self.header.len() as u64;
        Ok(Replacement { file, path: temp.to_owned(), end, frame: Vec::new(), _lock: lock })
    }

    /// Puts the other file in the place of this one, in one step.
    pub(crate) fn finish_replacement(&mut self, new: Replacement) -> Result<(), StoreError> {
        let Replacement { file, path, end, frame: _, _lock } = new;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error).at(&path)?;
        file.sync_data().at(&path)?;
        std::fs::rename(&path, &self.path).at(&self.path)?;
        self.file = None;
        self.reopen()?;
        self.end = end;
        Ok(())
    }

    /// Forgets what was read: the next look begins at the first record.
    pub(crate) fn forget(&mut self) {
        self.file = None;
        self.end = 0;
        self.skipped = 0;
    }

    /// The size of the file, bytes.
    pub(crate) fn size(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    /// Opens the file anew if it was replaced. A file whose header is not ours counts as empty and
    /// is set aside by the next appender.
    fn reopen(&mut self) -> Result<bool, StoreError> {
        let on_disk = match std::fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let replaced = self.file.take().is_some();
                self.end = 0;
                return Ok(replaced);
            }
            Err(error) => return Err(StoreError::io(&self.path, error)),
        };
        if let Some(file) = &self.file {
            let ours = file.metadata().at(&self.path)?;
            if (ours.dev(), ours.ino()) == (on_disk.dev(), on_disk.ino()) && ours.len() >= self.end
            {
                return Ok(false);
            }
        }
        let replaced = self.file.take().is_some();
        self.end = 0;
        // A store that cannot be written can still be read.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.path)
            .or_else(|_| File::open(&self.path))
            .at(&self.path)?;
        let mut header = vec![0; self.header.len()];
        let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_exact(&mut header));
        if read.is_ok() && header == self.header.as_bytes() {
            self.end = header.len() as u64;
            self.file = Some(file);
        }
        Ok(replaced)
    }

    /// Locks the log for appending, and creates it if it is not there. The lock is on a file beside
    /// the log, so that it holds while the log itself is replaced.
    fn lock(&mut self) -> Result<File, StoreError> {
        let path = self.path.with_extension("lock");
        let lock = OpenOptions::new().create(true).append(true).open(&path).at(&path)?;
        lock.lock().at(&path)?;
        self.reopen()?;
        if self.file.is_none() {
            if self.size() > 0 {
                self.set_aside()?;
            }
            std::fs::write(&self.path, &self.header).at(&self.path)?;
            self.reopen()?;
        }
        Ok(lock)
    }

    /// Moves a file that is no log of this kind to `quarantine/`.
    fn set_aside(&mut self) -> Result<(), StoreError> {
        let store = self.path.parent().unwrap_or(&self.path);
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let folder = store.join("quarantine");
        std::fs::create_dir_all(&folder).at(&folder)?;
        for number in 0..1000 {
            let target = folder.join(format!("{name}-{number}"));
            if !target.exists() {
                self.skipped += self.size();
                return std::fs::rename(&self.path, &target).at(&target);
            }
        }
        Err(StoreError::io(&folder, io::Error::other("too many damaged logs in quarantine")))
    }
}

/// A file that will take the place of a log.
pub(crate) struct Replacement {
    file: BufWriter<File>,
    path: PathBuf,
    end: u64,
    frame: Vec<u8>,
    _lock: File,
}

impl Replacement {
    /// Adds a record; gives the offset that its payload will have.
    pub(crate) fn push(&mut self, record: &[u8]) -> Result<u64, StoreError> {
        self.frame.clear();
        write_frame(&mut self.frame, record);
        self.file.write_all(&self.frame).at(&self.path)?;
        self.end += self.frame.len() as u64;
        Ok(self.end - record.len() as u64)
    }
}

/// What [`LogFile::append`] did.
pub(crate) struct Appended {
    /// The offset of each payload.
    pub(crate) offsets: Vec<u64>,
    /// Whether the file had been replaced since the last look.
    pub(crate) replaced: bool,
}

fn write_frame(bytes: &mut Vec<u8>, payload: &[u8]) {
    let length = (payload.len() as u32).to_le_bytes();
    let mut crc = crc32fast::Hasher::new();
    crc.update(&length);
    crc.update(payload);
    bytes.extend_from_slice(&MARKER.to_le_bytes());
    bytes.extend_from_slice(&length);
    bytes.extend_from_slice(&crc.finalize().to_le_bytes());
    bytes.extend_from_slice(payload);
}

/// The payload of the frame that `bytes` begin with, if it is whole.
fn parse_frame(bytes: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let (marker, length, expected) = (word(0)?, word(4)?, word(8)?);
    if marker != MARKER || length > LONGEST {
        return None;
    }
    let payload = bytes.get(FRAME_HEADER..FRAME_HEADER + length as usize)?;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&length.to_le_bytes());
    crc.update(payload);
    (crc.finalize() == expected).then_some(payload)
}

/// Reads what there is from `start` on, as much as `bytes` hold; they are cut where the file ends.
fn read_up_to(file: &File, bytes: &mut Vec<u8>, start: u64) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], start + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(())
}

/// Walks the frames in bytes that begin at an offset; returns where the walk ended and how many damaged bytes
/// were skipped. What follows the last whole frame is not damage: it may still be being written.
fn scan(bytes: &[u8], start: u64, each: &mut dyn FnMut(u64, &[u8])) -> (u64, u64) {
    let mut at = 0;
    let mut skipped = 0;
    while at < bytes.len() {
        if let Some(payload) = parse_frame(&bytes[at..]) {
            each(start + (at + FRAME_HEADER) as u64, payload);
            at += FRAME_HEADER + payload.len();
            continue;
        }
        // Damage, or the end: is there a whole frame further on?
        let next = (at + 1..bytes.len().saturating_sub(FRAME_HEADER - 1)).find(|&next| {
            bytes[next..].starts_with(&MARKER.to_le_bytes())
                && parse_frame(&bytes[next..]).is_some()
        });
        let Some(next) = next else { break };
        skipped += (next - at) as u64;
        at = next;
    }
    (start + at as u64, skipped)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(log: &mut LogFile) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        log.read_new(&mut |_, payload| found.push(payload.to_vec())).unwrap();
        found
    }

    /// A log of which so many bytes are read at once.
    fn with_window(path: &Path, window: u64) -> LogFile {
        LogFile { window, ..LogFile::new(path.to_owned(), "test") }
    }

    fn append(log: &mut LogFile, payloads: &[&[u8]]) -> Vec<u64> {
        let records: Vec<_> = payloads.iter().map(|it| it.to_vec()).collect();
        log.append(&records, false, &Faults::default(), &mut |_, _| {}).unwrap().offsets
    }

    #[test]
    fn records_come_back_in_order_and_by_offset() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let mut log = LogFile::new(path.clone(), "test");
        let offsets = append(&mut log, &[b"one", b"", b"three"]);
        assert_eq!(log.read_at(offsets[2], 5).unwrap(), b"three");
        let mut other = LogFile::new(path, "test");
        assert_eq!(records(&mut other), [b"one".to_vec(), b"".to_vec(), b"three".to_vec()]);
        append(&mut log, &[b"four"]);
        assert_eq!(records(&mut other), [b"four".to_vec()]);
        assert_eq!(records(&mut other), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn a_log_cut_at_any_byte_gives_a_prefix_and_can_be_appended_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        append(&mut LogFile::new(path.clone(), "test"), &[b"one", b"twotwo", b"three"]);
        let whole = std::fs::read(&path).unwrap();
        let all = [b"one".to_vec(), b"twotwo".to_vec(), b"three".to_vec()];
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut log = LogFile::new(path.clone(), "test");
            let found = records(&mut log);
            assert!(all.starts_with(&found), "cut at {cut}");
            for window in [1, 20] {
                assert_eq!(records(&mut with_window(&path, window)), found, "cut at {cut}");
            }
            append(&mut log, &[b"new"]);
            let expected: Vec<_> = found.into_iter().chain([b"new".to_vec()]).collect();
            assert_eq!(records(&mut LogFile::new(path.clone(), "test")), expected, "cut at {cut}");
            std::fs::remove_dir_all(folder.path().join("quarantine")).ok();
        }
    }

    #[test]
    fn a_flipped_byte_never_gives_a_wrong_record_and_costs_one_at_most() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        append(&mut LogFile::new(path.clone(), "test"), &[b"one", b"twotwo", b"three"]);
        let whole = std::fs::read(&path).unwrap();
        let all = [b"one".to_vec(), b"twotwo".to_vec(), b"three".to_vec()];
        let header = "okapi log test 1\n".len();
        for at in header..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x41;
            std::fs::write(&path, &damaged).unwrap();
            let mut log = LogFile::new(path.clone(), "test");
            let found = records(&mut log);
            assert_eq!(found.len(), 2, "flipped at {at}");
            assert!(found.iter().all(|record| all.contains(record)), "flipped at {at}");
            for window in [1, 20] {
                let mut narrow = with_window(&path, window);
                assert_eq!(records(&mut narrow), found, "flipped at {at}, {window} at once");
                assert_eq!(narrow.skipped, log.skipped, "flipped at {at}, {window} at once");
            }
        }
    }

    #[test]
    fn a_record_that_is_not_whole_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let mut log = LogFile::new(path.clone(), "test");
        let offsets = append(&mut log, &[b"one", b"two"]);
        let whole = std::fs::read(&path).unwrap();
        let mut damaged = whole.clone();
        damaged[offsets[1] as usize] ^= 1;
        for bytes in [&whole[..whole.len() - 1], b"", &damaged] {
            std::fs::write(&path, bytes).unwrap();
            let mut log = LogFile::new(path.clone(), "test");
            assert_eq!(log.read_whole(offsets[1], 3).unwrap(), None);
            let first = log.read_whole(offsets[0], 3).unwrap();
            assert_eq!(first, (!bytes.is_empty()).then(|| b"one".to_vec()));
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(LogFile::new(path, "test").read_whole(offsets[0], 3).unwrap(), None);
    }

    #[test]
    fn a_replaced_log_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let mut log = LogFile::new(path.clone(), "test");
        append(&mut log, &[b"one", b"two"]);
        let mut reader = LogFile::new(path, "test");
        assert_eq!(records(&mut reader).len(), 2);
        log.replace(&[b"two".to_vec()], &folder.path().join("temp")).unwrap();
        let mut found = Vec::new();
        let new = reader.read_new(&mut |_, payload| found.push(payload.to_vec())).unwrap();
        assert!(new.replaced);
        assert_eq!(found, [b"two".to_vec()]);
    }
}

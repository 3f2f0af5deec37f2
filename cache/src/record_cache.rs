//! The record cache: what was asked of a teacher, and what it answered. Every call is paid once.
//!
//! ```text
//! records.log     frames (`log_file`) of: request digest (32 bytes), record
//! records.index   header, then a hash table of slots: key (16 bytes of the digest), offset, length
//! ```
//!
//! The log is the truth. The index is a table of fixed slots with linear probing, read slot by slot
//! where a search leads, so that opening a cache of five million records costs as much as opening an
//! empty one. It only ever points: what it points at is read from the log, is checksummed there and
//! names its request, so a wrong slot can cost a search but never give a wrong answer.
//!
//! The header says up to where the log is indexed. It is written after the slots, so a killed
//! process leaves at most a tail of the log that is not indexed yet, which the next one indexes. A
//! power cut may lose slots while it keeps the header: an index that was written to in another boot
//! and not closed in order is made anew.
//!
//! Writers hold `records.index.lock`. Readers hold nothing: they may miss a record that is being
//! added, and see it at the next look.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::atomic_write::Faults;
use crate::error::AtPath;
use crate::log_file::{FRAME_HEADER, LogFile};
use crate::record_index::{HEADER, Index, Place, SLOT, this_boot};
use crate::{Digest, StoreError, process_name};

/// Slots of a new index; a power of two.
const SMALLEST: u64 = 1 << 10;

/// Request digest -> record, shared by all nodes, runs and processes.
#[derive(Debug)]
pub struct RecordCache {
    root: PathBuf,
    writable: bool,
    state: Mutex<State>,
}

/// A record, and where in the log it is.
#[derive(Debug, Clone)]
pub struct PlacedRecord<'a> {
    /// Places of records that follow each other touch.
    pub place: Range<u64>,
    /// The digest of the request.
    pub request: Digest,
    /// What was answered.
    pub record: &'a [u8],
}

#[derive(Debug)]
struct State {
    log: LogFile,
    index: Option<Index>,
    /// If the index is in memory: the size that the log had when it was made.
    in_memory: Option<u64>,
    faults: Faults,
    wrote: bool,
}

impl RecordCache {
    /// The cache below the store's root. With `writable` false nothing is written.
    pub(crate) fn new(root: &Path, writable: bool, faults: Faults) -> RecordCache {
        let log = LogFile::new(root.join("records.log"), "records");
        let state = State { log, index: None, in_memory: None, faults, wrote: false };
        RecordCache { root: root.to_owned(), writable, state: Mutex::new(state) }
    }

    /// The record of a request, if there is one.
    ///
    /// # Errors
    /// When the files cannot be read. A record that is damaged counts as missing.
    pub fn lookup(&self, request: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let mut state = self.lock();
        if state.index.is_none() && !self.open(&mut state)? {
            return Ok(None);
        }
        if let Some(record) = self.find(&mut state, request)? {
            return Ok(Some(record));
        }
        // Another process may have added it: to a larger index, or to the log only, if it was killed.
        if state.in_memory == Some(state.log.size()) {
            return Ok(None);
        }
        let replaced = self.is_replaced(&state);
        let behind = match &state.index {
            Some(index) => index.header().at(&self.index_path())?.indexed < state.log.size(),
            None => true,
        };
        if !replaced && !behind {
            return Ok(None);
        }
        if behind {
            self.bring_up_to_date(&mut state)?;
        } else {
            state.index = None;
            self.open(&mut state)?;
        }
        self.find(&mut state, request)
    }

    /// Adds records; of several with one request the first counts. All of them are durable when this
    /// returns. One call with many is much faster than many with one. Gives where in the log they are.
    ///
    /// # Errors
    /// When the cache is read-only or cannot be written. Those that had reached the log by then will
    /// be found all the same.
    pub fn add(&self, records: &[(Digest, Vec<u8>)]) -> Result<Range<u64>, StoreError> {
        if !self.writable {
            return Err(StoreError::ReadOnly { path: self.root.clone() });
        }
        if records.is_empty() {
            return Ok(0..0);
        }
        let mut state = self.lock();
        let _lock = self.lock_index()?;
        self.catch_up(&mut state)?;
        let frames: Vec<Vec<u8>> = records
            .iter()
            .map(|(request, record)| [request.as_bytes().as_slice(), record].concat())
            .collect();
        let State { log, index, faults, wrote, .. } = &mut *state;
        let appended = log.append(&frames, true, faults, &mut |_, _| {})?;
        *wrote = true;
        // The log has them: from here on nothing is lost, whatever happens to the index.
        let placed = records.iter().zip(&frames).zip(&appended.offsets).map(
            |(((request, _), frame), &offset)| {
                (*request, Place { offset, length: frame.len() as u32 })
            },
        );
        let placed: Vec<_> = placed.collect();
        let end = log.size();
        let places = placed.iter().map(|(_, it)| frame(it.offset, it.length as usize));
        let places = places.reduce(|all, one| all.start.min(one.start)..all.end.max(one.end));
        let index = index.as_mut().ok_or_else(|| self.broken())?;
        self.insert_all(index, log, &placed, end)?;
        Ok(places.unwrap_or(0..0))
    }

    /// Adds those whose request has no record yet. Gives where in the log they are.
    ///
    /// # Errors
    /// As [`RecordCache::add`] and [`RecordCache::lookup`].
    pub fn add_new(&self, records: Vec<(Digest, Vec<u8>)>) -> Result<Range<u64>, StoreError> {
        let mut new = Vec::new();
        for (request, record) in records {
            if self.lookup(&request)?.is_none() {
                new.push((request, record));
            }
        }
        self.add(&new)
    }

    /// Hands records that follow a place in the log to `each`, with their own places: as many as are read at once, and at least one.
    /// Gives the place behind them; `None` where nothing follows.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn read_some(
        &self,
        place: u64,
        each: &mut dyn FnMut(PlacedRecord<'_>),
    ) -> Result<Option<u64>, StoreError> {
        let end = self.lock().log.read_some(place, &mut |offset, payload| {
            if let Some((request, record)) = split(payload) {
                let place = frame(offset, payload.len());
                each(PlacedRecord { place, request, record });
            }
        })?;
        Ok((end > place).then_some(end))
    }

    /// How many requests have a record.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub fn len(&self) -> Result<u64, StoreError> {
        let mut state = self.lock();
        if !self.open(&mut state)? {
            return Ok(0);
        }
        let index = state.index.as_ref().ok_or_else(|| self.broken())?;
        Ok(index.header().at(&self.index_path())?.count)
    }

    /// Whether there is no record.
    ///
    /// # Errors
    /// As [`RecordCache::len`].
    pub fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(self.len()? == 0)
    }

    /// The folder of the store, for what belongs beside the records.
    pub fn folder(&self) -> &Path {
        &self.root
    }

    /// Bytes of the log.
    pub fn bytes(&self) -> u64 {
        self.lock().log.size()
    }

    /// Bytes of the log that were found damaged so far.
    pub(crate) fn damaged_bytes(&self) -> u64 {
        self.lock().log.skipped
    }

    /// Hands every record to `each`, in the order in which they were added, with its request.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn for_each(&self, each: &mut dyn FnMut(Digest, &[u8])) -> Result<(), StoreError> {
        self.lock().log.read_from(0, &mut |_, payload| {
            if let Some((request, record)) = split(payload) {
                each(request, record);
            }
        })?;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_path(&self) -> PathBuf {
        self.root.join("records.index")
    }

    fn broken(&self) -> StoreError {
        StoreError::io(&self.index_path(), io::Error::other("the index cannot be made"))
    }

    fn lock_index(&self) -> Result<File, StoreError> {
        let path = self.root.join("records.index.lock");
        let lock = OpenOptions::new().create(true).append(true).open(&path).at(&path)?;
        lock.lock().at(&path)?;
        Ok(lock)
    }

    /// Whether the index at its path is another file than the open one.
    fn is_replaced(&self, state: &State) -> bool {
        let Some(index) = &state.index else { return true };
        match (std::fs::metadata(self.index_path()), index.file.metadata()) {
            (Ok(there), Ok(ours)) => (there.dev(), there.ino()) != (ours.dev(), ours.ino()),
            _ => true,
        }
    }

    /// Opens the index that is there, if it can be used; says whether there is one now.
    fn open(&self, state: &mut State) -> Result<bool, StoreError> {
        let is_of_all = state.in_memory == Some(state.log.size());
        if state.index.is_some() && (is_of_all || !self.is_replaced(state)) {
            return Ok(true);
        }
        state.in_memory = None;
        state.index = self.usable_index()?;
        if state.index.is_some() {
            return Ok(true);
        }
        if state.log.size() == 0 {
            return Ok(false);
        }
        self.bring_up_to_date(state)?;
        Ok(state.index.is_some())
    }

    /// Makes the index one of the whole log. Where the store cannot be written it is made in memory, and gone with this process.
    fn bring_up_to_date(&self, state: &mut State) -> Result<(), StoreError> {
        if self.writable {
            match self.lock_index() {
                Ok(_lock) => return self.catch_up(state),
                Err(error) if error.is_not_writable() => {}
                Err(error) => return Err(error),
            }
        }
        let path = self.index_path();
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file = rustix::fs::memfd_create("okapi records.index", flags).at(&path)?;
        let size = state.log.size();
        state.index = Some(rebuild(&mut state.log, File::from(file), &path)?);
        state.in_memory = Some(size);
        Ok(())
    }

    /// The index at its path, unless it is none, or may have lost slots.
    fn usable_index(&self) -> Result<Option<Index>, StoreError> {
        let path = self.index_path();
        let open = |write| OpenOptions::new().read(true).write(write).open(&path).at(&path);
        // Whoever may only read the store can still look.
        let file = match open(self.writable) {
            Err(error) if error.is_not_writable() => open(false),
            other => other,
        };
        let file = match file {
            Ok(file) => file,
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let length = file.metadata().at(&path)?.len();
        let mut index = Index { file, slots: 0 };
        let Ok(header) = index.header() else { return Ok(None) };
        let whole = header.slots.is_power_of_two() && length == HEADER + header.slots * SLOT;
        let synced = header.unsynced_in == 0 || header.unsynced_in == this_boot();
        index.slots = header.slots;
        Ok((whole && synced).then_some(index))
    }

    /// With the lock held: an index that knows the whole log.
    fn catch_up(&self, state: &mut State) -> Result<(), StoreError> {
        if state.index.is_none() || self.is_replaced(state) {
            state.index = self.usable_index()?;
        }
        state.in_memory = None;
        let State { log, index, .. } = state;
        let path = self.index_path();
        // A log that is shorter than what is indexed is not the log that was indexed.
        let usable = match index.as_ref() {
            Some(index) => index.header().at(&path)?.indexed <= log.size(),
            None => false,
        };
        if !usable {
            let temp = self.root.join("tmp").join(format!("{}-index", process_name()));
            *index = Some(rebuild(log, new_file(&temp)?, &temp)?);
            std::fs::rename(&temp, &path).at(&path)?;
        }
        let Some(index) = index.as_mut() else { return Err(self.broken()) };
        let indexed = index.header().at(&path)?.indexed;
        if indexed < log.size() {
            let mut tail = Vec::new();
            let end = log.read_from(indexed, &mut |offset, payload| {
                if let Some((request, _)) = split(payload) {
                    tail.push((request, Place { offset, length: payload.len() as u32 }));
                }
            })?;
            self.insert_all(index, log, &tail, end)?;
        }
        Ok(())
    }

    /// Gives slots to records that are in the log, up to `end`, and makes the index larger if needed.
    fn insert_all(
        &self,
        index: &mut Index,
        log: &mut LogFile,
        records: &[(Digest, Place)],
        end: u64,
    ) -> Result<(), StoreError> {
        let path = self.index_path();
        let mut header = index.header().at(&path)?;
        if (header.count + records.len() as u64) * 3 > header.slots * 2 {
            let temp = self.root.join("tmp").join(format!("{}-index", process_name()));
            // Everything that is in the log gets its slot.
            *index = rebuild(log, new_file(&temp)?, &temp)?;
            return std::fs::rename(&temp, &path).at(&path);
        }
        header.unsynced_in = this_boot();
        index.write_header(&header).at(&path)?;
        for (request, place) in records {
            // A damaged record must not stand in the way of a new one.
            let is_good = |there: Place| {
                log.read_at(there.offset, there.length as usize).is_ok_and(|payload| {
                    split(&payload).is_some_and(|(found, _)| found == *request)
                })
            };
            if index.insert(&key(request), *place, is_good).at(&path)? {
                header.count += 1;
            }
        }
        header.indexed = end;
        index.write_header(&header).at(&path)
    }

    /// The record of a request, by the open index.
    fn find(&self, state: &mut State, request: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let State { log, index, .. } = state;
        let Some(index) = index else { return Ok(None) };
        let Some(place) = index.find(&key(request)).at(&self.index_path())? else {
            return Ok(None);
        };
        // What is damaged, or is another request's, is no record of this one.
        let Ok(mut payload) = log.read_at(place.offset, place.length as usize) else {
            return Ok(None);
        };
        Ok(split(&payload)
            .is_some_and(|(found, _)| found == *request)
            .then(|| payload.split_off(32)))
    }
}

impl Drop for RecordCache {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !state.wrote {
            return;
        }
        // An index that is not closed in order is made anew after a power cut: nothing is lost.
        let close = || -> io::Result<()> {
            let lock = OpenOptions::new()
                .create(true)
                .append(true)
                .open(self.root.join("records.index.lock"))?;
            lock.lock()?;
            let Some(index) = &state.index else { return Ok(()) };
            let mut header = index.header()?;
            index.file.sync_data()?;
            header.unsynced_in = 0;
            index.write_header(&header)
        };
        let _ = close();
    }
}

/// Makes an index of the whole log in an empty file, which is at `path`.
fn rebuild(log: &mut LogFile, file: File, path: &Path) -> Result<Index, StoreError> {
    let mut places = Vec::new();
    let end = log.read_from(0, &mut |offset, payload| {
        if let Some((request, _)) = split(payload) {
            places.push((key(&request), Place { offset, length: payload.len() as u32 }));
        }
    })?;
    let slots = (places.len() as u64 * 2).next_power_of_two().max(SMALLEST);
    // The first of a request counts: a stable sort keeps the order of the log.
    places.sort_by_key(|(key, _)| *key);
    places.dedup_by_key(|(key, _)| *key);
    Index::create(file, slots, &places, end).at(path)
}

/// An empty file; one that a killed process left there is made empty.
fn new_file(path: &Path) -> Result<File, StoreError> {
    File::options().read(true).write(true).create(true).truncate(true).open(path).at(path)
}

/// Where a record is in the log, given its payload: places of records that follow each other touch.
fn frame(offset: u64, length: usize) -> Range<u64> {
    offset - FRAME_HEADER as u64..offset + length as u64
}

/// The request of a record in the log, and the record itself.
fn split(payload: &[u8]) -> Option<(Digest, &[u8])> {
    let (request, record) = payload.split_first_chunk::<32>()?;
    Some((Digest::from_bytes(*request), record))
}

fn key(request: &Digest) -> [u8; 16] {
    let mut key = [0; 16];
    key.copy_from_slice(&request.as_bytes()[..16]);
    key
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn request(number: u64) -> Digest {
        Digest::of(&number.to_le_bytes())
    }

    fn record(number: u64) -> Vec<u8> {
        format!("the answer to {number}").repeat((number % 5) as usize).into_bytes()
    }

    fn open(root: &Path) -> RecordCache {
        std::fs::create_dir_all(root.join("tmp")).unwrap();
        RecordCache::new(root, true, Faults::default())
    }

    fn add(cache: &RecordCache, numbers: std::ops::Range<u64>) {
        let records: Vec<_> = numbers.map(|number| (request(number), record(number))).collect();
        cache.add(&records).unwrap();
    }

    fn assert_holds(cache: &RecordCache, numbers: std::ops::Range<u64>) {
        for number in numbers {
            assert_eq!(cache.lookup(&request(number)).unwrap(), Some(record(number)), "{number}");
        }
    }

    #[test]
    fn what_was_added_is_found_by_everybody_for_ever() {
        let root = tempfile::tempdir().unwrap();
        let (first, second) = (open(root.path()), open(root.path()));
        assert_eq!(first.lookup(&request(0)).unwrap(), None);
        // Past several sizes of the index, in turn.
        for round in 0..40 {
            let adder = if round % 2 == 0 { &first } else { &second };
            add(adder, round * 100..(round + 1) * 100);
            assert_holds(&second, round * 100..round * 100 + 3);
            assert_holds(&first, round * 100..round * 100 + 3);
        }
        assert_holds(&first, 0..4000);
        assert_eq!(first.lookup(&request(4000)).unwrap(), None);
        assert_eq!((first.len().unwrap(), second.len().unwrap()), (4000, 4000));
        // The first answer counts.
        second.add(&[(request(7), b"another".to_vec())]).unwrap();
        assert_holds(&first, 7..8);
        drop((first, second));
        let reader = RecordCache::new(root.path(), false, Faults::default());
        assert_holds(&reader, 0..4000);
        assert!(matches!(reader.add(&[(request(1), vec![])]), Err(StoreError::ReadOnly { .. })));
    }

    #[test]
    fn records_are_read_by_their_places_and_added_once() {
        let root = tempfile::tempdir().unwrap();
        let cache = open(root.path());
        let numbered = |numbers: std::ops::Range<u64>| {
            numbers.map(|it| (request(it), record(it))).collect::<Vec<_>>()
        };
        let first = cache.add_new(numbered(0..10)).unwrap();
        let second = cache.add_new(numbered(5..20)).unwrap();
        assert_eq!((first.end, cache.len().unwrap()), (second.start, 20));
        assert_eq!(cache.add_new(numbered(0..20)).unwrap(), 0..0);
        let (mut found, mut at) = (Vec::new(), first.end);
        let mut keep =
            |it: PlacedRecord<'_>| found.push((it.place, it.request, it.record.to_vec()));
        while let Some(end) = cache.read_some(at, &mut keep).unwrap() {
            at = end;
        }
        assert_eq!(at, second.end);
        assert_eq!(
            (found.first().unwrap().0.start, found.last().unwrap().0.end),
            (second.start, second.end)
        );
        let found: Vec<_> =
            found.into_iter().map(|(_, request, record)| (request, record)).collect();
        assert_eq!(found, numbered(10..20));
    }

    #[test]
    fn a_lost_or_damaged_index_is_made_anew() {
        let root = tempfile::tempdir().unwrap();
        let index = root.path().join("records.index");
        add(&open(root.path()), 0..3000);
        let good = std::fs::read(&index).unwrap();
        type Damage = fn(&Path, &[u8]);
        let damages: [Damage; 5] = [
            |path, _| std::fs::remove_file(path).unwrap(),
            |path, good| std::fs::write(path, &good[..good.len() / 2]).unwrap(),
            |path, _| std::fs::write(path, b"something else").unwrap(),
            // A killed process: the slots of the last records, and the header, as before them.
            |path, good| {
                let mut stale = good.to_vec();
                stale[HEADER as usize..].fill(0);
                stale[24..40].fill(0);
                std::fs::write(path, stale).unwrap();
            },
            // A power cut: the header came through, the slots did not.
            |path, good| {
                let mut torn = good.to_vec();
                torn[HEADER as usize..].fill(0);
                torn[40..48].copy_from_slice(&12345_u64.to_le_bytes());
                std::fs::write(path, torn).unwrap();
            },
        ];
        for (number, damage) in damages.into_iter().enumerate() {
            damage(&index, &good);
            let reader = RecordCache::new(root.path(), false, Faults::default());
            if number != 3 {
                assert_holds(&reader, 0..3000);
            }
            let cache = open(root.path());
            assert_holds(&cache, 0..3000);
            assert_eq!(cache.len().unwrap(), 3000, "damage {number}");
        }
    }

    /// An index that a killed process left behind knew less than the log, and whoever may only read believed it.
    #[test]
    fn whoever_may_only_read_finds_what_the_index_does_not_know_and_writes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let index = root.path().join("records.index");
        add(&open(root.path()), 0..100);
        let before = std::fs::read(&index).unwrap();
        add(&open(root.path()), 100..200);
        std::fs::write(&index, &before).unwrap();
        // A frame that was never finished.
        let log = root.path().join("records.log");
        let whole = std::fs::read(&log).unwrap();
        std::fs::write(&log, &whole[..whole.len() - 1]).unwrap();
        let reader = RecordCache::new(root.path(), false, Faults::default());
        assert_holds(&reader, 0..199);
        assert_eq!(reader.lookup(&request(199)).unwrap(), None);
        assert_eq!(reader.lookup(&request(500)).unwrap(), None);
        // What is added meanwhile is found, too.
        std::fs::write(&log, &whole).unwrap();
        assert_holds(&reader, 199..200);
        assert_eq!(std::fs::read(&index).unwrap(), before);
        std::fs::remove_file(&index).unwrap();
        let reader = RecordCache::new(root.path(), false, Faults::default());
        assert_holds(&reader, 0..200);
        assert_eq!(reader.len().unwrap(), 200);
        assert!(!index.exists());
    }

    #[test]
    fn a_damaged_record_is_missing_and_no_other() {
        let root = tempfile::tempdir().unwrap();
        add(&open(root.path()), 0..100);
        let log = root.path().join("records.log");
        let mut bytes = std::fs::read(&log).unwrap();
        let at = bytes.windows(16).position(|it| it == b"the answer to 42").unwrap();
        bytes[at] ^= 1;
        std::fs::write(&log, bytes).unwrap();
        let cache = open(root.path());
        assert_eq!(cache.lookup(&request(42)).unwrap(), None);
        assert_holds(&cache, 0..42);
        assert_holds(&cache, 43..100);
    }

    #[test]
    fn whichever_write_fails_no_answer_is_wrong() {
        for writes in 0..3 {
            let root = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(root.path().join("tmp")).unwrap();
            let cache = RecordCache::new(root.path(), true, Faults::after(writes));
            let mut added = 0;
            for number in 0..4 {
                match cache.add(&[(request(number), record(number))]) {
                    Ok(_) => added = number + 1,
                    Err(_) => break,
                }
            }
            assert_eq!(added, writes);
            drop(cache);
            let cache = open(root.path());
            assert_holds(&cache, 0..added);
            assert_eq!(cache.lookup(&request(added)).unwrap(), None);
            add(&cache, 0..10);
            assert_holds(&cache, 0..10);
        }
    }

    #[test]
    fn threads_and_handles_at_once() {
        let root = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let root = root.path();
                scope.spawn(move || {
                    let cache = open(root);
                    for number in 0..200 {
                        add(&cache, thread * 1000 + number..thread * 1000 + number + 1);
                    }
                });
            }
        });
        let cache = open(root.path());
        assert_eq!(cache.len().unwrap(), 800);
        for thread in 0..4 {
            assert_holds(&cache, thread * 1000..thread * 1000 + 200);
        }
    }

    #[test]
    fn a_damaged_record_gives_way_to_a_new_one() {
        let root = tempfile::tempdir().unwrap();
        let cache = open(root.path());
        let old = (request(1), b"an answer that will be damaged".to_vec());
        cache.add(std::slice::from_ref(&old)).unwrap();
        let path = root.path().join("records.log");
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(6).position(|window| window == b"answer").unwrap();
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(cache.lookup(&request(1)).unwrap(), None);
        cache.add(&[(request(1), b"new".to_vec())]).unwrap();
        assert_eq!(cache.lookup(&request(1)).unwrap(), Some(b"new".to_vec()));
        drop(cache);
        assert_eq!(open(root.path()).lookup(&request(1)).unwrap(), Some(b"new".to_vec()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]

        #[test]
        fn it_is_a_map(
            steps in prop::collection::vec((0_usize..3, 0_u64..40, any::<bool>()), 0..60),
        ) {
            let root = tempfile::tempdir().unwrap();
            let mut handles: Vec<_> = (0..3).map(|_| open(root.path())).collect();
            let mut map = BTreeMap::new();
            for (handle, number, adds) in steps {
                if adds {
                    let answer = vec![handle as u8; number as usize];
                    handles[handle].add(&[(request(number), answer.clone())]).unwrap();
                    map.entry(number).or_insert(answer);
                } else if number == 0 {
                    handles[handle] = open(root.path());
                } else {
                    let found = handles[handle].lookup(&request(number)).unwrap();
                    prop_assert_eq!(found.as_ref(), map.get(&number));
                }
            }
        }
    }
}

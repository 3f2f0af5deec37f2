//! What teachers have answered, shared by those who say so: answers may hold private prompts.
//!
//! Records travel in packs, each named by the BLAKE3 of its bytes:
//!
//! ```text
//! "okapi records 1\n"
//! record*  = request digest (32 bytes), length u32 (little-endian), record
//! ```
//!
//! A store remembers, for each remote, which packs it has seen and where in its own log their records are: so nothing is fetched or sent
//! twice, what came from there is not sent back, and what was lost there is sent again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use futures_util::{StreamExt, stream};
use okapi_cache::{Digest, PlacedRecord, Store, StoreError};
use serde::{Deserialize, Serialize};

use crate::error::RemoteError;
use crate::keys::{Key, Kind};
use crate::remote::Remote;
use crate::requests::Requests;
use crate::writes::Created;

const HEADER: &[u8] = b"okapi records 1\n";
/// A pack is sent when it has so many bytes.
const FULL: usize = 4 << 20;
/// No pack is longer: one record of the longest, and a pack that was nearly full.
const LONGEST: u64 = 300 << 20;
/// How many packs are fetched at once.
const AT_ONCE: usize = 4;
/// The version of what a store remembers.
const VERSION: u32 = 1;

/// Records that were transferred.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecordsMoved {
    /// How many.
    pub records: u64,
    /// Bytes of their packs.
    pub bytes: u64,
}

/// What a store remembers of the packs of a remote.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Known {
    okapi_packs: u32,
    /// Where in the log the records of each are.
    packs: BTreeMap<Digest, Range<u64>>,
}

impl Known {
    fn path(store: &Store, remote: &str) -> PathBuf {
        let name = Digest::of(remote.as_bytes()).to_string();
        store.runs_folder().join("records").join(&name[..16])
    }

    /// What cannot be read, or is of another log, costs a transfer, and nothing else.
    fn read(store: &Store, remote: &str) -> Known {
        let text = std::fs::read(Known::path(store, remote)).unwrap_or_default();
        let known: Known = serde_json::from_slice(&text).unwrap_or_default();
        let size = store.records().bytes();
        let is_usable =
            known.okapi_packs == VERSION && known.packs.values().all(|places| places.end <= size);
        if is_usable { known } else { Known { okapi_packs: VERSION, ..Known::default() } }
    }

    fn write(&self, store: &Store, remote: &str) -> Result<(), StoreError> {
        let path = Known::path(store, remote);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| StoreError::io(folder, error))?;
        }
        let text = serde_json::to_vec(self).map_err(|error| StoreError::io(&path, error.into()))?;
        store.write_file(&path, &text)
    }

    /// The places of all records that are there, sorted, none touching another.
    fn places(&self) -> Vec<Range<u64>> {
        let mut all: Vec<Range<u64>> =
            self.packs.values().filter(|places| !places.is_empty()).cloned().collect();
        all.sort_by_key(|places| places.start);
        let mut joined: Vec<Range<u64>> = Vec::new();
        for places in all {
            match joined.last_mut() {
                Some(last) if places.start <= last.end => last.end = last.end.max(places.end),
                _ => joined.push(places),
            }
        }
        joined
    }
}

impl Remote {
    /// Whether answers of teachers are shared.
    pub fn shares_records(&self) -> bool {
        self.shares_records
    }

    /// Brings the records that are there and were never fetched into the store, and waits. Packs that are damaged are said by a notice
    /// and left out.
    ///
    /// # Errors
    /// When the remote cannot say what it has, or the store cannot take it.
    pub fn fetch_records(&self, store: &Store) -> Result<RecordsMoved, RemoteError> {
        let mut known = Known::read(store, self.shown());
        let there = self.wait(self.requests().packs())?;
        let new: Vec<Digest> =
            there.into_iter().filter(|pack| !known.packs.contains_key(pack)).collect();
        let mut moved = RecordsMoved::default();
        for some in new.chunks(AT_ONCE) {
            let fetched = stream::iter(some).map(|pack| self.requests().pack(pack));
            let fetched: Vec<_> = self.wait(fetched.buffered(AT_ONCE).collect());
            for (pack, fetched) in some.iter().zip(fetched) {
                match fetched {
                    Ok(Some((records, bytes))) => {
                        let before = store.records().len()?;
                        known.packs.insert(*pack, store.records().add_new(records)?);
                        moved.records += store.records().len()?.saturating_sub(before);
                        moved.bytes += bytes;
                    }
                    // Collected meanwhile.
                    Ok(None) => {}
                    Err(error) => self.requests().say(&error),
                }
            }
            known.write(store, self.shown())?;
        }
        Ok(moved)
    }

    /// Sends the records that the remote does not have, and waits.
    ///
    /// # Errors
    /// When the remote fails or may not be written, or the store cannot be read.
    pub fn send_records(&self, store: &Store) -> Result<RecordsMoved, RemoteError> {
        self.check_writable()?;
        let mut known = Known::read(store, self.shown());
        if !known.packs.is_empty() {
            let there = self.wait(self.requests().packs())?;
            known.packs.retain(|pack, _| there.binary_search(pack).is_ok());
        }
        let places = known.places();
        let mut moved = RecordsMoved::default();
        let (mut at, mut pack) = (0, Pack::default());
        loop {
            // Whole stretches that are there need not even be read.
            if let Some(there) = places.iter().find(|it| it.contains(&at)) {
                at = there.end;
            }
            let mut full = Vec::new();
            let next = store.records().read_some(at, &mut |found| {
                if places.iter().any(|there| there.contains(&found.place.start)) {
                    return;
                }
                // Between them lies what another pack holds.
                if pack.records > 0 && pack.places.end != found.place.start {
                    full.push(std::mem::take(&mut pack));
                }
                pack.push(found);
                if pack.bytes.len() >= FULL {
                    full.push(std::mem::take(&mut pack));
                }
            })?;
            if next.is_none() && pack.records > 0 {
                full.push(std::mem::take(&mut pack));
            }
            for pack in full {
                let digest = Digest::of(&pack.bytes);
                moved.records += pack.records;
                moved.bytes += pack.bytes.len() as u64;
                self.wait(self.requests().put_pack(digest, pack.bytes))?;
                known.packs.insert(digest, pack.places);
                known.write(store, self.shown())?;
            }
            match next {
                Some(next) => at = next,
                None => return Ok(moved),
            }
        }
    }
}

/// Records on their way.
#[derive(Default)]
struct Pack {
    bytes: Vec<u8>,
    records: u64,
    places: Range<u64>,
}

impl Pack {
    fn push(&mut self, PlacedRecord { place, request, record }: PlacedRecord<'_>) {
        if self.records == 0 {
            self.bytes.extend_from_slice(HEADER);
            self.places = place.clone();
        }
        self.places.end = place.end;
        self.records += 1;
        self.bytes.extend_from_slice(request.as_bytes());
        self.bytes.extend_from_slice(&(record.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(record);
    }
}

/// The records of a pack; `None` if it is none.
fn unpack(bytes: &[u8]) -> Option<Vec<(Digest, Vec<u8>)>> {
    let mut rest = bytes.strip_prefix(HEADER)?;
    let mut records = Vec::new();
    while !rest.is_empty() {
        let (request, after) = rest.split_first_chunk::<32>()?;
        let (length, after) = after.split_first_chunk::<4>()?;
        let (record, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        records.push((Digest::from_bytes(*request), record.to_vec()));
        rest = after;
    }
    Some(records)
}

/// The records of a pack, and its size in bytes.
type Unpacked = (Vec<(Digest, Vec<u8>)>, u64);

impl Requests {
    /// The packs that are there, sorted.
    async fn packs(&self) -> Result<Vec<Digest>, RemoteError> {
        let listed = self.list(Kind::Record).await?.into_iter();
        let mut packs: Vec<Digest> = listed
            .filter_map(|listed| match listed.key {
                Key::Record(digest) => Some(digest),
                _ => None,
            })
            .collect();
        packs.sort_unstable();
        Ok(packs)
    }

    async fn pack(&self, digest: &Digest) -> Result<Option<Unpacked>, RemoteError> {
        let key = Key::Record(*digest);
        let Some(bytes) = self.get(&key, LONGEST).await? else { return Ok(None) };
        let found = Digest::of(&bytes);
        let damaged = |message: String| RemoteError::Damaged { key: key.to_string(), message };
        if found != *digest {
            return Err(damaged(format!("its {} bytes hash to {}", bytes.len(), found.short())));
        }
        let records = unpack(&bytes).ok_or_else(|| damaged("it holds no records".to_owned()))?;
        Ok(Some((records, bytes.len() as u64)))
    }

    async fn put_pack(&self, digest: Digest, bytes: Vec<u8>) -> Result<(), RemoteError> {
        let key = Key::Record(digest);
        if self.create(&key, bytes.clone()).await? == Created::Unsupported {
            self.put(&key, bytes).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_gives_what_was_put_in_and_nothing_that_is_cut_off_is_one() {
        let mut pack = Pack::default();
        let records: Vec<_> =
            (0..5_u8).map(|it| (Digest::of(&[it]), vec![it; usize::from(it) * 3])).collect();
        for (number, (request, record)) in records.iter().enumerate() {
            let at = number as u64 * 10;
            pack.push(PlacedRecord { place: at..at + 10, request: *request, record });
        }
        assert_eq!(pack.places, 0..50);
        assert_eq!(unpack(&pack.bytes), Some(records));
        let whole = |length: &usize| unpack(&pack.bytes[..*length]).is_some();
        // Nothing but the header, and whole records.
        assert_eq!((0..=pack.bytes.len()).filter(whole).count(), 6);
    }

    #[test]
    fn places_are_joined() {
        let pack = |number: u8, places| (Digest::of(&[number]), places);
        let packs =
            [pack(0, 20..30), pack(1, 0..10), pack(2, 5..15), pack(3, 30..31), pack(4, 7..7)];
        let known = Known { okapi_packs: VERSION, packs: packs.into() };
        assert_eq!(known.places(), [0..15, 20..31]);
    }
}

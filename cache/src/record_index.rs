//! The index of the record cache: a hash table in a file, read slot by slot where a search leads.
//!
//! ```text
//! header   magic (16 bytes), slots, records, bytes of the log that are indexed, boot: 8 bytes each
//! slot     key (16 bytes of the request's digest), offset in the log, length << 8 | 1 (0: empty)
//! ```
//!
//! Searching goes from slot to slot, beginning where the key says. Nothing is ever removed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::Digest;
use crate::boot::boot_id;

const MAGIC: [u8; 16] = *b"okapi records 1\n";
pub(crate) const HEADER: u64 = 64;
pub(crate) const SLOT: u64 = 32;
/// Slots read at once: a search seldom needs more.
const PROBE: u64 = 8;

/// The index file as this process sees it.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) file: File,
    pub(crate) slots: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) slots: u64,
    pub(crate) count: u64,
    /// Every record that begins before this offset of the log has a slot.
    pub(crate) indexed: u64,
    /// The boot in which it was last written to; 0 once it was closed in order.
    pub(crate) unsynced_in: u64,
}

/// Where a record lies in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

/// A number for this boot, not 0.
pub(crate) fn this_boot() -> u64 {
    let digest = Digest::of(boot_id().as_bytes());
    word(digest.as_bytes(), 0) | 1
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

impl Index {
    /// Fills an empty file with an index of these places, sorted by key.
    pub(crate) fn create(
        file: File,
        slots: u64,
        places: &[([u8; 16], Place)],
        indexed: u64,
    ) -> io::Result<Index> {
        file.set_len(HEADER + slots * SLOT)?;
        let mut index = Index { file, slots };
        let header =
            Header { slots, count: places.len() as u64, indexed, unsynced_in: this_boot() };
        // In memory first: slot by slot it would be a write for each.
        let mut table = vec![0; (slots * SLOT) as usize];
        for (key, place) in places {
            let mut slot = index.home(key);
            while table[(slot * SLOT) as usize + 24] != 0 {
                slot = (slot + 1) % slots;
            }
            let at = (slot * SLOT) as usize;
            table[at..at + SLOT as usize].copy_from_slice(&encode(key, *place));
        }
        index.file.write_all_at(&table, HEADER)?;
        index.write_header(&header)?;
        index.slots = slots;
        Ok(index)
    }

    /// The slot where the search for a key begins: digests are uniform already.
    fn home(&self, key: &[u8; 16]) -> u64 {
        word(key, 0) % self.slots
    }

    pub(crate) fn header(&self) -> io::Result<Header> {
        let mut bytes = [0; HEADER as usize];
        self.file.read_exact_at(&mut bytes, 0)?;
        if bytes[..16] != MAGIC {
            return Err(io::Error::other("no index of records"));
        }
        Ok(Header {
            slots: word(&bytes, 16),
            count: word(&bytes, 24),
            indexed: word(&bytes, 32),
            unsynced_in: word(&bytes, 40),
        })
    }

    pub(crate) fn write_header(&self, header: &Header) -> io::Result<()> {
        let mut bytes = [0; HEADER as usize];
        bytes[..16].copy_from_slice(&MAGIC);
        for (at, value) in
            [(16, header.slots), (24, header.count), (32, header.indexed), (40, header.unsynced_in)]
        {
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        self.file.write_all_at(&bytes, 0)
    }

    /// Walks the slots from a key's home: `Ok(slot, its place)`, or `Err(the first empty slot)`.
    fn probe(&self, key: &[u8; 16]) -> io::Result<Result<(u64, Place), u64>> {
        let mut slot = self.home(key);
        let mut bytes = [0; (PROBE * SLOT) as usize];
        let mut looked = 0;
        while looked < self.slots {
            let count = PROBE.min(self.slots - slot);
            let part = &mut bytes[..(count * SLOT) as usize];
            self.file.read_exact_at(part, HEADER + slot * SLOT)?;
            for (found, number) in part.chunks_exact(SLOT as usize).zip(slot..) {
                if found[24] == 0 {
                    return Ok(Err(number));
                }
                if found[..16] == *key {
                    let length = word(found, 24) >> 8;
                    return Ok(Ok((
                        number,
                        Place { offset: word(found, 16), length: length as u32 },
                    )));
                }
            }
            looked += count;
            slot = (slot + count) % self.slots;
        }
        Err(io::Error::other("the index is full"))
    }

    pub(crate) fn find(&self, key: &[u8; 16]) -> io::Result<Option<Place>> {
        Ok(self.probe(key)?.ok().map(|(_, place)| place))
    }

    /// Gives a record its slot; `false` if its request has one already. That one goes on pointing to
    /// where it does if `is_good` says so, and is lost otherwise.
    pub(crate) fn insert(
        &mut self,
        key: &[u8; 16],
        place: Place,
        is_good: impl FnOnce(Place) -> bool,
    ) -> io::Result<bool> {
        match self.probe(key)? {
            Ok((slot, there)) => {
                if !is_good(there) {
                    self.file.write_all_at(&encode(key, place), HEADER + slot * SLOT)?;
                }
                Ok(false)
            }
            Err(empty) => {
                self.file.write_all_at(&encode(key, place), HEADER + empty * SLOT)?;
                Ok(true)
            }
        }
    }
}

/// A slot: key, offset, 1 for "taken", length.
fn encode(key: &[u8; 16], place: Place) -> [u8; SLOT as usize] {
    let mut slot = [0; SLOT as usize];
    slot[..16].copy_from_slice(key);
    slot[16..24].copy_from_slice(&place.offset.to_le_bytes());
    slot[24..].copy_from_slice(&(1 | u64::from(place.length) << 8).to_le_bytes());
    slot
}

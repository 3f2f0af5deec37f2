//! The directory of a zip archive whose files lie in it as they are, as PyTorch writes them: where each
//! begins, so that it can be read at its place.
//!
//! Nothing is unpacked. What is held in memory is the directory and nothing else, and no more of it than
//! the archive has. Layouts are those of APPNOTE.TXT 6.3.10, sections 4.3 and 4.5.3.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// The most bytes of a directory.
const LARGEST_DIRECTORY: u64 = 16 << 20;
/// So many bytes are held when a checksum is computed.
const SUMMED: u64 = 1 << 20;
/// What is said of a file that has not its checksum.
pub(crate) const DAMAGED: &str =
    "is damaged: it has not the checksum in the archive; fetch it again";
/// Bytes of the record that ends an archive, of the longest comment after it, and of the two records that
/// are before it where 32 bits do not suffice.
const END: usize = 22;
const COMMENT: u64 = u16::MAX as u64;
const WIDE_LOCATOR: usize = 20;
const WIDE_END: usize = 56;
/// Bytes of a file's entry in the directory, and of what is before the file itself, less their names.
const ENTRY: usize = 46;
const LOCAL: usize = 30;
/// A field of an entry that 64 bits are kept for.
const WIDE_FIELD: usize = 1;

/// Where a file of an archive lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Where it begins.
    pub(crate) start: u64,
    /// Its length.
    pub(crate) bytes: u64,
    /// CRC-32 of its bytes, if the archive says it.
    pub(crate) checksum: Option<u32>,
}

impl Extent {
    /// Whether its bytes have the checksum. Reads all of them, and holds few.
    pub(crate) fn is_whole(&self, archive: &File) -> Result<bool, String> {
        let Some(checksum) = self.checksum else { return Ok(true) };
        let mut buffer = vec![0; self.bytes.min(SUMMED) as usize];
        let mut hasher = crc32fast::Hasher::new();
        let end = self.start + self.bytes;
        let mut place = self.start;
        while place < end {
            let part = &mut buffer[..(end - place).min(SUMMED) as usize];
            archive.read_exact_at(part, place).map_err(|error| error.to_string())?;
            hasher.update(part);
            place += part.len() as u64;
        }
        Ok(hasher.finalize() == checksum)
    }
}

/// Where the directory lies.
struct Directory {
    start: u64,
    bytes: u64,
    entries: u64,
}

/// Reads what must be there.
pub(crate) fn read_at(file: &File, start: u64, bytes: usize) -> Result<Vec<u8>, String> {
    let mut read = vec![0; bytes];
    file.read_exact_at(&mut read, start).map_err(|error| error.to_string())?;
    Ok(read)
}

/// The files of an archive of so many bytes, all within it.
///
/// # Errors
/// When it is none, or cut, or a file in it is compressed, encrypted, or there twice.
pub(crate) fn files(archive: &File, length: u64) -> Result<BTreeMap<String, Extent>, String> {
    let directory = directory(archive, length)?;
    if directory.bytes > LARGEST_DIRECTORY {
        return Err(format!("its directory has {} bytes, which is absurd", directory.bytes));
    }
    let bytes = read_at(archive, directory.start, directory.bytes as usize)?;
    let mut rest = &bytes[..];
    let mut files = BTreeMap::new();
    while !rest.is_empty() {
        let (name, extent) = entry(archive, &mut rest)?;
        if extent.start.checked_add(extent.bytes).is_none_or(|end| end > length) {
            return Err(format!(
                "it is cut: the end of its file {name:?} is missing; fetch it again"
            ));
        }
        if files.insert(name.clone(), extent).is_some() {
            return Err(format!("its file {name:?} is there twice"));
        }
    }
    match files.len() as u64 == directory.entries {
        true => Ok(files),
        false => Err(format!("it has {} files instead of {}", files.len(), directory.entries)),
    }
}

fn directory(archive: &File, length: u64) -> Result<Directory, String> {
    let none = || "it is cut: the end of a zip archive is missing; fetch it again".to_owned();
    let tail_start = length.saturating_sub(END as u64 + COMMENT);
    let tail = read_at(archive, tail_start, (length - tail_start) as usize)?;
    let ends = |place: &usize| {
        let at = &tail[*place..];
        at.starts_with(b"PK\x05\x06") && at.len() == END + number(at, 20, 2) as usize
    };
    let candidates = 0..(tail.len() + 1).saturating_sub(END);
    let place = candidates.rev().find(ends).ok_or_else(none)?;
    let (end, before) = (&tail[place..], tail_start + place as u64);
    let mut directory = Directory {
        start: number(end, 16, 4),
        bytes: number(end, 12, 4),
        entries: number(end, 10, 2),
    };
    let is_wide = directory.start == u64::from(u32::MAX)
        || directory.bytes == u64::from(u32::MAX)
        || directory.entries == u64::from(u16::MAX);
    if is_wide && place >= WIDE_LOCATOR {
        let locator = &tail[place - WIDE_LOCATOR..place];
        if locator.starts_with(b"PK\x06\x07") {
            let start = number(locator, 8, 8);
            if start.checked_add(WIDE_END as u64).is_none_or(|end| end > before) {
                return Err(none());
            }
            let wide = read_at(archive, start, WIDE_END)?;
            if !wide.starts_with(b"PK\x06\x06") {
                return Err(none());
            }
            directory = Directory {
                start: number(&wide, 48, 8),
                bytes: number(&wide, 40, 8),
                entries: number(&wide, 32, 8),
            };
        }
    }
    match directory.start.checked_add(directory.bytes) {
        Some(end) if end <= before => Ok(directory),
        _ => Err("its directory is not where it says".to_owned()),
    }
}

/// The next entry of the directory: a file's name, and where it lies.
fn entry(archive: &File, rest: &mut &[u8]) -> Result<(String, Extent), String> {
    let damaged = || "its directory is damaged".to_owned();
    let mut take = |bytes: usize| {
        let (taken, after) = rest.split_at_checked(bytes).ok_or_else(damaged)?;
        *rest = after;
        Ok::<_, String>(taken)
    };
    let head = take(ENTRY)?;
    if !head.starts_with(b"PK\x01\x02") {
        return Err(damaged());
    }
    let name = take(number(head, 28, 2) as usize)?;
    let extra = take(number(head, 30, 2) as usize)?;
    take(number(head, 32, 2) as usize)?;
    let name = str::from_utf8(name).map_err(|_| damaged())?.to_owned();
    // Uncompressed size, compressed size, place: in this order also where they are kept in 64 bits.
    let mut fields = [number(head, 24, 4), number(head, 20, 4), number(head, 42, 4)];
    let mut wide = wide_fields(extra);
    for field in fields.iter_mut().filter(|field| **field == u64::from(u32::MAX)) {
        if let Some((first, others)) = wide.split_at_checked(8) {
            (*field, wide) = (number(first, 0, 8), others);
        }
    }
    let [bytes, packed, local_start] = fields;
    let is_encrypted = number(head, 8, 2) & 1 == 1;
    if number(head, 10, 2) != 0 || is_encrypted || packed != bytes {
        return Err(format!(
            "its file {name:?} is compressed or encrypted, which PyTorch never does"
        ));
    }
    let local = read_at(archive, local_start, LOCAL)
        .map_err(|error| format!("its file {name:?} is not where the directory says: {error}"))?;
    if !local.starts_with(b"PK\x03\x04") {
        return Err(format!("its file {name:?} is not where the directory says"));
    }
    let before = LOCAL as u64 + number(&local, 26, 2) + number(&local, 28, 2);
    let start = local_start.checked_add(before).ok_or_else(damaged)?;
    // `torch.serialization.set_crc32_options(False)` writes 0 instead.
    let checksum = Some(number(head, 16, 4) as u32).filter(|checksum| *checksum != 0);
    Ok((name, Extent { start, bytes, checksum }))
}

/// The numbers of 64 bits among the additions to an entry.
fn wide_fields(mut extra: &[u8]) -> &[u8] {
    while let Some((head, rest)) = extra.split_at_checked(4) {
        let Some((field, after)) = rest.split_at_checked(number(head, 2, 2) as usize) else {
            break;
        };
        if number(head, 0, 2) as usize == WIDE_FIELD {
            return field;
        }
        extra = after;
    }
    &[]
}

/// A whole number of some bytes, the lowest first.
fn number(bytes: &[u8], from: usize, count: usize) -> u64 {
    bytes[from..from + count].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Write;

    use super::*;

    /// An archive of files, its sizes and places in fields of 32 bits or of 64.
    pub(crate) fn archive(files: &[(&str, &[u8])], is_wide: bool) -> Vec<u8> {
        let (mut bytes, mut directory) = (Vec::new(), Vec::new());
        let short = |number: usize| (number as u16).to_le_bytes();
        let long = |number: usize| (number as u32).to_le_bytes();
        let wide = |number: usize| (number as u64).to_le_bytes();
        let narrow = |number: usize| long(if is_wide { u32::MAX as usize } else { number });
        for (name, content) in files {
            let checksum = crc32fast::hash(content).to_le_bytes();
            let start = bytes.len();
            let extra = [
                &short(1)[..],
                &short(24),
                &wide(content.len()),
                &wide(content.len()),
                &wide(start),
            ]
            .concat();
            let extra = if is_wide { &extra[..] } else { &[] };
            let sizes = [narrow(content.len()), narrow(content.len())].concat();
            let common = [&checksum[..], &sizes, &short(name.len())].concat();
            // A field that says nothing, as PyTorch has it for alignment, before the file itself only.
            let padding = b"FB\x03\0ZZZ";
            bytes.extend([&b"PK\x03\x04"[..], &[0; 10], &common, &short(padding.len())].concat());
            bytes.extend([name.as_bytes(), padding, content].concat());
            directory.extend([&b"PK\x01\x02"[..], &[0; 12], &common, &short(extra.len())].concat());
            directory.extend([&[0; 10][..], &narrow(start), name.as_bytes(), extra].concat());
        }
        let (start, count) = (bytes.len(), files.len());
        bytes.extend(&directory);
        if is_wide {
            let end = bytes.len();
            bytes.extend([&b"PK\x06\x06"[..], &[0; 20], &wide(count), &wide(count)].concat());
            bytes.extend([wide(directory.len()), wide(start)].concat());
            bytes.extend([&b"PK\x06\x07"[..], &[0; 4], &wide(end), &[0; 4]].concat());
        }
        bytes.extend([&b"PK\x05\x06"[..], &[0; 4], &short(count), &short(count)].concat());
        bytes.extend([&narrow(directory.len())[..], &narrow(start), &short(0)].concat());
        bytes
    }

    fn read(bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let files = files(&file, bytes.len() as u64)?;
        let content = |(name, extent): (String, Extent)| {
            assert!(extent.is_whole(&file)?, "{name}");
            Ok((name, read_at(&file, extent.start, extent.bytes as usize)?))
        };
        files.into_iter().map(content).collect()
    }

    const FILES: [(&str, &[u8]); 3] =
        [("a/data.pkl", b"pickle"), ("a/data/0", &[7; 300]), ("b", b"")];

    #[test]
    fn files_are_found_however_wide_their_places_are() {
        let files: BTreeMap<_, _> =
            FILES.iter().map(|(name, content)| ((*name).to_owned(), content.to_vec())).collect();
        for is_wide in [false, true] {
            assert_eq!(read(&archive(&FILES, is_wide)).unwrap(), files);
        }
        let commented = [&archive(&[], false)[..20], b"\x05\0PK\x05\x06!"].concat();
        assert!(read(&commented).unwrap().is_empty());
    }

    #[test]
    fn what_is_not_as_pytorch_writes_it_is_refused() {
        let twice = archive(&[("a", b"1"), ("a", b"2")], false);
        assert_eq!(read(&twice).unwrap_err(), "its file \"a\" is there twice");
        let change = |find: &[u8], at: usize, byte: u8| {
            let mut bytes = archive(&FILES, false);
            let place = bytes.windows(4).position(|window| window == find).unwrap();
            bytes[place + at] = byte;
            read(&bytes).unwrap_err()
        };
        let entry = |at: usize, byte: u8| change(b"PK\x01\x02", at, byte);
        let end = |at: usize, byte: u8| change(b"PK\x05\x06", at, byte);
        for (said, expected) in [
            (entry(8, 1), "is compressed or encrypted"),
            (entry(10, 8), "is compressed or encrypted"),
            // It says that it becomes a thousand times larger.
            (entry(26, 1), "is compressed or encrypted"),
            (entry(28, 200), "its directory is damaged"),
            (entry(0, b'Q'), "its directory is damaged"),
            (entry(46, 0xff), "its directory is damaged"),
            (entry(42, 1), "is not where the directory says"),
            (entry(44, 1), "is not where the directory says"),
            (end(10, 2), "it has 3 files instead of 2"),
            (end(12, 1), "its directory is damaged"),
            (end(15, 1), "its directory is not where it says"),
            (end(20, 1), "it is cut"),
        ] {
            assert!(said.contains(expected), "{said}");
        }
    }

    /// In either width: refused, or read as it was but for what has no bearing on it.
    #[test]
    fn no_flipped_byte_makes_it_panic() {
        for is_wide in [false, true] {
            let whole = archive(&FILES, is_wide);
            let mut bytes = whole.clone();
            for place in 0..whole.len() {
                for flip in [1, 0x80, 0xff] {
                    bytes[place] = whole[place] ^ flip;
                    let mut file = tempfile::tempfile().unwrap();
                    file.write_all(&bytes).unwrap();
                    for extent in files(&file, bytes.len() as u64).into_iter().flatten() {
                        extent.1.is_whole(&file).unwrap();
                    }
                }
                bytes[place] = whole[place];
            }
        }
    }
}

//! The curves of a training run, in a file that TensorBoard draws.
//!
//! ```text
//! file    = record*       the first holds the version, each other one the scalars of a step
//! record  = length u64, check u32 of the length, Event, check u32 of the Event; little-endian
//! Event   = 1 wall_time double, 2 step int64, then 3 file_version string or 5 summary Summary
//! Summary = 1 value Value*
//! Value   = 1 tag string, 2 simple_value float
//! ```
//!
//! A record is a TFRecord; its checks are CRC-32C, masked as that format wants it. An `Event` is a
//! protobuf message, of which only the fields above are written, and read.
//!
//! Nothing is buffered: a killed process loses at most the record that it was writing. A run that
//! goes on from a checkpoint resumes its file, which then is that of an uninterrupted run.
//!
//! # Determinism
//! No clock is read: the times are the caller's, and with them every byte of the file.
//!
//! # Sources
//! TensorBoard 2.21: `compat/proto/{event,summary}.proto`, `data/server/tf_record.rs`.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A name for the file of a run. TensorBoard looks only at files with `tfevents` in their names, in
/// every folder below its `--logdir`; a run has the name of its folder.
pub const FILE_NAME: &str = "events.out.tfevents.okapi";

const VERSION: &[u8] = b"brain.Event:2";

// How numbers and contents are told apart: the wire types of protobuf.
const VARINT: u64 = 0;
const BITS_64: u64 = 1;
const BYTES: u64 = 2;
const BITS_32: u64 = 5;

// What stands before the content of each field: its number and its wire type.
const WALL_TIME: u64 = 1 << 3 | BITS_64;
const STEP: u64 = 2 << 3 | VARINT;
const FILE_VERSION: u64 = 3 << 3 | BYTES;
const SUMMARY: u64 = 5 << 3 | BYTES;
const VALUE: u64 = 1 << 3 | BYTES;
const TAG: u64 = 1 << 3 | BYTES;
const SIMPLE_VALUE: u64 = 2 << 3 | BITS_32;

/// What was logged at a step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Event {
    /// Seconds since 1970.
    pub wall_time: f64,
    /// The step of the training.
    pub step: u64,
    /// Each tag with its value, as they were written.
    pub scalars: Vec<(String, f32)>,
}

/// An event file that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum EventFileError {
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The bytes are not those that were written.
    #[error("{}: record {record}, at byte {offset}, {message}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which record: the first, the version, is 1.
        record: u64,
        /// Where the record begins.
        offset: u64,
        /// What is wrong.
        message: &'static str,
    },
}

/// Appends to the event file of a run.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
    is_empty: bool,
}

impl EventWriter {
    /// Makes a new file.
    ///
    /// # Errors
    /// When the file is there already, or cannot be made.
    pub fn create(path: &Path) -> Result<EventWriter, EventFileError> {
        let file = File::options().append(true).create_new(true).open(path).at(path)?;
        Ok(EventWriter { path: path.to_owned(), file, is_empty: true })
    }

    /// Opens the file that a killed process left, and drops what the training will log again: the
    /// first event after `last_step` with all that follows, and a last record that is not whole.
    /// A TensorBoard that is open has read what is dropped, and shows it until it is started again.
    ///
    /// # Errors
    /// When the file cannot be read or cut, or is damaged before that place.
    pub fn resume(path: &Path, last_step: u64) -> Result<EventWriter, EventFileError> {
        let bytes = std::fs::read(path).at(path)?;
        let mut records = Records::new(path, &bytes);
        let mut end = 0;
        while let Some(event) = records.next_event()? {
            if event.step > last_step {
                break;
            }
            end = records.offset;
        }
        let file = File::options().append(true).open(path).at(path)?;
        file.set_len(end).at(path)?;
        Ok(EventWriter { path: path.to_owned(), file, is_empty: end == 0 })
    }

    /// Appends the values of a step, each with its tag. Steps never go down from call to call, or
    /// resuming would drop too much; several calls may have the same.
    ///
    /// # Errors
    /// When the file cannot be written. It may end in a part of a record then, which
    /// [`EventWriter::resume`] drops.
    pub fn scalars(
        &mut self,
        wall_time: f64,
        step: u64,
        values: &[(&str, f32)],
    ) -> Result<(), EventFileError> {
        let mut records = Vec::new();
        if self.is_empty {
            // Not before there is an event: the time of the version is when TensorBoard lets a run
            // begin, and a version that was cut off must come back as it was.
            push_record(&mut records, &event(wall_time, 0, FILE_VERSION, VERSION));
        }
        push_record(&mut records, &event(wall_time, step, SUMMARY, &summary(values)));
        self.file.write_all(&records).at(&self.path)?;
        self.is_empty = false;
        Ok(())
    }

    /// Makes what was written durable, as it must be before a checkpoint of its last step is.
    ///
    /// # Errors
    /// When the file system cannot.
    pub fn sync(&self) -> Result<(), EventFileError> {
        self.file.sync_data().at(&self.path)
    }
}

/// The events of a file, without a last record that is not whole.
///
/// # Errors
/// When the file cannot be read, or a record is damaged.
pub fn read(path: &Path) -> Result<Vec<Event>, EventFileError> {
    let bytes = std::fs::read(path).at(path)?;
    let mut records = Records::new(path, &bytes);
    let _version = records.next_event()?;
    std::iter::from_fn(|| records.next_event().transpose()).collect()
}

/// The bytes of a file, record by record.
struct Records<'a> {
    path: &'a Path,
    rest: &'a [u8],
    /// Where the rest begins.
    offset: u64,
    /// How many records are before it.
    count: u64,
}

impl<'a> Records<'a> {
    fn new(path: &'a Path, bytes: &'a [u8]) -> Records<'a> {
        Records { path, rest: bytes, offset: 0, count: 0 }
    }

    /// The next event; none at the end, and where a writer was cut off. The version is an event
    /// without scalars, at step 0.
    fn next_event(&mut self) -> Result<Option<Event>, EventFileError> {
        let damaged = |message| EventFileError::Damaged {
            path: self.path.to_owned(),
            record: self.count + 1,
            offset: self.offset,
            message,
        };
        let mut rest = self.rest;
        let Some(length) = take(&mut rest) else { return Ok(None) };
        let Some(check) = take(&mut rest) else { return Ok(None) };
        // A length that is right but leads past the end is of a record that is not whole; one that
        // is wrong would look the same.
        if check != masked_crc(&length) {
            return Err(damaged("has a length that its checksum denies"));
        }
        let length = u64::from_le_bytes(length) as usize;
        let Some(message) = rest.split_off(..length) else { return Ok(None) };
        let Some(check) = take(&mut rest) else { return Ok(None) };
        if check != masked_crc(message) {
            return Err(damaged("has content that its checksum denies"));
        }
        let event = parse_event(message).ok_or_else(|| damaged("is no event of scalars"))?;
        self.offset += (self.rest.len() - rest.len()) as u64;
        self.count += 1;
        self.rest = rest;
        Ok(Some(event))
    }
}

fn push_record(out: &mut Vec<u8>, message: &[u8]) {
    let length = (message.len() as u64).to_le_bytes();
    out.extend(length);
    out.extend(masked_crc(&length));
    out.extend(message);
    out.extend(masked_crc(message));
}

fn masked_crc(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

fn event(wall_time: f64, step: u64, field: u64, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    push_varint(&mut out, WALL_TIME);
    out.extend(wall_time.to_le_bytes());
    // Protobuf leaves out what is 0.
    if step != 0 {
        push_varint(&mut out, STEP);
        push_varint(&mut out, step);
    }
    push_bytes(&mut out, field, content);
    out
}

fn summary(values: &[(&str, f32)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (tag, number) in values {
        let mut value = Vec::new();
        push_bytes(&mut value, TAG, tag.as_bytes());
        // Even if it is 0: a value without any of its alternatives (scalar, image, ...) is ignored.
        push_varint(&mut value, SIMPLE_VALUE);
        value.extend(number.to_le_bytes());
        push_bytes(&mut out, VALUE, &value);
    }
    out
}

fn push_bytes(out: &mut Vec<u8>, field: u64, content: &[u8]) {
    push_varint(out, field);
    push_varint(out, content.len() as u64);
    out.extend(content);
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
fn push_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn parse_event(mut message: &[u8]) -> Option<Event> {
    let mut event = Event::default();
    while !message.is_empty() {
        match take_varint(&mut message)? {
            WALL_TIME => event.wall_time = f64::from_le_bytes(take(&mut message)?),
            STEP => event.step = take_varint(&mut message)?,
            FILE_VERSION if take_bytes(&mut message)? == VERSION => {}
            SUMMARY => event.scalars = parse_summary(take_bytes(&mut message)?)?,
            _ => return None,
        }
    }
    Some(event)
}

fn parse_summary(mut message: &[u8]) -> Option<Vec<(String, f32)>> {
    let mut scalars = Vec::new();
    while !message.is_empty() {
        let mut value = take_field(&mut message, VALUE)?;
        let tag = str::from_utf8(take_field(&mut value, TAG)?).ok()?;
        let field = take_varint(&mut value)?;
        let number = f32::from_le_bytes(take(&mut value)?);
        if field != SIMPLE_VALUE || !value.is_empty() {
            return None;
        }
        scalars.push((tag.to_owned(), number));
    }
    Some(scalars)
}

fn take_field<'a>(bytes: &mut &'a [u8], field: u64) -> Option<&'a [u8]> {
    if take_varint(bytes)? == field { take_bytes(bytes) } else { None }
}

fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take_varint(bytes)? as usize;
    bytes.split_off(..length)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    bytes.split_off(..N)?.try_into().ok()
}

trait AtPath<T> {
    fn at(self, path: &Path) -> Result<T, EventFileError>;
}

impl<T> AtPath<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, EventFileError> {
        self.map_err(|source| EventFileError::Io { path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two events at each step, as of a training that is evaluated too.
    fn events() -> Vec<Event> {
        let scalars = |step: u64| {
            let eval = vec![("eval/größe".to_owned(), f32::INFINITY)];
            [vec![("train/loss".to_owned(), step as f32), ("train/lr".to_owned(), -1e-9)], eval]
        };
        let steps = [0, 1, 127, 128, u64::from(u32::MAX)].into_iter();
        let both = steps.flat_map(|step| scalars(step).map(|scalars| (step, scalars)));
        let timed = both.enumerate().map(|(place, (step, scalars))| {
            let wall_time = 1e9 + place as f64 / 8.0;
            Event { wall_time, step, scalars }
        });
        timed.collect()
    }

    fn log(writer: &mut EventWriter, events: &[Event]) {
        for Event { wall_time, step, scalars } in events {
            let values: Vec<_> = scalars.iter().map(|(tag, value)| (&tag[..], *value)).collect();
            writer.scalars(*wall_time, *step, &values).unwrap();
        }
    }

    /// The bytes of a file with these events.
    fn written(events: &[Event]) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        log(&mut EventWriter::create(&path).unwrap(), events);
        std::fs::read(&path).unwrap()
    }

    /// Where each record ends.
    fn ends() -> Vec<usize> {
        let version = event(1e9, 0, FILE_VERSION, VERSION).len() + 16;
        let events = (1..=events().len()).map(|count| written(&events()[..count]).len());
        std::iter::once(version).chain(events).collect()
    }

    fn in_file<T>(bytes: &[u8], then: impl FnOnce(&Path) -> T) -> T {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        std::fs::write(&path, bytes).unwrap();
        then(&path)
    }

    #[test]
    fn the_checksum_is_that_of_rfc_3720_masked() {
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(masked_crc(&[0; 32]), 0x0fd7_fffa_u32.to_le_bytes());
    }

    /// Made with `summary.writer.record_writer` and `compat.proto.event_pb2` of TensorBoard 2.21.
    #[test]
    fn the_bytes_are_those_of_tensorboards_own_writer() {
        let expected = "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a32\
            2a28646c2600000000000000734fe30009000000000000f83f10ac022a180a0b0a046c6f7373150000803e\
            0a090a026c721500000000771a9297";
        let scalars = vec![("loss".to_owned(), 0.25), ("lr".to_owned(), 0.0)];
        let bytes = written(&[Event { wall_time: 1.5, step: 300, scalars }]);
        assert_eq!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), expected);
    }

    #[test]
    fn what_is_written_is_read_and_not_overwritten() {
        in_file(&written(&events()), |path| {
            assert_eq!(read(path).unwrap(), events());
            let said = EventWriter::create(path).unwrap_err().to_string();
            assert!(said.contains("exists"), "{said}");
        });
    }

    #[test]
    fn a_file_that_is_cut_anywhere_is_resumed_to_that_of_an_uninterrupted_run() {
        let (whole, ends) = (written(&events()), ends());
        for length in 0..=whole.len() {
            in_file(&whole[..length], |path| {
                let left = ends[1..].iter().filter(|end| **end <= length).count();
                assert_eq!(read(path).unwrap(), events()[..left], "{length}");
                log(&mut EventWriter::resume(path, u64::MAX).unwrap(), &events()[left..]);
                assert_eq!(std::fs::read(path).unwrap(), whole, "{length}");
            });
        }
    }

    #[test]
    fn resuming_drops_the_later_steps() {
        let whole = written(&events());
        // Damage in what is dropped hinders nobody.
        let mut damaged = whole.clone();
        damaged[whole.len() - 1] ^= 1;
        for last_step in [0, 1, 2, 127, 128] {
            in_file(&damaged, |path| {
                let left = events().iter().filter(|event| event.step <= last_step).count();
                let mut writer = EventWriter::resume(path, last_step).unwrap();
                assert_eq!(read(path).unwrap(), events()[..left]);
                log(&mut writer, &events()[left..]);
                assert_eq!(std::fs::read(path).unwrap(), whole);
            });
        }
    }

    #[test]
    fn whichever_byte_is_damaged_its_record_is_named_and_nothing_is_cut() {
        let (whole, ends) = (written(&events()), ends());
        for place in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[place] ^= 1 << (place % 8);
            let record = ends.iter().filter(|end| **end <= place).count() + 1;
            let named = format!("{FILE_NAME}: record {record}, at byte ");
            in_file(&bytes, |path| {
                let said = read(path).unwrap_err().to_string();
                assert!(said.contains(&named), "{place}: {said}");
                assert!(EventWriter::resume(path, u64::MAX).is_err());
                assert_eq!(std::fs::read(path).unwrap(), bytes);
            });
        }
    }

    #[test]
    fn a_record_of_something_else_is_refused() {
        let other = event(1.0, 0, FILE_VERSION, b"brain.Event:3");
        for message in [&other[..], b"{}", b"\xff", b"\x09short", b"\x2a\x7f", &[0xff; 11]] {
            let mut bytes = Vec::new();
            push_record(&mut bytes, message);
            let said = in_file(&bytes, |path| read(path).unwrap_err().to_string());
            assert!(said.contains("record 1, at byte 0, is no event"), "{said}");
        }
    }
}

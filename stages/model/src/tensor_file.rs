//! Files of tensors: tensors by name, read when they are asked for. Safetensors files are opened
//! here, [`crate::pickle_file`] opens those of PyTorch, and [`write_tensors`] writes.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata};

use crate::checkpoint::CheckpointError;
use crate::stored_zip::{DAMAGED, Extent};
pub use crate::tensor_writer::{Numbers, TensorSource, write_tensors};

/// The most bytes of a file's header.
const LARGEST_HEADER: u64 = 100 << 20;
/// So many numbers are held when tensors are compared, or looked through.
const PART: usize = 1 << 18;
/// The one entry of the metadata that is written: more would be in no order.
pub(crate) const NOTE: &str = "format";

/// How numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberKind {
    /// 32 bits.
    F32,
    /// 16 bits: 5 of exponent.
    F16,
    /// 16 bits: the upper half of 32.
    Bf16,
}

impl NumberKind {
    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        match self {
            NumberKind::F32 => 4,
            NumberKind::F16 | NumberKind::Bf16 => 2,
        }
    }

    /// Its name in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            NumberKind::F32 => "float32",
            NumberKind::F16 => "float16",
            NumberKind::Bf16 => "bfloat16",
        }
    }

    fn of(kind: Dtype) -> Option<NumberKind> {
        match kind {
            Dtype::F32 => Some(NumberKind::F32),
            Dtype::F16 => Some(NumberKind::F16),
            Dtype::BF16 => Some(NumberKind::Bf16),
            _ => None,
        }
    }

    pub(crate) fn dtype(self) -> Dtype {
        match self {
            NumberKind::F32 => Dtype::F32,
            NumberKind::F16 => Dtype::F16,
            NumberKind::Bf16 => Dtype::BF16,
        }
    }
}

/// A file of tensors, of which the header has been read.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    tensors: BTreeMap<String, Entry>,
    storages: Vec<Storage>,
    note: Option<String>,
}

/// Gets a part of a tensor's numbers, and the place of the first of them.
pub(crate) type EachPart<'a> = dyn FnMut(usize, &[f32]) -> Result<(), CheckpointError> + 'a;

/// What tensors of a pickle are views of, and whether its bytes were found to have its checksum.
#[derive(Debug)]
struct Storage {
    extent: Extent,
    is_whole: OnceLock<bool>,
}

/// Where a tensor lies.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    /// How its numbers are stored, or the name of a kind that is not read.
    pub(crate) kind: Result<NumberKind, String>,
    pub(crate) shape: Vec<usize>,
    /// How far apart, in numbers, neighbours along each axis are; none where rows lie one after the
    /// other. What they reach is within `bytes`.
    pub(crate) strides: Option<Vec<usize>>,
    /// Where the first number begins in the file.
    pub(crate) start: u64,
    /// How many bytes there are from there to the end of the last number.
    pub(crate) bytes: usize,
    /// The storage that it is part of, where there are such.
    pub(crate) storage: Option<usize>,
}

impl TensorFile {
    /// Reads the header of a safetensors file.
    ///
    /// # Errors
    /// When there is no such file, or it is cut, or none of its kind.
    pub fn open(path: &Path) -> Result<TensorFile, CheckpointError> {
        let wrong = |message: String| CheckpointError::File { path: path.to_owned(), message };
        let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
        let length = file.metadata().map_err(|error| wrong(error.to_string()))?.len();
        let mut size = [0; 8];
        file.read_exact_at(&mut size, 0).map_err(|_| wrong("it is no safetensors file".into()))?;
        let header = u64::from_le_bytes(size);
        if header > LARGEST_HEADER || header + 8 > length {
            return Err(wrong("it is no safetensors file, or it is cut".to_owned()));
        }
        let mut bytes = vec![0; header as usize + 8];
        file.read_exact_at(&mut bytes, 0).map_err(|error| wrong(error.to_string()))?;
        let metadata: Metadata = serde_json::from_slice(&bytes[8..])
            .map_err(|error| wrong(format!("it is no safetensors file: {error}")))?;
        let data = header + 8;
        let tensors: BTreeMap<String, Entry> = metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| {
                let start = data + info.data_offsets.0 as u64;
                let bytes = info.data_offsets.1 - info.data_offsets.0;
                let kind = NumberKind::of(info.dtype).ok_or_else(|| format!("{:?}", info.dtype));
                let shape = info.shape.clone();
                (name, Entry { kind, shape, strides: None, start, bytes, storage: None })
            })
            .collect();
        let end = tensors.values().map(|entry| entry.start + entry.bytes as u64).max();
        if let Some(end) = end.filter(|end| *end > length) {
            let message = format!("it is cut: it has {length} bytes, and its tensors end at {end}");
            return Err(wrong(message));
        }
        let note = metadata.metadata().as_ref().and_then(|notes| notes.get(NOTE)).cloned();
        Ok(TensorFile { path: path.to_owned(), file, tensors, storages: Vec::new(), note })
    }

    /// A file whose tensors and their storages are known, all of them within it.
    pub(crate) fn of_storages(
        path: &Path,
        file: File,
        tensors: BTreeMap<String, Entry>,
        storages: Vec<Extent>,
    ) -> TensorFile {
        let storage = |extent| Storage { extent, is_whole: OnceLock::new() };
        let storages = storages.into_iter().map(storage).collect();
        TensorFile { path: path.to_owned(), file, tensors, storages, note: None }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the writer noted under `format`; `pt` in files that PyTorch reads.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// The names of the tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor.
    ///
    /// # Errors
    /// When there is no such tensor.
    pub fn shape(&self, name: &str) -> Result<&[usize], CheckpointError> {
        self.entry(name).map(|entry| &entry.shape[..])
    }

    /// How the numbers of a tensor are stored.
    ///
    /// # Errors
    /// When there is no such tensor, or its numbers are of a kind that is not read.
    pub fn kind(&self, name: &str) -> Result<NumberKind, CheckpointError> {
        let kind = &self.entry(name)?.kind;
        kind.clone().map_err(|kind| {
            let (path, name) = (self.path.clone(), name.to_owned());
            CheckpointError::Kind { path, name, kind }
        })
    }

    /// The numbers of a tensor, rows one after the other, however they lie in the file.
    ///
    /// # Errors
    /// When there is no such tensor, it cannot be read, or a number in it is NaN or infinite.
    pub fn read(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let count = self.shape(name)?.iter().product();
        let numbers = self.numbers(name, 0..count)?;
        self.check_finite(name, 0, &numbers)?;
        Ok(numbers)
    }

    /// Hands out the numbers of a tensor in their order, all of them finite; where rows lie one after the
    /// other, in parts, so that little of it is in memory.
    pub(crate) fn for_each_part(
        &self,
        name: &str,
        each: &mut EachPart<'_>,
    ) -> Result<(), CheckpointError> {
        let entry = self.entry(name)?;
        let count = entry.shape.iter().product();
        let step = if entry.strides.is_none() { PART } else { usize::max(count, 1) };
        for from in (0..count).step_by(step) {
            let numbers = self.numbers(name, from..count.min(from + step))?;
            self.check_finite(name, from, &numbers)?;
            each(from, &numbers)?;
        }
        Ok(())
    }

    /// Refuses NaN and infinities; the first of the numbers has the place `from`.
    fn check_finite(
        &self,
        name: &str,
        from: usize,
        numbers: &[f32],
    ) -> Result<(), CheckpointError> {
        match numbers.iter().position(|number| !number.is_finite()) {
            None => Ok(()),
            Some(place) => Err(CheckpointError::NotFinite {
                path: self.path.clone(),
                name: name.to_owned(),
                place: from + place,
                value: numbers[place],
            }),
        }
    }

    /// Whether two tensors hold the same numbers in the same order, with little of them in memory.
    pub(crate) fn are_equal(
        one: (&TensorFile, &str),
        other: (&TensorFile, &str),
    ) -> Result<bool, CheckpointError> {
        let (first, second) = (one.0.entry(one.1)?, other.0.entry(other.1)?);
        if std::ptr::eq(one.0, other.0) && first == second {
            return Ok(true);
        }
        if first.shape != second.shape {
            return Ok(false);
        }
        let count = first.shape.iter().product();
        let in_order = first.strides.is_none() && second.strides.is_none();
        let step = if in_order { PART } else { usize::max(count, 1) };
        for from in (0..count).step_by(step) {
            let part = from..count.min(from + step);
            let (one, other) =
                (one.0.numbers(one.1, part.clone())?, other.0.numbers(other.1, part)?);
            if !one.iter().zip(&other).all(|(one, other)| one.to_bits() == other.to_bits()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Some numbers of a tensor, by their places in the order of its rows.
    fn numbers(&self, name: &str, places: Range<usize>) -> Result<Vec<f32>, CheckpointError> {
        let kind = self.kind(name)?;
        let entry = self.entry(name)?;
        let wrong = |message: String| CheckpointError::File {
            path: self.path.clone(),
            message: format!("the tensor `{name}` {message}"),
        };
        self.check_storage(entry).map_err(wrong)?;
        let read = |start: u64, bytes: usize| {
            let mut read = vec![0; bytes];
            let done = self.file.read_exact_at(&mut read, start);
            done.map_err(|error| wrong(format!("cannot be read: {error}")))?;
            Ok(decode(&read, kind))
        };
        let Some(strides) = &entry.strides else {
            let start = entry.start + (places.start * kind.bytes()) as u64;
            return read(start, places.len() * kind.bytes());
        };
        let stored = read(entry.start, entry.bytes)?;
        Ok(in_order(&stored, &entry.shape, strides).skip(places.start).take(places.len()).collect())
    }

    /// Looks once whether the storage of a tensor has its checksum.
    fn check_storage(&self, entry: &Entry) -> Result<(), String> {
        let Some(storage) = entry.storage.and_then(|storage| self.storages.get(storage)) else {
            return Ok(());
        };
        let is_whole = match storage.is_whole.get() {
            Some(is_whole) => *is_whole,
            None => {
                let is_whole = storage.extent.is_whole(&self.file)?;
                *storage.is_whole.get_or_init(|| is_whole)
            }
        };
        match is_whole {
            true => Ok(()),
            false => Err(format!("is in a storage that {DAMAGED}")),
        }
    }

    fn entry(&self, name: &str) -> Result<&Entry, CheckpointError> {
        self.tensors.get(name).ok_or_else(|| CheckpointError::Unknown(name.to_owned()))
    }
}

/// The numbers of a tensor, row after row.
fn in_order<'a>(
    stored: &'a [f32],
    shape: &'a [usize],
    strides: &'a [usize],
) -> impl Iterator<Item = f32> + 'a {
    let count = shape.iter().product();
    let mut index = vec![0; shape.len()];
    let mut place = 0;
    (0..count).map(move |_| {
        let number = stored[place];
        for (axis, (size, stride)) in shape.iter().zip(strides).enumerate().rev() {
            index[axis] += 1;
            place += stride;
            if index[axis] < *size {
                break;
            }
            index[axis] = 0;
            place -= stride * size;
        }
        number
    })
}

pub(crate) fn decode(bytes: &[u8], kind: NumberKind) -> Vec<f32> {
    let pair = |bytes: &[u8]| [bytes[0], bytes[1]];
    match kind {
        NumberKind::F32 => bytes
            .chunks_exact(4)
            .map(|it| f32::from_le_bytes([it[0], it[1], it[2], it[3]]))
            .collect(),
        NumberKind::F16 => {
            bytes.chunks_exact(2).map(|it| f16::from_le_bytes(pair(it)).to_f32()).collect()
        }
        NumberKind::Bf16 => {
            bytes.chunks_exact(2).map(|it| bf16::from_le_bytes(pair(it)).to_f32()).collect()
        }
    }
}

//! Tensors on their way out: safetensors files, written so that a file is either whole or not there.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fs::File;
use std::path::Path;

use half::{bf16, f16};
use okapi_device::DeviceError;
use safetensors::tensor::{Dtype, View};

use crate::array::Array;
use crate::checkpoint::CheckpointError;
use crate::parameters::Parameter;
use crate::tensor_file::{NOTE, NumberKind};

/// A tensor to be written, whose bytes are asked for when it is its turn.
pub(crate) trait Writable {
    /// Its name.
    fn name(&self) -> &str;
    /// Sizes, the last of them contiguous.
    fn shape(&self) -> &[usize];
    /// How its numbers are stored.
    fn kind(&self) -> NumberKind;
    /// Its numbers, stored so.
    fn bytes(&self) -> Result<Vec<u8>, CheckpointError>;

    /// How many bytes those are.
    fn size(&self) -> usize {
        self.shape().iter().product::<usize>() * self.kind().bytes()
    }
}

/// Numbers in the memory of the processor, or in that of a GPU: then they are brought from there one tensor
/// at a time.
#[derive(Debug, Clone, Copy)]
pub enum Numbers<'a> {
    /// The processor's.
    Slice(&'a [f32]),
    /// Those of a model.
    Parameter(&'a Parameter),
    /// What is kept beside a model.
    Array(&'a Array),
}

impl<'a> Numbers<'a> {
    /// All of them.
    pub fn read(self) -> Cow<'a, [f32]> {
        match self {
            Numbers::Slice(numbers) => Cow::Borrowed(numbers),
            Numbers::Parameter(parameter) => parameter.read(),
            Numbers::Array(array) => array.read(),
        }
    }
}

impl Numbers<'_> {
    /// Whether the GPU that holds them, if one does, has not failed.
    fn check(self) -> Result<(), DeviceError> {
        let there = match self {
            Numbers::Slice(_) => None,
            Numbers::Parameter(it) => it.on_device.as_ref().map(|there| &there.weights),
            Numbers::Array(Array::Device(numbers)) => Some(numbers),
            Numbers::Array(Array::Host(_)) => None,
        };
        there.map_or(Ok(()), |numbers| numbers.device().check())
    }
}

impl<'a> From<&'a Parameter> for Numbers<'a> {
    fn from(parameter: &'a Parameter) -> Numbers<'a> {
        Numbers::Parameter(parameter)
    }
}

impl<'a> From<&'a Array> for Numbers<'a> {
    fn from(array: &'a Array) -> Numbers<'a> {
        Numbers::Array(array)
    }
}

/// A tensor whose numbers are in memory.
#[derive(Debug, Clone, Copy)]
pub struct TensorSource<'a> {
    /// Its name.
    pub name: &'a str,
    /// Sizes, the last of them contiguous.
    pub shape: &'a [usize],
    /// The numbers.
    pub values: Numbers<'a>,
    /// How they are stored.
    pub kind: NumberKind,
}

impl Writable for TensorSource<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn kind(&self) -> NumberKind {
        self.kind
    }

    fn bytes(&self) -> Result<Vec<u8>, CheckpointError> {
        let mut bytes = Vec::with_capacity(self.size());
        encode(self.name, 0, &self.values.read(), self.kind, &mut bytes)?;
        // What a GPU gives that has failed is no number of anybody's.
        self.values.check()?;
        Ok(bytes)
    }
}

/// Appends the bytes of some of a tensor's numbers, the first of which has the place `from`.
///
/// # Errors
/// When a finite number is too large for its kind: it would become an infinity.
pub(crate) fn encode(
    name: &str,
    from: usize,
    values: &[f32],
    kind: NumberKind,
    bytes: &mut Vec<u8>,
) -> Result<(), CheckpointError> {
    let too_large = |place: usize| {
        let (name, value) = (name.to_owned(), values[place]);
        CheckpointError::TooLarge { name, place: from + place, value, kind: kind.name() }
    };
    for (place, value) in values.iter().enumerate() {
        let (stored, is_finite) = match kind {
            NumberKind::F32 => {
                bytes.extend_from_slice(&value.to_le_bytes());
                continue;
            }
            NumberKind::F16 => {
                let half = f16::from_f32(*value);
                (half.to_le_bytes(), half.is_finite())
            }
            NumberKind::Bf16 => {
                let half = bf16::from_f32(*value);
                (half.to_le_bytes(), half.is_finite())
            }
        };
        if !is_finite && value.is_finite() {
            return Err(too_large(place));
        }
        bytes.extend_from_slice(&stored);
    }
    Ok(())
}

/// Writes tensors to a file, which is there as a whole, durably, or not at all. `note` is kept with them.
///
/// # Errors
/// When the file system refuses, or a number is too large for how it is to be stored.
pub fn write_tensors<'a>(
    path: &Path,
    note: &str,
    tensors: impl IntoIterator<Item = TensorSource<'a>>,
) -> Result<(), CheckpointError> {
    write_each(path, note, tensors)
}

/// The same for tensors that are made while they are written, one after the other.
pub(crate) fn write_each<T: Writable>(
    path: &Path,
    note: &str,
    tensors: impl IntoIterator<Item = T>,
) -> Result<(), CheckpointError> {
    let wrong = |message: String| CheckpointError::File { path: path.to_owned(), message };
    let beside = path.with_extension("part");
    #[expect(clippy::disallowed_types, reason = "it has one entry, and so one order")]
    let notes = std::collections::HashMap::from([(NOTE.to_owned(), note.to_owned())]);
    let failure = OnceCell::new();
    let tensors = tensors.into_iter().map(|tensor| {
        let name = tensor.name().to_owned();
        (name, Turn { tensor, failure: &failure })
    });
    let written = safetensors::serialize_to_file(tensors, Some(notes), &beside);
    if let Some(failure) = failure.into_inner() {
        // The failure is what matters.
        let _ = std::fs::remove_file(&beside);
        return Err(failure);
    }
    written.map_err(|error| wrong(error.to_string()))?;
    let keep = || {
        File::open(&beside)?.sync_all()?;
        std::fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    keep().map_err(|error: std::io::Error| wrong(error.to_string()))
}

/// A tensor as the library wants it, for which getting its bytes never fails: the first failure is kept,
/// and what is written from then on is of no use.
struct Turn<'a, T> {
    tensor: T,
    failure: &'a OnceCell<CheckpointError>,
}

impl<T: Writable> View for Turn<'_, T> {
    fn dtype(&self) -> Dtype {
        self.tensor.kind().dtype()
    }

    fn shape(&self) -> &[usize] {
        self.tensor.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        if self.failure.get().is_some() {
            return Cow::Borrowed(&[]);
        }
        match self.tensor.bytes() {
            Ok(bytes) => Cow::Owned(bytes),
            Err(error) => {
                // There is none yet.
                let _ = self.failure.set(error);
                Cow::Borrowed(&[])
            }
        }
    }

    fn data_len(&self) -> usize {
        self.tensor.size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor_file::TensorFile;

    #[test]
    fn what_is_written_is_read_whatever_its_kind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.safetensors");
        let values = [0.0, -1.5, 3.25, 1024.0, 0.125, -0.0];
        let kinds = [("a", NumberKind::F32), ("b", NumberKind::F16), ("c", NumberKind::Bf16)];
        let tensors = kinds.map(|(name, kind)| TensorSource {
            name,
            shape: &[2, 3],
            values: Numbers::Slice(&values),
            kind,
        });
        write_tensors(&path, "{\"step\":3}", tensors).unwrap();
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.note(), Some("{\"step\":3}"));
        for (name, kind) in kinds {
            assert_eq!(
                (file.read(name).unwrap(), file.kind(name).unwrap()),
                (values.to_vec(), kind)
            );
            assert_eq!(file.shape(name).unwrap(), [2, 3]);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let first = std::fs::read(&path).unwrap();
        write_tensors(&path, "{\"step\":3}", tensors).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), first);
    }

    #[test]
    fn a_number_that_its_kind_cannot_hold_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.safetensors");
        let write = |values: &[f32], kind| {
            let values = Numbers::Slice(values);
            write_tensors(&path, "pt", [TensorSource { name: "a", shape: &[2], values, kind }])
        };
        let said = write(&[1.0, -70000.0], NumberKind::F16).unwrap_err().to_string();
        assert!(said.contains("`a` holds -70000 at place 1, which float16 cannot hold"), "{said}");
        assert!(write(&[1.0, f32::MAX], NumberKind::Bf16).is_err());
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        write(&[1.0, -70000.0], NumberKind::Bf16).unwrap();
    }
}

//! The files that `torch.save` writes: `pytorch_model.bin` and what else holds tensors by their names.
//!
//! Since 1.6 such a file is a zip archive: `data.pkl` is a pickle that tells the tensors, and beside it
//! lies one file per storage, of which tensors are views. Before, it was some pickles one after the other,
//! and after them the storages. Both are read. The pickle is read as data, and nothing in it is ever run;
//! the storages stay on disk until a tensor of theirs is asked for. Archives have checksums; a damaged
//! storage is an error when a tensor of it is read. The old format has none.
//!
//! Not read: TorchScript, whole modules, training states with tensors further within, quantised and sparse
//! tensors, tensors with more numbers than their storage (`expand`), other byte orders, and what PyTorch wrote before 0.1.10.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use crate::checkpoint::CheckpointError;
use crate::pickle::{Pickle, REMEDY, Value, shown};
use crate::pickled_tensor::{StorageKind, Tensor};
use crate::stored_zip::{self, DAMAGED, Extent, read_at};
use crate::tensor_file::{Entry, TensorFile};

/// The most bytes of a pickle: 25,000 tensors have so many.
const LARGEST_PICKLE: u64 = 4 << 20;
/// What archives begin with.
const ZIP: &[u8] = b"PK\x03\x04";
/// What files begin with that were written before 1.6, or since by request: a number, pickled.
const LEGACY: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
/// The version of that format.
const LEGACY_VERSION: i64 = 1001;

/// Opens a file; tensors are read when they are asked for.
///
/// # Errors
/// When there is no such file, or it is cut, or names anything but tensors.
pub fn open(path: &Path) -> Result<TensorFile, CheckpointError> {
    let read = || {
        let file = File::open(path).map_err(|error| error.to_string())?;
        let length = file.metadata().map_err(|error| error.to_string())?.len();
        let (tensors, storages) = tensors(&file, length)?;
        Ok(TensorFile::of_storages(path, file, tensors, storages))
    };
    read().map_err(|message| CheckpointError::File { path: path.to_owned(), message })
}

/// The tensors of a file, and the storages that they are in.
type Tensors = (BTreeMap<String, Entry>, Vec<Extent>);

fn tensors(file: &File, length: u64) -> Result<Tensors, String> {
    let start = read_at(file, 0, length.min(LEGACY.len() as u64) as usize)?;
    if start.starts_with(ZIP) {
        zip_tensors(file, length)
    } else if start == LEGACY {
        legacy_tensors(file, length)
    } else {
        Err(format!("it is none of PyTorch's files, or cut; {REMEDY}"))
    }
}

fn zip_tensors(file: &File, length: u64) -> Result<Tensors, String> {
    let files = stored_zip::files(file, length)?;
    let mut pickles = files.iter().filter_map(|(name, extent)| {
        name.strip_suffix("data.pkl").filter(|folder| folder.ends_with('/')).map(|it| (it, extent))
    });
    let (Some((folder, extent)), None) = (pickles.next(), pickles.next()) else {
        return Err("it is a zip archive, but has not one `data.pkl`, as PyTorch's have".to_owned());
    };
    if let Some(order) = files.get(&format!("{folder}byteorder")) {
        let order = read_at(file, order.start, order.bytes.min(8) as usize)?;
        check_order(order == b"little")?;
    }
    if extent.bytes > LARGEST_PICKLE {
        return Err(format!("its pickle has {} bytes, which is absurd; {REMEDY}", extent.bytes));
    }
    let bytes = read_at(file, extent.start, extent.bytes as usize)?;
    // What it names is told even if it is damaged: that is of more interest.
    let pickle = Pickle::read(&bytes)?;
    if !extent.is_whole(file)? {
        return Err(format!("its pickle {DAMAGED}"));
    }
    entries(&pickle, |key| files.get(&format!("{folder}data/{key}")).copied())
}

fn legacy_tensors(file: &File, length: u64) -> Result<Tensors, String> {
    let bytes = read_at(file, 0, length.min(LARGEST_PICKLE) as usize)?;
    let mut place = LEGACY.len();
    let mut next = || {
        let pickle = Pickle::read(&bytes[place..])?;
        place += pickle.length;
        Ok::<_, String>(pickle)
    };
    // The version, the machine, the tensors, and the order of the storages.
    if *next()?.result() != Value::Whole(LEGACY_VERSION) {
        return Err(format!("it is of a version of PyTorch's files that is not known; {REMEDY}"));
    }
    let machine = next()?;
    let Value::Dict(properties) = machine.result() else { return Err(damaged()) };
    check_order(properties.iter().all(|(name, value)| {
        *machine.get(*name) != Value::Text("little_endian")
            || *machine.get(*value) == Value::Bool(true)
    }))?;
    let (pickle, order) = (next()?, next()?);
    let Value::List(keys) = order.result() else { return Err(damaged()) };
    let mut extents = BTreeMap::new();
    let mut start = place as u64;
    for key in keys {
        let Value::Text(key) = order.get(*key) else { return Err(damaged()) };
        let storage = pickle.storages().get(key).ok_or_else(damaged)?;
        let cut = || format!("it is cut: its storage `{}` is missing", shown(key));
        let count = read_at(file, start, 8).map_err(|_| cut())?;
        if count != storage.count.to_le_bytes() {
            return Err(damaged());
        }
        let bytes = storage.count.checked_mul(storage.kind.bytes() as u64).ok_or_else(damaged)?;
        let end = bytes.checked_add(start + 8).filter(|end| *end <= length).ok_or_else(cut)?;
        extents.insert(*key, Extent { start: start + 8, bytes, checksum: None });
        start = end;
    }
    entries(&pickle, |key| extents.get(key).copied())
}

fn damaged() -> String {
    format!("it begins as a file of PyTorch before 1.6, but does not go on so; {REMEDY}")
}

fn check_order(is_little: bool) -> Result<(), String> {
    match is_little {
        true => Ok(()),
        false => {
            Err(format!("its numbers have their highest bytes first, which is not read; {REMEDY}"))
        }
    }
}

/// Where the tensors of a pickle lie, given where its storages do.
fn entries(
    pickle: &Pickle<'_>,
    extent: impl Fn(&str) -> Option<Extent>,
) -> Result<Tensors, String> {
    let (mut entries, mut storages) = (BTreeMap::new(), Vec::new());
    let mut places = BTreeMap::new();
    for (name, tensor) in Tensor::all(pickle)? {
        let of_tensor = |message: String| format!("the tensor `{}` {message}", shown(name));
        let key = tensor.storage.key;
        let storage = match places.get(key) {
            Some(place) => *place,
            None => {
                let missing = || of_tensor("has no storage in the file".to_owned());
                storages.push(extent(key).ok_or_else(missing)?);
                places.insert(key, storages.len() - 1);
                storages.len() - 1
            }
        };
        let entry = entry(tensor, storage, storages[storage]).map_err(of_tensor)?;
        entries.insert(name.to_owned(), entry);
    }
    Ok((entries, storages))
}

/// Where a tensor lies in its storage, which has it whole.
fn entry(tensor: &Tensor<'_>, place: usize, extent: Extent) -> Result<Entry, String> {
    let Tensor { storage, offset, shape, strides } = tensor;
    let absurd = || format!("has the absurd shape {shape:?}");
    let each = storage.kind.bytes() as u64;
    let bytes = storage.count.checked_mul(each).ok_or_else(absurd)?;
    if bytes > extent.bytes {
        let there = extent.bytes;
        return Err(format!("is in a storage of {bytes} bytes, of which the file has {there}"));
    }
    let count = shape.iter().try_fold(1, |count: usize, size| count.checked_mul(*size));
    let count = count.ok_or_else(absurd)? as u64;
    if count > storage.count {
        let has = storage.count;
        return Err(format!(
            "repeats numbers: its shape {shape:?} has {count}, its storage {has}; {REMEDY}"
        ));
    }
    // How many numbers from the first to the last: neighbours may be far apart.
    let reach = match count {
        0 => Some(0),
        _ => shape.iter().zip(strides).try_fold(1, |reach: u64, (size, stride)| {
            (*size as u64 - 1).checked_mul(*stride as u64)?.checked_add(reach)
        }),
    };
    let reach = reach.ok_or_else(absurd)?;
    if offset.checked_add(reach).is_none_or(|end| end > storage.count) {
        let has = storage.count;
        return Err(format!("reaches beyond its storage, which has {has} numbers"));
    }
    Ok(Entry {
        kind: match storage.kind {
            StorageKind::Read(kind) => Ok(kind),
            StorageKind::Other(name, _) => Err(name.to_owned()),
        },
        shape: shape.clone(),
        strides: apart(shape, strides).filter(|_| count > 0),
        start: extent.start + offset * each,
        bytes: (reach * each) as usize,
        storage: Some(place),
    })
}

/// The strides of a tensor whose rows do not lie one after the other. Those of axes with one place only
/// say nothing, and may be anything.
fn apart(shape: &[usize], strides: &[usize]) -> Option<Vec<usize>> {
    let mut in_order = 1;
    let mut is_in_order = true;
    let mut apart = strides.to_vec();
    for (size, stride) in shape.iter().zip(&mut apart).rev() {
        if *size == 1 {
            *stride = 0;
        } else {
            is_in_order &= *stride == in_order;
            in_order = in_order.saturating_mul(*size);
        }
    }
    (!is_in_order).then_some(apart)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stored_zip::tests::archive;

    /// A dict with one tensor, as PyTorch writes it; numbers are of eight bytes.
    fn pickle(count: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
        let number = |number: &i64| [&b"\x8a\x08"[..], &number.to_le_bytes()].concat();
        let tuple = |numbers: &[i64]| {
            [b"(", &numbers.iter().flat_map(number).collect::<Vec<_>>()[..], b"t"].concat()
        };
        let storage: &[u8] =
            b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu";
        [
            b"\x80\x02}X\x03\0\0\0w.bctorch._utils\n_rebuild_tensor_v2\n(",
            storage,
            &number(&count),
            b"tQ",
            &number(&offset),
            &tuple(shape),
            &tuple(strides),
            b"\x89ccollections\nOrderedDict\n)RtRs.",
        ]
        .concat()
    }

    fn storage(numbers: &[f32]) -> Vec<u8> {
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    /// Opens an archive, which is called what the file is, and reads its tensor.
    fn open_archive(files: &[(&str, &[u8])]) -> Result<Vec<f32>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.bin");
        std::fs::write(&path, archive(files, false)).unwrap();
        let read = || open(&path)?.read("w.b");
        let error = |error: CheckpointError| {
            error.to_string().replace(&format!("{}: ", path.display()), "")
        };
        read().map_err(error)
    }

    fn open_one(pickle: &[u8], numbers: &[f32]) -> Result<Vec<f32>, String> {
        open_archive(&[("w/data.pkl", pickle), ("w/data/0", &storage(numbers))])
    }

    #[test]
    fn a_view_is_within_its_storage() {
        let six = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
        let read = |offset, shape: &[i64], strides: &[i64]| {
            open_one(&pickle(6, offset, shape, strides), &six)
        };
        assert_eq!(read(0, &[2, 3], &[3, 1]).unwrap(), six);
        assert_eq!(read(0, &[3, 2], &[1, 3]).unwrap(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(read(1, &[2, 2], &[3, 1]).unwrap(), [1.0, 2.0, 4.0, 5.0]);
        assert_eq!(read(4, &[2, 3], &[1, 0]).unwrap(), [4.0, 4.0, 4.0, 5.0, 5.0, 5.0]);
        assert_eq!(read(5, &[], &[]).unwrap(), [5.0]);
        assert!(read(6, &[0, 3], &[3, 1]).unwrap().is_empty());
        assert_eq!(read(2, &[1, 3, 1], &[i64::MAX, 1, i64::MAX]).unwrap(), [2.0, 3.0, 4.0]);

        let beyond = "the tensor `w.b` reaches beyond its storage, which has 6 numbers";
        let absurd = "the tensor `w.b` has the absurd shape";
        for (offset, shape, strides, expected) in [
            (1, &[2, 3][..], &[3, 1][..], beyond),
            (0, &[2, 3], &[4, 1], beyond),
            (0, &[2, 3], &[i64::MAX / 2, 1], beyond),
            (i64::MAX, &[1], &[1], beyond),
            (7, &[0], &[1], beyond),
            (0, &[2, 2, 1], &[i64::MAX, i64::MAX, i64::MAX], beyond),
            (0, &[3, 2], &[i64::MAX, i64::MAX], absurd),
            (0, &[1 << 40, 1 << 40], &[1, 1], absurd),
            (0, &[7], &[0], "repeats numbers: its shape [7] has 7, its storage 6"),
            (-1, &[1], &[1], "the tensor `w.b` has the size or place -1"),
            (0, &[-2], &[1], "the tensor `w.b` has the size or place -2"),
            (0, &[2], &[-1], "the tensor `w.b` has the size or place -1"),
            (0, &[1; 9], &[1; 9], "the tensor `w.b` has 9 axes"),
            (0, &[2, 3], &[1], "the tensor `w.b` is not made as PyTorch makes it"),
        ] {
            let said = read(offset, shape, strides).unwrap_err();
            assert!(said.contains(expected), "{said}");
        }
        for (count, expected) in [
            (7, "`w.b` is in a storage of 28 bytes, of which the file has 24"),
            (i64::MAX, "absurd"),
            (-1, "the storage `0` has the size or place -1"),
        ] {
            let said = open_one(&pickle(count, 0, &[6], &[1]), &six).unwrap_err();
            assert!(said.contains(expected), "{said}");
        }
        let said = open_one(&pickle(2, 0, &[2], &[1]), &[1.0, f32::NAN]).unwrap_err();
        assert_eq!(said, "the tensor `w.b` holds NaN at place 1");
    }

    #[test]
    fn what_is_none_of_pytorchs_archives_is_refused() {
        let (whole, numbers) = (pickle(2, 0, &[2], &[1]), storage(&[1.0, 2.0]));
        let pickle = ("w/data.pkl", &whole[..]);
        let numbers = ("w/data/0", &numbers[..]);
        assert_eq!(
            open_archive(&[pickle, numbers, ("w/byteorder", b"little")]).unwrap(),
            [1.0, 2.0]
        );
        let twice = [&whole[..whole.len() - 1], &whole[3..]].concat();
        for (files, expected) in [
            (&[pickle][..], "the tensor `w.b` has no storage in the file"),
            (&[pickle, ("w/data/1", numbers.1)], "the tensor `w.b` has no storage in the file"),
            (&[pickle, ("data/0", numbers.1)], "the tensor `w.b` has no storage in the file"),
            (&[numbers], "has not one `data.pkl`"),
            (&[pickle, numbers, ("v/data.pkl", &whole)], "has not one `data.pkl`"),
            (&[pickle, numbers, ("w/byteorder", b"big")], "highest bytes first"),
            (&[("w/data.pkl", b""), numbers], "at byte 0 of its pickle it is cut"),
            (
                &[("w/data.pkl", &vec![b'N'; 5 << 20]), numbers],
                "has 5242880 bytes, which is absurd",
            ),
            (&[("w/data.pkl", b"\x80\x02].")], "it holds a list instead of tensors by their names"),
            (&[("w/data.pkl", b"\x80\x02}NNs.")], "it has None as the name of a tensor"),
            (
                &[("w/data.pkl", b"\x80\x02}X\x05\0\0\0model}s.")],
                "`model` in it is a dict, no tensor",
            ),
            (&[("w/data.pkl", &twice), numbers], "the tensor `w.b` is in it twice"),
        ] {
            let said = open_archive(files).unwrap_err();
            assert!(said.contains(expected), "{said}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.bin");
        assert!(open(&path).unwrap_err().to_string().contains("w.bin: No such file"));
        assert!(open(folder.path()).is_err());
        for bytes in [&b""[..], b"version https://git-lfs.github.com/spec/v1\n", &[0x80, 2]] {
            std::fs::write(&path, bytes).unwrap();
            let said = open(&path).unwrap_err().to_string();
            assert!(said.contains("it is none of PyTorch's files, or cut"), "{said}");
        }
    }
}

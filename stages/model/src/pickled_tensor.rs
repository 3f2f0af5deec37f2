//! What tensors are in the pickles of PyTorch: the few names that such a pickle may use, and what is made of
//! the values that it gives them.
//!
//! What PyTorch makes of them is in its `torch/_utils.py` and `torch/serialization.py`.

use std::collections::BTreeMap;

use crate::pickle::{Id, Pickle, REMEDY, Value, shown};
use crate::tensor_file::NumberKind;

/// The most sizes of a tensor.
const MOST_AXES: usize = 8;

/// What a pickle may name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Named {
    /// Makes a dict; always an empty one.
    OrderedDict,
    /// Makes a tensor of a storage.
    RebuildTensor,
    /// Makes a parameter of a tensor; it has the same numbers.
    RebuildParameter,
    /// A kind of storage.
    Storage(StorageKind),
}

impl Named {
    pub(crate) fn of(module: &str, name: &str) -> Option<Named> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Named::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Named::RebuildTensor),
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                Some(Named::RebuildParameter)
            }
            ("torch", _) => StorageKind::of(name).map(Named::Storage),
            _ => None,
        }
    }
}

/// How the numbers of a storage are kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum StorageKind {
    /// In a way that is read.
    Read(NumberKind),
    /// In a way that is not: its name in safetensors files, and the bytes of one. Old files have such
    /// tensors beside those that count.
    Other(&'static str, usize),
}

impl StorageKind {
    fn of(class: &str) -> Option<StorageKind> {
        Some(match class {
            "FloatStorage" => StorageKind::Read(NumberKind::F32),
            "HalfStorage" => StorageKind::Read(NumberKind::F16),
            "BFloat16Storage" => StorageKind::Read(NumberKind::Bf16),
            "DoubleStorage" => StorageKind::Other("F64", 8),
            "LongStorage" => StorageKind::Other("I64", 8),
            "IntStorage" => StorageKind::Other("I32", 4),
            "ShortStorage" => StorageKind::Other("I16", 2),
            "CharStorage" => StorageKind::Other("I8", 1),
            "ByteStorage" => StorageKind::Other("U8", 1),
            "BoolStorage" => StorageKind::Other("BOOL", 1),
            "ComplexFloatStorage" => StorageKind::Other("C64", 8),
            "ComplexDoubleStorage" => StorageKind::Other("C128", 16),
            _ => return None,
        })
    }

    /// Bytes of one number.
    pub(crate) fn bytes(self) -> usize {
        match self {
            StorageKind::Read(kind) => kind.bytes(),
            StorageKind::Other(_, bytes) => bytes,
        }
    }
}

/// Numbers outside the pickle, which tensors are views of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Storage<'a> {
    pub(crate) kind: StorageKind,
    /// What it is called in the file.
    pub(crate) key: &'a str,
    /// How many numbers it has.
    pub(crate) count: u64,
}

impl<'a> Storage<'a> {
    /// The storage that a tuple stands for: a tag, its kind, its key, its device, how many numbers it has.
    pub(crate) fn of(values: &[Value<'a>], tuple: &Value<'a>) -> Result<Storage<'a>, String> {
        let malformed = || "what is outside of it is no storage".to_owned();
        let Value::Tuple(parts) = tuple else { return Err(malformed()) };
        let [tag, kind, key, _, count, view @ ..] = &parts[..] else { return Err(malformed()) };
        let (Value::Text("storage"), Value::Named(Named::Storage(kind)), Value::Text(key)) =
            (&values[*tag], &values[*kind], &values[*key])
        else {
            return Err(malformed());
        };
        // Before 1.6 a storage could be part of another.
        if view.iter().any(|view| values[*view] != Value::None) {
            let key = shown(key);
            return Err(format!("the storage `{key}` is part of another: {REMEDY}"));
        }
        let count = size(&values[*count])
            .map_err(|error| format!("the storage `{}` {error}", shown(key)))?;
        Ok(Storage { kind: *kind, key, count })
    }
}

/// A view of a storage, as the pickle says; whether the storage has it is not known here.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tensor<'a> {
    pub(crate) storage: Storage<'a>,
    /// Where its first number is.
    pub(crate) offset: u64,
    pub(crate) shape: Vec<usize>,
    /// How far apart neighbours along each axis are; one for each of `shape`.
    pub(crate) strides: Vec<usize>,
}

impl<'a> Tensor<'a> {
    /// Storage, offset, shape, strides, whether it is trained, hooks, and what else is to be done.
    pub(crate) fn rebuild(values: &[Value<'a>], arguments: &[Id]) -> Result<Tensor<'a>, String> {
        let malformed = || "is not made as PyTorch makes it".to_owned();
        let [storage, offset, shape, strides, _, _, further @ ..] = arguments else {
            return Err(malformed());
        };
        // Numbers that are to be negated or conjugated when they are read.
        for what in further {
            match &values[*what] {
                Value::None => {}
                Value::Dict(entries) if entries.is_empty() => {}
                _ => return Err(format!("is to be changed after it is read: {REMEDY}")),
            }
        }
        let sizes = |id: &Id| match &values[*id] {
            Value::Tuple(sizes) if sizes.len() <= MOST_AXES => {
                sizes.iter().map(|id| Ok(size(&values[*id])? as usize)).collect()
            }
            Value::Tuple(sizes) => Err(format!("has {} axes, which is absurd", sizes.len())),
            _ => Err(malformed()),
        };
        let Value::Storage(storage) = values[*storage] else { return Err(malformed()) };
        let (shape, strides): (Vec<usize>, Vec<usize>) = (sizes(shape)?, sizes(strides)?);
        match shape.len() == strides.len() {
            true => Ok(Tensor { storage, offset: size(&values[*offset])?, shape, strides }),
            false => Err(malformed()),
        }
    }

    /// The tensors by their names that a pickle makes.
    ///
    /// # Errors
    /// When it makes something else, or two have one name.
    pub(crate) fn all<'p>(
        pickle: &'p Pickle<'a>,
    ) -> Result<BTreeMap<&'a str, &'p Tensor<'a>>, String> {
        let Value::Dict(entries) = pickle.result() else {
            let what = pickle.result().what();
            return Err(format!("it holds {what} instead of tensors by their names; {REMEDY}"));
        };
        let mut tensors = BTreeMap::new();
        for (name, value) in entries {
            let Value::Text(name) = pickle.get(*name) else {
                let what = pickle.get(*name).what();
                return Err(format!("it has {what} as the name of a tensor; {REMEDY}"));
            };
            let Value::Tensor(tensor) = pickle.get(*value) else {
                let what = pickle.get(*value).what();
                return Err(format!("`{}` in it is {what}, no tensor; {REMEDY}", shown(name)));
            };
            if tensors.insert(*name, &**tensor).is_some() {
                return Err(format!("the tensor `{}` is in it twice", shown(name)));
            }
        }
        Ok(tensors)
    }
}

fn size(value: &Value<'_>) -> Result<u64, String> {
    match value {
        Value::Whole(number) => {
            u64::try_from(*number).map_err(|_| format!("has the size or place {number}"))
        }
        other => Err(format!("has {} as a size or place", other.what())),
    }
}

//! Numbers where a model computes: in the processor's memory, or in that of a GPU.
//!
//! Every layer has a body for each. Which of them runs is decided by where its input lies, so the model is
//! written once.

use std::borrow::Cow;

use okapi_device::{DeviceArray, Kind};

use crate::layers;

/// Numbers, a row for each token.
#[derive(Debug, Clone)]
pub enum Array {
    /// In the processor's memory.
    Host(Vec<f32>),
    /// In a GPU's.
    Device(DeviceArray),
}

/// The same numbers, wherever they are.
impl PartialEq for Array {
    fn eq(&self, other: &Array) -> bool {
        self.read() == other.read()
    }
}

impl Default for Array {
    fn default() -> Array {
        Array::Host(Vec::new())
    }
}

impl Array {
    /// How many numbers.
    pub fn len(&self) -> usize {
        match self {
            Array::Host(numbers) => numbers.len(),
            Array::Device(numbers) => numbers.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers, brought to the processor if they are not there.
    pub fn read(&self) -> Cow<'_, [f32]> {
        match self {
            Array::Host(numbers) => Cow::Borrowed(numbers),
            Array::Device(numbers) => Cow::Owned(numbers.read()),
        }
    }

    /// As many zeros, in the same memory.
    #[must_use]
    pub fn zeros(&self) -> Array {
        self.zeros_of(self.len())
    }

    /// So many zeros, in the same memory.
    #[must_use]
    pub(crate) fn zeros_of(&self, len: usize) -> Array {
        match self {
            Array::Host(_) => Array::Host(vec![0.0; len]),
            Array::Device(beside) => {
                Array::Device(DeviceArray::zeros(beside.device(), beside.kind(), len))
            }
        }
    }

    /// Room for so many numbers, in the same memory: zeros there, and on a GPU anything.
    pub(crate) fn room(&self, len: usize) -> Array {
        match self {
            Array::Host(_) => Array::Host(vec![0.0; len]),
            Array::Device(beside) => {
                Array::Device(DeviceArray::uninitialized(beside.device(), beside.kind(), len))
            }
        }
    }

    /// A copy of some of the numbers.
    ///
    /// # Panics
    /// When there are not so many.
    #[must_use]
    pub fn part(&self, first: usize, count: usize) -> Array {
        match self {
            Array::Host(numbers) => Array::Host(numbers[first..first + count].to_vec()),
            Array::Device(numbers) => Array::Device(numbers.part(first, count)),
        }
    }

    /// All numbers of some arrays, one after the other. They lie in the same memory.
    #[must_use]
    pub fn concat(parts: &[&Array]) -> Array {
        let Some(first) = parts.first() else { return Array::default() };
        let mut all = match first {
            Array::Host(_) => {
                return Array::Host(parts.iter().flat_map(|part| part.host()).copied().collect());
            }
            Array::Device(_) => first.room(parts.iter().map(|part| part.len()).sum()),
        };
        let mut at = 0;
        for part in parts {
            all.device_mut().copy_from(at, part.device(), 0, part.len());
            at += part.len();
        }
        all
    }

    /// Some rows of `width` numbers, brought to the processor.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn rows(&self, width: usize, rows: &[usize]) -> Vec<f32> {
        match self.gathered(width, rows) {
            Array::Host(numbers) => numbers,
            Array::Device(numbers) => numbers.read(),
        }
    }

    /// The same, where they are.
    pub(crate) fn gathered(&self, width: usize, rows: &[usize]) -> Array {
        match self {
            Array::Host(numbers) => {
                let rows = rows.iter().flat_map(|row| &numbers[row * width..][..width]);
                Array::Host(rows.copied().collect())
            }
            Array::Device(numbers) => {
                Array::Device(okapi_device::embedding::gather(numbers, width, &on(numbers, rows)))
            }
        }
    }

    /// Adds a row of `width` numbers to each of some rows.
    ///
    /// # Panics
    /// When there is no such row.
    pub(crate) fn add_rows(&mut self, width: usize, rows: &[usize], from: &Array) {
        match (self, from) {
            (Array::Host(numbers), Array::Host(from)) => {
                for (row, from) in rows.iter().zip(from.chunks_exact(width)) {
                    layers::add(&mut numbers[row * width..][..width], from);
                }
            }
            (Array::Device(numbers), Array::Device(from)) => {
                let rows: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
                okapi_device::embedding::scatter_add(numbers, width, &rows, from);
            }
            _ => panic!("{APART}"),
        }
    }

    /// Adds rows that the processor has computed.
    pub(crate) fn add_host_rows(&mut self, width: usize, rows: &[usize], from: Vec<f32>) {
        let from = self.beside(from);
        self.add_rows(width, rows, &from);
    }

    /// The same in single precision, where they are.
    pub(crate) fn in_single(self) -> Array {
        match self {
            Array::Device(numbers) if numbers.kind() != Kind::F32 => {
                Array::Device(okapi_device::elementwise::cast(&numbers, Kind::F32))
            }
            same => same,
        }
    }

    /// The same stored as others are.
    pub(crate) fn in_kind_of(self, other: &Array) -> Array {
        match (self, other) {
            (Array::Device(numbers), Array::Device(other)) if numbers.kind() != other.kind() => {
                Array::Device(okapi_device::elementwise::cast(&numbers, other.kind()))
            }
            (same, _) => same,
        }
    }

    /// Numbers of the processor, brought to where these are, and stored as they are.
    pub(crate) fn beside(&self, numbers: Vec<f32>) -> Array {
        match self {
            Array::Host(_) => Array::Host(numbers),
            Array::Device(there) => {
                Array::Device(DeviceArray::new(there.device(), there.kind(), &numbers))
            }
        }
    }

    /// All numbers become 0.
    pub(crate) fn clear(&mut self) {
        match self {
            Array::Host(numbers) => numbers.fill(0.0),
            Array::Device(numbers) => numbers.clear(),
        }
    }

    /// `self += other`.
    pub(crate) fn add(&mut self, other: &Array) {
        match (self, other) {
            (Array::Host(numbers), Array::Host(other)) => layers::add(numbers, other),
            (Array::Device(numbers), Array::Device(other)) => {
                okapi_device::elementwise::add(numbers, other);
            }
            _ => panic!("{APART}"),
        }
    }

    /// `self *= other`, number by number.
    pub(crate) fn scale_by(&mut self, other: &Array) {
        match (self, other) {
            (Array::Host(numbers), Array::Host(other)) => layers::scale_by(numbers, other),
            (Array::Device(numbers), Array::Device(other)) => {
                okapi_device::elementwise::multiply_by(numbers, other);
            }
            _ => panic!("{APART}"),
        }
    }

    /// The numbers of the processor.
    ///
    /// # Panics
    /// When they are on a GPU.
    pub fn host(&self) -> &[f32] {
        match self {
            Array::Host(numbers) => numbers,
            Array::Device(_) => panic!("{APART}"),
        }
    }

    /// The same, to be changed.
    ///
    /// # Panics
    /// When they are on a GPU.
    pub fn host_mut(&mut self) -> &mut [f32] {
        match self {
            Array::Host(numbers) => numbers,
            Array::Device(_) => panic!("{APART}"),
        }
    }

    /// The numbers on a GPU.
    ///
    /// # Panics
    /// When they are the processor's.
    pub fn device(&self) -> &DeviceArray {
        match self {
            Array::Device(numbers) => numbers,
            Array::Host(_) => panic!("{APART}"),
        }
    }

    /// The same, to be changed.
    ///
    /// # Panics
    /// When they are the processor's.
    pub fn device_mut(&mut self) -> &mut DeviceArray {
        match self {
            Array::Device(numbers) => numbers,
            Array::Host(_) => panic!("{APART}"),
        }
    }
}

/// A mistake of the program: the layers of a model and what they read are always in one memory.
pub(crate) const APART: &str = "numbers of the processor and of a GPU in one computation";

fn on(beside: &DeviceArray, rows: &[usize]) -> DeviceArray {
    let rows: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
    DeviceArray::of_u32(beside.device(), &rows)
}

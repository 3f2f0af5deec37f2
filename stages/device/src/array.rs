//! Numbers in a device's memory.

use half::bf16;

use crate::backend::Address;
use crate::device::Device;

/// How a number is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Single precision.
    F32,
    /// The upper half of it.
    Bf16,
    /// Whole numbers: tokens, places.
    U32,
    /// The lower halves of single precision, whose upper ones are in bfloat16.
    I16,
}

impl Kind {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Kind::F32 | Kind::U32 => 4,
            Kind::Bf16 | Kind::I16 => 2,
        }
    }
}

/// Numbers of one kind, one after the other. They are given back to the device when this is dropped.
#[derive(Debug)]
pub struct DeviceArray {
    device: Device,
    /// `None` if there are no numbers, or the device has failed.
    at: Option<Address>,
    kind: Kind,
    len: usize,
}

impl DeviceArray {
    /// So many numbers, which may be anything.
    pub fn uninitialized(device: &Device, kind: Kind, len: usize) -> DeviceArray {
        let bytes = len * kind.bytes();
        let at = if bytes == 0 { None } else { device.allocate(bytes) };
        DeviceArray { device: device.clone(), at, kind, len }
    }

    /// Zeros.
    pub fn zeros(device: &Device, kind: Kind, len: usize) -> DeviceArray {
        let mut array = DeviceArray::uninitialized(device, kind, len);
        array.clear();
        array
    }

    /// Numbers of the processor, rounded to the nearest of the kind.
    ///
    /// # Panics
    /// When the kind is not one of those that such numbers have.
    pub fn new(device: &Device, kind: Kind, numbers: &[f32]) -> DeviceArray {
        let array = DeviceArray::uninitialized(device, kind, numbers.len());
        array.put(0, numbers);
        array
    }

    /// Whole numbers of the processor.
    pub fn of_u32(device: &Device, numbers: &[u32]) -> DeviceArray {
        let array = DeviceArray::uninitialized(device, Kind::U32, numbers.len());
        if let Some(at) = array.at {
            device.upload(at, &bytes_of(numbers, |number| number.to_le_bytes()));
        }
        array
    }

    /// Room for so many sums in double precision, which kernels alone write: each takes that of two whole
    /// numbers.
    pub(crate) fn for_doubles(device: &Device, len: usize) -> DeviceArray {
        DeviceArray::uninitialized(device, Kind::U32, 2 * len)
    }

    /// Numbers in double precision, which kernels alone read.
    pub(crate) fn of_doubles(device: &Device, numbers: &[f64]) -> DeviceArray {
        let array = DeviceArray::for_doubles(device, numbers.len());
        if let Some(at) = array.at {
            device.upload(at, &bytes_of(numbers, |number| number.to_le_bytes()));
        }
        array
    }

    /// Writes numbers over those at a place, rounded.
    ///
    /// # Panics
    /// When they do not fit, or the kind is another.
    pub fn write(&mut self, first: usize, numbers: &[f32]) {
        self.put(first, numbers);
    }

    fn put(&self, first: usize, numbers: &[f32]) {
        assert!(first + numbers.len() <= self.len, "out of bounds");
        let bytes: Vec<u8> = match self.kind {
            Kind::F32 => bytes_of(numbers, |number| number.to_le_bytes()),
            Kind::Bf16 => bytes_of(numbers, |number| bf16::from_f32(*number).to_le_bytes()),
            Kind::U32 | Kind::I16 => panic!("an array of whole numbers"),
        };
        if let (Some(at), false) = (self.at, bytes.is_empty()) {
            self.device.upload(at + (first * self.kind.bytes()) as u64, &bytes);
        }
    }

    /// Waits for the numbers, and gives them to the processor. Zeros come from a device that has failed.
    ///
    /// # Panics
    /// When they are lower halves.
    pub fn read(&self) -> Vec<f32> {
        self.read_part(0, self.len)
    }

    /// Some of the numbers.
    ///
    /// # Panics
    /// When there are not so many, or they are lower halves.
    pub fn read_part(&self, first: usize, count: usize) -> Vec<f32> {
        let bytes = self.download(first, count);
        let four = |it: &[u8]| [it[0], it[1], it[2], it[3]];
        match self.kind {
            Kind::F32 => bytes.chunks_exact(4).map(|it| f32::from_le_bytes(four(it))).collect(),
            Kind::U32 => {
                bytes.chunks_exact(4).map(|it| u32::from_le_bytes(four(it)) as f32).collect()
            }
            Kind::Bf16 => {
                let number = |it: &[u8]| bf16::from_le_bytes([it[0], it[1]]).to_f32();
                bytes.chunks_exact(2).map(number).collect()
            }
            Kind::I16 => panic!("lower halves alone are no numbers"),
        }
    }

    /// Waits for whole numbers.
    ///
    /// # Panics
    /// When they are of another kind.
    pub fn read_u32(&self) -> Vec<u32> {
        assert_eq!(self.kind, Kind::U32, "other numbers");
        let bytes = self.download(0, self.len);
        bytes.chunks_exact(4).map(|it| u32::from_le_bytes([it[0], it[1], it[2], it[3]])).collect()
    }

    /// Waits for sums that lie where [`DeviceArray::for_doubles`] made room.
    pub(crate) fn read_doubles(&self) -> Vec<f64> {
        assert_eq!(self.kind, Kind::U32, "other numbers");
        let bytes = self.download(0, self.len);
        let eight = |it: &[u8]| std::array::from_fn(|place| it[place]);
        bytes.chunks_exact(8).map(|it| f64::from_le_bytes(eight(it))).collect()
    }

    fn download(&self, first: usize, count: usize) -> Vec<u8> {
        assert!(first + count <= self.len, "out of bounds");
        let mut bytes = vec![0; count * self.kind.bytes()];
        if let (Some(at), false) = (self.at, bytes.is_empty()) {
            self.device.download(at + (first * self.kind.bytes()) as u64, &mut bytes);
        }
        bytes
    }

    /// All numbers become 0.
    pub fn clear(&mut self) {
        if let Some(at) = self.at {
            self.device.zero(at, self.bytes());
        }
    }

    /// Numbers of the same kind, written over those at a place.
    ///
    /// # Panics
    /// When they do not fit, or the kinds differ.
    pub fn copy_from(&mut self, first: usize, from: &DeviceArray, from_first: usize, count: usize) {
        assert!(first + count <= self.len && from_first + count <= from.len, "out of bounds");
        assert!(self.kind == from.kind && self.device.is_same(&from.device), "another kind");
        let size = self.kind.bytes();
        if let (Some(to), Some(at), true) = (self.at, from.at, count > 0) {
            let (to, at) = (to + (first * size) as u64, at + (from_first * size) as u64);
            self.device.copy(to, at, count * size);
        }
    }

    /// The same numbers once more.
    #[must_use]
    pub fn copy(&self) -> DeviceArray {
        self.part(0, self.len)
    }

    /// A copy of some of the numbers.
    ///
    /// # Panics
    /// When there are not so many.
    #[must_use]
    pub fn part(&self, first: usize, count: usize) -> DeviceArray {
        let mut part = DeviceArray::uninitialized(&self.device, self.kind, count);
        part.copy_from(0, self, first, count);
        part
    }

    /// Where they are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// How they are stored.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        self.len * self.kind.bytes()
    }

    /// The place of a number. 0 on a device that has failed, which reads none.
    pub(crate) fn at(&self, number: usize) -> Address {
        self.at.map_or(0, |at| at + (number * self.kind.bytes()) as u64)
    }
}

/// The bytes of all numbers. A loop that compilers see through: models are large.
fn bytes_of<T, const N: usize>(numbers: &[T], bytes: impl Fn(&T) -> [u8; N]) -> Vec<u8> {
    let mut all = vec![0; numbers.len() * N];
    for (to, number) in all.chunks_exact_mut(N).zip(numbers) {
        to.copy_from_slice(&bytes(number));
    }
    all
}

impl Clone for DeviceArray {
    fn clone(&self) -> DeviceArray {
        self.copy()
    }
}

impl Drop for DeviceArray {
    fn drop(&mut self) {
        if let Some(at) = self.at {
            self.device.free(at, self.bytes());
        }
    }
}

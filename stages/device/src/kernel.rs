//! How a kernel is started.

use crate::array::{DeviceArray, Kind};
use crate::backend::Argument;
use crate::device::Device;

/// Threads of a block, as the kernels expect them.
pub(crate) const THREADS: u32 = 256;

/// Blocks that elementwise work is given at most: each then does several parts of it.
const MOST_BLOCKS: usize = 1 << 16;

/// A kernel with its arguments, in the order in which it takes them.
#[derive(Debug)]
pub(crate) struct Kernel {
    name: String,
    arguments: Vec<Argument>,
}

impl Kernel {
    /// A kernel that exists once.
    pub(crate) fn new(name: &str) -> Kernel {
        Kernel { name: name.to_string(), arguments: Vec::new() }
    }

    /// The kernel for numbers of some kinds.
    pub(crate) fn of(name: &str, kinds: &[Kind]) -> Kernel {
        let mut name = name.to_string();
        for kind in kinds {
            name.push_str(match kind {
                Kind::F32 => "_f32",
                Kind::Bf16 => "_bf16",
                kind => panic!("`{name}` is for no numbers like {kind:?}"),
            });
        }
        Kernel { name, arguments: Vec::new() }
    }

    /// Numbers from the first of an array on.
    pub(crate) fn array(self, array: &DeviceArray) -> Kernel {
        self.part(array, 0)
    }

    /// Numbers from one of an array on.
    pub(crate) fn part(mut self, array: &DeviceArray, first: usize) -> Kernel {
        self.arguments.push(Argument::Address(array.at(first)));
        self
    }

    /// Numbers, or none.
    pub(crate) fn maybe(mut self, array: Option<&DeviceArray>) -> Kernel {
        self.arguments.push(Argument::Address(array.map_or(0, |array| array.at(0))));
        self
    }

    /// A whole number of 32 bits.
    ///
    /// # Panics
    /// When it is larger.
    pub(crate) fn u32(mut self, number: usize) -> Kernel {
        let number = u32::try_from(number).unwrap_or_else(|_| panic!("{number} is too large"));
        self.arguments.push(Argument::U32(number));
        self
    }

    /// A whole number of 64 bits.
    pub(crate) fn u64(mut self, number: u64) -> Kernel {
        self.arguments.push(Argument::U64(number));
        self
    }

    /// A whole number of 64 bits.
    pub(crate) fn size(self, number: usize) -> Kernel {
        self.u64(number as u64)
    }

    /// A number in single precision.
    pub(crate) fn f32(mut self, number: f32) -> Kernel {
        self.arguments.push(Argument::F32(number));
        self
    }

    /// Starts blocks of [`THREADS`] threads.
    ///
    /// # Panics
    /// When there are more than a grid can have.
    pub(crate) fn blocks(self, device: &Device, columns: usize, rows: usize) {
        assert!(columns < 1 << 31 && rows < 1 << 16, "a grid of {columns} x {rows} blocks");
        device.launch(&self.name, [columns as u32, rows as u32], THREADS, &self.arguments);
    }

    /// Starts a thread for each column, in blocks that share the rows.
    pub(crate) fn columns(self, device: &Device, columns: usize, rows: usize) {
        self.blocks(device, columns.div_ceil(THREADS as usize), rows.min(MOST_BLOCKS - 1));
    }

    /// Starts threads for so many pieces of work, each of which may get several.
    pub(crate) fn pieces(self, device: &Device, count: usize) {
        self.blocks(device, count.div_ceil(THREADS as usize).min(MOST_BLOCKS), 1);
    }
}

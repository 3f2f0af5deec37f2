//! A device that is emulated on the processor, so that all but a GPU's speed can be tested without one: the
//! same kernels, compiled by a C++ compiler.
//!
//! It is stricter than a GPU. Memory begins as numbers that are none, so that reading what was never written
//! shows. Copies and products are checked against the blocks that are allocated, and after every kernel it looks
//! whether something before the blocks that it was given has been written: what is found panics. Behind every
//! block is memory that cannot be read or written: a kernel that does ends the process.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::sync::{Mutex, MutexGuard, PoisonError};

use half::bf16;

use crate::array::Kind;
use crate::backend::{Address, Argument, Backend, BatchProduct, Operand};
use crate::device::{Device, DeviceError, DeviceMemory};

impl Device {
    /// A device on the processor, with so many bytes of memory.
    pub fn emulated(memory: usize) -> Device {
        Device::new(Box::new(Emulated { memory, blocks: Mutex::default() }))
    }
}

#[derive(Debug)]
struct Emulated {
    memory: usize,
    /// What is allocated, by its place. Whoever holds the lock has the memory for himself.
    blocks: Mutex<Blocks>,
}

#[derive(Debug, Default)]
struct Blocks {
    /// Its bytes, the guards around it not among them.
    by_place: BTreeMap<Address, usize>,
    used: usize,
}

/// What places of blocks are multiples of: as much as kernels need. A GPU's are of more, but so that blocks end
/// where memory does.
const ALIGNMENT: usize = 16;
/// Bytes before every block that nobody may write.
const GUARD: usize = 256;
const GUARD_BYTE: u8 = 0xa5;

mod kernels {
    use std::ffi::{c_char, c_void};

    #[repr(C)]
    pub(super) struct Kernel {
        private: [u8; 0],
    }

    #[expect(unsafe_code, reason = "the kernels are C++")]
    // SAFETY: these are the declarations of emulation/cuda_on_host.cpp.
    unsafe extern "C" {
        pub(super) fn okapi_emulated_allocate(bytes: usize) -> *mut c_void;
        pub(super) fn okapi_emulated_free(at: *mut c_void, bytes: usize);
        pub(super) fn okapi_emulated_find(name: *const u8, length: usize) -> *const Kernel;
        pub(super) fn okapi_emulated_signature(kernel: *const Kernel) -> *const c_char;
        pub(super) fn okapi_emulated_launch(
            kernel: *const Kernel,
            blocks: u32,
            others: u32,
            threads: u32,
            slots: *const u64,
        ) -> *const c_char;
    }
}

impl Blocks {
    /// The block that so many bytes lie in.
    fn holding(&self, at: Address, bytes: usize) -> Option<(Address, usize)> {
        let (first, size) = self.by_place.range(..=at).next_back()?;
        (at as usize + bytes <= *first as usize + size).then_some((*first, *size))
    }

    fn check(&self, at: Address, bytes: usize) {
        assert!(self.holding(at, bytes).is_some(), "{bytes} bytes at {at:#x} are not allocated");
    }
}

/// Bytes of a block with all that is around it.
fn whole(bytes: usize) -> usize {
    GUARD + bytes.next_multiple_of(ALIGNMENT)
}

fn pointer<T>(at: Address) -> *mut T {
    std::ptr::with_exposed_provenance_mut(at as usize)
}

/// The bytes at a place. They must be of a block that is allocated.
#[expect(unsafe_code, reason = "a device's memory has no owner in Rust")]
fn bytes_at(_blocks: &Blocks, at: Address, bytes: usize) -> &[u8] {
    // SAFETY: whoever calls has checked the place, and holds the lock; every byte was written when the block
    // was allocated.
    unsafe { std::slice::from_raw_parts(pointer(at), bytes) }
}

/// As [`bytes_at`], to write them.
#[expect(unsafe_code, reason = "a device's memory has no owner in Rust")]
fn bytes_at_mut(_blocks: &mut Blocks, at: Address, bytes: usize) -> &mut [u8] {
    // SAFETY: as there; and the blocks are borrowed for as long as the bytes.
    unsafe { std::slice::from_raw_parts_mut(pointer(at), bytes) }
}

/// Whether nobody wrote around a block.
fn is_guarded(blocks: &Blocks, (first, bytes): (Address, usize)) -> bool {
    let behind = bytes.next_multiple_of(ALIGNMENT) - bytes;
    let guards = [(first - GUARD as u64, GUARD), (first + bytes as u64, behind)];
    guards
        .iter()
        .all(|(at, bytes)| bytes_at(blocks, *at, *bytes).iter().all(|byte| *byte == GUARD_BYTE))
}

impl Emulated {
    fn lock(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for Emulated {
    fn name(&self) -> String {
        "a GPU that is emulated".to_string()
    }

    fn memory(&self) -> Result<DeviceMemory, DeviceError> {
        Ok(DeviceMemory { free: self.memory - self.lock().used, total: self.memory })
    }

    fn allocate(&self, bytes: usize) -> Result<Address, DeviceError> {
        let mut blocks = self.lock();
        let free = self.memory - blocks.used;
        if bytes > free {
            return Err(DeviceError::Memory { bytes, free, total: self.memory });
        }
        #[expect(unsafe_code, reason = "a device's memory has no owner in Rust")]
        // SAFETY: any size may be asked for.
        let memory = unsafe { kernels::okapi_emulated_allocate(whole(bytes)) }.cast::<u8>();
        assert!(!memory.is_null(), "the processor's memory is full");
        let first = (memory.expose_provenance() + GUARD) as Address;
        #[expect(unsafe_code, reason = "a device's memory has no owner in Rust")]
        // SAFETY: so many bytes were allocated there.
        unsafe {
            memory.write_bytes(GUARD_BYTE, GUARD);
            let block = memory.add(GUARD);
            block.write_bytes(GUARD_BYTE, bytes.next_multiple_of(ALIGNMENT));
            // Not a number in every kind of numbers that has such.
            block.write_bytes(0xff, bytes);
        }
        blocks.by_place.insert(first, bytes);
        blocks.used += bytes;
        Ok(first)
    }

    fn free(&self, at: Address, bytes: usize) {
        let mut blocks = self.lock();
        let found = blocks.by_place.remove(&at);
        if std::thread::panicking() {
            return;
        }
        assert_eq!(found, Some(bytes), "a block of {bytes} bytes at {at:#x} is not allocated");
        assert!(is_guarded(&blocks, (at, bytes)), "something was written beside a block");
        blocks.used -= bytes;
        #[expect(unsafe_code, reason = "a device's memory has no owner in Rust")]
        // SAFETY: it was allocated with this size, and nobody else knows of it any more.
        unsafe {
            kernels::okapi_emulated_free(pointer(at - GUARD as u64), whole(bytes));
        }
    }

    fn upload(&self, to: Address, bytes: &[u8]) -> Result<(), DeviceError> {
        let mut blocks = self.lock();
        blocks.check(to, bytes.len());
        bytes_at_mut(&mut blocks, to, bytes.len()).copy_from_slice(bytes);
        Ok(())
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let blocks = self.lock();
        blocks.check(from, bytes.len());
        bytes.copy_from_slice(bytes_at(&blocks, from, bytes.len()));
        Ok(())
    }

    fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<(), DeviceError> {
        let mut blocks = self.lock();
        blocks.check(to, bytes);
        blocks.check(from, bytes);
        assert!(to + bytes as u64 <= from || from + bytes as u64 <= to, "a copy overlaps itself");
        let copied = bytes_at(&blocks, from, bytes).to_vec();
        bytes_at_mut(&mut blocks, to, bytes).copy_from_slice(&copied);
        Ok(())
    }

    fn zero(&self, at: Address, bytes: usize) -> Result<(), DeviceError> {
        let mut blocks = self.lock();
        blocks.check(at, bytes);
        bytes_at_mut(&mut blocks, at, bytes).fill(0);
        Ok(())
    }

    fn launch(
        &self,
        kernel: &str,
        grid: [u32; 2],
        threads: u32,
        arguments: &[Argument],
    ) -> Result<(), DeviceError> {
        let blocks = self.lock();
        #[expect(unsafe_code, reason = "the kernels are C++")]
        // SAFETY: the name is so long; the signature ends with a zero and is never freed.
        let (found, signature) = unsafe {
            let found = kernels::okapi_emulated_find(kernel.as_ptr(), kernel.len());
            assert!(!found.is_null(), "there is no kernel `{kernel}`");
            (found, text(kernels::okapi_emulated_signature(found)))
        };
        let given: String = arguments.iter().map(letter).collect();
        assert_eq!(given, signature, "the arguments of kernel `{kernel}`");
        let mut touched = Vec::new();
        for argument in arguments {
            if let Argument::Address(at @ 1..) = argument {
                let block = blocks.holding(*at, 1);
                touched.push(block.unwrap_or_else(|| panic!("`{kernel}`: {at:#x} is no place")));
            }
        }
        let slots: Vec<u64> = arguments.iter().map(slot).collect();
        #[expect(unsafe_code, reason = "the kernels are C++")]
        // SAFETY: there are as many arguments as the kernel takes, of its types. That it stays within the blocks
        // is what is tested.
        let failure = unsafe {
            let [x, y] = grid;
            kernels::okapi_emulated_launch(found, x, y, threads, slots.as_ptr())
        };
        if !failure.is_null() {
            #[expect(unsafe_code, reason = "the kernels are C++")]
            // SAFETY: it ends with a zero, and is kept until this thread's next failure.
            let failure = unsafe { text(failure) };
            panic!("`{kernel}`: {failure}");
        }
        for block in touched {
            assert!(is_guarded(&blocks, block), "`{kernel}` wrote beside what it was given");
        }
        Ok(())
    }

    fn multiply(&self, product: &BatchProduct) -> Result<(), DeviceError> {
        let mut blocks = self.lock();
        let BatchProduct { to, left, right, rows, columns, inner, scale, adds, batch } = *product;
        assert!(left.kind == right.kind && [left.kind, Kind::F32].contains(&to.kind), "kinds");
        assert!(!to.is_transposed, "a product is never written transposed");
        if batch > 1 && rows * columns > 0 {
            let apart = to.stride >= (rows - 1) * to.step + columns;
            // Or matrices side by side in common rows.
            let beside = to.stride >= columns && to.stride * (batch - 1) + columns <= to.step;
            assert!(apart || beside, "products of a batch are written over each other");
        }
        let mut result = vec![0f32; rows * columns];
        for number in 0..batch {
            let left = Whole::new(&blocks, left, number, [rows, inner]);
            let right = Whole::new(&blocks, right, number, [inner, columns]);
            let to = Stored::new(to, number, [rows, columns]);
            if adds {
                result = to.read(&blocks);
            }
            add_product(&mut result, &left, &right, [rows, columns, inner], scale, adds);
            to.write(&mut blocks, &result);
        }
        Ok(())
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        // Arrays hold the device, so only what a panic kept from being freed is left.
        for (at, bytes) in &self.lock().by_place {
            #[expect(unsafe_code, reason = "a device's memory has no owner in Rust")]
            // SAFETY: it was allocated with this size, and the device is gone.
            unsafe {
                kernels::okapi_emulated_free(pointer(at - GUARD as u64), whole(*bytes));
            }
        }
    }
}

/// # Safety
/// It ends with a zero.
#[expect(unsafe_code, reason = "the kernels are C++")]
unsafe fn text(at: *const c_char) -> String {
    // SAFETY: as above.
    unsafe { CStr::from_ptr(at) }.to_string_lossy().into_owned()
}

fn letter(argument: &Argument) -> char {
    match argument {
        Argument::Address(_) => 'a',
        Argument::U32(_) => 'u',
        Argument::U64(_) => 'U',
        Argument::F32(_) => 'f',
    }
}

fn slot(argument: &Argument) -> u64 {
    match *argument {
        Argument::Address(at) => at,
        Argument::U32(number) => u64::from(number),
        Argument::U64(number) => number,
        Argument::F32(number) => u64::from(number.to_bits()),
    }
}

/// A matrix of a batch, as it is stored.
struct Stored {
    at: Address,
    /// From its first byte to behind its last.
    bytes: usize,
    kind: Kind,
    /// From row to row, and in a row, in bytes.
    step: usize,
    row: usize,
}

/// A matrix in single precision, whose rows follow each other.
struct Whole {
    numbers: Vec<f32>,
    row_step: isize,
    column_step: isize,
}

impl Stored {
    fn new(operand: Operand, number: usize, [rows, columns]: [usize; 2]) -> Stored {
        let Operand { at, kind, step, is_transposed, stride } = operand;
        let (rows, columns) = if is_transposed { (columns, rows) } else { (rows, columns) };
        assert!(columns <= step, "rows overlap");
        let count = if rows * columns == 0 { 0 } else { (rows - 1) * step + columns };
        let size = kind.bytes();
        let at = at + (number * stride * size) as u64;
        Stored { at, bytes: count * size, kind, step: step * size, row: columns * size }
    }

    /// Its numbers, row after row.
    fn read(&self, blocks: &Blocks) -> Vec<f32> {
        let mut numbers = Vec::new();
        if self.bytes == 0 {
            return numbers;
        }
        blocks.check(self.at, self.bytes);
        for row in bytes_at(blocks, self.at, self.bytes).chunks(self.step) {
            let row = &row[..self.row];
            match self.kind {
                Kind::F32 => {
                    let number = |it: &[u8; 4]| f32::from_le_bytes(*it);
                    numbers.extend(row.as_chunks().0.iter().map(number));
                }
                Kind::Bf16 => {
                    let wide = |it: &[u8; 2]| bf16::from_le_bytes(*it).to_f32();
                    numbers.extend(row.as_chunks().0.iter().map(wide));
                }
                kind => panic!("a product of {kind:?}"),
            }
        }
        numbers
    }

    fn write(&self, blocks: &mut Blocks, numbers: &[f32]) {
        if self.bytes == 0 {
            return;
        }
        blocks.check(self.at, self.bytes);
        let rows = bytes_at_mut(blocks, self.at, self.bytes).chunks_mut(self.step);
        let columns = self.row / self.kind.bytes();
        for (row, numbers) in rows.zip(numbers.chunks_exact(columns)) {
            let row = &mut row[..self.row];
            if self.kind == Kind::F32 {
                let pairs = row.as_chunks_mut().0.iter_mut().zip(numbers);
                pairs.for_each(|(to, number)| *to = number.to_le_bytes());
            } else {
                let pairs = row.as_chunks_mut().0.iter_mut().zip(numbers);
                pairs.for_each(|(to, number)| *to = bf16::from_f32(*number).to_le_bytes());
            }
        }
    }
}

impl Whole {
    fn new(blocks: &Blocks, operand: Operand, number: usize, shape: [usize; 2]) -> Whole {
        let numbers = Stored::new(operand, number, shape).read(blocks);
        assert_eq!(numbers.len(), shape[0] * shape[1], "numbers of a matrix");
        let (row_step, column_step) =
            if operand.is_transposed { (1, shape[0] as isize) } else { (shape[1] as isize, 1) };
        Whole { numbers, row_step, column_step }
    }
}

/// `to = scale * left * right`, or that added to it.
fn add_product(
    to: &mut [f32],
    left: &Whole,
    right: &Whole,
    [rows, columns, inner]: [usize; 3],
    scale: f32,
    adds: bool,
) {
    let sizes = [rows * columns, rows * inner, inner * columns];
    assert_eq!([to.len(), left.numbers.len(), right.numbers.len()], sizes, "sizes of a product");
    if inner == 0 {
        if !adds {
            to.fill(0.0);
        }
        return;
    }
    #[expect(unsafe_code, reason = "what multiplies takes pointers")]
    // SAFETY: all three have as many numbers as their shapes say, whichever way they are read.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            inner,
            to.as_mut_ptr(),
            1,
            columns as isize,
            adds,
            left.numbers.as_ptr(),
            left.column_step,
            left.row_step,
            right.numbers.as_ptr(),
            right.column_step,
            right.row_step,
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::DeviceArray;
    use crate::product::{Matrix, MatrixMut, multiply};

    /// What something panics with.
    fn panic_of(work: impl FnOnce()) -> String {
        let payload = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))
            .expect_err("a mistake was not found");
        match payload.downcast::<String>() {
            Ok(message) => *message,
            Err(payload) => payload.downcast_ref::<&str>().expect("a message").to_string(),
        }
    }

    fn launch(device: &Device, kernel: &str, arguments: &[Argument]) {
        device.launch(kernel, [1, 1], 256, arguments);
    }

    #[test]
    fn mistakes_of_kernels_are_found() {
        let device = Device::emulated(1 << 20);
        let to = DeviceArray::zeros(&device, Kind::F32, 301);
        let at = Argument::Address(to.at(0));
        for kernel in ["broken_barrier", "broken_shuffle"] {
            let message = panic_of(|| launch(&device, kernel, &[at]));
            assert!(message.contains("wait for others that never come"), "{message}");
            // Its fibers were left where they were; others still run.
            let mut sum = DeviceArray::zeros(&device, Kind::F32, 1);
            let ones = DeviceArray::new(&device, Kind::F32, &[1.0; 999]);
            crate::elementwise::sum_rows(&mut sum, &ones, 0, 1);
            assert_eq!(sum.read(), [999.0]);
            assert_eq!(crate::adamw::sum_of_squares(&ones), 999.0);
        }
        let message = panic_of(|| launch(&device, "broken_lanes", &[at]));
        assert!(message.contains("some of its lanes only"), "{message}");
        for _ in 0..2 {
            launch(&device, "broken_race", &[at]);
            let right = |place: usize| ((place + 1) % 256 + (place + 255) % 256) as f32;
            assert!(to.read()[..256].iter().enumerate().any(|(place, x)| *x != right(place)));
        }
        let message = panic_of(|| launch(&device, "broken_bounds", &[at, Argument::U32(301)]));
        assert!(message.contains("wrote beside"), "{message}");
        assert!(panic_of(|| drop(to)).contains("written beside"));
    }

    #[test]
    fn mistakes_of_launches_are_found() {
        let device = Device::emulated(1 << 20);
        let array = DeviceArray::zeros(&device, Kind::F32, 64);
        let (at, behind) = (Argument::Address(array.at(0)), Argument::Address(array.at(64)));
        let start = |kernel: &str, grid: [u32; 2], threads: u32, arguments: &[Argument]| {
            panic_of(|| device.launch(kernel, grid, threads, arguments))
        };
        let number = Argument::U32(64);
        for (message, part) in [
            (start("broken", [1, 1], 256, &[]), "no kernel `broken`"),
            (start("broken_bound", [1, 1], 256, &[]), "no kernel"),
            (start("broken_bounds", [1, 1], 256, &[at]), "arguments"),
            (start("broken_bounds", [1, 1], 256, &[at, Argument::U64(64)]), "arguments"),
            (start("broken_bounds", [1, 1], 256, &[Argument::U64(1), number]), "arguments"),
            (start("broken_bounds", [1, 1], 256, &[behind, number]), "is no place"),
            (start("broken_bounds", [1, 1], 100, &[at, number]), "whole warps"),
            (start("broken_bounds", [1, 1], 2048, &[at, number]), "too many threads"),
            (start("broken_bounds", [1, 1 << 16], 256, &[at, number]), "too many blocks"),
        ] {
            assert!(message.contains(part), "{message}");
        }
        let message = panic_of(|| device.copy(array.at(0), array.at(1), 8));
        assert!(message.contains("overlaps"), "{message}");
        let message = panic_of(|| device.zero(array.at(0), 257));
        assert!(message.contains("not allocated"), "{message}");
        assert_eq!(device.check(), Ok(()));
    }

    /// Products within a block, but with what nobody wrote, are no numbers.
    #[test]
    fn what_was_never_written_shows() {
        let device = Device::emulated(1 << 20);
        for kind in [Kind::F32, Kind::Bf16] {
            let nothing = DeviceArray::uninitialized(&device, kind, 6);
            assert!(nothing.read().iter().all(|x| x.is_nan()));
            let ones = DeviceArray::new(&device, kind, &[1.0; 6]);
            let mut to = DeviceArray::uninitialized(&device, Kind::F32, 4);
            let mut product = |left: &DeviceArray, adds: bool| {
                let (left, right) = (Matrix::new(left, 0, 2, 3, 3), Matrix::new(&ones, 0, 3, 2, 2));
                multiply(MatrixMut::new(&mut to, 0, 2, 2, 2), left, right, 1.0, adds);
                to.read()
            };
            assert!(product(&ones, true).iter().all(|x| x.is_nan()));
            assert_eq!(product(&ones, false), [3.0; 4]);
            assert!(product(&nothing, false).iter().all(|x| x.is_nan()));
        }
        let nothing = DeviceArray::uninitialized(&device, Kind::U32, 1);
        assert_eq!(nothing.read_u32(), [u32::MAX]);
    }
}

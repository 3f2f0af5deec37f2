//! Memory of the GPU, and the processor's memory that it reads by itself.

use std::ffi::c_void;
use std::ptr;

use candle_core::cuda_backend::cudarc::driver::{DriverError, result, sys};

use crate::backend::Address;
use crate::device::DeviceMemory;

/// Where the driver keeps blocks that were given back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pool(sys::CUmemoryPool);

#[expect(unsafe_code, reason = "the driver's handles are pointers")]
// SAFETY: a pool's handle is only ever given to the driver, which may be called from any thread.
unsafe impl Send for Pool {}

#[expect(unsafe_code, reason = "the driver's handles are pointers")]
// SAFETY: as above; the driver sees to it that pools can be used from several threads at once.
unsafe impl Sync for Pool {}

impl Pool {
    /// The pool from which a GPU's memory is taken. It keeps all that it ever got: by default the driver
    /// gives unused memory back to the system whenever one waits for the GPU, and has to map it again at the
    /// next step.
    pub(super) fn keep_all(device: sys::CUdevice) -> Result<Pool, DriverError> {
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: the device is one that the driver named, and the attribute is a number of 64 bits.
        unsafe {
            let pool = result::device::get_mem_pool(device)?;
            let mut threshold = u64::MAX;
            let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast())?;
            Ok(Pool(pool))
        }
    }

    /// A block. The driver gives none of 0 bytes. The context is bound to this thread.
    pub(super) fn allocate(
        &self,
        stream: sys::CUstream,
        bytes: usize,
    ) -> Result<Address, DriverError> {
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: the stream and the pool are alive. The block is used on this stream only.
        unsafe {
            let allocate = || result::malloc_async(stream, bytes.max(1));
            match allocate() {
                Err(error) if is_out_of_memory(error) => {
                    // What was given back may lie in pieces, each too small. Those that nothing is left of
                    // go back to the system, which can make one block of them.
                    result::stream::synchronize(stream)?;
                    result::mem_pool::trim_to(self.0, 0)?;
                    allocate()
                }
                other => other,
            }
        }
    }

    /// What an allocation could have: what the system has, and what the pool keeps. Waits for all that was
    /// asked, as a block counts as used until the GPU comes to where it was given back.
    pub(super) fn memory(&self, stream: sys::CUstream) -> Result<DeviceMemory, DriverError> {
        #[expect(unsafe_code, reason = "a call of the driver")]
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(stream) }?;
        let (free, total) = result::mem_get_info()?;
        let kept = self.bytes(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
        let used = self.bytes(sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
        Ok(DeviceMemory { free: free + kept.saturating_sub(used) as usize, total })
    }

    fn bytes(&self, attribute: sys::CUmemPool_attribute) -> Result<u64, DriverError> {
        let mut bytes = 0_u64;
        #[expect(unsafe_code, reason = "a call of the driver")]
        // SAFETY: the pool is alive, and both attributes that are asked for are numbers of 64 bits.
        unsafe {
            result::mem_pool::get_attribute(self.0, attribute, (&raw mut bytes).cast())?;
        }
        Ok(bytes)
    }
}

pub(super) fn is_out_of_memory(error: DriverError) -> bool {
    error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY
}

/// Bytes that are copied at once, and how many such copies can be on their way. A copy of this size takes the
/// GPU some 40 microseconds, many times what asking for it does.
const PART_BYTES: usize = 1 << 20;
const PARTS: usize = 16;

/// The processor's memory from which the GPU takes what is uploaded.
///
/// It could take it from where it lies, but from ordinary memory "the driver may synchronize with the stream
/// and stage the copy" (CUDA Driver API, API synchronization behavior): it may wait for all that was asked
/// before, and whether the bytes may change once it returns is nowhere promised for systems that need no
/// staging. Pages that are locked are read in the order of the stream without waiting, and an event tells
/// when that has been done.
#[derive(Debug)]
pub(super) struct Staging {
    at: *mut u8,
    /// For each part: the end of the last copy from it.
    copied: Vec<sys::CUevent>,
    /// The part that was used the longest time ago.
    next: usize,
}

#[expect(unsafe_code, reason = "the memory is known by its address")]
// SAFETY: the memory belongs to this value alone, and the driver may be called from any thread.
unsafe impl Send for Staging {}

impl Staging {
    /// The context is bound to this thread.
    pub(super) fn new(stream: sys::CUstream) -> Result<Staging, DriverError> {
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: the stream is alive.
        unsafe {
            let at = result::malloc_host(PART_BYTES * PARTS, 0)?.cast();
            let mut copied = Vec::with_capacity(PARTS);
            for _ in 0..PARTS {
                let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
                result::event::record(event, stream)?;
                copied.push(event);
            }
            Ok(Staging { at, copied, next: 0 })
        }
    }

    /// Asks for a copy. The bytes may change when this returns. The context is bound to this thread.
    pub(super) fn upload(
        &mut self,
        stream: sys::CUstream,
        to: Address,
        bytes: &[u8],
    ) -> Result<(), DriverError> {
        for (part, bytes) in bytes.chunks(PART_BYTES).enumerate() {
            let event = self.copied[self.next];
            #[expect(unsafe_code, reason = "calls of the driver, and memory known by its address")]
            // SAFETY: each part has room for so many bytes, and once its event is over nobody reads it. The
            // GPU does until the event that is recorded next. That `to` is a block's is the caller's promise.
            unsafe {
                result::event::synchronize(event)?;
                let at = self.at.add(self.next * PART_BYTES);
                ptr::copy_nonoverlapping(bytes.as_ptr(), at, bytes.len());
                let staged = std::slice::from_raw_parts(at, bytes.len());
                result::memcpy_htod_async(to + (part * PART_BYTES) as u64, staged, stream)?;
                result::event::record(event, stream)?;
            }
            self.next = (self.next + 1) % PARTS;
        }
        Ok(())
    }

    /// Gives it back, when the stream is at rest. The context is bound to this thread.
    pub(super) fn free(&mut self) -> Result<(), DriverError> {
        let at: *mut c_void = std::mem::replace(&mut self.at, ptr::null_mut()).cast();
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: the memory and the events are given back once, and nothing uses them any more.
        unsafe {
            for event in self.copied.drain(..) {
                result::event::destroy(event)?;
            }
            result::free_host(at)
        }
    }
}

//! NVIDIA GPUs: candle's device, with one stream for everything.
//!
//! candle opens the GPU and brings the driver and cuBLAS along; memory, kernels and products are asked of these
//! directly, as candle's tensors own their memory and allocate each result anew.
//!
//! - **One stream.** All is asked on one stream of our own, from whatever thread: the order of the calls is the
//!   order of the work. candle's usual stream is another one for each thread, and cannot be used. Events with
//!   which candle would keep several streams apart are turned off.
//! - **Threads.** The driver wants to know on each thread which context is meant; every call here begins with it.
//! - **Missing libraries.** candle links against them, so a program without them does not start at all: nothing
//!   in here can tell.

mod kernels;
mod memory;
mod products;

use std::fmt::Display;
use std::mem::ManuallyDrop;
use std::panic;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaStream, DriverError, result, sys,
};

use self::kernels::Kernels;
use self::memory::{Pool, Staging, is_out_of_memory};
use self::products::{Products, WORKSPACE_BYTES};
use crate::backend::{Address, Argument, Backend, BatchProduct};
use crate::device::{Device, DeviceError, DeviceMemory};

/// Products of bfloat16 numbers need tensor cores that know them.
const OLDEST: (i32, i32) = (8, 0);

/// The GPUs that our kernels were compiled for: these, and newer ones.
const BUILT_FOR: &str = env!("OKAPI_CUDA_COMPUTE_CAP");

impl Device {
    /// Opens an NVIDIA GPU, counted from 0 among those that the driver shows to this program.
    ///
    /// # Errors
    /// [`DeviceError::Unavailable`] with the reason if there is no such GPU, it is too old, or its driver is.
    pub fn cuda(ordinal: usize) -> Result<Device, DeviceError> {
        // candle and cudarc unwrap where a handle cannot be given back, which may follow a failure.
        panic::catch_unwind(|| Cuda::open(ordinal))
            .unwrap_or_else(|_| Err(unavailable("CUDA's libraries failed without a reason")))
            .map(|cuda| Device::new(Box::new(cuda)))
    }
}

#[derive(Debug)]
struct Cuda {
    name: String,
    description: String,
    /// Holds the context, the stream and the handle of cuBLAS.
    device: ManuallyDrop<CudaDevice>,
    stream: ManuallyDrop<Arc<CudaStream>>,
    pool: Pool,
    kernels: Kernels,
    products: ManuallyDrop<Products>,
    workspace: Address,
    staging: Mutex<Staging>,
}

impl Cuda {
    fn open(ordinal: usize) -> Result<Cuda, DeviceError> {
        let count = CudaContext::device_count()
            .map_err(|error| unavailable(format_args!("the driver says {}", words(error))))?;
        let number = i32::try_from(ordinal).unwrap_or(i32::MAX);
        if number >= count {
            return Err(unavailable(format_args!(
                "there is no number {ordinal}, but {count} in all"
            )));
        }
        let found = Found::new(number).map_err(|error| unavailable(words(error)))?;
        found.check()?;

        let device = CudaDevice::new_with_stream(ordinal).map_err(|error| {
            unavailable(format_args!("candle cannot open {}: {error}", found.name))
        })?;
        #[expect(unsafe_code, reason = "several streams would have to be kept apart")]
        // SAFETY: there is one stream.
        unsafe {
            device.disable_event_tracking();
        }
        let stream = device.cuda_stream();
        stream.context().bind_to_thread().map_err(|error| unavailable(words(error)))?;
        let queue = stream.cu_stream();

        let not_ready = |error| unavailable(format_args!("{}: {}", found.name, words(error)));
        let pool = Pool::keep_all(found.device).map_err(not_ready)?;
        let kernels = Kernels::load()?;
        let workspace = pool.allocate(queue, WORKSPACE_BYTES).map_err(not_ready)?;
        let products = Products::new(device.cublas_handle(), workspace)?;
        let staging = Mutex::new(Staging::new(queue).map_err(not_ready)?);
        Ok(Cuda {
            description: found.description(),
            name: found.name,
            device: ManuallyDrop::new(device),
            stream: ManuallyDrop::new(stream),
            pool,
            kernels,
            products: ManuallyDrop::new(products),
            workspace,
            staging,
        })
    }

    /// Binds the context to this thread, and gives the stream.
    fn queue(&self) -> Result<sys::CUstream, DeviceError> {
        match self.stream.context().bind_to_thread() {
            Ok(()) => Ok(self.stream.cu_stream()),
            Err(error) => Err(failed("choosing the GPU", error)),
        }
    }
}

impl Backend for Cuda {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn describe(&self) -> String {
        self.description.clone()
    }

    fn memory(&self) -> Result<DeviceMemory, DeviceError> {
        let queue = self.queue()?;
        self.pool.memory(queue).map_err(|error| failed("asking for its memory", error))
    }

    fn allocate(&self, bytes: usize) -> Result<Address, DeviceError> {
        let queue = self.queue()?;
        match self.pool.allocate(queue, bytes) {
            Ok(at) => Ok(at),
            Err(error) if is_out_of_memory(error) => {
                let DeviceMemory { free, total } = self.memory()?;
                Err(DeviceError::Memory { bytes, free, total })
            }
            Err(error) => Err(failed(format_args!("allocating {bytes} bytes"), error)),
        }
    }

    fn free(&self, at: Address, _bytes: usize) {
        // Of a GPU that fails nothing can be had back, and whoever asks next is told.
        if let Ok(queue) = self.queue() {
            #[expect(unsafe_code, reason = "a call of the driver")]
            // SAFETY: that the block is one of this stream, and given back once, is the caller's promise.
            let _ = unsafe { result::free_async(at, queue) };
        }
    }

    fn upload(&self, to: Address, bytes: &[u8]) -> Result<(), DeviceError> {
        let queue = self.queue()?;
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        staging
            .upload(queue, to, bytes)
            .map_err(|error| failed(format_args!("uploading {} bytes", bytes.len()), error))
    }

    fn download(&self, from: Address, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let queue = self.queue()?;
        let count = bytes.len();
        #[expect(unsafe_code, reason = "calls of the driver")]
        // SAFETY: the bytes are written until the stream is at rest, which is waited for. That there are as
        // many in the block is the caller's promise.
        unsafe {
            result::memcpy_dtoh_async(bytes, from, queue)
                .and_then(|()| result::stream::synchronize(queue))
        }
        .map_err(|error| failed(format_args!("downloading {count} bytes"), error))
    }

    fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<(), DeviceError> {
        let queue = self.queue()?;
        #[expect(unsafe_code, reason = "a call of the driver")]
        // SAFETY: that both are blocks of so many bytes is the caller's promise.
        unsafe { result::memcpy_dtod_async(to, from, bytes, queue) }
            .map_err(|error| failed(format_args!("copying {bytes} bytes"), error))
    }

    fn zero(&self, at: Address, bytes: usize) -> Result<(), DeviceError> {
        let queue = self.queue()?;
        #[expect(unsafe_code, reason = "a call of the driver")]
        // SAFETY: that it is a block of so many bytes is the caller's promise.
        unsafe { result::memset_d8_async(at, 0, bytes, queue) }
            .map_err(|error| failed(format_args!("clearing {bytes} bytes"), error))
    }

    fn launch(
        &self,
        kernel: &str,
        grid: [u32; 2],
        threads: u32,
        arguments: &[Argument],
    ) -> Result<(), DeviceError> {
        self.kernels.launch(self.queue()?, kernel, grid, threads, arguments)
    }

    fn multiply(&self, product: &BatchProduct) -> Result<(), DeviceError> {
        let queue = self.queue()?;
        let BatchProduct { to, rows, columns, inner, adds, batch, .. } = *product;
        if rows == 0 || columns == 0 || batch == 0 || (inner == 0 && adds) {
            return Ok(());
        }
        if inner > 0 {
            return self.products.multiply(product);
        }
        // Sums of nothing.
        let size = to.kind.bytes();
        for matrix in 0..batch {
            let at = to.at + (matrix * to.stride * size) as u64;
            let (step, width) = (to.step.max(columns) * size, columns * size);
            #[expect(unsafe_code, reason = "a call of the driver")]
            // SAFETY: that so many rows are there is the caller's promise.
            unsafe { sys::cuMemsetD2D8Async(at, step, 0, width, rows, queue).result() }
                .map_err(|error| failed("clearing a product", error))?;
        }
        Ok(())
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        let queue = self.queue()?;
        #[expect(unsafe_code, reason = "a call of the driver")]
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(queue) }
            .map_err(|error| failed("waiting for it", error))
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // From a GPU that has failed nothing can be had back: candle's handles would panic when dropped. They
        // are left to the end of the process.
        if self.synchronize().is_err() {
            return;
        }
        self.free(self.workspace, WORKSPACE_BYTES);
        let staging = self.staging.get_mut().unwrap_or_else(PoisonError::into_inner);
        if staging.free().is_ok() && self.synchronize().is_ok() {
            #[expect(unsafe_code, reason = "these are dropped here or not at all")]
            // SAFETY: nothing uses them after this. The context goes with the last of them.
            unsafe {
                ManuallyDrop::drop(&mut self.products);
                ManuallyDrop::drop(&mut self.device);
                ManuallyDrop::drop(&mut self.stream);
            }
        }
    }
}

/// What the driver tells about a GPU before it is opened.
struct Found {
    device: sys::CUdevice,
    name: String,
    capability: (i32, i32),
    has_pools: bool,
    /// The newest CUDA that the driver knows, such as 13000.
    driver: i32,
}

impl Found {
    fn new(ordinal: i32) -> Result<Found, DriverError> {
        use sys::CUdevice_attribute as Attribute;
        let device = result::device::get(ordinal)?;
        let attribute = |attribute| {
            #[expect(unsafe_code, reason = "a call of the driver")]
            // SAFETY: the device is one that the driver named.
            unsafe {
                result::device::get_attribute(device, attribute)
            }
        };
        let mut driver = 0;
        #[expect(unsafe_code, reason = "a call of the driver")]
        // SAFETY: it writes one number.
        unsafe { sys::cuDriverGetVersion(&raw mut driver) }.result()?;
        Ok(Found {
            device,
            name: result::device::get_name(device)?,
            capability: (
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            has_pools: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? > 0,
            driver,
        })
    }

    fn check(&self) -> Result<(), DeviceError> {
        let (name, (major, minor)) = (&self.name, self.capability);
        if self.capability < OLDEST {
            return Err(unavailable(format_args!(
                "{name} has compute capability {major}.{minor}, but bfloat16 needs {}.{}",
                OLDEST.0, OLDEST.1
            )));
        }
        if BUILT_FOR.parse().is_ok_and(|built_for: i32| major * 10 + minor < built_for) {
            return Err(unavailable(format_args!(
                "{name} has compute capability {major}.{minor}, but this program was built for \
                 CUDA_COMPUTE_CAP={BUILT_FOR} and newer"
            )));
        }
        if !self.has_pools {
            return Err(unavailable(format_args!("{name} or its driver has no memory pools")));
        }
        Ok(())
    }

    fn description(&self) -> String {
        let (major, minor) = self.capability;
        let (driver, part) = (self.driver / 1000, self.driver % 1000 / 10);
        format!("{}, compute {major}.{minor}, driver {driver}.{part}", self.name)
    }
}

fn unavailable(why: impl Display) -> DeviceError {
    DeviceError::Unavailable(why.to_string())
}

fn failed(doing: impl Display, error: DriverError) -> DeviceError {
    DeviceError::Failed(format!("{doing}: {}", words(error)))
}

/// What the driver means.
fn words(error: DriverError) -> String {
    use sys::CUresult as Code;
    let text = match error.error_string() {
        Ok(text) => format!("{:?} ({})", error.0, text.to_string_lossy()),
        Err(_) => format!("{:?}", error.0),
    };
    let hint = match error.0 {
        Code::CUDA_ERROR_NO_DEVICE => {
            "; there is none, or CUDA_VISIBLE_DEVICES or the container hides it"
        }
        Code::CUDA_ERROR_STUB_LIBRARY => {
            "; the libcuda.so.1 that was found is for linking only: put the driver's folder before its own in \
             LD_LIBRARY_PATH"
        }
        // Kernels run after the call that starts them has returned.
        Code::CUDA_ERROR_ILLEGAL_ADDRESS
        | Code::CUDA_ERROR_MISALIGNED_ADDRESS
        | Code::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | Code::CUDA_ERROR_ASSERT
        | Code::CUDA_ERROR_LAUNCH_TIMEOUT
        | Code::CUDA_ERROR_LAUNCH_FAILED => {
            "; something that was asked earlier did this: CUDA_LAUNCH_BLOCKING=1 tells what"
        }
        _ => "",
    };
    text + hint
}

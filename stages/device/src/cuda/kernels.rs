//! Our own kernels, and how they are started.

use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::ptr;

use candle_core::cuda_backend::cudarc::driver::{DriverError, result, sys};

use super::{failed, words};
use crate::backend::Argument;
use crate::device::DeviceError;

/// Assembler for a GPU that does not exist, which the driver translates for the one that does: per file of
/// `kernels/`, its name and the text.
const SOURCES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/ptx.rs"));

/// Room for what the driver says when it cannot translate.
const LOG_BYTES: usize = 8192;

#[derive(Debug)]
pub(super) struct Kernels(BTreeMap<String, Kernel>);

#[derive(Debug)]
struct Kernel {
    function: sys::CUfunction,
    /// Bytes of each parameter.
    parameters: Vec<usize>,
}

#[expect(unsafe_code, reason = "the driver's handles are pointers")]
// SAFETY: a function's handle is only ever given to the driver, which may be called from any thread once the
// context is bound to it.
unsafe impl Send for Kernel {}

#[expect(unsafe_code, reason = "the driver's handles are pointers")]
// SAFETY: as above; nothing is changed through the handle.
unsafe impl Sync for Kernel {}

impl Kernels {
    /// Loads all kernels into the context of this thread, where they stay. All of them at once, so that what
    /// the driver refuses is seen before anything is computed.
    pub(super) fn load() -> Result<Kernels, DeviceError> {
        let mut kernels = BTreeMap::new();
        for (file, source) in SOURCES {
            let module = load_module(file, source)?;
            for (name, parameters) in entries(source) {
                let c_name = CString::new(name).map_err(|_| no_text(file))?;
                #[expect(unsafe_code, reason = "a call of the driver")]
                // SAFETY: the module was just loaded, and is never unloaded.
                let function = unsafe { result::module::get_function(module, c_name) }
                    .map_err(|error| failed(format_args!("loading the kernel {name}"), error))?;
                if kernels.insert(name.to_owned(), Kernel { function, parameters }).is_some() {
                    return Err(DeviceError::Failed(format!("there are two kernels {name}")));
                }
            }
        }
        Ok(Kernels(kernels))
    }

    /// Starts a kernel. The context is bound to this thread.
    pub(super) fn launch(
        &self,
        stream: sys::CUstream,
        name: &str,
        grid: [u32; 2],
        threads: u32,
        arguments: &[Argument],
    ) -> Result<(), DeviceError> {
        let Some(kernel) = self.0.get(name) else {
            return Err(DeviceError::Failed(format!("there is no kernel {name}")));
        };
        // The driver reads as much behind each pointer as the kernel takes, and cannot know whether it is there.
        if !arguments.iter().map(|argument| bytes(*argument)).eq(kernel.parameters.iter().copied())
        {
            return Err(DeviceError::Failed(format!(
                "the kernel {name} takes parameters of {:?} bytes, but is given {arguments:?}",
                kernel.parameters
            )));
        }
        let mut pointers: Vec<*mut c_void> = arguments.iter().map(pointer).collect();
        #[expect(unsafe_code, reason = "a call of the driver")]
        // SAFETY: the function is of a module that is never unloaded; the pointers lead to as many values of
        // the right sizes, which the driver copies before it returns. What addresses among them lead to is
        // the caller's promise.
        unsafe {
            let (grid, threads) = ((grid[0], grid[1], 1), (threads, 1, 1));
            result::launch_kernel(kernel.function, grid, threads, 0, stream, &mut pointers)
        }
        .map_err(|error| {
            let [x, y] = grid;
            failed(
                format_args!("starting the kernel {name} ({x} x {y} blocks of {threads})"),
                error,
            )
        })
    }
}

fn bytes(argument: Argument) -> usize {
    match argument {
        Argument::Address(_) | Argument::U64(_) => 8,
        Argument::U32(_) | Argument::F32(_) => 4,
    }
}

fn pointer(argument: &Argument) -> *mut c_void {
    match argument {
        Argument::Address(value) | Argument::U64(value) => ptr::from_ref(value).cast_mut().cast(),
        Argument::U32(value) => ptr::from_ref(value).cast_mut().cast(),
        Argument::F32(value) => ptr::from_ref(value).cast_mut().cast(),
    }
}

fn no_text(file: &str) -> DeviceError {
    DeviceError::Failed(format!("the kernels of {file} contain a zero byte"))
}

/// candle loads modules too, but drops what the driver says about those that it refuses.
fn load_module(file: &str, source: &str) -> Result<sys::CUmodule, DeviceError> {
    let source = CString::new(source).map_err(|_| no_text(file))?;
    let mut log = vec![0_u8; LOG_BYTES];
    let mut options = [
        sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
        sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    ];
    // A size is given in place of a pointer to it.
    let mut values = [log.as_mut_ptr().cast(), ptr::without_provenance_mut(LOG_BYTES)];
    let mut module = ptr::null_mut();
    #[expect(unsafe_code, reason = "a call of the driver")]
    // SAFETY: the text ends with a zero, there are two options with their values, and the log is as long as
    // the second of them says. All live until the call returns.
    let status = unsafe {
        let (options, values) = (options.as_mut_ptr(), values.as_mut_ptr());
        sys::cuModuleLoadDataEx(&raw mut module, source.as_ptr().cast(), 2, options, values)
    };
    status.result().map(|()| module).map_err(|error| refused(file, error, &log))
}

fn refused(file: &str, error: DriverError, log: &[u8]) -> DeviceError {
    let log = log.split(|byte| *byte == 0).next().unwrap_or_default();
    let hint = match error.0 {
        sys::CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            "; this program was built by a CUDA compiler newer than the driver"
        }
        sys::CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU | sys::CUresult::CUDA_ERROR_INVALID_PTX => {
            "; this program was built for other GPUs"
        }
        _ => "",
    };
    DeviceError::Unavailable(format!(
        "the driver refuses the kernels of {file}: {}{hint}: {}",
        words(error),
        String::from_utf8_lossy(log).trim()
    ))
}

/// The kernels of a file, each with the bytes of its parameters. In the assembler they begin with such lines as
///
/// ```text
/// .visible .entry add_rows(
///     .param .u64 .ptr .align 1 add_rows_param_0,
///     .param .align 8 .b8 add_rows_param_1[24]
/// )
/// ```
fn entries(source: &str) -> BTreeMap<&str, Vec<usize>> {
    let mut entries = BTreeMap::new();
    for begin in source.split(".visible .entry ").skip(1) {
        // One without parameters may end with the name.
        let name = begin.split(|it: char| !it.is_alphanumeric() && it != '_' && it != '$').next();
        let list = begin.split_once('(').and_then(|(_, list)| list.split_once(')'));
        if let (Some(name), Some((list, _))) = (name, list) {
            entries.insert(name, list.split(',').filter_map(parameter_bytes).collect());
        }
    }
    entries
}

fn parameter_bytes(parameter: &str) -> Option<usize> {
    let size = |word: &str| match word {
        ".u64" | ".s64" | ".b64" | ".f64" => Some(8),
        ".u32" | ".s32" | ".b32" | ".f32" => Some(4),
        ".u16" | ".s16" | ".b16" | ".f16" => Some(2),
        ".u8" | ".s8" | ".b8" => Some(1),
        _ => None,
    };
    let each = parameter.split_whitespace().find_map(size)?;
    let count = parameter.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    Some(count.and_then(|(count, _)| count.trim().parse().ok()).map_or(each, |it: usize| it * each))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_which_parameters_kernels_take() {
        let source = "//\n.version 9.0\n.target sm_80\n.visible .entry add(\n\t.param .u64 .ptr .align 1 \
            add_param_0,\n\t.param .u32 add_param_1,\n\t.param .f32 add_param_2\n)\n.maxntid 256\n{\n\tret;\n}\n\
            .visible .entry with$parts(\n\t.param .align 8 .b8 p[24]\n)\n{\n}\n.visible .entry none()\n{\n}\n";
        let entries = entries(source);
        assert_eq!(entries["add"], [8, 4, 4]);
        assert_eq!(entries["with$parts"], [24]);
        assert_eq!(entries["none"], [0_usize; 0]);
        assert_eq!(entries.len(), 3);
    }

    #[test]
    fn all_parameters_of_our_kernels_can_be_given() {
        for (file, source) in SOURCES {
            let entries = entries(source);
            assert_eq!(entries.len(), source.matches(".entry ").count(), "{file}");
            for (name, parameters) in entries {
                assert!(parameters.iter().all(|bytes| [4, 8].contains(bytes)), "{file}: {name}");
            }
        }
    }

    #[test]
    fn pointers_lead_to_the_values() {
        let arguments =
            [Argument::Address(7), Argument::U32(8), Argument::U64(9), Argument::F32(1.5)];
        for argument in &arguments {
            let at = pointer(argument).cast_const().cast::<u8>();
            #[expect(unsafe_code, reason = "reads as the driver does")]
            // SAFETY: the value is there, and has so many bytes.
            let found = unsafe { std::slice::from_raw_parts(at, bytes(*argument)) };
            let wanted = match argument {
                Argument::Address(value) | Argument::U64(value) => value.to_le_bytes().to_vec(),
                Argument::U32(value) => value.to_le_bytes().to_vec(),
                Argument::F32(value) => value.to_le_bytes().to_vec(),
            };
            assert_eq!(found, wanted);
        }
    }
}

//! Compiles the kernels for GPUs, by NVIDIA's compiler.

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The GPUs that are compiled for unless one says otherwise: the first that know bfloat16. Others that are
/// newer run it too, as the driver translates it for them.
const COMPUTE_CAP: &str = "80";

/// Makes PTX of each file in `kernels/`, and a list of them for the program to contain.
pub(crate) fn compile() {
    println!("cargo::rerun-if-changed=build");
    for variable in ["NVCC", "CUDA_HOME", "CUDA_COMPUTE_CAP"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    if let Err(error) = compile_all() {
        for line in error.lines() {
            println!("cargo::error={line}");
        }
    }
}

fn compile_all() -> Result<(), String> {
    let capability = env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| COMPUTE_CAP.to_owned());
    let digits: String = capability.chars().take_while(char::is_ascii_digit).collect();
    if digits.parse().map_or(true, |number: u32| number < 80) {
        return Err(format!("CUDA_COMPUTE_CAP={capability} is no compute capability from 80 on"));
    }
    println!("cargo::rustc-env=OKAPI_CUDA_COMPUTE_CAP={digits}");

    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let nvcc = nvcc()?;
    let mut list = String::from("&[\n");
    for kernel in kernels()? {
        let name = kernel.file_name().unwrap_or_default().to_string_lossy();
        let ptx = out.join(format!("{name}.ptx"));
        // Without --use_fast_math: its division, exp and log are too coarse to train with.
        let said = Command::new(&nvcc)
            .args(["-ptx", "-std=c++17", "-O3", &format!("-arch=compute_{capability}"), "-o"])
            .args([&ptx, &kernel])
            .output()
            .map_err(|error| format!("{}: {error}", nvcc.display()))?;
        if !said.status.success() {
            let (errors, words) =
                (String::from_utf8_lossy(&said.stderr), String::from_utf8_lossy(&said.stdout));
            return Err(format!("nvcc cannot compile {}:\n{words}{errors}", kernel.display()));
        }
        writeln!(list, "({name:?}, include_str!({:?})),", ptx.display().to_string())
            .map_err(|error| error.to_string())?;
    }
    list.push(']');
    fs::write(out.join("ptx.rs"), list).map_err(|error| error.to_string())
}

/// In the order of their names, whatever that of the folder is.
fn kernels() -> Result<Vec<PathBuf>, String> {
    let folder = Path::new("kernels");
    let mut kernels = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| format!("kernels: {error}"))? {
        let path = entry.map_err(|error| format!("kernels: {error}"))?.path();
        if path.extension().is_some_and(|extension| extension == "cu") {
            kernels.push(path);
        }
    }
    kernels.sort();
    Ok(kernels)
}

/// The compiler of `NVCC`, else of PATH, else of `CUDA_HOME`.
fn nvcc() -> Result<PathBuf, String> {
    let named = env::var_os("NVCC").map(PathBuf::from);
    let on_path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&on_path).map(|folder| folder.join("nvcc"));
    let of_home = env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc"));
    named.into_iter().chain(on_path).chain(of_home).find(|path| path.is_file()).ok_or_else(|| {
        "no nvcc on PATH, in NVCC or in CUDA_HOME/bin, which the feature `cuda` needs: run \
         scripts/build-cuda.sh, which gets it from PyPI, or install NVIDIA's CUDA toolkit"
            .to_owned()
    })
}

//! Compiles the kernels, for what each feature runs them on.

#[cfg(feature = "cuda")]
#[path = "build/nvcc.rs"]
mod nvcc;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernels");
    #[cfg(feature = "cuda")]
    nvcc::compile();
    #[cfg(feature = "emulated")]
    emulated();
}

/// For the processor, by a C++ compiler.
#[cfg(feature = "emulated")]
fn emulated() {
    println!("cargo::rerun-if-changed=emulation");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        // Without it the kernels of a debug build take many times as long.
        .opt_level(2)
        // A GPU's compiler is told by each operation whether it may be made one with the next.
        .flag_if_supported("-ffp-contract=off")
        // Memory is given out as bytes, and kernels see numbers in it.
        .flag_if_supported("-fno-strict-aliasing")
        .include("emulation")
        .include("kernels")
        .files(["emulation/cuda_on_host.cpp", "emulation/kernels.cpp"])
        .compile("okapi_emulated");
}

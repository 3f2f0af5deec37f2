//! What the program is told of how it was made: the revision of its source and the compiler.

use std::path::Path;
use std::process::Command;

fn main() {
    let sources = ["src", "cache/src", "engine/src", "stages", "Cargo.lock"];
    // The log grows with every commit and checkout. What is not there would have this run each time.
    let watched = sources.into_iter().chain([".git/HEAD", ".git/logs/HEAD"]);
    for path in watched.filter(|path| Path::new(path).exists()) {
        println!("cargo:rerun-if-changed={path}");
    }
    println!(
        "cargo:rustc-env=OKAPI_REVISION={}",
        revision().unwrap_or_else(|| "unknown".to_owned())
    );
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let compiler = said(&rustc, &["--version"]).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=OKAPI_COMPILER={compiler}");
    let target = std::env::var("TARGET").unwrap_or_default();
    println!("cargo:rustc-env=OKAPI_TARGET={target}");
}

/// The commit, and whether files differ from it; `None` where this is no clone.
fn revision() -> Option<String> {
    let commit = said("git", &["rev-parse", "HEAD"])?;
    let changed = said("git", &["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() { commit } else { format!("{commit}-dirty") })
}

fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

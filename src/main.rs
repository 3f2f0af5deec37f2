//! `okapi`: a declarative DAG workflow engine with a content-addressed cache.

mod cli;
mod commands;
mod env_vars;
mod exit_code;
mod failure;
mod placeholders;
mod program;
mod project;
mod render;
mod settings;
mod sharing;
mod temporary;
mod ui;

use std::io::Write;

use clap::Parser;

use crate::cli::{Cli, Global};

/// Training takes and returns large blocks at every step; the system's allocator would have the kernel clear
/// them each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut arguments = std::env::args_os();
    // Before everything else: this process is the watchdog of a run, and has no command line.
    if arguments.nth(1).is_some_and(|it| it == okapi_engine::executor::watchdog::ARGUMENT) {
        okapi_engine::executor::watchdog::watch(std::io::stdin());
        return;
    }
    let mut cli = Cli::parse();
    // Not by clap, which refuses a variable that is set to nothing.
    let Global { project, store, is_store_named, .. } = &mut cli.global;
    *is_store_named = store.is_some();
    *project = project.take().or_else(|| env_vars::path(env_vars::OKAPI_PROJECT));
    *store = store.take().or_else(|| env_vars::path(env_vars::OKAPI_STORE));
    ui::logging::start(cli.global.verbose);
    let code = match commands::dispatch(&cli) {
        Ok(code) => code,
        Err(failure) => {
            failure.print(ui::color::stderr(cli.global.color));
            failure.exit_code()
        }
    };
    // What is buffered is written; large structures are not taken apart one by one.
    let _ = std::io::stdout().flush();
    std::process::exit(code.into());
}

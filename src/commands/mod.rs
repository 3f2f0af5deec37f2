//! One file per command.

mod audit;
mod bundle;
mod cache;
mod check;
mod completions;
mod determinism;
mod diff;
pub(crate) mod examples;
mod execute_again;
mod explain;
mod gc;
mod get;
mod graph;
mod init;
mod log;
mod plan;
mod run;
mod runs;
mod schema;
mod selftest;
mod share;
mod shared_records;
mod show;
mod stages;
mod teacher;
mod worker;

use crate::cli::{Cli, Command};
use crate::exit_code::ExitCode;
use crate::failure::Failure;

/// Does what the command line asks for.
pub(crate) fn dispatch(cli: &Cli) -> Result<ExitCode, Failure> {
    let global = &cli.global;
    match &cli.command {
        Command::Run(arguments) => run::run(global, arguments),
        Command::Audit(arguments) => audit::audit(global, arguments),
        Command::Plan(arguments) => plan::plan(global, arguments),
        Command::Explain(arguments) => explain::explain(global, arguments),
        Command::Check(arguments) => check::check(global, arguments),
        Command::Schema => schema::schema(),
        Command::Selftest(arguments) => selftest::selftest(arguments),
        Command::Stages(arguments) => stages::stages(arguments),
        Command::Graph(arguments) => graph::graph(global, arguments),
        Command::Get(arguments) => get::get(global, arguments),
        Command::Show(arguments) => show::show(global, arguments),
        Command::Runs(arguments) => runs::runs(global, arguments),
        Command::Log(arguments) => log::log(global, arguments),
        Command::Diff(arguments) => diff::diff(global, arguments),
        Command::Gc(arguments) => gc::gc(global, arguments),
        Command::Cache(command) => cache::cache(global, command),
        Command::Teacher(command) => teacher::teacher(command),
        Command::Worker(arguments) => worker::worker(global, arguments),
        Command::Init(arguments) => init::init(arguments),
        Command::Completions { shell } => completions::completions(*shell),
    }
}

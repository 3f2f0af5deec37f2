//! `okapi completions`.

use clap::CommandFactory;

use crate::cli::Cli;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::ui::output;

/// Prints a completion script.
pub(crate) fn completions(shell: clap_complete::Shell) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "okapi", &mut script);
    output::print_bytes(&script)?;
    Ok(ExitCode::Done)
}

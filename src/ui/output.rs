//! Data to stdout. A reader that has gone away (`okapi show ... | head`) is no error.

use std::io::{self, Write};

use crate::failure::Failure;

/// Writes text to stdout.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// Writes bytes to stdout.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    forgive(stdout.write_all(bytes).and_then(|()| stdout.flush()))
}

/// Writes a value as indented JSON to stdout.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| {
        Failure::failed(format!("the output cannot be written as JSON: {error}"))
    })?;
    text.push('\n');
    print(&text)
}

/// Copies a reader to stdout.
pub(crate) fn copy(reader: &mut dyn io::Read) -> Result<(), Failure> {
    forgive(io::copy(reader, &mut io::stdout().lock()).map(|_| ()))
}

/// Says something on stderr.
pub(crate) fn note(text: &str) {
    // Nobody is left to tell if stderr is gone.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

fn forgive(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::failed(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

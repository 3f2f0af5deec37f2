//! What `-v` shows: the program's own log, on stderr.

use tracing_subscriber::filter::LevelFilter;

/// Starts the log: warnings, with `-v` what is done, with `-vv` everything.
pub(crate) fn start(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::TRACE,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .init();
}

//! `okapi teacher serve`.

use std::net::SocketAddr;
use std::time::Duration;

use okapi_engine::run::interrupts::Interrupts;
use okapi_teacher::serve::{MODEL, ServeOptions, listen};

use crate::cli::TeacherCommand;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::ui::output;

/// Offers the offline teacher to other programs.
pub(crate) fn teacher(command: &TeacherCommand) -> Result<ExitCode, Failure> {
    let TeacherCommand::Serve { host, port, skill, seed, delay_ms, requests_per_minute } = command;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("no threads can be started: {error}")))?;
    let options = ServeOptions {
        skill: *skill,
        seed: *seed,
        delay: Duration::from_millis(*delay_ms),
        requests_per_minute: requests_per_minute.map(f64::from),
    };
    runtime.block_on(async {
        let address = SocketAddr::new(*host, *port);
        let listening = listen(address).await.map_err(|error| {
            Failure::failed(format!("cannot listen on {address}: {error}"))
                .with_hint("choose another port by --port; 0 takes any that is free".to_owned())
        })?;
        let address = listening.address;
        output::print(&format!(
            "the offline teacher answers at http://{address}/v1 as {MODEL}; Ctrl-C ends it\n"
        ))?;
        listening
            .serve(options, interrupted())
            .await
            .map_err(|error| Failure::failed(format!("the server failed: {error}")))
    })?;
    Ok(ExitCode::Done)
}

async fn interrupted() {
    match Interrupts::new() {
        Ok(mut interrupts) => interrupts.next().await,
        Err(_) => std::future::pending().await,
    }
}

//! `okapi check`.

use std::path::Path;

use crate::cli::{CheckArgs, Global};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::placeholders::Placeholders;
use crate::ui::{color, format, output};
use crate::{project, render};

/// Reports every mistake in a pipeline file.
pub(crate) fn check(global: &Global, arguments: &CheckArgs) -> Result<ExitCode, Failure> {
    let pipeline = arguments.pipeline.pipeline.as_deref();
    let place = match project::locate_or_default(global, pipeline) {
        Ok(place) => place,
        Err(unreadable) => {
            if arguments.json {
                let file = pipeline.unwrap_or(Path::new(project::DEFAULT_PIPELINE));
                output::print_json(&render::unreadable_to_json(&unreadable, file))?;
            }
            // Said on stderr too: it is no mistake in the file, but none to be had.
            return Err(unreadable.into());
        }
    };
    let registry = okapi_stages::registry();
    let (graph, diagnostics) = project::check(&arguments.pipeline.overlay, &place, &registry);
    if arguments.json {
        output::print_json(&render::to_json(&diagnostics))?;
    } else if !diagnostics.items.is_empty() {
        output::note(render::to_text(&diagnostics, color::stderr(global.color)).trim_end());
    }
    let Some(graph) = graph else { return Ok(ExitCode::BadUsage) };
    if !arguments.json {
        if let Some(message) = Placeholders::of(&graph, &registry, |_| true).message() {
            output::note(&format!("note: {message}"));
        }
        let nodes = format::count(graph.nodes.len() as u64, "node");
        let instances = format::count(graph.instances.len() as u64, "instance");
        output::print(&format!("{} is in order: {nodes}, {instances}\n", place.named.display()))?;
    }
    Ok(ExitCode::Done)
}

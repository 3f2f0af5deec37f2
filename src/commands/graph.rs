//! `okapi graph`.

use okapi_engine::graph_render::{self, Boxes};

use crate::cli::{Global, GraphArgs, GraphFormat};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::project;
use crate::ui::{color, output};

/// Draws the graph of a pipeline.
pub(crate) fn graph(global: &Global, arguments: &GraphArgs) -> Result<ExitCode, Failure> {
    let place = project::locate_or_default(global, arguments.pipeline.pipeline.as_deref())?;
    let registry = okapi_stages::registry();
    let (graph, diagnostics) = project::check(&arguments.pipeline.overlay, &place, &registry);
    if !diagnostics.items.is_empty() {
        let text = crate::render::to_text(&diagnostics, color::stderr(global.color));
        output::note(text.trim_end());
    }
    let Some(graph) = graph else { return Ok(ExitCode::BadUsage) };
    let boxes = match (arguments.instances, arguments.collapse) {
        (true, _) => Boxes::Instances,
        (_, true) => Boxes::Nodes,
        _ => Boxes::fitting(&graph),
    };
    let drawing = match arguments.format {
        GraphFormat::Dot => graph_render::dot(&graph, boxes),
        GraphFormat::Mermaid => graph_render::mermaid(&graph, boxes),
        GraphFormat::Svg => graph_render::svg(&graph, boxes),
        GraphFormat::Json => graph_render::json(&graph),
    };
    match &arguments.output {
        None => output::print(&drawing)?,
        Some(path) => std::fs::write(path, drawing).map_err(|error| {
            Failure::failed(format!("cannot write {}: {error}", path.display()))
        })?,
    }
    Ok(ExitCode::Done)
}

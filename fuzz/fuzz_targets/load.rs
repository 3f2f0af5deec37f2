//! Any bytes as a pipeline file: an answer, never a panic, and either a graph or an error.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use okapi_engine::load::{LoadRequest, decode, load};
use okapi_engine::stage::StageRegistry;

fuzz_target!(|bytes: &[u8]| {
    let file = Path::new("fuzz.yaml");
    let Ok(text) = decode(bytes.to_vec(), file) else { return };
    let request = LoadRequest {
        text: &text,
        file,
        pipeline_dir: "pipelines",
        profile: Some("p"),
        overrides: &["vars.x=1".to_owned()],
        project_root: Path::new("/nonexistent"),
    };
    let (graph, diagnostics) = load(request, &StageRegistry::with_builtin());
    assert_eq!(graph.is_none(), diagnostics.has_errors());
    for item in &diagnostics.items {
        let _ = diagnostics.line_column(item.span.start);
    }
});

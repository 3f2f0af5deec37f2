//! From the text of a pipeline file to a checked [`Graph`], or to everything that is wrong with it.
//!
//! Parse, lay the profile and the overrides over it, resolve variables, expand `for_each`, check.
//! Nothing stops at the first mistake, but for text that is no YAML; nothing panics, whatever the
//! bytes.

use std::path::Path;

use crate::check;
use crate::diagnostic::{Diagnostics, Span};
use crate::graph::Graph;
use crate::resolve::profile;
use crate::resolve::vars::Variables;
use crate::spec::findings::Findings;
use crate::spec::yaml::Node;
use crate::spec::{parse, yaml};
use crate::stage::StageRegistry;

/// A pipeline file and how to read it.
#[derive(Debug, Clone, Copy)]
pub struct LoadRequest<'a> {
    /// The file's text; see [`decode`].
    pub text: &'a str,
    /// The file, as the user named it.
    pub file: &'a Path,
    /// The folder of the file from the project's root, `/` between parts; empty for the root.
    pub pipeline_dir: &'a str,
    /// The profile to lay over the file.
    pub profile: Option<&'a str>,
    /// Single values to lay over the file: `vars.x=VALUE`, in YAML.
    pub overrides: &'a [String],
    /// The project's root, where tracked files are looked for.
    pub project_root: &'a Path,
}

/// The text of a file's bytes.
///
/// # Errors
/// The place of the first byte that is not UTF-8.
pub fn decode(bytes: Vec<u8>, file: &Path) -> Result<String, Box<Diagnostics>> {
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let byte = error.as_bytes()[valid];
        let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
        let at = u32::try_from(valid).unwrap_or(u32::MAX - 1);
        let mut findings = Findings::default();
        findings
            .error(
                "not-utf8",
                Span { start: at, end: at + 1 },
                format!("the byte 0x{byte:02X} is not UTF-8"),
            )
            .help("save the file as UTF-8");
        Box::new(findings.finish(file, &text, &[]))
    })
}

/// Reads and checks a pipeline file. There is a graph only if there is no error; there may be
/// warnings beside it.
pub fn load(request: LoadRequest<'_>, registry: &StageRegistry) -> (Option<Graph>, Diagnostics) {
    let mut findings = Findings::default();
    let graph = load_into(&request, registry, &mut findings);
    let mut arguments = request.overrides.to_vec();
    // A profile that does not exist is a mistake in an argument too: the one after the overrides.
    arguments.extend(request.profile.map(|name| format!("--profile {name}")));
    let diagnostics = findings.finish(request.file, request.text, &arguments);
    let graph = graph.filter(|_| !diagnostics.has_errors());
    (graph, diagnostics)
}

fn load_into(
    request: &LoadRequest<'_>,
    registry: &StageRegistry,
    findings: &mut Findings,
) -> Option<Graph> {
    let document = yaml::parse(request.text, findings);
    if document.is_none() && findings.errors() > 0 {
        return None;
    }
    let mut sections = parse::sections(document, findings)?;
    if sections.name.is_empty() {
        let stem = request.file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        sections.name = stem.unwrap_or_else(|| "pipeline".to_owned());
    }
    let profile_argument = Span::of_argument(request.overrides.len());
    profile::apply(&mut sections, request.profile, profile_argument, findings);
    for (index, written) in request.overrides.iter().enumerate() {
        profile::override_value(&mut sections, written, Span::of_argument(index), findings);
    }
    let vars = std::mem::replace(&mut sections.vars, Node::no_entries(Span::default()));
    let mut variables = Variables::new(vars);
    variables.resolve_all(findings);
    check::check(&sections, &mut variables, request, registry, findings)
}

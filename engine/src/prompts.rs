//! Prompt files are looked at before anything runs: a template that asks for a variable that nobody
//! gives, or leaves one out, would waste every request made with it.
//!
//! What a checked graph is made of does not change with the contents of prompt files, so this is no
//! part of checking a pipeline, but comes after it, each time.

use std::collections::BTreeSet;
use std::path::Path;

use crate::diagnostic::Diagnostic;
use crate::graph::Graph;
use crate::stage::StageRegistry;

/// The most bytes of a prompt file.
const LARGEST: u64 = 1 << 20;

/// What is wrong with the prompt files of a checked pipeline. Each diagnostic points to where the
/// pipeline names the file, and says where in the file it is.
pub fn check(graph: &Graph, registry: &StageRegistry, project_root: &Path) -> Vec<Diagnostic> {
    let mut seen = BTreeSet::new();
    let mut mistakes = Vec::new();
    for instance in &graph.instances {
        for (name, source) in &instance.prompts {
            let stage = &graph.nodes[instance.node as usize].stage;
            let Some(stage) = registry.get(stage) else { continue };
            let descriptor = stage.descriptor();
            if !seen.insert((descriptor.name, name, *source)) {
                continue;
            }
            let Some(slot) = descriptor.prompts.iter().find(|slot| slot.name == &**name) else {
                continue;
            };
            let source = &graph.sources[*source as usize];
            let at = |line: Option<usize>| match line {
                Some(line) => format!("{}:{line}", source.path),
                None => source.path.to_string(),
            };
            match read(&project_root.join(&*source.path)) {
                Err(message) => {
                    let message = format!("the prompt {}: {message}", at(None));
                    mistakes.push(Diagnostic::error("bad-prompt", source.span, message));
                }
                Ok(text) => {
                    if let Err(mistake) = stage.check_prompt(slot, &text) {
                        let message =
                            format!("the prompt {}: {}", at(mistake.line), mistake.message);
                        mistakes.push(
                            Diagnostic::error("bad-prompt", source.span, message)
                                .with_hint(mistake.hint),
                        );
                    }
                }
            }
        }
    }
    mistakes
}

fn read(path: &Path) -> Result<String, String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is no file".to_owned());
    }
    if metadata.len() > LARGEST {
        return Err(format!("it has more than {LARGEST} bytes"));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

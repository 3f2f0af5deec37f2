//! What a pipeline leaves to be filled in, such as a digest of zeros: it can be planned, and nothing of it is run.

use okapi_engine::graph::Graph;
use okapi_engine::stage::{Placeholder, StageRegistry};

use crate::failure::Failure;
use crate::ui::format;

/// What the nodes of a graph leave to be filled in.
pub(crate) struct Placeholders {
    /// By the instances that have it.
    found: Vec<(String, Placeholder)>,
}

impl Placeholders {
    /// Looks at the instances for which `is_selected` is true.
    pub(crate) fn of(
        graph: &Graph,
        registry: &StageRegistry,
        is_selected: impl Fn(usize) -> bool,
    ) -> Placeholders {
        let instances = graph.instances.iter().enumerate().filter(|(id, _)| is_selected(*id));
        let found = instances.filter_map(|(id, instance)| {
            let stage = registry.get(&graph.node(id as u32).stage)?;
            Some((instance.name.to_string(), stage.placeholder(&instance.declared)?))
        });
        Placeholders { found: found.collect() }
    }

    /// What a person is told; `None` if nothing has to be filled in.
    pub(crate) fn message(&self) -> Option<String> {
        if self.found.is_empty() {
            return None;
        }
        let count = format::count(self.found.len() as u64, "instance");
        let mut text =
            format!("{count} cannot run before the pipeline has what it leaves to be filled in:");
        for (name, Placeholder { message, hint }) in &self.found {
            text.push_str(&format!("\n  {name}: {message}; {hint}"));
        }
        Some(text)
    }

    /// An error if something has to be filled in.
    pub(crate) fn refuse(&self) -> Result<(), Failure> {
        let Some(message) = self.message() else { return Ok(()) };
        let hint = "nothing was begun; `okapi plan` works as it is, and nodes that do not need these can be named";
        Err(Failure::usage(message).with_hint(hint.to_owned()))
    }
}

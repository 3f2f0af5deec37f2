//! What cards of data sets and of models share: the table of all that had a part in them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use okapi_engine::lineage::Lineage;
use okapi_engine::stage::{Param, ParamDefault, ParamType};
use okapi_engine::stage_context::{StageContext, StageError};
use serde_json::Value;

/// The file that the hub shows.
pub(crate) const CARD: &str = "README.md";

/// Instances of a node that are named one by one; of more their number is said.
const NAMED: usize = 40;

/// A text that a card has to have.
pub(crate) const fn required_text(name: &'static str, help: &'static str) -> Param {
    let (ty, default) = (ParamType::String, ParamDefault::Required);
    Param { name, ty, default, identity: true, help }
}

/// A text that a card may have.
pub(crate) const fn text(name: &'static str, help: &'static str) -> Param {
    let (ty, default) = (ParamType::String, ParamDefault::Absent);
    Param { name, ty, default, identity: true, help }
}

/// Texts that a card may have.
pub(crate) const fn texts(name: &'static str, help: &'static str) -> Param {
    let (ty, default) = (ParamType::List(&ParamType::String), ParamDefault::Absent);
    Param { name, ty, default, identity: true, help }
}

/// All that had a part in what a card is of.
///
/// # Errors
/// When the stage has not asked the engine for it.
pub(crate) fn lineage_of<'a>(context: &StageContext<'a>) -> Result<&'a Lineage, StageError> {
    context.lineage.ok_or_else(|| StageError::failed("the engine gave no lineage to tell of"))
}

/// The section of a card that names every action a folder was made from. Nothing in it depends on time or place.
pub(crate) fn provenance(lineage: &Lineage) -> String {
    let mut text = String::from(
        "## Provenance\n\nMade by okapi. An action's digest is that of the document of all that determines its result: stage \
         and version, params, prompts, and the content of what it reads.\n\n| node | stage | action |\n|---|---|---|\n",
    );
    let mut nodes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in lineage.ancestors.keys() {
        let node = name.split('[').next().unwrap_or(name);
        nodes.entry(node).or_default().push(name);
    }
    // Writing to a string never fails.
    for (node, instances) in nodes {
        for name in instances.iter().take(NAMED) {
            let made = &lineage.ancestors[*name];
            let stage = format!("{} {}", made.stage, made.stage_version);
            let _ = writeln!(text, "| {} | {stage} | `{}` |", one_line(name), made.action);
        }
        if instances.len() > NAMED {
            let _ = writeln!(text, "| {node}, {} more | | |", instances.len() - NAMED);
        }
    }
    text
}

/// A field of the head of a card with several values; nothing if there are none. JSON texts are YAML's too.
pub(crate) fn list<'a>(name: &str, values: impl IntoIterator<Item = &'a str>) -> String {
    let values: String =
        values.into_iter().map(|value| format!("- {}\n", Value::from(value))).collect();
    if values.is_empty() { values } else { format!("{name}:\n{values}") }
}

/// A text that stays in its heading or its cell.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

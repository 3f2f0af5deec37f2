//! Which instances would be the same action as another one, also before their inputs are there: each action runs once,
//! and what it costs is paid once.

use std::collections::BTreeMap;

use okapi_cache::{ActionDigest, Artifact, ArtifactKind, Digest};

use crate::action::ActionWriter;
use crate::evaluate::{Evaluation, Question, State};
use crate::graph::{Feed, InstanceId};
use crate::lineage::LineageScope;

/// The first instance of the same action, for each one that has another before it.
///
/// An input that is not there yet goes by the action that would make it, and by its port: where two actions are the same,
/// so are their outputs. What names all that is above it is left out, and what only turns out to be the same is not foreseen.
pub(crate) fn repeats(
    question: &Question<'_>,
    evaluation: &Evaluation,
) -> BTreeMap<InstanceId, InstanceId> {
    let Question { graph, sources, passed_env, .. } = *question;
    let writer = ActionWriter { graph, sources, passed_env };
    let mut expected: Vec<Option<ActionDigest>> = Vec::with_capacity(graph.instances.len());
    let mut first = BTreeMap::new();
    let mut repeats = BTreeMap::new();
    let mut document = String::new();
    for (id, (instance, state)) in (0..).zip(graph.instances.iter().zip(&evaluation.states)) {
        let action = match *state {
            State::NotSelected => None,
            State::Cached { action, .. }
            | State::Elsewhere { action, .. }
            | State::Runs { action, .. }
            | State::Blocked { action, .. } => Some(action),
            State::Waits { .. } if instance.lineage != LineageScope::None => None,
            State::Waits { .. } => {
                let mut feeds = instance.inputs.iter().flat_map(|input| &input.feeds);
                let known = feeds.all(|feed| expected[feed.instance as usize].is_some());
                known.then(|| {
                    writer.write(id, &mut document, None, |feed| {
                        evaluation.artifact(feed).unwrap_or_else(|| stand_in(feed, &expected))
                    })
                })
            }
        };
        expected.push(action);
        if let Some(action) = action {
            let one = *first.entry(action).or_insert(id);
            if one != id {
                repeats.insert(id, one);
            }
        }
    }
    repeats
}

/// Stands for an artifact that is not there yet.
fn stand_in(feed: &Feed, expected: &[Option<ActionDigest>]) -> Artifact {
    let action = expected[feed.instance as usize].map(|action| action.to_string());
    let made = format!("output {} of {}", feed.port, action.unwrap_or_default());
    Artifact { kind: ArtifactKind::File, digest: Digest::of(made.as_bytes()), size: 0 }
}

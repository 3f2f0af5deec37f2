//! Hit or miss: the one place that decides whether an instance's result can be used.
//!
//! [`evaluate`] walks the selected instances in topological order and finds, for each, its action
//! and the action's result. Where an input has no result yet, the action is not known yet either.
//! `plan`, `run` and `explain` all begin here, so they cannot disagree; the run calls [`decide`]
//! again for each instance whose inputs have been made meanwhile.

use okapi_cache::{ActionDigest, Artifact, CachedOutputs, Store};

use crate::action::{ActionWriter, PassedEnv};
use crate::graph::{Feed, Graph, InstanceId};
use crate::lineage;
use crate::machine::Machine;
use crate::selection::Selection;

/// Whether an action's result can be used.
#[derive(Debug, Clone)]
pub enum Decision {
    /// It can: there is a result and every output is in the store.
    Hit(CachedOutputs),
    /// It cannot.
    Miss(Miss),
}

/// Why a result cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Miss {
    /// There is none for this action.
    NoResult,
    /// There is one, but this output is not in the store any more, or not whole.
    LostOutput(Artifact),
    /// The user asked for the work to be done again.
    Forced,
}

/// Decides on one action.
pub fn decide(store: &Store, action: &ActionDigest, forced: bool) -> Decision {
    if forced {
        return Decision::Miss(Miss::Forced);
    }
    match store.lookup(action) {
        None => Decision::Miss(Miss::NoResult),
        Some(cached) => match store.missing_output(&cached) {
            None => Decision::Hit(cached),
            Some(lost) => Decision::Miss(Miss::LostOutput(lost)),
        },
    }
}

/// What is known of an instance before anything runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It was not asked for and nothing that was asked for needs it.
    NotSelected,
    /// Its result is in the store.
    Cached {
        /// Its action.
        action: ActionDigest,
        /// How long the work took when it was done, milliseconds.
        duration_ms: u32,
        /// Where its outputs begin in [`Evaluation::artifacts`].
        first_output: u32,
    },
    /// Its inputs are there, its result is not.
    Runs {
        /// Its action.
        action: ActionDigest,
        /// Why.
        miss: Miss,
    },
    /// Its inputs are there, its result is not, and this machine cannot run it.
    Blocked {
        /// Its action.
        action: ActionDigest,
        /// GPUs that it asks for; the machine has fewer.
        gpus: u32,
    },
    /// An input is still to be made.
    Waits {
        /// The first instance on which it waits: one that runs or is blocked itself.
        on: InstanceId,
    },
}

/// What is known of every instance before anything runs.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// By instance.
    pub states: Vec<State>,
    /// The outputs of cached instances, each instance's together, in the order of its node's ports.
    pub artifacts: Vec<Artifact>,
}

impl Evaluation {
    /// The artifact that a feed reads, if its instance is cached.
    pub fn artifact(&self, feed: &Feed) -> Option<Artifact> {
        match self.states[feed.instance as usize] {
            State::Cached { first_output, .. } => {
                self.artifacts.get(first_output as usize + feed.port as usize).copied()
            }
            _ => None,
        }
    }

    /// The action of an instance that is cached.
    pub fn action(&self, instance: InstanceId) -> Option<ActionDigest> {
        match self.states[instance as usize] {
            State::Cached { action, .. } => Some(action),
            _ => None,
        }
    }

    /// How many instances are cached.
    pub fn count_cached(&self) -> u64 {
        self.states.iter().filter(|state| matches!(state, State::Cached { .. })).count() as u64
    }

    /// Whether every selected instance is cached.
    pub fn is_up_to_date(&self) -> bool {
        self.states.iter().all(|state| matches!(state, State::NotSelected | State::Cached { .. }))
    }
}

/// What [`evaluate`] looks at.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// The checked pipeline.
    pub graph: &'a Graph,
    /// The instances that matter.
    pub selection: &'a Selection,
    /// The artifact of each source that a selected instance tracks.
    pub sources: &'a [Option<Artifact>],
    /// Values for `pass_env`.
    pub passed_env: &'a PassedEnv,
    /// For every instance: must it run even if there is a result?
    pub forced: &'a [bool],
    /// The machine that would run it.
    pub machine: &'a Machine,
    /// Where results are.
    pub store: &'a Store,
}

/// Finds the state of every selected instance.
pub fn evaluate(question: &Question<'_>) -> Evaluation {
    let Question { graph, selection, sources, passed_env, forced, machine, store } = *question;
    let writer = ActionWriter { graph, sources, passed_env };
    let mut evaluation = Evaluation {
        states: Vec::with_capacity(graph.instances.len()),
        artifacts: Vec::with_capacity(graph.instances.len()),
    };
    let mut document = String::new();
    for (id, instance) in graph.instances.iter().enumerate() {
        if !selection.needed[id] {
            evaluation.states.push(State::NotSelected);
            continue;
        }
        let waits =
            instance.inputs.iter().flat_map(|input| &input.feeds).find_map(|feed| match evaluation
                .states[feed.instance as usize]
            {
                State::Cached { .. } => None,
                State::Waits { on } => Some(on),
                _ => Some(feed.instance),
            });
        let state = if let Some(on) = waits {
            State::Waits { on }
        } else {
            let lineage = lineage::text(graph, store, id as InstanceId, |ancestor| {
                evaluation
                    .action(ancestor)
                    .expect("ancestors of an instance that does not wait are cached")
            });
            let action =
                writer.write(id as InstanceId, &mut document, lineage.as_deref(), |feed| {
                    evaluation
                        .artifact(feed)
                        .expect("inputs of an instance that does not wait are cached")
                });
            match decide(store, &action, forced[id]) {
                Decision::Hit(cached) => {
                    let first_output = evaluation.artifacts.len() as u32;
                    evaluation.artifacts.extend_from_slice(cached.outputs());
                    State::Cached { action, duration_ms: cached.duration_ms(), first_output }
                }
                Decision::Miss(miss) => {
                    let gpus = if instance.is_elsewhere() { 0 } else { instance.resources.gpu };
                    if gpus as usize > machine.gpus.len() {
                        State::Blocked { action, gpus }
                    } else {
                        State::Runs { action, miss }
                    }
                }
            }
        };
        evaluation.states.push(state);
    }
    evaluation
}

//! Hit or miss: the one place that decides whether an instance's result can be used.
//!
//! [`evaluate`] walks the selected instances in topological order and finds, for each, its action
//! and the action's result. Where an input has no result yet, the action is not known yet either.
//! `plan`, `run` and `explain` all begin here, so they cannot disagree; the run calls [`decide`]
//! again for each instance whose inputs have been made meanwhile.

use std::collections::BTreeMap;

use okapi_cache::{ActionDigest, Artifact, CachedOutputs, Measures, ResultInfo, Store};

use okapi_remote::Remote;

use crate::action::{ActionWriter, PassedEnv};
use crate::graph::{Feed, Graph, InstanceId};
use crate::lineage;
use crate::machine::Machine;
use crate::run::output_kinds;
use crate::selection::Selection;

/// Whether an action's result can be used.
#[derive(Debug, Clone)]
pub enum Decision {
    /// It can: there is a result and every output is in the store.
    Hit(CachedOutputs),
    /// It cannot yet, but the remote has it: a run fetches it.
    Elsewhere(Elsewhere),
    /// It cannot.
    Miss(Miss),
}

/// A result that the remote has.
#[derive(Debug, Clone, PartialEq)]
pub struct Elsewhere {
    /// Its outputs, in the order of the sorted port names. They may not be in the store.
    pub outputs: Vec<Artifact>,
    /// Its details.
    pub info: ResultInfo,
}

impl Elsewhere {
    /// Bytes of its outputs.
    pub fn bytes(&self) -> u64 {
        self.outputs.iter().map(|output| output.size).sum()
    }

    fn measures(&self) -> Measures {
        Measures {
            metrics: self.info.metrics.clone(),
            duration_ms: Some(self.info.duration_ms),
            cost_micro_usd: self.info.cost_micro_usd,
        }
    }
}

/// Results that the remote has, as far as it was asked.
pub type FoundElsewhere = BTreeMap<ActionDigest, Elsewhere>;

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

/// Decides on one action. What is `elsewhere` counts only where the store's own result cannot be used.
pub fn decide(
    store: &Store,
    elsewhere: &FoundElsewhere,
    action: &ActionDigest,
    forced: bool,
) -> Decision {
    if forced {
        return Decision::Miss(Miss::Forced);
    }
    let miss = match store.lookup(action) {
        None => Miss::NoResult,
        Some(cached) => match store.missing_output(&cached) {
            None => return Decision::Hit(cached),
            Some(lost) => Miss::LostOutput(lost),
        },
    };
    match elsewhere.get(action) {
        Some(found) => Decision::Elsewhere(found.clone()),
        None => Decision::Miss(miss),
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
    /// Its result is on the remote, and can be fetched.
    Elsewhere {
        /// Its action.
        action: ActionDigest,
        /// How long the work took when it was done, milliseconds.
        duration_ms: u32,
        /// Bytes of its outputs.
        bytes: u64,
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
    /// The outputs of instances that have a result here or elsewhere, each instance's together, in the order of its node's ports.
    pub artifacts: Vec<Artifact>,
}

impl Evaluation {
    /// The artifact that a feed reads, if its instance has a result here or elsewhere.
    pub fn artifact(&self, feed: &Feed) -> Option<Artifact> {
        match self.states[feed.instance as usize] {
            State::Cached { first_output, .. } | State::Elsewhere { first_output, .. } => {
                self.artifacts.get(first_output as usize + feed.port as usize).copied()
            }
            _ => None,
        }
    }

    /// The action of an instance that has a result here or elsewhere.
    pub fn action(&self, instance: InstanceId) -> Option<ActionDigest> {
        match self.states[instance as usize] {
            State::Cached { action, .. } | State::Elsewhere { action, .. } => Some(action),
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
    /// What else is known to be had: see [`evaluate_with`].
    pub elsewhere: &'a FoundElsewhere,
}

impl Question<'_> {
    /// What results were measured to be, wherever they are.
    pub(crate) fn measures(&self, action: &ActionDigest) -> Measures {
        let there = || Some(self.elsewhere.get(action)?.measures());
        let here = self.store.measures(action).ok().flatten();
        here.or_else(there).unwrap_or_default()
    }
}

/// Asks a remote for results, for [`evaluate_with`].
pub fn ask_remote(remote: &Remote, actions: &[ActionDigest]) -> FoundElsewhere {
    let found = remote.results(actions).into_iter();
    found.map(|(action, it)| (action, Elsewhere { outputs: it.outputs, info: it.info })).collect()
}

/// Nothing is known to be had elsewhere.
pub static NOTHING_ELSEWHERE: FoundElsewhere = BTreeMap::new();

/// Evaluates with a remote: asks it, by `ask`, for the results of all instances whose inputs are known and whose result is
/// not in the store, then evaluates anew, as their readers' inputs may be known now, until there is nothing more to ask.
pub fn evaluate_with(
    question: &Question<'_>,
    ask: &mut dyn FnMut(&[ActionDigest]) -> FoundElsewhere,
) -> (Evaluation, FoundElsewhere) {
    let mut elsewhere = question.elsewhere.clone();
    let mut asked = std::collections::BTreeSet::new();
    // Each turn settles at least one more layer of the graph, which has no more layers than instances.
    loop {
        let evaluation = evaluate(&Question { elsewhere: &elsewhere, ..*question });
        let states = evaluation.states.iter().zip(question.forced);
        let wanted: BTreeMap<ActionDigest, InstanceId> = (0..)
            .zip(states)
            .filter_map(|(id, (state, forced))| match state {
                State::Runs { action, .. } | State::Blocked { action, .. } if !forced => {
                    Some((*action, id))
                }
                _ => None,
            })
            .filter(|(action, _)| asked.insert(*action))
            .collect();
        let actions: Vec<_> = wanted.keys().copied().collect();
        let mut found = if wanted.is_empty() { FoundElsewhere::new() } else { ask(&actions) };
        // A result with other outputs than the action has is refused when it is fetched, too.
        found.retain(|action, it| {
            let kinds = it.outputs.iter().map(|output| output.kind);
            wanted.get(action).is_some_and(|id| kinds.eq(output_kinds(question.graph, *id)))
        });
        if found.is_empty() {
            return (evaluation, elsewhere);
        }
        elsewhere.extend(found);
    }
}

/// Finds the state of every selected instance.
pub fn evaluate(question: &Question<'_>) -> Evaluation {
    let Question { graph, selection, sources, passed_env, forced, machine, store, elsewhere } =
        *question;
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
                State::Cached { .. } | State::Elsewhere { .. } => None,
                State::Waits { on } => Some(on),
                _ => Some(feed.instance),
            });
        let state = if let Some(on) = waits {
            State::Waits { on }
        } else {
            let measures = |action: &ActionDigest| question.measures(action);
            let lineage = lineage::text(graph, &measures, id as InstanceId, |ancestor| {
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
            match decide(store, elsewhere, &action, forced[id]) {
                Decision::Hit(cached) => {
                    let first_output = evaluation.artifacts.len() as u32;
                    evaluation.artifacts.extend_from_slice(cached.outputs());
                    State::Cached { action, duration_ms: cached.duration_ms(), first_output }
                }
                Decision::Elsewhere(found) => {
                    let first_output = evaluation.artifacts.len() as u32;
                    evaluation.artifacts.extend_from_slice(&found.outputs);
                    let duration_ms = u32::try_from(found.info.duration_ms).unwrap_or(u32::MAX);
                    State::Elsewhere { action, duration_ms, bytes: found.bytes(), first_output }
                }
                Decision::Miss(miss) => {
                    let gpus = if instance.is_on_cluster() { 0 } else { instance.resources.gpu };
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

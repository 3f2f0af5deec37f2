//! Where instances are executed: on this machine, or as jobs of a cluster. It never decides what comes out, so nothing of it
//! enters an action.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::graph::{ALL_SLOTS, Graph, Instance};
use crate::stage::StageRegistry;

/// Where an instance is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// In a thread of this process.
    Local,
    /// As a job of Slurm.
    Slurm,
}

impl Place {
    /// All there are.
    pub const ALL: [Place; 2] = [Place::Local, Place::Slurm];

    /// As pipelines write it.
    pub fn name(self) -> &'static str {
        match self {
            Place::Local => "local",
            Place::Slurm => "slurm",
        }
    }

    /// The place of that name.
    pub fn from_name(name: &str) -> Option<Place> {
        Place::ALL.into_iter().find(|place| place.name() == name)
    }
}

/// How jobs get at the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreAccess {
    /// The nodes see it under the path that it has here.
    Shared,
    /// They do not: everything comes and goes by way of the remote.
    Remote,
}

impl StoreAccess {
    /// All there are.
    pub const ALL: [StoreAccess; 2] = [StoreAccess::Shared, StoreAccess::Remote];

    /// As pipelines write it.
    pub fn name(self) -> &'static str {
        match self {
            StoreAccess::Shared => "shared",
            StoreAccess::Remote => "remote",
        }
    }
}

/// What a job of Slurm is asked for beside processors, memory and GPUs. What is `None` or empty is left to the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlurmOptions {
    /// `--partition`.
    pub partition: Option<String>,
    /// `--account`.
    pub account: Option<String>,
    /// `--qos`.
    pub qos: Option<String>,
    /// `--constraint`.
    pub constraint: Option<String>,
    /// `--gres`, in place of the GPUs that the instance asks for.
    pub gres: Option<String>,
    /// `--time`, milliseconds.
    pub time_ms: Option<u64>,
    /// Shell lines that each job begins with, such as `module load cuda`.
    pub setup: Option<String>,
    /// By how much more memory each try after one that ran out of it gets, thousandths of what that had.
    pub more_memory: Option<u32>,
    /// By how much more time, likewise.
    pub more_time: Option<u32>,
    /// How jobs get at the store; shared if nothing is said.
    pub store: Option<StoreAccess>,
    /// The program, where nodes find it; if nothing is said, under the path that it has here.
    pub okapi: Option<PathBuf>,
    /// More options of `sbatch`, each as one word.
    pub extra: Vec<String>,
}

impl SlurmOptions {
    /// These, and from `base` what they leave open. Extra options are added to those of `base`.
    pub fn over(self, base: &SlurmOptions) -> SlurmOptions {
        SlurmOptions {
            partition: self.partition.or_else(|| base.partition.clone()),
            account: self.account.or_else(|| base.account.clone()),
            qos: self.qos.or_else(|| base.qos.clone()),
            constraint: self.constraint.or_else(|| base.constraint.clone()),
            gres: self.gres.or_else(|| base.gres.clone()),
            time_ms: self.time_ms.or(base.time_ms),
            setup: self.setup.or_else(|| base.setup.clone()),
            more_memory: self.more_memory.or(base.more_memory),
            more_time: self.more_time.or(base.more_time),
            store: self.store.or(base.store),
            okapi: self.okapi.or_else(|| base.okapi.clone()),
            extra: base.extra.iter().cloned().chain(self.extra).collect(),
        }
    }
}

/// Processors of a job that takes all there are, if its node does not say how many.
const MANY_PROCESSORS: u32 = 4;

/// Decides for every instance whose node does not say: `default`, but here where a service outside is asked. So one process keeps
/// to a teacher's rate and to the budget, and nodes of a cluster need no way out.
pub fn choose(graph: &mut Graph, registry: &StageRegistry, default: Place) {
    let Graph { instances, nodes, .. } = graph;
    if default == Place::Local && !instances.iter().any(Instance::is_on_cluster) {
        // As ever; looking at each would take a good part of a run that finds everything.
        return;
    }
    for instance in instances {
        let declared: serde_json::Value =
            serde_json::from_str(&instance.declared).unwrap_or_default();
        let stage = registry.get(&nodes[instance.node as usize].stage);
        let asks = !declared["teacher"].is_null()
            || stage.is_some_and(|stage| stage.needs_network(&declared));
        let place = if asks { Place::Local } else { instance.place.unwrap_or(default) };
        if place == Place::Slurm && instance.resources.cpu_milli == ALL_SLOTS {
            // What the machine has on which it will be is not known.
            instance.resources.cpu_milli = MANY_PROCESSORS * 1000;
        }
        instance.place = Some(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_a_node_go_before_those_of_the_pipeline() {
        let base = SlurmOptions {
            partition: Some("long".into()),
            account: Some("lab".into()),
            extra: vec!["--nice".into()],
            ..SlurmOptions::default()
        };
        let own = SlurmOptions {
            partition: Some("gpu".into()),
            extra: vec!["--exclusive".into()],
            ..SlurmOptions::default()
        };
        let both = own.over(&base);
        assert_eq!(
            (both.partition.as_deref(), both.account.as_deref()),
            (Some("gpu"), Some("lab"))
        );
        assert_eq!(both.extra, ["--nice", "--exclusive"]);
    }
}

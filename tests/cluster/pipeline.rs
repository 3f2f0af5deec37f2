//! The Okapi pipeline at the paper's size, with 26 languages, both base models and three seeds: its graph, and what each
//! instance of it would do, as `okapi plan` reckons it.

use std::path::Path;

use okapi_cache::{Access, Durability, Store};
use okapi_engine::action::PassedEnv;
use okapi_engine::device_choice;
use okapi_engine::evaluate::{Question, evaluate};
use okapi_engine::graph::{Graph, InstanceId};
use okapi_engine::load::{LoadRequest, load};
use okapi_engine::machine::Machine;
use okapi_engine::manifest::Manifest;
use okapi_engine::plan::plan;
use okapi_engine::selection::Selection;
use okapi_engine::service::{ServiceId, services};

use crate::simulation::Work;

const PIPELINE: &str = "pipelines/okapi-26.yaml";
/// A model from the hub, checked.
const IMPORT_SECONDS: f64 = 600.0;
/// All else of which `plan` does not say how long it takes: rows that are mixed, described, put into a report.
const OTHER_SECONDS: f64 = 60.0;

/// A pipeline, and what its instances would do on a machine.
pub(crate) struct Pipeline {
    pub(crate) graph: Graph,
    pub(crate) work: Vec<Work>,
    pub(crate) services: Vec<Option<ServiceId>>,
}

impl Pipeline {
    pub(crate) fn load(machine: &Machine) -> Pipeline {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let registry = okapi_stages::registry();
        let text = std::fs::read_to_string(root.join(PIPELINE)).unwrap();
        let request = LoadRequest {
            text: &text,
            file: Path::new(PIPELINE),
            pipeline_dir: "pipelines",
            profile: Some("paper"),
            overrides: &["vars.seeds=[1,2,3]".to_owned()],
            project_root: root,
        };
        let (graph, mistakes) = load(request, &registry);
        let mut graph = graph.unwrap_or_else(|| panic!("{:?}", mistakes.items));
        device_choice::choose(&mut graph, &registry, machine);
        let work = work(&graph, machine, root);
        let services = services(&graph, &registry);
        Pipeline { graph, work, services }
    }
}

/// What each instance would do, as a plan for an empty store has it.
fn work(graph: &Graph, machine: &Machine, root: &Path) -> Vec<Work> {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), Access::ReadWrite, Durability::None).unwrap();
    let paths: Vec<_> = graph.sources.iter().map(|source| root.join(&*source.path)).collect();
    let sources: Vec<_> =
        store.digest_sources(&paths).into_iter().map(|found| found.unwrap()).map(Some).collect();
    let question = Question {
        elsewhere: &okapi_engine::evaluate::NOTHING_ELSEWHERE,
        graph,
        selection: &Selection::everything(graph),
        sources: &sources,
        passed_env: &PassedEnv::default(),
        forced: &vec![false; graph.instances.len()],
        machine,
        store: &store,
    };
    let evaluation = evaluate(&question);
    let mut plan = plan(&question, &evaluation, &Manifest::default());
    plan.add_estimates(&question, &evaluation, &okapi_stages::registry(), root);
    let of_instance = |id: usize| {
        let planned = &plan.nodes[id];
        match (planned.work, &planned.estimate) {
            (Some(work), _) if planned.gpus > 0 => Work::Job { seconds: work.ms as f64 / 1000.0 },
            (_, Some(estimate)) => Work::Asking { requests: estimate.requests as f64 },
            _ if graph.node(id as InstanceId).stage == "import_model" => {
                Work::Local { seconds: IMPORT_SECONDS }
            }
            _ => Work::Local { seconds: OTHER_SECONDS },
        }
    };
    (0..graph.instances.len()).map(of_instance).collect()
}

//! A project on disk with a store, driven through the engine's functions.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use okapi_cache::{Access, ActionDigest, Durability, Faults, Store};
use okapi_engine::action::parse_artifact;
use okapi_engine::evaluate::{
    FoundElsewhere, NOTHING_ELSEWHERE, Question, ask_remote, evaluate_with,
};
use okapi_engine::event::{Event, Outcome};
use okapi_engine::executor::command_process::Launcher;
use okapi_engine::executor::slurm::JobSettings;
use okapi_engine::graph::Graph;
use okapi_engine::machine::Machine;
use okapi_engine::manifest::{Manifest, ManifestText};
use okapi_engine::plan::{Verdict, plan};
use okapi_engine::run::{Results, RunRequest, run};
use okapi_engine::selection::Selection;
use okapi_engine::stage::{
    Determinism, Inputs, NodeField, OutputKind, OutputPort, Outputs, Stage, StageDescriptor,
    StageRegistry,
};
use okapi_engine::stage_context::{InputPath, StageContext, StageError, StageSuccess};
use okapi_remote::{Address, Options, Remote};

use crate::model::{Model, mix, testimony};

pub(crate) struct Project {
    root: tempfile::TempDir,
    store: Option<Arc<Store>>,
    previous: RefCell<Manifest>,
    /// The folder of a remote.
    pub(crate) remote: Option<PathBuf>,
}

pub(crate) struct Planned {
    pub(crate) fetched: BTreeSet<String>,
    pub(crate) cached: BTreeSet<String>,
    pub(crate) runs: BTreeSet<String>,
}

pub(crate) struct Ran {
    pub(crate) fetched: BTreeSet<String>,
    pub(crate) warnings: Vec<String>,
    pub(crate) executed: BTreeSet<String>,
    pub(crate) outputs: BTreeMap<String, Vec<u8>>,
    pub(crate) actions: BTreeMap<String, ActionDigest>,
}

impl Project {
    pub(crate) fn new() -> Project {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("src")).unwrap();
        Project { root, store: None, previous: RefCell::default(), remote: None }
    }

    /// The next use opens the store anew, as another process would.
    pub(crate) fn forget_handles(&mut self) {
        self.store = None;
    }

    pub(crate) fn write_sources(&self, model: &Model) {
        for (position, content) in model.sources.iter().enumerate() {
            fs::write(self.root.path().join(format!("src/{position}")), [*content]).unwrap();
        }
    }

    /// Opens the store such that so many writes succeed and all later ones fail, as on a full disk.
    pub(crate) fn fail_writes_after(&mut self, writes: u64) {
        let root = self.root.path().join(".okapi");
        let faults = Faults::after(writes);
        let store =
            Store::open_with_faults(&root, Access::ReadWrite, Durability::Batch, faults).unwrap();
        self.store = Some(Arc::new(store));
    }

    /// Everything that can be read in the store is right, and nothing is left over.
    pub(crate) fn assert_store_is_clean(&self) {
        let report = okapi_cache::verify::verify(&self.store(), false, &mut |_| {}).unwrap();
        assert!(report.is_clean(), "{report:?}");
    }

    fn open_remote(&self) -> Option<Arc<Remote>> {
        let folder = self.remote.as_ref()?;
        let address = Address::parse(folder.to_str().unwrap(), self.root.path()).unwrap();
        Some(Arc::new(Remote::open(&address, &Options::default()).unwrap()))
    }

    fn store(&self) -> Arc<Store> {
        match &self.store {
            Some(store) => Arc::clone(store),
            None => {
                let root = self.root.path().join(".okapi");
                Arc::new(Store::open(&root, Access::ReadWrite, Durability::None).unwrap())
            }
        }
    }

    /// The lineage that an action names, as it is kept.
    pub(crate) fn lineage(&self, action: &ActionDigest) -> Option<String> {
        let store = self.store();
        let stored = store.document(action).unwrap().unwrap();
        let measures = store.measures(action).unwrap().unwrap();
        assert_eq!(measures.metrics, stored.info.metrics);
        assert_eq!(measures.duration_ms, Some(stored.info.duration_ms));
        let document: serde_json::Value = serde_json::from_str(&stored.document).unwrap();
        let (kind, digest) = parse_artifact(document.get("lineage")?.as_str().unwrap()).unwrap();
        assert!(stored.info.keeps.iter().any(|kept| (kept.kind, kept.digest) == (kind, digest)));
        let text = store.read_text(&digest, u64::MAX).unwrap();
        let value: serde_json::Value = serde_json::from_str(text.as_ref().unwrap()).unwrap();
        assert_eq!(Some(okapi_cache::canonical_json::to_string(&value)), text);
        text
    }

    fn sources(&self, store: &Store, graph: &Graph) -> Vec<Option<okapi_cache::Artifact>> {
        let digest = |path: &str| store.digest_source(&self.root.path().join(path)).unwrap();
        graph.sources.iter().map(|source| Some(digest(&source.path))).collect()
    }

    pub(crate) fn plan(&self, graph: &Graph) -> Planned {
        let store = self.store();
        let selection = Selection::everything(graph);
        let question = Question {
            graph,
            selection: &selection,
            sources: &self.sources(&store, graph),
            passed_env: &BTreeMap::new(),
            forced: &vec![false; graph.instances.len()],
            machine: &machine(1),
            store: &store,
            elsewhere: &NOTHING_ELSEWHERE,
        };
        let remote = self.open_remote();
        let mut ask = |actions: &[ActionDigest]| match &remote {
            None => FoundElsewhere::new(),
            Some(remote) => ask_remote(remote, actions),
        };
        let (evaluation, elsewhere) = evaluate_with(&question, &mut ask);
        let question = Question { elsewhere: &elsewhere, ..question };
        let plan = plan(&question, &evaluation, &self.previous.borrow());
        let with = |verdict| {
            let nodes = plan.nodes.iter().filter(|node| node.verdict == verdict);
            nodes.map(|node| node.node.clone()).collect()
        };
        // An instance that waits may turn out to be cached even if it never ran under its name.
        let waits: BTreeSet<_> = plan
            .nodes
            .iter()
            .filter(|it| it.waits_for.is_some())
            .map(|it| it.node.clone())
            .collect();
        let runs: BTreeSet<String> = with(Verdict::Runs);
        Planned {
            cached: with(Verdict::Cached),
            fetched: with(Verdict::Fetched),
            runs: &runs - &waits,
        }
    }

    pub(crate) fn run(&self, graph: &Graph, jobs: u32) -> Ran {
        self.try_run(graph, jobs).unwrap()
    }

    /// A run; `Err` with what the store said if it ended in trouble with the store.
    pub(crate) fn try_run(&self, graph: &Graph, jobs: u32) -> Result<Ran, String> {
        let store = self.store();
        let selection = Selection::everything(graph);
        let mut registry = StageRegistry::default();
        registry.add(Box::new(Mix));
        let passed_env = BTreeMap::new();
        let request = RunRequest {
            jobs: JobSettings::default(),
            program: "test",
            graph,
            selection: &selection,
            sources: &self.sources(&store, graph),
            project_root: self.root.path(),
            passed_env: &passed_env,
            forced: &vec![false; graph.instances.len()],
            machine: &machine(jobs),
            keep_going: false,
            grace: Duration::from_secs(1),
            store: Arc::clone(&store),
            registry: Arc::new(registry),
            launcher: Launcher::default(),
            previous: &|| self.previous.borrow().clone(),
            logs: self.root.path().join("logs"),
            remote: self.open_remote(),
        };
        let evaluation = okapi_engine::run::evaluate_for_run(&request);
        let (mut executed, mut fetched) = (BTreeSet::new(), BTreeSet::new());
        let mut warnings = Vec::new();
        let summary = run(&request, &evaluation, &mut |event| match event {
            Event::NodeFinished { node, .. } => {
                assert!(executed.insert(node), "an instance ran twice in one run");
            }
            Event::NodeCached { node, fetched_bytes: Some(_), .. } => {
                fetched.insert(node);
            }
            Event::Warning { message } => warnings.push(message),
            _ => {}
        })
        .map_err(|error| error.to_string())?;
        if let Some(error) = summary.store_error {
            assert_ne!(summary.outcome, Outcome::Succeeded);
            return Err(error.to_string());
        }
        assert_eq!(summary.outcome, Outcome::Succeeded);
        let mut outputs = BTreeMap::new();
        let mut actions = BTreeMap::new();
        let results = Results { evaluation: &evaluation, later: &summary.later };
        for (id, instance) in graph.instances.iter().enumerate() {
            let name = instance.name.to_string();
            let output = results.output(id as u32, 0).unwrap();
            let path = store.object_path(&output.digest);
            outputs.insert(name.clone(), fs::read(path).unwrap());
            actions.insert(name, results.action(id as u32).unwrap());
        }
        let mut manifest = ManifestText::with_capacity(actions.len());
        actions.iter().for_each(|(name, action)| manifest.push(name, action));
        self.previous.replace(Manifest::parse(&manifest.finish().0).unwrap());
        Ok(Ran { fetched, warnings, executed, outputs, actions })
    }
}

fn machine(slots: u32) -> Machine {
    Machine { slots, memory: 1 << 30, gpus: vec![], cluster_jobs: 0 }
}

/// The stage of the models.
struct Mix;

static MIX: StageDescriptor = StageDescriptor {
    name: "mix",
    version: 1,
    summary: "mixes what it reads",
    documentation: "",
    inputs: Inputs::Any,
    outputs: Outputs::Fixed(&[OutputPort {
        name: "out",
        kind: OutputKind::Fixed(okapi_engine::port::PortKind::File),
        help: "",
    }]),
    params: &[],
    prompts: &[],
    fields: &[NodeField::Files],
    determinism: Determinism::Bytes,
};

impl Stage for Mix {
    fn descriptor(&self) -> &'static StageDescriptor {
        &MIX
    }

    fn run(&self, context: &mut StageContext<'_>) -> Result<StageSuccess, StageError> {
        let number = |name: &str| context.declared["params"][name].as_u64().unwrap() as u8;
        let mut inputs: Vec<_> = context
            .inputs
            .iter()
            .map(|(port, path)| match path {
                InputPath::Single(path) => (port.clone(), fs::read(path).unwrap()),
                InputPath::Gathered { .. } => panic!("the models gather nothing"),
            })
            .collect();
        if let Some(lineage) = context.lineage {
            let salts =
                lineage.ancestors.iter().map(|(name, it)| (name.clone(), it.metrics["salt"]));
            inputs.push(("lineage".to_owned(), testimony(salts)));
        }
        let source = context.files.values().next().map(|file| fs::read(&file.path).unwrap());
        let content = mix(number("salt"), number("keep"), source.as_deref(), &inputs);
        fs::write(&context.outputs["out"], content).unwrap();
        // What is no number is in no result: a lineage is the same in this process and in the next.
        let metrics = [("salt", f64::from(number("salt"))), ("none", f64::NAN)];
        let metrics = metrics.map(|(name, value)| (name.to_owned(), value)).into();
        Ok(StageSuccess { metrics, ..StageSuccess::default() })
    }
}

//! From a command line to a loaded pipeline: where the project is, where the store is, the checked
//! graph, the digests of the tracked files.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use okapi_cache::{Access, Artifact, Durability, Store, StoreError, hash_source};
use okapi_engine::action::PassedEnv;
use okapi_engine::device_choice;
use okapi_engine::diagnostic::Diagnostics;
use okapi_engine::evaluate::{NOTHING_ELSEWHERE, Question};
use okapi_engine::executor::command_process::Launcher;
use okapi_engine::executor::sandbox::{Sandbox, SandboxError};
use okapi_engine::graph::Graph;
use okapi_engine::graph_cache::{self, GraphKey};
use okapi_engine::load::{LoadRequest, decode, load};
use okapi_engine::machine::Machine;
use okapi_engine::placement;
use okapi_engine::prompts;
use okapi_engine::selection::{Selection, matching};
use okapi_engine::stage::StageRegistry;

use crate::cli::{Global, OverlayArgs};
use crate::env_vars;
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::ui;

/// Where things are.
pub(crate) struct Place {
    /// The project's root, absolute, without symlinks.
    pub(crate) root: PathBuf,
    /// The pipeline file from the project's root.
    pub(crate) pipeline: String,
    /// The pipeline file as the user named it.
    pub(crate) named: PathBuf,
    /// Its text.
    pub(crate) text: String,
    /// The digest of its bytes.
    pub(crate) digest: okapi_cache::Digest,
}

/// A pipeline, ready to be planned or run.
pub(crate) struct Loaded {
    pub(crate) place: Place,
    pub(crate) graph: Graph,
    pub(crate) selection: Selection,
    /// By source of the graph; `None` for those that nothing selected tracks.
    pub(crate) sources: Vec<Option<Artifact>>,
    pub(crate) passed_env: PassedEnv,
    pub(crate) forced: Vec<bool>,
}

/// Why there is no pipeline file to look at.
pub(crate) enum Unreadable {
    /// It cannot be found, opened or placed; with the code that its diagnostic has.
    File(&'static str, Failure),
    /// It is no text.
    Text(Box<Diagnostics>),
}

impl From<Unreadable> for Failure {
    fn from(unreadable: Unreadable) -> Failure {
        match unreadable {
            Unreadable::File(_, failure) => failure,
            Unreadable::Text(diagnostics) => {
                let file = diagnostics.file.display();
                let messages: Vec<_> = diagnostics
                    .items
                    .iter()
                    .map(|item| {
                        let (line, column) = diagnostics.line_column(item.span.start);
                        format!("{file}:{line}:{column}: {}", item.message)
                    })
                    .collect();
                let hint = diagnostics.items.iter().find_map(|item| item.hint.clone());
                Failure::usage(messages.join("; ")).with_hint(hint)
            }
        }
    }
}

/// The pipeline that is read when none is named.
pub(crate) const DEFAULT_PIPELINE: &str = "okapi.yaml";

/// Finds the project and reads the pipeline file that is named, or the default one.
pub(crate) fn locate_or_default(
    global: &Global,
    pipeline: Option<&Path>,
) -> Result<Place, Unreadable> {
    let default = Path::new(DEFAULT_PIPELINE);
    if pipeline.is_none() && !default.exists() {
        let message = format!("no pipeline is named, and there is no {DEFAULT_PIPELINE} here");
        let hint = match yaml_files(Path::new(".")) {
            names if names.is_empty() => "`okapi init` writes one to begin with".to_owned(),
            names => format!("name one; there is: {}", names.join(", ")),
        };
        return Err(Unreadable::File("missing-file", Failure::usage(message).with_hint(hint)));
    }
    locate(global, pipeline.unwrap_or(default)).map_err(|unreadable| match (unreadable, pipeline) {
        (Unreadable::File("missing-file", failure), Some(word)) if may_be_a_node(word) => {
            let word = word.display();
            let hint =
                format!("to name a node, name the pipeline first: {DEFAULT_PIPELINE} {word}");
            Unreadable::File("missing-file", failure.with_hint(hint))
        }
        (unreadable, _) => unreadable,
    })
}

/// Whether a word in the place of the pipeline may be meant for a node of the default one.
fn may_be_a_node(word: &Path) -> bool {
    let is_file = word.to_str().is_none_or(|word| is_yaml(word) || word.contains('/'));
    !is_file && Path::new(DEFAULT_PIPELINE).exists()
}

/// Finds the project and reads the pipeline file.
pub(crate) fn locate(global: &Global, pipeline: &Path) -> Result<Place, Unreadable> {
    let cannot_read = |error: io::Error| {
        let code = match error.kind() {
            io::ErrorKind::NotFound => "missing-file",
            _ => "unreadable",
        };
        let message = format!("cannot read the pipeline {}: {error}", pipeline.display());
        Unreadable::File(code, Failure::usage(message).with_hint(similar_file(pipeline)))
    };
    let outside = |failure| Unreadable::File("outside-project", failure);
    let real = fs::canonicalize(pipeline).map_err(cannot_read)?;
    if real.is_dir() {
        let message = format!("{} is a folder, not a pipeline", pipeline.display());
        let failure = Failure::usage(message).with_hint(first_pipeline_in(&real));
        return Err(Unreadable::File("unreadable", failure));
    }
    let root = match &global.project {
        Some(root) => canonical(root).map_err(outside)?,
        None => find_root(&real),
    };
    let inside = real.strip_prefix(&root).map_err(|_| {
        let (file, root) = (pipeline.display(), root.display());
        let message = format!("the pipeline {file} lies outside the project {root}");
        outside(Failure::usage(message).with_hint("name the project by --project".to_owned()))
    })?;
    let inside = inside.to_str().map(str::to_owned).ok_or_else(|| {
        let message = format!("the path of {} is not UTF-8", pipeline.display());
        Unreadable::File("not-utf8", Failure::usage(message))
    })?;
    let bytes = fs::read(&real).map_err(cannot_read)?;
    let text = decode(bytes, pipeline).map_err(Unreadable::Text)?;
    let digest = okapi_cache::Digest::of(text.as_bytes());
    Ok(Place { root, pipeline: inside, named: pipeline.to_owned(), text, digest })
}

/// The project without a pipeline, for commands that look at the store alone.
pub(crate) fn root_without_pipeline(global: &Global) -> Result<PathBuf, Failure> {
    match &global.project {
        Some(root) => canonical(root),
        None => {
            let here = canonical(Path::new("."))?;
            let marked = here.ancestors().find(|folder| is_root(folder));
            Ok(marked.unwrap_or(&here).to_owned())
        }
    }
}

fn canonical(path: &Path) -> Result<PathBuf, Failure> {
    fs::canonicalize(path)
        .map_err(|error| Failure::usage(format!("cannot open {}: {error}", path.display())))
}

fn is_root(folder: &Path) -> bool {
    folder.join(".okapi").join("format").exists() || folder.join(".git").exists()
}

fn find_root(pipeline: &Path) -> PathBuf {
    let folder = pipeline.parent().unwrap_or(pipeline);
    if let Some(root) = folder.ancestors().find(|folder| is_root(folder)) {
        return root.to_owned();
    }
    match fs::canonicalize(".") {
        Ok(here) if pipeline.starts_with(&here) => here,
        _ => folder.to_owned(),
    }
}

fn similar_file(pipeline: &Path) -> Option<String> {
    let folder =
        pipeline.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let wanted = pipeline.file_name()?.to_str()?;
    let names = yaml_files(folder);
    match okapi_engine::suggest::nearest(wanted, names.iter().map(String::as_str)) {
        Some(near) => Some(format!("did you mean {}?", folder.join(near).display())),
        None if names.is_empty() => Some("`okapi init` writes one to begin with".to_owned()),
        None => Some(format!("there is: {}", names.join(", "))),
    }
}

fn first_pipeline_in(folder: &Path) -> Option<String> {
    let first = folder.join(yaml_files(folder).first()?);
    Some(format!("name a file in it, such as {}", first.display()))
}

/// The YAML files in a folder, sorted.
fn yaml_files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| is_yaml(name))
        .collect();
    names.sort();
    names
}

fn is_yaml(name: &str) -> bool {
    name.ends_with(".yaml") || name.ends_with(".yml")
}

/// Opens the project's store.
pub(crate) fn open_store(
    global: &Global,
    root: &Path,
    access: Access,
    durability: Durability,
) -> Result<Store, Failure> {
    let path = global.store.clone().unwrap_or_else(|| root.join(".okapi"));
    if access == Access::ReadOnly && !path.join("format").exists() {
        return Err(Failure::usage(format!("there is no store at {}", path.display()))
            .with_hint("`okapi run` makes one; name another by --store".to_owned()));
    }
    let store = Store::open(&path, access, durability)?;
    if store.damaged_log_bytes() > 0 {
        tracing::warn!(
            "{} bytes of the store's log are damaged; their results will be made anew",
            store.damaged_log_bytes()
        );
    }
    Ok(store)
}

/// Opens the project's store for a command that only looks, and need not be able to write.
pub(crate) fn open_store_to_look(global: &Global, root: &Path) -> Result<Store, Failure> {
    match open_store(global, root, Access::ReadWrite, Durability::Batch) {
        Ok(store) => Ok(store),
        Err(error) => {
            open_store(global, root, Access::ReadOnly, Durability::None).map_err(|_| error)
        }
    }
}

/// On what instances compute where the pipeline leaves that open.
pub(crate) enum Devices<'a> {
    /// On what this machine has.
    Here,
    /// On a GPU those, by name, whose results were computed on one elsewhere.
    AsRecorded(&'a dyn Fn(&str) -> bool),
}

/// Loads, checks and selects as [`prepare`] does, and believes nothing that was remembered: neither a checked graph nor
/// the digest of a file.
pub(crate) fn prepare_anew(
    global: &Global,
    arguments: &OverlayArgs,
    place: Place,
    registry: &StageRegistry,
    targets: &[String],
    devices: &Devices<'_>,
) -> Result<Loaded, Failure> {
    let mut graph = load_anew(global, arguments, &place, registry, None)?;
    match devices {
        Devices::Here => choose_places(&mut graph, registry, arguments),
        Devices::AsRecorded(is_on_gpu) => {
            device_choice::choose_as_recorded(&mut graph, registry, is_on_gpu);
        }
    }
    let selection = select(&graph, targets)?;
    let hash = |paths: &[PathBuf]| paths.iter().map(|path| hash_source(path)).collect();
    let sources = digest_sources(&place.root, &graph, &selection, hash)?;
    let forced = vec![false; graph.instances.len()];
    let passed_env = passed_env(&graph);
    Ok(Loaded { place, graph, selection, sources, passed_env, forced })
}

/// Loads, checks and selects. Mistakes are printed here.
pub(crate) fn prepare(
    global: &Global,
    arguments: &OverlayArgs,
    place: Place,
    registry: &StageRegistry,
    store: &Store,
    targets: &[String],
    force: &[String],
) -> Result<Loaded, Failure> {
    let key = graph_key(arguments, &place).digest(registry);
    let kept = graph_cache::get(store, &key);
    let was_kept = kept.is_some();
    let mut graph = match kept {
        Some(graph) => graph,
        None => load_anew(global, arguments, &place, registry, Some((store, &key)))?,
    };
    choose_places(&mut graph, registry, arguments);
    if was_kept {
        report_prompts(global, arguments, &place, registry, &graph)?;
    }
    let selection = select(&graph, targets)?;
    let remembered = |paths: &[PathBuf]| store.digest_sources(paths);
    let sources = match digest_sources(&place.root, &graph, &selection, remembered) {
        Ok(sources) => {
            if let Err(error) = store.save_source_digests() {
                tracing::info!("digests of tracked files are not kept: {error}");
            }
            sources
        }
        Err(error) => {
            // A tracked file has gone since the graph was kept: checking again says so properly.
            if was_kept {
                load_anew(global, arguments, &place, registry, None)?;
            }
            return Err(error);
        }
    };
    let mut forced = vec![false; graph.instances.len()];
    for target in force {
        let found = matching(&graph, target);
        if found.is_empty() {
            select(&graph, std::slice::from_ref(target))?;
        }
        found.into_iter().for_each(|id| forced[id as usize] = true);
    }
    let passed_env = passed_env(&graph);
    // A large file's text is not carried through a run: nothing looks at it any more.
    let place = Place { text: String::new(), ..place };
    Ok(Loaded { place, graph, selection, sources, passed_env, forced })
}

/// Decides where each instance is executed, and then on what it computes there.
fn choose_places(graph: &mut Graph, registry: &StageRegistry, arguments: &OverlayArgs) {
    placement::choose(graph, registry, arguments.executor.into());
    device_choice::choose(graph, registry, &machine(None));
}

fn graph_key<'a>(arguments: &'a OverlayArgs, place: &'a Place) -> GraphKey<'a> {
    GraphKey {
        text: place.digest,
        pipeline: &place.pipeline,
        project_root: place.root.to_str().unwrap_or_default(),
        profile: arguments.profile.as_deref(),
        overrides: &arguments.overrides,
    }
}

/// Checks the pipeline file; prints what is wrong with it.
fn load_anew(
    global: &Global,
    arguments: &OverlayArgs,
    place: &Place,
    registry: &StageRegistry,
    keep: Option<(&Store, &okapi_cache::Digest)>,
) -> Result<Graph, Failure> {
    let (graph, diagnostics) = check(arguments, place, registry);
    if !diagnostics.items.is_empty() {
        let color = ui::color::stderr(global.color);
        ui::output::note(crate::render::to_text(&diagnostics, color).trim_end());
    }
    let Some(graph) = graph else { return Err(Failure::silent(ExitCode::BadUsage)) };
    // A pipeline with warnings is checked each time, so that they are seen each time.
    if let Some((store, key)) = keep
        && diagnostics.items.is_empty()
        && let Err(error) = graph_cache::put(store, key, &graph)
    {
        tracing::info!("the checked pipeline is not kept: {error}");
    }
    Ok(graph)
}

/// Checks the pipeline file.
pub(crate) fn check(
    arguments: &OverlayArgs,
    place: &Place,
    registry: &StageRegistry,
) -> (Option<Graph>, Diagnostics) {
    let pipeline_dir = place.pipeline.rsplit_once('/').map_or("", |(folder, _)| folder);
    let request = LoadRequest {
        text: &place.text,
        file: &place.named,
        pipeline_dir,
        profile: arguments.profile.as_deref(),
        overrides: &arguments.overrides,
        project_root: &place.root,
    };
    let (graph, mut diagnostics) = load(request, registry);
    let Some(graph) = graph else { return (None, diagnostics) };
    let mistakes = prompts::check(&graph, registry, &place.root);
    let graph = mistakes.is_empty().then_some(graph);
    diagnostics.items.extend(mistakes);
    (graph, diagnostics)
}

/// Checks the prompt files of a graph that was kept: they may have changed since.
fn report_prompts(
    global: &Global,
    arguments: &OverlayArgs,
    place: &Place,
    registry: &StageRegistry,
    graph: &Graph,
) -> Result<(), Failure> {
    match prompts::check(graph, registry, &place.root).is_empty() {
        true => Ok(()),
        false => load_anew(global, arguments, place, registry, None).map(|_| ()),
    }
}

fn select(graph: &Graph, targets: &[String]) -> Result<Selection, Failure> {
    Selection::new(graph, targets).map_err(|unknown| {
        let messages: Vec<_> = unknown.iter().map(ToString::to_string).collect();
        let hint = unknown.into_iter().find_map(|it| it.hint);
        Failure::usage(messages.join("; ")).with_hint(hint)
    })
}

/// The artifacts of the sources that selected instances track; `digest` gives those of paths, in their order.
fn digest_sources(
    root: &Path,
    graph: &Graph,
    selection: &Selection,
    digest: impl Fn(&[PathBuf]) -> Vec<Result<Artifact, StoreError>>,
) -> Result<Vec<Option<Artifact>>, Failure> {
    let mut wanted = vec![false; graph.sources.len()];
    for (id, instance) in graph.instances.iter().enumerate().filter(|(id, _)| selection.needed[*id])
    {
        debug_assert!(selection.needed[id]);
        let prompts = instance.prompts.iter().map(|(_, source)| source);
        for &source in instance.files.iter().chain(prompts) {
            wanted[source as usize] = true;
        }
    }
    let ids: Vec<_> = (0..graph.sources.len()).filter(|&id| wanted[id]).collect();
    let paths: Vec<_> = ids.iter().map(|&id| root.join(&*graph.sources[id].path)).collect();
    let mut sources = vec![None; graph.sources.len()];
    for (id, found) in ids.into_iter().zip(digest(&paths)) {
        match found {
            Ok(artifact) => sources[id] = Some(artifact),
            Err(error @ (StoreError::Io { .. } | StoreError::Unstorable { .. })) => {
                return Err(Failure::usage(format!("a tracked file cannot be read: {error}")));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(sources)
}

fn passed_env(graph: &Graph) -> PassedEnv {
    let names = graph.nodes.iter().flat_map(|node| &node.pass_env);
    let value =
        |name: &String| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    names.map(|name| (name.clone(), value(name))).collect::<BTreeMap<_, _>>()
}

/// The machine, with `jobs` slots.
pub(crate) fn machine(jobs: Option<u32>) -> Machine {
    let visible = std::env::var(env_vars::CUDA_VISIBLE_DEVICES).ok();
    Machine::detect(jobs, visible.as_deref())
}

/// What commands are started with: they see nothing of `hidden` but the folders of this store in which they work.
/// `warn` is told if commands cannot be kept to that.
pub(crate) fn launcher(
    no_sandbox: bool,
    hidden: &[PathBuf],
    store: &Store,
    warn: &mut dyn FnMut(String),
) -> Launcher {
    let sandbox = if no_sandbox {
        None
    } else {
        let shown = [store.work_folders(), store.scratch_folders()];
        match Sandbox::new(hidden, &shown) {
            Ok(sandbox) => Some(Arc::new(sandbox)),
            Err(error @ SandboxError::Unsupported) => {
                tracing::info!("{error}");
                None
            }
            Err(error) => {
                warn(format!("no sandbox for commands: {error}"));
                None
            }
        }
    };
    Launcher::new(sandbox, std::env::current_exe().ok())
}

impl Loaded {
    /// What to evaluate.
    pub(crate) fn question<'a>(&'a self, machine: &'a Machine, store: &'a Store) -> Question<'a> {
        Question {
            graph: &self.graph,
            selection: &self.selection,
            sources: &self.sources,
            passed_env: &self.passed_env,
            forced: &self.forced,
            machine,
            store,
            elsewhere: &NOTHING_ELSEWHERE,
        }
    }
}

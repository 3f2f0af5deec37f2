//! `okapi get`, and how commands name an artifact.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use okapi_cache::{ActionDigest, Artifact, Placement, Store};
use okapi_engine::evaluate::{Evaluation, State, evaluate};
use okapi_engine::graph::Graph;

use crate::cli::{GetArgs, Global, PipelineArgs};
use crate::exit_code::ExitCode;
use crate::failure::Failure;
use crate::project::{self, Loaded};
use crate::ui::{format, output};

/// Copies an artifact out of the store.
pub(crate) fn get(global: &Global, arguments: &GetArgs) -> Result<ExitCode, Failure> {
    let found = find(global, &arguments.pipeline, &arguments.artifact)?;
    let destination = &arguments.destination;
    let cannot = |error: std::io::Error| {
        Failure::failed(format!("cannot write {}: {error}", destination.display()))
    };
    if fs::symlink_metadata(destination).is_ok() {
        if !arguments.overwrite {
            let message = format!("{} exists already", destination.display());
            return Err(Failure::usage(message)
                .with_hint("replace it by --overwrite, or name another place".to_owned()));
        }
    } else if let Some(folder) = destination.parent() {
        fs::create_dir_all(folder).map_err(cannot)?;
    }
    let name = destination.file_name().ok_or_else(|| {
        Failure::usage(format!("{} is no name for an artifact", destination.display()))
    })?;
    refuse_what_is_precious(&found, destination, name)?;
    // Placed beside and renamed: an interrupted copy leaves what was there.
    let beside = destination.with_file_name(format!(
        ".{}.okapi-{}",
        name.to_string_lossy(),
        std::process::id()
    ));
    let placed = found
        .store
        .place(&found.artifact, &beside, Placement::Private)
        .map_err(Failure::from)
        .and_then(|()| replace(&beside, destination).map_err(cannot));
    if placed.is_err() {
        // The first error is the one that matters.
        let _ = remove(&beside);
    }
    placed?;
    output::note(&format!("{}  {}", destination.display(), format::size(found.artifact.size)));
    Ok(ExitCode::Done)
}

/// A folder is replaced whole. That must not cost the store, or the project that it stands in.
fn refuse_what_is_precious(found: &Found, destination: &Path, name: &OsStr) -> Result<(), Failure> {
    let folder = destination.parent().filter(|it| !it.as_os_str().is_empty());
    let folder = fs::canonicalize(folder.unwrap_or(Path::new("."))).map_err(|error| {
        Failure::failed(format!("cannot open the folder of {}: {error}", destination.display()))
    })?;
    let real = folder.join(name);
    let store = fs::canonicalize(found.store.root()).unwrap_or(found.store.root().to_owned());
    let refuse = |what: String| {
        let message = format!("{} {what}", destination.display());
        Err(Failure::usage(message).with_hint("name another place".to_owned()))
    };
    if real.starts_with(&store) {
        return refuse("lies in the store".to_owned());
    }
    for (what, precious) in [("store", &store), ("project", &found.project)] {
        if precious.starts_with(&real) {
            return refuse(format!("holds the {what}, which would be lost"));
        }
    }
    Ok(())
}

fn replace(new: &Path, old: &Path) -> std::io::Result<()> {
    if old.is_dir() || new.is_dir() {
        remove(old)?;
    }
    fs::rename(new, old)
}

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

/// An artifact and where it was found.
pub(crate) struct Found {
    pub(crate) store: Store,
    pub(crate) artifact: Artifact,
    /// The project's root.
    project: PathBuf,
}

/// A result, found by its instance.
pub(crate) struct FoundResult {
    pub(crate) store: Store,
    pub(crate) action: ActionDigest,
    /// The instance's name.
    pub(crate) instance: String,
    first_output: usize,
    evaluation: Evaluation,
    loaded: Loaded,
}

/// Finds the artifact that `NODE[:PORT]` names, as the pipeline stands now.
pub(crate) fn find(global: &Global, pipeline: &PipelineArgs, name: &str) -> Result<Found, Failure> {
    let (instance, port) = split_port(name);
    let look = |graph: &Graph, id| port_index(graph, id, port);
    let (found, port) = find_result(global, pipeline, instance, look)?;
    let artifact = found.evaluation.artifacts[found.first_output + port];
    Ok(Found { store: found.store, artifact, project: found.loaded.place.root })
}

/// Finds the result of an instance, as the pipeline stands now. `look` is asked before anything is
/// said about the result.
pub(crate) fn find_result<T>(
    global: &Global,
    pipeline: &PipelineArgs,
    instance: &str,
    look: impl FnOnce(&Graph, u32) -> Result<T, Failure>,
) -> Result<(FoundResult, T), Failure> {
    let place = project::locate(global, &pipeline.pipeline)?;
    let registry = okapi_stages::registry();
    let store = project::open_store_to_look(global, &place.root)?;
    let targets = [instance.to_owned()];
    let loaded =
        project::prepare(global, &pipeline.overlay, place, &registry, &store, &targets, &[])?;
    let id = match loaded.selection.targets.as_slice() {
        [id] => *id,
        several => {
            let names: Vec<_> = several
                .iter()
                .take(5)
                .map(|&id| format!("'{}'", loaded.graph.instances[id as usize].name))
                .collect();
            let count = several.len();
            return Err(Failure::usage(format!("`{instance}` has {count} instances: name one"))
                .with_hint(format!("such as {}", names.join(", "))));
        }
    };
    let looked = look(&loaded.graph, id)?;
    let machine = project::machine(None);
    let evaluation = evaluate(&loaded.question(&machine, &store));
    let State::Cached { action, first_output, .. } = evaluation.states[id as usize] else {
        let message = format!("`{instance}` has no result as the pipeline stands now");
        return Err(Failure::failed(message)
            .with_hint(format!("run it: okapi run {} '{instance}'", pipeline.pipeline.display())));
    };
    let instance = loaded.graph.instances[id as usize].name.to_string();
    let first_output = first_output as usize;
    Ok((FoundResult { store, action, instance, first_output, evaluation, loaded }, looked))
}

/// `node[a=b]:port` into its two parts. A `:` inside brackets belongs to the instance.
pub(crate) fn split_port(name: &str) -> (&str, Option<&str>) {
    let after_brackets = name.rfind(']').map_or(0, |bracket| bracket + 1);
    match name[after_brackets..].split_once(':') {
        Some((rest, port)) => (&name[..after_brackets + rest.len()], Some(port)),
        None => (name, None),
    }
}

fn port_index(graph: &Graph, id: u32, port: Option<&str>) -> Result<usize, Failure> {
    let node = graph.node(id);
    let ports: Vec<_> = node.outputs.iter().map(|output| output.port.as_str()).collect();
    let listed = ports.join(", ");
    match port {
        None if ports.len() == 1 => Ok(0),
        None => Err(Failure::usage(format!("`{}` has several outputs: name one", node.name))
            .with_hint(format!("{}:PORT, with a port of: {listed}", node.name))),
        Some(port) => ports.iter().position(|it| *it == port).ok_or_else(|| {
            Failure::usage(format!("`{}` has no output `{port}`", node.name))
                .with_hint(format!("its outputs: {listed}"))
        }),
    }
}

//! Recorded results -> a bundle.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use okapi_cache::{Artifact, ArtifactKind, Digest, Placement, Store, hash_source};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    ACTIONS, BUNDLE, Bundle, BundleError, BundledNode, LISTS, OBJECTS, PROJECT, PUBLISHED, Private,
    VERSION, entries_below, files_below, line_of_list, ro_crate, sha256,
};
use crate::audit::{AuditQuestion, Recorded};
use crate::graph::{InstanceId, parse_instance_name};

/// The files that say again what `bundle.json` says.
pub(super) const COSTS: &str = "costs.json";
pub(super) const README: &str = "README.md";
/// On what it was made.
pub(super) const ENVIRONMENT: &str = "environment.json";

/// What goes into a bundle.
pub struct Export<'a> {
    /// What is shown.
    pub question: AuditQuestion<'a>,
    /// Its results; every selected instance has one.
    pub recorded: &'a [Option<Recorded>],
    /// The project's root.
    pub project_root: &'a Path,
    /// The pipeline file, from the project's root.
    pub pipeline: &'a str,
    /// The profile, if any.
    pub profile: Option<&'a str>,
    /// `--set` arguments.
    pub set: &'a [String],
    /// The nodes asked for; empty for all.
    pub targets: &'a [String],
    /// okapi's version and source revision.
    pub okapi: &'a str,
    /// The machine that writes the bundle.
    pub environment: Value,
    /// What `bundle.json` says of the license and of who made it.
    pub license: Option<&'a str>,
    /// Who made it, if that is to be said.
    pub author: Option<&'a str>,
    /// What must not be in it.
    pub private: &'a Private,
}

/// What of a `declared` object a bundle repeats.
#[derive(Deserialize)]
struct Declared {
    stage_version: u32,
}

/// Writes a bundle to a folder that is not there yet; nothing is left of one that cannot be written. Gives the number of its
/// files and their bytes.
///
/// # Errors
/// When it would hold what is private, a result is missing, or files cannot be read or written.
pub fn export(request: &Export<'_>, folder: &Path) -> Result<(u64, u64), BundleError> {
    if folder.exists() {
        return Err(BundleError::InTheWay { path: folder.to_owned() });
    }
    let written = write(request, folder);
    if written.is_err() {
        // The first error is the one that matters.
        let _ = fs::remove_dir_all(folder);
    }
    written
}

fn write(request: &Export<'_>, folder: &Path) -> Result<(u64, u64), BundleError> {
    let bundle = Bundle {
        okapi_bundle: VERSION,
        okapi: request.okapi.to_owned(),
        name: request.question.graph.name.clone(),
        pipeline: request.pipeline.to_owned(),
        profile: request.profile.map(str::to_owned),
        set: request.set.to_vec(),
        targets: request.targets.to_vec(),
        license: request.license.map(str::to_owned),
        author: request.author.map(str::to_owned),
        nodes: nodes(&request.question, request.recorded)?,
    };
    for part in [ACTIONS, OBJECTS, PROJECT, PUBLISHED] {
        let path = folder.join(part);
        fs::create_dir_all(&path).map_err(|error| BundleError::io(&path, error))?;
    }
    copy_project(request, &folder.join(PROJECT))?;
    copy_results(request, folder)?;
    write_json(&folder.join(BUNDLE), &bundle)?;
    write_json(&folder.join(ENVIRONMENT), &environment(&bundle, &request.environment))?;
    write_json(&folder.join(COSTS), &costs(&bundle))?;
    write_text(&folder.join(README), &readme(&bundle))?;
    write_json(&folder.join(ro_crate::METADATA), &ro_crate::metadata(&bundle, folder)?)?;
    request.private.search(folder)?;
    search_for_paths(request, folder)?;
    write_lists(folder)
}

/// Scripts and prompts that are longer are not searched for paths.
const LONGEST_SCRIPT: u64 = 4 << 20;

/// Looks for paths of this machine in all that users write: the pipeline, prompts, tracked files of commands, what was set, and
/// what came of them in documents. Data that is brought in may speak of any path.
fn search_for_paths(request: &Export<'_>, folder: &Path) -> Result<(), BundleError> {
    let private = request.private;
    let graph = request.question.graph;
    let mut written = BTreeSet::from([request.pipeline.to_owned()]);
    let selected = (0..).zip(&graph.instances).filter(|it| request.recorded[it.0].is_some());
    for (id, instance) in selected {
        let is_command = graph.node(id as InstanceId).stage == "command";
        let files = instance.files.iter().filter(|_| is_command);
        let prompts = instance.prompts.iter().map(|(_, id)| id);
        for source in files.chain(prompts) {
            let path = &*graph.sources[*source as usize].path;
            let inside = |file: &String| {
                if file.is_empty() { path.to_owned() } else { format!("{path}/{file}") }
            };
            match folder.join(PROJECT).join(path).is_dir() {
                true => written
                    .extend(files_below(&folder.join(PROJECT).join(path))?.iter().map(inside)),
                false => drop(written.insert(path.to_owned())),
            }
        }
    }
    for name in written {
        let path = folder.join(PROJECT).join(&name);
        let io = |error| BundleError::io(&path, error);
        if fs::metadata(&path).map_err(io)?.len() > LONGEST_SCRIPT {
            continue;
        }
        // What is no text names no path to a reader.
        if let Ok(text) = String::from_utf8(fs::read(&path).map_err(io)?) {
            private.search_for_paths(&text, &format!("{PROJECT}/{name}"))?;
        }
    }
    for set in request.set {
        private.search_for_paths(set, BUNDLE)?;
    }
    for recorded in request.recorded.iter().flatten() {
        let Some(stored) = &recorded.stored else { continue };
        let file = format!("{ACTIONS}/{}.json", recorded.action);
        let document: Value = serde_json::from_str(&stored.document).unwrap_or_default();
        let mut values = vec![&document];
        while let Some(value) = values.pop() {
            match value {
                Value::String(text) => private.search_for_paths(text, &file)?,
                Value::Array(items) => values.extend(items),
                Value::Object(members) => values.extend(members.values()),
                _ => {}
            }
        }
    }
    Ok(())
}

/// What `bundle.json` says of the selected instances.
pub(super) fn nodes(
    question: &AuditQuestion<'_>,
    recorded: &[Option<Recorded>],
) -> Result<Vec<BundledNode>, BundleError> {
    let AuditQuestion { graph, selection, .. } = *question;
    let mut nodes = Vec::new();
    for (id, instance) in graph.instances.iter().enumerate().filter(|it| selection.needed[it.0]) {
        let name = &*instance.name;
        let nothing = || BundleError::NoResult { node: name.to_owned() };
        let recorded = recorded[id].as_ref().ok_or_else(nothing)?;
        let stored = recorded.stored.as_ref().ok_or_else(nothing)?;
        let node = graph.node(id as InstanceId);
        let declared: Option<Declared> = serde_json::from_str(&instance.declared).ok();
        let ports = node.outputs.iter().map(|output| output.port.clone());
        let mut result = stored.info.clone();
        // Where it was made is nobody's business, and logs are for who made it.
        result.environment.remove("host");
        result.log = None;
        let inputs = instance.inputs.iter().map(|input| {
            let feed = |feed: &crate::graph::Feed| {
                let port = &graph.node(feed.instance).outputs[usize::from(feed.port)].port;
                format!("{}:{port}", graph.instances[feed.instance as usize].name)
            };
            (input.port.to_string(), input.feeds.iter().map(feed).collect())
        });
        let mut published: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for entry in graph.publish.iter().filter(|entry| entry.instance as usize == id) {
            let port = node.outputs[usize::from(entry.port)].port.clone();
            published.entry(port).or_default().push(entry.path.to_string());
        }
        nodes.push(BundledNode {
            node: name.to_owned(),
            stage: node.stage.clone(),
            stage_version: declared.map_or(0, |it| it.stage_version),
            action: recorded.action,
            inputs: inputs.collect(),
            outputs: ports.zip(recorded.outputs.iter().copied()).collect(),
            published,
            result,
        });
    }
    Ok(nodes)
}

/// The pipeline file and all that it tracks, where they lie.
fn copy_project(request: &Export<'_>, to: &Path) -> Result<(), BundleError> {
    let AuditQuestion { graph, sources, .. } = request.question;
    let tracked = graph.sources.iter().zip(sources).filter(|(_, artifact)| artifact.is_some());
    let mut paths: BTreeSet<&str> = tracked.map(|(source, _)| &*source.path).collect();
    paths.insert(request.pipeline);
    for path in paths {
        copy(&request.project_root.join(path), &to.join(path))?;
    }
    Ok(())
}

/// Copies a file, or a folder with the links and empty folders in it.
fn copy(from: &Path, to: &Path) -> Result<(), BundleError> {
    if from.is_dir() {
        fs::create_dir_all(to).map_err(|error| BundleError::io(to, error))?;
        for (name, kind) in entries_below(from)? {
            let (from, to) = (from.join(&name), to.join(&name));
            if kind.is_dir() {
                // It is empty.
                fs::create_dir_all(&to).map_err(|error| BundleError::io(&to, error))?;
                continue;
            }
            if !kind.is_symlink() {
                copy(&from, &to)?;
                continue;
            }
            let folder = to.parent().unwrap_or(&to);
            let link = || {
                fs::create_dir_all(folder)?;
                std::os::unix::fs::symlink(fs::read_link(&from)?, &to)
            };
            link().map_err(|error| BundleError::io(&from, error))?;
        }
        return Ok(());
    }
    let folder = to.parent().unwrap_or(to);
    fs::create_dir_all(folder).map_err(|error| BundleError::io(folder, error))?;
    fs::copy(from, to).map(|_| ()).map_err(|error| match error.kind() {
        // Where there is no room is of more use than what was to be copied.
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => BundleError::io(to, error),
        _ => BundleError::io(from, error),
    })
}

/// Documents, small objects and published outputs.
fn copy_results(request: &Export<'_>, folder: &Path) -> Result<(), BundleError> {
    let AuditQuestion { graph, store, .. } = request.question;
    for recorded in request.recorded.iter().flatten() {
        let Some(stored) = &recorded.stored else { continue };
        let path = folder.join(ACTIONS).join(format!("{}.json", recorded.action));
        write_text(&path, &stored.document)?;
        for kept in &stored.info.keeps {
            copy_objects(store, kept, folder)?;
        }
        for output in recorded.outputs.iter().filter(|it| it.kind == ArtifactKind::Tree) {
            copy_object(store, &output.digest, folder)?;
        }
    }
    for entry in &graph.publish {
        let Some(recorded) = &request.recorded[entry.instance as usize] else { continue };
        let path = folder.join(PUBLISHED).join(&*entry.path);
        let parent = path.parent().unwrap_or(&path);
        fs::create_dir_all(parent).map_err(|error| BundleError::io(parent, error))?;
        store.place(&recorded.outputs[usize::from(entry.port)], &path, Placement::Private)?;
    }
    Ok(())
}

/// An artifact's objects, all of them.
fn copy_objects(store: &Store, artifact: &Artifact, folder: &Path) -> Result<(), BundleError> {
    copy_object(store, &artifact.digest, folder)?;
    if artifact.kind == ArtifactKind::Tree {
        for (_, digest) in store.read_tree(&artifact.digest)?.files() {
            copy_object(store, digest, folder)?;
        }
    }
    Ok(())
}

fn copy_object(store: &Store, digest: &Digest, folder: &Path) -> Result<(), BundleError> {
    let to = folder.join(OBJECTS).join(digest.to_string());
    match to.exists() {
        true => Ok(()),
        false => copy(&store.object_path(digest), &to),
    }
}

/// On what the bundle was written, and on what its results were made.
pub(super) fn environment(bundle: &Bundle, written_by: &Value) -> Value {
    let environments: BTreeSet<&BTreeMap<String, String>> =
        bundle.nodes.iter().map(|node| &node.result.environment).collect();
    json!({"written_by": written_by, "results_made_by": environments})
}

/// Time and money by node, and in all.
pub(super) fn costs(bundle: &Bundle) -> Value {
    let mut by_node: BTreeMap<&str, (u64, u64, u64)> = BTreeMap::new();
    for node in &bundle.nodes {
        let (name, _) = parse_instance_name(&node.node);
        let sums = by_node.entry(name).or_default();
        *sums = (
            sums.0 + 1,
            sums.1 + node.result.duration_ms,
            sums.2 + node.result.cost_micro_usd.unwrap_or(0),
        );
    }
    let all = |of: fn(&(u64, u64, u64)) -> u64| by_node.values().map(of).sum::<u64>();
    let nodes: serde_json::Map<String, Value> = by_node
        .iter()
        .map(|(name, (instances, ms, micro_usd))| {
            let costs =
                json!({"instances": instances, "duration_ms": ms, "cost_micro_usd": micro_usd});
            ((*name).to_owned(), costs)
        })
        .collect();
    json!({"nodes": nodes, "duration_ms": all(|it| it.1), "cost_micro_usd": all(|it| it.2)})
}

pub(super) fn readme(bundle: &Bundle) -> String {
    let mut text = format!(
        "# {}\n\nWhat was run and what came of it, by okapi {}: {} nodes of the pipeline `project/{}`.\n\n\
         Check every byte with any program: `b3sum --check digests.b3` or `sha256sum --check digests.sha256`. Check that each \
         action follows from the pipeline, the prompts and the results above it: `okapi audit FOLDER`.\n\n\
         | | |\n|---|---|\n\
         | `bundle.json` | each node: action, inputs, digests of outputs, what was measured |\n\
         | `actions/` | the document of each action, named by the BLAKE3 of its bytes |\n\
         | `project/` | the pipeline, its prompts and tracked files |\n\
         | `published/` | the published outputs |\n\
         | `objects/` | lineages and lists of files, named by the BLAKE3 of their bytes |\n\
         | `environment.json`, `costs.json` | on what it was made, and what that took |\n\
         | `ro-crate-metadata.json` | the same as a Provenance Run Crate (RO-Crate 1.1, Workflow Run RO-Crate 0.5) |\n\n\
         Outputs that are not published are named by digest only. What was measured (metrics, times, costs), on what, and that an output really comes out \
         of its action is the word of whoever made this: who has the pipeline and the time can execute it again. \
         Values of variables that commands were passed (`pass_env`) are not here, but the BLAKE3 of each is part of its actions: who can \
         guess a value can tell that it was this one.\n",
        bundle.name,
        bundle.okapi,
        bundle.nodes.len(),
        bundle.pipeline,
    );
    if let Some(made_with) = bundle.made_with() {
        // Writing to a string never fails.
        let _ =
            writeln!(text, "\nNot the whole pipeline as its file has it, but with `{made_with}`.");
    }
    if bundle.nodes.iter().any(|node| !node.published.is_empty()) {
        text.push_str("\n| published | made by |\n|---|---|\n");
        for node in &bundle.nodes {
            for (port, path) in node
                .published
                .iter()
                .flat_map(|(port, paths)| paths.iter().map(move |it| (port, it)))
            {
                // Writing to a string never fails.
                let _ = writeln!(text, "| [{path}](published/{path}) | `{}:{port}` |", node.node);
            }
        }
    }
    text
}

/// The digests of all other files, in the forms that `b3sum` and `sha256sum` check.
fn write_lists(folder: &Path) -> Result<(u64, u64), BundleError> {
    let (mut b3, mut sha256s, mut bytes) = (String::new(), String::new(), 0);
    let files = files_below(folder)?;
    for file in &files {
        let path = folder.join(file);
        let found = hash_source(&path)?;
        // Writing to a string never fails.
        let _ = writeln!(b3, "{}", line_of_list(&found.digest.to_string(), file));
        let _ = writeln!(sha256s, "{}", line_of_list(&sha256(&path)?, file));
        bytes += found.size;
    }
    for (name, text) in LISTS.iter().zip([b3, sha256s]) {
        write_text(&folder.join(name), &text)?;
    }
    Ok(((files.len() + LISTS.len()) as u64, bytes))
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), BundleError> {
    let mut text =
        serde_json::to_string_pretty(value).map_err(|error| BundleError::io(path, error.into()))?;
    text.push('\n');
    write_text(path, &text)
}

fn write_text(path: &Path, text: &str) -> Result<(), BundleError> {
    fs::write(path, text).map_err(|error| BundleError::io(path, error))
}

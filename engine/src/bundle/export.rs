//! Recorded results -> a bundle.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use okapi_cache::{Artifact, ArtifactKind, Digest, Placement, Store};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::Digest as _;

use super::{
    ACTIONS, BUNDLE, Bundle, BundleError, BundledNode, LISTS, OBJECTS, PROJECT, PUBLISHED, Private,
    VERSION, files_below, hex, ro_crate,
};
use crate::audit::{AuditQuestion, Recorded};
use crate::graph::InstanceId;

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
    /// The license of what is in it, as SPDX names it, if one is stated.
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

/// Writes a bundle to a folder that is not there yet; it is there whole or not at all. Gives the number of its files and
/// their bytes.
///
/// # Errors
/// When it would hold what is private, a result is missing, or files cannot be read or written.
pub fn export(request: &Export<'_>, folder: &Path) -> Result<(u64, u64), BundleError> {
    if folder.exists() {
        return Err(BundleError::InTheWay { path: folder.to_owned() });
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let temp = folder.with_file_name(format!(".{name}.okapi-{}", std::process::id()));
    let written = write(request, &temp).and_then(|counts| {
        fs::rename(&temp, folder).map_err(|error| BundleError::io(folder, error))?;
        Ok(counts)
    });
    if written.is_err() {
        // The first error is the one that matters.
        let _ = fs::remove_dir_all(&temp);
    }
    written
}

fn write(request: &Export<'_>, folder: &Path) -> Result<(u64, u64), BundleError> {
    let bundle = describe(request)?;
    for part in [ACTIONS, OBJECTS, PROJECT, PUBLISHED] {
        let path = folder.join(part);
        fs::create_dir_all(&path).map_err(|error| BundleError::io(&path, error))?;
    }
    copy_project(request, &folder.join(PROJECT))?;
    copy_results(request, folder)?;
    write_json(&folder.join(BUNDLE), &bundle)?;
    let environments: BTreeSet<&BTreeMap<String, String>> =
        bundle.nodes.iter().map(|node| &node.result.environment).collect();
    let environment = json!({"written_by": request.environment, "results_made_by": environments});
    write_json(&folder.join("environment.json"), &environment)?;
    write_json(&folder.join("costs.json"), &costs(&bundle))?;
    write_text(&folder.join("README.md"), &readme(request, &bundle))?;
    let files = files_below(folder)?;
    let metadata = ro_crate::metadata(request, &bundle, folder, &files)?;
    write_json(&folder.join("ro-crate-metadata.json"), &metadata)?;
    request.private.search(folder)?;
    write_lists(folder)
}

/// What `bundle.json` says.
fn describe(request: &Export<'_>) -> Result<Bundle, BundleError> {
    let AuditQuestion { graph, selection, .. } = request.question;
    let mut nodes = Vec::new();
    for (id, instance) in graph.instances.iter().enumerate().filter(|it| selection.needed[it.0]) {
        let name = &*instance.name;
        let nothing = || BundleError::NoResult { node: name.to_owned() };
        let recorded = request.recorded[id].as_ref().ok_or_else(nothing)?;
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
        let published = graph.publish.iter().filter(|entry| entry.instance as usize == id);
        let published = published.map(|entry| {
            (node.outputs[usize::from(entry.port)].port.clone(), entry.path.to_string())
        });
        nodes.push(BundledNode {
            node: name.to_owned(),
            stage: node.stage.clone(),
            stage_version: declared.map_or(0, |it| it.stage_version),
            action: recorded.action,
            inputs: inputs.collect(),
            outputs: ports.zip(recorded.outputs.iter().copied()).collect(),
            published: published.collect(),
            result,
        });
    }
    Ok(Bundle {
        okapi_bundle: VERSION,
        okapi: request.okapi.to_owned(),
        name: graph.name.clone(),
        pipeline: request.pipeline.to_owned(),
        profile: request.profile.map(str::to_owned),
        set: request.set.to_vec(),
        targets: request.targets.to_vec(),
        nodes,
    })
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

fn copy(from: &Path, to: &Path) -> Result<(), BundleError> {
    if from.is_dir() {
        fs::create_dir_all(to).map_err(|error| BundleError::io(to, error))?;
        for file in files_below(from)? {
            copy(&from.join(&file), &to.join(&file))?;
        }
        return Ok(());
    }
    let folder = to.parent().unwrap_or(to);
    fs::create_dir_all(folder).map_err(|error| BundleError::io(folder, error))?;
    fs::copy(from, to).map_err(|error| BundleError::io(from, error)).map(|_| ())
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

/// Time and money by node, and in all.
fn costs(bundle: &Bundle) -> Value {
    let mut by_node: BTreeMap<&str, (u64, u64, u64)> = BTreeMap::new();
    for node in &bundle.nodes {
        let name = node.node.split('[').next().unwrap_or(&node.node);
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

fn readme(request: &Export<'_>, bundle: &Bundle) -> String {
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
         Outputs that are not published are named by digest only.\n",
        bundle.name,
        bundle.okapi,
        bundle.nodes.len(),
        bundle.pipeline,
    );
    if !request.question.graph.publish.is_empty() {
        text.push_str("\n| published | made by |\n|---|---|\n");
        for node in &bundle.nodes {
            for (port, path) in &node.published {
                // Writing to a string never fails.
                let _ = writeln!(text, "| [{path}](published/{path}) | `{}:{port}` |", node.node);
            }
        }
    }
    text
}

/// The digests of all other files, in the forms that `b3sum` and `sha256sum` check.
fn write_lists(folder: &Path) -> Result<(u64, u64), BundleError> {
    let (mut b3, mut sha256, mut bytes) = (String::new(), String::new(), 0);
    let files = files_below(folder)?;
    for file in &files {
        let path = folder.join(file);
        let content = fs::read(&path).map_err(|error| BundleError::io(&path, error))?;
        // Writing to a string never fails.
        let _ = writeln!(b3, "{}  {file}", Digest::of(&content));
        let _ = writeln!(sha256, "{}  {file}", hex(&sha2::Sha256::digest(&content)));
        bytes += content.len() as u64;
    }
    for (name, text) in LISTS.iter().zip([b3, sha256]) {
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

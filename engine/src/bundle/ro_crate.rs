//! A bundle as a Provenance Run Crate, for programs of others: Workflow Run RO-Crate 0.5 on RO-Crate 1.1
//! (<https://w3id.org/ro/wfrun/provenance/0.5>).
//!
//! The pipeline is the workflow, a node is a step of it, a stage the tool of the step. Each instance is a `CreateAction` of its tool,
//! and a `ControlAction` that says of which step. Outputs that are not in the bundle are named by `urn:okapi:blake3:<digest>`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use okapi_cache::{Artifact, ArtifactKind, Digest};
use serde_json::{Value, json};

use super::{BUNDLE, Bundle, BundleError, BundledNode, LISTS, PUBLISHED, files_below, sha256};
use crate::clock::iso_utc;
use crate::graph::parse_instance_name;

/// The file that makes a folder a crate.
pub(super) const METADATA: &str = "ro-crate-metadata.json";

const PROFILES: [(&str, &str); 3] = [
    ("https://w3id.org/ro/wfrun/process/0.5", "Process Run Crate"),
    ("https://w3id.org/ro/wfrun/workflow/0.5", "Workflow Run Crate"),
    ("https://w3id.org/ro/wfrun/provenance/0.5", "Provenance Run Crate"),
];
const WORKFLOW_CRATE: &str = "https://w3id.org/workflowhub/workflow-ro-crate/1.0";
const PARAMETER: &str = "https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE";
/// The form of pipeline files.
const LANGUAGE: &str = "urn:okapi:pipeline:1";
/// The engine.
const ENGINE: &str = "urn:okapi:engine";

/// The metadata of a bundle whose files lie in `folder` already.
pub(super) fn metadata(bundle: &Bundle, folder: &Path) -> Result<Value, BundleError> {
    let not_described = [METADATA, LISTS[0], LISTS[1]];
    let mut files = files_below(folder)?;
    files.retain(|file| !not_described.contains(&file.as_str()));
    let workflow = format!("project/{}", bundle.pipeline);
    let ended = bundle.nodes.iter().map(|node| node.result.finished_unix_ms).max().unwrap_or(0);
    let began = bundle.nodes.iter().map(began_ms).min().unwrap_or(0);
    let mut graph = Vec::new();
    let places = Places::of(bundle);
    let elsewhere: Vec<Value> = places.elsewhere().collect();
    let parts = files.iter().map(|file| iri(file).into());
    let parts = parts.chain(elsewhere.iter().map(|entity| entity["@id"].clone()));
    about(bundle, parts, &workflow, ended, &mut graph);
    let makers: BTreeMap<&str, &BundledNode> =
        bundle.nodes.iter().map(|node| (&*node.node, node)).collect();
    steps(bundle, &workflow, &mut graph);
    for node in &bundle.nodes {
        actions(&makers, node, &places, bundle.author.is_some(), &mut graph);
    }
    let all: Vec<Value> =
        bundle.nodes.iter().map(|node| json!({"@id": control(&node.node)})).collect();
    let results: Vec<Value> = places.published.iter().map(|id| json!({"@id": id})).collect();
    let tracked = files.iter().filter(|file| file.starts_with("project/") && **file != workflow);
    let tracked: Vec<Value> = tracked.map(|file| json!({"@id": iri(file)})).collect();
    let mut run = json!({
        "@id": "#run", "@type": "CreateAction", "name": format!("a run of {}", bundle.name),
        "description": "the whole of the pipeline",
        "instrument": {"@id": iri(&workflow)}, "object": tracked, "result": results,
        "startTime": iso_utc(began), "endTime": iso_utc(ended),
        "actionStatus": "http://schema.org/CompletedActionStatus",
    });
    let mut organize = json!({
        "@id": "#organize", "@type": "OrganizeAction", "name": "okapi",
        "instrument": {"@id": ENGINE}, "object": all, "result": {"@id": "#run"},
        "startTime": iso_utc(began), "endTime": iso_utc(ended),
    });
    if bundle.author.is_some() {
        run["agent"] = json!({"@id": "#author"});
        organize["agent"] = json!({"@id": "#author"});
    }
    graph.extend([run, organize]);
    graph.extend(elsewhere);
    for file in &files {
        let entity = file_entity(folder, file, &places)?;
        match graph.iter_mut().find(|it| **file == workflow && it["@id"] == entity["@id"]) {
            // It is described as a workflow already.
            Some(it) => {
                it["sha256"] = entity["sha256"].clone();
                it["contentSize"] = entity["contentSize"].clone();
            }
            None => graph.push(entity),
        }
    }
    Ok(json!({
        "@context": ["https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/terms/workflow-run/context"],
        "@graph": graph,
    }))
}

/// The crate, its profiles, its license and who made it.
fn about(
    bundle: &Bundle,
    parts: impl Iterator<Item = Value>,
    workflow: &str,
    ended: u64,
    graph: &mut Vec<Value>,
) {
    let profile = |id: &str| json!({"@id": id});
    let profiles: Vec<Value> =
        PROFILES.iter().map(|(id, _)| profile(id)).chain([profile(WORKFLOW_CRATE)]).collect();
    graph.push(json!({
        "@id": METADATA, "@type": "CreativeWork", "about": {"@id": "./"},
        "conformsTo": [{"@id": "https://w3id.org/ro/crate/1.1"}, {"@id": WORKFLOW_CRATE}],
    }));
    let parts: Vec<Value> = parts.map(|id| json!({"@id": id})).collect();
    let actions = bundle.nodes.iter().map(|node| json!({"@id": action(&node.node)}));
    let mentions: Vec<Value> = [json!({"@id": "#run"})].into_iter().chain(actions).collect();
    let license = match bundle.license.as_deref() {
        Some(license) => format!("https://spdx.org/licenses/{license}"),
        None => "#license".to_owned(),
    };
    let mut root = json!({
        "@id": "./", "@type": "Dataset", "name": bundle.name,
        "description": format!("A run of the okapi pipeline {}: what was done, from what, and what came of it", bundle.pipeline),
        "datePublished": iso_utc(ended), "license": {"@id": license}, "conformsTo": profiles, "hasPart": parts,
        "mainEntity": {"@id": iri(workflow)}, "mentions": mentions,
    });
    if let Some(author) = bundle.author.as_deref() {
        root["author"] = json!({"@id": "#author"});
        graph.push(json!({"@id": "#author", "@type": "Person", "name": author}));
    }
    graph.push(root);
    for (id, name) in PROFILES {
        graph.push(json!({"@id": id, "@type": "CreativeWork", "name": name, "version": "0.5"}));
    }
    graph.push(json!({"@id": WORKFLOW_CRATE, "@type": "CreativeWork", "name": "Workflow RO-Crate", "version": "1.0"}));
    graph.push(json!({"@id": PARAMETER, "@type": "CreativeWork", "name": "FormalParameter", "version": "1.0-RELEASE"}));
    let name = bundle.license.as_deref().unwrap_or("no license is stated");
    graph.push(json!({"@id": license, "@type": "CreativeWork", "name": name}));
    graph.push(json!({
        "@id": ENGINE, "@type": "SoftwareApplication", "name": "okapi", "softwareVersion": bundle.okapi,
    }));
}

/// The workflow with its steps, the tools of these, and what it gives.
fn steps(bundle: &Bundle, workflow: &str, graph: &mut Vec<Value>) {
    let mut stages: BTreeMap<String, &str> = BTreeMap::new();
    let mut nodes: Vec<(&str, String)> = Vec::new();
    for node in &bundle.nodes {
        let tool = tool(node);
        stages.insert(tool.clone(), &node.stage);
        let name = name_of_node(&node.node);
        if !nodes.iter().any(|(other, _)| *other == name) {
            nodes.push((name, tool));
        }
    }
    let ids = |ids: Vec<String>| ids.into_iter().map(|id| json!({"@id": id})).collect::<Vec<_>>();
    let ports = bundle.nodes.iter().flat_map(published).map(|(_, path)| port(path));
    let ports: Vec<String> = ports.collect();
    graph.push(json!({
        "@id": iri(workflow), "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
        "name": bundle.name, "encodingFormat": "application/yaml", "programmingLanguage": {"@id": LANGUAGE},
        "hasPart": ids(stages.keys().cloned().collect()),
        "step": ids(nodes.iter().map(|(name, _)| step(name)).collect()),
        "input": [], "output": ids(ports),
    }));
    graph.push(json!({
        "@id": LANGUAGE, "@type": ["ComputerLanguage", "SoftwareApplication"], "name": "okapi pipeline",
        "identifier": LANGUAGE, "version": bundle.okapi,
    }));
    for (place, (name, tool)) in nodes.iter().enumerate() {
        graph.push(json!({
            "@id": step(name), "@type": "HowToStep", "name": name, "position": place.to_string(),
            "workExample": {"@id": tool},
        }));
    }
    for (id, stage) in &stages {
        let version = id.rsplit(':').next().unwrap_or_default();
        graph.push(json!({
            "@id": id, "@type": "SoftwareApplication", "name": format!("okapi's stage {stage}"),
            "softwareVersion": version,
        }));
    }
    for node in &bundle.nodes {
        for (name, path) in published(node) {
            let kind = match node.outputs.get(name).map(|it| it.kind) {
                Some(ArtifactKind::Tree) => "Dataset",
                _ => "File",
            };
            graph.push(json!({
                "@id": port(path), "@type": "FormalParameter", "name": path, "additionalType": kind,
                "conformsTo": {"@id": PARAMETER},
            }));
        }
    }
}

/// What an instance did, and of which step it is.
fn actions(
    makers: &BTreeMap<&str, &BundledNode>,
    node: &BundledNode,
    places: &Places<'_>,
    has_author: bool,
    graph: &mut Vec<Value>,
) {
    let inputs = node.inputs.values().flatten().filter_map(|from| {
        let (instance, port) = from.rsplit_once(':')?;
        makers.get(instance)?.outputs.get(port)
    });
    let mut read: Vec<String> = inputs.map(|artifact| places.id(artifact)).collect();
    read.sort();
    read.dedup();
    // Its own files, where others are the same.
    let made = node.outputs.iter().flat_map(|(name, artifact)| match node.published.get(name) {
        Some(paths) => paths.iter().map(|path| place_of(path, artifact)).collect(),
        None => vec![places.id(artifact)],
    });
    let made: BTreeSet<String> = made.collect();
    let ids = |ids: Vec<String>| ids.into_iter().map(|id| json!({"@id": id})).collect::<Vec<_>>();
    let id = action(&node.node);
    let mut entity = json!({
        "@id": id, "@type": "CreateAction", "name": node.node, "identifier": format!("blake3:{}", node.action),
        "description": format!("{} of the node {}", node.stage, name_of_node(&node.node)),
        "instrument": {"@id": tool(node)}, "object": ids(read), "result": ids(made.into_iter().collect()),
        "startTime": iso_utc(began_ms(node)), "endTime": iso_utc(node.result.finished_unix_ms),
        "actionStatus": "http://schema.org/CompletedActionStatus",
        "subjectOf": {"@id": format!("actions/{}.json", node.action)},
    });
    if has_author {
        entity["agent"] = json!({"@id": "#author"});
    }
    graph.push(entity);
    graph.push(json!({
        "@id": control(&node.node), "@type": "ControlAction", "name": format!("runs {}", node.node),
        "instrument": {"@id": step(name_of_node(&node.node))}, "object": {"@id": id},
    }));
}

/// Where artifacts are: at a path of the bundle, or elsewhere.
struct Places<'a> {
    in_bundle: BTreeMap<Digest, String>,
    /// Of published outputs.
    published: Vec<String>,
    all: BTreeMap<Digest, (&'a Artifact, String)>,
    /// Which published path is which parameter of the workflow.
    ports: BTreeMap<String, String>,
}

impl Places<'_> {
    fn of(bundle: &Bundle) -> Places<'_> {
        let mut places = Places {
            in_bundle: BTreeMap::new(),
            published: Vec::new(),
            all: BTreeMap::new(),
            ports: BTreeMap::new(),
        };
        for node in &bundle.nodes {
            for (name, artifact) in &node.outputs {
                let said = format!("output {name} of {}", node.node);
                places.all.entry(artifact.digest).or_insert((artifact, said));
                for path in node.published.get(name).into_iter().flatten() {
                    let id = place_of(path, artifact);
                    places.in_bundle.insert(artifact.digest, id.clone());
                    places.ports.insert(id.clone(), port(path));
                    places.published.push(id);
                }
            }
        }
        places
    }

    fn id(&self, artifact: &Artifact) -> String {
        let elsewhere = || format!("urn:okapi:blake3:{}", artifact.digest);
        self.in_bundle.get(&artifact.digest).cloned().unwrap_or_else(elsewhere)
    }

    /// Entities of outputs that are no single file of the bundle.
    fn elsewhere(&self) -> impl Iterator<Item = Value> {
        self.all.values().filter_map(|(artifact, said)| {
            let id = self.id(artifact);
            let kind = if artifact.kind == ArtifactKind::Tree { "Dataset" } else { "File" };
            let mut entity = json!({"@id": id, "@type": kind, "name": said, "identifier": format!("blake3:{}", artifact.digest)});
            if artifact.kind == ArtifactKind::File {
                entity["encodingFormat"] = "application/octet-stream".into();
            }
            match (self.ports.get(&id), artifact.kind) {
                // A published file is an entity of its own.
                (Some(_), ArtifactKind::File) => return None,
                (Some(port), ArtifactKind::Tree) => entity["exampleOfWork"] = json!({"@id": port}),
                (None, _) => entity["contentSize"] = artifact.size.to_string().into(),
            }
            Some(entity)
        })
    }
}

fn file_entity(folder: &Path, file: &str, places: &Places<'_>) -> Result<Value, BundleError> {
    let path = folder.join(file);
    let size = std::fs::metadata(&path).map_err(|error| BundleError::io(&path, error))?.len();
    let id = iri(file);
    let mut entity = json!({
        "@id": id, "@type": "File", "name": file, "encodingFormat": format_of(file),
        "contentSize": size.to_string(), "sha256": sha256(&path)?,
    });
    if let Some(port) = places.ports.get(&id) {
        entity["exampleOfWork"] = json!({"@id": port});
    }
    match file {
        BUNDLE => {
            entity["description"] = "each node: action, inputs, outputs, what was measured".into();
        }
        "README.md" => entity["about"] = json!({"@id": "./"}),
        _ => {}
    }
    Ok(entity)
}

fn format_of(file: &str) -> &'static str {
    match file.rsplit_once('.').map(|(_, ending)| ending) {
        Some("json") => "application/json",
        Some("jsonl") => "application/jsonlines",
        Some("html") => "text/html",
        Some("md") => "text/markdown",
        Some("yaml" | "yml") => "application/yaml",
        Some("svg") => "image/svg+xml",
        Some("txt" | "j2" | "sh" | "py") => "text/plain",
        _ => "application/octet-stream",
    }
}

/// Ports and paths of what an instance publishes.
fn published(node: &BundledNode) -> impl Iterator<Item = (&String, &String)> {
    node.published.iter().flat_map(|(port, paths)| paths.iter().map(move |path| (port, path)))
}

/// The entity of what is published at a path.
fn place_of(path: &str, artifact: &Artifact) -> String {
    let slash = if artifact.kind == ArtifactKind::Tree { "/" } else { "" };
    format!("{}{slash}", iri(&format!("{PUBLISHED}/{path}")))
}

fn began_ms(node: &BundledNode) -> u64 {
    node.result.finished_unix_ms.saturating_sub(node.result.duration_ms)
}

fn name_of_node(instance: &str) -> &str {
    parse_instance_name(instance).0
}

fn tool(node: &BundledNode) -> String {
    format!("urn:okapi:stage:{}:{}", node.stage, node.stage_version)
}

fn step(node: &str) -> String {
    format!("#node/{}", escaped(node))
}

fn action(instance: &str) -> String {
    format!("#action/{}", escaped(instance))
}

fn control(instance: &str) -> String {
    format!("#control/{}", escaped(instance))
}

fn port(path: &str) -> String {
    format!("#published/{}", escaped(path))
}

/// A path as a relative reference.
fn iri(path: &str) -> String {
    path.split('/').map(escaped).collect::<Vec<_>>().join("/")
}

/// Whatever is no letter, digit or one of `-._` as `%` and its bytes.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
                escaped.push(byte.into());
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

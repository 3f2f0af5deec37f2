//! Keeps checked graphs in the store, so that an unchanged pipeline file is not parsed again:
//! parsing YAML is the largest single cost of a run in which nothing is to be done.
//!
//! The key is the digest of everything that checking looks at, except which files exist: the
//! pipeline's text and place, the profile, the overrides, the stages with their versions and params,
//! and this format's version. A file that has vanished since is found when the sources are hashed,
//! and the pipeline is then checked again to say so properly.

use std::fs;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;

use okapi_cache::{Digest, Store, StoreError};

use crate::graph::{Graph, Instance};
use crate::stage::StageRegistry;

/// Raised whenever the meaning or the encoding of [`Graph`] changes.
const VERSION: u32 = 5;

/// How many instances lie in a frame.
const GROUP: usize = 1024;

/// Everything that a checked graph depends on.
#[derive(Debug, Clone, Copy)]
pub struct GraphKey<'a> {
    /// The digest of the pipeline file's text.
    pub text: Digest,
    /// Its place from the project's root.
    pub pipeline: &'a str,
    /// The project's root: a script that names it is warned of, and symlinks are followed.
    pub project_root: &'a str,
    /// The profile.
    pub profile: Option<&'a str>,
    /// `--set` arguments.
    pub overrides: &'a [String],
}

impl GraphKey<'_> {
    /// The key's digest.
    pub fn digest(&self, registry: &StageRegistry) -> Digest {
        let key = serde_json::json!({
            "okapi_graph": VERSION,
            "okapi": env!("CARGO_PKG_VERSION"),
            "text": self.text.to_string(),
            "pipeline": self.pipeline,
            "project_root": self.project_root,
            "profile": self.profile,
            "overrides": self.overrides,
            "stages": Digest::of(registry.fingerprint().as_bytes()).to_string(),
        });
        Digest::of(key.to_string().as_bytes())
    }
}

/// The graph kept under `key`, if there is one that is whole: a damaged one is as good as none.
///
/// A file is a sequence of frames (length, digest, bytes): the graph without its instances and
/// their number, and then the instances, a thousand at a time, so that reading needs little room
/// beside the graph itself.
pub fn get(store: &Store, key: &Digest) -> Option<Graph> {
    let mut file = BufReader::new(fs::File::open(path(store, key)).ok()?);
    let mut frame = Vec::new();
    read_frame(&mut file, &mut frame)?;
    let (mut graph, count): (Graph, usize) = postcard::from_bytes(&frame).ok()?;
    graph.instances.reserve_exact(count);
    while graph.instances.len() < count {
        read_frame(&mut file, &mut frame)?;
        let group: Vec<Instance> = postcard::from_bytes(&frame).ok()?;
        if group.is_empty() || group.len() > count - graph.instances.len() {
            return None;
        }
        graph.instances.extend(group);
    }
    Some(graph)
}

fn read_frame(file: &mut impl Read, frame: &mut Vec<u8>) -> Option<()> {
    let mut head = [0; 36];
    file.read_exact(&mut head).ok()?;
    let (length, digest) = head.split_first_chunk::<4>()?;
    frame.clear();
    // Through `take`, so that a damaged length reserves nothing.
    let length = u64::from(u32::from_le_bytes(*length));
    file.take(length).read_to_end(frame).ok()?;
    let whole = frame.len() as u64 == length;
    (whole && Digest::of(frame).as_bytes()[..] == *digest).then_some(())
}

/// Keeps a graph under `key`.
///
/// # Errors
/// When the store cannot be written.
pub fn put(store: &Store, key: &Digest, graph: &Graph) -> Result<(), StoreError> {
    let path = path(store, key);
    let broken = |error| StoreError::io(&path, io::Error::other(error));
    let without = Graph {
        name: graph.name.clone(),
        nodes: graph.nodes.clone(),
        instances: Vec::new(),
        sources: graph.sources.clone(),
        publish: graph.publish.clone(),
    };
    let mut bytes = Vec::new();
    let head = postcard::to_allocvec(&(without, graph.instances.len())).map_err(broken)?;
    write_frame(&mut bytes, &head);
    for group in graph.instances.chunks(GROUP) {
        write_frame(&mut bytes, &postcard::to_allocvec(group).map_err(broken)?);
    }
    fs::create_dir_all(store.graphs_folder())
        .map_err(|error| StoreError::io(&store.graphs_folder(), error))?;
    store.write_file(&path, &bytes)
}

fn write_frame(bytes: &mut Vec<u8>, frame: &[u8]) {
    // A frame of 4 GiB is no graph; its wrong length makes it as good as none.
    bytes.extend_from_slice(&(frame.len() as u32).to_le_bytes());
    bytes.extend_from_slice(Digest::of(frame).as_bytes());
    bytes.extend_from_slice(frame);
}

fn path(store: &Store, key: &Digest) -> PathBuf {
    store.graphs_folder().join(key.to_string())
}

#[cfg(test)]
mod tests {
    use okapi_cache::{Access, Durability};

    use super::*;
    use crate::graph::{Node, Resources};
    use crate::lineage::LineageScope;

    fn graph(instances: u32) -> Graph {
        Graph {
            name: "kept".into(),
            nodes: vec![Node {
                name: "n".into(),
                stage: "command".into(),
                axes: vec!["i".into()],
                outputs: Vec::new(),
                pass_env: Vec::new(),
                span: crate::diagnostic::Span::default(),
            }],
            instances: (0..instances)
                .map(|number| Instance {
                    name: format!("n[i={number}]").into(),
                    node: 0,
                    declared: format!("{{\"run\":\"{number}\"}}").into(),
                    settings: "{}".into(),
                    files: Box::default(),
                    prompts: Box::default(),
                    inputs: Box::default(),
                    lineage: LineageScope::None,
                    resources: Resources::default(),
                    timeout_ms: None,
                    retries: 0,
                    place: None,
                    slurm: None,
                })
                .collect(),
            sources: Vec::new(),
            publish: Vec::new(),
        }
    }

    #[test]
    fn graphs_of_every_size_come_back_and_damaged_ones_do_not() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), Access::ReadWrite, Durability::None).unwrap();
        for instances in [0, 1, 1023, 1024, 1025, 3000] {
            let graph = graph(instances);
            let key = Digest::of(&instances.to_le_bytes());
            assert_eq!(get(&store, &key), None);
            put(&store, &key, &graph).unwrap();
            assert_eq!(get(&store, &key).as_ref(), Some(&graph), "{instances}");
            let file = path(&store, &key);
            let bytes = fs::read(&file).unwrap();
            for at in (0..bytes.len()).step_by(1 + bytes.len() / 40) {
                let mut damaged = bytes.clone();
                damaged[at] ^= 0x40;
                fs::write(&file, damaged).unwrap();
                assert_eq!(get(&store, &key), None, "byte {at} of {instances} instances");
                fs::write(&file, &bytes[..at]).unwrap();
                assert_eq!(get(&store, &key), None, "cut at {at} of {instances} instances");
            }
        }
    }
}

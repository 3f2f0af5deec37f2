//! A pipeline as the tests see it: small, editable, and with an obvious meaning.

use std::collections::{BTreeMap, BTreeSet};

use okapi_cache::Digest;

use okapi_engine::diagnostic::Span;
use okapi_engine::graph::{Feed, Graph, Input, Instance, Node, Output, Resources, Source};
use okapi_engine::lineage::LineageScope;
use okapi_engine::port::PortKind;
use proptest::prelude::*;

/// A pipeline: node `i` may read nodes before it and one source file.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) nodes: Vec<ModelNode>,
    /// Contents of `src/0`, `src/1`, ...
    pub(crate) sources: Vec<u8>,
}

#[derive(Debug, Clone)]
pub(crate) struct ModelNode {
    /// Earlier nodes that it reads.
    pub(crate) reads: BTreeSet<usize>,
    /// The source that it tracks.
    pub(crate) source: Option<usize>,
    /// A param that is mixed into the output.
    pub(crate) salt: u8,
    /// Keep only so many values of what is mixed: small numbers make outputs collide.
    pub(crate) keep: u8,
    /// Whether it is told of its lineage, and mixes it in.
    pub(crate) is_witness: bool,
}

/// One edit of a pipeline or of its sources.
#[derive(Debug, Clone)]
pub(crate) enum Edit {
    Source { which: usize, content: u8 },
    Salt { which: usize, salt: u8 },
    Keep { which: usize, keep: u8 },
    Rewire { which: usize, read: usize },
    Touch,
}

pub(crate) fn models() -> impl Strategy<Value = Model> {
    (1_usize..12, 1_usize..4).prop_flat_map(|(nodes, sources)| {
        let node = (
            prop::collection::btree_set(0_usize..12, 0..4),
            prop::option::of(0..sources),
            0_u8..3,
            prop_oneof![Just(1_u8), Just(2), Just(255)],
            prop::bool::weighted(0.2),
        );
        (prop::collection::vec(node, nodes), prop::collection::vec(0_u8..4, sources)).prop_map(
            |(nodes, sources)| Model {
                nodes: nodes
                    .into_iter()
                    .enumerate()
                    .map(|(position, (reads, source, salt, keep, is_witness))| ModelNode {
                        reads: reads.into_iter().filter(|&read| read < position).collect(),
                        source,
                        salt,
                        keep,
                        is_witness,
                    })
                    .collect(),
                sources,
            },
        )
    })
}

pub(crate) fn edits() -> impl Strategy<Value = Edit> {
    prop_oneof![
        3 => (0_usize..4, 0_u8..4).prop_map(|(which, content)| Edit::Source { which, content }),
        2 => (0_usize..12, 0_u8..3).prop_map(|(which, salt)| Edit::Salt { which, salt }),
        1 => (0_usize..12, 1_u8..4).prop_map(|(which, keep)| Edit::Keep { which, keep }),
        1 => (0_usize..12, 0_usize..12).prop_map(|(which, read)| Edit::Rewire { which, read }),
        1 => Just(Edit::Touch),
    ]
}

impl Model {
    pub(crate) fn apply(&mut self, edit: &Edit) {
        let nodes = self.nodes.len();
        match *edit {
            Edit::Source { which, content } => {
                let count = self.sources.len();
                self.sources[which % count] = content;
            }
            Edit::Salt { which, salt } => self.nodes[which % nodes].salt = salt,
            Edit::Keep { which, keep } => self.nodes[which % nodes].keep = keep,
            Edit::Rewire { which, read } => {
                let which = which % nodes;
                if read < which && !self.nodes[which].reads.remove(&read) {
                    self.nodes[which].reads.insert(read);
                }
            }
            Edit::Touch => {}
        }
    }

    /// The pipeline as a checked graph.
    pub(crate) fn graph(&self) -> Graph {
        let span = Span::default();
        Graph {
            name: "law".into(),
            nodes: (0..self.nodes.len())
                .map(|id| Node {
                    name: name(id),
                    stage: "mix".into(),
                    axes: vec![],
                    outputs: vec![Output { port: "out".into(), kind: PortKind::File }],
                    pass_env: vec![],
                    span,
                })
                .collect(),
            instances: self
                .nodes
                .iter()
                .enumerate()
                .map(|(id, node)| Instance {
                    name: name(id).into(),
                    node: id as u32,
                    declared: format!(
                        r#"{{"outputs":{{"out":"file"}},"params":{{"keep":{},"salt":{}}},"stage":"mix","stage_version":1}}"#,
                        node.keep, node.salt
                    )
                    .into(),
                    settings: "{}".into(),
                    files: node.source.iter().map(|&source| source as u32).collect(),
                    prompts: Box::default(),
                    inputs: node
                        .reads
                        .iter()
                        .map(|&read| Input {
                            port: format!("in{read:02}").into(),
                            gathered: false,
                            feeds: [Feed { key: "".into(), instance: read as u32, port: 0 }].into(),
                        })
                        .collect(),
                    lineage: match node.is_witness {
                        true => LineageScope::Actions,
                        false => LineageScope::None,
                    },
                    resources: Resources::default(),
                    timeout_ms: None,
                    retries: 0,
                    place: None,
                    slurm: None,
                })
                .collect(),
            sources: (0..self.sources.len())
                .map(|source| Source { path: format!("src/{source}").into(), span })
                .collect(),
            publish: vec![],
        }
    }
}

/// The name of node `id`.
pub(crate) fn name(id: usize) -> String {
    format!("node{id:02}")
}

/// What a node writes: the meaning of the stage, shared with the stage itself.
pub(crate) fn mix(
    salt: u8,
    keep: u8,
    source: Option<&[u8]>,
    inputs: &[(String, Vec<u8>)],
) -> Vec<u8> {
    let mut sum = u32::from(salt) * 7 + 1;
    for byte in source.into_iter().flatten() {
        sum = sum.wrapping_mul(31).wrapping_add(u32::from(*byte) + 1);
    }
    for (port, content) in inputs {
        for byte in port.bytes().chain(content.iter().copied()) {
            sum = sum.wrapping_mul(33).wrapping_add(u32::from(byte) + 1);
        }
    }
    format!("{}\n", sum % u32::from(keep)).into_bytes()
}

/// What a witness mixes in: its ancestors by name, each with its salt, which its result has as a metric.
pub(crate) fn testimony(salts: impl Iterator<Item = (String, f64)>) -> Vec<u8> {
    salts.map(|(name, salt)| format!("{name} {salt};")).collect::<String>().into_bytes()
}

/// Knows everything that was ever done, by content: says what must run, and what comes out.
#[derive(Default)]
pub(crate) struct Oracle {
    done: BTreeSet<OracleKey>,
}

/// Of all that determines an action.
type OracleKey = Digest;

/// What a run must do.
pub(crate) struct Expected {
    pub(crate) outputs: BTreeMap<String, Vec<u8>>,
    pub(crate) executed: BTreeSet<String>,
}

impl Oracle {
    pub(crate) fn run(&mut self, model: &Model) -> Expected {
        let mut contents: Vec<Vec<u8>> = Vec::new();
        let mut keys: Vec<OracleKey> = Vec::new();
        let mut ancestors: Vec<BTreeSet<usize>> = Vec::new();
        let mut expected = Expected { outputs: BTreeMap::new(), executed: BTreeSet::new() };
        for (id, node) in model.nodes.iter().enumerate() {
            let mut inputs: Vec<_> = node
                .reads
                .iter()
                .map(|&read| (format!("in{read:02}"), contents[read].clone()))
                .collect();
            let source = node.source.map(|source| (source, model.sources[source]));
            let above: BTreeSet<usize> = node
                .reads
                .iter()
                .flat_map(|&read| ancestors[read].iter().copied().chain([read]))
                .collect();
            let ModelNode { salt, keep, is_witness, .. } = node;
            let mut key = format!("{salt} {keep} {is_witness} {source:?} {inputs:?}");
            if node.is_witness {
                for &ancestor in &above {
                    key.push_str(&format!(" {}={}", name(ancestor), keys[ancestor]));
                }
                let salts = above.iter().map(|&it| (name(it), f64::from(model.nodes[it].salt)));
                inputs.push(("lineage".to_owned(), testimony(salts)));
            }
            let key = Digest::of(key.as_bytes());
            let content = mix(
                node.salt,
                node.keep,
                source.as_ref().map(|it| std::slice::from_ref(&it.1)),
                &inputs,
            );
            if self.done.insert(key) {
                expected.executed.insert(name(id));
            }
            expected.outputs.insert(name(id), content.clone());
            contents.push(content);
            keys.push(key);
            ancestors.push(above);
        }
        expected
    }
}

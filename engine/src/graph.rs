//! The checked pipeline: every instance, every edge, every tracked file, in topological order.
//!
//! A `Graph` is plain data in flat arrays. It is what checking a pipeline file yields and what
//! planning and running read; it holds nothing that depends on the contents of tracked files or on
//! the store, so it can be kept and used again as long as the pipeline file, the overrides and the
//! stages are the same (`graph_cache`).

use serde::{Deserialize, Serialize};

use crate::diagnostic::Span;
use crate::lineage::LineageScope;
use crate::placement::{Place, SlurmOptions};
use crate::port::PortKind;

/// Index into [`Graph::instances`].
pub type InstanceId = u32;
/// Index into [`Graph::nodes`].
pub type NodeId = u32;
/// Index into [`Graph::sources`].
pub type SourceId = u32;

/// A checked pipeline.
///
/// **Invariant:** instances are in topological order: an input's instance id is smaller than the
/// id of the instance that reads it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Graph {
    /// The pipeline's `name`.
    pub name: String,
    /// One entry per node of the file, in the file's order.
    pub nodes: Vec<Node>,
    /// One entry per instance, in topological order.
    pub instances: Vec<Instance>,
    /// Tracked files and folders.
    pub sources: Vec<Source>,
    /// Artifacts to place in the work tree after a run.
    pub publish: Vec<Publish>,
}

/// A node of the pipeline file: what its instances share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// The key under `nodes:`.
    pub name: String,
    /// The stage's name.
    pub stage: String,
    /// Names of the `for_each` axes, in the file's order; empty for a single instance.
    pub axes: Vec<String>,
    /// Output ports, sorted by name. [`Feed::port`] is an index into this.
    pub outputs: Vec<Output>,
    /// Names of environment variables whose values enter the action, sorted.
    pub pass_env: Vec<String>,
    /// Where the node's key stands in the file.
    pub span: Span,
}

/// An output port of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// The port's name.
    pub port: String,
    /// What is made.
    pub kind: PortKind,
}

/// One unit of work: a node, with a value for each of its axes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// `translate[lang=ru]`; see [`instance_name`].
    pub name: Box<str>,
    /// The node it is an instance of.
    pub node: NodeId,
    /// Canonical JSON object of every field of the action that is known without looking at any
    /// file: `env`, `epoch`, `outputs`, `params`, `run`, `seed`, `stage`, `stage_version`,
    /// `teacher`; fields that the node leaves out are absent.
    pub declared: Box<str>,
    /// Params that are no part of the identity, canonical JSON object; `{}` mostly.
    pub settings: Box<str>,
    /// Tracked files, sorted by project path. A command sees each at its project path.
    pub files: Box<[SourceId]>,
    /// Prompts by name, sorted by name.
    pub prompts: Box<[(Box<str>, SourceId)]>,
    /// Inputs, sorted by port.
    pub inputs: Box<[Input]>,
    /// What of its lineage enters its action.
    pub lineage: LineageScope,
    /// What it needs to run.
    pub resources: Resources,
    /// The time after which it is stopped, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// How many times a failure is tried again.
    pub retries: u32,
    /// Where it is executed; `None` until that is chosen ([`crate::placement::choose`]), unless its node says it.
    pub place: Option<Place>,
    /// What a job of Slurm is asked for; `None` if nothing is said of that.
    pub slurm: Option<Box<SlurmOptions>>,
}

/// What one input port of an instance reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The port's name.
    pub port: Box<str>,
    /// Whether several artifacts are gathered, each under its key, or one is given as it is.
    pub gathered: bool,
    /// Where the artifacts come from, sorted by key; exactly one, with an empty key, if not
    /// gathered.
    pub feeds: Box<[Feed]>,
}

/// One artifact that an input reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feed {
    /// `lang=ru`: the values of the axes that are gathered over; empty if not gathered.
    pub key: Box<str>,
    /// The instance that makes the artifact.
    pub instance: InstanceId,
    /// Index into the outputs of that instance's node.
    pub port: u16,
}

/// Processor slots of an instance that takes all there are, in thousandths; no node can ask for so many.
pub const ALL_SLOTS: u32 = u32::MAX;

/// What an instance needs of the machine while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Processor slots, in thousandths of a slot; 1000, or all of the machine's where the stage takes
    /// them, unless the node says otherwise. More than there are means all.
    pub cpu_milli: u32,
    /// Memory, bytes.
    pub memory: u64,
    /// Whole GPUs.
    pub gpu: u32,
}

impl Default for Resources {
    fn default() -> Self {
        Resources { cpu_milli: 1000, memory: 0, gpu: 0 }
    }
}

/// A tracked file or folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// From the project's root, `/` between parts, no `.` or `..`.
    pub path: Box<str>,
    /// Where the file first names it.
    pub span: Span,
}

/// An artifact to place in the work tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// Where, from the project's root, `/` between parts, no `.` or `..`.
    pub path: Box<str>,
    /// The instance that makes it.
    pub instance: InstanceId,
    /// Index into the outputs of that instance's node.
    pub port: u16,
    /// Where the file says so.
    pub span: Span,
}

impl Instance {
    /// Whether it is a job of a cluster, with resources that are not this machine's.
    pub fn is_on_cluster(&self) -> bool {
        self.place.is_some_and(|place| place != Place::Local)
    }
}

impl Graph {
    /// The node of an instance.
    pub fn node(&self, instance: InstanceId) -> &Node {
        &self.nodes[self.instances[instance as usize].node as usize]
    }

    /// The instance of that full name.
    pub fn find(&self, name: &str) -> Option<InstanceId> {
        self.instances.iter().position(|instance| &*instance.name == name).map(|id| id as u32)
    }
}

/// The name of an instance: the node's name, and for an instance of a `for_each` its axis values
/// in brackets. Characters that carry meaning there are escaped as `%XX`, so that two different
/// instances never get one name.
pub fn instance_name(node: &str, axes: &[(&str, &str)]) -> String {
    if axes.is_empty() {
        return node.to_owned();
    }
    format!("{node}[{}]", instance_key(axes))
}

/// The node of an instance's name, and the values of its axes: the reverse of [`instance_name`].
pub fn parse_instance_name(name: &str) -> (&str, Vec<(&str, String)>) {
    let Some((node, key)) = name.split_once('[') else { return (name, Vec::new()) };
    let key = key.strip_suffix(']').unwrap_or(key);
    let axes = key.split(',').filter_map(|part| {
        let (axis, value) = part.split_once('=')?;
        Some((axis, unescape(value)))
    });
    (node, axes.collect())
}

/// An axis value as it was written.
fn unescape(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = after.get(..2).filter(|_| first == b'%');
        let escaped = escaped.and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The part of an instance's name between the brackets: `lang=ru,size=7b`.
pub fn instance_key(axes: &[(&str, &str)]) -> String {
    let mut key = String::new();
    for (position, (axis, value)) in axes.iter().enumerate() {
        if position > 0 {
            key.push(',');
        }
        key.push_str(axis);
        key.push('=');
        for character in value.chars() {
            if matches!(character, '[' | ']' | ',' | '=' | '%' | '/' | '\\' | ':')
                || character.is_control()
                || character.is_whitespace()
            {
                let mut bytes = [0; 4];
                for byte in character.encode_utf8(&mut bytes).bytes() {
                    key.push_str(&format!("%{byte:02X}"));
                }
            } else {
                key.push(character);
            }
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back() {
        let axes = [("lang", "de"), ("size", "7b, [x]=100 %\u{e9}\n"), ("empty", "")];
        let name = instance_name("train", &axes);
        let (node, read) = parse_instance_name(&name);
        let read: Vec<(&str, &str)> = read.iter().map(|(axis, value)| (*axis, &**value)).collect();
        assert_eq!((node, read), ("train", axes.to_vec()));
        assert_eq!(parse_instance_name("seeds"), ("seeds", Vec::new()));
        assert_eq!(parse_instance_name("n[a=5%,b=%zz]").1[0].1, "5%");
    }
}

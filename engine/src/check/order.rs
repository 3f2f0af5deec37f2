//! Cycles among nodes, and the order in which instances are numbered.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};

use crate::check::node::NodeDraft;
use crate::diagnostic::Span;
use crate::spec::findings::Findings;

/// Which node reads which, and where the file says so: (reader, read) -> place.
pub(crate) type Edges = BTreeMap<(u32, u32), Span>;

/// The longest cycle that is written out.
const LONGEST_SHOWN: usize = 12;

/// Reports every group of nodes that need each other. petgraph's Kosaraju does not recurse (its
/// Tarjan does), so a chain of any length is fine.
pub(crate) fn report_cycles(drafts: &[NodeDraft<'_>], edges: &Edges, findings: &mut Findings) {
    let mut graph: DiGraph<(), (), u32> = DiGraph::with_capacity(drafts.len(), edges.len());
    for _ in drafts {
        graph.add_node(());
    }
    for (reader, read) in edges.keys() {
        graph.add_edge(NodeIndex::new(*reader as usize), NodeIndex::new(*read as usize), ());
    }
    // The first node of each group, in the order of the file.
    let mut firsts: Vec<u32> = kosaraju_scc(&graph)
        .into_iter()
        .filter_map(|group| {
            let first = group.iter().map(|node| node.index() as u32).min()?;
            (group.len() > 1 || edges.contains_key(&(first, first))).then_some(first)
        })
        .collect();
    firsts.sort_unstable();
    for first in firsts {
        let path = shortest_cycle(first, edges);
        let mut names: Vec<&str> = path.iter().map(|node| &*drafts[*node as usize].name).collect();
        if names.len() > LONGEST_SHOWN {
            names.splice(LONGEST_SHOWN - 2..names.len() - 1, ["..."]);
        }
        let mut steps = path
            .windows(2)
            .filter_map(|step| Some((step[0], step[1], *edges.get(&(step[0], step[1]))?)));
        let at = steps.next().map_or(drafts[first as usize].span, |(_, _, span)| span);
        let mut finding = findings
            .error("cycle", at, format!("nodes need each other: {}", names.join(" -> ")))
            .help("remove one of these inputs");
        for (reader, read, span) in steps.take(LONGEST_SHOWN) {
            let [reader, read] = [reader, read].map(|node| &*drafts[node as usize].name);
            finding = finding.related(span, format!("`{reader}` reads `{read}` here"));
        }
    }
}

/// A shortest way from a node that is part of a cycle back to itself.
fn shortest_cycle(start: u32, edges: &Edges) -> Vec<u32> {
    let mut came_from: BTreeMap<u32, u32> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        for (_, next) in edges.range((node, 0)..=(node, u32::MAX)).map(|(edge, _)| *edge) {
            if next == start {
                let mut path = vec![start, node];
                while let Some(before) = path.last().and_then(|last| came_from.get(last)) {
                    path.push(*before);
                }
                path.reverse();
                if path.len() == 2 {
                    return vec![start, start];
                }
                return path;
            }
            came_from.entry(next).or_insert_with(|| {
                queue.push_back(next);
                node
            });
        }
    }
    vec![start, start]
}

/// The nodes in an order in which each stands after all that it reads; of those that may come next
/// always the first of the file. Complete only if there is no cycle.
pub(crate) fn topological(nodes: usize, edges: &Edges) -> Vec<u32> {
    let mut waits_for = vec![0u32; nodes];
    let mut readers: Vec<Vec<u32>> = vec![Vec::new(); nodes];
    for (reader, read) in edges.keys() {
        waits_for[*reader as usize] += 1;
        readers[*read as usize].push(*reader);
    }
    let mut ready: BinaryHeap<Reverse<u32>> =
        (0..nodes as u32).filter(|node| waits_for[*node as usize] == 0).map(Reverse).collect();
    let mut order = Vec::with_capacity(nodes);
    while let Some(Reverse(node)) = ready.pop() {
        order.push(node);
        for reader in &readers[node as usize] {
            waits_for[*reader as usize] -= 1;
            if waits_for[*reader as usize] == 0 {
                ready.push(Reverse(*reader));
            }
        }
    }
    order
}

//! Drawings of a checked pipeline: Graphviz, Mermaid, SVG, JSON. All are made from the nodes; a
//! node with many instances is one box with their number.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::json;

use crate::graph::Graph;

/// Boxes and arrows, by node of the pipeline file.
struct Drawing {
    boxes: Vec<DrawnNode>,
    /// From, to; each pair once, sorted.
    arrows: Vec<(usize, usize)>,
}

struct DrawnNode {
    name: String,
    stage: String,
    instances: usize,
    /// The longest way from a node that reads nothing.
    rank: usize,
}

impl Drawing {
    fn new(graph: &Graph) -> Drawing {
        let mut boxes: Vec<_> = graph
            .nodes
            .iter()
            .map(|node| DrawnNode {
                name: node.name.clone(),
                stage: node.stage.clone(),
                instances: 0,
                rank: 0,
            })
            .collect();
        let mut arrows = BTreeSet::new();
        // Instances are in topological order, so every input's rank is final when it is read.
        for instance in &graph.instances {
            let to = instance.node as usize;
            boxes[to].instances += 1;
            for feed in instance.inputs.iter().flat_map(|input| &input.feeds) {
                let from = graph.instances[feed.instance as usize].node as usize;
                boxes[to].rank = boxes[to].rank.max(boxes[from].rank + 1);
                arrows.insert((from, to));
            }
        }
        Drawing { boxes, arrows: arrows.into_iter().collect() }
    }
}

impl DrawnNode {
    /// The second line of a box.
    fn subtitle(&self) -> String {
        match self.instances {
            1 => self.stage.clone(),
            count => format!("{} × {count}", self.stage),
        }
    }
}

/// Graphviz.
pub fn dot(graph: &Graph) -> String {
    let drawing = Drawing::new(graph);
    let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut text = format!(
        "digraph {} {{\n  rankdir=LR;\n  node [shape=box, style=rounded];\n",
        quote(&graph.name)
    );
    for node in &drawing.boxes {
        let label = quote(&node.name);
        let label = format!("{}\\n{}\"", &label[..label.len() - 1], node.subtitle());
        // Writing to a string never fails, here and below.
        let _ = writeln!(text, "  {} [label={label}];", quote(&node.name));
    }
    for (from, to) in &drawing.arrows {
        let (from, to) = (&drawing.boxes[*from].name, &drawing.boxes[*to].name);
        let _ = writeln!(text, "  {} -> {};", quote(from), quote(to));
    }
    text.push_str("}\n");
    text
}

/// Mermaid.
pub fn mermaid(graph: &Graph) -> String {
    let drawing = Drawing::new(graph);
    let mut text = String::from("flowchart LR\n");
    for (position, node) in drawing.boxes.iter().enumerate() {
        let name = node.name.replace('"', "#quot;");
        let _ = writeln!(text, "  n{position}[\"{name}<br/>{}\"]", node.subtitle());
    }
    for (from, to) in &drawing.arrows {
        let _ = writeln!(text, "  n{from} --> n{to}");
    }
    text
}

/// Every instance with what it reads, and every node with its outputs.
pub fn json(graph: &Graph) -> String {
    let nodes: Vec<_> = graph
        .nodes
        .iter()
        .map(|node| {
            let outputs: Vec<_> = node
                .outputs
                .iter()
                .map(|output| json!({ "port": output.port, "kind": output.kind }))
                .collect();
            json!({ "node": node.name, "stage": node.stage, "axes": node.axes, "outputs": outputs })
        })
        .collect();
    let instances: Vec<_> = graph
        .instances
        .iter()
        .map(|instance| {
            let inputs: Vec<_> = instance
                .inputs
                .iter()
                .map(|input| {
                    let feeds: Vec<_> = input
                        .feeds
                        .iter()
                        .map(|feed| {
                            let port = &graph.node(feed.instance).outputs[feed.port as usize].port;
                            let from = &graph.instances[feed.instance as usize].name;
                            json!({ "key": feed.key, "instance": from, "port": port })
                        })
                        .collect();
                    json!({ "port": input.port, "gathered": input.gathered, "feeds": feeds })
                })
                .collect();
            json!({
                "instance": instance.name,
                "node": graph.nodes[instance.node as usize].name,
                "inputs": inputs,
            })
        })
        .collect();
    let document =
        json!({ "version": 1, "pipeline": graph.name, "nodes": nodes, "instances": instances });
    let mut text = serde_json::to_string_pretty(&document).unwrap_or_default();
    text.push('\n');
    text
}

const BOX_WIDTH: usize = 180;
const BOX_HEIGHT: usize = 44;
const COLUMN: usize = 250;
const ROW: usize = 68;
const MARGIN: usize = 24;

/// A drawing that needs nothing but itself: columns by rank, in each the file's order.
pub fn svg(graph: &Graph) -> String {
    let drawing = Drawing::new(graph);
    let columns = drawing.boxes.iter().map(|node| node.rank + 1).max().unwrap_or(1);
    let mut filled = vec![0; columns];
    let places: Vec<_> = drawing
        .boxes
        .iter()
        .map(|node| {
            let row = filled[node.rank];
            filled[node.rank] += 1;
            (MARGIN + node.rank * COLUMN, MARGIN + row * ROW)
        })
        .collect();
    let width = 2 * MARGIN + (columns - 1) * COLUMN + BOX_WIDTH;
    let rows = filled.iter().max().copied().unwrap_or(1).max(1);
    let height = 2 * MARGIN + (rows - 1) * ROW + BOX_HEIGHT;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <title>{}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        escape(&graph.name)
    );
    for (from, to) in &drawing.arrows {
        let (x1, y1) = (places[*from].0 + BOX_WIDTH, places[*from].1 + BOX_HEIGHT / 2);
        let (x2, y2) = (places[*to].0, places[*to].1 + BOX_HEIGHT / 2);
        let bend = (x2.saturating_sub(x1) / 2).max(20);
        let _ = writeln!(
            text,
            "<path d=\"M{x1} {y1} C{} {y1} {} {y2} {x2} {y2}\" fill=\"none\" stroke=\"#8a8f98\" stroke-width=\"1.5\"/>",
            x1 + bend,
            x2.saturating_sub(bend)
        );
    }
    for (node, (x, y)) in drawing.boxes.iter().zip(&places) {
        let middle = x + BOX_WIDTH / 2;
        let _ = writeln!(
            text,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{BOX_WIDTH}\" height=\"{BOX_HEIGHT}\" rx=\"6\" fill=\"#f3f6fb\" stroke=\"#4a6fa5\"/>\n\
             <text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\" font-weight=\"bold\">{}</text>\n\
             <text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\" fill=\"#5b6470\" font-size=\"11\">{}</text>",
            y + 19,
            escape(&shorten(&node.name)),
            y + 35,
            escape(&node.subtitle())
        );
    }
    text.push_str("</svg>\n");
    text
}

/// A name that fits into a box.
fn shorten(name: &str) -> String {
    const LONGEST: usize = 22;
    if name.chars().count() <= LONGEST {
        return name.to_owned();
    }
    let head: String = name.chars().take(LONGEST - 1).collect();
    format!("{head}…")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

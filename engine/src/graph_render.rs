//! Drawings of a checked pipeline: Graphviz, Mermaid, SVG, JSON. A box is an instance, or, where
//! that would be too many to look at, a node with the number of its instances.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::json;

use crate::graph::Graph;
use crate::lineage::Lineage;
use crate::selection::axis_values;

/// More boxes than these are no picture any more.
const MOST_BOXES: usize = 40;

/// What a box of a drawing stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boxes {
    /// One instance.
    Instances,
    /// One node of the file, with all its instances.
    Nodes,
}

impl Boxes {
    /// Instances as long as there are few.
    pub fn fitting(graph: &Graph) -> Boxes {
        match graph.instances.len() <= MOST_BOXES {
            true => Boxes::Instances,
            false => Boxes::Nodes,
        }
    }
}

/// Boxes and arrows.
struct Drawing {
    boxes: Vec<DrawnBox>,
    /// From, to; each pair once, sorted.
    arrows: Vec<(usize, usize)>,
}

struct DrawnBox {
    /// The name of the node or of the instance; no two are alike.
    name: String,
    stage: String,
    /// How many instances it stands for.
    instances: usize,
    /// The longest way from a box that reads nothing.
    rank: usize,
}

impl Drawing {
    fn new(graph: &Graph, boxes: Boxes) -> Drawing {
        let drawn = |name: &str, stage: &str| DrawnBox {
            name: name.to_owned(),
            stage: stage.to_owned(),
            instances: 0,
            rank: 0,
        };
        let box_of = |instance: usize| match boxes {
            Boxes::Instances => instance,
            Boxes::Nodes => graph.instances[instance].node as usize,
        };
        let mut drawing = Drawing {
            boxes: match boxes {
                Boxes::Nodes => {
                    graph.nodes.iter().map(|node| drawn(&node.name, &node.stage)).collect()
                }
                Boxes::Instances => (0u32..)
                    .zip(&graph.instances)
                    .map(|(id, instance)| drawn(&instance.name, &graph.node(id).stage))
                    .collect(),
            },
            arrows: Vec::new(),
        };
        let mut arrows = BTreeSet::new();
        // Instances are in topological order, so every input's rank is final when it is read.
        for (id, instance) in graph.instances.iter().enumerate() {
            let to = box_of(id);
            drawing.boxes[to].instances += 1;
            for feed in instance.inputs.iter().flat_map(|input| &input.feeds) {
                let from = box_of(feed.instance as usize);
                drawing.boxes[to].rank = drawing.boxes[to].rank.max(drawing.boxes[from].rank + 1);
                arrows.insert((from, to));
            }
        }
        drawing.arrows = arrows.into_iter().collect();
        drawing
    }

    /// The nodes of a lineage, by name.
    fn of_lineage(lineage: &Lineage) -> Drawing {
        let node = |instance: &str| instance.split('[').next().unwrap_or_default().to_owned();
        let mut boxes: BTreeMap<String, DrawnBox> = BTreeMap::new();
        for (name, ancestor) in &lineage.ancestors {
            let name = node(name);
            let drawn = boxes.entry(name.clone()).or_insert_with(|| DrawnBox {
                name,
                stage: ancestor.stage.clone(),
                instances: 0,
                rank: 0,
            });
            drawn.instances += 1;
        }
        let places: BTreeMap<String, usize> =
            (0..).zip(boxes.keys()).map(|(place, name)| (name.clone(), place)).collect();
        let mut boxes: Vec<DrawnBox> = boxes.into_values().collect();
        let mut arrows = BTreeSet::new();
        for (name, ancestor) in &lineage.ancestors {
            for above in ancestor.inputs.values().flatten() {
                if let (Some(&from), Some(&to)) =
                    (places.get(&node(above)), places.get(&node(name)))
                {
                    arrows.insert((from, to));
                }
            }
        }
        // No way is longer than there are boxes; what is no lineage may go in circles.
        for _ in 0..boxes.len() {
            let ranks: Vec<usize> = boxes.iter().map(|drawn| drawn.rank).collect();
            for &(from, to) in &arrows {
                boxes[to].rank = boxes[to].rank.max(boxes[from].rank + 1);
            }
            if boxes.iter().map(|drawn| drawn.rank).eq(ranks) {
                break;
            }
        }
        Drawing { boxes, arrows: arrows.into_iter().collect() }
    }
}

impl DrawnBox {
    /// The second line of a box.
    fn subtitle(&self) -> String {
        match self.instances {
            1 => self.stage.clone(),
            count => format!("{} × {count}", self.stage),
        }
    }

    /// The two lines of a box that has no room for the full name.
    fn short_lines(&self) -> (&str, String) {
        match axis_values(&self.name).as_slice() {
            [] => (&self.name, self.subtitle()),
            axes => (self.name.split('[').next().unwrap_or_default(), axes.join(", ")),
        }
    }
}

/// Graphviz.
pub fn dot(graph: &Graph, boxes: Boxes) -> String {
    let drawing = Drawing::new(graph, boxes);
    let mut text = format!(
        "digraph \"{}\" {{\n  rankdir=LR;\n  node [shape=box, style=rounded];\n",
        dot_id(&graph.name)
    );
    for drawn in &drawing.boxes {
        let label = format!("{}\\n{}", dot_label(&drawn.name), dot_label(&drawn.subtitle()));
        // Writing to a string never fails, here and below.
        let _ = writeln!(text, "  \"{}\" [label=\"{label}\"];", dot_id(&drawn.name));
    }
    for (from, to) in &drawing.arrows {
        let (from, to) = (&drawing.boxes[*from].name, &drawing.boxes[*to].name);
        let _ = writeln!(text, "  \"{}\" -> \"{}\";", dot_id(from), dot_id(to));
    }
    text.push_str("}\n");
    text
}

/// A text between the quotes of a Graphviz id.
fn dot_id(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' => escaped.push_str("\\\""),
            '\\' => escaped.push_str("\\\\"),
            '\n' => escaped.push_str("\\n"),
            control if control.is_control() => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A text between the quotes of a Graphviz label, where HTML entities have a meaning.
fn dot_label(text: &str) -> String {
    dot_id(text).replace('&', "&amp;")
}

/// Mermaid.
pub fn mermaid(graph: &Graph, boxes: Boxes) -> String {
    let drawing = Drawing::new(graph, boxes);
    let mut text = String::from("flowchart LR\n");
    for (position, drawn) in drawing.boxes.iter().enumerate() {
        let (name, subtitle) = (mermaid_label(&drawn.name), mermaid_label(&drawn.subtitle()));
        let _ = writeln!(text, "  n{position}[\"{name}<br/>{subtitle}\"]");
    }
    for (from, to) in &drawing.arrows {
        let _ = writeln!(text, "  n{from} --> n{to}");
    }
    text
}

/// A text between the quotes of a Mermaid label. Whatever is neither letter nor digit may mean
/// something there (quotes, entities, HTML, Markdown, comments), so only what surely does not is
/// left as it is.
fn mermaid_label(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let inside_word = characters.peek().is_some_and(|next| next.is_alphanumeric());
        match character {
            '\n' => escaped.push_str("<br/>"),
            control if control.is_control() => escaped.push(' '),
            ' ' | '_' | '=' | ',' | '/' | '×' => escaped.push(character),
            // At the end of a word they may begin a list.
            '-' | '.' if inside_word => escaped.push(character),
            letter if letter.is_alphanumeric() => escaped.push(letter),
            other => {
                let _ = write!(escaped, "#{};", u32::from(other));
            }
        }
    }
    escaped
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
pub fn svg(graph: &Graph, boxes: Boxes) -> String {
    write_svg(&Drawing::new(graph, boxes), &graph.name)
}

/// The nodes of a lineage in the same way, by name.
pub fn lineage_svg(lineage: &Lineage, title: &str) -> String {
    write_svg(&Drawing::of_lineage(lineage), title)
}

fn write_svg(drawing: &Drawing, title: &str) -> String {
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
        escape(title)
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
    for (drawn, (x, y)) in drawing.boxes.iter().zip(&places) {
        let middle = x + BOX_WIDTH / 2;
        let (first, second) = drawn.short_lines();
        let _ = writeln!(
            text,
            "<g><title>{}</title>\n\
             <rect x=\"{x}\" y=\"{y}\" width=\"{BOX_WIDTH}\" height=\"{BOX_HEIGHT}\" rx=\"6\" fill=\"#f3f6fb\" stroke=\"#4a6fa5\"/>\n\
             <text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\" font-weight=\"bold\">{}</text>\n\
             <text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\" fill=\"#5b6470\" font-size=\"11\">{}</text></g>",
            escape(&drawn.name),
            y + 19,
            escape(&shorten(first, 22)),
            y + 35,
            escape(&shorten(&second, 28))
        );
    }
    text.push_str("</svg>\n");
    text
}

/// A text that fits into a box.
fn shorten(text: &str, longest: usize) -> String {
    if text.chars().count() <= longest {
        return text.to_owned();
    }
    let head: String = text.chars().take(longest - 1).collect();
    format!("{head}…")
}

/// A text between tags, or between the quotes of an attribute.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // No document of XML 1.0 may hold these, escaped or not.
            '\u{FFFE}' | '\u{FFFF}' => escaped.push('\u{FFFD}'),
            control if control.is_control() => escaped.push(' '),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Span;
    use crate::graph::{Feed, Input, Instance, Node, Resources, instance_name};
    use crate::lineage::LineageScope;

    const HOSTILE: &str = "a\"b#c;d[e](f){g}`h`\n- i<br>&amp;\\N|%%'\u{1}1. é";

    /// A node with so many instances, and one that gathers them.
    fn graph(name: &str, instances: u32) -> Graph {
        let node = |name: &str, axes: &[&str]| Node {
            name: name.to_owned(),
            stage: "command".to_owned(),
            axes: axes.iter().map(|&axis| axis.to_owned()).collect(),
            outputs: Vec::new(),
            pass_env: Vec::new(),
            span: Span::default(),
        };
        let instance = |name: String, node, inputs: Box<[Input]>| Instance {
            name: name.into_boxed_str(),
            node,
            declared: "{}".into(),
            settings: "{}".into(),
            files: Box::default(),
            prompts: Box::default(),
            inputs,
            lineage: LineageScope::None,
            resources: Resources::default(),
            timeout_ms: None,
            retries: 0,
            place: None,
            slurm: None,
        };
        let feeds = (0..instances).map(|id| Feed { key: Box::default(), instance: id, port: 0 });
        let input = Input { port: "all".into(), gathered: true, feeds: feeds.collect() };
        let each = (0..instances).map(|n| {
            let name = instance_name(name, &[("n", &n.to_string()), ("m", "x y")]);
            instance(name, 0, Box::default())
        });
        Graph {
            name: name.to_owned(),
            nodes: vec![node(name, &["n", "m"]), node("last", &[])],
            instances: each.chain([instance("last".to_owned(), 1, Box::new([input]))]).collect(),
            sources: Vec::new(),
            publish: Vec::new(),
        }
    }

    #[test]
    fn instances_are_drawn_as_long_as_there_are_few() {
        assert_eq!(Boxes::fitting(&graph("many", 39)), Boxes::Instances);
        assert_eq!(Boxes::fitting(&graph("many", 40)), Boxes::Nodes);
        let graph = graph("few", 2);
        let single = dot(&graph, Boxes::Instances);
        assert!(single.contains("  \"few[n=1,m=x%20y]\" -> \"last\";\n"), "{single}");
        let folded = dot(&graph, Boxes::Nodes);
        assert!(folded.contains("  \"few\" [label=\"few\\ncommand × 2\"];\n"), "{folded}");
        assert!(folded.contains("  \"few\" -> \"last\";\n"), "{folded}");
        assert_eq!(
            mermaid(&graph, Boxes::Instances),
            "flowchart LR\n  \
             n0[\"few#91;n=0,m=x#37;20y#93;<br/>command\"]\n  \
             n1[\"few#91;n=1,m=x#37;20y#93;<br/>command\"]\n  \
             n2[\"last<br/>command\"]\n  \
             n0 --> n2\n  n1 --> n2\n"
        );
        let drawn = svg(&graph, Boxes::Instances);
        assert_eq!(drawn.matches("<rect x=").count(), 3);
        for expected in [">few</text>", ">n=1, m=x%20y</text>", "<title>few[n=1,m=x%20y]</title>"] {
            assert!(drawn.contains(expected), "no `{expected}` in {drawn}");
        }
        assert!(svg(&graph, Boxes::Nodes).contains(">command × 2</text>"));
    }

    #[test]
    fn a_lineage_is_drawn_by_nodes_each_behind_what_it_reads() {
        let ancestor = |stage: &str, reads: &[&str]| {
            let action = "0".repeat(64);
            json!({ "stage": stage, "stage_version": 1, "action": action, "inputs": { "in": reads } })
        };
        let lineage = json!({ "lineage": 1, "inputs": {}, "ancestors": {
            "a_last[n=1]": ancestor("mix", &["middle[n=1]", "z_first"]),
            "middle[n=1]": ancestor("command", &["z_first"]),
            "middle[n=2]": ancestor("command", &["z_first"]),
            "z_first": ancestor("import", &[]),
        } });
        let lineage: Lineage = serde_json::from_value(lineage).unwrap();
        let drawing = Drawing::of_lineage(&lineage);
        let boxes: Vec<_> =
            drawing.boxes.iter().map(|it| (&*it.name, it.subtitle(), it.rank)).collect();
        let expected =
            [("a_last", "mix", 2), ("middle", "command × 2", 1), ("z_first", "import", 0)];
        assert_eq!(boxes, expected.map(|(name, subtitle, rank)| (name, subtitle.to_owned(), rank)));
        assert_eq!(drawing.arrows, [(1, 0), (2, 0), (2, 1)]);
        assert!(lineage_svg(&lineage, "a<b").contains("<title>a&lt;b</title>"));
    }

    #[test]
    fn names_mean_nothing_to_graphviz() {
        assert_eq!(dot_label(HOSTILE), "a\\\"b#c;d[e](f){g}`h`\\n- i<br>&amp;amp;\\\\N|%%' 1. é");
        let drawn = dot(&graph(HOSTILE, 1), Boxes::Nodes);
        // Outside of quotes nothing of the name is left.
        let mut outside = String::new();
        let (mut quoted, mut characters) = (false, drawn.chars());
        while let Some(character) = characters.next() {
            match character {
                '"' => quoted = !quoted,
                '\\' if quoted => drop(characters.next()),
                other if !quoted => outside.push(other),
                _ => {}
            }
        }
        assert_eq!(
            outside,
            "digraph  {\n  rankdir=LR;\n  node [shape=box, style=rounded];\n   [label=];\n   [label=];\n   -> ;\n}\n"
        );
    }

    #[test]
    fn names_mean_nothing_to_mermaid() {
        assert_eq!(
            mermaid_label(HOSTILE),
            "a#34;b#35;c#59;d#91;e#93;#40;f#41;#123;g#125;#96;h#96;<br/>#45; i#60;br#62;#38;amp#59;#92;N#124;#37;#37;#39; 1#46; é"
        );
        assert_eq!(mermaid_label("gpt-2_v1.5/a=b,c"), "gpt-2_v1.5/a=b,c");
        let drawn = mermaid(&graph(HOSTILE, 1), Boxes::Nodes);
        assert_eq!(drawn.lines().count(), 4, "{drawn}");
    }

    #[test]
    fn names_mean_nothing_to_svg() {
        assert_eq!(
            escape(HOSTILE),
            "a&quot;b#c;d[e](f){g}`h` - i&lt;br&gt;&amp;amp;\\N|%%&#39; 1. é"
        );
        let hostile = svg(&graph(HOSTILE, 3), Boxes::Nodes);
        let harmless = svg(&graph("x", 3), Boxes::Nodes);
        let tags = |text: &str| (text.matches('<').count(), text.matches('>').count());
        assert_eq!(tags(&hostile), tags(&harmless), "{hostile}");
    }
}

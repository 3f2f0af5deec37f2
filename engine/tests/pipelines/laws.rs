//! What holds for every text.

use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;

use crate::stages::{graph, load_text, project};

/// The text of the fixture that has one of everything.
fn everything() -> String {
    fs::read_to_string(project().join("valid/everything.yaml")).unwrap()
}

/// What enters the identity of each instance.
fn identities(text: &str) -> BTreeMap<String, (String, Vec<String>)> {
    let graph = graph(text);
    graph
        .instances
        .iter()
        .map(|instance| {
            let inputs = instance
                .inputs
                .iter()
                .flat_map(|input| {
                    input.feeds.iter().map(|feed| {
                        let from = &graph.instances[feed.instance as usize].name;
                        format!("{}/{}={from}:{}", input.port, feed.key, feed.port)
                    })
                })
                .collect();
            (instance.name.to_string(), (instance.declared.to_string(), inputs))
        })
        .collect()
}

/// A node as lines `key: value`, so that they can be put into any order.
const NODES: [(&str, [&str; 5]); 3] = [
    (
        "make",
        [
            "stage: command",
            "for_each: {lang: [de, ru], size: [1, 2]}",
            "env: {B: x, A: \"${each.size}\"}",
            "run: echo ${each.lang}",
            "outputs: {rows: instructions, log: file}",
        ],
    ),
    (
        "learn",
        [
            "stage: train",
            "for_each: {size: [1, 2], lang: [de, ru]}",
            "inputs: {examples: \"make:rows\"}",
            "params: {rate: 0.5, epochs: 2, weights: {b: 1, a: 0}}",
            "seed: 1",
        ],
    ),
    (
        "sum",
        [
            "stage: command",
            "inputs: {models: \"learn:model\", one: \"make[lang=de,size=1]:log\"}",
            "run: wc",
            "outputs: {n: file}",
            "retries: 1",
        ],
    ),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn order_of_keys_and_comments_change_no_identity(
        nodes in Just(NODES.to_vec()).prop_shuffle(),
        orders in proptest::collection::vec(Just(vec![0usize, 1, 2, 3, 4]).prop_shuffle(), 3),
        comments in proptest::collection::vec(any::<bool>(), 30),
    ) {
        let plain: String = std::iter::once("okapi: 1\nnodes:\n".to_owned())
            .chain(NODES.iter().map(|(name, lines)| {
                format!("  {name}:\n    {}\n", lines.join("\n    "))
            }))
            .collect();
        let mut comments = comments.into_iter().cycle();
        let mut shuffled = String::from("# at the top\nnodes:\n");
        for ((name, lines), order) in nodes.iter().zip(&orders) {
            shuffled += &format!("\n  {name}:   # a node\n");
            for line in order {
                let comment = if comments.next() == Some(true) { "   # why" } else { "" };
                shuffled += &format!("    {}{comment}\n\n", lines[*line]);
            }
        }
        shuffled += "okapi: 1\n";
        prop_assert_eq!(identities(&plain), identities(&shuffled));
    }

    /// Mutated pipelines: whatever the damage, an answer comes back, and it is one or the other.
    #[test]
    fn damage_is_reported_and_never_panics(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..4, "[ \\n:{}\\[\\]$a-z*&\"'#-]{0,4}"), 1..6),
    ) {
        let mut text: Vec<char> = everything().chars().collect();
        for (place, remove, insert) in edits {
            let at = place.index(text.len());
            let end = (at + remove).min(text.len());
            text.splice(at..end, insert.chars());
        }
        let text: String = text.into_iter().collect();
        let (graph, diagnostics) = load_text(&text, "valid", Some("paper"), &["vars.sft.epochs=2"]);
        prop_assert_eq!(graph.is_none(), diagnostics.has_errors());
        for item in &diagnostics.items {
            let inside = (item.span.end as usize) <= text.len();
            prop_assert!(item.span.argument().is_some() || inside, "{:?}", item);
        }
        if let Some(graph) = graph {
            for (id, instance) in graph.instances.iter().enumerate() {
                for feed in instance.inputs.iter().flat_map(|input| &input.feeds) {
                    prop_assert!((feed.instance as usize) < id, "not in topological order");
                }
            }
        }
    }

    #[test]
    fn any_bytes_get_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let text = String::from_utf8_lossy(&bytes);
        let (graph, diagnostics) = load_text(&text, "", None, &[&text]);
        prop_assert_eq!(graph.is_none(), diagnostics.has_errors());
    }
}

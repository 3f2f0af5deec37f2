//! Large and hostile files: answered, with bounded recursion and memory.

use std::fmt::Write as _;

use crate::stages::{graph, load_text};

fn codes(text: &str) -> Vec<&'static str> {
    load_text(text, "", None, &[]).1.items.iter().map(|item| item.code).collect()
}

/// Run where a frame too many is noticed.
fn with_small_stack(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(work).unwrap();
    thread.join().unwrap();
}

#[test]
fn a_long_chain_needs_no_stack() {
    const LENGTH: usize = 100_000;
    let mut text = String::from("okapi: 1\nnodes:\n");
    for node in (0..LENGTH).rev() {
        let input =
            if node == 0 { String::new() } else { format!(", inputs: {{x: n{}}}", node - 1) };
        let _ =
            writeln!(text, "  n{node}: {{stage: command, run: w, outputs: {{o: file}}{input}}}");
    }
    with_small_stack(move || {
        let graph = graph(&text);
        assert_eq!(graph.instances.len(), LENGTH);
        assert_eq!(&*graph.instances[0].name, "n0");
        assert_eq!(&*graph.instances[LENGTH - 1].name, "n99999");
    });
}

#[test]
fn a_long_circle_is_one_mistake() {
    let mut text = String::from("okapi: 1\nnodes:\n");
    for node in 0..20_000 {
        let read = (node + 1) % 20_000;
        let _ = writeln!(
            text,
            "  n{node}: {{stage: command, run: w, outputs: {{o: file}}, inputs: {{x: n{read}}}}}"
        );
    }
    with_small_stack(move || assert_eq!(codes(&text), ["cycle"]));
}

#[test]
fn many_instances_share_one_node() {
    let text = "okapi: 1\nnodes:\n  a:\n    for_each: {x: [AXIS], y: [AXIS]}\n    stage: command\n    \
                run: echo ${each.x} ${each.y}\n    outputs: {o: file}\n  b: {stage: command, run: w, \
                outputs: {o: file}, inputs: {all: a}}\n";
    let axis: Vec<String> = (0..200).map(|value| format!("v{value}")).collect();
    let graph = graph(&text.replace("AXIS", &axis.join(", ")));
    assert_eq!(graph.instances.len(), 40_001);
    assert_eq!(graph.instances[40_000].inputs[0].feeds.len(), 40_000);
}

#[test]
fn hostile_texts_are_refused() {
    with_small_stack(|| {
        for (text, code) in [
            (format!("okapi: 1\nx: {}", "[".repeat(100_000)), "too-large"),
            (format!("okapi: 1\nx: {}", "{a: ".repeat(100_000)), "too-large"),
            ("- ".repeat(100_000), "too-large"),
            ("a".repeat(65 << 20), "too-large"),
            (format!("okapi: 1\nx: [{}]", "a,".repeat(4_100_000)), "too-large"),
        ] {
            assert_eq!(codes(&text), [code], "{}...", &text[..20]);
        }
    });
}

/// Thirty megabytes in which every anchor repeats the one before many times.
#[test]
fn a_large_alias_bomb_is_refused() {
    let mut text = String::from("okapi: 1\nvars:\n  a0: &a0 [x]\n");
    for level in 1..300 {
        let repeat = format!("*a{},", level - 1).repeat(20_000);
        let _ = writeln!(text, "  a{level}: &a{level} [{repeat}]");
    }
    assert!(text.len() > 30 << 20);
    assert_eq!(codes(&text), ["alias"]);
}

#[test]
fn variables_that_refer_to_each_other_are_bounded() {
    let mut text = String::from("okapi: 1\nnodes: {}\nvars:\n  v0: [x]\n");
    for variable in 1..5000 {
        let _ = writeln!(text, "  v{variable}: [\"${{vars.v{}}}\"]", variable - 1);
    }
    with_small_stack(move || assert_eq!(codes(&text), ["too-large"]));

    let mut text = String::from("okapi: 1\nnodes: {}\nvars:\n  v0: xxxxxxxxxxxxxxxx\n");
    for variable in 1..60 {
        let before = variable - 1;
        let _ = writeln!(text, "  v{variable}: \"${{vars.v{before}}}${{vars.v{before}}}\"");
    }
    assert!(codes(&text).contains(&"too-large"));
}

#[test]
fn mistakes_are_counted_beyond_what_anyone_reads() {
    let mut text = String::from("okapi: 1\nnodes:\n");
    for node in 0..5000 {
        let _ = writeln!(text, "  n{node}: {{stage: comand}}");
    }
    let (_, diagnostics) = load_text(&text, "", None, &[]);
    assert_eq!(diagnostics.items.len(), 200);
    let hint = diagnostics.items[199].hint.as_deref().unwrap_or_default();
    assert!(hint.contains("4800 more mistakes"), "{hint}");
}

//! What a pipeline means, where a fixture would hide it.

use okapi_engine::graph::Graph;

use crate::stages::{graph, load_text, project, render};

fn declared<'g>(graph: &'g Graph, name: &str) -> &'g str {
    &graph.instances[graph.find(name).unwrap() as usize].declared
}

/// A node that trains, with these params.
fn train(params: &str) -> String {
    format!(
        "okapi: 1\nnodes:\n  rows: {{stage: read, params: {{path: data/rows.txt, kind: instructions}}}}\n  \
         learn: {{stage: train, inputs: {{examples: rows}}, params: {{{params}}}}}\n"
    )
}

#[test]
fn the_ways_to_write_a_value_are_one_identity() {
    for (one, other) in [
        ("rate: 1", "rate: 1.0"),
        ("rate: 1", ""),
        ("epochs: 3", ""),
        ("method: full", "method: 'full'"),
        ("weights: {a: 1, b: 0}", "weights: {b: 0.0, a: 1.0}"),
        ("title: ~", ""),
        ("log_every: 5", "log_every: 6"),
    ] {
        let [one, other] = [one, other].map(|params| graph(&train(params)));
        assert_eq!(declared(&one, "learn"), declared(&other, "learn"));
    }
}

#[test]
fn values_that_differ_are_two_identities() {
    for (one, other) in [
        ("rate: 1", "rate: 0.5"),
        ("extra: 1", "extra: 1.0"),
        ("extra: ~", ""),
        ("layers: [1, 2]", "layers: [2, 1]"),
    ] {
        let [one, other] = [one, other].map(|params| graph(&train(params)));
        assert_ne!(declared(&one, "learn"), declared(&other, "learn"));
    }
}

#[test]
fn params_outside_the_identity_are_settings() {
    let graph = graph(&train("log_every: 5"));
    let learn = &graph.instances[graph.find("learn").unwrap() as usize];
    assert_eq!(&*learn.settings, "{\"log_every\":5}");
    assert!(!learn.declared.contains("log_every"));
}

#[test]
fn a_whole_reference_keeps_its_type_and_an_embedded_one_is_text() {
    let text = "okapi: 1\nvars: {n: 2, r: 2.0e-5, m: {k: [a, b]}}\n".to_owned()
        + &train(
            "epochs: \"${vars.n}\", title: \"${vars.n} at ${vars.r} ${vars.m.k[1]}\", extra: \"${vars.m}\"",
        )["okapi: 1\n".len()..];
    let graph = graph(&text);
    let learn = declared(&graph, "learn");
    assert!(learn.contains("\"epochs\":2"), "{learn}");
    assert!(learn.contains("\"title\":\"2 at 2e-5 b\""), "{learn}");
    assert!(learn.contains("\"extra\":{\"k\":[\"a\",\"b\"]}"), "{learn}");
}

#[test]
fn a_mapping_is_asked_for_the_value_of_an_axis() {
    let text = |vars: &str, value: &str| {
        format!(
            "okapi: 1\nvars: {{{vars}}}\nnodes:\n  a:\n    for_each: {{m: [x, y-1.4]}}\n    stage: command\n    \
             run: 'echo'\n    env: {{E: \"{value}\"}}\n    outputs: {{o: file}}\n"
        )
    };
    let vars = "s: {x: 1, y-1.4: 2}, t: {x: {k: a}, y-1.4: {k: b}}";
    let graph = graph(&text(vars, "${vars.s[each.m]}/${vars.t[each.m].k}"));
    assert!(declared(&graph, "a[m=x]").contains("1/a"), "{}", declared(&graph, "a[m=x]"));
    assert!(declared(&graph, "a[m=y-1.4]").contains("2/b"));
    for (value, expected) in [
        ("${vars.s[each.n]}", "`${each.n}` names an axis that is not there"),
        ("${vars.t[each.m].q}", "`vars.t.x` has nothing for `q`"),
        ("${vars.u[each.m]}", "`vars.u` has nothing for `y-1.4`"),
        ("${vars.s[each.m}", "`vars.s[each.m` cannot be read"),
        ("${vars.v[each.m]}", "there is no variable `v`"),
    ] {
        let vars = format!("{vars}, u: {{x: 1}}");
        let (_, diagnostics) = load_text(&text(&vars, value), "text", None, &[]);
        let said: Vec<&str> = diagnostics.items.iter().map(|it| &*it.message).collect();
        assert!(said.contains(&expected), "{value}: {said:?}");
    }
}

#[test]
fn a_script_keeps_what_is_the_shells() {
    let text = "okapi: 1\nvars: {x: 1}\nnodes:\n  a:\n    stage: command\n    run: 'echo ${HOME} $$ \
                ${x:-${vars.x}} ${#v} $${vars.x}'\n    outputs: {o: file}\n";
    let graph = graph(text);
    let a = declared(&graph, "a");
    assert!(a.contains("echo ${HOME} $$ ${x:-1} ${#v} ${vars.x}"), "{a}");
}

#[test]
fn a_script_that_names_the_project_is_warned_of() {
    let root = project();
    let text = format!(
        "okapi: 1\nnodes:\n  a:\n    stage: command\n    run: cat {}/data/rows.txt\n    outputs: {{o: file}}\n",
        root.display()
    );
    let (graph, diagnostics) = load_text(&text, "", None, &[]);
    assert!(graph.is_some(), "{}", render(&diagnostics));
    assert_eq!(diagnostics.items.len(), 1);
    assert_eq!(diagnostics.items[0].code, "undeclared-read");
}

#[test]
fn an_override_takes_part_like_the_file() {
    let text = "okapi: 1\nvars: {n: 1}\n".to_owned()
        + &train("epochs: \"${vars.n}\"")["okapi: 1\n".len()..];
    let (changed, diagnostics) = load_text(&text, "", None, &["vars.n=7"]);
    assert!(diagnostics.items.is_empty(), "{}", render(&diagnostics));
    assert!(declared(&changed.unwrap(), "learn").contains("\"epochs\":7"));

    let (_, diagnostics) = load_text(&text, "", None, &["vars.n=many"]);
    assert!(diagnostics.has_errors());
}

#[test]
fn paths_are_one_however_written() {
    let text = "okapi: 1\nnodes:\n  a: {stage: command, run: w, outputs: {o: file}, \
                files: [data/rows.txt, ../data/rows.txt, ./../data//rows.txt, data/./nested/../rows.txt]}\n";
    let (graph, diagnostics) = load_text(text, "valid", None, &[]);
    let graph = graph.unwrap_or_else(|| panic!("{}", render(&diagnostics)));
    assert_eq!(graph.sources.len(), 1);
    assert_eq!(&*graph.sources[0].path, "data/rows.txt");
}

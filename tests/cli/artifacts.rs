//! `get` and `show`: artifacts on their way to the user.

use std::fs;

use crate::sandbox::Sandbox;

fn project(run: &str) -> Sandbox {
    let sandbox = Sandbox::new(&format!(
        "okapi: 1\nname: artifacts\nnodes:\n  n:\n    stage: command\n    run: |\n      {run}\n    outputs: {{o: file}}\n"
    ));
    sandbox.run();
    sandbox
}

#[test]
fn get_never_replaces_the_store_or_the_project() {
    let sandbox = project("echo kept > \"$OKAPI_OUTPUT_O\"");
    fs::create_dir(sandbox.path("sub")).unwrap();
    for (destination, expected) in [
        (".okapi", "lies in the store"),
        (".okapi/objects", "lies in the store"),
        ("sub/../.okapi/work", "lies in the store"),
        ("absent/../.okapi", "lies in the store"),
        (sandbox.path("").to_str().unwrap(), "holds the"),
        (sandbox.path("").parent().unwrap().to_str().unwrap(), "holds the"),
    ] {
        let said = sandbox.okapi(&["get", "p.yaml", "n", destination, "--overwrite"]);
        assert_eq!(said.code, Some(2), "{destination}: {}", said.stderr);
        assert!(said.stderr.contains(expected), "{destination}: {}", said.stderr);
    }
    assert_eq!(sandbox.okapi(&["show", "p.yaml", "n"]).stdout, "kept\n");
    assert_eq!(sandbox.okapi(&["cache", "verify"]).code, Some(0));
}

#[test]
fn get_replaces_a_link_and_not_what_it_leads_to() {
    let sandbox = project("echo new > \"$OKAPI_OUTPUT_O\"");
    sandbox.write("elsewhere/mine", "mine");
    std::os::unix::fs::symlink("elsewhere", sandbox.path("link")).unwrap();
    let said = sandbox.okapi(&["get", "p.yaml", "n", "link"]);
    assert_eq!(said.code, Some(2), "a link is something, too");
    let said = sandbox.okapi(&["get", "p.yaml", "n", "link", "--overwrite"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(sandbox.read("link"), "new\n");
    assert_eq!(sandbox.read("elsewhere/mine"), "mine");
}

#[test]
fn get_and_show_name_what_is_wrong() {
    let sandbox = project("echo 1 > \"$OKAPI_OUTPUT_O\"");
    for (artifact, expected) in
        [("m", "did you mean `n`?"), ("n:p", "has no output `p`"), ("n[lang=de]", "n[lang=de]")]
    {
        let said = sandbox.okapi(&["show", "p.yaml", artifact]);
        assert_eq!(said.code, Some(2), "{artifact}: {}", said.stderr);
        assert!(said.stderr.contains(expected), "{artifact}: {}", said.stderr);
    }
    sandbox.edit("p.yaml", "echo 1", "echo 2");
    let said = sandbox.okapi(&["get", "p.yaml", "n", "out"]);
    assert_eq!(said.code, Some(1), "an old result is not the present one");
    assert!(said.stderr.contains("okapi run p.yaml 'n'"), "{}", said.stderr);
    assert!(!sandbox.path("out").exists());
}

#[test]
fn show_gives_the_head_of_a_text_and_says_so() {
    let sandbox = project("seq 100 > \"$OKAPI_OUTPUT_O\"");
    let said = sandbox.okapi(&["show", "p.yaml", "n", "-n", "2"]);
    assert_eq!(said.stdout, "1\n2\n");
    assert!(said.stderr.contains("the first 2 lines"), "{}", said.stderr);
    let said = sandbox.okapi(&["show", "p.yaml", "n", "-n", "100"]);
    assert_eq!((said.stdout.lines().count(), &*said.stderr), (100, ""));
    let said = sandbox.okapi(&["show", "p.yaml", "n", "-n", "0"]);
    assert_eq!((said.stdout.lines().count(), &*said.stderr), (100, ""));
}

#[test]
fn show_indents_json_and_gives_its_bytes_on_request() {
    let json = r#"{"b":[1,12345678901234567890123],"a":{}}"#;
    let sandbox = project(&format!("printf '%s' '{json}' > \"$OKAPI_OUTPUT_O\""));
    assert_eq!(
        sandbox.okapi(&["show", "p.yaml", "n"]).stdout,
        "{\n  \"b\": [\n    1,\n    12345678901234567890123\n  ],\n  \"a\": {}\n}\n"
    );
    assert_eq!(sandbox.okapi(&["show", "p.yaml", "n", "-n", "0"]).stdout, json);
}

#[test]
fn show_prints_no_binary() {
    let sandbox = project("printf 'a\\000b\\377' > \"$OKAPI_OUTPUT_O\"");
    let said = sandbox.okapi(&["show", "p.yaml", "n"]);
    assert!(said.stdout.starts_with("binary, 4 B, blake3 "), "{}", said.stdout);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let sandbox = project("seq 200000 > \"$OKAPI_OUTPUT_O\"");
    let mut child = sandbox.start(&["show", "p.yaml", "n", "-n", "0"]);
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A run that ends between two published files, here because the second leads out of the project, has
/// not said of the first that it is published. It is okapi's all the same.
#[test]
fn what_an_ended_run_published_is_replaced_and_not_kept_beside() {
    let sandbox = Sandbox::new(
        r#"
okapi: 1
nodes:
  n: {stage: command, run: 'echo one > "$OKAPI_OUTPUT_O"', outputs: {o: text}}
publish: {results/a.txt: n, results/b/c.txt: n}
"#,
    );
    sandbox.write("results/.x", "");
    let elsewhere = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), sandbox.path("results/b")).unwrap();
    for word in ["one", "two", "three"] {
        if word != "one" {
            let before = if word == "two" { "one" } else { "two" };
            sandbox.edit("p.yaml", before, word);
        }
        let said = sandbox.okapi(&["run", "p.yaml"]);
        assert!(said.stderr.contains("leads out of the project"), "{}", said.stderr);
        assert_eq!(sandbox.read("results/a.txt"), format!("{word}\n"));
    }
    assert!(!sandbox.path("results/a.txt.kept").exists());
    sandbox.write("results/a.txt", "mine");
    sandbox.okapi(&["run", "p.yaml"]);
    assert_eq!(sandbox.read("results/a.txt.kept"), "mine");
}

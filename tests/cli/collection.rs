//! `gc` and `cache`: what stays, what goes, and what is found damaged.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::sandbox::{Sandbox, names};

fn pipeline(name: &str, word: &str) -> String {
    format!(
        "okapi: 1\nname: {name}\nnodes:\n  {name}:\n    stage: command\n    run: 'echo {word} > \"$OKAPI_OUTPUT_O\"'\n    outputs: {{o: text}}\n"
    )
}

fn run(sandbox: &Sandbox, file: &str) {
    let said = sandbox.okapi(&["run", file]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
}

#[test]
fn the_last_results_of_every_pipeline_are_kept() {
    let sandbox = Sandbox::new(&pipeline("busy", "0"));
    sandbox.write("rare.yaml", &pipeline("rare", "precious"));
    run(&sandbox, "rare.yaml");
    for number in 0..4 {
        sandbox.write("p.yaml", &pipeline("busy", &number.to_string()));
        run(&sandbox, "p.yaml");
    }
    for _ in 0..2 {
        assert_eq!(sandbox.okapi(&["gc", "--keep-runs", "1"]).code, Some(0));
        assert_eq!(sandbox.okapi(&["show", "rare.yaml", "rare"]).stdout, "precious\n");
        assert_eq!(sandbox.okapi(&["show", "p.yaml", "busy"]).stdout, "3\n");
    }
    let runs = sandbox.okapi(&["runs", "--json"]).json();
    assert_eq!(runs["runs"].as_array().unwrap().len(), 2);
    let manifests = fs::read_dir(sandbox.path(".okapi/runs/manifests")).unwrap();
    assert_eq!(manifests.count(), 2, "manifests of dropped runs go with them");
}

#[test]
fn results_of_a_killed_run_are_kept() {
    let sandbox = Sandbox::new(&pipeline("work", "before"));
    sandbox.run();
    sandbox.edit("p.yaml", "before", "after");
    sandbox.run();
    // As a kill after the node and before the end of the run leaves it.
    let runs = sandbox.okapi(&["runs", "--json"]).json();
    let id = runs["runs"][0]["id"].as_str().unwrap();
    let record = format!(".okapi/runs/{id}/run.json");
    let mut info: serde_json::Value = serde_json::from_str(&sandbox.read(&record)).unwrap();
    let manifest = info["end"]["manifest"].as_str().unwrap().to_owned();
    info["end"] = serde_json::Value::Null;
    fs::remove_file(sandbox.path(&record)).unwrap();
    sandbox.write(&record, &info.to_string());
    fs::remove_file(sandbox.path(&format!(".okapi/runs/manifests/{manifest}"))).unwrap();

    assert_eq!(sandbox.okapi(&["gc"]).code, Some(0));
    assert_eq!(sandbox.run(), names(&[]), "its work is not lost");
}

#[test]
fn a_store_is_made_to_fit_the_newest_first() {
    let sandbox = Sandbox::new(&pipeline("n", "old"));
    sandbox.run();
    sandbox.edit("p.yaml", "old", "new");
    sandbox.run();
    let said = sandbox.okapi(&["gc", "--max-size", "6"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(said.stdout.contains("kept 1 object (4 B) and 1 result"), "{}", said.stdout);
    assert_eq!(sandbox.okapi(&["show", "p.yaml", "n"]).stdout, "new\n");
    for wrong in [["--max-size", "much"], ["--keep-runs", "0"]] {
        assert_eq!(sandbox.okapi(&["gc", wrong[0], wrong[1]]).code, Some(2));
    }
}

#[test]
fn a_damaged_object_is_named_with_the_node_that_made_it() {
    let sandbox = Sandbox::new(&pipeline("poem", "roses"));
    sandbox.run();
    let mut objects = Vec::new();
    for folder in fs::read_dir(sandbox.path(".okapi/objects")).unwrap() {
        objects.extend(fs::read_dir(folder.unwrap().path()).unwrap().map(|it| it.unwrap().path()));
    }
    let poem = objects.iter().find(|path| fs::read(path).unwrap() == b"roses\n").unwrap();
    fs::set_permissions(poem, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(poem, "weeds\n").unwrap();
    let said = sandbox.okapi(&["cache", "verify"]);
    assert_eq!(said.code, Some(3), "{}", said.stdout);
    assert!(said.stdout.contains("damaged: object"), "{}", said.stdout);
    assert!(said.stdout.contains("incomplete: the result of `poem`"), "{}", said.stdout);
    let json = sandbox.okapi(&["cache", "verify", "--repair", "--json"]).json();
    assert_eq!(json["incomplete"][0]["node"], "poem");
    assert_eq!(sandbox.okapi(&["cache", "stats", "--json"]).json()["quarantined"], 1);
    assert_eq!(sandbox.run(), names(&["poem"]));
    assert_eq!(sandbox.okapi(&["cache", "verify"]).code, Some(0));
    assert_eq!(sandbox.okapi(&["show", "p.yaml", "poem"]).stdout, "roses\n");
}

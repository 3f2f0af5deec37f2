//! Dependencies between our crates point one way.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

#[test]
fn crates_depend_one_way() {
    let allowed: BTreeSet<(&str, &str)> = BTreeSet::from([
        ("okapi-engine", "okapi-cache"),
        ("okapi-engine", "okapi-remote"),
        ("okapi-eval", "okapi-data"),
        ("okapi-eval", "okapi-model"),
        ("okapi-model", "okapi-device"),
        ("okapi-remote", "okapi-cache"),
        ("okapi-stages", "okapi-cache"),
        ("okapi-stages", "okapi-data"),
        ("okapi-stages", "okapi-device"),
        ("okapi-stages", "okapi-engine"),
        ("okapi-stages", "okapi-eval"),
        ("okapi-stages", "okapi-model"),
        ("okapi-stages", "okapi-report"),
        ("okapi-stages", "okapi-teacher"),
        ("okapi-stages", "okapi-train"),
        ("okapi-teacher", "okapi-cache"),
        ("okapi-teacher", "okapi-data"),
        ("okapi-train", "okapi-device"),
        ("okapi-train", "okapi-model"),
        ("okapi", "okapi-cache"),
        ("okapi", "okapi-engine"),
        ("okapi", "okapi-remote"),
        ("okapi", "okapi-stages"),
        ("okapi", "okapi-teacher"),
    ]);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let ours: BTreeSet<_> = packages.iter().map(|it| it["name"].as_str().unwrap()).collect();
    let mut found = BTreeSet::new();
    for package in packages {
        for dependency in package["dependencies"].as_array().unwrap() {
            let name = dependency["name"].as_str().unwrap();
            if ours.contains(name) && dependency["kind"].is_null() {
                found.insert((package["name"].as_str().unwrap(), name));
            }
        }
    }
    let unexpected: Vec<_> = found.difference(&allowed).collect();
    assert!(unexpected.is_empty(), "{unexpected:?}");
}

//! `tests/pipelines/invalid`: each file with the words it gets (`NAME.expected`).
//! `tests/pipelines/valid`: each file with the graph it means (`NAME.graph`).
//!
//! The first line of a file may be `# options: --profile P --set vars.x=1`. `UPDATE_EXPECT=1`
//! writes what is expected anew; read the difference before committing it.

use std::fs;
use std::path::{Path, PathBuf};

use okapi_engine::diagnostic::Diagnostics;
use okapi_engine::graph::Graph;
use okapi_engine::load::{LoadRequest, decode, load};
use okapi_engine::spec::codes::CODES;

use crate::stages::{describe, project, registry, render};

fn fixtures(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(project().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn load_file(path: &Path, folder: &str) -> (Option<Graph>, Diagnostics) {
    let text = match decode(fs::read(path).unwrap(), path) {
        Ok(text) => text,
        Err(diagnostics) => return (None, *diagnostics),
    };
    let options = text.lines().next().and_then(|line| line.strip_prefix("# options: "));
    let mut words = options.unwrap_or_default().split(' ');
    let (mut profile, mut overrides) = (None, Vec::new());
    while let Some(word) = words.next() {
        match word {
            "--profile" => profile = words.next(),
            "--set" => overrides.extend(words.next().map(str::to_owned)),
            _ => {}
        }
    }
    let request = LoadRequest {
        text: &text,
        file: Path::new(path.file_name().unwrap()),
        pipeline_dir: folder,
        profile,
        overrides: &overrides,
        project_root: &project(),
    };
    load(request, &registry())
}

/// Compares with the file beside a fixture, or writes it.
fn compare(path: &Path, found: &str, wrong: &mut Vec<String>) {
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(path, found).unwrap();
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    if expected != found {
        wrong.push(format!("{}\n--- expected\n{expected}--- found\n{found}", path.display()));
    }
}

#[test]
fn invalid_pipelines_get_the_words_expected() {
    let mut wrong = Vec::new();
    for path in fixtures("invalid") {
        let (graph, diagnostics) = load_file(&path, "invalid");
        let found = render(&diagnostics);
        assert!(graph.is_none(), "{} is accepted:\n{found}", path.display());
        assert!(diagnostics.has_errors(), "{}", path.display());
        for item in &diagnostics.items {
            assert!(item.hint.is_some() || item.code == "wrong-type", "no remedy: {item:?}");
        }
        compare(&path.with_extension("expected"), &found, &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn valid_pipelines_have_the_graph_expected() {
    let mut wrong = Vec::new();
    for path in fixtures("valid") {
        let (graph, diagnostics) = load_file(&path, "valid");
        assert!(diagnostics.items.is_empty(), "{}\n{}", path.display(), render(&diagnostics));
        let found = describe(&graph.unwrap());
        compare(&path.with_extension("graph"), &found, &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A code without a fixture is one whose words nobody has read.
#[test]
fn every_code_has_a_fixture() {
    let mut expected = String::new();
    for path in fixtures("invalid") {
        expected += &fs::read_to_string(path.with_extension("expected")).unwrap_or_default();
    }
    let missing: Vec<&str> = CODES
        .iter()
        .map(|(code, _)| *code)
        // Too large to keep, and about the machine: see `limits`, `meaning` and the binary's tests.
        .filter(|code| !["bad-prompt", "too-large", "undeclared-read", "unreadable"].contains(code))
        .filter(|code| !expected.contains(&format!("[{code}]")))
        .collect();
    assert!(missing.is_empty(), "no fixture shows {missing:?}");
}

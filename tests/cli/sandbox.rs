//! A project in a temporary folder, and the binary run in it with a cleared environment.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

pub(crate) struct Sandbox {
    folder: tempfile::TempDir,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Sandbox {
    pub(crate) fn new(pipeline: &str) -> Sandbox {
        let sandbox = Sandbox { folder: tempfile::tempdir().unwrap() };
        sandbox.write("p.yaml", pipeline);
        sandbox
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn edit(&self, name: &str, from: &str, to: &str) {
        let text = self.read(name);
        assert!(text.contains(from), "`{from}` is not in {name}");
        self.write(name, &text.replace(from, to));
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_okapi"));
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn okapi(&self, arguments: &[&str]) -> Said {
        Said::of(self.command(arguments).output().unwrap())
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().unwrap()
    }

    /// Runs the pipeline, which must succeed; returns the instances that were executed.
    pub(crate) fn run(&self) -> BTreeSet<String> {
        self.run_with(&[])
    }

    pub(crate) fn run_with(&self, arguments: &[&str]) -> BTreeSet<String> {
        let mut all = vec!["run", "p.yaml", "--progress", "json"];
        all.extend(arguments);
        let said = self.okapi(&all);
        assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
        said.executed()
    }

    /// Every published file with its content.
    pub(crate) fn published(&self) -> BTreeMap<String, Vec<u8>> {
        let folder = self.path("results");
        let Ok(entries) = fs::read_dir(folder) else { return BTreeMap::new() };
        entries
            .map(|entry| entry.unwrap().path())
            .map(|path| {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                (name, fs::read(path).unwrap())
            })
            .collect()
    }

    /// What a run of the same project on a store of its own publishes.
    pub(crate) fn published_by_a_clean_run(&self) -> BTreeMap<String, Vec<u8>> {
        let clean = Sandbox { folder: tempfile::tempdir().unwrap() };
        copy(self.folder.path(), clean.folder.path());
        clean.run();
        clean.published()
    }
}

/// Copies what the user has, without the store and the results.
fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if name == ".okapi" || name == "results" || name == "ran" {
            continue;
        }
        let target = to.join(&name);
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

impl Said {
    pub(crate) fn of(output: Output) -> Said {
        Said {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }

    /// The events of `--progress json`.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) fn executed(&self) -> BTreeSet<String> {
        self.events()
            .iter()
            .filter(|event| event["event"] == "node_finished")
            .map(|event| event["node"].as_str().unwrap().to_owned())
            .collect()
    }
}

/// A set of names.
pub(crate) fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

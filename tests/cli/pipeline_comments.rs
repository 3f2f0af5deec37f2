//! The commands in the comments of the pipelines: what a person copies works.

use std::fs;
use std::path::Path;

use crate::sandbox::{Said, Sandbox};

/// A project with the pipelines, and all that they name.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new("");
    for folder in ["pipelines", "prompts"] {
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &sandbox.path(folder));
    }
    sandbox
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// The commands in a file's comments; two blanks end one, and a backslash says that it goes on.
fn commands(text: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in text.lines() {
        let Some(comment) = line.trim_start().strip_prefix('#') else { continue };
        let comment = comment.trim();
        let begins = ["okapi run ", "okapi plan "].iter().any(|begin| comment.starts_with(begin));
        if !begins && !goes_on {
            continue;
        }
        let command = comment.split("  ").next().unwrap_or_default();
        goes_on = command.ends_with('\\');
        let command = command.trim_end_matches('\\').trim();
        match begins {
            true => commands.push(command.to_owned()),
            false => commands.last_mut().unwrap().push_str(&format!(" {command}")),
        }
    }
    commands
}

/// A command as a shell takes it, planned and not run.
fn plan(sandbox: &Sandbox, command: &str, more: &str) -> Said {
    let command = command.replacen("okapi run ", "okapi plan ", 1);
    let words = command.replacen("okapi ", &format!("{} ", env!("CARGO_BIN_EXE_okapi")), 1);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &format!("{words} {more}")]).current_dir(sandbox.path("."));
    shell.env_clear().env("PATH", std::env::var("PATH").unwrap());
    Said::of(shell.output().unwrap())
}

#[test]
fn every_command_in_a_comment_can_be_planned() {
    let sandbox = sandbox();
    let mut found = Vec::new();
    for pipeline in ["data", "mono-or-multi", "okapi-26", "quickstart", "tiny"] {
        found.extend(commands(&sandbox.read(&format!("pipelines/{pipeline}.yaml"))));
    }
    assert!(found.len() > 8, "{found:?}");
    assert!(found.iter().any(|it| it.contains("open-llama-7b") && it.contains("--profile paper")));
    for command in found {
        let said = plan(&sandbox, &command, "--check");
        assert_eq!(said.code, Some(10), "{command}: {}", said.stderr);
    }
}

#[test]
fn any_of_the_models_will_do() {
    let sandbox = sandbox();
    for (pipeline, model) in [("mono-or-multi", "pythia-large"), ("okapi-26", "llama")] {
        let set = format!("--set 'vars.models=[{model}]' --check");
        let said = plan(&sandbox, &format!("okapi plan pipelines/{pipeline}.yaml"), &set);
        assert_eq!(said.code, Some(10), "{model}: {}", said.stderr);
    }
}

/// The paper has LLaMA in 14 of its languages, and BLOOMZ, which is a BLOOM, beside BLOOM alone.
#[test]
fn llama_is_planned_alone() {
    let sandbox = sandbox();
    let plan = |profile: &str| {
        let command = format!("okapi plan pipelines/okapi-26.yaml --profile {profile}");
        let said = plan(&sandbox, &command, "--json");
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        let nodes = said.json()["nodes"].clone();
        let names =
            nodes.as_array().unwrap().iter().map(|it| it["node"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    let of = |names: &[String], node: &str| {
        names.iter().filter(|name| name.split('[').next() == Some(node)).count()
    };
    let (both, llama) = (plan("paper"), plan("paper_llama"));
    assert_eq!((of(&both, "arc_bloomz"), of(&both, "arc")), (26, 2 * 26 * 3));
    assert_eq!((of(&llama, "rlhf"), of(&llama, "arc")), (14, 14 * 3));
    assert!(!llama.iter().any(|name| name.contains("bloom")), "{llama:?}");
}

//! `init`, and that every command explains itself.

use crate::sandbox::Sandbox;

#[test]
fn what_init_writes_runs() {
    let sandbox = Sandbox::new("");
    assert_eq!(sandbox.okapi(&["init", "new"]).code, Some(0));
    assert_eq!(sandbox.okapi(&["check", "new/okapi.yaml"]).stderr, "");
    let said = sandbox.okapi(&["run", "new/okapi.yaml", "--project", "new"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(
        sandbox.read("new/results/table.txt"),
        "word=apple: 5\nword=pear: 4\nword=plum: 4\n"
    );
}

#[test]
fn every_example_has_all_that_it_needs() {
    for (example, pipeline) in [
        ("first-steps", "okapi.yaml"),
        ("tiny", "pipelines/tiny.yaml"),
        ("okapi-26", "pipelines/okapi-26.yaml"),
        ("mono-or-multi", "pipelines/mono-or-multi.yaml"),
    ] {
        let sandbox = Sandbox::new("");
        let said = sandbox.okapi(&["init", "lab", "--example", example]);
        let pipeline = format!("lab/{pipeline}");
        assert!(said.stderr.contains(&format!("next: okapi run {pipeline}")), "{}", said.stderr);
        let said = sandbox.okapi(&["plan", &pipeline, "--project", "lab", "--check"]);
        assert_eq!(said.code, Some(10), "{example}: {}", said.stderr);
        if matches!(example, "okapi-26" | "mono-or-multi") {
            let paper = ["check", &pipeline, "--project", "lab", "--profile", "paper"];
            let said = sandbox.okapi(&paper);
            assert_eq!(said.code, Some(0), "{example}: {}", said.stderr);
        }
    }
}

#[test]
fn init_adds_the_store_to_the_ignored_paths_once() {
    let sandbox = Sandbox::new("");
    sandbox.write(".gitignore", "target");
    for _ in 0..2 {
        assert_eq!(sandbox.okapi(&["init"]).code, Some(0));
        assert_eq!(sandbox.read(".gitignore"), "target\n.okapi/\n");
    }
}

#[test]
fn the_help_of_every_command_has_an_example() {
    let sandbox = Sandbox::new("");
    for command in [
        "run",
        "plan",
        "explain",
        "check",
        "schema",
        "stages",
        "graph",
        "get",
        "show",
        "runs",
        "log",
        "diff",
        "gc",
        "cache verify",
        "init",
        "completions",
    ] {
        let mut arguments: Vec<_> = command.split(' ').collect();
        arguments.push("--help");
        let said = sandbox.okapi(&arguments);
        assert_eq!(said.code, Some(0), "{command}");
        let last_word = command.split(' ').next_back().unwrap();
        let example = said
            .stdout
            .lines()
            .skip_while(|line| !line.starts_with("Options:"))
            .any(|line| line.contains("okapi ") && line.contains(last_word));
        assert!(example, "{command}: {}", said.stdout);
    }
}

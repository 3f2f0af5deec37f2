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
        let next = match example {
            "first-steps" => "next: cd lab && okapi run\n".to_owned(),
            _ => format!("next: cd lab && okapi run {pipeline}\n"),
        };
        assert!(said.stderr.ends_with(&next), "{}", said.stderr);
        let pipeline = format!("lab/{pipeline}");
        let said = sandbox.okapi(&["plan", &pipeline, "--project", "lab", "--check"]);
        assert_eq!(said.code, Some(10), "{example}: {}", said.stderr);
        if matches!(example, "okapi-26" | "mono-or-multi") {
            let paper = ["check", &pipeline, "--project", "lab", "--profile", "paper"];
            let said = sandbox.okapi(&paper);
            assert_eq!(said.code, Some(0), "{example}: {}", said.stderr);
        }
    }
}

/// What is printed is typed as it stands: everything comes to lie in the new folder, and nothing beside it.
#[test]
fn what_init_says_is_next_stays_in_the_new_folder() {
    for (folder, expected) in [
        ("words", "next: cd words && okapi run\n"),
        ("it's new", "next: cd 'it'\\''s new' && okapi run\n"),
        (".", "next: okapi run\n"),
    ] {
        let sandbox = Sandbox::new("");
        let said = sandbox.okapi(&["init", folder]);
        assert!(said.stderr.ends_with(expected), "{}", said.stderr);
        let next = expected.trim_end().strip_prefix("next: ").unwrap();
        let next = next.replace("okapi run", &format!("{} run", env!("CARGO_BIN_EXE_okapi")));
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &next]).current_dir(sandbox.path("."));
        shell.env_remove("OKAPI_STORE").env_remove("OKAPI_PROJECT");
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let inside = sandbox.path(folder);
        assert!(inside.join(".okapi").is_dir() && inside.join("results/table.txt").is_file());
        assert_eq!(folder == ".", sandbox.path(".okapi").exists());
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

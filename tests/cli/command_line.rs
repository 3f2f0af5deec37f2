//! What can be left out, what is answered when something is wrong, and in what form.

use std::fs;

use crate::sandbox::{Said, Sandbox};

const PIPELINE: &str = r#"
okapi: 1
name: line
nodes:
  one: {stage: command, run: 'echo 1 > "$OKAPI_OUTPUT_O"', outputs: {o: text}}
"#;

#[test]
fn check_answers_in_json_when_there_is_no_text_to_check() {
    let sandbox = Sandbox::new(PIPELINE);
    fs::write(sandbox.path("latin.yaml"), b"okapi: 1\nname: caf\xe9\n").unwrap();
    fs::create_dir(sandbox.path("folder")).unwrap();
    for (file, code, line, said_too) in [
        ("q.yaml", "missing-file", serde_json::Value::Null, "did you mean ./p.yaml?"),
        ("folder", "unreadable", serde_json::Value::Null, "is a folder"),
        ("latin.yaml", "not-utf8", 2.into(), "latin.yaml:2:10: the byte 0xE9 is not UTF-8"),
    ] {
        let said = sandbox.okapi(&["check", file, "--json"]);
        assert_eq!(said.code, Some(2), "{file}");
        assert!(said.stderr.contains(said_too), "{file}: {}", said.stderr);
        let json = said.json();
        assert_eq!(json["version"], 1);
        let [only] = &json["diagnostics"].as_array().unwrap()[..] else { panic!("{json}") };
        assert_eq!((&only["code"], &only["line"]), (&code.into(), &line), "{file}");
        assert_eq!((&only["severity"], &only["file"]), (&"error".into(), &file.into()), "{file}");
        let keys: Vec<_> = only.as_object().unwrap().keys().collect();
        let expected =
            ["argument", "code", "column", "file", "hint", "line", "message", "severity"];
        assert_eq!(keys, expected, "{file}");
    }
}

#[test]
fn a_variable_that_is_set_to_nothing_counts_as_unset() {
    let sandbox = Sandbox::new(PIPELINE);
    let with = |store: &str, project: &str| {
        let mut command = sandbox.command(&["run", "p.yaml"]);
        command.env("OKAPI_STORE", store).env("OKAPI_PROJECT", project);
        Said::of(command.output().unwrap())
    };
    let said = with("", "");
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(sandbox.path(".okapi/format").exists());
    assert_eq!(with("elsewhere", ".").code, Some(0));
    assert!(sandbox.path("elsewhere/format").exists());
    // A variable is a default, an option a wish: an empty one is still a mistake.
    assert_eq!(sandbox.okapi(&["run", "p.yaml", "--store", ""]).code, Some(2));
}

#[test]
fn stages_gc_and_init_answer_in_json_too() {
    let sandbox = Sandbox::new(PIPELINE);
    let json = sandbox.okapi(&["stages", "--json"]).json();
    let names: Vec<_> = json["stages"].as_array().unwrap().iter().map(|it| &it["stage"]).collect();
    assert!(["command", "import"].iter().all(|stage| names.contains(&&(*stage).into())), "{json}");
    assert_eq!(json["version"], 1);
    let json = sandbox.okapi(&["stages", "import", "--json"]).json();
    let [import] = &json["stages"].as_array().unwrap()[..] else { panic!("{json}") };
    let kind = import["params"].as_array().unwrap().iter().find(|it| it["param"] == "kind");
    assert_eq!(kind.unwrap()["default"], "file", "{import}");
    assert_eq!(import["outputs"][0]["kind_of_param"], "kind", "{import}");

    sandbox.run();
    sandbox.edit("p.yaml", "echo 1", "echo 2");
    sandbox.run();
    for dry_run in [true, false] {
        let mut arguments = vec!["gc", "--keep-runs", "1", "--json"];
        arguments.extend(dry_run.then_some("--dry-run"));
        let json = sandbox.okapi(&arguments).json();
        assert_eq!((&json["version"], &json["dry_run"]), (&1.into(), &dry_run.into()));
        assert_eq!(json["removed"]["results"], 1, "{json}");
        assert_eq!((&json["removed"]["runs"], &json["kept"]["runs"]), (&1.into(), &1.into()));
        assert_eq!(json["kept"]["bytes"], 2, "{json}");
    }

    sandbox.write("new/.gitignore", "target\n");
    for expected in [["written", "written", "extended"], ["left", "left", "left"]] {
        let said = sandbox.okapi(&["init", "new", "--json"]);
        assert_eq!((said.code, &*said.stderr), (Some(0), ""));
        let json = said.json();
        assert_eq!((&json["version"], &json["pipeline"]), (&1.into(), &"new/okapi.yaml".into()));
        let fates: Vec<_> =
            json["files"].as_array().unwrap().iter().map(|it| &it["fate"]).collect();
        assert_eq!(fates, expected);
        assert_eq!(json["files"][2]["path"], "new/.gitignore");
    }
}

#[test]
fn the_pipeline_is_okapi_yaml_when_nothing_is_named() {
    let sandbox = Sandbox::new(PIPELINE);
    let commands = ["check", "plan", "run", "graph"];
    for command in commands {
        let said = sandbox.okapi(&[command]);
        assert_eq!(said.code, Some(2), "{command}");
        for expected in
            ["no pipeline is named, and there is no okapi.yaml here", "there is: p.yaml"]
        {
            assert!(said.stderr.contains(expected), "{command}: {}", said.stderr);
        }
        assert!(sandbox.okapi(&[command, "--help"]).stdout.contains("`okapi.yaml`"), "{command}");
    }
    let json = sandbox.okapi(&["check", "--json"]).json();
    assert_eq!(json["diagnostics"][0]["file"], "okapi.yaml", "{json}");
    sandbox.write("empty/keep", "");
    let mut elsewhere = sandbox.command(&["run"]);
    let said = Said::of(elsewhere.current_dir(sandbox.path("empty")).output().unwrap());
    assert!(said.stderr.contains("`okapi init`"), "{}", said.stderr);

    sandbox.write("okapi.yaml", PIPELINE);
    for command in commands {
        let said = sandbox.okapi(&[command]);
        assert_eq!(said.code, Some(0), "{command}: {}", said.stderr);
    }
    // A node alone stands where the pipeline is expected.
    let said = sandbox.okapi(&["run", "one"]);
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("name the pipeline first: okapi.yaml one"), "{}", said.stderr);
}

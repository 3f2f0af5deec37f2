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

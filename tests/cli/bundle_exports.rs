//! What may not be in a bundle, where none can be written, and what one says of itself.

use std::fs;
use std::os::unix::ffi::OsStrExt;

use crate::audit_forgeries::forge;
use crate::bundles::{audit, exported, sandbox};
use crate::sandbox::{Said, Sandbox};

fn export(sandbox: &Sandbox, variables: &[(&str, &str)], more: &[&str]) -> Said {
    let _ = fs::remove_dir_all(sandbox.path("bundle"));
    let mut command = sandbox.command(&[&["audit", "p.yaml", "--export", "bundle"], more].concat());
    Said::of(command.envs(variables.iter().copied()).output().unwrap())
}

#[test]
fn secrets_are_known_by_the_names_of_their_variables() {
    let sandbox = sandbox();
    let cases: [(&str, &str, &str, bool); 12] = [
        ("DB_PASSWORD", "hunter", "hunter", true),
        ("LAB_TOKEN", "hunter\n", "hunter", true),
        ("DB_PASS", "hunter", "hunter", true),
        ("MYSQL_PWD", "hunter", "hunter", true),
        ("GH_PAT", "hunter", "hunter", true),
        ("NPM_AUTH", "hunter", "hunter", true),
        ("OKAPI_REMOTE_AUTHORIZATION", "Basic bGFiOmh1bnRlcg==", "bGFiOmh1bnRlcg==", true),
        ("SSH_AUTH_SOCK", "/run/agent", "agent", false),
        ("DATABASE_URL", "postgres://lab:hunter@db/x", "hunter", true),
        ("TOKENIZERS_PARALLELISM", "false", "false", false),
        ("LAB_TOKEN", "true", "true", false),
        ("SUDO_USER", "wilhelmina", "wilhelmina", true),
    ];
    for (name, value, text, is_private) in cases {
        sandbox.write("words.sh", &format!("echo {text}\n"));
        sandbox.run();
        let said = export(&sandbox, &[(name, value)], &[]);
        assert_eq!(said.code, Some(i32::from(is_private)), "{name}: {}", said.stderr);
        assert!(
            !is_private || said.stderr.contains("`project/words.sh` would hold"),
            "{}",
            said.stderr
        );
        assert!(!is_private || !said.stderr.contains(text), "{}", said.stderr);
    }
    // Whoever is named as author may be named.
    let author = ["--author", "wilhelmina b."];
    assert_eq!(export(&sandbox, &[("USER", "wilhelmina")], &author).code, Some(0));
}

/// Only the machine that wrote a bundle was looked for, and not those that had made its results.
#[test]
fn no_machine_that_made_a_result_is_named() {
    let sandbox = sandbox();
    sandbox.write("words.sh", "echo on wolke7\n");
    sandbox.run();
    assert_eq!(export(&sandbox, &[], &[]).code, Some(0));
    forge(&sandbox, "text", |info, _| {
        info.environment.insert("host".to_owned(), "wolke7.example.org".to_owned());
    });
    let said = export(&sandbox, &[], &[]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(said.stderr.contains("the name of a machine that made a result"), "{}", said.stderr);
    assert!(!said.stderr.contains("wolke7"), "{}", said.stderr);
    assert_eq!(export(&sandbox, &[], &["--allow-private", "host"]).code, Some(0));
}

#[test]
fn scripts_and_prompts_are_searched_for_paths_and_data_is_not() {
    let sandbox = sandbox();
    sandbox.write("text.txt", "in /home/lab/secret/x\n");
    sandbox.run();
    assert_eq!(export(&sandbox, &[], &[]).code, Some(0));
    sandbox.write("words.sh", "#!/usr/bin/env sh\n# in /home/lab/secret/x\ncut -d ' ' -f $1\n");
    sandbox.run();
    let said = export(&sandbox, &[], &[]);
    assert_eq!(said.code, Some(1), "{}", said.stdout);
    let words = "`project/words.sh` would hold the absolute path /home/lab/secret/x";
    assert!(said.stderr.contains(words), "{}", said.stderr);
}

#[test]
fn where_no_bundle_can_be_is_said_before_the_audit() {
    let sandbox = Sandbox::new(
        r#"
okapi: 1
nodes:
  n: {stage: command, files: [tracked], run: 'ls tracked > "$OKAPI_OUTPUT_O"; mkdir "$OKAPI_OUTPUT_ALL"', outputs: {o: text, all: tree}}
publish: {results/all: "n:all"}
"#,
    );
    sandbox.write("tracked/a", "x");
    sandbox.run();
    for (arguments, words) in [
        (&["--export", "tracked/inside"][..], "`tracked`, which the pipeline tracks"),
        (&["--export", "results/all/b/c"], "`results/all`, which the pipeline publishes"),
        (&["--export", "x/.."], "its last part is no name"),
        (&["--export", "new/."], "its last part is no name"),
        (&["--export", "b", "--license", ""], "--license says nothing"),
        (&["--export", "b", "--license", "a b"], "no license"),
        (&["--export", "b", "--author", " "], "--author says nothing"),
    ] {
        let said = sandbox.okapi(&[&["audit", "p.yaml"], arguments].concat());
        assert_eq!((said.code, &*said.stdout), (Some(2), ""), "{arguments:?}: {}", said.stderr);
        assert!(said.stderr.contains(words), "{words}: {}", said.stderr);
    }
    let said = sandbox.okapi(&["audit", "p.yaml", "--export", "b \u{fc}"]);
    assert!(said.stderr.ends_with("okapi audit 'b \u{fc}'\n"), "{}", said.stderr);
}

#[test]
fn a_bundle_says_what_it_was_made_with() {
    let sandbox = Sandbox::new(
        r#"
okapi: 1
vars: {n: 1}
nodes:
  a: {stage: command, run: 'echo ${vars.n} > "$OKAPI_OUTPUT_O"', outputs: {o: text}}
  b: {stage: command, run: 'echo ${vars.n} > "$OKAPI_OUTPUT_O"; echo', outputs: {o: text}}
"#,
    );
    let chosen = ["a", "--set", "vars.n=2"];
    sandbox.run_with(&chosen);
    let said = export(&sandbox, &[], &chosen);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let made_with = "--set 'vars.n=2' a";
    assert!(sandbox.read("bundle/README.md").contains(&format!("but with `{made_with}`")));
    let (said, found) = audit(&sandbox);
    assert_eq!((found, &said.json()["made_with"]), (Vec::new(), &made_with.into()));
    let said = sandbox.okapi(&["audit", "bundle"]).stdout;
    assert!(said.contains(&format!("of the pipeline with {made_with}\n")), "{said}");
    assert_eq!(audit(&exported()).0.json()["made_with"], serde_json::Value::Null);
}

#[test]
fn a_name_that_is_no_text_is_named() {
    let sandbox = exported();
    let name = std::ffi::OsStr::from_bytes(b"\xff");
    fs::write(sandbox.path("bundle/published").join(name), "").unwrap();
    let said = sandbox.okapi(&["audit", "bundle"]);
    assert_eq!(said.code, Some(2), "{}", said.stdout);
    assert!(said.stderr.contains("is no bundle: the name `"), "{}", said.stderr);
}

#[test]
fn what_is_left_of_a_bundle_is_no_pipeline() {
    let sandbox = exported();
    fs::remove_file(sandbox.path("bundle/bundle.json")).unwrap();
    let said = sandbox.okapi(&["audit", "bundle"]);
    assert_eq!(said.code, Some(2), "{}", said.stdout);
    assert!(said.stderr.contains("bundle/bundle.json"), "{}", said.stderr);
}

//! Situations in which other engines run too much, too little, or give a stale result.
//!
//! `src.txt -> a -> b`. `a` writes the first line of the source, so that an edit below it changes
//! nothing for `b`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use crate::sandbox::{Sandbox, names};

const PIPELINE: &str = r#"
okapi: 1
name: semantics
nodes:
  a:
    stage: command
    files: [src.txt]
    run: head -n 1 src.txt > "$OKAPI_OUTPUT_LINE"
    outputs: {line: text}
  b:
    stage: command
    inputs: {line: a}
    run: tr a-z A-Z < "$OKAPI_INPUT_LINE" > "$OKAPI_OUTPUT_UPPER"
    outputs: {upper: text}
publish:
  results/a.txt: a
  results/b.txt: b
"#;

fn finished() -> Sandbox {
    let sandbox = Sandbox::new(PIPELINE);
    sandbox.write("src.txt", "one\ntwo\n");
    assert_eq!(sandbox.run(), names(&["a", "b"]));
    assert_eq!(sandbox.read("results/b.txt"), "ONE\n");
    sandbox
}

#[test]
fn nothing_changed() {
    let sandbox = finished();
    assert_eq!(sandbox.run(), names(&[]));
}

#[test]
fn source_touched() {
    let sandbox = finished();
    let file = fs::File::options().append(true).open(sandbox.path("src.txt")).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(3600)).unwrap();
    assert_eq!(sandbox.run(), names(&[]));
}

#[test]
fn source_edited_without_an_effect_on_the_first_output() {
    let sandbox = finished();
    sandbox.write("src.txt", "one\nthree\n");
    assert_eq!(sandbox.run(), names(&["a"]));
    assert_eq!(sandbox.run(), names(&[]));
}

#[test]
fn source_edited_with_the_same_size_and_the_time_put_back() {
    let sandbox = finished();
    let path = sandbox.path("src.txt");
    let before = fs::metadata(&path).unwrap();
    fs::write(&path, "six\ntwo\n").unwrap();
    let file = fs::File::options().append(true).open(&path).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    let after = fs::metadata(&path).unwrap();
    assert_eq!((before.len(), before.mtime_nsec()), (after.len(), after.mtime_nsec()));
    assert_eq!(sandbox.run(), names(&["a", "b"]));
    assert_eq!(sandbox.read("results/b.txt"), "SIX\n");
}

#[test]
fn source_edited_and_put_back() {
    let sandbox = finished();
    sandbox.write("src.txt", "two\n");
    assert_eq!(sandbox.run(), names(&["a", "b"]));
    sandbox.write("src.txt", "one\ntwo\n");
    assert_eq!(sandbox.run(), names(&[]));
    assert_eq!(sandbox.read("results/b.txt"), "ONE\n");
}

#[test]
fn command_edited() {
    let sandbox = finished();
    sandbox.edit("p.yaml", "tr a-z A-Z", "tr a-y A-Y");
    assert_eq!(sandbox.run(), names(&["b"]));
}

#[test]
fn one_more_blank_in_a_command_is_an_edit_and_explained() {
    let sandbox = finished();
    sandbox.edit("p.yaml", "tr a-z A-Z", "tr  a-z A-Z");
    let said = sandbox.okapi(&["explain", "p.yaml", "b"]);
    assert!(said.stdout.contains("changed   run"), "{}", said.stdout);
    assert_eq!(sandbox.run(), names(&["b"]));
}

#[test]
fn published_output_edited_by_hand() {
    let sandbox = finished();
    sandbox.write("results/a.txt", "mine\n");
    assert_eq!(sandbox.run(), names(&[]));
    assert_eq!(sandbox.read("results/a.txt"), "one\n");
    assert_eq!(sandbox.read("results/a.txt.kept"), "mine\n", "an edit must not be lost");
}

#[test]
fn published_output_deleted() {
    let sandbox = finished();
    fs::remove_file(sandbox.path("results/a.txt")).unwrap();
    assert_eq!(sandbox.run(), names(&[]));
    assert_eq!(sandbox.read("results/a.txt"), "one\n");
}

#[test]
fn stored_output_lost() {
    let sandbox = finished();
    for entry in walk(&sandbox.path(".okapi/objects")) {
        if fs::read(&entry).unwrap() == b"ONE\n" {
            fs::remove_file(entry).unwrap();
        }
    }
    fs::remove_dir_all(sandbox.path("results")).unwrap();
    assert_eq!(sandbox.run(), names(&["b"]));
    assert_eq!(sandbox.read("results/b.txt"), "ONE\n");
}

#[test]
fn a_node_fails_after_writing_its_output_and_is_repaired() {
    let sandbox = finished();
    sandbox.write("src.txt", "nine\n");
    sandbox.edit(
        "p.yaml",
        "head -n 1 src.txt > \"$OKAPI_OUTPUT_LINE\"",
        "head -n 1 src.txt > \"$OKAPI_OUTPUT_LINE\"; exit 3",
    );
    let said = sandbox.okapi(&["run", "p.yaml"]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert_eq!(sandbox.read("results/b.txt"), "ONE\n", "a failed run publishes nothing");
    sandbox.edit("p.yaml", "; exit 3", "");
    assert_eq!(sandbox.run(), names(&["a", "b"]));
    assert_eq!(sandbox.read("results/b.txt"), "NINE\n");
}

#[test]
fn an_undeclared_input_is_refused() {
    let sandbox = finished();
    sandbox.write("hidden.txt", "hidden\n");
    let hidden = sandbox.path("hidden.txt");
    for path in ["hidden.txt", "../../../../hidden.txt", hidden.to_str().unwrap()] {
        let pipeline = PIPELINE.replace("tr a-z A-Z <", &format!("cat {path} - <"));
        sandbox.write("p.yaml", &pipeline);
        let said = sandbox.okapi(&["run", "p.yaml"]);
        if path == "hidden.txt" || has_landlock() {
            assert_eq!(said.code, Some(1), "{path} was read: {}", said.stderr);
        } else {
            eprintln!("not checked, for this kernel has no Landlock: {path}");
        }
    }
}

/// The kernel says so in the list of its security modules, or shows it by the version call.
fn has_landlock() -> bool {
    use okapi_engine::executor::sandbox::Sandbox as Rules;
    Rules::new(&[], &[]).is_ok()
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] })
        .collect()
}

#[test]
fn digests_do_not_depend_on_place_jobs_order_or_comments() {
    let actions = |sandbox: &Sandbox, arguments: &[&str]| {
        let mut all = vec!["run", "p.yaml", "--progress", "json"];
        all.extend(arguments);
        let mut actions: Vec<_> = sandbox
            .okapi(&all)
            .events()
            .iter()
            .filter(|event| event["event"] == "node_finished")
            .map(|event| (event["node"].to_string(), event["action"].to_string()))
            .collect();
        actions.sort();
        assert_eq!(actions.len(), 2);
        actions
    };
    let first = Sandbox::new(PIPELINE);
    first.write("src.txt", "one\ntwo\n");
    let second = Sandbox::new(&PIPELINE.replace(
        "    files: [src.txt]\n    run: head -n 1 src.txt > \"$OKAPI_OUTPUT_LINE\"\n",
        "    # a comment\n    run: 'head -n 1 src.txt > \"$OKAPI_OUTPUT_LINE\"'\n    files:\n      - ./src.txt\n",
    ));
    second.write("src.txt", "one\ntwo\n");
    assert_eq!(
        actions(&first, &["-j", "1"]),
        actions(&second, &["-j", "4", "--store", "elsewhere", "-v", "--no-sandbox"])
    );
}

#[test]
fn a_damaged_object_is_never_an_input_and_is_made_anew() {
    let sandbox = Sandbox::new(
        "okapi: 1\nname: d\nnodes:\n  \
         a: {stage: command, run: 'echo good > \"$OKAPI_OUTPUT_O\"', outputs: {o: text}}\n  \
         b: {stage: command, inputs: {i: a}, run: 'cat \"$OKAPI_INPUT_I\" > \"$OKAPI_OUTPUT_O\"', outputs: {o: text}}\n",
    );
    sandbox.run();
    // One byte flips, and the size stays.
    let mut objects = Vec::new();
    for shard in std::fs::read_dir(sandbox.path(".okapi/objects")).unwrap() {
        for object in std::fs::read_dir(shard.unwrap().path()).unwrap() {
            objects.push(object.unwrap().path());
        }
    }
    let object = objects.iter().find(|it| std::fs::read(it).unwrap() == b"good\n").unwrap();
    let mut permissions = std::fs::metadata(object).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    std::fs::set_permissions(object, permissions).unwrap();
    std::fs::write(object, "evil\n").unwrap();
    sandbox.edit("p.yaml", "cat", "cat -- ");
    let said = sandbox.okapi(&["run", "p.yaml"]);
    assert_eq!(said.code, Some(3), "{}\n{}", said.stdout, said.stderr);
    assert!(said.stderr.contains("is damaged"), "{}", said.stderr);
    assert!(said.stderr.contains("run again"), "{}", said.stderr);
    let executed = sandbox.run();
    assert!(executed.contains("a") && executed.contains("b"), "{executed:?}");
    assert_eq!(sandbox.okapi(&["show", "p.yaml", "b"]).stdout, "good\n");
}

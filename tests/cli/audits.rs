//! Audits: one thing is changed at a time, and the audit names exactly that thing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use okapi_cache::{
    Access, ActionDigest, Artifact, ArtifactKind, Commit, Digest, Durability, Store,
};
use okapi_engine::manifest::ManifestText;
use okapi_engine::run_record;
use serde_json::Value;

use crate::sandbox::{Said, Sandbox};

const PIPELINE: &str = r#"
okapi: 1
teachers:
  chat: {kind: offline}
nodes:
  seeds: {stage: import, params: {path: seeds.jsonl, kind: instructions}}
  tasks:
    stage: self_instruct
    inputs: {seeds: seeds}
    prompts: {generate: prompts/self_instruct.j2}
    teacher: chat
    seed: 5
    params: {count: 12}
  translate:
    for_each: {lang: [de, vi]}
    stage: translate
    inputs: {data: "tasks:examples"}
    prompts: {translate: prompts/translate.j2}
    teacher: chat
    params: {language: "${each.lang}"}
  model:
    stage: init_model
    inputs: {corpus: ["tasks:examples", "translate:data"]}
    seed: 1
    params: {family: bloom, layers: 1, hidden: 16, heads: 2, vocabulary: 400}
  count:
    stage: command
    inputs: {rows: "tasks:examples"}
    files: [count.sh]
    run: sh count.sh < "$OKAPI_INPUT_ROWS" > "$OKAPI_OUTPUT_COUNT"
    outputs: {count: text}
  twice:
    stage: command
    inputs: {count: count}
    run: cat "$OKAPI_INPUT_COUNT" "$OKAPI_INPUT_COUNT" > "$OKAPI_OUTPUT_TEXT"
    outputs: {text: text}
publish:
  results/twice.txt: twice
"#;

/// A project that has run.
pub(crate) fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new(PIPELINE);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["self_instruct", "translate"] {
        let path = format!("prompts/{name}.j2");
        sandbox.write(&path, &fs::read_to_string(root.join(&path)).unwrap());
    }
    let seeds = root.join("pipelines/okapi/seed_tasks.jsonl");
    sandbox.write("seeds.jsonl", &fs::read_to_string(seeds).unwrap());
    sandbox.write("count.sh", "grep -c instruction\n");
    sandbox.run();
    sandbox
}

pub(crate) fn audit(sandbox: &Sandbox, more: &[&str]) -> Said {
    sandbox.okapi(&[&["audit", "p.yaml", "--json"], more].concat())
}

/// What does not hold: node, verdict and message of each finding. The exit code has to fit.
pub(crate) fn findings(said: &Said) -> Vec<(String, String, String)> {
    assert!(said.code.is_some_and(|code| code < 2), "{}", said.stderr);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let json = said.json();
    let mut all = Vec::new();
    for node in json["nodes"].as_array().unwrap() {
        for finding in node["findings"].as_array().unwrap() {
            all.push((text(&node["node"]), text(&finding["verdict"]), text(&finding["message"])));
        }
    }
    assert_eq!(
        (said.code, json["holds"].as_bool()),
        (Some(i32::from(!all.is_empty())), Some(all.is_empty()))
    );
    all
}

/// Asserts that one thing is found, at this node, with this verdict, and that the message has these words.
pub(crate) fn finds(said: &Said, node: &str, verdict: &str, words: &[&str]) {
    let all = findings(said);
    let [(at, how, message)] = &all[..] else { panic!("one finding is expected: {all:#?}") };
    assert_eq!((at.as_str(), how.as_str()), (node, verdict), "{message}");
    for word in words {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
}

pub(crate) fn store(sandbox: &Sandbox) -> Store {
    Store::open(&sandbox.path(".okapi"), Access::ReadWrite, Durability::None).unwrap()
}

pub(crate) fn action(sandbox: &Sandbox, node: &str) -> ActionDigest {
    run_record::head(&store(sandbox), "p.yaml").action(node).unwrap()
}

pub(crate) fn output(sandbox: &Sandbox, node: &str) -> Artifact {
    store(sandbox).lookup(&action(sandbox, node)).unwrap().outputs()[0]
}

pub(crate) fn object(sandbox: &Sandbox, digest: &Digest) -> PathBuf {
    store(sandbox).object_path(digest)
}

/// Writes to a file that nobody may write to.
fn overwrite(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Flips the last byte of an object.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    overwrite(path, &bytes);
}

/// Exchanges words in the record of a log that holds `marker` too, by others of the same length, and makes the record's
/// checksum right again.
fn edit_log(path: &Path, marker: &str, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(path).unwrap();
    let mut at = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    while at < bytes.len() {
        let length = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        let payload = at + 12..at + 12 + length;
        let find = |what: &str| {
            let payload = &bytes[payload.clone()];
            payload.windows(what.len()).position(|window| window == what.as_bytes())
        };
        if let (Some(place), Some(_)) = (find(from), find(marker)) {
            bytes[payload.start + place..][..to.len()].copy_from_slice(to.as_bytes());
            let sum = crc32fast::hash(&[&bytes[at + 4..at + 8], &bytes[payload]].concat());
            bytes[at + 8..at + 12].copy_from_slice(&sum.to_le_bytes());
            fs::write(path, bytes).unwrap();
            return;
        }
        at = payload.end;
    }
    panic!("no record holds `{from}` and `{marker}`");
}

/// Gives an instance another action with the same outputs, as an earlier okapi would have left it behind.
pub(crate) fn rewrite_action(sandbox: &Sandbox, node: &str, edit: impl Fn(&str) -> String) {
    let store = store(sandbox);
    let before = action(sandbox, node);
    let stored = store.document(&before).unwrap().unwrap();
    let document = edit(&stored.document);
    assert_ne!(document, stored.document);
    let forged = ActionDigest(Digest::of(document.as_bytes()));
    let outputs = store.lookup(&before).unwrap().outputs().to_vec();
    let commit = Commit { action: forged, document, outputs, info: stored.info, lease: None };
    store.commit(commit).unwrap();
    store.flush().unwrap();
    let manifest = run_record::head(&store, "p.yaml");
    let mut text = ManifestText::with_capacity(manifest.len());
    for (name, action) in manifest.iter() {
        text.push(name, if name == node { &forged } else { &action });
    }
    let (text, digest) = text.finish();
    run_record::set_head(&store, "p.yaml", &text, &digest).unwrap();
}

#[test]
fn what_was_not_touched_holds() {
    let sandbox = sandbox();
    let said = audit(&sandbox, &["--reexecute", "all"]);
    assert_eq!(findings(&said), []);
    let json = said.json();
    assert_eq!(json["nodes"].as_array().unwrap().len(), 7);
    assert_eq!((&json["executed"], &json["answered_from_records"]), (&7.into(), &3.into()));
    assert!(json["bytes"].as_u64().unwrap() > 10_000);

    // No clock has a say: neither that of files nor that of the store.
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let mut folders = vec![sandbox.path("")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                let file = fs::File::open(entry.path()).unwrap();
                file.set_modified(long_ago).unwrap();
            }
        }
    }
    assert_eq!(findings(&audit(&sandbox, &[])), []);
    let said = sandbox.okapi(&["audit", "p.yaml"]);
    assert!(said.stdout.ends_with("all holds\n"), "{}", said.stdout);
    assert!(said.stdout.contains("verified       translate[2 instances]\n"), "{}", said.stdout);
}

#[test]
fn a_node_that_never_ran_is_missing() {
    let sandbox = Sandbox::new(PIPELINE);
    let said = sandbox.okapi(&["audit", "p.yaml"]);
    assert_eq!(said.code, Some(2), "the prompts are not there: {}", said.stdout);
    let sandbox = self::sandbox();
    sandbox.edit(
        "p.yaml",
        "publish:",
        "  more: {stage: command, run: 'true', outputs: {x: text}}\npublish:",
    );
    finds(&audit(&sandbox, &[]), "more", "missing", &["no run has made"]);
}

#[test]
fn nodes_that_failed_are_missing() {
    let sandbox = Sandbox::new(
        "okapi: 1\nnodes:\n  bad: {stage: command, run: 'false', outputs: {x: text}}\n",
    );
    assert_eq!(sandbox.okapi(&["run", "p.yaml"]).code, Some(1));
    finds(&audit(&sandbox, &[]), "bad", "missing", &["no run has made"]);
}

#[test]
fn a_byte_of_an_output_is_found() {
    let sandbox = sandbox();
    let output = output(&sandbox, "twice");
    flip(&object(&sandbox, &output.digest));
    finds(&audit(&sandbox, &[]), "twice", "corrupt", &["output `text`", &output.digest.short()]);
    fs::remove_file(object(&sandbox, &output.digest)).unwrap();
    finds(&audit(&sandbox, &[]), "twice", "missing", &["output `text`"]);
}

#[test]
fn a_tensor_is_found() {
    let sandbox = sandbox();
    let tree = store(&sandbox).read_tree(&output(&sandbox, "model").digest).unwrap();
    let (_, digest) = tree.files().find(|(path, _)| *path == "model.safetensors").unwrap();
    flip(&object(&sandbox, digest));
    let words = ["file `model.safetensors`", "output `model`"];
    finds(&audit(&sandbox, &[]), "model", "corrupt", &words);
}

#[test]
fn the_name_of_a_file_is_found() {
    let sandbox = sandbox();
    let digest = output(&sandbox, "model").digest;
    let path = object(&sandbox, &digest);
    let manifest = fs::read_to_string(&path).unwrap();
    overwrite(&path, manifest.replace("tokenizer.json", "tokenized.json").as_bytes());
    let words = ["list of files", "output `model`", "hashes to"];
    finds(&audit(&sandbox, &[]), "model", "corrupt", &words);

    // A tracked file under another name is a mistake of the pipeline.
    let sandbox = self::sandbox();
    fs::rename(sandbox.path("count.sh"), sandbox.path("counted.sh")).unwrap();
    let said = audit(&sandbox, &[]);
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("count.sh"), "{}", said.stderr);
}

#[test]
fn a_metric_is_found() {
    let sandbox = sandbox();
    let log = sandbox.path(".okapi/documents.log");
    edit_log(&log, "self_instruct", r#""rows":12.0"#, r#""rows":13.0"#);
    let words = ["`rows`", "13", "12"];
    finds(&audit(&sandbox, &["--skip-records"]), "tasks", "corrupt", &words);
}

#[test]
fn a_recorded_answer_is_found() {
    let sandbox = sandbox();
    let log = sandbox.path(".okapi/records.log");
    let rows = sandbox.okapi(&["show", "p.yaml", "translate[lang=de]:data"]).stdout;
    let row: Value = serde_json::from_str(rows.lines().nth(3).unwrap()).unwrap();
    let said = row["instruction"].as_str().unwrap();
    let word = said.split(' ').find(|word| word.len() > 4 && word.is_ascii()).unwrap();
    let other: String = word.chars().rev().collect();
    edit_log(&log, said, word, &other);
    let words = ["recorded answers", "output `data`", "line 4", "`instruction`", &other];
    let all = findings(&audit(&sandbox, &[]));
    assert!(
        all.iter().all(|(node, verdict, _)| node == "translate[lang=de]" && verdict == "corrupt"),
        "{all:#?}"
    );
    assert!(
        all.iter().any(|(_, _, message)| words.iter().all(|word| message.contains(word))),
        "{all:#?}"
    );
    assert_eq!(findings(&audit(&sandbox, &["--skip-records"])), []);
}

#[test]
fn a_lost_record_is_found() {
    let sandbox = sandbox();
    let log = sandbox.path(".okapi/records.log");
    let bytes = fs::read(&log).unwrap();
    // The last record is one of a translation.
    fs::write(&log, &bytes[..bytes.len() - 1]).unwrap();
    let all = findings(&audit(&sandbox, &[]));
    let [(node, verdict, message)] = &all[..] else { panic!("{all:#?}") };
    assert!(node.starts_with("translate["), "{node}");
    assert_eq!(verdict, "missing");
    assert!(message.contains("no answer is recorded for the request"), "{message}");
}

#[test]
fn what_was_edited_is_named_alone() {
    for (file, from, to, node, words) in [
        ("p.yaml", "seed: 5", "seed: 6", "tasks", &["`seed` was `5`, and is `6` now"][..]),
        ("p.yaml", "cat", "cat -u", "twice", &["`run`"]),
        ("count.sh", "grep -c", "grep  -c", "count", &["files.count.sh"]),
        ("p.yaml", "hidden: 16", "hidden: 32", "model", &["params.hidden", "`16`", "`32`"]),
    ] {
        let sandbox = sandbox();
        sandbox.edit(file, from, to);
        finds(&audit(&sandbox, &[]), node, "changed_since", words);
    }
    let sandbox = sandbox();
    let prompt = sandbox.read("prompts/translate.j2");
    sandbox.write("prompts/translate.j2", &format!("{prompt}\nBe brief."));
    let all = findings(&audit(&sandbox, &[]));
    let nodes: Vec<&str> = all.iter().map(|it| it.0.as_str()).collect();
    assert_eq!(nodes, ["translate[lang=vi]", "translate[lang=de]"]);
    assert!(all.iter().all(|it| it.1 == "changed_since" && it.2.contains("prompts.translate")));
}

#[test]
fn the_version_of_a_stage_is_found() {
    let sandbox = sandbox();
    rewrite_action(&sandbox, "count", |document| {
        document.replace(r#""stage_version":1"#, r#""stage_version":7"#)
    });
    finds(
        &audit(&sandbox, &[]),
        "count",
        "changed_since",
        &["`stage_version` was `7`, and is `1` now"],
    );
    let sandbox = self::sandbox();
    rewrite_action(&sandbox, "count", |document| document.replacen(':', ": ", 1));
    finds(
        &audit(&sandbox, &[]),
        "count",
        "corrupt",
        &["not in the form in which documents are written"],
    );
    let sandbox = self::sandbox();
    // A document that is not the one of its action.
    let log = sandbox.path(".okapi/documents.log");
    edit_log(&log, "$OKAPI_OUTPUT_TEXT", r#"cat \\\"$OKAPI"#, r#"tac \\\"$OKAPI"#);
    let all = findings(&audit(&sandbox, &[]));
    assert_eq!(all.len(), 1, "{all:#?}");
    assert!(all[0].0 == "twice" && all[0].2.contains("the document of its action"), "{all:#?}");
}

#[test]
fn a_forged_result_is_found_by_executing_it_again() {
    let sandbox = sandbox();
    let store = store(&sandbox);
    let forge = |node: &str, text: &str| {
        let action = action(&sandbox, node);
        let stored = store.document(&action).unwrap().unwrap();
        let forged = store.put_bytes(text.as_bytes()).unwrap();
        assert_eq!(forged.kind, ArtifactKind::File);
        let commit = Commit {
            action,
            document: stored.document,
            outputs: vec![forged],
            info: stored.info,
            lease: None,
        };
        store.commit(commit).unwrap();
        store.flush().unwrap();
    };
    // Every digest is right, so that hashing finds nothing but that the published file is another.
    forge("twice", "99\n99\n");
    finds(&audit(&sandbox, &[]), "twice", "changed_since", &["results/twice.txt"]);
    sandbox.write("results/twice.txt", "99\n99\n");
    assert_eq!(findings(&audit(&sandbox, &[])), []);
    let words = ["executed again", "output `text`", "line 1", "`99` is recorded, `12` comes out"];
    finds(&audit(&sandbox, &["--reexecute", "twice"]), "twice", "corrupt", &words);
    finds(&audit(&sandbox, &["--reexecute", "all"]), "twice", "corrupt", &words);
    assert_eq!(findings(&audit(&sandbox, &["--reexecute", "count"])), []);
    // In the middle of the chain whoever reads it says so, too.
    forge("count", "98\n");
    finds(&audit(&sandbox, &[]), "twice", "changed_since", &["`inputs.count`"]);
}

#[test]
fn a_lock_file_is_compared_and_says_when_it_is_stale() {
    let sandbox = sandbox();
    let said = audit(&sandbox, &["--locked"]);
    assert_eq!(said.code, Some(2), "there is no lock file yet");
    assert!(said.stderr.contains("okapi run --lock"), "{}", said.stderr);
    let said = sandbox.okapi(&["run", "p.yaml", "--lock"]);
    assert!(said.stderr.contains("wrote p.lock"), "{}", said.stderr);
    let lock = sandbox.read("p.lock");
    let said = sandbox.okapi(&["run", "p.yaml", "--lock"]);
    assert!(said.stderr.contains("unchanged: p.lock"), "{}", said.stderr);
    assert_eq!(findings(&audit(&sandbox, &["--locked"])), []);

    // An edit that changes one result changes one entry, and the lock is stale until it is written again.
    sandbox.edit("p.yaml", "cat \"$OKAPI_INPUT_COUNT\" ", "cat ");
    sandbox.run();
    let all = findings(&audit(&sandbox, &["--locked"]));
    assert_eq!(all.len(), 2, "{all:#?}");
    assert!(all.iter().all(|it| it.0 == "twice" && it.2.contains("lock file")), "{all:#?}");
    assert_eq!(findings(&audit(&sandbox, &[])), []);
    sandbox.okapi(&["run", "p.yaml", "--lock"]);
    assert_eq!(findings(&audit(&sandbox, &["--locked"])), []);
    let now = sandbox.read("p.lock");
    let differing = lock.lines().zip(now.lines()).filter(|(before, after)| before != after);
    assert_eq!(differing.count(), 2, "{now}");
    let said = sandbox.okapi(&["audit", "p.yaml", "--locked", "--set", "vars.x=1"]);
    assert_eq!(said.code, Some(2), "there is no such variable: {}", said.stderr);
    sandbox.edit("p.lock", "\"profile\": null", "\"profile\": \"small\"");
    finds(
        &audit(&sandbox, &["--locked"]),
        "(lock file)",
        "changed_since",
        &["written with --profile small"],
    );
    sandbox.edit("p.lock", "\"profile\": \"small\"", "\"profile\": null");
    sandbox.edit("p.lock", "\"twice\"", "\"thrice\"");
    let nodes: Vec<String> =
        findings(&audit(&sandbox, &["--locked"])).into_iter().map(|it| it.0).collect();
    assert_eq!(nodes, ["twice", "thrice"]);
}

#[test]
fn some_requests_are_asked_anew() {
    let sandbox = sandbox();
    let said = audit(&sandbox, &["--ask-again", "5"]);
    assert_eq!(findings(&said), []);
    let asked = said.json()["asked_again"].as_array().unwrap().clone();
    assert_eq!(asked.len(), 5);
    assert!(asked.iter().all(|it| it["same"] == true), "{asked:#?}");
    let records = || fs::metadata(sandbox.path(".okapi/records.log")).unwrap().len();
    let before = records();

    // A teacher that has changed its mind since.
    let log = sandbox.path(".okapi/records.log");
    let rows = sandbox.okapi(&["show", "p.yaml", "translate[lang=de]:data"]).stdout;
    let row: Value = serde_json::from_str(rows.lines().next().unwrap()).unwrap();
    let said = row["instruction"].as_str().unwrap();
    let word = said.split(' ').find(|word| word.len() > 4 && word.is_ascii()).unwrap();
    edit_log(&log, said, word, &word.chars().rev().collect::<String>());
    let said = audit(&sandbox, &["--ask-again", "1000"]);
    let asked = said.json()["asked_again"].as_array().unwrap().clone();
    assert!(
        asked.len() > 20 && asked.iter().filter(|it| it["same"] == false).count() == 1,
        "{asked:#?}"
    );
    assert_eq!(records(), before, "nothing is recorded");
    let said = sandbox.okapi(&["audit", "p.yaml", "--ask-again", "1000"]);
    let words = format!("asked anew: {} requests for $0, 1 answered otherwise\n", asked.len());
    assert!(said.stdout.contains(&words), "{}", said.stdout);
}

#[test]
fn what_to_execute_again_has_to_be_said_as_it_is() {
    let sandbox = sandbox();
    let said = audit(&sandbox, &["--reexecute", "sample=2", "--skip-records"]);
    assert_eq!((findings(&said), &said.json()["executed"]), (Vec::new(), &2.into()));
    for what in ["sample=x", "nobody", "sample=0", "twice"] {
        let said = audit(&sandbox, &["count", "--reexecute", what]);
        assert_eq!(said.code, Some(2));
        assert!(said.stderr.contains(what), "{}", said.stderr);
    }
}

#[test]
fn executing_again_keeps_to_timeouts_and_says_what_it_cannot_do() {
    let sandbox = Sandbox::new(
        r#"
okapi: 1
nodes:
  slow: {stage: command, timeout: 1s, run: 'test -e /tmp/MARK || sleep 60; echo > "$OKAPI_OUTPUT_X"', outputs: {x: text}}
  reader: {stage: command, inputs: {x: slow}, run: 'cat "$OKAPI_INPUT_X" "$OKAPI_INPUT_X" > "$OKAPI_OUTPUT_X"', outputs: {x: text}}
"#,
    );
    let mark = sandbox.path("mark");
    sandbox.edit(
        "p.yaml",
        "/tmp/MARK",
        &fs::canonicalize(sandbox.path("")).unwrap().join("mark").display().to_string(),
    );
    fs::write(&mark, "").unwrap();
    let said = sandbox.okapi(&["run", "p.yaml", "--no-sandbox"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    fs::remove_file(&mark).unwrap();
    let said = audit(&sandbox, &["--reexecute", "slow", "--no-sandbox"]);
    finds(&said, "slow", "corrupt", &["timed out after 1 s"]);

    // What it reads is damaged: that is said of who made it, and of the reader only that it could not be executed.
    flip(&object(&sandbox, &output(&sandbox, "slow").digest));
    let all = findings(&audit(&sandbox, &["--reexecute", "reader"]));
    let said: Vec<(&str, &str)> = all.iter().map(|it| (it.0.as_str(), it.1.as_str())).collect();
    assert_eq!(said, [("reader", "missing"), ("slow", "corrupt")], "{all:#?}");
    assert!(all[0].2.contains("was not executed again: what it reads"), "{all:#?}");
}

//! Audits where something is in the way: twins, stores that may only be read, signals, and files that no run would leave.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use okapi_cache::ResultInfo;

use crate::audit_forgeries::forge;
use crate::audits::{self, audit, findings, finds};
use crate::sandbox::{Said, Sandbox};
use crate::teachers::Server;

/// Four seeds and the prompt for their translation.
fn write_seeds(sandbox: &Sandbox) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let prompt = fs::read_to_string(root.join("prompts/translate.j2")).unwrap();
    sandbox.write("prompts/translate.j2", &prompt);
    let seeds = fs::read_to_string(root.join("pipelines/okapi/seed_tasks.jsonl")).unwrap();
    sandbox.write("seeds.jsonl", &seeds.split_inclusive('\n').take(4).collect::<String>());
}

/// Twins have one action, and with it one name of a working folder: executed at once they once got in each other's way, and
/// were called corrupt.
#[test]
fn instances_with_one_action_are_executed_once() {
    let sandbox = Sandbox::new(
        r#"
okapi: 1
teachers:
  chat: {kind: offline}
nodes:
  seeds: {stage: import, params: {path: seeds.jsonl, kind: instructions}}
  translate:
    for_each: {v: [a, b]}
    stage: translate
    inputs: {data: seeds}
    prompts: {translate: prompts/translate.j2}
    teacher: chat
    params: {language: de, max_reject_rate: 1}
  n:
    for_each: {v: [a, b]}
    stage: command
    files: [s.sh]
    run: sleep 0.2; sh s.sh > "$OKAPI_OUTPUT_T"
    outputs: {t: text}
  m: {stage: command, files: [s.sh], run: 'sleep 0.2; sh s.sh > "$OKAPI_OUTPUT_T"', outputs: {t: text}}
"#,
    );
    write_seeds(&sandbox);
    sandbox.write("s.sh", "echo 1\n");
    sandbox.run();
    for _ in 0..3 {
        let said = audit(&sandbox, &["--reexecute", "all", "-j", "4"]);
        assert_eq!(findings(&said), []);
        let json = said.json();
        assert_eq!((&json["executed"], &json["answered_from_records"]), (&6.into(), &2.into()));
    }
    let said = sandbox.okapi(&["run", "p.yaml", "--check-determinism", "-j", "4"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let last = "executed twice: 6 gave the same bytes, 0 did not\n";
    assert!(said.stderr.ends_with(last), "{}", said.stderr);
}

/// Every file of the store: its inode, size, and the time of its last change.
fn everything(sandbox: &Sandbox) -> BTreeMap<String, (u64, u64, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![sandbox.path(".okapi")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let data = entry.metadata().unwrap();
            let seen = (data.ino(), data.size(), data.mtime(), data.mtime_nsec());
            found.insert(entry.path().display().to_string(), seen);
            if data.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    found
}

/// In a store of another user every node that had asked a teacher was called corrupt, as the audit opened it for writing.
#[test]
fn an_audit_writes_nothing_into_the_store() {
    let sandbox = audits::sandbox();
    fs::remove_file(sandbox.path(".okapi/records.index")).unwrap();
    let before = everything(&sandbox);
    let said = audit(&sandbox, &["--reexecute", "all"]);
    assert_eq!(findings(&said), []);
    assert_eq!(said.json()["answered_from_records"], 3);
    assert_eq!(everything(&sandbox), before);
}

/// Signals were taken over for good when nodes were executed again, and nobody heard them while teachers were asked.
#[test]
fn asking_anew_ends_by_a_signal() {
    let sandbox = Sandbox::new(
        r#"
okapi: 1
teachers:
  chat: {kind: openai, model: okapi-offline, base_url: "http://ADDRESS/v1"}
nodes:
  seeds: {stage: import, params: {path: seeds.jsonl, kind: instructions}}
  translate:
    stage: translate
    inputs: {data: seeds}
    prompts: {translate: prompts/translate.j2}
    teacher: chat
    params: {language: de, max_reject_rate: 1}
"#,
    );
    write_seeds(&sandbox);
    let server = Server::start(&sandbox, &[]);
    sandbox.run();
    // From now on whoever asks waits for ever.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    sandbox.edit("p.yaml", &server.address, &silent.local_addr().unwrap().to_string());
    drop(server);
    fs::create_dir(sandbox.path("tmp")).unwrap();
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        // Those of the one before.
        while silent.accept().is_ok() {}
        let mut command = sandbox.command(&["audit", "p.yaml", "--ask-again", "2"]);
        let mut child = command.env("TMPDIR", sandbox.path("tmp")).spawn().unwrap();
        let patience = Instant::now() + Duration::from_secs(60);
        let mut asked = None;
        while asked.is_none() && Instant::now() < patience {
            asked = silent.accept().ok();
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(asked.is_some(), "nobody was asked");
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        let patience = Instant::now() + Duration::from_secs(30);
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > patience {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let said = Said::of(child.wait_with_output().unwrap());
        assert_eq!(said.code, Some(130), "{}", said.stderr);
        assert_eq!(said.stderr, "interrupted\n");
        assert_eq!(fs::read_dir(sandbox.path("tmp")).unwrap().count(), 0);
    }
}

/// A file and a folder, both published.
const PUBLISHED: &str = r#"
okapi: 1
nodes:
  one: {stage: command, run: 'echo 1 > "$OKAPI_OUTPUT_T"', outputs: {t: text}}
  all: {stage: command, run: 'mkdir "$OKAPI_OUTPUT_T"; echo 1 > "$OKAPI_OUTPUT_T/a"', outputs: {t: tree}}
publish: {results/one: one, results/all: all}
"#;

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn what_no_run_would_publish_is_named() {
    type Change = fn(&Path);
    let odd: [(&str, Change, &str, &str); 8] = [
        ("all", |it| fifo(&it.join("all/x")), "changed_since", "neither a file"),
        ("all", |it| symlink("/etc", it.join("all/x")).unwrap(), "changed_since", "a symlink to"),
        (
            "all",
            |it| fs::write(it.join("all").join(OsStr::from_bytes(b"\xff")), "").unwrap(),
            "changed_since",
            "not UTF-8",
        ),
        ("all", |it| fs::write(it.join("all/x"), "").unwrap(), "changed_since", "results/all"),
        (
            "one",
            |it| {
                fs::remove_file(it.join("one")).unwrap();
                fifo(&it.join("one"));
            },
            "changed_since",
            "neither a file",
        ),
        (
            "one",
            |it| {
                fs::remove_file(it.join("one")).unwrap();
                fs::create_dir(it.join("one")).unwrap();
            },
            "changed_since",
            "results/one",
        ),
        ("one", |it| fs::remove_file(it.join("one")).unwrap(), "missing", "is not there"),
        (
            "one",
            |it| {
                fs::remove_file(it.join("one")).unwrap();
                symlink("nowhere", it.join("one")).unwrap();
            },
            "missing",
            "is not there",
        ),
    ];
    for (node, change, verdict, words) in odd {
        let sandbox = Sandbox::new(PUBLISHED);
        sandbox.run();
        change(&sandbox.path("results"));
        finds(&audit(&sandbox, &[]), node, verdict, &[words]);
    }
}

/// A cut log of documents once ended the audit without a verdict, no run mended it, and `cache verify` found nothing.
#[test]
fn a_lost_document_is_missing_and_can_be_made_again() {
    type Damage = fn(&Path, &[u8]);
    let damages: [(Damage, usize); 4] = [
        (|log, whole| fs::write(log, &whole[..whole.len() - 1]).unwrap(), 1),
        (|log, _| fs::write(log, "").unwrap(), 2),
        (|log, _| fs::remove_file(log).unwrap(), 2),
        (
            |log, whole| {
                let mut damaged = whole.to_vec();
                *damaged.last_mut().unwrap() ^= 1;
                fs::write(log, damaged).unwrap();
            },
            1,
        ),
    ];
    for (damage, lost) in damages {
        let sandbox = Sandbox::new(PUBLISHED);
        sandbox.run();
        let log = sandbox.path(".okapi/documents.log");
        damage(&log, &fs::read(&log).unwrap());
        let all = findings(&audit(&sandbox, &["--reexecute", "all"]));
        assert_eq!(all.len(), lost, "{all:#?}");
        for (_, verdict, message) in &all {
            assert_eq!(
                (&**verdict, &**message),
                ("missing", "the document of its action cannot be read")
            );
        }
        let said = sandbox.okapi(&["cache", "verify"]);
        assert_eq!(said.code, Some(3), "{}", said.stdout);
        assert_eq!(said.stdout.matches("lost its document").count(), lost, "{}", said.stdout);
        assert!(said.stdout.contains("okapi run --force NODE"), "{}", said.stdout);
        for (node, _, _) in &all {
            assert_eq!(sandbox.okapi(&["run", "p.yaml", "--force", node]).code, Some(0));
        }
        assert_eq!(findings(&audit(&sandbox, &[])), []);
        let said = sandbox.okapi(&["cache", "verify"]);
        assert_eq!(said.code, Some(0), "{}", said.stdout);
    }
}

#[test]
fn a_clock_and_a_price_are_found() {
    type Edit = fn(&mut ResultInfo);
    let edits: [(Edit, &[&str]); 3] = [
        (|info| info.duration_ms += 1000, &["the duration is ", " ms in the result"]),
        (|info| info.finished_unix_ms = 1_000_000_000_000, &["the time of its end is 2001-09-09"]),
        (
            |info| info.cost_micro_usd = Some(5),
            &["the cost is 5 millionths", "was nothing in the run"],
        ),
    ];
    let sandbox = Sandbox::new(PUBLISHED);
    sandbox.run();
    assert_eq!(audit(&sandbox, &[]).json()["unreported"], 0);
    for (edit, words) in edits {
        forge(&sandbox, "one", |info, _| edit(info));
        finds(&audit(&sandbox, &[]), "one", "corrupt", words);
        sandbox.run_with(&["--force", "one"]);
        assert_eq!(findings(&audit(&sandbox, &[])), []);
    }
    // What a run that was killed may have done is not known.
    forge(&sandbox, "one", |info, _| info.duration_ms += 1000);
    let runs = fs::read_dir(sandbox.path(".okapi/runs")).unwrap().map(|it| it.unwrap().path());
    let newest = runs.filter(|it| it.join("run.json").exists()).max().unwrap().join("run.json");
    let mut info: serde_json::Value = serde_json::from_slice(&fs::read(&newest).unwrap()).unwrap();
    info["end"] = serde_json::Value::Null;
    fs::write(&newest, info.to_string()).unwrap();
    assert_eq!(findings(&audit(&sandbox, &[])), []);
    // Where the runs' records are gone that is said.
    for run in fs::read_dir(sandbox.path(".okapi/runs")).unwrap().map(Result::unwrap) {
        let _ = fs::remove_file(run.path().join("events.jsonl"));
    }
    let said = audit(&sandbox, &[]);
    assert_eq!((findings(&said), &said.json()["unreported"]), (Vec::new(), &2.into()));
    let said = sandbox.okapi(&["audit", "p.yaml"]).stdout;
    assert!(said.contains("metrics, times and costs of 2 nodes compared with nothing"), "{said}");
}

/// A forged output under the same action was to be written into the lock file.
#[test]
fn another_output_of_the_locked_action_is_to_be_made_again() {
    let sandbox = Sandbox::new(PUBLISHED);
    sandbox.run_with(&["--lock"]);
    let digest = audits::output(&sandbox, "one").digest.to_string();
    sandbox.edit("p.lock", &digest, &"1".repeat(64));
    finds(&audit(&sandbox, &["--locked"]), "one", "changed_since", &["of the same action"]);
    let said = sandbox.okapi(&["audit", "p.yaml", "--locked"]).stdout;
    assert!(said.contains("--reexecute NODE") && !said.contains("--lock`"), "{said}");
}

#[test]
fn a_command_that_fails_is_shown_with_what_it_said() {
    let sandbox = Sandbox::new(
        "okapi: 1\nnodes:\n  n: {stage: command, run: 'echo one >&2; cat MARK > \"$OKAPI_OUTPUT_O\"', outputs: {o: text}}\n",
    );
    let mark = fs::canonicalize(sandbox.path("")).unwrap().join("mark");
    sandbox.edit("p.yaml", "MARK", mark.to_str().unwrap());
    fs::write(&mark, "x").unwrap();
    sandbox.run_with(&["--no-sandbox"]);
    fs::remove_file(&mark).unwrap();
    let said = sandbox.okapi(&["audit", "p.yaml", "--reexecute", "n"]).stdout;
    assert!(said.contains("the command exited with status 1: one; cat: "), "{said}");
    assert!(said.contains("hint: one that was run with --no-sandbox"), "{said}");
}

#[test]
fn a_damaged_head_is_no_pipeline_that_never_ran() {
    let sandbox = Sandbox::new(PUBLISHED);
    sandbox.run();
    let heads = fs::read_dir(sandbox.path(".okapi/runs/heads")).unwrap();
    for head in heads {
        fs::write(head.unwrap().path(), "x").unwrap();
    }
    let said = sandbox.okapi(&["audit", "p.yaml"]);
    assert!(said.stderr.contains("is damaged") && said.stdout.is_empty(), "{}", said.stderr);
}

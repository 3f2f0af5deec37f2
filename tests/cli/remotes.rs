//! Results that several projects share by a remote.

use std::fs;

use crate::moto::Moto;
use crate::proxy::{Fault, Proxy};
use crate::sandbox::{Said, Sandbox, names};

pub(crate) const PIPELINE: &str = "\
okapi: 1
name: shared
nodes:
  one:
    stage: command
    run: 'echo one > \"$OKAPI_OUTPUT_O\"'
    outputs: {o: text}
  two:
    stage: command
    inputs: {one: one}
    run: 'mkdir -p \"$OKAPI_OUTPUT_T/sub\"; cat \"$OKAPI_INPUT_ONE\" \"$OKAPI_INPUT_ONE\" > \"$OKAPI_OUTPUT_T/sub/two\"'
    outputs: {t: tree}
  three:
    stage: command
    inputs: {two: two}
    run: 'cat \"$OKAPI_INPUT_TWO/sub/two\" > \"$OKAPI_OUTPUT_O\"; echo three >> \"$OKAPI_OUTPUT_O\"'
    outputs: {o: text}
publish:
  three.txt: three
";

pub(crate) fn new() -> (Sandbox, String) {
    let sandbox = Sandbox::new(PIPELINE);
    fs::create_dir(sandbox.path("remote")).unwrap();
    let remote = sandbox.path("remote").to_str().unwrap().to_owned();
    (sandbox, remote)
}

pub(crate) fn done(said: &Said) {
    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
}

pub(crate) fn run(sandbox: &Sandbox, more: &[&str]) -> Said {
    let said = sandbox.okapi(&[&["run", "p.yaml", "--progress", "json"], more].concat());
    done(&said);
    assert_eq!(sandbox.read("three.txt"), "one\none\nthree\n");
    said
}

#[test]
fn a_hit_elsewhere_is_a_hit_here() {
    let (one, remote) = new();
    let first = run(&one, &["--remote", &remote]);
    assert_eq!(first.executed(), names(&["one", "two", "three"]));

    let two = Sandbox::new(PIPELINE);
    let plan = two.okapi(&["plan", "p.yaml", "--remote", &remote, "--json"]).json();
    assert_eq!(plan["summary"]["fetched"], 3);
    assert!(plan["nodes"].as_array().unwrap().iter().all(|node| node["verdict"] == "fetched"));
    let check = two.okapi(&["plan", "p.yaml", "--remote", &remote, "--check"]);
    done(&check);
    assert!(check.stdout.starts_with("3 on the remote (26 B), 0 cached"), "{}", check.stdout);

    let second = run(&two, &["--remote", &remote]);
    assert_eq!(second.executed(), names(&[]));
    let events = second.events();
    let fetched = events.iter().filter(|event| event["fetched_bytes"].is_u64());
    assert_eq!(fetched.filter(|event| event["event"] == "node_cached").count(), 3);
    // The log of what was executed elsewhere is here, and an audit finds everything.
    done(&two.okapi(&["log", "last", "two"]));
    done(&two.okapi(&["audit", "p.yaml", "--reexecute", "all"]));

    // An edit at the end costs its node alone.
    let three = Sandbox::new(&PIPELINE.replace("echo three", "echo drei"));
    let said = three.okapi(&["run", "p.yaml", "--remote", &remote, "--progress", "json"]);
    assert_eq!(said.executed(), names(&["three"]));
}

#[test]
fn a_run_with_nothing_to_do_asks_nobody() {
    let (one, remote) = new();
    run(&one, &["--remote", &remote]);
    // It would be warned of.
    fs::remove_dir_all(&remote).unwrap();
    let again = run(&one, &["--remote", &remote]);
    assert!(!again.stdout.contains("warning"), "{}", again.stdout);
    let two = Sandbox::new(PIPELINE);
    let said = run(&two, &["--remote", &remote]);
    assert!(said.stdout.contains("there is no such folder"), "{}", said.stdout);
    assert_eq!(said.executed().len(), 3);
}

#[test]
fn a_machine_without_a_gpu_uses_what_one_with_a_gpu_has_made() {
    let wants = PIPELINE.replace(
        "  two:\n    stage: command\n",
        "  two:\n    stage: command\n    resources: {gpu: 1}\n",
    );
    let (one, two) = (Sandbox::new(&wants), Sandbox::new(&wants));
    fs::create_dir(one.path("remote")).unwrap();
    let remote = one.path("remote").to_str().unwrap().to_owned();
    let arguments = ["run", "p.yaml", "--remote", &remote];
    let mut command = one.command(&arguments);
    done(&Said::of(command.env("CUDA_VISIBLE_DEVICES", "0").output().unwrap()));
    assert_eq!(two.okapi(&["run", "p.yaml"]).code, Some(1), "it cannot make it");
    assert_eq!(run(&two, &["--remote", &remote]).executed(), names(&[]));
}

#[test]
fn settings_name_the_remote_and_flags_win() {
    let (one, _) = new();
    one.write("okapi.settings.yaml", "remote:\n  url: remote\n");
    run(&one, &["--no-remote"]);
    assert_eq!(fs::read_dir(one.path("remote")).unwrap().count(), 0);
    done(&one.okapi(&["cache", "push", "p.yaml"]));
    done(&one.okapi(&["cache", "verify", "--remote"]));

    let two = Sandbox::new(PIPELINE);
    let url = format!("remote: {{url: '{}', read_only: true}}\n", one.path("remote").display());
    two.write("okapi.settings.yaml", &url);
    assert_eq!(run(&two, &[]).executed(), names(&[]));
    let push = two.okapi(&["cache", "push"]);
    assert_eq!(push.code, Some(1));

    two.write("okapi.settings.yaml", "remote:\n  url: x\n  readonly: true\n");
    let said = two.okapi(&["run", "p.yaml", "--force", "one"]);
    assert_eq!(said.code, Some(2));
    assert!(said.stderr.contains("okapi.settings.yaml:3:"), "{}", said.stderr);
    let said = two.okapi(&["cache", "push", "--remote", "ftp://host/x"]);
    assert_eq!(said.code, Some(2), "{}", said.stderr);
}

#[test]
fn push_pull_verify_and_collect() {
    let (one, remote) = new();
    run(&one, &[]);
    let pushed = one.okapi(&["cache", "push", "--remote", &remote, "--json"]).json();
    assert_eq!((&pushed["new"], &pushed["failed"]), (&3.into(), &0.into()));
    let again = one.okapi(&["cache", "push", "p.yaml", "--remote", &remote]);
    assert!(again.stdout.starts_with("sent 0 results"), "{}", again.stdout);

    let two = Sandbox::new(PIPELINE);
    let pulled = two.okapi(&["cache", "pull", "p.yaml", "--remote", &remote]);
    done(&pulled);
    assert!(pulled.stdout.starts_with("fetched 3 results"), "{}", pulled.stdout);
    assert!(pulled.stdout.ends_with("0 instances left to run\n"), "{}", pulled.stdout);
    assert_eq!(two.run(), names(&[]));

    // One object is damaged there; this store has it.
    let flag = format!("--remote={remote}");
    let object = files(&one, "remote/okapi/v1/object").pop().unwrap();
    fs::write(&object, "damaged").unwrap();
    let found = two.okapi(&["cache", "verify", &flag]);
    assert_eq!(found.code, Some(3), "{}", found.stdout);
    assert!(found.stdout.contains("wrong: okapi/v1/object/"), "{}", found.stdout);
    let mended = two.okapi(&["cache", "verify", &flag, "--repair"]);
    assert!(mended.stdout.contains("sent again from this store"), "{}", mended.stdout);
    done(&two.okapi(&["cache", "verify", &flag]));

    // A run's document that cannot be read ends collection; this store knows what it said.
    let run_file = files(&one, "remote/okapi/v1/run").pop().unwrap();
    let whole = fs::read(&run_file).unwrap();
    fs::write(&run_file, &whole[..50]).unwrap();
    let stuck = one.okapi(&["gc", &flag]);
    assert_eq!(stuck.code, Some(1), "{}", stuck.stdout);
    assert!(stuck.stderr.contains("verify --remote --repair"), "{}", stuck.stderr);
    let mended = one.okapi(&["cache", "verify", &flag, "--repair"]);
    assert!(mended.stdout.contains("wrong: okapi/v1/run/"), "{}", mended.stdout);
    assert_eq!(fs::read(&run_file).unwrap(), whole);
    done(&one.okapi(&["gc", &flag]));

    // Another state of the pipeline: what it needs stays, and nothing goes before it is told to.
    one.edit("p.yaml", "echo one", "echo eins");
    done(&one.okapi(&["run", "p.yaml", "--remote", &remote]));
    let count = files(&one, "remote/okapi/v1").len();
    let young = one.okapi(&["gc", &flag]);
    assert!(young.stdout.starts_with("would remove 0 objects"), "{}", young.stdout);
    let old = one.okapi(&["gc", &flag, "--keep-runs", "1", "--grace-hours", "0"]);
    assert!(old.stdout.contains("3 results") && old.stdout.contains("--delete"), "{}", old.stdout);
    assert_eq!(files(&one, "remote/okapi/v1").len(), count);
    done(&one.okapi(&["gc", &flag, "--keep-runs", "1", "--grace-hours", "0", "--delete"]));
    assert!(files(&one, "remote/okapi/v1").len() < count);
    done(&one.okapi(&["cache", "verify", &flag]));
    let three = Sandbox::new(&PIPELINE.replace("echo one", "echo eins"));
    let said = three.okapi(&["run", "p.yaml", "--remote", &remote, "--progress", "json"]);
    assert_eq!(said.executed(), names(&[]));
}

pub(crate) fn files(sandbox: &Sandbox, below: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut stack = vec![sandbox.path(below)];
    while let Some(folder) = stack.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { stack.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

#[test]
fn a_node_that_is_not_repeatable_is_named_and_force_replaces_its_result() {
    let random = PIPELINE.replace("echo one", "head -c 8 /dev/urandom | base64");
    let one = Sandbox::new(&random);
    fs::create_dir(one.path("remote")).unwrap();
    let remote = one.path("remote").to_str().unwrap().to_owned();
    let two = Sandbox::new(&random);
    done(&two.okapi(&["run", "p.yaml", "one"]));
    done(&one.okapi(&["run", "p.yaml", "one", "--remote", &remote]));
    let push = two.okapi(&["cache", "push", "--remote", &remote]);
    assert!(push.stdout.contains("differs: the remote has another result"), "{}", push.stdout);
    // Whoever forces does not believe what is there.
    done(&two.okapi(&["run", "p.yaml", "one", "--force", "one", "--remote", &remote]));
    let three = Sandbox::new(&random);
    done(&three.okapi(&["run", "p.yaml", "one", "--remote", &remote]));
    let shown = |sandbox: &Sandbox| sandbox.okapi(&["show", "p.yaml", "one"]).stdout;
    assert_eq!(shown(&three), shown(&two));
    assert_ne!(shown(&three), shown(&one));
}

type Script = fn(&crate::proxy::Asked<'_>) -> Fault;

#[test]
fn an_s3_server_with_faults_gives_the_bytes_of_a_run_without_one() {
    let Some(moto) = Moto::start() else { return };
    let proxy = Proxy::start(moto.address);
    let s3 = |sandbox: &Sandbox, arguments: &[&str]| {
        let mut command = sandbox.command(arguments);
        command
            .env("AWS_ENDPOINT_URL", &proxy.address)
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "SECRET-key")
            .env("AWS_REGION", "us-east-1")
            .env("OKAPI_REMOTE", "s3://okapi/team");
        let said = Said::of(command.output().unwrap());
        assert!(!said.stdout.contains("SECRET") && !said.stderr.contains("SECRET"));
        said
    };
    let scripts: [(&str, Script, usize); 6] = [
        ("down", |_| Fault::Close, 3),
        ("well", |_| Fault::None, 3),
        ("well again", |_| Fault::None, 0),
        ("500 at first", |it| if it.before == 0 { Fault::Status(500) } else { Fault::None }, 0),
        (
            "wrong bytes",
            |it| if it.path.contains("/object/") { Fault::Flip } else { Fault::None },
            3,
        ),
        ("forbidden", |_| Fault::Status(403), 3),
    ];
    for (name, script, executed) in scripts {
        proxy.follow(script);
        let sandbox = Sandbox::new(PIPELINE);
        let said = s3(&sandbox, &["run", "p.yaml", "--progress", "json"]);
        done(&said);
        assert_eq!(sandbox.read("three.txt"), "one\none\nthree\n", "{name}");
        assert_eq!(said.executed().len(), executed, "{name}: {}", said.stdout);
        done(&sandbox.okapi(&["cache", "verify"]));
        if executed > 0 && name != "well" {
            assert!(said.stdout.contains("\"event\":\"warning\""), "{name}: {}", said.stdout);
        }
    }
    proxy.follow(|_| Fault::None);
    let sandbox = Sandbox::new(PIPELINE);
    done(&s3(&sandbox, &["cache", "pull", "p.yaml"]));
    done(&s3(&sandbox, &["cache", "verify", "--remote", "--sample", "2"]));
}

/// Answers may hold private prompts: they are shared where the user says so, and nowhere else.
#[test]
fn answers_of_teachers_are_shared_where_the_user_says_so() {
    let pipeline = "\
okapi: 1
name: asking
teachers:
  chat: {kind: offline}
nodes:
  seeds: {stage: import, params: {path: seeds.jsonl, kind: instructions}}
  translated:
    stage: translate
    inputs: {data: seeds}
    prompts: {translate: translate.j2}
    teacher: chat
    params: {language: de, max_reject_rate: 1}
";
    let project = || {
        let sandbox = Sandbox::new(pipeline);
        let row = |n: u32| format!("{{\"instruction\":\"Say {n}.\",\"output\":\"It is {n}.\"}}\n");
        sandbox.write("seeds.jsonl", &(0..20).map(row).collect::<String>());
        let translate = concat!(env!("CARGO_MANIFEST_DIR"), "/prompts/translate.j2");
        sandbox.write("translate.j2", &fs::read_to_string(translate).unwrap());
        sandbox
    };
    let remote = tempfile::tempdir().unwrap();
    let url = remote.path().display().to_string();
    let records = remote.path().join("okapi/v1/record");
    let asked = |said: &Said| {
        let finished = said.events().into_iter().find(|it| it["event"] == "run_finished").unwrap();
        let number = |key: &str| finished["spend"][key].as_u64().unwrap();
        (number("requests"), number("recorded"))
    };
    let run = |sandbox: &Sandbox, more: &[&str]| {
        let arguments = [&["run", "p.yaml", "--progress", "json", "--remote", &url], more].concat();
        let said = sandbox.okapi(&arguments);
        done(&said);
        said
    };
    let one = project();
    assert_eq!(asked(&run(&one, &[])), (20, 0));
    assert!(!records.exists());
    // What earlier runs asked for goes there, too, by whichever command.
    let pushed = one.okapi(&["cache", "push", "--remote", &url, "--remote-records"]);
    assert!(pushed.stdout.contains("sent 20 answers of teachers"), "{}", pushed.stdout);
    // Another project asks anew, as results are not to be used, but pays for nothing.
    let force = ["--force", "translated"];
    let two = project();
    assert_eq!(asked(&run(&two, &force)), (20, 0));
    let three = project();
    let said = run(&three, &[&force[..], &["--remote-records"]].concat());
    assert_eq!(asked(&said), (0, 20));
    let shared = said.events().into_iter().find(|it| it["event"] == "records_shared").unwrap();
    assert_eq!((shared["fetched"].as_u64(), shared["sent"].as_u64()), (Some(20), Some(0)));
    // A setting says the same for all runs of a project, and a remote for reading is sent nothing.
    let four = project();
    four.edit("translate.j2", "Translate", "Please translate");
    four.write(
        "okapi.settings.yaml",
        &format!("remote: {{url: '{url}', records: true, read_only: true}}\n"),
    );
    let before = fs::read_dir(&records).unwrap().count();
    done(&four.okapi(&["run", "p.yaml"]));
    assert_eq!(fs::read_dir(&records).unwrap().count(), before);
    four.edit("okapi.settings.yaml", ", read_only: true", "");
    four.edit("p.yaml", "language: de", "language: fr");
    let said = four.okapi(&["run", "p.yaml"]);
    done(&said);
    assert!(said.stderr.contains("sent 40 answers"), "{}", said.stderr);
    // What is said of that remote is not said of another.
    let other = tempfile::tempdir().unwrap();
    four.edit("p.yaml", "language: fr", "language: hu");
    done(&four.okapi(&["run", "p.yaml", "--remote", other.path().to_str().unwrap()]));
    assert!(other.path().join("okapi/v1/action").exists());
    assert!(!other.path().join("okapi/v1/record").exists());
}

//! Bundles: what `audit --export` writes, a third party can check without the store.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use okapi_cache::Digest;
use serde_json::Value;
use sha2::Digest as _;

use crate::sandbox::{Said, Sandbox};

const PIPELINE: &str = r#"
okapi: 1
name: shown
nodes:
  text: {stage: import, params: {path: text.txt, kind: text}}
  words:
    for_each: {n: [1, 2]}
    stage: command
    inputs: {text: text}
    files: [words.sh]
    pass_env: [SECRET_WORD]
    run: sh words.sh ${each.n} < "$OKAPI_INPUT_TEXT" > "$OKAPI_OUTPUT_WORDS"
    outputs: {words: text}
  folder:
    stage: command
    inputs: {words: words}
    run: mkdir "$OKAPI_OUTPUT_ALL"; for file in "$OKAPI_INPUT_WORDS"/*; do cp "$file" "$OKAPI_OUTPUT_ALL/"; done
    outputs: {all: tree}
  hidden: {stage: command, inputs: {text: text}, run: 'rev "$OKAPI_INPUT_TEXT" > "$OKAPI_OUTPUT_TEXT"', outputs: {text: text}}
  data_set: {stage: dataset, inputs: {data: rows}, params: {title: Rows}}
  rows: {stage: import, params: {path: rows.jsonl, kind: instructions}}
publish:
  "results/words-${each.n}.txt": words
  results/folder: folder
  results/rows: data_set
"#;

/// A project that has run.
pub(crate) fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new(PIPELINE);
    sandbox.write("text.txt", "one two three\n");
    sandbox.write("words.sh", "cut -d ' ' -f $1\n");
    sandbox.write("rows.jsonl", "{\"instruction\":\"Say one.\",\"output\":\"one\"}\n");
    sandbox.run();
    sandbox
}

pub(crate) fn exported() -> Sandbox {
    let sandbox = sandbox();
    let said = sandbox.okapi(&["audit", "p.yaml", "--export", "bundle"]);
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    assert!(said.stderr.contains("check it anywhere: okapi audit bundle"), "{}", said.stderr);
    sandbox
}

/// What an audit of the bundle elsewhere finds: there is nothing else there.
pub(crate) fn audit(sandbox: &Sandbox) -> (Said, Vec<(String, String)>) {
    let there = Sandbox::new("");
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .arg(sandbox.path("bundle"))
        .arg(there.path("b"))
        .status();
    assert!(copied.unwrap().success());
    fs::remove_file(there.path("p.yaml")).unwrap();
    let said = there.okapi(&["audit", "b", "--json"]);
    let json: Value =
        serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{}", said.stderr));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut all = Vec::new();
    for node in json["nodes"].as_array().unwrap() {
        for finding in node["findings"].as_array().unwrap() {
            all.push((text(&node["node"]), text(&finding["message"])));
        }
    }
    assert_eq!(said.code, Some(i32::from(!all.is_empty())), "{all:?}");
    assert!(!there.path(".okapi").exists(), "an audit of a bundle leaves nothing behind");
    (said, all)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(self::files(&entry.path())),
            false => files.push(entry.path()),
        }
    }
    files
}

/// Makes the lists of digests fit the files again, as a forger would.
pub(crate) fn forge_lists(bundle: &Path) {
    let (mut b3, mut sha256) = (String::new(), String::new());
    for path in files(bundle) {
        let name = path.strip_prefix(bundle).unwrap().display().to_string();
        if !name.starts_with("digests.") {
            let bytes = fs::read(&path).unwrap();
            b3 += &format!("{}  {name}\n", Digest::of(&bytes));
            sha256 += &format!("{:x}  {name}\n", sha2::Sha256::digest(&bytes));
        }
    }
    fs::write(bundle.join("digests.b3"), b3).unwrap();
    fs::write(bundle.join("digests.sha256"), sha256).unwrap();
}

#[test]
fn a_bundle_is_checked_elsewhere() {
    let sandbox = exported();
    let (said, found) = audit(&sandbox);
    assert_eq!(found, []);
    let json = said.json();
    assert_eq!(json["nodes"].as_array().unwrap().len(), 7);
    // What is published nowhere.
    assert_eq!(json["elsewhere"], 1);

    // Programs of others read the lists, and every file is on them once.
    let bundle = sandbox.path("bundle");
    let listed = sandbox.read("bundle/digests.sha256");
    let names: BTreeSet<&str> =
        listed.lines().map(|line| line.split_once("  ").unwrap().1).collect();
    assert_eq!(names.len() + 2, files(&bundle).len());
    for line in listed.lines() {
        let (digest, name) = line.split_once("  ").unwrap();
        let bytes = fs::read(bundle.join(name)).unwrap();
        assert_eq!(format!("{:x}", sha2::Sha256::digest(&bytes)), digest, "{name}");
    }
    for line in sandbox.read("bundle/digests.b3").lines() {
        let (digest, name) = line.split_once("  ").unwrap();
        assert_eq!(Digest::of(&fs::read(bundle.join(name)).unwrap()).to_string(), digest, "{name}");
        if let Some(action) = name.strip_prefix("actions/") {
            assert_eq!(action, format!("{digest}.json"), "a document is named by its digest");
        }
    }
    assert_eq!(sandbox.read("bundle/published/results/words-2.txt"), "two\n");
    assert_eq!(sandbox.read("bundle/project/words.sh"), sandbox.read("words.sh"));
    let environment: Value =
        serde_json::from_str(&sandbox.read("bundle/environment.json")).unwrap();
    assert!(environment["written_by"]["compiler"].as_str().unwrap().starts_with("rustc "));
    assert!(environment["written_by"]["okapi"]["revision"].as_str().unwrap().len() > 6);
    let again = sandbox.okapi(&["audit", "p.yaml", "--export", "bundle"]);
    assert!(again.code == Some(2) && again.stderr.contains("is there already"), "{}", again.stderr);
}

#[test]
fn the_crate_names_every_file_and_every_action() {
    let sandbox = exported();
    let crate_: Value =
        serde_json::from_str(&sandbox.read("bundle/ro-crate-metadata.json")).unwrap();
    let graph = crate_["@graph"].as_array().unwrap();
    let entity = |id: &str| {
        let found: Vec<&Value> = graph.iter().filter(|it| it["@id"] == id).collect();
        let [one] = found[..] else { panic!("{id} is there {} times", found.len()) };
        one
    };
    let id = |value: &Value| value["@id"].as_str().unwrap().to_owned();
    for part in entity("./")["hasPart"].as_array().unwrap() {
        let file = entity(&id(part));
        if let Some(sha256) = file["sha256"].as_str() {
            let bytes =
                fs::read(sandbox.path("bundle").join(id(part).replace("%3D", "="))).unwrap();
            assert_eq!(format!("{:x}", sha2::Sha256::digest(&bytes)), sha256);
            assert_eq!(file["contentSize"], bytes.len().to_string());
        }
    }
    let action = entity("#action/words%5Bn%3D2%5D");
    assert_eq!(id(&action["instrument"]), "urn:okapi:stage:command:1");
    assert_eq!(id(&action["result"][0]), "published/results/words-2.txt");
    let text = entity("#action/text");
    assert_eq!(action["object"], text["result"], "what one makes the other reads");
    assert!(id(&text["result"][0]).starts_with("urn:okapi:blake3:"));
    let control = entity("#control/words%5Bn%3D2%5D");
    assert_eq!(
        (id(&control["object"]), id(&control["instrument"])),
        ("#action/words%5Bn%3D2%5D".into(), "#node/words".into())
    );
    assert_eq!(entity("published/results/folder/")["@type"], "Dataset");
}

#[test]
fn whatever_is_changed_in_a_bundle_is_named() {
    let action = |sandbox: &Sandbox, node: &str| {
        let bundle: Value = serde_json::from_str(&sandbox.read("bundle/bundle.json")).unwrap();
        let nodes = bundle["nodes"].as_array().unwrap();
        let node = nodes.iter().find(|it| it["node"] == node).unwrap();
        format!("bundle/actions/{}.json", node["action"].as_str().unwrap())
    };
    // A file of the bundle: by its name.
    let sandbox = exported();
    sandbox.edit("bundle/README.md", "okapi", "Okapi");
    let messages: Vec<String> = audit(&sandbox).1.into_iter().map(|it| it.1).collect();
    let mut expected = ["digests.b3", "digests.sha256"]
        .map(|list| format!("the file `README.md` is not what {list} says"))
        .to_vec();
    // The crate has a digest of it, too.
    for file in ["README.md", "ro-crate-metadata.json"] {
        expected.push(format!("`{file}` is not what follows from `bundle.json`"));
    }
    assert_eq!(messages, expected);

    // From here on the lists fit, as whoever changes a file can change them.
    type Change = fn(&Sandbox, &str);
    let cases: [(&str, Change, &str, &str); 6] = [
        (
            "text",
            |sandbox, _| sandbox.edit("bundle/project/words.sh", "-f", "-c"),
            "words[n=1]",
            "files.words.sh",
        ),
        (
            "text",
            |sandbox, _| {
                sandbox.edit("bundle/project/p.yaml", "kind: instructions", "kind: prompts");
            },
            "rows",
            "params.kind",
        ),
        (
            "text",
            |sandbox, path| sandbox.edit(path, "text.txt", "test.txt"),
            "text",
            "the document of its action",
        ),
        (
            "text",
            |sandbox, path| fs::remove_file(sandbox.path(path)).unwrap(),
            "text",
            "its result is not",
        ),
        (
            "folder",
            |sandbox, _| sandbox.write("bundle/published/results/words-1.txt", "One\n"),
            "words[n=1]",
            "results/words-1.txt",
        ),
        (
            "folder",
            |sandbox, _| {
                fs::remove_file(sandbox.path("bundle/published/results/words-1.txt")).unwrap();
            },
            "words[n=1]",
            "is not there",
        ),
    ];
    for (node, change, at, words) in cases {
        let sandbox = exported();
        for path in files(&sandbox.path("bundle")) {
            let mut permissions = fs::metadata(&path).unwrap().permissions();
            #[expect(clippy::permissions_set_readonly_false, reason = "a copy of one's own")]
            permissions.set_readonly(false);
            fs::set_permissions(&path, permissions).unwrap();
        }
        change(&sandbox, &action(&sandbox, node));
        forge_lists(&sandbox.path("bundle"));
        let (_, found) = audit(&sandbox);
        let named = found.iter().any(|(node, message)| node == at && message.contains(words));
        assert!(named, "`{words}` of {at} is not in {found:#?}");
        // Who reads from one without a result is not verified, and says for want of whom.
        let follows = format!("cannot be recomputed, for `{at}` above it has no result");
        let others = found.iter().filter(|(node, message)| {
            node != "(files)"
                && node.split('[').next() != at.split('[').next()
                && !message.ends_with(&follows)
        });
        assert_eq!(others.count(), 0, "{found:#?}");
    }
}

#[test]
fn a_bundle_that_leads_out_of_its_folder_is_refused() {
    for (from, to) in [
        ("\"pipeline\": \"p.yaml\"", "\"pipeline\": \"../p.yaml\""),
        ("results/words-1.txt", "/etc/passwd"),
    ] {
        let sandbox = exported();
        sandbox.edit("bundle/bundle.json", from, to);
        let said = sandbox.okapi(&["audit", "bundle"]);
        assert_eq!(said.code, Some(2));
        assert!(said.stderr.contains("leaves it"), "{}", said.stderr);
    }
    let sandbox = exported();
    for refused in [["--reexecute", "all"], ["--store", "other"]] {
        let said = sandbox.okapi(&[&["audit", "bundle"], &refused[..]].concat());
        assert_eq!(said.code, Some(2), "{}", said.stderr);
    }
}

/// Whoever has the store in the environment was told to leave out what they had not written.
#[test]
fn a_store_of_the_environment_is_in_nobodys_way() {
    let sandbox = exported();
    let mut command = sandbox.command(&["audit", "bundle"]);
    let said = Said::of(command.env("OKAPI_STORE", sandbox.path("other")).output().unwrap());
    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
    assert!(!sandbox.path("other").exists());
}

#[test]
fn a_published_file_of_a_bundle_may_be_anything() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 4] = [
        ("words[n=1]", |it| {
            fs::remove_file(it.join("words-1.txt")).unwrap();
            fs::create_dir(it.join("words-1.txt")).unwrap();
        }),
        ("words[n=1]", |it| {
            fs::remove_file(it.join("words-1.txt")).unwrap();
            std::os::unix::fs::symlink("nowhere", it.join("words-1.txt")).unwrap();
        }),
        ("folder", |it| {
            std::os::unix::fs::symlink("nowhere", it.join("folder/link")).unwrap();
        }),
        ("folder", |it| {
            std::os::unix::fs::symlink("/no/such/folder", it.join("folder/link")).unwrap();
        }),
    ];
    for (node, change) in changes {
        let sandbox = exported();
        unlock(&sandbox.path("bundle"));
        change(&sandbox.path("bundle/published/results"));
        let (_, found) = audit(&sandbox);
        let said = found.iter().any(|(at, message)| at == node && message.contains("`results/"));
        assert!(said, "{node}: {found:#?}");
    }
}

#[test]
fn nothing_private_gets_into_a_bundle() {
    let sandbox = sandbox();
    let project = fs::canonicalize(sandbox.path("")).unwrap().display().to_string();
    let plant = |what: &str, text: &str| {
        sandbox.write("words.sh", &format!("echo '{text}'\n"));
        let export = |more: &[&str]| {
            let _ = fs::remove_dir_all(sandbox.path("bundle"));
            let mut command =
                sandbox.command(&[&["audit", "p.yaml", "--export", "bundle"], more].concat());
            let output = command
                .envs([
                    ("USER", "wilhelmina"),
                    ("HOME", "/home/wilhelmina"),
                    ("SECRET_WORD", "xyzzy-plugh"),
                    ("HF_TOKEN", "hf_abcdef"),
                    ("DB_PASSWORD", "pw-12"),
                    ("TOKENIZERS_PARALLELISM", "false"),
                ])
                .output();
            Said::of(output.unwrap())
        };
        let mut run = sandbox.command(&["run", "p.yaml", "--quiet"]);
        assert!(run.env("SECRET_WORD", "xyzzy-plugh").status().unwrap().success());
        let said = export(&[]);
        if what.is_empty() {
            assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
            return;
        }
        assert_eq!(said.code, Some(1), "{text}: {}", said.stdout);
        assert!(said.stderr.contains(what) && !said.stderr.contains(text), "{}", said.stderr);
        assert!(!sandbox.path("bundle").exists());
        let kind = said.stderr.split("--allow-private ").nth(1).unwrap().split(' ').next().unwrap();
        assert_eq!(export(&["--allow-private", kind]).code, Some(0));
        let others = ["secret", "user", "host", "path"].into_iter().filter(|it| *it != kind);
        assert_eq!(
            export(&["--allow-private", &others.collect::<Vec<_>>().join(",")]).code,
            Some(1)
        );
    };
    plant("", "nothing to hide");
    plant("the value of SECRET_WORD", "the xyzzy-plugh of it");
    plant("the value of HF_TOKEN", "hf_abcdef");
    plant("the value of DB_PASSWORD", "(pw-12)");
    plant("the name of the user", "by wilhelmina");
    plant("the path of the project", &format!("{project}/text.txt"));
}

#[test]
fn paths_that_a_pipeline_names_are_found() {
    let sandbox = sandbox();
    let text = sandbox.read("p.yaml");
    // In the pipeline itself, and in what is put together when it is loaded.
    let told = text.replace("nodes:", "doc: of /home/lab/seeds\nnodes:");
    let parts = text
        .replace("nodes:", "vars: {place: seeds}\nnodes:")
        .replacen(
            "    run: ",
            "    env: {SEEDS: \"/ho${vars.nothing}me/${vars.place}\"}\n    run: ",
            1,
        )
        .replace("vars: {place: seeds}", "vars: {place: seeds, nothing: \"\"}");
    for (pipeline, file) in [(told, "project/p.yaml"), (parts, "actions/")] {
        sandbox.write("p.yaml", &pipeline);
        sandbox.run();
        let said = sandbox.okapi(&["audit", "p.yaml", "--export", "new/below/bundle"]);
        assert_eq!(said.code, Some(1), "{}{}", said.stdout, said.stderr);
        assert!(said.stderr.contains(&format!("`{file}")), "{}", said.stderr);
        assert!(said.stderr.contains("the absolute path /home/"), "{}", said.stderr);
        // Nothing is left of it, not even the folders above.
        assert!(!sandbox.path("new").exists());
    }
    let allowed = ["audit", "p.yaml", "--export", "new/bundle", "--allow-private", "path"];
    assert_eq!(sandbox.okapi(&allowed).code, Some(0));
}

#[test]
fn a_signal_leaves_no_temporary_folders() {
    let sandbox = Sandbox::new(
        r#"
okapi: 1
name: large
nodes:
  made:
    stage: command
    run: head -c 100000000 /dev/zero | tr '\\0' x > "$OKAPI_OUTPUT_ALL"
    outputs: {all: file}
publish: {results/all: made}
"#,
    );
    sandbox.run();
    let left = |folder: &str| {
        let names = fs::read_dir(sandbox.path(folder)).unwrap();
        let names = names.map(|it| it.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name.contains("okapi-")).collect::<Vec<_>>()
    };
    fs::create_dir(sandbox.path("tmp")).unwrap();
    let stopped = |arguments: &[&str]| {
        let mut command = sandbox.command(arguments);
        let mut child = command.env("TMPDIR", sandbox.path("tmp")).spawn().unwrap();
        // Until it has begun to write something.
        let patience = Instant::now() + Duration::from_secs(60);
        while left("").is_empty() && left("tmp").is_empty() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let ended = child.wait().unwrap();
        assert_eq!((left(""), left("tmp")), (vec![], vec![]), "{arguments:?}");
        ended.code()
    };
    assert_eq!(stopped(&["audit", "p.yaml", "--export", "bundle"]), Some(130));
    assert!(!sandbox.path("bundle").exists());
    assert_eq!(sandbox.okapi(&["audit", "p.yaml", "--export", "bundle"]).code, Some(0));
    assert_eq!(stopped(&["audit", "bundle"]), Some(130));
}

#[test]
fn a_bundle_without_its_prompts_is_judged_all_the_same() {
    let sandbox = exported();
    fs::remove_file(sandbox.path("bundle/project/words.sh")).unwrap();
    let said = sandbox.okapi(&["audit", "bundle"]);
    assert_eq!(said.code, Some(1), "{}{}", said.stdout, said.stderr);
    assert!(
        said.stdout.contains("project/words.sh` of digests.b3 is not there"),
        "{}",
        said.stdout
    );
    let sandbox = exported();
    sandbox.write("bundle/project/p.yaml", "nodes: [\n");
    let said = sandbox.okapi(&["audit", "bundle"]);
    assert_eq!(said.code, Some(1), "{}{}", said.stdout, said.stderr);
    assert!(said.stdout.contains("`project/p.yaml` is not what"), "{}", said.stdout);
    assert!(said.stdout.contains("its pipeline cannot be checked"), "{}", said.stdout);
}

/// Lets whoever owns the bundle write to it.
fn unlock(bundle: &Path) {
    for path in files(bundle) {
        let mut permissions = fs::metadata(&path).unwrap().permissions();
        #[expect(clippy::permissions_set_readonly_false, reason = "a copy of one's own")]
        permissions.set_readonly(false);
        fs::set_permissions(&path, permissions).unwrap();
    }
}

#[test]
fn what_a_bundle_says_of_itself_has_to_follow_from_its_pipeline() {
    type Change = fn(&Sandbox);
    let cases: [(Change, &str); 10] = [
        (
            |it| it.edit("bundle/bundle.json", "\"stage_version\": 1", "\"stage_version\": 7"),
            "another `stage_version`",
        ),
        (
            |it| {
                let text = it.read("bundle/bundle.json");
                let at = text.find("\"keeps\": [").expect("a node tracks a file");
                let end = at + text[at..].find(']').unwrap();
                let without = format!("{}\"keeps\": [{}", &text[..at], &text[end..]);
                it.write("bundle/bundle.json", &without);
            },
            "keeps other prompts, files or lineage",
        ),
        (
            |it| it.edit("bundle/bundle.json", "\"stage\": \"command\"", "\"stage\": \"mix\""),
            "another `stage`",
        ),
        (|it| it.edit("bundle/bundle.json", "text:data", "rows:data"), "another `inputs`"),
        (
            |it| it.edit("bundle/bundle.json", "\"name\": \"shown\"", "\"name\": \"other\""),
            "another name",
        ),
        (
            |it| it.edit("bundle/costs.json", "\"instances\": 2", "\"instances\": 3"),
            "`costs.json` is not what follows",
        ),
        (
            |it| {
                it.edit(
                    "bundle/ro-crate-metadata.json",
                    "CompletedActionStatus",
                    "FailedActionStatus",
                );
            },
            "`ro-crate-metadata.json` is not what follows",
        ),
        (
            |it| it.write("bundle/published/results/more.html", "x"),
            "`published/results/more.html` is of no node",
        ),
        (|it| it.write("bundle/objects/junk", "x"), "`objects/junk` hashes to something else"),
        (|it| it.write(&format!("bundle/actions/{}.json", "1".repeat(64)), "{}"), "is of no node"),
    ];
    for (change, words) in cases {
        let sandbox = exported();
        unlock(&sandbox.path("bundle"));
        change(&sandbox);
        forge_lists(&sandbox.path("bundle"));
        let (_, found) = audit(&sandbox);
        assert!(found.iter().any(|(_, message)| message.contains(words)), "{words}: {found:#?}");
    }
    // What has to be in a bundle may not be elsewhere.
    let sandbox = exported();
    fs::remove_dir_all(sandbox.path("bundle/objects")).unwrap();
    forge_lists(&sandbox.path("bundle"));
    let (_, found) = audit(&sandbox);
    assert!(found.iter().any(|(_, it)| it.contains("is not in the store")), "{found:#?}");
    // A list that says two things says nothing, and nothing is read through a link.
    let sandbox = exported();
    let list = sandbox.read("bundle/digests.b3");
    sandbox
        .write("bundle/digests.b3", &format!("{}  README.md\n{list}\u{1b}[2J\n", "0".repeat(64)));
    let (_, found) = audit(&sandbox);
    let messages: Vec<&str> = found.iter().map(|it| it.1.as_str()).collect();
    for words in ["has the file `README.md` twice", "a line without digest"] {
        assert!(messages.iter().any(|it| it.contains(words)), "{words}: {messages:#?}");
    }
    let said = sandbox.okapi(&["audit", "bundle"]);
    assert!(!said.stdout.contains('\u{1b}'), "{}", said.stdout);
    let said = sandbox.okapi(&["audit", "bundle", "text"]);
    assert_eq!(said.code, Some(2), "{}", said.stdout);
    // Nothing is read through a link that leads out, and no pipe is waited for.
    for place in ["zero", "published/out", "project/out", "digests.b3", "bundle.json"] {
        let sandbox = exported();
        let path = sandbox.path(&format!("bundle/{place}"));
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        let said = sandbox.okapi(&["audit", "bundle"]);
        // Without its first file it is no bundle, and a pipeline by that name is none.
        assert_eq!(said.code, Some(2), "{place}: {}", said.stdout);
        fs::remove_file(&path).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let said = sandbox.okapi(&["audit", "bundle"]);
        assert_eq!(said.code, Some(2), "{place}: {}", said.stdout);
        assert!(said.stderr.contains("neither a file nor a folder"), "{place}: {}", said.stderr);
    }
    // A way out over two links that each stay inside by their words.
    let sandbox = exported();
    fs::create_dir(sandbox.path("bundle/project/sub")).unwrap();
    let link = |target: &str, at: &str| {
        std::os::unix::fs::symlink(target, sandbox.path(&format!("bundle/project/{at}"))).unwrap();
    };
    link("..", "sub/up");
    link("sub/up/../..", "out");
    let said = sandbox.okapi(&["audit", "bundle"]);
    assert_eq!(said.code, Some(2), "{}", said.stdout);
    assert!(said.stderr.contains("`project/out` is neither"), "{}", said.stderr);
    // Nor may there be more than is needed.
    for (path, words) in [
        ("more.txt", "`more.txt` is no part of a bundle"),
        ("extra/more.txt", "`extra/more.txt` is no part of a bundle"),
        ("project/more.txt", "tracked by no node"),
    ] {
        let sandbox = exported();
        sandbox.write(&format!("bundle/{path}"), "x");
        let (_, found) = audit(&sandbox);
        assert!(found.iter().any(|(_, it)| it.contains(words)), "{words}: {found:#?}");
    }
}

#[test]
fn folders_are_shown_with_their_links_and_empty_folders() {
    let sandbox = Sandbox::new(
        r#"
okapi: 1
name: folders
nodes:
  made:
    stage: command
    files: [tracked]
    run: mkdir -p "$OKAPI_OUTPUT_ALL/sub/empty"; echo x > "$OKAPI_OUTPUT_ALL/sub/a"; ln -s sub "$OKAPI_OUTPUT_ALL/link"; ln -s sub/a "$OKAPI_OUTPUT_ALL/file"; cp -a tracked "$OKAPI_OUTPUT_ALL/"
    outputs: {all: tree}
publish: {results/all: made, results/again: made}
"#,
    );
    sandbox.write("tracked/a b/c.txt", "c\n");
    fs::create_dir_all(sandbox.path("tracked/empty")).unwrap();
    std::os::unix::fs::symlink("a b/c.txt", sandbox.path("tracked/link")).unwrap();
    sandbox.run();
    let said = sandbox.okapi(&["audit", "p.yaml", "--export", "bundle"]);
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    assert_eq!(audit(&sandbox).1, []);
    assert!(sandbox.read("bundle/README.md").contains("published/results/again"));
    // A name that stands in a list of digests in another form.
    sandbox.write("tracked/a\n\\b", "x");
    sandbox.run();
    let said = sandbox.okapi(&["audit", "p.yaml", "--export", "other"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(sandbox.okapi(&["audit", "other"]).code, Some(0));
    let mut checked = std::process::Command::new("sha256sum");
    checked.args(["--check", "--quiet", "digests.sha256"]).current_dir(sandbox.path("other"));
    assert!(checked.status().unwrap().success());
    let left = fs::read_dir(sandbox.path("")).unwrap().map(|it| it.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_string_lossy().contains("okapi-")));
}

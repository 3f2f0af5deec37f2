//! Audits of what somebody forged, or what became of results between runs: each is named where it is, and nothing else is.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use okapi_cache::{Artifact, ArtifactKind, Commit, ResultInfo, canonical_json};
use okapi_engine::manifest::ManifestText;
use okapi_engine::run_record;
use serde_json::Value;

use crate::audits::{action, audit, findings, finds, object, output, store};
use crate::sandbox::{Said, Sandbox};

const PIPELINE: &str = r#"
okapi: 1
profiles: {small: {nodes: {lines: null}}}
nodes:
  rows: {stage: import, params: {path: rows.jsonl, kind: instructions}}
  data_set: {stage: dataset, inputs: {data: rows}, params: {title: Rows}}
  folder:
    stage: command
    inputs: {rows: rows}
    files: [folder.sh]
    run: sh folder.sh
    outputs: {all: tree}
  lines: {stage: command, inputs: {all: folder}, files: [folder.sh], run: 'cat "$OKAPI_INPUT_ALL"/* "$OKAPI_INPUT_ALL"/* > "$OKAPI_OUTPUT_O"', outputs: {o: text}}
publish: {results/folder: folder}
"#;

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new(PIPELINE);
    sandbox.write("rows.jsonl", "{\"instruction\":\"Say one.\",\"output\":\"one\"}\n");
    sandbox.write(
        "folder.sh",
        "mkdir \"$OKAPI_OUTPUT_ALL\"; echo 1 > \"$OKAPI_OUTPUT_ALL/a\"; echo x\n",
    );
    sandbox.run();
    sandbox
}

/// Commits the result of a node again, with other details and outputs.
pub(crate) fn forge(
    sandbox: &Sandbox,
    node: &str,
    edit: impl Fn(&mut ResultInfo, &mut Vec<Artifact>),
) {
    let store = store(sandbox);
    let action = action(sandbox, node);
    let mut stored = store.document(&action).unwrap().unwrap();
    let mut outputs = store.lookup(&action).unwrap().outputs().to_vec();
    edit(&mut stored.info, &mut outputs);
    let (document, info) = (stored.document, stored.info);
    store.commit(Commit { action, document, outputs, info, lease: None }).unwrap();
    store.flush().unwrap();
}

/// With the kind of a file, the list of a folder's files was all that was looked at, even when the node was executed again.
#[test]
fn a_folder_that_is_recorded_as_a_file_is_found() {
    let sandbox = sandbox();
    let list = output(&sandbox, "data_set").digest;
    let size = fs::metadata(object(&sandbox, &list)).unwrap().len();
    forge(&sandbox, "data_set", |_, outputs| {
        outputs[0] = Artifact { kind: ArtifactKind::File, digest: list, size };
    });
    let words = ["is recorded as a file, and its node declares a folder"];
    finds(&audit(&sandbox, &[]), "data_set", "corrupt", &words);
    let all = findings(&audit(&sandbox, &["--reexecute", "all"]));
    assert!(all.iter().all(|it| it.0 == "data_set"), "{all:#?}");
    assert!(
        all.iter().any(|it| it.2.contains("a file is recorded, a folder comes out")),
        "{all:#?}"
    );
    // The size alone, which hashes to the same.
    let sandbox = self::sandbox();
    forge(&sandbox, "lines", |_, outputs| outputs[0].size += 1);
    let all = findings(&audit(&sandbox, &["--reexecute", "lines"]));
    assert!(all.iter().any(|it| it.2.contains(": 5 bytes are recorded, 4 come out")), "{all:#?}");
}

#[test]
fn a_list_of_files_is_no_published_folder() {
    let sandbox = sandbox();
    let list = fs::read(object(&sandbox, &output(&sandbox, "folder").digest)).unwrap();
    fs::remove_dir_all(sandbox.path("results/folder")).unwrap();
    fs::write(sandbox.path("results/folder"), &list).unwrap();
    finds(&audit(&sandbox, &[]), "folder", "changed_since", &["results/folder"]);
    sandbox.run();
    assert_eq!(sandbox.read("results/folder/a"), "1\n");
    assert_eq!(findings(&audit(&sandbox, &[])), []);
}

/// Nodes below one without a result were verified, though nobody had recomputed their actions.
#[test]
fn what_reads_from_a_node_without_a_result_is_not_verified() {
    let sandbox = sandbox();
    sandbox.edit("p.yaml", "inputs: {all: folder}", "inputs: {all: folder, more: more}");
    sandbox.edit(
        "p.yaml",
        "nodes:\n",
        "nodes:\n  more: {stage: command, run: 'echo > \"$OKAPI_OUTPUT_O\"', outputs: {o: text}}\n",
    );
    sandbox.edit("p.yaml", "'cat ", "'cat -u ");
    let all = findings(&audit(&sandbox, &[]));
    let of = |node: &str| {
        let found = all.iter().filter(|it| it.0 == node);
        found.map(|it| (&*it.1, &*it.2)).collect::<Vec<_>>()
    };
    assert_eq!(of("more"), [("missing", "no run has made its result")]);
    let [input, run] = of("lines")[..] else { panic!("{all:#?}") };
    assert!(input.1.contains("`inputs.more` was not there, and is what `more` gives"), "{all:#?}");
    assert!(run.0 == "changed_since" && run.1.contains("`run` was"), "{all:#?}");
    assert_eq!(all.len(), 3, "{all:#?}");

    // One that was there and is gone: what can be compared is, and the rest is said. Further down inputs are known, but not what
    // cards tell of all above.
    let sandbox = self::sandbox();
    let manifest = run_record::head(&store(&sandbox), "p.yaml");
    let mut text = ManifestText::with_capacity(manifest.len());
    manifest.iter().filter(|it| it.0 != "rows").for_each(|(name, action)| text.push(name, &action));
    let (text, digest) = text.finish();
    run_record::set_head(&store(&sandbox), "p.yaml", &text, &digest).unwrap();
    let said = "its action cannot be recomputed, for `rows` above it has no result";
    let found: BTreeSet<(String, bool)> = findings(&audit(&sandbox, &[]))
        .into_iter()
        .map(|(node, verdict, message)| (node, verdict == "missing" && message == said))
        .collect();
    let expected = [("data_set", true), ("folder", true), ("rows", false)];
    assert_eq!(found, expected.map(|(node, is_below)| (node.to_owned(), is_below)).into());
}

/// It was named at every card below, too, with the advice to run, which would have written it into them.
#[test]
fn a_forged_metric_is_named_at_its_own_node_alone() {
    let sandbox = sandbox();
    forge(&sandbox, "rows", |info, _| {
        *info.metrics.get_mut("rows").unwrap() += 1.0;
    });
    finds(&audit(&sandbox, &[]), "rows", "corrupt", &["metric `rows` is 2", "was 1"]);
    let said = audit(&sandbox, &["--reexecute", "data_set"]);
    finds(&said, "rows", "corrupt", &["metric `rows`"]);
    assert_eq!(said.json()["executed"], 1);
}

/// The times of a colleague's result were compared with those of the execution that was here before.
#[test]
fn what_was_fetched_later_has_the_times_of_another_run() {
    for pulls in [false, true] {
        fetched_later(pulls);
    }
}

fn fetched_later(pulls: bool) {
    let (one, two) = (sandbox(), sandbox());
    forge(&two, "lines", |info, _| info.duration_ms += 1000);
    fs::create_dir(one.path("remote")).unwrap();
    let remote = one.path("remote").display().to_string();
    let said = two.okapi(&["cache", "push", "--remote", &remote]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    fs::remove_file(object(&one, &output(&one, "lines").digest)).unwrap();
    if pulls {
        let said = one.okapi(&["cache", "pull", "p.yaml", "--remote", &remote]);
        assert_eq!(said.code, Some(0), "{}", said.stderr);
    }
    assert!(one.run_with(&["--remote", &remote]).is_empty());
    let there = store(&one).document(&action(&one, "lines")).unwrap().unwrap().info;
    assert!(there.duration_ms >= 1000, "it was fetched");
    assert_eq!(findings(&audit(&one, &[])), []);
}

/// The time that passed was added to the beginning, and it stands still while a machine sleeps.
#[test]
fn a_machine_may_sleep_while_it_runs() {
    let sandbox = sandbox();
    let runs = fs::read_dir(sandbox.path(".okapi/runs")).unwrap().map(|it| it.unwrap().path());
    let record = runs.map(|it| it.join("run.json")).find(|it| it.exists()).unwrap();
    let mut info: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    let began = info["started_unix_ms"].as_u64().unwrap();
    info["started_unix_ms"] = (began - 5 * 3_600_000).into();
    fs::write(&record, info.to_string()).unwrap();
    assert_eq!(findings(&audit(&sandbox, &[])), []);
}

/// Nothing brought them back but executing all nodes again that had them.
#[test]
fn a_lost_log_is_a_note_and_kept_files_are_put_back() {
    let sandbox = sandbox();
    let info =
        |node: &str| store(&sandbox).document(&action(&sandbox, node)).unwrap().unwrap().info;
    fs::remove_file(object(&sandbox, &info("folder").log.unwrap())).unwrap();
    let said = audit(&sandbox, &[]);
    assert_eq!(findings(&said), []);
    let json = said.json();
    let noted = json["nodes"].as_array().unwrap().iter().find(|it| it["node"] == "folder").unwrap();
    assert!(noted["notes"][0].as_str().unwrap().starts_with("its log, the object "), "{noted}");
    let said = sandbox.okapi(&["audit", "p.yaml"]).stdout;
    assert!(said.contains("note: its log, ") && said.ends_with("all holds\n"), "{said}");

    // Two nodes keep the script: it is named once.
    fs::remove_file(object(&sandbox, &info("folder").keeps[0].digest)).unwrap();
    finds(&audit(&sandbox, &[]), "lines", "missing", &["the kept `folder.sh`", "not in the store"]);
    assert!(sandbox.run().is_empty());
    assert_eq!(findings(&audit(&sandbox, &[])), []);
    fs::remove_file(object(&sandbox, &info("data_set").keeps[0].digest)).unwrap();
    finds(&audit(&sandbox, &[]), "data_set", "missing", &["lineage", "not in the store"]);
    assert!(sandbox.run().is_empty());
    assert_eq!(findings(&audit(&sandbox, &[])), []);
}

/// Full audits called results missing that the store had, and a lock file of one profile took the place of the whole.
#[test]
fn what_another_profile_leaves_out_is_said_to_be() {
    let sandbox = sandbox();
    sandbox.run_with(&["--lock"]);
    let said = sandbox.okapi(&["run", "p.yaml", "--lock", "--profile", "small"]);
    assert!(
        said.stderr.contains("p.lock was written with neither --profile nor --set"),
        "{said:?}"
    );
    let words = ["the last run left it out, and a result of an earlier one is in the store"];
    finds(&audit(&sandbox, &[]), "lines", "missing", &words);
    assert_eq!(findings(&audit(&sandbox, &["--profile", "small"])), []);
    assert!(sandbox.run().is_empty());
    assert_eq!(findings(&audit(&sandbox, &[])), []);
}

/// Of a fixed order of names it was known which nodes would never be executed again.
#[test]
fn which_nodes_are_sampled_nobody_knows_before() {
    let sandbox = Sandbox::new(
        r#"
okapi: 1
nodes:
  n: {for_each: {n: [1, 2, 3, 4]}, stage: command, run: 'echo ${each.n} > "$OKAPI_OUTPUT_O"', outputs: {o: text}}
"#,
    );
    sandbox.run();
    let forged = store(&sandbox).put_bytes(b"5\n").unwrap();
    forge(&sandbox, "n[n=3]", |_, outputs| outputs[0] = forged);
    let finds_it = |seed: &str| {
        let said = audit(&sandbox, &["--reexecute", "sample=2", "--sample-seed", seed]);
        assert_eq!(said.json()["sample_seed"].to_string(), seed);
        !findings(&said).is_empty()
    };
    let mut seen = BTreeSet::new();
    for seed in (0..100).map(|seed| seed.to_string()) {
        seen.insert(finds_it(&seed));
        assert!(seen.contains(&finds_it(&seed)), "one seed draws one sample");
        if seen.len() == 2 {
            break;
        }
    }
    assert_eq!(seen.len(), 2, "samples differ");
    let said = sandbox.okapi(&["audit", "p.yaml", "--reexecute", "sample=4"]).stdout;
    assert!(said.contains("the same sample again: --sample-seed "), "{said}");
    let said = audit(&sandbox, &["--sample-seed", "1"]);
    assert!(said.code == Some(2) && said.stderr.contains("no sample is drawn"), "{}", said.stderr);
}

/// Whatever had been found by then was lost.
#[test]
fn a_signal_leaves_what_was_found() {
    let sandbox = Sandbox::new(
        r#"
okapi: 1
nodes:
  damaged: {stage: command, run: 'echo 1 > "$OKAPI_OUTPUT_O"', outputs: {o: text}}
  slow: {stage: command, run: 'touch FOLDER/begun; test -e FOLDER/mark || sleep 600; echo > "$OKAPI_OUTPUT_O"', outputs: {o: text}}
"#,
    );
    let folder = fs::canonicalize(sandbox.path("")).unwrap().display().to_string();
    sandbox.edit("p.yaml", "FOLDER", &folder);
    sandbox.write("mark", "");
    sandbox.run_with(&["--no-sandbox"]);
    fs::remove_file(object(&sandbox, &output(&sandbox, "damaged").digest)).unwrap();
    fs::remove_file(sandbox.path("mark")).unwrap();
    fs::remove_file(sandbox.path("begun")).unwrap();
    let child = sandbox.start(&["audit", "p.yaml", "--reexecute", "slow", "--no-sandbox"]);
    let patience = Instant::now() + Duration::from_secs(60);
    while !sandbox.path("begun").exists() {
        assert!(Instant::now() < patience, "nothing is executed again");
        std::thread::sleep(Duration::from_millis(5));
    }
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let said = Said::of(child.wait_with_output().unwrap());
    assert_eq!(said.code, Some(130), "{}", said.stderr);
    assert!(said.stdout.contains("missing        damaged\n"), "{said:?}");
}

/// Other numbers of a GPU were verified without a word.
#[test]
fn how_far_numbers_of_a_gpu_are_apart_is_noted() {
    let sandbox = Sandbox::new(
        "okapi: 1\nnodes:\n  n: {stage: command, resources: {gpu: 1}, files: [n.sh], run: sh n.sh, outputs: {t: file}}\n",
    );
    let header = r#"{"w":{"dtype":"F32","shape":[8],"data_offsets":[0,32]}}"#;
    // Ones, but for their last bits.
    let one = "head -c 1 /dev/urandom; printf '\\000\\200\\077'";
    let script = format!(
        "{{ printf '\\{:o}\\0\\0\\0\\0\\0\\0\\0'; printf '%s' '{header}'; for n in 1 2 3 4 5 6 7 8; do {one}; done; }} > \"$OKAPI_OUTPUT_T\"\n",
        header.len()
    );
    sandbox.write("n.sh", &script);
    let okapi = |arguments: &[&str], gpus: &str| {
        let mut command = sandbox.command(arguments);
        Said::of(command.env("CUDA_VISIBLE_DEVICES", gpus).output().unwrap())
    };
    assert_eq!(okapi(&["run", "p.yaml"], "0").code, Some(0));
    let said = okapi(&["audit", "p.yaml", "--reexecute", "all", "--json"], "0");
    assert_eq!(findings(&said), []);
    let note = said.json()["nodes"][0]["notes"][0].as_str().unwrap().to_owned();
    assert!(note.contains("output `t`, tensor `w`: numbers are "), "{note}");
    let said = okapi(&["audit", "p.yaml", "--reexecute", "all"], "0").stdout;
    assert!(said.contains("note: executed again on a GPU, other numbers come out"), "{said}");

    // Where nothing can be executed twice, nothing is proven.
    let said = okapi(&["run", "p.yaml", "--check-determinism"], "");
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    let last = "executed twice: 0 gave the same bytes, 0 did not, 1 left out\n";
    assert!(said.stderr.ends_with(last), "{}", said.stderr);
}

/// A bundle whose folder was recorded as a file held.
#[test]
fn a_bundle_that_calls_a_folder_a_file_does_not_hold() {
    let sandbox = crate::bundles::exported();
    let path = sandbox.path("bundle/bundle.json");
    let mut bundle: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let nodes = bundle["nodes"].as_array_mut().unwrap();
    let folder = nodes.iter_mut().find(|it| it["node"] == "folder").unwrap();
    let list = folder["outputs"]["all"]["digest"].as_str().unwrap().to_owned();
    let size = fs::metadata(sandbox.path("bundle/objects").join(list)).unwrap().len();
    folder["outputs"]["all"]["kind"] = "file".into();
    folder["outputs"]["all"]["size"] = size.into();
    fs::write(&path, serde_json::to_string_pretty(&bundle).unwrap() + "\n").unwrap();
    crate::bundles::forge_lists(&sandbox.path("bundle"));
    let (_, found) = crate::bundles::audit(&sandbox);
    let words = "is recorded as a file, and its node declares a folder";
    assert!(found.iter().any(|it| it.0 == "folder" && it.1.contains(words)), "{found:#?}");
}

/// A bundle held without the file that says on what it was made, and with any in its place.
#[test]
fn a_bundle_says_on_what_it_was_made() {
    type Change = fn(&mut Value);
    let changes: [(Option<Change>, &str); 3] = [
        (None, "`environment.json` is not there"),
        (Some(|it| it["written_by"] = "nobody".into()), "does not say what wrote the bundle"),
        (
            Some(|it| it["results_made_by"][0]["processor"] = "abacus".into()),
            "`environment.json` is not what follows from `bundle.json`",
        ),
    ];
    for (change, words) in changes {
        let sandbox = crate::bundles::exported();
        let path = sandbox.path("bundle/environment.json");
        let mut environment: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        fs::remove_file(&path).unwrap();
        if let Some(change) = change {
            change(&mut environment);
            let text = serde_json::to_string_pretty(&environment).unwrap() + "\n";
            fs::write(&path, text).unwrap();
        }
        crate::bundles::forge_lists(&sandbox.path("bundle"));
        let (_, found) = crate::bundles::audit(&sandbox);
        assert!(found.iter().any(|it| it.0 == "(files)" && it.1.contains(words)), "{found:#?}");
    }
}

/// A result that was computed on a GPU, for the pipeline left that open, held on machines with a GPU alone.
#[test]
fn a_bundle_is_judged_by_the_device_that_its_results_name() {
    let sandbox = Sandbox::new(
        r#"
okapi: 1
nodes:
  rows: {stage: import, params: {path: rows.jsonl, kind: instructions}}
  model:
    stage: init_model
    inputs: {corpus: rows}
    seed: 1
    params: {family: llama, layers: 1, hidden: 16, heads: 2, vocabulary: 300, positions: 40}
  answers: {stage: answer, inputs: {model: model, prompts: rows}, prompts: {prompt: prompt.j2}, params: {max_new_tokens: 1}}
publish: {results/answers.jsonl: answers}
"#,
    );
    sandbox.write("rows.jsonl", "{\"instruction\":\"Say one.\",\"output\":\"one\"}\n");
    sandbox.write("prompt.j2", "{{ instruction }}{{ input }}\n");
    sandbox.run();
    // As a machine with a GPU leaves it behind.
    crate::audits::rewrite_action(&sandbox, "answers", |document| {
        let mut document: Value = serde_json::from_str(document).unwrap();
        let params = document["declared"]["params"].as_object_mut().unwrap();
        params.extend([
            ("device".to_owned(), "cuda".into()),
            ("gpu_dtype".to_owned(), "bf16".into()),
            ("rows_at_once".to_owned(), 64.into()),
        ]);
        canonical_json::to_string(&document)
    });
    sandbox.edit("p.yaml", "{max_new_tokens", "{device: cuda, max_new_tokens");
    let said = sandbox.okapi(&["audit", "p.yaml", "--export", "bundle"]);
    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
    for open in ["max_new_tokens", "device: auto, max_new_tokens"] {
        let there = sandbox.path("bundle/project/p.yaml");
        let text = sandbox.read("p.yaml").replace("device: cuda, max_new_tokens", open);
        fs::write(&there, text).unwrap();
        crate::bundles::forge_lists(&sandbox.path("bundle"));
        let (_, found) = crate::bundles::audit(&sandbox);
        // The crate has a digest of the pipeline.
        assert!(found.iter().all(|it| it.0 == "(files)"), "{found:#?}");
    }
    let text = sandbox.read("p.yaml").replace("device: cuda", "device: cpu");
    fs::write(sandbox.path("bundle/project/p.yaml"), text).unwrap();
    crate::bundles::forge_lists(&sandbox.path("bundle"));
    let (_, found) = crate::bundles::audit(&sandbox);
    assert!(
        found.iter().any(|it| it.0 == "answers" && it.1.contains("params.device")),
        "{found:#?}"
    );
}

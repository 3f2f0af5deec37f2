//! `import_model`, from folders and from a hub that misbehaves on purpose.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::hub::{COMMIT, Files, Hub, Shelf, TOKEN};
use crate::sandbox::{Said, Sandbox, names};

fn sandbox(params: &str) -> Sandbox {
    Sandbox::new(&format!(
        "okapi: 1\nname: models\nnodes:\n  m: {{stage: import_model, params: {{{params}}}}}\n"
    ))
}

fn files(folder: &Path) -> Files {
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())
    };
    fs::read_dir(folder).unwrap().map(read).collect()
}

/// A model of the fixtures, whose embeddings have 48 rows, with a tokenizer of as many tokens.
fn model(fixture: &str) -> Files {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(fixture);
    let mut files = files(&folder);
    files.insert("tokenizer.json".to_owned(), tokenizer(48));
    let roles = json!({"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>",
        "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"});
    files.insert("tokenizer_config.json".to_owned(), roles.to_string().into_bytes());
    files
}

/// A tokenizer of single letters.
fn tokenizer(size: usize) -> Vec<u8> {
    let special = ["<unk>", "<s>", "</s>", "<pad>"].map(str::to_owned);
    let letters = "Ġabcdefghijklmnopqrstuvwxyz.,?BWT0123456789Ċ-!".chars().map(String::from);
    let tokens: Vec<String> = special.iter().cloned().chain(letters).take(size).collect();
    let vocab: BTreeMap<&String, usize> = tokens.iter().zip(0..).collect();
    let added = special.iter().zip(0..).map(|(content, id): (_, usize)| {
        json!({"id": id, "content": content, "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false})
    });
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": true});
    let json = json!({"version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added.collect::<Vec<_>>(), "normalizer": null, "pre_tokenizer": bytes,
        "post_processor": null, "decoder": bytes,
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": []}});
    json.to_string().into_bytes()
}

fn write(sandbox: &Sandbox, folder: &str, files: &Files) {
    fs::create_dir_all(sandbox.path(folder)).unwrap();
    for (name, bytes) in files {
        fs::write(sandbox.path(folder).join(name), bytes).unwrap();
    }
}

/// What came out.
fn imported(sandbox: &Sandbox) -> Files {
    let said = sandbox.okapi(&["get", "p.yaml", "m", "out", "--overwrite"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    files(&sandbox.path("out"))
}

fn log(sandbox: &Sandbox) -> String {
    sandbox.okapi(&["log", "last", "m"]).stdout
}

/// A run that fails leaves nothing that could be taken for a model.
fn assert_refused(sandbox: &Sandbox, said: &Said, expected: &[&str]) {
    assert_eq!(said.code, Some(1), "{}\n{}", said.stdout, said.stderr);
    // Long lines are broken for the reader.
    let text = said.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in expected {
        assert!(text.contains(part), "{part}: {text}");
    }
    for inside in [".okapi/work", ".okapi/scratch"] {
        assert!(!text.contains(inside), "{text}");
    }
    let kept = sandbox.okapi(&["get", "p.yaml", "m", "out"]);
    assert_ne!(kept.code, Some(0));
    assert!(!sandbox.path("out").exists());
}

#[test]
fn a_folder_of_safetensors_is_taken_as_it_is() {
    for family in ["bloom", "llama", "gpt_neox"] {
        let sandbox = sandbox("path: models/tiny");
        let mut files = model(&format!("models/{family}"));
        files.insert("LICENSE".to_owned(), b"Do good.".to_vec());
        files.insert("README.md".to_owned(), b"# Tiny".to_vec());
        write(&sandbox, "models/tiny", &files);
        assert_eq!(sandbox.run(), names(&["m"]));
        assert_eq!(imported(&sandbox), files);
        assert_eq!(log(&sandbox), "");
        let metrics =
            sandbox.okapi(&["show", "p.yaml", "m", "--metrics"]).json()["metrics"].clone();
        assert_eq!(metrics["files"], 6.0);
        assert!(metrics["parameters"].as_f64() > Some(10_000.0), "{metrics}");
        let bytes: usize = files.values().map(Vec::len).sum();
        assert_eq!(metrics["bytes"], bytes as f64);
        // What is no part of a model changes the node, and not the model.
        fs::write(sandbox.path("models/tiny/flax_model.msgpack"), "x").unwrap();
        fs::create_dir(sandbox.path("models/tiny/onnx")).unwrap();
        std::os::unix::fs::symlink("LICENSE", sandbox.path("models/tiny/NOTICE")).unwrap();
        assert_eq!(sandbox.run(), names(&["m"]));
        files.insert("NOTICE".to_owned(), b"Do good.".to_vec());
        assert_eq!(imported(&sandbox), files);
        assert_eq!(log(&sandbox), "left out: flax_model.msgpack, onnx/\n");
        assert!(sandbox.path("models/tiny/onnx").exists());
        assert_eq!(
            fs::read_link(sandbox.path("models/tiny/NOTICE")).unwrap(),
            Path::new("LICENSE")
        );
    }
}

#[test]
fn pickles_and_other_kinds_of_numbers_are_written_anew() {
    for (pickled, like) in [("pickle", "bloom"), ("sharded_pickle", "llama")] {
        let sandbox = sandbox("path: tiny");
        write(&sandbox, "tiny", &model(&format!("training/{pickled}")));
        sandbox.run();
        let out = imported(&sandbox);
        let expected =
            ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
        assert_eq!(out.keys().collect::<Vec<_>>(), expected);
        assert_eq!(log(&sandbox), "PyTorch's pickles were written as safetensors\n");
        // The same numbers, wherever they come from.
        let halves = |files: &Files| {
            write(&sandbox, "tiny", files);
            sandbox.edit("p.yaml", "path: tiny", "path: tiny, dtype: bfloat16");
            sandbox.run();
            sandbox.edit("p.yaml", ", dtype: bfloat16", "");
            let out = imported_as(&sandbox, "dtype: bfloat16");
            let config: Value = serde_json::from_slice(&out["config.json"]).unwrap();
            assert_eq!(config["dtype"], "bfloat16");
            out["model.safetensors"].clone()
        };
        let first = halves(&out);
        fs::remove_dir_all(sandbox.path("tiny")).unwrap();
        assert_eq!(first, halves(&model(&format!("models/{like}"))));
        assert!(first.len() < out["model.safetensors"].len());
    }
}

/// What came out with these params.
fn imported_as(sandbox: &Sandbox, params: &str) -> Files {
    sandbox.edit("p.yaml", "path: tiny", &format!("path: tiny, {params}"));
    let out = imported(sandbox);
    sandbox.edit("p.yaml", &format!(", {params}"), "");
    out
}

#[test]
fn a_folder_that_makes_no_model_is_refused_and_the_reason_named() {
    type Change = fn(&mut Files);
    let cases: [(&str, Change, &[&str]); 12] = [
        (
            "models/bloom",
            |files| {
                files.insert("config.json".into(), br#"{"model_type": "gpt2"}"#.to_vec());
            },
            &[
                "tiny/config.json: models of the type `gpt2` are not known",
                "bloom, llama and gpt_neox",
            ],
        ),
        (
            "models/bloom",
            |files| drop(files.remove("config.json")),
            &["tiny: it has no config.json", "copy it there"],
        ),
        (
            "models/bloom",
            |files| drop(files.remove("model.safetensors")),
            &["tiny: it has neither model.safetensors nor pytorch_model.bin"],
        ),
        (
            "training/bloom_adapter",
            |_| {},
            &["tiny: it holds adapters (PEFT)", "merge_and_unload()"],
        ),
        (
            "models/bloom",
            |files| drop(files.remove("tokenizer.json")),
            &["tiny: it holds no tokenizer.json"],
        ),
        (
            "models/bloom",
            |files| {
                files.remove("tokenizer.json");
                files.insert("tokenizer.model".into(), b"x".to_vec());
            },
            &["tiny: it holds a tokenizer, but no tokenizer.json", ".from_pretrained(\"tiny\""],
        ),
        (
            "models/bloom",
            |files| drop(files.insert("tokenizer.json".into(), tokenizer(49))),
            &[
                "tiny/tokenizer.json: the token",
                "has the id 48, and the model's embedding has 48 rows",
            ],
        ),
        (
            "models/bloom",
            |files| {
                let weights = files.get_mut("model.safetensors").unwrap();
                let end = weights.len();
                weights[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
            },
            &["tiny/model.safetensors: the tensor `", "` holds NaN at place"],
        ),
        (
            "models/bloom",
            |files| {
                let weights = files.get_mut("model.safetensors").unwrap();
                weights.truncate(weights.len() - 4);
            },
            &["tiny/model.safetensors: it is cut"],
        ),
        (
            "models/llama",
            |files| {
                let config = String::from_utf8(files.remove("config.json").unwrap()).unwrap();
                let config =
                    config.replace("\"intermediate_size\": 40", "\"intermediate_size\": 41");
                files.insert("config.json".into(), config.into_bytes());
            },
            &["tiny/model.safetensors: the tensor `", "by config.json it has"],
        ),
        (
            "training/evil_pickle",
            |files| {
                let config = model("models/bloom")["config.json"].clone();
                files.insert("config.json".into(), config);
            },
            &["tiny/pytorch_model.bin:", "system"],
        ),
        (
            "training/sharded_pickle",
            |files| drop(files.remove("pytorch_model-00002-of-00002.bin")),
            &[
                "pytorch_model.bin.index.json names `pytorch_model-00002-of-00002.bin`, which is not there",
            ],
        ),
    ];
    for (fixture, change, expected) in cases {
        let sandbox = sandbox("path: tiny");
        let mut files = model(fixture);
        change(&mut files);
        write(&sandbox, "tiny", &files);
        let said = sandbox.okapi(&["run", "p.yaml"]);
        assert_refused(&sandbox, &said, expected);
    }
    let sandbox = sandbox("path: tiny");
    sandbox.write("tiny", "x");
    let said = sandbox.okapi(&["run", "p.yaml"]);
    assert_refused(&sandbox, &said, &["tiny is a file, and a model is a folder"]);
}

#[test]
fn a_model_needs_one_source_at_a_commit() {
    for (params, expected) in [
        ("dtype: same", "give `path` or `repository`"),
        (&format!("path: tiny, repository: o/n@{COMMIT}"), "not both"),
        ("path: tiny, subfolder: a", "`subfolder` is for a `repository`"),
        ("repository: o/n@main", "`git ls-remote https://huggingface.co/o/n main`"),
        ("repository: gpt2", "must read OWNER/NAME@REVISION"),
        (
            &format!("repository: o/n@{COMMIT}, subfolder: ../a"),
            "must be a folder of the repository",
        ),
    ] {
        let sandbox = sandbox(params);
        sandbox.write("tiny/config.json", "{}");
        let said = sandbox.okapi(&["check", "p.yaml"]);
        assert_eq!(said.code, Some(2), "{params}");
        let text = said.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(expected), "{params}: {text}");
    }
}

fn repository() -> Sandbox {
    sandbox(&format!("repository: o/n@{COMMIT}"))
}

#[test]
fn a_repository_is_downloaded_once_and_continued_where_it_broke_off() {
    let files = model("models/bloom");
    let mut shelf = Shelf::new(files.clone());
    shelf.files.insert("pytorch_model.bin".into(), b"pickled".to_vec());
    shelf.files.insert("LICENSE".into(), b"Do good.".to_vec());
    shelf.files.insert("added_tokens.json".into(), b"{}".to_vec());
    shelf.others.push(json!({"type": "directory", "path": "onnx", "oid": "1".repeat(40)}));
    shelf.page = 3;
    shelf.cuts.insert("model.safetensors".into(), 1000);
    let hub = Hub::new(shelf);
    let sandbox = repository();
    let said = hub.run(&sandbox);
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    let mut expected = files;
    expected.insert("LICENSE".into(), b"Do good.".to_vec());
    expected.insert("added_tokens.json".into(), b"{}".to_vec());
    assert_eq!(imported(&sandbox), expected);
    let log = log(&sandbox);
    assert!(log.starts_with(&format!("o/n@{COMMIT}: 6 files, 6")), "{log}");
    assert!(log.ends_with(" KiB\nleft out: onnx/, pytorch_model.bin\n"), "{log}");

    let list = format!("/api/models/o/n/tree/{COMMIT}");
    let file = |name: &str| format!("/o/n/resolve/{COMMIT}/{name} with token");
    let weights = format!("/o/n/resolve/{COMMIT}/model.safetensors");
    assert_eq!(
        hub.asked(),
        [
            format!("{list} with token"),
            format!("{list}?cursor=3 with token"),
            format!("{list}?cursor=6 with token"),
            file("LICENSE"),
            file("added_tokens.json"),
            file("config.json"),
            file("tokenizer.json"),
            file("tokenizer_config.json"),
            file("model.safetensors"),
            "/storage/model.safetensors".to_owned(),
            format!("{weights} with token from 1000"),
            "/storage/model.safetensors from 1000".to_owned(),
        ]
    );
    assert_eq!(hub.run(&sandbox).code, Some(0));
    assert_eq!(hub.asked(), [""; 0]);
    let found = Command::new("grep").args(["-rl", TOKEN]).arg(sandbox.path("")).output().unwrap();
    assert_eq!(
        (found.status.code(), String::from_utf8(found.stdout).unwrap()),
        (Some(1), String::new())
    );
}

#[test]
fn what_has_arrived_is_not_asked_for_again() {
    let mut shelf = Shelf::new(model("training/sharded_pickle"));
    let second = "pytorch_model-00002-of-00002.bin";
    let message = format!("o/n@{COMMIT}/{second} holds sha256:");
    let size = shelf.files[second].len();
    let sandbox = repository();
    shelf.swapped.insert(second.into(), vec![7; size]);
    let hub = Hub::new(shelf.clone());
    let said = hub.run(&sandbox);
    assert_refused(&sandbox, &said, &[&message, "it is not what the commit has"]);

    shelf.swapped.insert(second.into(), vec![7; size + 1]);
    let hub = Hub::new(shelf.clone());
    assert_refused(&sandbox, &hub.run(&sandbox), &["has more than its"]);
    hub.asked();

    shelf.swapped.clear();
    let hub = Hub::new(shelf);
    let said = hub.run(&sandbox);
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
    let list = format!("/api/models/o/n/tree/{COMMIT} with token");
    let file = format!("/o/n/resolve/{COMMIT}/{second} with token");
    assert_eq!(hub.asked(), [list, file]);
    assert_eq!(
        imported(&sandbox).keys().collect::<Vec<_>>(),
        ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    );
}

#[test]
fn a_hub_that_has_no_such_model_is_asked_for_no_weights() {
    let wrong =
        |path: &str| json!({"type": "file", "path": path, "size": 1, "oid": "1".repeat(40)});
    let with = |entry: Value| Shelf { others: vec![entry], ..Shelf::new(model("models/bloom")) };
    let without = |name: &str| {
        let mut files = model("models/bloom");
        files.remove(name);
        Shelf::new(files)
    };
    let changed = |name: &str, content: &[u8]| {
        let mut files = model("models/bloom");
        files.insert(name.to_owned(), content.to_vec());
        Shelf::new(files)
    };
    for (shelf, expected) in [
        (with(wrong("../evil")), "lists `../evil`, which does not lie in the repository"),
        (with(wrong("a/b")), "lists `a/b`, which does not lie in the repository"),
        (
            with(json!({"type": "file", "path": "LICENSE", "size": 1, "oid": "x"})),
            "gives no digest for `LICENSE`",
        ),
        (without("model.safetensors"), "it has neither model.safetensors"),
        (without("tokenizer.json"), "hf download o/n --revision"),
        (
            changed("config.json", br#"{"model_type": "t5"}"#),
            "config.json: models of the type `t5`",
        ),
        (changed("tokenizer.json", b"{}"), "tokenizer.json: it is no tokenizer"),
    ] {
        let hub = Hub::new(shelf);
        let sandbox = repository();
        assert_refused(&sandbox, &hub.run(&sandbox), &[expected]);
        let asked = hub.asked();
        assert!(!asked.iter().any(|path| path.contains("model.safetensors")), "{asked:?}");
    }
}

#[test]
fn an_index_on_the_hub_leads_to_no_other_place() {
    let mut files = model("models/bloom");
    files.remove("model.safetensors");
    let index = br#"{"weight_map": {"a": "../../../o/other/model.safetensors"}}"#;
    files.insert("model.safetensors.index.json".into(), index.to_vec());
    let hub = Hub::new(Shelf::new(files));
    let sandbox = repository();
    assert_refused(&sandbox, &hub.run(&sandbox), &["which is no name of a file here"]);
    assert_eq!(hub.asked().len(), 2);
}

#[test]
fn a_commit_that_is_not_there_is_said_to_be_missing() {
    let hub = Hub::new(Shelf::new(model("models/bloom")));
    let sandbox = sandbox(&format!("repository: o/n@{}", "1".repeat(40)));
    let said = hub.run(&sandbox);
    let expected = [
        "1111: the server answered 404 Not Found",
        "check the repository's name, the commit and HF_ENDPOINT",
    ];
    assert_refused(&sandbox, &said, &expected);
    assert_eq!(hub.asked().len(), 1);
}

//! Tokenizers against those of transformers (`tests/fixtures/tokenizers/make.py`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};

use okapi_model::{Tokenizer, TokenizerTrainOptions};
use serde_json::{Value, json};

const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const NAMES: &str = "special_tokens_map.json";
const GENERATION: &str = "generation_config.json";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tokenizers")
}

/// What `make.py` wrote, and the strings of one of its lists.
fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(fixtures().join("expected.json")).unwrap()).unwrap()
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// A copy of a fixture; every file, those that are the model's among them.
fn copy(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(fixtures().join(name)).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    folder
}

fn check(name: &str, tokenizer: &Tokenizer, texts: &[&str], said: &Value) {
    let (bos, eos, pad) = (tokenizer.bos(), tokenizer.eos(), tokenizer.pad());
    let roles = json!({ "bos": bos, "eos": eos, "pad": pad, "unk": tokenizer.unk() });
    let size = json!(tokenizer.vocabulary_size());
    assert_eq!((&roles, &size), (&said["roles"], &said["size"]), "{name}");
    for (text, row) in texts.iter().zip(said["rows"].as_array().unwrap()) {
        let ids = tokenizer.encode(text, true).unwrap();
        let decoded = [false, true].map(|skip| tokenizer.decode(&ids, skip).unwrap());
        let plain = tokenizer.encode(text, false).unwrap();
        assert_eq!(&json!([ids, plain, decoded[0], decoded[1]]), row, "{name}: {text:?}");
    }
}

#[test]
fn every_text_gets_the_ids_that_transformers_gives() {
    let expected = expected();
    let texts = strings(&expected["texts"]);
    let folders = expected["folders"].as_object().unwrap();
    assert!(texts.len() >= 60 && folders.len() == 4);
    for (name, said) in folders {
        let tokenizer = Tokenizer::open(&fixtures().join(name), 600).unwrap();
        check(name, &tokenizer, &texts, said);
        for special in [false, true] {
            let batch = tokenizer.encode_batch(&texts, special).unwrap();
            let single = texts.iter().map(|text| tokenizer.encode(text, special).unwrap());
            assert!(single.eq(batch), "{name}");
        }
    }
}

#[test]
fn folders_are_put_together_as_transformers_does_it() {
    let expected = expected();
    let texts = strings(&expected["layout_texts"]);
    let layouts = expected["layouts"].as_object().unwrap();
    assert!(layouts.len() >= 13);
    for (name, said) in layouts {
        let folder = copy(said["base"].as_str().unwrap());
        for (file, content) in said["files"].as_object().unwrap() {
            let path = folder.path().join(file);
            match content {
                Value::Null => std::fs::remove_file(path).unwrap(),
                content => std::fs::write(path, content.to_string()).unwrap(),
            }
        }
        check(name, &Tokenizer::open(folder.path(), 600).unwrap(), &texts, said);
    }
}

#[test]
fn roles_are_found_whoever_names_them() {
    let [llama, neox] =
        ["llama2", "gpt_neox"].map(|name| Tokenizer::open(&fixtures().join(name), 600).unwrap());
    assert_eq!((llama.eos(), llama.end_tokens()), (Some(2), &[2, 300][..]));
    assert_eq!((neox.eos(), neox.end_tokens()), (Some(0), &[0][..]));
    assert_eq!(
        (neox.id_of("<|end|>"), neox.id_of("<|user|>"), neox.id_of("no")),
        (Some(2), Some(547), None)
    );
    assert_eq!(neox.decode(&[0, 599], true).unwrap(), "");
    // The model's configuration is heard last: it has what its class has by default as often as not.
    for (generation, ends) in [(json!(5), vec![2, 5]), (json!(null), vec![2])] {
        let folder = copy("llama2");
        write(folder.path(), GENERATION, &json!({ "eos_token_id": generation }));
        write(folder.path(), "config.json", &json!({ "eos_token_id": 7 }));
        assert_eq!(Tokenizer::open(folder.path(), 600).unwrap().end_tokens(), ends);
    }
    let folder = copy("bloom");
    for file in [CONFIG, NAMES] {
        std::fs::remove_file(folder.path().join(file)).unwrap();
    }
    write(folder.path(), "config.json", &json!({ "eos_token_id": [9, 7], "pad_token_id": -1 }));
    let bare = Tokenizer::open(folder.path(), 600).unwrap();
    assert_eq!((bare.eos(), bare.pad(), bare.end_tokens()), (Some(9), None, &[7, 9][..]));
}

fn write(folder: &Path, file: &str, json: &Value) {
    std::fs::write(folder.join(file), json.to_string()).unwrap();
}

/// What is said of a fixture after a file of it was changed, or made.
fn said(name: &str, file: &str, rows: usize, change: &dyn Fn(&mut Value)) -> String {
    let folder = copy(name);
    let path = folder.path().join(file);
    let text = std::fs::read(&path);
    let mut json = text.map_or(json!({}), |text| serde_json::from_slice(&text).unwrap());
    change(&mut json);
    write(folder.path(), file, &json);
    match Tokenizer::open(folder.path(), rows) {
        Ok(_) => "opened".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// Changes one field; a dot goes into an object.
fn set(field: &'static str, value: Value) -> Box<dyn Fn(&mut Value)> {
    let pointer = format!("/{}", field.replace('.', "/"));
    Box::new(move |json| match json.pointer_mut(&pointer) {
        Some(there) => *there = value.clone(),
        None => json[field] = value.clone(),
    })
}

#[test]
fn what_does_not_fit_is_named() {
    let nothing = || -> Box<dyn Fn(&mut Value)> { Box::new(|_| ()) };
    let word_level = json!({"type": "WordLevel", "vocab": {}, "unk_token": ""});
    let unknown = json!({"550": {"content": "<new>"}});
    let template = "post_processor.special_tokens";
    for (name, file, rows, change, expected) in [
        ("bloom", TOKENIZER, 560, nothing(), "opened"),
        ("bloom", TOKENIZER, 559, nothing(), "tokenizer.json: the token"),
        (
            "bloom",
            TOKENIZER,
            559,
            nothing(),
            "the id 559, and the model's embedding has 559 rows; ",
        ),
        ("gpt_neox", CONFIG, 548, nothing(), "opened"),
        ("gpt_neox", CONFIG, 547, nothing(), "_special_tokens` \"<|user|>\" has the id 547"),
        (
            "llama2",
            TOKENIZER,
            600,
            set("post_processor.special_tokens.<s>.ids", json!([900])),
            "the token \"<s>\" has the id 900",
        ),
        ("llama2", TOKENIZER, 600, set(template, json!({})), "is not there"),
        ("llama2", TOKENIZER, 600, set("model.dropout", json!(0.1)), "`model.dropout` is 0.1"),
        ("llama2", TOKENIZER, 600, set("model.unk_token", json!("[U]")), "`model.unk_token` is"),
        ("llama2", TOKENIZER, 600, set("model.merges", json!([["n", "x"]])), "it is no tokenizer"),
        ("llama2", TOKENIZER, 600, set("model", word_level), "`model.type` is not BPE"),
        ("llama2", TOKENIZER, 600, set("model", json!(3)), "line 1 column"),
        ("llama", CONFIG, 600, set("pad_token", json!("[PAD]")), "opened"),
        ("llama", CONFIG, 600, set("extra_special_tokens", json!({})), "opened"),
        (
            "llama",
            CONFIG,
            520,
            set("pad_token", json!("[PAD]")),
            "`pad_token` \"[PAD]\" has the id",
        ),
        ("llama", CONFIG, 600, set("eos_token", json!(2)), "`eos_token` is 2; give a token's text"),
        ("llama", CONFIG, 600, set("added_tokens_decoder", unknown), "\"<new>\" is listed as 550"),
        ("llama", "added_tokens.json", 600, set("<new>", json!("x")), "which is no id"),
        (
            "llama",
            "added_tokens.json",
            520,
            set("<new>", json!(520)),
            "added_tokens.json: the token \"<new>\" has the id 520",
        ),
        (
            "bloom",
            NAMES,
            560,
            set("pad_token", json!("[PAD]")),
            "special_tokens_map.json: `pad_token` \"[PAD]\" has the id 560",
        ),
        ("llama", GENERATION, 600, set("eos_token_id", json!([2, 600])), "has the id 600"),
        ("llama", GENERATION, 600, set("eos_token_id", json!("2")), "which is no id"),
    ] {
        let said = said(name, file, rows, &change);
        assert!(said.contains(expected), "{name} {file} {rows}: {said}");
    }
}

#[test]
fn a_damaged_file_is_named_with_the_line() {
    for (file, line) in [(TOKENIZER, "at line 1 column"), (CONFIG, "at line 5 column")] {
        let folder = copy("gpt_neox");
        let path = folder.path().join(file);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..100]).unwrap();
        let said = Tokenizer::open(folder.path(), 600).unwrap_err().to_string();
        assert!(said.contains(file) && said.contains(line), "{said}");
    }
}

#[test]
fn a_folder_without_tokenizer_json_says_what_makes_it() {
    let folder = tempfile::tempdir().unwrap();
    let said = || Tokenizer::open(folder.path(), 600).unwrap_err().to_string();
    assert!(
        said().contains("it holds no tokenizer.json; copy it there from the model"),
        "{}",
        said()
    );
    std::fs::write(folder.path().join("tokenizer.model"), "").unwrap();
    assert!(said().contains("import LlamaTokenizerFast; "), "{}", said());
}

#[test]
fn training_depends_on_neither_threads_nor_order_and_does_as_the_original() {
    let expected = expected();
    let mut corpus = strings(&expected["corpus"]).repeat(4);
    let options = TokenizerTrainOptions { vocabulary: 560, min_frequency: 0 };
    let folder = tempfile::tempdir().unwrap();
    let saved = |tokenizer: &Tokenizer| {
        tokenizer.save(folder.path()).unwrap();
        [TOKENIZER, CONFIG, NAMES].map(|file| std::fs::read(folder.path().join(file)).unwrap())
    };
    let first = Tokenizer::train(corpus.iter(), &options).unwrap();
    let files = saved(&first);
    let theirs = std::fs::read(fixtures().join("bloom/tokenizer.json")).unwrap();
    let [ours, theirs] =
        [&files[0], &theirs].map(|json| serde_json::from_slice::<Value>(json).unwrap());
    for part in ["model", "added_tokens", "pre_tokenizer"] {
        assert_eq!(ours[part], theirs[part], "{part}");
    }
    for threads in [1, 2, 4].repeat(3) {
        corpus.rotate_left(7);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let again = pool.install(|| Tokenizer::train(corpus.iter(), &options)).unwrap();
        assert!(saved(&again) == files, "{threads} threads");
    }
    for text in strings(&expected["texts"]) {
        assert_eq!(first.decode(&first.encode(text, true).unwrap(), false).unwrap(), text);
    }
    let small = TokenizerTrainOptions { vocabulary: 259, ..options };
    let said = Tokenizer::train(corpus.into_iter(), &small).unwrap_err().to_string();
    assert!(said.contains("a vocabulary of 259 has no room"), "{said}");
}

/// A template of before would be asked for by whoever looks into the configuration.
#[test]
fn a_chat_template_takes_the_place_of_all_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for name in [TOKENIZER, CONFIG, NAMES] {
        std::fs::copy(fixtures().join("bloom").join(name), path(name)).unwrap();
    }
    let config =
        || -> Value { serde_json::from_slice(&std::fs::read(path(CONFIG)).unwrap()).unwrap() };
    let mut with_template = config();
    with_template["chat_template"] = "old".into();
    std::fs::write(path(CONFIG), with_template.to_string()).unwrap();
    std::fs::write(path("chat_template.jinja"), "older").unwrap();
    let mut tokenizer = Tokenizer::open(folder.path(), 600).unwrap();
    tokenizer.set_chat_template("new").unwrap();
    tokenizer.save(folder.path()).unwrap();
    assert_eq!(std::fs::read_to_string(path("chat_template.jinja")).unwrap(), "new");
    with_template.as_object_mut().unwrap().remove("chat_template");
    assert_eq!(config(), with_template);
}

#[test]
fn what_is_saved_is_what_was_opened() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = Tokenizer::open(&fixtures().join("bloom"), 600).unwrap();
    tokenizer.save(&folder.path().join("new")).unwrap();
    for file in [TOKENIZER, CONFIG, NAMES] {
        let [old, new] = [fixtures().join("bloom"), folder.path().join("new")]
            .map(|folder| std::fs::read(folder.join(file)).unwrap());
        assert!(old == new, "{file}");
    }
    let options = TokenizerTrainOptions { vocabulary: 270, min_frequency: 2 };
    let trained = Tokenizer::train(["a b", "a b"].into_iter(), &options).unwrap();
    trained.save(folder.path()).unwrap();
    let opened = Tokenizer::open(folder.path(), 270).unwrap();
    for tokenizer in [&trained, &opened] {
        assert_eq!(
            (tokenizer.unk(), tokenizer.bos(), tokenizer.eos(), tokenizer.pad()),
            (Some(0), Some(1), Some(2), Some(3))
        );
        assert!(tokenizer.vocabulary_size() == 261 && tokenizer.end_tokens() == [2]);
    }
    assert_eq!(opened.encode("a b", true).unwrap(), trained.encode("a b", true).unwrap());
}

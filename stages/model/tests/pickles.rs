//! What `torch.save` writes (`tests/fixtures/training/make.py`, `make_pickled_views.py`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use okapi_model::tensor_file::TensorFile;
use okapi_model::{CausalLm, Checkpoint, CheckpointError, ModelConfig, pickle_file};
use serde_json::{Value, json};

fn fixtures(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(path)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

/// All that can be read of a file: of each tensor its shape and its numbers, or why there are none.
type Content = BTreeMap<String, (Vec<usize>, Result<Vec<u32>, String>)>;

fn content(file: &TensorFile) -> Content {
    let tensor = |name: &str| {
        let numbers = file.read(name).map(|numbers| bits(&numbers));
        (name.to_owned(), (file.shape(name).unwrap().to_vec(), numbers.map_err(|e| e.to_string())))
    };
    file.names().map(tensor).collect()
}

/// A folder with the files of another, to be changed.
fn copy(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(folder).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}

fn open(folder: &Path) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::open(folder, &ModelConfig::read(folder).unwrap())
}

#[test]
fn a_model_is_the_same_in_a_pickle_in_several_and_in_safetensors() {
    for (pickled, name) in [("training/pickle", "bloom"), ("training/sharded_pickle", "llama")] {
        let (ours, theirs) = (fixtures(pickled), fixtures("models").join(name));
        let config = ModelConfig::read(&ours).unwrap();
        let (pickled, plain) = (open(&ours).unwrap(), open(&theirs).unwrap());
        for (tensor, shape) in config.tensors() {
            assert_eq!(pickled.shape(&tensor).unwrap(), shape, "{tensor}");
            assert_eq!(pickled.kind(&tensor).unwrap(), plain.kind(&tensor).unwrap(), "{tensor}");
            let (one, other) = (pickled.read(&tensor).unwrap(), plain.read(&tensor).unwrap());
            assert_eq!(bits(&one), bits(&other), "{tensor}");
        }
        let [one, other] = [ours, theirs].map(|folder| CausalLm::open(&folder).unwrap());
        assert_eq!(one.parameters(), other.parameters());
    }
}

#[test]
fn views_are_what_pytorch_makes_of_them() {
    let folder = fixtures("training/pickled_views");
    let expected = json(&folder.join("expected.json"));
    let expected = expected["tensors"].as_object().unwrap();
    for name in ["views.bin", "protocol_4.bin", "legacy.bin"] {
        let content = content(&pickle_file::open(&folder.join(name)).unwrap());
        assert_eq!(content.len(), expected.len());
        for (tensor, expected) in expected {
            let (shape, numbers) = &content[tensor];
            assert_eq!(json!(shape), expected["shape"], "{name}: {tensor}");
            match expected["bits"].as_array() {
                Some(bits) => {
                    let bits = bits.iter().map(|bits| bits.as_i64().unwrap() as i32 as u32);
                    let bits: Vec<u32> = bits.collect();
                    assert_eq!(numbers.as_ref().unwrap(), &bits, "{name}: {tensor}");
                }
                None => {
                    let error = numbers.as_ref().unwrap_err();
                    assert!(error.contains(&format!(": the tensor `{tensor}` is of the type")));
                }
            }
        }
    }
}

#[test]
fn the_format_before_zip_is_read() {
    let file = pickle_file::open(&fixtures("training/legacy_pickle/pytorch_model.bin")).unwrap();
    let expected = &json(&fixtures("training/expected.json"))["pickles"]["legacy"];
    assert_eq!(file.names().count(), expected.as_object().unwrap().len());
    for (tensor, expected) in expected.as_object().unwrap() {
        assert_eq!(json!(file.shape(tensor).unwrap()), expected["shape"], "{tensor}");
        assert_eq!(json!(file.read(tensor).unwrap()), expected["values"], "{tensor}");
    }
}

#[test]
fn code_in_a_pickle_is_named_and_not_run() {
    let folder = copy(&fixtures("training/evil_pickle"));
    fs::copy(fixtures("models/bloom/config.json"), folder.path().join("config.json")).unwrap();
    let path = folder.path().join("pytorch_model.bin");
    for error in [
        open(folder.path()).unwrap_err().to_string(),
        pickle_file::open(&path).unwrap_err().to_string(),
    ] {
        assert!(error.contains("pytorch_model.bin: at byte"), "{error}");
        assert!(error.contains("names `posix.system`"), "{error}");
        assert!(error.contains("take these weights as safetensors"), "{error}");
    }
    for folder in [Path::new("."), folder.path()] {
        assert!(!folder.join("PWNED").exists());
    }
    // Where there are safetensors, nobody looks at the pickle.
    let safe = fixtures("models/bloom/model.safetensors");
    fs::copy(safe, folder.path().join("model.safetensors")).unwrap();
    open(folder.path()).unwrap();
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused() {
    for (name, step) in [
        ("training/pickled_views/views.bin", 1),
        ("training/pickled_views/legacy.bin", 1),
        ("training/legacy_pickle/pytorch_model.bin", 1),
        ("training/pickle/pytorch_model.bin", 977),
    ] {
        let whole = fs::read(fixtures(name)).unwrap();
        let (_folder, path, file) = scratch(&whole);
        for length in (0..whole.len()).rev().step_by(step) {
            file.set_len(length as u64).unwrap();
            let error = pickle_file::open(&path).unwrap_err().to_string();
            assert!(error.contains("pytorch_model.bin: "), "{name}, {length}: {error}");
        }
    }
}

/// Archives have checksums: whatever is flipped is an error, or was of no consequence.
#[test]
fn a_flipped_bit_of_an_archive_changes_no_tensor() {
    let whole = fs::read(fixtures("training/pickled_views/views.bin")).unwrap();
    let (_folder, path, file) = scratch(&whole);
    let expected = content(&pickle_file::open(&path).unwrap());
    let mut refused = 0;
    for (place, byte) in whole.iter().enumerate() {
        for flipped in [byte ^ 1 << (place % 8), !byte] {
            file.write_all_at(&[flipped], place as u64).unwrap();
            let Ok(opened) = pickle_file::open(&path) else {
                refused += 1;
                continue;
            };
            let found = content(&opened);
            assert!(found.keys().eq(expected.keys()), "at {place}");
            for (name, found) in found {
                let said = found.1.as_ref().err();
                let is_refused = said.is_some_and(|error| error.contains("is damaged"));
                refused += usize::from(is_refused);
                assert!(is_refused || found == expected[&name], "at {place}: {name}: {said:?}");
            }
        }
        file.write_all_at(&[*byte], place as u64).unwrap();
    }
    assert!(refused > whole.len() / 2, "{refused}");
}

/// The old format has none: numbers may be others, but nothing is read beyond the file.
#[test]
fn a_flipped_bit_of_an_old_file_harms_nobody() {
    let whole = fs::read(fixtures("training/pickled_views/legacy.bin")).unwrap();
    let (_folder, path, file) = scratch(&whole);
    for (place, byte) in whole.iter().enumerate() {
        for bit in 0..8 {
            file.write_all_at(&[byte ^ 1 << bit], place as u64).unwrap();
            if let Ok(opened) = pickle_file::open(&path) {
                let reads_beyond = |error: &String| error.contains("cannot be read");
                for (name, (_, numbers)) in content(&opened) {
                    assert!(!numbers.is_err_and(|error| reads_beyond(&error)), "{place}: {name}");
                }
            }
        }
        file.write_all_at(&[*byte], place as u64).unwrap();
    }
}

fn scratch(bytes: &[u8]) -> (tempfile::TempDir, PathBuf, File) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pytorch_model.bin");
    fs::write(&path, bytes).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    (folder, path, file)
}

#[test]
fn a_damaged_storage_is_an_error_that_names_the_tensor() {
    let folder = copy(&fixtures("training/sharded_pickle"));
    let path = folder.path().join("pytorch_model-00001-of-00002.bin");
    let mut bytes = fs::read(&path).unwrap();
    let name = "model.layers.0.self_attn.q_proj.weight";
    let first = open(folder.path()).unwrap().read(name).unwrap()[..4].to_vec();
    let first: Vec<u8> = first.iter().flat_map(|number| number.to_le_bytes()).collect();
    let place = bytes.windows(first.len()).position(|window| window == first).unwrap();
    bytes[place + 1] ^= 4;
    fs::write(&path, bytes).unwrap();
    let checkpoint = open(folder.path()).unwrap();
    let error = checkpoint.read(name).unwrap_err().to_string();
    assert!(error.contains("00001-of-00002.bin: the tensor"), "{error}");
    assert!(error.contains(&format!("`{name}` is in a storage that is damaged")), "{error}");
    checkpoint.read("model.layers.0.self_attn.k_proj.weight").unwrap();
}

#[test]
fn shards_are_found_by_their_index_and_only_in_the_folder() {
    let folder = copy(&fixtures("training/sharded_pickle"));
    let index = folder.path().join("pytorch_model.bin.index.json");
    let whole = json(&index);
    let said = |name: &str, file: Option<&str>| {
        let mut changed = whole.clone();
        changed["weight_map"][name] = json!(file);
        fs::write(&index, changed.to_string()).unwrap();
        open(folder.path()).unwrap_err().to_string()
    };
    let outside = fixtures("training/evil_pickle/pytorch_model.bin");
    for name in [
        "../pytorch_model.bin",
        "a/../b.bin",
        "/etc/passwd",
        ".",
        "..",
        "",
        outside.to_str().unwrap(),
    ] {
        let error = said("model.norm.weight", Some(name));
        assert!(error.contains("no name of a file here"), "{name}: {error}");
    }
    let error = said("model.norm.weight", None);
    assert!(error.contains("the file of `model.norm.weight` is null"), "{error}");
    let error = said("model.norm.weight", Some("pytorch_model-00003-of-00003.bin"));
    assert!(error.contains("00003-of-00003.bin: No such file"), "{error}");

    fs::write(&index, whole.to_string()).unwrap();
    open(folder.path()).unwrap();
    let [first, second] =
        [1, 2].map(|n| folder.path().join(format!("pytorch_model-0000{n}-of-00002.bin")));
    fs::copy(&first, &second).unwrap();
    let error = open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("is in two files"), "{error}");
    let mut only_first = whole.clone();
    let map = only_first["weight_map"].as_object_mut().unwrap();
    map.retain(|_, file| file.as_str().unwrap().contains("00001"));
    fs::write(&index, only_first.to_string()).unwrap();
    let error = open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("the checkpoint lacks"), "{error}");
}

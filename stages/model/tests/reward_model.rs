//! Reward models against those of `transformers` (`tests/fixtures/training/make.py`), and against themselves:
//! in batches, with other threads, written and read. That `transformers` reads what is written is checked
//! by `tests/fixtures/training/check_reward_model.py`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};

use okapi_model::sizes::{Sizes, SpecialTokens, new_config};
use okapi_model::tensor_file::{NumberKind, TensorFile};
use okapi_model::{CausalLm, Gradients, Keep, LoraOptions, RewardModel, Sequences};
use serde_json::{Value, json};

const MODELS: [&str; 6] =
    ["bloom", "llama", "gpt_neox", "bloom_after_norm", "llama_tied", "neox_sequential"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(fixtures().join("training/expected.json")).unwrap())
        .unwrap()
}

fn folder(name: &str) -> PathBuf {
    let folders = ["models", "training"].map(|folder| fixtures().join(folder).join(name));
    folders.into_iter().find(|folder| folder.is_dir()).unwrap()
}

fn reward_model(name: &str) -> RewardModel {
    RewardModel::from_lm(CausalLm::open(&folder(name)).unwrap(), 4).unwrap()
}

fn texts() -> Vec<Vec<u32>> {
    serde_json::from_value(expected()["batch"]["sequences"].clone()).unwrap()
}

#[test]
fn rewards_and_their_gradients_are_those_of_pytorch() {
    let expected = &expected()["reward"];
    let pairs: Vec<[usize; 2]> = serde_json::from_value(expected["pairs"].clone()).unwrap();
    for (name, theirs) in expected["models"].as_object().unwrap() {
        let mut model = reward_model(name);
        let head: Vec<f32> = serde_json::from_value(theirs["head"].clone()).unwrap();
        let score = model.trunk_mut().parameters_mut().iter_mut().last().unwrap();
        assert_eq!((score.name.as_str(), &score.shape[..]), ("score.weight", &[1, head.len()][..]));
        score.values = head;
        let sequences = Sequences::new(&texts());
        let rewards = model.rewards(&sequences).unwrap();
        let their_rewards: Vec<f64> = serde_json::from_value(theirs["rewards"].clone()).unwrap();
        for (ours, theirs) in rewards.iter().zip(&their_rewards) {
            assert!(
                (ours - theirs).abs() < 5e-6 * theirs.abs().max(1.0),
                "{name}: {ours} {theirs}"
            );
        }
        // The loss is the mean of -log sigmoid(margin), whose slope is -sigmoid(-margin).
        let (mut loss, mut grades) = (0.0, vec![0.0; rewards.len()]);
        for [chosen, rejected] in &pairs {
            let odds = (rewards[*rejected] - rewards[*chosen]).exp();
            loss += odds.ln_1p() / pairs.len() as f64;
            grades[*chosen] -= odds / (1.0 + odds) / pairs.len() as f64;
            grades[*rejected] += odds / (1.0 + odds) / pairs.len() as f64;
        }
        assert!((loss / theirs["loss"].as_f64().unwrap() - 1.0).abs() < 5e-6, "{name}: {loss}");
        let (trunk, rows) = (model.trunk(), sequences.last_rows().unwrap());
        let mut gradients = Gradients::zeros(trunk.parameters());
        let forward = trunk.forward(sequences, Keep::All).unwrap();
        let mut d_states = forward.states().zeros();
        let of = (forward.states(), &mut d_states);
        model.head().backward(trunk.parameters(), &mut gradients, of, &rows, &grades);
        trunk.backward(forward, &d_states, &mut gradients);
        let path = fixtures().join(format!("training/{name}_reward_gradients.safetensors"));
        let file = TensorFile::open(&path).unwrap();
        assert_eq!(file.names().count(), trunk.parameters().iter().len());
        for (parameter, gradient) in trunk.parameters().iter().zip(gradients.iter()) {
            let theirs = file.read(&parameter.name).unwrap();
            let size = |numbers: &mut dyn Iterator<Item = f32>| {
                numbers.map(|x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
            };
            let both = gradient.unwrap().host().iter().zip(&theirs);
            let off = size(&mut both.map(|(ours, theirs)| ours - theirs));
            // The last bias adds the same to both rewards of a pair: its gradient is rounding.
            let is_zero = parameter.name == "transformer.ln_f.bias";
            let theirs = size(&mut theirs.iter().copied());
            assert_eq!(theirs < 1e-12, is_zero, "{name}, {}", parameter.name);
            let off = if is_zero { off } else { off / theirs };
            assert!(off < 1e-5, "{name}, {}: {off}", parameter.name);
        }
    }
}

/// Long and short, of one token and of many, and one text twice.
fn many_texts() -> Vec<Vec<u32>> {
    let lengths = [1, 7, 40, 2, 64, 33, 5, 1, 17, 40];
    let mut texts: Vec<Vec<u32>> = (0u32..)
        .zip(lengths)
        .map(|(text, length)| (0..length).map(|at| (text * 11 + at * at * 5 + at) % 48).collect())
        .collect();
    texts.push(texts[2].clone());
    texts
}

#[test]
fn a_reward_depends_neither_on_what_is_beside_it_nor_on_the_threads() {
    // Wide enough for products that are never small, but for those of one row.
    let sizes = Sizes {
        layers: 1,
        hidden: 160,
        heads: 4,
        key_value_heads: 4,
        intermediate: 700,
        positions: 64,
    };
    let special = SpecialTokens { bos: 1, eos: 2, pad: 3 };
    let wide = new_config("llama", &sizes, 200, special).unwrap();
    let wide = RewardModel::from_lm(CausalLm::new(wide, 6).unwrap(), 4).unwrap();
    let models = MODELS.map(|name| (name, reward_model(name)));
    for (name, model) in models.into_iter().chain([("wide", wide)]) {
        let bits = |texts: &[Vec<u32>]| -> Vec<u64> {
            let rewards = model.rewards(&Sequences::new(texts)).unwrap();
            rewards.into_iter().map(f64::to_bits).collect()
        };
        let texts = many_texts();
        let together = bits(&texts);
        assert_eq!(together[2], together[10]);
        let apart: Vec<u64> = texts.chunks(1).flat_map(bits).collect();
        assert_eq!(together, apart, "{name}");
        let parts: Vec<u64> = texts.chunks(3).flat_map(bits).collect();
        assert_eq!(together, parts, "{name}");
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| bits(&texts)), together, "{name}, {threads} threads");
        }
    }
}

#[test]
fn what_is_written_is_read_as_the_same_model() {
    for name in MODELS {
        let model = reward_model(name);
        let there = tempfile::tempdir().unwrap();
        model.save(there.path(), NumberKind::F32).unwrap();
        let again = RewardModel::open(there.path()).unwrap();
        assert!(again.trunk().parameters() == model.trunk().parameters());
        assert_eq!((again.head(), again.pad_token()), (model.head(), model.pad_token()));
        let batch = Sequences::new(&texts());
        assert_eq!(again.rewards(&batch).unwrap(), model.rewards(&batch).unwrap());
        // Neither the vocabulary's head nor anything in its place is kept.
        let lm = CausalLm::open(&folder(name)).unwrap();
        let tied = lm.config_json()["tie_word_embeddings"] == json!(true);
        let head = if tied { 0 } else { lm.vocabulary() * lm.hidden() };
        let count = lm.parameters().count() - head + lm.hidden();
        assert_eq!(again.trunk().parameters().count(), count);
        let files: Vec<String> = std::fs::read_dir(there.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(files.len(), 2, "{files:?}");
        let halves = tempfile::tempdir().unwrap();
        again.save(halves.path(), NumberKind::Bf16).unwrap();
        let again = RewardModel::open(halves.path()).unwrap();
        assert_eq!(again.trunk().number_kind(), NumberKind::Bf16);
    }
}

#[test]
fn a_new_head_is_of_its_seed() {
    let head = |seed| {
        let model = RewardModel::from_lm(CausalLm::open(&folder("llama")).unwrap(), seed).unwrap();
        model.trunk().parameters().get(model.head().weight()).values.clone()
    };
    assert_eq!(head(1), head(1));
    assert_ne!(head(1), head(2));
    let values: Vec<f32> = (0..50).flat_map(head).collect();
    let square = values.iter().map(|x| f64::from(x * x)).sum::<f64>() / values.len() as f64;
    assert!((square.sqrt() - 0.02).abs() < 1e-3, "{square}");
}

#[test]
fn the_padding_token_is_known_or_chosen() {
    let pad = |change: &dyn Fn(&mut Value)| {
        let mut json = CausalLm::open(&folder("llama")).unwrap().config_json().clone();
        change(&mut json);
        RewardModel::from_lm(CausalLm::new(json, 1).unwrap(), 1).unwrap().pad_token()
    };
    assert_eq!(pad(&|json| json["pad_token_id"] = json!(7)), Some(7));
    assert_eq!(pad(&|_| ()), Some(1), "the beginning of a text");
    assert_eq!(pad(&|json| json["pad_token_id"] = json!(-1)), Some(1));
    assert_eq!(pad(&|json| json["pad_token_id"] = json!(48)), Some(1));
    assert_eq!(pad(&|json| json["bos_token_id"] = Value::Null), Some(2));
    let mut model = reward_model("llama");
    model.set_pad_token(47).unwrap();
    assert_eq!(model.pad_token(), Some(47));
    assert!(model.set_pad_token(48).unwrap_err().to_string().contains("48 is not among the 48"));
}

#[test]
fn only_the_top_is_trained_and_costs_gradients() {
    for name in MODELS {
        let whole = reward_model(name);
        let mut model = whole.clone();
        let blocks = model.trunk().blocks();
        let number = |name: &str| name.split('.').find_map(|part| part.parse::<usize>().ok());
        let is_embedding = |name: &str| name.contains("embed");
        for (top, embeddings) in [(0, false), (1, false), (1, true), (blocks, false), (12, true)] {
            model.train_top(top, embeddings);
            for parameter in model.trunk().parameters().iter() {
                let expected = match number(&parameter.name) {
                    Some(block) => block + top >= blocks,
                    None => embeddings || !is_embedding(&parameter.name),
                };
                assert_eq!(parameter.is_trained, expected, "{top}, {}", parameter.name);
            }
            let gradients = |model: &RewardModel| {
                let sequences = Sequences::new(&texts());
                let rows = sequences.last_rows().unwrap();
                let mut gradients = Gradients::zeros(model.trunk().parameters());
                let forward = model.trunk().forward(sequences, Keep::All).unwrap();
                let mut d_states = forward.states().zeros();
                let of = (forward.states(), &mut d_states);
                let grades = vec![1.0; rows.len()];
                let parameters = model.trunk().parameters();
                model.head().backward(parameters, &mut gradients, of, &rows, &grades);
                model.trunk().backward(forward, &d_states, &mut gradients);
                gradients
            };
            let (part, all) = (gradients(&model), gradients(&whole));
            let parameters = model.trunk().parameters().iter();
            for (parameter, (part, all)) in parameters.zip(part.iter().zip(all.iter())) {
                assert_eq!(part, all.filter(|_| parameter.is_trained), "{}", parameter.name);
            }
        }
    }
}

#[test]
fn one_kind_of_model_is_not_taken_for_the_other() {
    for name in MODELS {
        let said = RewardModel::open(&folder(name)).unwrap_err().to_string();
        assert!(said.contains("is a language model and no reward model"), "{said}");
        assert!(said.contains(name) && said.contains("on rankings"), "{said}");
        let there = tempfile::tempdir().unwrap();
        reward_model(name).save(there.path(), NumberKind::F32).unwrap();
        let said = CausalLm::open(there.path()).unwrap_err().to_string();
        assert!(said.contains("is a reward model, which has no"), "{said}");
        // A classifier is no reward model either.
        let path = there.path().join("config.json");
        let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        json["id2label"] = json!({ "0": "no", "1": "yes" });
        std::fs::write(&path, json.to_string()).unwrap();
        let said = RewardModel::open(there.path()).unwrap_err().to_string();
        assert!(said.contains("2 labels; a reward model has one"), "{said}");
    }
    let mut lm = CausalLm::open(&folder("llama")).unwrap();
    let targets = vec!["q_proj".to_owned()];
    lm.add_adapters(&LoraOptions { rank: 2, alpha: 4.0, dropout: 0.0, targets }, 1).unwrap();
    let said = RewardModel::from_lm(lm, 1).unwrap_err().to_string();
    assert!(said.contains("merge its adapters first"), "{said}");
    let said = reward_model("llama").rewards(&Sequences::new(&[vec![3], vec![]])).unwrap_err();
    assert_eq!(
        said.to_string(),
        "text 1 of the batch has no tokens, and so none to read its reward at"
    );
}

//! Model folders as `transformers` writes them (`tests/fixtures/models/make.py`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;

use okapi_model::{CausalLm, Checkpoint, ModelConfig, Sequences};
use serde_json::Value;

fn fixtures() -> (std::path::PathBuf, Value) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/models");
    let text = std::fs::read(fixtures.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(expected["models"].as_object().unwrap().len(), 4);
    (fixtures, expected)
}

/// The rows that were given, without their padding.
fn sequences(computed: &Value) -> Vec<Vec<u32>> {
    let rows = |name: &str| computed[name].as_array().unwrap().clone();
    let row = |(ids, mask): (Value, Value)| -> Vec<u32> {
        let pairs = ids.as_array().unwrap().iter().zip(mask.as_array().unwrap());
        let kept = pairs.filter(|(_, mask)| **mask == 1);
        kept.map(|(id, _)| id.as_u64().unwrap() as u32).collect()
    };
    rows("ids").into_iter().zip(rows("mask")).map(row).collect()
}

/// Padded on the left or on the right, alone or in a batch: the logits are those that `transformers`
/// computes.
#[test]
fn logits_are_those_of_transformers() {
    let (fixtures, expected) = fixtures();
    for (name, expected) in expected["models"].as_object().unwrap() {
        let model = CausalLm::open(&fixtures.join(name)).unwrap();
        let vocabulary = model.vocabulary();
        // What was computed in 16 bits is known to some three digits.
        let tolerance = if name.ends_with("bf16") { 0.03 } else { 1e-5 };
        for (side, computed) in expected["computed"].as_object().unwrap() {
            let rows = sequences(computed);
            let together = model.logits(&Sequences::new(&rows)).unwrap();
            let alone: Vec<f32> = rows
                .iter()
                .flat_map(|row| model.logits(&Sequences::new(&[row])).unwrap())
                .collect();
            let theirs: Vec<f64> = computed["logits"]
                .as_array()
                .unwrap()
                .iter()
                .flat_map(|row| row.as_array().unwrap())
                .flat_map(|token| token.as_array().unwrap())
                .map(|logit| logit.as_f64().unwrap())
                .collect();
            assert_eq!(together.len(), theirs.len());
            let largest = theirs.iter().fold(0.0, |most: f64, logit| most.max(logit.abs()));
            for (place, ((ours, alone), theirs)) in
                together.iter().zip(&alone).zip(&theirs).enumerate()
            {
                let at = (place / vocabulary, place % vocabulary);
                let off = (f64::from(*ours) - theirs).abs() / largest;
                assert!(off < tolerance, "{name}, {side}, {at:?}: {ours} instead of {theirs}");
                assert!((ours - alone).abs() < 1e-5, "{name}, {at:?}: {ours}, alone {alone}");
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let (fixtures, expected) = fixtures();
    let rows = sequences(&expected["models"]["bloom"]["computed"]["right"]);
    for name in ["bloom", "llama", "gpt_neox"] {
        let model = CausalLm::open(&fixtures.join(name)).unwrap();
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| model.logits(&Sequences::new(&rows)).unwrap())
        };
        let bits = |logits: Vec<f32>| logits.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(with(1)), bits(with(3)), "{name}");
        let error = model.logits(&Sequences::new(&[[3, 48]])).unwrap_err();
        assert_eq!(error.to_string(), "the token 48 is not among the 48 of the model");
    }
}

#[test]
fn every_tensor_of_a_folder_is_read_to_the_last_bit() {
    let (fixtures, expected) = fixtures();
    let models = expected["models"].as_object().unwrap();
    for (name, model) in models {
        let folder = fixtures.join(name);
        let config = ModelConfig::read(&folder).unwrap();
        let checkpoint = Checkpoint::open(&folder, &config).unwrap();
        let sums = model["sums"].as_object().unwrap();
        assert_eq!(config.tensors().len(), sums.len(), "{name}");
        for (tensor, shape) in config.tensors() {
            let numbers = checkpoint.read(&tensor).unwrap();
            assert_eq!(numbers.len(), shape.iter().product::<usize>(), "{name}: {tensor}");
            let sum: f64 = numbers.iter().map(|number| f64::from(*number)).sum();
            let there = sums[&tensor].as_f64().unwrap();
            // The same numbers added in another order.
            assert!((sum - there).abs() < 1e-9 * there.abs().max(1.0), "{name}: {tensor}");
        }
    }
}

/// A model that has learnt nothing is of its seed, and about as unsure as chance.
#[test]
fn a_new_model_knows_nothing() {
    let (fixtures, expected) = fixtures();
    for name in expected["models"].as_object().unwrap().keys() {
        let config = CausalLm::open(&fixtures.join(name)).unwrap().config_json().clone();
        let new = |seed| CausalLm::new(config.clone(), seed).unwrap();
        let model = new(3);
        assert_eq!(model.parameters(), new(3).parameters());
        assert_ne!(model.parameters(), new(4).parameters());
        let weights = model.parameters().iter().filter(|it| it.shape.len() == 2);
        let values: Vec<f32> = weights.flat_map(|weight| weight.values.iter().copied()).collect();
        let deviation =
            (values.iter().map(|x| f64::from(x * x)).sum::<f64>() / values.len() as f64).sqrt();
        assert!((deviation - 0.02).abs() < 5e-4, "{name}: {deviation}");
        for parameter in model.parameters().iter().filter(|it| it.shape.len() == 1) {
            let expected = if parameter.name.ends_with(".bias") { 0.0 } else { 1.0 };
            assert!(parameter.values.iter().all(|value| *value == expected), "{}", parameter.name);
        }
        let tokens: [u32; 6] = [1, 2, 3, 4, 5, 6];
        let logits = model.logits(&Sequences::new(&[tokens])).unwrap();
        assert!(logits.iter().all(|logit| logit.abs() < 1.0), "{name}");
    }
}

//! The backward pass against the one of PyTorch (`tests/fixtures/training/make.py`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};

use okapi_model::{CausalLm, Gradients, Keep, Place, Sequences};
use safetensors::SafeTensors;
use serde_json::Value;

const MODELS: [&str; 6] =
    ["bloom", "llama", "gpt_neox", "bloom_after_norm", "llama_tied", "neox_sequential"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(fixtures().join("training/expected.json")).unwrap())
        .unwrap()
}

fn model(name: &str) -> CausalLm {
    let folders = ["models", "training"].map(|folder| fixtures().join(folder).join(name));
    CausalLm::open(folders.iter().find(|folder| folder.is_dir()).unwrap()).unwrap()
}

/// The batch of the fixtures: its sequences, and the places that count.
fn batch(expected: &Value) -> (Sequences, Vec<Place>) {
    let sequences: Vec<Vec<u32>> =
        serde_json::from_value(expected["batch"]["sequences"].clone()).unwrap();
    let uncounted: Vec<usize> =
        serde_json::from_value(expected["batch"]["uncounted"].clone()).unwrap();
    let mut places = Vec::new();
    let mut first = 0;
    for (sequence, uncounted) in sequences.iter().zip(uncounted) {
        let nexts = (uncounted.max(1)..sequence.len())
            .map(|next| Place { row: first + next - 1, next: sequence[next] });
        places.extend(nexts);
        first += sequence.len();
    }
    (Sequences::new(&sequences), places)
}

/// The mean of the tokens' losses, and its gradients.
fn loss(model: &CausalLm, keep: Keep) -> (f64, Gradients) {
    let (sequences, places) = batch(&expected());
    let mut gradients = Gradients::zeros(model.parameters());
    let forward = model.forward(sequences, keep).unwrap();
    let count = places.len() as f64;
    let mut d_states = forward.states().zeros();
    let of = (forward.states(), &mut d_states);
    let scores = model.scores_backward(of, &places, &mut gradients, |_, _| -1.0 / count).unwrap();
    model.backward(forward, &d_states, &mut gradients);
    let loss = -scores.iter().map(|score| score.log_probability).sum::<f64>() / count;
    (loss, gradients)
}

/// How far two lists of numbers are from each other, by the size of the second.
fn distance(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let size = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>().sqrt();
    let pairs = ours.iter().zip(theirs);
    let off = size(&mut pairs.map(|(x, y)| f64::from(*x) - f64::from(*y)));
    off / size(&mut theirs.iter().map(|x| f64::from(*x))).max(1e-12)
}

fn read(path: &Path) -> Vec<(String, Vec<f32>)> {
    let bytes = std::fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |data: &[u8]| -> Vec<f32> {
        data.chunks_exact(4).map(|it| f32::from_le_bytes(it.try_into().unwrap())).collect()
    };
    tensors.tensors().into_iter().map(|(name, view)| (name, numbers(view.data()))).collect()
}

#[test]
fn losses_and_gradients_are_those_of_pytorch() {
    let expected = expected();
    for name in MODELS {
        let model = model(name);
        let (loss, gradients) = loss(&model, Keep::All);
        let theirs = expected["gradients"][name]["loss"].as_f64().unwrap();
        assert!((loss - theirs).abs() / theirs < 1e-6, "{name}: {loss} {theirs}");
        let theirs = read(&fixtures().join(format!("training/{name}_gradients.safetensors")));
        assert_eq!(theirs.len(), model.parameters().iter().len());
        for (tensor, theirs) in &theirs {
            let id = model.parameters().id(tensor).unwrap();
            let off = distance(gradients.get(id).unwrap().host(), theirs);
            assert!(off < 1e-5, "{name}, {tensor}: {off}");
        }
    }
}

#[test]
fn what_is_computed_again_is_the_same_and_so_it_is_with_any_threads() {
    for name in MODELS {
        let model = model(name);
        let all = loss(&model, Keep::All);
        assert_eq!(all, loss(&model, Keep::Inputs), "{name}");
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert!(pool.install(|| loss(&model, Keep::All)) == all, "{name}, {threads} threads");
        }
    }
}

#[test]
fn what_is_not_trained_gets_no_gradient_and_changes_no_other() {
    for name in MODELS {
        let mut model = model(name);
        let (_, whole) = loss(&model, Keep::All);
        let is_head = |name: &str| name.contains("lm_head") || name.contains("embed_out");
        for is_trained in [
            // The last block; the biases and norms; the head.
            |name: &str| name.contains(".1.") && !name.contains(".0."),
            |name: &str| name.contains("norm") || name.contains("bias") || name.contains("ln_f"),
            is_head,
        ] {
            for parameter in model.parameters_mut().iter_mut() {
                parameter.is_trained = is_trained(&parameter.name);
            }
            let (_, part) = loss(&model, Keep::All);
            let mut trained = 0;
            for ((parameter, part), whole) in
                model.parameters().iter().zip(part.iter()).zip(whole.iter())
            {
                assert_eq!(part.is_some(), parameter.is_trained, "{}", parameter.name);
                if part.is_some() {
                    assert_eq!(part, whole, "{name}, {}", parameter.name);
                    trained += 1;
                }
            }
            assert!(trained > 0 || name.contains("bloom") || name.contains("tied"));
        }
    }
}

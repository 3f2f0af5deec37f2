//! Low-rank adapters against PEFT's (`tests/fixtures/training/make.py`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};

use okapi_model::tensor_file::TensorFile;
use okapi_model::{CausalLm, Dropout, Gradients, Keep, LoraOptions, Place, Sequences};
use serde_json::Value;

const MODELS: [&str; 3] = ["bloom", "llama", "gpt_neox"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(fixtures().join("training/expected.json")).unwrap())
        .unwrap()
}

fn base(name: &str) -> CausalLm {
    CausalLm::open(&fixtures().join("models").join(name)).unwrap()
}

fn adapted(name: &str) -> (CausalLm, LoraOptions) {
    let mut model = base(name);
    let folder = fixtures().join(format!("training/{name}_adapter"));
    let options = model.open_adapters(&folder).unwrap();
    (model, options)
}

fn sequences() -> Vec<Vec<u32>> {
    serde_json::from_value(expected()["batch"]["sequences"].clone()).unwrap()
}

fn places() -> Vec<Place> {
    let uncounted: Vec<usize> =
        serde_json::from_value(expected()["batch"]["uncounted"].clone()).unwrap();
    let mut first = 0;
    let mut places = Vec::new();
    for (sequence, uncounted) in sequences().iter().zip(uncounted) {
        let counted = uncounted.max(1)..sequence.len();
        places.extend(counted.map(|at| Place { row: first + at - 1, next: sequence[at] }));
        first += sequence.len();
    }
    places
}

/// The mean loss of the batch and its gradients, with or without dropout.
fn learn(model: &CausalLm, dropout: Option<Dropout>) -> (f64, Gradients) {
    let batch = Sequences::new(&sequences());
    let places = places();
    let mut gradients = Gradients::zeros(model.parameters());
    let forward = match dropout {
        None => model.forward(batch, Keep::All),
        Some(dropout) => model.forward_in_training(batch, Keep::Inputs, dropout),
    };
    let forward = forward.unwrap();
    let mut d_states = forward.states().zeros();
    let weight = 1.0 / places.len() as f64;
    let of = (forward.states(), &mut d_states);
    let scores = model.scores_backward(of, &places, &mut gradients, |_, _| -weight).unwrap();
    model.backward(forward, &d_states, &mut gradients);
    (-scores.iter().map(|score| score.log_probability * weight).sum::<f64>(), gradients)
}

fn close(ours: &[f32], theirs: &[f32], tolerance: f32, what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let largest = theirs.iter().fold(0f32, |most, x| most.max(x.abs()));
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert!((ours - theirs).abs() <= tolerance * largest, "{what}: {ours} {theirs}");
    }
}

#[test]
fn logits_losses_and_gradients_are_those_of_peft() {
    let expected = &expected()["lora"]["models"];
    for name in MODELS {
        let (model, options) = adapted(name);
        assert_eq!((options.rank, options.alpha), (4, 8.0));
        let logits = model.logits(&Sequences::new(&sequences())).unwrap();
        let theirs: Vec<Vec<Vec<f32>>> =
            serde_json::from_value(expected[name]["logits"].clone()).unwrap();
        close(&logits, &theirs.concat().concat(), 1e-5, name);
        let (loss, gradients) = learn(&model, None);
        let theirs = expected[name]["loss"].as_f64().unwrap();
        assert!((loss - theirs).abs() / theirs < 1e-6, "{name}: {loss} {theirs}");
        let path = fixtures().join(format!("training/{name}_adapter_gradients.safetensors"));
        let file = TensorFile::open(&path).unwrap();
        let trained: Vec<&str> = model
            .parameters()
            .iter()
            .filter(|parameter| parameter.is_trained)
            .map(|parameter| parameter.name.as_str())
            .collect();
        assert_eq!(trained.len(), file.names().count());
        for tensor in file.names() {
            let id = model.parameters().id(tensor).unwrap();
            close(gradients.get(id).unwrap().host(), &file.read(tensor).unwrap(), 2e-5, tensor);
        }
        // Nothing is computed for what is frozen.
        assert_eq!(gradients.iter().flatten().count(), trained.len());
    }
}

#[test]
fn what_is_merged_is_what_peft_merges() {
    for name in MODELS {
        let (mut model, _) = adapted(name);
        let before = model.logits(&Sequences::new(&sequences())).unwrap();
        model.merge_adapters();
        close(&model.logits(&Sequences::new(&sequences())).unwrap(), &before, 1e-5, name);
        let path = fixtures().join(format!("training/{name}_merged.safetensors"));
        let file = TensorFile::open(&path).unwrap();
        let base = base(name);
        assert_eq!(model.parameters().iter().len(), base.parameters().iter().len());
        for (merged, plain) in model.parameters().iter().zip(base.parameters().iter()) {
            match file.read(&merged.name) {
                Ok(theirs) => close(&merged.values, &theirs, 1e-6, &merged.name),
                Err(_) => assert_eq!(merged.values, plain.values),
            }
        }
    }
}

#[test]
fn a_folder_that_is_written_is_read_as_the_same_adapters() {
    for name in MODELS {
        let (model, options) = adapted(name);
        let folder = tempfile::tempdir().unwrap();
        model.save_adapters(folder.path(), &options, name).unwrap();
        let mut again = base(name);
        assert_eq!(again.open_adapters(folder.path()).unwrap(), options);
        assert!(again.parameters() == model.parameters());
        let theirs = fixtures().join(format!("training/{name}_adapter/adapter_model.safetensors"));
        let ours = folder.path().join("adapter_model.safetensors");
        assert_eq!(std::fs::read(ours).unwrap(), std::fs::read(theirs).unwrap());
    }
}

#[test]
fn new_adapters_change_nothing_until_they_learn() {
    for (name, target) in
        [("bloom", "query_key_value"), ("llama", "q_proj"), ("gpt_neox", "dense_h_to_4h")]
    {
        let targets = vec![target.to_owned()];
        let options = LoraOptions { rank: 2, alpha: 4.0, dropout: 0.5, targets };
        let mut model = base(name);
        let before = model.logits(&Sequences::new(&sequences())).unwrap();
        model.add_adapters(&options, 3).unwrap();
        assert_eq!(model.logits(&Sequences::new(&sequences())).unwrap(), before);
        // Their `A` has no gradient as long as `B` is zero; `B` has one.
        let (_, gradients) = learn(&model, None);
        for (parameter, gradient) in model.parameters().iter().zip(gradients.iter()) {
            let Some(gradient) = gradient else { continue };
            let is_zero = gradient.host().iter().all(|x| *x == 0.0);
            assert_eq!(is_zero, parameter.name.contains("lora_A"), "{}", parameter.name);
        }
        assert!(model.add_adapters(&options, 3).unwrap_err().to_string().contains("already"));
    }
    let options =
        LoraOptions { rank: 2, alpha: 4.0, dropout: 0.0, targets: vec!["proj".to_owned()] };
    let error = base("llama").add_adapters(&options, 3).unwrap_err();
    assert!(error.to_string().contains("no layer called proj"), "{error}");
}

#[test]
fn dropout_is_of_its_step_and_part_alone_and_keeps_the_mean() {
    let (model, options) = adapted("llama");
    let folder = tempfile::tempdir().unwrap();
    let options = LoraOptions { dropout: 0.3, ..options };
    model.save_adapters(folder.path(), &options, "llama").unwrap();
    let mut model = base("llama");
    model.open_adapters(folder.path()).unwrap();
    let loss = |seed, step, part| learn(&model, Some(Dropout { seed, step, part })).0;
    let first = loss(1, 2, 3);
    assert_eq!(first, loss(1, 2, 3));
    for other in [loss(2, 2, 3), loss(1, 3, 3), loss(1, 2, 4)] {
        assert_ne!(first, other);
    }
    // Without a training there is none.
    let (whole, _) = learn(&model, None);
    let mean = (0..200).map(|step| loss(1, step, 0)).sum::<f64>() / 200.0;
    assert!((mean - whole).abs() < 0.05, "{mean} {whole}");
    // The gradient is that of the loss with the same numbers left out.
    let dropout = Some(Dropout { seed: 5, step: 0, part: 0 });
    let (_, gradients) = learn(&model, dropout);
    let name = "base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight";
    let id = model.parameters().id(name).unwrap();
    let gradient = gradients.get(id).unwrap().host().to_vec();
    // A difference of losses shows large derivatives best.
    let mut places: Vec<usize> = (0..gradient.len()).collect();
    places.sort_by(|one, other| gradient[*other].abs().total_cmp(&gradient[*one].abs()));
    for &place in &places[..3] {
        let mut moved = |by: f32| {
            let parameter = model.parameters_mut().iter_mut().find(|it| it.name == name).unwrap();
            parameter.values[place] += by;
            let loss = learn(&model, dropout).0;
            let parameter = model.parameters_mut().iter_mut().find(|it| it.name == name).unwrap();
            parameter.values[place] -= by;
            loss
        };
        let expected = (moved(0.01) - moved(-0.01)) / 0.02;
        let found = f64::from(gradient[place]);
        assert!((found - expected).abs() < 0.02 * expected.abs(), "{found} {expected}");
    }
}

#[test]
fn adapters_of_another_model_are_refused() {
    let said = |folder: &str| {
        let folder = fixtures().join("training").join(folder);
        base("llama").open_adapters(&folder).unwrap_err().to_string()
    };
    assert!(said("bloom_adapter").contains("no layer called query_key_value"));
    assert!(said("nowhere").contains("adapter_config.json"));
    let folder = tempfile::tempdir().unwrap();
    let (model, options) = adapted("llama");
    model.save_adapters(folder.path(), &options, "llama").unwrap();
    let path = folder.path().join("adapter_config.json");
    let config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (field, value, words) in [
        ("use_dora", Value::Bool(true), "`use_dora`: it is true"),
        ("r", Value::from(3), "has the shape"),
        ("target_modules", Value::from(vec!["q_proj"]), "that the model has not"),
        ("target_modules", Value::from("q_proj|v_proj"), "no list of modules"),
        ("r", Value::Null, "`r`"),
    ] {
        let mut changed = config.clone();
        changed[field] = value;
        std::fs::write(&path, changed.to_string()).unwrap();
        let error = base("llama").open_adapters(folder.path()).unwrap_err().to_string();
        assert!(error.contains(words), "{field}: {error}");
    }
}

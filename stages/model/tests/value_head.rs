//! What PPO needs of a model: to go on from the states that enter a block, and a value head.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;

use okapi_model::{Array, CausalLm, Gradients, Keep, Sequences, ValueHead};

const MODELS: [&str; 6] = [
    "models/bloom",
    "models/llama",
    "models/gpt_neox",
    "training/bloom_after_norm",
    "training/llama_tied",
    "training/neox_sequential",
];

fn model(name: &str) -> CausalLm {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    CausalLm::open(&fixtures.join(name)).unwrap()
}

fn sequences() -> Sequences {
    Sequences::new(&[vec![3, 17, 40, 5, 9, 9, 22], vec![8], vec![30, 31, 4, 11]])
}

/// A gradient of the states that is different everywhere.
fn some(count: usize) -> Vec<f32> {
    (0..count).map(|n| (1.0 + n as f32 * 0.37).sin()).collect()
}

#[test]
fn to_go_on_from_a_block_is_to_have_begun_with_the_tokens() {
    for name in MODELS {
        let mut model = model(name);
        for trained in 0..=model.blocks() {
            model.train_top(trained, false);
            assert_eq!(model.frozen_blocks(), model.blocks() - trained, "{name}");
            for keep in [Keep::Inputs, Keep::All] {
                let whole = model.forward(sequences(), keep).unwrap();
                let states = whole.states().clone();
                let mut expected = Gradients::zeros(model.parameters());
                model.backward(whole, &Array::Host(some(states.len())), &mut expected);
                for block in 0..=model.frozen_blocks() {
                    let entering = model.states_entering(block, &sequences()).unwrap();
                    let forward = model.forward_from(block, entering, sequences(), keep).unwrap();
                    assert!(*forward.states() == states, "{name}, from {block}");
                    let mut gradients = Gradients::zeros(model.parameters());
                    model.backward(forward, &Array::Host(some(states.len())), &mut gradients);
                    assert!(gradients == expected, "{name}, from {block}, {trained} trained");
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_gone_on_from_is_refused() {
    let model = model(MODELS[1]);
    let entering = model.states_entering(1, &sequences()).unwrap();
    let entering = entering.part(0, entering.len() - 1);
    let error = model.forward_from(1, entering, sequences(), Keep::Nothing).unwrap_err();
    assert_eq!(error.to_string(), "383 numbers are no states of 12 tokens, 32 each");
    let strange = Sequences::new(&[vec![4, 48]]);
    let error = model.states_entering(0, &strange).unwrap_err();
    assert!(error.to_string().contains("the token 48 is not among"));
}

/// The value head's gradients against differences, of its own numbers and of what is trained below it.
#[test]
fn values_have_the_gradients_that_differences_give() {
    for name in MODELS {
        let mut model = model(name);
        let head = ValueHead::add(&mut model, 3);
        model.train_top(1, false);
        let rows = [0, 3, 6, 7, 7, 10];
        let grades = [0.7, -1.1, 0.4, 0.9, 0.3, -0.6];
        let loss = |model: &CausalLm| -> f64 {
            let forward = model.forward(sequences(), Keep::Nothing).unwrap();
            let values = head.read(model.parameters(), forward.states(), &rows);
            values.iter().zip(&grades).map(|(value, grade)| value * grade).sum()
        };
        let mut gradients = Gradients::zeros(model.parameters());
        let forward = model.forward(sequences(), Keep::All).unwrap();
        let mut d_states = forward.states().zeros();
        let of = (forward.states(), &mut d_states);
        head.backward(model.parameters(), &mut gradients, of, &rows, &grades);
        model.backward(forward, &d_states, &mut gradients);
        // Along a random direction of each parameter: single numbers change too little of a loss in f32.
        let names: Vec<String> =
            model.parameters().iter().map(|parameter| parameter.name.clone()).collect();
        assert_eq!(names.iter().filter(|name| name.starts_with("v_head.")).count(), 4);
        let mut moved = model.clone();
        for (place, name) in names.iter().enumerate() {
            let Some(gradient) = gradients.iter().nth(place).unwrap() else { continue };
            let values = model.parameters().iter().nth(place).unwrap().values.clone();
            let mut direction = some(values.len());
            let norm = direction.iter().map(|x| x * x).sum::<f32>().sqrt();
            direction.iter_mut().for_each(|x| *x /= norm);
            let mut at = |step: f32| {
                let parameter = moved.parameters_mut().iter_mut().nth(place).unwrap();
                for ((to, from), along) in parameter.values.iter_mut().zip(&values).zip(&direction)
                {
                    *to = from + step * along;
                }
                let loss = loss(&moved);
                let parameter = moved.parameters_mut().iter_mut().nth(place).unwrap();
                parameter.values.clone_from(&values);
                loss
            };
            let ours: f64 = gradient
                .host()
                .iter()
                .zip(&direction)
                .map(|(g, d)| f64::from(*g) * f64::from(*d))
                .sum();
            // A long step may cross a kink of the ReLU, and a short one drowns in rounding.
            let slopes =
                [5e-3, 1e-3, 3e-4].map(|step| (at(step) - at(-step)) / f64::from(2.0 * step));
            let is_close = |slope: &f64| (ours - slope).abs() < 2e-3 * (0.5 + slope.abs());
            assert!(slopes.iter().any(is_close), "{name}: {ours}, by differences {slopes:?}");
        }
    }
}

#[test]
fn a_value_head_comes_and_goes() {
    let mut model = model("models/bloom");
    let before = model.parameters().clone();
    let head = ValueHead::add(&mut model, 3);
    let width = model.hidden();
    let shapes: Vec<_> =
        model.parameters().iter().skip(before.iter().len()).map(|it| it.shape.clone()).collect();
    assert_eq!(shapes, [vec![2 * width, width], vec![2 * width], vec![1, 2 * width], vec![1]]);
    let with_head = model.parameters().clone();
    head.remove(&mut model);
    assert!(*model.parameters() == before);
    ValueHead::add(&mut model, 3);
    assert!(*model.parameters() == with_head, "the seed decides");
}

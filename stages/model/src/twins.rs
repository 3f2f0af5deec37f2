//! Every operation of a model on a GPU against its twin on the processor.
//!
//! The processor's bodies are tested against PyTorch. What a GPU computes is compared with them: operation by
//! operation, and in whole models of each family, forward, backward and token by token.

use half::bf16;
use okapi_device::{Device, DeviceArray, DeviceError, Kind};

use crate::adapter::LoraOptions;
use crate::array::Array;
use crate::attention::Sequences;
use crate::causal_lm::{CausalLm, Keep, ModelError};
use crate::generate::GenerateOptions;
use crate::head::Place;
use crate::layers::{Activation, Columns, Embedding, Linear, Norm, Onto, Pass};
use crate::low_rank::Dropout;
use crate::parameters::{Gradients, Parameter, ParameterId, Parameters};
use crate::random::{Purpose, Random};
use crate::row_product::Product;
use crate::sampling::SamplingOptions;
use crate::sizes::{Sizes, SpecialTokens, new_config};

/// An operation that was computed twice.
#[derive(Debug, Clone, PartialEq)]
pub struct Twin {
    /// What was computed.
    pub name: String,
    /// How the GPU stored its numbers.
    pub kind: Kind,
    /// The largest difference between a GPU's number and the processor's, as a share of the largest number.
    pub difference: f64,
    /// What it may be.
    pub bound: f64,
}

impl Twin {
    /// Whether the two agree; what is no number does not.
    pub fn agrees(&self) -> bool {
        self.difference <= self.bound
    }
}

/// Compares all operations, and all families. `said` is told what is under way.
///
/// # Errors
/// When the GPU fails.
pub fn compare(
    device: &Device,
    kind: Kind,
    said: &mut dyn FnMut(&str),
) -> Result<Vec<Twin>, ModelError> {
    let mut twins = Twins { device, kind, found: Vec::new() };
    said("operations");
    twins.layers()?;
    for family in ["bloom", "llama", "gpt_neox"] {
        said(family);
        twins.model(family)?;
    }
    Ok(twins.found)
}

struct Twins<'a> {
    device: &'a Device,
    kind: Kind,
    found: Vec<Twin>,
}

/// Rows of the operations: not a multiple of anything.
const ROWS: usize = 77;
const WIDTH: usize = 136;
const WIDER: usize = 203;

/// Numbers of the normal distribution, another stream for each name.
fn normal(name: u32, count: usize) -> Vec<f32> {
    let mut random = Random::new(1, Purpose::Weights, name, 9);
    (0..count).map(|_| random.normal() as f32).collect()
}

/// Parameters on the processor, rounded as the GPU has them, and the same on the GPU.
fn parameters(device: &Device, kind: Kind, shapes: &[&[usize]]) -> [Parameters; 2] {
    let mut host = Parameters::default();
    for (number, shape) in shapes.iter().enumerate() {
        let values = normal(number as u32, shape.iter().product());
        let values = round(device, kind, &values);
        host.push(Parameter::new(format!("p{number}"), shape.to_vec(), values));
    }
    let mut there = host.clone();
    there.move_to_device(device, kind, true, |_| true);
    [host, there]
}

fn round(device: &Device, kind: Kind, numbers: &[f32]) -> Vec<f32> {
    DeviceArray::new(device, kind, numbers).read()
}

fn id(parameters: &Parameters, number: usize) -> ParameterId {
    parameters.id(&format!("p{number}")).expect("it was pushed under that name")
}

fn pass(parameters: &Parameters) -> Pass<'_> {
    let dropout = Some(Dropout { seed: 5, step: 3, part: 1 });
    Pass { parameters, dropout, product: Product::InBlocks }
}

impl Twins<'_> {
    /// The same numbers in both memories.
    fn both(&self, name: u32, count: usize) -> [Array; 2] {
        let numbers = round(self.device, self.kind, &normal(name, count));
        let there = DeviceArray::new(self.device, self.kind, &numbers);
        [Array::Host(numbers), Array::Device(there)]
    }

    fn bound(&self) -> f64 {
        match self.kind {
            Kind::F32 => 1e-5,
            _ => 2e-2,
        }
    }

    fn add(&mut self, name: &str, expected: &[f32], found: &[f32]) -> Result<(), DeviceError> {
        self.add_within(name, self.bound(), expected, found)
    }

    fn add_within(
        &mut self,
        name: &str,
        bound: f64,
        expected: &[f32],
        found: &[f32],
    ) -> Result<(), DeviceError> {
        self.device.check()?;
        let difference = difference(expected, found);
        self.found.push(Twin { name: name.to_owned(), kind: self.kind, difference, bound });
        Ok(())
    }

    /// What an operation adds to gradients, beside what it gives.
    fn add_gradients(
        &mut self,
        name: &str,
        expected: &Gradients,
        found: &Gradients,
    ) -> Result<(), DeviceError> {
        for (number, (expected, found)) in expected.iter().zip(found.iter()).enumerate() {
            if let (Some(expected), Some(found)) = (expected, found) {
                self.add(&format!("{name}, gradient {number}"), &expected.read(), &found.read())?;
            }
        }
        Ok(())
    }

    fn layers(&mut self) -> Result<(), ModelError> {
        self.linear()?;
        self.norms()?;
        let [x, x_there] = self.both(20, ROWS * WIDTH);
        let [dy, dy_there] = self.both(21, ROWS * WIDTH);
        for (name, activation) in [
            ("GELU by tanh", Activation::GeluTanh),
            ("GELU", Activation::Gelu),
            ("SiLU", Activation::Silu),
            ("ReLU", Activation::Relu),
        ] {
            let (y, y_there) = (activation.forward(&x), activation.forward(&x_there));
            self.add(name, &y.read(), &y_there.read())?;
            let (mut d, mut d_there) = (dy.clone(), dy_there.clone());
            activation.backward(&x, &mut d);
            activation.backward(&x_there, &mut d_there);
            self.add(&format!("{name}, backward"), &d.read(), &d_there.read())?;
        }
        self.embedding()
    }

    /// A linear layer with an adapter, into columns of longer rows.
    fn linear(&mut self) -> Result<(), ModelError> {
        let shapes: [&[usize]; 4] = [&[WIDER, WIDTH], &[WIDER], &[5, WIDTH], &[WIDER, 5]];
        let [host, there] = parameters(self.device, self.kind, &shapes);
        let mut linear = Linear::new(id(&host, 0), Some(id(&host, 1)), WIDTH, WIDER);
        linear.adapter = Some(crate::low_rank::LowRank {
            down: id(&host, 2),
            up: id(&host, 3),
            rank: 5,
            from: WIDTH,
            to: WIDER,
            scale: 0.5,
            dropout: 0.25,
        });
        let columns = Columns { first: 11, step: WIDER + 30 };
        let [x, x_there] = self.both(30, ROWS * WIDTH);
        let [mut y, mut y_there] = self.both(31, ROWS * columns.step);
        linear.forward_to(&pass(&host), &x, &mut y, columns, Onto::Numbers);
        linear.forward_to(&pass(&there), &x_there, &mut y_there, columns, Onto::Numbers);
        self.add("linear with adapter", &y.read(), &y_there.read())?;
        let [dy, dy_there] = self.both(32, ROWS * columns.step);
        let [mut dx, mut dx_there] = self.both(33, ROWS * WIDTH);
        let mut gradients = Gradients::zeros(&host);
        let mut gradients_there = Gradients::zeros(&there);
        linear.backward(&pass(&host), &mut gradients, &x, (&dy, columns), Some(&mut dx));
        let of = (&dy_there, columns);
        linear.backward(&pass(&there), &mut gradients_there, &x_there, of, Some(&mut dx_there));
        self.add("linear with adapter, backward", &dx.read(), &dx_there.read())?;
        Ok(self.add_gradients("linear with adapter", &gradients, &gradients_there)?)
    }

    fn norms(&mut self) -> Result<(), ModelError> {
        let [host, there] = parameters(self.device, self.kind, &[&[WIDTH], &[WIDTH]]);
        for (name, bias) in [("layer norm", Some(id(&host, 1))), ("RMS norm", None)] {
            let norm = Norm { weight: id(&host, 0), bias, epsilon: 1e-5, width: WIDTH };
            let [x, x_there] = self.both(40, ROWS * WIDTH);
            let y = norm.forward(&pass(&host), &x);
            let y_there = norm.forward(&pass(&there), &x_there);
            self.add(name, &y.read(), &y_there.read())?;
            let [dy, dy_there] = self.both(41, ROWS * WIDTH);
            let [mut dx, mut dx_there] = self.both(42, ROWS * WIDTH);
            let mut gradients = Gradients::zeros(&host);
            let mut gradients_there = Gradients::zeros(&there);
            norm.backward(&pass(&host), &mut gradients, &x, &dy, &mut dx);
            norm.backward(&pass(&there), &mut gradients_there, &x_there, &dy_there, &mut dx_there);
            self.add(&format!("{name}, backward"), &dx.read(), &dx_there.read())?;
            self.add_gradients(name, &gradients, &gradients_there)?;
        }
        Ok(())
    }

    fn embedding(&mut self) -> Result<(), ModelError> {
        let [host, there] = parameters(self.device, self.kind, &[&[50, WIDTH]]);
        let embedding = Embedding { table: id(&host, 0), width: WIDTH };
        let tokens: Vec<u32> = (0..ROWS as u32).map(|n| n * n % 50).collect();
        let x = embedding.forward(&pass(&host), &tokens);
        let x_there = embedding.forward(&pass(&there), &tokens);
        self.add("embedding", &x.read(), &x_there.read())?;
        let [dx, dx_there] = self.both(50, ROWS * WIDTH);
        let mut gradients = Gradients::zeros(&host);
        let mut gradients_there = Gradients::zeros(&there);
        embedding.backward(&mut gradients, &tokens, &dx);
        embedding.backward(&mut gradients_there, &tokens, &dx_there);
        Ok(self.add_gradients("embedding", &gradients, &gradients_there)?)
    }

    /// A small model: its states, scores and gradients, with all trained and with adapters, and what it reads
    /// and says token by token.
    fn model(&mut self, family: &str) -> Result<(), ModelError> {
        let kind = self.kind;
        let host = small(family, |number| match kind {
            Kind::Bf16 => bf16::from_f32(number).to_f32(),
            _ => number,
        })?;
        let on_device = |mut model: CausalLm| -> Result<CausalLm, ModelError> {
            model.move_to_device(self.device, self.kind)?;
            Ok(model)
        };
        let there = on_device(host.clone())?;
        // Rounding adds up from layer to layer.
        let bound = 5.0 * self.bound();
        let mut adapted = host.clone();
        let targets = ["query_key_value", "q_proj", "k_proj", "v_proj"].map(str::to_owned);
        let options = LoraOptions { rank: 4, alpha: 8.0, dropout: 0.1, targets: targets.into() };
        adapted.add_adapters(&options, 3)?;
        for parameter in adapted.parameters_mut().iter_mut().filter(|it| it.is_trained) {
            parameter.values = round(self.device, self.kind, &normal(7, parameter.count()));
            parameter.values.iter_mut().for_each(|value| *value *= 0.05);
            parameter.values = round(self.device, self.kind, &parameter.values);
        }
        let adapted_there = on_device(adapted.clone())?;
        for (name, host, there, keep) in [
            ("", &host, &there, Keep::All),
            (", recomputed", &host, &there, Keep::Inputs),
            (", adapted", &adapted, &adapted_there, Keep::All),
        ] {
            let expected = learnt(host, keep)?;
            let found = learnt(there, keep)?;
            let name = format!("{family}{name}");
            self.add_within(&format!("{name}, states"), bound, &expected.states, &found.states)?;
            self.add_within(&format!("{name}, scores"), bound, &expected.scores, &found.scores)?;
            // In single precision every gradient has its own scale; in half, sums that should be next to nothing
            // are made of rounding alone.
            let scale = |gradients: &Gradients| {
                let all = gradients.iter().flatten();
                all.flat_map(|it| it.read().iter().map(|x| x.abs()).collect::<Vec<_>>())
                    .fold(0f32, f32::max)
            };
            let most = f64::from(scale(&expected.gradients));
            let mut worst = 0f64;
            for (one, other) in expected.gradients.iter().zip(found.gradients.iter()) {
                if let (Some(one), Some(other)) = (one, other) {
                    let (one, other) = (one.read(), other.read());
                    let own = difference(&one, &other);
                    let size = one.iter().fold(0f32, |most, x| most.max(x.abs()));
                    let off = match self.kind {
                        Kind::F32 => own,
                        _ => own * f64::from(size) / most,
                    };
                    worst = if off.is_nan() { f64::NAN } else { worst.max(off) };
                }
            }
            self.device.check()?;
            let name = format!("{name}, gradients");
            self.found.push(Twin { name, kind: self.kind, difference: worst, bound });
        }
        let expected = read_on(&host)?;
        let found = read_on(&there)?;
        self.add_within(&format!("{family}, token by token"), bound, &expected, &found)?;
        if self.kind == Kind::F32 {
            for (name, temperature, tokens) in [("greedy", 0.0, 12), ("sampled", 0.8, 4)] {
                let expected = said(&host, temperature, tokens)?;
                let found = said(&there, temperature, tokens)?;
                let other = expected.iter().zip(&found).filter(|(one, other)| one != other).count();
                let difference = other as f64 / expected.len() as f64;
                let name = format!("{family}, {name} responses that differ");
                // Two tokens may be as probable as each other but for rounding.
                self.found.push(Twin { name, kind: self.kind, difference, bound: 0.1 });
            }
        }
        Ok(())
    }
}

/// The largest difference as a share of the largest number; NaN if anything is.
fn difference(expected: &[f32], found: &[f32]) -> f64 {
    if expected.len() != found.len() {
        return f64::INFINITY;
    }
    let most = expected.iter().fold(0f64, |most, x| most.max(f64::from(x.abs())));
    let mut worst = 0f64;
    for (expected, found) in expected.iter().zip(found) {
        let off = (f64::from(*expected) - f64::from(*found)).abs();
        if off.is_nan() {
            return f64::NAN;
        }
        worst = worst.max(off);
    }
    if worst == 0.0 { 0.0 } else { worst / most }
}

/// A model of a few layers that has learnt nothing, with 517 tokens. `round` gives the numbers that a GPU can
/// store.
///
/// # Errors
/// When there is no such family.
pub fn small(family: &str, round: impl Fn(f32) -> f32) -> Result<CausalLm, ModelError> {
    let sizes = Sizes {
        layers: 3,
        hidden: 96,
        heads: 6,
        key_value_heads: if family == "llama" { 2 } else { 6 },
        intermediate: 384,
        positions: 256,
    };
    let special = SpecialTokens { bos: 1, eos: 2, pad: 3 };
    let json = new_config(family, &sizes, VOCABULARY, special)?;
    let mut model = CausalLm::new(json, 11)?;
    for parameter in model.parameters_mut().iter_mut() {
        // Larger than those of a new model, so that attention and probabilities are not flat.
        let is_matrix = parameter.shape.len() > 1;
        let scale = if is_matrix { 6.0 } else { 1.0 };
        parameter.values.iter_mut().for_each(|value| *value = round(*value * scale));
    }
    Ok(model)
}

const VOCABULARY: usize = 517;

/// Sequences of several lengths, one of them empty.
fn texts() -> Vec<Vec<u32>> {
    let text = |count: u32, seed: u32| (0..count).map(|n| (n * n * 7 + seed) % 517).collect();
    vec![text(70, 3), text(1, 8), vec![], text(131, 5)]
}

struct Learnt {
    states: Vec<f32>,
    scores: Vec<f32>,
    gradients: Gradients,
}

/// A pass forward and backward, for the mean log-probability of all tokens.
fn learnt(model: &CausalLm, keep: Keep) -> Result<Learnt, ModelError> {
    let sequences = Sequences::new(&texts());
    let mut places = Vec::new();
    for range in sequences.ranges() {
        let next = range.clone().skip(1).map(|row| (row - 1, sequences.tokens()[row]));
        places.extend(next.map(|(row, next)| Place { row, next }));
    }
    let mut gradients = Gradients::zeros(model.parameters());
    let dropout = Dropout { seed: 4, step: 2, part: 0 };
    let forward = model.forward_in_training(sequences, keep, dropout)?;
    let states = forward.states().read().into_owned();
    let mut d_states = forward.states().zeros();
    let of = (forward.states(), &mut d_states);
    let grade = -1.0 / places.len() as f64;
    let scores = model.scores_backward(of, &places, &mut gradients, |_, _| grade)?;
    model.backward(forward, &d_states, &mut gradients);
    let scores = scores.iter().flat_map(|it| [it.log_probability as f32, it.entropy as f32]);
    Ok(Learnt { states, scores: scores.collect(), gradients })
}

/// States of sequences that are read in pieces, beside each other.
fn read_on(model: &CausalLm) -> Result<Vec<f32>, ModelError> {
    let texts = texts();
    let mut caches: Vec<_> = texts.iter().map(|_| model.kv_cache(3)).collect();
    let mut states = Vec::new();
    for piece in [0..40, 40..41, 41..42, 42..64, 64..65] {
        let mut rows: Vec<(&[u32], &mut crate::kv_cache::KvCache)> = Vec::new();
        for (text, cache) in texts.iter().zip(&mut caches) {
            let end = piece.end.min(text.len());
            rows.push((&text[piece.start.min(end)..end], cache));
        }
        states.extend_from_slice(&model.read_on(&mut rows)?.read());
    }
    Ok(states)
}

/// Responses to some prompts.
fn said(
    model: &CausalLm,
    temperature: f64,
    max_new_tokens: usize,
) -> Result<Vec<Vec<u32>>, ModelError> {
    let text = |n: u32| (0..=n * 3).map(|place| (place * 31 + n * 57) % 517).collect();
    let prompts: Vec<Vec<u32>> = (0..11).map(text).collect();
    let options = GenerateOptions {
        sampling: SamplingOptions { temperature, ..SamplingOptions::default() },
        max_new_tokens,
        rows_at_once: 4,
        ..GenerateOptions::default()
    };
    let generated = model.generate(&prompts, &options, &mut ());
    let generated = generated.map_err(|error| match error {
        crate::generate::GenerateError::Model(error) => error,
        other => ModelError::Adapter(other.to_string()),
    })?;
    Ok(generated.into_iter().flatten().map(|it| it.tokens).collect())
}

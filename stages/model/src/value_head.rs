//! A value head: from the state before a token to the return that is expected from there on.

use crate::array::Array;
use crate::causal_lm::CausalLm;
use crate::layers::{Activation, Columns, Linear, Pass};
use crate::parameters::{Gradients, Parameter, ParameterId, Parameters};
use crate::random::{Purpose, Random};
use crate::row_product::Product;

/// What the names of its parameters begin with, as in trlx.
pub(crate) const PREFIX: &str = "v_head.";

/// `W2 relu(W1 h + b1) + b2`, with `2 C` numbers between the two layers.
///
/// Its parameters are the last of the model that it stands on, so that gradients, the optimiser and
/// checkpoints have them as they have all others. It holds only their places, so that a loss keeps it while a
/// training changes them.
///
/// # Sources
/// The released code of Okapi trains with trlx's, which is this one in single precision; the paper (Lai et al.,
/// 2023, section 3) says nothing of it.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueHead {
    /// From `C` numbers to `2 C`.
    inner: Linear,
    /// From `2 C` numbers to one.
    outer: Linear,
}

impl ValueHead {
    /// Gives a model one that has learnt nothing: weights and biases are uniform up to `1 / sqrt(width)` either
    /// way, as PyTorch's linear layers begin, with the width of what they read.
    pub fn add(model: &mut CausalLm, seed: u64) -> ValueHead {
        let width = model.hidden();
        let mut stream = 0;
        let mut push = |name: &str, shape: &[usize], from: usize| -> ParameterId {
            // Streams of the second number 0 are those of a new model's weights, of 1 those of adapters, of 2
            // that of a reward model's head.
            let mut random = Random::new(seed, Purpose::Weights, stream, 3);
            stream += 1;
            let most = (from as f64).sqrt().recip();
            let count = shape.iter().product();
            let values = (0..count).map(|_| ((2.0 * random.uniform() - 1.0) * most) as f32);
            let parameter =
                Parameter::new(format!("{PREFIX}{name}"), shape.to_vec(), values.collect());
            model.parameters_mut().push(parameter)
        };
        let mut linear = |name: &str, from: usize, to: usize| {
            let weight = push(&format!("{name}.weight"), &[to, from], from);
            let bias = push(&format!("{name}.bias"), &[to], from);
            Linear::new(weight, Some(bias), from, to)
        };
        let head =
            ValueHead { inner: linear("0", width, 2 * width), outer: linear("2", 2 * width, 1) };
        model.bring_head(PREFIX);
        head
    }

    /// Takes it away from the model that it stands on.
    pub fn remove(self, model: &mut CausalLm) {
        model.parameters_mut().pop_while(|parameter| parameter.name.starts_with(PREFIX));
    }

    /// The values of some rows of states.
    ///
    /// # Shapes
    /// `states`: `[T, C]`, as of [`Forward::states`](crate::Forward::states); one number for each of `rows`.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn read(&self, parameters: &Parameters, states: &Array, rows: &[usize]) -> Vec<f64> {
        let pass = pass(parameters);
        let read = states.gathered(self.inner.from, rows).in_single(); // [R, C]
        let middle = Activation::Relu.forward(&self.inner.forward(&pass, &read)); // [R, 2 C]
        self.outer.forward(&pass, &middle).read().iter().copied().map(f64::from).collect()
    }

    /// Adds to the gradients of the head and of the states, given the loss's derivative by each value that was
    /// read. The layer between is computed again.
    ///
    /// # Shapes
    /// `states` and their gradient: `[T, C]`; `grades`: a number for each of `rows`.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn backward(
        &self,
        parameters: &Parameters,
        gradients: &mut Gradients,
        (states, d_states): (&Array, &mut Array),
        rows: &[usize],
        grades: &[f64],
    ) {
        let pass = pass(parameters);
        let width = self.inner.from;
        let read = states.gathered(width, rows).in_single(); // [R, C]
        let inner = self.inner.forward(&pass, &read); // [R, 2 C]
        let middle = Activation::Relu.forward(&inner);
        let d_values = read.beside(grades.iter().map(|grade| *grade as f32).collect()); // [R]
        let mut d_middle = middle.zeros();
        let of = (&d_values, Columns::all(1));
        self.outer.backward(&pass, gradients, &middle, of, Some(&mut d_middle));
        Activation::Relu.backward(&inner, &mut d_middle);
        let mut d_read = read.zeros();
        let of = (&d_middle, Columns::all(self.inner.to));
        self.inner.backward(&pass, gradients, &read, of, Some(&mut d_read));
        d_states.add_rows(width, rows, &d_read.in_kind_of(d_states));
    }
}

fn pass(parameters: &Parameters) -> Pass<'_> {
    Pass { parameters, dropout: None, product: Product::InBlocks }
}

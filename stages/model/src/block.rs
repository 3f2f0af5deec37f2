//! One block of a model: attention and an MLP around the residual stream. The parts of all families are the
//! same; how they are put together is not.

use crate::array::Array;
use crate::attention::{Attention, Heads, Sequences};
use crate::kv_cache::{self, KvLayer};
use crate::layers::{Activation, Columns, Linear, Norm, Onto, Pass};
use crate::on_device::DevicePass;
use crate::parameters::{Gradients, ParameterId};
use crate::positions::{Direction, Rotation};

/// The layers of a block.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) attention_norm: Norm,
    /// What makes queries, keys and values, each with its first column in their rows: one layer
    /// for all, or three.
    pub(crate) queries_keys_values: Vec<(Linear, usize)>,
    pub(crate) attention_out: Linear,
    pub(crate) mlp_norm: Norm,
    pub(crate) mlp: Mlp,
    pub(crate) wiring: Wiring,
}

/// Up, a function, down. With a gate: `down(function(gate(x)) * up(x))`.
#[derive(Debug, Clone)]
pub(crate) struct Mlp {
    pub(crate) gate: Option<Linear>,
    pub(crate) up: Linear,
    pub(crate) activation: Activation,
    pub(crate) down: Linear,
}

/// How a block's two halves meet the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wiring {
    /// One after the other.
    Sequential,
    /// One after the other, and what is added to is the normed stream.
    AfterNorm,
    /// Both read the same stream.
    Parallel,
}

/// How attention is told where a token stands.
#[derive(Debug, Clone)]
pub(crate) enum Positions {
    /// ALiBi, with its slopes.
    Alibi(Vec<f32>),
    /// By turning.
    Rotary(Rotation),
}

/// What all blocks of a model have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) pass: Pass<'a>,
    pub(crate) heads: Heads,
    pub(crate) positions: &'a Positions,
    pub(crate) sequences: &'a Sequences,
    /// The place of each token in its sequence, those that a cache holds counted.
    pub(crate) places: &'a [usize],
    /// Where the model is on a GPU.
    pub(crate) device: Option<&'a DevicePass<'a>>,
}

/// What the backward pass needs of the forward one, beside what went in. Norms and activations are
/// computed again: they cost little, and would take half of the memory.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    /// Queries, keys and values, turned.
    rows: Array,
    attended: Array,
    /// The stream between the two halves; empty where both read the same.
    middle: Array,
    /// What the activation read.
    inner: Array,
    /// What it was multiplied with, with a gate.
    up: Array,
}

impl Context<'_> {
    fn attention(&self) -> Attention<'_> {
        let slopes = match self.positions {
            Positions::Alibi(slopes) => Some(&slopes[..]),
            Positions::Rotary(_) => None,
        };
        Attention { heads: self.heads, slopes }
    }

    fn turn(&self, rows: &mut Array, direction: Direction) {
        match (rows, self.device, self.positions) {
            (rows @ Array::Device(_), Some(device), _) => device.turn(rows, direction),
            (Array::Host(rows), _, Positions::Rotary(rotation)) => {
                rotation.apply(rows, self.places, self.heads, direction);
            }
            _ => {}
        }
    }

    /// What every token gets from those before it. With caches, keys and values are added to them first.
    fn attend(&self, rows: &Array, caches: Option<&mut [&mut KvLayer]>) -> Array {
        let Some(device) = self.device else {
            let rows = rows.host();
            let caches = caches.map(|caches| kv_cache::of_host(caches));
            let caches = caches.map(|mut caches| {
                let row = self.heads.row;
                for (range, cache) in self.sequences.ranges().zip(&mut caches) {
                    cache.append(&rows[range.start * row..range.end * row], self.heads);
                }
                caches
            });
            return Array::Host(self.attention().forward(rows, self.sequences, caches.as_deref()));
        };
        let caches = caches.map(|caches| {
            let mut caches = kv_cache::of_device(caches);
            device.append(rows, &mut caches);
            caches.into_iter().map(|cache| &*cache).collect::<Vec<_>>()
        });
        device.attend(rows, caches.as_deref())
    }

    /// The gradient of the rows, given that of what tokens got.
    fn attend_backward(&self, rows: &Array, d_attended: &Array) -> Array {
        match self.device {
            Some(device) => device.attend_backward(rows, d_attended),
            None => {
                let (rows, d_attended) = (rows.host(), d_attended.host());
                Array::Host(self.attention().backward(rows, self.sequences, d_attended))
            }
        }
    }
}

impl Block {
    /// Its parameters.
    pub(crate) fn parameters(&self) -> Vec<ParameterId> {
        let norms = [&self.attention_norm, &self.mlp_norm];
        let norms = norms.into_iter().flat_map(|norm| [Some(norm.weight), norm.bias]);
        let linears = self.linears().into_iter().flat_map(Linear::parameters);
        norms.flatten().chain(linears).collect()
    }

    /// Its linear layers.
    pub(crate) fn linears(&self) -> Vec<&Linear> {
        let three = self.queries_keys_values.iter().map(|(linear, _)| linear);
        three.chain([&self.attention_out]).chain(self.mlp.linears()).collect()
    }

    /// Its linear layers, to be given adapters.
    pub(crate) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let three = self.queries_keys_values.iter_mut().map(|(linear, _)| linear);
        let others = [&mut self.attention_out, &mut self.mlp.up, &mut self.mlp.down];
        three.chain(others).chain(&mut self.mlp.gate).collect()
    }

    /// The stream after the block, and what its backward pass needs. With caches, one a sequence, keys
    /// and values are added to them, and the tokens also attend to what was there before.
    pub(crate) fn forward(
        &self,
        context: &Context<'_>,
        x: &Array,
        caches: Option<&mut [&mut KvLayer]>,
    ) -> (Array, Trace) {
        let (reads, mut y, mut trace) = self.attend(context, x, caches);
        let pass = &context.pass;
        (trace.inner, trace.up) = self.mlp.inner(pass, &reads);
        let middle = self.mlp.middle(&trace.inner, &trace.up);
        let all = Columns::all(self.mlp.down.to);
        self.mlp.down.forward_to(pass, &middle, &mut y, all, Onto::Numbers);
        (y, trace)
    }

    /// What the backward pass needs, computed again. The MLP's last product is not among it.
    pub(crate) fn trace(&self, context: &Context<'_>, x: &Array) -> Trace {
        let (reads, _, mut trace) = self.attend(context, x, None);
        (trace.inner, trace.up) = self.mlp.inner(&context.pass, &reads);
        trace
    }

    /// The first half: what the MLP reads, what its result is added to, and a trace without its part.
    fn attend(
        &self,
        context: &Context<'_>,
        x: &Array,
        caches: Option<&mut [&mut KvLayer]>,
    ) -> (Array, Array, Trace) {
        let pass = &context.pass;
        let normed = self.attention_norm.forward(pass, x);
        let row = context.heads.row;
        let mut rows = x.room(context.places.len() * row);
        for (linear, first) in &self.queries_keys_values {
            let columns = Columns { first: *first, step: row };
            linear.forward_to(pass, &normed, &mut rows, columns, Onto::Room);
        }
        context.turn(&mut rows, Direction::Forward);
        let attended = context.attend(&rows, caches);
        let mut middle = match self.wiring {
            Wiring::Sequential | Wiring::Parallel => x.clone(),
            Wiring::AfterNorm => normed,
        };
        let all = Columns::all(self.attention_out.to);
        self.attention_out.forward_to(pass, &attended, &mut middle, all, Onto::Numbers);
        let y;
        let mlp_reads = match self.wiring {
            Wiring::Sequential => {
                y = middle.clone();
                self.mlp_norm.forward(pass, &middle)
            }
            Wiring::AfterNorm => {
                y = self.mlp_norm.forward(pass, &middle);
                y.clone()
            }
            Wiring::Parallel => {
                y = std::mem::take(&mut middle);
                self.mlp_norm.forward(pass, x)
            }
        };
        let [inner, up] = [(); 2].map(|()| Array::default());
        (mlp_reads, y, Trace { rows, attended, middle, inner, up })
    }

    /// The gradient of the stream before the block, given that after it. Where nothing below learns it is
    /// not needed, and what would be computed for it alone is left out.
    pub(crate) fn backward(
        &self,
        context: &Context<'_>,
        gradients: &mut Gradients,
        x: &Array,
        trace: &Trace,
        (dy, is_needed): (Array, bool),
    ) -> Array {
        let pass = &context.pass;
        let stream = if self.wiring == Wiring::Parallel { x } else { &trace.middle };
        let mut d_reads = x.zeros();
        // Beside the attention the MLP is a way to the input alone.
        let passes_mlp = is_needed
            || self.wiring != Wiring::Parallel
            || self.mlp_norm.is_trained(gradients)
            || self.mlp.linears().any(|linear| linear.is_trained(gradients));
        if passes_mlp {
            let mlp_reads = self.mlp_norm.forward(pass, stream);
            let kept = (&trace.inner, &trace.up);
            self.mlp.backward(pass, gradients, &mlp_reads, kept, &dy, &mut d_reads);
        }
        // From here on `d` is the gradient of the stream between the halves; where both read the same,
        // that of what they were added to.
        let mut d = dy;
        let mut dx = Array::default();
        match self.wiring {
            Wiring::Sequential => {
                self.mlp_norm.backward(pass, gradients, stream, &d_reads, &mut d);
            }
            Wiring::AfterNorm => {
                d_reads.add(&d);
                d.clear();
                self.mlp_norm.backward(pass, gradients, stream, &d_reads, &mut d);
            }
            Wiring::Parallel => {
                dx = d.clone();
                if passes_mlp {
                    self.mlp_norm.backward(pass, gradients, stream, &d_reads, &mut dx);
                }
            }
        }
        let mut d_attended = trace.attended.zeros();
        let of = (&d, Columns::all(self.attention_out.to));
        self.attention_out.backward(pass, gradients, &trace.attended, of, Some(&mut d_attended));
        let mut d_rows = context.attend_backward(&trace.rows, &d_attended);
        drop(d_attended);
        context.turn(&mut d_rows, Direction::Back);
        let normed = self.attention_norm.forward(pass, x);
        let mut d_normed = d_reads;
        match self.wiring {
            // What the halves were added to is the normed stream itself.
            Wiring::AfterNorm => {
                dx = std::mem::replace(&mut d_normed, d);
                dx.clear();
            }
            Wiring::Sequential => {
                d_normed.clear();
                dx = d;
            }
            Wiring::Parallel => d_normed.clear(),
        }
        let passes_norm = is_needed || self.attention_norm.is_trained(gradients);
        for (linear, first) in &self.queries_keys_values {
            let of = (&d_rows, Columns { first: *first, step: context.heads.row });
            let d_normed = passes_norm.then_some(&mut d_normed);
            linear.backward(pass, gradients, &normed, of, d_normed);
        }
        if passes_norm {
            self.attention_norm.backward(pass, gradients, x, &d_normed, &mut dx);
        }
        dx
    }
}

impl Mlp {
    fn linears(&self) -> impl Iterator<Item = &Linear> {
        [&self.up, &self.down].into_iter().chain(&self.gate)
    }

    /// What the activation reads, and with a gate what it is multiplied with.
    fn inner(&self, pass: &Pass<'_>, x: &Array) -> (Array, Array) {
        let up = self.up.forward(pass, x);
        match &self.gate {
            None => (up, Array::default()),
            Some(gate) => (gate.forward(pass, x), up),
        }
    }

    fn middle(&self, inner: &Array, up: &Array) -> Array {
        let mut middle = self.activation.forward(inner);
        if self.gate.is_some() {
            middle.scale_by(up);
        }
        middle
    }

    fn backward(
        &self,
        pass: &Pass<'_>,
        gradients: &mut Gradients,
        x: &Array,
        (inner, up): (&Array, &Array),
        dy: &Array,
        dx: &mut Array,
    ) {
        let middle = self.middle(inner, up);
        let mut d_middle = middle.zeros();
        let of = (dy, Columns::all(self.down.to));
        self.down.backward(pass, gradients, &middle, of, Some(&mut d_middle));
        if let Some(gate) = &self.gate {
            drop(middle);
            let mut d_up = self.activation.forward(inner);
            d_up.scale_by(&d_middle);
            let of = (&d_up, Columns::all(self.up.to));
            self.up.backward(pass, gradients, x, of, Some(&mut *dx));
            d_middle.scale_by(up);
            self.activation.backward(inner, &mut d_middle);
            let of = (&d_middle, Columns::all(gate.to));
            gate.backward(pass, gradients, x, of, Some(dx));
        } else {
            self.activation.backward(inner, &mut d_middle);
            let of = (&d_middle, Columns::all(self.up.to));
            self.up.backward(pass, gradients, x, of, Some(dx));
        }
    }
}

//! One block of a model: attention and an MLP around the residual stream. The parts of all families are the
//! same; how they are put together is not.

use crate::attention::{Attention, Heads, Sequences};
use crate::kv_cache::KvLayer;
use crate::layers::{Activation, Linear, Norm, Pass, add, scale_by};
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
}

/// What the backward pass needs of the forward one, beside what went in. Norms and activations are
/// computed again: they cost little, and would take half of the memory.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    /// Queries, keys and values, turned.
    rows: Vec<f32>,
    attended: Vec<f32>,
    /// The stream between the two halves; empty where both read the same.
    middle: Vec<f32>,
    /// What the activation read.
    inner: Vec<f32>,
    /// What it was multiplied with, with a gate.
    up: Vec<f32>,
}

impl Context<'_> {
    fn attention(&self) -> Attention<'_> {
        let slopes = match self.positions {
            Positions::Alibi(slopes) => Some(&slopes[..]),
            Positions::Rotary(_) => None,
        };
        Attention { heads: self.heads, slopes }
    }

    fn turn(&self, rows: &mut [f32], direction: Direction) {
        if let Positions::Rotary(rotation) = self.positions {
            rotation.apply(rows, self.places, self.heads, direction);
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
        x: &[f32],
        caches: Option<&mut [&mut KvLayer]>,
    ) -> (Vec<f32>, Trace) {
        let pass = &context.pass;
        let normed = self.attention_norm.forward(pass, x);
        let row = context.heads.row;
        let mut rows = vec![0.0; context.places.len() * row];
        for (linear, column) in &self.queries_keys_values {
            if let Some(rows) = rows.get_mut(*column..) {
                linear.forward_to(pass, &normed, rows, row);
            }
        }
        context.turn(&mut rows, Direction::Forward);
        let caches = caches.map(|caches| {
            for (range, cache) in context.sequences.ranges().zip(caches.iter_mut()) {
                cache.append(&rows[range.start * row..range.end * row], context.heads);
            }
            &*caches
        });
        let attended = context.attention().forward(&rows, context.sequences, caches);
        let mut middle = match self.wiring {
            Wiring::Sequential | Wiring::Parallel => x.to_vec(),
            Wiring::AfterNorm => normed,
        };
        let width = self.attention_out.to;
        self.attention_out.forward_to(pass, &attended, &mut middle, width);
        let mut y;
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
        let (inner, up) = self.mlp.forward_to(pass, &mlp_reads, &mut y);
        (y, Trace { rows, attended, middle, inner, up })
    }

    /// The gradient of the stream before the block, given that after it. Where nothing below learns it is
    /// not needed, and what would be computed for it alone is left out.
    pub(crate) fn backward(
        &self,
        context: &Context<'_>,
        gradients: &mut Gradients,
        x: &[f32],
        trace: &Trace,
        (dy, is_needed): (Vec<f32>, bool),
    ) -> Vec<f32> {
        let pass = &context.pass;
        let stream = if self.wiring == Wiring::Parallel { x } else { &trace.middle };
        let mut d_reads = vec![0.0; x.len()];
        // Beside the attention the MLP is a way to the input alone.
        let passes_mlp = is_needed
            || self.wiring != Wiring::Parallel
            || self.mlp_norm.is_trained(gradients)
            || self.mlp.linears().any(|linear| linear.is_trained(gradients));
        if passes_mlp {
            let mlp_reads = self.mlp_norm.forward(pass, stream);
            let kept = (&trace.inner[..], &trace.up[..]);
            self.mlp.backward(pass, gradients, &mlp_reads, kept, &dy, &mut d_reads);
        }
        // From here on `d` is the gradient of the stream between the halves; where both read the same,
        // that of what they were added to.
        let mut d = dy;
        let mut dx = Vec::new();
        match self.wiring {
            Wiring::Sequential => {
                self.mlp_norm.backward(pass, gradients, stream, &d_reads, &mut d);
            }
            Wiring::AfterNorm => {
                add(&mut d_reads, &d);
                d.fill(0.0);
                self.mlp_norm.backward(pass, gradients, stream, &d_reads, &mut d);
            }
            Wiring::Parallel => {
                dx = d.clone();
                if passes_mlp {
                    self.mlp_norm.backward(pass, gradients, stream, &d_reads, &mut dx);
                }
            }
        }
        let mut d_attended = vec![0.0; trace.attended.len()];
        let width = self.attention_out.to;
        let of = (&d[..], width);
        let d_out = Some(&mut d_attended[..]);
        self.attention_out.backward(pass, gradients, &trace.attended, of, d_out);
        let mut d_rows = context.attention().backward(&trace.rows, context.sequences, &d_attended);
        drop(d_attended);
        context.turn(&mut d_rows, Direction::Back);
        let normed = self.attention_norm.forward(pass, x);
        let mut d_normed = d_reads;
        match self.wiring {
            // What the halves were added to is the normed stream itself.
            Wiring::AfterNorm => {
                d_normed.copy_from_slice(&d);
                d.fill(0.0);
                dx = d;
            }
            Wiring::Sequential => {
                d_normed.fill(0.0);
                dx = d;
            }
            Wiring::Parallel => d_normed.fill(0.0),
        }
        let passes_norm = is_needed || self.attention_norm.is_trained(gradients);
        for (linear, column) in &self.queries_keys_values {
            if let Some(d_rows) = d_rows.get(*column..) {
                let of = (d_rows, context.heads.row);
                let d_normed = passes_norm.then_some(&mut d_normed[..]);
                linear.backward(pass, gradients, &normed, of, d_normed);
            }
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

    /// Adds to `y`. Gives what the activation read, and with a gate what it was multiplied with.
    fn forward_to(&self, pass: &Pass<'_>, x: &[f32], y: &mut [f32]) -> (Vec<f32>, Vec<f32>) {
        let up = self.up.forward(pass, x);
        let (inner, up) = match &self.gate {
            None => (up, Vec::new()),
            Some(gate) => (gate.forward(pass, x), up),
        };
        let middle = self.middle(&inner, &up);
        self.down.forward_to(pass, &middle, y, self.down.to);
        (inner, up)
    }

    fn middle(&self, inner: &[f32], up: &[f32]) -> Vec<f32> {
        let mut middle = self.activation.forward(inner);
        if self.gate.is_some() {
            scale_by(&mut middle, up);
        }
        middle
    }

    fn backward(
        &self,
        pass: &Pass<'_>,
        gradients: &mut Gradients,
        x: &[f32],
        (inner, up): (&[f32], &[f32]),
        dy: &[f32],
        dx: &mut [f32],
    ) {
        let middle = self.middle(inner, up);
        let mut d_middle = vec![0.0; middle.len()];
        let of = (dy, self.down.to);
        self.down.backward(pass, gradients, &middle, of, Some(&mut d_middle));
        if let Some(gate) = &self.gate {
            let mut d_up = middle;
            d_up.copy_from_slice(&self.activation.forward(inner));
            scale_by(&mut d_up, &d_middle);
            self.up.backward(pass, gradients, x, (&d_up, self.up.to), Some(&mut *dx));
            scale_by(&mut d_middle, up);
            self.activation.backward(inner, &mut d_middle);
            gate.backward(pass, gradients, x, (&d_middle, gate.to), Some(dx));
        } else {
            self.activation.backward(inner, &mut d_middle);
            self.up.backward(pass, gradients, x, (&d_middle, self.up.to), Some(dx));
        }
    }
}

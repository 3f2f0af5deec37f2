//! A language model with its weights: tokens in, logits out. One forward for all uses.

use std::path::Path;

use crate::attention::{Heads, Rotation, Sequences, alibi_slopes, attend};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::config::{BloomConfig, ConfigError, GptNeoxConfig, LlamaConfig, ModelConfig};
use crate::layers::{Linear, Norm, add, embed, gelu, gelu_tanh, map, silu};

/// A model that cannot be made of a folder.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Its sizes.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its weights.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A token that it has no row for.
    #[error("the token {token} is not among the {vocabulary} of the model")]
    Token {
        /// The token.
        token: u32,
        /// How many there are.
        vocabulary: usize,
    },
}

/// A language model of any family.
#[derive(Debug, Clone)]
pub struct CausalLm {
    config: ModelConfig,
    embedding: Vec<f32>,
    hidden: usize,
    vocabulary: usize,
    /// BLOOM has a norm after the embedding.
    embedding_norm: Option<Norm>,
    blocks: Vec<Block>,
    norm: Norm,
    /// None if it is the embedding.
    head: Option<Vec<f32>>,
    heads: Heads,
    positions: Positions,
}

/// How attention is told where a token stands.
#[derive(Debug, Clone)]
enum Positions {
    Alibi(Vec<f32>),
    Rotary(Rotation),
}

/// One block. The parts of all families are the same; how they are put together is not.
#[derive(Debug, Clone)]
struct Block {
    attention_norm: Norm,
    /// Queries, keys and values at once.
    queries_keys_values: Linear,
    attention_out: Linear,
    mlp_norm: Norm,
    mlp: Mlp,
    wiring: Wiring,
}

#[derive(Debug, Clone)]
enum Mlp {
    /// Up, a function, down.
    Plain { up: Linear, function: fn(f32) -> f32, down: Linear },
    /// `down(silu(gate(x)) * up(x))`.
    Gated { gate: Linear, up: Linear, down: Linear },
}

/// How a block's two halves meet the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wiring {
    /// One after the other.
    Sequential,
    /// One after the other, and what is added to is the normed stream.
    AfterNorm,
    /// Both read the same stream.
    Parallel,
}

/// Reads weights by name.
struct Weights<'a>(&'a Checkpoint);

impl Weights<'_> {
    fn tensor(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        self.0.read(name)
    }

    fn linear(&self, name: &str, with_bias: bool) -> Result<Linear, CheckpointError> {
        let weight = format!("{name}.weight");
        let (to, from) = match self.0.shape(&weight)? {
            [to, from] => (*to, *from),
            _ => return Err(CheckpointError::Unknown(weight)),
        };
        let bias = if with_bias { Some(self.tensor(&format!("{name}.bias"))?) } else { None };
        Ok(Linear { weight: self.tensor(&weight)?, bias, from, to })
    }

    fn layer_norm(&self, name: &str, epsilon: f64) -> Result<Norm, CheckpointError> {
        let bias = Some(self.tensor(&format!("{name}.bias"))?);
        Ok(Norm { weight: self.tensor(&format!("{name}.weight"))?, bias, epsilon })
    }

    fn rms_norm(&self, name: &str, epsilon: f64) -> Result<Norm, CheckpointError> {
        Ok(Norm { weight: self.tensor(&format!("{name}.weight"))?, bias: None, epsilon })
    }

    /// Several linear layers of one input as one.
    fn joined(&self, names: &[String]) -> Result<Linear, CheckpointError> {
        let mut joined = self.linear(&names[0], false)?;
        for name in &names[1..] {
            let next = self.linear(name, false)?;
            joined.weight.extend_from_slice(&next.weight);
            joined.to += next.to;
        }
        Ok(joined)
    }
}

impl CausalLm {
    /// Reads a model's folder.
    ///
    /// # Errors
    /// When its sizes or its weights are not those of a model.
    pub fn open(folder: &Path) -> Result<CausalLm, ModelError> {
        let config = ModelConfig::read(folder)?;
        let checkpoint = Checkpoint::open(folder, &config)?;
        let weights = Weights(&checkpoint);
        let model = match config.clone() {
            ModelConfig::Bloom(sizes) => bloom(config, &sizes, &weights),
            ModelConfig::Llama(sizes) => llama(config, &sizes, &weights),
            ModelConfig::GptNeox(sizes) => gpt_neox(config, &sizes, &weights),
        };
        Ok(model?)
    }

    /// The family and the sizes.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Tokens that it has logits for.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The logits after every token: `vocabulary` numbers each, in the order of the tokens.
    ///
    /// # Errors
    /// At the first token that the model has no row for.
    pub fn logits(&self, sequences: &Sequences) -> Result<Vec<f32>, ModelError> {
        let states = self.states(sequences)?;
        let weight = self.head.as_ref().unwrap_or(&self.embedding);
        let head =
            Linear { weight: weight.clone(), bias: None, from: self.hidden, to: self.vocabulary };
        Ok(head.forward(&states))
    }

    /// The normed states after the last block, `hidden` numbers a token.
    fn states(&self, sequences: &Sequences) -> Result<Vec<f32>, ModelError> {
        let vocabulary = self.vocabulary;
        let unknown = |token: &&u32| **token as usize >= vocabulary;
        if let Some(&token) = sequences.tokens().iter().find(unknown) {
            return Err(ModelError::Token { token, vocabulary });
        }
        let mut x = embed(&self.embedding, self.hidden, sequences.tokens());
        if let Some(norm) = &self.embedding_norm {
            x = norm.forward(&x);
        }
        let positions = sequences.positions();
        for block in &self.blocks {
            x = self.block(block, x, sequences, &positions);
        }
        Ok(self.norm.forward(&x))
    }

    fn block(
        &self,
        block: &Block,
        mut x: Vec<f32>,
        sequences: &Sequences,
        positions: &[usize],
    ) -> Vec<f32> {
        let normed = block.attention_norm.forward(&x);
        let mut rows = block.queries_keys_values.forward(&normed);
        let slopes = match &self.positions {
            Positions::Alibi(slopes) => Some(&slopes[..]),
            Positions::Rotary(rotation) => {
                rotation.apply(&mut rows, positions, self.heads);
                None
            }
        };
        let attended = attend(&rows, sequences, self.heads, slopes);
        let attended = block.attention_out.forward(&attended);
        match block.wiring {
            Wiring::Parallel => {
                let mlp = block.mlp.forward(&block.mlp_norm.forward(&x));
                add(&mut x, &attended);
                add(&mut x, &mlp);
            }
            Wiring::Sequential => {
                add(&mut x, &attended);
                let mlp = block.mlp.forward(&block.mlp_norm.forward(&x));
                add(&mut x, &mlp);
            }
            Wiring::AfterNorm => {
                x = normed;
                add(&mut x, &attended);
                x = block.mlp_norm.forward(&x);
                let mlp = block.mlp.forward(&x);
                add(&mut x, &mlp);
            }
        }
        x
    }
}

impl Mlp {
    fn forward(&self, x: &[f32]) -> Vec<f32> {
        match self {
            Mlp::Plain { up, function, down } => {
                let mut wide = up.forward(x);
                map(&mut wide, function);
                down.forward(&wide)
            }
            Mlp::Gated { gate, up, down } => {
                let mut wide = gate.forward(x);
                map(&mut wide, silu);
                wide.iter_mut().zip(up.forward(x)).for_each(|(gate, up)| *gate *= up);
                down.forward(&wide)
            }
        }
    }
}

fn bloom(
    config: ModelConfig,
    sizes: &BloomConfig,
    weights: &Weights<'_>,
) -> Result<CausalLm, CheckpointError> {
    let epsilon = sizes.norm_epsilon;
    let block = |layer: usize| {
        let of = |name: &str| format!("transformer.h.{layer}.{name}");
        Ok(Block {
            attention_norm: weights.layer_norm(&of("input_layernorm"), epsilon)?,
            queries_keys_values: weights.linear(&of("self_attention.query_key_value"), true)?,
            attention_out: weights.linear(&of("self_attention.dense"), true)?,
            mlp_norm: weights.layer_norm(&of("post_attention_layernorm"), epsilon)?,
            mlp: Mlp::Plain {
                up: weights.linear(&of("mlp.dense_h_to_4h"), true)?,
                function: gelu_tanh,
                down: weights.linear(&of("mlp.dense_4h_to_h"), true)?,
            },
            wiring: match sizes.residual_after_norm {
                true => Wiring::AfterNorm,
                false => Wiring::Sequential,
            },
        })
    };
    let norm = weights.layer_norm("transformer.word_embeddings_layernorm", epsilon)?;
    Ok(CausalLm {
        config,
        embedding: weights.tensor("transformer.word_embeddings.weight")?,
        hidden: sizes.hidden,
        vocabulary: sizes.vocabulary,
        embedding_norm: Some(norm),
        blocks: (0..sizes.layers).map(block).collect::<Result<_, CheckpointError>>()?,
        norm: weights.layer_norm("transformer.ln_f", epsilon)?,
        head: if sizes.tied { None } else { Some(weights.tensor("lm_head.weight")?) },
        heads: fused_heads(sizes.hidden, sizes.heads),
        positions: Positions::Alibi(alibi_slopes(sizes.heads)),
    })
}

fn llama(
    config: ModelConfig,
    sizes: &LlamaConfig,
    weights: &Weights<'_>,
) -> Result<CausalLm, CheckpointError> {
    let epsilon = sizes.norm_epsilon;
    let block = |layer: usize| {
        let of = |name: &str| format!("model.layers.{layer}.{name}");
        let three = ["q_proj", "k_proj", "v_proj"].map(|name| of(&format!("self_attn.{name}")));
        Ok(Block {
            attention_norm: weights.rms_norm(&of("input_layernorm"), epsilon)?,
            queries_keys_values: weights.joined(&three)?,
            attention_out: weights.linear(&of("self_attn.o_proj"), false)?,
            mlp_norm: weights.rms_norm(&of("post_attention_layernorm"), epsilon)?,
            mlp: Mlp::Gated {
                gate: weights.linear(&of("mlp.gate_proj"), false)?,
                up: weights.linear(&of("mlp.up_proj"), false)?,
                down: weights.linear(&of("mlp.down_proj"), false)?,
            },
            wiring: Wiring::Sequential,
        })
    };
    Ok(CausalLm {
        config,
        embedding: weights.tensor("model.embed_tokens.weight")?,
        hidden: sizes.hidden,
        vocabulary: sizes.vocabulary,
        embedding_norm: None,
        blocks: (0..sizes.layers).map(block).collect::<Result<_, CheckpointError>>()?,
        norm: weights.rms_norm("model.norm", epsilon)?,
        head: if sizes.tied { None } else { Some(weights.tensor("lm_head.weight")?) },
        heads: Heads {
            queries: sizes.heads,
            pairs: sizes.key_value_heads,
            width: sizes.head,
            row: (sizes.heads + 2 * sizes.key_value_heads) * sizes.head,
            interleaved: false,
        },
        positions: Positions::Rotary(Rotation::new(
            sizes.head,
            sizes.rope_base,
            sizes.rope_scaling,
        )),
    })
}

fn gpt_neox(
    config: ModelConfig,
    sizes: &GptNeoxConfig,
    weights: &Weights<'_>,
) -> Result<CausalLm, CheckpointError> {
    let epsilon = sizes.norm_epsilon;
    let block = |layer: usize| {
        let of = |name: &str| format!("gpt_neox.layers.{layer}.{name}");
        Ok(Block {
            attention_norm: weights.layer_norm(&of("input_layernorm"), epsilon)?,
            queries_keys_values: weights.linear(&of("attention.query_key_value"), true)?,
            attention_out: weights.linear(&of("attention.dense"), true)?,
            mlp_norm: weights.layer_norm(&of("post_attention_layernorm"), epsilon)?,
            mlp: Mlp::Plain {
                up: weights.linear(&of("mlp.dense_h_to_4h"), true)?,
                function: gelu,
                down: weights.linear(&of("mlp.dense_4h_to_h"), true)?,
            },
            wiring: match sizes.parallel {
                true => Wiring::Parallel,
                false => Wiring::Sequential,
            },
        })
    };
    let rotation =
        Rotation::new(sizes.rotated(), sizes.rope_base, crate::config::RopeScaling::None);
    Ok(CausalLm {
        config,
        embedding: weights.tensor("gpt_neox.embed_in.weight")?,
        hidden: sizes.hidden,
        vocabulary: sizes.vocabulary,
        embedding_norm: None,
        blocks: (0..sizes.layers).map(block).collect::<Result<_, CheckpointError>>()?,
        norm: weights.layer_norm("gpt_neox.final_layer_norm", epsilon)?,
        head: if sizes.tied { None } else { Some(weights.tensor("embed_out.weight")?) },
        heads: fused_heads(sizes.hidden, sizes.heads),
        positions: Positions::Rotary(rotation),
    })
}

/// One linear layer for queries, keys and values, the three of each head together.
fn fused_heads(hidden: usize, heads: usize) -> Heads {
    Heads {
        queries: heads,
        pairs: heads,
        width: hidden / heads,
        row: 3 * hidden,
        interleaved: true,
    }
}

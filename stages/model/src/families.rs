//! The three families as layers: which parameters each layer has, by their names in `transformers`, and how
//! the layers are wired.

use crate::attention::Heads;
use crate::block::{Block, Mlp, Positions, Wiring};
use crate::checkpoint::CheckpointError;
use crate::config::{BloomConfig, GptNeoxConfig, LlamaConfig, ModelConfig};
use crate::head::Head;
use crate::layers::{Activation, Embedding, Linear, Norm};
use crate::parameters::Parameters;
use crate::positions::{Rotation, alibi_slopes};

/// What a model computes with its parameters.
#[derive(Debug, Clone)]
pub(crate) struct Layers {
    pub(crate) embedding: Embedding,
    /// BLOOM has a norm after the embedding.
    pub(crate) embedding_norm: Option<Norm>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) norm: Norm,
    pub(crate) head: Head,
    pub(crate) heads: Heads,
    pub(crate) positions: Positions,
}

/// Makes layers of parameters that it finds by name.
struct Names<'a>(&'a Parameters);

impl Names<'_> {
    fn linear(&self, name: &str, with_bias: bool) -> Result<Linear, CheckpointError> {
        let weight = self.0.id(&format!("{name}.weight"))?;
        let bias = if with_bias { Some(self.0.id(&format!("{name}.bias"))?) } else { None };
        match self.0.get(weight).shape[..] {
            [to, from] => Ok(Linear::new(weight, bias, from, to)),
            _ => Err(CheckpointError::Unknown(name.to_owned())),
        }
    }

    fn layer_norm(&self, name: &str, epsilon: f64) -> Result<Norm, CheckpointError> {
        let bias = Some(self.0.id(&format!("{name}.bias"))?);
        Ok(Norm { bias, ..self.rms_norm(name, epsilon)? })
    }

    fn rms_norm(&self, name: &str, epsilon: f64) -> Result<Norm, CheckpointError> {
        let weight = self.0.id(&format!("{name}.weight"))?;
        let width = self.0.get(weight).count();
        Ok(Norm { weight, bias: None, epsilon, width })
    }

    fn embedding(&self, name: &str, width: usize) -> Result<Embedding, CheckpointError> {
        Ok(Embedding { table: self.0.id(name)?, width })
    }

    /// The head of a name, or the embedding.
    fn head(
        &self,
        name: Option<&str>,
        embedding: &Embedding,
        vocabulary: usize,
    ) -> Result<Head, CheckpointError> {
        let weight = name.map_or(Ok(embedding.table), |name| self.0.id(name))?;
        Ok(Head { weight, width: embedding.width, vocabulary })
    }
}

impl Layers {
    /// Finds a model's parameters and makes layers of them.
    pub(crate) fn new(
        config: &ModelConfig,
        parameters: &Parameters,
    ) -> Result<Layers, CheckpointError> {
        let names = Names(parameters);
        match config {
            ModelConfig::Bloom(sizes) => bloom(sizes, &names),
            ModelConfig::Llama(sizes) => llama(sizes, &names),
            ModelConfig::GptNeox(sizes) => gpt_neox(sizes, &names),
        }
    }

    /// Tokens that the embedding has a row for.
    pub(crate) fn embedding_rows(&self, parameters: &Parameters) -> usize {
        parameters.get(self.embedding.table).count() / self.embedding.width
    }
}

fn bloom(sizes: &BloomConfig, names: &Names<'_>) -> Result<Layers, CheckpointError> {
    let epsilon = sizes.norm_epsilon;
    let block = |layer: usize| {
        let of = |name: &str| format!("transformer.h.{layer}.{name}");
        let fused = names.linear(&of("self_attention.query_key_value"), true)?;
        Ok(Block {
            attention_norm: names.layer_norm(&of("input_layernorm"), epsilon)?,
            queries_keys_values: vec![(fused, 0)],
            attention_out: names.linear(&of("self_attention.dense"), true)?,
            mlp_norm: names.layer_norm(&of("post_attention_layernorm"), epsilon)?,
            mlp: Mlp {
                gate: None,
                up: names.linear(&of("mlp.dense_h_to_4h"), true)?,
                activation: Activation::GeluTanh,
                down: names.linear(&of("mlp.dense_4h_to_h"), true)?,
            },
            wiring: match sizes.residual_after_norm {
                true => Wiring::AfterNorm,
                false => Wiring::Sequential,
            },
        })
    };
    let norm = names.layer_norm("transformer.word_embeddings_layernorm", epsilon)?;
    let embedding = names.embedding("transformer.word_embeddings.weight", sizes.hidden)?;
    let head = if sizes.tied { None } else { Some("lm_head.weight") };
    Ok(Layers {
        embedding_norm: Some(norm),
        blocks: (0..sizes.layers).map(block).collect::<Result<_, CheckpointError>>()?,
        norm: names.layer_norm("transformer.ln_f", epsilon)?,
        head: names.head(head, &embedding, sizes.vocabulary)?,
        embedding,
        heads: fused_heads(sizes.hidden, sizes.heads),
        positions: Positions::Alibi(alibi_slopes(sizes.heads)),
    })
}

fn llama(sizes: &LlamaConfig, names: &Names<'_>) -> Result<Layers, CheckpointError> {
    let epsilon = sizes.norm_epsilon;
    let (queries, pairs) = (sizes.heads * sizes.head, sizes.key_value_heads * sizes.head);
    let block = |layer: usize| {
        let of = |name: &str| format!("model.layers.{layer}.{name}");
        let linear = |name: &str| names.linear(&of(name), false);
        Ok(Block {
            attention_norm: names.rms_norm(&of("input_layernorm"), epsilon)?,
            queries_keys_values: vec![
                (linear("self_attn.q_proj")?, 0),
                (linear("self_attn.k_proj")?, queries),
                (linear("self_attn.v_proj")?, queries + pairs),
            ],
            attention_out: linear("self_attn.o_proj")?,
            mlp_norm: names.rms_norm(&of("post_attention_layernorm"), epsilon)?,
            mlp: Mlp {
                gate: Some(linear("mlp.gate_proj")?),
                up: linear("mlp.up_proj")?,
                activation: Activation::Silu,
                down: linear("mlp.down_proj")?,
            },
            wiring: Wiring::Sequential,
        })
    };
    let embedding = names.embedding("model.embed_tokens.weight", sizes.hidden)?;
    let head = if sizes.tied { None } else { Some("lm_head.weight") };
    Ok(Layers {
        embedding_norm: None,
        blocks: (0..sizes.layers).map(block).collect::<Result<_, CheckpointError>>()?,
        norm: names.rms_norm("model.norm", epsilon)?,
        head: names.head(head, &embedding, sizes.vocabulary)?,
        embedding,
        heads: Heads {
            queries: sizes.heads,
            pairs: sizes.key_value_heads,
            width: sizes.head,
            row: queries + 2 * pairs,
            interleaved: false,
        },
        positions: Positions::Rotary(Rotation::new(
            sizes.head,
            sizes.rope_base,
            sizes.rope_scaling,
        )),
    })
}

fn gpt_neox(sizes: &GptNeoxConfig, names: &Names<'_>) -> Result<Layers, CheckpointError> {
    let epsilon = sizes.norm_epsilon;
    let block = |layer: usize| {
        let of = |name: &str| format!("gpt_neox.layers.{layer}.{name}");
        let fused = names.linear(&of("attention.query_key_value"), true)?;
        Ok(Block {
            attention_norm: names.layer_norm(&of("input_layernorm"), epsilon)?,
            queries_keys_values: vec![(fused, 0)],
            attention_out: names.linear(&of("attention.dense"), true)?,
            mlp_norm: names.layer_norm(&of("post_attention_layernorm"), epsilon)?,
            mlp: Mlp {
                gate: None,
                up: names.linear(&of("mlp.dense_h_to_4h"), true)?,
                activation: Activation::Gelu,
                down: names.linear(&of("mlp.dense_4h_to_h"), true)?,
            },
            wiring: match sizes.parallel {
                true => Wiring::Parallel,
                false => Wiring::Sequential,
            },
        })
    };
    let rotation =
        Rotation::new(sizes.rotated(), sizes.rope_base, crate::config::RopeScaling::None);
    let embedding = names.embedding("gpt_neox.embed_in.weight", sizes.hidden)?;
    let head = if sizes.tied { None } else { Some("embed_out.weight") };
    Ok(Layers {
        embedding_norm: None,
        blocks: (0..sizes.layers).map(block).collect::<Result<_, CheckpointError>>()?,
        norm: names.layer_norm("gpt_neox.final_layer_norm", epsilon)?,
        head: names.head(head, &embedding, sizes.vocabulary)?,
        embedding,
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

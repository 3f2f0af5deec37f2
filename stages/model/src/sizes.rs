//! The sizes of a model that has learnt nothing, as a `config.json`.

use serde_json::{Value, json};

use crate::config::{ConfigError, ModelConfig};

/// The families, by the names that `config.json` has for them.
pub const FAMILIES: [&str; 3] = ["bloom", "llama", "gpt_neox"];

/// How large a new model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Attention heads; a divisor of `hidden`.
    pub heads: usize,
    /// Heads of keys and values, a divisor of `heads`; only LLaMA may have fewer.
    pub key_value_heads: usize,
    /// Width within the MLP; BLOOM's is always four times `hidden`.
    pub intermediate: usize,
    /// Positions that it is made for; BLOOM's have no end.
    pub positions: usize,
}

/// The models whose sizes are published: name, family, layers, hidden, heads, intermediate, rows of the
/// embedding.
const PUBLISHED: [(&str, &str, [usize; 5]); 15] = [
    ("bloom-560m", "bloom", [24, 1024, 16, 4096, 250_880]),
    ("bloom-1b1", "bloom", [24, 1536, 16, 6144, 250_880]),
    ("bloom-1b7", "bloom", [24, 2048, 16, 8192, 250_880]),
    ("bloom-3b", "bloom", [30, 2560, 32, 10_240, 250_880]),
    ("bloom-7b1", "bloom", [30, 4096, 32, 16_384, 250_880]),
    ("llama-7b", "llama", [32, 4096, 32, 11_008, 32_000]),
    ("open_llama_7b", "llama", [32, 4096, 32, 11_008, 32_000]),
    ("pythia-70m", "gpt_neox", [6, 512, 8, 2048, 50_304]),
    ("pythia-160m", "gpt_neox", [12, 768, 12, 3072, 50_304]),
    ("pythia-410m", "gpt_neox", [24, 1024, 16, 4096, 50_304]),
    ("pythia-1b", "gpt_neox", [16, 2048, 8, 8192, 50_304]),
    ("pythia-1.4b", "gpt_neox", [24, 2048, 16, 8192, 50_304]),
    ("pythia-2.8b", "gpt_neox", [32, 2560, 32, 10_240, 50_304]),
    ("pythia-6.9b", "gpt_neox", [32, 4096, 32, 16_384, 50_432]),
    ("pythia-12b", "gpt_neox", [36, 5120, 40, 20_480, 50_688]),
];

/// The family, the sizes and the embedding's rows of a published model.
pub fn published(name: &str) -> Option<(&'static str, Sizes, usize)> {
    let (_, family, [layers, hidden, heads, intermediate, vocabulary]) =
        PUBLISHED.into_iter().find(|(known, ..)| *known == name)?;
    let sizes =
        Sizes { layers, hidden, heads, key_value_heads: heads, intermediate, positions: 2048 };
    Some((family, sizes, vocabulary))
}

/// The names of the published models.
pub const NAMES: [&str; PUBLISHED.len()] = {
    let mut names = [""; PUBLISHED.len()];
    let mut place = 0;
    while place < names.len() {
        names[place] = PUBLISHED[place].0;
        place += 1;
    }
    names
};

/// The special tokens of a new model's tokenizer, by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins a text.
    pub bos: u32,
    /// Ends a text.
    pub eos: u32,
    /// Fills a row.
    pub pad: u32,
}

/// The `config.json` of a new model.
///
/// # Errors
/// When the sizes do not fit each other or the family.
pub fn new_config(
    family: &str,
    sizes: &Sizes,
    vocabulary: usize,
    special: SpecialTokens,
) -> Result<Value, ConfigError> {
    let SpecialTokens { bos, eos, pad } = special;
    let Sizes { layers, hidden, heads, key_value_heads, intermediate, positions } = *sizes;
    let mut config = json!({
        "model_type": family,
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": pad,
        "torch_dtype": "float32",
        "use_cache": true,
    });
    let of_family = match family {
        "bloom" => json!({
            "architectures": ["BloomForCausalLM"],
            "n_layer": layers,
            "n_head": heads,
            "layer_norm_epsilon": 1e-5,
            "apply_residual_connection_post_layernorm": false,
            "hidden_dropout": 0.0,
            "attention_dropout": 0.0,
            "tie_word_embeddings": true,
        }),
        "llama" => json!({
            "architectures": ["LlamaForCausalLM"],
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": key_value_heads,
            "intermediate_size": intermediate,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": 10_000.0,
            "max_position_embeddings": positions,
            "attention_bias": false,
            "mlp_bias": false,
            "tie_word_embeddings": false,
        }),
        "gpt_neox" => json!({
            "architectures": ["GPTNeoXForCausalLM"],
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": intermediate,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
            "rotary_pct": 0.25,
            "rotary_emb_base": 10_000.0,
            "max_position_embeddings": positions,
            "use_parallel_residual": true,
            "attention_bias": true,
            "tie_word_embeddings": false,
        }),
        _ => Value::Null,
    };
    if let (Value::Object(config), Value::Object(of_family)) = (&mut config, of_family) {
        config.extend(of_family);
    }
    ModelConfig::parse(&config)?;
    if family != "llama" && key_value_heads != heads {
        return Err(ConfigError::new(format!(
            "only llama can have {key_value_heads} heads of keys"
        )));
    }
    if family == "bloom" && intermediate != 4 * hidden {
        let message = format!("the MLP of bloom is {} wide, not {intermediate}", 4 * hidden);
        return Err(ConfigError::new(message));
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECIAL: SpecialTokens = SpecialTokens { bos: 1, eos: 2, pad: 3 };

    /// The numbers that the publishers count.
    #[test]
    fn published_models_have_the_parameters_that_they_are_said_to_have() {
        for (name, parameters) in [
            ("bloom-560m", 559_214_592),
            ("bloom-7b1", 7_069_016_064),
            ("llama-7b", 6_738_415_616),
            ("pythia-70m", 70_426_624),
            ("pythia-1b", 1_011_781_632),
            ("pythia-12b", 11_846_072_320),
        ] {
            let (family, sizes, vocabulary) = published(name).unwrap();
            let config = new_config(family, &sizes, vocabulary, SPECIAL).unwrap();
            let config = ModelConfig::parse(&config).unwrap();
            assert_eq!(config.parameters(), parameters, "{name}");
        }
        for name in NAMES {
            let (family, sizes, vocabulary) = published(name).unwrap();
            new_config(family, &sizes, vocabulary, SPECIAL).unwrap();
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_said() {
        let sizes = Sizes {
            layers: 2,
            hidden: 32,
            heads: 4,
            key_value_heads: 2,
            intermediate: 128,
            positions: 64,
        };
        let said = |family: &str, sizes: &Sizes| {
            new_config(family, sizes, 300, SPECIAL).unwrap_err().to_string()
        };
        assert!(new_config("llama", &sizes, 300, SPECIAL).is_ok());
        assert!(said("bloom", &sizes).contains("only llama can have 2"));
        assert!(said("mamba", &sizes).contains("`mamba` are not known"));
        let uneven = Sizes { heads: 5, key_value_heads: 5, ..sizes };
        assert!(said("bloom", &uneven).contains("32 cannot be split over 5 heads"));
        let wide = Sizes { key_value_heads: 4, intermediate: 100, ..sizes };
        assert!(said("bloom", &wide).contains("is 128 wide, not 100"));
    }
}

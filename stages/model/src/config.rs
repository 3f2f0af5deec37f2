//! `config.json`: which family a model is of, and how large it is.
//!
//! The names are those of `transformers`, old and new; what does not change what is computed is
//! ignored, and what would change it but is not known here is refused.

use std::path::Path;

use serde_json::Value;

/// A model's family and sizes.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelConfig {
    /// BigScience's BLOOM and what was made of it.
    Bloom(BloomConfig),
    /// LLaMA, Llama 2 and 3, and those built like them.
    Llama(LlamaConfig),
    /// GPT-NeoX and Pythia.
    GptNeox(GptNeoxConfig),
}

/// BLOOM: ALiBi, a norm after the embedding, a tied head.
#[derive(Debug, Clone, PartialEq)]
pub struct BloomConfig {
    /// Rows of the embedding; more than the tokenizer has.
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Added to variances in norms.
    pub norm_epsilon: f64,
    /// Whether the residual is taken after the norm; not so in any released model.
    pub residual_after_norm: bool,
    /// Whether the head is the embedding.
    pub tied: bool,
}

/// LLaMA: rotary positions, RMS norms, a gated unit, perhaps fewer heads for keys and values.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width within the gated unit.
    pub intermediate: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Heads of keys and values; a divisor of `heads`.
    pub key_value_heads: usize,
    /// Width of a head.
    pub head: usize,
    /// Added to mean squares in norms.
    pub norm_epsilon: f64,
    /// The base of the rotary frequencies.
    pub rope_base: f64,
    /// How the frequencies are stretched for longer contexts.
    pub rope_scaling: RopeScaling,
    /// Positions that the model was made for.
    pub positions: usize,
    /// Whether the head is the embedding.
    pub tied: bool,
}

/// GPT-NeoX: rotary positions on part of each head, attention and MLP side by side.
#[derive(Debug, Clone, PartialEq)]
pub struct GptNeoxConfig {
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width within the MLP.
    pub intermediate: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// The share of each head that is rotated.
    pub rotary_share: f64,
    /// The base of the rotary frequencies.
    pub rope_base: f64,
    /// Added to variances in norms.
    pub norm_epsilon: f64,
    /// Whether attention and MLP read the same input.
    pub parallel: bool,
    /// Positions that the model was made for.
    pub positions: usize,
    /// Whether the head is the embedding.
    pub tied: bool,
}

/// How rotary frequencies are stretched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// They are not.
    None,
    /// All positions are divided.
    Linear {
        /// By so much.
        factor: f64,
    },
    /// Low frequencies are divided, high ones kept, those between interpolated (Llama 3.1).
    Llama3 {
        /// What low frequencies are divided by.
        factor: f64,
        /// Wavelengths longer than the original context divided by this are low frequencies.
        low: f64,
        /// Wavelengths shorter than the original context divided by this are high ones.
        high: f64,
        /// The context that the model was first made for.
        original_positions: usize,
    },
}

/// A `config.json` that no model can be made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl ConfigError {
    pub(crate) fn new(message: String) -> ConfigError {
        ConfigError(message)
    }
}

/// The fields of a `config.json`, by any of their names.
struct Fields<'a>(&'a Value);

impl Fields<'_> {
    fn value(&self, names: &[&str]) -> Option<&Value> {
        names.iter().find_map(|name| self.0.get(name)).filter(|value| !value.is_null())
    }

    fn optional_size(&self, names: &[&str]) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.value(names) else { return Ok(None) };
        let size = value.as_u64().filter(|size| (1..=1 << 32).contains(size));
        match size {
            Some(size) => Ok(Some(size as usize)),
            None => Err(ConfigError(format!("`{}` is {value}, which is no size", names[0]))),
        }
    }

    fn size(&self, names: &[&str]) -> Result<usize, ConfigError> {
        let missing = || ConfigError(format!("`{}` is missing", names[0]));
        self.optional_size(names)?.ok_or_else(missing)
    }

    fn number(&self, names: &[&str], default: f64) -> Result<f64, ConfigError> {
        let Some(value) = self.value(names) else { return Ok(default) };
        let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
        number.ok_or_else(|| ConfigError(format!("`{}` is {value}", names[0])))
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool, ConfigError> {
        match self.value(&[name]) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(ConfigError(format!("`{name}` is {value}"))),
        }
    }

    /// Refuses a field whose value would change what is computed in a way that is not known here.
    fn only(&self, name: &str, known: &[Value]) -> Result<(), ConfigError> {
        match self.value(&[name]) {
            Some(value) if !known.contains(value) => {
                let known: Vec<_> = known.iter().map(ToString::to_string).collect();
                let known = known.join(" or ");
                Err(ConfigError(format!("`{name}` is {value}; only {known} is known")))
            }
            _ => Ok(()),
        }
    }
}

fn divides(what: &str, part: usize, whole: usize) -> Result<usize, ConfigError> {
    match whole % part {
        0 => Ok(whole / part),
        _ => Err(ConfigError(format!("{whole} cannot be split over {part} {what}"))),
    }
}

impl ModelConfig {
    /// Reads the `config.json` of a model's folder.
    ///
    /// # Errors
    /// When there is none, or it is of no family that is known, or says what cannot be.
    pub fn read(folder: &Path) -> Result<ModelConfig, ConfigError> {
        ModelConfig::read_with_json(folder).map(|(config, _)| config)
    }

    /// The same, and the whole file.
    pub(crate) fn read_with_json(folder: &Path) -> Result<(ModelConfig, Value), ConfigError> {
        let path = folder.join("config.json");
        let said =
            |error: &dyn std::fmt::Display| ConfigError(format!("{}: {error}", path.display()));
        let text = std::fs::read(&path).map_err(|error| said(&error))?;
        let json = serde_json::from_slice(&text).map_err(|error| said(&error))?;
        let config = ModelConfig::parse(&json).map_err(|error| said(&error))?;
        Ok((config, json))
    }

    /// Reads a parsed `config.json`.
    ///
    /// # Errors
    /// As [`ModelConfig::read`].
    pub fn parse(json: &Value) -> Result<ModelConfig, ConfigError> {
        let fields = Fields(json);
        match json["model_type"].as_str() {
            Some("bloom") => BloomConfig::parse(&fields).map(ModelConfig::Bloom),
            Some("llama") => LlamaConfig::parse(&fields).map(ModelConfig::Llama),
            Some("gpt_neox") => GptNeoxConfig::parse(&fields).map(ModelConfig::GptNeox),
            Some(other) => Err(ConfigError(format!(
                "models of the type `{other}` are not known; bloom, llama and gpt_neox are"
            ))),
            None => Err(ConfigError("`model_type` is missing".to_owned())),
        }
    }

    /// Every tensor of the model with its shape, in the names of `transformers`, in the order of
    /// computation. A tied head has none of its own.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        match self {
            ModelConfig::Bloom(config) => config.tensors(),
            ModelConfig::Llama(config) => config.tensors(),
            ModelConfig::GptNeox(config) => config.tensors(),
        }
    }

    /// Width of the residual stream.
    pub fn hidden(&self) -> usize {
        match self {
            ModelConfig::Bloom(config) => config.hidden,
            ModelConfig::Llama(config) => config.hidden,
            ModelConfig::GptNeox(config) => config.hidden,
        }
    }

    /// Rows of the embedding.
    pub fn vocabulary(&self) -> usize {
        match self {
            ModelConfig::Bloom(config) => config.vocabulary,
            ModelConfig::Llama(config) => config.vocabulary,
            ModelConfig::GptNeox(config) => config.vocabulary,
        }
    }

    /// The same sizes with the embedding as head, so that there is no tensor of one.
    pub fn with_tied_head(mut self) -> ModelConfig {
        match &mut self {
            ModelConfig::Bloom(config) => config.tied = true,
            ModelConfig::Llama(config) => config.tied = true,
            ModelConfig::GptNeox(config) => config.tied = true,
        }
        self
    }

    /// What the names of the family's classes begin with in `transformers`.
    pub(crate) fn class_prefix(&self) -> &'static str {
        match self {
            ModelConfig::Bloom(_) => "Bloom",
            ModelConfig::Llama(_) => "Llama",
            ModelConfig::GptNeox(_) => "GPTNeoX",
        }
    }

    /// How many numbers its tensors hold.
    pub fn parameters(&self) -> u64 {
        let size =
            |(_, shape): &(String, Vec<usize>)| shape.iter().map(|it| *it as u64).product::<u64>();
        self.tensors().iter().map(size).sum()
    }

    /// Positions that the model was made for, stretched ones counted; `None` where nothing limits them
    /// (ALiBi).
    pub fn context(&self) -> Option<usize> {
        match self {
            ModelConfig::Bloom(_) => None,
            ModelConfig::Llama(config) => Some(match config.rope_scaling {
                RopeScaling::Linear { factor } => (config.positions as f64 * factor) as usize,
                RopeScaling::None | RopeScaling::Llama3 { .. } => config.positions,
            }),
            ModelConfig::GptNeox(config) => Some(config.positions),
        }
    }

    /// What tensors of this family may have in front of their names, or lack: base models were saved
    /// without it.
    pub(crate) fn base_prefix(&self) -> &'static str {
        match self {
            ModelConfig::Bloom(_) => "transformer.",
            ModelConfig::Llama(_) => "model.",
            ModelConfig::GptNeox(_) => "gpt_neox.",
        }
    }

    /// Whether a tensor is one that old files carry and nothing is computed with.
    pub(crate) fn ignores(&self, name: &str) -> bool {
        let endings: &[&str] = match self {
            ModelConfig::Bloom(_) => &[],
            ModelConfig::Llama(_) => &[".rotary_emb.inv_freq"],
            ModelConfig::GptNeox(_) => {
                &[".attention.bias", ".attention.masked_bias", ".attention.rotary_emb.inv_freq"]
            }
        };
        endings.iter().any(|ending| name.ends_with(ending))
    }

    /// The embedding and the name of the head, if the two are one: some files have it twice.
    pub(crate) fn tied(&self) -> Option<(&'static str, &'static str)> {
        let (tied, embedding, head) = match self {
            ModelConfig::Bloom(config) => {
                (config.tied, "transformer.word_embeddings.weight", "lm_head.weight")
            }
            ModelConfig::Llama(config) => {
                (config.tied, "model.embed_tokens.weight", "lm_head.weight")
            }
            ModelConfig::GptNeox(config) => {
                (config.tied, "gpt_neox.embed_in.weight", "embed_out.weight")
            }
        };
        tied.then_some((embedding, head))
    }
}

impl BloomConfig {
    fn parse(fields: &Fields<'_>) -> Result<BloomConfig, ConfigError> {
        let config = BloomConfig {
            vocabulary: fields.size(&["vocab_size"])?,
            hidden: fields.size(&["hidden_size", "n_embed"])?,
            layers: fields.size(&["n_layer", "num_hidden_layers"])?,
            heads: fields.size(&["n_head", "num_attention_heads"])?,
            norm_epsilon: fields.number(&["layer_norm_epsilon"], 1e-5)?,
            residual_after_norm: fields.flag("apply_residual_connection_post_layernorm", false)?,
            tied: fields.flag("tie_word_embeddings", true)?,
        };
        divides("heads", config.heads, config.hidden)?;
        Ok(config)
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let h = self.hidden;
        let mut list = List::default();
        list.add("transformer.word_embeddings.weight", &[self.vocabulary, h]);
        list.norm("transformer.word_embeddings_layernorm", h);
        for layer in 0..self.layers {
            let block = format!("transformer.h.{layer}");
            list.norm(&format!("{block}.input_layernorm"), h);
            list.linear(&format!("{block}.self_attention.query_key_value"), h, 3 * h);
            list.linear(&format!("{block}.self_attention.dense"), h, h);
            list.norm(&format!("{block}.post_attention_layernorm"), h);
            list.linear(&format!("{block}.mlp.dense_h_to_4h"), h, 4 * h);
            list.linear(&format!("{block}.mlp.dense_4h_to_h"), 4 * h, h);
        }
        list.norm("transformer.ln_f", h);
        if !self.tied {
            list.add("lm_head.weight", &[self.vocabulary, h]);
        }
        list.0
    }
}

impl LlamaConfig {
    fn parse(fields: &Fields<'_>) -> Result<LlamaConfig, ConfigError> {
        fields.only("hidden_act", &["silu".into()])?;
        for bias in ["attention_bias", "mlp_bias"] {
            fields.only(bias, &[false.into()])?;
        }
        let (hidden, heads) =
            (fields.size(&["hidden_size"])?, fields.size(&["num_attention_heads"])?);
        let key_value_heads = fields.optional_size(&["num_key_value_heads"])?.unwrap_or(heads);
        divides("heads of keys and values", key_value_heads, heads)?;
        let head = match fields.optional_size(&["head_dim"])? {
            Some(head) => head,
            None => divides("heads", heads, hidden)?,
        };
        divides("halves of a head", 2, head)?;
        // New files keep all that concerns rotation in one place.
        let rope = fields.value(&["rope_parameters"]).cloned().unwrap_or_default();
        let scaling = fields.value(&["rope_scaling"]).unwrap_or(&rope);
        Ok(LlamaConfig {
            vocabulary: fields.size(&["vocab_size"])?,
            hidden,
            intermediate: fields.size(&["intermediate_size"])?,
            layers: fields.size(&["num_hidden_layers"])?,
            heads,
            key_value_heads,
            head,
            norm_epsilon: fields.number(&["rms_norm_eps"], 1e-6)?,
            rope_base: Fields(&rope)
                .number(&["rope_theta"], fields.number(&["rope_theta"], 10_000.0)?)?,
            rope_scaling: RopeScaling::parse(scaling)?,
            positions: fields.optional_size(&["max_position_embeddings"])?.unwrap_or(2048),
            tied: fields.flag("tie_word_embeddings", false)?,
        })
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let h = self.hidden;
        let (queries, pairs) = (self.heads * self.head, self.key_value_heads * self.head);
        let mut list = List::default();
        list.add("model.embed_tokens.weight", &[self.vocabulary, h]);
        for layer in 0..self.layers {
            let block = format!("model.layers.{layer}");
            list.add(&format!("{block}.input_layernorm.weight"), &[h]);
            list.add(&format!("{block}.self_attn.q_proj.weight"), &[queries, h]);
            list.add(&format!("{block}.self_attn.k_proj.weight"), &[pairs, h]);
            list.add(&format!("{block}.self_attn.v_proj.weight"), &[pairs, h]);
            list.add(&format!("{block}.self_attn.o_proj.weight"), &[h, queries]);
            list.add(&format!("{block}.post_attention_layernorm.weight"), &[h]);
            list.add(&format!("{block}.mlp.gate_proj.weight"), &[self.intermediate, h]);
            list.add(&format!("{block}.mlp.up_proj.weight"), &[self.intermediate, h]);
            list.add(&format!("{block}.mlp.down_proj.weight"), &[h, self.intermediate]);
        }
        list.add("model.norm.weight", &[h]);
        if !self.tied {
            list.add("lm_head.weight", &[self.vocabulary, h]);
        }
        list.0
    }
}

impl GptNeoxConfig {
    fn parse(fields: &Fields<'_>) -> Result<GptNeoxConfig, ConfigError> {
        // `gelu` is the exact one; `gelu_new` and others are approximations.
        fields.only("hidden_act", &["gelu".into()])?;
        fields.only("attention_bias", &[true.into()])?;
        let rope = fields.value(&["rope_parameters"]).cloned().unwrap_or_default();
        let scaling = fields.value(&["rope_scaling"]).unwrap_or(&rope);
        if RopeScaling::parse(scaling)? != RopeScaling::None {
            return Err(ConfigError("rope scaling is not known for gpt_neox".to_owned()));
        }
        let config = GptNeoxConfig {
            vocabulary: fields.size(&["vocab_size"])?,
            hidden: fields.size(&["hidden_size"])?,
            intermediate: fields.size(&["intermediate_size"])?,
            layers: fields.size(&["num_hidden_layers"])?,
            heads: fields.size(&["num_attention_heads"])?,
            rotary_share: Fields(&rope)
                .number(&["partial_rotary_factor"], fields.number(&["rotary_pct"], 0.25)?)?,
            rope_base: Fields(&rope)
                .number(&["rope_theta"], fields.number(&["rotary_emb_base"], 10_000.0)?)?,
            norm_epsilon: fields.number(&["layer_norm_eps"], 1e-5)?,
            parallel: fields.flag("use_parallel_residual", true)?,
            positions: fields.optional_size(&["max_position_embeddings"])?.unwrap_or(2048),
            tied: fields.flag("tie_word_embeddings", false)?,
        };
        divides("heads", config.heads, config.hidden)?;
        divides("halves of what is rotated", 2, config.rotated())?;
        Ok(config)
    }

    /// How many numbers of each head are rotated.
    pub fn rotated(&self) -> usize {
        (((self.hidden / self.heads) as f64) * self.rotary_share) as usize
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let h = self.hidden;
        let mut list = List::default();
        list.add("gpt_neox.embed_in.weight", &[self.vocabulary, h]);
        for layer in 0..self.layers {
            let block = format!("gpt_neox.layers.{layer}");
            list.norm(&format!("{block}.input_layernorm"), h);
            list.norm(&format!("{block}.post_attention_layernorm"), h);
            list.linear(&format!("{block}.attention.query_key_value"), h, 3 * h);
            list.linear(&format!("{block}.attention.dense"), h, h);
            list.linear(&format!("{block}.mlp.dense_h_to_4h"), h, self.intermediate);
            list.linear(&format!("{block}.mlp.dense_4h_to_h"), self.intermediate, h);
        }
        list.norm("gpt_neox.final_layer_norm", h);
        if !self.tied {
            list.add("embed_out.weight", &[self.vocabulary, h]);
        }
        list.0
    }
}

impl RopeScaling {
    fn parse(json: &Value) -> Result<RopeScaling, ConfigError> {
        let fields = Fields(json);
        let kind = fields.value(&["rope_type", "type"]).and_then(Value::as_str);
        match kind {
            None | Some("default") => Ok(RopeScaling::None),
            Some("linear") => Ok(RopeScaling::Linear { factor: fields.number(&["factor"], 1.0)? }),
            Some("llama3") => Ok(RopeScaling::Llama3 {
                factor: fields.number(&["factor"], 8.0)?,
                low: fields.number(&["low_freq_factor"], 1.0)?,
                high: fields.number(&["high_freq_factor"], 4.0)?,
                original_positions: fields.size(&["original_max_position_embeddings"])?,
            }),
            Some(other) => Err(ConfigError(format!(
                "rope scaling of the type `{other}` is not known; linear and llama3 are"
            ))),
        }
    }
}

/// Names and shapes.
#[derive(Default)]
struct List(Vec<(String, Vec<usize>)>);

impl List {
    fn add(&mut self, name: &str, shape: &[usize]) {
        self.0.push((name.to_owned(), shape.to_vec()));
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.add(&format!("{name}.weight"), &[width]);
        self.add(&format!("{name}.bias"), &[width]);
    }

    fn linear(&mut self, name: &str, from: usize, to: usize) {
        self.add(&format!("{name}.weight"), &[to, from]);
        self.add(&format!("{name}.bias"), &[to]);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bloom(hidden: usize, layers: usize, heads: usize) -> Value {
        json!({
            "model_type": "bloom", "vocab_size": 250_880, "n_embed": hidden, "n_layer": layers,
            "num_attention_heads": heads, "offset_alibi": 100, "use_cache": true,
        })
    }

    fn llama(sizes: [usize; 4], heads: [usize; 2]) -> Value {
        let [vocabulary, hidden, intermediate, layers] = sizes;
        json!({
            "model_type": "llama", "vocab_size": vocabulary, "hidden_size": hidden,
            "intermediate_size": intermediate, "num_hidden_layers": layers, "hidden_act": "silu",
            "num_attention_heads": heads[0], "num_key_value_heads": heads[1],
        })
    }

    fn pythia(vocabulary: usize, hidden: usize, layers: usize, heads: usize) -> Value {
        json!({
            "model_type": "gpt_neox", "vocab_size": vocabulary, "hidden_size": hidden,
            "intermediate_size": 4 * hidden, "num_hidden_layers": layers, "hidden_act": "gelu",
            "num_attention_heads": heads, "rotary_pct": 0.25,
        })
    }

    /// The counts that their makers give.
    #[test]
    fn every_published_size_has_as_many_parameters_as_its_makers_say() {
        for (json, parameters) in [
            (bloom(1024, 24, 16), 559_214_592),
            (bloom(1536, 24, 16), 1_065_314_304),
            (bloom(2048, 24, 16), 1_722_408_960),
            (bloom(2560, 30, 32), 3_002_557_440),
            (bloom(4096, 30, 32), 7_069_016_064),
            (bloom(14336, 70, 112), 176_247_271_424),
            (llama([32_000, 4096, 11_008, 32], [32, 32]), 6_738_415_616),
            (llama([32_000, 5120, 13_824, 40], [40, 40]), 13_015_864_320),
            (llama([32_000, 2048, 5632, 22], [32, 4]), 1_100_048_384),
            (llama([128_256, 4096, 14_336, 32], [32, 8]), 8_030_261_248),
            (pythia(50_304, 512, 6, 8), 70_426_624),
            (pythia(50_304, 768, 12, 12), 162_322_944),
            (pythia(50_304, 1024, 24, 16), 405_334_016),
            (pythia(50_304, 2048, 16, 8), 1_011_781_632),
            (pythia(50_304, 2048, 24, 16), 1_414_647_808),
            (pythia(50_304, 2560, 32, 32), 2_775_208_960),
            (pythia(50_432, 4096, 32, 32), 6_857_302_016),
            (pythia(50_688, 5120, 36, 40), 11_846_072_320),
        ] {
            assert_eq!(ModelConfig::parse(&json).unwrap().parameters(), parameters, "{json}");
        }
    }

    #[test]
    fn new_names_mean_what_the_old_ones_do() {
        let old = pythia(50_304, 512, 6, 8);
        let mut new = old.clone();
        new.as_object_mut().unwrap().remove("rotary_pct");
        new["rope_parameters"] = json!({ "partial_rotary_factor": 0.25, "rope_theta": 10_000.0, "rope_type": "default" });
        assert_eq!(ModelConfig::parse(&old), ModelConfig::parse(&new));
        let mut scaled = llama([128_256, 2048, 8192, 16], [32, 8]);
        scaled["rope_scaling"] = json!({
            "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3",
        });
        scaled["tie_word_embeddings"] = true.into();
        let ModelConfig::Llama(config) = ModelConfig::parse(&scaled).unwrap() else { panic!() };
        assert!(matches!(
            config.rope_scaling,
            RopeScaling::Llama3 { original_positions: 8192, .. }
        ));
        assert!(config.tied && config.head == 64);
    }

    #[test]
    fn the_context_is_what_a_model_was_made_or_stretched_for() {
        let mut llama = llama([32_000, 4096, 11_008, 32], [32, 32]);
        llama["max_position_embeddings"] = 4096.into();
        let mut stretched = llama.clone();
        stretched["rope_scaling"] = json!({ "type": "linear", "factor": 2.5 });
        let pythia = pythia(50_304, 512, 6, 8);
        for (json, expected) in [
            (llama, Some(4096)),
            (stretched, Some(10_240)),
            (pythia, Some(2048)),
            (bloom(1024, 2, 16), None),
        ] {
            assert_eq!(ModelConfig::parse(&json).unwrap().context(), expected, "{json}");
        }
    }

    #[test]
    fn what_cannot_be_computed_is_refused() {
        let with = |base: Value, name: &str, value: Value| {
            let mut json = base;
            json[name] = value;
            ModelConfig::parse(&json).unwrap_err().to_string()
        };
        let small = || llama([100, 64, 128, 2], [4, 2]);
        for (error, expected) in [
            (with(small(), "model_type", "mamba".into()), "`mamba` are not known"),
            (with(small(), "hidden_act", "relu".into()), "`hidden_act` is \"relu\"; only \"silu\""),
            (with(small(), "num_key_value_heads", 3.into()), "4 cannot be split over 3"),
            (
                with(small(), "hidden_size", "wide".into()),
                "`hidden_size` is \"wide\", which is no size",
            ),
            (with(small(), "num_hidden_layers", Value::Null), "`num_hidden_layers` is missing"),
            (with(small(), "attention_bias", true.into()), "`attention_bias` is true"),
            (with(small(), "rope_scaling", json!({ "type": "yarn" })), "`yarn` is not known"),
            (
                with(bloom(1024, 2, 16), "n_embed", 1000.into()),
                "1000 cannot be split over 16 heads",
            ),
            (with(pythia(64, 64, 2, 4), "hidden_act", "gelu_new".into()), "only \"gelu\" is known"),
        ] {
            assert!(error.contains(expected), "{error}");
        }
        assert!(ModelConfig::parse(&json!([])).is_err());
        assert!(ModelConfig::parse(&json!({ "model_type": "llama" })).is_err());
    }
}

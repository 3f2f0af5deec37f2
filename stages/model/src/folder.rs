//! A model's folder on its way out: what `transformers` looks for in one, but the tokenizer.
//!
//! ```text
//! config.json                        as it came, with the type of numbers that is written
//! generation_config.json             as it came, or the special tokens
//! model.safetensors                  or model-00001-of-0000N.safetensors
//! model.safetensors.index.json       which tensor is in which
//! ```

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::causal_lm::CausalLm;
use crate::checkpoint::CheckpointError;
use crate::tensor_file::{NumberKind, TensorSource};
use crate::tensor_writer::{Writable, write_each};

/// The most bytes of weights in one file, as in `transformers`; a larger tensor has a file of its own.
pub(crate) const SHARD: usize = 5_000_000_000;
const CONFIG: &str = "config.json";
const GENERATION: &str = "generation_config.json";

impl CausalLm {
    /// Writes the model's folder; adapters that are not merged are left out. `source` is the folder that
    /// the model came from, if there is one.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn save(
        &self,
        folder: &Path,
        kind: NumberKind,
        source: Option<&Path>,
    ) -> Result<(), CheckpointError> {
        let of_model = self.config().tensors().len();
        self.write_first(of_model, folder, kind)?;
        write_config(folder, self.config_json().clone(), kind)?;
        write_generation_config(folder, self.config_json(), source)
    }

    /// Writes the first parameters.
    pub(crate) fn write_first(
        &self,
        count: usize,
        folder: &Path,
        kind: NumberKind,
    ) -> Result<(), CheckpointError> {
        let tensors = self.parameters().iter().take(count).map(|parameter| TensorSource {
            name: &parameter.name,
            shape: &parameter.shape,
            values: parameter.into(),
            kind,
        });
        write_weights(folder, &tensors.collect::<Vec<_>>(), SHARD)
    }
}

/// Writes `config.json`.
pub(crate) fn write_config(
    folder: &Path,
    mut config: Value,
    kind: NumberKind,
) -> Result<(), CheckpointError> {
    // The new name of the field, where the model came with it.
    let name = if config.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    config[name] = json!(kind.name());
    write_json(&folder.join(CONFIG), &config)
}

/// Writes `generation_config.json`.
fn write_generation_config(
    folder: &Path,
    config: &Value,
    source: Option<&Path>,
) -> Result<(), CheckpointError> {
    let there = source.map(|source| source.join(GENERATION)).filter(|path| path.exists());
    if let Some(there) = there {
        let wrong = |error: std::io::Error| file_error(&there, &error);
        std::fs::copy(&there, folder.join(GENERATION)).map_err(wrong)?;
        return Ok(());
    }
    let mut generation = json!({ "_from_model_config": true });
    for name in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        if let Some(id) = config.get(name).filter(|id| !id.is_null()) {
            generation[name] = id.clone();
        }
    }
    write_json(&folder.join(GENERATION), &generation)
}

/// Writes tensors into one file, or into several with an index.
pub(crate) fn write_weights<T: Writable + Copy>(
    folder: &Path,
    tensors: &[T],
    shard: usize,
) -> Result<(), CheckpointError> {
    std::fs::create_dir_all(folder).map_err(|error| file_error(folder, &error))?;
    let mut shards: Vec<Vec<T>> = vec![Vec::new()];
    let mut filled = 0;
    for tensor in tensors {
        if filled > 0 && filled + tensor.size() > shard {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += tensor.size();
        if let Some(last) = shards.last_mut() {
            last.push(*tensor);
        }
    }
    if let [all] = &shards[..] {
        return write_each(&folder.join("model.safetensors"), "pt", all.iter().copied());
    }
    let mut map = Map::new();
    for (number, shard) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
        map.extend(shard.iter().map(|tensor| (tensor.name().to_owned(), json!(file))));
        write_each(&folder.join(file), "pt", shard.iter().copied())?;
    }
    let total: usize = tensors.iter().map(Writable::size).sum();
    let index = json!({ "metadata": { "total_size": total }, "weight_map": map });
    write_json(&folder.join("model.safetensors.index.json"), &index)
}

fn write_json(path: &Path, json: &Value) -> Result<(), CheckpointError> {
    std::fs::write(path, format!("{json:#}\n")).map_err(|error| file_error(path, &error))
}

fn file_error(path: &Path, error: &std::io::Error) -> CheckpointError {
    CheckpointError::File { path: path.to_owned(), message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoint;
    use crate::config::ModelConfig;
    use crate::sizes::{FAMILIES, Sizes, SpecialTokens, new_config};

    fn model(family: &str) -> CausalLm {
        let sizes = Sizes {
            layers: 2,
            hidden: 16,
            heads: 2,
            key_value_heads: 2,
            intermediate: 64,
            positions: 32,
        };
        let special = SpecialTokens { bos: 1, eos: 2, pad: 3 };
        let config = new_config(family, &sizes, 20, special).unwrap();
        CausalLm::new(config, 1).unwrap()
    }

    #[test]
    fn what_is_written_is_read_as_the_same_model() {
        for family in FAMILIES {
            let model = model(family);
            let folder = tempfile::tempdir().unwrap();
            model.save(folder.path(), NumberKind::F32, None).unwrap();
            let again = CausalLm::open(folder.path()).unwrap();
            assert!(again.parameters() == model.parameters());
            assert_eq!(again.config(), model.config());
            // In 16 bits, and with what the folder said of generation.
            let halves = tempfile::tempdir().unwrap();
            let path = folder.path().join(GENERATION);
            std::fs::write(&path, "{\"top_k\": 7}").unwrap();
            again.save(halves.path(), NumberKind::Bf16, Some(folder.path())).unwrap();
            let again = CausalLm::open(halves.path()).unwrap();
            assert_eq!(again.number_kind(), NumberKind::Bf16);
            assert_eq!(again.config_json()["torch_dtype"], "bfloat16");
            let said = std::fs::read_to_string(halves.path().join(GENERATION)).unwrap();
            assert_eq!(said, "{\"top_k\": 7}");
        }
    }

    #[test]
    fn shards_and_their_index_are_read_as_one() {
        let model = model("llama");
        let tensors: Vec<TensorSource<'_>> = model
            .parameters()
            .iter()
            .map(|parameter| TensorSource {
                name: &parameter.name,
                shape: &parameter.shape,
                values: parameter.into(),
                kind: NumberKind::F32,
            })
            .collect();
        let folder = tempfile::tempdir().unwrap();
        write_weights(folder.path(), &tensors, 6000).unwrap();
        let files = std::fs::read_dir(folder.path()).unwrap().count();
        assert!(files > 3, "{files}");
        let config = ModelConfig::parse(model.config_json()).unwrap();
        let checkpoint = Checkpoint::open(folder.path(), &config).unwrap();
        for parameter in model.parameters().iter() {
            assert_eq!(checkpoint.read(&parameter.name).unwrap(), parameter.values);
        }
    }
}

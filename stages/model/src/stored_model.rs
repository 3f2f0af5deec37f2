//! A language model that stays on disk: looked through, and written anew, with little of it in memory.

use std::path::Path;

use serde_json::Value;

use crate::causal_lm::ModelError;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::config::ModelConfig;
use crate::folder::{SHARD, write_config, write_weights};
use crate::reward_model::is_of_reward_model;
use crate::tensor_file::NumberKind;
use crate::tensor_writer::{Writable, encode};

/// The folder of a language model, of which the headers have been read: every tensor is there and has its
/// shape.
#[derive(Debug)]
pub struct StoredModel {
    config: ModelConfig,
    json: Value,
    checkpoint: Checkpoint,
}

/// Told how many numbers were looked through since it was told last; says whether to go on.
pub type Seen<'a> = &'a dyn Fn(u64) -> bool;

impl StoredModel {
    /// Opens a folder.
    ///
    /// # Errors
    /// When its sizes or its weights are not those of a language model.
    pub fn open(folder: &Path) -> Result<StoredModel, ModelError> {
        let (config, json) = read_config(folder)?;
        let checkpoint = Checkpoint::open(folder, &config)?;
        Ok(StoredModel { config, json, checkpoint })
    }

    /// Reads the `config.json` of a folder that may have no weights yet.
    ///
    /// # Errors
    /// When its sizes are not those of a language model.
    pub fn read_config(folder: &Path) -> Result<ModelConfig, ModelError> {
        read_config(folder).map(|(config, _)| config)
    }

    /// The family and the sizes.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Whether its weights are PyTorch's pickles.
    pub fn is_pickled(&self) -> bool {
        self.checkpoint.is_pickled()
    }

    /// Whether every tensor is stored so.
    ///
    /// # Errors
    /// When the kind of one is not read.
    pub fn has_weights_of(&self, kind: NumberKind) -> Result<bool, CheckpointError> {
        for (name, _) in self.config.tensors() {
            if self.checkpoint.kind(&name)? != kind {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether `config.json` says that they are.
    pub fn is_said_to_be_of(&self, kind: NumberKind) -> bool {
        let said = self.json.get("dtype").or(self.json.get("torch_dtype"));
        said.and_then(Value::as_str) == Some(kind.name())
    }

    /// Reads every number.
    ///
    /// # Errors
    /// When one is NaN or infinite, a file cannot be read or is damaged, or `seen` says to stop.
    pub fn check_numbers(&self, seen: Seen<'_>) -> Result<(), CheckpointError> {
        for (name, _) in self.config.tensors() {
            self.checkpoint.for_each_part(&name, &mut |_, numbers| go_on(seen, numbers.len()))?;
        }
        Ok(())
    }

    /// Writes the weights into a folder as safetensors, each number as it is stored here or as `kind`. Names
    /// get the family's prefix; what nothing is computed with is left out.
    ///
    /// # Errors
    /// As [`StoredModel::check_numbers`], and when the file system refuses, or a number is too large for
    /// `kind`.
    pub fn write_weights(
        &self,
        folder: &Path,
        kind: Option<NumberKind>,
        seen: Seen<'_>,
    ) -> Result<(), CheckpointError> {
        let names = self.config.tensors();
        let tensors: Vec<StoredTensor<'_>> = names
            .iter()
            .map(|(name, shape)| {
                let kind = kind.map_or_else(|| self.checkpoint.kind(name), Ok)?;
                Ok(StoredTensor { checkpoint: &self.checkpoint, name, shape, kind, seen })
            })
            .collect::<Result<_, CheckpointError>>()?;
        write_weights(folder, &tensors, SHARD)
    }

    /// Writes `config.json` into a folder; it says that numbers are of this kind.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write_config(&self, folder: &Path, kind: NumberKind) -> Result<(), CheckpointError> {
        write_config(folder, self.json.clone(), kind)
    }
}

fn read_config(folder: &Path) -> Result<(ModelConfig, Value), ModelError> {
    let (config, json) = ModelConfig::read_with_json(folder)?;
    if is_of_reward_model(&json) {
        return Err(ModelError::NoLanguageModel(folder.to_owned()));
    }
    Ok((config, json))
}

fn go_on(seen: Seen<'_>, numbers: usize) -> Result<(), CheckpointError> {
    if seen(numbers as u64) { Ok(()) } else { Err(CheckpointError::Stopped) }
}

/// A tensor that is read when it is its turn to be written.
#[derive(Clone, Copy)]
struct StoredTensor<'a> {
    checkpoint: &'a Checkpoint,
    name: &'a str,
    shape: &'a [usize],
    kind: NumberKind,
    seen: Seen<'a>,
}

impl Writable for StoredTensor<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn kind(&self) -> NumberKind {
        self.kind
    }

    fn bytes(&self) -> Result<Vec<u8>, CheckpointError> {
        let mut bytes = Vec::with_capacity(self.size());
        self.checkpoint.for_each_part(self.name, &mut |from, numbers| {
            encode(self.name, from, numbers, self.kind, &mut bytes)?;
            go_on(self.seen, numbers.len())
        })?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::PathBuf;

    use super::*;
    use crate::causal_lm::CausalLm;

    fn fixture(name: &str) -> PathBuf {
        let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures");
        PathBuf::from(fixtures).join(name)
    }

    /// Writes a model anew, and opens what was written.
    fn written(name: &str, kind: Option<NumberKind>) -> (CausalLm, tempfile::TempDir) {
        let model = StoredModel::open(&fixture(name)).unwrap();
        let seen = Cell::new(0);
        let folder = tempfile::tempdir().unwrap();
        let count = |numbers| {
            seen.set(seen.get() + numbers);
            true
        };
        model.write_weights(folder.path(), kind, &count).unwrap();
        model.write_config(folder.path(), kind.unwrap_or(NumberKind::F32)).unwrap();
        assert_eq!(seen.get(), model.config().parameters());
        model.check_numbers(&count).unwrap();
        assert_eq!(seen.get(), 2 * model.config().parameters());
        (CausalLm::open(folder.path()).unwrap(), folder)
    }

    #[test]
    fn pickles_become_safetensors_with_the_same_numbers() {
        for (pickled, like) in [("training/pickle", "bloom"), ("training/sharded_pickle", "llama")]
        {
            assert!(StoredModel::open(&fixture(pickled)).unwrap().is_pickled());
            let (model, folder) = written(pickled, None);
            let like = CausalLm::open(&fixture(&format!("models/{like}"))).unwrap();
            assert!(model.parameters() == like.parameters());
            assert!(!StoredModel::open(folder.path()).unwrap().is_pickled());
        }
    }

    #[test]
    fn numbers_are_written_as_the_kind_that_is_asked_for() {
        let (model, folder) = written("models/llama", Some(NumberKind::Bf16));
        assert_eq!(model.number_kind(), NumberKind::Bf16);
        let stored = StoredModel::open(folder.path()).unwrap();
        assert!(stored.has_weights_of(NumberKind::Bf16).unwrap());
        assert!(!stored.has_weights_of(NumberKind::F32).unwrap());
        assert!(stored.is_said_to_be_of(NumberKind::Bf16));
        // What was exact stays so.
        let (again, _folder) = written("models/llama_bf16", Some(NumberKind::F32));
        let before = CausalLm::open(&fixture("models/llama_bf16")).unwrap();
        assert!(again.parameters() == before.parameters());
    }

    #[test]
    fn who_stops_it_gets_no_file() {
        let model = StoredModel::open(&fixture("models/bloom")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let stopped = model.write_weights(folder.path(), None, &|_| false);
        assert!(matches!(stopped, Err(CheckpointError::Stopped)));
        assert!(matches!(model.check_numbers(&|_| false), Err(CheckpointError::Stopped)));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    }
}

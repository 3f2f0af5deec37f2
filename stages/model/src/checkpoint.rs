//! The weights of a model's folder: every tensor by name, shape and type, looked at before use.
//!
//! A folder holds `model.safetensors`, or several such files and `model.safetensors.index.json` that says
//! which tensor is in which; where there is neither, `pytorch_model.bin` or several of them likewise. Opening
//! one reads only the files' headers; tensors are read when they are asked for. The names are those of
//! `transformers`; where a base model was saved without its prefix, old files carry buffers that nothing is
//! computed with, or a tied head is there beside the embedding, that is understood. Such a head is compared
//! with the embedding, where they are not one storage: if they differ, there is no telling which is meant.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::ModelConfig;
use crate::pickle_file;
use crate::tensor_file::{EachPart, NumberKind, TensorFile};

/// So many names are listed when several are missing or too many.
const LISTED: usize = 5;

/// The tensors of a model, all there and of the right shapes.
#[derive(Debug)]
pub struct Checkpoint {
    format: Format,
    files: Vec<TensorFile>,
    /// Which file a tensor is in, and its name there.
    tensors: BTreeMap<String, (usize, String)>,
}

/// What kind of files a folder's weights are in.
#[derive(Debug, Clone, Copy)]
enum Format {
    Safetensors,
    /// PyTorch's own.
    Pickle,
}

impl Format {
    /// The name of the file where there is only one.
    fn name(self) -> &'static str {
        match self {
            Format::Safetensors => "model.safetensors",
            Format::Pickle => "pytorch_model.bin",
        }
    }

    fn open(self, path: &Path) -> Result<TensorFile, CheckpointError> {
        match self {
            Format::Safetensors => TensorFile::open(path),
            Format::Pickle => pickle_file::open(path),
        }
    }
}

/// Weights that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The GPU that holds what is to be written.
    #[error(transparent)]
    Device(#[from] okapi_device::DeviceError),
    /// A file is not there, or not what it should be.
    #[error("{}: {message}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Tensors that the model needs are in no file.
    #[error("the checkpoint lacks {}", listed(.0))]
    Missing(Vec<String>),
    /// Tensors that the model has not.
    #[error("the checkpoint has tensors that the model has not: {}", listed(.0))]
    Extra(Vec<String>),
    /// A tensor of another shape.
    #[error(
        "{}: the tensor `{name}` has the shape {found:?}; by config.json it has {expected:?}",
        path.display()
    )]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape that the sizes of the model give.
        expected: Vec<usize>,
    },
    /// A tied head that is not the embedding.
    #[error(
        "the tensors `{embedding}` and `{head}` differ, though by config.json they are one: leave one out, \
         or set `tie_word_embeddings` to false"
    )]
    Untied {
        /// The embedding.
        embedding: &'static str,
        /// The head.
        head: &'static str,
    },
    /// A tensor of numbers that are not read.
    #[error(
        "{}: the tensor `{name}` is of the type {kind}; F32, F16 and BF16 are read",
        path.display()
    )]
    Kind {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The type in the file.
        kind: String,
    },
    /// A number that is none.
    #[error("{}: the tensor `{name}` holds {value} at place {place}", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// From 0, in the order of the file.
        place: usize,
        /// NaN or an infinity.
        value: f32,
    },
    /// A number that would become an infinity where it is to be stored.
    #[error(
        "the tensor `{name}` holds {value} at place {place}, which {kind} cannot hold; store it as float32"
    )]
    TooLarge {
        /// The tensor.
        name: String,
        /// From 0, in the order of its rows.
        place: usize,
        /// The number.
        value: f32,
        /// How it was to be stored.
        kind: &'static str,
    },
    /// Whoever asked for the work wants it no longer.
    #[error("it was stopped")]
    Stopped,
    /// There is no tensor of that name.
    #[error("there is no tensor `{0}`")]
    Unknown(String),
}

fn listed(names: &[String]) -> String {
    let first: Vec<_> = names.iter().take(LISTED).map(|name| format!("`{name}`")).collect();
    match names.len() - first.len() {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

impl Checkpoint {
    /// Opens the weights of a folder, which must be exactly those of the model.
    ///
    /// # Errors
    /// When a file is missing, cut or none of its kind, or a tensor is missing, too many, of another
    /// shape or of a type that is not read, or a tied head is not the embedding.
    pub fn open(folder: &Path, config: &ModelConfig) -> Result<Checkpoint, CheckpointError> {
        Checkpoint::open_tensors(folder, config, &config.tensors())
    }

    /// Opens the weights of a folder, which must be exactly `expected`.
    pub(crate) fn open_tensors(
        folder: &Path,
        config: &ModelConfig,
        expected: &[(String, Vec<usize>)],
    ) -> Result<Checkpoint, CheckpointError> {
        let (format, paths) = shards(folder)?;
        let mut checkpoint = Checkpoint { format, files: Vec::new(), tensors: BTreeMap::new() };
        for path in paths {
            checkpoint.add_file(format.open(&path)?, config)?;
        }
        let head = config.tied().and_then(|(_, head)| checkpoint.tensors.remove(head));
        let missing: Vec<String> = expected
            .iter()
            .filter(|(name, _)| !checkpoint.tensors.contains_key(name))
            .map(|(name, _)| name.clone())
            .collect();
        if !missing.is_empty() {
            return Err(CheckpointError::Missing(missing));
        }
        let names: BTreeSet<&String> = expected.iter().map(|(name, _)| name).collect();
        let extra: Vec<String> =
            checkpoint.tensors.keys().filter(|name| !names.contains(name)).cloned().collect();
        if !extra.is_empty() {
            return Err(CheckpointError::Extra(extra));
        }
        for (name, shape) in expected {
            checkpoint.kind(name)?;
            let found = checkpoint.shape(name)?.to_vec();
            if found != *shape {
                let path = checkpoint.place(name)?.0.path().to_owned();
                let (name, expected) = (name.clone(), shape.clone());
                return Err(CheckpointError::Shape { path, name, found, expected });
            }
        }
        if let (Some((embedding, name)), Some((file, there))) = (config.tied(), head) {
            let copy = (&checkpoint.files[file], &there[..]);
            if !TensorFile::are_equal(checkpoint.place(embedding)?, copy)? {
                return Err(CheckpointError::Untied { embedding, head: name });
            }
        }
        Ok(checkpoint)
    }

    fn add_file(&mut self, file: TensorFile, config: &ModelConfig) -> Result<(), CheckpointError> {
        for there in file.names() {
            let name = whole_name(there, config);
            if config.ignores(&name) {
                continue;
            }
            let place = (self.files.len(), there.to_owned());
            if self.tensors.insert(name.clone(), place).is_some() {
                let message = format!("the tensor `{name}` is in two files, or twice in one");
                return Err(CheckpointError::File { path: file.path().to_owned(), message });
            }
        }
        self.files.push(file);
        Ok(())
    }

    /// How the numbers of a tensor are stored.
    ///
    /// # Errors
    /// When there is no such tensor.
    pub fn kind(&self, name: &str) -> Result<NumberKind, CheckpointError> {
        let (file, there) = self.place(name)?;
        file.kind(there)
    }

    /// The shape of a tensor.
    ///
    /// # Errors
    /// When there is no such tensor.
    pub fn shape(&self, name: &str) -> Result<&[usize], CheckpointError> {
        let (file, there) = self.place(name)?;
        file.shape(there)
    }

    /// The numbers of a tensor, in the order of the file: rows one after the other.
    ///
    /// # Errors
    /// When there is no such tensor, it cannot be read, or a number in it is NaN or infinite.
    pub fn read(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let (file, there) = self.place(name)?;
        file.read(there)
    }

    /// Hands out the numbers of a tensor in their order, in parts where that can be.
    pub(crate) fn for_each_part(
        &self,
        name: &str,
        each: &mut EachPart<'_>,
    ) -> Result<(), CheckpointError> {
        let (file, there) = self.place(name)?;
        file.for_each_part(there, each)
    }

    /// Whether the weights are PyTorch's pickles.
    pub(crate) fn is_pickled(&self) -> bool {
        matches!(self.format, Format::Pickle)
    }

    fn place(&self, name: &str) -> Result<(&TensorFile, &str), CheckpointError> {
        let place = self.tensors.get(name);
        let (file, there) = place.ok_or_else(|| CheckpointError::Unknown(name.to_owned()))?;
        Ok((&self.files[*file], there))
    }
}

/// A tensor's name with the family's prefix.
fn whole_name(name: &str, config: &ModelConfig) -> String {
    let prefix = config.base_prefix();
    let of_head = ["lm_head.", "embed_out.", "score."].iter().any(|head| name.starts_with(head));
    match name.starts_with(prefix) || of_head {
        true => name.to_owned(),
        false => format!("{prefix}{name}"),
    }
}

/// The files that hold a folder's weights, looked for in the order of `transformers`.
fn shards(folder: &Path) -> Result<(Format, Vec<PathBuf>), CheckpointError> {
    for format in [Format::Safetensors, Format::Pickle] {
        let single = folder.join(format.name());
        if single.exists() {
            return Ok((format, vec![single]));
        }
        let index = folder.join(format!("{}.index.json", format.name()));
        if index.exists() {
            return Ok((format, listed_files(folder, &index)?));
        }
    }
    let message =
        "there is neither model.safetensors nor pytorch_model.bin, nor the index of several";
    Err(CheckpointError::File { path: folder.to_owned(), message: message.to_owned() })
}

/// The files that an index names.
fn listed_files(folder: &Path, index: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let wrong = |message: String| CheckpointError::File { path: index.to_owned(), message };
    let text = std::fs::read(index).map_err(|error| wrong(error.to_string()))?;
    let names = shard_names(&text).map_err(wrong)?;
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// The names of the files that an index names, none of which leads out of the folder.
///
/// # Errors
/// What is wrong with the index.
pub fn shard_names(index: &[u8]) -> Result<BTreeSet<String>, String> {
    let json: Value = serde_json::from_slice(index).map_err(|error| error.to_string())?;
    let map = json["weight_map"].as_object();
    let map = map.ok_or_else(|| "it has no `weight_map`".to_owned())?;
    let mut names = BTreeSet::new();
    for (tensor, name) in map {
        let plain = name.as_str().filter(|name| {
            Path::new(name).file_name().is_some_and(|file| file.to_str() == Some(*name))
        });
        let message =
            || format!("the file of `{tensor}` is {name}, which is no name of a file here");
        names.insert(plain.ok_or_else(message)?.to_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;
    use serde_json::json;

    use super::*;
    use crate::tensor_file::decode;

    fn config() -> ModelConfig {
        ModelConfig::parse(&json!({
            "model_type": "gpt_neox", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 8,
            "num_hidden_layers": 1, "num_attention_heads": 1, "rotary_pct": 0.5,
        }))
        .unwrap()
    }

    type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

    /// The tensors of the model, each number its place in the tensor.
    fn tensors() -> Tensors {
        let tensor = |(name, shape): (String, Vec<usize>)| {
            let count = shape.iter().product::<usize>();
            let bytes = (0..count).flat_map(|place| (place as f32).to_le_bytes()).collect();
            (name, (Dtype::F32, shape, bytes))
        };
        config().tensors().into_iter().map(tensor).collect()
    }

    fn write(path: &Path, tensors: &Tensors) {
        let views = tensors.iter().map(|(name, (kind, shape, bytes))| {
            (name.clone(), TensorView::new(*kind, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, None, path).unwrap();
    }

    fn open(tensors: &Tensors) -> Result<Checkpoint, CheckpointError> {
        let folder = tempfile::tempdir().unwrap();
        write(&folder.path().join("model.safetensors"), tensors);
        Checkpoint::open(folder.path(), &config())
    }

    #[test]
    fn a_whole_checkpoint_is_read_whatever_its_numbers_and_prefix() {
        let checkpoint = open(&tensors()).unwrap();
        assert_eq!(checkpoint.read("embed_out.weight").unwrap()[..3], [0.0, 1.0, 2.0]);
        assert_eq!(checkpoint.shape("embed_out.weight").unwrap(), [8, 4]);
        let mut other = Tensors::new();
        for (name, (_, shape, bytes)) in tensors() {
            let numbers = decode(&bytes, NumberKind::F32);
            let halves = numbers.iter().flat_map(|number| bf16::from_f32(*number).to_le_bytes());
            let name = name.strip_prefix("gpt_neox.").unwrap_or(&name).to_owned();
            other.insert(name, (Dtype::BF16, shape, halves.collect()));
        }
        let buffer = "layers.0.attention.rotary_emb.inv_freq".to_owned();
        other.insert(buffer, (Dtype::F32, vec![1], vec![0; 4]));
        let checkpoint = open(&other).unwrap();
        let name = "gpt_neox.layers.0.mlp.dense_h_to_4h.bias";
        assert_eq!(checkpoint.kind(name).unwrap(), NumberKind::Bf16);
        assert_eq!(checkpoint.read(name).unwrap(), (0..8).map(|n| n as f32).collect::<Vec<_>>());
    }

    #[test]
    fn whatever_is_wrong_is_named() {
        let name = "gpt_neox.layers.0.attention.dense.weight".to_owned();
        let said = |change: &dyn Fn(&mut Tensors)| {
            let mut tensors = tensors();
            change(&mut tensors);
            match open(&tensors) {
                Err(error) => error.to_string(),
                Ok(checkpoint) => checkpoint.read(&name).unwrap_err().to_string(),
            }
        };
        assert_eq!(
            said(&|tensors| drop(tensors.remove(&name))),
            format!("the checkpoint lacks `{name}`")
        );
        let extra = said(&|tensors| {
            tensors.insert("adapter".into(), (Dtype::F32, vec![1], vec![0; 4]));
        });
        assert!(extra.contains("has not: `gpt_neox.adapter`"), "{extra}");
        let shape = said(&|tensors| {
            tensors.get_mut(&name).unwrap().1 = vec![2, 8];
        });
        assert!(shape.contains("has the shape [2, 8]; by config.json it has [4, 4]"), "{shape}");
        let kind = said(&|tensors| {
            tensors.insert(name.clone(), (Dtype::I32, vec![4, 4], vec![0; 64]));
        });
        assert!(kind.contains("is of the type I32"), "{kind}");
        let nan = said(&|tensors| {
            tensors.get_mut(&name).unwrap().2[12..16].copy_from_slice(&f32::NAN.to_le_bytes());
        });
        let expected = format!("model.safetensors: the tensor `{name}` holds NaN at place 3");
        assert!(nan.ends_with(&expected), "{nan}");
    }

    /// Files that were saved by way of `state_dict` have the tied head beside the embedding.
    #[test]
    fn a_tied_head_may_be_there_twice_but_not_another() {
        let tied = ModelConfig::parse(&json!({
            "model_type": "gpt_neox", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 8,
            "num_hidden_layers": 1, "num_attention_heads": 1, "rotary_pct": 0.5,
            "tie_word_embeddings": true,
        }));
        let folder = tempfile::tempdir().unwrap();
        let open = |tensors: &Tensors| {
            write(&folder.path().join("model.safetensors"), tensors);
            Checkpoint::open(folder.path(), tied.as_ref().unwrap())
        };
        let mut tensors = tensors();
        let checkpoint = open(&tensors).unwrap();
        assert_eq!(checkpoint.read("gpt_neox.embed_in.weight").unwrap()[..3], [0.0, 1.0, 2.0]);
        assert!(checkpoint.read("embed_out.weight").is_err());
        tensors.get_mut("embed_out.weight").unwrap().2[4] ^= 1;
        let said = open(&tensors).unwrap_err().to_string();
        assert!(
            said.contains("`gpt_neox.embed_in.weight` and `embed_out.weight` differ"),
            "{said}"
        );
        tensors.get_mut("embed_out.weight").unwrap().1 = vec![4, 8];
        assert!(matches!(open(&tensors), Err(CheckpointError::Untied { .. })));
        tensors.remove("embed_out.weight");
        open(&tensors).unwrap();
    }

    #[test]
    fn files_that_are_cut_or_strange_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let said = || Checkpoint::open(folder.path(), &config()).unwrap_err().to_string();
        assert!(said().contains("neither model.safetensors nor"), "{}", said());
        write(&path, &tensors());
        let whole = std::fs::read(&path).unwrap();
        for length in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            let said = said();
            assert!(said.contains("model.safetensors: it is"), "{length}: {said}");
        }
        std::fs::write(&path, [0xff; 64]).unwrap();
        assert!(said().contains("no safetensors file"), "{}", said());
    }

    #[test]
    fn shards_are_found_by_the_index_and_only_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let all: Vec<_> = tensors().into_iter().collect();
        let mut map = serde_json::Map::new();
        for (number, part) in all.chunks(4).enumerate() {
            let file = format!("model-{number}.safetensors");
            write(&folder.path().join(&file), &part.iter().cloned().collect());
            map.extend(part.iter().map(|(name, _)| (name.clone(), json!(file))));
        }
        let index = folder.path().join("model.safetensors.index.json");
        std::fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
        let checkpoint = Checkpoint::open(folder.path(), &config()).unwrap();
        assert_eq!(
            checkpoint.read("gpt_neox.final_layer_norm.bias").unwrap(),
            [0.0, 1.0, 2.0, 3.0]
        );
        for name in ["../model-0.safetensors", "/etc/passwd", "", "a/b"] {
            map.insert("embed_out.weight".into(), json!(name));
            std::fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
            let said = Checkpoint::open(folder.path(), &config()).unwrap_err().to_string();
            assert!(said.contains("no name of a file here"), "{name}: {said}");
        }
    }
}

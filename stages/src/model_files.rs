//! Which files of a folder make a model: its sizes, its tokenizer, one form of its weights, its card and its
//! licence. Whatever else a folder holds is not taken over.

use std::collections::BTreeSet;

use okapi_model::checkpoint::shard_names;

/// What the model and its tokenizer are read from, those that are there.
const NAMES: [&str; 8] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "README.md",
];

/// How licences and what belongs to them are called, in lower case.
const LICENCES: [&str; 6] = ["license", "licence", "copying", "notice", "use_policy", "copyright"];

/// The weights, in the order of `transformers`: the first that is there counts.
const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// The files that make a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelFiles {
    /// All but the weights.
    pub(crate) small: BTreeSet<String>,
    /// The file of the weights, or those of an index once they are known, with it.
    pub(crate) weights: BTreeSet<String>,
    /// What is not taken over.
    pub(crate) left_out: BTreeSet<String>,
    /// The index that says which files have the weights, as long as it has not been read.
    pub(crate) index: Option<String>,
}

/// Why files make no model, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoModel {
    pub(crate) message: String,
    pub(crate) hint: String,
}

impl ModelFiles {
    /// Chooses from the names of what lies in a folder; those of folders end with a `/`.
    pub(crate) fn choose(names: BTreeSet<String>) -> Result<ModelFiles, NoModel> {
        let Some(weights) = WEIGHTS.into_iter().find(|name| names.contains(*name)) else {
            return Err(without_weights(&names));
        };
        if !names.contains("config.json") {
            return Err(NoModel {
                message: "it has no config.json, which says how the model is built".to_owned(),
                hint: "copy it there from the model that this one was made of".to_owned(),
            });
        }
        let is_small = |name: &String| NAMES.contains(&&name[..]) || is_licence(name);
        let (small, mut left_out): (BTreeSet<_>, BTreeSet<_>) =
            names.into_iter().partition(is_small);
        left_out.remove(weights);
        let index = weights.ends_with(".index.json").then(|| weights.to_owned());
        Ok(ModelFiles { small, weights: BTreeSet::from([weights.to_owned()]), left_out, index })
    }

    /// Adds the files that the index names.
    pub(crate) fn add_shards(&mut self, index: &[u8]) -> Result<(), NoModel> {
        let Some(name) = self.index.take() else { return Ok(()) };
        let anew = "get the folder anew, with all of its files";
        let shards = shard_names(index).map_err(|message| NoModel {
            message: format!("{name}: {message}"),
            hint: anew.to_owned(),
        })?;
        for shard in shards {
            if !self.left_out.remove(&shard) {
                let message = format!("{name} names `{shard}`, which is not there");
                return Err(NoModel { message, hint: anew.to_owned() });
            }
            self.weights.insert(shard);
        }
        Ok(())
    }

    /// The names of all of them.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.small.iter().chain(&self.weights)
    }
}

fn is_licence(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    !name.ends_with('/') && LICENCES.iter().any(|start| name.starts_with(start))
}

/// What there is instead of weights.
fn without_weights(names: &BTreeSet<String>) -> NoModel {
    let ends_with = |ending: &str| names.iter().any(|name| name.ends_with(ending));
    let (message, hint) = if names.contains("adapter_config.json") {
        (
            "it holds adapters (PEFT), and not the model that they belong to",
            "merge them into it and import what this writes (with peft installed): python -c 'from peft import \
             AutoPeftModelForCausalLM as M; \
             M.from_pretrained(\"ADAPTERS\").merge_and_unload().save_pretrained(\"MERGED\")'; the tokenizer is that \
             of the model, `base_model_name_or_path` in adapter_config.json",
        )
    } else if ends_with(".gguf") {
        (
            "its weights are of GGUF, which is not read",
            "take the repository that they were made of, with safetensors",
        )
    } else if ends_with(".pth") {
        (
            "its weights are as Meta publishes them, which is not read",
            "take the repository whose name ends in -hf, or convert them with transformers' \
             convert_llama_weights_to_hf.py",
        )
    } else if names.contains("tf_model.h5") || names.contains("flax_model.msgpack") {
        (
            "its weights are those of TensorFlow or Flax, which are not read",
            "transformers 4 reads them (`from_tf`, `from_flax`) and writes safetensors with `save_pretrained`",
        )
    } else {
        (
            "it has neither model.safetensors nor pytorch_model.bin, nor the index of several",
            "give the folder that `save_pretrained` wrote, or a repository of such files",
        )
    };
    NoModel { message: message.to_owned(), hint: hint.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn one_form_of_weights_is_taken_and_what_tells_of_the_model() {
        let mut files = ModelFiles::choose(set(&[
            "LICENSE.txt",
            "Notice",
            "README.md",
            "config.json",
            "flax_model.msgpack",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "onnx/",
            "pytorch_model.bin",
            "tokenizer.json",
            "tokenizer.model",
        ]))
        .unwrap();
        let small = ["LICENSE.txt", "Notice", "README.md", "config.json", "tokenizer.json"];
        assert_eq!(files.small, set(&small));
        assert_eq!(files.index.as_deref(), Some("model.safetensors.index.json"));
        let index = br#"{"weight_map": {"a": "model-00001-of-00002.safetensors",
            "b": "model-00002-of-00002.safetensors"}}"#;
        files.add_shards(index).unwrap();
        assert_eq!(files.weights.len(), 3);
        assert_eq!(
            files.left_out,
            set(&["flax_model.msgpack", "onnx/", "pytorch_model.bin", "tokenizer.model"])
        );
        assert_eq!(files.names().count(), 8);
    }

    #[test]
    fn an_index_names_files_that_are_there() {
        let names = ["config.json", "pytorch_model.bin.index.json", "README.md"];
        for (index, expected) in [
            (r#"{"weight_map": {"a": "x.bin"}}"#, "names `x.bin`, which is not there"),
            (r#"{"weight_map": {"a": "../x.bin"}}"#, "which is no name of a file here"),
            (r#"{"weight_map": {"a": "README.md"}}"#, "names `README.md`, which is not there"),
            ("{}", "it has no `weight_map`"),
        ] {
            let said = ModelFiles::choose(set(&names)).unwrap().add_shards(index.as_bytes());
            let said = said.unwrap_err().message;
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn what_is_there_instead_of_a_model_is_named() {
        for (names, expected) in [
            (&["adapter_config.json", "adapter_model.safetensors"][..], "adapters (PEFT)"),
            (&["config.json", "x.Q4_K_M.gguf"], "GGUF"),
            (&["consolidated.00.pth", "params.json"], "as Meta publishes"),
            (&["config.json", "tf_model.h5"], "TensorFlow"),
            (&["config.json", "model.safetensors/"], "neither model.safetensors nor"),
            (&["model.safetensors"], "no config.json"),
        ] {
            let said = ModelFiles::choose(set(names)).unwrap_err().message;
            assert!(said.contains(expected), "{said}");
        }
    }
}

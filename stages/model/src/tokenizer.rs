//! Texts to token ids and back, as `transformers` does it with the same folder.
//!
//! `tokenizer.json` says how a text is split and which ids its pieces have. Which tokens begin, end and
//! fill a sequence is said by names in `tokenizer_config.json` and `special_tokens_map.json`, or only by
//! ids in `generation_config.json` and `config.json`. An opened tokenizer fits its model: no id of it
//! lies beyond the rows of the embedding.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::{Map, Value};

use crate::tokenizer_folder::{CHAT_TEMPLATE, Folder, SAVED, TOKENIZER_CONFIG};

/// A tokenizer that fits its model.
#[derive(Debug)]
pub struct Tokenizer {
    pub(crate) inner: tokenizers::Tokenizer,
    pub(crate) special: SpecialTokens,
    /// The files of a tokenizer, byte for byte.
    pub(crate) files: BTreeMap<&'static str, Vec<u8>>,
}

/// The ids that have a role.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct SpecialTokens {
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
    pub(crate) pad: Option<u32>,
    pub(crate) unk: Option<u32>,
    pub(crate) ends: Vec<u32>,
}

/// A tokenizer that cannot be read, used, trained or written.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not there, or not what it should be.
    #[error("{}: {message}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and what helps.
        message: String,
    },
    /// An id without a row in the embedding.
    #[error(
        "{}: {what} has the id {id}, and the model's embedding has {rows} rows; take the tokenizer that \
         the model was trained with, or give the embedding more rows (resize_token_embeddings)",
        path.display()
    )]
    BeyondRows {
        /// The file that says so.
        path: PathBuf,
        /// The token or field.
        what: String,
        /// Its id.
        id: u32,
        /// Rows of the embedding: `vocab_size` in config.json.
        rows: usize,
    },
    /// A vocabulary with no room for what must be in it.
    #[error(
        "a vocabulary of {0} has no room for the 4 special tokens and the 256 bytes; ask for 260 or more"
    )]
    TooSmall(usize),
    /// The library could not do it.
    #[error("the tokenizer failed: {0}")]
    Failed(#[source] tokenizers::Error),
}

impl Tokenizer {
    /// Opens the tokenizer of a model's folder, whose embedding has so many rows. Fewer tokens than
    /// rows are usual: embeddings are padded.
    ///
    /// # Errors
    /// When a file is missing or not what it should be, or a token has no row.
    pub fn open(folder: &Path, vocabulary_rows: usize) -> Result<Tokenizer, TokenizerError> {
        Folder::read(folder, vocabulary_rows)?.tokenizer()
    }

    /// Writes a folder that `transformers.AutoTokenizer` reads: the files that were opened, byte for
    /// byte, or those of the trained tokenizer.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn save(&self, folder: &Path) -> Result<(), TokenizerError> {
        let io = |path: &Path, source| TokenizerError::Io { path: path.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(|error| io(folder, error))?;
        for name in SAVED {
            if let Some(bytes) = self.files.get(name) {
                let path = folder.join(name);
                std::fs::write(&path, bytes).map_err(|error| io(&path, error))?;
            }
        }
        Ok(())
    }

    /// The ids of a text; with `special` also those that the tokenizer puts around one, such as LLaMA's
    /// `<s>`. Special tokens that are written out in the text are found either way.
    ///
    /// # Errors
    /// When the library refuses the text; with the models known here it refuses none.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, special).map_err(TokenizerError::Failed)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The ids of many texts, in their order, on all threads.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_batch<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        special: bool,
    ) -> Result<Vec<Vec<u32>>, TokenizerError> {
        texts.par_iter().map(|text| self.encode(text.as_ref(), special)).collect()
    }

    /// The text of ids, without special tokens when they are skipped. Ids without a token, which padded
    /// embeddings have, are nothing, and bytes that are no UTF-8 become `U+FFFD`.
    ///
    /// # Errors
    /// When the library refuses the ids; with the decoders known here it refuses none.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        self.inner.decode(ids, skip_special).map_err(TokenizerError::Failed)
    }

    /// Tokens, the added ones among them; the embedding may have more rows.
    pub fn vocabulary_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of a token, written as in the vocabulary.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The most tokens that a text should have, if `tokenizer_config.json` says so. Many files say 10^30, which
    /// is as good as nothing.
    pub fn model_max_length(&self) -> Option<usize> {
        let config: Value =
            serde_json::from_slice(self.files.get("tokenizer_config.json")?).ok()?;
        let length = config.get("model_max_length")?.as_f64()?;
        (length < 1e30).then_some(length as usize)
    }

    /// A token, written as in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Puts a chat template in the place of all that there are: one that a model was asked by before says nothing of how it
    /// is asked now.
    ///
    /// # Errors
    /// When `tokenizer_config.json` is no JSON object; of an opened tokenizer it is one.
    pub fn set_chat_template(&mut self, template: &str) -> Result<(), TokenizerError> {
        if let Some(bytes) = self.files.get(TOKENIZER_CONFIG) {
            let failed = |error: serde_json::Error| TokenizerError::Failed(error.into());
            let mut config: Map<String, Value> = serde_json::from_slice(bytes).map_err(failed)?;
            if config.remove("chat_template").is_some() {
                let text = serde_json::to_vec_pretty(&config).map_err(failed)?;
                self.files.insert(TOKENIZER_CONFIG, text);
            }
        }
        self.files.insert(CHAT_TEMPLATE, template.as_bytes().to_vec());
        Ok(())
    }

    /// Begins a sequence.
    pub fn bos(&self) -> Option<u32> {
        self.special.bos
    }

    /// Ends a sequence in training.
    pub fn eos(&self) -> Option<u32> {
        self.special.eos
    }

    /// Fills up a batch.
    pub fn pad(&self) -> Option<u32> {
        self.special.pad
    }

    /// Stands for what is not known.
    pub fn unk(&self) -> Option<u32> {
        self.special.unk
    }

    /// All that end a generated text, in ascending order: [`Tokenizer::eos`], and those of
    /// `generation_config.json`, of which chat models have several.
    pub fn end_tokens(&self) -> &[u32] {
        &self.special.ends
    }
}

//! A reward model: a text in, one number out that says how good it is.
//!
//! It is a language model whose head is gone, and a row of numbers, `score.weight`, by which the state of
//! a text's last token is multiplied after the last norm. Its folder is that of `transformers`'
//! `BloomForSequenceClassification`, `LlamaForSequenceClassification` or
//! `GPTNeoXForSequenceClassification` with one label:
//!
//! ```text
//! config.json          `architectures`, one label in `id2label`, and a `pad_token_id`
//! model.safetensors    the trunk, and `score.weight`; or several files and an index
//! ```
//!
//! Texts are not padded here, so the last token is the last one. `transformers` takes for it the last
//! that is not `pad_token_id`: a text that ends with that very token has another reward there.

use std::path::Path;

use serde_json::{Value, json};

use crate::attention::Sequences;
use crate::causal_lm::{CausalLm, INITIAL_DEVIATION, Keep, ModelError};
use crate::checkpoint::CheckpointError;
use crate::config::{ConfigError, ModelConfig};
use crate::folder::write_config;
use crate::parameters::Parameter;
use crate::random::{Purpose, Random};
use crate::scalar_head::ScalarHead;
use crate::tensor_file::NumberKind;

pub(crate) const SCORE: &str = "score.weight";
const CLASS: &str = "ForSequenceClassification";

/// A product of matrices with one row, or with up to so many numbers in all, is summed in another order than
/// a larger one; with up to half as many columns perhaps too.
const SMALL_PRODUCT: usize = 256;

/// A model that gives a text one number.
///
/// # Sources
/// Ouyang et al., 2022 (InstructGPT), section 3.5; Lai et al., 2023 (Okapi), section 3.
#[derive(Debug, Clone)]
pub struct RewardModel {
    /// Its last parameter but for adapters is the weight of the head.
    trunk: CausalLm,
    head: ScalarHead,
}

impl RewardModel {
    /// Makes one of a language model: its head is dropped, and `score.weight` is drawn from the normal
    /// distribution with mean 0 and deviation 0.02.
    ///
    /// The padding token is that of `config.json`. Where it names none, it is the token that begins a text,
    /// as no text ends with it; see [`RewardModel::set_pad_token`].
    ///
    /// # Errors
    /// When the model has adapters that are not merged.
    pub fn from_lm(lm: CausalLm, seed: u64) -> Result<RewardModel, ModelError> {
        if lm.parameters().iter().len() > lm.config().tensors().len() {
            let message = "a reward model is made of a whole model; merge its adapters first";
            return Err(ModelError::Adapter(message.to_owned()));
        }
        let mut json = lm.config_json().clone();
        json["architectures"] = json!([format!("{}{CLASS}", lm.config().class_prefix())]);
        json["id2label"] = json!({ "0": "LABEL_0" });
        json["label2id"] = json!({ "LABEL_0": 0 });
        json["pad_token_id"] = json!(pad_token(&json, lm.vocabulary()));
        let mut trunk = lm.into_trunk(json);
        let width = trunk.hidden();
        // Streams of the second number 0 are those of a new model's weights, of 1 those of adapters.
        let mut random = Random::new(seed, Purpose::Weights, 0, 2);
        let values = (0..width).map(|_| (INITIAL_DEVIATION * random.normal()) as f32).collect();
        let score = Parameter::new(SCORE.to_owned(), vec![1, width], values);
        let weight = trunk.parameters_mut().push(score);
        Ok(RewardModel { trunk, head: ScalarHead::new(weight, width) })
    }

    /// Reads a reward model's folder.
    ///
    /// # Errors
    /// When its sizes or its weights are not those of a reward model; a language model's are not.
    pub fn open(folder: &Path) -> Result<RewardModel, ModelError> {
        let (config, json) = ModelConfig::read_with_json(folder)?;
        has_one_label(&json)?;
        // As a trunk has no head, it does not matter whether that would be the embedding.
        let config = config.with_tied_head();
        let mut tensors = config.tensors();
        let width = tensors.first().and_then(|(_, shape)| shape.last().copied()).unwrap_or(0);
        tensors.push((SCORE.to_owned(), vec![1, width]));
        let trunk = match CausalLm::read(folder, (config, json), tensors) {
            Err(ModelError::Checkpoint(CheckpointError::Missing(names))) if names == [SCORE] => {
                return Err(ModelError::NoRewardModel(folder.to_owned()));
            }
            read => read?,
        };
        let weight = trunk.parameters().id(SCORE)?;
        Ok(RewardModel { trunk, head: ScalarHead::new(weight, width) })
    }

    /// Writes its folder; adapters that are not merged are left out.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn save(&self, folder: &Path, kind: NumberKind) -> Result<(), CheckpointError> {
        let of_trunk = self.trunk.config().tensors().len();
        self.trunk.write_first(of_trunk + 1, folder, kind)?;
        write_config(folder, self.trunk.config_json().clone(), kind)
    }

    /// The reward of each text: the head's product with the normed state of its last token.
    ///
    /// # Determinism
    /// A text's reward depends neither on what is beside it, nor on the number of threads; on a GPU on the former
    /// by rounding.
    ///
    /// # Errors
    /// At a text of no tokens, and at the first token that the model has no row for.
    pub fn rewards(&self, sequences: &Sequences) -> Result<Vec<f64>, ModelError> {
        let rows = sequences.last_rows()?;
        let forward = self.trunk.forward(self.filled_up(sequences), Keep::Nothing)?;
        let rewards = self.head.read(self.trunk.parameters(), forward.states(), &rows);
        self.trunk.check()?;
        Ok(rewards)
    }

    /// The sequences, and behind them as many of one token as it takes for all products to be summed in the
    /// same order: a text alone would else be rounded otherwise than in a batch.
    fn filled_up(&self, sequences: &Sequences) -> Sequences {
        let weights = self.trunk.parameters().iter().filter(|it| it.shape.len() == 2);
        let columns = weights.filter(|it| it.name != SCORE).map(|it| it.shape[0]);
        let is_wide = columns.min().is_some_and(|narrowest| narrowest > SMALL_PRODUCT / 2);
        let least = if is_wide { 2 } else { SMALL_PRODUCT + 1 };
        let tokens = sequences.tokens();
        let filling = vec![[0]; least.saturating_sub(tokens.len())];
        let texts = sequences.ranges().map(|range| &tokens[range]);
        Sequences::new(&texts.chain(filling.iter().map(|it| &it[..])).collect::<Vec<_>>())
    }

    /// Trains only the last `blocks` blocks, the last norm and the head; with `embeddings` the embedding
    /// too, and the norm after it. Nothing is computed backward below what is trained.
    ///
    /// The released training code of Okapi has 12 blocks and the embeddings.
    pub fn train_top(&mut self, blocks: usize, embeddings: bool) {
        self.trunk.train_top(blocks, embeddings);
    }

    /// What computes the states; its parameters hold the head's weight too. It has no head of its own, so its
    /// logits mean nothing.
    pub fn trunk(&self) -> &CausalLm {
        &self.trunk
    }

    /// The same, to be trained.
    pub fn trunk_mut(&mut self) -> &mut CausalLm {
        &mut self.trunk
    }

    /// What reads rewards from its states.
    pub fn head(&self) -> ScalarHead {
        self.head
    }

    /// The padding token that its folder names. Nothing is padded here.
    pub fn pad_token(&self) -> Option<u32> {
        token(&self.trunk.config_json()["pad_token_id"])
    }

    /// Sets the padding token, which should be the one of the tokenizer, and none that texts end with.
    ///
    /// # Errors
    /// When the model has no row for it.
    pub fn set_pad_token(&mut self, token: u32) -> Result<(), ModelError> {
        let vocabulary = self.trunk.vocabulary();
        if token as usize >= vocabulary {
            return Err(ModelError::Token { token, vocabulary });
        }
        self.trunk.config_json_mut()["pad_token_id"] = json!(token);
        Ok(())
    }
}

impl Sequences {
    /// The row of each sequence's last token, among all tokens.
    ///
    /// # Errors
    /// When a sequence has none.
    pub fn last_rows(&self) -> Result<Vec<usize>, ModelError> {
        let last = |(number, range): (usize, std::ops::Range<usize>)| match range.is_empty() {
            true => Err(ModelError::NoTokens(number)),
            false => Ok(range.end - 1),
        };
        self.ranges().enumerate().map(last).collect()
    }
}

/// Whether a `config.json` says that it is a reward model's.
pub(crate) fn is_of_reward_model(json: &Value) -> bool {
    let classes = json["architectures"].as_array();
    let is = |class: &Value| class.as_str().is_some_and(|class| class.ends_with(CLASS));
    classes.is_some_and(|classes| classes.iter().any(is))
}

/// Refuses classifiers of several labels.
fn has_one_label(json: &Value) -> Result<(), ConfigError> {
    let labels = json["id2label"].as_object().map(|labels| labels.len() as u64);
    match labels.or_else(|| json["num_labels"].as_u64()) {
        None | Some(1) => Ok(()),
        Some(labels) => {
            let message = format!("the model has {labels} labels; a reward model has one");
            Err(ConfigError::new(message))
        }
    }
}

fn token(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|token| token.try_into().ok())
}

/// The padding token of a `config.json`, or what can stand for one. Old files have -1 for none.
fn pad_token(json: &Value, vocabulary: usize) -> u32 {
    let names = ["pad_token_id", "bos_token_id", "eos_token_id"];
    let mut tokens = names.iter().filter_map(|name| token(&json[*name]));
    tokens.find(|token| (*token as usize) < vocabulary).unwrap_or(0)
}

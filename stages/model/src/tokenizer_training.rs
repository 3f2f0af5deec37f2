//! New tokenizers: byte-level BPE, split as BLOOM's.

use serde_json::json;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use crate::tokenizer::{Tokenizer, TokenizerError};
use crate::tokenizer_folder::{Folder, NAMES, TOKENIZER, TOKENIZER_CONFIG};

/// Spaces stay with the word behind them, punctuation stands alone: the split of BLOOM.
const BLOOM_SPLIT: &str = r" ?[^(\s|[.,!?…。，、।۔،])]+";
/// The special tokens of BLOOM; their places are their ids.
const BLOOM_SPECIAL: [&str; 4] = ["<unk>", "<s>", "</s>", "<pad>"];

/// How large a trained vocabulary is.
#[derive(Debug, Clone)]
pub struct TokenizerTrainOptions {
    /// Tokens, the 4 special ones and the 256 bytes among them; fewer where the texts give no more pairs.
    pub vocabulary: usize,
    /// Pairs that are rarer than this are not merged.
    pub min_frequency: u64,
}

impl Tokenizer {
    /// Trains a byte-level BPE as BLOOM's: any text can be encoded, and is decoded to itself.
    ///
    /// # Determinism
    /// The same texts, in any order and on any number of threads, give the same bytes. Of pairs that are
    /// equally frequent the one with the lowest ids is merged first, and every pair is queued once: the
    /// order of the trainer's hash maps does not reach the result. A pair may occur 2^31 times.
    ///
    /// # Errors
    /// When the vocabulary has no room for the special tokens and all bytes.
    pub fn train<T: AsRef<str> + Send>(
        texts: impl Iterator<Item = T> + Send,
        options: &TokenizerTrainOptions,
    ) -> Result<Tokenizer, TokenizerError> {
        if options.vocabulary < BLOOM_SPECIAL.len() + 256 {
            return Err(TokenizerError::TooSmall(options.vocabulary));
        }
        let tokenizer = trained(texts, options).map_err(TokenizerError::Failed)?;
        // The keys are sorted, whatever order a map of serde_json keeps.
        let names = json!({
            "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
        });
        let config = json!({
            "bos_token": "<s>", "clean_up_tokenization_spaces": false, "eos_token": "</s>",
            "pad_token": "<pad>", "padding_side": "left", "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": "<unk>",
        });
        let [config, names] = [config, names].map(|json| format!("{json:#}\n").into_bytes());
        let files =
            [(TOKENIZER, tokenizer.into_bytes()), (TOKENIZER_CONFIG, config), (NAMES, names)];
        Folder::made(files.into(), options.vocabulary).tokenizer()
    }
}

/// The tokenizer.json of what is trained.
fn trained<T: AsRef<str> + Send>(
    texts: impl Iterator<Item = T> + Send,
    options: &TokenizerTrainOptions,
) -> tokenizers::Result<String> {
    let trainer = BpeTrainer::builder()
        .vocab_size(options.vocabulary)
        .min_frequency(options.min_frequency)
        .special_tokens(BLOOM_SPECIAL.map(|text| AddedToken::from(text, true)).into())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    let split = SplitPattern::Regex(BLOOM_SPLIT.to_owned());
    let split = Split::new(split, SplitDelimiterBehavior::Isolated, false)?;
    let bytes = ByteLevel::new(false, true, false);
    let mut inner = tokenizers::Tokenizer::new(BPE::default());
    inner.with_pre_tokenizer(Some(Sequence::new(vec![split.into(), bytes.into()])));
    inner.with_post_processor(Some(bytes.trim_offsets(false)));
    inner.with_decoder(Some(bytes));
    inner.train(&mut TrainerWrapper::from(trainer), texts)?.to_string(true)
}

//! The classes of tokenizers that have a pipeline of their own.
//!
//! # Sources
//! transformers 5.23. Its classes for LLaMA and GPT-NeoX take from tokenizer.json only the vocabulary, the
//! merges and, for LLaMA, what is put around a text; the rest is built in. With the class of LLaMA a text
//! that begins with a space therefore gets no other one, where versions before 5 and SentencePiece put one
//! before it. Every other class of our families uses tokenizer.json as it is.

use serde_json::{Map, Value};
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::ModelWrapper;
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{NormalizerWrapper, Tokenizer};

/// What of the pipeline is taken from elsewhere than tokenizer.json.
#[derive(Clone, Copy)]
pub(crate) enum Class {
    /// Nothing.
    Fast,
    /// All but vocabulary, merges and what is put around a text.
    Llama(PrependScheme),
    /// All but vocabulary and merges; nothing is put around a text.
    GptNeox {
        /// Whether a text that begins with no space gets one.
        prefix_space: bool,
    },
}

impl Class {
    /// The class that tokenizer_config.json or else config.json names, or that the model implies.
    pub(crate) fn new(
        config: &Map<String, Value>,
        model: &Map<String, Value>,
        byte_level: bool,
    ) -> Class {
        let named = [config, model].map(|json| json.get("tokenizer_class").and_then(Value::as_str));
        let name = match (named, model.get("model_type").and_then(Value::as_str)) {
            ([Some(name), _] | [None, Some(name)], _) => name,
            ([None, None], Some("gpt_neox")) => "GPTNeoXTokenizer",
            ([None, None], _) => "",
        };
        let flag = |field: &str| config.get(field).and_then(Value::as_bool);
        let prefix_space = flag("add_prefix_space");
        match name.strip_suffix("Fast").unwrap_or(name) {
            "LlamaTokenizer" if !byte_level => {
                // Old ones put a space behind every special token in a text, too.
                let everywhere = flag("legacy").unwrap_or(false);
                Class::Llama(match (prefix_space.unwrap_or(true), everywhere) {
                    (false, _) => PrependScheme::Never,
                    (true, false) => PrependScheme::First,
                    (true, true) => PrependScheme::Always,
                })
            }
            "GPTNeoXTokenizer" => Class::GptNeox { prefix_space: prefix_space.unwrap_or(false) },
            _ => Class::Fast,
        }
    }

    /// The pipeline as this class has it, without the added tokens where it is another.
    pub(crate) fn rebuild(self, read: Tokenizer) -> tokenizers::Result<Tokenizer> {
        match self {
            Class::Fast => Ok(read),
            Class::Llama(prepend) => {
                let mut inner = Tokenizer::new(bare(&read, true));
                inner.with_pre_tokenizer(Some(Metaspace::new('▁', prepend, false)));
                let spaces = Replace::new("▁", " ")?;
                let mut decoders =
                    vec![spaces.into(), ByteFallback::default().into(), Fuse::default().into()];
                if prepend != PrependScheme::Never {
                    decoders.push(Strip::new(' ', 1, 0).into());
                }
                inner.with_decoder(Some(Sequence::new(decoders)));
                inner.with_post_processor(read.get_post_processor().cloned());
                Ok(inner)
            }
            Class::GptNeox { prefix_space } => {
                let mut inner = Tokenizer::new(bare(&read, false));
                inner.with_normalizer(Some(NormalizerWrapper::from(NFC)))?;
                inner.with_pre_tokenizer(Some(ByteLevel::new(prefix_space, true, true)));
                inner.with_decoder(Some(ByteLevel::default()));
                Ok(inner)
            }
        }
    }

    /// The token that has a role where no file says anything of it.
    pub(crate) fn usual(self, role: &str) -> Option<&'static str> {
        match (self, role) {
            (Class::Llama(_), "unk") => Some("<unk>"),
            (Class::Llama(_), "bos") => Some("<s>"),
            (Class::Llama(_), "eos") => Some("</s>"),
            (Class::GptNeox { .. }, "unk" | "bos" | "eos") => Some("<|endoftext|>"),
            (Class::GptNeox { .. }, "pad") => Some("<|padding|>"),
            _ => None,
        }
    }
}

/// Vocabulary and merges, and nothing else that tokenizer.json says of the model.
fn bare(read: &Tokenizer, byte_fallback: bool) -> ModelWrapper {
    let mut model = read.get_model().clone();
    if let ModelWrapper::BPE(bpe) = &mut model {
        (bpe.unk_token, bpe.ignore_merges) = (None, false);
        (bpe.continuing_subword_prefix, bpe.end_of_word_suffix) = (None, None);
        // Of a byte-level vocabulary nothing is unknown, and nothing is fused.
        (bpe.fuse_unk, bpe.byte_fallback) = (byte_fallback, byte_fallback);
    }
    model
}

//! From texts to tokens: where a continuation begins, what stands before a text, and what is cut off.

use okapi_model::{CausalLm, ModelConfig, Tokenizer};
use rayon::prelude::*;

use crate::error::EvalError;
use crate::python_text::strip_end;
use crate::task::{Item, Protocol};

/// A context and a continuation as tokens, of which the last `scored` are the continuation's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Both, but for what was cut off at the beginning.
    pub tokens: Vec<u32>,
    /// Tokens of the continuation, at least one.
    pub scored: usize,
    /// Tokens that were cut off.
    pub cut: usize,
}

impl Encoded {
    /// What the model reads: all but the last token, which it only has to predict.
    pub fn inputs(&self) -> &[u32] {
        &self.tokens[..self.tokens.len() - 1]
    }
}

/// The most tokens that a model reads at once, as the harness finds it: by `config.json`, then by
/// `tokenizer_config.json`, or else 2048.
pub fn max_length(model: &CausalLm, tokenizer: &Tokenizer) -> usize {
    let json = model.config_json();
    let named = ["n_positions", "max_position_embeddings", "n_ctx"];
    let said = named.iter().find_map(|name| json.get(name)?.as_u64());
    let positions = match model.config() {
        ModelConfig::Bloom(_) => None,
        // Where the file does not say it, `transformers` has a default.
        ModelConfig::Llama(config) => Some(config.positions),
        ModelConfig::GptNeox(config) => Some(config.positions),
    };
    let said = said.map(|length| length as usize).or(positions);
    said.or_else(|| tokenizer.model_max_length()).unwrap_or(2048)
}

/// Makes tokens of texts as a protocol does.
///
/// In one thing the authors' fork is not followed: it makes `</s>` a token of every tokenizer, so that of one without,
/// such as Pythia's, a text that has these letters written out becomes other tokens there.
#[derive(Debug)]
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    protocol: Protocol,
    max_length: usize,
    /// What stands for a context without a text.
    prefix: Option<u32>,
    /// A text that begins so gets no other token before it.
    prefix_text: Option<String>,
}

impl<'a> Encoder<'a> {
    /// An encoder for a model that reads `max_length` tokens.
    ///
    /// # Errors
    /// When the tokenizer cannot write its own first token.
    pub fn new(
        tokenizer: &'a Tokenizer,
        protocol: Protocol,
        max_length: usize,
    ) -> Result<Encoder<'a>, EvalError> {
        let prefix = match protocol {
            Protocol::Harness(_) => tokenizer.bos().or(tokenizer.eos()),
            Protocol::Authors => tokenizer.eos(),
        };
        let prefix_text = prefix.map(|prefix| tokenizer.decode(&[prefix], false)).transpose()?;
        Ok(Encoder { tokenizer, protocol, max_length, prefix, prefix_text })
    }

    /// The tokens of all items, for each choice.
    ///
    /// # Errors
    /// When a choice has no tokens, or more than the model reads.
    pub fn encode_all(
        &self,
        items: &[Item],
        id: impl Fn(&Item) -> String + Sync,
    ) -> Result<Vec<Vec<Encoded>>, EvalError> {
        items
            .par_iter()
            .map(|item| {
                // The same for all choices, and much longer than they are.
                let context = self.context(&item.context)?;
                let choices = item.continuations().enumerate();
                choices
                    .map(|(choice, continuation)| {
                        let encoded = self.pair(item, &context, &continuation)?;
                        self.check(encoded).map_err(|message| {
                            let (id, choice) = (id(item), choice + 1);
                            EvalError::Choice { id, choice, message }
                        })
                    })
                    .collect()
            })
            .collect()
    }

    /// The tokens of a context. White space at its end goes over to the continuation, because tokenizers join it to
    /// the word that follows.
    fn context(&self, context: &str) -> Result<Vec<u32>, EvalError> {
        match self.protocol {
            _ if context.is_empty() => Ok(self.prefix.into_iter().collect()),
            Protocol::Authors => Ok(self.tokenizer.encode(context, false)?),
            Protocol::Harness(_) => self.whole(strip_end(context)),
        }
    }

    /// The tokens of a text and what the tokenizer puts before it, unless that is written there already.
    fn whole(&self, text: &str) -> Result<Vec<u32>, EvalError> {
        let begins = self.prefix_text.as_ref().is_some_and(|prefix| text.starts_with(prefix));
        Ok(self.tokenizer.encode(text, !begins)?)
    }

    /// The tokens of context and continuation, and how many are the continuation's.
    fn pair(
        &self,
        item: &Item,
        context: &[u32],
        continuation: &str,
    ) -> Result<(Vec<u32>, usize), EvalError> {
        let apart = || self.tokenizer.encode(continuation, false);
        let continuation = match self.protocol {
            Protocol::Authors => apart()?,
            Protocol::Harness(_) if item.context.is_empty() => {
                let tokens = apart()?;
                if context.first() == tokens.first() {
                    // The first token then stands for the context.
                    let scored = tokens.len().saturating_sub(1);
                    return Ok((tokens, scored));
                }
                tokens
            }
            Protocol::Harness(_) => {
                let whole = self.whole(&format!("{}{continuation}", item.context))?;
                // Where a token spans both, it counts as the context's, and what follows it is scored.
                whole.get(context.len()..).unwrap_or_default().to_vec()
            }
        };
        Ok(([context, &continuation].concat(), continuation.len()))
    }

    /// Cuts at the beginning what the model cannot read. The last token is not read.
    fn check(&self, (mut tokens, scored): (Vec<u32>, usize)) -> Result<Encoded, String> {
        let most = self.max_length;
        if scored == 0 {
            return Err("it has no tokens of its own; leave the question out".to_owned());
        }
        if scored > most {
            return Err(format!(
                "it has {scored} tokens, and the model reads {most}; leave the question out"
            ));
        }
        if tokens.len() == scored {
            return Err("nothing stands before it; leave the question out".to_owned());
        }
        let cut = tokens.len().saturating_sub(most + 1);
        tokens.drain(..cut);
        Ok(Encoded { tokens, scored, cut })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use okapi_data::{HellaSwagContext, Question, Task};

    use super::*;
    use crate::task::{Edition, Setting, items};

    fn tokenizer(family: &str) -> Tokenizer {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/eval/models");
        Tokenizer::open(&folder.join(family), 576).unwrap()
    }

    /// A question of which the clean-up leaves nothing but its endings.
    fn nothing_before() -> Question {
        let parts = ["[a", "b]", ""].map(str::to_owned);
        let [activity_label, ctx_a, ctx_b] = parts;
        Question {
            id: "empty".to_owned(),
            task: Task::HellaSwag,
            question: String::new(),
            choices: vec!["wide".to_owned(), "open".to_owned()],
            answer: 0,
            subject: None,
            hellaswag: Some(HellaSwagContext { activity_label, ctx_a, ctx_b }),
        }
    }

    #[test]
    fn a_token_stands_for_an_empty_context() {
        let harness = Protocol::Harness(Edition::Translated);
        // The harness takes the token that begins a text, the authors that which ends one.
        for (protocol, family, expected) in
            [(harness, "llama", 1), (harness, "gpt_neox", 0), (Protocol::Authors, "llama", 2)]
        {
            let tokenizer = tokenizer(family);
            let setting = Setting::new(Task::HellaSwag, protocol);
            let items = items(&setting, &[nothing_before()], &[]).unwrap();
            assert_eq!(items[0].context, "");
            let encoder = Encoder::new(&tokenizer, protocol, 64).unwrap();
            let encoded = encoder.encode_all(&items, |_| "empty".to_owned()).unwrap();
            let alone = tokenizer.encode(" wide", false).unwrap();
            let Encoded { tokens, scored, cut } = &encoded[0][0];
            assert_eq!(
                (tokens[0], &tokens[1..], *scored, *cut),
                (expected, &alone[..], alone.len(), 0)
            );
        }
    }

    #[test]
    fn the_longest_text_is_said_by_the_model_or_by_the_tokenizer() {
        let mut json = serde_json::json!({
            "model_type": "bloom", "vocab_size": 576, "hidden_size": 16, "n_layer": 1, "n_head": 2,
        });
        let model = |json: &serde_json::Value| CausalLm::new(json.clone(), 1).unwrap();
        // BLOOM's own files say nothing, and its tokenizer's here says 512.
        assert_eq!(max_length(&model(&json), &tokenizer("bloom")), 512);
        assert_eq!(max_length(&model(&json), &tokenizer("gpt_neox")), 2048);
        json["n_positions"] = 96.into();
        assert_eq!(max_length(&model(&json), &tokenizer("bloom")), 96);
    }
}

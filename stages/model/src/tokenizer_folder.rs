//! The files of a tokenizer, put together as `transformers` does it.
//!
//! # Sources
//! `AutoTokenizer` of transformers 5.23: the order in which it reads files and adds tokens decides which
//! ids new tokens have.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use tokenizers::models::ModelWrapper;
use tokenizers::{AddedToken, Model};

use crate::tokenizer::{SpecialTokens, Tokenizer, TokenizerError};
use crate::tokenizer_class::Class;

pub(crate) const TOKENIZER: &str = "tokenizer.json";
pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(crate) const NAMES: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";
pub(crate) const CHAT_TEMPLATE: &str = "chat_template.jinja";
const GENERATION_CONFIG: &str = "generation_config.json";
const MODEL_CONFIG: &str = "config.json";
/// The files of a tokenizer; of those that are the model's only ids and the class are read.
pub(crate) const SAVED: [&str; 5] = [TOKENIZER, TOKENIZER_CONFIG, NAMES, ADDED, CHAT_TEMPLATE];

/// The special tokens that have a role, in the order in which transformers adds those that are new.
const ROLES: [&str; 7] = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"];

/// Fields with more special tokens, by today's name and by that of before.
const EXTRA: &str = "extra_special_tokens";
const ADDITIONAL: &str = "additional_special_tokens";

/// What helps when a file is damaged.
const COPY_ANEW: &str = "copy the file anew";

/// The files of a tokenizer and of its model, those that are there.
pub(crate) struct Folder {
    path: PathBuf,
    files: BTreeMap<&'static str, Vec<u8>>,
    rows: usize,
}

impl Folder {
    /// Reads what is there.
    pub(crate) fn read(path: &Path, rows: usize) -> Result<Folder, TokenizerError> {
        let mut files = BTreeMap::new();
        for name in SAVED.into_iter().chain([GENERATION_CONFIG, MODEL_CONFIG]) {
            let path = path.join(name);
            match std::fs::read(&path) {
                Ok(bytes) => drop(files.insert(name, bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(TokenizerError::Io { path, source }),
            }
        }
        Ok(Folder { path: path.to_owned(), files, rows })
    }

    /// Files that are in no folder yet.
    pub(crate) fn made(files: BTreeMap<&'static str, Vec<u8>>, rows: usize) -> Folder {
        Folder { path: PathBuf::new(), files, rows }
    }

    /// The tokenizer that the files make.
    pub(crate) fn tokenizer(mut self) -> Result<Tokenizer, TokenizerError> {
        let (config, class) = (self.config()?, self.class()?);
        let mut inner = self.pipeline()?;
        // transformers cuts and fills by its arguments, whatever the file says, but learns from it
        // which token fills.
        let filler = inner.get_padding().map(|padding| padding.pad_token.clone());
        inner.with_truncation(None).map_err(TokenizerError::Failed)?.with_padding(None);
        let usual = |role: &str| {
            let token = class.usual(role).or(filler.as_deref().filter(|_| role == "pad"))?;
            inner.token_to_id(token).map(|_| AddedToken::from(token, true))
        };
        let named = self.named(&config, usual)?;
        let listed = self.listed(&config, &inner, &named)?;
        let mut inner = class.rebuild(inner).map_err(TokenizerError::Failed)?;
        inner.set_encode_special_tokens(config.get("split_special_tokens") == Some(&true.into()));
        self.add_tokens(&mut inner, listed, &named)?;
        let special = self.special_tokens(&inner, &named)?;
        self.files.retain(|name, _| SAVED.contains(name));
        Ok(Tokenizer { inner, special, files: self.files })
    }

    /// What tokenizer.json says, when no text can fail to be encoded with it.
    fn pipeline(&self) -> Result<tokenizers::Tokenizer, TokenizerError> {
        let wrong = |message: String| self.wrong(TOKENIZER, message);
        let bytes = self.files.get(TOKENIZER).ok_or_else(|| self.without_tokenizer())?;
        // The tokenizer's own reader loses the line where a file is cut.
        let syntax: Result<IgnoredAny, _> = serde_json::from_slice(bytes);
        syntax.map_err(|error| wrong(format!("it is no JSON: {error}; {COPY_ANEW}")))?;
        // The crate panics where a merge makes a token longer than any there is, or a template names
        // one that it does not define.
        let read = std::panic::catch_unwind(|| {
            let inner = tokenizers::Tokenizer::from_bytes(bytes)?;
            inner.encode_fast("", true).map(|frame| (inner, frame))
        });
        let (inner, frame) = read
            .unwrap_or_else(|_| Err("a merge or template names a token that is not there".into()))
            .map_err(|error| wrong(format!("it is no tokenizer: {error}; {COPY_ANEW}")))?;
        let ModelWrapper::BPE(bpe) = inner.get_model() else {
            return Err(wrong("`model.type` is not BPE, and no other is known".to_owned()));
        };
        if let Some(share) = bpe.dropout.filter(|share| *share > 0.0) {
            let message = "and would encode texts at random; set it to null";
            return Err(wrong(format!("`model.dropout` is {share}, {message}")));
        }
        if let Some(unk) = bpe.unk_token.as_ref().filter(|unk| bpe.token_to_id(unk).is_none()) {
            let message = "which is not in `model.vocab`; add it, or set the field to null";
            return Err(wrong(format!("`model.unk_token` is {unk:?}, {message}")));
        }
        let vocabulary = inner.get_vocab(true);
        let last = vocabulary.iter().max_by_key(|(token, id)| (**id, token.as_str()));
        let frame = frame.get_tokens().iter().zip(frame.get_ids());
        for (token, id) in last.into_iter().chain(frame) {
            self.row(TOKENIZER, &format!("the token {token:?}"), *id)?;
        }
        Ok(inner)
    }

    /// tokenizer_config.json; the file of names counts more, unless the configuration lists its tokens.
    fn config(&self) -> Result<Map<String, Value>, TokenizerError> {
        let mut config = self.json(TOKENIZER_CONFIG)?;
        if !config.contains_key("added_tokens_decoder") {
            let names = self.json(NAMES)?.into_iter();
            let kept = matches!(config.get(EXTRA), Some(Value::Array(_)))
                || config.contains_key(ADDITIONAL);
            config.extend(names.filter(|(field, _)| !(kept && field == ADDITIONAL)));
        }
        Ok(config)
    }

    fn class(&self) -> Result<Class, TokenizerError> {
        let (config, model) = (self.json(TOKENIZER_CONFIG)?, self.json(MODEL_CONFIG)?);
        // LLaMA 3 has the class of LLaMA and a byte-level vocabulary; transformers looks for the word.
        let (word, file) = (b"\"ByteLevel\"", self.files.get(TOKENIZER));
        let byte_level =
            file.is_some_and(|bytes| bytes.windows(word.len()).any(|window| window == word));
        Ok(Class::new(&config, &model, byte_level))
    }

    /// The file that a field of [`Folder::config`] is from.
    fn file_of(&self, field: &str) -> &'static str {
        let has = |file: &str, field: &str| {
            self.json(file).is_ok_and(|fields| fields.contains_key(field))
        };
        match has(NAMES, field) && !has(TOKENIZER_CONFIG, "added_tokens_decoder") {
            true => NAMES,
            false => TOKENIZER_CONFIG,
        }
    }

    /// The added tokens by their ids: those of the configuration, or else of the other files.
    fn listed(
        &self,
        config: &Map<String, Value>,
        inner: &tokenizers::Tokenizer,
        named: &[(String, AddedToken)],
    ) -> Result<BTreeMap<u32, AddedToken>, TokenizerError> {
        let mut listed = BTreeMap::new();
        if let Some(list) = config.get("added_tokens_decoder") {
            for (id, value) in list.as_object().into_iter().flatten() {
                let token = id.parse::<u32>().ok().zip(added_token(value));
                let message = || format!("`added_tokens_decoder` has {value} as {id:?}");
                let (id, token) = token.ok_or_else(|| self.wrong(TOKENIZER_CONFIG, message()))?;
                self.row(TOKENIZER_CONFIG, &format!("the token {:?}", token.content), id)?;
                listed.insert(id, token);
            }
            return Ok(listed);
        }
        for (content, id) in self.json(ADDED)? {
            let message = || format!("{content:?} is {id}, which is no id");
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or_else(|| self.wrong(ADDED, message()))?;
            self.row(ADDED, &format!("the token {content:?}"), id)?;
            let special = named.iter().any(|(_, token)| token.content == content);
            listed.insert(id, AddedToken::from(content, special));
        }
        listed.extend(inner.get_added_tokens_decoder());
        Ok(listed)
    }

    /// The tokens that fields name, with their fields and in the order in which they are added; where a
    /// role's field is not there, the usual token.
    fn named(
        &self,
        config: &Map<String, Value>,
        usual: impl Fn(&str) -> Option<AddedToken>,
    ) -> Result<Vec<(String, AddedToken)>, TokenizerError> {
        let mut named = Vec::new();
        // The new name of the field counts more than the old one.
        let listed = matches!(config.get(EXTRA), Some(Value::Array(list)) if !list.is_empty());
        let others = [Some(EXTRA), (!listed).then_some(ADDITIONAL)].into_iter().flatten();
        let roles = ROLES.map(|role| (format!("{role}_token"), role));
        for (field, role) in roles.into_iter().chain(others.map(|field| (field.to_owned(), field)))
        {
            if !config.contains_key(&field) {
                named.extend(usual(role).map(|token| (field.clone(), token)));
            }
            for value in one_or_more(config.get(&field)) {
                let message =
                    || format!("`{field}` is {value}; give a token's text, or no `{field}`");
                let token = added_token(value);
                let token = token.ok_or_else(|| self.wrong(self.file_of(&field), message()))?;
                named.push((field.clone(), token));
            }
        }
        Ok(named)
    }

    /// Adds the tokens that are not yet added ones, as transformers does.
    fn add_tokens(
        &self,
        inner: &mut tokenizers::Tokenizer,
        listed: BTreeMap<u32, AddedToken>,
        named: &[(String, AddedToken)],
    ) -> Result<(), TokenizerError> {
        let refused =
            |error| self.wrong(TOKENIZER_CONFIG, format!("its tokens cannot be added: {error}"));
        // 1. Those that are listed, by their ids.
        for (id, mut token) in listed {
            token.special |= named
                .iter()
                .any(|(field, other)| field.ends_with("_token") && other.content == token.content);
            inner.add_tokens([token.clone()]).map_err(refused)?;
            let content = &token.content;
            if inner.token_to_id(content) != Some(id) {
                let message = "but another id here, or ids before it are left out; save it anew";
                let message = format!("the token {content:?} is listed as {id}, {message}");
                return Err(self.wrong(TOKENIZER_CONFIG, message));
            }
        }
        // 2. Those that are named, and new or so far like any other token.
        let there: BTreeSet<String> =
            inner.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
        for (field, token) in named {
            let content = &token.content;
            if !there.contains(content) {
                inner.add_tokens([token.clone()]).map_err(refused)?;
            }
            if let Some(id) = inner.token_to_id(content) {
                self.row(self.file_of(field), &format!("`{field}` {content:?}"), id)?;
            }
        }
        Ok(())
    }

    /// The ids that have a role. Names count more than ids.
    fn special_tokens(
        &self,
        inner: &tokenizers::Tokenizer,
        named: &[(String, AddedToken)],
    ) -> Result<SpecialTokens, TokenizerError> {
        let name = |role: &str| {
            let field = format!("{role}_token");
            let (_, token) = named.iter().find(|(name, _)| *name == field)?;
            inner.token_to_id(&token.content)
        };
        let [generation, model] = [GENERATION_CONFIG, MODEL_CONFIG];
        let first = |role: &str| -> Result<Option<u32>, TokenizerError> {
            let ids = [self.ids(generation, role)?, self.ids(model, role)?].concat();
            Ok(name(role).or_else(|| ids.first().copied()))
        };
        // What a model was trained to write last, and what its makers end texts with; the model's own
        // configuration has a default of its class there as often as not.
        let mut ends = [Vec::from_iter(name("eos")), self.ids(generation, "eos")?].concat();
        let of_model = self.ids(model, "eos")?;
        if ends.is_empty() {
            ends = of_model;
        }
        ends.sort_unstable();
        ends.dedup();
        let (bos, eos, pad, unk) = (first("bos")?, first("eos")?, first("pad")?, first("unk")?);
        Ok(SpecialTokens { bos, eos, pad, unk, ends })
    }

    /// The ids that a file of the model gives a role; -1 is none.
    fn ids(&self, file: &str, role: &str) -> Result<Vec<u32>, TokenizerError> {
        let (json, field) = (self.json(file)?, format!("{role}_token_id"));
        let given = one_or_more(json.get(&field)).into_iter().filter(|value| **value != -1);
        let id = |value: &Value| match value.as_u64().and_then(|id| u32::try_from(id).ok()) {
            Some(id) => self.row(file, &format!("`{field}`"), id),
            None => Err(self.wrong(file, format!("`{field}` is {value}, which is no id"))),
        };
        given.map(id).collect()
    }

    /// The id, when the embedding has it.
    fn row(&self, file: &str, what: &str, id: u32) -> Result<u32, TokenizerError> {
        let (path, what, rows) = (self.path.join(file), what.to_owned(), self.rows);
        match (id as usize) < rows {
            true => Ok(id),
            false => Err(TokenizerError::BeyondRows { path, what, id, rows }),
        }
    }

    /// The fields of a file; none when it is not there.
    fn json(&self, file: &str) -> Result<Map<String, Value>, TokenizerError> {
        let Some(bytes) = self.files.get(file) else { return Ok(Map::new()) };
        let broken =
            |error| self.wrong(file, format!("it is no JSON object: {error}; {COPY_ANEW}"));
        serde_json::from_slice(bytes).map_err(broken)
    }

    fn wrong(&self, file: &str, message: String) -> TokenizerError {
        TokenizerError::File { path: self.path.join(file), message }
    }

    /// There is no tokenizer.json, but perhaps what it is made of.
    fn without_tokenizer(&self) -> TokenizerError {
        let has = |file: &str| self.path.join(file).exists();
        // Old folders of LLaMA name a class that never was, and empty texts as special tokens: with
        // those AutoTokenizer fails, and what it makes of others puts no `<s>` first.
        let llama = (
            "LlamaTokenizerFast",
            r#", unk_token="<unk>", bos_token="<s>", eos_token="</s>", add_bos_token=True"#,
        );
        let class = match (has("tokenizer.model"), has("vocab.json") && has("merges.txt")) {
            (true, _) => Some(llama),
            (false, true) => Some(("AutoTokenizer", "")),
            (false, false) => None,
        };
        let message = match class {
            None => "it holds no tokenizer.json; copy it there from the model that this one was \
                     made of, with tokenizer_config.json and special_tokens_map.json"
                .to_owned(),
            Some((class, names)) => format!(
                "it holds a tokenizer, but no tokenizer.json; this writes it (with transformers, \
                 sentencepiece and protobuf installed): python -c 'from transformers import {class}; \
                 {class}.from_pretrained({0:?}{names}).save_pretrained({0:?})'",
                self.path
            ),
        };
        TokenizerError::File { path: self.path.clone(), message }
    }
}

/// A token as a configuration writes it: its text, or an object with flags.
fn added_token(value: &Value) -> Option<AddedToken> {
    let flag = |name, default| value.get(name).and_then(Value::as_bool).unwrap_or(default);
    let special = flag("special", true);
    Some(AddedToken {
        content: value.as_str().or_else(|| value.get("content")?.as_str())?.to_owned(),
        single_word: flag("single_word", false),
        lstrip: flag("lstrip", false),
        rstrip: flag("rstrip", false),
        normalized: flag("normalized", !special),
        special,
    })
}

/// The values of a field: null and the empty text are none, an object with names has its values.
fn one_or_more(value: Option<&Value>) -> Vec<&Value> {
    match value {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) if text.is_empty() => Vec::new(),
        Some(Value::Array(list)) => list.iter().collect(),
        Some(Value::Object(fields)) if !fields.contains_key("content") => fields.values().collect(),
        Some(one) => vec![one],
    }
}

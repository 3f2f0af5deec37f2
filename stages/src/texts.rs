//! Rows as the texts that a model reads: a prompt by the node's template, and what comes after it.

use std::path::Path;

use okapi_data::Prompt;
use okapi_data::prompt_template::PromptTemplate;
use okapi_engine::estimate::EstimateQuestion;
use okapi_engine::stage::{Param, ParamDefault, ParamType, PromptMistake, PromptSlot};
use okapi_engine::stage_context::{InputPath, StageContext, StageError};
use okapi_model::{CausalLm, Tokenizer, TokenizerError};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::asking::{check_template, read_rows, template};
use crate::lengths;
use crate::model_folder::{self, OpenModel};

/// The prompt file that says what a model reads before its response.
pub(crate) const PROMPT: PromptSlot = PromptSlot {
    name: "prompt",
    variables: &[
        ("instruction", "what is asked"),
        ("input", "what it is asked about; empty if the instruction says all"),
    ],
    help: "what the model reads before its response; the same file in all nodes that train and use it; a blank at its end \
           belongs to the response",
};

/// The most tokens of a row, with a default.
pub(crate) const fn max_length(default: &'static str) -> Param {
    Param {
        name: "max_length",
        ty: ParamType::Int { min: 2, max: 1 << 24 },
        default: ParamDefault::Value(default),
        identity: true,
        help: "the most tokens of a row",
    }
}

pub(crate) const TOO_LONG: Param = Param {
    name: "too_long",
    ty: ParamType::Choice(&["cut", "leave_out", "fail"]),
    default: ParamDefault::Value("\"cut\""),
    identity: true,
    help: "what is done with a row that has more",
};

pub(crate) const APPEND_END: Param = Param {
    name: "append_end",
    ty: ParamType::Bool,
    default: ParamDefault::Value("true"),
    identity: true,
    help: "whether the token that ends a text follows a response that is not cut",
};

fn sample() -> Value {
    json!({ "instruction": "Translate.", "input": "one" })
}

/// As [`okapi_engine::stage::Stage::check_prompt`].
pub(crate) fn check_prompt(slot: &PromptSlot, text: &str) -> Result<(), PromptMistake> {
    check_template(slot, text, &sample()).map(|_| ())
}

/// The prompt file of a node.
pub(crate) fn prompt(context: &StageContext<'_>) -> Result<PromptTemplate, StageError> {
    template(&context.prompts["prompt"], &PROMPT, &sample())
}

/// Tokens that the prompt file puts around instruction and input.
pub(crate) fn tokens_around(question: &EstimateQuestion<'_>) -> f64 {
    let read = || template(question.prompts.get("prompt")?, &PROMPT, &sample()).ok();
    let text = read().and_then(|template| render(&template, "", "").ok());
    text.map_or(0.0, |text| lengths::tokens(&text))
}

/// The text of a prompt.
pub(crate) fn render(
    template: &PromptTemplate,
    instruction: &str,
    input: &str,
) -> Result<String, StageError> {
    template
        .render(&json!({ "instruction": instruction, "input": input }))
        .map_err(|error| StageError::failed(format!("the prompt cannot be filled in: {error}")))
}

/// A prompt as a model continues it. A blank at its end is left to the response: in the texts that models learn from, the
/// token of a word begins with the blank before it, and what follows a lone blank has hardly been seen.
pub(crate) fn to_continue(prompt: &str) -> &str {
    prompt.trim_end_matches(' ')
}

/// The rows of a port, of all its inputs in the order of their keys.
pub(crate) fn rows<T: DeserializeOwned>(
    context: &StageContext<'_>,
    port: &str,
) -> Result<Vec<T>, StageError> {
    match context.inputs.get(port) {
        None => Ok(Vec::new()),
        Some(InputPath::Single(path)) => read_rows(path),
        Some(InputPath::Gathered { items, .. }) => {
            let mut rows = Vec::new();
            for (key, path) in items {
                rows.extend(of_key(key, path)?);
            }
            Ok(rows)
        }
    }
}

fn of_key<T: DeserializeOwned>(key: &str, path: &Path) -> Result<Vec<T>, StageError> {
    read_rows(path).map_err(|error| match error {
        StageError::Failed { message, hint, transient } => {
            StageError::Failed { message: format!("`{key}`: {message}"), hint, transient }
        }
        other => other,
    })
}

/// Prompt and response as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tokens {
    /// Both, with the tokens that begin a text.
    pub(crate) whole: Vec<u32>,
    /// So many are the prompt's.
    pub(crate) prompt: usize,
}

/// Tokenises texts of prompt and response as they stand together. What both have in common with the prompt alone, as a
/// model continues it, is the prompt's: a token over their border belongs to the response.
pub(crate) fn tokenise(
    tokenizer: &Tokenizer,
    texts: &[(String, String)],
) -> Result<Vec<Tokens>, TokenizerError> {
    let wholes: Vec<String> =
        texts.iter().map(|(prompt, response)| format!("{prompt}{response}")).collect();
    let prompts: Vec<&str> = texts.iter().map(|(prompt, _)| to_continue(prompt)).collect();
    let wholes = tokenizer.encode_batch(&wholes, true)?;
    let prompts = tokenizer.encode_batch(&prompts, true)?;
    let both = wholes.into_iter().zip(prompts);
    Ok(both
        .map(|(whole, prompt)| {
            let same = whole.iter().zip(&prompt).take_while(|(one, other)| one == other).count();
            Tokens { whole, prompt: same }
        })
        .collect())
}

/// How long a row may be, what is done with one that is longer, and what ends one that is not.
pub(crate) struct Limits<'a> {
    lm: &'a CausalLm,
    length: usize,
    leaves_out: bool,
    fails: bool,
    end: Option<u32>,
}

impl<'a> Limits<'a> {
    /// As the params of a node say, for a model.
    pub(crate) fn of(
        context: &StageContext<'_>,
        model: &'a OpenModel,
    ) -> Result<Limits<'a>, StageError> {
        let params = &context.declared["params"];
        let length = params["max_length"].as_u64().unwrap_or(512) as usize;
        let appends = params["append_end"].as_bool().unwrap_or(true);
        let end = model.tokenizer.eos().filter(|_| appends);
        if appends && end.is_none() {
            let hint =
                "name one as `eos_token` in tokenizer_config.json, or write `append_end: false`";
            return Err(StageError::Failed {
                message: "the tokenizer of `model` names no token that ends a text".to_owned(),
                hint: Some(hint.to_owned()),
                transient: false,
            });
        }
        Ok(Limits {
            lm: &model.lm,
            length,
            leaves_out: params["too_long"] == "leave_out",
            fails: params["too_long"] == "fail",
            end,
        })
    }

    /// Whether a row is longer, and is cut.
    pub(crate) fn cuts(&self, tokens: &Tokens) -> bool {
        tokens.whole.len() > self.length && !self.leaves_out && !self.fails
    }

    /// A row with its end; `None` if it is left out.
    pub(crate) fn apply(&self, tokens: Tokens, id: &str) -> Result<Option<Tokens>, StageError> {
        self.apply_to(tokens, true, id)
    }

    /// The same; a row that has not ended gets no end.
    pub(crate) fn apply_to(
        &self,
        mut tokens: Tokens,
        has_ended: bool,
        id: &str,
    ) -> Result<Option<Tokens>, StageError> {
        let count = tokens.whole.len();
        if count > self.length {
            if self.fails {
                return Err(StageError::Failed {
                    message: format!(
                        "row `{id}` has {count} tokens; `max_length` is {}",
                        self.length
                    ),
                    hint: Some(
                        "raise `max_length`, or write `too_long: cut` or `leave_out`".into(),
                    ),
                    transient: false,
                });
            }
            if self.leaves_out {
                return Ok(None);
            }
            tokens.whole.truncate(self.length);
            tokens.prompt = tokens.prompt.min(self.length);
        } else if has_ended && count < self.length && tokens.whole.last().copied() != self.end {
            tokens.whole.extend(self.end);
        }
        let row = || format!("row `{id}`");
        model_folder::check_positions(self.lm, tokens.whole.len(), row)?;
        Ok(Some(tokens))
    }
}

/// Prompts of at most so many tokens: longer ones are `cut` at their beginning, left out (`leave_out`), or an
/// error.
pub(crate) fn fit_prompts(
    context: &StageContext<'_>,
    tokenizer: &Tokenizer,
    (rows, tokens): (Vec<Prompt>, Vec<Vec<u32>>),
    most: usize,
    too_long: &str,
) -> Result<Vec<(Prompt, Vec<u32>)>, StageError> {
    let mut kept = Vec::new();
    let mut long = 0;
    for (row, mut tokens) in rows.into_iter().zip(tokens) {
        let count = tokens.len();
        if count > most {
            long += 1;
            match too_long {
                "cut" => tokens = cut_beginning(tokenizer, tokens, most),
                "leave_out" => continue,
                _ => {
                    return Err(StageError::Failed {
                        message: format!(
                            "the prompt of row `{}` has {count} tokens; {most} may be",
                            row.id
                        ),
                        hint: Some("write `too_long: leave_out` or `cut`".to_owned()),
                        transient: false,
                    });
                }
            }
        }
        if tokens.is_empty() {
            return Err(StageError::failed(format!("the prompt of row `{}` is empty", row.id)));
        }
        kept.push((row, tokens));
    }
    if kept.is_empty() && long > 0 {
        return Err(StageError::Failed {
            message: format!("all {long} prompts have more than {most} tokens"),
            hint: Some("raise `max_prompt_tokens`, or write `too_long: cut`".to_owned()),
            transient: false,
        });
    }
    if long > 0 {
        let done = if too_long == "cut" { "cut" } else { "left out" };
        context.reporter.log(format!("{long} prompts have more than {most} tokens and are {done}"));
    }
    Ok(kept)
}

/// The last so many tokens of a text, with the token that begins it if there is one.
pub(crate) fn cut_beginning(tokenizer: &Tokenizer, tokens: Vec<u32>, most: usize) -> Vec<u32> {
    let surplus = tokens.len().saturating_sub(most);
    let begins =
        usize::from(tokens.first().copied() == tokenizer.bos() && tokenizer.bos().is_some());
    let mut kept = tokens;
    if surplus > 0 {
        kept.drain(begins..(begins + surplus).min(kept.len()));
    }
    kept
}

#[cfg(test)]
mod tests {
    use okapi_model::TokenizerTrainOptions;

    use super::*;

    #[test]
    fn a_blank_after_a_prompt_belongs_to_the_response() {
        let pair = ("Answer: ".to_owned(), "Lima".to_owned());
        let texts = ["Answer: Lima", "Answer: Lima", "a Lima"];
        // One tokenizer joins the blank to the word, the other has a token for every byte.
        for vocabulary in [300, 260] {
            let options = TokenizerTrainOptions { vocabulary, min_frequency: 1 };
            let tokenizer = Tokenizer::train(texts.iter(), &options).unwrap();
            let learnt = tokenise(&tokenizer, std::slice::from_ref(&pair)).unwrap().remove(0);
            let (prompt, response) = learnt.whole.split_at(learnt.prompt);
            assert_eq!(prompt, tokenizer.encode(to_continue(&pair.0), true).unwrap());
            assert_eq!(tokenizer.decode(response, true).unwrap(), " Lima");
        }
    }

    #[test]
    fn what_begins_a_text_is_kept_when_its_beginning_is_cut() {
        let options = TokenizerTrainOptions { vocabulary: 260, min_frequency: 1 };
        let tokenizer = Tokenizer::train(["a b"].iter(), &options).unwrap();
        assert_eq!(tokenizer.bos(), Some(1));
        let cut = |tokens: &[u32], most| cut_beginning(&tokenizer, tokens.to_vec(), most);
        assert_eq!(cut(&[1, 5, 6, 7, 8], 3), [1, 7, 8]);
        assert_eq!(cut(&[5, 6, 7, 8], 3), [6, 7, 8]);
        assert_eq!(cut(&[1, 5, 6], 3), [1, 5, 6]);
        assert_eq!(cut(&[1, 5, 6], 1), [1]);
    }
}

//! The prompt of a node as a chat template, so that a model is asked as it was trained wherever it goes.
//!
//! The prompt file becomes a macro, and the messages of a chat are put into it one after the other: what a user says is the
//! instruction, and the token that ends a text follows each answer. What a system says stands before the first instruction,
//! as no prompt has a place for it. A chat that ends with a user's message is cut as [`texts::to_continue`] cuts a prompt.
//!
//! # Sources
//! `apply_chat_template` of transformers 5.23: templates see `messages`, lines that hold only a tag leave nothing behind, and
//! the text is encoded without the tokens that a tokenizer puts around others, so that the template writes them.

use std::path::Path;

use okapi_engine::stage_context::{StageContext, StageError};
use okapi_model::{Tokenizer, TokenizerError};
use serde_json::Value;

/// The file that `transformers`, vLLM and others read.
pub(crate) const CHAT_TEMPLATE: &str = "chat_template.jinja";

/// The prompt of a node, as it goes with a model.
pub(crate) struct ChatTemplate {
    /// The prompt file, without the comment at its head: who edits that comment makes no other model.
    pub(crate) prompt: String,
    /// What chats are put into.
    pub(crate) template: String,
}

impl ChatTemplate {
    /// The node's prompt, for a tokenizer.
    pub(crate) fn of(
        context: &StageContext<'_>,
        tokenizer: &Tokenizer,
    ) -> Result<ChatTemplate, StageError> {
        let path = &context.prompts["prompt"];
        let source = std::fs::read_to_string(path)
            .map_err(|source| StageError::Io { path: path.clone(), source })?;
        let failed = |error: TokenizerError| StageError::failed(error.to_string());
        let prompt = without_heading(&source).to_owned();
        let template = template(&prompt, tokenizer).map_err(failed)?;
        Ok(ChatTemplate { prompt, template })
    }

    /// Writes the file into a folder.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), StageError> {
        let path = folder.join(CHAT_TEMPLATE);
        std::fs::write(&path, &self.template).map_err(|source| StageError::Io { path, source })
    }
}

/// A prompt file without the comment that it begins with.
fn without_heading(source: &str) -> &str {
    let Some((comment, rest)) = source.strip_prefix("{#").and_then(|rest| rest.split_once("#}"))
    else {
        return source;
    };
    match comment.as_bytes().last() {
        Some(b'-') => rest.trim_start(),
        Some(b'+') => rest,
        _ => rest.strip_prefix("\r\n").or(rest.strip_prefix('\n')).unwrap_or(rest),
    }
}

fn template(prompt: &str, tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
    // As a prompt file: the newline at its end is no part of it.
    let prompt = prompt.strip_suffix('\n').unwrap_or(prompt);
    let prompt = prompt.strip_suffix('\r').unwrap_or(prompt);
    let opening = literal(&opening(tokenizer)?);
    let end = tokenizer.eos().and_then(|id| tokenizer.token(id)).unwrap_or_default();
    let end = literal(&end);
    // The empty text before `endmacro` keeps blanks that a prompt ends with from being taken for indentation.
    Ok(format!(
        "{{%- macro prompt(instruction, input) %}}\n{prompt}{{{{ '' }}}}{{% endmacro %}}\n\
         {{%- if messages[0]['role'] == 'system' %}}\n\
         {{%- set system = messages[0]['content'] + '\\n\\n' %}}\n\
         {{%- set turns = messages[1:] %}}\n\
         {{%- else %}}\n\
         {{%- set system = '' %}}\n\
         {{%- set turns = messages %}}\n\
         {{%- endif %}}\n\
         {{{{- {opening} }}}}\n\
         {{%- for message in turns %}}\n\
         {{%- if message['role'] == 'user' %}}\n\
         {{%- set said = (system if loop.first else '') + message['content'] %}}\n\
         {{%- set asked = prompt(said, '') %}}\n\
         {{{{- asked.rstrip(' ') if loop.last else asked }}}}\n\
         {{%- elif message['role'] == 'assistant' %}}\n\
         {{{{- message['content'] + {end} }}}}\n\
         {{%- else %}}\n\
         {{{{- raise_exception('the model knows `user`, `assistant`, and at the beginning `system`') }}}}\n\
         {{%- endif %}}\n\
         {{%- endfor %}}\n"
    ))
}

/// What the tokenizer puts before a text, so that a text behind it becomes the same tokens as if it were put there.
fn opening(tokenizer: &Tokenizer) -> Result<String, TokenizerError> {
    let text = "a";
    let (whole, plain) = (tokenizer.encode(text, true)?, tokenizer.encode(text, false)?);
    let before = whole.windows(plain.len().max(1)).position(|window| window == plain);
    let before = before.unwrap_or(0);
    let tokens = whole.iter().take(before);
    let opening: String = tokens.filter_map(|id| tokenizer.token(*id)).collect();
    // Today's LLaMA puts a blank before the first word of a text, unless a token stands there already.
    let with_blank = format!("{opening} ");
    let expected = &whole[..before + plain.len()];
    let fits = |opening: &str| -> Result<bool, TokenizerError> {
        Ok(tokenizer.encode(&format!("{opening}{text}"), false)? == expected)
    };
    Ok(if !fits(&opening)? && fits(&with_blank)? { with_blank } else { opening })
}

/// A text as Jinja writes it: JSON's texts are Jinja's too.
fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use okapi_data::prompt_template::PromptTemplate;
    use serde_json::{Value, json};

    use super::*;
    use crate::texts;

    const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures");

    fn read(name: &str) -> Value {
        let path = format!("{FIXTURES}/chat/{name}");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        serde_json::from_str(&text).unwrap()
    }

    /// With the rows of its embedding out of the way.
    fn tokenizer(name: &str) -> Tokenizer {
        Tokenizer::open(Path::new(&format!("{FIXTURES}/tokenizers/{name}")), 1 << 20).unwrap()
    }

    #[test]
    fn templates_are_those_that_transformers_was_given() {
        let prompts = [
            ("instruction", include_str!("../../prompts/instruction.j2")),
            ("question_answer", include_str!("../../prompts/question_answer.j2")),
            // All that could be lost on the way into a macro.
            (
                "odd",
                "\n{% if input %}\n  {{ input }}\n{% endif %}\n  {% raw %}{{ no }}{% endraw %} 'q' \"Q\" \\n é\n{% set a = 1 %}\n{{ instruction }}\n   \n",
            ),
            ("last", "{# about #}\nSay: {{ input }}{{ instruction }}"),
        ];
        let mut made = Vec::new();
        for (name, source) in prompts {
            for of in ["bloom", "gpt_neox", "llama", "llama2"] {
                let prompt = without_heading(source);
                let template = template(prompt, &tokenizer(of)).unwrap();
                let case =
                    json!({"name": name, "prompt": prompt, "tokenizer": of, "template": template});
                made.push(case);
            }
        }
        let made = Value::from(made);
        assert!(
            made == read("templates.json"),
            "tests/fixtures/chat/templates.json has to be this, and then make.py be run anew:\n{made}"
        );
    }

    #[test]
    fn transformers_asks_as_the_model_was_trained() {
        let rendered = read("rendered.json");
        let cases = read("templates.json");
        let cases = cases.as_array().unwrap();
        assert_eq!(rendered["cases"].as_array().unwrap().len(), cases.len());
        for (case, chats) in cases.iter().zip(rendered["cases"].as_array().unwrap()) {
            let text = |name: &str| case[name].as_str().unwrap();
            let name = format!("{}, {}", text("name"), text("tokenizer"));
            let tokenizer = tokenizer(text("tokenizer"));
            let sample = json!({"instruction": "a", "input": "b"});
            let prompt = PromptTemplate::parse(text("prompt"), &["instruction", "input"], &sample);
            let prompt = prompt.unwrap();
            let opening = opening(&tokenizer).unwrap();
            let end = tokenizer.eos().and_then(|id| tokenizer.token(id)).unwrap();
            for chat in chats.as_array().unwrap() {
                let turns = chat["messages"].as_array().unwrap();
                let said = |turn: usize| turns[turn]["content"].as_str().unwrap();
                let system = turns[0]["role"] == "system";
                let from = usize::from(system);
                let before = if system { format!("{}\n\n", said(0)) } else { String::new() };
                let mut expected = String::new();
                for turn in (from..turns.len()).step_by(2) {
                    let before = if turn == from { &before[..] } else { "" };
                    let asked =
                        texts::render(&prompt, &format!("{before}{}", said(turn)), "").unwrap();
                    expected.push_str(&asked);
                    if turn + 1 < turns.len() {
                        expected.push_str(said(turn + 1));
                        expected.push_str(&end);
                    }
                }
                let ends_asking = turns[turns.len() - 1]["role"] == "user";
                if ends_asking {
                    expected.truncate(texts::to_continue(&expected).len());
                }
                assert_eq!(chat["text"], format!("{opening}{expected}"), "{name}");
                // What is encoded for training and sampling.
                if ends_asking && turns.len() - from == 1 {
                    let ids = tokenizer.encode(&expected, true).unwrap();
                    assert_eq!(chat["ids"], json!(ids), "{name}: {expected:?}");
                }
            }
        }
        assert!(rendered["refused"].as_str().unwrap().contains("the model knows `user`"));
    }

    #[test]
    fn the_comment_at_the_head_of_a_prompt_stays_behind() {
        for (source, expected) in [
            ("{#- a\n-#}\n\n text", "text"),
            ("{# a #}\n\ntext", "\ntext"),
            ("{# a +#}\ntext", "\ntext"),
            ("text {# a #}", "text {# a #}"),
            ("{# a", "{# a"),
        ] {
            assert_eq!(without_heading(source), expected);
        }
    }
}

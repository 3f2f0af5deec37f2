//! A teacher without a model: rules over a small closed world.
//!
//! It writes tasks, translates, answers, ranks and judges, in 31 languages, as far as its
//! [`PhraseBook`]s reach, and no further. It is no language model. It is there so that a whole
//! pipeline can run, learn something that can be measured, and be tested, with no key, no network and
//! no GPU. The same request always gets the same answer.
//!
//! With a `skill` below 1 it makes mistakes on purpose, so that there is something to rank.

mod benchmark;
mod chance;
mod phrase_book;
mod response;
mod task;
mod wanted;
mod world;
mod writer;

use serde_json::{Map, Value};

use self::chance::Chance;
use self::response::Lapse;
use self::wanted::{Parts, Wanted, wanted};
use crate::caller::Stop;
use crate::request::{Answer, Finish, Request, Usage, estimated_tokens};
use crate::teacher::{Answering, Teacher};

pub use benchmark::{facts, prompts, questions};
pub use phrase_book::{BadPhraseBook, Phrase, PhraseBook, Section, Slots};
pub use task::KINDS;
pub use world::{Fact, World};

/// Raised whenever the same request would be answered in another way: by other rules, other phrase
/// books or another world. It is part of the identity of all that this teacher had a part in.
pub const VERSION: u32 = 3;

/// The offline teacher.
#[derive(Debug, Clone)]
pub struct Offline {
    skill: f64,
    seed: i64,
    kinds: Vec<&'static str>,
    small_talk: f64,
}

impl Offline {
    /// The share of the tasks that it writes that begin by saying who asks or why, unless another is set.
    pub const SMALL_TALK: f64 = 0.8;

    /// A teacher that is right in a share of `skill` of what it does, and in all of it with 1.
    pub fn new(skill: f64, seed: i64) -> Offline {
        Offline { skill, seed, kinds: KINDS.to_vec(), small_talk: Offline::SMALL_TALK }
    }

    /// The same, writing tasks of these [`KINDS`] only, unless there are none.
    pub fn writing(self, kinds: &[&str]) -> Offline {
        let kinds: Vec<&str> = KINDS.into_iter().filter(|kind| kinds.contains(kind)).collect();
        if kinds.is_empty() { self } else { Offline { kinds, ..self } }
    }

    /// The same, with a sentence about who asks or why before such a share of the tasks that it writes.
    pub fn with_small_talk(self, share: f64) -> Offline {
        Offline { small_talk: share, ..self }
    }

    /// Answers a request.
    pub fn reply(&self, request: &Request) -> String {
        let messages: Vec<&str> = request.messages.iter().map(|it| it.content.as_str()).collect();
        let moment = (self.seed, request.sample, request.attempt);
        let mut chance = Chance::of(&format!("{moment:?} {}", messages.join("\u{1}")));
        match wanted(&request.messages) {
            Wanted::Tasks { first, last } => {
                writer::write(first, last, &self.kinds, self.small_talk, self.skill, &mut chance)
            }
            Wanted::Translation { object, language } => {
                let values: Map<String, Value> = object
                    .into_iter()
                    .map(|(key, value)| match value {
                        Value::String(text) => {
                            (key, response::translate(&text, language.code).into())
                        }
                        other => (key, other),
                    })
                    .collect();
                self.slip(Value::Object(values).to_string(), &mut chance)
            }
            Wanted::PartsInEnglish(parts) => in_english(&parts),
            Wanted::Ranking(parts) => {
                let ranks = response::rank(&parts, self.skill, &mut chance);
                let line =
                    |(place, rank): (usize, &usize)| format!("Response {}: {rank}", place + 1);
                ranks.iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
            }
            Wanted::Judgement(parts) => response::judge(&parts, self.skill, &mut chance),
            Wanted::Answer { instruction, input } => {
                response::answer(&instruction, &input, self.skill, &Lapse::ALL, &mut chance)
            }
        }
    }

    /// Sometimes adds what was not asked for, as models do: whoever asks has to notice.
    fn slip(&self, text: String, chance: &mut Chance) -> String {
        match chance.happens((1.0 - self.skill) / 4.0) {
            true => format!("Here is the translation:\n{text}"),
            false => text,
        }
    }
}

/// The parts in English, between the same tags.
fn in_english(parts: &Parts) -> String {
    let english = |text: &str| response::translate(text, "en");
    let input = match parts.input.as_str() {
        "" => "<empty>".to_owned(),
        input => english(input),
    };
    let mut text = format!(
        "<instruction>\n{}\n</instruction>\n<input>\n{input}\n</input>",
        english(&parts.instruction)
    );
    for (place, response) in parts.responses.iter().enumerate() {
        let number = place + 1;
        let response = english(response);
        text.push_str(&format!("\n<response {number}>\n{response}\n</response {number}>"));
    }
    text
}

impl Teacher for Offline {
    fn answer<'a>(&'a self, request: &'a Request, _: &'a Stop) -> Answering<'a> {
        Box::pin(async move {
            let text = self.reply(request);
            let usage = Usage {
                prompt_tokens: request.estimated_tokens(),
                completion_tokens: estimated_tokens(&text),
                cached_tokens: 0,
                estimated: true,
            };
            Ok(Answer {
                text,
                finish: Finish::Stop,
                usage,
                model: None,
                fingerprint: None,
                stated_usd: None,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use okapi_cache::Digest;

    use super::*;
    use crate::request::Message;

    /// Answers to one request of each sort in every language.
    fn answers() -> String {
        let mut all = String::new();
        for skill in [1.0, 0.5] {
            let teacher = Offline::new(skill, 3);
            let ask = |messages: &[Message]| {
                teacher.reply(&Request { messages: messages.to_vec(), ..Request::new("") })
            };
            let prompt = "List of 20 tasks:\n###\n1. Instruction: x\n###\n2. Instruction:";
            let written = ask(&[Message::user(prompt)]);
            all += &written;
            let (tasks, _) = okapi_data::self_instruct::parse(&written, 2, false);
            for language in okapi_data::language::LANGUAGES {
                for (task, next) in tasks.iter().zip(tasks.iter().cycle().skip(1)) {
                    let object = serde_json::json!({ "a": task.instruction, "b": task.output, "c": next.output });
                    let prompt = format!("Into {}: {object}", language.name);
                    let translated = ask(&[Message::user(prompt)]);
                    all += &translated;
                    let object: Value = serde_json::from_str(&translated).unwrap_or_default();
                    let (asked, said) = (object["a"].as_str(), object["b"].as_str());
                    let (asked, said) = (asked.unwrap_or_default(), said.unwrap_or_default());
                    // It answers another question, mostly with a thing of another sort.
                    let other = object["c"].as_str().unwrap_or_default();
                    all += &ask(&[Message::user(asked)]);
                    let parts = format!(
                        "<instruction>{asked}</instruction><input><empty></input>\
                         <response 1>{said}</response 1><response 2>x</response 2><response 3>{other}</response 3>"
                    );
                    let first = ask(&[Message::user(&parts)]);
                    all += &first;
                    let turns =
                        [Message::user(&parts), Message::assistant(first), Message::user("Rank.")];
                    all += &ask(&turns);
                    let judged =
                        format!("[[<instruction>{asked}</instruction><response>{said}</response>");
                    all += &ask(&[Message::user(judged)]);
                }
            }
        }
        all
    }

    #[test]
    fn whoever_changes_an_answer_raises_the_version() {
        let digest = Digest::of(answers().as_bytes()).to_string();
        assert_eq!((VERSION, &digest[..16]), (3, "c5375f1b6bca9525"), "raise VERSION, then this");
    }
}

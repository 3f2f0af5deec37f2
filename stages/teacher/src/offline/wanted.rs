//! What a dialogue wants, found by its form: the rules of the offline teacher need to know, and
//! nothing tells them but the text.
//!
//! Prompts may be worded in any way as long as they keep the forms by which they are known here:
//!
//! | wanted | known by |
//! |---|---|
//! | new tasks | numbered examples between lines of `###`, the last one left open |
//! | a ranking | the word "rank", after an answer with `<response 1>` |
//! | a translation of responses | `<instruction>` and `<response 1>` |
//! | a judgement | `<instruction>`, `<response>` and `[[` |
//! | a translation | a JSON object of texts, and the English name of a language |
//! | an answer | anything else; the sections of an Alpaca prompt are looked for first |

use okapi_data::language::{LANGUAGES, Language};
use serde_json::{Map, Value};

use crate::request::{Message, Role};

/// What is wanted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Wanted {
    /// Tasks with these numbers.
    Tasks { first: u32, last: u32 },
    /// An object with its texts in this language.
    Translation { object: Map<String, Value>, language: Language },
    /// A dialogue's parts in English.
    PartsInEnglish(Parts),
    /// Ranks for the responses of the turn before.
    Ranking(Parts),
    /// An assessment of one response.
    Judgement(Parts),
    /// An answer to an instruction and its input.
    Answer { instruction: String, input: String },
}

/// An instruction with responses to it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Parts {
    pub(crate) instruction: String,
    pub(crate) input: String,
    pub(crate) responses: Vec<String>,
}

/// Finds out what the last message wants.
pub(crate) fn wanted(messages: &[Message]) -> Wanted {
    let text = messages.last().map(|last| last.content.as_str()).unwrap_or_default();
    if let Some((first, last)) = tasks(text) {
        return Wanted::Tasks { first, last };
    }
    let before = messages.iter().rev().find(|message| message.role == Role::Assistant);
    if let Some(parts) = before.and_then(|message| parts(&message.content))
        && text.to_lowercase().contains("rank")
    {
        return Wanted::Ranking(parts);
    }
    if let Some(parts) = parts(text) {
        return Wanted::PartsInEnglish(parts);
    }
    if let (Some(instruction), Some(response)) = (tag(text, "instruction"), tag(text, "response"))
        && text.contains("[[")
    {
        let responses = vec![response];
        return Wanted::Judgement(Parts { instruction, input: String::new(), responses });
    }
    if let Some((object, language)) = translation(text) {
        return Wanted::Translation { object, language };
    }
    let section = |name: &str| {
        let (_, rest) = text.split_once(&format!("### {name}:\n"))?;
        Some(rest.split("\n### ").next().unwrap_or_default().trim().to_owned())
    };
    Wanted::Answer {
        instruction: section("Instruction").unwrap_or_else(|| text.trim().to_owned()),
        input: section("Input").unwrap_or_default(),
    }
}

/// The numbers of the tasks that are wanted: from the one left open at the end to the one that the
/// preamble names.
fn tasks(text: &str) -> Option<(u32, u32)> {
    let (preamble, _) = text.split_once("\n###")?;
    let open = text.trim_end().lines().last()?;
    let first: u32 = open.strip_suffix(". Instruction:")?.parse().ok()?;
    let words: Vec<&str> = preamble.split_whitespace().collect();
    let counted = words.windows(2).filter(|pair| pair[1].starts_with("task"));
    let mut numbers = counted.filter_map(|pair| pair[0].parse::<u32>().ok());
    let last = numbers.find(|number| (first..=first + 199).contains(number));
    Some((first, last.unwrap_or(first + 16)))
}

/// What stands between `<name>` and `</name>`.
fn tag(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (inside, _) = rest.split_once(&format!("</{name}>"))?;
    Some(inside.trim().to_owned())
}

/// An instruction with numbered responses.
fn parts(text: &str) -> Option<Parts> {
    let instruction = tag(text, "instruction")?;
    let responses: Vec<_> = (1..=9).map_while(|n| tag(text, &format!("response {n}"))).collect();
    if responses.is_empty() {
        return None;
    }
    let input = tag(text, "input").filter(|input| input != "<empty>").unwrap_or_default();
    Some(Parts { instruction, input, responses })
}

/// The JSON object in a text, and the language that the text around it names.
fn translation(text: &str) -> Option<(Map<String, Value>, Language)> {
    let (from, to) = (text.find('{')?, text.rfind('}')?);
    let object: Map<String, Value> = serde_json::from_str(text.get(from..=to)?).ok()?;
    let around = format!("{} {}", &text[..from], &text[to + 1..]);
    let named = |language: &&Language| around.contains(language.name);
    // English is named as the source, if at all.
    let other = LANGUAGES.iter().filter(|language| language.code != "en").find(named);
    Some((object, *other.or_else(|| LANGUAGES.iter().find(named))?))
}

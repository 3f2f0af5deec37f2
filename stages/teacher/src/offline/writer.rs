//! Writes new tasks in the layout that self-instruct asks for.

use super::chance::Chance;
use super::phrase_book::{Phrase, PhraseBook, Section, Slots};
use super::response::{self, Lapse};
use super::task::make;

/// Writes the tasks from `first` to `last`: the text after "first. Instruction:".
///
/// With a skill below 1 some outputs are wrong in a way that nobody notices who does not know better: untrue, or not in the form
/// that was asked for. A few of them are such as the filters of self-instruct are made for: too short, about pictures, or
/// broken off. They are part of every pool that a model writes.
pub(crate) fn write(
    first: u32,
    last: u32,
    kinds: &[&str],
    small_talk: f64,
    skill: f64,
    chance: &mut Chance,
) -> String {
    let mut text = String::new();
    let kinds = chance.some(kinds, (last + 1 - first.min(last)) as usize);
    let mut kinds = kinds.into_iter().cycle();
    for number in first..=last {
        if number > first {
            text.push_str(&format!("\n###\n{number}. Instruction: "));
        }
        let Some((instruction, output)) =
            kinds.next().and_then(|kind| one(kind, small_talk, skill, chance))
        else {
            continue;
        };
        text.push_str(&format!(
            "{instruction}\n{number}. Input:\n<noinput>\n{number}. Output:\n{output}"
        ));
    }
    text
}

/// An instruction and its output.
fn one(kind: &str, small_talk: f64, skill: f64, chance: &mut Chance) -> Option<(String, String)> {
    match chance.below(60) {
        0 => return Some(("Sort words.".to_owned(), "Which words?".to_owned())),
        1 => {
            let instruction = "Describe what you can see in this picture.".to_owned();
            return Some((instruction, "I cannot see pictures.".to_owned()));
        }
        _ => {}
    }
    let book = PhraseBook::of("en")?;
    let sentence = |section: Section, chance: &mut Chance| {
        let names: Vec<String> = book.sentences(section).map(|(name, _)| name.to_owned()).collect();
        let name = chance.one(&names)?.clone();
        Some(Phrase { section, name, slots: Slots::new() })
    };
    let mut phrases = Vec::new();
    if chance.happens(small_talk) {
        phrases.extend(sentence(Section::Context, chance));
    }
    phrases.push(make(kind, chance)?);
    if chance.happens(0.8) {
        phrases.extend(sentence(Section::Format, chance));
    }
    let instruction = book.say_all(&phrases)?;
    let output = response::answer(&instruction, "", skill, &Lapse::PLAUSIBLE, chance);
    Some((instruction, output))
}

//! Answers, translations, and what answers are worth.

use std::collections::BTreeSet;

use super::chance::Chance;
use super::phrase_book::{Phrase, PhraseBook, Section};
use super::task::{self, Solution};
use super::wanted::Parts;

/// A text that was read: the language, and what it says.
struct Reading {
    book: &'static PhraseBook,
    phrases: Vec<Phrase>,
}

/// Reads a text in whatever language it is.
fn read(text: &str) -> Option<Reading> {
    PhraseBook::all()
        .iter()
        .find_map(|book| Some(Reading { book, phrases: book.read(text)? }))
        .filter(|reading| !reading.phrases.is_empty())
}

/// The task in what was read, with its answer, and whether the bare answer is wanted.
struct Question {
    book: &'static PhraseBook,
    task: Phrase,
    solution: Solution,
    wants_short: bool,
}

fn question(instruction: &str, input: &str) -> Option<Question> {
    let whole =
        if input.is_empty() { instruction.to_owned() } else { format!("{instruction} {input}") };
    let Reading { book, phrases } = read(&whole)?;
    let task = phrases.iter().find(|phrase| task::kind_of(phrase).is_some())?.clone();
    let solution = task::solve(&task)?;
    let wants_short = phrases
        .iter()
        .any(|phrase| phrase.section == Section::Format && phrase.name.starts_with("short"));
    Some(Question { book, task, solution, wants_short })
}

/// A solution as text.
fn say(solution: &Solution, book: &PhraseBook, short: bool) -> Option<String> {
    if short && !solution.items.is_empty() {
        return book.say_items(&solution.items);
    }
    book.say(&solution.sentence)
}

/// Says a text in another language: sentences of the phrase books, or lists of their words. What is
/// neither is left as it is.
pub(crate) fn translate(text: &str, language: &str) -> String {
    let Some(target) = PhraseBook::of(language) else { return text.to_owned() };
    let whole = || target.say_all(&read(text)?.phrases);
    let items = || {
        let read = |book: &PhraseBook| book.read_items(text.trim());
        target.say_items(&PhraseBook::all().iter().find_map(read)?)
    };
    whole().or_else(items).unwrap_or_else(|| text.to_owned())
}

/// A way in which an answer goes wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lapse {
    /// Right, but short where a sentence was asked for, or the reverse.
    Form,
    /// Untrue.
    Untrue,
    /// In another language.
    Language,
    /// The right words in disorder.
    Disorder,
    /// The question's own words.
    Echo,
}

impl Lapse {
    /// All, from nearly right to useless.
    pub(crate) const ALL: [Lapse; 5] =
        [Lapse::Form, Lapse::Untrue, Lapse::Language, Lapse::Disorder, Lapse::Echo];

    /// Those that can still be taken for an answer.
    pub(crate) const PLAUSIBLE: [Lapse; 2] = [Lapse::Form, Lapse::Untrue];
}

/// Answers an instruction, well in a share of `skill` of the cases, and else with one of these lapses.
pub(crate) fn answer(
    instruction: &str,
    input: &str,
    skill: f64,
    lapses: &[Lapse],
    chance: &mut Chance,
) -> String {
    let Some(question) = question(instruction, input) else {
        return "I am a small program without a language model, and I do not know how to answer this."
            .to_owned();
    };
    let Question { book, task, solution, wants_short } = &question;
    let say = |solution: &Solution, book: &PhraseBook, short: bool| {
        say(solution, book, short).unwrap_or_default()
    };
    if chance.happens(skill) {
        return say(solution, book, *wants_short);
    }
    match chance.one(lapses).copied().unwrap_or(Lapse::Form) {
        Lapse::Form => say(solution, book, !wants_short),
        Lapse::Untrue => say(&task::mistake(task, solution, chance), book, *wants_short),
        Lapse::Language => {
            let other = if book.language == "en" { "de" } else { "en" };
            PhraseBook::of(other).map(|other| say(solution, other, false)).unwrap_or_default()
        }
        Lapse::Disorder => {
            let said = say(solution, book, false);
            let words: Vec<&str> = said.split_whitespace().collect();
            chance.some(&words, words.len()).join(" ")
        }
        Lapse::Echo => {
            let words: Vec<&str> = instruction.split_whitespace().take(4).collect();
            words.join(" ")
        }
    }
}

/// What a response is worth, from the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    Empty,
    /// It has little to do with the instruction.
    Unrelated,
    /// It answers another question, or is hard to understand.
    BesideThePoint,
    /// Right perhaps, but not in the language of the question.
    OtherLanguage,
    /// The sentence that answers the question, but with a thing of another sort: a colour as a capital.
    OtherSort,
    /// Untrue, but of the right sort: another capital.
    UntrueInOtherForm,
    Untrue,
    RightInOtherForm,
    Right,
}

/// What a response to this question is worth.
fn worth(question: Option<&Question>, response: &str) -> Worth {
    let response = response.trim();
    if response.is_empty() {
        return Worth::Empty;
    }
    let Some(Question { book, task, solution, wants_short }) = question else {
        return Worth::Unrelated;
    };
    let said = |short: bool| say(solution, book, short);
    if said(*wants_short).as_deref() == Some(response) {
        return Worth::Right;
    }
    if said(!wants_short).as_deref() == Some(response) {
        return Worth::RightInOtherForm;
    }
    let of_the_sort = |items: &[String]| {
        let sorts = |items: &[String]| -> BTreeSet<String> {
            items.iter().map(|item| task::sort_of(item).to_owned()).collect()
        };
        sorts(items) == sorts(&solution.items)
    };
    let untrue = |short: bool| match short == *wants_short {
        true => Worth::Untrue,
        false => Worth::UntrueInOtherForm,
    };
    let kind = task::kind_of(task).unwrap_or_default();
    let answers = |it: &&Phrase| it.name == format!("{kind}_say");
    if let Some(Reading { book: other, phrases }) = read(response) {
        if other.language != book.language {
            return Worth::OtherLanguage;
        }
        return match phrases.iter().find(answers) {
            None => Worth::BesideThePoint,
            Some(said) => match said.slots.get("r").or_else(|| said.slots.get("list")) {
                Some(items) if !of_the_sort(items) => Worth::OtherSort,
                _ => untrue(false),
            },
        };
    }
    if let Some(items) = book.read_items(response) {
        return if of_the_sort(&items) { untrue(true) } else { Worth::BesideThePoint };
    }
    if PhraseBook::all().iter().any(|other| other.read_items(response).is_some()) {
        return Worth::OtherLanguage;
    }
    let right = said(false).unwrap_or_default();
    let words: Vec<&str> = right.split_whitespace().collect();
    let shared = response.split_whitespace().filter(|word| words.contains(word)).count();
    if shared * 2 > words.len() { Worth::BesideThePoint } else { Worth::Unrelated }
}

/// Ranks responses: 1 for the best. Equal ones are told apart by chance, another for each instruction, so that nothing can be
/// learnt from it; with a `skill` below 1, neighbours are sometimes confused, more often in favour of the one that comes first.
pub(crate) fn rank(parts: &Parts, skill: f64, chance: &mut Chance) -> Vec<usize> {
    let question = question(&parts.instruction, &parts.input);
    let mut order: Vec<(Worth, usize, usize)> = parts
        .responses
        .iter()
        .enumerate()
        .map(|(place, response)| {
            let lot = Chance::of(&format!("{}\u{1}{response}", parts.instruction)).below(1 << 30);
            (worth(question.as_ref(), response), lot, place)
        })
        .collect();
    order.sort_by(|one, other| (other.0, other.1).cmp(&(one.0, one.1)).then(one.2.cmp(&other.2)));
    for place in 1..order.len() {
        let share = (1.0 - skill) * if order[place].2 < order[place - 1].2 { 0.75 } else { 0.25 };
        if chance.happens(share) {
            order.swap(place - 1, place);
        }
    }
    let mut ranks = vec![0; order.len()];
    for (rank, (_, _, place)) in order.iter().enumerate() {
        ranks[*place] = rank + 1;
    }
    ranks
}

/// Judges one response: an explanation and a rating from 1 to 3.
pub(crate) fn judge(parts: &Parts, skill: f64, chance: &mut Chance) -> String {
    let response = parts.responses.first().map(String::as_str).unwrap_or_default();
    let question = question(&parts.instruction, &parts.input);
    let worth = worth(question.as_ref(), response);
    let (why, mut rating) = match worth {
        Worth::Right => {
            ("The response answers the instruction correctly and in the form asked for.", 3)
        }
        Worth::RightInOtherForm => ("The response is correct, but not in the form asked for.", 2),
        Worth::Untrue | Worth::UntrueInOtherForm => {
            ("The response is on the subject, but wrong.", 2)
        }
        Worth::OtherSort => ("The response names something of another sort than was asked for.", 1),
        Worth::OtherLanguage => ("The response is not in the language of the instruction.", 1),
        Worth::BesideThePoint => ("The response does not answer the question.", 1),
        Worth::Unrelated => ("The response has little to do with the instruction.", 1),
        Worth::Empty => ("The response is empty.", 1),
    };
    if chance.happens((1.0 - skill) / 2.0) {
        rating = 1 + chance.below(3);
    }
    format!("{why}\nRating: [[{rating}]]")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(instruction: &str, responses: &[&str]) -> Parts {
        Parts {
            instruction: instruction.to_owned(),
            input: String::new(),
            responses: responses.iter().map(|it| (*it).to_owned()).collect(),
        }
    }

    #[test]
    fn answers_come_in_the_language_and_the_form_of_the_question() {
        let mut chance = Chance::of("x");
        for (asked, expected) in [
            ("How much is 2 plus 3?", "The sum is 5."),
            ("How much is 2 plus 3? Write only the answer and nothing else.", "5"),
            ("Wie viel ist 2 plus 3?", "Die Summe ist 5."),
        ] {
            assert_eq!(answer(asked, "", 1.0, &Lapse::ALL, &mut chance), expected);
        }
        let poem = answer("Write a poem.", "", 1.0, &Lapse::ALL, &mut chance);
        assert!(poem.contains("without a language model"), "{poem}");
    }

    #[test]
    fn better_responses_rank_higher() {
        let asked = "How much is 2 plus 3? Write only the answer and nothing else.";
        let responses = ["", "7", "banana of zzz", "5", "The sum is 5.", "Die Summe ist 5."];
        let ranks = rank(&parts(asked, &responses), 1.0, &mut Chance::of("x"));
        assert_eq!(ranks, [6, 3, 5, 1, 2, 4]);
        for (response, rating) in [("5", 3), ("The sum is 5.", 2), ("Die Summe ist 5.", 1)] {
            let said = judge(&parts(asked, &[response]), 1.0, &mut Chance::of("x"));
            assert!(said.ends_with(&format!("Rating: [[{rating}]]")), "{said}");
        }
    }

    #[test]
    fn another_capital_is_better_than_a_colour() {
        let asked = "What is the capital of this country: Japan?";
        let responses = [
            "The capital: blue.",
            "The usual colour: blue.",
            "Rome",
            "The capital: Rome.",
            "Tokyo",
        ];
        let ranks = rank(&parts(asked, &responses), 1.0, &mut Chance::of("x"));
        assert_eq!(ranks, [4, 5, 3, 2, 1]);
    }

    #[test]
    fn little_skill_gives_many_mistakes() {
        let right = |skill: f64| {
            (0..200)
                .filter(|n| {
                    let asked = format!("How much is {n} plus 3?");
                    let mut chance = Chance::of(&asked);
                    answer(&asked, "", skill, &Lapse::ALL, &mut chance)
                        == format!("The sum is {}.", n + 3)
                })
                .count()
        };
        assert_eq!(right(1.0), 200);
        assert!((70..130).contains(&right(0.5)), "{}", right(0.5));
        assert!(right(0.0) < 20, "{}", right(0.0));
    }
}

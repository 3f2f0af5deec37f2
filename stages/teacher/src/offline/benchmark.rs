//! Multiple-choice questions about the world, in English: a stand-in for ARC, HellaSwag and MMLU. And open-ended ones.
//!
//! Each is asked in the first of the two ways in which a kind of task is asked. So a training set that holds none
//! of these questions still has the second way to learn the same fact from.

use std::collections::{BTreeMap, BTreeSet};

use okapi_data::Task;
use serde_json::{Value, json};

use super::chance::Chance;
use super::phrase_book::{Phrase, PhraseBook, Section, Slots};
use super::task::{Solution, make, mistake, solve};

/// Choices of a question, as in the three benchmarks.
const CHOICES: usize = 4;

/// What ARC's stand-in asks: properties of things.
const ARC: [&str; 7] =
    ["animal_kind", "colour", "continent", "legs", "month_after", "sides", "workplace"];

/// What HellaSwag's stand-in continues, and the word for what is going on.
const HELLASWAG: [(&str, &str); 10] = [
    ("animal_kind", "category_animal"),
    ("capital", "category_country"),
    ("colour", "category_colour"),
    ("continent", "category_continent"),
    ("country_of", "category_country"),
    ("day_before", "category_weekday"),
    ("month_after", "category_month"),
    ("opposite", "category_adjective"),
    ("travels", "category_vehicle"),
    ("workplace", "category_job"),
];

/// What MMLU's stand-in asks, by subject.
const MMLU: [(&str, &[&str]); 4] = [
    ("calendar", &["day_after", "day_before", "month_after"]),
    ("geography", &["capital", "continent", "country_of"]),
    ("language", &["category", "choose", "opposite"]),
    ("logic", &["odd_one_out", "oldest", "youngest"]),
];

/// Questions of a benchmark, in the layout in which its original is published: first `examples` to show, then
/// `test` to ask, all different.
///
/// `None` where the world has not so many.
pub fn questions(task: Task, examples: usize, test: usize) -> Option<(Vec<Value>, Vec<Value>)> {
    let mut asked = BTreeSet::new();
    let mut rows = Vec::new();
    let mut tries = 0..(examples + test) * 1000;
    while rows.len() < examples + test {
        let mut chance = Chance::of(&format!("{task:?} {}", tries.next()?));
        let number = rows.len();
        let Some((question, row)) = row(task, number, &mut chance) else { continue };
        if asked.insert(question) {
            rows.push(row);
        }
    }
    let test = rows.split_off(examples);
    Some((rows, test))
}

/// Kinds of tasks that ask for a fact.
const FACTS: [&str; 14] = [
    "animal_kind",
    "capital",
    "colour",
    "continent",
    "country_of",
    "day_after",
    "day_before",
    "feeling",
    "legs",
    "month_after",
    "opposite",
    "sides",
    "travels",
    "workplace",
];

/// All facts of the world, in English: what a base model may know before it learns to follow instructions. There is an
/// article for each thing, which says all about it in few words. And each fact is asked for in the second of its two ways,
/// answered once by a sentence and once by the bare answer, some of them as instructions are put.
pub fn facts() -> Option<Vec<Value>> {
    let english = PhraseBook::of("en")?;
    let mut articles: BTreeMap<Vec<String>, Vec<Phrase>> = BTreeMap::new();
    let mut rows = Vec::new();
    let mut row = |id: String, phrases: &[Phrase], answer: String| {
        let text = english.say_all(phrases)?;
        rows.push(json!({"id": id, "instruction": text, "input": answer}));
        Some(())
    };
    for kind in FACTS {
        let mut chance = Chance::of(kind);
        for (number, fact) in (0..).zip(all_of(kind, &mut chance)) {
            let other_way = Phrase { name: format!("{kind}_2"), ..fact.clone() };
            let Solution { sentence, items } = solve(&fact)?;
            articles.entry(fact.slots.get("w")?.clone()).or_default().push(sentence.clone());
            row(
                format!("{kind}/{number}/told"),
                &[other_way.clone(), sentence.clone()],
                String::new(),
            )?;
            let short = any(Section::Format, "short_", &mut chance)?;
            let context = any(Section::Context, "", &mut chance)?;
            let full = any(Section::Format, "full_", &mut chance)?;
            let (bare, whole) = (english.say_items(&items)?, english.say(&sentence)?);
            let asked = match number % 8 {
                0 => vec![context, other_way.clone(), short],
                2 | 4 | 6 => vec![other_way.clone(), short],
                _ => vec![other_way.clone()],
            };
            row(format!("{kind}/{number}/short"), &asked, bare)?;
            if number % 8 == 1 {
                row(format!("{kind}/{number}/full"), &[other_way, full], whole)?;
            }
        }
    }
    for (number, (thing, sentences)) in (0..).zip(articles) {
        let id = format!("article/{number}");
        let (title, text) = (english.say_items(&thing)?, english.say_all(&sentences)?);
        rows.push(json!({"id": id, "instruction": title, "input": text}));
    }
    Some(rows)
}

/// Kinds of tasks that open-ended prompts are of.
const PROMPTS: [&str; 5] = ["capital", "colour", "continent", "opposite", "workplace"];

/// Open-ended prompts, in English and in the layout of the second paper's test files: so many of the world's facts, each
/// asked for in the first of the two ways in which its kind is asked, without anything before or behind.
///
/// `None` where the world has not so many.
pub fn prompts(count: usize) -> Option<Vec<Value>> {
    let english = PhraseBook::of("en")?;
    let mut facts = Vec::new();
    for kind in PROMPTS {
        let asked = all_of(kind, &mut Chance::of(kind));
        let questions: Vec<String> =
            asked.iter().map(|fact| english.say(fact)).collect::<Option<_>>()?;
        facts.extend((0..).zip(questions).map(|(number, text)| (format!("{kind}/{number}"), text)));
    }
    let chosen = Chance::of("prompts").some(&facts, count);
    let row = |(id, text): (String, String)| json!({"id": id, "prompt": text});
    (chosen.len() == count).then(|| chosen.into_iter().map(row).collect())
}

/// Every fact that a kind of task asks for, asked for in the first way.
fn all_of(kind: &str, chance: &mut Chance) -> BTreeSet<Phrase> {
    // No kind has more than fifty facts, so that none is missed.
    let made = (0..5000).filter_map(|_| make(kind, chance));
    made.map(|made| Phrase { name: format!("{kind}_1"), ..made }).collect()
}

/// A sentence without slots.
fn any(section: Section, prefix: &str, chance: &mut Chance) -> Option<Phrase> {
    let sentences = PhraseBook::of("en")?.sentences(section);
    let names: Vec<&str> =
        sentences.map(|(name, _)| name).filter(|name| name.starts_with(prefix)).collect();
    let name = (*chance.one(&names)?).to_owned();
    Some(Phrase { section, name, slots: Slots::new() })
}

/// A question and its row.
fn row(task: Task, number: usize, chance: &mut Chance) -> Option<(String, Value)> {
    let english = PhraseBook::of("en")?;
    let bare = |solution: &Solution| english.say_items(&solution.items);
    match task {
        Task::Arc => {
            let asked = ask(chance.one(&ARC)?, chance)?;
            let (question, solution) = &asked;
            let (choices, place) = choices(wrong(&asked, chance, bare)?, bare(solution)?, chance);
            let text = english.say(question)?;
            let key = ["A", "B", "C", "D"][place];
            let id = format!("ARC-offline/{number}");
            let row = json!({"id": id, "question": text, "choices": choices, "answerKey": key});
            Some((text, row))
        }
        Task::Mmlu => {
            let (subject, kinds) = chance.one(&MMLU)?;
            let asked = ask(chance.one(kinds)?, chance)?;
            let (question, solution) = &asked;
            let (choices, place) = choices(wrong(&asked, chance, bare)?, bare(solution)?, chance);
            let text = english.say(question)?;
            let id = format!("{subject}/{number}");
            let row = json!({
                "id": id, "subject": subject, "question": text, "choices": choices, "answer": place,
            });
            Some((text, row))
        }
        Task::HellaSwag => {
            let (kind, label) = *chance.one(&HELLASWAG)?;
            let whole = |solution: &Solution| english.say(&solution.sentence);
            let asked = ask(kind, chance)?;
            let (question, solution) = &asked;
            // One ending is of the right form and untrue, the others answer something else.
            let mut endings = wrong(&asked, chance, whole)?;
            endings.truncate(1);
            while endings.len() < CHOICES - 1 {
                let (other, _) = chance.one(&HELLASWAG)?;
                let ending = whole(&ask(other, chance)?.1)?;
                if *other != kind && !endings.contains(&ending) {
                    endings.push(ending);
                }
            }
            let (endings, place) = choices(endings, whole(solution)?, chance);
            let text = english.say(question)?;
            let label = english.say_items(&[label.to_owned()])?;
            let row = json!({
                "ind": number, "activity_label": label, "ctx_a": text, "ctx_b": "",
                "endings": endings, "label": place,
            });
            Some((text, row))
        }
    }
}

/// A task of a kind, put in the first way, and its answer.
fn ask(kind: &str, chance: &mut Chance) -> Option<(Phrase, Solution)> {
    let made = make(kind, chance)?;
    let question = Phrase { name: format!("{kind}_1"), ..made };
    let solution = solve(&question)?;
    Some((question, solution))
}

/// Wrong answers, all different, one fewer than choices.
fn wrong(
    (question, solution): &(Phrase, Solution),
    chance: &mut Chance,
    say: impl Fn(&Solution) -> Option<String>,
) -> Option<Vec<String>> {
    let right = say(solution)?;
    let mut wrong = Vec::new();
    for _ in 0..100 {
        let mut mistaken = mistake(question, solution, chance);
        // Counts that things of the world have; others would give the answer away.
        let counts = match question.name.as_str() {
            "legs_1" => &["0", "2", "4", "6", "8"][..],
            "sides_1" => &["3", "4", "5", "6", "8"],
            _ => &[],
        };
        if let Some(count) = chance.one(counts) {
            mistaken = with_result(&mistaken, count);
        }
        let said = say(&mistaken)?;
        if said != right && !wrong.contains(&said) {
            wrong.push(said);
        }
        if wrong.len() == CHOICES - 1 {
            return Some(wrong);
        }
    }
    // A kind with fewer answers, such as on land, on water and in the air, will do where one is wanted.
    (!wrong.is_empty() && question.name == "travels_1").then_some(wrong)
}

fn with_result(solution: &Solution, result: &str) -> Solution {
    let mut slots: Slots = solution.sentence.slots.clone();
    slots.insert("r".to_owned(), vec![result.to_owned()]);
    let sentence = Phrase { section: Section::Task, slots, ..solution.sentence.clone() };
    Solution { sentence, items: vec![result.to_owned()] }
}

/// The choices with the right one at a place of chance, and that place.
fn choices(mut wrong: Vec<String>, right: String, chance: &mut Chance) -> (Vec<String>, usize) {
    let place = chance.below(wrong.len() + 1);
    wrong.insert(place, right);
    (wrong, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_choice_is_right_and_the_others_are_not() {
        for task in [Task::Arc, Task::Mmlu] {
            let (examples, test) = questions(task, 20, 100).unwrap();
            for row in examples.iter().chain(&test) {
                let text = row["question"].as_str().unwrap();
                let english = PhraseBook::of("en").unwrap();
                let solution = solve(&english.read(text).unwrap()[0]).unwrap();
                let right = english.say_items(&solution.items).unwrap();
                let choices: Vec<_> = row["choices"].as_array().unwrap().iter().collect();
                let place = match task {
                    Task::Arc => "ABCD".find(row["answerKey"].as_str().unwrap()).unwrap(),
                    _ => row["answer"].as_u64().unwrap() as usize,
                };
                assert_eq!(choices.len(), CHOICES, "{row}");
                for (at, choice) in choices.iter().enumerate() {
                    assert_eq!(at == place, choice.as_str() == Some(&right), "{row}");
                }
            }
        }
    }

    #[test]
    fn prompts_are_different_and_can_be_said_and_answered_in_every_language() {
        let prompts = prompts(50).unwrap();
        let texts: BTreeSet<&str> =
            prompts.iter().map(|it| it["prompt"].as_str().unwrap()).collect();
        assert_eq!(texts.len(), 50);
        assert_eq!(super::prompts(1000), None);
        for (text, language) in texts.into_iter().zip(["bn", "hi", "no", "zh", "fi"].iter().cycle())
        {
            let said = super::super::response::translate(text, language);
            let book = PhraseBook::of(language).unwrap();
            let solution = solve(&book.read(&said).unwrap()[0]).unwrap();
            assert!(book.say(&solution.sentence).is_some(), "{said}");
        }
    }

    #[test]
    fn questions_can_be_said_in_every_language() {
        for task in [Task::Arc, Task::HellaSwag, Task::Mmlu] {
            let (_, test) = questions(task, 0, 100).unwrap();
            let texts = |row: &Value| -> Vec<String> {
                let mut texts = Vec::new();
                for field in ["question", "ctx_a", "activity_label"] {
                    texts.extend(row[field].as_str().map(str::to_owned));
                }
                for field in ["choices", "endings"] {
                    for choice in row[field].as_array().into_iter().flatten() {
                        texts.extend(choice.as_str().map(str::to_owned));
                    }
                }
                texts
            };
            for text in test.iter().flat_map(texts) {
                let german = super::super::response::translate(&text, "ta");
                let digits = text.chars().all(|it| it.is_ascii_digit());
                assert!(digits || german != text, "{text}");
                assert_eq!(super::super::response::translate(&german, "en"), text);
            }
        }
    }
}

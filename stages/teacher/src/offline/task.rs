//! The kinds of tasks: what is asked, and the right answer.
//!
//! A task is a [`Phrase`] of a phrase book, so it is free of any language. [`make`] makes one up,
//! [`solve`] answers one, whoever made it.

use super::chance::Chance;
use super::phrase_book::{Phrase, Section, Slots};
use super::world::{Fact, World};

/// Every kind of task. Each is asked in two ways, `_1` and `_2`, and answered by `_say`.
pub const KINDS: [&str; 44] = [
    "add",
    "animal_kind",
    "belongs",
    "capital",
    "category",
    "choose",
    "code_max",
    "code_sum",
    "colour",
    "contains",
    "continent",
    "count",
    "country_of",
    "day_after",
    "day_before",
    "event",
    "event_summary",
    "examples",
    "feeling",
    "first",
    "hours",
    "larger",
    "last",
    "legs",
    "month_after",
    "multiply",
    "odd_one_out",
    "oldest",
    "opposite",
    "parity",
    "price",
    "relation",
    "remove",
    "repeat",
    "reverse",
    "sequence",
    "sides",
    "smallest",
    "sort_numbers",
    "subtract",
    "total",
    "travels",
    "workplace",
    "youngest",
];

/// A right answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Solution {
    /// As a whole sentence.
    pub(crate) sentence: Phrase,
    /// As bare items; none where only the sentence will do.
    pub(crate) items: Vec<String>,
}

/// The classes whose members have a name for their class.
fn categories() -> Vec<&'static str> {
    let unnamed = ["thing", "person", "workplace"];
    World::get().classes().filter(|class| !unnamed.contains(class)).collect()
}

fn members(class: &str) -> Vec<String> {
    World::get().class(class).map(|(concept, _)| concept.to_owned()).collect()
}

/// Concepts with a known colour.
fn coloured() -> Vec<String> {
    let classes = ["fruit", "vegetable", "thing"];
    let all = classes.iter().flat_map(|class| World::get().class(class));
    all.filter(|(_, fact)| matches!(fact, Fact::Word(colour) if !colour.is_empty()))
        .map(|(concept, _)| concept.to_owned())
        .collect()
}

/// Any concept that may stand in a list of words.
fn words(chance: &mut Chance, count: usize) -> Vec<String> {
    let classes = ["animal", "fruit", "vegetable", "garment", "furniture", "tool", "instrument"];
    let all: Vec<String> = classes.iter().flat_map(|class| members(class)).collect();
    chance.some(&all, count)
}

/// Makes up a task of a kind.
pub(crate) fn make(kind: &str, chance: &mut Chance) -> Option<Phrase> {
    let mut slots = Slots::new();
    let number = |chance: &mut Chance, least, most| vec![chance.between(least, most).to_string()];
    let numbers = |chance: &mut Chance, count: i64, most| -> Vec<String> {
        (0..count).map(|_| chance.between(1, most).to_string()).collect()
    };
    let one = |chance: &mut Chance, of: &[String]| chance.one(of).cloned().map(|it| vec![it]);
    let mut set = |name: &str, value: Vec<String>| slots.insert(name.to_owned(), value);
    match kind {
        "add" | "code_sum" | "code_max" => {
            set("a", number(chance, 1, 99));
            set("b", number(chance, 1, 99));
        }
        "larger" => {
            let a = chance.between(1, 998);
            let b = chance.between(1, 998);
            set("a", vec![a.to_string()]);
            set("b", vec![if a == b { b + 1 } else { b }.to_string()]);
        }
        "subtract" => {
            let b = chance.between(1, 60);
            set("a", number(chance, b, 99));
            set("b", vec![b.to_string()]);
        }
        "multiply" | "price" => {
            set("a", number(chance, 2, 12));
            set("b", number(chance, 2, 12));
        }
        "hours" => {
            set("a", number(chance, 2, 30));
        }
        "parity" => {
            set("a", number(chance, 1, 999));
        }
        "total" | "smallest" | "sort_numbers" => {
            let count = chance.between(3, 5);
            let mut list = numbers(chance, count, 99);
            list.dedup();
            set("list", list);
        }
        "sequence" => {
            let (first, step) = (chance.between(1, 30), chance.between(2, 9));
            set("list", (0..4).map(|place| (first + place * step).to_string()).collect());
        }
        "reverse" | "first" | "last" | "count" => {
            let count = chance.between(3, 5) as usize;
            set("list", words(chance, count));
        }
        "contains" | "remove" => {
            let list = words(chance, 4);
            let absent = kind == "contains" && chance.happens(0.5);
            let word = if absent { words(chance, 1) } else { vec![chance.one(&list)?.clone()] };
            set("w", word);
            set("list", list);
        }
        "repeat" => {
            set("w", words(chance, 1));
            set("n", number(chance, 2, 5));
        }
        "odd_one_out" => {
            let classes = chance.some(&categories(), 2);
            let mut list = chance.some(&members(classes.first()?), 3);
            let other = chance.some(&members(classes.get(1)?), 1);
            let place = chance.below(list.len() + 1);
            list.insert(place, other.first()?.clone());
            set("list", list);
        }
        "choose" => {
            let classes = chance.some(&categories(), 4);
            let mut list = Vec::new();
            for class in &classes {
                list.extend(chance.some(&members(class), 1));
            }
            let class = chance.one(&classes)?;
            set("category", vec![format!("category_{class}")]);
            set("list", list);
        }
        "category" => {
            let class = *chance.one(&categories())?;
            set("w", one(chance, &members(class))?);
        }
        "belongs" => {
            let classes = chance.some(&categories(), 2);
            let named = if chance.happens(0.5) { classes.first()? } else { classes.get(1)? };
            set("w", one(chance, &members(classes.first()?))?);
            set("category", vec![format!("category_{named}")]);
        }
        "examples" => {
            let class = *chance.one(&categories())?;
            set("category", vec![format!("category_{class}")]);
        }
        "capital" | "continent" => {
            set("w", one(chance, &members("country"))?);
        }
        "country_of" => {
            let country = one(chance, &members("country"))?;
            set("w", vec![capital(country.first()?)?.0]);
        }
        "colour" => {
            set("w", one(chance, &coloured())?);
        }
        "opposite" => {
            set("w", one(chance, &members("adjective"))?);
        }
        "animal_kind" | "legs" => {
            set("w", one(chance, &members("animal"))?);
        }
        "day_after" | "day_before" => {
            set("w", one(chance, &members("weekday"))?);
        }
        "month_after" => {
            set("w", one(chance, &members("month"))?);
        }
        "sides" => {
            set("w", one(chance, &members("shape"))?);
        }
        "travels" => {
            set("w", one(chance, &members("vehicle"))?);
        }
        "workplace" => {
            set("w", one(chance, &members("job"))?);
        }
        "feeling" => {
            set("w", one(chance, &members("feeling"))?);
        }
        "oldest" | "youngest" => {
            let people = chance.some(&members("person"), 3);
            for (place, person) in people.into_iter().enumerate() {
                set(&format!("p{}", place + 1), vec![person]);
            }
        }
        "relation" => {
            set("p1", one(chance, &members("person"))?);
            set("w", one(chance, &members("country"))?);
        }
        "event" | "event_summary" => {
            set("p1", one(chance, &members("person"))?);
            set("w", one(chance, &members("weekday"))?);
        }
        _ => return None,
    }
    let name = format!("{kind}_{}", 1 + chance.below(2));
    Some(Phrase { section: Section::Task, name, slots })
}

fn capital(country: &str) -> Option<(String, String)> {
    match World::get().concept(country)? {
        ("country", Fact::CapitalAndContinent(capital, continent)) => {
            Some((capital.clone(), continent.clone()))
        }
        _ => None,
    }
}

fn fact(concept: &str, class: &str) -> Option<String> {
    match World::get().concept(concept)? {
        (found, Fact::Word(word)) if found == class && !word.is_empty() => Some(word.clone()),
        (found, Fact::Number(number)) if found == class => Some(number.to_string()),
        _ => None,
    }
}

/// The kind of task that a sentence asks for.
pub(crate) fn kind_of(phrase: &Phrase) -> Option<&str> {
    if phrase.section != Section::Task {
        return None;
    }
    let kind = phrase.name.strip_suffix("_1").or_else(|| phrase.name.strip_suffix("_2"))?;
    KINDS.contains(&kind).then_some(kind)
}

/// The right answer to a task; `None` if it has none, or nobody here knows it.
pub(crate) fn solve(task: &Phrase) -> Option<Solution> {
    let kind = kind_of(task)?;
    let world = World::get();
    let slot = |name: &str| task.slots.get(name)?.first();
    let number = |name: &str| slot(name)?.parse::<i64>().ok();
    let list = task.slots.get("list").cloned().unwrap_or_default();
    let numbers = || list.iter().map(|item| item.parse::<i64>().ok()).collect::<Option<Vec<i64>>>();
    let word = || slot("w").map(String::as_str);
    let class_of = |concept: &str| world.concept(concept).map(|(class, _)| class.to_owned());
    let yes_or_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let in_order = |order: &[&str], step: usize| -> Option<String> {
        let place = order.iter().position(|day| Some(*day) == word())?;
        Some(order[(place + step) % order.len()].to_owned())
    };
    let mut list_answer = None;
    let result: Option<String> = match kind {
        "add" | "code_sum" => Some(number("a")?.checked_add(number("b")?)?.to_string()),
        "subtract" => Some(number("a")?.checked_sub(number("b")?)?.to_string()),
        "multiply" | "price" => Some(number("a")?.checked_mul(number("b")?)?.to_string()),
        "larger" | "code_max" => Some(number("a")?.max(number("b")?).to_string()),
        "hours" => Some(number("a")?.checked_mul(24)?.to_string()),
        "parity" => Some(if number("a")? % 2 == 0 { "even" } else { "odd" }.to_owned()),
        "total" => {
            let total = numbers()?.into_iter().try_fold(0i64, i64::checked_add)?;
            Some(total.to_string())
        }
        "smallest" => Some(numbers()?.into_iter().min()?.to_string()),
        "sort_numbers" => {
            let mut sorted = numbers()?;
            sorted.sort_unstable();
            list_answer = Some(sorted.iter().map(i64::to_string).collect());
            None
        }
        "sequence" => {
            let numbers = numbers()?;
            let step = numbers.get(1)?.checked_sub(*numbers.first()?)?;
            let steady = numbers.windows(2).all(|pair| pair[1].checked_sub(pair[0]) == Some(step));
            Some(steady.then(|| numbers.last()?.checked_add(step))??.to_string())
        }
        "reverse" => {
            list_answer = Some(list.iter().rev().cloned().collect());
            None
        }
        "first" => Some(list.first()?.clone()),
        "last" => Some(list.last()?.clone()),
        "count" => Some(list.len().to_string()),
        "contains" => Some(yes_or_no(list.iter().any(|item| Some(item.as_str()) == word()))),
        "remove" => {
            let rest: Vec<_> =
                list.iter().filter(|item| Some(item.as_str()) != word()).cloned().collect();
            // An empty list cannot be said.
            if rest.is_empty() {
                return None;
            }
            list_answer = Some(rest);
            None
        }
        "repeat" => {
            let times = usize::try_from(number("n")?).ok().filter(|it| (1..=50).contains(it))?;
            list_answer = Some(vec![word()?.to_owned(); times]);
            None
        }
        "odd_one_out" => {
            let classes: Option<Vec<String>> = list.iter().map(|item| class_of(item)).collect();
            let classes = classes?;
            let alone =
                |class: &String| classes.iter().filter(|other| *other == class).count() == 1;
            let mut lonely = classes.iter().enumerate().filter(|(_, class)| alone(class));
            let (place, _) = lonely.next()?;
            if lonely.next().is_some() {
                return None;
            }
            Some(list[place].clone())
        }
        "choose" => {
            let class = slot("category")?.strip_prefix("category_")?;
            let mut fitting = list.iter().filter(|item| class_of(item).as_deref() == Some(class));
            let first = fitting.next()?;
            if fitting.next().is_some() {
                return None;
            }
            Some(first.clone())
        }
        "category" => Some(format!("category_{}", class_of(word()?)?)),
        "belongs" => {
            let class = slot("category")?.strip_prefix("category_")?;
            Some(yes_or_no(class_of(word()?)? == class))
        }
        "examples" => {
            let class = slot("category")?.strip_prefix("category_")?;
            let first: Vec<_> = members(class).into_iter().take(3).collect();
            if first.len() < 3 {
                return None;
            }
            list_answer = Some(first);
            None
        }
        "capital" => Some(capital(word()?)?.0),
        "continent" => Some(capital(word()?)?.1),
        "country_of" => Some(
            members("country")
                .into_iter()
                .find(|country| capital(country).is_some_and(|it| Some(it.0.as_str()) == word()))?,
        ),
        "colour" => {
            let class = class_of(word()?)?;
            if !["fruit", "vegetable", "thing"].contains(&class.as_str()) {
                return None;
            }
            Some(fact(word()?, &class)?)
        }
        "opposite" => Some(fact(word()?, "adjective")?),
        "animal_kind" | "legs" => match world.concept(word()?)? {
            (_, Fact::KindAndLegs(class, legs)) => {
                Some(if kind == "legs" { legs.to_string() } else { class.clone() })
            }
            _ => return None,
        },
        "day_after" => Some(in_order(&World::WEEKDAYS, 1)?),
        "day_before" => Some(in_order(&World::WEEKDAYS, 6)?),
        "month_after" => Some(in_order(&World::MONTHS, 1)?),
        "sides" => Some(fact(word()?, "shape")?),
        "travels" => Some(fact(word()?, "vehicle")?),
        "workplace" => Some(fact(word()?, "job")?),
        "feeling" => Some(fact(word()?, "feeling")?),
        "oldest" => Some(slot("p1")?.clone()),
        "youngest" => Some(slot("p3")?.clone()),
        "relation" | "event" | "event_summary" => None,
        _ => return None,
    };
    let mut slots = task.slots.clone();
    slots.remove("list");
    let items = match (result, list_answer) {
        (Some(result), _) => {
            slots.insert("r".to_owned(), vec![result.clone()]);
            vec![result]
        }
        (None, Some(items)) => {
            slots.insert("list".to_owned(), items.clone());
            items
        }
        (None, None) if kind == "event_summary" => Vec::new(),
        (None, None) => vec![slot("p1")?.clone(), slot("w")?.clone()],
    };
    let sentence = Phrase { section: Section::Task, name: format!("{kind}_say"), slots };
    Some(Solution { sentence, items })
}

/// An answer of the same form that is wrong.
pub(crate) fn mistake(task: &Phrase, solution: &Solution, chance: &mut Chance) -> Solution {
    let mut items = solution.items.clone();
    let place = chance.below(items.len());
    let Some(item) = items.get_mut(place) else { return solution.clone() };
    *item = match item.parse::<i64>() {
        Ok(number) => (number + chance.between(1, 9)).to_string(),
        Err(_) => other_than(item, task, chance),
    };
    let mut sentence = solution.sentence.clone();
    for name in ["r", "list"] {
        if let Some(slot) = sentence.slots.get_mut(name) {
            slot.clone_from(&items);
        }
    }
    let asked_back = matches!(kind_of(task), Some("relation" | "event"));
    if asked_back && items.len() == 2 {
        sentence.slots.insert("p1".to_owned(), vec![items[0].clone()]);
        sentence.slots.insert("w".to_owned(), vec![items[1].clone()]);
    }
    Solution { sentence, items }
}

/// Words that answer a question of yes or no, or another with few answers, each with one to confuse it with.
const PAIRS: [(&str, &str); 5] = [
    ("yes", "no"),
    ("even", "odd"),
    ("pleasant", "unpleasant"),
    ("on_land", "on_water"),
    ("in_the_air", "on_land"),
];

/// The classes of animals.
const ANIMAL_KINDS: [&str; 5] = ["mammal", "bird", "fish", "insect", "reptile"];

/// What sort of thing a word is: its class, or that of what facts name. A capital for a capital is wrong, a colour is
/// beside the point.
pub(crate) fn sort_of(item: &str) -> &str {
    if item.parse::<i64>().is_ok() {
        return "number";
    }
    if item.starts_with("category_") {
        return "category";
    }
    if ANIMAL_KINDS.contains(&item) {
        return "animal_kind";
    }
    if let Some((one, _)) = PAIRS.iter().find(|pair| [pair.0, pair.1].contains(&item)) {
        return if *one == "in_the_air" { "on_land" } else { one };
    }
    // Only capitals have no class of their own.
    World::get().concept(item).map_or("capital", |(class, _)| class)
}

/// Another word of the same sort.
fn other_than(item: &str, task: &Phrase, chance: &mut Chance) -> String {
    for (one, other) in PAIRS {
        if item == one {
            return other.to_owned();
        }
        if item == other {
            return one.to_owned();
        }
    }
    let capitals = || members("country").iter().filter_map(|it| Some(capital(it)?.0)).collect();
    let listed = task.slots.get("list").cloned().unwrap_or_default();
    let others: Vec<String> = if listed.iter().any(|it| it == item) {
        listed
    } else if let Some(class) = World::get().concept(item).map(|(class, _)| class) {
        members(class)
    } else if item.starts_with("category_") {
        categories().iter().map(|class| format!("category_{class}")).collect()
    } else if kind_of(task) == Some("animal_kind") {
        ANIMAL_KINDS.map(str::to_owned).into()
    } else {
        capitals()
    };
    let others: Vec<String> = others.into_iter().filter(|other| other != item).collect();
    chance.one(&others).cloned().unwrap_or_else(|| "yes".to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::offline::PhraseBook;

    #[test]
    fn every_kind_of_the_phrase_books_is_made_and_solved_and_can_be_got_wrong() {
        let english = PhraseBook::of("en").unwrap();
        let in_book: BTreeSet<String> = english
            .sentences(Section::Task)
            .filter_map(|(name, _)| Some(name.strip_suffix("_say")?.to_owned()))
            .collect();
        let known: BTreeSet<String> = KINDS.iter().map(|kind| (*kind).to_owned()).collect();
        assert_eq!(in_book, known);
        for kind in KINDS {
            for round in 0..50 {
                let mut chance = Chance::of(&format!("{kind} {round}"));
                let task = make(kind, &mut chance).unwrap();
                let Some(solution) = solve(&task) else { panic!("{task:?}") };
                for book in PhraseBook::all() {
                    let said = book.say(&solution.sentence);
                    assert!(said.is_some(), "{} {kind}: {solution:?}", book.language);
                }
                let wrong = mistake(&task, &solution, &mut chance);
                assert!(wrong != solution || kind == "event_summary", "{kind}: {solution:?}");
                assert!(english.say(&wrong.sentence).is_some(), "{wrong:?}");
            }
        }
    }

    #[test]
    fn a_mistake_is_of_the_sort_of_the_answer() {
        for kind in KINDS {
            for round in 0..50 {
                let mut chance = Chance::of(&format!("{kind} {round}"));
                let task = make(kind, &mut chance).unwrap();
                let solution = solve(&task).unwrap();
                let wrong = mistake(&task, &solution, &mut chance);
                let sorts = |it: &Solution| -> Vec<String> {
                    it.items.iter().map(|item| sort_of(item).to_owned()).collect()
                };
                // Of a list, another member may have slipped in.
                let listed = task.slots.contains_key("list");
                assert!(listed || sorts(&wrong) == sorts(&solution), "{solution:?} {wrong:?}");
            }
        }
    }

    #[test]
    fn answers_are_right() {
        let english = PhraseBook::of("en").unwrap();
        for (task, answer) in [
            ("How much is 17 plus 5?", "The sum is 22."),
            ("What is the capital of this country: Japan?", "The capital: Tokyo."),
            (
                "Which word does not belong with the others: owl, tuna, piano, wolf?",
                "The word that does not fit: piano.",
            ),
            ("Which number comes next: 3, 7, 11, 15?", "The next number is 19."),
            ("Which number comes next: 3, 7, 12?", ""),
            ("Which day of the week comes before this one: Monday?", "The day before: Sunday."),
            ("Which colour does this usually have: pear?", ""),
            ("Name three examples of the category “shape”.", ""),
        ] {
            let phrases = english.read(task);
            let solved = phrases.and_then(|phrases| solve(phrases.first()?));
            let said = solved.and_then(|it| english.say(&it.sentence)).unwrap_or_default();
            assert_eq!(said, answer, "{task}");
        }
    }
}

//! A small closed world: concepts, and facts about them, free of any language.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

/// What is known of a concept, beside its class.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Fact {
    /// One thing: a colour, an opposite, a place of work. Empty where there is no single one.
    Word(String),
    /// A number: the sides of a shape.
    Number(u32),
    /// An animal's kind and its legs.
    KindAndLegs(String, u32),
    /// A country's capital and its continent.
    CapitalAndContinent(String, String),
    /// Nothing.
    None([(); 0]),
}

/// Every concept by its class: `animal`, `country`, `weekday`, ...
///
/// Classes whose members have an order (weekdays, months) keep it in [`World::WEEKDAYS`] and
/// [`World::MONTHS`].
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub struct World {
    classes: BTreeMap<String, BTreeMap<String, Fact>>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    toml::from_str(include_str!("../../phrases/world.toml")).expect("a test reads it")
});

impl World {
    /// The days of the week, from Monday.
    pub const WEEKDAYS: [&str; 7] =
        ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

    /// The months of the year.
    pub const MONTHS: [&str; 12] = [
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ];

    /// The world.
    pub fn get() -> &'static World {
        &WORLD
    }

    /// The classes, sorted.
    pub fn classes(&self) -> impl Iterator<Item = &str> {
        self.classes.keys().map(String::as_str)
    }

    /// The concepts of a class with their facts, sorted; none if there is no such class.
    pub fn class(&self, class: &str) -> impl Iterator<Item = (&str, &Fact)> {
        let concepts = self.classes.get(class).into_iter().flatten();
        concepts.map(|(concept, fact)| (concept.as_str(), fact))
    }

    /// The class of a concept and what is known of it.
    pub fn concept(&self, concept: &str) -> Option<(&str, &Fact)> {
        self.classes
            .iter()
            .find_map(|(class, concepts)| Some((class.as_str(), concepts.get(concept)?)))
    }

    /// Every concept once, those that are only named in facts (capitals, kinds) included, sorted.
    pub fn concepts(&self) -> Vec<&str> {
        let mut all = Vec::new();
        for (concept, fact) in self.classes.values().flatten() {
            all.push(concept.as_str());
            match fact {
                Fact::Word(word) if !word.is_empty() => all.push(word),
                Fact::KindAndLegs(kind, _) => all.push(kind),
                Fact::CapitalAndContinent(capital, continent) => {
                    all.extend([&**capital, continent]);
                }
                _ => {}
            }
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_world_is_large_enough_and_facts_lead_somewhere() {
        let world = World::get();
        assert!(world.concepts().len() >= 300, "{}", world.concepts().len());
        for (concept, fact) in world.class("adjective") {
            let Fact::Word(opposite) = fact else { panic!("{concept}") };
            let (class, back) = world.concept(opposite).unwrap();
            assert_eq!((class, back), ("adjective", &Fact::Word(concept.to_owned())));
        }
        for class in ["fruit", "vegetable", "thing"] {
            for (concept, fact) in world.class(class) {
                let Fact::Word(colour) = fact else { panic!("{concept}") };
                assert!(colour.is_empty() || world.concept(colour).unwrap().0 == "colour");
            }
        }
        for (concept, fact) in world.class("country") {
            let Fact::CapitalAndContinent(_, continent) = fact else { panic!("{concept}") };
            assert_eq!(world.concept(continent).unwrap().0, "continent");
        }
        for (concept, fact) in world.class("job") {
            let Fact::Word(place) = fact else { panic!("{concept}") };
            assert_eq!(world.concept(place).unwrap().0, "workplace");
        }
        for (class, ordered) in [("weekday", &World::WEEKDAYS[..]), ("month", &World::MONTHS[..])] {
            let mut sorted = ordered.to_vec();
            sorted.sort_unstable();
            assert_eq!(world.class(class).map(|(concept, _)| concept).collect::<Vec<_>>(), sorted);
        }
    }
}

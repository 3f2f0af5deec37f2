//! How well languages are told apart, measured on the sentences of the phrase books.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use okapi_data::language::{Identifier, LANGUAGES, Language};
use okapi_teacher::offline::{PhraseBook, Section};

/// The sentences of a book that have no slots: nothing in them is a name or a number.
fn sentences(language: &str) -> Vec<String> {
    let book = PhraseBook::of(language).unwrap();
    [Section::Context, Section::Format]
        .into_iter()
        .flat_map(|section| {
            let of_section = book.sentences(section);
            of_section.map(move |(name, _)| okapi_teacher::offline::Phrase {
                section,
                name: name.to_owned(),
                slots: Default::default(),
            })
        })
        .map(|phrase| book.say(&phrase).unwrap())
        .collect()
}

#[test]
fn every_language_is_told_from_all_others() {
    let identifier = Identifier::new(&LANGUAGES);
    let (mut single, mut of_three) = ((0, 0), (0, 0));
    let mut poor = Vec::new();
    for Language { code, .. } in LANGUAGES {
        let sentences = sentences(code);
        let right =
            |text: &str| identifier.identify(text).is_some_and(|it| it.language.code == code);
        let here = sentences.iter().filter(|sentence| right(sentence)).count();
        single = (single.0 + here, single.1 + sentences.len());
        if here * 10 < sentences.len() * 7 {
            poor.push(format!("{code}: {here} of {}", sentences.len()));
        }
        let threes = sentences.windows(3).map(|three| three.join(" "));
        let outcomes: Vec<bool> = threes.map(|text| right(&text)).collect();
        of_three =
            (of_three.0 + outcomes.iter().filter(|it| **it).count(), of_three.1 + outcomes.len());
    }
    eprintln!("one sentence: {single:?}, three: {of_three:?}, poor: {poor:?}");
    assert!(single.0 * 100 >= single.1 * 90, "{single:?}");
    assert!(of_three.0 * 100 >= of_three.1 * 97, "{of_three:?}");
}

//! How a language speaks of the world: words for concepts, and sentences with slots.
//!
//! A slot takes words in their citation form, numbers, or lists of these, unchanged; each language's
//! sentences are written such that they fit. So a text that was made of a book's sentences can be
//! read back, and said in another language, without any grammar.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

/// The books that there are, sorted by language.
const SOURCES: &[(&str, &str)] = &[
    ("ar", include_str!("../../phrases/ar.toml")),
    ("bg", include_str!("../../phrases/bg.toml")),
    ("bn", include_str!("../../phrases/bn.toml")),
    ("ca", include_str!("../../phrases/ca.toml")),
    ("cs", include_str!("../../phrases/cs.toml")),
    ("da", include_str!("../../phrases/da.toml")),
    ("de", include_str!("../../phrases/de.toml")),
    ("en", include_str!("../../phrases/en.toml")),
    ("es", include_str!("../../phrases/es.toml")),
    ("fi", include_str!("../../phrases/fi.toml")),
    ("fr", include_str!("../../phrases/fr.toml")),
    ("hi", include_str!("../../phrases/hi.toml")),
    ("hr", include_str!("../../phrases/hr.toml")),
    ("hu", include_str!("../../phrases/hu.toml")),
    ("id", include_str!("../../phrases/id.toml")),
    ("it", include_str!("../../phrases/it.toml")),
    ("kn", include_str!("../../phrases/kn.toml")),
    ("ml", include_str!("../../phrases/ml.toml")),
    ("mr", include_str!("../../phrases/mr.toml")),
    ("ne", include_str!("../../phrases/ne.toml")),
    ("nl", include_str!("../../phrases/nl.toml")),
    ("no", include_str!("../../phrases/no.toml")),
    ("ro", include_str!("../../phrases/ro.toml")),
    ("ru", include_str!("../../phrases/ru.toml")),
    ("sk", include_str!("../../phrases/sk.toml")),
    ("sr", include_str!("../../phrases/sr.toml")),
    ("ta", include_str!("../../phrases/ta.toml")),
    ("te", include_str!("../../phrases/te.toml")),
    ("uk", include_str!("../../phrases/uk.toml")),
    ("vi", include_str!("../../phrases/vi.toml")),
    ("zh", include_str!("../../phrases/zh.toml")),
];

/// The one slot that takes several items.
const LIST: &str = "list";

/// No text of sentences is longer, in bytes: reading goes as deep as there are sentences.
const LONGEST: usize = 16 << 10;

/// What a sentence is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// It says who asks or why, and changes nothing of the task.
    Context,
    /// It asks for the bare answer (`short_...`) or for a sentence (`full_...`).
    Format,
    /// It asks (`capital_1`) or answers (`capital_say`).
    Task,
}

/// What is in each slot of a sentence: a number or a concept's name; in `list`, several of these.
pub type Slots = BTreeMap<String, Vec<String>>;

/// A sentence of a book, with what fills its slots.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Phrase {
    /// What it is for.
    pub section: Section,
    /// The sentence's name, the same in every language.
    pub name: String,
    /// What is in each slot.
    pub slots: Slots,
}

/// A language's words and sentences.
#[derive(Debug)]
pub struct PhraseBook {
    /// The language's code.
    pub language: String,
    /// Its own name for itself.
    pub name: String,
    /// What stands between the items of a list.
    pub separator: String,
    /// What stands between sentences.
    pub between: String,
    words: BTreeMap<String, String>,
    /// By word, for reading.
    concepts: BTreeMap<String, String>,
    sentences: Vec<Sentence>,
}

#[derive(Debug)]
struct Sentence {
    section: Section,
    name: String,
    /// Text, slot, text, ..., text.
    texts: Vec<String>,
    slots: Vec<String>,
}

/// A book that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the phrase book of {language}: {message}")]
pub struct BadPhraseBook {
    /// The language it was to be.
    pub language: String,
    /// What is wrong.
    pub message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    language: String,
    name: String,
    separator: String,
    #[serde(default = "space")]
    between: String,
    words: BTreeMap<String, String>,
    contexts: BTreeMap<String, String>,
    formats: BTreeMap<String, String>,
    tasks: BTreeMap<String, String>,
}

fn space() -> String {
    " ".to_owned()
}

static BOOKS: LazyLock<Vec<PhraseBook>> = LazyLock::new(|| {
    let book = |&(language, source)| PhraseBook::parse(language, source).expect("a test reads it");
    SOURCES.iter().map(book).collect()
});

impl PhraseBook {
    /// Every book, sorted by language.
    pub fn all() -> &'static [PhraseBook] {
        &BOOKS
    }

    /// The book of a language.
    pub fn of(language: &str) -> Option<&'static PhraseBook> {
        BOOKS.iter().find(|book| book.language == language)
    }

    /// Reads a book.
    ///
    /// # Errors
    /// When it is no TOML of the form expected, two concepts share a word, or a sentence's slots
    /// cannot be told apart.
    pub fn parse(language: &str, source: &str) -> Result<PhraseBook, BadPhraseBook> {
        let bad = |message: String| BadPhraseBook { language: language.to_owned(), message };
        let file: File = toml::from_str(source).map_err(|error| bad(error.to_string()))?;
        if file.language != language {
            return Err(bad(format!("it says that it is of {}", file.language)));
        }
        let mut concepts = BTreeMap::new();
        for (concept, word) in &file.words {
            if word.contains(file.separator.trim()) {
                return Err(bad(format!("the word for {concept} holds the separator of lists")));
            }
            if let Some(other) = concepts.insert(word.clone(), concept.clone()) {
                return Err(bad(format!("{concept} and {other} share the word {word}")));
            }
        }
        let mut sentences = Vec::new();
        for (section, texts) in [
            (Section::Context, &file.contexts),
            (Section::Format, &file.formats),
            (Section::Task, &file.tasks),
        ] {
            for (name, text) in texts {
                sentences.push(Sentence::parse(section, name, text).map_err(bad)?);
            }
        }
        Ok(PhraseBook {
            language: file.language,
            name: file.name,
            separator: file.separator,
            between: file.between,
            words: file.words,
            concepts,
            sentences,
        })
    }

    /// The word for a concept.
    pub fn word(&self, concept: &str) -> Option<&str> {
        self.words.get(concept).map(String::as_str)
    }

    /// Every concept that has a word, sorted.
    pub fn concepts(&self) -> impl Iterator<Item = &str> {
        self.words.keys().map(String::as_str)
    }

    /// The names of a section's sentences with their slots, sorted.
    pub fn sentences(&self, section: Section) -> impl Iterator<Item = (&str, &[String])> {
        let of_section = self.sentences.iter().filter(move |it| it.section == section);
        of_section.map(|sentence| (sentence.name.as_str(), &sentence.slots[..]))
    }

    /// Says a phrase in this language; `None` if it has no such sentence, or no word for something.
    pub fn say(&self, phrase: &Phrase) -> Option<String> {
        let mut found = self.sentences.iter();
        let sentence = found.find(|it| it.section == phrase.section && it.name == phrase.name)?;
        let mut text = sentence.texts[0].clone();
        for (slot, after) in sentence.slots.iter().zip(&sentence.texts[1..]) {
            text += &self.say_items(phrase.slots.get(slot)?)?;
            text += after;
        }
        Some(text)
    }

    /// Says phrases one after the other.
    pub fn say_all(&self, phrases: &[Phrase]) -> Option<String> {
        let texts: Option<Vec<String>> = phrases.iter().map(|phrase| self.say(phrase)).collect();
        Some(texts?.join(&self.between))
    }

    /// Says items as a list.
    pub fn say_items(&self, items: &[String]) -> Option<String> {
        let items: Option<Vec<&str>> = items.iter().map(|item| self.item(item)).collect();
        Some(items?.join(&self.separator))
    }

    fn item<'a>(&'a self, item: &'a str) -> Option<&'a str> {
        if is_number(item) { Some(item) } else { self.word(item) }
    }

    /// Reads a text that consists of sentences of this book; `None` if any of it is something else.
    pub fn read(&self, text: &str) -> Option<Vec<Phrase>> {
        let text = text.trim();
        if text.is_empty() {
            return Some(Vec::new());
        }
        if text.len() > LONGEST {
            return None;
        }
        // The longest sentence first: one may begin as another does.
        let mut readings: Vec<(usize, Phrase)> = Vec::new();
        for sentence in &self.sentences {
            self.read_sentence(sentence, text, &mut readings);
        }
        readings.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        readings.into_iter().find_map(|(length, phrase)| {
            let rest = &text[length..];
            let mut phrases = self.read(rest)?;
            phrases.insert(0, phrase);
            Some(phrases)
        })
    }

    /// Every way in which `text` begins with a sentence.
    fn read_sentence(&self, sentence: &Sentence, text: &str, readings: &mut Vec<(usize, Phrase)>) {
        let Some(rest) = text.strip_prefix(sentence.texts[0].as_str()) else { return };
        let mut slots = BTreeMap::new();
        self.read_slots(sentence, 0, rest, &mut slots, &mut |slots, left| {
            let phrase = Phrase {
                section: sentence.section,
                name: sentence.name.clone(),
                slots: slots.clone(),
            };
            readings.push((text.len() - left.len(), phrase));
        });
    }

    fn read_slots(
        &self,
        sentence: &Sentence,
        slot: usize,
        text: &str,
        slots: &mut Slots,
        found: &mut dyn FnMut(&Slots, &str),
    ) {
        let Some(name) = sentence.slots.get(slot) else { return found(slots, text) };
        let after = &sentence.texts[slot + 1];
        let ends = match after.is_empty() {
            true => vec![text.len()],
            false => text.match_indices(after.as_str()).map(|(at, _)| at).collect(),
        };
        for end in ends {
            let Some(items) = self.read_items(&text[..end]) else { continue };
            if items.len() > 1 && name != LIST {
                continue;
            }
            // A slot that stands twice holds the same twice.
            let before = slots.get(name).cloned();
            if before.as_ref().is_some_and(|before| *before != items) {
                continue;
            }
            slots.insert(name.clone(), items);
            self.read_slots(sentence, slot + 1, &text[end + after.len()..], slots, found);
            match before {
                Some(before) => slots.insert(name.clone(), before),
                None => slots.remove(name),
            };
        }
    }

    /// Reads a list of words and numbers.
    pub fn read_items(&self, text: &str) -> Option<Vec<String>> {
        let item = |item: &str| match is_number(item) {
            true => Some(item.to_owned()),
            false => self.concepts.get(item).cloned(),
        };
        text.split(self.separator.as_str()).map(item).collect()
    }
}

impl Sentence {
    fn parse(section: Section, name: &str, text: &str) -> Result<Sentence, String> {
        let (mut texts, mut slots) = (Vec::new(), Vec::new());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (slot, after) =
                after.split_once('}').ok_or_else(|| format!("{name}: a slot without its end"))?;
            if before.is_empty() && !slots.is_empty() {
                return Err(format!("{name}: nothing stands between two slots"));
            }
            texts.push(before.to_owned());
            slots.push(slot.to_owned());
            rest = after;
        }
        texts.push(rest.to_owned());
        Ok(Sentence { section, name: name.to_owned(), texts, slots })
    }
}

/// Whole numbers in digits, perhaps below nought.
fn is_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::offline::World;

    #[test]
    fn every_book_has_a_word_for_everything_and_the_same_sentences() {
        let english = PhraseBook::of("en").unwrap();
        let kinds: BTreeSet<_> = english
            .sentences(Section::Task)
            .filter_map(|(name, _)| Some(name.rsplit_once('_')?.0))
            .collect();
        assert!(kinds.len() >= 25, "{}", kinds.len());
        for &(language, source) in SOURCES {
            let book = PhraseBook::parse(language, source).unwrap();
            for concept in World::get().concepts() {
                assert!(book.word(concept).is_some(), "{language} has no word for {concept}");
            }
            for class in World::get()
                .classes()
                .filter(|class| !["thing", "person", "workplace"].contains(class))
            {
                let category = format!("category_{class}");
                assert!(book.word(&category).is_some(), "{language}: {category}");
            }
            assert!(book.concepts().eq(english.concepts()), "{language}");
            for section in [Section::Context, Section::Format, Section::Task] {
                let sentences = |book: &PhraseBook| -> Vec<(String, BTreeSet<String>)> {
                    let with_slots = book.sentences(section);
                    with_slots
                        .map(|(name, slots)| (name.into(), slots.iter().cloned().collect()))
                        .collect()
                };
                assert_eq!(sentences(&book), sentences(english), "{language}");
            }
        }
    }

    #[test]
    fn books_that_cannot_be_read_back_are_refused() {
        let english = SOURCES.iter().find(|it| it.0 == "en").unwrap().1;
        for (from, to, expected) in [
            ("cat = \"cat\"", "cat = \"dog\"", "dog and cat share the word dog"),
            ("cat = \"cat\"", "cat = \"a, b\"", "holds the separator"),
            ("{a} plus {b}?", "{a}{b}?", "nothing stands between"),
            ("{a} plus {b}?", "{a} plus {b?", "a slot without its end"),
            ("language = \"en\"", "language = \"de\"", "it says that it is of de"),
        ] {
            assert!(english.contains(from), "{from}");
            let error = PhraseBook::parse("en", &english.replacen(from, to, 1)).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn an_english_task_is_said_in_german() {
        let (english, german) = (PhraseBook::of("en").unwrap(), PhraseBook::of("de").unwrap());
        for (text, expected) in [
            (
                "I want to train my memory. Which word does not belong with the others: owl, tuna, \
                 swan? An explanation is not necessary.",
                "Ich möchte mein Gedächtnis trainieren. Welches Wort gehört nicht zu den anderen: \
                 Eule, Thunfisch, Schwan? Eine Erklärung ist nicht nötig.",
            ),
            (
                "What does this line of code print: `print(2 + 3)`?",
                "Was gibt diese Codezeile aus: `print(2 + 3)`?",
            ),
            (
                "Summarise the event. Text: “Day: Monday. On this day Nina travels to another city.”",
                "Fasse das Ereignis zusammen. Text: „Tag: Montag. An diesem Tag reist Nina in eine \
                 andere Stadt.“",
            ),
        ] {
            let phrases = english.read(text).unwrap();
            assert_eq!(german.say_all(&phrases).unwrap(), expected);
            assert_eq!(english.say_all(&german.read(expected).unwrap()).unwrap(), text);
        }
        assert_eq!(english.read("What is the capital of this country: Atlantis?"), None);
        assert_eq!(english.read("Write a poem about the sea."), None);
    }

    /// A sentence of a section with fitting slots.
    fn phrases(section: Section) -> impl Strategy<Value = Phrase> {
        let english = PhraseBook::of("en").unwrap();
        let sentences: Vec<(String, Vec<String>)> =
            english.sentences(section).map(|(name, slots)| (name.into(), slots.to_vec())).collect();
        let concepts: Vec<String> = english.concepts().map(str::to_owned).collect();
        let item = prop_oneof![
            prop::sample::select(concepts),
            (-999_i32..1000).prop_map(|n| n.to_string())
        ];
        let items = prop::collection::vec(item, 1..6);
        (prop::sample::select(sentences), prop::collection::vec(items, 4)).prop_map(
            move |((name, slots), fillings)| {
                let fill = |(slot, mut items): (String, Vec<String>)| {
                    items.truncate(if slot == LIST { 5 } else { 1 });
                    (slot, items)
                };
                let slots = slots.into_iter().zip(fillings).map(fill).collect();
                Phrase { section, name, slots }
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_a_book_says_it_can_read(
            context in prop::option::of(phrases(Section::Context)),
            task in phrases(Section::Task),
            format in prop::option::of(phrases(Section::Format)),
        ) {
            let said: Vec<_> = context.into_iter().chain([task]).chain(format).collect();
            for book in PhraseBook::all() {
                let text = book.say_all(&said).unwrap();
                prop_assert_eq!(book.read(&text), Some(said.clone()), "{}: {}", book.language, text);
            }
        }

        #[test]
        fn any_text_gets_an_answer(text in ".{0,80}") {
            let _ = PhraseBook::of("en").unwrap().read(&text);
        }
    }
}

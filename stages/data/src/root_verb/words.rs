//! What is known of English words: the verbs with their forms, and the small classes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

/// The verbs of `data/verbs.txt`, by their forms.
pub(super) struct Verbs {
    base: BTreeSet<String>,
    /// `writes`, `wrote`.
    finite: BTreeMap<String, String>,
    participle: BTreeMap<String, String>,
    gerund: BTreeMap<String, String>,
}

/// The forms of a verb, by which a sentence asks for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `write`.
    Base,
    /// `writes`, `wrote`, or `write` after a plural.
    Finite,
    /// `written`, `writing`: after a form of `be`.
    Participle,
    /// `written`: after a form of `have`, or behind a noun.
    PastParticiple,
}

/// The list, read once.
pub(super) static VERBS: LazyLock<Verbs> =
    LazyLock::new(|| Verbs::parse(include_str!("../../data/verbs.txt")));

impl Verbs {
    fn parse(list: &str) -> Verbs {
        let mut verbs = Verbs {
            base: BTreeSet::new(),
            finite: BTreeMap::new(),
            participle: BTreeMap::new(),
            gerund: BTreeMap::new(),
        };
        for line in list.lines().filter(|line| !line.starts_with('#')) {
            let mut forms = line.split_whitespace();
            let Some(base) = forms.next() else { continue };
            let irregular = forms.next().zip(forms.next());
            verbs.add(base, irregular);
            // The British spelling.
            for (american, british) in [("ize", "ise"), ("yze", "yse")] {
                if let Some(stem) = base.strip_suffix(american) {
                    verbs.add(&format!("{stem}{british}"), irregular);
                }
            }
        }
        verbs
    }

    fn add(&mut self, base: &str, irregular: Option<(&str, &str)>) {
        let put = |forms: &mut BTreeMap<String, String>, form: String| {
            forms.entry(form).or_insert_with(|| base.to_owned());
        };
        put(&mut self.finite, with_s(base));
        // Whether the last consonant is doubled depends on the stress; both spellings are taken.
        let mut stems = vec![base.to_owned()];
        if let [.., vowel, last] = base.as_bytes()
            && b"aeiou".contains(vowel)
            && !b"aeiouwxy".contains(last)
        {
            stems.push(format!("{base}{}", char::from(*last)));
        }
        for stem in &stems {
            put(&mut self.gerund, with_ing(stem));
        }
        match irregular {
            Some((past, participle)) => {
                put(&mut self.finite, past.to_owned());
                put(&mut self.participle, participle.to_owned());
            }
            None => {
                for stem in &stems {
                    put(&mut self.finite, with_ed(stem));
                    put(&mut self.participle, with_ed(stem));
                }
            }
        }
        self.base.insert(base.to_owned());
    }

    /// The lemma of `word` if it may be a verb in that form.
    pub(super) fn lemma(&self, word: &str, form: Form) -> Option<&str> {
        let base = self.base.get(word);
        let lemma = match form {
            Form::Base => base,
            Form::Finite => self.finite.get(word).or(base),
            Form::Participle => self.participle.get(word).or_else(|| self.gerund.get(word)),
            Form::PastParticiple => self.participle.get(word),
        };
        lemma.map(String::as_str)
    }

    /// Whether it is `asking`, of a verb.
    pub(super) fn is_gerund(&self, word: &str) -> bool {
        self.gerund.contains_key(word)
    }
}

fn with_s(base: &str) -> String {
    match base {
        "be" => "is".into(),
        "have" => "has".into(),
        _ if base.ends_with('y') && !ends_in_vowel_y(base) => {
            format!("{}ies", &base[..base.len() - 1])
        }
        _ if ["s", "x", "z", "ch", "sh", "o"].iter().any(|end| base.ends_with(end)) => {
            format!("{base}es")
        }
        _ => format!("{base}s"),
    }
}

fn with_ed(base: &str) -> String {
    match base {
        _ if base.ends_with('e') => format!("{base}d"),
        _ if base.ends_with('y') && !ends_in_vowel_y(base) => {
            format!("{}ied", &base[..base.len() - 1])
        }
        _ => format!("{base}ed"),
    }
}

fn with_ing(base: &str) -> String {
    match base.strip_suffix("ie") {
        Some(stem) => format!("{stem}ying"),
        None => match base.strip_suffix('e') {
            Some(stem) if base != "be" && !base.ends_with("ee") => format!("{stem}ing"),
            _ => format!("{base}ing"),
        },
    }
}

fn ends_in_vowel_y(word: &str) -> bool {
    matches!(word.as_bytes(), [.., b'a' | b'e' | b'i' | b'o' | b'u', b'y'])
}

/// The classes of `data/words.txt`, by name.
static CLASSES: LazyLock<BTreeMap<&str, BTreeSet<&str>>> = LazyLock::new(|| {
    let mut classes: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in include_str!("../../data/words.txt").lines() {
        if let Some((class, words)) = line.split_once(": ")
            && !line.starts_with('#')
        {
            classes.entry(class).or_default().extend(words.split(' '));
        }
    }
    classes
});

/// The plurals that no rule makes, with their singulars.
static PLURALS: LazyLock<BTreeMap<&str, &str>> =
    LazyLock::new(|| class("plural").iter().filter_map(|pair| pair.split_once('/')).collect());

/// # Panics
/// When there is no such class: the list comes with the program.
fn class(name: &str) -> &'static BTreeSet<&'static str> {
    CLASSES.get(name).unwrap_or_else(|| panic!("words.txt has no class {name}"))
}

fn is(name: &str, word: &str) -> bool {
    class(name).contains(word)
}

/// Words that may stand before an instruction without changing it.
pub(super) fn opens(word: &str) -> bool {
    is_adverb(word) || is("opening", word)
}

/// Words that label what follows a colon: `Question: ...`.
pub(super) fn is_label(word: &str) -> bool {
    is("label", word)
}

/// Adverbs that stand between a verb and its object, or behind it.
pub(super) fn is_adverb(word: &str) -> bool {
    is("adverb", word) || (word.ends_with("ly") && word.len() > 4 && !is("no adverb", word))
}

/// Words that complete a verb in front of its object: `point out the mistake`.
pub(super) fn is_particle(verb: &str, word: &str) -> bool {
    match word {
        "up" | "out" | "down" | "off" | "away" | "apart" | "together" | "back" => true,
        "in" => matches!(verb, "fill" | "hand" | "type" | "write" | "turn" | "bring"),
        "over" => matches!(verb, "hand" | "take" | "carry"),
        "through" => verb == "think",
        "aside" | "forward" => matches!(verb, "set" | "put" | "bring"),
        _ => false,
    }
}

/// Verbs that take a second object: `give the reader a hint`.
pub(super) fn takes_two_objects(verb: &str) -> bool {
    is("two objects", verb)
}

/// Verbs whose complement is no object: `sound friendly`.
pub(super) fn is_linking(verb: &str) -> bool {
    is("linking", verb)
}

/// Determiners, possessives and words of amount: what may open a noun phrase.
pub(super) fn is_determiner(word: &str) -> bool {
    is_amount(word) || is("determiner", word)
}

/// Words of amount: with `of` behind them they leave the noun to what follows.
pub(super) fn is_amount(word: &str) -> bool {
    is("amount", word)
}

/// Words by which an amount is hedged: `at least five`.
pub(super) fn is_hedge(word: &str) -> bool {
    is("hedge", word)
}

/// Pronouns that may be a subject.
pub(super) fn is_subject(word: &str) -> bool {
    is("subject", word)
}

/// Prepositions, and participles that have become some.
pub(super) fn is_preposition(word: &str) -> bool {
    is("preposition", word)
}

/// Words that open a subordinate clause.
pub(super) fn is_subordinator(word: &str) -> bool {
    is("subordinator", word)
}

/// Question words, which open questions and clauses.
pub(super) fn is_question_word(word: &str) -> bool {
    is("question", word)
}

/// Helping verbs.
pub(super) fn is_auxiliary(word: &str) -> bool {
    is_be(word) || is_modal(word) || is("auxiliary", word)
}

/// Forms of `be`.
pub(super) fn is_be(word: &str) -> bool {
    is("be", word)
}

/// Modal verbs.
pub(super) fn is_modal(word: &str) -> bool {
    is("modal", word)
}

/// Words that end a noun phrase.
pub(super) fn ends_phrase(word: &str) -> bool {
    is_preposition(word)
        || is_question_word(word)
        || is_auxiliary(word)
        || is_subject(word)
        || is("pronoun", word)
        || is("end", word)
}

/// Adjectives that are no nouns, and that may stand behind the noun too: `make it longer`, `the text
/// below`.
pub(super) fn is_adjective(word: &str) -> bool {
    is("adjective", word)
}

/// Whether a word may be an adjective, for the phrase to go on behind `and` or a comma.
pub(super) fn looks_adjectival(word: &str) -> bool {
    is_adjective(word)
        || word.contains('-')
        || (class("adjectival ending").iter().any(|ending| word.ends_with(ending))
            && !is("noun like an adjective", word)
            && !is_noun_in_ing(word))
}

/// Nouns that look like a verb's `-ing` form.
pub(super) fn is_noun_in_ing(word: &str) -> bool {
    is("noun in -ing", word)
}

/// The singular of a noun.
pub(super) fn singular(noun: &str) -> String {
    // Of a compound with a hyphen or a slash, the last part.
    if let Some(at) = noun.rfind(['-', '/']) {
        let (before, last) = noun.split_at(at + 1);
        return format!("{before}{}", singular(last));
    }
    if let Some(&singular) = PLURALS.get(noun) {
        return singular.to_owned();
    }
    let ends_in = |endings: &[&str]| endings.iter().any(|ending| noun.ends_with(ending));
    if noun.len() < 4 || ends_in(&["ss", "us", "is"]) {
        noun.to_owned()
    } else if let Some(stem) = noun.strip_suffix("ies") {
        format!("{stem}y")
    } else if ends_in(&["sses", "xes", "shes", "zzes", "ches"]) {
        noun[..noun.len() - 2].to_owned()
    } else {
        noun.strip_suffix('s').unwrap_or(noun).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_in_order_and_has_every_verb_once() {
        let list = include_str!("../../data/verbs.txt");
        let verbs: Vec<&str> = list
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split(' ').next().unwrap())
            .collect();
        assert!(verbs.is_sorted_by(|one, next| one < next));
        assert!(verbs.len() > 800, "{}", verbs.len());
    }

    #[test]
    fn forms_lead_to_their_verb() {
        for (word, form, lemma) in [
            ("write", Form::Base, Some("write")),
            ("wrote", Form::Base, None),
            ("wrote", Form::Finite, Some("write")),
            ("written", Form::PastParticiple, Some("write")),
            ("writing", Form::Participle, Some("write")),
            ("carries", Form::Finite, Some("carry")),
            ("stopped", Form::Participle, Some("stop")),
            ("tying", Form::Participle, Some("tie")),
            ("agreed", Form::PastParticiple, Some("agree")),
            ("causes", Form::Finite, Some("cause")),
            ("has", Form::Finite, Some("have")),
            ("summarise", Form::Base, Some("summarise")),
            ("analysed", Form::Participle, Some("analyse")),
            ("table", Form::Base, None),
        ] {
            assert_eq!(VERBS.lemma(word, form), lemma, "{word}");
        }
    }

    #[test]
    fn plurals_lead_to_their_singular() {
        for (plural, expected) in [
            ("lists", "list"),
            ("stories", "story"),
            ("movies", "movie"),
            ("classes", "class"),
            ("phrases", "phrase"),
            ("boxes", "box"),
            ("speeches", "speech"),
            ("hypotheses", "hypothesis"),
            ("leaves", "leaf"),
            ("lives", "life"),
            ("children", "child"),
            ("analysis", "analysis"),
            ("news", "news"),
            ("quizzes", "quiz"),
            ("to-dos", "to-dos"),
            ("x-rays", "x-ray"),
            ("pros", "pro"),
            ("bus", "bus"),
        ] {
            assert_eq!(singular(plural), expected);
        }
    }
}

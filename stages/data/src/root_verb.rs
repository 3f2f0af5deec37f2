//! The root verb of an English instruction and its direct object: what it asks one to do, to what.
//!
//! Self-Instruct draws the variety of its data as the most frequent root verbs with their most
//! frequent direct objects, Alpaca and Okapi (Figure 1) draw the same. They take both from the first
//! sentence, as a neural constituency parser and a tagger see it. Here rules do it, with a list of
//! verbs (`data/verbs.txt`) and of the small closed classes of words (`data/words.txt`):
//!
//! 1. The text is cut into sentences. The first that is a request or a question counts; statements
//!    (`You are a patient guide.`, `I have one free Saturday.`) and headings are passed over, where
//!    the papers look no further.
//! 2. The verb is the imperative the sentence begins with, after adverbs and politeness; or the one
//!    behind a leading phrase (`Given the text, ...`, `Using three words, ...`), behind `Can you ...`,
//!    `I want you to ...`, `Your task is to ...`; or the main verb of a question. As in the papers,
//!    `be` is no root verb: `What is the capital?` has none, and is passed over.
//! 3. The object is the last noun of the first noun phrase behind the verb, singular. Pronouns,
//!    proper names, quotations and clauses are no objects. Behind a verb such as `give`, the second
//!    of two noun phrases is it. In `Which museums should I visit?` it stands in front.
//!
//! # What it cannot do
//! Only English can be read, and the rules know no grammar beyond those above:
//!
//! - An imperative with an unknown verb is seen only before a determiner (`Marinate the tofu`).
//! - A sentence that begins with a noun that may be a verb (`Test results for ...`) is taken for an
//!   imperative.
//! - An adjective behind its noun that is not listed is taken for the noun (`keep the soup lukewarm`).
//! - A verb with another one under it has what stands between them for its object (`make the story
//!   sound funny`).
//! - What is joined by `and` to the first verb or the first noun is not seen.
//!
//! Instructions in the manner of the papers are read well (`tests/root_verbs.rs` has the figures);
//! free conversation is not.
//!
//! # Sources
//! Wang et al., "Self-Instruct", 2022; Lai et al., "Okapi", 2023, Figure 1.

mod tokens;
mod words;

use tokens::{Kind, Sentence, Token, sentences};
use words::{
    Form, VERBS, ends_phrase, is_adjective, is_adverb, is_amount, is_auxiliary, is_be,
    is_determiner, is_hedge, is_label, is_linking, is_modal, is_noun_in_ing, is_particle,
    is_preposition, is_question_word, is_subject, is_subordinator, looks_adjectival, opens,
    singular, takes_two_objects,
};

/// What an instruction asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RootVerb {
    /// The lemma, lower case.
    pub verb: String,
    /// The singular of the direct object's noun, lower case, if it has one.
    pub object: Option<String>,
}

/// Finds the root verb of an English instruction and its object.
///
/// # Determinism
/// It depends on the text alone.
pub fn root_verb(instruction: &str) -> Option<RootVerb> {
    sentences(instruction).iter().find_map(|sentence| Reader { sentence }.read(0))
}

/// Reads one sentence. A place is the number of a token.
#[derive(Clone, Copy)]
struct Reader<'s> {
    sentence: &'s Sentence,
}

impl<'s> Reader<'s> {
    fn token(self, at: usize) -> Option<&'s Token> {
        self.sentence.tokens.get(at)
    }

    /// The word at a place; nothing if there is another kind of token, or none.
    fn word(self, at: usize) -> &'s str {
        match self.token(at) {
            Some(token) if token.kind == Kind::Word => &token.text,
            _ => "",
        }
    }

    fn is_kind(self, at: usize, kind: Kind) -> bool {
        self.token(at).is_some_and(|token| token.kind == kind)
    }

    fn verb(self, at: usize, form: Form) -> Option<&'static str> {
        VERBS.lemma(self.word(at), form)
    }

    /// Reads the clause that begins at a place.
    fn read(self, at: usize) -> Option<RootVerb> {
        let at = self.skip_opening(at);
        if self.sentence.tokens.len() == at + 1 && is_label(self.word(at)) {
            return None;
        }
        let (first, second) = (self.word(at), self.word(at + 1));
        if first == "let's" || (first == "let" && second == "us") {
            return self.imperative(at + 1 + usize::from(first == "let"));
        }
        if first == "do" && second == "not" {
            return self.imperative(at + 2);
        }
        if is_question_word(first) {
            let subordinate = matches!(first, "when" | "where")
                && !is_auxiliary(second)
                && second != "to"
                && !self.sentence.question;
            let found = if subordinate { None } else { self.open_question(at) };
            return found.or_else(|| self.behind_leading_phrase(at));
        }
        // "In what ways do they differ?"
        if is_preposition(first) && is_question_word(second) {
            return self.open_question(at + 1);
        }
        if is_modal(first) && second == "you" {
            let verb = self.skip_adverbs(at + 2);
            let liked = self.word(verb) == "like" && self.word(verb + 1) == "to";
            return self.imperative(if liked { verb + 2 } else { verb });
        }
        if is_auxiliary(first) && self.sentence.question {
            return self.closed_question(at);
        }
        if let Some(found) = self.request(at) {
            return Some(found);
        }
        let leads = is_preposition(first) || is_subordinator(first);
        if (!leads || first == "like")
            && let Some(found) = self.imperative(at)
        {
            return Some(found);
        }
        self.behind_leading_phrase(at)
    }

    fn skip_opening(self, mut at: usize) -> usize {
        while let Some(token) = self.token(at) {
            let skipped = match token.kind {
                Kind::Word => {
                    opens(&token.text)
                        && VERBS.lemma(&token.text, Form::Base).is_none()
                        // "No man is an island", "First steps in ...".
                        && !(is_amount(&token.text) || token.text == "no")
                }
                Kind::Comma | Kind::Mark => true,
                Kind::Number => self.is_kind(at + 1, Kind::Mark),
                Kind::Possessive | Kind::Quote => false,
            };
            if !skipped {
                break;
            }
            at += 1;
        }
        at
    }

    fn skip_adverbs(self, mut at: usize) -> usize {
        while is_adverb(self.word(at)) {
            at += 1;
        }
        at
    }

    /// An imperative at this very place.
    fn imperative(self, at: usize) -> Option<RootVerb> {
        let at = self.skip_adverbs(at);
        let (word, next) = (self.word(at), self.word(at + 1));
        let verb = match VERBS.lemma(word, Form::Base) {
            Some("be") => return None,
            Some(verb) => {
                // "Name of the capital", "Work is hard".
                let of = next == "of"
                    && !matches!(verb, "think" | "dream" | "conceive" | "dispose" | "approve");
                if of || is_be(next) || is_modal(next) {
                    return None;
                }
                verb
            }
            // A verb that is not listed shows itself by what follows.
            None => {
                let closed = ends_phrase(word)
                    || is_determiner(word)
                    || is_subordinator(word)
                    || is_adjective(word)
                    || word.ends_with("ing")
                    || word.ends_with("ed");
                if word.is_empty() || closed || !(is_determiner(next) || next == "me") {
                    return None;
                }
                word
            }
        };
        Some(self.with_object(verb, at + 1))
    }

    fn with_object(self, verb: &str, at: usize) -> RootVerb {
        RootVerb { verb: verb.to_owned(), object: self.object(verb, at) }
    }

    /// `I want you to ...`, `your task is to ...`, `you should ...`.
    fn request(self, at: usize) -> Option<RootVerb> {
        let words = |from: usize, count: usize| -> Vec<&str> {
            (from..from + count).map(|at| self.word(at)).collect()
        };
        let behind = match words(at, 5)[..] {
            ["i", "would", "like" | "love", "you", "to"] => at + 5,
            ["i", "want" | "need" | "ask" | "expect", "you", "to", _] => at + 4,
            [
                "your" | "the",
                "task" | "job" | "goal" | "aim" | "role" | "objective",
                "is",
                "to",
                _,
            ] => at + 4,
            ["you", "are", "to", ..] => at + 3,
            ["you", "are", "asked" | "required" | "expected", "to", _] => at + 4,
            ["you", "need" | "have", "to", ..] => at + 3,
            ["you", "should" | "must" | "shall", ..] => at + 2,
            _ => return None,
        };
        self.imperative(behind)
    }

    /// What follows a phrase that leads into the sentence, behind a comma or without one.
    fn behind_leading_phrase(self, at: usize) -> Option<RootVerb> {
        let tokens = &self.sentence.tokens;
        let breaks = |&place: &usize| {
            self.is_kind(place, Kind::Comma)
                || tokens.get(place).is_some_and(|it| matches!(&*it.text, "-" | "–" | "—"))
        };
        for comma in (at + 1..tokens.len()).filter(breaks) {
            let start = comma + 1;
            let word = self.word(self.skip_then(start));
            // "You are given a text, and you need to ..."
            if word == "and"
                && let Some(found) = self.request(start + 1)
            {
                return Some(found);
            }
            if self.sentence.question && (is_question_word(word) || is_auxiliary(word)) {
                return self.read(start);
            }
            let polite = is_modal(word) && self.word(self.skip_then(start) + 1) == "you";
            let verb = self.skip_then(start);
            // "Given the words run, jump and swim" leads on.
            let listed = self.is_kind(verb + 1, Kind::Comma)
                || matches!(self.word(verb + 1), "and" | "or")
                || matches!(self.word(start), "and" | "or");
            if polite {
                return self.read(start);
            }
            if !listed && let Some(found) = self.request(verb).or_else(|| self.imperative(verb)) {
                return Some(found);
            }
        }
        // "In one sentence explain why ..."; a clause of its own may have a verb of its own.
        if is_subordinator(self.word(at)) && !is_preposition(self.word(at)) {
            return None;
        }
        if !is_preposition(self.word(at)) && !VERBS.is_gerund(self.word(at)) {
            return None;
        }
        let comma = (at..tokens.len()).find(|&place| self.is_kind(place, Kind::Comma));
        let verb = (at + 2..comma.unwrap_or(tokens.len())).find(|&verb| {
            let (before, next) = (self.word(verb - 1), self.word(verb + 1));
            let is_noun = before.is_empty()
                || ends_phrase(before)
                || is_determiner(before)
                || is_adjective(before)
                || matches!(before, "and" | "or");
            let has_object =
                is_determiner(next) || is_question_word(next) || matches!(next, "me" | "if");
            !is_noun && has_object && self.verb(verb, Form::Base).is_some_and(|it| it != "be")
        })?;
        self.imperative(verb)
    }

    fn skip_then(self, mut at: usize) -> usize {
        while is_adverb(self.word(at)) || matches!(self.word(at), "then" | "first" | "next") {
            at += 1;
        }
        at
    }

    /// A question that begins with a helping verb.
    fn closed_question(self, at: usize) -> Option<RootVerb> {
        let auxiliary = self.word(at);
        if is_be(auxiliary) {
            return self.participle_behind_subject(at + 1);
        }
        let found = match auxiliary {
            "have" | "has" | "had" => {
                let verb = self.main_verb(at + 1, Form::PastParticiple, false)?;
                self.with_object(self.verb(verb, Form::PastParticiple)?, verb + 1)
            }
            _ => self.behind_auxiliary(at + 1, false)?,
        };
        Some(found)
    }

    /// What follows `do` or a modal verb: a subject and a verb, which may be a helping one again.
    fn behind_auxiliary(self, at: usize, subject_is_known: bool) -> Option<RootVerb> {
        let verb = self.main_verb(at, Form::Base, subject_is_known)?;
        let next = self.skip_adverbs(verb + 1);
        match self.verb(verb, Form::Base)? {
            "be" => {
                let lemma = self.verb(next, Form::Participle)?;
                Some(if VERBS.is_gerund(self.word(next)) {
                    self.with_object(lemma, next + 1)
                } else {
                    RootVerb { verb: lemma.to_owned(), object: None }
                })
            }
            "have" if self.verb(next, Form::PastParticiple).is_some() => {
                Some(self.with_object(self.verb(next, Form::PastParticiple)?, next + 1))
            }
            lemma => Some(self.with_object(lemma, verb + 1)),
        }
    }

    /// `How is cheese made?`, `Is the letter written in French?`
    fn participle_behind_subject(self, at: usize) -> Option<RootVerb> {
        let verb = self.main_verb(at, Form::Participle, false)?;
        let lemma = self.verb(verb, Form::Participle)?;
        Some(if VERBS.is_gerund(self.word(verb)) {
            self.with_object(lemma, verb + 1)
        } else {
            RootVerb { verb: lemma.to_owned(), object: None }
        })
    }

    /// The place of the verb behind a subject.
    fn main_verb(self, from: usize, form: Form, subject_is_known: bool) -> Option<usize> {
        let mut has_subject = subject_is_known;
        for at in from..self.sentence.tokens.len() {
            let token = self.token(at)?;
            let word = token.text.as_str();
            match token.kind {
                Kind::Possessive => has_subject = false,
                Kind::Word if is_adverb(word) => {}
                Kind::Word if has_subject && VERBS.lemma(word, form).is_some() => {
                    // "Does the water cycle affect ...": the last of several is it. But "Do plants
                    // need light?"
                    let before = self.word(at - 1);
                    let plural =
                        is_subject(before) || before == "people" || singular(before) != before;
                    if plural || VERBS.lemma(self.word(at + 1), form).is_none() {
                        return Some(at);
                    }
                }
                Kind::Word if is_subject(word) || matches!(word, "this" | "these") => {
                    has_subject = true;
                }
                Kind::Word if is_determiner(word) || is_adjective(word) || word == "and" => {
                    has_subject = false;
                }
                Kind::Word if is_question_word(word) || matches!(word, "if" | "because") => {
                    return None;
                }
                Kind::Word if is_preposition(word) => has_subject = false,
                Kind::Word | Kind::Quote | Kind::Number => has_subject = true,
                Kind::Comma | Kind::Mark => {}
            }
        }
        None
    }

    /// A question that begins with a question word.
    fn open_question(self, at: usize) -> Option<RootVerb> {
        let asked = self.word(at);
        let next = self.skip_adverbs(at + 1);
        if self.word(next) == "to" {
            return self.imperative(next + 1);
        }
        let names = matches!(asked, "what" | "which" | "whose" | "who" | "whom");
        // What stands between the question word and the first verb: "which six phrases".
        let mut verb = next;
        while let Some(token) = self.token(verb) {
            let word = token.text.as_str();
            if token.kind == Kind::Comma || is_auxiliary(word) && token.kind == Kind::Word {
                break;
            }
            let behind_noun = verb > next
                && !is_preposition(self.word(verb - 1))
                && !is_determiner(self.word(verb - 1))
                && !is_adjective(self.word(verb - 1));
            if names
                && (verb == next || behind_noun)
                && self.verb(verb, Form::Finite).is_some()
                && !is_auxiliary(self.word(verb + 1))
                && self.verb(verb + 1, Form::Finite).is_none()
                && !(verb == next && self.verb(verb, Form::Base).is_some() && asked != "who")
            {
                return Some(self.with_object(self.verb(verb, Form::Finite)?, verb + 1));
            }
            verb += 1;
        }
        let auxiliary = self.word(verb);
        let fronted = verb > next;
        let behind = self.skip_adverbs(verb + 1);
        let found = match auxiliary {
            _ if is_be(auxiliary) => {
                if let Some(lemma) = self.verb(behind, Form::Participle) {
                    let gerund = VERBS.is_gerund(self.word(behind));
                    return Some(match gerund {
                        true => self.with_object(lemma, behind + 1),
                        false => RootVerb { verb: lemma.to_owned(), object: None },
                    });
                }
                return if names { None } else { self.participle_behind_subject(behind) };
            }
            "have" | "has" | "had" => match self.main_verb(behind, Form::PastParticiple, names) {
                Some(verb) => self.with_object(self.verb(verb, Form::PastParticiple)?, verb + 1),
                None => return Some(self.with_object("have", verb + 1)),
            },
            "" => return None,
            _ => self.behind_auxiliary(behind, names && (fronted || asked == "who"))?,
        };
        // "Which museums should I visit?": what is asked for is the object.
        let objective = names || matches!(self.word(at + 1), "many" | "much");
        if found.object.is_none() && fronted && objective && is_subject(self.word(behind)) {
            let object = self.object("", if names { next } else { next + 1 });
            return Some(RootVerb { object, ..found });
        }
        Some(found)
    }

    /// The noun of the object that begins at a place.
    fn object(self, verb: &str, mut at: usize) -> Option<String> {
        if is_linking(verb) {
            return None;
        }
        while is_particle(verb, self.word(at)) || is_adverb(self.word(at)) {
            at += 1;
        }
        if matches!(self.word(at), "me" | "us" | "him" | "them") {
            if !takes_two_objects(verb) {
                return None;
            }
            at = self.skip_adverbs(at + 1);
        }
        at = self.skip_hedge(at);
        let head = self.head(verb, at)?;
        let token = self.token(head)?;
        if is_adjective(&token.text) || is_amount(&token.text) {
            return None;
        }
        // A name is no noun; behind an article a capital is a matter of taste: "a Haiku".
        let article = (at..head).any(|place| {
            matches!(self.word(place), "a" | "an" | "some" | "any") || is_amount(self.word(place))
        });
        if token.capital && !article && !self.is_title() {
            return None;
        }
        Some(singular(&token.text))
    }

    /// Behind `at least` and the like, if a number follows.
    fn skip_hedge(self, at: usize) -> usize {
        let mut end = at;
        while end < at + 5 && is_hedge(self.word(end)) {
            end += 1;
        }
        let number = self.is_kind(end, Kind::Number) || is_amount(self.word(end));
        if end > at && number { end } else { at }
    }

    /// The place of the last noun of the noun phrase that begins at a place.
    fn head(self, verb: &str, start: usize) -> Option<usize> {
        let mut head: Option<usize> = None;
        let mut at = start;
        while let Some(token) = self.token(at) {
            let word = token.text.as_str();
            let adjectival = head.is_none_or(|head| looks_adjectival(self.word(head)));
            let goes_on = self.begins_noun(at + 1);
            match token.kind {
                Kind::Possessive => head = None,
                Kind::Number if head.is_none() => {}
                Kind::Quote if head.is_none() && at > start && goes_on => {}
                Kind::Comma if at > start && adjectival && goes_on => {}
                Kind::Word if matches!(word, "and" | "or") => {
                    if !adjectival || !(goes_on || self.is_kind(at + 1, Kind::Number)) {
                        break;
                    }
                }
                Kind::Word if word == "of" && head.is_none() => {
                    let amount = at > start
                        && (is_amount(self.word(at - 1)) || self.is_kind(at - 1, Kind::Number));
                    if !amount {
                        break;
                    }
                }
                Kind::Number => {
                    if !takes_two_objects(verb) {
                        break;
                    }
                    head = None;
                }
                // "that predicts prices", "that the sum is even".
                Kind::Word if word == "that" && (head.is_some() || !goes_on) => break,
                Kind::Word if is_determiner(word) => {
                    if head.is_some() && !takes_two_objects(verb) {
                        break;
                    }
                    head = None;
                }
                // "the following questions", "the above text".
                Kind::Word if head.is_none() && is_adjective(word) => {}
                Kind::Word if ends_phrase(word) => break,
                Kind::Word if is_adverb(word) => {
                    if head.is_some() {
                        break;
                    }
                }
                Kind::Word if head.is_some() && self.stands_behind(at) => break,
                // "try coming up with ..."
                Kind::Word
                    if at == start
                        && VERBS.is_gerund(word)
                        && !is_noun_in_ing(word)
                        && !goes_on =>
                {
                    break;
                }
                Kind::Word => head = Some(at),
                Kind::Quote | Kind::Comma | Kind::Mark => break,
            }
            at += 1;
        }
        head
    }

    /// Whether the word may go on with a noun phrase, as an adjective or a noun.
    fn begins_noun(self, at: usize) -> bool {
        let word = self.word(at);
        !word.is_empty()
            && !ends_phrase(word)
            && !is_determiner(word)
            && !is_adverb(word)
            && !matches!(word, "and" | "or")
    }

    /// Whether a word behind a noun belongs to it from behind: `the text provided`, `a story
    /// involving a dog`, `make the text longer`, `the letter e`, `the planet Mars`.
    fn stands_behind(self, at: usize) -> bool {
        let word = self.word(at);
        let noun_follows = self.begins_noun(at + 1);
        let participle = VERBS.lemma(word, Form::PastParticiple).is_some()
            && VERBS.lemma(word, Form::Base).is_none();
        let behind_adjective = noun_follows && looks_adjectival(self.word(at - 1));
        let gerund = VERBS.is_gerund(word) && !is_noun_in_ing(word) && !behind_adjective;
        // "make the letter sound friendly"
        let complement = is_linking(word) && noun_follows | is_adverb(self.word(at + 1))
            || is_linking(word) && matches!(self.word(at + 1), "more" | "less" | "like");
        let name = word.len() == 1
            || self.token(at).is_some_and(|token| token.capital)
                && self.token(at - 1).is_some_and(|before| !before.capital);
        ((is_adjective(word) || name) && !noun_follows) || participle || gerund || complement
    }

    /// Whether words are written with capitals as in a title.
    fn is_title(self) -> bool {
        let mut long = self.sentence.tokens.iter().filter(|token| token.text.len() > 3);
        self.sentence.tokens.len() > 2 && long.all(|token| token.capital)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(instruction: &str, expected: &str) {
        let found = match root_verb(instruction) {
            None => "none".to_owned(),
            Some(RootVerb { verb, object: None }) => verb,
            Some(RootVerb { verb, object: Some(object) }) => format!("{verb} {object}"),
        };
        assert_eq!(found, expected, "{instruction}");
    }

    #[test]
    fn statements_and_headings_are_passed_over() {
        check("I have one free Saturday. Give me eight things to do.", "give thing");
        check("1. Task:\nSort the cards.", "sort card");
        check("The sentence has an error.", "none");
        check("", "none");
        check("!?.", "none");
    }

    #[test]
    fn the_object_is_the_head_of_the_first_noun_phrase() {
        check("Write a clear, concise and friendly reply to the customer.", "write reply");
        check("Sort each of these animals into a group.", "sort animal");
        check("Give the captain's short speech.", "give speech");
        check("List at least five of the rivers.", "list river");
        check("Make the text provided longer.", "make text");
        check("Tell the guests a joke.", "tell joke");
        check("Describe Paris.", "describe");
        check("Summarize the \"hello world\" program.", "summarize program");
    }

    #[test]
    fn questions_have_their_main_verb() {
        check("Can this claim be trusted?", "trust");
        check("How is cheese made?", "make");
        check("During photosynthesis, which gas do plants take in?", "take");
        check("Has the price of bread risen?", "rise");
        check("How many words do you know?", "know word");
    }

    #[test]
    fn no_text_is_too_odd() {
        for text in
            ["'", "\"", "(", "a'", "'s", "do", "how", "what to", "given", "…,", "1,", "İ's x"]
        {
            let _ = root_verb(text);
        }
    }
}

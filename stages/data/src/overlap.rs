//! Texts that give a test away: what holds its questions must not be learnt before they are asked.
//!
//! A text holds a question if `words` words in a row are the same in both (13 in Brown et al., "Language Models are
//! Few-Shot Learners", 2020, appendix C), or all of a question that has fewer. Words are runs of letters and digits, in
//! lower case; in scripts that set no spaces
//! every letter is one, so that a question is found whatever stands beside it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Prompt, Question};

/// The words of a text.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut open = false;
    for letter in text.chars() {
        if is_whole_word(letter) {
            words.push(letter.to_string());
            open = false;
        } else if letter.is_alphanumeric() || is_mark(letter) {
            if !open {
                words.push(String::new());
            }
            if let Some(last) = words.last_mut() {
                last.extend(letter.to_lowercase());
            }
            open = true;
        } else {
            open = false;
        }
    }
    words
}

/// Letters of scripts that set no spaces: Han, Kana, Thai, Lao, Khmer, Burmese.
fn is_whole_word(letter: char) -> bool {
    matches!(letter,
        '\u{0e00}'..='\u{0eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}'
        | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{20000}'..='\u{3ffff}')
}

/// Signs that belong to the letter before them: of Latin and of the scripts of India.
fn is_mark(letter: char) -> bool {
    matches!(letter, '\u{0300}'..='\u{036f}' | '\u{0900}'..='\u{0dff}')
}

/// What a model will be asked: its id and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Unique among those of its kind.
    pub id: String,
    /// All that is searched for.
    pub text: String,
}

impl From<Question> for Asked {
    /// Choices are not looked at: the same fact in other words is knowledge.
    fn from(question: Question) -> Asked {
        Asked { id: question.id, text: question.question }
    }
}

impl From<Prompt> for Asked {
    fn from(prompt: Prompt) -> Asked {
        let text = format!("{}\n{}", prompt.instruction, prompt.input);
        Asked { id: prompt.id, text }
    }
}

/// Questions of tests, to be found in texts.
#[derive(Debug)]
pub struct OverlapFinder {
    numbers: BTreeMap<String, u32>,
    /// By length: sequences of words, with the place of the question that has them.
    sequences: BTreeMap<usize, BTreeMap<Vec<u32>, usize>>,
    ids: Vec<String>,
}

/// What a text has in common with a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// The question's id.
    pub question: String,
    /// The words.
    pub words: String,
}

impl OverlapFinder {
    /// Finds so many words in a row of any question, or all of a shorter one.
    pub fn new(asked: impl IntoIterator<Item = Asked>, most: usize) -> OverlapFinder {
        let mut finder =
            OverlapFinder { numbers: BTreeMap::new(), sequences: BTreeMap::new(), ids: Vec::new() };
        for Asked { id, text } in asked {
            let place = finder.ids.len();
            finder.ids.push(id);
            let numbers: Vec<u32> = words(&text)
                .into_iter()
                .map(|word| {
                    let next = finder.numbers.len() as u32;
                    *finder.numbers.entry(word).or_insert(next)
                })
                .collect();
            let length = numbers.len().min(most.max(1));
            if length > 0 {
                for sequence in numbers.windows(length) {
                    let sequences = finder.sequences.entry(length).or_default();
                    sequences.entry(sequence.to_vec()).or_insert(place);
                }
            }
        }
        finder
    }

    /// The first question, in their order, that a text holds.
    pub fn find(&self, text: &str) -> Option<Overlap> {
        let words = words(text);
        // A word that no question has ends a sequence.
        let numbers: Vec<u32> =
            words.iter().map(|word| self.numbers.get(word).copied().unwrap_or(u32::MAX)).collect();
        let mut found = BTreeSet::new();
        for (length, sequences) in &self.sequences {
            for (at, sequence) in numbers.windows(*length).enumerate() {
                if let Some(place) = sequences.get(sequence) {
                    found.insert((*place, at, *length));
                }
            }
        }
        let (place, at, length) = found.into_iter().next()?;
        Some(Overlap { question: self.ids[place].clone(), words: words[at..at + length].join(" ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(id: &str, text: &str) -> Asked {
        Asked { id: id.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_short_question_is_found_whole_and_of_a_long_one_so_many_words() {
        let long =
            "one two three four five six seven eight nine ten eleven twelve thirteen fourteen";
        let questions = [question("short", "What is Peru's capital?"), question("long", long)];
        let finder = OverlapFinder::new(questions, 13);
        let found = |text: &str| finder.find(text).map(|it| it.question);
        assert_eq!(found("Quiz! WHAT is Peru s capital, please?").as_deref(), Some("short"));
        assert_eq!(found("What is Chile's capital?"), None);
        assert_eq!(found("What is, in Peru's view, a capital?"), None);
        let thirteen = long.strip_prefix("one ").unwrap();
        assert_eq!(found(&format!("zero {thirteen} fifteen")).as_deref(), Some("long"));
        assert_eq!(found(thirteen.strip_prefix("two ").unwrap()), None);
        assert_eq!(found(""), None);
        let both = format!("{long}. What is Peru's capital?");
        assert_eq!(found(&both).as_deref(), Some("short"));
        let words = finder.find("What is Peru's capital").unwrap().words;
        assert_eq!(words, "what is peru s capital");
    }

    #[test]
    fn scripts_without_spaces_and_with_marks_are_searched() {
        let questions =
            [question("zh", "秘鲁的首都是什么？"), question("hi", "पेरू की राजधानी क्या है?")];
        let finder = OverlapFinder::new(questions, 13);
        let found = |text: &str| finder.find(text).map(|it| it.question);
        assert_eq!(found("请问秘鲁的首都是什么呢").as_deref(), Some("zh"));
        assert_eq!(found("智利的首都是什么？"), None);
        assert_eq!(found("बताइए: पेरू की राजधानी क्या है").as_deref(), Some("hi"));
        assert_eq!(found("चिली की राजधानी क्या है?"), None);
    }

    #[test]
    fn nothing_is_found_where_nothing_is_asked() {
        assert_eq!(OverlapFinder::new([question("x", "?!")], 13).find("x ?!"), None);
        assert_eq!(OverlapFinder::new([], 13).find("x"), None);
    }

    #[test]
    fn of_a_prompt_the_instruction_and_its_input_are_searched_for_together() {
        let prompt = Prompt {
            id: "p".to_owned(),
            instruction: "Name the capital.".to_owned(),
            input: "Country: Peru".to_owned(),
        };
        let finder = OverlapFinder::new([Asked::from(prompt)], 13);
        assert_eq!(finder.find("Name the capital. Country: Chile."), None);
        assert!(finder.find("Quick: name the capital. Country: Peru.").is_some());
    }
}

//! An English text -> its sentences, as words and marks.

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A word, perhaps with hyphens, points or slashes inside.
    Word,
    /// A word in the possessive: `captain's`, `students'`.
    Possessive,
    /// Digits, perhaps with a unit.
    Number,
    /// A stretch between quotation marks.
    Quote,
    /// A comma.
    Comma,
    /// Any other mark.
    Mark,
}

/// A piece of a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    /// The text in lower case; of a quotation, nothing.
    pub(super) text: String,
    pub(super) kind: Kind,
    /// Whether it begins with a capital letter.
    pub(super) capital: bool,
}

/// Tokens up to a full stop, a question mark, a colon, a semicolon or the end of a line.
#[derive(Debug, Default)]
pub(super) struct Sentence {
    pub(super) tokens: Vec<Token>,
    /// Whether it ends in a question mark.
    pub(super) question: bool,
}

const ABBREVIATIONS: [&str; 12] =
    ["mr", "mrs", "ms", "dr", "prof", "st", "vs", "etc", "approx", "e.g", "i.e", "u.s"];

/// Stretches of more characters than this are no quotations: the mark is an apostrophe or a slip.
const LONGEST_QUOTE: usize = 400;

/// The sentences of a text, none of them empty. What stands in round brackets is left out.
pub(super) fn sentences(text: &str) -> Vec<Sentence> {
    let chars: Vec<char> = text.chars().collect();
    let mut sentences = vec![Sentence::default()];
    let mut at = 0;
    while at < chars.len() {
        let Some(sentence) = sentences.last_mut() else { break };
        let next = chars.get(at + 1).copied();
        let free = next.is_none_or(|next| !next.is_alphanumeric());
        match chars[at] {
            '\n' => sentences.push(Sentence::default()),
            mark if mark.is_whitespace() => {}
            '.' | '!' | ':' | ';' | '…' if free => sentences.push(Sentence::default()),
            '?' => {
                sentence.question = true;
                sentences.push(Sentence::default());
            }
            '(' => at = closing(&chars, at, ')').unwrap_or(at),
            mark if closing_quote(mark).is_some() => {
                let close = closing_quote(mark).and_then(|close| closing(&chars, at, close));
                if let Some(close) = close {
                    sentence.push(String::new(), Kind::Quote, false);
                    at = close;
                }
            }
            ',' => sentence.push(",".into(), Kind::Comma, false),
            letter if letter.is_alphanumeric() => {
                let end = end_of_word(&chars, at);
                sentence.push_word(&chars[at..end].iter().collect::<String>());
                // The point of an abbreviation ends nothing; "students'" is possessive.
                at = end - 1;
                let word = sentence.tokens.last().map_or("", |token| &token.text);
                match chars.get(end) {
                    Some('.') if ABBREVIATIONS.contains(&word) => at = end,
                    Some('\'' | '’') if word.ends_with('s') => {
                        if let Some(token) = sentence.tokens.last_mut() {
                            token.kind = Kind::Possessive;
                        }
                        at = end;
                    }
                    _ => {}
                }
            }
            '$' | '€' | '£' | '%' | '°' | '"' | '\'' | '’' | '”' | '*' | '_' => {}
            mark => sentence.push(mark.into(), Kind::Mark, false),
        }
        at += 1;
    }
    sentences.retain(|sentence| !sentence.tokens.is_empty());
    sentences
}

fn closing_quote(open: char) -> Option<char> {
    match open {
        '"' => Some('"'),
        '\'' => Some('\''),
        '`' => Some('`'),
        '“' | '„' => Some('”'),
        '‘' => Some('’'),
        '«' => Some('»'),
        _ => None,
    }
}

/// Where what is opened at `open` closes, on the same line.
fn closing(chars: &[char], open: usize, close: char) -> Option<usize> {
    let within = chars.iter().enumerate().skip(open + 1).take(LONGEST_QUOTE);
    let mut within = within.take_while(|(_, mark)| **mark != '\n');
    // An apostrophe within a word closes no quotation.
    let free = |at: usize| chars.get(at + 1).is_none_or(|next| !next.is_alphanumeric());
    within.find(|&(at, &mark)| mark == close && (close == '"' || free(at))).map(|(at, _)| at)
}

fn end_of_word(chars: &[char], start: usize) -> usize {
    let mut end = start + 1;
    while end < chars.len() {
        let inside = match chars[end] {
            letter if letter.is_alphanumeric() => true,
            '-' | '.' | ',' | '/' | '_' | '\'' | '’' => {
                let digits = chars[end - 1].is_ascii_digit();
                let next = chars.get(end + 1);
                match chars[end] {
                    ',' => digits && next.is_some_and(char::is_ascii_digit),
                    _ => next.is_some_and(|next| next.is_alphanumeric()),
                }
            }
            // C++, C#.
            '+' | '#' => chars[end - 1].is_uppercase() || chars[end - 1] == '+',
            _ => false,
        };
        if !inside {
            break;
        }
        end += 1;
    }
    end
}

impl Sentence {
    fn push(&mut self, text: String, kind: Kind, capital: bool) {
        self.tokens.push(Token { text, kind, capital });
    }

    /// Adds a word; a contraction becomes the words that it stands for.
    fn push_word(&mut self, word: &str) {
        let capital = word.starts_with(char::is_uppercase);
        let text = word.to_lowercase().replace('’', "'");
        if text.chars().all(|letter| !letter.is_alphabetic())
            || (text.starts_with(|digit: char| digit.is_ascii_digit()) && !text.contains('-'))
        {
            return self.push(text, Kind::Number, false);
        }
        let word = |text: &str| (text.to_owned(), Kind::Word);
        let pieces = match text.rsplit_once('\'') {
            Some((before, "s")) => match before {
                "let" => vec![word("let's")],
                "what" | "who" | "how" | "where" | "when" | "why" | "it" | "that" | "here"
                | "there" | "he" | "she" => vec![word(before), word("is")],
                _ => vec![(before.to_owned(), Kind::Possessive)],
            },
            Some((before, "re")) => vec![word(before), word("are")],
            Some((before, "d")) => vec![word(before), word("would")],
            Some((before, "ll")) => vec![word(before), word("will")],
            Some((before, "ve")) => vec![word(before), word("have")],
            Some((before, "m")) => vec![word(before), word("am")],
            Some(("can", "t")) => vec![word("can"), word("not")],
            Some(("won", "t")) => vec![word("will"), word("not")],
            Some((before, "t")) if before.ends_with('n') => {
                vec![word(&before[..before.len() - 1]), word("not")]
            }
            _ => vec![word(&text)],
        };
        for (text, kind) in pieces {
            self.push(text, kind, capital);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let shown: Vec<String> = sentences(text)
            .iter()
            .map(|sentence| {
                let words: Vec<String> = sentence
                    .tokens
                    .iter()
                    .map(|token| match token.kind {
                        Kind::Word | Kind::Comma | Kind::Mark => token.text.clone(),
                        Kind::Possessive => format!("{}'s", token.text),
                        Kind::Number => format!("#{}", token.text),
                        Kind::Quote => "QUOTE".to_owned(),
                    })
                    .collect();
                words.join(" ") + if sentence.question { " ?" } else { "" }
            })
            .collect();
        assert_eq!(shown.join(" | "), expected, "{text}");
    }

    #[test]
    fn texts_become_sentences_of_tokens() {
        check("Write a story. Be brief!", "write a story | be brief");
        check("1. Name it:\n\n- the C++ class", "#1 | name it | - the c++ class");
        check("What's Ann’s (new) plan?", "what is ann's plan ?");
        check(
            "Use the students' essays, e.g. \"My. Day\".",
            "use the students's essays , e.g QUOTE",
        );
        check("Don't say 'it's fine' in 1,000 words", "do not say QUOTE in #1,000 words");
        check("A 3.5-page, 2nd-hand x=4", "a 3.5-page , 2nd-hand x = #4");
        check("  ", "");
    }
}

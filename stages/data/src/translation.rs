//! A row as texts to translate, and what a translation has to keep.
//!
//! A row becomes a JSON object: keys in English, values to be translated. The object that comes back
//! must have the same keys, and its values are measured against the original's by [`Checks`].

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::language::{Identifier, LANGUAGES, Language, share_of_script};
use crate::{HellaSwagContext, Instruction, Prompt, Question};

/// A row whose texts can be translated.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum TextRow {
    /// An instruction with its answer.
    Instruction(Instruction),
    /// A prompt.
    Prompt(Prompt),
    /// A multiple-choice question.
    Question(Question),
}

/// Texts by key, in the order of the row.
pub type Texts = Vec<(String, String)>;

impl TextRow {
    /// The row's id.
    pub fn id(&self) -> &str {
        match self {
            TextRow::Instruction(row) => &row.id,
            TextRow::Prompt(row) => &row.id,
            TextRow::Question(row) => &row.id,
        }
    }

    /// The row as JSON.
    pub fn to_json(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Its texts, those that are empty left out.
    pub fn texts(&self) -> Texts {
        let mut texts: Vec<(String, &str)> = Vec::new();
        match self {
            TextRow::Instruction(row) => texts.extend([
                ("instruction".to_owned(), row.instruction.as_str()),
                ("input".to_owned(), &row.input),
                ("output".to_owned(), &row.output),
            ]),
            TextRow::Prompt(row) => texts.extend([
                ("instruction".to_owned(), row.instruction.as_str()),
                ("input".to_owned(), &row.input),
            ]),
            TextRow::Question(row) => {
                match &row.hellaswag {
                    None => texts.push(("question".to_owned(), &row.question)),
                    Some(context) => texts.extend([
                        ("activity_label".to_owned(), context.activity_label.as_str()),
                        ("ctx_a".to_owned(), &context.ctx_a),
                        ("ctx_b".to_owned(), &context.ctx_b),
                    ]),
                }
                let choices = row.choices.iter().enumerate();
                texts.extend(choices.map(|(place, choice)| (choice_key(place), choice.as_str())));
            }
        }
        let texts = texts.into_iter().filter(|(_, text)| !text.trim().is_empty());
        texts.map(|(key, text)| (key, text.to_owned())).collect()
    }

    /// The row with other texts; those that are not given stay.
    pub fn with_texts(&self, texts: &Texts) -> TextRow {
        let get = |key: &str, old: &str| {
            let found = texts.iter().find(|(known, _)| known == key);
            found.map_or_else(|| old.to_owned(), |(_, text)| text.clone())
        };
        match self.clone() {
            TextRow::Instruction(row) => TextRow::Instruction(Instruction {
                instruction: get("instruction", &row.instruction),
                input: get("input", &row.input),
                output: get("output", &row.output),
                ..row
            }),
            TextRow::Prompt(row) => TextRow::Prompt(Prompt {
                instruction: get("instruction", &row.instruction),
                input: get("input", &row.input),
                ..row
            }),
            TextRow::Question(row) => {
                let hellaswag = row.hellaswag.as_ref().map(|context| HellaSwagContext {
                    activity_label: get("activity_label", &context.activity_label),
                    ctx_a: get("ctx_a", &context.ctx_a),
                    ctx_b: get("ctx_b", &context.ctx_b),
                });
                let question = match &hellaswag {
                    None => get("question", &row.question),
                    Some(context) => {
                        format!("{} {}", context.ctx_a, context.ctx_b).trim_end().to_owned()
                    }
                };
                let choices = row.choices.iter().enumerate();
                let choices =
                    choices.map(|(place, choice)| get(&choice_key(place), choice)).collect();
                TextRow::Question(Question { question, hellaswag, choices, ..row })
            }
        }
    }
}

fn choice_key(place: usize) -> String {
    format!("choice_{}", place + 1)
}

/// Texts as a JSON object, one member a line, in their order.
pub fn to_object(texts: &Texts) -> String {
    let member = |(key, text): &(String, String)| {
        format!("  {}: {}", Value::from(key.as_str()), Value::from(text.as_str()))
    };
    format!("{{\n{}\n}}", texts.iter().map(member).collect::<Vec<_>>().join(",\n"))
}

/// A rule that a translation breaks.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// The rule, a stable word.
    pub rule: &'static str,
    /// What exactly is wrong.
    pub detail: String,
}

fn fault(rule: &'static str, detail: impl Into<String>) -> Fault {
    Fault { rule, detail: detail.into() }
}

/// Reads the object that a teacher sent back for `source`: one JSON object with the same keys and
/// texts for values. A fence of three backticks around it is let pass; any other text is not.
///
/// # Errors
/// The first thing that is not so.
pub fn from_object(answer: &str, source: &Texts) -> Result<Texts, Fault> {
    let mut text = answer.trim();
    if let Some(fenced) = text.strip_prefix("```").and_then(|it| it.strip_suffix("```")) {
        text = fenced.strip_prefix("json").unwrap_or(fenced).trim();
    }
    let object: Map<String, Value> = serde_json::from_str(text)
        .map_err(|error| fault("json", format!("the answer is no JSON object: {error}")))?;
    let wanted: BTreeSet<&str> = source.iter().map(|(key, _)| key.as_str()).collect();
    if let Some(extra) = object.keys().find(|key| !wanted.contains(key.as_str())) {
        return Err(fault("keys", format!("the key `{extra}` was not asked for")));
    }
    let mut texts = Texts::new();
    for (key, _) in source {
        match object.get(key) {
            None => return Err(fault("keys", format!("the key `{key}` is missing"))),
            Some(Value::String(text)) if text.trim().is_empty() => {
                return Err(fault("empty", format!("the value of `{key}` is empty")));
            }
            Some(Value::String(text)) => texts.push((key.clone(), text.clone())),
            Some(_) => return Err(fault("json", format!("the value of `{key}` is no text"))),
        }
    }
    Ok(texts)
}

/// What translations are measured by.
#[derive(Debug, Clone)]
pub struct Checks {
    /// The language that they are to be in.
    pub language: Language,
    /// Of the letters outside code, at least this share is of the language's script.
    pub least_script: f64,
    /// A translation is at least so many times as long as the original, in characters.
    pub least_ratio: f64,
    /// And at most so many times.
    pub most_ratio: f64,
    /// A text of at least so many letters is looked at for its language.
    pub least_letters: usize,
    /// It fails if another language is found with at least this confidence.
    pub confidence: f64,
    /// Whether the numbers of the original must be in the translation.
    pub keep_numbers: bool,
    identifier: Identifier,
}

/// Originals shorter than this, in characters, have no ratio worth the name.
const SHORT: usize = 20;
/// An original of so many words that comes back as it was has not been translated.
const COPIED_WORDS: usize = 4;

impl Checks {
    /// The usual thresholds for a language.
    pub fn new(language: Language) -> Checks {
        Checks {
            language,
            least_script: 0.6,
            least_ratio: 0.15,
            most_ratio: 5.0,
            least_letters: 120,
            confidence: 0.9,
            keep_numbers: true,
            identifier: Identifier::new(&LANGUAGES),
        }
    }

    /// Measures a translation.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn check(&self, source: &Texts, translation: &Texts) -> Result<(), Fault> {
        for ((key, before), (_, after)) in source.iter().zip(translation) {
            let at = |found: Fault| fault(found.rule, format!("`{key}`: {}", found.detail));
            kept(before, after).map_err(at)?;
            if self.keep_numbers {
                numbers_kept(before, after).map_err(at)?;
            }
        }
        self.length(source, translation)?;
        self.copied(source, translation)?;
        // Code without marks, and names, come back as they were: they say nothing of the language.
        let pairs =
            source.iter().zip(translation).filter(|((_, before), (_, after))| before != after);
        let prose: String = pairs.map(|(_, (_, after))| without_code(after) + "\n").collect();
        self.script(&prose)?;
        self.identified(&prose)
    }

    /// The texts of a row together: "The United States of America" alone is very short in Chinese.
    fn length(&self, before: &Texts, after: &Texts) -> Result<(), Fault> {
        let characters = |texts: &Texts| texts.iter().map(|(_, text)| text.chars().count()).sum();
        let (before, after): (usize, usize) = (characters(before), characters(after));
        let ratio = after as f64 / before.max(1) as f64;
        if before >= SHORT && !(self.least_ratio..=self.most_ratio).contains(&ratio) {
            return Err(fault("length", format!("{after} characters for {before}")));
        }
        Ok(())
    }

    /// Whether a text of several words has come back as it was, where it is neither code nor names, or
    /// the whole row has.
    fn copied(&self, before: &Texts, after: &Texts) -> Result<(), Fault> {
        if self.language.code == "en" {
            return Ok(());
        }
        let (mut all, mut is_whole_row) = (0, true);
        for ((key, before), (_, after)) in before.iter().zip(after) {
            let prose = without_code(before);
            let words = words(&prose).count();
            all += words;
            let is_copy = before.trim() == after.trim();
            is_whole_row &= is_copy;
            let may_stay = looks_like_code(&outside_code(before)) || is_names(&prose);
            if is_copy && words >= COPIED_WORDS && !may_stay {
                return Err(fault("copied", format!("`{key}`: it is the original, word for word")));
            }
        }
        if is_whole_row && all >= COPIED_WORDS {
            return Err(fault("copied", "it is the original, word for word"));
        }
        Ok(())
    }

    fn script(&self, prose: &str) -> Result<(), Fault> {
        match share_of_script(prose, self.language.script) {
            Some(share) if share < self.least_script => Err(fault(
                "script",
                format!(
                    "{:.0} % of the letters are {}",
                    share * 100.0,
                    self.language.script.name()
                ),
            )),
            _ => Ok(()),
        }
    }

    fn identified(&self, prose: &str) -> Result<(), Fault> {
        if prose.chars().filter(|letter| letter.is_alphabetic()).count() < self.least_letters {
            return Ok(());
        }
        match self.identifier.identify(prose) {
            Some(guess)
                if guess.language != self.language
                    && !guess.language.is_close_to(&self.language)
                    && guess.confidence >= self.confidence =>
            {
                let name = guess.language.name;
                let sure = guess.confidence * 100.0;
                Err(fault("language", format!("it looks like {name} ({sure:.0} % sure)")))
            }
            _ => Ok(()),
        }
    }
}

/// Whether code and placeholders of the original are in the translation. Of a block of code, the lines
/// without their comments count.
fn kept(before: &str, after: &str) -> Result<(), Fault> {
    let missing = |pieces: Vec<String>, there: Vec<String>| {
        let mut there = there;
        pieces.into_iter().find(|piece| match there.iter().position(|it| it == piece) {
            Some(place) => {
                there.swap_remove(place);
                false
            }
            None => true,
        })
    };
    let shown = |piece: &str| piece.chars().take(60).collect::<String>();
    if let Some(code) = missing(code(before), code(after)) {
        return Err(fault("code", format!("the code `{}` is not kept", shown(&code))));
    }
    if let Some(mark) = missing(placeholders(before), placeholders(after)) {
        return Err(fault("placeholder", format!("`{}` is not kept", shown(&mark))));
    }
    Ok(())
}

/// A text split into prose and code: blocks between fences, spans between backticks.
fn split_code(text: &str) -> Vec<(bool, &str)> {
    let mut parts = Vec::new();
    for (place, piece) in text.split("```").enumerate() {
        if place % 2 == 1 {
            parts.push((true, piece));
            continue;
        }
        let spans: Vec<&str> = piece.split('`').collect();
        // A backtick without its partner opens nothing.
        let closed = spans.len() % 2 == 1;
        let last = spans.len() - 1;
        for (place, span) in spans.into_iter().enumerate() {
            let is_code = place % 2 == 1 && (closed || place < last);
            parts.push((is_code, span));
        }
    }
    parts
}

/// What is not code.
fn outside_code(text: &str) -> String {
    let prose = split_code(text).into_iter().filter(|(is_code, _)| !is_code);
    prose.map(|(_, piece)| piece).collect::<Vec<_>>().join(" ")
}

/// What is neither code nor a placeholder.
fn without_code(text: &str) -> String {
    let mut prose = outside_code(text);
    for mark in placeholders(&prose) {
        prose = prose.replace(&mark, " ");
    }
    prose
}

/// The words of a text that have letters.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_whitespace().filter(|word| word.chars().any(char::is_alphabetic))
}

/// Whether a text without marks is code rather than prose: one sign in twenty-five is one that code has
/// and prose has not: braces and operators, a call's bracket, an indented line, a semicolon at a line's end.
fn looks_like_code(text: &str) -> bool {
    let mut signs = text.lines().filter(|line| line.trim_end().ends_with(';')).count();
    signs += text.lines().filter(|line| line.starts_with("    ") || line.starts_with('\t')).count();
    let mut before = ' ';
    for sign in text.chars() {
        signs += usize::from("{}=<>".contains(sign));
        signs += usize::from("(_".contains(sign) && before.is_ascii_alphanumeric());
        before = sign;
    }
    let letters = text.chars().filter(|letter| !letter.is_whitespace()).count();
    signs >= 2 && signs * 25 >= letters
}

/// Whether a text is names: nine of ten words begin with a capital letter.
fn is_names(text: &str) -> bool {
    let capital = |word: &&str| {
        word.chars().find(|letter| letter.is_alphabetic()).is_some_and(char::is_uppercase)
    };
    words(text).filter(capital).count() * 10 >= words(text).count() * 9
}

/// The code in a text, span by span and line by line, without comments and without white space
/// around it.
fn code(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (_, piece) in split_code(text).into_iter().filter(|(is_code, _)| *is_code) {
        let mut inside = None;
        for line in piece.lines() {
            let line = without_comments(line, &mut inside);
            let line = line.trim();
            if !line.is_empty() {
                found.push(line.to_owned());
            }
        }
    }
    found
}

/// How comments of several lines, and texts of several lines, begin and end.
const BLOCKS: [(&str, &str); 4] =
    [("/*", "*/"), ("\"\"\"", "\"\"\""), ("'''", "'''"), ("<!--", "-->")];

/// A line of code without what may be translated in it. A comment begins outside quotation marks, at the
/// line's start or after white space: `rm /tmp/*` has none. `inside` is the end of the one that the
/// line begins in, and then of the one that it ends in.
fn without_comments(line: &str, inside: &mut Option<&'static str>) -> String {
    let mut kept = String::new();
    let mut quote = None;
    let mut before = ' ';
    let mut rest = line;
    loop {
        if let Some(end) = inside.take() {
            let Some((_, after)) = rest.split_once(end) else {
                *inside = Some(end);
                return kept;
            };
            (rest, before) = (after, ' ');
        }
        let Some(sign) = rest.chars().next() else { return kept };
        if quote.is_none() && before.is_whitespace() {
            if let Some((open, end)) = BLOCKS.iter().find(|(open, _)| rest.starts_with(open)) {
                rest = &rest[open.len()..];
                *inside = Some(end);
                continue;
            }
            if is_line_comment(rest) {
                return kept;
            }
        }
        match quote {
            Some(open) if sign == open => quote = None,
            None if sign == '"' || sign == '\'' => quote = Some(sign),
            _ => {}
        }
        kept.push(sign);
        before = sign;
        rest = &rest[sign.len_utf8()..];
    }
}

/// Whether what is left of a line is a comment: a mark with white space after it.
fn is_line_comment(rest: &str) -> bool {
    let ends = |rest: &str| rest.is_empty() || rest.starts_with(char::is_whitespace);
    let marks = ["//", "#", "--", "%", ";;"];
    marks.iter().any(|mark| rest.strip_prefix(mark).is_some_and(ends))
}

/// Things in prose that stand for something else and must come back as they are: `{name}`, `{{ x }}`,
/// `<tag>`, `%s`, addresses.
fn placeholders(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '<', '%', 'h']) {
        let from = &rest[at..];
        let length = placeholder(from, &rest[..at]);
        match length {
            Some(length) => {
                found.push(from[..length].to_owned());
                rest = &from[length..];
            }
            None => {
                let skip = from.chars().next().map_or(1, char::len_utf8);
                rest = &from[skip..];
            }
        }
    }
    found
}

/// The length of the placeholder at the start of a text.
fn placeholder(text: &str, before: &str) -> Option<usize> {
    let name = |inside: &str| {
        let inside = inside.trim();
        !inside.is_empty()
            && inside.len() <= 40
            && inside.chars().all(|it| it.is_ascii_alphanumeric() || "_-./".contains(it))
    };
    if let Some(inside) = text.strip_prefix("{{") {
        let end = inside.find("}}")?;
        return name(&inside[..end]).then_some(end + 4);
    }
    if let Some(inside) = text.strip_prefix('{') {
        let end = inside.find('}')?;
        return name(&inside[..end]).then_some(end + 2);
    }
    if let Some(inside) = text.strip_prefix('<') {
        let end = inside.find('>')?;
        return name(&inside[..end]).then_some(end + 2);
    }
    if text.starts_with("https://") || text.starts_with("http://") {
        // What is not ASCII is the sentence around it.
        let end = text.find(|it: char| it.is_whitespace() || !it.is_ascii() || "<>\"".contains(it));
        let address = &text[..end.unwrap_or(text.len())];
        return Some(address.trim_end_matches(['.', ',', ';', ')', '?', '!']).len());
    }
    let is_word = before.chars().next_back().is_some_and(char::is_alphanumeric);
    let kind = text.strip_prefix('%').and_then(|rest| rest.chars().next());
    let after = text.chars().nth(2);
    let ends = after.is_none_or(|it| !it.is_alphanumeric());
    (kind.is_some_and(|it| "sdf".contains(it)) && ends && !is_word).then_some(2)
}

/// Whether every number of the original is in the translation, in whatever digits and with whatever marks
/// between them. Numbers that languages write in their own ways are let pass: below 10 ("two"), ordinals
/// ("20th"), times of day ("3 pm"), days and months in dates, and great ones where the language has words
/// for great units.
fn numbers_kept(before: &str, after: &str) -> Result<(), Fault> {
    let there: BTreeSet<String> = [false, true]
        .into_iter()
        .flat_map(|is_spaced| numbers(after, is_spaced))
        .map(|number| number.digits)
        .collect();
    let great_units =
        ["万", "亿", "लाख", "करोड़", "লক্ষ", "কোটি", "லட்சம்", "కోట్లు", "లక్ష", "ಲಕ್ಷ", "ലക്ഷം"];
    let has_units = great_units.iter().any(|unit| after.contains(unit));
    for Number { digits, from, to } in numbers(before, false) {
        let is_written_otherwise = digits.len() == 1
            || is_ordinal_or_time(&before[to..])
            || (digits.len() == 2 && is_in_date(before, from, to))
            || (has_units && digits.len() >= 5);
        if !is_written_otherwise && !there.contains(&digits) {
            return Err(fault("numbers", format!("the number {digits} is not kept")));
        }
    }
    Ok(())
}

/// Whether what follows a number in English makes it an ordinal or a time of day.
fn is_ordinal_or_time(rest: &str) -> bool {
    let starts = |text: &str, words: &[&str]| {
        words.iter().any(|word| {
            let head = text.get(..word.len()).unwrap_or_default();
            let after = text.get(word.len()..).and_then(|rest| rest.chars().next());
            head.eq_ignore_ascii_case(word) && after.is_none_or(|it| !it.is_alphanumeric())
        })
    };
    // The hour of "10:30 pm" is followed by its minutes.
    let minutes = rest.strip_prefix(':').map(|it| it.trim_start_matches(|it| digit(it).is_some()));
    let time = minutes.unwrap_or(rest);
    let time = time.strip_prefix(' ').unwrap_or(time);
    starts(rest, &["st", "nd", "rd", "th"]) || starts(time, &["am", "pm", "a.m", "p.m", "o'clock"])
}

/// Whether a number is a part of a date as `05/12/2020`, `5.12.20` or `2020-12-05`.
fn is_in_date(text: &str, from: usize, to: usize) -> bool {
    let is_date = |it: char| it.is_ascii_digit() || "/.-".contains(it);
    let start = text[..from].trim_end_matches(is_date).len();
    let length = text[to..].len() - text[to..].trim_start_matches(is_date).len();
    let whole = text[start..to + length].trim_matches(|it: char| !it.is_ascii_digit());
    let lengths: Vec<usize> = whole.split(['/', '.', '-']).map(str::len).collect();
    matches!(lengths[..], [1..=2, 1..=2, 2 | 4] | [4, 1..=2, 1..=2])
}

/// A number of a text.
struct Number {
    /// Its ASCII digits, without the marks within it: `1,000.50` is `100050`.
    digits: String,
    /// The bytes that it stands at.
    from: usize,
    to: usize,
}

/// The numbers of a text. With `is_spaced`, a blank before three digits is a mark within a number.
fn numbers(text: &str, is_spaced: bool) -> Vec<Number> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(|letter| digit(letter).is_some()) {
        let from = text.len() - rest.len() + at;
        let mut groups = vec![group(&rest[at..])];
        let mut marks = Vec::new();
        rest = &rest[at + groups[0].1..];
        while let Some(mark) = rest.chars().next() {
            let (digits, length) = group(&rest[mark.len_utf8()..]);
            let goes_on = ".,'’\u{a0}\u{202f}٬٫".contains(mark) && !digits.is_empty();
            let is_thousands = is_spaced && mark == ' ' && digits.len() == 3;
            if !goes_on && !is_thousands {
                break;
            }
            rest = &rest[mark.len_utf8() + length..];
            marks.push(mark);
            groups.push((digits, length));
        }
        // `10,20,30`, a date, an address: three or more with one mark, of which the last is no group
        // of three digits, are numbers of their own.
        let is_list = marks.len() >= 2
            && marks.iter().all(|mark| *mark == marks[0])
            && groups.last().is_some_and(|(digits, _)| digits.len() != 3);
        if is_list {
            let mut at = from;
            for (place, (digits, length)) in groups.into_iter().enumerate() {
                found.push(Number { digits, from: at, to: at + length });
                at += length + marks.get(place).map_or(0, |mark| mark.len_utf8());
            }
        } else {
            let digits = groups.into_iter().map(|(digits, _)| digits).collect();
            found.push(Number { digits, from, to: text.len() - rest.len() });
        }
    }
    found
}

/// The digits at the start of a text, as ASCII, and how many bytes they take.
fn group(text: &str) -> (String, usize) {
    let digits: String = text.chars().map_while(digit).collect();
    let length = text.chars().take(digits.len()).map(char::len_utf8).sum();
    (digits, length)
}

/// A decimal digit of any of the scripts here, as an ASCII digit.
fn digit(letter: char) -> Option<char> {
    let zeros = [0x30, 0x660, 0x6f0, 0x966, 0x9e6, 0xbe6, 0xc66, 0xce6, 0xd66, 0xff10];
    let value = zeros
        .into_iter()
        .find_map(|zero| (letter as u32).checked_sub(zero).filter(|value| *value <= 9))?;
    char::from_digit(value, 10)
}

/// Cuts a text into pieces of at most `most` characters at empty lines, and where that is not enough
/// at line ends, never within a block of code. The pieces put together are the text. `None` if there
/// is no such cut.
pub fn split(text: &str, most: usize) -> Option<Vec<String>> {
    let mut blocks: Vec<String> = Vec::new();
    let mut is_code = false;
    for line in text.split_inclusive('\n') {
        let fences = line.matches("```").count();
        let starts_block = !is_code
            && (blocks
                .last()
                .is_none_or(|last| last.ends_with("\n\n") || last.chars().count() > most / 2));
        if starts_block || blocks.is_empty() {
            blocks.push(line.to_owned());
        } else if let Some(last) = blocks.last_mut() {
            last.push_str(line);
        }
        is_code ^= fences % 2 == 1;
    }
    let mut pieces: Vec<String> = Vec::new();
    for block in blocks {
        let length = block.chars().count();
        match pieces.last_mut() {
            Some(last) if last.chars().count() + length <= most => last.push_str(&block),
            _ => pieces.push(block),
        }
    }
    pieces.iter().all(|piece| piece.chars().count() <= most).then_some(pieces)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Task;

    fn texts(pairs: &[(&str, &str)]) -> Texts {
        pairs.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect()
    }

    fn checks(code: &str) -> Checks {
        Checks::new(Language::of(code).unwrap())
    }

    fn rule(code: &str, before: &str, after: &str) -> Option<&'static str> {
        let checked = checks(code).check(&texts(&[("a", before)]), &texts(&[("a", after)]));
        checked.err().map(|fault| fault.rule)
    }

    #[test]
    fn rows_give_their_texts_and_take_them_back() {
        let question = TextRow::Question(Question {
            id: "q".into(),
            task: Task::HellaSwag,
            question: "A man sits. He".into(),
            choices: vec!["runs".into(), "eats".into()],
            answer: 1,
            subject: None,
            hellaswag: Some(HellaSwagContext {
                activity_label: "Sitting".into(),
                ctx_a: "A man sits.".into(),
                ctx_b: "He".into(),
            }),
        });
        let mut texts = question.texts();
        let keys: Vec<_> = texts.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["activity_label", "ctx_a", "ctx_b", "choice_1", "choice_2"]);
        for (_, text) in &mut texts {
            *text = text.to_uppercase();
        }
        let TextRow::Question(back) = question.with_texts(&texts) else { panic!() };
        assert_eq!(back.question, "A MAN SITS. HE");
        assert_eq!((back.choices[1].as_str(), back.answer), ("EATS", 1));
    }

    #[test]
    fn an_object_comes_back_with_its_keys_or_not_at_all() {
        let source = texts(&[("instruction", "a"), ("output", "b")]);
        let good = r#"{"output": "B", "instruction": "A"}"#;
        for answer in [good.to_owned(), format!("```json\n{good}\n```"), format!("\n{good} ")] {
            let read = from_object(&answer, &source).unwrap();
            assert_eq!(read, texts(&[("instruction", "A"), ("output", "B")]));
        }
        for (answer, rule) in [
            ("", "json"),
            ("Here it is: {}", "json"),
            (r#"["a"]"#, "json"),
            (r#"{"instruction": "A"}"#, "keys"),
            (r#"{"instruction": "A", "output": "B", "note": "x"}"#, "keys"),
            (r#"{"instruction": "A", "output": 3}"#, "json"),
            (r#"{"instruction": "A", "output": " "}"#, "empty"),
            (r#"{"anweisung": "A", "output": "B"}"#, "keys"),
            (r#"{"instruction": "A", "output": "B"} Done."#, "json"),
        ] {
            assert_eq!(from_object(answer, &source).unwrap_err().rule, rule, "{answer}");
        }
    }

    #[test]
    fn translations_are_measured() {
        for (code, before, after, expected) in [
            ("de", "How much is 12 plus 3?", "Wie viel ist 12 plus drei?", None),
            ("de", "How much is 12 plus 3?", "Wie viel ist 13 plus 3?", Some("numbers")),
            ("hi", "How much is 12 plus 30?", "१२ और ३० का योग कितना है?", None),
            ("de", "It costs 1,000.50 euros here.", "Es kostet hier 1.000,50 Euro.", None),
            (
                "de",
                "It costs $1,500 in this shop.",
                "Es kostet 500,1 $ in dem Laden.",
                Some("numbers"),
            ),
            ("hi", "There are 100,000 of them here.", "यहाँ उनमें से 1,00,000 हैं और वे रहते हैं।", None),
            ("fr", "It has 1,000,000 inhabitants now.", "Elle a 1 000 000 habitants.", None),
            ("de", "The 15 states of the union", "Die Staaten der Union", Some("numbers")),
            ("de", "Sort 10,20,30 in this order.", "Sortiere 10, 20, 30 in dieser Folge.", None),
            ("de", "Sort 10,20,30 in this order.", "Sortiere 10, 20, 35 so.", Some("numbers")),
            ("de", "It was on 05/12/2020 in Rome.", "Es war am 12. Mai 2020 in Rom.", None),
            ("de", "It was on 05/12/2020 in Rome.", "Es war am 5.12.2021 in Rom.", Some("numbers")),
            ("fr", "It begins at 10:30 in Rome.", "Cela commence à 10h30 à Rome.", None),
            ("de", "It begins at 10:30 pm here.", "Es fängt hier um 22 Uhr 30 an.", None),
            ("fr", "the server at 192.168.1.10", "le serveur 192.168.1.10", None),
            ("zh", "It has 1,000,000 inhabitants now.", "它现在有100万居民。", None),
            ("es", "a house of the 20th century", "una casa del siglo XX", None),
            ("de", "The train leaves at 11 pm today.", "Der Zug fährt heute um 23 Uhr ab.", None),
            (
                "zh",
                "See https://example.org/a for more.",
                "请访问https://example.org/a了解更多。",
                None,
            ),
            ("hi", "See https://example.org/a.", "https://example.org/a। पर देखें", None),
            (
                "de",
                "Run `git commit --amend` now.",
                "Führe jetzt `git commit --ändern` aus.",
                Some("code"),
            ),
            ("ru", "Name the capital city.", "Nazovite stolitsu strany.", Some("script")),
            ("de", "Name the capital of France.", "Name the capital of France.", Some("copied")),
            ("fr", "Name it (the country).", "Name it (the country).", Some("copied")),
            ("de", "He came; he saw; he won.", "He came; he saw; he won.", Some("copied")),
            ("de", "Clear it: `rm /tmp/* -r`", "Leere es: `rm /tmp/* -f`", Some("code")),
            ("de", "Berlin", "Berlin", None),
            ("en", "Name the capital of France.", "Name the capital of France.", None),
            ("de", "Explain `print(1)` briefly.", "Erkläre `drucke(1)` kurz.", Some("code")),
            ("de", "Explain `print(1)` briefly.", "Erkläre `print(1)` kurz.", None),
            ("de", "Dear {name}, hello to you!", "Liebe {Name}, hallo!", Some("placeholder")),
            ("de", "See https://example.org/a. It helps.", "Siehe https://example.org/a.", None),
            (
                "de",
                "See https://example.org/a. It helps.",
                "Siehe dort. Es hilft.",
                Some("placeholder"),
            ),
            ("de", "A sentence that is long enough to be measured.", "Ja.", Some("length")),
            (
                "de",
                "Please describe the weather in the mountains in early spring in a few words, and say what \
                 one should wear there at this time of the year.",
                "Décrivez en quelques mots le temps qu'il fait dans les montagnes au début du printemps, et \
                 dites quels vêtements chauds il faut y porter à cette saison de l’année.",
                Some("language"),
            ),
            ("zh", "Name the capital of France, please.", "请说出法国的首都。", None),
        ] {
            assert_eq!(rule(code, before, after), expected, "{code}: {after}");
        }
    }

    #[test]
    fn code_and_names_in_one_text_of_several_may_come_back_as_they_were() {
        let source = texts(&[
            ("instruction", "Write a query that finds all adults among the users."),
            ("output", "SELECT name FROM users WHERE age > 30 AND name <> \'x\';"),
        ]);
        let translated = texts(&[
            ("instruction", "सभी वयस्क उपयोगकर्ताओं को खोजने वाली एक क्वेरी लिखें।"),
            ("output", "SELECT name FROM users WHERE age > 30 AND name <> \'x\';"),
        ]);
        assert_eq!(checks("hi").check(&source, &translated), Ok(()));
        assert_eq!(checks("hi").check(&source, &source).unwrap_err().rule, "copied");
        let names = texts(&[
            ("question", "Who wrote the play that is shown here?"),
            ("choice_1", "William Shakespeare, Christopher Marlowe"),
        ]);
        let translated = texts(&[
            ("question", "Wer hat das Stück geschrieben, das hier gezeigt wird?"),
            ("choice_1", "William Shakespeare, Christopher Marlowe"),
        ]);
        assert_eq!(checks("de").check(&names, &translated), Ok(()));
        let object = to_object(&source);
        assert!(object.find("instruction") < object.find("output"), "{object}");
        assert_eq!(from_object(&object, &source), Ok(source));
    }

    #[test]
    fn comments_of_several_lines_may_be_translated_too() {
        let before = "`x = 1 /* the\nstart */`";
        let after = "`x = 1 /* der\nAnfang */`";
        assert_eq!(rule("de", before, after), None);
        let after = "`x = 1 /* der\nAnfang */ + 1`";
        assert_eq!(rule("de", before, after), None, "more code is not less");
        assert_eq!(rule("de", after, before), Some("code"));
    }

    #[test]
    fn comments_in_code_may_be_translated() {
        let before = "Fix this:\n```python\nx = 1  # the start\nprint(x)\n```";
        let after = "Repariere das:\n```python\nx = 1  # der Anfang\nprint(x)\n```";
        assert_eq!(rule("de", before, after), None);
        let changed = after.replace("print(x)", "drucke(x)");
        assert_eq!(rule("de", before, &changed), Some("code"));
    }

    #[test]
    fn long_texts_are_cut_between_paragraphs_and_never_in_code() {
        let text = "One.\n\nTwo, longer.\n\n```\na\n\nb\n```\nEnd.\n";
        let pieces = split(text, 20).unwrap();
        assert_eq!(pieces.concat(), text);
        assert!(pieces.iter().any(|piece| piece.contains("a\n\nb")), "{pieces:?}");
        assert_eq!(split("a very long line without any end", 10), None);
    }

    proptest! {
        #[test]
        fn pieces_are_the_text(text in "([a-z]{0,8}|\n|\n\n|```\n| ){0,40}", most in 1usize..60) {
            if let Some(pieces) = split(&text, most) {
                prop_assert_eq!(pieces.concat(), text.clone());
                prop_assert!(pieces.iter().all(|piece| piece.chars().count() <= most));
            }
        }

        #[test]
        fn any_two_texts_can_be_compared(before in ".{0,80}", after in ".{0,80}") {
            let _ = checks("de").check(&texts(&[("a", &before)]), &texts(&[("a", &after)]));
            let _ = from_object(&after, &texts(&[("a", &before)]));
        }
    }
}

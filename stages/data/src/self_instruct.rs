//! Self-Instruct as Alpaca runs it: which examples a request shows, how the answer is read, and which
//! tasks are kept.
//!
//! Sources: Wang et al., "Self-Instruct", 2023, and the script that made Alpaca's data. Where we
//! differ from that script, on purpose:
//!
//! - Its stop string `20.` ends an answer inside "in 2020." too; no stop string is sent here, and tasks
//!   beyond the number that was asked for are kept.
//! - It takes the three texts of a task without looking at their labels, and loses every task after
//!   a number that is skipped or repeated. Here the labels must be `Instruction`, `Input`, `Output`,
//!   in this order, and the three must carry one number, whichever it is.

use std::ops::Range;

use crate::Instruction;

/// One task that a teacher wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// What is asked.
    pub instruction: String,
    /// What it is asked about; empty if the instruction says all.
    pub input: String,
    /// The answer.
    pub output: String,
}

/// Something in an answer that is no task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// What is wrong with it.
    pub detail: String,
    /// What it says.
    pub text: String,
}

/// Draws `count` of `from` things without repetition, by chance that depends on nothing but the seed
/// and the number of the request.
pub fn draw(seed: i64, request: u64, purpose: &str, from: usize, count: usize) -> Vec<usize> {
    let mut left: Vec<usize> = (0..from).collect();
    let mut drawn = Vec::new();
    for place in 0..count.min(from) {
        let key = format!("self_instruct {seed} {request} {purpose} {place}");
        let hash = blake3::hash(key.as_bytes());
        let (first, _) = hash.as_bytes().split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
        let number = u64::from_le_bytes(*first);
        drawn.push(left.swap_remove((number % left.len() as u64) as usize));
    }
    drawn
}

/// An instruction as it is shown in a request: white space collapsed, no colon at its end.
pub fn as_shown(instruction: &str) -> String {
    let collapsed = instruction.split_whitespace().collect::<Vec<_>>().join(" ");
    collapsed.trim_end_matches(':').to_owned()
}

/// Reads the tasks in an answer to a request that left `first`. Instruction: open. Of an answer that
/// was cut, the last piece is no task.
pub fn parse(answer: &str, first: u32, cut: bool) -> (Vec<Candidate>, Vec<Broken>) {
    let opening = format!("{first}. Instruction:");
    let answer = answer.trim();
    let whole = match answer.trim_start_matches(['#', '\n', ' ']).starts_with(&opening) {
        true => answer.to_owned(),
        false => format!("{opening} {answer}"),
    };
    let mut pieces: Vec<&str> =
        whole.split("###").map(str::trim).filter(|piece| !piece.is_empty()).collect();
    let (mut tasks, mut broken) = (Vec::new(), Vec::new());
    if cut && let Some(last) = pieces.pop() {
        let detail = "the answer was cut here".to_owned();
        broken.push(Broken { detail, text: last.to_owned() });
    }
    for piece in pieces {
        match candidate(piece) {
            Ok(task) => tasks.push(task),
            Err(detail) => broken.push(Broken { detail, text: piece.to_owned() }),
        }
    }
    (tasks, broken)
}

/// A label at the start of a line: the number before it, which label, and where it stands.
fn labels(piece: &str) -> Vec<(&str, &str, Range<usize>)> {
    let mut found = Vec::new();
    let mut at = 0;
    for line in piece.split_inclusive('\n') {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
        let number = &trimmed[..digits];
        let after = trimmed[digits..].strip_prefix('.').map(str::trim_start);
        if let Some(after) = after.filter(|_| digits > 0) {
            for label in ["Instruction", "Input", "Output"] {
                if let Some(rest) = after.strip_prefix(label).and_then(|it| it.strip_prefix(':')) {
                    let end = at + line.len() - rest.len();
                    found.push((number, label, at + indent..end));
                }
            }
        }
        at += line.len();
    }
    found
}

fn candidate(piece: &str) -> Result<Candidate, String> {
    let labels = labels(piece);
    let [instruction, input, output] = &labels[..] else {
        return Err(format!("{} labels instead of three", labels.len()));
    };
    if [instruction.1, input.1, output.1] != ["Instruction", "Input", "Output"] {
        return Err("the labels are not Instruction, Input, Output".to_owned());
    }
    if instruction.0 != input.0 || input.0 != output.0 {
        return Err("the labels carry different numbers".to_owned());
    }
    let text = |from: usize, to: usize| piece[from..to].trim().to_owned();
    let no_input = |input: String| match input.to_lowercase().as_str() {
        "<noinput>" => String::new(),
        _ => input,
    };
    Ok(Candidate {
        instruction: text(instruction.2.end, input.2.start),
        input: no_input(text(input.2.end, output.2.start)),
        output: text(output.2.end, piece.len()),
    })
}

/// Words that name what a model of text cannot see, hear or make.
const BLACKLIST: [&str; 18] = [
    "image",
    "images",
    "graph",
    "graphs",
    "picture",
    "pictures",
    "file",
    "files",
    "map",
    "maps",
    "draw",
    "plot",
    "go to",
    "video",
    "audio",
    "music",
    "flowchart",
    "diagram",
];

/// Alpaca's filters, in its order. Gives the rule that an instruction breaks, and what is wrong.
pub fn filter(instruction: &str) -> Option<(&'static str, String)> {
    let words = instruction.split_whitespace().count();
    if words <= 3 || words > 150 {
        return Some(("length", format!("{words} words; 4 to 150 are wanted")));
    }
    let lower = instruction.to_lowercase();
    if let Some(word) = BLACKLIST.into_iter().find(|word| has_word(&lower, word)) {
        return Some(("blacklist", format!("it has the word `{word}`")));
    }
    if instruction.starts_with("Write a program") {
        return Some(("program", "it begins with `Write a program`".to_owned()));
    }
    let first = instruction.chars().next()?;
    if first.is_ascii_punctuation() {
        return Some(("punctuation", format!("it begins with `{first}`")));
    }
    if !first.is_ascii() {
        return Some(("not_ascii", format!("it begins with `{first}`")));
    }
    None
}

/// Whether a text has a word, not as part of another one.
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |letter: Option<char>| letter.is_some_and(|it| it.is_alphanumeric() || it == '_');
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !is_part(before) && !is_part(after)
    })
}

impl Candidate {
    /// The row of a task that is kept. Its id comes from what it says, so that it stays the same
    /// whatever else is made.
    pub fn into_instruction(self) -> Instruction {
        let text = format!("{}\u{0}{}", self.instruction, self.input);
        let id = blake3::hash(text.as_bytes()).to_hex();
        Instruction {
            id: format!("g-{}", &id[..16]),
            instruction: self.instruction,
            input: self.input,
            output: self.output,
            name: None,
            is_classification: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_answer_is_read_whether_or_not_it_repeats_the_opening() {
        let answer = " Name a colour.\n4. Input:\n<noinput>\n4. Output:\nRed.\n###\n5. Instruction: Sum up.\n5. Input:\nA long text.\n5. Output:\nShort.\n";
        for answer in [
            answer.to_owned(),
            format!("4. Instruction:{answer}"),
            format!("###\n4. Instruction:{answer}"),
        ] {
            let (tasks, broken) = parse(&answer, 4, false);
            assert_eq!(broken, []);
            assert_eq!(tasks.len(), 2, "{answer}");
            assert_eq!(tasks[0].instruction, "Name a colour.");
            assert_eq!((tasks[0].input.as_str(), tasks[0].output.as_str()), ("", "Red."));
            assert_eq!(tasks[1].input, "A long text.");
            let (tasks, broken) = parse(&answer, 4, true);
            assert_eq!((tasks.len(), broken.len()), (1, 1));
        }
    }

    #[test]
    fn numbers_in_the_text_end_nothing() {
        let answer = "What happened in 2020.\n4. Input:\n<noinput>\n4. Output:\nIn 2020. Input: much\n20. Nothing";
        let (tasks, broken) = parse(answer, 4, false);
        assert_eq!((tasks.len(), broken.len()), (1, 0));
        assert_eq!(tasks[0].output, "In 2020. Input: much\n20. Nothing");
    }

    #[test]
    fn what_is_no_task_is_named() {
        for (answer, expected) in [
            ("Only an instruction", "1 labels"),
            ("A.\n4. Output:\nb\n4. Input:\nc", "not Instruction, Input, Output"),
            ("A.\n5. Input:\nb\n4. Output:\nc", "different numbers"),
        ] {
            let (tasks, broken) = parse(answer, 4, false);
            assert_eq!(tasks, []);
            assert!(broken[0].detail.contains(expected), "{broken:?}");
        }
    }

    #[test]
    fn the_filters_are_alpacas() {
        for (instruction, rule) in [
            ("Sort these words.", Some("length")),
            ("Describe what this picture shows.", Some("blacklist")),
            ("Say how to GO TO the station.", Some("blacklist")),
            ("Explain what photographs are for.", None),
            ("Draw a circle with three sides", Some("blacklist")),
            ("Write a program that prints primes.", Some("program")),
            ("write a program that prints primes.", None),
            ("\"Why\" is what kind of word?", Some("punctuation")),
            ("Über welche Stadt ist die Rede?", Some("not_ascii")),
            ("Name three large rivers.", None),
        ] {
            assert_eq!(filter(instruction).map(|it| it.0), rule, "{instruction}");
        }
        assert_eq!(filter(&"word ".repeat(151)).map(|it| it.0), Some("length"));
        assert_eq!(filter(""), Some(("length", "0 words; 4 to 150 are wanted".to_owned())));
    }

    #[test]
    fn draws_depend_on_seed_and_request_only() {
        assert_eq!(draw(1, 2, "seeds", 205, 3), draw(1, 2, "seeds", 205, 3));
        assert_ne!(draw(1, 2, "seeds", 205, 3), draw(1, 3, "seeds", 205, 3));
        assert_ne!(draw(1, 2, "seeds", 205, 3), draw(2, 2, "seeds", 205, 3));
        let mut all = draw(0, 0, "seeds", 5, 9);
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4]);
        // Every seed has its turn.
        let mut seen = std::collections::BTreeSet::new();
        (0..2000).for_each(|request| seen.extend(draw(0, request, "seeds", 205, 3)));
        assert_eq!(seen.len(), 205);
    }

    #[test]
    fn instructions_are_shown_in_one_line() {
        assert_eq!(as_shown("  Do\n this:: "), "Do this");
    }

    proptest! {
        #[test]
        fn any_answer_is_read(answer in "([0-9]{1,2}\\. (Instruction|Input|Output):|###|\n|[a-z2. ]{0,9}){0,30}") {
            let (tasks, _) = parse(&answer, 4, false);
            for task in tasks {
                let row = task.clone().into_instruction();
                prop_assert_eq!(&row.id, &task.into_instruction().id);
            }
        }
    }
}

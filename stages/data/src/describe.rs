//! Rows of instructions -> what is said of a data set: how long its texts are, and what they ask for.
//!
//! The Okapi paper (Lai et al., 2023) gives the mean length of prompts and responses in each
//! language, counted in BLOOM's tokens (Table 2), and the most frequent root verbs of the English
//! instructions with their objects (Figure 1).
//!
//! A prompt is the instruction and the input with a line break between them, or the instruction alone
//! if the input is empty. The paper does not say how it joins them, nor whether it adds a template;
//! no template is added here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::DataError;
use crate::length::{Counter, Lengths, characters, describe_lengths, words};
use crate::root_verb::{RootVerb, root_verb};

/// What is said of one or several data sets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Of this format: 1.
    pub version: u32,
    /// By the key of the data set: `lang=de`.
    pub sets: BTreeMap<String, SetStatistics>,
}

impl Statistics {
    /// The format's version.
    pub const VERSION: u32 = 1;
}

/// What is said of one data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetStatistics {
    /// How many rows it has.
    pub rows: u64,
    /// The lengths of instructions with their inputs.
    pub prompt: TextLengths,
    /// The lengths of answers, where rows have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<TextLengths>,
    /// What the instructions ask for, where that was looked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_verbs: Option<RootVerbs>,
}

/// The lengths of the same texts in several units.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TextLengths {
    /// In tokens of a tokenizer, special ones left out, where one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Lengths>,
    /// In words, see [`words`].
    pub words: Lengths,
    /// In characters, see [`characters`].
    pub characters: Lengths,
    /// In bytes of UTF-8.
    pub bytes: Lengths,
}

/// The most frequent root verbs with their most frequent objects, as the figure shows them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RootVerbs {
    /// How many instructions have a root verb.
    pub with_verb: u64,
    /// How many have a root verb and an object.
    pub with_object: u64,
    /// The share of all rows, from 0 to 1, whose verb and object are shown; the paper has 0.114.
    pub covered_share: f64,
    /// The most frequent first, and of equally frequent ones in the order of the alphabet.
    pub verbs: Vec<VerbCount>,
}

/// A root verb with its most frequent objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerbCount {
    /// The verb.
    pub verb: String,
    /// How many instructions have it with an object, shown or not. Those without an object do not
    /// count, as in Self-Instruct's figure, after which the paper's is made.
    pub count: u64,
    /// The most frequent first.
    pub objects: Vec<ObjectCount>,
}

/// An object of a root verb.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectCount {
    /// The noun.
    pub object: String,
    /// How many instructions have it with the verb.
    pub count: u64,
}

/// How a data set is described.
#[derive(Clone, Copy)]
pub struct DescribeOptions<'o> {
    /// Counts the tokens of a text; without it tokens are left out.
    pub tokens: Option<Counter<'o>>,
    /// How many verbs and how many objects of each are shown; without it none are looked for.
    pub root_verbs: Option<(usize, usize)>,
    /// How many threads read and count.
    pub threads: usize,
}

/// Describes a file of [`crate::Instruction`]s or [`crate::Prompt`]s. `progress` hears the number of
/// rows now and then; if it says `false`, the work stops.
///
/// # Determinism
/// Neither the order of the rows nor the number of threads matters.
///
/// # Errors
/// When the file has no rows, a row does not fit, or only some rows have an answer.
pub fn describe(
    path: &Path,
    options: DescribeOptions<'_>,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<SetStatistics, DataError> {
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut found = Found::default();
    let mut lines = Vec::new();
    loop {
        read_lines(&mut reader, &mut lines)?;
        if lines.is_empty() {
            break;
        }
        let before = found.rows;
        let part = lines.len().div_ceil(options.threads.max(1));
        let parts: Vec<Result<Found, DataError>> = std::thread::scope(|scope| {
            let threads: Vec<_> = lines
                .chunks(part)
                .zip((before..).step_by(part))
                .map(|(lines, first)| scope.spawn(move || Found::of(lines, first, options)))
                .collect();
            let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
            // A thread's panic is this thread's.
            joined.map(|part| part.unwrap_or_else(|it| std::panic::resume_unwind(it))).collect()
        });
        for part in parts {
            found.add(part?);
        }
        if !progress(found.rows) {
            return Err(DataError::Io(std::io::ErrorKind::Interrupted.into()));
        }
    }
    found.summary(options)
}

/// How many rows are read before threads share them.
const BATCH: usize = 8192;

/// Reads the next lines that are not empty.
fn read_lines(reader: &mut impl BufRead, lines: &mut Vec<String>) -> Result<(), DataError> {
    lines.clear();
    while lines.len() < BATCH {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            break;
        }
        if !line.trim().is_empty() {
            lines.push(line);
        }
    }
    Ok(())
}

/// What matters of a row.
#[derive(Deserialize)]
struct Row {
    instruction: String,
    #[serde(default)]
    input: String,
    output: Option<String>,
}

impl Row {
    fn prompt(&self) -> String {
        match self.input.as_str() {
            "" => self.instruction.clone(),
            input => format!("{}\n{input}", self.instruction),
        }
    }
}

/// The lengths of texts, each in the order in which they came.
#[derive(Default)]
struct Measured {
    tokens: Vec<u64>,
    words: Vec<u64>,
    characters: Vec<u64>,
    bytes: Vec<u64>,
}

impl Measured {
    fn measure(&mut self, text: &str, tokens: Option<Counter<'_>>) -> Result<(), DataError> {
        if let Some(count) = tokens {
            self.tokens.push(count(text)? as u64);
        }
        self.words.push(words(text) as u64);
        self.characters.push(characters(text) as u64);
        self.bytes.push(text.len() as u64);
        Ok(())
    }

    fn add(&mut self, other: Measured) {
        self.tokens.extend(other.tokens);
        self.words.extend(other.words);
        self.characters.extend(other.characters);
        self.bytes.extend(other.bytes);
    }

    fn summary(self, tokens: bool) -> TextLengths {
        TextLengths {
            tokens: tokens.then(|| describe_lengths(self.tokens)),
            words: describe_lengths(self.words),
            characters: describe_lengths(self.characters),
            bytes: describe_lengths(self.bytes),
        }
    }
}

/// What was found in rows.
#[derive(Default)]
struct Found {
    rows: u64,
    prompt: Measured,
    response: Measured,
    /// How often each verb was found with each object, or without any.
    verbs: BTreeMap<RootVerb, u64>,
}

impl Found {
    /// Looks at lines, the first of which is the row after `before`.
    fn of(lines: &[String], before: u64, options: DescribeOptions<'_>) -> Result<Found, DataError> {
        let mut found = Found::default();
        for line in lines {
            found.rows += 1;
            let in_row =
                |message: String| DataError::Row { row: before + found.rows, field: None, message };
            let row: Row = serde_json::from_str(line).map_err(|error| in_row(error.to_string()))?;
            found
                .prompt
                .measure(&row.prompt(), options.tokens)
                .map_err(|error| in_row(error.to_string()))?;
            if let Some(output) = &row.output {
                found
                    .response
                    .measure(output, options.tokens)
                    .map_err(|error| in_row(error.to_string()))?;
            }
            if options.root_verbs.is_some()
                && let Some(root) = root_verb(&row.instruction)
            {
                *found.verbs.entry(root).or_default() += 1;
            }
        }
        Ok(found)
    }

    fn add(&mut self, other: Found) {
        self.rows += other.rows;
        self.prompt.add(other.prompt);
        self.response.add(other.response);
        for (root, count) in other.verbs {
            *self.verbs.entry(root).or_default() += count;
        }
    }

    fn summary(self, options: DescribeOptions<'_>) -> Result<SetStatistics, DataError> {
        if self.rows == 0 {
            return Err(DataError::File("it has no rows".into()));
        }
        let answered = self.response.bytes.len() as u64;
        if answered != 0 && answered != self.rows {
            return Err(DataError::File(format!(
                "{answered} of {} rows have an `output`; all have to, or none",
                self.rows
            )));
        }
        let tokens = options.tokens.is_some();
        Ok(SetStatistics {
            rows: self.rows,
            root_verbs: options
                .root_verbs
                .map(|(verbs, objects)| most_frequent(&self.verbs, self.rows, verbs, objects)),
            prompt: self.prompt.summary(tokens),
            response: (answered > 0).then(|| self.response.summary(tokens)),
        })
    }
}

/// The most frequent of the verbs that have an object, with their most frequent objects.
fn most_frequent(
    roots: &BTreeMap<RootVerb, u64>,
    rows: u64,
    verbs: usize,
    objects: usize,
) -> RootVerbs {
    let mut by_verb: BTreeMap<&str, Vec<ObjectCount>> = BTreeMap::new();
    for (root, &count) in roots {
        if let Some(object) = &root.object {
            let object = ObjectCount { object: object.clone(), count };
            by_verb.entry(&root.verb).or_default().push(object);
        }
    }
    // Both sorts are stable: what is equally frequent stays in the order of the alphabet.
    let mut counts: Vec<VerbCount> = by_verb
        .into_iter()
        .map(|(verb, mut found)| {
            let count = found.iter().map(|object| object.count).sum();
            found.sort_by_key(|object| std::cmp::Reverse(object.count));
            found.truncate(objects);
            VerbCount { verb: verb.to_owned(), count, objects: found }
        })
        .collect();
    let with_object = counts.iter().map(|verb| verb.count).sum();
    counts.sort_by_key(|verb| std::cmp::Reverse(verb.count));
    counts.truncate(verbs);
    let shown: u64 = counts.iter().flat_map(|verb| &verb.objects).map(|object| object.count).sum();
    RootVerbs {
        with_verb: roots.values().sum(),
        with_object,
        covered_share: shown as f64 / rows as f64,
        verbs: counts,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn try_describe(rows: &[Value], options: DescribeOptions<'_>) -> Result<SetStatistics, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let lines: Vec<String> = rows.iter().map(|row| format!("{row}\n")).collect();
        std::fs::write(&path, lines.concat()).unwrap();
        describe(&path, options, &mut |_| true).map_err(|error| error.to_string())
    }

    /// Counts letters a, for want of a tokenizer.
    fn letters(text: &str) -> Result<usize, DataError> {
        match text.contains('#') {
            true => Err(DataError::File("a # has no token".into())),
            false => Ok(text.matches('a').count()),
        }
    }

    const OPTIONS: DescribeOptions<'_> =
        DescribeOptions { tokens: Some(&letters), root_verbs: Some((1, 1)), threads: 2 };

    #[test]
    fn prompts_are_instructions_with_their_inputs() {
        let rows = [
            json!({"id": "0", "instruction": "Say äa.", "input": "b a", "output": "aaa"}),
            json!({"id": "1", "instruction": "Ask.", "input": "", "output": ""}),
        ];
        let described = try_describe(&rows, OPTIONS).unwrap();
        assert_eq!(described.rows, 2);
        let prompt = described.prompt;
        assert_eq!((prompt.tokens.unwrap().max, prompt.tokens.unwrap().mean), (3, 1.5));
        assert_eq!((prompt.words.max, prompt.characters.max, prompt.bytes.max), (4, 11, 12));
        assert_eq!(described.response.unwrap().characters.mean, 1.5);
        let plain = DescribeOptions { tokens: None, root_verbs: None, threads: 1 };
        let described = try_describe(&[json!({"id": "0", "instruction": "a"})], plain).unwrap();
        let mut shown = serde_json::to_value(described).unwrap();
        let one = json!({"mean": 1.0, "median": 1, "p95": 1, "max": 1});
        assert_eq!(
            shown.take(),
            json!({"rows": 1, "prompt": {"words": one, "characters": one, "bytes": one}})
        );
    }

    #[test]
    fn the_most_frequent_verbs_have_their_most_frequent_objects() {
        let rows: Vec<Value> = [
            ("Write a poem.", 3),
            ("Write an essay.", 3),
            ("Write a letter.", 1),
            ("List five rivers.", 4),
            ("Explain why.", 9),
            ("What is it?", 5),
        ]
        .iter()
        .flat_map(|&(text, count)| vec![json!({"id": "", "instruction": text}); count])
        .collect();
        let found = try_describe(&rows, OPTIONS).unwrap().root_verbs.unwrap();
        assert_eq!((found.with_verb, found.with_object, found.covered_share), (20, 11, 3.0 / 25.0));
        let essay = ObjectCount { object: "essay".into(), count: 3 };
        let write = VerbCount { verb: "write".into(), count: 7, objects: vec![essay] };
        assert_eq!(found.verbs, [write]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let good = json!({"instruction": "a", "output": "b"});
        for (rows, expected) in [
            (vec![], "it has no rows"),
            (vec![good.clone(), json!({"instruction": 1})], "row 2: invalid type: integer `1`"),
            (vec![json!({"instruction": "#"})], "row 1: a # has no token"),
            (
                vec![good, json!({"instruction": "c"})],
                "1 of 2 rows have an `output`; all have to, or none",
            ),
        ] {
            let error = try_describe(&rows, OPTIONS).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn neither_order_nor_threads_matter(
            rows in prop::collection::vec(
                (
                    prop::sample::select(vec![
                        "Write a poem.", "Write a story.", "List cats.", "Why?", "Sing!", "日本",
                    ]),
                    "[a-c ]{0,6}",
                    "[a-c ]{0,6}",
                ),
                1..40,
            ),
            turn in 0_usize..40,
            threads in 1_usize..5,
        ) {
            let mut rows: Vec<Value> = rows
                .iter()
                .map(|(instruction, input, output)| {
                    json!({"instruction": instruction, "input": input, "output": output})
                })
                .collect();
            let options = DescribeOptions { root_verbs: Some((2, 2)), ..OPTIONS };
            let described = try_describe(&rows, options).unwrap();
            let turn = turn % rows.len();
            rows.rotate_left(turn);
            rows[turn..].reverse();
            let again = try_describe(&rows, DescribeOptions { threads, ..options }).unwrap();
            prop_assert_eq!(described, again);
        }
    }
}

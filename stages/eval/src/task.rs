//! What is asked of a model: questions as a protocol puts them, with examples before them.

use okapi_data::{Question, Task};

use crate::error::{EvalError, name};
use crate::few_shot::{self, Drawn};
use crate::{arc, hellaswag, mmlu};

/// Which of the harness's tasks of a benchmark is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edition {
    /// Those of the English originals: `arc_challenge`, `hellaswag`, `mmlu`.
    Original,
    /// Those of the translations that Okapi's authors made, for whatever language: `arc_de`,
    /// `hellaswag_de`, `m_mmlu_de`.
    Translated,
}

/// Whose prompts, examples and tokens are used. Scores of different protocols cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// EleutherAI's lm-evaluation-harness, as of its version 0.4.13.
    Harness(Edition),
    /// The fork of its version 0.3.0 that is behind the tables of the Okapi paper.
    Authors,
}

impl Protocol {
    /// The seed of the examples that are drawn, where nothing else is said.
    pub fn seed(self) -> u64 {
        match self {
            Protocol::Harness(_) => 1234,
            Protocol::Authors => 42,
        }
    }

    /// Examples before each question, where nothing else is said. The harness's tasks name none.
    pub fn shots(self, task: Task) -> usize {
        match (self, task) {
            (Protocol::Harness(_), _) | (Protocol::Authors, Task::HellaSwag) => 0,
            (Protocol::Authors, Task::Arc | Task::Mmlu) => 25,
        }
    }
}

/// What is evaluated, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The benchmark.
    pub task: Task,
    /// Whose rules hold.
    pub protocol: Protocol,
    /// Examples before each question.
    pub shots: usize,
    /// Of so many questions only, the first in the protocol's order. Where subjects are tasks of their own, of
    /// each subject.
    pub limit: Option<usize>,
    /// What examples are drawn with, and the authors' order of questions.
    pub seed: u64,
}

impl Setting {
    /// A protocol as it stands.
    pub fn new(task: Task, protocol: Protocol) -> Setting {
        let (shots, seed) = (protocol.shots(task), protocol.seed());
        Setting { task, protocol, shots, limit: None, seed }
    }

    /// Whether each subject of the questions is a task of its own.
    pub fn is_by_subject(&self) -> bool {
        self.task == Task::Mmlu && self.protocol == Protocol::Harness(Edition::Original)
    }
}

/// A question as a protocol puts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// What stands before a choice.
    pub(crate) query: String,
    /// The texts of which one follows, after one space.
    pub(crate) choices: Vec<String>,
    /// The place of the right one.
    pub(crate) target: usize,
}

impl Asked {
    /// The question and its answer, as an example for others.
    fn as_example(&self, id: &str) -> Result<String, EvalError> {
        let Asked { query, choices, target } = self;
        let right = choices.get(*target).ok_or_else(|| {
            let message = format!("its answer is choice {} of {}", target + 1, choices.len());
            EvalError::question(id, message)
        })?;
        Ok(format!("{query} {right}\n\n"))
    }
}

/// One question with all that stands before it, and the texts whose probability is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The place of the question among those given.
    pub number: usize,
    /// The places of its examples among those given, in their order.
    pub examples: Vec<usize>,
    /// Description, examples, question.
    pub context: String,
    /// Bytes of the context that stand before the question, which other items may have too.
    pub preface: usize,
    /// What may follow, without the space before it.
    pub choices: Vec<String>,
    /// The place of the right choice.
    pub gold: usize,
}

impl Item {
    /// What is scored: each choice after one space.
    pub fn continuations(&self) -> impl Iterator<Item = String> {
        self.choices.iter().map(|choice| format!(" {choice}"))
    }
}

/// The items of an evaluation, in the protocol's order.
///
/// `examples` are those of the split that the protocol takes them from: of ARC the training split; of MMLU the
/// development split (`authors`: the validation split); of HellaSwag's original the training split. Translations
/// of HellaSwag, and the authors' fork, take them from `questions` themselves, never the one that is asked.
///
/// # Errors
/// When a question is not of the benchmark or lacks what its prompt needs, or examples are too few.
pub fn items(
    setting: &Setting,
    questions: &[Question],
    examples: &[Question],
) -> Result<Vec<Item>, EvalError> {
    let examples = match setting.task {
        Task::HellaSwag if setting.protocol != Protocol::Harness(Edition::Original) => questions,
        _ => examples,
    };
    let asked = ask_all(setting, questions)?;
    // Without shots nothing is read of the examples, and nothing can be wrong with them.
    let (examples, shown) = match setting.shots {
        0 => (&[][..], Vec::new()),
        _ => (examples, ask_all(setting, examples)?),
    };
    let drawn = few_shot::draw(setting, (questions, &asked), (examples, &shown))?;
    let shown: Vec<String> = shown
        .iter()
        .zip(examples)
        .map(|(asked, question)| asked.as_example(&question.id))
        .collect::<Result<_, _>>()?;
    let item = |Drawn { question: number, examples }| {
        let Asked { query, choices, target } = &asked[number];
        let subject = questions[number].subject.as_deref().filter(|_| setting.is_by_subject());
        let mut context = subject.map(mmlu::description).unwrap_or_default();
        context.extend(examples.iter().map(|example| shown[*example].as_str()));
        let preface = context.len();
        context.push_str(query);
        Item { number, examples, context, preface, choices: choices.clone(), gold: *target }
    };
    Ok(drawn.into_iter().map(item).collect())
}

fn ask_all(setting: &Setting, questions: &[Question]) -> Result<Vec<Asked>, EvalError> {
    questions.iter().map(|question| ask(setting, question)).collect()
}

fn ask(setting: &Setting, question: &Question) -> Result<Asked, EvalError> {
    let Question { id, task, choices, answer, .. } = question;
    if *task != setting.task {
        let (id, found) = (id.clone(), *task);
        return Err(EvalError::OtherTask { id, found, expected: setting.task });
    }
    if *answer >= choices.len() {
        let message = format!("its answer is choice {} of {}", answer + 1, choices.len());
        return Err(EvalError::question(id, message));
    }
    if setting.is_by_subject() && question.subject.is_none() {
        let message =
            format!("it has no `subject`, by which the original {} is asked", name(*task));
        return Err(EvalError::question(id, message));
    }
    let asked = match task {
        Task::Arc => arc::ask(setting.protocol, question),
        Task::HellaSwag => hellaswag::ask(question)?,
        Task::Mmlu => mmlu::ask(setting.protocol, question)?,
    };
    match asked.choices.is_empty() {
        true => Err(EvalError::question(id, "all of its choices are empty; leave it out")),
        false => Ok(asked),
    }
}

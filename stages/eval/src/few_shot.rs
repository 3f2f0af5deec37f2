//! Which examples stand before which question, and in which order questions are asked.

use std::collections::BTreeMap;

use okapi_data::{Question, Task};

use crate::error::EvalError;
use crate::python_random::PythonRandom;
use crate::task::{Asked, Protocol, Setting};

/// A question with its examples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Drawn {
    /// Its place.
    pub(crate) question: usize,
    /// Their places, in their order.
    pub(crate) examples: Vec<usize>,
}

/// Questions or examples, as they came and as they are put.
type Rows<'a> = (&'a [Question], &'a [Asked]);

/// Draws the examples of every question, in the order in which questions are asked.
pub(crate) fn draw(
    setting: &Setting,
    questions: Rows<'_>,
    examples: Rows<'_>,
) -> Result<Vec<Drawn>, EvalError> {
    if setting.shots > 0 && examples.0.is_empty() {
        let split = match (setting.task, setting.protocol) {
            (Task::Mmlu, Protocol::Harness(_)) => {
                "development split (`dev`, or `train` of the translations)"
            }
            (Task::Mmlu, Protocol::Authors) => "validation split",
            _ => "training split",
        };
        return Err(EvalError::NoExamples { shots: setting.shots, split });
    }
    match (setting.protocol, setting.task) {
        (Protocol::Harness(_), Task::Mmlu) => first(setting, questions.0, examples.0),
        (Protocol::Harness(_), Task::Arc | Task::HellaSwag) => {
            harness(setting, questions.0, examples.0)
        }
        (Protocol::Authors, _) => authors(setting, questions.1, examples.1),
    }
}

/// MMLU in the harness: the same for all questions, or for all of a subject: the first that there are.
fn first(
    setting: &Setting,
    questions: &[Question],
    examples: &[Question],
) -> Result<Vec<Drawn>, EvalError> {
    let Setting { shots, .. } = *setting;
    let subject = |question: &Question| match setting.is_by_subject() {
        true => question.subject.clone(),
        false => None,
    };
    let mut found: BTreeMap<Option<String>, Vec<usize>> = BTreeMap::new();
    for (place, example) in examples.iter().enumerate() {
        found.entry(subject(example)).or_default().push(place);
    }
    let mut asked: BTreeMap<Option<String>, usize> = BTreeMap::new();
    let mut drawn = Vec::new();
    for (number, question) in questions.iter().enumerate() {
        let subject = subject(question);
        let asked = asked.entry(subject.clone()).or_default();
        if setting.limit.is_some_and(|limit| *asked >= limit) {
            continue;
        }
        *asked += 1;
        let of = subject.as_ref().map(|subject| format!(" of the subject `{subject}`"));
        let found = found.get(&subject).map(Vec::as_slice).unwrap_or_default();
        let examples = found.get(..shots).ok_or_else(|| EvalError::FewExamples {
            wanted: shots,
            found: found.len(),
            of: of.unwrap_or_default(),
        })?;
        drawn.push(Drawn { question: number, examples: examples.to_vec() });
    }
    Ok(drawn)
}

/// ARC and HellaSwag in the harness: questions in their order, and for each a sample by one generator.
fn harness(
    setting: &Setting,
    questions: &[Question],
    examples: &[Question],
) -> Result<Vec<Drawn>, EvalError> {
    let Setting { shots, limit, seed, .. } = *setting;
    let mut random = PythonRandom::new(seed);
    // HellaSwag's tasks name no split of examples and no split of tests, which the harness takes for the same
    // split: it draws one more, and leaves out the question itself, also where they come from elsewhere.
    let draws_one_more = setting.task == Task::HellaSwag;
    let asked = questions.iter().enumerate().take(limit.unwrap_or(usize::MAX));
    asked
        .map(|(number, question)| {
            if shots == 0 {
                return Ok(Drawn { question: number, examples: Vec::new() });
            }
            if !draws_one_more {
                let examples = sample(&mut random, examples.len(), shots)?;
                return Ok(Drawn { question: number, examples });
            }
            let mut drawn = sample(&mut random, examples.len(), shots + 1)?;
            drawn.retain(|place| examples[*place] != *question);
            drawn.truncate(shots);
            if drawn.len() < shots {
                // It was there more than once: again, from all others.
                let is_other = |place: &usize| examples[*place] != *question;
                let others: Vec<usize> = (0..examples.len()).filter(is_other).collect();
                let places = sample(&mut random, others.len(), shots)?;
                drawn = places.into_iter().map(|place| others[place]).collect();
            }
            Ok(Drawn { question: number, examples: drawn })
        })
        .collect()
}

/// The authors' fork: questions are shuffled, and the same generator goes on to draw for each of them.
fn authors(
    setting: &Setting,
    questions: &[Asked],
    examples: &[Asked],
) -> Result<Vec<Drawn>, EvalError> {
    let Setting { shots, limit, seed, .. } = *setting;
    let mut random = PythonRandom::new(seed);
    let mut order: Vec<usize> = (0..questions.len()).collect();
    random.shuffle(&mut order);
    order.truncate(limit.unwrap_or(usize::MAX));
    // Only ARC has a training split there. Where examples come from elsewhere, one more is drawn, and what reads
    // as the question itself is left out; there may then be fewer.
    let draws_one_more = setting.task != Task::Arc;
    order
        .into_iter()
        .map(|question| {
            let mut drawn = match shots {
                0 => Vec::new(),
                _ => sample(&mut random, examples.len(), shots + usize::from(draws_one_more))?,
            };
            if draws_one_more {
                drawn.retain(|place| examples[*place] != questions[question]);
                drawn.truncate(shots);
            }
            Ok(Drawn { question, examples: drawn })
        })
        .collect()
}

fn sample(random: &mut PythonRandom, found: usize, wanted: usize) -> Result<Vec<usize>, EvalError> {
    let of = String::new();
    random.sample(found, wanted).ok_or(EvalError::FewExamples { wanted, found, of })
}

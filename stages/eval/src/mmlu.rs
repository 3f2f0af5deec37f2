//! MMLU: a question with its four choices. The harness scores the letter of a choice, the authors' fork its
//! whole text.

use okapi_data::Question;

use crate::error::EvalError;
use crate::python_text::strip;
use crate::task::{Asked, Protocol};

const LETTERS: [&str; 4] = ["A", "B", "C", "D"];

/// A question as a protocol puts it.
pub(crate) fn ask(protocol: Protocol, question: &Question) -> Result<Asked, EvalError> {
    let count = question.choices.len();
    if count != LETTERS.len() {
        let message = format!("it has {count} choices, and MMLU's prompt wants 4; leave it out");
        return Err(EvalError::question(&question.id, message));
    }
    let lettered = LETTERS.iter().zip(&question.choices);
    let choices: String =
        lettered.map(|(letter, choice)| format!("{letter}. {choice}\n")).collect();
    let target = question.answer;
    Ok(match protocol {
        Protocol::Harness(_) => Asked {
            query: format!("{}\n{choices}Answer:", strip(&question.question)),
            choices: LETTERS.map(str::to_owned).to_vec(),
            target,
        },
        Protocol::Authors => Asked {
            query: format!("Question: {}\nChoices:\n{choices}Answer:", question.question),
            choices: question.choices.clone(),
            target,
        },
    })
}

/// What the harness puts before the examples of a subject, where subjects are tasks of their own.
pub(crate) fn description(subject: &str) -> String {
    let subject = subject.replace('_', " ");
    format!("The following are multiple choice questions (with answers) about {subject}.\n\n")
}

//! ARC: a question, and each choice's text as its continuation.

use okapi_data::Question;

use crate::hellaswag::clean;
use crate::task::{Asked, Edition, Protocol};

/// A question as a protocol puts it.
pub(crate) fn ask(protocol: Protocol, question: &Question) -> Asked {
    // The harness cleans translated questions by HellaSwag's rules, which takes brackets from some that need
    // them; it is what its published scores are made with.
    let is_cleaned = protocol == Protocol::Harness(Edition::Translated);
    let text = |text: &str| if is_cleaned { clean(text) } else { text.to_owned() };
    let choices = question.choices.iter().filter(|choice| !(is_cleaned && choice.is_empty()));
    Asked {
        query: format!("Question: {}\nAnswer:", text(&question.question)),
        choices: choices.map(|choice| text(choice)).collect(),
        target: question.answer,
    }
}

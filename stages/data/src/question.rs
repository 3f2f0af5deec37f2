//! Multiple-choice questions.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::DataError;
use crate::fit::{Fit, SourceFields};

/// The benchmark that a question is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// AI2 Reasoning Challenge.
    Arc,
    /// HellaSwag.
    HellaSwag,
    /// Massive Multitask Language Understanding.
    Mmlu,
}

/// A question with its choices, one of them right.
///
/// Layouts that are understood, for each benchmark: the English originals on the Hugging Face hub
/// (ARC with `choices.text` and `choices.label`; HellaSwag with `ctx_a`, `ctx_b`, `endings`,
/// `label`; MMLU with `question`, `choices`, `answer`, `subject`), the translations as Okapi's
/// authors released them (`choices` a list, `answerKey`), and their mirror with `instruction`,
/// `option_a` to `option_e` and `answer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Unique in its file.
    pub id: String,
    /// The benchmark.
    pub task: Task,
    /// The question, or the beginning that is to be continued.
    pub question: String,
    /// The choices, at least two.
    pub choices: Vec<String>,
    /// The place of the right choice, from 0.
    pub answer: usize,
    /// MMLU's subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// HellaSwag's parts, from which the protocols build their own beginnings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hellaswag: Option<HellaSwagContext>,
}

/// The parts of a HellaSwag beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HellaSwagContext {
    /// What is going on.
    pub activity_label: String,
    /// The first sentences.
    pub ctx_a: String,
    /// The begun last sentence, perhaps empty.
    pub ctx_b: String,
}

const OPTIONS: [&str; 5] = ["option_a", "option_b", "option_c", "option_d", "option_e"];

impl Fit for Question {
    const FIELDS: &'static [&'static str] =
        &["id", "question", "choices", "answer", "subject", "labels"];

    fn fit(source: &mut SourceFields<'_>) -> Result<Question, DataError> {
        if source.has("endings") {
            return hellaswag(source);
        }
        let question = source.text("question", &["question", "instruction"])?;
        let (choices, labels) = choices(source)?;
        if choices.len() < 2 {
            return Err(source.error("choices", &["choices"], "fewer than two choices"));
        }
        let answer = answer(source, &labels, choices.len())?;
        let subject = source.optional_text("subject", &["subject"])?;
        let id = source.id()?;
        // The mirror's ids begin with the data set's name; only ARC has `answerKey` or a fifth
        // option.
        let is_arc = id.starts_with("ARC-") || source.has("answerKey") || source.has("option_e");
        let task = if is_arc { Task::Arc } else { Task::Mmlu };
        Ok(Question { id, task, question, choices, answer, subject, hellaswag: None })
    }
}

fn hellaswag(source: &mut SourceFields<'_>) -> Result<Question, DataError> {
    let context = HellaSwagContext {
        activity_label: source.text("activity_label", &["activity_label"])?,
        ctx_a: source.text("ctx_a", &["ctx_a"])?,
        ctx_b: source.optional_text("ctx_b", &["ctx_b"])?.unwrap_or_default(),
    };
    let choices = source.texts("choices", &["endings"])?;
    if choices.len() < 2 {
        return Err(source.error("choices", &["endings"], "fewer than two endings"));
    }
    let question = match source.optional_text("question", &["ctx"])? {
        Some(whole) => whole,
        None => format!("{} {}", context.ctx_a, context.ctx_b).trim_end().to_owned(),
    };
    let answer = answer(source, &[], choices.len())?;
    let id = match source.has("id") {
        true => source.id()?,
        false => source
            .value("ind", &["ind"])
            .map_or_else(|| (source.row() - 1).to_string(), ToString::to_string),
    };
    Ok(Question {
        id,
        task: Task::HellaSwag,
        question,
        choices,
        answer,
        subject: None,
        hellaswag: Some(context),
    })
}

/// The choices and, where the layout has them, their labels.
fn choices(source: &mut SourceFields<'_>) -> Result<(Vec<String>, Vec<String>), DataError> {
    if source.value("choices", &["choices"]).is_none() && source.has(OPTIONS[0]) {
        let mut choices = Vec::new();
        for name in OPTIONS {
            // Questions with fewer choices leave the last ones empty.
            if let Some(choice) = source.optional_text(name, &[name])? {
                choices.push(choice);
            }
        }
        return Ok((choices, Vec::new()));
    }
    if source.has("choices.text") {
        let labels = source.texts("labels", &["choices.label"])?;
        return Ok((source.texts("choices", &["choices.text"])?, labels));
    }
    let labels = match source.value("labels", &[]) {
        Some(_) => source.texts("labels", &[])?,
        None => Vec::new(),
    };
    Ok((source.texts("choices", &["choices"])?, labels))
}

/// The place of the right choice: by label, by letter, or by number (from 0, as MMLU and HellaSwag
/// count; a digit in a text counts from 1, as ARC's labels do, unless it is HellaSwag's label).
fn answer(
    source: &mut SourceFields<'_>,
    labels: &[String],
    count: usize,
) -> Result<usize, DataError> {
    let names = &["answerKey", "answer", "label"];
    let hellaswag = source.has("endings");
    let place = match source.value("answer", names) {
        None => return Err(source.error("answer", names, "it is missing")),
        Some(Value::Number(number)) => number.as_u64().map(|number| number as usize),
        Some(Value::String(key)) if key.is_empty() => {
            let message = "it is empty: this split has no answers";
            return Err(source.error("answer", names, message));
        }
        Some(Value::String(key)) if !labels.is_empty() => {
            labels.iter().position(|label| label == key)
        }
        Some(Value::String(key)) => match (key.as_bytes(), key.parse::<usize>()) {
            (_, Ok(number)) if hellaswag => Some(number),
            (_, Ok(number)) => number.checked_sub(1),
            ([letter @ b'A'..=b'Z'], _) => Some(usize::from(letter - b'A')),
            _ => None,
        },
        Some(_) => None,
    };
    match place {
        Some(place) if place < count => Ok(place),
        _ => {
            let shown = source.value("answer", names).map(ToString::to_string).unwrap_or_default();
            let message = format!("{shown} names none of the {count} choices");
            Err(source.error("answer", names, message))
        }
    }
}

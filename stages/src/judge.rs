//! `judge`: a teacher rates answers.

use std::collections::BTreeMap;

use okapi_data::Response;
use okapi_data::prompt_template::PromptTemplate;
use okapi_data::verdict::{Judgement, parse_rating};
use okapi_engine::estimate::{Estimate, EstimateQuestion, RowsEstimate};
use okapi_engine::port::{Accepts, PortKind};
use okapi_engine::stage::{
    Determinism, InputPort, Inputs, NodeField, OutputKind, OutputPort, Outputs, Param,
    PromptMistake, PromptSlot, Stage, StageDescriptor,
};
use okapi_engine::stage_context::{StageContext, StageError, StageSuccess};
use okapi_teacher::ask::{Invalid, Unanswered, ask};
use okapi_teacher::{Caller, Request, TeacherError};
use serde::Serialize;
use serde_json::{Value, json};

use crate::asking::{
    ATTEMPTS, Aside, MAX_REJECT_RATE, SharedTeachers, check_template, converse, estimate_rows,
    finish, note_used, read_rows, render, single, template, unanswered, write_row,
};
use crate::identify_language::LanguageScore;
use crate::lengths;

/// The stage.
pub(crate) struct Judge(pub(crate) SharedTeachers);

const DOCUMENTATION: &str = "\
A teacher rates every answer from 1 to 3, as in the second paper: it explains first and then writes
`[[n]]`. Anything else (no explanation, no rating in double brackets, a rating out of bounds, two different
ones) is asked for again (`attempts` times in all), and then the answer is set aside on `rejects`.

With `languages`, the scores of `identify_language` for the same answers, the final score of an answer is its
rating if it is in the language asked for, and 0 if not. The metric `score` is their sum: 0 to 150 for 50
prompts. Without it every answer counts as being in its language.

Each row of `scores` has the `id` of the prompt, the number of the `response` (from 0), the `rating`, the
`explanation`, `in_language` and the final `score`.";

static PROMPTS: [PromptSlot; 1] = [PromptSlot {
    name: "judge",
    variables: &[
        ("instruction", "the instruction, with its input if it has one"),
        ("response", "the answer to it"),
    ],
    help: "asks for an explanation and a rating",
}];

static PARAMS: [Param; 2] = [ATTEMPTS, MAX_REJECT_RATE];

static DESCRIPTOR: StageDescriptor = StageDescriptor {
    name: "judge",
    version: 1,
    summary: "a teacher rates answers from 1 to 3",
    documentation: DOCUMENTATION,
    inputs: Inputs::Fixed(&[
        InputPort {
            name: "responses",
            accepts: Accepts::Kinds(&[PortKind::Responses]),
            required: true,
            gathers: false,
            help: "prompts with their answers",
        },
        InputPort {
            name: "languages",
            accepts: Accepts::Kinds(&[PortKind::Scores]),
            required: false,
            gathers: false,
            help: "whether each answer is in its language, from `identify_language`",
        },
    ]),
    outputs: Outputs::Fixed(&[
        OutputPort {
            name: "scores",
            kind: OutputKind::Fixed(PortKind::Scores),
            help: "one row per answer",
        },
        OutputPort {
            name: "rejects",
            kind: OutputKind::Fixed(PortKind::Rejects),
            help: "answers set aside, with what is wrong with the judgement",
        },
    ]),
    params: &PARAMS,
    prompts: &PROMPTS,
    fields: &[NodeField::Teacher, NodeField::Prompts],
    determinism: Determinism::Unknown,
};

/// Tokens of an explanation with its rating.
const JUDGEMENT_TOKENS: u64 = 40;
const JUDGEMENTS_ASSUMED: &str = "a judgement, an explanation with a rating, has 40 tokens";

/// A row of the scores.
#[derive(Serialize)]
struct Score<'a> {
    id: &'a str,
    response: usize,
    rating: u32,
    explanation: &'a str,
    in_language: bool,
    score: u32,
}

/// One answer to be judged.
struct Item<'a> {
    row: &'a Response,
    response: usize,
    text: &'a str,
}

impl Stage for Judge {
    fn descriptor(&self) -> &'static StageDescriptor {
        &DESCRIPTOR
    }

    fn check_prompt(&self, slot: &PromptSlot, text: &str) -> Result<(), PromptMistake> {
        check_template(slot, text, &sample()).map(|_| ())
    }

    fn limiting_service(&self, declared: &Value, settings: &Value) -> Option<String> {
        crate::teachers::limiting_service(declared, settings)
    }

    fn estimate(&self, question: &EstimateQuestion<'_>) -> Option<Estimate> {
        let template = template(&question.prompts["judge"], &PROMPTS[0], &sample()).ok()?;
        let ask = |row: &Response, _: &dyn Fn(&Request) -> Option<String>| {
            let requests =
                row.responses.iter().filter_map(|text| request(&template, row, text).ok());
            requests.map(|request| (request, JUDGEMENT_TOKENS, 0)).collect()
        };
        let empty = Response {
            id: String::new(),
            instruction: String::new(),
            input: String::new(),
            responses: Vec::new(),
            ended: Vec::new(),
        };
        let around =
            request(&template, &empty, "").ok().map(|request| request.estimated_tokens() as f64);
        let usual = |rows: &RowsEstimate| {
            let Some(around) = around else { return Vec::new() };
            let tokens = around + rows.prompt_tokens + lengths::usual_response(rows);
            vec![(tokens, JUDGEMENT_TOKENS as f64); rows.responses.round() as usize]
        };
        let mut estimate = estimate_rows(question, "responses", &[], ask, usual)?;
        if estimate.requests > 0 {
            estimate.assumptions.push(JUDGEMENTS_ASSUMED);
        }
        Some(estimate)
    }

    fn run(&self, context: &mut StageContext<'_>) -> Result<StageSuccess, StageError> {
        let attempts = context.declared["params"]["attempts"].as_u64().unwrap_or(3) as u32;
        let template = template(&context.prompts["judge"], &PROMPTS[0], &sample())?;
        let rows: Vec<Response> = read_rows(single(context, "responses")?)?;
        let items: Vec<Item<'_>> = rows
            .iter()
            .flat_map(|row| {
                let responses = row.responses.iter().enumerate();
                responses.map(move |(response, text)| Item { row, response, text })
            })
            .collect();
        let languages = languages(context, &items)?;
        let mut scores = context.create_output("scores")?;
        let mut aside = Aside::new(context)?;
        let (mut ratings, mut sum) = (0u64, 0u64);
        let each = async |caller: &Caller<'_>, item: &Item<'_>| {
            let request = request(&template, item.row, item.text)?;
            let check = |answer: &str| {
                parse_rating(answer).map_err(|detail| Invalid::new("rating", detail))
            };
            Ok(ask(caller, &request, attempts, check).await?.map(|(judgement, _)| judgement))
        };
        let done = |place: usize, outcome: Result<Judgement, Unanswered>| {
            let Item { row, response, text } = items[place];
            match outcome {
                Ok(Judgement { explanation, rating }) => {
                    let in_language = languages.as_ref().is_none_or(|it| it[place]);
                    let score = if in_language { rating } else { 0 };
                    ratings += u64::from(rating);
                    sum += u64::from(score);
                    let explanation = &explanation;
                    let id = &row.id;
                    write_row(
                        &mut scores,
                        &Score { id, response, rating, explanation, in_language, score },
                    )
                }
                Err(failed) => {
                    let row_there = json!({ "row": row, "response": response, "text": text });
                    aside.add(context, &unanswered(&row.id, row_there, failed))
                }
            }
        };
        let used = converse(context, &self.0, &items, "answers", &each, done)?;
        let mut success = StageSuccess::default();
        let asked = items.len() as u64;
        let judged = asked - aside.count();
        note_used(&used, &mut success);
        success.metrics.insert("answers".to_owned(), judged as f64);
        success.metrics.insert("rating_sum".to_owned(), ratings as f64);
        success.metrics.insert("score".to_owned(), sum as f64);
        let rejects = aside.finish(context, context.declared, asked, &mut success)?;
        finish(context, &mut success, vec![("scores", scores), ("rejects", rejects)])?;
        Ok(success)
    }
}

/// Whether each answer is in its language, if that is known.
fn languages(
    context: &StageContext<'_>,
    items: &[Item<'_>],
) -> Result<Option<Vec<bool>>, StageError> {
    if !context.inputs.contains_key("languages") {
        return Ok(None);
    }
    let scores: Vec<LanguageScore> = read_rows(single(context, "languages")?)?;
    let by_answer: BTreeMap<(&str, usize), bool> = scores
        .iter()
        .map(|score| ((score.id.as_str(), score.response), score.in_language))
        .collect();
    let found = items.iter().map(|item| {
        by_answer.get(&(item.row.id.as_str(), item.response)).copied().ok_or_else(|| {
            StageError::failed(format!(
                "`languages` has no row for answer {} of prompt {}: was it made of the same responses?",
                item.response, item.row.id
            ))
        })
    });
    found.collect::<Result<Vec<_>, _>>().map(Some)
}

fn request(template: &PromptTemplate, row: &Response, text: &str) -> Result<Request, TeacherError> {
    let instruction = match row.input.as_str() {
        "" => row.instruction.clone(),
        input => format!("{}\n\n{input}", row.instruction),
    };
    let values = json!({ "instruction": instruction, "response": text });
    Ok(Request::new(render(template, &values)?))
}

fn sample() -> Value {
    json!({ "instruction": "Name a colour.", "response": "Red." })
}

//! `rank`: a teacher says which of several answers is best.

use okapi_data::language::Language;
use okapi_data::prompt_template::PromptTemplate;
use okapi_data::verdict::{kendall_tau, parse_ranks};
use okapi_data::{Ranking, Response};
use okapi_engine::estimate::{Estimate, EstimateQuestion, RowsEstimate};
use okapi_engine::port::{Accepts, PortKind};
use okapi_engine::stage::{
    Determinism, InputPort, Inputs, NodeField, OutputKind, OutputPort, Outputs, Param,
    ParamDefault, ParamType, PromptMistake, PromptSlot, Stage, StageDescriptor,
};
use okapi_engine::stage_context::{StageContext, StageError, StageSuccess};
use okapi_teacher::ask::{Invalid, Unanswered, ask};
use okapi_teacher::{Caller, Message, Request, TeacherError, estimated_tokens};
use serde_json::{Value, json};

use crate::asking::{
    ATTEMPTS, Aside, MAX_REJECT_RATE, SharedTeachers, check_template, converse, estimate_rows,
    finish, note_used, read_rows, render, single, template, unanswered, write_row,
};
use crate::identify_language::language;
use crate::lengths::{self, TEACHERS_ASSUMPTION, tokens_for_one};

/// The stage.
pub(crate) struct Rank(pub(crate) SharedTeachers);

const DOCUMENTATION: &str = "\
Ranks the 2 to 8 answers to each prompt, as the first paper does, in one dialogue of two turns: the teacher
first translates instruction, input and answers into English, and then ranks the translations. Each turn is
recorded by itself: another `rank` prompt asks only the second turn anew.

The ranks have to be a permutation: one line for each answer, in their order, no rank twice. Anything else is
asked for again (`attempts` times in all), and then the prompt is set aside on `rejects`:

- `translation`: the first turn does not hold all parts between their tags
- `permutation`: the second turn holds no permutation
- `tags`: the prompt or an answer holds the tags itself, so that nothing could be told apart
- `count`: fewer than 2 answers, or more than 8
- `cut`, `refused`: an answer reached the greatest length, or the provider refused it

In English there is nothing to translate: the first turn is written, not asked.

With `second_pass: true` every prompt is ranked once more with its answers in the reverse order. The ranks kept
are those of the first pass; the metrics say how far the two agree (`kendall_tau`, from -1 to 1, the mean over
prompts) and which mean rank the answer that stood first got (`mean_rank_of_first`; (T + 1) / 2 for a ranker
without a position bias, over both passes).";

const TRANSLATE: &[(&str, &str)] = &[
    ("language", "the English name of the language of the texts"),
    ("instruction", "the instruction"),
    ("input", "its input, `<empty>` if it has none"),
    ("responses", "a list of the responses"),
    ("count", "how many there are"),
];

static PROMPTS: [PromptSlot; 2] = [
    PromptSlot {
        name: "translate",
        variables: TRANSLATE,
        help: "the first turn: asks for all parts in English",
    },
    PromptSlot {
        name: "rank",
        variables: &[("count", "how many responses there are")],
        help: "the second turn: asks for the ranks",
    },
];

static PARAMS: [Param; 4] = [
    Param {
        name: "language",
        ty: ParamType::String,
        default: ParamDefault::Required,
        identity: true,
        help: "the code of the language of prompts and answers",
    },
    Param {
        name: "second_pass",
        ty: ParamType::Bool,
        default: ParamDefault::Value("false"),
        identity: true,
        help: "rank once more in the reverse order, to measure the ranker",
    },
    ATTEMPTS,
    MAX_REJECT_RATE,
];

static DESCRIPTOR: StageDescriptor = StageDescriptor {
    name: "rank",
    version: 1,
    summary: "a teacher ranks several answers to each prompt, best first",
    documentation: DOCUMENTATION,
    inputs: Inputs::Fixed(&[InputPort {
        name: "responses",
        accepts: Accepts::Kinds(&[PortKind::Responses]),
        required: true,
        gathers: false,
        help: "prompts with their answers",
    }]),
    outputs: Outputs::Fixed(&[
        OutputPort {
            name: "rankings",
            kind: OutputKind::Fixed(PortKind::Rankings),
            help: "the answers with their ranks",
        },
        OutputPort {
            name: "rejects",
            kind: OutputKind::Fixed(PortKind::Rejects),
            help: "prompts set aside, with the rule that they break",
        },
    ]),
    params: &PARAMS,
    prompts: &PROMPTS,
    fields: &[NodeField::Teacher, NodeField::Prompts],
    determinism: Determinism::Unknown,
};

/// The most answers that are ranked at once.
const MOST: usize = 8;
/// Tokens of a line with a rank, and of the tags around a text.
const RANK_TOKENS: usize = 8;
const TAG_TOKENS: usize = 6;
const RANKS_ASSUMED: &str = "a rank takes 8 tokens, the tags around a text 6";

/// What comes of a prompt: the ranks of each pass.
type Outcome = Result<(Vec<u32>, Option<Vec<u32>>), Unanswered>;

impl Stage for Rank {
    fn descriptor(&self) -> &'static StageDescriptor {
        &DESCRIPTOR
    }

    fn check(&self, declared: &Value) -> Result<(), String> {
        language(declared).map(|_| ())
    }

    fn check_prompt(&self, slot: &PromptSlot, text: &str) -> Result<(), PromptMistake> {
        check_template(slot, text, &sample()).map(|_| ())
    }

    fn limiting_service(&self, declared: &Value, settings: &Value) -> Option<String> {
        crate::teachers::limiting_service(declared, settings)
    }

    fn estimate(&self, question: &EstimateQuestion<'_>) -> Option<Estimate> {
        let ranker = Ranker::new(
            question.declared,
            &question.prompts["translate"],
            &question.prompts["rank"],
        )
        .ok()?;
        let passes = if ranker.second_pass { 2 } else { 1 };
        let ask = |row: &Response, recorded: &dyn Fn(&Request) -> Option<String>| {
            let mut foreseen = Vec::new();
            for responses in ranker.orders(row) {
                let Ok(first) = ranker.first(row, &responses) else { continue };
                let written =
                    estimated_tokens(&responses.join(" ")) + estimated_tokens(&row.instruction);
                let count = responses.len();
                let translated = match ranker.written(row, &responses) {
                    Some(written) => Some(written),
                    None => recorded(&first).map(|text| text.trim().to_owned()),
                };
                let answer = translated.clone().unwrap_or_default();
                if let Ok(second) = ranker.second(&first, &answer, count) {
                    // Without the first answer the second turn is reckoned with one as long as what it
                    // translates.
                    let missing = if translated.is_some() { 0 } else { written };
                    foreseen.push((second, (RANK_TOKENS * count) as u64, missing));
                }
                if ranker.written(row, &responses).is_none() {
                    foreseen.push((first, written, 0));
                }
            }
            foreseen
        };
        let english = ranker.language.code == "en";
        let usual = |rows: &RowsEstimate| {
            let count = (rows.responses.round() as usize).clamp(2, MOST);
            let Some((first, both)) = ranker.around(count) else { return Vec::new() };
            let (prompt, responses) = lengths::in_english(rows, ranker.language);
            let texts = prompt + responses;
            let factor = if english { 1.0 } else { tokens_for_one(ranker.language.script) };
            let written = texts + (TAG_TOKENS * (count + 2)) as f64;
            let second = (both + factor * texts + written, (RANK_TOKENS * count) as f64);
            let mut turns = vec![second; passes];
            if !english {
                turns.extend(vec![(first + factor * texts, written); passes]);
            }
            turns
        };
        let mut estimate = estimate_rows(question, "responses", &["rankings"], ask, usual)?;
        if estimate.requests > 0 {
            estimate.assumptions.push(RANKS_ASSUMED);
            if !english {
                estimate.assumptions.push(TEACHERS_ASSUMPTION);
            }
        }
        Some(estimate)
    }

    fn run(&self, context: &mut StageContext<'_>) -> Result<StageSuccess, StageError> {
        let ranker =
            Ranker::new(context.declared, &context.prompts["translate"], &context.prompts["rank"])?;
        let rows: Vec<Response> = read_rows(single(context, "responses")?)?;
        let mut rankings = context.create_output("rankings")?;
        let mut aside = Aside::new(context)?;
        let mut agreement = Agreement::default();
        let each = async |caller: &Caller<'_>, row: &Response| ranker.row(caller, row).await;
        let used =
            converse(context, &self.0, &rows, "prompts", &each, |place, outcome: Outcome| {
                let row = &rows[place];
                match outcome {
                    Ok((ranks, second)) => {
                        agreement.add(&ranks, second.as_deref());
                        let ranking = Ranking {
                            id: row.id.clone(),
                            instruction: row.instruction.clone(),
                            input: row.input.clone(),
                            responses: row.responses.clone(),
                            ranks,
                            ended: row.ended.clone(),
                        };
                        write_row(&mut rankings, &ranking)
                    }
                    Err(failed) => aside.add(context, &unanswered(&row.id, json!(row), failed)),
                }
            })?;
        let mut success = StageSuccess::default();
        note_used(&used, &mut success);
        let asked = rows.len() as u64;
        success.metrics.insert("rows".to_owned(), (asked - aside.count()) as f64);
        agreement.report(&mut success);
        let rejects = aside.finish(context, context.declared, asked, &mut success)?;
        finish(context, &mut success, vec![("rankings", rankings), ("rejects", rejects)])?;
        Ok(success)
    }
}

struct Ranker {
    language: Language,
    second_pass: bool,
    attempts: u32,
    translate: PromptTemplate,
    rank: PromptTemplate,
}

impl Ranker {
    fn new(
        declared: &Value,
        translate: &std::path::Path,
        rank: &std::path::Path,
    ) -> Result<Ranker, StageError> {
        let params = &declared["params"];
        Ok(Ranker {
            language: language(declared).map_err(StageError::failed)?,
            second_pass: params["second_pass"].as_bool().unwrap_or(false),
            attempts: params["attempts"].as_u64().unwrap_or(3) as u32,
            translate: template(translate, &PROMPTS[0], &sample())?,
            rank: template(rank, &PROMPTS[1], &sample())?,
        })
    }

    async fn row(&self, caller: &Caller<'_>, row: &Response) -> Result<Outcome, TeacherError> {
        let aside = |rule, detail: String| {
            let invalid = Invalid::new(rule, detail);
            Ok(Err(Unanswered { invalid, answer: None, attempts: 0 }))
        };
        let count = row.responses.len();
        if !(2..=MOST).contains(&count) {
            return aside("count", format!("{count} answers; 2 to {MOST} can be ranked"));
        }
        let texts = row.responses.iter().chain([&row.instruction, &row.input]);
        if let Some(text) = texts.into_iter().find(|text| has_tags(text)) {
            let text: String = text.chars().take(60).collect();
            return aside("tags", format!("`{text}` holds the tags of the prompt"));
        }
        let mut passes = Vec::new();
        for responses in self.orders(row) {
            match self.pass(caller, row, &responses).await? {
                Ok(ranks) => passes.push(ranks),
                Err(failed) => return Ok(Err(failed)),
            }
        }
        let mut passes = passes.into_iter();
        let first = passes.next().unwrap_or_default();
        // The ranks of the second pass, in the order of the first.
        let second = passes.next().map(|ranks| ranks.into_iter().rev().collect());
        Ok(Ok((first, second)))
    }

    /// The answers in the order of each pass.
    fn orders(&self, row: &Response) -> Vec<Vec<String>> {
        let mut orders = vec![row.responses.clone()];
        if self.second_pass {
            orders.push(row.responses.iter().rev().cloned().collect());
        }
        orders
    }

    async fn pass(
        &self,
        caller: &Caller<'_>,
        row: &Response,
        responses: &[String],
    ) -> Result<Result<Vec<u32>, Unanswered>, TeacherError> {
        let first = self.first(row, responses)?;
        let count = responses.len();
        let translated = match self.written(row, responses) {
            Some(written) => written,
            None => {
                let check = |answer: &str| translated(answer, count);
                match ask(caller, &first, self.attempts, check).await? {
                    Ok((text, _)) => text,
                    Err(failed) => return Ok(Err(failed)),
                }
            }
        };
        let second = self.second(&first, &translated, count)?;
        let check = |answer: &str| {
            parse_ranks(answer, count).map_err(|detail| Invalid::new("permutation", detail))
        };
        Ok(ask(caller, &second, self.attempts, check).await?.map(|(ranks, _)| ranks))
    }

    /// The first turn.
    fn first(&self, row: &Response, responses: &[String]) -> Result<Request, TeacherError> {
        let input = if row.input.is_empty() { "<empty>" } else { &row.input };
        let values = json!({
            "language": self.language.name,
            "instruction": row.instruction,
            "input": input,
            "responses": responses,
            "count": responses.len(),
        });
        Ok(Request::new(render(&self.translate, &values)?))
    }

    /// Tokens of the first turn, and of both, beside the texts.
    fn around(&self, count: usize) -> Option<(f64, f64)> {
        let row = Response {
            id: String::new(),
            instruction: String::new(),
            input: String::new(),
            responses: vec![String::new(); count],
            ended: Vec::new(),
        };
        let first = self.first(&row, &row.responses).ok()?;
        let both = self.second(&first, "", count).ok()?;
        Some((first.estimated_tokens() as f64, both.estimated_tokens() as f64))
    }

    /// The answer to the first turn where nothing is to be translated.
    fn written(&self, row: &Response, responses: &[String]) -> Option<String> {
        if self.language.code != "en" {
            return None;
        }
        let input = if row.input.is_empty() { "<empty>" } else { &row.input };
        let mut text = format!(
            "<instruction>\n{}\n</instruction>\n<input>\n{input}\n</input>",
            row.instruction
        );
        for (place, response) in responses.iter().enumerate() {
            let number = place + 1;
            text.push_str(&format!("\n<response {number}>\n{response}\n</response {number}>"));
        }
        Some(text)
    }

    /// The second turn.
    fn second(
        &self,
        first: &Request,
        translated: &str,
        count: usize,
    ) -> Result<Request, TeacherError> {
        let mut request = first.clone();
        request.messages.push(Message::assistant(translated));
        let prompt = render(&self.rank, &json!({ "count": count }))?;
        request.messages.push(Message::user(prompt));
        Ok(request)
    }
}

fn has_tags(text: &str) -> bool {
    ["instruction", "input", "response"]
        .iter()
        .any(|tag| text.contains(&format!("<{tag}")) || text.contains(&format!("</{tag}")))
}

/// An answer to the first turn, if it holds all parts.
fn translated(answer: &str, count: usize) -> Result<String, Invalid> {
    let tags = ["instruction".to_owned(), "input".to_owned()];
    let responses = (1..=count).map(|number| format!("response {number}"));
    for tag in tags.into_iter().chain(responses) {
        let opened = answer.matches(&format!("<{tag}>")).count();
        let closed = answer.matches(&format!("</{tag}>")).count();
        if (opened, closed) != (1, 1) {
            let detail =
                format!("`<{tag}>` stands {opened} times in it, `</{tag}>` {closed} times");
            return Err(Invalid::new("translation", detail));
        }
    }
    Ok(answer.trim().to_owned())
}

/// How far two passes agree.
#[derive(Default)]
struct Agreement {
    taus: Vec<f64>,
    first_ranks: Vec<f64>,
}

impl Agreement {
    /// Adds the ranks of both passes, in the order of the first.
    fn add(&mut self, ranks: &[u32], second: Option<&[u32]>) {
        let Some(second) = second else { return };
        self.taus.extend(kendall_tau(ranks, second));
        self.first_ranks.extend(ranks.first().map(|rank| f64::from(*rank)));
        // In the second pass the last one stood first.
        self.first_ranks.extend(second.last().map(|rank| f64::from(*rank)));
    }

    fn report(&self, success: &mut StageSuccess) {
        for (name, values) in
            [("kendall_tau", &self.taus), ("mean_rank_of_first", &self.first_ranks)]
        {
            if !values.is_empty() {
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                success.metrics.insert(name.to_owned(), mean);
            }
        }
    }
}

fn sample() -> Value {
    json!({
        "language": "German",
        "instruction": "Nenne eine Farbe.",
        "input": "<empty>",
        "responses": ["Rot.", "Ja."],
        "count": 2,
    })
}

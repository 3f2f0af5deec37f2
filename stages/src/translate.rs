//! `translate`: rows said in another language by a teacher.

use okapi_data::language::Language;
use okapi_data::prompt_template::PromptTemplate;
use okapi_data::translation::{self, Checks, TextRow, Texts};
use okapi_data::{Instruction, Prompt, Question, Reject};
use okapi_engine::estimate::{Estimate, EstimateQuestion, RowsEstimate};
use okapi_engine::port::{Accepts, PortKind};
use okapi_engine::stage::{
    Determinism, InputPort, Inputs, NodeField, OutputKind, OutputPort, Outputs, Param,
    ParamDefault, ParamType, PromptMistake, PromptSlot, Stage, StageDescriptor,
};
use okapi_engine::stage_context::{StageContext, StageError, StageSuccess};
use okapi_teacher::ask::{Invalid, Unanswered, ask};
use okapi_teacher::{Caller, Request, TeacherError, Used, estimated_tokens};
use serde_json::{Value, json};

use crate::asking::{
    ATTEMPTS, Aside, MAX_REJECT_RATE, SharedTeachers, check_template, converse, estimate_rows,
    finish, note_used, read_rows, render, single, template, unanswered, write_row,
};
use crate::identify_language::language;
use crate::lengths::{TEACHERS_ASSUMPTION, tokens_for_one, translated};

/// The stage.
pub(crate) struct Translate(pub(crate) SharedTeachers);

const DOCUMENTATION: &str = "\
Translates instructions, prompts or questions from English into `language`. A row goes out as one JSON
object, its instruction, input and answer together, as in the first paper, and has to come back as one: the
same keys, texts for values, nothing around it.

Every translation is then measured, and asked for again (`attempts` times in all) if it breaks a rule. A row
without a good translation is set aside on `rejects`, with the rule, what exactly is wrong, and the last
answer:

- `json`, `keys`, `empty`: it is not the object that was asked for
- `code`, `placeholder`: code between backticks (but for comments), `{name}`, `<tag>`, `%s` or an address is
  not kept
- `numbers`: a number of the original is missing (`keep_numbers: false` lets that pass)
- `length`: it is shorter or longer than the original times `least_ratio` or `most_ratio`, in characters
- `copied`: it is the original, word for word
- `script`: less than `least_script` of its letters are of the language's script
- `language`: it has at least `least_letters` letters and looks like another language, with at least
  `confidence`; Danish and Norwegian, Czech and Slovak, Hindi, Marathi and Nepali are not told apart
- `choices`: two different choices of a question have become one
- `cut`, `refused`: the answer reached the greatest length, or the provider refused it
- `too_long`: a text has more than `most_characters` and no empty line or line end to cut it at

Longer texts are cut at empty lines, never in code, and their pieces are translated one by one. Into
English nothing is translated: the rows are handed on as they are.";

const VARIABLES: &[(&str, &str)] = &[
    ("language", "the English name of the target language"),
    ("object", "a JSON object whose values are to be translated"),
];

static PROMPTS: [PromptSlot; 1] = [PromptSlot {
    name: "translate",
    variables: VARIABLES,
    help: "asks for the translation of a JSON object",
}];

static PARAMS: [Param; 11] = [
    Param {
        name: "kind",
        ty: ParamType::PortKind,
        default: ParamDefault::Value("\"instructions\""),
        identity: true,
        help: "what the rows are: instructions, prompts or questions",
    },
    Param {
        name: "language",
        ty: ParamType::String,
        default: ParamDefault::Required,
        identity: true,
        help: "the code of the target language, such as `de`",
    },
    ATTEMPTS,
    MAX_REJECT_RATE,
    Param {
        name: "most_characters",
        ty: ParamType::Int { min: 100, max: 10_000_000 },
        default: ParamDefault::Value("6000"),
        identity: true,
        help: "the longest text that is sent in one piece",
    },
    Param {
        name: "least_script",
        ty: ParamType::Float { min: 0.0, max: 1.0 },
        default: ParamDefault::Value("0.6"),
        identity: true,
        help: "the least share of letters in the language's script",
    },
    Param {
        name: "least_ratio",
        ty: ParamType::Float { min: 0.0, max: 100.0 },
        default: ParamDefault::Value("0.15"),
        identity: true,
        help: "the least length of a translation, times the original's",
    },
    Param {
        name: "most_ratio",
        ty: ParamType::Float { min: 0.0, max: 100.0 },
        default: ParamDefault::Value("5"),
        identity: true,
        help: "the greatest length of a translation, times the original's",
    },
    Param {
        name: "least_letters",
        ty: ParamType::Int { min: 1, max: i64::MAX },
        default: ParamDefault::Value("120"),
        identity: true,
        help: "from how many letters on the language is looked at",
    },
    Param {
        name: "confidence",
        ty: ParamType::Float { min: 0.0, max: 1.0 },
        default: ParamDefault::Value("0.9"),
        identity: true,
        help: "how sure the finding of another language has to be",
    },
    Param {
        name: "keep_numbers",
        ty: ParamType::Bool,
        default: ParamDefault::Value("true"),
        identity: true,
        help: "whether every number of the original must be in the translation",
    },
];

const KINDS: [PortKind; 3] = [PortKind::Instructions, PortKind::Prompts, PortKind::Questions];

static DESCRIPTOR: StageDescriptor = StageDescriptor {
    name: "translate",
    version: 1,
    summary: "translates instructions, prompts or questions by a teacher",
    documentation: DOCUMENTATION,
    inputs: Inputs::Fixed(&[InputPort {
        name: "data",
        accepts: Accepts::Kinds(&KINDS),
        required: true,
        gathers: false,
        help: "rows in English",
    }]),
    outputs: Outputs::Fixed(&[
        OutputPort { name: "data", kind: OutputKind::Param("kind"), help: "the rows translated" },
        OutputPort {
            name: "rejects",
            kind: OutputKind::Fixed(PortKind::Rejects),
            help: "rows set aside, with the rule that they break",
        },
    ]),
    params: &PARAMS,
    prompts: &PROMPTS,
    fields: &[NodeField::Teacher, NodeField::Prompts],
    determinism: Determinism::Unknown,
};

/// What comes of a row.
type Outcome = Result<TextRow, Unanswered>;

impl Stage for Translate {
    fn descriptor(&self) -> &'static StageDescriptor {
        &DESCRIPTOR
    }

    fn check(&self, declared: &Value) -> Result<(), String> {
        kind(declared)?;
        language(declared).map(|_| ())
    }

    fn check_prompt(&self, slot: &PromptSlot, text: &str) -> Result<(), PromptMistake> {
        check_template(slot, text, &sample()).map(|_| ())
    }

    fn limiting_service(&self, declared: &Value, settings: &Value) -> Option<String> {
        crate::teachers::limiting_service(declared, settings)
    }

    fn estimate(&self, question: &EstimateQuestion<'_>) -> Option<Estimate> {
        let language = language(question.declared).ok()?;
        let kind = kind(question.declared).ok()?;
        let template = template(&question.prompts["translate"], &PROMPTS[0], &sample()).ok()?;
        let most = most_characters(question.declared);
        let factor = tokens_for_one(language.script);
        let written = move |tokens: u64| (tokens as f64 * factor) as u64;
        let ask = |row: &Value, _: &dyn Fn(&Request) -> Option<String>| {
            let Some(row) = text_row(row.clone(), kind) else { return Vec::new() };
            let objects = if language.code == "en" { None } else { objects(&row.texts(), most) };
            let requests = objects.into_iter().flatten().filter_map(|object| {
                let request = request(&template, language, &object).ok()?;
                Some((request, written(estimated_tokens(&translation::to_object(&object))), 0))
            });
            requests.collect()
        };
        let around = request(&template, language, &Texts::new()).ok()?.estimated_tokens() as f64;
        let usual = |rows: &RowsEstimate| {
            let object = OBJECT_TOKENS + rows.prompt_tokens + rows.response_tokens;
            match language.code {
                "en" => Vec::new(),
                _ => vec![(around + object, object * factor)],
            }
        };
        let mut estimate = estimate_rows(question, "data", &["data"], ask, usual)?;
        estimate.outputs.values_mut().for_each(|rows| *rows = translated(*rows, language));
        if estimate.requests > 0 {
            estimate.assumptions.push(TEACHERS_ASSUMPTION);
        }
        Some(estimate)
    }

    fn run(&self, context: &mut StageContext<'_>) -> Result<StageSuccess, StageError> {
        let declared = context.declared;
        let kind = kind(declared).map_err(StageError::failed)?;
        let language = language(declared).map_err(StageError::failed)?;
        let checks = checks(declared, language);
        let attempts = declared["params"]["attempts"].as_u64().unwrap_or(3) as u32;
        let most = most_characters(declared);
        let template = template(&context.prompts["translate"], &PROMPTS[0], &sample())?;
        let rows = rows(context, kind)?;
        let mut data = context.create_output("data")?;
        let mut aside = Aside::new(context)?;
        let translator = Translator { template: &template, checks: &checks, attempts, most };
        let mut used = Used::default();
        if language.code == "en" {
            for row in &rows {
                write_row(&mut data, row)?;
            }
        } else {
            let each = async |caller: &Caller<'_>, row: &TextRow| translator.row(caller, row).await;
            used = converse(context, &self.0, &rows, "rows", &each, |place, outcome: Outcome| {
                match outcome {
                    Ok(row) => write_row(&mut data, &row),
                    Err(failed) => {
                        let row = &rows[place];
                        let reject: Reject = unanswered(row.id(), row.to_json(), failed);
                        aside.add(context, &reject)
                    }
                }
            })?;
        }
        let mut success = StageSuccess::default();
        note_used(&used, &mut success);
        let asked = rows.len() as u64;
        success.metrics.insert("rows".to_owned(), (asked - aside.count()) as f64);
        let rejects = aside.finish(context, declared, asked, &mut success)?;
        finish(context, &mut success, vec![("data", data), ("rejects", rejects)])?;
        Ok(success)
    }
}

/// Tokens of the object beside its texts: `{"instruction": "", "input": "", "output": ""}`.
const OBJECT_TOKENS: f64 = 12.0;

struct Translator<'a> {
    template: &'a PromptTemplate,
    checks: &'a Checks,
    attempts: u32,
    most: usize,
}

impl Translator<'_> {
    async fn row(&self, caller: &Caller<'_>, row: &TextRow) -> Result<Outcome, TeacherError> {
        let source = row.texts();
        let Some(objects) = objects(&source, self.most) else {
            let detail = format!("a text of more than {} characters cannot be cut", self.most);
            let invalid = Invalid::new("too_long", detail);
            return Ok(Err(Unanswered { invalid, answer: None, attempts: 0 }));
        };
        let mut translated = Texts::new();
        for object in &objects {
            let request = request(self.template, self.checks.language, object)?;
            let check = |answer: &str| self.check(answer, object, row);
            match ask(caller, &request, self.attempts, check).await? {
                Err(failed) => return Ok(Err(failed)),
                Ok((texts, _)) => {
                    for (key, text) in texts {
                        // Pieces of one text come one after the other.
                        match translated.last_mut().filter(|(last, _)| *last == key) {
                            Some((_, before)) => before.push_str(&text),
                            None => translated.push((key, text)),
                        }
                    }
                }
            }
        }
        Ok(Ok(row.with_texts(&translated)))
    }

    fn check(&self, answer: &str, object: &Texts, row: &TextRow) -> Result<Texts, Invalid> {
        let invalid = |fault: translation::Fault| Invalid::new(fault.rule, fault.detail);
        let mut texts = translation::from_object(answer, object).map_err(invalid)?;
        self.checks.check(object, &texts).map_err(invalid)?;
        for ((_, before), (_, after)) in object.iter().zip(&mut texts) {
            // What a piece ends with holds it apart from the next.
            let end = before.trim_end().len();
            *after = format!("{}{}", after.trim_end(), &before[end..]);
        }
        if let (TextRow::Question(before), TextRow::Question(after)) = (row, row.with_texts(&texts))
        {
            let distinct = |choices: &[String]| {
                choices.iter().collect::<std::collections::BTreeSet<_>>().len()
            };
            let (before, after) = (distinct(&before.choices), distinct(&after.choices));
            if after < before {
                let detail = format!("{before} different choices have become {after}");
                return Err(Invalid::new("choices", detail));
            }
        }
        Ok(texts)
    }
}

/// The objects in which a row's texts are sent: one, or several if a text is too long for one.
fn objects(texts: &Texts, most: usize) -> Option<Vec<Texts>> {
    let length = |text: &str| text.chars().count();
    if texts.iter().map(|(_, text)| length(text)).sum::<usize>() <= most {
        return Some(vec![texts.clone()]);
    }
    let mut objects = Vec::new();
    for (key, text) in texts {
        for piece in translation::split(text, most)? {
            objects.push(vec![(key.clone(), piece)]);
        }
    }
    Some(objects)
}

fn request(
    template: &PromptTemplate,
    language: Language,
    object: &Texts,
) -> Result<Request, TeacherError> {
    let values = json!({ "language": language.name, "object": translation::to_object(object) });
    Ok(Request { json: true, ..Request::new(render(template, &values)?) })
}

fn sample() -> Value {
    json!({ "language": "German", "object": "{\"instruction\": \"Say hello.\"}" })
}

fn kind(declared: &Value) -> Result<PortKind, String> {
    let word = declared["params"]["kind"].as_str().unwrap_or_default();
    PortKind::from_name(word).filter(|kind| KINDS.contains(kind)).ok_or_else(|| {
        let names: Vec<_> = KINDS.iter().map(|kind| kind.name()).collect();
        format!("`kind` must be one of {}", names.join(", "))
    })
}

fn most_characters(declared: &Value) -> usize {
    declared["params"]["most_characters"].as_u64().unwrap_or(6000) as usize
}

fn checks(declared: &Value, language: Language) -> Checks {
    let params = &declared["params"];
    let mut checks = Checks::new(language);
    let number = |name: &str, default: f64| params[name].as_f64().unwrap_or(default);
    checks.least_script = number("least_script", checks.least_script);
    checks.least_ratio = number("least_ratio", checks.least_ratio);
    checks.most_ratio = number("most_ratio", checks.most_ratio);
    checks.confidence = number("confidence", checks.confidence);
    checks.least_letters = params["least_letters"].as_u64().unwrap_or(120) as usize;
    checks.keep_numbers = params["keep_numbers"].as_bool().unwrap_or(true);
    checks
}

fn rows(context: &StageContext<'_>, kind: PortKind) -> Result<Vec<TextRow>, StageError> {
    let path = single(context, "data")?;
    Ok(match kind {
        PortKind::Questions => {
            read_rows::<Question>(path)?.into_iter().map(TextRow::Question).collect()
        }
        PortKind::Prompts => read_rows::<Prompt>(path)?.into_iter().map(TextRow::Prompt).collect(),
        _ => read_rows::<Instruction>(path)?.into_iter().map(TextRow::Instruction).collect(),
    })
}

fn text_row(row: Value, kind: PortKind) -> Option<TextRow> {
    Some(match kind {
        PortKind::Questions => TextRow::Question(serde_json::from_value(row).ok()?),
        PortKind::Prompts => TextRow::Prompt(serde_json::from_value(row).ok()?),
        _ => TextRow::Instruction(serde_json::from_value(row).ok()?),
    })
}

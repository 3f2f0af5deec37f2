//! `identify_language`: is an answer in the language that it should be in?

use okapi_data::Response;
use okapi_data::language::{Identifier, LANGUAGES, Language};
use okapi_engine::port::{Accepts, PortKind};
use okapi_engine::stage::{
    Determinism, InputPort, Inputs, OutputKind, OutputPort, Outputs, Param, ParamDefault,
    ParamType, Stage, StageDescriptor,
};
use okapi_engine::stage_context::{StageContext, StageError, StageSuccess};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::asking::{finish, read_rows, single, write_row};

/// The stage.
pub(crate) struct IdentifyLanguage;

const DOCUMENTATION: &str = "\
Says of every answer whether it is in the language `language`. The second paper multiplies a judge's
rating by it; hand the `scores` of this stage to `judge` for that.

The language is found by script, by letters that a language does not have, and by trigrams, among
`candidates` (all 31 languages if left out). What is found with less than `confidence` is settled between
`language` and English: models that leave a language mostly fall back to that. Danish and Norwegian, Czech
and Slovak, Hindi, Marathi and Nepali are settled in the same way.

Sentences are told apart reliably (98 in 100 times three of them, 92 in 100 a single one), single words are
not (some 8 in 10). Where short answers are to be expected, name the languages that may come as
`candidates`.

An empty answer is in no language. One without letters, such as a number, is in every language unless
`letterless: fail` is written.

Each row of `scores` has the `id` of the prompt, the number of the `response` (from 0), `in_language` (true or
false), the `found` language and the `confidence`.";

static PARAMS: [Param; 4] = [
    Param {
        name: "language",
        ty: ParamType::String,
        default: ParamDefault::Required,
        identity: true,
        help: "the code of the language that answers should be in",
    },
    Param {
        name: "candidates",
        ty: ParamType::List(&ParamType::String),
        default: ParamDefault::Absent,
        identity: true,
        help: "codes of the languages to choose among; all if left out",
    },
    Param {
        name: "confidence",
        ty: ParamType::Float { min: 0.0, max: 1.0 },
        default: ParamDefault::Value("0.1"),
        identity: true,
        help: "how sure the finding of another language has to be to count",
    },
    Param {
        name: "letterless",
        ty: ParamType::Choice(&["pass", "fail"]),
        default: ParamDefault::Value("\"pass\""),
        identity: true,
        help: "what an answer without letters is",
    },
];

static DESCRIPTOR: StageDescriptor = StageDescriptor {
    name: "identify_language",
    version: 1,
    summary: "says whether answers are in the language asked for",
    documentation: DOCUMENTATION,
    inputs: Inputs::Fixed(&[InputPort {
        name: "responses",
        accepts: Accepts::Kinds(&[PortKind::Responses]),
        required: true,
        gathers: false,
        help: "the answers",
    }]),
    outputs: Outputs::Fixed(&[OutputPort {
        name: "scores",
        kind: OutputKind::Fixed(PortKind::Scores),
        help: "one row per answer",
    }]),
    params: &PARAMS,
    prompts: &[],
    fields: &[],
    determinism: Determinism::Bytes,
};

/// A row of the scores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LanguageScore {
    /// The prompt's id.
    pub(crate) id: String,
    /// The number of the answer, from 0.
    pub(crate) response: usize,
    /// Whether it is in the language asked for.
    pub(crate) in_language: bool,
    /// The language found, if any.
    pub(crate) found: Option<String>,
    /// How sure, from 0 to 1.
    pub(crate) confidence: f64,
}

impl Stage for IdentifyLanguage {
    fn descriptor(&self) -> &'static StageDescriptor {
        &DESCRIPTOR
    }

    fn check(&self, declared: &Value) -> Result<(), String> {
        options(declared).map(|_| ())
    }

    fn run(&self, context: &mut StageContext<'_>) -> Result<StageSuccess, StageError> {
        let (language, candidates) = options(context.declared).map_err(StageError::failed)?;
        let letterless = context.declared["params"]["letterless"] != "fail";
        let rows: Vec<Response> = read_rows(single(context, "responses")?)?;
        let confidence = context.declared["params"]["confidence"].as_f64().unwrap_or(0.1);
        let identifier = Identifier::new(&candidates);
        let or_english: Vec<Language> = [language].into_iter().chain(Language::of("en")).collect();
        let pair = Identifier::new(&or_english);
        let mut scores = context.create_output("scores")?;
        let (mut answers, mut right) = (0u64, 0u64);
        for row in &rows {
            for (response, text) in row.responses.iter().enumerate() {
                let guess = identifier.identify(text);
                let in_language = match guess {
                    Some(guess) if guess.language == language => true,
                    Some(guess) => {
                        let other = guess.language;
                        let is_unsure =
                            guess.confidence < confidence || other.is_close_to(&language);
                        let settled =
                            || pair.identify(text).is_some_and(|it| it.language == language);
                        other.script == language.script && is_unsure && settled()
                    }
                    None if text.trim().is_empty() => false,
                    None => letterless && !text.chars().any(char::is_alphabetic),
                };
                answers += 1;
                right += u64::from(in_language);
                let score = LanguageScore {
                    id: row.id.clone(),
                    response,
                    in_language,
                    found: guess.map(|guess| guess.language.code.to_owned()),
                    confidence: guess.map_or(0.0, |guess| guess.confidence),
                };
                write_row(&mut scores, &score)?;
            }
        }
        let mut success = StageSuccess::default();
        success.metrics.insert("answers".to_owned(), answers as f64);
        success.metrics.insert("in_language".to_owned(), right as f64);
        finish(context, &mut success, vec![("scores", scores)])?;
        Ok(success)
    }
}

/// The language of a param, or what is wrong with it.
pub(crate) fn language(declared: &Value) -> Result<Language, String> {
    let code = declared["params"]["language"].as_str().unwrap_or_default();
    named(code)
}

fn named(code: &str) -> Result<Language, String> {
    Language::of(code).ok_or_else(|| {
        let codes = Language::codes();
        let near = okapi_engine::suggest::nearest(code, codes.iter().copied());
        match near {
            Some(near) => format!("there is no language `{code}`: did you mean `{near}`?"),
            None => format!("there is no language `{code}`: it is one of {}", codes.join(", ")),
        }
    })
}

fn options(declared: &Value) -> Result<(Language, Vec<Language>), String> {
    let language = language(declared)?;
    let Some(written) = declared["params"].get("candidates").and_then(Value::as_array) else {
        return Ok((language, LANGUAGES.to_vec()));
    };
    let candidates: Result<Vec<_>, _> =
        written.iter().map(|code| named(code.as_str().unwrap_or_default())).collect();
    let candidates = candidates?;
    if !candidates.contains(&language) {
        return Err(format!("`candidates` lacks the language itself, `{}`", language.code));
    }
    Ok((language, candidates))
}

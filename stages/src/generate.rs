//! `generate` and `answer`: a model responds to prompts.

use std::io::Write;

use okapi_data::{Prompt, Response};
use okapi_engine::estimate::{Estimate, EstimateQuestion, MemoryEstimate, MemoryRemedy};
use okapi_engine::port::{Accepts, PortKind};
use okapi_engine::stage::{
    Determinism, InputPort, Inputs, NodeField, OutputKind, OutputPort, Outputs, Param,
    ParamDefault, ParamType, PromptMistake, PromptSlot, Stage, StageDescriptor,
};
use okapi_engine::stage_context::{StageContext, StageError, StageSuccess};
use okapi_model::{
    CausalLm, FinishReason, GenerateError, GenerateOptions, GenerateProgress, GenerateWatch,
    Generated, ModelConfig, SamplingOptions, Tokenizer,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::gpu;
use crate::kept_rows::KeptRows;
use crate::lengths;
use crate::model_folder::{self, OpenModel};
use crate::model_memory;
use crate::speed::{self, Operations};
use crate::texts;
use crate::training;

/// The stages: they differ in what they do when nothing is said.
pub(crate) struct Generate(&'static StageDescriptor);

/// Several sampled responses a prompt.
pub(crate) const GENERATE: Generate = Generate(&GENERATE_DESCRIPTOR);
/// One greedy answer a prompt.
pub(crate) const ANSWER: Generate = Generate(&ANSWER_DESCRIPTOR);

const GENERATE_DOCUMENTATION: &str = "\
Samples several responses to each prompt from a model, for `rank`. A prompt is made by the file `prompt`,
the same that the model was trained with; a response is what follows, up to the token that ends a text, up to
a text of `stop`, or up to `max_new_tokens`, without white space around it. `ended` says of each whether it
ended by itself.

The defaults are those of the Okapi release's chat program (256 tokens, top k 40, top p 0.75) and the paper's
four responses; how the paper sampled them is not known.

All chance comes from `seed`, the place of the prompt and the number of the response; what a prompt gets
hangs on no other prompt, on a GPU but for rounding, which hangs on `rows_at_once`. Prompts are computed together, `rows_at_once` responses at a time; a place that gets
free is taken by the next. A run that is stopped or killed goes on with the prompts that were not done.";

const ANSWER_DOCUMENTATION: &str = "\
Lets a model answer prompts, for `judge`: one answer each, of the most probable token at every place. As
`generate`, but for the defaults.";

const fn sampling(samples: &'static str, temperature: &'static str) -> [Param; 13] {
    [
        Param {
            name: "samples",
            ty: ParamType::Int { min: 1, max: 1 << 16 },
            default: ParamDefault::Value(samples),
            identity: true,
            help: "responses to each prompt",
        },
        Param {
            name: "max_new_tokens",
            ty: ParamType::Int { min: 1, max: 1 << 24 },
            default: ParamDefault::Value("256"),
            identity: true,
            help: "a response ends with so many tokens",
        },
        Param {
            name: "temperature",
            ty: ParamType::Float { min: 0.0, max: 1e3 },
            default: ParamDefault::Value(temperature),
            identity: true,
            help: "logits are divided by it; 0 always takes the most probable token",
        },
        Param {
            name: "top_k",
            ty: ParamType::Int { min: 0, max: 1 << 32 },
            default: ParamDefault::Value("40"),
            identity: true,
            help: "a token is drawn from so many, the most probable; 0 for all",
        },
        Param {
            name: "top_p",
            ty: ParamType::Float { min: 0.0, max: 1.0 },
            default: ParamDefault::Value("0.75"),
            identity: true,
            help: "and from no more than have this probability together",
        },
        Param {
            name: "repetition_penalty",
            ty: ParamType::Float { min: 1e-3, max: 1e3 },
            default: ParamDefault::Value("1.0"),
            identity: true,
            help: "above 1, tokens that the text has already become less probable",
        },
        Param {
            name: "stop",
            ty: ParamType::List(&ParamType::String),
            default: ParamDefault::Absent,
            identity: true,
            help: "a response ends before any of these texts, such as `\"\\n### \"`",
        },
        Param {
            name: "max_prompt_tokens",
            ty: ParamType::Int { min: 1, max: 1 << 24 },
            default: ParamDefault::Absent,
            identity: true,
            help: "the most tokens of a prompt; left out, as many as leave room for a response",
        },
        Param {
            name: "too_long",
            ty: ParamType::Choice(&["fail", "leave_out", "cut"]),
            default: ParamDefault::Value("\"fail\""),
            identity: true,
            help: "what is done with a prompt that has more; it is cut at its beginning",
        },
        Param {
            name: "keep_space",
            ty: ParamType::Bool,
            default: ParamDefault::Value("false"),
            identity: true,
            help: "whether white space around a response is kept",
        },
        gpu::DEVICE,
        gpu::GPU_DTYPE,
        Param {
            name: "rows_at_once",
            ty: ParamType::Int { min: 1, max: 1 << 20 },
            default: ParamDefault::Value("64"),
            identity: false,
            help: "responses that are computed together: more need more memory and are faster; on the processor \
                   the result is the same, and on a GPU it counts",
        },
    ]
}

static GENERATE_PARAMS: [Param; 13] = sampling("4", "1.0");
static ANSWER_PARAMS: [Param; 13] = sampling("1", "0.0");

const INPUTS: Inputs = Inputs::Fixed(&[
    InputPort {
        name: "model",
        accepts: Accepts::Kinds(&[PortKind::Model]),
        required: true,
        gathers: false,
        help: "the model that responds",
    },
    InputPort {
        name: "prompts",
        accepts: Accepts::Kinds(&[PortKind::Prompts, PortKind::Instructions]),
        required: true,
        gathers: false,
        help: "what it responds to",
    },
]);

const OUTPUTS: Outputs = Outputs::Fixed(&[OutputPort {
    name: "responses",
    kind: OutputKind::Fixed(PortKind::Responses),
    help: "the prompts, each with its responses",
}]);

static GENERATE_DESCRIPTOR: StageDescriptor = StageDescriptor {
    name: "generate",
    version: 2,
    summary: "samples several responses to each prompt from a model",
    documentation: GENERATE_DOCUMENTATION,
    inputs: INPUTS,
    outputs: OUTPUTS,
    params: &GENERATE_PARAMS,
    prompts: &[texts::PROMPT],
    fields: &[NodeField::Seed, NodeField::Prompts],
    determinism: Determinism::NumericClass,
};

static ANSWER_DESCRIPTOR: StageDescriptor = StageDescriptor {
    name: "answer",
    version: 2,
    summary: "lets a model answer prompts",
    documentation: ANSWER_DOCUMENTATION,
    inputs: INPUTS,
    outputs: OUTPUTS,
    params: &ANSWER_PARAMS,
    prompts: &[texts::PROMPT],
    fields: &[NodeField::Seed, NodeField::Prompts],
    determinism: Determinism::NumericClass,
};

impl Stage for Generate {
    fn descriptor(&self) -> &'static StageDescriptor {
        self.0
    }

    fn check(&self, declared: &Value) -> Result<(), String> {
        let params = &declared["params"];
        if params["top_p"].as_f64() == Some(0.0) {
            return Err("`top_p: 0` keeps no token".to_owned());
        }
        match params["temperature"].as_f64() {
            Some(temperature) if temperature > 0.0 && temperature < 1e-6 => {
                Err("`temperature` is 0 or at least 0.000001".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn check_prompt(&self, slot: &PromptSlot, text: &str) -> Result<(), PromptMistake> {
        texts::check_prompt(slot, text)
    }

    fn estimate(&self, question: &EstimateQuestion<'_>) -> Option<Estimate> {
        let json = model_memory::config(question, "model");
        let config = json.and_then(|json| ModelConfig::parse(&json).ok());
        let mut estimate = Estimate::default();
        if let Some(config) = &config {
            let memory = memory(question.declared, question.settings, config);
            estimate = model_memory::estimate(memory, None);
        }
        let Some(rows) = lengths::of_port(question, "prompts") else { return Some(estimate) };
        let params = &question.declared["params"];
        let number = |name: &str, default: f64| params[name].as_f64().unwrap_or(default);
        let samples = number("samples", 1.0);
        let response = lengths::usual_response(&rows).min(number("max_new_tokens", 256.0));
        let made = lengths::with_responses(&rows, samples, response);
        estimate.outputs.insert("responses".to_owned(), made);
        if let Some(config) = &config {
            let prompt = texts::tokens_around(question) + rows.prompt_tokens;
            let prompt = prompt.min(number("max_prompt_tokens", f64::MAX));
            // A prompt is read once for all of its samples.
            let each = rows.rows as f64 * config.reading_operations(true);
            let operations = Operations { read: each * prompt, sampled: each * samples * response };
            speed::add_work(&mut estimate, question, operations);
        }
        Some(estimate)
    }

    fn can_use_gpu(&self) -> bool {
        true
    }

    fn choose_device(&self, declared: &mut Value, settings: &Value, gpus: usize) -> u32 {
        gpu::choose(declared, settings, gpus)
    }

    fn takes_all_slots(&self) -> bool {
        true
    }

    fn run(&self, context: &mut StageContext<'_>) -> Result<StageSuccess, StageError> {
        let context = &*context;
        training::on_threads(context.threads, || run(context))?
    }
}

/// How tokens are chosen, by the params of a node.
fn sampling_options(params: &Value) -> SamplingOptions {
    let number = |name: &str, default: f64| params[name].as_f64().unwrap_or(default);
    SamplingOptions {
        temperature: number("temperature", 1.0),
        top_k: params["top_k"].as_u64().filter(|k| *k > 0).map(|k| k as usize),
        top_p: number("top_p", 1.0),
        repetition_penalty: number("repetition_penalty", 1.0),
    }
}

/// Tokens of a prompt, where nothing says how many they may be.
const USUAL_PROMPT: usize = 512;
/// Tokens of prompts that are read together.
const READ_AT_ONCE: usize = 4096;

/// The memory that generation takes.
fn memory(declared: &Value, settings: &Value, config: &ModelConfig) -> MemoryEstimate {
    let params = &declared["params"];
    let whole = |name: &str, default: usize| params[name].as_u64().map_or(default, |n| n as usize);
    let tokens = whole("max_prompt_tokens", USUAL_PROMPT) + whole("max_new_tokens", 256);
    let tokens = config.context().map_or(tokens, |context| tokens.min(context));
    let rows = settings["rows_at_once"].as_u64().unwrap_or(64) as usize;
    let there = gpu::kind(declared);
    let of = |rows: usize| config.generation_memory(rows, tokens, READ_AT_ONCE).on(there);
    let fewer = (rows / 8).max(1);
    let remedy = |rows: usize| MemoryRemedy {
        change: format!("`rows_at_once: {rows}`"),
        bytes: of(rows).total(),
    };
    let remedies = vec![remedy(fewer), remedy(1)];
    MemoryEstimate { parts: model_memory::parts(&of(rows)), remedies, on_gpu: there.is_some() }
}

/// Prompts that are generated together before what they got is put aside; the last of them leave places
/// empty, so they are many times as many as there are places.
const ROUNDS: usize = 16;

fn run(context: &StageContext<'_>) -> Result<StageSuccess, StageError> {
    let params = &context.declared["params"];
    let config = model_folder::config(context, "model")?;
    model_memory::check(context, &memory(context.declared, context.settings, &config))?;
    let mut model = model_folder::open(context, "model")?;
    let prompts = prompts(context, &model)?;
    if let Some((device, kind)) = gpu::open(context)? {
        gpu::bring_to_ask(&mut model.lm, &device, kind)?;
    }
    let rows_at_once = context.settings["rows_at_once"].as_u64().unwrap_or(64) as usize;
    let samples = params["samples"].as_u64().unwrap_or(1) as u32;
    let mut options = GenerateOptions {
        sampling: sampling_options(params),
        samples,
        max_new_tokens: params["max_new_tokens"].as_u64().unwrap_or(256) as usize,
        stop_tokens: model.tokenizer.end_tokens().to_vec(),
        context: None,
        rows_at_once,
        seed: training::seed(context.declared),
        first_row: 0,
    };
    let responder = Responder {
        context,
        tokenizer: &model.tokenizer,
        stops: StopTexts::of(params),
        keeps_space: params["keep_space"].as_bool().unwrap_or(false),
        total: (prompts.len() * samples as usize) as u64,
    };
    let mut done: KeptRows<Responded> = KeptRows::open(context.scratch, "responses.jsonl")?;
    let chunk = (ROUNDS * rows_at_once / samples as usize).max(1);
    while done.rows().len() < prompts.len() {
        let first = done.rows().len();
        let chunk = &prompts[first..prompts.len().min(first + chunk)];
        options.first_row = first as u32;
        done.add(responder.respond(&model.lm, chunk, &options, first)?)?;
    }
    write(context, &prompts, done.rows())
}

/// A row with its tokens.
struct Row {
    prompt: Prompt,
    tokens: Vec<u32>,
}

/// The rows as prompts that leave room for a response.
fn prompts(context: &StageContext<'_>, model: &OpenModel) -> Result<Vec<Row>, StageError> {
    let params = &context.declared["params"];
    let rows: Vec<Prompt> = texts::rows(context, "prompts")?;
    let template = texts::prompt(context)?;
    let texts: Vec<String> = rows
        .iter()
        .map(|row| texts::render(&template, &row.instruction, &row.input))
        .collect::<Result<_, _>>()?;
    let texts: Vec<&str> = texts.iter().map(|text| texts::to_continue(text)).collect();
    let tokens = model
        .tokenizer
        .encode_batch(&texts, true)
        .map_err(|error| StageError::failed(error.to_string()))?;
    let room = model.lm.config().context().map(|context| context.saturating_sub(1));
    let wanted = params.get("max_prompt_tokens").and_then(Value::as_u64).map(|most| most as usize);
    let most = room.into_iter().chain(wanted).min().unwrap_or(usize::MAX);
    let too_long = params["too_long"].as_str().unwrap_or("fail");
    let kept = texts::fit_prompts(context, &model.tokenizer, (rows, tokens), most, too_long)?;
    Ok(kept.into_iter().map(|(prompt, tokens)| Row { prompt, tokens }).collect())
}

/// What a prompt got.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Responded {
    responses: Vec<String>,
    tokens: u64,
    /// Of each, whether it ended by itself.
    ended: Vec<bool>,
}

/// Makes texts of what is generated.
struct Responder<'a> {
    context: &'a StageContext<'a>,
    tokenizer: &'a Tokenizer,
    stops: StopTexts,
    keeps_space: bool,
    /// Responses in all.
    total: u64,
}

impl Responder<'_> {
    /// Responds to some prompts, before which `done` were responded to.
    fn respond(
        &self,
        lm: &CausalLm,
        rows: &[Row],
        options: &GenerateOptions,
        done: usize,
    ) -> Result<Vec<Responded>, StageError> {
        let prompts: Vec<&[u32]> = rows.iter().map(|row| &row.tokens[..]).collect();
        let before = done as u64 * u64::from(options.samples);
        let mut watch = Watch { responder: self, before };
        let generated =
            lm.generate(&prompts, options, &mut watch).map_err(|error| match error {
                GenerateError::Stopped { .. } => StageError::Cancelled,
                GenerateError::Prompt { prompt, message } => {
                    let id = &rows[prompt].prompt.id;
                    StageError::failed(format!("the prompt of row `{id}` {message}"))
                }
                GenerateError::NotFinite { prompt, .. } => {
                    let id = &rows[prompt].prompt.id;
                    StageError::failed(format!("row `{id}`: {error}; is the model sound?"))
                }
                error => StageError::failed(error.to_string()),
            })?;
        generated.iter().map(|samples| self.responded(samples)).collect()
    }

    fn responded(&self, samples: &[Generated]) -> Result<Responded, StageError> {
        let mut responded = Responded { responses: Vec::new(), tokens: 0, ended: Vec::new() };
        for sample in samples {
            let text = self.tokenizer.decode(&sample.tokens, true);
            let text = text.map_err(|error| StageError::failed(error.to_string()))?;
            let text = self.stops.cut(&text);
            let text = if self.keeps_space { text } else { text.trim() };
            responded.responses.push(text.to_owned());
            responded.tokens += sample.tokens.len() as u64;
            responded.ended.push(sample.finish == FinishReason::Stop);
        }
        Ok(responded)
    }
}

/// Texts before which a response ends.
struct StopTexts(Vec<String>);

impl StopTexts {
    fn of(params: &Value) -> StopTexts {
        let texts = params.get("stop").and_then(Value::as_array).into_iter().flatten();
        let texts = texts.filter_map(Value::as_str).filter(|text| !text.is_empty());
        StopTexts(texts.map(str::to_owned).collect())
    }

    /// So many tokens at the end can hold all of a stop text, the newest token being part of it: each
    /// has a byte at least, and the first may begin within a character.
    fn window(&self) -> usize {
        self.0.iter().map(String::len).max().map_or(0, |longest| longest + 4)
    }

    fn cut<'a>(&self, text: &'a str) -> &'a str {
        let ends = self.0.iter().filter_map(|stop| text.find(stop.as_str()));
        ends.min().map_or(text, |end| &text[..end])
    }
}

struct Watch<'a> {
    responder: &'a Responder<'a>,
    /// Responses that were there before.
    before: u64,
}

impl GenerateWatch for Watch<'_> {
    fn stops(&mut self, _prompt: usize, _sample: u32, tokens: &[u32]) -> bool {
        let stops = &self.responder.stops;
        let window = stops.window();
        if window == 0 {
            return false;
        }
        let last = &tokens[tokens.len().saturating_sub(window)..];
        let text = self.responder.tokenizer.decode(last, true);
        text.is_ok_and(|text| stops.cut(&text).len() < text.len())
    }

    fn step(&mut self, progress: GenerateProgress) {
        let done = self.before + progress.done as u64;
        self.responder.context.reporter.progress(done, Some(self.responder.total), "responses");
    }

    fn is_stopped(&self) -> bool {
        self.responder.context.cancel.is_requested()
    }
}

fn write(
    context: &StageContext<'_>,
    rows: &[Row],
    done: &[Responded],
) -> Result<StageSuccess, StageError> {
    let mut output = context.create_output("responses")?;
    let io = |source| StageError::Io { path: context.outputs["responses"].clone(), source };
    let (mut responses, mut tokens, mut ended) = (0, 0, 0);
    for (row, responded) in rows.iter().zip(done) {
        let Prompt { id, instruction, input } = &row.prompt;
        let response = Response {
            id: id.clone(),
            instruction: instruction.clone(),
            input: input.clone(),
            responses: responded.responses.clone(),
            ended: responded.ended.clone(),
        };
        serde_json::to_writer(&mut output, &response).map_err(|error| io(error.into()))?;
        output.write_all(b"\n").map_err(io)?;
        responses += responded.responses.len();
        tokens += responded.tokens;
        ended += responded.ended.iter().filter(|ended| **ended).count();
    }
    let mut success = StageSuccess::default();
    success.written.insert("responses".to_owned(), output.finish().map_err(io)?);
    for (name, value) in [
        ("rows", rows.len() as f64),
        ("responses", responses as f64),
        ("tokens", tokens as f64),
        ("ended_share", ended as f64 / (responses as f64).max(1.0)),
    ] {
        success.metrics.insert(name.to_owned(), value);
    }
    Ok(success)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_response_ends_before_the_first_stop_text() {
        let stops = StopTexts::of(&json!({ "stop": ["\n### ", "END", ""] }));
        assert_eq!(stops.cut("one END two\n### three"), "one ");
        assert_eq!(stops.cut("### one"), "### one");
        assert_eq!(stops.window(), 9);
        assert_eq!(StopTexts::of(&json!({})).window(), 0);
    }
}

//! `evaluate`: how well a model answers multiple-choice questions.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use okapi_data::{Question, Task};
use okapi_engine::estimate::{Estimate, EstimateQuestion, MemoryEstimate, MemoryRemedy};
use okapi_engine::port::{Accepts, PortKind};
use okapi_engine::stage::{
    Determinism, InputPort, Inputs, OutputKind, OutputPort, Outputs, Param, ParamDefault,
    ParamType, Stage, StageDescriptor,
};
use okapi_engine::stage_context::{StageContext, StageError, StageSuccess};
use okapi_eval::{
    Edition, EvalError, Evaluation, HarnessFiles, ItemScore, ItemScorer, Protocol, Score, Setting,
    Summary, max_length,
};
use okapi_model::ModelConfig;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::asking::{finish, read_rows, single, write_row};
use crate::gpu;
use crate::kept_rows::KeptRows;
use crate::lengths;
use crate::model_folder;
use crate::model_memory;
use crate::speed::{self, Operations};
use crate::training;

/// The stage.
pub(crate) struct Evaluate;

const DOCUMENTATION: &str = "\
Asks a model the questions of ARC, HellaSwag or MMLU: of every choice it says how probable it is as what follows, and the
most probable one is the answer.

`protocol` says by whose rules, to the last digit:

- `harness`: EleutherAI's lm-evaluation-harness, version 0.4.13, as it asks translations (`arc_de`, `hellaswag_de`,
  `m_mmlu_de`), in any language, English among them.
- `harness_original`: the same as it asks the English originals (`arc_challenge`, `hellaswag`, `mmlu`).
- `authors`: the fork of its version 0.3.0 that is behind the tables of the Okapi paper: 25, 0 and 25 examples, and MMLU by the whole
  texts of answers. Its tables hold `acc_norm`.

Scores of different protocols, numbers of examples, limits or prompts are not comparable.

The `examples` that stand before each question (`shots`) come, of ARC, from the training split; of MMLU from the development split, which
translations call `train` (with `authors` from the validation split); of HellaSwag's original from the training split. Translations
of HellaSwag take them from the questions themselves, never the one that is asked.

`acc` is the share of questions whose right choice is the most probable; for `acc_norm` the logarithm of the probability is first
divided by the characters of the choice. Where the harness makes each subject of MMLU a task of its own, both are pooled over
subjects.

`scores` has a row for each question: its `id`, `gold`, `predicted` and `predicted_norm` (places of choices, from 0), and of every
choice the `log_likelihood`, `is_greedy`, its `characters`, `bytes` and `tokens`, and how many tokens were `cut` off the beginning of what
stands before it. `summary` has the scores of all, with standard errors and how many questions (`n`) there were. `lm_eval` has
them in the layout that the harness writes, `results_*.json`, and with `log_samples` also `samples_*.jsonl`; a fixed date is in
their names, so that the same scores are the same files.

On the processor probabilities are computed in 32 bits, whatever type the weights are stored in; on a GPU in `gpu_dtype`.
The harness takes the weights' own type: with weights of 16 bits, compare with its `dtype=float32`.

What questions and choices have in common is read once. A run that is stopped or killed goes on with the questions that were
not done.";

static PARAMS: [Param; 11] = [
    Param {
        name: "task",
        ty: ParamType::Choice(&["arc", "hellaswag", "mmlu"]),
        default: ParamDefault::Required,
        identity: true,
        help: "the benchmark that the questions are of",
    },
    Param {
        name: "protocol",
        ty: ParamType::Choice(&["harness", "harness_original", "authors"]),
        default: ParamDefault::Value("\"harness\""),
        identity: true,
        help: "by whose rules they are asked",
    },
    Param {
        name: "shots",
        ty: ParamType::Int { min: 0, max: 1 << 10 },
        default: ParamDefault::Absent,
        identity: true,
        help: "examples before each question; left out, 0, with `authors` 25 (HellaSwag: 0)",
    },
    Param {
        name: "limit",
        ty: ParamType::Int { min: 1, max: 1 << 32 },
        default: ParamDefault::Absent,
        identity: true,
        help: "so many questions only, the first in the protocol's order, of MMLU's original of each subject",
    },
    Param {
        name: "few_shot_seed",
        ty: ParamType::Int { min: 0, max: i64::MAX },
        default: ParamDefault::Absent,
        identity: true,
        help: "what examples are drawn with; left out, the protocol's own: 1234, with `authors` 42",
    },
    Param {
        name: "max_length",
        ty: ParamType::Int { min: 2, max: 1 << 24 },
        default: ParamDefault::Absent,
        identity: true,
        help: "tokens that the model reads at most; left out, what its files say, or 2048",
    },
    Param {
        name: "language",
        ty: ParamType::String,
        default: ParamDefault::Absent,
        identity: true,
        help: "the code of the questions' language, for `summary` and the names of tasks in `lm_eval`",
    },
    Param {
        name: "log_samples",
        ty: ParamType::Bool,
        default: ParamDefault::Value("false"),
        identity: true,
        help: "whether `lm_eval` holds every prompt too: with many examples, gigabytes",
    },
    Param {
        name: "tokens_at_once",
        ty: ParamType::Int { min: 1, max: 1 << 30 },
        default: ParamDefault::Value("2048"),
        identity: false,
        help: "tokens that are computed together, unless one text has more; the result is the same, on a GPU but for \
               rounding",
    },
    gpu::DEVICE,
    gpu::GPU_DTYPE,
];

static DESCRIPTOR: StageDescriptor = StageDescriptor {
    name: "evaluate",
    version: 1,
    summary: "scores a model on ARC, HellaSwag or MMLU",
    documentation: DOCUMENTATION,
    inputs: Inputs::Fixed(&[
        InputPort {
            name: "model",
            accepts: Accepts::Kinds(&[PortKind::Model]),
            required: true,
            gathers: false,
            help: "the model that is asked",
        },
        InputPort {
            name: "questions",
            accepts: Accepts::Kinds(&[PortKind::Questions]),
            required: true,
            gathers: false,
            help: "what it is asked",
        },
        InputPort {
            name: "examples",
            accepts: Accepts::Kinds(&[PortKind::Questions]),
            required: false,
            gathers: false,
            help: "the split that examples are taken from",
        },
    ]),
    outputs: Outputs::Fixed(&[
        OutputPort {
            name: "scores",
            kind: OutputKind::Fixed(PortKind::Scores),
            help: "one row per question",
        },
        OutputPort {
            name: "summary",
            kind: OutputKind::Fixed(PortKind::Scores),
            help: "the scores of all questions",
        },
        OutputPort {
            name: "lm_eval",
            kind: OutputKind::Fixed(PortKind::Tree),
            help: "the same in the files that the harness writes",
        },
    ]),
    params: &PARAMS,
    prompts: &[],
    fields: &[],
    determinism: Determinism::NumericClass,
};

impl Stage for Evaluate {
    fn descriptor(&self) -> &'static StageDescriptor {
        &DESCRIPTOR
    }

    fn estimate(&self, question: &EstimateQuestion<'_>) -> Option<Estimate> {
        let json = model_memory::config(question, "model")?;
        let config = ModelConfig::parse(&json).ok()?;
        let memory = memory(question.declared, question.settings, &config);
        let mut estimate = model_memory::estimate(memory, None);
        if let Some(rows) = lengths::of_port(question, "questions") {
            let setting = setting(&question.declared["params"]);
            let longest = longest(question.declared, &config) as f64;
            // An example is taken to be as long as a question with its choices, of which all are read once.
            let mut tokens = rows.prompt_tokens * (setting.shots + 1) as f64;
            if tokens > longest {
                tokens = longest;
                if choices_differ_in_length(&setting) {
                    tokens *= CUTS;
                    estimate.assumptions.push(CUTS_ASSUMED);
                }
            }
            let asked = setting.limit.map_or(rows.rows, |limit| rows.rows.min(limit as u64));
            let read = asked as f64 * tokens * config.reading_operations(true);
            speed::add_work(&mut estimate, question, Operations { read, sampled: 0.0 });
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

/// Texts of a question that are read apart, where more stands before it than the model reads: choices of other lengths are
/// cut at other places and share nothing. Measured with ARC, whose questions have four choices, after 25 examples.
const CUTS: f64 = 3.1;
const CUTS_ASSUMED: &str = "where a question and its examples have more tokens than the model reads, 3.1 texts of it are read, as choices of \
     different lengths are cut at different places and share nothing (measured with ARC)";

/// Whether the choices of a question have one text each, and not a letter.
fn choices_differ_in_length(setting: &Setting) -> bool {
    setting.task != Task::Mmlu || setting.protocol == Protocol::Authors
}

/// What the params of a node ask for.
fn setting(params: &Value) -> Setting {
    let task = match params["task"].as_str() {
        Some("hellaswag") => Task::HellaSwag,
        Some("mmlu") => Task::Mmlu,
        _ => Task::Arc,
    };
    let protocol = match params["protocol"].as_str() {
        Some("authors") => Protocol::Authors,
        Some("harness_original") => Protocol::Harness(Edition::Original),
        _ => Protocol::Harness(Edition::Translated),
    };
    let usual = Setting::new(task, protocol);
    let whole = |name: &str| params.get(name).and_then(Value::as_u64);
    Setting {
        shots: whole("shots").map_or(usual.shots, |shots| shots as usize),
        limit: whole("limit").map(|limit| limit as usize),
        seed: whole("few_shot_seed").unwrap_or(usual.seed),
        ..usual
    }
}

/// Tokens of texts, where nothing says how many they may be.
const USUAL_LENGTH: usize = 2048;

/// Tokens that the model reads at most.
fn longest(declared: &Value, config: &ModelConfig) -> usize {
    let length = declared["params"]["max_length"].as_u64().map(|length| length as usize);
    length.or(config.context()).unwrap_or(USUAL_LENGTH)
}

/// The memory that an evaluation takes.
fn memory(declared: &Value, settings: &Value, config: &ModelConfig) -> MemoryEstimate {
    let length = longest(declared, config);
    let there = gpu::kind(declared);
    // A longer text is computed alone. What questions have in common is kept beside.
    let of = |tokens: usize| {
        let tokens = tokens.max(length);
        config.generation_memory(1, tokens + length, tokens).on(there)
    };
    let tokens = tokens_at_once(settings);
    let remedy =
        MemoryRemedy { change: format!("`tokens_at_once: {length}`"), bytes: of(length).total() };
    let remedies = if tokens > length { vec![remedy] } else { Vec::new() };
    MemoryEstimate { parts: model_memory::parts(&of(tokens)), remedies, on_gpu: there.is_some() }
}

fn tokens_at_once(settings: &Value) -> usize {
    settings["tokens_at_once"].as_u64().unwrap_or(2048) as usize
}

fn refused(error: &EvalError) -> StageError {
    StageError::failed(error.to_string())
}

fn run(context: &StageContext<'_>) -> Result<StageSuccess, StageError> {
    let params = &context.declared["params"];
    let setting = setting(params);
    let config = model_folder::config(context, "model")?;
    model_memory::check(context, &memory(context.declared, context.settings, &config))?;
    let mut model = model_folder::open(context, "model")?;
    let questions: Vec<Question> = read_rows(single(context, "questions")?)?;
    let examples: Vec<Question> = match context.inputs.contains_key("examples") {
        true => read_rows(single(context, "examples")?)?,
        false => Vec::new(),
    };
    let longest = params.get("max_length").and_then(Value::as_u64);
    let longest =
        longest.map_or_else(|| max_length(&model.lm, &model.tokenizer), |length| length as usize);
    let given = (&questions[..], &examples[..]);
    let evaluation = Evaluation::new(&setting, given, &model.tokenizer, longest)
        .map_err(|error| refused(&error))?;
    if let Some((device, kind)) = gpu::open(context)? {
        gpu::bring_to_ask(&mut model.lm, &device, kind)?;
    }
    let mut scorer = evaluation.scorer(&model.lm, tokens_at_once(context.settings));
    let scores = scores(context, &mut scorer, evaluation.items().len())?;
    let summary = Summary::of(&scores, setting.is_by_subject())
        .ok_or_else(|| StageError::failed("`questions` has no rows: nothing can be scored"))?;
    let files = HarnessFiles {
        setting: &setting,
        language: params["language"].as_str(),
        questions: &questions,
        items: evaluation.items(),
        scores: &scores,
        summary: &summary,
        max_length: longest,
    };
    write_lm_eval(context, &files)?;
    write(context, &files)
}

/// The scores of an item, kept until all are there.
#[derive(Serialize, Deserialize)]
struct Kept {
    item: usize,
    score: ItemScore,
}

/// Scores all items, but for those that were scored before the run was stopped.
fn scores(
    context: &StageContext<'_>,
    scorer: &mut ItemScorer<'_>,
    count: usize,
) -> Result<Vec<ItemScore>, StageError> {
    let mut kept: KeptRows<Kept> = KeptRows::open(context.scratch, "scores.jsonl")?;
    let mut scores: Vec<Option<ItemScore>> = vec![None; count];
    for Kept { item, score } in kept.rows() {
        scores[*item] = Some(score.clone());
    }
    for batch in 0..scorer.batches().len() {
        let items = scorer.batches()[batch].clone();
        if items.iter().all(|item| scores[*item].is_some()) {
            continue;
        }
        if context.cancel.is_requested() {
            return Err(StageError::Cancelled);
        }
        let mut rows = Vec::new();
        for (item, score) in items.into_iter().zip(scorer.score(batch).map_err(|it| refused(&it))?)
        {
            if score.choices.iter().any(|choice| !choice.log_likelihood.is_finite()) {
                let id = &score.id;
                let message = format!(
                    "question `{id}`: a choice's probability is no number; is the model sound?"
                );
                return Err(StageError::failed(message));
            }
            scores[item] = Some(score.clone());
            rows.push(Kept { item, score });
        }
        kept.add(rows)?;
        let done = scores.iter().flatten().count() as u64;
        context.reporter.progress(done, Some(count as u64), "questions");
    }
    Ok(scores.into_iter().flatten().collect())
}

/// The document of the port `summary`.
#[derive(Serialize)]
struct SummaryDocument<'a> {
    version: u32,
    task: Task,
    language: Option<&'a str>,
    protocol: &'a str,
    shots: usize,
    few_shot_seed: u64,
    limit: Option<usize>,
    max_length: usize,
    /// Questions.
    n: usize,
    /// Questions before which something was cut off.
    cut: usize,
    #[serde(rename = "scores")]
    summary: &'a Summary,
}

/// Writes the ports `scores` and `summary`.
fn write(context: &StageContext<'_>, files: &HarnessFiles<'_>) -> Result<StageSuccess, StageError> {
    let HarnessFiles { setting, language, scores, summary, max_length, .. } = *files;
    let mut rows = context.create_output("scores")?;
    scores.iter().try_for_each(|score| write_row(&mut rows, score))?;
    let is_cut = |score: &&ItemScore| score.choices.iter().any(|choice| choice.cut > 0);
    let cut = scores.iter().filter(is_cut).count();
    let document = SummaryDocument {
        version: 1,
        task: setting.task,
        language,
        protocol: context.declared["params"]["protocol"].as_str().unwrap_or("harness"),
        shots: setting.shots,
        few_shot_seed: setting.seed,
        limit: setting.limit,
        max_length,
        n: scores.len(),
        cut,
        summary,
    };
    let mut file = context.create_output("summary")?;
    write_row(&mut file, &document)?;
    let mut success = StageSuccess::default();
    success.metrics.insert("n".to_owned(), scores.len() as f64);
    success.metrics.insert("cut".to_owned(), cut as f64);
    let shares = [("acc", summary.acc), ("acc_norm", summary.acc_norm)];
    for (name, Score { value, standard_error, .. }) in shares {
        success.metrics.insert(name.to_owned(), value);
        if let Some(error) = standard_error {
            success.metrics.insert(format!("{name}_stderr"), error);
        }
    }
    if cut > 0 {
        let message = format!(
            "{cut} of {} questions have more before them than the {max_length} tokens that the model reads: cut at \
             the beginning",
            scores.len()
        );
        context.reporter.log(message);
    }
    finish(context, &mut success, vec![("scores", rows), ("summary", file)])?;
    Ok(success)
}

/// Writes the port `lm_eval`.
fn write_lm_eval(context: &StageContext<'_>, files: &HarnessFiles<'_>) -> Result<(), StageError> {
    let folder = &context.outputs["lm_eval"];
    let io = |path: &Path, source| StageError::Io { path: path.to_owned(), source };
    std::fs::create_dir_all(folder).map_err(|error| io(folder, error))?;
    let path = folder.join(HarnessFiles::results_name());
    let results = format!("{:#}\n", files.results());
    std::fs::write(&path, results).map_err(|error| io(&path, error))?;
    if context.declared["params"]["log_samples"] != true {
        return Ok(());
    }
    for (task, items) in files.tasks() {
        let path = folder.join(HarnessFiles::samples_name(&task));
        let file = File::create(&path).map_err(|error| io(&path, error))?;
        let mut file = BufWriter::new(file);
        for (doc_id, item) in items.into_iter().enumerate() {
            let sample = files.sample(doc_id, item);
            writeln!(file, "{sample}").map_err(|error| io(&path, error))?;
        }
        file.flush().map_err(|error| io(&path, error))?;
    }
    Ok(())
}

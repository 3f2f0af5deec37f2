//! What all stages that ask a teacher have in common: rows go out as dialogues, several at once, and come
//! back in their order; what they cost is reported; those to which no answer could be used are set
//! aside.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};
use okapi_cache::{HashingFile, RecordCache};
use okapi_data::prompt_template::PromptTemplate;
use okapi_data::{Reject, RejectCounts};
use okapi_engine::estimate::{Estimate, EstimateQuestion, Expected, RowsEstimate};
use okapi_engine::spend::Spend;
use okapi_engine::stage::{Param, ParamDefault, ParamType, PromptMistake, PromptSlot};
use okapi_engine::stage_context::{InputPath, StageContext, StageError, StageSuccess};
use okapi_teacher::{
    Caller, CallerParts, Costs, Ledger, Price, Record, Request, Stop, TeacherError, Teachers, Used,
    ask::Unanswered,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::lengths;

/// How often progress and costs are reported.
const TICK: Duration = Duration::from_millis(100);
/// The metrics that say what a result was made of: answers, and the tokens read and written for them.
pub(crate) const REQUESTS: &str = "requests";
pub(crate) const PROMPT_TOKENS: &str = "prompt_tokens";
pub(crate) const COMPLETION_TOKENS: &str = "completion_tokens";
/// So many rejects are said in the node's log.
const LOGGED: u64 = 5;

/// The param for how often is asked.
pub(crate) const ATTEMPTS: Param = Param {
    name: "attempts",
    ty: ParamType::Int { min: 1, max: 100 },
    default: ParamDefault::Value("3"),
    identity: true,
    help: "how often a row is asked before it is set aside",
};

/// The param for how much may be set aside.
pub(crate) const MAX_REJECT_RATE: Param = Param {
    name: "max_reject_rate",
    ty: ParamType::Float { min: 0.0, max: 1.0 },
    default: ParamDefault::Value("0.1"),
    identity: true,
    help: "the node fails if a larger share of rows is set aside",
};

/// Has a dialogue about each of `items` with the node's teacher, as many at once as the teacher takes,
/// and hands what comes of them to `done` in the order of the items. Gives the answers that were used.
pub(crate) fn converse<I, O>(
    context: &StageContext<'_>,
    teachers: &Teachers,
    items: &[I],
    unit: &'static str,
    each: &impl AsyncFn(&Caller<'_>, &I) -> Result<O, TeacherError>,
    mut done: impl FnMut(usize, O) -> Result<(), StageError>,
) -> Result<Used, StageError> {
    let identity = &context.declared["teacher"];
    let settings = context.settings.get("teacher").unwrap_or(&Value::Null);
    let endpoint = teachers.endpoint(identity, settings).map_err(stage_error)?;
    let teacher = endpoint.teacher(context.records);
    let (ledger, stop) = (Ledger::default(), Stop::default());
    let parts = CallerParts {
        teacher: &*teacher,
        identity: endpoint.identity(),
        price: endpoint.price(),
        budget: teachers.budget(),
        records: context.records,
        in_flight: teachers.in_flight(),
        ledger: &ledger,
        experience: endpoint.experience(),
        stop: &stop,
        sample: teachers.sample().map(|sample| (sample, settings)),
    };
    let total = items.len() as u64;
    let used = Cell::new(Used::default());
    let report = |count: u64| {
        let costs = ledger.take();
        let mut sum = used.get();
        sum.add(&costs.used);
        used.set(sum);
        if costs != Costs::default() {
            context.reporter.spend(spend(&costs));
        }
        endpoint.notices().into_iter().for_each(|notice| context.reporter.log(notice));
        context.reporter.progress(count, Some(total), unit);
    };
    let result = Caller::with(parts, |caller| {
        teachers.block_on(async {
            let dialogues = items.iter().enumerate();
            let mut outcomes = stream::iter(dialogues)
                .map(|(place, item)| {
                    let outcome = each(caller, item);
                    async move { (place, outcome.await) }
                })
                .buffer_unordered(endpoint.concurrency());
            let mut tick = tokio::time::interval(TICK);
            let mut waiting: BTreeMap<usize, O> = BTreeMap::new();
            let (mut next, mut count) = (0, 0);
            let mut failure: Option<StageError> = None;
            let mut give_up_at: Option<Instant> = None;
            loop {
                tokio::select! {
                    outcome = outcomes.next() => {
                        let Some((place, outcome)) = outcome else { break };
                        match outcome {
                            Ok(outcome) => {
                                count += 1;
                                waiting.insert(place, outcome);
                            }
                            Err(error) => {
                                // The first failure ends the node; calls on their way still end.
                                failure.get_or_insert(stage_error(error));
                                stop.request();
                            }
                        }
                        while failure.is_none() && let Some(outcome) = waiting.remove(&next) {
                            if let Err(error) = done(next, outcome) {
                                failure = Some(error);
                                stop.request();
                            }
                            next += 1;
                        }
                    }
                    _ = tick.tick() => {
                        report(count);
                        if context.cancel.is_requested() {
                            failure.get_or_insert(StageError::Cancelled);
                            stop.request();
                        }
                    }
                }
                if stop.is_requested() {
                    // Calls on their way are paid for: they end, unless somebody wants to go home.
                    // The run itself says when its patience with an interrupt is at its end.
                    let at =
                        *give_up_at.get_or_insert_with(|| Instant::now() + endpoint.patience());
                    let is_over = context.cancel.is_urgent() || endpoint.patience().is_zero();
                    if is_over || Instant::now() > at {
                        stop.at_once();
                    }
                }
            }
            match failure {
                Some(failure) => Err(failure),
                None => Ok(count),
            }
        })
    });
    // Whatever happened, what was spent was spent.
    let flattened = match result {
        Ok(Ok(result)) => result,
        Ok(Err(error)) | Err(error) => Err(stage_error(error)),
    };
    report(flattened.as_ref().map_or(0, |count| *count));
    flattened.map(|_| used.get())
}

/// Notes with the result what it was made of.
pub(crate) fn note_used(used: &Used, success: &mut StageSuccess) {
    let Used { answers, prompt_tokens, completion_tokens } = *used;
    for (name, count) in [
        (REQUESTS, answers),
        (PROMPT_TOKENS, prompt_tokens),
        (COMPLETION_TOKENS, completion_tokens),
    ] {
        success.metrics.insert(name.to_owned(), count as f64);
    }
}

fn spend(costs: &Costs) -> Spend {
    Spend {
        requests: costs.requests,
        recorded: costs.recorded,
        prompt_tokens: costs.prompt_tokens,
        completion_tokens: costs.completion_tokens,
        nano_usd: costs.nano_usd,
        saved_nano_usd: costs.saved_nano_usd,
    }
}

/// A teacher's failure as the stage's.
pub(crate) fn stage_error(error: TeacherError) -> StageError {
    match error {
        TeacherError::Cancelled => StageError::Cancelled,
        TeacherError::Budget { .. } => StageError::BudgetReached { message: error.to_string() },
        TeacherError::Unavailable { message } => StageError::Failed {
            message: format!("the teacher is not available: {message}"),
            hint: Some("what was answered is recorded: a later run asks only for the rest".into()),
            transient: true,
        },
        TeacherError::Unusable { message, hint } => {
            StageError::Failed { message, hint, transient: false }
        }
        TeacherError::Unrecorded { .. } => StageError::Unrecorded { message: error.to_string() },
        TeacherError::Records { .. } => StageError::Records { message: error.to_string() },
        TeacherError::Refused { .. } => StageError::failed(error.to_string()),
    }
}

/// The only artifact of an input port.
pub(crate) fn single<'a>(
    context: &'a StageContext<'_>,
    port: &str,
) -> Result<&'a Path, StageError> {
    match context.inputs.get(port) {
        Some(InputPath::Single(path)) => Ok(path),
        _ => Err(StageError::failed(format!("the input `{port}` is not one artifact"))),
    }
}

/// Reads rows, one JSON object a line.
pub(crate) fn read_rows<R: DeserializeOwned>(path: &Path) -> Result<Vec<R>, StageError> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let io = |source| StageError::Io { path: path.to_owned(), source };
    let mut rows = Vec::new();
    for (number, line) in BufReader::new(File::open(path).map_err(io)?).lines().enumerate() {
        let line = line.map_err(io)?;
        if line.is_empty() {
            continue;
        }
        rows.push(serde_json::from_str(&line).map_err(|error| {
            let said = error.to_string();
            let said = said.split(" at line ").next().unwrap_or_default();
            StageError::failed(format!(
                "line {} of the input `{name}` is no row as it should be: {said}",
                number + 1
            ))
        })?);
    }
    Ok(rows)
}

/// Writes a row.
pub(crate) fn write_row(to: &mut HashingFile, row: &impl Serialize) -> Result<(), StageError> {
    let mut line =
        serde_json::to_vec(row).map_err(|error| StageError::failed(error.to_string()))?;
    line.push(b'\n');
    to.write_all(&line)
        .map_err(|error| StageError::failed(format!("the output cannot be written: {error}")))
}

/// Ends output files and notes what they hold.
pub(crate) fn finish(
    context: &StageContext<'_>,
    success: &mut StageSuccess,
    files: Vec<(&str, HashingFile)>,
) -> Result<(), StageError> {
    for (port, file) in files {
        let io = |source| StageError::Io { path: context.outputs[port].clone(), source };
        success.written.insert(port.to_owned(), file.finish().map_err(io)?);
    }
    Ok(())
}

/// Where rows are set aside.
pub(crate) struct Aside {
    file: HashingFile,
    counts: RejectCounts,
}

impl Aside {
    pub(crate) fn new(context: &StageContext<'_>) -> Result<Aside, StageError> {
        Ok(Aside { file: context.create_output("rejects")?, counts: RejectCounts::default() })
    }

    pub(crate) fn add(
        &mut self,
        context: &StageContext<'_>,
        reject: &Reject,
    ) -> Result<(), StageError> {
        if self.counts.total() < LOGGED {
            let Reject { id, rule, detail, .. } = reject;
            context.reporter.log(format!("set aside {id}: {rule}: {detail}"));
        }
        self.counts.add(&reject.rule);
        write_row(&mut self.file, reject)
    }

    /// How many were set aside.
    pub(crate) fn count(&self) -> u64 {
        self.counts.total()
    }

    /// Fails if too many of `asked` rows were set aside.
    pub(crate) fn finish(
        self,
        context: &StageContext<'_>,
        declared: &Value,
        asked: u64,
        success: &mut StageSuccess,
    ) -> Result<HashingFile, StageError> {
        let most = declared["params"]["max_reject_rate"].as_f64().unwrap_or(1.0);
        let total = self.counts.total();
        if total > LOGGED {
            context.reporter.log(format!("and {} more set aside", total - LOGGED));
        }
        let rate = if asked == 0 { 0.0 } else { total as f64 / asked as f64 };
        if rate > most {
            return Err(StageError::Failed {
                message: format!(
                    "{total} of {asked} rows were set aside ({}), a larger share than `max_reject_rate: {most}`",
                    self.counts
                ),
                hint: Some(
                    "raise it and run again to see them all on the port `rejects`: answers are recorded, nothing is asked twice"
                        .into(),
                ),
                transient: false,
            });
        }
        success.metrics.insert("rejects".to_owned(), total as f64);
        success.metrics.insert("reject_rate".to_owned(), rate);
        for (rule, count) in self.counts.by_rule() {
            success.metrics.insert(format!("rejects.{rule}"), count as f64);
        }
        Ok(self.file)
    }
}

/// The reject of a row to which no answer could be used.
pub(crate) fn unanswered(id: &str, row: Value, failed: Unanswered) -> Reject {
    Reject {
        id: id.to_owned(),
        rule: failed.invalid.rule.to_owned(),
        detail: failed.invalid.detail,
        score: None,
        neighbour: None,
        row,
        answer: failed.answer,
    }
}

/// Reads a prompt file for a slot, as it was read when the pipeline was checked.
pub(crate) fn template(
    path: &Path,
    slot: &PromptSlot,
    sample: &Value,
) -> Result<PromptTemplate, StageError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| StageError::Io { path: path.to_owned(), source })?;
    check_template(slot, &text, sample).map_err(|mistake| StageError::failed(mistake.message))
}

/// As [`okapi_engine::stage::Stage::check_prompt`].
pub(crate) fn check_template(
    slot: &PromptSlot,
    text: &str,
    sample: &Value,
) -> Result<PromptTemplate, PromptMistake> {
    let variables: Vec<_> = slot.variables.iter().map(|(name, _)| *name).collect();
    PromptTemplate::parse(text, &variables, sample).map_err(|mistake| PromptMistake {
        line: mistake.line,
        message: mistake.message,
        hint: mistake.hint,
    })
}

/// A prompt filled in.
pub(crate) fn render(template: &PromptTemplate, values: &Value) -> Result<String, TeacherError> {
    template.render(values).map_err(|mistake| TeacherError::Unusable {
        message: format!("the prompt cannot be filled in: {mistake}"),
        hint: None,
    })
}

/// A request that a row would make: the request as far as it is known, tokens of the answer, and tokens
/// of the request that are not known yet.
pub(crate) type Foreseen = (Request, u64, u64);

/// Rows of an input that are looked at one by one; of larger inputs a part stands for the whole.
const COUNTED: usize = 2000;

/// Reckons what the rows of an input would ask. `ask` says what one row asks, given the answers that are
/// recorded; `usual` what one of such rows asks that are not there yet: tokens read and written.
pub(crate) fn estimate_rows<R: DeserializeOwned>(
    question: &EstimateQuestion<'_>,
    port: &str,
    outputs: &[&str],
    ask: impl Fn(&R, &dyn Fn(&Request) -> Option<String>) -> Vec<Foreseen>,
    usual: impl Fn(&RowsEstimate) -> Vec<(f64, f64)>,
) -> Option<Estimate> {
    let identity = &question.declared["teacher"];
    let price = okapi_teacher::price(question.settings.get("teacher").unwrap_or(&Value::Null));
    let free = identity["kind"] == "offline";
    let (_, expected) = question.inputs.get(port)?.first()?;
    let mut estimate = Estimate::default();
    let rows = match expected {
        Expected::Unknown | Expected::PresentTree(_) | Expected::Facts(_) => return None,
        Expected::Rows(expected) => {
            for (prompt, completion) in usual(expected) {
                let of_all = |tokens: f64| (tokens * expected.rows as f64).round() as u64;
                estimate.requests += expected.rows;
                estimate.prompt_tokens += of_all(prompt);
                estimate.completion_tokens += of_all(completion);
            }
            estimate.assumptions.push(lengths::ASSUMPTION);
            *expected
        }
        Expected::Present(path) => {
            let rows: Vec<R> = read_rows(path).ok()?;
            let recorded = |request: &Request| recorded(question.records, request, identity);
            // Evenly spread: what is recorded is mostly at the beginning.
            let looked_at = rows.len().min(COUNTED);
            for place in 0..looked_at {
                let row = &rows[place * rows.len() / looked_at.max(1)];
                for (request, completion, more) in ask(row, &recorded) {
                    if recorded(&request).is_some() {
                        estimate.recorded += 1;
                    } else {
                        estimate.requests += 1;
                        estimate.prompt_tokens += request.estimated_tokens() + more;
                        estimate.completion_tokens += completion;
                    }
                }
            }
            estimate.counted = rows.len() <= COUNTED;
            if !estimate.counted {
                let factor = rows.len() as f64 / COUNTED as f64;
                let scaled = |number: u64| (number as f64 * factor).round() as u64;
                estimate.requests = scaled(estimate.requests);
                estimate.recorded = scaled(estimate.recorded);
                estimate.prompt_tokens = scaled(estimate.prompt_tokens);
                estimate.completion_tokens = scaled(estimate.completion_tokens);
            }
            lengths::of_artifact(expected)?
        }
    };
    estimate.nano_usd = cost(&estimate, price, free);
    estimate.outputs = outputs.iter().map(|port| ((*port).to_owned(), rows)).collect();
    Some(estimate)
}

/// What an estimate's tokens cost.
pub(crate) fn cost(estimate: &Estimate, price: Option<Price>, free: bool) -> Option<u64> {
    if free {
        return Some(0);
    }
    Some(price?.nano_usd(&okapi_teacher::Usage {
        prompt_tokens: estimate.prompt_tokens,
        completion_tokens: estimate.completion_tokens,
        ..Default::default()
    }))
}

/// The recorded answer to a request.
fn recorded(records: &RecordCache, request: &Request, identity: &Value) -> Option<String> {
    let bytes = records.lookup(&request.digest(identity)).ok()??;
    Some(Record::parse(&bytes)?.answer.text)
}

/// The teachers that stages share.
pub(crate) type SharedTeachers = Arc<Teachers>;

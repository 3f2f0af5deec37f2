//! `self_instruct`: new tasks, written by a teacher after the example of a few.

use std::collections::{BTreeMap, BTreeSet};

use okapi_cache::Digest;
use okapi_data::novelty::{NoveltyFilter, Verdict};
use okapi_data::prompt_template::PromptTemplate;
use okapi_data::self_instruct::{Broken, Candidate, as_shown, draw, filter, parse};
use okapi_data::{Instruction, Reject};
use okapi_engine::estimate::{Estimate, EstimateQuestion, Expected};
use okapi_engine::port::{Accepts, PortKind};
use okapi_engine::stage::{
    Determinism, InputPort, Inputs, NodeField, OutputKind, OutputPort, Outputs, Param,
    ParamDefault, ParamType, PromptMistake, PromptSlot, Stage, StageDescriptor,
};
use okapi_engine::stage_context::{StageContext, StageError, StageSuccess};
use okapi_teacher::{Caller, Finish, Request, TeacherError, Used};
use serde_json::{Value, json};

use crate::asking::{
    Aside, SharedTeachers, check_template, converse, cost, finish, note_used, read_rows, render,
    single, template, write_row,
};
use crate::lengths::{self, GENERATED};

/// The stage.
pub(crate) struct SelfInstruct(pub(crate) SharedTeachers);

const DOCUMENTATION: &str = "\
Self-Instruct as Alpaca runs it and the first paper extends it. Each request shows a teacher `examples` tasks
drawn from `seeds` (and `machine_examples` drawn from those kept so far; Self-Instruct itself takes 6 and 2,
Alpaca 3 and none) and asks for a list of new ones up to the number `last`. Requests are made in rounds until
`count` tasks are kept.

What comes back is read strictly, filtered by Alpaca's rules, and kept if its instruction is new: its ROUGE-L F
(as Python's `rouge_score` has it, without stemming) with every instruction of `seeds`, of `pool` and of those
kept before is at most `rouge_threshold`. Everything else is on `rejects`, with its rule:

- `layout`: it is no task (also what an answer that reached the greatest length ends with)
- `length`: fewer than 4 or more than 150 words
- `blacklist`: it speaks of images, files, music and such
- `program`: it begins with \"Write a program\"
- `punctuation`, `not_ascii`: its first character
- `too_close`: it is not new; with the score and the nearest neighbour
- `surplus`: it came after `count` was reached

Which examples a request shows depends on the seed and the request's number only, and answers are looked at in
the order of the requests, so the result does not depend on concurrency or on who answered first.

Alpaca's script ends an answer at the string `20.`, even inside \"in 2020.\"; nothing of the kind is done here.";

const VARIABLES: &[(&str, &str)] = &[
    ("examples", "a list of objects with `number`, `instruction`, `input`, `output`"),
    ("first", "the number of the first task that is wanted"),
    ("last", "the number of the last task that is wanted"),
];

static PROMPTS: [PromptSlot; 1] = [PromptSlot {
    name: "generate",
    variables: VARIABLES,
    help: "asks for a list of new tasks after some examples",
}];

static PARAMS: [Param; 7] = [
    Param {
        name: "count",
        ty: ParamType::Int { min: 1, max: 100_000_000 },
        default: ParamDefault::Required,
        identity: true,
        help: "how many tasks to keep",
    },
    Param {
        name: "examples",
        ty: ParamType::Int { min: 1, max: 50 },
        default: ParamDefault::Value("3"),
        identity: true,
        help: "how many seed tasks a request shows",
    },
    Param {
        name: "machine_examples",
        ty: ParamType::Int { min: 0, max: 50 },
        default: ParamDefault::Value("0"),
        identity: true,
        help: "how many of the tasks kept so far it shows beside them, as soon as there are any",
    },
    Param {
        name: "last",
        ty: ParamType::Int { min: 2, max: 200 },
        default: ParamDefault::Value("20"),
        identity: true,
        help: "the number of the last task that a request asks for; the examples count too",
    },
    Param {
        name: "rouge_threshold",
        ty: ParamType::Float { min: 0.0, max: 1.0 },
        default: ParamDefault::Value("0.7"),
        identity: true,
        help: "the greatest ROUGE-L F with an earlier instruction",
    },
    Param {
        name: "max_requests",
        ty: ParamType::Int { min: 1, max: 100_000_000 },
        default: ParamDefault::Absent,
        identity: true,
        help: "give up after so many requests; 2 for each task wanted, and 100, if left out",
    },
    Param {
        name: "round",
        ty: ParamType::Int { min: 1, max: 100_000 },
        default: ParamDefault::Value("200"),
        identity: true,
        help: "the most requests that are made before their tasks are looked at",
    },
];

static DESCRIPTOR: StageDescriptor = StageDescriptor {
    name: "self_instruct",
    version: 1,
    summary: "new tasks, written by a teacher after a few examples, kept if they are new",
    documentation: DOCUMENTATION,
    inputs: Inputs::Fixed(&[
        InputPort {
            name: "seeds",
            accepts: Accepts::Kinds(&[PortKind::Instructions]),
            required: true,
            gathers: false,
            help: "the tasks that examples are drawn from",
        },
        InputPort {
            name: "pool",
            accepts: Accepts::Kinds(&[PortKind::Instructions]),
            required: false,
            gathers: false,
            help: "other tasks that new ones must differ from",
        },
    ]),
    outputs: Outputs::Fixed(&[
        OutputPort {
            name: "examples",
            kind: OutputKind::Fixed(PortKind::Instructions),
            help: "the new tasks",
        },
        OutputPort {
            name: "rejects",
            kind: OutputKind::Fixed(PortKind::Rejects),
            help: "everything else that was written, with the rule that it breaks",
        },
    ]),
    params: &PARAMS,
    prompts: &PROMPTS,
    fields: &[NodeField::Teacher, NodeField::Prompts, NodeField::Seed],
    determinism: Determinism::Unknown,
};

/// Tokens of a task's layout: `###`, its number three times, and the names of its parts.
const LAYOUT_TOKENS: f64 = 14.0;
/// Of what is asked for, the share that comes back and is kept.
const KEPT: f64 = 0.75;
const LOSS_ASSUMED: &str =
    "a quarter of the tasks that `self_instruct` asks for does not come back or is set aside";

struct Options {
    count: usize,
    examples: usize,
    machine_examples: usize,
    last: u32,
    threshold: f64,
    max_requests: u64,
    round: u64,
    seed: i64,
}

impl Stage for SelfInstruct {
    fn descriptor(&self) -> &'static StageDescriptor {
        &DESCRIPTOR
    }

    fn check(&self, declared: &Value) -> Result<(), String> {
        let options = Options::new(declared);
        let shown = options.examples + options.machine_examples;
        if shown >= options.last as usize {
            return Err(format!(
                "`last: {}` leaves no new task: a request shows {shown} examples",
                options.last
            ));
        }
        Ok(())
    }

    fn check_prompt(&self, slot: &PromptSlot, text: &str) -> Result<(), PromptMistake> {
        check_template(slot, text, &sample()).map(|_| ())
    }

    fn limiting_service(&self, declared: &Value, settings: &Value) -> Option<String> {
        crate::teachers::limiting_service(declared, settings)
    }

    fn estimate(&self, question: &EstimateQuestion<'_>) -> Option<Estimate> {
        let options = Options::new(question.declared);
        let new = f64::from(options.last) - (options.examples + options.machine_examples) as f64;
        let requests = (options.count as f64 / (new * KEPT)).ceil() as u64;
        let price = okapi_teacher::price(question.settings.get("teacher").unwrap_or(&Value::Null));
        let recorded = options.recorded(question, requests);
        let requests = requests - recorded;
        let template = template(&question.prompts["generate"], &PROMPTS[0], &sample()).ok()?;
        let values = json!({ "examples": [], "first": 1, "last": options.last });
        let around = Request::new(render(&template, &values).ok()?).estimated_tokens() as f64;
        let task = LAYOUT_TOKENS + GENERATED.prompt + GENERATED.response;
        let shown = (options.examples + options.machine_examples) as f64 * task;
        let of_all = |tokens: f64| (tokens * requests as f64).round() as u64;
        let mut estimate = Estimate {
            requests,
            recorded,
            prompt_tokens: of_all(around + shown),
            completion_tokens: of_all(new * task),
            assumptions: vec![lengths::ASSUMPTION, LOSS_ASSUMED],
            ..Estimate::default()
        };
        let free = question.declared["teacher"]["kind"] == "offline";
        estimate.nano_usd = cost(&estimate, price, free);
        let rows = options.count as u64;
        let rows = lengths::of_english(rows, GENERATED.prompt, GENERATED.response, 1.0);
        estimate.outputs.insert("examples".to_owned(), rows);
        Some(estimate)
    }

    fn run(&self, context: &mut StageContext<'_>) -> Result<StageSuccess, StageError> {
        let options = Options::new(context.declared);
        let template = template(&context.prompts["generate"], &PROMPTS[0], &sample())?;
        let seeds: Vec<Instruction> = read_rows(single(context, "seeds")?)?;
        if seeds.len() < options.examples {
            return Err(StageError::failed(format!(
                "{} seed tasks are too few to show {} of them",
                seeds.len(),
                options.examples
            )));
        }
        let mut known: Vec<Instruction> = seeds.clone();
        if context.inputs.contains_key("pool") {
            known.extend(read_rows(single(context, "pool")?)?);
        }
        let mut harvest = Harvest::new(context, known, options.threshold, options.count)?;
        let (mut made, mut yielded) = (0u64, 0u64);
        let mut times_asked = BTreeMap::new();
        let mut used = Used::default();
        while harvest.kept.len() < options.count {
            let size = options.round_size(made, yielded, harvest.kept.len());
            if made + size > options.max_requests {
                return Err(harvest.exhausted(made, &options));
            }
            let open = options.shown(harvest.kept.len());
            let numbers: Vec<u64> = (made..made + size).collect();
            let requests = numbers
                .iter()
                .map(|&number| options.request(&template, &seeds, &harvest.kept, number))
                .collect::<Result<Vec<Request>, TeacherError>>()
                .map_err(crate::asking::stage_error)?;
            let requests = told_apart(requests, &mut times_asked);
            let mut round: Vec<(u64, Vec<Candidate>, Vec<Broken>)> = Vec::new();
            let each = async |caller: &Caller<'_>, request: &Request| {
                match caller.ask(request).await {
                    Ok(asked) => {
                        let cut = [Finish::Length, Finish::ContentFilter, Finish::Refused];
                        Ok((asked.answer.text, cut.contains(&asked.answer.finish)))
                    }
                    // One list less; the next requests go on.
                    Err(TeacherError::Refused { reason }) => Ok((format!("({reason})"), true)),
                    Err(error) => Err(error),
                }
            };
            let answered =
                converse(context, &self.0, &requests, "requests", &each, |place, (text, cut)| {
                    let (tasks, broken) = parse(&text, open, cut);
                    round.push((numbers[place], tasks, broken));
                    Ok(())
                })?;
            used.add(&answered);
            for (number, tasks, broken) in round {
                harvest.take(context, number, tasks, broken)?;
            }
            made += size;
            yielded = harvest.kept.len() as u64;
            context
                .reporter
                .log(format!("{yielded} of {} tasks after {made} requests", options.count));
        }
        harvest.finish(context, &used)
    }
}

impl Options {
    fn new(declared: &Value) -> Options {
        let params = &declared["params"];
        let number = |name: &str, default: u64| params[name].as_u64().unwrap_or(default);
        let count = number("count", 1);
        Options {
            count: count as usize,
            examples: number("examples", 3) as usize,
            machine_examples: number("machine_examples", 0) as usize,
            last: number("last", 20) as u32,
            threshold: params["rouge_threshold"].as_f64().unwrap_or(0.7),
            max_requests: number("max_requests", 2 * count + 100),
            round: number("round", 200),
            seed: declared["seed"].as_i64().unwrap_or(0),
        }
    }

    /// How many of the first requests are recorded, where they do not depend on what they bring.
    fn recorded(&self, question: &EstimateQuestion<'_>, requests: u64) -> u64 {
        let seeds = question.inputs.get("seeds").and_then(|items| items.first());
        let Some((_, Expected::Present(seeds))) = seeds else { return 0 };
        if self.machine_examples > 0 {
            return 0;
        }
        let read = || -> Result<_, StageError> {
            let template = template(&question.prompts["generate"], &PROMPTS[0], &sample())?;
            Ok((template, read_rows::<Instruction>(seeds)?))
        };
        let Ok((template, seeds)) = read() else { return 0 };
        let identity = &question.declared["teacher"];
        let first: Vec<Request> = (0..requests.min(2000))
            .filter_map(|number| self.request(&template, &seeds, &[], number).ok())
            .collect();
        let first = told_apart(first, &mut BTreeMap::new());
        let is_recorded = |request: &&Request| {
            matches!(question.records.lookup(&request.digest(identity)), Ok(Some(_)))
        };
        first.iter().filter(is_recorded).count() as u64
    }

    /// The number that a request leaves open when so many tasks are kept.
    fn shown(&self, kept: usize) -> u32 {
        (self.examples + self.machine_examples.min(kept)) as u32 + 1
    }

    /// How many requests the next round makes: as many as are needed if they yield what the earlier
    /// ones did.
    fn round_size(&self, made: u64, yielded: u64, kept: usize) -> u64 {
        let asked_for = f64::from(self.last) - (self.examples + self.machine_examples) as f64;
        let per_request = match made {
            0 => asked_for,
            made => (yielded as f64 / made as f64).max(asked_for / 20.0),
        };
        let left = (self.count - kept) as f64;
        ((left / per_request).ceil() as u64).clamp(1, self.round)
    }

    fn request(
        &self,
        template: &PromptTemplate,
        seeds: &[Instruction],
        kept: &[Instruction],
        number: u64,
    ) -> Result<Request, TeacherError> {
        let human = draw(self.seed, number, "seeds", seeds.len(), self.examples);
        let machine = draw(self.seed, number, "kept", kept.len(), self.machine_examples);
        let mut shown: Vec<&Instruction> = human.into_iter().map(|place| &seeds[place]).collect();
        shown.extend(machine.into_iter().map(|place| &kept[place]));
        if self.machine_examples > 0 {
            // Self-Instruct mixes them, so that a model does not copy the last ones most.
            let order = draw(self.seed, number, "order", shown.len(), shown.len());
            shown = order.into_iter().map(|place| shown[place]).collect();
        }
        let examples: Vec<Value> = shown
            .iter()
            .enumerate()
            .map(|(place, example)| {
                let input = if example.input.is_empty() { "<noinput>" } else { &example.input };
                json!({
                    "number": place + 1,
                    "instruction": as_shown(&example.instruction),
                    "input": input,
                    "output": example.output,
                })
            })
            .collect();
        let first = examples.len() + 1;
        let values = json!({ "examples": examples, "first": first, "last": self.last });
        Ok(Request::new(render(template, &values)?))
    }
}

/// Where chance has drawn the same examples again, in this round or an earlier one, another sample is
/// asked for. `times_asked` counts by the digest of the prompt.
fn told_apart(requests: Vec<Request>, times_asked: &mut BTreeMap<Digest, u32>) -> Vec<Request> {
    requests
        .into_iter()
        .map(|request| {
            let prompt = Digest::of(request.messages[0].content.as_bytes());
            let times = times_asked.entry(prompt).or_insert(0);
            *times += 1;
            Request { sample: *times - 1, ..request }
        })
        .collect()
}

/// What has been kept and set aside.
struct Harvest {
    novelty: NoveltyFilter,
    /// The instructions that new ones are compared with, in the order of the filter.
    known: Vec<Instruction>,
    kept: Vec<Instruction>,
    /// Their ids: with a threshold of 1, nothing else tells doubles.
    ids: BTreeSet<String>,
    count: usize,
    written: u64,
    aside: Aside,
}

impl Harvest {
    fn new(
        context: &StageContext<'_>,
        known: Vec<Instruction>,
        threshold: f64,
        count: usize,
    ) -> Result<Harvest, StageError> {
        let texts: Vec<&str> = known.iter().map(|row| row.instruction.as_str()).collect();
        Ok(Harvest {
            novelty: NoveltyFilter::new(&texts, threshold),
            known,
            kept: Vec::new(),
            ids: BTreeSet::new(),
            count,
            written: 0,
            aside: Aside::new(context)?,
        })
    }

    /// Looks at the tasks of one answer, in their order.
    fn take(
        &mut self,
        context: &StageContext<'_>,
        request: u64,
        tasks: Vec<Candidate>,
        broken: Vec<Broken>,
    ) -> Result<(), StageError> {
        let mut count = 0;
        let mut set_aside = |harvest: &mut Harvest, reject: Reject| {
            count += 1;
            let id = format!("request {request}, reject {count}");
            harvest.aside.add(context, &Reject { id, ..reject })
        };
        let reject = |rule: &str, detail: String, row: Value| Reject {
            id: String::new(),
            rule: rule.to_owned(),
            detail,
            score: None,
            neighbour: None,
            row,
            answer: None,
        };
        let mut passed = Vec::new();
        for task in tasks {
            self.written += 1;
            let row = task.clone().into_instruction();
            match filter(&task.instruction) {
                None => passed.push(row),
                Some((rule, detail)) => set_aside(self, reject(rule, detail, json!(row)))?,
            }
        }
        for broken in broken {
            self.written += 1;
            let row = json!({ "text": broken.text });
            set_aside(self, reject("layout", broken.detail, row))?;
        }
        let texts: Vec<&str> = passed.iter().map(|row| row.instruction.as_str()).collect();
        let verdicts = self.novelty.admit(&texts, context.threads);
        for (row, verdict) in passed.into_iter().zip(verdicts) {
            match verdict {
                Verdict::Novel if self.ids.contains(&row.id) => {
                    let detail = "it was made before, word for word".to_owned();
                    set_aside(self, reject("too_close", detail, json!(row)))?;
                }
                Verdict::Novel if self.kept.len() < self.count => {
                    self.ids.insert(row.id.clone());
                    self.known.push(row.clone());
                    self.kept.push(row);
                }
                Verdict::Novel => {
                    self.known.push(row.clone());
                    let detail = "there were enough tasks before it".to_owned();
                    set_aside(self, reject("surplus", detail, json!(row)))?;
                }
                Verdict::TooClose { neighbour, score } => {
                    let near = self.known[neighbour].instruction.clone();
                    let detail = format!("ROUGE-L F {score:.3} with an earlier instruction");
                    let reject = Reject {
                        score: Some(score),
                        neighbour: Some(near),
                        ..reject("too_close", detail, json!(row))
                    };
                    set_aside(self, reject)?;
                }
            }
        }
        Ok(())
    }

    fn exhausted(&self, made: u64, options: &Options) -> StageError {
        StageError::Failed {
            message: format!(
                "after {made} requests {} of {} tasks are new; {} were set aside",
                self.kept.len(),
                options.count,
                self.aside.count()
            ),
            hint: Some(
                "raise `max_requests` or `rouge_threshold`, lower `count`, or add seed tasks"
                    .into(),
            ),
            transient: false,
        }
    }

    fn finish(self, context: &StageContext<'_>, used: &Used) -> Result<StageSuccess, StageError> {
        let mut examples = context.create_output("examples")?;
        for row in &self.kept {
            write_row(&mut examples, row)?;
        }
        let mut success = StageSuccess::default();
        note_used(used, &mut success);
        success.metrics.insert("rows".to_owned(), self.kept.len() as f64);
        success.metrics.insert("written".to_owned(), self.written as f64);
        let rejects = self.aside.finish(context, &Value::Null, self.written, &mut success)?;
        finish(context, &mut success, vec![("examples", examples), ("rejects", rejects)])?;
        Ok(success)
    }
}

fn sample() -> Value {
    json!({
        "examples": [{ "number": 1, "instruction": "Name a colour.", "input": "<noinput>", "output": "Red." }],
        "first": 2,
        "last": 20,
    })
}

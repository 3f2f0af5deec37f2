//! `decontaminate`: rows that hold the questions of a test, set aside.

use std::path::PathBuf;

use okapi_data::overlap::{Asked, OverlapFinder};
use okapi_data::translation::TextRow;
use okapi_data::{Instruction, Prompt, Question, Reject};
use okapi_engine::estimate::{Estimate, EstimateQuestion};
use okapi_engine::port::{Accepts, PortKind};
use okapi_engine::stage::{
    Determinism, InputPort, Inputs, OutputKind, OutputPort, Outputs, Param, ParamDefault,
    ParamType, Stage, StageDescriptor,
};
use okapi_engine::stage_context::{InputPath, StageContext, StageError, StageSuccess};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::asking::{Aside, finish, read_rows, single, write_row};
use crate::lengths;

/// The stage.
pub(crate) struct Decontaminate;

const DOCUMENTATION: &str = "\
Keeps what a model will be asked out of what it learns from. A row whose instruction, input or output holds a question of
`questions` or one of `prompts` is set aside on `rejects`, with the question's id and the words that they share; all others go to
`data`, as they are.

A row holds a question if `words` words in a row are the same in both, or all words of a question that has fewer. Words are runs of
letters and digits, in lower case; in scripts that set no spaces, letters. Choices and answers are not looked at: the same fact in
other words is knowledge, not contamination.

A prompt is its instruction and its input, one behind the other.

Where rows are translated later, do this before, with the questions in English: then all languages learn from the
same rows.";

static PARAMS: [Param; 3] = [
    Param {
        name: "kind",
        ty: ParamType::PortKind,
        default: ParamDefault::Value("\"instructions\""),
        identity: true,
        help: "what the rows are: instructions or prompts",
    },
    Param {
        name: "words",
        ty: ParamType::Int { min: 1, max: 1000 },
        default: ParamDefault::Value("13"),
        identity: true,
        help: "so many words in a row, the same in both, are too many",
    },
    Param {
        name: "max_reject_rate",
        ty: ParamType::Float { min: 0.0, max: 1.0 },
        default: ParamDefault::Value("1"),
        identity: true,
        help: "the node fails if a larger share of rows is set aside",
    },
];

static DESCRIPTOR: StageDescriptor = StageDescriptor {
    name: "decontaminate",
    version: 1,
    summary: "sets rows aside that hold the questions of a test",
    documentation: DOCUMENTATION,
    inputs: Inputs::Fixed(&[
        InputPort {
            name: "data",
            accepts: Accepts::Kinds(&[PortKind::Instructions, PortKind::Prompts]),
            required: true,
            gathers: false,
            help: "what is to be learnt from",
        },
        InputPort {
            name: "questions",
            accepts: Accepts::Kinds(&[PortKind::Questions]),
            required: false,
            gathers: true,
            help: "questions of benchmarks that will be asked, in the same language",
        },
        InputPort {
            name: "prompts",
            accepts: Accepts::Kinds(&[PortKind::Prompts]),
            required: false,
            gathers: true,
            help: "open-ended prompts that will be asked, in the same language",
        },
    ]),
    outputs: Outputs::Fixed(&[
        OutputPort {
            name: "data",
            kind: OutputKind::Param("kind"),
            help: "the rows that hold none",
        },
        OutputPort {
            name: "rejects",
            kind: OutputKind::Fixed(PortKind::Rejects),
            help: "the rows that hold one, with the question",
        },
    ]),
    params: &PARAMS,
    prompts: &[],
    fields: &[],
    determinism: Determinism::Bytes,
};

impl Stage for Decontaminate {
    fn descriptor(&self) -> &'static StageDescriptor {
        &DESCRIPTOR
    }

    fn check(&self, declared: &Value) -> Result<(), String> {
        match declared["params"]["kind"].as_str() {
            Some("instructions" | "prompts") => Ok(()),
            _ => Err("`kind` must be one of instructions, prompts".to_owned()),
        }
    }

    fn check_inputs(&self, ports: &[&str]) -> Result<(), String> {
        if ports.contains(&"questions") || ports.contains(&"prompts") {
            return Ok(());
        }
        Err("give `questions` or `prompts`, or both: there is nothing to look for".to_owned())
    }

    fn estimate(&self, question: &EstimateQuestion<'_>) -> Option<Estimate> {
        let rows = lengths::of_port(question, "data")?;
        Some(Estimate { outputs: [("data".to_owned(), rows)].into(), ..Estimate::default() })
    }

    fn run(&self, context: &mut StageContext<'_>) -> Result<StageSuccess, StageError> {
        let declared = context.declared.clone();
        let mut asked = asked::<Question>(context, "questions")?;
        asked.extend(self::asked::<Prompt>(context, "prompts")?);
        let count = asked.len();
        let words = declared["params"]["words"].as_u64().unwrap_or(13);
        let finder = OverlapFinder::new(asked, usize::try_from(words).unwrap_or(usize::MAX));
        let path = single(context, "data")?;
        let rows: Vec<TextRow> = match declared["params"]["kind"].as_str() {
            Some("prompts") => {
                read_rows::<Prompt>(path)?.into_iter().map(TextRow::Prompt).collect()
            }
            _ => read_rows::<Instruction>(path)?.into_iter().map(TextRow::Instruction).collect(),
        };
        let mut data = context.create_output("data")?;
        let mut aside = Aside::new(context)?;
        for (place, row) in rows.iter().enumerate() {
            if place % 1000 == 0 {
                context.reporter.progress(place as u64, Some(rows.len() as u64), "rows");
                if context.cancel.is_requested() {
                    return Err(StageError::Cancelled);
                }
            }
            // As one text: where a task's question ends and its input begins, there is no border.
            let texts: Vec<String> = row.texts().into_iter().map(|(_, text)| text).collect();
            let Some(overlap) = finder.find(&texts.join("\n")) else {
                write_row(&mut data, row)?;
                continue;
            };
            let reject = Reject {
                id: row.id().to_owned(),
                rule: "benchmark".to_owned(),
                detail: format!("it holds words of `{}`: {}", overlap.question, overlap.words),
                score: None,
                neighbour: Some(overlap.question),
                row: row.to_json(),
                answer: None,
            };
            aside.add(context, &reject)?;
        }
        let mut success = StageSuccess::default();
        success.metrics.insert("rows".to_owned(), rows.len() as f64 - aside.count() as f64);
        success.metrics.insert("questions".to_owned(), count as f64);
        let rejects = aside.finish(context, &declared, rows.len() as u64, &mut success)?;
        finish(context, &mut success, vec![("data", data), ("rejects", rejects)])?;
        Ok(success)
    }
}

/// What is asked, of all inputs of a port.
fn asked<T: DeserializeOwned + Into<Asked>>(
    context: &StageContext<'_>,
    port: &str,
) -> Result<Vec<Asked>, StageError> {
    let paths: Vec<&PathBuf> = match context.inputs.get(port) {
        None => Vec::new(),
        Some(InputPath::Single(path)) => vec![path],
        Some(InputPath::Gathered { items, .. }) => items.iter().map(|(_, path)| path).collect(),
    };
    let mut all = Vec::new();
    for path in paths {
        all.extend(read_rows::<T>(path)?.into_iter().map(Into::into));
    }
    Ok(all)
}

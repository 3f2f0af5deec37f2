//! `report`: scores, curves, statistics and costs of a pipeline as one document.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use okapi_engine::graph_render::lineage_svg;
use okapi_engine::lineage::{Lineage, LineageScope};
use okapi_engine::port::{Accepts, PortKind};
use okapi_engine::stage::{
    Determinism, InputPort, Inputs, OutputKind, OutputPort, Outputs, Param, ParamDefault,
    ParamType, Stage, StageDescriptor,
};
use okapi_engine::stage_context::{StageContext, StageError, StageSuccess};
use okapi_report::{Fact, Report};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::labels::{self, Labels};
use crate::report_rows::{add_resources, answers, curves, items, rejects, scores};
use crate::report_sets::statistics;

/// The stage.
pub(crate) struct MakeReport;

const DOCUMENTATION: &str = "\
Puts what other nodes made into one document: an HTML file that opens from disk, the same tables as Markdown, and
all of it as JSON. Feed the ports that there is something for: a part without data is left out, and one language, or
the curves alone, are a report too.

    report:
      stage: report
      inputs:
        scores: [evaluate_base:summary, evaluate:summary]
        curves: [sft:curve, ppo:curve]
        statistics: statistics
        rejects: [translate:rejects, rank:rejects]
      params: {title: Okapi, compare_with: {base: bloom}}

Every number is linked to the instance of the node that made it and to the digest of its action, as `okapi show
--metrics` and `okapi log` have them. So the report is made anew when an action above it changes, even one whose
outputs come out as before, and only then.

Numbers are told apart by labels, which come from the axes of the instance that made them:

| label | axis, unless `axes` names another | where there is no such axis |
|---|---|---|
| language | `lang` | what `evaluate` was told, or `labels` |
| method | `method` | `methods` by the node, or the stage that made the model: `sft`, `rlhf` (`ppo`), else `base` |
| model | `model` | `labels`, or the node that brought the model in (`import_model`, `init_model`) |
| seed | `seed` | `labels`, or the `seed` of the node that made the model, or 0 |

Open-ended answers are scored as in the paper on monolingual and multilingual tuning: the judge's grades are
summed, and an answer that is not in its language counts nothing (of 50 prompts, 0 to 150). `judged` and `languages` are
joined by the answers that both looked at, and their rows by id. These scores have labels of their own: `base`, the family
(if left out, what `families` says of the model's label, or that label), `tuning` (`lora`, `full`), `recipe` (`multilingual`, `monolingual`, `english_only`,
`downsampled`, or any other), each by the axis of that name or by `labels`; the number of parameters is that which
`import_model` or `init_model` counted. Means are over the languages that every recipe was asked in, where it can be said
which recipe is the better one; of the others, unseen in tuning perhaps, they stand beside.

The columns of the paper's tables are the methods `base`, `bloomz`, `sft` and `rlhf`, and the rows languages by their
codes; `compare_with` says for a model which published table stands beside. A model of another size than the paper's is
told from it in words; what else is different, `score_note` has to say. Data sets are called by their nodes, or as `sets`
says, and `compare_sets` puts the paper's lengths beside. What no axis and no node says is an error, and
so are two scores that nothing tells apart. Over several seeds the report has means with their standard errors.

What teachers were asked is counted as the answers that went into the results, however often the work was begun
and whichever of them were recorded before. So a report of a run that was killed again and again has the bytes of
one that was not. With `times` it also says how long each node took and what was paid: for the executions that made
these results, which no other run repeats; payments of executions that were killed are not among them.";

static PARAMS: [Param; 12] = [
    Param {
        name: "title",
        ty: ParamType::String,
        default: ParamDefault::Value("\"Report\""),
        identity: true,
        help: "what stands on top",
    },
    Param {
        name: "summary",
        ty: ParamType::String,
        default: ParamDefault::Absent,
        identity: true,
        help: "a few sentences below the title",
    },
    Param {
        name: "facts",
        ty: ParamType::Map(&ParamType::String),
        default: ParamDefault::Absent,
        identity: true,
        help: "what else to say of what was run, such as `{profile: offline}`",
    },
    Param {
        name: "axes",
        ty: ParamType::Map(&ParamType::String),
        default: ParamDefault::Absent,
        identity: true,
        help: "which axis holds which label, where it has another name: `{method: tuned}`",
    },
    Param {
        name: "labels",
        ty: ParamType::Map(&ParamType::String),
        default: ParamDefault::Absent,
        identity: true,
        help: "what holds where no axis says it: `{model: BLOOM, language: en}`",
    },
    Param {
        name: "methods",
        ty: ParamType::Map(&ParamType::String),
        default: ParamDefault::Absent,
        identity: true,
        help: "what methods are called, by the node that evaluates or trains, or by the axis's value: \
               `{evaluate_bloomz: bloomz, ppo: rlhf}`",
    },
    Param {
        name: "families",
        ty: ParamType::Map(&ParamType::String),
        default: ParamDefault::Absent,
        identity: true,
        help: "of open-ended answers, the families of models by their labels: `{bloom-560m: BLOOM, bloom-3b: BLOOM}`",
    },
    Param {
        name: "compare_with",
        ty: ParamType::Map(&ParamType::Choice(&["bloom", "llama"])),
        default: ParamDefault::Absent,
        identity: true,
        help: "by the label of a model, the base model of the Okapi paper whose published scores stand beside",
    },
    Param {
        name: "sets",
        ty: ParamType::Map(&ParamType::String),
        default: ParamDefault::Absent,
        identity: true,
        help: "what data sets are called, by the node that made them: `{english: New, translated: New}` are one in two languages",
    },
    Param {
        name: "compare_sets",
        ty: ParamType::Map(&ParamType::Choice(&["alpaca", "generated"])),
        default: ParamDefault::Absent,
        identity: true,
        help: "by what a data set is called, the one of the Okapi paper whose published lengths stand beside",
    },
    Param {
        name: "score_note",
        ty: ParamType::String,
        default: ParamDefault::Absent,
        identity: true,
        help: "what must be known of all scores, and stands below each table of them: who translated the questions, what \
               stands in for what the paper has",
    },
    Param {
        name: "times",
        ty: ParamType::Bool,
        default: ParamDefault::Value("false"),
        identity: true,
        help: "whether it says how long nodes took and what was paid: then it is of one run, and not reproducible",
    },
];

const fn port(name: &'static str, kinds: &'static [PortKind], help: &'static str) -> InputPort {
    InputPort { name, accepts: Accepts::Kinds(kinds), required: false, gathers: true, help }
}

static DESCRIPTOR: StageDescriptor = StageDescriptor {
    name: "report",
    version: 4,
    summary: "makes scores, curves and statistics one document, each number with its source",
    documentation: DOCUMENTATION,
    inputs: Inputs::Fixed(&[
        port("scores", &[PortKind::Scores], "summaries, from `evaluate`"),
        port(
            "curves",
            &[PortKind::Curve],
            "curves of trainings, from `pretrain`, `sft`, `reward_model` and `ppo`",
        ),
        port("judged", &[PortKind::Scores], "grades of open-ended answers, from `judge`"),
        port(
            "languages",
            &[PortKind::Scores],
            "which of these answers are in their language, from `identify_language`; needless where `judge` was told",
        ),
        port("statistics", &[PortKind::Statistics], "what data sets are like, from `describe`"),
        port(
            "rejects",
            &[PortKind::Rejects],
            "rows that were set aside, from `self_instruct`, `decontaminate`, `translate`, `rank` and `judge`",
        ),
    ]),
    outputs: Outputs::Fixed(&[
        OutputPort {
            name: "html",
            kind: OutputKind::Fixed(PortKind::Report),
            help: "the report as one file that needs no network",
        },
        OutputPort {
            name: "markdown",
            kind: OutputKind::Fixed(PortKind::Text),
            help: "its tables as Markdown",
        },
        OutputPort {
            name: "data",
            kind: OutputKind::Fixed(PortKind::File),
            help: "all that went in and the tables, as JSON",
        },
    ]),
    params: &PARAMS,
    prompts: &[],
    fields: &[],
    determinism: Determinism::Bytes,
};

impl Stage for MakeReport {
    fn descriptor(&self) -> &'static StageDescriptor {
        &DESCRIPTOR
    }

    fn check(&self, declared: &Value) -> Result<(), String> {
        labels::check(&declared["params"])
    }

    fn check_inputs(&self, ports: &[&str]) -> Result<(), String> {
        match ports {
            [] => Err("there is nothing to report: give at least one input".to_owned()),
            ports if ports.contains(&"languages") && !ports.contains(&"judged") => {
                Err("`languages` says which answers count, and the input `judged` lacks them"
                    .to_owned())
            }
            _ => Ok(()),
        }
    }

    fn lineage(&self, declared: &Value) -> LineageScope {
        match declared["params"]["times"].as_bool() {
            Some(true) => LineageScope::ActionsAndTimes,
            _ => LineageScope::Actions,
        }
    }

    fn run(&self, context: &mut StageContext<'_>) -> Result<StageSuccess, StageError> {
        let lineage = context
            .lineage
            .ok_or_else(|| StageError::failed("the engine gave no lineage to report of"))?;
        let report = report(context, lineage)?;
        let mut success = StageSuccess::default();
        let counts = [
            ("scores", report.scores.len()),
            ("answers", report.answers.len()),
            ("curves", report.curves.len()),
            ("statistics", report.statistics.len()),
            ("sources", lineage.ancestors.len()),
        ];
        for (name, count) in counts {
            success.metrics.insert(name.to_owned(), count as f64);
        }
        let written = [
            ("html", okapi_report::html(&report)),
            ("markdown", okapi_report::markdown(&report)),
            ("data", okapi_report::json(&report)),
        ];
        for (port, text) in written {
            let io = |source| StageError::Io { path: context.outputs[port].clone(), source };
            let mut output = context.create_output(port)?;
            output.write_all(text.as_bytes()).map_err(io)?;
            success.written.insert(port.to_owned(), output.finish().map_err(io)?);
        }
        Ok(success)
    }
}

/// Reads all that was made.
fn report(context: &StageContext<'_>, lineage: &Lineage) -> Result<Report, StageError> {
    let params = &context.declared["params"];
    let text = |name: &str| params.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let labels = Labels::new(lineage, params);
    let read = |port: &str| items(context, lineage, port);
    let title = text("title");
    let mut report = Report {
        version: Report::VERSION,
        summary: text("summary"),
        score_note: text("score_note"),
        facts: facts(params),
        compare_with: compare_with(params, "compare_with")?,
        compare_sets: compare_with(params, "compare_sets")?,
        scores: scores(&read("scores"), &labels)?,
        answers: answers(&read("judged"), &read("languages"), &labels)?,
        curves: curves(&read("curves"), &labels)?,
        statistics: statistics(&read("statistics"), &labels, &params["sets"])?,
        rejects: rejects(&read("rejects"), &labels)?,
        graph: Some(lineage_svg(lineage, &title)),
        title,
        ..Report::default()
    };
    add_resources(&mut report, lineage, &labels)?;
    let models = report.scores.iter().map(|score| &*score.model).collect();
    let sets = report.statistics.iter().map(|set| &*set.name).collect();
    say_unknown(context, "compare_with", report.compare_with.keys(), "models with scores", &models);
    say_unknown(context, "compare_sets", report.compare_sets.keys(), "data sets", &sets);
    Ok(report)
}

/// Says of what a param names that there is no such thing here: nothing stands beside it.
fn say_unknown<'a>(
    context: &StageContext<'_>,
    param: &str,
    named: impl Iterator<Item = &'a String>,
    what: &str,
    known: &BTreeSet<&str>,
) {
    for name in named.filter(|name| !known.contains(name.as_str())) {
        let known = known.iter().copied().collect::<Vec<_>>().join(", ");
        context.reporter.log(format!("`{param}` names `{name}`, and the {what} are: {known}"));
    }
}

fn facts(params: &Value) -> Vec<Fact> {
    let written = params["facts"].as_object().into_iter().flatten();
    let written = written.map(|(name, value)| Fact {
        name: name.clone(),
        value: value.as_str().unwrap_or_default().to_owned(),
    });
    let with_times = params["times"].as_bool().unwrap_or(false).then(|| Fact {
        name: "times and costs".to_owned(),
        value: "of the executions that made these results; no other run has the same".to_owned(),
    });
    written.chain(with_times).collect()
}

/// What of the paper's stands beside, by the name of what is ours.
fn compare_with<T: DeserializeOwned>(
    params: &Value,
    param: &str,
) -> Result<BTreeMap<String, T>, StageError> {
    let written = params[param].as_object().into_iter().flatten();
    written
        .map(|(name, published)| {
            let published = serde_json::from_value(published.clone());
            let published =
                published.map_err(|error| StageError::failed(format!("`{param}`: {error}")))?;
            Ok((name.clone(), published))
        })
        .collect()
}

//! `mix`: data sets put together, shuffled, sampled and split.

use std::io::Write;

use okapi_data::import::RowKind;
use okapi_data::mix::{Amount, Choose, MixInput, MixOptions, Order, mix};
use okapi_engine::estimate::{Estimate, EstimateQuestion, RowsEstimate};
use okapi_engine::port::{Accepts, PortKind};
use okapi_engine::stage::{
    Determinism, InputPort, Inputs, NodeField, OutputKind, OutputPort, Outputs, Param,
    ParamDefault, ParamType, Stage, StageDescriptor,
};
use okapi_engine::stage_context::{InputPath, StageContext, StageError, StageSuccess};
use serde_json::Value;

use crate::lengths;

/// The stage.
pub(crate) struct Mix;

const DOCUMENTATION: &str = "\
Puts the rows of several data sets together. With `count` or `share` only so many go to `data`, and
the others to `rest`: a sample, a split, or a budget.

All chance comes from `seed` and the rows' ids. So a sample of 100 is part of the sample of 200, and a
row that is added or edited leaves the places of the others alone.

A few recipes:

- one multilingual set, shuffled: `order: shuffled`
- the same, downsampled to the size of one language: `order: shuffled, count: 52000`, and
  `per_input: true` for as many of each language
- a split for ranking and for reinforcement learning: `count: 42000`, and read `rest` too
- a validation split that keeps translations of one row on one side: `by: id, share: 0.9`

Where two inputs have an id in common, every id gets its input's key in front: `lang=de/17`.";

static PARAMS: [Param; 7] = [
    Param {
        name: "kind",
        ty: ParamType::PortKind,
        default: ParamDefault::Value("\"instructions\""),
        identity: true,
        help: "what the rows are: instructions, prompts, questions, rankings or responses",
    },
    Param {
        name: "order",
        ty: ParamType::Choice(&["given", "shuffled", "interleaved"]),
        default: ParamDefault::Value("\"given\""),
        identity: true,
        help: "input after input, at random, or one row of each in turn",
    },
    Param {
        name: "count",
        ty: ParamType::Int { min: 1, max: i64::MAX },
        default: ParamDefault::Absent,
        identity: true,
        help: "how many rows (or ids) go to `data`",
    },
    Param {
        name: "share",
        ty: ParamType::Float { min: 0.0, max: 1.0 },
        default: ParamDefault::Absent,
        identity: true,
        help: "the share of rows (or ids) that goes to `data`",
    },
    Param {
        name: "choose",
        ty: ParamType::Choice(&["random", "first"]),
        default: ParamDefault::Value("\"random\""),
        identity: true,
        help: "which rows `count` and `share` take",
    },
    Param {
        name: "by",
        ty: ParamType::Choice(&["row", "id"]),
        default: ParamDefault::Value("\"row\""),
        identity: true,
        help: "whether rows are counted and chosen, or ids with all their rows",
    },
    Param {
        name: "per_input",
        ty: ParamType::Bool,
        default: ParamDefault::Value("false"),
        identity: true,
        help: "take as many of each input, as far as it has them",
    },
];

/// What rows may be that are put together.
pub(crate) const KINDS: [PortKind; 5] = [
    PortKind::Instructions,
    PortKind::Prompts,
    PortKind::Questions,
    PortKind::Rankings,
    PortKind::Responses,
];

static DESCRIPTOR: StageDescriptor = StageDescriptor {
    name: "mix",
    version: 1,
    summary: "puts data sets together, shuffles, samples and splits them",
    documentation: DOCUMENTATION,
    inputs: Inputs::Fixed(&[InputPort {
        name: "data",
        accepts: Accepts::Kinds(&KINDS),
        required: true,
        gathers: true,
        help: "the data sets, all of one kind",
    }]),
    outputs: Outputs::Fixed(&[
        OutputPort { name: "data", kind: OutputKind::Param("kind"), help: "the rows taken" },
        OutputPort { name: "rest", kind: OutputKind::Param("kind"), help: "the rows left" },
    ]),
    params: &PARAMS,
    prompts: &[],
    fields: &[NodeField::Seed],
    determinism: Determinism::Bytes,
};

impl Stage for Mix {
    fn descriptor(&self) -> &'static StageDescriptor {
        &DESCRIPTOR
    }

    fn check(&self, declared: &Value) -> Result<(), String> {
        options(declared).map(|_| ())
    }

    fn estimate(&self, question: &EstimateQuestion<'_>) -> Option<Estimate> {
        let options = options(question.declared).ok()?;
        let parts = lengths::each_of_port(question, "data")?;
        let all = lengths::together(&parts)?;
        let rows: Vec<u64> = parts.iter().map(|part| part.rows).collect();
        let data = RowsEstimate { rows: taken(&rows, &options), ..all };
        let rest = RowsEstimate { rows: all.rows.saturating_sub(data.rows), ..all };
        let outputs = [("data".to_owned(), data), ("rest".to_owned(), rest)].into();
        Some(Estimate { outputs, ..Estimate::default() })
    }

    fn run(&self, context: &mut StageContext<'_>) -> Result<StageSuccess, StageError> {
        let options = options(context.declared).map_err(StageError::failed)?;
        let inputs: Vec<MixInput> = match &context.inputs["data"] {
            InputPath::Single(path) => vec![MixInput { key: String::new(), path: path.clone() }],
            InputPath::Gathered { items, .. } => items
                .iter()
                .map(|(key, path)| MixInput { key: key.clone(), path: path.clone() })
                .collect(),
        };
        let mut data = context.create_output("data")?;
        let mut rest = context.create_output("rest")?;
        let mixed = mix(&inputs, &options, &mut data as &mut dyn Write, &mut rest)
            .map_err(|error| StageError::failed(error.to_string()))?;
        let mut success = StageSuccess::default();
        for (port, file) in [("data", data), ("rest", rest)] {
            let io = |source| StageError::Io { path: context.outputs[port].clone(), source };
            success.written.insert(port.to_owned(), file.finish().map_err(io)?);
        }
        success.metrics.insert("rows".to_owned(), mixed.data as f64);
        success.metrics.insert("rest".to_owned(), mixed.rest as f64);
        Ok(success)
    }
}

/// How many rows go to `data`, of inputs with so many. By ids, an id is taken to be in each input, as where they are
/// translations of each other.
fn taken(inputs: &[u64], options: &MixOptions) -> u64 {
    let all: u64 = inputs.iter().sum();
    let of = |rows: u64| match options.amount {
        Amount::All => rows,
        Amount::Count(count) => count.min(rows),
        Amount::Share(share) => (rows as f64 * share).round() as u64,
    };
    if options.per_input {
        return inputs.iter().copied().map(of).sum();
    }
    let ids = inputs.iter().copied().max().unwrap_or(0);
    match options.by_id && ids > 0 {
        true => (of(ids) as f64 * all as f64 / ids as f64).round() as u64,
        false => of(all),
    }
}

fn options(declared: &Value) -> Result<MixOptions, String> {
    let params = &declared["params"];
    let word = |name: &str| params.get(name).and_then(Value::as_str).unwrap_or_default();
    let kind = match PortKind::from_name(word("kind")) {
        Some(PortKind::Instructions) => RowKind::Instructions,
        Some(PortKind::Prompts) => RowKind::Prompts,
        Some(PortKind::Questions) => RowKind::Questions,
        Some(PortKind::Rankings) => RowKind::Rankings,
        Some(PortKind::Responses) => RowKind::Responses,
        _ => {
            let names: Vec<_> = KINDS.iter().map(|kind| kind.name()).collect();
            return Err(format!("`kind` must be one of {}", names.join(", ")));
        }
    };
    let count = params.get("count").and_then(Value::as_u64);
    let share = params.get("share").and_then(Value::as_f64);
    let amount = match (count, share) {
        (None, None) => Amount::All,
        (Some(count), None) => Amount::Count(count),
        (None, Some(share)) => Amount::Share(share),
        (Some(_), Some(_)) => return Err("give `count` or `share`, not both".to_owned()),
    };
    Ok(MixOptions {
        kind,
        order: match word("order") {
            "shuffled" => Order::Shuffled,
            "interleaved" => Order::Interleaved,
            _ => Order::Given,
        },
        amount,
        choose: if word("choose") == "first" { Choose::First } else { Choose::Random },
        by_id: word("by") == "id",
        per_input: params.get("per_input").and_then(Value::as_bool).unwrap_or(false),
        seed: declared.get("seed").and_then(Value::as_i64).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plan_knows_how_many_rows_are_taken() {
        for (params, inputs, expected) in [
            (json!({}), &[100, 50][..], 150),
            (json!({ "count": 120 }), &[100, 50], 120),
            (json!({ "count": 500 }), &[100, 50], 150),
            (json!({ "count": 60, "per_input": true }), &[100, 50], 110),
            (json!({ "share": 0.25 }), &[100, 50], 38),
            (json!({ "share": 0.9, "by": "id" }), &[100, 100, 100], 270),
            (json!({ "count": 42_000, "by": "id" }), &[106_000], 42_000),
        ] {
            let mut declared = json!({ "params": { "kind": "instructions" } });
            declared["params"].as_object_mut().unwrap().extend(params.as_object().unwrap().clone());
            assert_eq!(taken(inputs, &options(&declared).unwrap()), expected, "{params}");
        }
    }
}

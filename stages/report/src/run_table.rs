//! What is known of a run but its scores -> tables.

use std::collections::BTreeMap;

use crate::document::{Curve, Report, Source};
use crate::language;
use crate::number;
use crate::provenance::Provenance;
use crate::table::ColumnKind::{Code, Number, Text};
use crate::table::{Cell, Row, Table};

/// Mean lengths of prompts and responses, as the paper's Table 2.
pub(crate) fn statistics(report: &Report) -> Option<Table> {
    let mut sets: Vec<_> = report.statistics.iter().collect();
    sets.sort_by_key(|it| (it.name.as_str(), language::order(&it.language), &it.source));
    let row = |set: &&crate::document::DataSet| {
        let length =
            |value: f64| Cell::number(number::decimal(value, 1), value).from(&[&set.source]);
        Row::new([
            Cell::text(&set.name),
            Cell::text(language::name(&set.language)),
            Cell::number(number::count(set.rows), set.rows as f64).from(&[&set.source]),
            length(set.prompt),
            set.response.map_or_else(Cell::default, length),
            Cell::text(&set.unit),
        ])
    };
    let columns = [
        ("Data", Text),
        ("Language", Text),
        ("Rows", Number),
        ("Prompt", Number),
        ("Response", Number),
        ("Unit", Text),
    ];
    let table = Table::new("statistics", "Mean lengths", &columns);
    let rows: Vec<Row> = sets.iter().map(row).collect();
    (!rows.is_empty()).then(|| table.section(rows, Vec::new()))
}

/// Sums by a key, the largest first, with the sources that went into each.
pub(crate) fn sums<'r, K: Ord + Clone>(
    parts: impl Iterator<Item = (K, f64, &'r Source)>,
) -> Vec<(K, f64, Vec<&'r Source>)> {
    let mut parts: Vec<_> = parts.collect();
    // Sums of fractions run in one order, however the parts came.
    parts.sort_by(|a, b| (&a.0, a.2).cmp(&(&b.0, b.2)).then(a.1.total_cmp(&b.1)));
    let mut sums: BTreeMap<K, (f64, Vec<&Source>)> = BTreeMap::new();
    for (key, value, source) in parts {
        let sum = sums.entry(key).or_default();
        sum.0 += value;
        if sum.1.last() != Some(&source) {
            sum.1.push(source);
        }
    }
    let mut sums: Vec<_> =
        sums.into_iter().map(|(key, (sum, sources))| (key, sum, sources)).collect();
    sums.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    sums
}

/// Rejects by stage and rule, over languages.
pub(crate) fn rejects(report: &Report) -> Option<Table> {
    let parts = report.rejects.iter();
    let parts =
        parts.map(|it| ((it.stage.as_str(), it.reason.as_str()), it.count as f64, &it.source));
    let rows: Vec<Row> = sums(parts)
        .into_iter()
        .map(|((stage, reason), count, sources)| {
            let count = Cell::number(number::count(count as u64), count).from(&sources);
            Row::new([Cell::text(stage), Cell::text(reason), count])
        })
        .collect();
    let table = Table::new(
        "rejects",
        "Rejects by reason",
        &[("Stage", Text), ("Reason", Text), ("Rows", Number)],
    );
    (!rows.is_empty()).then(|| table.section(rows, Vec::new()))
}

/// What teachers were asked, by stage and in total.
pub(crate) fn spend(report: &Report) -> Option<Table> {
    let mut stages: BTreeMap<&str, ([u64; 4], Vec<&Source>)> = BTreeMap::new();
    for it in &report.spend {
        let sum = stages.entry(&it.stage).or_default();
        let parts = [it.requests, it.prompt_tokens, it.completion_tokens, it.micro_usd];
        sum.0 = [0, 1, 2, 3].map(|place| sum.0[place].saturating_add(parts[place]));
        sum.1.push(&it.source);
    }
    let row = |stage: &str, parts: [u64; 4], sources: &[&Source]| {
        let [requests, prompt, completion, money] = parts;
        let count = |value: u64| Cell::number(number::count(value), value as f64).from(sources);
        Row::new([
            Cell::text(stage),
            count(requests),
            count(prompt),
            count(completion),
            Cell::number(number::usd(money), money as f64).from(sources),
        ])
    };
    let mut total = [0u64; 4];
    let mut rows = Vec::new();
    for (stage, (parts, mut sources)) in stages {
        total = [0, 1, 2, 3].map(|place| total[place].saturating_add(parts[place]));
        sources.sort();
        rows.push(row(stage, parts, &sources));
    }
    let columns = [
        ("Stage", Text),
        ("Requests", Number),
        ("Prompt tokens", Number),
        ("Completion tokens", Number),
        ("Cost", Number),
    ];
    let table = Table::new("spend", "Spend", &columns);
    (!rows.is_empty()).then(|| table.section(rows, vec![row("Total", total, &[])]))
}

/// How long nodes took, the longest first, with the total.
pub(crate) fn times(report: &Report) -> Option<Table> {
    let mut times: Vec<_> = report.times.iter().collect();
    times.sort_by(|a, b| b.seconds.total_cmp(&a.seconds).then_with(|| a.source.cmp(&b.source)));
    let total: f64 = times.iter().map(|it| it.seconds).sum();
    let rows: Vec<Row> = times
        .iter()
        .map(|it| {
            let seconds = Cell::number(number::duration(it.seconds), it.seconds);
            Row::new([
                Cell::text(&it.source.node),
                Cell::text(&it.stage),
                seconds.from(&[&it.source]),
            ])
        })
        .collect();
    let summary = Row::new([
        Cell::text("Total"),
        Cell::default(),
        Cell::number(number::duration(total), total),
    ]);
    let table =
        Table::new("times", "Time by node", &[("Node", Text), ("Stage", Text), ("Time", Number)]);
    (!rows.is_empty()).then(|| table.section(rows, vec![summary]))
}

/// Where trainings began and ended: what the figures show, as numbers.
pub(crate) fn curves(report: &Report) -> Option<Table> {
    let mut curves: Vec<&Curve> = report.curves.iter().collect();
    curves.sort_by_key(|it| {
        let language = it.language.as_deref().map(language::order);
        (&it.stage, &it.model, language, it.seed, &it.source)
    });
    let mut rows = Vec::new();
    for curve in curves {
        for measure in crate::figure::MEASURES {
            let values = || {
                let points = curve.points.iter();
                points.filter_map(|it| Some((it.step, *it.measures.get(measure.0)?)))
            };
            let Some((first, last)) = values().next().zip(values().next_back()) else { continue };
            let value =
                |value: f64| Cell::number(number::decimal(value, 3), value).from(&[&curve.source]);
            rows.push(Row::new([
                Cell::text(&curve.stage),
                Cell::text(&curve.model),
                Cell::text(curve.language.as_deref().map_or("", language::name)),
                Cell::number(curve.seed.to_string(), curve.seed as f64),
                Cell::text(measure.1),
                Cell::number(number::count(last.0), last.0 as f64),
                value(first.1),
                value(last.1),
            ]));
        }
    }
    let columns = [
        ("Stage", Text),
        ("Model", Text),
        ("Language", Text),
        ("Seed", Number),
        ("Measure", Text),
        ("Steps", Number),
        ("First", Number),
        ("Last", Number),
    ];
    let table = Table::new("curves", "Where trainings began and ended", &columns);
    (!rows.is_empty()).then(|| table.section(rows, Vec::new()))
}

/// Every source.
pub(crate) fn sources(provenance: &Provenance) -> Table {
    let rows = provenance.all().map(|(number, source, what)| {
        Row::new([
            Cell::number(number.to_string(), number as f64),
            Cell::text(&source.node),
            Cell::text(&source.action),
            Cell::text(&what),
        ])
    });
    let columns =
        [("No.", Number), ("Node", Text), ("Action digest", Code), ("What it gave", Text)];
    Table::new("sources", "Nodes and actions", &columns).section(rows.collect(), Vec::new())
}

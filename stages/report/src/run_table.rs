//! What is known of a run but its scores -> tables.

use std::collections::BTreeMap;

use crate::document::{Curve, Report, Source};
use crate::language;
use crate::number;
use crate::provenance::Provenance;
use crate::table::ColumnKind::{Code, Number, Text};
use crate::table::{Cell, Row, Table};

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

/// What is said of a total.
const SUM: &str = "sum of the rows";

/// What teachers were asked, by stage and in total.
pub(crate) fn spend(report: &Report) -> Option<Table> {
    let has_money = report.spend.iter().any(|it| it.micro_usd.is_some());
    let mut stages: BTreeMap<&str, ([u64; 4], Vec<&Source>)> = BTreeMap::new();
    for it in &report.spend {
        let sum = stages.entry(&it.stage).or_default();
        let money = it.micro_usd.unwrap_or(0);
        let parts = [it.requests, it.prompt_tokens, it.completion_tokens, money];
        sum.0 = [0, 1, 2, 3].map(|place| sum.0[place].saturating_add(parts[place]));
        sum.1.push(&it.source);
    }
    let row = |stage: &str, parts: [u64; 4], sources: &[&Source], title: Option<&str>| {
        let [requests, prompt, completion, money] = parts;
        let sum = |text, value| Cell {
            title: title.map(str::to_owned),
            ..Cell::number(text, value).from(sources)
        };
        let count = |value: u64| sum(number::count(value), value as f64);
        let mut cells = vec![Cell::text(stage), count(requests), count(prompt), count(completion)];
        cells.extend(has_money.then(|| sum(number::usd(money), money as f64)));
        Row { cells }
    };
    let mut total = [0u64; 4];
    let mut rows = Vec::new();
    let mut stages: Vec<_> = stages.into_iter().collect();
    stages.sort_by_key(|(stage, (parts, _))| {
        (std::cmp::Reverse((parts[3], parts[1].saturating_add(parts[2]))), *stage)
    });
    for (stage, (parts, mut sources)) in stages {
        total = [0, 1, 2, 3].map(|place| total[place].saturating_add(parts[place]));
        sources.sort();
        rows.push(row(stage, parts, &sources, None));
    }
    let columns = [
        ("Stage", Text),
        ("Requests", Number),
        ("Prompt tokens", Number),
        ("Completion tokens", Number),
        ("Cost", Number),
    ];
    let columns = if has_money { &columns[..] } else { &columns[..4] };
    let table = Table::new("spend", "What teachers were asked", columns);
    let all: Vec<&Source> = report.spend.iter().map(|it| &it.source).collect();
    (!rows.is_empty()).then(|| table.section(rows, vec![row("Total", total, &all, Some(SUM))]))
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
        Cell {
            title: Some(SUM.to_owned()),
            ..Cell::number(number::duration(total), total)
                .from(&times.iter().map(|it| &it.source).collect::<Vec<_>>())
        },
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
        let stage = crate::figure::stage_order(&it.stage);
        (stage, it.source.node_name(), &it.model, language, it.seed, &it.source)
    });
    let mut rows = Vec::new();
    for curve in curves {
        for measure in crate::figure::MEASURES {
            let values = || {
                let points = curve.points.iter();
                points.filter_map(|it| Some((it.step, *it.measures.get(measure.0)?)))
            };
            let Some((first, last)) = values().next().zip(values().next_back()) else { continue };
            let cell = |text, value| Cell::number(text, value).from(&[&curve.source]);
            let value = |value: f64| cell(number::decimal(value, 3), value);
            rows.push(Row::new([
                Cell::text(&curve.stage),
                Cell::text(curve.source.node_name()),
                Cell::text(&curve.model),
                Cell::text(curve.language.as_deref().map_or("", language::name)),
                cell(curve.seed.to_string(), curve.seed as f64),
                Cell::text(measure.1),
                cell(number::count(last.0), last.0 as f64),
                value(first.1),
                value(last.1),
            ]));
        }
    }
    let columns = [
        ("Stage", Text),
        ("Node", Text),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Rejects, Spend};

    fn source(node: &str) -> Source {
        Source { node: node.to_owned(), action: "a".to_owned() }
    }

    fn texts(table: &Table) -> Vec<Vec<&str>> {
        let section = &table.sections[0];
        let rows = section.rows.iter().chain(&section.summary);
        rows.map(|row| row.cells.iter().map(|cell| cell.text.as_str()).collect()).collect()
    }

    #[test]
    fn rejects_are_summed_over_languages_the_most_first() {
        let rejects = |reason: &str, count, node: &str| Rejects {
            stage: "translate".to_owned(),
            reason: reason.to_owned(),
            count,
            source: source(node),
        };
        let report = Report {
            rejects: vec![
                rejects("rare", 7, "t[lang=de]"),
                rejects("common", 900, "t[lang=te]"),
                rejects("common", 150, "t[lang=de]"),
            ],
            ..Report::default()
        };
        let table = super::rejects(&report).unwrap();
        assert_eq!(texts(&table), [["translate", "common", "1,050"], ["translate", "rare", "7"]]);
        let count = &table.sections[0].rows[0].cells[2];
        assert_eq!(count.sources, [source("t[lang=de]"), source("t[lang=te]")]);
    }

    #[test]
    fn spend_is_summed_by_stage_and_in_total() {
        let spend = |stage: &str, requests, micro_usd| Spend {
            stage: stage.to_owned(),
            requests,
            prompt_tokens: 10,
            completion_tokens: 20,
            micro_usd: Some(micro_usd),
            source: source(stage),
        };
        let report = Report {
            spend: vec![
                spend("rank", 1, 20_000),
                spend("translate", 2, 5_000_000),
                spend("rank", 3, 0),
            ],
            ..Report::default()
        };
        let expected = [
            ["translate", "2", "10", "20", "$5.00"],
            ["rank", "4", "20", "40", "$0.02"],
            ["Total", "6", "30", "60", "$5.02"],
        ];
        assert_eq!(texts(&super::spend(&report).unwrap()), expected);
        let mut unpriced = report;
        unpriced.spend.iter_mut().for_each(|it| it.micro_usd = None);
        let table = super::spend(&unpriced).unwrap();
        assert_eq!(table.columns.len(), 4);
        assert_eq!(texts(&table)[0], ["rank", "4", "20", "40"]);
    }
}

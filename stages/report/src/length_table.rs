//! What data sets are like -> tables: lengths as in the paper's Table 2 with its own beside, and the root verbs of its
//! Figure 1.

use std::collections::BTreeSet;

use crate::document::{DataSet, Report, RootVerb};
use crate::language;
use crate::number;
use crate::published_lengths::{FIGURE_1_SHARE, PublishedSet};
use crate::score_grid::mean;
use crate::table::ColumnKind::{Number, Published, Text};
use crate::table::{Cell, Column, Row, Table};

/// Data sets of one name in one unit, one for each language.
pub(crate) struct SetOfLanguages<'r> {
    pub(crate) name: &'r str,
    pub(crate) unit: &'r str,
    /// In the order of rows.
    pub(crate) rows: Vec<&'r DataSet>,
    /// What is shown beside. Lengths in another unit than the paper's have nothing beside.
    pub(crate) published: Option<PublishedSet>,
}

/// The data sets of a report, by name.
pub(crate) fn sets(report: &Report) -> Vec<SetOfLanguages<'_>> {
    let names: BTreeSet<(&str, &str)> =
        report.statistics.iter().map(|it| (&*it.name, &*it.unit)).collect();
    let set = |(name, unit): (&'_ str, &'_ str)| {
        let found = report.statistics.iter();
        let mut rows: Vec<&DataSet> =
            found.filter(|it| (&*it.name, &*it.unit) == (name, unit)).collect();
        rows.sort_by_key(|it| (language::order(&it.language), &it.source));
        // Of two sets with one name, the same one whichever came first.
        rows.dedup_by_key(|it| &it.language);
        rows
    };
    let named = names.into_iter().map(|(name, unit)| SetOfLanguages {
        name,
        unit,
        rows: set((name, unit)),
        published: report.compare_sets.get(name).copied().filter(|_| unit == "tokens"),
    });
    named.collect()
}

impl SetOfLanguages<'_> {
    fn of(&self, code: &str) -> Option<&DataSet> {
        self.rows.iter().find(|row| row.language == code).copied()
    }

    /// What a row has in the columns of this set, given its number of rows and ours and the paper's lengths.
    fn cells(&self, rows: Cell, ours: [Cell; 2], papers: [Cell; 2]) -> Vec<Cell> {
        let [prompt, response] = ours;
        let [paper_prompt, paper_response] = papers;
        match self.published {
            Some(_) => vec![rows, prompt, paper_prompt, response, paper_response],
            None => vec![rows, prompt, response],
        }
    }
}

/// Mean lengths of prompts and responses by language, data set by data set.
pub(crate) fn lengths(report: &Report) -> Option<Table> {
    let sets = sets(report);
    let languages: BTreeSet<_> =
        report.statistics.iter().map(|it| language::order(&it.language)).collect();
    let mut table = Table::new("statistics", "Mean lengths", &[("Language", Text)]);
    for set in &sets {
        let columns = [
            ("rows", Number),
            ("prompt", Number),
            ("prompt, paper", Published),
            ("response", Number),
            ("response, paper", Published),
        ];
        let shown = columns.into_iter().filter(|it| it.1 == Number || set.published.is_some());
        table.columns.extend(
            shown.map(|(title, kind)| Column { title: format!("{}, {title}", set.name), kind }),
        );
        table.notes.push(format!("{}: lengths in {}.", set.name, set.unit));
    }
    let row = |&(_, code): &(usize, &str)| {
        let mut cells = vec![Cell::text(language::name(code))];
        cells.extend(sets.iter().flat_map(|set| language_cells(set, code)));
        Row { cells }
    };
    let rows: Vec<Row> = languages.iter().map(row).collect();
    let mut averages = Vec::new();
    if rows.len() > 1 {
        let cells = sets.iter().flat_map(average_cells);
        averages.push(std::iter::once(Cell::text("Average")).chain(cells).collect::<Vec<_>>());
    }
    let published: Vec<PublishedSet> = sets.iter().filter_map(|set| set.published).collect();
    if let Some(first) = published.first() {
        let cells = sets.iter().flat_map(printed_cells);
        let first_cell = Cell::text("Average that the paper prints");
        averages.push(std::iter::once(first_cell).chain(cells).collect());
        table.notes.push(format!(
            "Paper: Table {} (Lai et al., 2023), in tokens by BLOOM's tokenizer; by another one they are another unit. \
             The average that it prints is not that of its rows, which give {}.",
            first.number(),
            averages_of_rows(&published)
        ));
    }
    let summary = averages.into_iter().map(Row::new).collect();
    (!rows.is_empty()).then(|| table.section(rows, summary))
}

fn length(value: f64) -> Cell {
    Cell::number(number::decimal(value, 1), value)
}

fn language_cells(set: &SetOfLanguages<'_>, code: &str) -> Vec<Cell> {
    let papers = set.published.and_then(|published| published.lengths(code));
    let papers = match (set.published, papers) {
        (Some(published), Some(values)) => values.map(|value| Cell {
            title: Some(format!(
                "Okapi paper, Table {}, {}",
                published.number(),
                language::name(code)
            )),
            ..length(value)
        }),
        _ => [Cell::default(), Cell::default()],
    };
    let Some(found) = set.of(code) else {
        return set.cells(Cell::default(), [Cell::default(), Cell::default()], papers);
    };
    let from = |cell: Cell| cell.from(&[&found.source]);
    let rows = from(Cell::number(number::count(found.rows), found.rows as f64));
    let response = found.response.map_or_else(Cell::default, |value| from(length(value)));
    set.cells(rows, [from(length(found.prompt)), response], papers)
}

/// Ours over the languages that are here, and the paper's over those of them that it has.
fn average_cells(set: &SetOfLanguages<'_>) -> Vec<Cell> {
    let sources: Vec<_> = set.rows.iter().map(|row| &row.source).collect();
    let average = |values: Vec<f64>| {
        let count = values.len();
        mean(&values).map_or_else(Cell::default, |value| Cell {
            title: Some(format!("mean of {count} languages")),
            ..length(value).from(&sources)
        })
    };
    let prompt = average(set.rows.iter().map(|row| row.prompt).collect());
    let response = average(set.rows.iter().filter_map(|row| row.response).collect());
    let papers = set.published.and_then(|it| it.average(|code| set.of(code).is_some()));
    let papers = papers.map_or_else(
        || [Cell::default(), Cell::default()],
        |values| {
            values.map(|value| Cell {
                title: Some("mean of the paper's rows in the languages here".to_owned()),
                ..length(value)
            })
        },
    );
    set.cells(Cell::default(), [prompt, response], papers)
}

fn printed_cells(set: &SetOfLanguages<'_>) -> Vec<Cell> {
    let papers = set.published.map_or_else(
        || [Cell::default(), Cell::default()],
        |published| {
            published.printed_average().map(|value| Cell {
                title: Some(format!("Okapi paper, Table {}, Average", published.number())),
                ..length(value)
            })
        },
    );
    set.cells(Cell::default(), [Cell::default(), Cell::default()], papers)
}

/// The means of the paper's own rows, prompt and response of one set after the other.
fn averages_of_rows(published: &[PublishedSet]) -> String {
    let joined = |is_wanted: &dyn Fn(&str) -> bool| {
        let values = published.iter().filter_map(|set| set.average(is_wanted)).flatten();
        values.map(|value| number::decimal(value, 1)).collect::<Vec<_>>().join(", ")
    };
    format!("{} with English and {} without", joined(&|_| true), joined(&|code| code != "en"))
}

/// The data sets whose root verbs were looked for.
pub(crate) fn with_root_verbs(report: &Report) -> Vec<(&DataSet, &[RootVerb])> {
    let mut found: Vec<_> = report
        .statistics
        .iter()
        .filter_map(|set| Some((set, &*set.root_verbs.as_ref()?.verbs)))
        .filter(|(_, verbs)| !verbs.is_empty())
        .collect();
    found.sort_by_key(|(set, _)| (&set.name, language::order(&set.language), &set.source));
    found
}

/// What is said of the share of instructions whose verb and object are shown.
pub(crate) fn covered(report: &Report, set: &DataSet) -> String {
    let share = set.root_verbs.as_ref().map_or(0.0, |verbs| verbs.covered_share);
    let papers = match report.compare_sets.get(&set.name) {
        Some(PublishedSet::Generated) => {
            let share = number::percent(FIGURE_1_SHARE);
            format!("; in the paper's Figure 1 {share} %, found by a parser where here are rules")
        }
        _ => String::new(),
    };
    format!(
        "The verbs and objects shown make up {} % of the {} instructions{papers}.",
        number::percent(share),
        number::count(set.rows)
    )
}

/// The most frequent root verbs with their objects.
pub(crate) fn root_verbs(report: &Report) -> Option<Table> {
    let sets = with_root_verbs(report);
    let columns =
        [("Data set", Text), ("Root verb", Text), ("Instructions", Number), ("Objects", Text)];
    let mut table = Table::new("root-verbs", "Root verbs and their objects", &columns);
    let mut rows = Vec::new();
    for (set, verbs) in sets {
        table.notes.push(format!("{}: {}", set.name, covered(report, set)));
        rows.extend(verbs.iter().map(|verb| {
            let count = Cell::number(number::count(verb.count), verb.count as f64);
            Row::new([
                Cell::text(&set.name),
                Cell::text(&verb.verb),
                count.from(&[&set.source]),
                Cell::text(&objects(verb)),
            ])
        }));
    }
    (!rows.is_empty()).then(|| table.section(rows, Vec::new()))
}

/// The objects of a verb with their counts, in words.
pub(crate) fn objects(verb: &RootVerb) -> String {
    let objects = verb.objects.iter();
    let objects = objects.map(|it| format!("{} {}", it.object, number::count(it.count)));
    objects.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::document::Source;

    fn set(name: &str, language: &str, prompt: f64) -> DataSet {
        DataSet {
            name: name.to_owned(),
            language: language.to_owned(),
            rows: 1_000,
            unit: "tokens".to_owned(),
            prompt,
            response: Some(10.0),
            root_verbs: None,
            source: Source { node: format!("describe[lang={language}]"), action: "a".to_owned() },
        }
    }

    #[test]
    fn lengths_stand_beside_the_paper_s_with_both_of_its_averages() {
        let report = Report {
            statistics: vec![
                set("Mine", "de", 5.0),
                set("Alpaca", "de", 20.0),
                set("Alpaca", "en", 10.0),
            ],
            compare_sets: BTreeMap::from([("Alpaca".to_owned(), PublishedSet::Alpaca)]),
            ..Report::default()
        };
        let table = lengths(&report).unwrap();
        let section = &table.sections[0];
        let texts: Vec<Vec<&str>> = section
            .rows
            .iter()
            .chain(&section.summary)
            .map(|row| row.cells.iter().map(|cell| cell.text.as_str()).collect())
            .collect();
        let expected = [
            ["English", "1,000", "10.0", "49.0", "10.0", "56.2", "", "", ""],
            ["German", "1,000", "20.0", "61.1", "10.0", "94.2", "1,000", "5.0", "10.0"],
            ["Average", "", "15.0", "55.0", "10.0", "75.2", "", "5.0", "10.0"],
            ["Average that the paper prints", "", "", "57.1", "", "80.8", "", "", ""],
        ];
        assert_eq!(texts, expected);
        assert_eq!(section.summary[0].cells[2].sources.len(), 2);
        let note = table.notes.last().unwrap();
        assert!(note.contains("give 57.5, 82.3 with English and 57.9, 83.3 without"), "{note}");
    }

    #[test]
    fn lengths_in_another_unit_have_nothing_beside() {
        let mut words = set("Alpaca", "de", 20.0);
        words.unit = "words".to_owned();
        let report = Report {
            statistics: vec![words],
            compare_sets: BTreeMap::from([("Alpaca".to_owned(), PublishedSet::Alpaca)]),
            ..Report::default()
        };
        let table = lengths(&report).unwrap();
        assert!(table.columns.iter().all(|column| column.kind != Published));
    }
}

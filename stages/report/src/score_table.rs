//! Scores -> tables like the paper's Tables 3 to 8, with what it prints beside ours.

use std::collections::{BTreeMap, BTreeSet};

use crate::document::{Report, Task};
use crate::language::{self, ResourceGroup};
use crate::number;
use crate::published::{PublishedPlace, PublishedTable};
use crate::score_grid::{Mean, ScoreGrid, mean, method_order, method_title};
use crate::table::{Cell, Column, ColumnKind, Row, Table, TableSection};

/// Languages in groups, a column for each method.
pub(crate) fn score_table(report: &Report, grid: &ScoreGrid<'_>) -> Table {
    let mut table = Table::new(
        &format!("scores-{}", grid.number),
        &grid.title(),
        &[("Language", ColumnKind::Text), ("n", ColumnKind::Number)],
    );
    table.columns.extend(columns(grid).into_iter().map(|column| {
        let method = method_title(column.method);
        match column.published {
            true => Column { title: format!("{method}, paper"), kind: ColumnKind::Published },
            false => Column { title: method.to_owned(), kind: ColumnKind::Number },
        }
    }));
    for group in ResourceGroup::ALL {
        let languages = grid.of_group(group);
        if languages.is_empty() {
            continue;
        }
        let rows = languages.iter().map(|language| language_row(grid, language)).collect();
        let place = PublishedPlace::Group(group);
        let summary = vec![average_row(grid, "Average of group", &languages, place)];
        let title = Some(group.title().to_owned());
        table.sections.push(TableSection { title, rows, summary });
    }
    table.sections.push(TableSection { title: None, rows: Vec::new(), summary: totals(grid) });
    table.notes = notes(grid);
    table.notes.extend(score_note(report));
    table
}

/// What whoever wrote the report says of all scores.
fn score_note(report: &Report) -> Option<String> {
    Some(report.score_note.clone()).filter(|note| !note.is_empty())
}

/// What a column shows.
#[derive(Clone, Copy)]
struct ScoreColumn<'r> {
    method: &'r str,
    published: bool,
}

/// Ours and the paper's, method by method; neither where there is no number at all.
fn columns<'r>(grid: &ScoreGrid<'r>) -> Vec<ScoreColumn<'r>> {
    let is_published = |method: &str| {
        grid.published.is_some_and(|table| table.methods.iter().any(|it| it == method))
    };
    let both = grid.methods.iter().flat_map(|&method| {
        let ours = grid.has(method).then_some(ScoreColumn { method, published: false });
        let papers = is_published(method).then_some(ScoreColumn { method, published: true });
        ours.into_iter().chain(papers)
    });
    both.collect()
}

fn language_row<'r>(grid: &ScoreGrid<'r>, language: &'r str) -> Row {
    let questions = grid.methods.iter().flat_map(|method| grid.scores(language, method));
    let questions: Vec<u64> = questions.map(|score| score.n).collect();
    let (least, most) = (questions.iter().min(), questions.iter().max());
    let n = match (least, most) {
        (Some(&least), Some(&most)) if least == most => {
            Cell::number(number::count(least), least as f64)
        }
        (Some(&least), Some(&most)) => {
            let text = format!("{}–{}", number::count(least), number::count(most));
            Cell::number(text, least as f64)
        }
        _ => Cell::default(),
    };
    let first = grid.methods.iter().find_map(|method| grid.scores(language, method).first());
    let n = n.from(&first.iter().map(|score| &score.source).collect::<Vec<_>>());
    let means = |method| grid.mean(language, method);
    let mut cells =
        vec![Cell { title: Some(language.to_owned()), ..Cell::text(language::name(language)) }, n];
    cells.extend(score_cells(grid, &means, PublishedPlace::Language(language), |method| {
        let seeds = grid.scores(language, method).len();
        let title = match seeds {
            1 => "standard error over questions".to_owned(),
            _ => format!("mean of {seeds} seeds, standard error over them"),
        };
        (title, grid.sources(language, method))
    }));
    Row { cells }
}

fn average_row<'r>(
    grid: &ScoreGrid<'r>,
    title: &str,
    languages: &[&'r str],
    place: PublishedPlace<'_>,
) -> Row {
    let means = |method| grid.average(languages, method);
    let mut cells = vec![Cell::text(title), Cell::default()];
    cells.extend(score_cells(grid, &means, place, |method| {
        let title = means(method).map_or_else(String::new, |mean| mean.title());
        (title, grid.all_sources(languages, method))
    }));
    Row { cells }
}

/// The average over all, and where the paper has other languages, over those that both have.
fn totals(grid: &ScoreGrid<'_>) -> Vec<Row> {
    let mut rows = vec![average_row(grid, "Average", &grid.languages, PublishedPlace::Average)];
    let Some(published) = grid.published else { return rows };
    let common = common_languages(grid);
    if common.is_empty() || common.len() == grid.languages.len().max(published.rows.len()) {
        return rows;
    }
    let title = "Average of those that both have";
    let mut row = average_row(grid, title, &common, PublishedPlace::Language(""));
    for (cell, column) in row.cells.iter_mut().skip(2).zip(columns(grid)) {
        if !column.published {
            continue;
        }
        // Where ours is still partial, so is what stands beside it.
        let is_ours = |language: &&&str| {
            !grid.has(column.method) || !grid.scores(language, column.method).is_empty()
        };
        let percents = common.iter().filter(is_ours).filter_map(|language| {
            published.value(PublishedPlace::Language(language), column.method)
        });
        let percents: Vec<f64> = percents.map(|value| value.percent).collect();
        let Some(mean) = mean(&percents) else { continue };
        *cell = Cell::number(number::decimal(mean, 1), mean);
        let count = percents.len();
        cell.title = Some(format!(
            "mean of {count} rows of the paper's Table {}, those that have a score here",
            published.number
        ));
    }
    rows.push(row);
    rows
}

/// The languages that have a row here and in the paper's table.
pub(crate) fn common_languages<'r>(grid: &ScoreGrid<'r>) -> Vec<&'r str> {
    let is_published = |language: &&str| {
        grid.published.is_some_and(|table| table.rows.iter().any(|row| row.language == *language))
    };
    grid.languages.iter().copied().filter(is_published).collect()
}

/// The cells after the first two.
fn score_cells<'r>(
    grid: &ScoreGrid<'r>,
    mean: &dyn Fn(&'r str) -> Option<Mean>,
    place: PublishedPlace<'_>,
    about: impl Fn(&'r str) -> (String, Vec<crate::document::Source>),
) -> Vec<Cell> {
    let text = |mean: Mean| number::decimal(mean.percent, 1);
    let means = grid.methods.iter().filter_map(|method| mean(method));
    let ours = means.filter(|mean| mean.percent.is_finite());
    // What looks the same is as good.
    let best = ours.clone().max_by(|a, b| a.percent.total_cmp(&b.percent)).map(text);
    // Where all look the same, none is better than another.
    let is_contest = ours.map(text).any(|other| best.as_ref() != Some(&other));
    let cell = |column: ScoreColumn<'r>| {
        if column.published {
            let value = grid.published.and_then(|table| table.value(place, column.method));
            return value.map_or_else(Cell::default, |value| Cell {
                title: Some(value.source),
                ..Cell::number(number::decimal(value.percent, 1), value.percent)
            });
        }
        let Some(mean) = mean(column.method) else { return Cell::default() };
        let (title, sources) = about(column.method);
        Cell {
            standard_error: mean.standard_error,
            best: is_contest && best.as_ref() == Some(&text(mean)),
            title: Some(title).filter(|it| !it.is_empty()),
            sources,
            ..Cell::number(text(mean), mean.percent)
        }
    };
    columns(grid).into_iter().map(cell).collect()
}

fn notes(grid: &ScoreGrid<'_>) -> Vec<String> {
    let setting = grid.setting;
    let mut notes = vec![format!(
        "{} in percent, protocol {}, {} {}; n questions. ± is the standard error: of one evaluation over its \
         questions, of several seeds and of averages over the seeds. The best of ours in a row is bold.",
        setting.metric().name(),
        setting.protocol,
        setting.shots,
        if setting.shots == 1 { "shot" } else { "shots" },
    )];
    let counts: Vec<usize> = grid
        .methods
        .iter()
        .filter_map(|method| Some(grid.average(&grid.languages, method)?.languages))
        .collect();
    if counts.iter().min() != counts.iter().max() {
        let each = grid.methods.iter().filter_map(|method| {
            let mean = grid.average(&grid.languages, method)?;
            Some(format!("{} {}", method_title(method), mean.languages))
        });
        let each = each.collect::<Vec<_>>().join(", ");
        notes.push(format!("Not every language has every score yet; languages by method: {each}."));
    }
    if let Some(table) = grid.published {
        let mut note =
            format!("Paper: Table {} (Lai et al., 2023), {}.", table.number, table.base.name());
        if has_other_languages(grid, table) {
            note.push_str(&format!(
                " Its averages are as printed, over its {} languages; ours are over the {} here.",
                table.rows.len(),
                grid.languages.len()
            ));
        }
        note.extend(other_size(&[grid]).map(|size| format!(" {size}: {NOTHING}.")));
        let shots = if setting.task == Task::HellaSwag { 0 } else { 25 };
        if (setting.protocol, setting.shots) != ("authors", shots) {
            note.push_str(&format!(
                " It asks with {shots} shots by its authors' protocol: not the same measure."
            ));
        }
        notes.push(note);
    }
    notes
}

/// Whether an average of the paper is over other languages than ours.
fn has_other_languages(grid: &ScoreGrid<'_>, table: &PublishedTable) -> bool {
    common_languages(grid).len() != grid.languages.len().max(table.rows.len())
}

/// What follows of it.
const NOTHING: &str = "their scores say nothing of each other";

/// What is said where a model beside the paper's is not of its size.
pub(crate) fn other_size(grids: &[&ScoreGrid<'_>]) -> Option<String> {
    let base = grids.iter().find_map(|grid| grid.published)?.base;
    let is_other = |size: &u64| !(0.8..1.25).contains(&(*size as f64 / base.parameters() as f64));
    let sizes: BTreeSet<u64> = grids.iter().flat_map(|grid| grid.parameters()).collect();
    let sizes: Vec<String> = sizes.into_iter().filter(is_other).map(number::parameters).collect();
    (!sizes.is_empty()).then(|| {
        format!(
            "The paper's model has {} parameters, the one here {}",
            number::parameters(base.parameters()),
            sizes.join(" or ")
        )
    })
}

/// Where the paper's averages come from, a note for each model that is compared.
fn papers(grids: &[ScoreGrid<'_>]) -> Vec<String> {
    let mut by_model: BTreeMap<&str, Vec<&ScoreGrid<'_>>> = BTreeMap::new();
    for grid in grids.iter().filter(|grid| grid.published.is_some()) {
        by_model.entry(grid.setting.model).or_default().push(grid);
    }
    let note = |(model, grids): (&str, Vec<&ScoreGrid<'_>>)| {
        let tables: Vec<&PublishedTable> = grids.iter().filter_map(|grid| grid.published).collect();
        let numbers: BTreeSet<u8> = tables.iter().map(|table| table.number).collect();
        let numbers: Vec<String> = numbers.iter().map(u8::to_string).collect();
        let first = tables.first()?;
        let mut note = format!(
            "Paper, beside {model}: {} {} (Lai et al., 2023), {}.",
            if numbers.len() == 1 { "Table" } else { "Tables" },
            numbers.join(", "),
            first.base.name()
        );
        if grids.iter().zip(&tables).any(|(grid, table)| has_other_languages(grid, table)) {
            note.push_str(&format!(
                " Its averages are over {} languages, ours over as many as there are here.",
                first.rows.len()
            ));
        }
        note.extend(other_size(&grids).map(|size| format!(" {size}: {NOTHING}.")));
        Some(note)
    };
    by_model.into_iter().filter_map(note).collect()
}

/// Averages over all languages, one row for each table of scores.
pub(crate) fn overview(report: &Report, grids: &[ScoreGrid<'_>]) -> Table {
    let mut methods: Vec<&str> = Vec::new();
    for grid in grids {
        for method in &grid.methods {
            if !methods.contains(method) {
                methods.push(method);
            }
        }
    }
    methods.sort_by_key(|method| method_order(method));
    let mut table = Table::new(
        "overview",
        "Averages over all languages",
        &[
            ("Benchmark", ColumnKind::Text),
            ("Model", ColumnKind::Text),
            ("Languages", ColumnKind::Number),
        ],
    );
    let is_published = grids.iter().any(|grid| grid.published.is_some());
    for method in &methods {
        let title = method_title(method);
        if grids.iter().any(|grid| grid.has(method)) {
            table.columns.push(Column { title: title.to_owned(), kind: ColumnKind::Number });
        }
        if is_published && published(grids, method) {
            let title = format!("{title}, paper");
            table.columns.push(Column { title, kind: ColumnKind::Published });
        }
    }
    let row = |grid: &ScoreGrid<'_>| {
        let setting = grid.setting;
        let mut cells = vec![
            Cell {
                title: Some(format!("{}, {} shots", setting.protocol, setting.shots)),
                ..Cell::text(&grid.benchmark)
            },
            Cell::text(setting.model),
            Cell {
                title: Some("languages with a score".to_owned()),
                sources: grid
                    .methods
                    .iter()
                    .flat_map(|method| grid.all_sources(&grid.languages, method))
                    .collect(),
                ..Cell::number(grid.languages.len().to_string(), grid.languages.len() as f64)
            },
        ];
        let averages = average_row(grid, "", &grid.languages, PublishedPlace::Average);
        let known: Vec<_> =
            columns(grid).into_iter().zip(averages.cells.into_iter().skip(2)).collect();
        let find = |method: &str, published: bool| {
            let is_it = |it: &&(ScoreColumn<'_>, Cell)| {
                it.0.method == method && it.0.published == published
            };
            known.iter().find(is_it).map_or_else(Cell::default, |it| it.1.clone())
        };
        for method in &methods {
            if grids.iter().any(|grid| grid.has(method)) {
                cells.push(find(method, false));
            }
            if is_published && published(grids, method) {
                cells.push(find(method, true));
            }
        }
        Row { cells }
    };
    let rows = grids.iter().map(row).collect();
    let mut table = table.section(rows, Vec::new()).note(
        "Percent; ± is the standard error over seeds, where there are several. The best of ours in a row is bold.",
    );
    table.notes.extend(papers(grids));
    table.notes.extend(score_note(report));
    table
}

fn published(grids: &[ScoreGrid<'_>], method: &str) -> bool {
    let tables = grids.iter().filter_map(|grid| grid.published);
    tables.flat_map(|table| &table.methods).any(|it| it == method)
}

/// Every evaluation with both scores.
pub(crate) fn all_scores(report: &Report) -> Option<Table> {
    let mut scores: Vec<_> = report.scores.iter().collect();
    scores.sort_by_key(|it| {
        let place = (it.model.as_str(), it.task, it.protocol.as_str(), it.shots);
        (place, language::order(&it.language), method_order(&it.method), it.seed, &it.source)
    });
    let row = |score: &crate::document::Score| {
        let cell = |text, value| Cell::number(text, value).from(&[&score.source]);
        let share = |share: crate::document::Share| Cell {
            standard_error: share.standard_error.map(|error| error * 100.0),
            ..Cell::number(number::percent(share.value), share.value * 100.0).from(&[&score.source])
        };
        Row::new([
            Cell::text(&score.model),
            Cell::text(score.task.title()),
            Cell::text(&format!("{}, {} shots", score.protocol, score.shots)),
            Cell::text(language::name(&score.language)),
            Cell::text(method_title(&score.method)),
            cell(score.seed.to_string(), score.seed as f64),
            cell(number::count(score.n), score.n as f64),
            share(score.acc),
            share(score.acc_norm),
        ])
    };
    use ColumnKind::{Number, Text};
    let columns = [
        ("Model", Text),
        ("Benchmark", Text),
        ("Protocol", Text),
        ("Language", Text),
        ("Method", Text),
        ("Seed", Number),
        ("n", Number),
        ("acc", Number),
        ("acc_norm", Number),
    ];
    let table = Table::new("all-scores", "Every evaluation", &columns);
    (!scores.is_empty()).then(|| table.section(scores.into_iter().map(row).collect(), Vec::new()))
}

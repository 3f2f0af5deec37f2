//! A report -> what it shows, in order, free of any format.

use crate::document::Report;
use crate::figure::{self, Figure};
use crate::provenance::Provenance;
use crate::score_grid::{self, ScoreGrid};
use crate::source_sets::SourceSets;
use crate::table::Table;
use crate::{answer_grid, gain_table, length_table, number, run_table, score_table};

/// A part of a report with a heading of its own.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Section {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) blocks: Vec<Block>,
}

/// What stands in a section.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Block {
    /// Charts side by side.
    Figures(String, Vec<Figure>),
    Table(Table),
    /// A table that few read: folded where that can be.
    Details(Table),
    /// An SVG from outside.
    Graph(String),
}

impl Block {
    pub(crate) fn table(&self) -> Option<&Table> {
        match self {
            Block::Table(table) | Block::Details(table) => Some(table),
            Block::Figures(..) | Block::Graph(_) => None,
        }
    }
}

/// What a report shows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Content {
    pub(crate) sections: Vec<Section>,
    /// Of numbers that several nodes have a part in.
    pub(crate) sets: SourceSets,
}

/// The sections that have something to show, and the sources of their numbers.
pub(crate) fn content(report: &Report, provenance: &Provenance) -> Content {
    let grids = score_grid::grids(report);
    let all = [
        overview(report, &grids, provenance),
        scores(report, &grids, provenance),
        answers(report, provenance),
        training(report, provenance),
        data(report, provenance),
        resources(report, provenance),
        graph(report),
    ];
    let mut sections: Vec<Section> = all.into_iter().collect();
    let sets = SourceSets::of(&sections, provenance);
    sections.push(appendix(provenance, &sets));
    sections.retain(|section| !section.blocks.is_empty());
    Content { sections, sets }
}

fn overview(report: &Report, grids: &[ScoreGrid<'_>], provenance: &Provenance) -> Section {
    let mut blocks = Vec::new();
    if !grids.is_empty() {
        blocks.push(Block::Table(score_table::overview(report, grids)));
    }
    let figures = (1..).zip(grids);
    let figures = figures.filter_map(|(number, grid)| {
        figure::gain_dumbbells(&format!("gain-{number}"), grid, provenance)
    });
    let figures: Vec<Figure> = figures.collect();
    if !figures.is_empty() {
        blocks.push(Block::Figures("From SFT to RLHF by resource group".to_owned(), figures));
    }
    blocks.extend(gain_table::gains(grids).map(Block::Details));
    Section { id: "overview-section", title: "Overview", blocks }
}

fn scores(report: &Report, grids: &[ScoreGrid<'_>], provenance: &Provenance) -> Section {
    let figures = (1..).zip(grids);
    let figures: Vec<Figure> = figures
        .map(|(number, grid)| {
            figure::accuracy_bars(&format!("accuracy-{number}"), grid, provenance)
        })
        .collect();
    let mut blocks = Vec::new();
    if !figures.is_empty() {
        blocks.push(Block::Figures("Accuracy by language and method".to_owned(), figures));
    }
    blocks.extend(grids.iter().map(|grid| Block::Table(score_table::score_table(report, grid))));
    blocks.extend(score_table::all_scores(report).map(Block::Details));
    Section { id: "scores", title: "Scores by language", blocks }
}

fn answers(report: &Report, provenance: &Provenance) -> Section {
    let grids = answer_grid::answer_grids(report);
    let mut blocks = Vec::new();
    let bars = figure::tuning_bars("answer-means-chart", &grids, provenance);
    if !bars.is_empty() {
        blocks.push(Block::Figures("Means over languages".to_owned(), bars));
    }
    blocks.extend(answer_grid::means_table(&grids).map(Block::Table));
    let mut tunings: Vec<&str> = grids.iter().map(|grid| grid.tuning).collect();
    tunings.sort_unstable();
    tunings.dedup();
    for (number, tuning) in (1..).zip(tunings) {
        let id = format!("answer-families-{number}");
        let figures = figure::family_bars(&id, tuning, &grids, provenance);
        if !figures.is_empty() {
            let title = format!("Families, {}", answer_grid::tuning_title(tuning));
            blocks.push(Block::Figures(title, figures));
        }
    }
    for (number, grid) in (1..).zip(&grids) {
        let figures = figure::answer_lines(&format!("answer-lines-{number}"), grid, provenance);
        blocks.push(Block::Figures(grid.title(), figures));
        blocks.push(Block::Details(grid.table(number)));
    }
    Section { id: "answers", title: "Open-ended answers", blocks }
}

fn training(report: &Report, provenance: &Provenance) -> Section {
    let figures = figure::curve_lines("curve", report, provenance);
    let mut blocks = Vec::new();
    if !figures.is_empty() {
        blocks.push(Block::Figures("Curves".to_owned(), figures));
    }
    blocks.extend(run_table::curves(report).map(Block::Details));
    Section { id: "training", title: "Training", blocks }
}

fn data(report: &Report, provenance: &Provenance) -> Section {
    let rejects = report.rejects.iter();
    let rejects =
        run_table::sums(rejects.map(|it| ((&*it.stage, &*it.reason), it.count as f64, &it.source)));
    let rows: Vec<_> = rejects
        .into_iter()
        .map(|((stage, reason), count, sources)| {
            (format!("{stage}: {reason}"), count, number::count(count as u64), sources)
        })
        .collect();
    let caption = "Rows that were set aside, by stage and rule.";
    let figure = figure::ranking("reject-bars", "Rejects by reason", caption, &rows, provenance);
    let lengths = figure::length_dots("lengths", report, provenance);
    let mut blocks = Vec::new();
    if !lengths.is_empty() {
        blocks.push(Block::Figures("Lengths of texts".to_owned(), lengths));
    }
    blocks.extend(length_table::lengths(report).map(Block::Details));
    let verbs = figure::root_verb_bars("root-verb-bars", report, provenance);
    if !verbs.is_empty() {
        blocks.push(Block::Figures("What instructions ask for".to_owned(), verbs));
    }
    blocks.extend(length_table::root_verbs(report).map(Block::Details));
    blocks.extend(figure.map(|figure| Block::Figures("Rejects".to_owned(), vec![figure])));
    blocks.extend(run_table::rejects(report).map(Block::Details));
    Section { id: "data", title: "Data", blocks }
}

fn resources(report: &Report, provenance: &Provenance) -> Section {
    let money = report.spend.iter();
    let money = money.map(|it| (&*it.stage, it.micro_usd.unwrap_or(0) as f64, &it.source));
    let money = run_table::sums(money);
    let money: Vec<_> = money
        .into_iter()
        .filter(|(_, sum, _)| *sum > 0.0)
        .map(|(stage, sum, sources)| (stage.to_owned(), sum, number::usd(sum as u64), sources))
        .collect();
    let tokens = report.spend.iter();
    let tokens = tokens.map(|it| {
        let sum = it.prompt_tokens.saturating_add(it.completion_tokens);
        (&*it.stage, sum as f64, &it.source)
    });
    let tokens: Vec<_> = run_table::sums(tokens)
        .into_iter()
        .map(|(stage, sum, sources)| (stage.to_owned(), sum, number::count(sum as u64), sources))
        .collect();
    let time = report.times.iter();
    let time = run_table::sums(time.map(|it| (&*it.source.node, it.seconds, &it.source)));
    let time: Vec<_> = time
        .into_iter()
        .map(|(node, sum, sources)| (node.to_owned(), sum, number::duration(sum), sources))
        .collect();
    let figures = [
        figure::ranking(
            "token-bars",
            "Tokens by stage",
            "What teachers read and wrote for the answers that were used.",
            &tokens,
            provenance,
        ),
        figure::ranking(
            "time-bars",
            "Time by node",
            "Time of execution, without waiting.",
            &time,
            provenance,
        ),
        figure::ranking(
            "spend-bars",
            "Spend by stage",
            "What teachers were paid.",
            &money,
            provenance,
        ),
    ];
    let figures: Vec<Figure> = figures.into_iter().flatten().collect();
    let mut blocks = Vec::new();
    if !figures.is_empty() {
        blocks.push(Block::Figures("Largest shares".to_owned(), figures));
    }
    blocks.extend(run_table::spend(report).map(Block::Table));
    blocks.extend(run_table::times(report).map(Block::Details));
    Section { id: "resources", title: "Time and teachers", blocks }
}

fn graph(report: &Report) -> Section {
    let blocks = report.graph.iter().map(|svg| Block::Graph(svg.clone())).collect();
    Section { id: "graph", title: "Graph", blocks }
}

fn appendix(provenance: &Provenance, sets: &SourceSets) -> Section {
    let is_empty = provenance.all().next().is_none();
    let mut blocks: Vec<Block> = sets.table().map(Block::Details).into_iter().collect();
    if !is_empty {
        blocks.push(Block::Table(run_table::sources(provenance)));
    }
    Section { id: "provenance", title: "Provenance", blocks }
}

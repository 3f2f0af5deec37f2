//! What RLHF gains over SFT by resource group, with the paper's gains beside.

use crate::document::Source;
use crate::language::ResourceGroup;
use crate::number;
use crate::published::PublishedPlace;
use crate::score_grid::{Mean, ScoreGrid};
use crate::table::{Cell, ColumnKind, Row, Table};

/// What RLHF gains over SFT, by resource group.
pub(crate) fn gains(grids: &[ScoreGrid<'_>]) -> Option<Table> {
    let columns: Vec<(&str, ColumnKind)> =
        [("Benchmark", ColumnKind::Text), ("Model", ColumnKind::Text)]
            .into_iter()
            .chain(GAIN_GROUPS.iter().flat_map(|(title, paper, _)| {
                [(*title, ColumnKind::Number), (*paper, ColumnKind::Published)]
            }))
            .collect();
    let mut rows = Vec::new();
    for grid in grids {
        let mut cells = vec![Cell::text(&grid.benchmark), Cell::text(grid.setting.model)];
        for gain in group_gains(grid) {
            let cell = |value: f64, title| Cell {
                title: Some(title),
                ..Cell::number(number::signed(value), value)
            };
            cells.push(gain.ours.map_or_else(Cell::default, |ours| Cell {
                standard_error: ours.standard_error,
                sources: gain.sources,
                ..cell(ours.percent, ours.title())
            }));
            cells.push(gain.published.map_or_else(Cell::default, |it| cell(it.2, it.3)));
        }
        if cells[2..].iter().step_by(2).any(|cell| cell.value.is_some()) {
            rows.push(Row { cells });
        }
    }
    let is_empty = rows.is_empty();
    let table = Table::new("gains", "Gain of RLHF over SFT", &columns)
        .section(rows, Vec::new())
        .note("Percentage points, over the languages that have both scores, ± standard error over seeds, where there are \
             several; the paper's from its printed averages.");
    (!is_empty).then_some(table)
}

const GAIN_GROUPS: [(&str, &str, Option<ResourceGroup>); 4] = [
    ("High", "High, paper", Some(ResourceGroup::High)),
    ("Medium", "Medium, paper", Some(ResourceGroup::Medium)),
    ("Low", "Low, paper", Some(ResourceGroup::Low)),
    ("All", "All, paper", None),
];

/// What RLHF gains over SFT in a group.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GroupGain {
    pub(crate) name: &'static str,
    pub(crate) ours: Option<Mean>,
    /// Where both methods' scores come from.
    pub(crate) sources: Vec<Source>,
    /// The averages of both methods over the languages that have both.
    pub(crate) averages: Option<(f64, f64)>,
    /// The paper's averages of both methods, their difference, and where it is printed.
    pub(crate) published: Option<(f64, f64, f64, String)>,
}

/// The gains by group, and over all.
pub(crate) fn group_gains(grid: &ScoreGrid<'_>) -> Vec<GroupGain> {
    let gain = |(name, _, group): (&'static str, &str, Option<ResourceGroup>)| {
        let languages = group.map_or_else(|| grid.languages.clone(), |group| grid.of_group(group));
        let has_both = |language: &&str| {
            !grid.scores(language, "sft").is_empty() && !grid.scores(language, "rlhf").is_empty()
        };
        let languages: Vec<&str> = languages.into_iter().filter(has_both).collect();
        let ours = grid.gain(&languages, "sft", "rlhf");
        let average = |method| grid.average(&languages, method).map(|mean| mean.percent);
        let averages = average("sft").zip(average("rlhf"));
        let place = group.map_or(PublishedPlace::Average, PublishedPlace::Group);
        let value = |method| grid.published?.value(place, method);
        let published = value("sft").zip(value("rlhf")).map(|(sft, rlhf)| {
            (sft.percent, rlhf.percent, rlhf.percent - sft.percent, rlhf.source)
        });
        let sources = ["sft", "rlhf"].into_iter();
        let sources = sources.flat_map(|method| grid.all_sources(&languages, method)).collect();
        GroupGain { name, ours, sources, averages, published }
    };
    GAIN_GROUPS.map(gain).into()
}

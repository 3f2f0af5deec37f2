//! Scores of open-ended answers as bars, a group for each family of models or way of tuning.

use super::Figure;
use super::svg::{Anchor, Scale, Svg, Swatch, WIDTH, legend, range};
use crate::answer_grid::{
    AnswerGrid, AnswerMean, joined, recipe_order, recipe_title, tuning_title,
};
use crate::language;
use crate::number;
use crate::paper_figures::{self, said};
use crate::provenance::{Provenance, describe};

const LEFT: f64 = 8.0;
const RIGHT: f64 = WIDTH - 40.0;
const BAR: f64 = 9.0;
const PITCH: f64 = 12.0;

/// Bars under a heading, one for each recipe.
struct Group<'r> {
    title: String,
    bars: Vec<(&'r str, AnswerMean)>,
}

/// Means over languages by family and way of tuning: of those that every recipe was asked in, and of the others.
pub(crate) fn tuning_bars(
    id: &str,
    grids: &[AnswerGrid<'_>],
    provenance: &Provenance,
) -> Vec<Figure> {
    let sizes = alike(&grids.iter().collect::<Vec<_>>());
    let sets: [(&str, LanguagesOf); 2] = [
        ("Languages of every recipe", |grid| grid.shared()),
        ("Other languages", |grid| grid.others()),
    ];
    let charts = sets.into_iter().map(|(title, languages)| {
        let mut codes: Vec<&str> = grids.iter().flat_map(languages).collect();
        codes.sort_by_key(|code| language::order(code));
        codes.dedup();
        let caption =
            format!("Mean score over {}, by way of tuning and recipe. {SIZES}", joined(&codes));
        let groups = grids.iter().zip(&sizes).map(|(grid, size)| {
            let mean = |recipe| grid.mean(&languages(grid), recipe, *size);
            group(grid, *size, &grid.title(), &mean)
        });
        Chart { title, caption, groups: groups.collect() }
    });
    on_one_scale(id, charts.collect(), provenance)
}

impl Group<'_> {
    fn has_bars(&self) -> bool {
        !self.bars.is_empty()
    }
}

/// What a chart shows.
struct Chart<'r> {
    title: &'r str,
    caption: String,
    groups: Vec<Group<'r>>,
}

type LanguagesOf = for<'a, 'r> fn(&'a AnswerGrid<'r>) -> Vec<&'r str>;

/// What is said of the sizes that are shown.
const SIZES: &str =
    "Of each family the model nearest in size to the largest that every family has.";

/// A size of each grid, as near to each other as can be: families reach up to unlike sizes, and a larger model of one
/// beside a smaller one of another would tell of sizes. Each takes the one nearest, as a ratio, to the largest size
/// that all of them reach.
fn alike(grids: &[&AnswerGrid<'_>]) -> Vec<u64> {
    let largest = grids.iter().filter_map(|grid| grid.sizes.last());
    let reached = largest.min().copied().unwrap_or(0) as f64;
    let distance = |size: u64| (size as f64 / reached).ln().abs();
    let nearest = |grid: &&AnswerGrid<'_>| {
        let sizes = grid.sizes.iter().copied();
        sizes.min_by(|&a, &b| distance(a).total_cmp(&distance(b))).unwrap_or(0)
    };
    grids.iter().map(nearest).collect()
}

/// By language, a model of each family; nothing where there is but one family.
pub(crate) fn family_bars(
    id: &str,
    tuning: &str,
    grids: &[AnswerGrid<'_>],
    provenance: &Provenance,
) -> Vec<Figure> {
    let grids: Vec<_> = grids.iter().filter(|grid| grid.tuning == tuning).collect();
    if grids.len() < 2 {
        return Vec::new();
    }
    let mut languages: Vec<&str> = grids.iter().flat_map(|grid| grid.languages.clone()).collect();
    languages.sort_by_key(|code| language::order(code));
    languages.dedup();
    let sizes = alike(&grids);
    let charts = languages.into_iter().map(|code| {
        let caption = format!(
            "{}: score by recipe. {SIZES}{}",
            first_upper(tuning_title(tuning)),
            said(paper_figures::Chart::Families, "", tuning)
        );
        let groups = grids.iter().zip(&sizes).map(|(grid, size)| {
            let score = |recipe| grid.score(code, recipe, *size);
            group(grid, *size, grid.base, &score)
        });
        Chart { title: language::name(code), caption, groups: groups.collect() }
    });
    on_one_scale(id, charts.collect(), provenance)
}

/// Charts that stand side by side, so that a bar of one length is the same score in all.
fn on_one_scale(id: &str, charts: Vec<Chart<'_>>, provenance: &Provenance) -> Vec<Figure> {
    let ends = charts.iter().flat_map(|chart| &chart.groups).flat_map(|group| &group.bars);
    let ends = ends.map(|(_, mean)| mean.value + mean.standard_error.unwrap_or(0.0));
    let Some([_, most]) = range(ends) else { return Vec::new() };
    let scale = Scale::new([0.0, most], [LEFT, RIGHT], 5.0);
    let drawn = (1..).zip(charts).filter(|(_, chart)| chart.groups.iter().any(Group::has_bars));
    drawn.map(|(number, it)| draw(&format!("{id}-{number}"), it, scale, provenance)).collect()
}

fn first_upper(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn group<'r>(
    grid: &AnswerGrid<'r>,
    size: u64,
    title: &str,
    score: &dyn Fn(&'r str) -> Option<AnswerMean>,
) -> Group<'r> {
    let bars = grid.recipes.iter().filter_map(|&recipe| Some((recipe, score(recipe)?)));
    Group { title: format!("{title}, {}", number::parameters(size)), bars: bars.collect() }
}

fn draw(id: &str, chart: Chart<'_>, scale: Scale, provenance: &Provenance) -> Figure {
    let Chart { title, caption, groups } = chart;
    let mut recipes: Vec<&str> =
        groups.iter().flat_map(|group| group.bars.iter().map(|bar| bar.0)).collect();
    recipes.sort_by_key(|recipe| recipe_order(recipe));
    recipes.dedup();
    let class = |recipe: &str| format!("r{}", recipe_order(recipe).0);

    let mut body = Svg::new();
    let entries: Vec<(Swatch, &str)> =
        recipes.iter().map(|recipe| (Swatch::Bar(class(recipe)), recipe_title(recipe))).collect();
    let top = legend(&mut body, 0.0, &entries) + 20.0;
    let mut rows = Svg::new();
    let mut y = top + 4.0;
    for group in groups.iter().filter(|group| group.has_bars()) {
        rows.text(LEFT, y + 12.0, "heading", Anchor::Start, &group.title);
        y += 20.0;
        for (recipe, mean) in &group.bars {
            let centre = y + PITCH / 2.0;
            let error = mean
                .standard_error
                .map_or_else(String::new, |error| format!(" ± {}", number::error(error)));
            let text = number::decimal(mean.value, 1);
            let from = match &mean.sources[..] {
                [_] => describe(&mean.sources),
                sources => format!("of {} scores", sources.len()),
            };
            let source = provenance.anchor(&mean.sources);
            let title =
                format!("{}, {}: {text}{error} ({from})", group.title, recipe_title(recipe));
            rows.mark(&title, source, |svg| {
                let end = scale.at(mean.value);
                svg.rect(
                    &format!("bar {}", class(recipe)),
                    [LEFT, centre - BAR / 2.0],
                    [end - LEFT, BAR],
                );
                let mut label = end;
                if let Some(error) = mean.standard_error {
                    let ends = [mean.value - error, mean.value + error].map(|it| scale.at(it));
                    svg.line_over("whisker", [ends[0], centre], [ends[1], centre]);
                    label = ends[1];
                }
                svg.text(label + 5.0, centre + 4.0, "axis", Anchor::Start, &text);
            });
            y += PITCH;
        }
        y += 8.0;
    }
    for (value, label) in scale.ticks() {
        body.line("grid", [scale.at(value), top + 4.0], [scale.at(value), y]);
        body.text(scale.at(value), top - 4.0, "axis", Anchor::Middle, &label);
    }
    body.append(&rows);
    Figure { svg: body.finish(id, y + 4.0, title, &caption), title: title.to_owned(), caption }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer_grid::answer_grids;
    use crate::document::{AnswerScore, Report, Source};

    #[test]
    fn families_are_compared_at_one_size() {
        let models: [(&str, &[u64]); 4] = [
            ("BLOOM", &[559_214_592, 3_002_557_440, 7_069_016_064]),
            ("LLaMA", &[6_738_415_616]),
            ("OpenLLaMA", &[6_738_415_616]),
            ("Pythia", &[2_775_208_960, 6_857_302_016, 11_846_072_320]),
        ];
        let score = |base: &str, parameters| AnswerScore {
            base: base.to_owned(),
            parameters,
            tuning: "lora".to_owned(),
            recipe: "multilingual".to_owned(),
            language: "de".to_owned(),
            seed: 1,
            n: 50,
            score: 80.0,
            judged: None,
            source: Source { node: format!("{base} {parameters}"), action: String::new() },
        };
        let of_family = |(base, sizes): (&'static str, &'static [u64])| {
            sizes.iter().map(move |size| score(base, *size))
        };
        let answers = models.into_iter().flat_map(of_family).collect();
        let report = Report { answers, ..Report::default() };
        let grids = answer_grids(&report);
        let sizes = alike(&grids.iter().collect::<Vec<_>>());
        assert_eq!(sizes, [7_069_016_064, 6_738_415_616, 6_738_415_616, 6_857_302_016]);
        let figures = family_bars("f", "lora", &grids, &Provenance::of(&report));
        assert!(figures[0].svg.contains("Pythia, 6.9B") && !figures[0].svg.contains("11.8B"));
    }
}

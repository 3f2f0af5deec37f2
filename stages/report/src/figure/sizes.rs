//! Scores of open-ended answers against the size of the model, a line for each recipe.

use super::Figure;
use super::svg::{Anchor, Scale, Svg, Swatch, WIDTH, legend, range};
use crate::answer_grid::{AnswerGrid, AnswerMean, recipe_order, recipe_title};
use crate::language;
use crate::number;
use crate::paper_figures::{Chart, said};
use crate::provenance::{Provenance, describe};

const LEFT: f64 = 40.0;
const RIGHT: f64 = WIDTH - 18.0;
const HEIGHT: f64 = 190.0;
/// Labels of sizes that are nearer than this would run into each other.
const LABEL: f64 = 34.0;

/// A chart for each language, and one of what answers in another language cost.
pub(crate) fn answer_lines<'r>(
    id: &str,
    grid: &AnswerGrid<'r>,
    provenance: &Provenance,
) -> Vec<Figure> {
    let mut figures = Vec::new();
    // Charts that stand side by side have one scale, so that a height is the same score in all.
    let scores = grid.languages.iter().flat_map(|language| {
        let of_recipe = move |recipe: &&'r str| {
            let (recipe, sizes) = (*recipe, grid.sizes.iter());
            sizes.filter_map(move |&size| grid.score(language, recipe, size)).collect::<Vec<_>>()
        };
        grid.recipes.iter().flat_map(of_recipe)
    });
    let Some([_, most]) = range(scores.map(|mean| top(&mean))) else { return figures };
    let others = grid.others();
    for language in &grid.languages {
        let name = language::name(language);
        let id = format!("{id}-{}", figures.len() + 1);
        let shown = if others.contains(language) { Chart::Unseen } else { Chart::Seen };
        let caption = format!(
            "{}: score against parameters, by recipe.{}",
            grid.title(),
            said(shown, grid.base, grid.tuning)
        );
        let points = |recipe, size| grid.score(language, recipe, size);
        figures.extend(chart(&id, name, caption, grid, most, &points, provenance));
    }
    let id = format!("{id}-lost");
    let caption = format!(
        "{}: grades of answers in another language than asked for, mean over languages.{}",
        grid.title(),
        said(Chart::Lost, grid.base, grid.tuning)
    );
    let points = |recipe, size| grid.lost(recipe, size);
    let lost = grid.recipes.iter().flat_map(|recipe| {
        grid.sizes.iter().filter_map(|&size| grid.lost(recipe, size)).collect::<Vec<_>>()
    });
    let [_, most] = range(lost.map(|mean| top(&mean))).unwrap_or([0.0, 0.0]);
    let title = "Lost to the wrong language";
    figures.extend(chart(&id, title, caption, grid, most, &points, provenance));
    figures
}

/// How high a point reaches with its error.
fn top(mean: &AnswerMean) -> f64 {
    mean.value + mean.standard_error.unwrap_or(0.0)
}

/// A height of `most` and no more; `None` if there is no point.
fn chart<'r>(
    id: &str,
    title: &str,
    caption: String,
    grid: &AnswerGrid<'r>,
    most: f64,
    point: &dyn Fn(&'r str, u64) -> Option<AnswerMean>,
    provenance: &Provenance,
) -> Option<Figure> {
    let line = |recipe: &'r str| -> Vec<(u64, AnswerMean)> {
        let sizes = grid.sizes.iter();
        sizes.filter_map(|&size| Some((size, point(recipe, size)?))).collect()
    };
    let lines: Vec<(&str, Vec<(u64, AnswerMean)>)> = grid
        .recipes
        .iter()
        .map(|recipe| (*recipe, line(recipe)))
        .filter(|(_, line)| !line.is_empty())
        .collect();
    lines.first()?;
    let log = |size: u64| (size.max(1) as f64).log10();
    let [least_size, most_size] = range(grid.sizes.iter().map(|&size| log(size)))?;
    let x = |size: u64| match most_size > least_size {
        true => {
            let share = (log(size) - least_size) / (most_size - least_size);
            LEFT + 14.0 + share * (RIGHT - LEFT - 14.0)
        }
        false => (LEFT + RIGHT) / 2.0,
    };

    let mut svg = Svg::new();
    let class = |recipe: &str| format!("r{}", recipe_order(recipe).0);
    let entries: Vec<(Swatch, &str)> = lines
        .iter()
        .map(|(recipe, _)| (Swatch::Marker(recipe_order(recipe).0), recipe_title(recipe)))
        .collect();
    let top = legend(&mut svg, 0.0, &entries) + 8.0;
    let bottom = top + HEIGHT;
    let y = Scale::new([0.0, most], [bottom, top], 5.0);
    for (value, label) in y.ticks() {
        svg.line("grid", [LEFT, y.at(value)], [RIGHT, y.at(value)]);
        svg.text(LEFT - 8.0, y.at(value) + 4.0, "axis", Anchor::End, &label);
    }
    let mut last = f64::NEG_INFINITY;
    for &size in &grid.sizes {
        svg.line("grid", [x(size), bottom], [x(size), bottom + 4.0]);
        if x(size) - last >= LABEL {
            last = x(size);
            svg.text(last, bottom + 18.0, "axis", Anchor::Middle, &number::parameters(size));
        }
    }
    svg.text((LEFT + RIGHT) / 2.0, bottom + 36.0, "axis", Anchor::Middle, "parameters");
    for (recipe, line) in &lines {
        let path: Vec<_> = line.iter().map(|(size, mean)| [x(*size), y.at(mean.value)]).collect();
        svg.path(&format!("line {}", class(recipe)), &path);
        for ((size, mean), place) in line.iter().zip(path) {
            let error = mean
                .standard_error
                .map_or_else(String::new, |error| format!(" ± {}", number::error(error)));
            let title = format!(
                "{}, {}: {}{error} ({})",
                recipe_title(recipe),
                number::parameters(*size),
                number::decimal(mean.value, 1),
                describe(&mean.sources)
            );
            let source = provenance.anchor(&mean.sources);
            svg.mark(&title, source, |svg| {
                if let Some(error) = mean.standard_error {
                    let ends = [mean.value - error, mean.value + error].map(|it| y.at(it));
                    svg.line("whisker", [place[0], ends[0]], [place[0], ends[1]]);
                }
                svg.marker(recipe_order(recipe).0, place);
            });
        }
    }
    let svg = svg.finish(id, bottom + 42.0, title, &caption);
    Some(Figure { title: title.to_owned(), caption, svg })
}

//! Accuracy by language and method.

use super::Figure;
use super::svg::{Anchor, Scale, Svg, Swatch, WIDTH, legend, method_class, range};
use crate::language::{self, ResourceGroup};
use crate::number;
use crate::provenance::{Provenance, describe};
use crate::published::PublishedPlace;
use crate::score_grid::{ScoreGrid, method_title};
use crate::score_table::other_size;

const LEFT: f64 = 92.0;
const BAR: f64 = 6.5;
const PITCH: f64 = 8.5;

/// Grouped bars by language, with error bars, and the paper's values as ticks.
pub(crate) fn accuracy_bars<'r>(id: &str, grid: &ScoreGrid<'r>, provenance: &Provenance) -> Figure {
    let setting = grid.setting;
    let methods: Vec<&str> = grid.methods.iter().copied().filter(|it| grid.has(it)).collect();
    let published = |language: &str, method: &str| {
        grid.published?.value(PublishedPlace::Language(language), method)
    };
    let highest = grid.languages.iter().flat_map(|language| {
        methods.iter().flat_map(|method| {
            let mean = grid.mean(language, method);
            let top = mean.map(|it| it.percent + it.standard_error.unwrap_or(0.0));
            [top, published(language, method).map(|it| it.percent)]
        })
    });
    let [_, highest] = range(highest.flatten()).unwrap_or([0.0, 1.0]);
    let scale = Scale::new([0.0, highest], [LEFT, WIDTH - 10.0], 5.0);

    let mut body = Svg::new();
    let entry =
        |method: &&'r str| (Swatch::Bar(method_class(method, &methods)), method_title(method));
    let mut entries: Vec<(Swatch, &str)> = methods.iter().map(entry).collect();
    entries.push((Swatch::Whisker, "± standard error"));
    if grid.published.is_some() {
        entries.push((Swatch::PaperTick, "paper"));
    }
    let top = legend(&mut body, 0.0, &entries) + 20.0;

    let mut rows = Svg::new();
    let mut y = top;
    for group in ResourceGroup::ALL {
        let languages = grid.of_group(group);
        if languages.is_empty() {
            continue;
        }
        rows.text(0.0, y + 12.0, "heading", Anchor::Start, group.title());
        y += 24.0;
        for language in languages {
            let height = PITCH * methods.len() as f64;
            rows.text(
                LEFT - 8.0,
                y + height / 2.0 + 3.5,
                "label",
                Anchor::End,
                language::name(language),
            );
            for method in &methods {
                let centre = y + PITCH / 2.0;
                if let Some(mean) = grid.mean(language, method) {
                    let class = method_class(method, &methods);
                    let sources = grid.sources(language, method);
                    let error = mean
                        .standard_error
                        .map_or_else(String::new, |error| format!(" ± {}", number::error(error)));
                    let title = format!(
                        "{}, {}: {}{error} ({})",
                        language::name(language),
                        method_title(method),
                        number::decimal(mean.percent, 1),
                        describe(&sources)
                    );
                    let source = provenance.anchor(&sources);
                    rows.mark(&title, source, |svg| {
                        let length = scale.at(mean.percent) - LEFT;
                        svg.rect(
                            &format!("bar {class}"),
                            [LEFT, centre - BAR / 2.0],
                            [length, BAR],
                        );
                        if let Some(error) = mean.standard_error {
                            let ends =
                                [mean.percent - error, mean.percent + error].map(|it| scale.at(it));
                            svg.line_over("whisker", [ends[0], centre], [ends[1], centre]);
                        }
                    });
                }
                if let Some(value) = published(language, method) {
                    let x = scale.at(value.percent);
                    let title = format!("{}: {}", value.source, number::decimal(value.percent, 1));
                    rows.mark(&title, None, |svg| {
                        svg.line_over(
                            "paper",
                            [x, centre - PITCH / 2.0],
                            [x, centre + PITCH / 2.0],
                        );
                    });
                }
                y += PITCH;
            }
            y += 8.0;
        }
        y += 6.0;
    }
    for (value, label) in scale.ticks() {
        let x = scale.at(value);
        body.line("grid", [x, top + 4.0], [x, y - 6.0]);
        body.text(x, top - 4.0, "axis", Anchor::Middle, &label);
        body.text(x, y + 8.0, "axis", Anchor::Middle, &label);
    }
    body.append(&rows);
    let title = grid.title();
    let beside = match grid.published {
        Some(table) => {
            let size = other_size(&[grid]).map_or_else(String::new, |size| format!(" {size}."));
            format!(" Ticks: Table {} of the paper, {}.{size}", table.number, table.base.name())
        }
        None => String::new(),
    };
    let caption = format!(
        "{} in percent by language and method, protocol {}.{beside}",
        setting.metric().name(),
        setting.protocol
    );
    let height = y + 16.0;
    Figure { svg: body.finish(id, height, &title, &caption), title, caption }
}

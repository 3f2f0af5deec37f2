//! How long prompts and responses are.

use std::collections::BTreeMap;

use super::Figure;
use super::svg::{Anchor, Scale, Svg, Swatch, WIDTH, legend, range};
use crate::document::{DataSet, Report};
use crate::language;
use crate::number;
use crate::provenance::{Provenance, describe};

const LEFT: f64 = 92.0;
const PITCH: f64 = 19.0;

/// A chart for each data set: from the mean prompt to the mean response, by language.
pub(crate) fn length_dots(id: &str, report: &Report, provenance: &Provenance) -> Vec<Figure> {
    let mut sets: BTreeMap<(&str, &str), Vec<&DataSet>> = BTreeMap::new();
    for set in &report.statistics {
        sets.entry((&set.name, &set.unit)).or_default().push(set);
    }
    let numbered = (1..).zip(sets);
    numbered
        .map(|(number, ((name, unit), mut rows))| {
            rows.sort_by_key(|it| (language::order(&it.language), &it.source));
            chart(&format!("{id}-{number}"), name, unit, &rows, provenance)
        })
        .collect()
}

fn chart(id: &str, name: &str, unit: &str, rows: &[&DataSet], provenance: &Provenance) -> Figure {
    let values = rows.iter().flat_map(|row| [Some(row.prompt), row.response]).flatten();
    let [_, most] = range(values).unwrap_or([0.0, 1.0]);
    let scale = Scale::new([0.0, most], [LEFT, WIDTH - 12.0], 5.0);
    let mut svg = Svg::new();
    let entries = [(Swatch::Dot("m0"), "prompt"), (Swatch::Dot("m3"), "response")];
    let top = legend(&mut svg, 0.0, &entries) + 4.0;
    let bottom = top + PITCH * rows.len() as f64;
    for (value, label) in scale.ticks() {
        let x = scale.at(value);
        svg.line("grid", [x, top], [x, bottom]);
        svg.text(x, bottom + 15.0, "axis", Anchor::Middle, &label);
    }
    for (place, row) in rows.iter().enumerate() {
        let y = top + PITCH * (place as f64 + 0.5);
        let language = language::name(&row.language);
        svg.text(LEFT - 10.0, y + 4.0, "label", Anchor::End, language);
        let response = row.response.map_or_else(String::new, |response| {
            format!(", response {}", number::decimal(response, 1))
        });
        let title = format!(
            "{language}: prompt {}{response} {unit} ({})",
            number::decimal(row.prompt, 1),
            describe(std::slice::from_ref(&row.source))
        );
        svg.mark(&title, provenance.number(&row.source), |svg| {
            let prompt = scale.at(row.prompt);
            if let Some(response) = row.response.map(|it| scale.at(it)) {
                svg.line("bond", [prompt, y], [response, y]);
                svg.dot("dot m3", [response, y], 4.5);
            }
            svg.dot("dot m0", [prompt, y], 4.5);
        });
    }
    let caption = format!("Mean length of prompts and responses in {unit}, by language.");
    Figure { svg: svg.finish(id, bottom + 22.0, name, &caption), title: name.to_owned(), caption }
}

//! How long prompts and responses are.

use super::Figure;
use super::svg::{Anchor, Scale, Svg, Swatch, WIDTH, legend, range};
use crate::document::{DataSet, Report};
use crate::language;
use crate::length_table::{self, SetOfLanguages};
use crate::number;
use crate::provenance::{Provenance, describe};

const LEFT: f64 = 92.0;
const PITCH: f64 = 19.0;
/// How far below ours the paper's stand.
const PAPER: f64 = 10.0;

/// A chart for each data set: from the mean prompt to the mean response, by language, the paper's below ours.
pub(crate) fn length_dots(id: &str, report: &Report, provenance: &Provenance) -> Vec<Figure> {
    let numbered = (1..).zip(length_table::sets(report));
    numbered.map(|(number, set)| chart(&format!("{id}-{number}"), &set, provenance)).collect()
}

fn chart(id: &str, set: &SetOfLanguages<'_>, provenance: &Provenance) -> Figure {
    let SetOfLanguages { name, unit, rows, published } = set;
    let papers = |row: &DataSet| published.and_then(|it| it.lengths(&row.language));
    let values = rows.iter().flat_map(|row| [Some(row.prompt), row.response]).flatten();
    let values = values.chain(rows.iter().filter_map(|row| papers(row)).flatten());
    let [_, most] = range(values).unwrap_or([0.0, 1.0]);
    let scale = Scale::new([0.0, most], [LEFT, WIDTH - 12.0], 5.0);
    let mut svg = Svg::new();
    let mut entries = vec![(Swatch::Dot("m0"), "prompt"), (Swatch::Dot("m3"), "response")];
    if published.is_some() {
        entries.push((Swatch::PaperPair, "paper, prompt to response"));
    }
    let top = legend(&mut svg, 0.0, &entries) + 4.0;
    let pitch = if published.is_some() { PITCH + PAPER } else { PITCH };
    let bottom = top + pitch * rows.len() as f64;
    for (value, label) in scale.ticks() {
        let x = scale.at(value);
        svg.line("grid", [x, top], [x, bottom]);
        svg.text(x, bottom + 15.0, "axis", Anchor::Middle, &label);
    }
    for (place, row) in rows.iter().enumerate() {
        let y = top + pitch * place as f64 + PITCH / 2.0;
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
        svg.mark(&title, provenance.anchor([&row.source]), |svg| {
            let prompt = scale.at(row.prompt);
            if let Some(response) = row.response.map(|it| scale.at(it)) {
                svg.line("bond", [prompt, y], [response, y]);
                svg.dot("dot m3", [response, y], 4.5);
            }
            svg.dot("dot m0", [prompt, y], 4.5);
        });
        if let Some((set, [prompt, response])) = published.zip(papers(row)) {
            let title = format!(
                "Okapi paper, Table {}, {language}: prompt {}, response {}",
                set.number(),
                number::decimal(prompt, 1),
                number::decimal(response, 1)
            );
            svg.mark(&title, None, |svg| {
                svg.paper_pair([scale.at(prompt), scale.at(response)], y + PAPER);
            });
        }
    }
    let beside = published.map_or_else(String::new, |set| {
        format!(" Paper: Table {}, in tokens by BLOOM's tokenizer.", set.number())
    });
    let caption = format!("Mean length of prompts and responses in {unit}, by language.{beside}");
    let svg = svg.finish(id, bottom + 22.0, name, &caption);
    Figure { svg, title: (*name).to_owned(), caption }
}

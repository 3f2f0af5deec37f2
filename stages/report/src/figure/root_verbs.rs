//! What instructions ask for: root verbs with their objects, as the paper's Figure 1.

use super::Figure;
use super::svg::{Anchor, Svg, WIDTH};
use crate::document::{DataSet, Report, RootVerb};
use crate::length_table::{covered, objects, with_root_verbs};
use crate::number;
use crate::provenance::{Provenance, describe};

const PITCH: f64 = 46.0;

/// A chart for each data set whose root verbs were looked for.
pub(crate) fn root_verb_bars(id: &str, report: &Report, provenance: &Provenance) -> Vec<Figure> {
    let sets = (1..).zip(with_root_verbs(report));
    sets.map(|(number, (set, verbs))| {
        let caption = format!(
            "Instructions by root verb, and in each bar its most frequent objects. {}",
            covered(report, set)
        );
        chart(&format!("{id}-{number}"), set, verbs, caption, provenance)
    })
    .collect()
}

/// A bar for each verb, as long as it is frequent, in parts for its objects; what is left has others.
fn chart(
    id: &str,
    set: &DataSet,
    verbs: &[RootVerb],
    caption: String,
    provenance: &Provenance,
) -> Figure {
    let most = verbs.iter().map(|verb| verb.count).max().unwrap_or(0).max(1) as f64;
    let length = |count: u64| count as f64 / most * WIDTH;
    let mut svg = Svg::new();
    let mut y = 0.0;
    for verb in verbs {
        let count = number::count(verb.count);
        let title = format!(
            "{}: {count} ({}) ({})",
            verb.verb,
            objects(verb),
            describe(std::slice::from_ref(&set.source))
        );
        svg.mark(&title, provenance.anchor([&set.source]), |svg| {
            svg.text(0.0, y + 13.0, "heading", Anchor::Start, &verb.verb);
            svg.text(WIDTH, y + 13.0, "value", Anchor::End, &count);
            svg.rect("bar m0", [0.0, y + 18.0], [length(verb.count), 7.0]);
            let mut x = 0.0;
            for (place, object) in verb.objects.iter().enumerate() {
                let class = if place.is_multiple_of(2) { "bar m3" } else { "bar m2" };
                svg.rect(class, [x, y + 18.0], [length(object.count), 7.0]);
                x += length(object.count);
            }
            svg.text(0.0, y + 38.0, "axis", Anchor::Start, &shortened(&objects(verb)));
        });
        y += PITCH;
    }
    let title = set.name.clone();
    Figure { svg: svg.finish(id, y, &title, &caption), title, caption }
}

/// As much as fits in a line.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(62) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

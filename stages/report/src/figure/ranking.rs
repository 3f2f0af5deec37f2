//! Amounts by name, the largest first.

use super::Figure;
use super::svg::{Anchor, Svg, WIDTH};
use crate::document::Source;
use crate::provenance::Provenance;

/// More rows are for the table.
const ROWS: usize = 12;

/// A bar: its name, its length, how that is written, and where it comes from.
pub(crate) type RankingRow<'r> = (String, f64, String, Vec<&'r Source>);

/// Horizontal bars with their names above them, so that long names have room. `None` without rows.
pub(crate) fn ranking(
    id: &str,
    title: &str,
    caption: &str,
    rows: &[RankingRow<'_>],
    provenance: &Provenance,
) -> Option<Figure> {
    let most = rows.iter().map(|row| row.1).fold(0.0, f64::max);
    rows.first()?;
    let mut svg = Svg::new();
    let mut y = 0.0;
    for (name, value, text, sources) in rows.iter().take(ROWS) {
        let source = provenance.anchor(sources.iter().copied());
        svg.mark(&format!("{name}: {text}"), source, |svg| {
            svg.text(0.0, y + 13.0, "label", Anchor::Start, &shortened(name));
            svg.text(WIDTH, y + 13.0, "value", Anchor::End, text);
            svg.rect("track", [0.0, y + 19.0], [WIDTH, 6.0]);
            let length = if most > 0.0 { value / most * WIDTH } else { 0.0 };
            svg.rect("bar m3", [0.0, y + 19.0], [length, 6.0]);
        });
        y += 36.0;
    }
    let caption = match rows.len().checked_sub(ROWS) {
        Some(more @ 1..) => format!("{caption} {more} more in the table."),
        _ => caption.to_owned(),
    };
    let svg = svg.finish(id, y, title, &caption);
    Some(Figure { title: title.to_owned(), caption, svg })
}

/// As much of a name as fits beside its value.
fn shortened(name: &str) -> String {
    match name.char_indices().nth(42) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

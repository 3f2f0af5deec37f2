//! What RLHF gains over SFT, by resource group.

use super::Figure;
use super::svg::{Anchor, Scale, Svg, Swatch, WIDTH, legend, range};
use crate::gain_table::group_gains;
use crate::number;
use crate::provenance::Provenance;
use crate::score_grid::ScoreGrid;
use crate::score_table::other_size;

const LEFT: f64 = 66.0;
const RIGHT: f64 = 62.0;

/// From SFT to RLHF, a line per group, the paper's below ours. `None` if nothing has both.
pub(crate) fn gain_dumbbells(
    id: &str,
    grid: &ScoreGrid<'_>,
    provenance: &Provenance,
) -> Option<Figure> {
    let gains = group_gains(grid);
    let ends = gains.iter().flat_map(|gain| {
        let papers = gain.published.as_ref().map(|it| (it.0, it.1));
        gain.averages.into_iter().chain(papers).flat_map(|(sft, rlhf)| [sft, rlhf])
    });
    let range = range(ends)?;
    gains.iter().find(|gain| gain.ours.is_some())?;
    let scale = Scale::new(range, [LEFT, WIDTH - RIGHT], 4.0);
    let mut svg = Svg::new();
    let mut entries = vec![(Swatch::Dot("m2"), "SFT"), (Swatch::Dot("m3"), "RLHF")];
    if grid.published.is_some() {
        entries.push((Swatch::PaperPair, "paper, SFT to RLHF"));
    }
    let top = legend(&mut svg, 0.0, &entries) + 6.0;
    let rows: Vec<_> =
        gains.iter().filter(|it| it.averages.is_some() || it.published.is_some()).collect();
    let bottom = top + 44.0 * rows.len() as f64;
    for (value, label) in scale.ticks() {
        let x = scale.at(value);
        svg.line("grid", [x, top], [x, bottom]);
        svg.text(x, bottom + 15.0, "axis", Anchor::Middle, &label);
    }
    svg.text(WIDTH, bottom + 15.0, "axis", Anchor::End, "gain");
    for (gain, y) in rows.iter().zip((0..).map(|row| top + 44.0 * f64::from(row))) {
        svg.text(
            0.0,
            y + 26.0,
            if gain.name == "All" { "heading" } else { "label" },
            Anchor::Start,
            gain.name,
        );
        if let Some(((from, to), ours)) = gain.averages.zip(gain.ours) {
            let error = ours
                .standard_error
                .map_or_else(String::new, |error| format!(" ± {}", number::error(error)));
            let title = format!(
                "{}: SFT {}, RLHF {}, gain {}{error}, {}",
                gain.name,
                number::decimal(from, 1),
                number::decimal(to, 1),
                number::signed(ours.percent),
                ours.title()
            );
            svg.mark(&title, provenance.anchor(&gain.sources), |svg| {
                let ends = [scale.at(from), scale.at(to)];
                svg.line("bond", [ends[0], y + 15.0], [ends[1], y + 15.0]);
                svg.dot("dot m2", [ends[0], y + 15.0], 5.0);
                svg.dot("dot m3", [ends[1], y + 15.0], 5.0);
                svg.text(WIDTH, y + 19.0, "value", Anchor::End, &number::signed(ours.percent));
            });
        }
        if let Some((from, to, difference, source)) = &gain.published {
            let title = format!(
                "{source}: SFT {}, RLHF {}",
                number::decimal(*from, 1),
                number::decimal(*to, 1)
            );
            svg.mark(&title, None, |svg| {
                svg.paper_pair([scale.at(*from), scale.at(*to)], y + 31.0);
                svg.text(WIDTH, y + 35.0, "axis", Anchor::End, &number::signed(*difference));
            });
        }
    }
    let setting = grid.setting;
    let title = grid.title();
    let caption = format!(
        "Average {} in percent before and after RLHF, by resource group, over the languages that have both.{}",
        setting.metric().name(),
        other_size(&[grid]).map_or_else(String::new, |size| format!(" {size}."))
    );
    Some(Figure { svg: svg.finish(id, bottom + 22.0, &title, &caption), title, caption })
}

//! Measures of trainings against steps.

use std::collections::{BTreeMap, BTreeSet};

use super::svg::{Anchor, Scale, Svg, WIDTH, range};
use super::{Figure, MEASURES};
use crate::document::{Curve, Report};
use crate::language;
use crate::provenance::{Provenance, describe};
use crate::score_grid::mean;

const LEFT: f64 = 48.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 210.0;
/// More points cannot be told apart.
const POINTS: usize = 120;

/// Points of one training.
type Line = Vec<(u64, f64)>;

/// A chart for each node, model and measure: every training as a light line, and their mean. Two nodes of a stage may
/// train on unlike data, and have no mean.
pub(crate) fn curve_lines(id: &str, report: &Report, provenance: &Provenance) -> Vec<Figure> {
    let mut by_node: BTreeMap<_, Vec<&Curve>> = BTreeMap::new();
    let mut nodes: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for curve in &report.curves {
        let (stage, node) = (stage_order(&curve.stage), curve.source.node_name());
        by_node.entry((stage, node, &*curve.model)).or_default().push(curve);
        nodes.entry(&curve.stage).or_default().insert(node);
    }
    let mut figures = Vec::new();
    for (((_, stage), node, model), mut curves) in by_node {
        let name_of_node = match nodes[stage].len() {
            1 => String::new(),
            _ => format!(", {node}"),
        };
        curves.sort_by_key(|it| (it.language.as_deref().map(language::order), it.seed, &it.source));
        for (measure, name) in MEASURES {
            let lines: Vec<(&Curve, Line)> = curves
                .iter()
                .map(|curve| (*curve, line(curve, measure)))
                .filter(|(_, line)| !line.is_empty())
                .collect();
            if !lines.is_empty() {
                let id = format!("{id}-{}", figures.len() + 1);
                let title = format!("{}{name_of_node}: {}", stage_title(stage), lower_first(name));
                figures.push(chart(&id, title, model, &lines, provenance));
            }
        }
    }
    figures
}

/// The stages that train, in the order of a pipeline.
const STAGES: [(&str, &str); 4] =
    [("pretrain", "Pretraining"), ("sft", "SFT"), ("reward_model", "Reward model"), ("ppo", "PPO")];

fn stage_title(stage: &str) -> &str {
    STAGES.iter().find(|known| known.0 == stage).map_or(stage, |known| known.1)
}

/// Where a stage stands; unknown ones come last, by name.
pub(crate) fn stage_order(stage: &str) -> (usize, &str) {
    let place = STAGES.iter().position(|known| known.0 == stage);
    (place.unwrap_or(STAGES.len()), stage)
}

/// As in the middle of a sentence, but for an abbreviation.
fn lower_first(name: &str) -> String {
    let mut letters = name.chars();
    match (letters.next(), letters.next()) {
        (Some(first), Some(second)) if second.is_lowercase() => {
            first.to_lowercase().chain(name.chars().skip(1)).collect()
        }
        _ => name.to_owned(),
    }
}

fn line(curve: &Curve, measure: &str) -> Line {
    let value = |point: &crate::document::CurvePoint| {
        let value = *point.measures.get(measure)?;
        value.is_finite().then_some((point.step, value))
    };
    curve.points.iter().filter_map(value).collect()
}

/// The mean at the steps that every line has.
fn mean_line(lines: &[(&Curve, Line)]) -> Line {
    let mut at_step: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for (step, value) in lines.iter().flat_map(|(_, line)| line) {
        at_step.entry(*step).or_default().push(*value);
    }
    let full = at_step.into_iter().filter(|(_, values)| values.len() == lines.len());
    full.filter_map(|(step, values)| Some((step, mean(&values)?))).collect()
}

/// Means of neighbours, so that there are not more points than can be seen.
fn thinned(line: &Line) -> Vec<(f64, f64)> {
    let size = line.len().div_ceil(POINTS).max(1);
    let part = |part: &[(u64, f64)]| {
        let n = part.len() as f64;
        let sum = part.iter().fold((0.0, 0.0), |sum, it| (sum.0 + it.0 as f64, sum.1 + it.1));
        (sum.0 / n, sum.1 / n)
    };
    line.chunks(size).map(part).collect()
}

fn chart(
    id: &str,
    title: String,
    model: &str,
    lines: &[(&Curve, Line)],
    provenance: &Provenance,
) -> Figure {
    let thin: Vec<_> = lines.iter().map(|(curve, line)| (*curve, thinned(line))).collect();
    let mean = thinned(&mean_line(lines));
    let points = || thin.iter().flat_map(|it| &it.1);
    let steps = range(points().map(|it| it.0)).unwrap_or([0.0, 1.0]);
    let values = range(points().map(|it| it.1)).unwrap_or([0.0, 1.0]);
    let x = Scale::new([0.0, steps[1]], [LEFT, WIDTH - 14.0], 5.0);
    let y = Scale::new(values, [BOTTOM, TOP], 5.0);
    let place = |(step, value): &(f64, f64)| [x.at(*step), y.at(*value)];

    let mut svg = Svg::new();
    for (value, label) in y.ticks() {
        svg.line("grid", [LEFT, y.at(value)], [WIDTH - 14.0, y.at(value)]);
        svg.text(LEFT - 8.0, y.at(value) + 4.0, "axis", Anchor::End, &label);
    }
    for (step, label) in x.ticks() {
        svg.text(x.at(step), BOTTOM + 18.0, "axis", Anchor::Middle, &label);
    }
    svg.text((LEFT + WIDTH) / 2.0, BOTTOM + 36.0, "axis", Anchor::Middle, "steps");
    let class = if thin.len() == 1 { "line mean" } else { "line run" };
    for (curve, line) in &thin {
        let language = curve.language.as_deref().map_or("", language::name);
        let sources = [curve.source.clone()];
        let title = format!("{language} seed {} ({})", curve.seed, describe(&sources));
        svg.mark(title.trim(), provenance.anchor([&curve.source]), |svg| {
            match &line[..] {
                // A path of one point is not drawn.
                [only] => svg.dot("dot m3", place(only), 3.0),
                _ => svg.path(class, &line.iter().map(place).collect::<Vec<_>>()),
            }
        });
    }
    // A path of one point is not drawn, and trainings of unlike lengths may have no step in common.
    let has_mean = thin.len() > 1 && mean.len() > 1;
    if has_mean {
        svg.mark("mean", None, |svg| {
            svg.path("line mean", &mean.iter().map(place).collect::<Vec<_>>());
        });
    }
    let languages: BTreeSet<_> = lines.iter().filter_map(|it| it.0.language.as_deref()).collect();
    let how = match thin.iter().any(|(_, line)| line.len() > 1) {
        true if has_mean => " as light lines, their mean in bold",
        true => " as light lines",
        false => ", a point each",
    };
    let caption = match (lines.len(), languages.len()) {
        (1, _) => format!("{model}, one training."),
        (runs, 0 | 1) => format!("{model}, {runs} trainings{how}."),
        (runs, languages) => {
            format!("{model}, {runs} trainings in {languages} languages{how}.")
        }
    };
    Figure { svg: svg.finish(id, BOTTOM + 42.0, &title, &caption), title, caption }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{CurvePoint, Source};

    fn curve(values: &[(u64, f64)]) -> Curve {
        let point = |&(step, value): &(u64, f64)| CurvePoint {
            step,
            measures: BTreeMap::from([("loss".to_owned(), value)]),
        };
        Curve {
            stage: "sft".to_owned(),
            model: "tiny".to_owned(),
            language: None,
            seed: 1,
            points: values.iter().map(point).collect(),
            source: Source { node: "sft".to_owned(), action: "a".to_owned() },
        }
    }

    #[test]
    fn the_mean_is_of_all_trainings_or_of_none() {
        let curves =
            [curve(&[(1, 4.0), (2, 2.0), (3, 1.0)]), curve(&[(1, 2.0), (2, f64::NAN), (3, 0.0)])];
        let lines: Vec<_> = curves.iter().map(|curve| (curve, line(curve, "loss"))).collect();
        assert_eq!(mean_line(&lines), [(1, 3.0), (3, 0.5)]);
    }

    #[test]
    fn a_long_line_is_means_of_neighbours() {
        let long: Line = (1..=240).map(|step| (step, (step % 2) as f64)).collect();
        let thin = thinned(&long);
        assert_eq!((thin.len(), thin[0], thin[119]), (120, (1.5, 0.5), (239.5, 0.5)));
        let short: Line = vec![(1, 4.0), (2, 3.0)];
        assert_eq!(thinned(&short), [(1.0, 4.0), (2.0, 3.0)]);
    }

    #[test]
    fn a_single_step_is_seen() {
        let report = Report { curves: vec![curve(&[(1, 2.5)])], ..Report::default() };
        let figure = &curve_lines("curve", &report, &Provenance::of(&report))[0];
        assert!(figure.svg.contains("<circle"), "{}", figure.svg);
    }

    #[test]
    fn two_nodes_of_a_stage_have_charts_of_their_own() {
        let of = |node: &str, values: &[(u64, f64)]| Curve {
            source: Source { node: node.to_owned(), action: node.to_owned() },
            ..curve(values)
        };
        let curves = vec![
            of("sft[lang=de]", &[(1, 4.0), (2, 3.0)]),
            of("sft[lang=fr]", &[(1, 4.0), (2, 3.0)]),
            of("sft_alpaca[lang=de]", &[(1, 9.0)]),
            of("sft_alpaca[lang=fr]", &[(2, 8.0)]),
        ];
        let report = Report { curves, ..Report::default() };
        let figures = curve_lines("curve", &report, &Provenance::of(&report));
        let titles: Vec<&str> = figures.iter().map(|figure| &*figure.title).collect();
        assert_eq!(titles, ["SFT, sft: loss", "SFT, sft_alpaca: loss"]);
        assert!(figures[0].caption.ends_with("their mean in bold."), "{}", figures[0].caption);
        // They have no step in common, so there is no mean to draw.
        assert!(!figures[1].svg.contains("line mean"), "{}", figures[1].svg);
        assert_eq!(figures[1].caption, "tiny, 2 trainings, a point each.");
    }

    #[test]
    fn stages_come_in_the_order_of_a_pipeline() {
        let mut report = Report::default();
        for stage in ["ppo", "a stage of one's own", "sft"] {
            report.curves.push(Curve { stage: stage.to_owned(), ..curve(&[(1, 1.0)]) });
        }
        let figures = curve_lines("curve", &report, &Provenance::of(&report));
        let titles: Vec<_> = figures.iter().map(|it| it.title.as_str()).collect();
        assert_eq!(titles, ["SFT: loss", "PPO: loss", "a stage of one's own: loss"]);
    }
}

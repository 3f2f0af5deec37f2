//! The parts that charts are made of.

use std::fmt::Write;

use crate::markup::escape;
use crate::number;

/// Units of a chart's width.
pub(super) const WIDTH: f64 = 400.0;

/// A chart that grows downwards.
pub(super) struct Svg {
    body: String,
}

/// Where a text hangs.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A coordinate, short and always the same.
pub(super) fn at(value: f64) -> String {
    let text = format!("{value:.1}");
    let text = text.strip_suffix(".0").unwrap_or(&text);
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

impl Svg {
    pub(super) fn new() -> Svg {
        Svg { body: String::new() }
    }

    pub(super) fn text(&mut self, x: f64, y: f64, class: &str, anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.raw(&format!(
            r#"<text x="{}" y="{}" class="{class}" text-anchor="{anchor}">{}</text>"#,
            at(x),
            at(y),
            escape(text)
        ));
    }

    pub(super) fn line(&mut self, class: &str, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2]) {
        let [x1, y1, x2, y2] = [x1, y1, x2, y2].map(at);
        self.raw(&format!(r#"<line class="{class}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>"#));
    }

    pub(super) fn rect(&mut self, class: &str, [x, y]: [f64; 2], [width, height]: [f64; 2]) {
        let [x, y, width, height] = [x, y, width.max(0.0), height].map(at);
        self.raw(&format!(
            r#"<rect class="{class}" x="{x}" y="{y}" width="{width}" height="{height}" rx="1"/>"#
        ));
    }

    pub(super) fn dot(&mut self, class: &str, [x, y]: [f64; 2], radius: f64) {
        let [x, y, radius] = [x, y, radius].map(at);
        self.raw(&format!(r#"<circle class="{class}" cx="{x}" cy="{y}" r="{radius}"/>"#));
    }

    pub(super) fn path(&mut self, class: &str, points: &[[f64; 2]]) {
        let mut d = String::new();
        for (place, [x, y]) in points.iter().enumerate() {
            let step = if place == 0 { 'M' } else { 'L' };
            let _ = write!(d, "{step}{} {}", at(*x), at(*y));
        }
        self.raw(&format!(r#"<path class="{class}" d="{d}"/>"#));
    }

    /// What `draw` draws says `title` when pointed at, and leads to a place of the page if one is given.
    /// Tables have the same links, so that the keyboard need not go through all marks.
    pub(super) fn mark(
        &mut self,
        title: &str,
        anchor: Option<String>,
        draw: impl FnOnce(&mut Svg),
    ) {
        let (open, close) = match anchor {
            Some(anchor) => (format!(r##"<a href="#{anchor}" tabindex="-1">"##), "</a>"),
            None => ("<g>".to_owned(), "</g>"),
        };
        self.raw(&format!("{open}<title>{}</title>", escape(title)));
        draw(self);
        self.raw(close);
    }

    /// The marker of a line by its number: square, diamond, circle, triangle.
    pub(super) fn marker(&mut self, line: usize, [x, y]: [f64; 2]) {
        let class = format!("marker r{line}");
        match line {
            0 => self.rect(&class, [x - 4.0, y - 4.0], [8.0, 8.0]),
            1 => {
                let corners =
                    [[x, y - 5.5], [x + 5.5, y], [x, y + 5.5], [x - 5.5, y], [x, y - 5.5]];
                self.path(&class, &corners);
            }
            2 => self.dot(&class, [x, y], 4.5),
            _ => {
                let corners = [[x, y - 5.0], [x + 5.0, y + 4.0], [x - 5.0, y + 4.0], [x, y - 5.0]];
                self.path(&class, &corners);
            }
        }
    }

    /// A line over marks of any colour: in the page's colour around it, so that it stands out from them.
    pub(super) fn line_over(&mut self, class: &str, from: [f64; 2], to: [f64; 2]) {
        self.line("halo", from, to);
        self.line(class, from, to);
    }

    /// Two values of the paper's: open where the line begins, full where it ends.
    pub(super) fn paper_pair(&mut self, [from, to]: [f64; 2], y: f64) {
        self.line("paper", [from, y], [to, y]);
        self.dot("paper open", [from, y], 3.0);
        self.dot("paper full", [to, y], 3.0);
    }

    /// Draws another over this one.
    pub(super) fn append(&mut self, other: &Svg) {
        self.body.push_str(&other.body);
    }

    fn raw(&mut self, text: &str) {
        self.body.push_str(text);
    }

    /// The whole element. `id` is unique in the page.
    pub(super) fn finish(self, id: &str, height: f64, title: &str, description: &str) -> String {
        let (id, height) = (escape(id), at(height));
        format!(
            concat!(
                r#"<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 400 {height}" role="img" "#,
                r#"aria-labelledby="{id}-title {id}-desc"><title id="{id}-title">{title}</title>"#,
                r#"<desc id="{id}-desc">{description}</desc>{body}</svg>"#
            ),
            id = id,
            height = height,
            title = escape(title),
            description = escape(description),
            body = self.body
        )
    }
}

/// A straight scale with round ticks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    from: f64,
    to: f64,
    step: f64,
    start: f64,
    end: f64,
}

impl Scale {
    /// Values onto the units from `start` to `end`, with about `ticks` ticks. Ends are rounded outwards.
    pub(super) fn new([least, most]: [f64; 2], [start, end]: [f64; 2], ticks: f64) -> Scale {
        // One value alone stands in the middle of a tenth of it in each direction.
        let [least, most] = if most > least {
            [least, most]
        } else if least == 0.0 {
            [0.0, 1.0]
        } else {
            [least - least.abs() / 10.0, least + least.abs() / 10.0]
        };
        let rough = (most - least) / ticks;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|it| it * power);
        let step = step.into_iter().find(|it| *it >= rough * 0.999).unwrap_or(rough);
        let (from, to) = ((least / step).floor() * step, (most / step).ceil() * step);
        Scale { from, to, step, start, end }
    }

    pub(super) fn at(&self, value: f64) -> f64 {
        let share = (value - self.from) / (self.to - self.from);
        self.start + share * (self.end - self.start)
    }

    /// Values of ticks with their labels.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let count = ((self.to - self.from) / self.step).round() as usize;
        let values = (0..=count).map(|place| self.from + place as f64 * self.step);
        values.map(|value| (value, number::tick(value, self.step))).collect()
    }
}

/// Least and most of finite values.
pub(super) fn range(values: impl Iterator<Item = f64>) -> Option<[f64; 2]> {
    values.filter(|value| value.is_finite()).fold(None, |range, value| {
        let [least, most] = range.unwrap_or([value, value]);
        Some([value.min(least), value.max(most)])
    })
}

/// What stands before a name in a legend.
pub(super) enum Swatch {
    /// A bar of a class.
    Bar(String),
    /// A dot of a class.
    Dot(&'static str),
    /// The marker of a line.
    Marker(usize),
    /// An error bar.
    Whisker,
    /// A value of the paper's.
    PaperTick,
    /// Two values of the paper's.
    PaperPair,
}

impl Swatch {
    fn draw(&self, svg: &mut Svg, [x, y]: [f64; 2]) {
        match self {
            Swatch::Bar(class) => {
                svg.rect(&format!("bar {class}"), [x - 7.0, y - 4.0], [14.0, 8.0]);
            }
            Swatch::Dot(class) => svg.dot(&format!("dot {class}"), [x, y], 5.0),
            Swatch::Marker(line) => svg.marker(*line, [x, y]),
            Swatch::Whisker => {
                svg.line("whisker", [x - 7.0, y], [x + 7.0, y]);
            }
            Swatch::PaperTick => svg.line("paper", [x, y - 6.0], [x, y + 6.0]),
            Swatch::PaperPair => svg.paper_pair([x - 5.0, x + 5.0], y),
        }
    }
}

/// Draws a legend from a height on, in as many lines as it takes, and returns where it ends.
pub(super) fn legend(svg: &mut Svg, top: f64, entries: &[(Swatch, &str)]) -> f64 {
    let (mut x, mut y) = (0.0, top + 8.0);
    for (swatch, name) in entries {
        // An estimate: glyphs are narrower on average.
        let width = 20.0 + 7.0 * name.chars().count() as f64;
        if x > 0.0 && x + width > WIDTH {
            (x, y) = (0.0, y + 18.0);
        }
        swatch.draw(svg, [x + 7.0, y]);
        svg.text(x + 19.0, y + 4.0, "label", Anchor::Start, name);
        x += width + 14.0;
    }
    y + 14.0
}

/// The class of a method's marks.
pub(super) fn method_class(method: &str, methods: &[&str]) -> String {
    let known = ["base", "bloomz", "sft", "rlhf"];
    let place = known.iter().position(|it| *it == method).unwrap_or_else(|| {
        let others = methods.iter().filter(|it| !known.contains(it));
        4 + others.take_while(|it| **it != method).count() % 3
    });
    format!("m{place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_holds_its_values_between_round_ends() {
        let scale = Scale::new([0.13, 0.97], [0.0, 100.0], 4.0);
        let labels: Vec<_> = scale.ticks().into_iter().map(|it| it.1).collect();
        assert_eq!(labels, ["0.00", "0.25", "0.50", "0.75", "1.00"]);
        assert_eq!([scale.at(0.0), scale.at(0.25), scale.at(1.0)], [0.0, 25.0, 100.0]);
    }

    #[test]
    fn a_scale_of_one_value_is_one() {
        for value in [3.0, 0.8, -2.0, 0.0] {
            let scale = Scale::new([value, value], [0.0, 10.0], 4.0);
            assert!((0.0..=10.0).contains(&scale.at(value)) && scale.ticks().len() > 1, "{value}");
        }
        // An accuracy of 0.8 is not drawn below 1.8.
        let accuracy = Scale::new([0.8, 0.8], [0.0, 10.0], 4.0).ticks();
        assert!(accuracy.iter().all(|(value, _)| (0.6..1.0).contains(value)), "{accuracy:?}");
    }

    #[test]
    fn titles_are_escaped() {
        let mut svg = Svg::new();
        svg.mark("a<b", None, |svg| svg.text(0.0, 0.0, "label", Anchor::Start, "\"&"));
        let text = svg.finish("x", 10.0, "<script>", "'");
        assert!(text.contains("<title>a&lt;b</title>") && text.contains(">&quot;&amp;</text>"));
        assert!(text.contains("&lt;script&gt;</title>") && !text.contains("<script>"));
    }
}

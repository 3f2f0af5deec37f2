//! Data -> charts as SVG.
//!
//! Every chart is drawn on 400 units of width, so that its text can be read on a phone, and scales with its box.
//! Colours are classes of the page's style sheet. Methods differ in form too, not by colour alone.

mod bars;
mod dumbbells;
mod lengths;
mod lines;
mod ranking;
mod recipes;
mod root_verbs;
mod sizes;
mod svg;

pub(crate) use bars::accuracy_bars;
pub(crate) use dumbbells::gain_dumbbells;
pub(crate) use lengths::length_dots;
pub(crate) use lines::{curve_lines, stage_order};
pub(crate) use ranking::ranking;
pub(crate) use recipes::{family_bars, tuning_bars};
pub(crate) use root_verbs::root_verb_bars;
pub(crate) use sizes::answer_lines;

/// A chart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Figure {
    pub(crate) title: String,
    /// What is to be seen, for those who do not see it, and below the chart.
    pub(crate) caption: String,
    pub(crate) svg: String,
}

/// What is drawn of curves, and what it is called.
pub(crate) const MEASURES: [(&str, &str); 9] = [
    ("loss", "Loss"),
    ("validation_loss", "Validation loss"),
    ("accuracy", "Accuracy"),
    ("validation_accuracy", "Validation accuracy"),
    ("reward", "Reward"),
    ("kl", "KL divergence"),
    ("policy_loss", "Policy loss"),
    ("value_loss", "Value loss"),
    ("entropy", "Entropy"),
];

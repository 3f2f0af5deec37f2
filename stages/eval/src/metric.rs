//! Shares of right answers, and how sure they are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::evaluation::ItemScore;

/// A share of right answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// From 0 to 1.
    pub value: f64,
    /// Its standard error; a single answer has none.
    pub standard_error: Option<f64>,
    /// Answers.
    pub n: usize,
}

impl Score {
    /// The mean of answers, and its standard error: their sample deviation by the root of their number.
    ///
    /// Sums run in the order of the answers, so that they round as those of the field's programs do.
    pub fn mean(answers: &[bool]) -> Score {
        let n = answers.len();
        let values = || answers.iter().map(|is_right| f64::from(u8::from(*is_right)));
        let value = values().sum::<f64>() / n as f64;
        let squares: f64 = values().map(|answer| (answer - value) * (answer - value)).sum();
        let error = || (squares / (n - 1) as f64).sqrt() / (n as f64).sqrt();
        Score { value, standard_error: (n > 1).then(error), n }
    }

    /// The mean over parts by their sizes, with the pooled variance of the parts, as the harness sums up subjects.
    pub fn pooled(parts: &[Score]) -> Score {
        let n: usize = parts.iter().map(|part| part.n).sum();
        let sum: f64 = parts.iter().map(|part| part.value * part.n as f64).sum();
        let variances = parts.iter().map(|part| {
            let size = part.n as f64;
            Some((size - 1.0) * part.standard_error?.powi(2) * size)
        });
        let error = variances.sum::<Option<f64>>().map(|sum| {
            let pooled = sum / (n - parts.len()) as f64;
            (pooled / n as f64).sqrt()
        });
        Score { value: sum / n as f64, standard_error: error, n }
    }
}

/// The scores of some items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The right choice is the most probable.
    pub acc: Score,
    /// The right choice is the most probable by character.
    pub acc_norm: Score,
    /// The same of each subject, where subjects are tasks of their own: `acc` and `acc_norm` are then pooled.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub subjects: BTreeMap<String, [Score; 2]>,
}

impl Summary {
    /// Sums up items; with `by_subject` each subject first. `None` when there are none.
    pub fn of(items: &[ItemScore], by_subject: bool) -> Option<Summary> {
        if items.is_empty() {
            return None;
        }
        let [acc, acc_norm] = means(&items.iter().collect::<Vec<_>>());
        if !by_subject {
            return Some(Summary { acc, acc_norm, subjects: BTreeMap::new() });
        }
        let mut members: BTreeMap<String, Vec<&ItemScore>> = BTreeMap::new();
        for item in items {
            members.entry(item.subject.clone().unwrap_or_default()).or_default().push(item);
        }
        let subjects: BTreeMap<String, [Score; 2]> =
            members.into_iter().map(|(subject, items)| (subject, means(&items))).collect();
        let [acc, acc_norm] = [0, 1].map(|metric| {
            let parts: Vec<Score> = subjects.values().map(|scores| scores[metric]).collect();
            Score::pooled(&parts)
        });
        Some(Summary { acc, acc_norm, subjects })
    }
}

/// acc and acc_norm.
fn means(items: &[&ItemScore]) -> [Score; 2] {
    let right: [fn(&ItemScore) -> bool; 2] =
        [|item| item.predicted == item.gold, |item| item.predicted_norm == item.gold];
    right.map(|is_right| {
        let answers: Vec<bool> = items.iter().map(|item| is_right(item)).collect();
        Score::mean(&answers)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_errors_are_those_of_samples() {
        let score = Score::mean(&[true, false, false, true, true]);
        assert_eq!((score.value, score.n), (0.6, 5));
        // Deviations: three of 0.4 and two of 0.6, by n - 1 and then by n.
        assert!((score.standard_error.unwrap() - (1.2f64 / 4.0 / 5.0).sqrt()).abs() < 1e-15);
        assert_eq!(Score::mean(&[true]).standard_error, None);
    }

    #[test]
    fn parts_are_pooled_by_their_sizes() {
        let (left, right) = ([true, false, false, true], [true, true, false]);
        let parts = [Score::mean(&left), Score::mean(&right)];
        let pooled = Score::pooled(&parts);
        assert!((pooled.value - 4.0 / 7.0).abs() < 1e-15 && pooled.n == 7);
        // Sums of squares within the parts: 1 and 2/3; five degrees of freedom.
        let variance: f64 = (1.0 + 2.0 / 3.0) / 5.0;
        assert!((pooled.standard_error.unwrap() - (variance / 7.0).sqrt()).abs() < 1e-15);
        assert_eq!(Score::pooled(&[parts[0], Score::mean(&[true])]).standard_error, None);
    }
}

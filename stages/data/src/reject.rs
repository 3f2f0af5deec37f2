//! Rows set aside.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A row that was set aside, with the reason. Nothing is dropped: what is not among a stage's rows is
/// among its rejects.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reject {
    /// The id of the row, or a name for what never became one.
    pub id: String,
    /// The rule that it breaks, a stable word.
    pub rule: String,
    /// What exactly is wrong.
    pub detail: String,
    /// How far beyond the rule it is, for rules that measure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// The row that it is too close to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neighbour: Option<String>,
    /// The row.
    pub row: Value,
    /// The last answer of the teacher, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

/// How many rows were set aside, by rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RejectCounts {
    by_rule: BTreeMap<String, u64>,
}

impl RejectCounts {
    /// Counts one.
    pub fn add(&mut self, rule: &str) {
        *self.by_rule.entry(rule.to_owned()).or_default() += 1;
    }

    /// How many in all.
    pub fn total(&self) -> u64 {
        self.by_rule.values().sum()
    }

    /// Each rule with its count, the most frequent first.
    pub fn by_rule(&self) -> Vec<(&str, u64)> {
        let mut counts: Vec<_> = self.by_rule.iter().map(|(rule, n)| (rule.as_str(), *n)).collect();
        counts.sort_by(|one, other| other.1.cmp(&one.1).then(one.0.cmp(other.0)));
        counts
    }
}

impl std::fmt::Display for RejectCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (place, (rule, count)) in self.by_rule().into_iter().enumerate() {
            let separator = if place > 0 { ", " } else { "" };
            write!(f, "{separator}{count} {rule}")?;
        }
        Ok(())
    }
}

//! Ranked answers.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::DataError;
use crate::fit::{Fit, SourceFields};

/// Answers to one instruction, from the best to the worst by their ranks.
///
/// Layouts that are understood: ours, and Okapi's released pairs (`instruction`, `input`,
/// `prefered_output` (so spelt; `preferred_output` and `chosen` too), `rejected_output` or
/// `rejected`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranking {
    /// Unique in its file.
    pub id: String,
    /// What was asked.
    pub instruction: String,
    /// What it was asked about; empty if the instruction says all.
    #[serde(default)]
    pub input: String,
    /// The answers, at least two.
    pub responses: Vec<String>,
    /// The rank of each answer, from 1 (best): a permutation.
    pub ranks: Vec<u32>,
    /// Of each answer, whether it ended by itself; empty where that is not known. One that was broken off is no
    /// whole text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<bool>,
}

impl Ranking {
    /// Whether the ranks are a permutation of 1 to their number.
    pub fn is_permutation(ranks: &[u32]) -> bool {
        let mut seen = vec![false; ranks.len()];
        ranks.iter().all(|&rank| {
            let place = (rank as usize).checked_sub(1).and_then(|rank| seen.get_mut(rank));
            place.is_some_and(|seen| !std::mem::replace(seen, true))
        })
    }
}

impl Fit for Ranking {
    const FIELDS: &'static [&'static str] =
        &["id", "instruction", "input", "responses", "ranks", "preferred", "rejected", "ended"];

    fn fit(source: &mut SourceFields<'_>) -> Result<Ranking, DataError> {
        let preferred = &["prefered_output", "preferred_output", "chosen"];
        let rejected = &["rejected_output", "rejected"];
        let instruction = source.text("instruction", &["instruction", "prompt"])?;
        let input = source.optional_text("input", &["input"])?.unwrap_or_default();
        let (responses, ranks) = if source.value("responses", &["responses"]).is_some() {
            (source.texts("responses", &["responses"])?, ranks(source)?)
        } else {
            let better = source.text("preferred", preferred)?;
            (vec![better, source.text("rejected", rejected)?], vec![1, 2])
        };
        if responses.len() < 2 || responses.len() != ranks.len() {
            let message =
                format!("{} answers with {} ranks are no ranking", responses.len(), ranks.len());
            return Err(source.error("ranks", &["ranks"], message));
        }
        if !Ranking::is_permutation(&ranks) {
            let message = format!("{ranks:?} is no permutation of 1 to {}", ranks.len());
            return Err(source.error("ranks", &["ranks"], message));
        }
        let ended = source.flags("ended", responses.len())?;
        Ok(Ranking { id: source.id()?, instruction, input, responses, ranks, ended })
    }
}

fn ranks(source: &SourceFields<'_>) -> Result<Vec<u32>, DataError> {
    let ranks = source.value("ranks", &["ranks"]).and_then(Value::as_array).and_then(|ranks| {
        ranks.iter().map(|rank| rank.as_u64().and_then(|rank| rank.try_into().ok())).collect()
    });
    ranks.ok_or_else(|| source.error("ranks", &["ranks"], "a list of whole numbers is expected"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_permutations_are_rankings() {
        for ranks in [&[1, 2][..], &[3, 1, 2], &[1]] {
            assert!(Ranking::is_permutation(ranks), "{ranks:?}");
        }
        for ranks in [&[1, 1][..], &[0, 1], &[1, 3], &[2]] {
            assert!(!Ranking::is_permutation(ranks), "{ranks:?}");
        }
    }
}

//! How long texts are: a measure, and what is said of many measurements.

use serde::{Deserialize, Serialize};

use crate::DataError;

/// Counts something in a text: its tokens, its words. Several threads count at once.
pub type Counter<'c> = &'c (dyn Fn(&str) -> Result<usize, DataError> + Sync);

/// What is said of many lengths.
///
/// # Units
/// Those of the lengths: tokens, words, characters or bytes.
///
/// # Determinism
/// The order of the lengths does not matter: the mean divides an exact sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Lengths {
    /// The arithmetic mean.
    pub mean: f64,
    /// The 50th percentile by nearest rank: of an even number of lengths the lower middle one.
    pub median: u64,
    /// The 95th percentile by nearest rank: the smallest length that at least 95 % do not exceed.
    pub p95: u64,
    /// The largest.
    pub max: u64,
}

/// Describes lengths; of none, everything is 0.
pub fn describe_lengths(lengths: impl IntoIterator<Item = u64>) -> Lengths {
    let mut sorted: Vec<u64> = lengths.into_iter().collect();
    sorted.sort_unstable();
    let Some(&max) = sorted.last() else { return Lengths::default() };
    let sum: u128 = sorted.iter().map(|&length| u128::from(length)).sum();
    // The rank of a percentile is the share of the count, rounded up, counted from 1.
    let percentile = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100) - 1];
    Lengths {
        mean: sum as f64 / sorted.len() as f64,
        median: percentile(50),
        p95: percentile(95),
        max,
    }
}

/// The words of a text: its stretches without white space, as Unicode has it. Scripts that put no
/// space between words have few of them.
pub fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

/// The characters of a text: its Unicode scalar values.
pub fn characters(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percentiles_are_lengths_that_occur() {
        let one = describe_lengths([7]);
        assert_eq!(one, Lengths { mean: 7.0, median: 7, p95: 7, max: 7 });
        let twenty = describe_lengths(1..=20);
        assert_eq!(twenty, Lengths { mean: 10.5, median: 10, p95: 19, max: 20 });
        let odd = describe_lengths([5, 1, 100]);
        assert_eq!((odd.median, odd.p95, odd.max), (5, 100, 100));
        assert_eq!(describe_lengths([]), Lengths::default());
    }

    #[test]
    fn words_and_characters_are_unicodes() {
        assert_eq!((words("Schnee fällt "), characters("Schnee fällt ")), (2, 13));
        assert_eq!((words("雪が降る"), characters("雪が降る")), (1, 4));
        assert_eq!((words(" \u{a0}\n"), words("")), (0, 0));
    }

    proptest! {
        #[test]
        fn percentiles_are_what_they_are_defined_as(lengths in prop::collection::vec(0_u64..50, 1..80)) {
            let described = describe_lengths(lengths.iter().copied());
            for (percent, value) in [(50, described.median), (95, described.p95)] {
                let up_to = |bound: u64| lengths.iter().filter(|&&it| it <= bound).count() * 100;
                prop_assert!(lengths.contains(&value));
                prop_assert!(up_to(value) >= percent * lengths.len());
                prop_assert!(value == 0 || up_to(value - 1) < percent * lengths.len());
            }
        }
    }
}

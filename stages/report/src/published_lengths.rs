//! What the Okapi paper (Lai et al., 2023) prints in its Table 2: mean lengths by BLOOM's tokenizer.
//!
//! # Sources
//! `data/lengths.json` has the rows and the average as printed. That average is not the mean of its rows.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::score_grid::mean;

/// A data set of the paper's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishedSet {
    /// Alpaca's instructions.
    Alpaca,
    /// Those that were made for Okapi.
    Generated,
}

/// The share of its instructions whose root verb and object the paper's Figure 1 shows.
pub const FIGURE_1_SHARE: f64 = 0.114;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    number: u8,
    rows: Vec<TableRow>,
    average: TableAverage,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TableRow {
    language: String,
    alpaca: [f64; 2],
    generated: [f64; 2],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TableAverage {
    alpaca: [f64; 2],
    generated: [f64; 2],
}

static TABLE: LazyLock<Table> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../data/lengths.json"))
        .expect("the file is part of the program, and a test reads it")
});

impl PublishedSet {
    /// The table's number in the paper.
    pub fn number(self) -> u8 {
        TABLE.number
    }

    /// The mean lengths of prompts and of responses in a language.
    pub fn lengths(self, language: &str) -> Option<[f64; 2]> {
        TABLE.rows.iter().find(|row| row.language == language).map(|row| self.of(row))
    }

    /// What the table's last line has.
    pub fn printed_average(self) -> [f64; 2] {
        match self {
            PublishedSet::Alpaca => TABLE.average.alpaca,
            PublishedSet::Generated => TABLE.average.generated,
        }
    }

    /// The means of the rows of those languages that are wanted.
    pub fn average(self, is_wanted: impl Fn(&str) -> bool) -> Option<[f64; 2]> {
        let rows = TABLE.rows.iter().filter(|row| is_wanted(&row.language));
        let rows: Vec<[f64; 2]> = rows.map(|row| self.of(row)).collect();
        let of = |column: usize| mean(&rows.iter().map(|row| row[column]).collect::<Vec<_>>());
        Some([of(0)?, of(1)?])
    }

    fn of(self, row: &TableRow) -> [f64; 2] {
        match self {
            PublishedSet::Alpaca => row.alpaca,
            PublishedSet::Generated => row.generated,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language;

    #[test]
    fn every_language_of_the_paper_has_a_row() {
        let codes: Vec<&str> = TABLE.rows.iter().map(|row| row.language.as_str()).collect();
        assert_eq!((codes.len(), codes[0]), (27, "en"));
        assert!(codes.iter().map(|code| language::order(code)).is_sorted_by(|a, b| a < b));
        assert!(codes.iter().all(|code| language::group(code) != language::ResourceGroup::Other));
    }

    #[test]
    fn the_printed_average_is_not_that_of_the_rows() {
        let rounded = |[prompt, response]: [f64; 2]| format!("{prompt:.1} {response:.1}");
        for (set, printed, without_english, with_english) in [
            (PublishedSet::Alpaca, "57.1 80.8", "57.9 83.3", "57.5 82.3"),
            (PublishedSet::Generated, "60.3 82.6", "61.2 85.1", "60.8 84.1"),
        ] {
            assert_eq!(rounded(set.printed_average()), printed);
            assert_eq!(rounded(set.average(|code| code != "en").unwrap()), without_english);
            assert_eq!(rounded(set.average(|_| true).unwrap()), with_english);
        }
        assert_eq!(PublishedSet::Generated.lengths("ru"), Some([76.8, 134.6]));
        assert_eq!(PublishedSet::Alpaca.average(|code| code == "bg"), None);
    }
}

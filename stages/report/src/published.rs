//! What the Okapi paper (Lai et al., 2023) prints in its Tables 3 to 8.
//!
//! # Sources
//! `data/published.json` has the rows, group averages and averages as printed, in percent. The test
//! computes every average anew.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::document::Task;
use crate::language::{self, ResourceGroup};

/// A model that the paper starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Base {
    /// BLOOM with 7 billion parameters: Tables 3 to 5.
    Bloom,
    /// LLaMA with 7 billion parameters: Tables 6 to 8.
    Llama,
}

impl Base {
    /// As the paper calls it.
    pub fn name(self) -> &'static str {
        match self {
            Base::Bloom => "BLOOM 7B",
            Base::Llama => "LLaMA 7B",
        }
    }

    /// How many parameters it has.
    pub fn parameters(self) -> u64 {
        match self {
            Base::Bloom => 7_069_016_064,
            Base::Llama => 6_738_415_616,
        }
    }
}

/// One of the paper's tables of scores.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedTable {
    /// Its number in the paper.
    pub number: u8,
    /// The benchmark.
    pub task: Task,
    /// What the models are made of.
    pub base: Base,
    /// The columns.
    pub methods: Vec<String>,
    /// One row per language, in the paper's order.
    pub rows: Vec<PublishedRow>,
    /// The rows "Ave Group".
    pub group_averages: Vec<PublishedGroup>,
    /// The row "Average", one value per method.
    pub average: Vec<f64>,
}

/// The scores of a language.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedRow {
    /// Its code.
    pub language: String,
    /// One value per method, in percent.
    pub values: Vec<f64>,
}

/// The mean scores of a group.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedGroup {
    /// Of which languages.
    pub group: ResourceGroup,
    /// One value per method, in percent.
    pub values: Vec<f64>,
}

/// Which row of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishedPlace<'a> {
    /// A language.
    Language(&'a str),
    /// "Ave Group" of a group.
    Group(ResourceGroup),
    /// "Average".
    Average,
}

/// A number of the paper.
#[derive(Debug, Clone, PartialEq)]
pub struct PublishedValue {
    /// In percent.
    pub percent: f64,
    /// The table and the row: `Okapi paper, Table 3, Russian`.
    pub source: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishedFile {
    tables: Vec<PublishedTable>,
}

static TABLES: LazyLock<Vec<PublishedTable>> = LazyLock::new(|| {
    let file: PublishedFile = serde_json::from_str(include_str!("../data/published.json"))
        .expect("the file is part of the program, and a test reads it");
    file.tables
});

/// All tables, by number.
pub fn tables() -> &'static [PublishedTable] {
    &TABLES
}

/// The table of a benchmark and a base model.
pub fn table(task: Task, base: Base) -> Option<&'static PublishedTable> {
    TABLES.iter().find(|table| (table.task, table.base) == (task, base))
}

impl PublishedTable {
    /// What the table has for a method in a row.
    pub fn value(&self, place: PublishedPlace<'_>, method: &str) -> Option<PublishedValue> {
        let column = self.methods.iter().position(|known| known == method)?;
        let (values, row) = match place {
            PublishedPlace::Language(code) => {
                let row = self.rows.iter().find(|row| row.language == code)?;
                (&row.values, language::name(code).to_owned())
            }
            PublishedPlace::Group(group) => {
                let row = self.group_averages.iter().find(|row| row.group == group)?;
                (&row.values, format!("Ave Group, {}", group.name()))
            }
            PublishedPlace::Average => (&self.average, "Average".to_owned()),
        };
        let percent = *values.get(column)?;
        Some(PublishedValue {
            percent,
            source: format!("Okapi paper, Table {}, {row}", self.number),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(rows: &[&PublishedRow], column: usize) -> f64 {
        rows.iter().map(|row| row.values[column]).sum::<f64>() / rows.len() as f64
    }

    #[test]
    fn every_printed_average_is_that_of_its_rows() {
        let mut compared = 0;
        let mut differing = Vec::new();
        for table in tables() {
            for (column, method) in table.methods.iter().enumerate() {
                let mut check = |place: String, rows: &[&PublishedRow], printed: f64| {
                    let computed = mean(rows, column);
                    compared += 1;
                    // A mean of rounded numbers that ends in 5 may go either way.
                    if (computed - printed).abs() > 0.05 + 1e-9 {
                        differing.push((table.number, place, method.clone(), printed, computed));
                    }
                };
                for average in &table.group_averages {
                    let is_of =
                        |row: &&PublishedRow| language::group(&row.language) == average.group;
                    let rows: Vec<_> = table.rows.iter().filter(is_of).collect();
                    check(average.group.name().to_owned(), &rows, average.values[column]);
                }
                check(
                    "all".to_owned(),
                    &table.rows.iter().collect::<Vec<_>>(),
                    table.average[column],
                );
            }
        }
        assert_eq!(compared, 3 * 4 * 4 + 3 * 3 * 3);
        assert_eq!(differing, []);
    }

    #[test]
    fn no_language_is_missing_and_none_is_twice() {
        let numbers: Vec<u8> = tables().iter().map(|table| table.number).collect();
        assert_eq!(numbers, [3, 4, 5, 6, 7, 8]);
        for table in tables() {
            let counts = ResourceGroup::ALL.map(|group| {
                table.rows.iter().filter(|row| language::group(&row.language) == group).count()
            });
            let (methods, expected): (&[&str], _) = match table.base {
                Base::Bloom => (&["base", "bloomz", "sft", "rlhf"], [8, 11, 7, 0]),
                Base::Llama => (&["base", "sft", "rlhf"], [6, 8, 0, 0]),
            };
            assert_eq!(counts, expected, "table {}", table.number);
            assert_eq!(table.methods, methods);
            assert!(table.rows.iter().all(|row| row.values.len() == methods.len()));
            let order: Vec<_> =
                table.rows.iter().map(|row| language::order(&row.language)).collect();
            assert!(order.is_sorted_by(|a, b| a < b), "table {}", table.number);
        }
    }

    #[test]
    fn a_value_is_found_with_its_source() {
        let at = |task, base, place, method| table(task, base)?.value(place, method);
        let rlhf = at(Task::Arc, Base::Bloom, PublishedPlace::Language("ru"), "rlhf").unwrap();
        assert_eq!((rlhf.percent, &*rlhf.source), (30.3, "Okapi paper, Table 3, Russian"));
        let average = at(Task::Mmlu, Base::Llama, PublishedPlace::Average, "sft").unwrap();
        assert_eq!((average.percent, &*average.source), (30.1, "Okapi paper, Table 8, Average"));
        let group = PublishedPlace::Group(ResourceGroup::Low);
        assert_eq!(at(Task::HellaSwag, Base::Bloom, group, "rlhf").unwrap().percent, 32.3);
        assert_eq!(at(Task::Arc, Base::Llama, group, "rlhf"), None);
        assert_eq!(at(Task::Arc, Base::Llama, PublishedPlace::Language("zh"), "sft"), None);
        assert_eq!(at(Task::Arc, Base::Bloom, PublishedPlace::Language("en"), "sft"), None);
    }
}

//! Number -> node and action digest.

use std::collections::{BTreeMap, BTreeSet};

use crate::document::{Report, Source};
use crate::language;
use crate::score_grid::method_title;

/// Every source of a report, numbered from 1 by node and digest, with what it gave.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Provenance {
    sources: BTreeMap<Source, Known>,
}

/// What is known of a source.
#[derive(Debug, Clone, PartialEq)]
struct Known {
    number: usize,
    gave: BTreeSet<String>,
}

impl Provenance {
    pub(crate) fn of(report: &Report) -> Provenance {
        let mut sources: BTreeMap<Source, BTreeSet<String>> = BTreeMap::new();
        let mut add = |source: &Source, what: String| {
            sources.entry(source.clone()).or_default().insert(what);
        };
        for it in &report.scores {
            let (language, method) = (language::name(&it.language), method_title(&it.method));
            add(&it.source, format!("{} {language} {method}, seed {}", it.task.title(), it.seed));
        }
        for it in &report.answers {
            let language = language::name(&it.language);
            add(&it.source, format!("answers in {language}, {}, seed {}", it.recipe, it.seed));
        }
        for it in &report.curves {
            let language = it.language.as_deref().map(language::name);
            let language = language.map_or_else(String::new, |it| format!(" {it}"));
            add(&it.source, format!("curve of {}{language}, seed {}", it.stage, it.seed));
        }
        for it in &report.statistics {
            add(&it.source, format!("statistics of {}, {}", it.name, language::name(&it.language)));
        }
        for it in &report.rejects {
            add(&it.source, "rejects".to_owned());
        }
        for it in &report.spend {
            add(&it.source, "spend".to_owned());
        }
        for it in &report.times {
            add(&it.source, "time".to_owned());
        }
        let numbered = (1..).zip(sources);
        let known = numbered.map(|(number, (source, gave))| (source, Known { number, gave }));
        Provenance { sources: known.collect() }
    }

    /// Sources with their numbers and what they gave.
    pub(crate) fn all(&self) -> impl Iterator<Item = (usize, &Source, String)> {
        self.sources.iter().map(|(source, Known { number, gave })| {
            let gave: Vec<&str> = gave.iter().map(String::as_str).collect();
            (*number, source, gave.join("; "))
        })
    }

    /// The numbers of sources, ascending, each once.
    pub(crate) fn numbers<'s>(&self, sources: impl IntoIterator<Item = &'s Source>) -> Vec<usize> {
        let known = sources.into_iter().filter_map(|source| self.sources.get(source));
        known.map(|known| known.number).collect::<BTreeSet<usize>>().into_iter().collect()
    }

    /// Where a page says what a number comes from: in the row of its source, or where it has several, in the row that
    /// has them all.
    pub(crate) fn anchor<'s>(
        &self,
        sources: impl IntoIterator<Item = &'s Source>,
    ) -> Option<String> {
        anchor(&self.numbers(sources))
    }
}

/// The name of the row with these sources. It follows from them, so that whoever links to it need not know the table,
/// and is short, as names in a PDF have to be: ends, count, and a check sum of all.
fn anchor(numbers: &[usize]) -> Option<String> {
    match numbers {
        [] => None,
        [number] => Some(format!("source-{number}")),
        [first, .., last] => {
            // FNV-1a, over the numbers.
            let sum = numbers.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, number| {
                (sum ^ *number as u64).wrapping_mul(0x0100_0000_01b3)
            });
            Some(format!("sources-{first}-{last}-{}-{sum:016x}", numbers.len()))
        }
    }
}

/// Sources that are named where a number is pointed at: more are in the table.
const NAMED: usize = 4;

/// What is said of where a number comes from.
pub(crate) fn describe(sources: &[Source]) -> String {
    let one = |source: &Source| format!("{} @ {}", source.node, short(&source.action));
    let named = sources.iter().take(NAMED).map(one).collect::<Vec<_>>().join("; ");
    match sources.len().checked_sub(NAMED) {
        Some(more @ 1..) => format!("{named}; and {more} more"),
        _ => named,
    }
}

/// As much of a digest as tells it apart.
pub(crate) fn short(digest: &str) -> &str {
    digest.char_indices().nth(12).map_or(digest, |(end, _)| &digest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_named_by_their_sources_and_short() {
        assert_eq!(anchor(&[]), None);
        assert_eq!(anchor(&[7]).as_deref(), Some("source-7"));
        let many: Vec<usize> = (1..1000).collect();
        let name = anchor(&many).unwrap();
        assert!(name.len() < 60 && name.starts_with("sources-1-999-999-"), "{name}");
        // Ends and count alone do not tell these apart.
        assert_ne!(anchor(&[1, 4, 6, 9]), anchor(&[1, 5, 6, 9]));
        assert_ne!(anchor(&[1, 4, 7, 9]), anchor(&[1, 5, 6, 9]));
    }
}

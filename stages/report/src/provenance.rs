//! Number -> node and action digest.

use std::collections::{BTreeMap, BTreeSet};

use crate::document::{Report, Source};
use crate::language;
use crate::score_grid::method_title;

/// Every source of a report, numbered from 1 by node and digest, with what it gave.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Provenance {
    sources: BTreeMap<Source, BTreeSet<String>>,
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
        Provenance { sources }
    }

    /// Sources with their numbers and what they gave.
    pub(crate) fn all(&self) -> impl Iterator<Item = (usize, &Source, String)> {
        let joined = |what: &BTreeSet<String>| {
            let what: Vec<&str> = what.iter().map(String::as_str).collect();
            what.join("; ")
        };
        (1..).zip(&self.sources).map(move |(number, (source, what))| (number, source, joined(what)))
    }

    /// The number of a source.
    pub(crate) fn number(&self, source: &Source) -> Option<usize> {
        self.sources.keys().position(|known| known == source).map(|place| place + 1)
    }
}

/// What is said of where a number comes from.
pub(crate) fn describe(sources: &[Source]) -> String {
    let one = |source: &Source| format!("{} @ {}", source.node, short(&source.action));
    sources.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// As much of a digest as tells it apart.
pub(crate) fn short(digest: &str) -> &str {
    digest.char_indices().nth(12).map_or(digest, |(end, _)| &digest[..end])
}

//! Scores -> means by language and method, and over languages.

use std::collections::{BTreeMap, BTreeSet};

use crate::document::{Report, Score, Share, Source, Task};
use crate::language::{self, ResourceGroup};
use crate::published::{self, PublishedTable};

/// What scores must share to stand in one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Setting<'r> {
    pub(crate) model: &'r str,
    pub(crate) task: Task,
    pub(crate) protocol: &'r str,
    pub(crate) shots: u32,
}

impl Setting<'_> {
    /// Which of the two scores the field reports. The authors report `acc_norm` of every task; the harness has none
    /// of MMLU, whose choices are letters.
    pub(crate) fn metric(&self) -> Metric {
        match (self.protocol, self.task) {
            ("authors", _) | (_, Task::Arc | Task::HellaSwag) => Metric::AccNorm,
            (_, Task::Mmlu) => Metric::Acc,
        }
    }
}

/// One of the two scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Metric {
    Acc,
    AccNorm,
}

impl Metric {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Metric::Acc => "acc",
            Metric::AccNorm => "acc_norm",
        }
    }

    pub(crate) fn of(self, score: &Score) -> Share {
        match self {
            Metric::Acc => score.acc,
            Metric::AccNorm => score.acc_norm,
        }
    }
}

/// Scores in percent, averaged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Mean {
    pub(crate) percent: f64,
    /// Over seeds if there are several; of one evaluation alone, over its questions.
    pub(crate) standard_error: Option<f64>,
    pub(crate) seeds: usize,
    pub(crate) languages: usize,
}

impl Mean {
    pub(crate) fn title(&self) -> String {
        let plural =
            |count, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
        let mut title = format!("mean of {}", plural(self.languages, "language"));
        if self.seeds > 1 {
            title = format!("{title}, {}", plural(self.seeds, "seed"));
        }
        title
    }
}

/// Scores of one setting, by language and method.
#[derive(Debug, Clone)]
pub(crate) struct ScoreGrid<'r> {
    pub(crate) setting: Setting<'r>,
    /// From 1, in the order of the report.
    pub(crate) number: usize,
    /// The benchmark, and how it was asked if the report has it in several ways.
    pub(crate) benchmark: String,
    /// In the order of columns.
    pub(crate) methods: Vec<&'r str>,
    /// In the order of rows.
    pub(crate) languages: Vec<&'r str>,
    /// By language and method, one score per seed.
    cells: BTreeMap<(&'r str, &'r str), Vec<&'r Score>>,
    /// What is shown beside.
    pub(crate) published: Option<&'static PublishedTable>,
}

/// As a heading.
pub(crate) fn method_title(method: &str) -> &str {
    match method {
        "base" => "Base",
        "bloomz" => "BLOOMZ",
        "sft" => "SFT",
        "rlhf" => "RLHF",
        other => other,
    }
}

/// Where a method stands: as in the paper, then by name.
pub(crate) fn method_order(method: &str) -> (usize, &str) {
    let known = ["base", "bloomz", "sft", "rlhf"];
    (known.iter().position(|it| *it == method).unwrap_or(known.len()), method)
}

/// One grid per setting, sorted by model and task.
pub(crate) fn grids(report: &Report) -> Vec<ScoreGrid<'_>> {
    let mut by_setting: BTreeMap<Setting<'_>, Vec<&Score>> = BTreeMap::new();
    for score in &report.scores {
        let Score { model, task, protocol, shots, .. } = score;
        let setting = Setting { model, task: *task, protocol, shots: *shots };
        by_setting.entry(setting).or_default().push(score);
    }
    let settings: Vec<Setting<'_>> = by_setting.keys().copied().collect();
    let numbered = (1..).zip(by_setting);
    numbered
        .map(|(number, (setting, scores))| {
            let is_like = |it: &&Setting<'_>| (it.model, it.task) == (setting.model, setting.task);
            let mut benchmark = setting.task.title().to_owned();
            if settings.iter().filter(is_like).count() > 1 {
                benchmark = format!("{benchmark} ({}, {} shots)", setting.protocol, setting.shots);
            }
            ScoreGrid::new(report, setting, scores, number, benchmark)
        })
        .collect()
}

impl<'r> ScoreGrid<'r> {
    /// The benchmark and the model.
    pub(crate) fn title(&self) -> String {
        format!("{}, {}", self.benchmark, self.setting.model)
    }

    fn new(
        report: &Report,
        setting: Setting<'r>,
        mut scores: Vec<&'r Score>,
        number: usize,
        benchmark: String,
    ) -> ScoreGrid<'r> {
        // Sums run in one order, however the scores came.
        scores.sort_by_key(|score| (score.seed, &score.source));
        let base = report.compare_with.get(setting.model);
        let published = base.and_then(|base| published::table(setting.task, *base));
        let mut methods: BTreeSet<&str> = scores.iter().map(|score| &*score.method).collect();
        methods.extend(published.iter().flat_map(|table| &table.methods).map(String::as_str));
        let mut methods: Vec<_> = methods.into_iter().collect();
        methods.sort_by_key(|method| method_order(method));
        let languages: BTreeSet<&str> = scores.iter().map(|score| &*score.language).collect();
        let mut languages: Vec<_> = languages.into_iter().collect();
        languages.sort_by_key(|language| language::order(language));
        let mut cells: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for score in scores {
            // A model that no seed had a part in is the same evaluation for each of them, and counts once.
            let cell: &mut Vec<&Score> =
                cells.entry((&*score.language, &*score.method)).or_default();
            if cell.iter().all(|other| other.source.action != score.source.action) {
                cell.push(score);
            }
        }
        ScoreGrid { setting, number, benchmark, methods, languages, cells, published }
    }

    /// The scores of a language and a method, by seed.
    pub(crate) fn scores(&self, language: &'r str, method: &'r str) -> &[&'r Score] {
        self.cells.get(&(language, method)).map_or(&[], Vec::as_slice)
    }

    /// Whether there is a score of ours.
    pub(crate) fn has(&self, method: &str) -> bool {
        self.cells.keys().any(|key| key.1 == method)
    }

    /// How many parameters its models have, where that is known.
    pub(crate) fn parameters(&self) -> BTreeSet<u64> {
        self.cells.values().flatten().filter_map(|score| score.parameters).collect()
    }

    /// Where the scores of a language and a method come from.
    pub(crate) fn sources(&self, language: &'r str, method: &'r str) -> Vec<Source> {
        self.scores(language, method).iter().map(|score| score.source.clone()).collect()
    }

    /// Where the scores of a method in several languages come from.
    pub(crate) fn all_sources(&self, languages: &[&'r str], method: &'r str) -> Vec<Source> {
        languages.iter().flat_map(|language| self.sources(language, method)).collect()
    }

    fn percents(&self, language: &'r str, method: &'r str) -> Vec<f64> {
        let metric = self.setting.metric();
        let scores = self.scores(language, method).iter();
        scores.map(|score| metric.of(score).value * 100.0).collect()
    }

    /// The mean over seeds.
    pub(crate) fn mean(&self, language: &'r str, method: &'r str) -> Option<Mean> {
        let percents = self.percents(language, method);
        let standard_error = match self.scores(language, method) {
            [score] => self.setting.metric().of(score).standard_error.map(|error| error * 100.0),
            _ => standard_error(&percents),
        };
        let percent = mean(&percents)?;
        Some(Mean { percent, standard_error, seeds: percents.len(), languages: 1 })
    }

    /// The languages of a group.
    pub(crate) fn of_group(&self, group: ResourceGroup) -> Vec<&'r str> {
        let is_of = |code: &&str| language::group(code) == group;
        self.languages.iter().copied().filter(is_of).collect()
    }

    /// The mean over those languages that have a score, each counted once.
    pub(crate) fn average(&self, languages: &[&'r str], method: &'r str) -> Option<Mean> {
        self.average_of(languages, |language| {
            let scores = self.scores(language, method);
            let seeds = scores.iter().map(|score| score.seed).collect();
            (!scores.is_empty()).then(|| (seeds, self.percents(language, method)))
        })
    }

    /// What a method gains over another, over those languages that have both.
    pub(crate) fn gain(&self, languages: &[&'r str], from: &'r str, to: &'r str) -> Option<Mean> {
        self.average_of(languages, |language| {
            let seeds = |method| -> Vec<u64> {
                self.scores(language, method).iter().map(|score| score.seed).collect()
            };
            let (before, after) = (self.percents(language, from), self.percents(language, to));
            if seeds(from) == seeds(to) {
                let gains: Vec<_> = before.iter().zip(&after).map(|(b, a)| a - b).collect();
                return (!gains.is_empty()).then(|| (seeds(from), gains));
            }
            // Seeds that do not pair have no error of their difference here.
            Some((Vec::new(), vec![mean(&after)? - mean(&before)?]))
        })
    }

    /// The mean over languages of means over seeds. It has an error if every language has the same seeds: that of
    /// the averages by seed.
    fn average_of(
        &self,
        languages: &[&'r str],
        values: impl Fn(&'r str) -> Option<(Vec<u64>, Vec<f64>)>,
    ) -> Option<Mean> {
        let found: Vec<_> = languages.iter().filter_map(|language| values(language)).collect();
        let means: Vec<f64> = found.iter().filter_map(|(_, values)| mean(values)).collect();
        let percent = mean(&means)?;
        let (seeds, _) = found.first()?;
        let is_paired = found.iter().all(|it| it.0 == *seeds) && seeds.is_sorted_by(|a, b| a < b);
        let by_seed: Vec<f64> = match is_paired {
            true => (0..seeds.len())
                .filter_map(|seed| mean(&found.iter().map(|it| it.1[seed]).collect::<Vec<_>>()))
                .collect(),
            false => Vec::new(),
        };
        let standard_error = standard_error(&by_seed);
        Some(Mean { percent, standard_error, seeds: by_seed.len(), languages: means.len() })
    }
}

pub(crate) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The sample deviation by the root of the number; one value has none.
pub(crate) fn standard_error(values: &[f64]) -> Option<f64> {
    let (mean, n) = (mean(values)?, values.len() as f64);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() > 1).then(|| (squares / (n - 1.0) / n).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::published::Base;

    fn score(language: &str, method: &str, seed: u64, acc_norm: f64) -> Score {
        let share = |value| Share { value, standard_error: Some(0.01) };
        Score {
            task: Task::Arc,
            language: language.to_owned(),
            method: method.to_owned(),
            model: "tiny".to_owned(),
            parameters: None,
            seed,
            protocol: "authors".to_owned(),
            shots: 25,
            n: 100,
            acc: share(0.0),
            acc_norm: share(acc_norm),
            source: Source {
                node: format!("{language}-{method}-{seed}"),
                action: format!("action of {language}-{method}-{seed}"),
            },
        }
    }

    fn report(scores: Vec<Score>) -> Report {
        Report { scores, ..Report::default() }
    }

    fn close(found: Option<Mean>, percent: f64, error: Option<f64>) {
        let found = found.unwrap();
        assert!((found.percent - percent).abs() < 1e-9, "{found:?}");
        let difference = found.standard_error.unwrap_or(-1.0) - error.unwrap_or(-1.0);
        assert!(difference.abs() < 1e-9, "{found:?}");
    }

    #[test]
    fn one_seed_has_the_error_of_its_questions_and_several_that_of_the_seeds() {
        let report = report(vec![
            score("de", "base", 1, 0.30),
            score("de", "sft", 3, 0.36),
            score("de", "sft", 1, 0.32),
            score("de", "sft", 2, 0.34),
        ]);
        let grid = &grids(&report)[0];
        close(grid.mean("de", "base"), 30.0, Some(1.0));
        // 32, 34, 36: a deviation of 2 by the root of 3.
        close(grid.mean("de", "sft"), 34.0, Some(2.0 / 3f64.sqrt()));
        assert_eq!(grid.mean("de", "rlhf"), None);
    }

    #[test]
    fn an_evaluation_that_no_seed_had_a_part_in_counts_once() {
        let mut scores: Vec<Score> = (1..=3).map(|seed| score("de", "base", seed, 0.30)).collect();
        for score in &mut scores {
            score.source.action = "the same".to_owned();
        }
        let report = report(scores);
        let grid = &grids(&report)[0];
        close(grid.mean("de", "base"), 30.0, Some(1.0));
        assert_eq!(grid.sources("de", "base").len(), 1);
        close(grid.average(&["de"], "base"), 30.0, None);
    }

    #[test]
    fn an_average_counts_each_language_once_and_has_the_error_of_its_seeds() {
        let report = report(vec![
            score("de", "sft", 1, 0.30),
            score("de", "sft", 2, 0.34),
            score("te", "sft", 1, 0.20),
            score("te", "sft", 2, 0.20),
            score("de", "base", 1, 0.20),
        ]);
        let grid = &grids(&report)[0];
        // By seed 25 and 27.
        close(grid.average(&grid.languages, "sft"), 26.0, Some(1.0));
        let base = grid.average(&grid.languages, "base");
        close(base, 20.0, None);
        assert_eq!(base.unwrap().languages, 1);
    }

    #[test]
    fn an_average_over_unlike_seeds_has_no_error() {
        let report = report(vec![
            score("de", "sft", 1, 0.30),
            score("de", "sft", 2, 0.34),
            score("te", "sft", 1, 0.20),
        ]);
        let grid = &grids(&report)[0];
        close(grid.average(&grid.languages, "sft"), 26.0, None);
    }

    #[test]
    fn a_gain_is_paired_by_language_and_seed() {
        let report = report(vec![
            score("de", "sft", 1, 0.30),
            score("de", "sft", 2, 0.40),
            score("de", "rlhf", 1, 0.31),
            score("de", "rlhf", 2, 0.43),
            // No partner.
            score("te", "rlhf", 1, 0.90),
        ]);
        let grid = &grids(&report)[0];
        close(grid.gain(&grid.languages, "sft", "rlhf"), 2.0, Some(1.0));
    }

    #[test]
    fn mmlu_of_the_harness_is_scored_by_acc() {
        let setting = |task, protocol| Setting { model: "", task, protocol, shots: 0 }.metric();
        assert_eq!(setting(Task::Mmlu, "harness"), Metric::Acc);
        assert_eq!(setting(Task::Mmlu, "authors"), Metric::AccNorm);
        assert_eq!(setting(Task::Arc, "harness"), Metric::AccNorm);
    }

    #[test]
    fn languages_and_methods_stand_in_the_paper_s_order() {
        let mut report = report(vec![
            score("te", "rlhf", 1, 0.3),
            score("en", "other", 1, 0.3),
            score("de", "sft", 1, 0.3),
        ]);
        report.compare_with.insert("tiny".to_owned(), Base::Bloom);
        let grid = &grids(&report)[0];
        assert_eq!(grid.languages, ["en", "de", "te"]);
        assert_eq!(grid.methods, ["base", "bloomz", "sft", "rlhf", "other"]);
    }
}

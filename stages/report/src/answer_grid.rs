//! Scores of open-ended answers -> means by size and recipe, as a table and as lines to draw.

use std::collections::{BTreeMap, BTreeSet};

use crate::document::{AnswerScore, Report, Source};
use crate::language;
use crate::number;
use crate::score_grid::{mean, standard_error};
use crate::table::{Cell, Column, ColumnKind, Row, Table, TableSection};

/// Models of one family, tuned in one way.
#[derive(Debug, Clone)]
pub(crate) struct AnswerGrid<'r> {
    pub(crate) base: &'r str,
    pub(crate) tuning: &'r str,
    /// In the order of columns.
    pub(crate) languages: Vec<&'r str>,
    /// In the order of rows.
    pub(crate) recipes: Vec<&'r str>,
    /// Parameters, ascending.
    pub(crate) sizes: Vec<u64>,
    /// By language, recipe and size, one per seed.
    cells: BTreeMap<(&'r str, &'r str, u64), Vec<&'r AnswerScore>>,
}

/// A point of a line: the mean over seeds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AnswerMean {
    pub(crate) value: f64,
    pub(crate) standard_error: Option<f64>,
    pub(crate) sources: Vec<Source>,
}

/// The recipes in the order of the paper's legends; others follow by name.
const RECIPES: [(&str, &str); 4] = [
    ("multilingual", "Multilingual"),
    ("monolingual", "Monolingual"),
    ("english_only", "English only"),
    ("downsampled", "Downsampled"),
];

/// Where a recipe stands.
pub(crate) fn recipe_order(recipe: &str) -> (usize, &str) {
    let place = RECIPES.iter().position(|known| known.0 == recipe);
    (place.unwrap_or(RECIPES.len()), recipe)
}

/// As a heading.
pub(crate) fn recipe_title(recipe: &str) -> &str {
    RECIPES.iter().find(|known| known.0 == recipe).map_or(recipe, |known| known.1)
}

/// As in the middle of a sentence.
pub(crate) fn tuning_title(tuning: &str) -> &str {
    match tuning {
        "lora" => "LoRA",
        "full" => "full-parameter",
        other => other,
    }
}

/// One grid per family and way of tuning.
pub(crate) fn answer_grids(report: &Report) -> Vec<AnswerGrid<'_>> {
    let mut by_model: BTreeMap<(&str, &str), Vec<&AnswerScore>> = BTreeMap::new();
    for score in &report.answers {
        by_model.entry((&score.base, &score.tuning)).or_default().push(score);
    }
    by_model
        .into_iter()
        .map(|((base, tuning), scores)| AnswerGrid::new(base, tuning, scores))
        .collect()
}

impl<'r> AnswerGrid<'r> {
    fn new(base: &'r str, tuning: &'r str, mut scores: Vec<&'r AnswerScore>) -> AnswerGrid<'r> {
        // Sums run in one order, however the scores came.
        scores.sort_by_key(|score| (score.seed, &score.source));
        let languages: BTreeSet<_> =
            scores.iter().map(|score| language::order(&score.language)).collect();
        let recipes: BTreeSet<_> = scores.iter().map(|score| recipe_order(&score.recipe)).collect();
        let sizes: BTreeSet<u64> = scores.iter().map(|score| score.parameters).collect();
        let mut cells: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for score in scores {
            let key = (&*score.language, &*score.recipe, score.parameters);
            cells.entry(key).or_default().push(score);
        }
        AnswerGrid {
            base,
            tuning,
            languages: languages.into_iter().map(|it| it.1).collect(),
            recipes: recipes.into_iter().map(|it| it.1).collect(),
            sizes: sizes.into_iter().collect(),
            cells,
        }
    }

    /// The family, and how it was tuned.
    pub(crate) fn title(&self) -> String {
        format!("{}, {}", self.base, tuning_title(self.tuning))
    }

    /// The mean score over seeds.
    pub(crate) fn score(
        &self,
        language: &'r str,
        recipe: &'r str,
        size: u64,
    ) -> Option<AnswerMean> {
        let scores = self.cells.get(&(language, recipe, size))?;
        let values: Vec<f64> = scores.iter().map(|score| score.score).collect();
        Some(AnswerMean {
            value: mean(&values)?,
            standard_error: standard_error(&values),
            sources: scores.iter().map(|score| score.source.clone()).collect(),
        })
    }

    /// The languages that every recipe was asked in: means over these can be compared. Where one recipe tunes a model for
    /// each language, they are those that were seen.
    pub(crate) fn shared(&self) -> Vec<&'r str> {
        let is_asked = |language: &str, recipe: &str| {
            self.sizes.iter().any(|&size| self.cells.contains_key(&(language, recipe, size)))
        };
        let by_all =
            |language: &&&str| self.recipes.iter().all(|recipe| is_asked(language, recipe));
        self.languages.iter().filter(by_all).copied().collect()
    }

    /// The languages that some recipes only were asked in.
    pub(crate) fn others(&self) -> Vec<&'r str> {
        let shared = self.shared();
        self.languages.iter().filter(|it| !shared.contains(it)).copied().collect()
    }

    /// The mean score over languages: `None` unless there is one in each.
    pub(crate) fn mean(
        &self,
        languages: &[&'r str],
        recipe: &'r str,
        size: u64,
    ) -> Option<AnswerMean> {
        let by_language = languages.iter().map(|language| self.score(language, recipe, size));
        let by_language: Vec<AnswerMean> = by_language.collect::<Option<_>>()?;
        let values: Vec<f64> = by_language.iter().map(|it| it.value).collect();
        let value = mean(&values)?;
        let sources = by_language.into_iter().flat_map(|it| it.sources).collect();
        Some(AnswerMean { value, standard_error: None, sources })
    }

    /// What answers in another language cost, as a mean over the languages that every recipe was asked in.
    pub(crate) fn lost(&self, recipe: &'r str, size: u64) -> Option<AnswerMean> {
        let mut sources = Vec::new();
        let by_language = self.shared().into_iter().filter_map(|language| {
            let scores = self.cells.get(&(language, recipe, size))?;
            let lost = scores.iter().filter_map(|score| {
                sources.push(score.source.clone());
                Some(score.judged? - score.score)
            });
            mean(&lost.collect::<Vec<_>>())
        });
        let value = mean(&by_language.collect::<Vec<_>>())?;
        Some(AnswerMean { value, standard_error: None, sources })
    }

    /// Sizes in sections, recipes in rows, languages in columns.
    pub(crate) fn table(&self, number: usize) -> Table {
        let title = format!("Open-ended answers, {}", self.title());
        let columns = [("Recipe", ColumnKind::Text)];
        let mut table = Table::new(&format!("answers-{number}"), &title, &columns);
        table.columns.extend(self.languages.iter().map(|code| Column {
            title: language::name(code).to_owned(),
            kind: ColumnKind::Number,
        }));
        for &size in &self.sizes {
            let best: Vec<Option<String>> = self
                .languages
                .iter()
                .map(|language| {
                    let values =
                        self.recipes.iter().filter_map(|it| self.score(language, it, size));
                    let values: Vec<f64> = values.map(|it| it.value).collect();
                    let text = |value: f64| number::decimal(value, 1);
                    let best = text(values.iter().copied().max_by(f64::total_cmp)?);
                    // Where all look the same, none is better than another.
                    values.into_iter().any(|value| text(value) != best).then_some(best)
                })
                .collect();
            let row = |recipe: &&'r str| {
                let cell = |(language, best): (&&'r str, &Option<String>)| {
                    let Some(mean) = self.score(language, recipe, size) else {
                        return Cell::default();
                    };
                    let text = number::decimal(mean.value, 1);
                    Cell {
                        best: best.as_ref() == Some(&text),
                        standard_error: mean.standard_error,
                        sources: mean.sources,
                        ..Cell::number(text, mean.value)
                    }
                };
                let cells = self.languages.iter().zip(&best).map(cell);
                let first = Cell::text(recipe_title(recipe));
                Row::new(std::iter::once(first).chain(cells).collect::<Vec<_>>())
            };
            let has_any = |recipe: &&&str| {
                self.languages.iter().any(|it| self.score(it, recipe, size).is_some())
            };
            let rows = self.recipes.iter().filter(has_any).map(row).collect();
            let title = Some(format!("{} parameters", number::parameters(size)));
            table.sections.push(TableSection { title, rows, summary: Vec::new() });
        }
        let prompts: BTreeSet<u64> = self.cells.values().flatten().map(|score| score.n).collect();
        let prompts: Vec<String> = prompts.into_iter().map(number::count).collect();
        table.note(&format!(
            "Grades from 1 to 3 of the answers in the language asked for, summed over {} prompts; ± standard error \
             over seeds. The best recipe of a size in a language is bold.",
            prompts.join(" or ")
        ))
    }
}

/// Means over languages by family, way of tuning, size and recipe; `None` if there is no answer.
pub(crate) fn means_table(grids: &[AnswerGrid<'_>]) -> Option<Table> {
    let columns = [
        ("Family", ColumnKind::Text),
        ("Tuning", ColumnKind::Text),
        ("Parameters", ColumnKind::Text),
        ("Recipe", ColumnKind::Text),
        ("Languages of every recipe", ColumnKind::Number),
        ("Other languages", ColumnKind::Number),
        ("Lost to the wrong language", ColumnKind::Number),
    ];
    let cell = |mean: Option<AnswerMean>| {
        mean.map_or_else(Cell::default, |mean| Cell {
            sources: mean.sources,
            ..Cell::number(number::decimal(mean.value, 1), mean.value)
        })
    };
    let mut rows = Vec::new();
    for grid in grids {
        let (shared, others) = (grid.shared(), grid.others());
        for &size in &grid.sizes {
            for &recipe in &grid.recipes {
                let means = [
                    grid.mean(&shared, recipe, size),
                    grid.mean(&others, recipe, size),
                    grid.lost(recipe, size),
                ];
                if means.iter().all(Option::is_none) {
                    continue;
                }
                let mut cells = vec![
                    Cell::text(grid.base),
                    Cell::text(tuning_title(grid.tuning)),
                    Cell { value: Some(size as f64), ..Cell::text(&number::parameters(size)) },
                    Cell::text(recipe_title(recipe)),
                ];
                cells.extend(means.map(cell));
                rows.push(Row::new(cells));
            }
        }
    }
    let mut shared: Vec<&str> = grids.iter().flat_map(AnswerGrid::shared).collect();
    let mut others: Vec<&str> = grids.iter().flat_map(AnswerGrid::others).collect();
    for codes in [&mut shared, &mut others] {
        codes.sort_by_key(|code| language::order(code));
        codes.dedup();
    }
    let mut table =
        Table::new("answer-means", "Open-ended answers, means over languages", &columns);
    if !shared.is_empty() {
        table = table.note(&format!(
            "Asked by every recipe: {}. Lost to the wrong language, in these: grades of answers in another language \
             than asked for.",
            joined(&shared)
        ));
    }
    if !others.is_empty() {
        table = table.note(&format!("Other languages: {}.", joined(&others)));
    }
    (!rows.is_empty()).then(|| table.section(rows, Vec::new()))
}

/// Languages by name.
pub(crate) fn joined(codes: &[&str]) -> String {
    codes.iter().map(|code| language::name(code)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(recipe: &str, language: &str, seed: u64, score: f64, judged: f64) -> AnswerScore {
        AnswerScore {
            base: "BLOOM".to_owned(),
            parameters: 560_000_000,
            tuning: "lora".to_owned(),
            recipe: recipe.to_owned(),
            language: language.to_owned(),
            seed,
            n: 50,
            score,
            judged: Some(judged),
            source: Source { node: format!("{recipe}-{language}-{seed}"), action: "a".to_owned() },
        }
    }

    #[test]
    fn answers_are_averaged_over_seeds_and_compared_by_language() {
        let answers = vec![
            score("monolingual", "de", 1, 80.0, 90.0),
            score("monolingual", "de", 2, 84.0, 90.0),
            score("monolingual", "ru", 1, 60.0, 60.0),
            score("multilingual", "de", 1, 100.0, 101.0),
        ];
        let report = Report { answers, ..Report::default() };
        let grid = &answer_grids(&report)[0];
        let table = grid.table(1);
        let rows = &table.sections[0].rows;
        let texts: Vec<Vec<_>> = rows
            .iter()
            .map(|row| row.cells.iter().map(|it| (&*it.text, it.best)).collect())
            .collect();
        let expected = [
            [("Multilingual", false), ("", false), ("100.0", true)],
            [("Monolingual", false), ("60.0", false), ("82.0", false)],
        ];
        assert_eq!(texts, expected);
        assert_eq!(rows[1].cells[2].standard_error, Some(2.0));
        assert_eq!(table.sections[0].title.as_deref(), Some("560M parameters"));
        // Scores that are the same have no best among them.
        let tied = ["monolingual", "multilingual"].map(|recipe| score(recipe, "de", 1, 0.0, 90.0));
        let tied = Report { answers: tied.into(), ..Report::default() };
        let table = answer_grids(&tied)[0].table(1);
        assert!(table.sections[0].rows.iter().all(|row| !row.cells[1].best));
        // German loses 10 and 6. Russian, which one recipe was not asked in, does not count.
        assert_eq!(grid.lost("monolingual", 560_000_000).unwrap().value, 8.0);
        assert_eq!((grid.shared(), grid.others()), (vec!["de"], vec!["ru"]));
    }

    #[test]
    fn means_are_over_languages_that_can_be_compared() {
        let mut answers = Vec::new();
        for (recipe, languages) in
            [("monolingual", &["de", "en"][..]), ("english_only", &["de", "en", "bn", "no"])]
        {
            for (place, language) in languages.iter().enumerate() {
                answers.push(score(recipe, language, 1, 60.0 + 20.0 * place as f64, 90.0));
            }
        }
        let report = Report { answers, ..Report::default() };
        let table = means_table(&answer_grids(&report)).unwrap();
        let texts: Vec<Vec<&str>> = table.sections[0]
            .rows
            .iter()
            .map(|row| row.cells[3..].iter().map(|it| &*it.text).collect())
            .collect();
        let expected =
            [["Monolingual", "70.0", "", "20.0"], ["English only", "70.0", "110.0", "20.0"]];
        assert_eq!(texts, expected);
        assert_eq!(table.sections[0].rows[0].cells[4].sources.len(), 2);
        assert_eq!(table.notes.len(), 2, "{:?}", table.notes);
        assert_eq!(means_table(&[]), None);
    }
}

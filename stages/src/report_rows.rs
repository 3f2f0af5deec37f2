//! What other nodes made -> the parts of a report, each number with where it comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use okapi_engine::lineage::Lineage;
use okapi_engine::stage_context::{InputPath, StageContext, StageError};
use okapi_report::{
    AnswerScore, Curve, CurvePoint, NodeTime, Rejects, Report, Score, Share, Spend, Task,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::asking::{COMPLETION_TOKENS, PROMPT_TOKENS, REQUESTS, read_rows};
use crate::identify_language::LanguageScore;
use crate::labels::{Labels, Unique};

/// Points of a curve's measure that are kept: more cannot be told apart.
const POINTS: usize = 200;

/// An artifact, and who made it.
pub(crate) struct Item {
    pub(crate) instance: String,
    pub(crate) path: PathBuf,
}

/// The artifacts on a port; none if nothing feeds it.
pub(crate) fn items(context: &StageContext<'_>, lineage: &Lineage, port: &str) -> Vec<Item> {
    let Some(InputPath::Gathered { items, .. }) = context.inputs.get(port) else {
        return Vec::new();
    };
    let origins = lineage.inputs.get(port);
    let found = items.iter().filter_map(|(key, path)| {
        let origin = origins?.get(key)?;
        Some(Item { instance: origin.instance.clone(), path: path.clone() })
    });
    found.collect()
}

/// What is read of `evaluate`'s summary.
#[derive(Deserialize)]
pub(crate) struct Summary {
    pub(crate) task: Task,
    pub(crate) language: Option<String>,
    pub(crate) protocol: String,
    pub(crate) shots: u32,
    pub(crate) n: u64,
    pub(crate) scores: Shares,
}

#[derive(Deserialize)]
pub(crate) struct Shares {
    pub(crate) acc: OneShare,
    pub(crate) acc_norm: OneShare,
}

#[derive(Deserialize)]
pub(crate) struct OneShare {
    pub(crate) value: f64,
    pub(crate) standard_error: Option<f64>,
}

/// A summary of `evaluate`.
pub(crate) fn summary(Item { instance, path }: &Item) -> Result<Summary, StageError> {
    read_json(path).map_err(|detail| StageError::Failed {
        message: format!("what `{instance}` gave for `scores` is no summary: {detail}"),
        hint: Some("feed the port with `evaluate`'s output `summary`: `NODE:summary`".into()),
        transient: false,
    })
}

impl From<OneShare> for Share {
    fn from(share: OneShare) -> Share {
        Share { value: share.value, standard_error: share.standard_error }
    }
}

/// Summaries of `evaluate`.
pub(crate) fn scores(items: &[Item], labels: &Labels<'_>) -> Result<Vec<Score>, StageError> {
    let mut unique = Unique::default();
    let mut scores = Vec::new();
    for item in items {
        let (summary, instance) = (summary(item)?, &item.instance);
        let score = Score {
            task: summary.task,
            language: labels.language(instance, summary.language.as_deref())?,
            method: labels.method(instance)?,
            model: labels.model(instance)?,
            parameters: labels.parameters(instance).ok(),
            seed: labels.seed(instance)?,
            protocol: summary.protocol,
            shots: summary.shots,
            n: summary.n,
            acc: summary.scores.acc.into(),
            acc_norm: summary.scores.acc_norm.into(),
            source: labels.source(instance)?,
        };
        let said = vec![
            score.task.title().to_owned(),
            format!("language {}", score.language),
            format!("method {}", score.method),
            format!("model {}", score.model),
            format!("seed {}", score.seed),
            format!("protocol {}", score.protocol),
            format!("shots {}", score.shots),
        ];
        unique.add("the score of one evaluation", said, instance)?;
        scores.push(score);
    }
    Ok(scores)
}

/// What is read of `judge`'s scores.
#[derive(Deserialize)]
struct Judged {
    id: String,
    response: usize,
    rating: u32,
    in_language: bool,
}

/// Answers that were judged, with whether they are in their language: from the port `languages`, or as `judge` itself
/// was told.
pub(crate) fn answers(
    judged: &[Item],
    languages: &[Item],
    labels: &Labels<'_>,
) -> Result<Vec<AnswerScore>, StageError> {
    let mut by_responses: BTreeMap<&str, &Item> = BTreeMap::new();
    for item in languages {
        let responses = labels.responses(&item.instance)?;
        if let Some(other) = by_responses.insert(responses, item) {
            return Err(StageError::failed(format!(
                "`{}` and `{}` both say which language the answers of `{responses}` are in",
                other.instance, item.instance
            )));
        }
    }
    let mut unique = Unique::default();
    let mut scores = Vec::new();
    let mut used: BTreeSet<&str> = BTreeSet::new();
    for Item { instance, path } in judged {
        let responses = labels.responses(instance)?;
        used.insert(responses);
        let rows: Vec<Judged> = read_rows(path)?;
        let told = labels.ancestor(instance)?.inputs.contains_key("languages");
        let identified = match by_responses.get(responses) {
            Some(item) => Some((*item, in_language(&item.path)?)),
            None if told => None,
            None => {
                return Err(StageError::Failed {
                    message: format!(
                        "`{instance}` judged the answers of `{responses}`, and nothing says which of them are in \
                         their language"
                    ),
                    hint: Some(
                        "add `identify_language` of the same responses to the port `languages`, or feed `judge` with it"
                            .into(),
                    ),
                    transient: false,
                });
            }
        };
        let (mut score, mut sum) = (0, 0);
        for row in &rows {
            let is_in = match &identified {
                None => row.in_language,
                Some((item, known)) => {
                    *known.get(&(row.id.clone(), row.response)).ok_or_else(|| {
                        let place = format!("answer {} of prompt {}", row.response, row.id);
                        StageError::failed(format!("`{}` has no row for {place}", item.instance))
                    })?
                }
            };
            sum += row.rating;
            score += if is_in { row.rating } else { 0 };
        }
        let answer = AnswerScore {
            base: labels.base(instance)?,
            parameters: labels.parameters(instance)?,
            tuning: labels.named(instance, "tuning")?,
            recipe: labels.named(instance, "recipe")?,
            language: labels.language(instance, None)?,
            seed: labels.seed(instance)?,
            n: rows.len() as u64,
            score: f64::from(score),
            judged: Some(f64::from(sum)),
            source: labels.source(instance)?,
        };
        let said = vec![
            format!("base {}", answer.base),
            format!("parameters {}", answer.parameters),
            format!("tuning {}", answer.tuning),
            format!("recipe {}", answer.recipe),
            format!("language {}", answer.language),
            format!("seed {}", answer.seed),
        ];
        unique.add("the score of one model's answers", said, instance)?;
        scores.push(answer);
    }
    match by_responses.iter().find(|it| !used.contains(it.0)) {
        None => Ok(scores),
        Some((responses, item)) => Err(StageError::failed(format!(
            "`{}` on the port `languages` is about the answers of `{responses}`, which nothing on `judged` judged",
            item.instance
        ))),
    }
}

/// Whether each answer is in its language, by the id of its prompt and its number.
fn in_language(path: &Path) -> Result<BTreeMap<(String, usize), bool>, StageError> {
    let rows: Vec<LanguageScore> = read_rows(path)?;
    Ok(rows.into_iter().map(|row| ((row.id, row.response), row.in_language)).collect())
}

/// Curves of trainings, thinned.
pub(crate) fn curves(items: &[Item], labels: &Labels<'_>) -> Result<Vec<Curve>, StageError> {
    let mut curves = Vec::new();
    for Item { instance, path } in items {
        // What is no number is `null` in JSON.
        let rows: Vec<BTreeMap<String, Option<f64>>> = read_rows(path)?;
        let rows = rows.into_iter().filter_map(|mut row| {
            let step = row.remove("step")??;
            row.remove("epoch");
            Some((step as u64, row))
        });
        curves.push(Curve {
            stage: labels.ancestor(instance)?.stage.clone(),
            model: labels.model(instance)?,
            language: labels.language_axis(instance),
            seed: labels.seed(instance)?,
            points: thinned(rows),
            source: labels.source(instance)?,
        });
    }
    Ok(curves)
}

/// The steps with their measures; of a measure with many values every second, fourth, ... and the last. So curves of
/// unlike lengths still have steps in common, of which a mean can be drawn.
fn thinned(rows: impl Iterator<Item = (u64, BTreeMap<String, Option<f64>>)>) -> Vec<CurvePoint> {
    let mut by_measure: BTreeMap<String, Vec<(u64, f64)>> = BTreeMap::new();
    for (step, measures) in rows {
        for (name, value) in measures {
            if let Some(value) = value {
                by_measure.entry(name).or_default().push((step, value));
            }
        }
    }
    let mut points: BTreeMap<u64, BTreeMap<String, f64>> = BTreeMap::new();
    for (name, values) in by_measure {
        let mut every = 1;
        while values.len().div_ceil(every) + 1 > POINTS && values.len() > POINTS {
            every *= 2;
        }
        for (place, &(step, value)) in values.iter().enumerate() {
            if place.is_multiple_of(every) || place + 1 == values.len() {
                points.entry(step).or_default().insert(name.clone(), value);
            }
        }
    }
    points.into_iter().map(|(step, measures)| CurvePoint { step, measures }).collect()
}

/// Rows that were set aside, counted by rule.
pub(crate) fn rejects(items: &[Item], labels: &Labels<'_>) -> Result<Vec<Rejects>, StageError> {
    #[derive(Deserialize)]
    struct Broken {
        rule: String,
    }
    let mut rejects = Vec::new();
    for Item { instance, path } in items {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for Broken { rule } in read_rows(path)? {
            *counts.entry(rule).or_default() += 1;
        }
        let (stage, source) = (&labels.ancestor(instance)?.stage, labels.source(instance)?);
        rejects.extend(counts.into_iter().map(|(reason, count)| Rejects {
            stage: stage.clone(),
            reason,
            count,
            source: source.clone(),
        }));
    }
    Ok(rejects)
}

/// What teachers were asked for all of it, and where times are known, what that cost and how long each node took.
pub(crate) fn add_resources(
    report: &mut Report,
    lineage: &Lineage,
    labels: &Labels<'_>,
) -> Result<(), StageError> {
    for (instance, ancestor) in &lineage.ancestors {
        let count = |name: &str| ancestor.metrics.get(name).map(|count| *count as u64);
        let (stage, source) = (&ancestor.stage, labels.source(instance)?);
        let asked = (count(REQUESTS), count(PROMPT_TOKENS), count(COMPLETION_TOKENS));
        if let (Some(requests @ 1..), Some(prompt_tokens), Some(completion_tokens)) = asked {
            report.spend.push(Spend {
                stage: stage.clone(),
                requests,
                prompt_tokens,
                completion_tokens,
                micro_usd: ancestor.execution.map(|executed| executed.cost_micro_usd),
                source: source.clone(),
            });
        }
        if let Some(executed) = ancestor.execution {
            let seconds = executed.duration_ms as f64 / 1000.0;
            report.times.push(NodeTime { stage: stage.clone(), seconds, source });
        }
    }
    Ok(())
}

/// Reads a file that is one JSON value; what is wrong with it otherwise.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: u64) -> Vec<(u64, BTreeMap<String, Option<f64>>)> {
        let row = |step: u64| {
            let mut measures = BTreeMap::from([("loss".to_owned(), Some(1.0 / step as f64))]);
            if step.is_multiple_of(50) {
                measures.insert("validation_loss".to_owned(), Some(step as f64));
            }
            (step, measures)
        };
        (1..=count).map(row).collect()
    }

    fn steps(points: &[CurvePoint], measure: &str) -> Vec<u64> {
        points.iter().filter(|it| it.measures.contains_key(measure)).map(|it| it.step).collect()
    }

    #[test]
    fn a_long_curve_is_thinned_by_measure_and_keeps_its_ends() {
        for count in [1, 2, 199, 200, 201, 399, 400, 401, 12_345] {
            let points = thinned(rows(count).into_iter());
            let loss = steps(&points, "loss");
            assert!(
                loss.len() <= POINTS && loss.len() as u64 >= count.min(100),
                "{count}: {}",
                loss.len()
            );
            assert_eq!((loss[0], loss[loss.len() - 1]), (1, count));
        }
        assert_eq!(thinned(rows(200).into_iter()).len(), 200);
        let points = thinned(rows(1000).into_iter());
        assert_eq!(steps(&points, "validation_loss"), (1..=20).map(|n| n * 50).collect::<Vec<_>>());
        // Two lengths have most steps in common.
        let [one, other] = [1000, 1700].map(|n| steps(&thinned(rows(n).into_iter()), "loss"));
        let common = one.iter().filter(|step| other.contains(step)).count();
        assert!(common > 60, "{common}");
    }

    #[test]
    fn what_is_no_number_is_left_out() {
        let row = |value| (1, BTreeMap::from([("loss".to_owned(), value)]));
        assert_eq!(thinned([row(None)].into_iter()), []);
    }
}

//! What `describe` says of data sets -> a report's.

use std::collections::BTreeSet;

use okapi_data::describe::{
    ObjectCount, RootVerbs as Found, SetStatistics, Statistics, TextLengths, VerbCount,
};
use okapi_engine::graph::parse_instance_name;
use okapi_engine::selection::axis_values;
use okapi_engine::stage_context::StageError;
use okapi_report::{DataSet, RootObject, RootVerb, RootVerbs, Source};
use serde_json::Value;

use crate::labels::{Labels, Unique};
use crate::report_rows::{Item, read_json};

/// What `describe` says of data sets. `named` has names for them, by their nodes.
pub(crate) fn statistics(
    items: &[Item],
    labels: &Labels<'_>,
    named: &Value,
) -> Result<Vec<DataSet>, StageError> {
    let mut unique = Unique::default();
    let mut sets: Vec<DataSet> = Vec::new();
    for Item { instance, path } in items {
        let statistics: Statistics = read_json(path).map_err(|detail| {
            StageError::failed(format!("what `{instance}` gave for `statistics` is none: {detail}"))
        })?;
        let described = labels.ancestor(instance)?.inputs.get("data");
        let described: &[String] = described.map_or(&[], Vec::as_slice);
        let nodes = |key: &str| key.split(['[', ':']).next().unwrap_or_default().to_owned();
        for (key, set) in &statistics.sets {
            let Some(data) = described.iter().find(|data| is_of(key, data)) else {
                let message = format!(
                    "`{instance}` describes `{key}`, which is none of the data that it reads"
                );
                return Err(StageError::failed(message));
            };
            let node = parse_instance_name(data).0;
            // Of two outputs of one node each has its own name.
            let same = statistics.sets.keys().filter(|other| nodes(other) == node);
            let ports: BTreeSet<_> = same.map(|key| key.split_once(':').map(|it| it.1)).collect();
            let name = match (named[node].as_str(), key.split_once(':')) {
                (Some(name), _) => name.to_owned(),
                (None, Some((_, port))) if ports.len() > 1 => format!("{node}:{port}"),
                (None, _) => node.to_owned(),
            };
            let set = data_set(name, labels.language(data, None)?, set, labels.source(instance)?);
            // English rows are the same before and after a translation into English.
            let mut others = sets.iter_mut();
            if let Some(other) = others.find(|other| is_the_same(other, &set)) {
                other.root_verbs = other.root_verbs.take().or(set.root_verbs);
                continue;
            }
            let said =
                vec![set.name.clone(), format!("language {}", set.language), set.unit.clone()];
            unique.add("the statistics of one data set", said, instance)?;
            sets.push(set);
        }
    }
    Ok(sets)
}

/// Whether two sets are one that came twice.
fn is_the_same(one: &DataSet, other: &DataSet) -> bool {
    let all = |set: &DataSet| DataSet { root_verbs: None, ..set.clone() };
    all(one) == all(other)
}

/// Whether `lang=de`, `rows[lang=de]` or `rows[lang=de]:data` is of that instance.
fn is_of(key: &str, instance: &str) -> bool {
    let name = key.split(':').next().unwrap_or_default();
    if name == instance {
        return true;
    }
    let axes = axis_values(instance);
    !name.contains('[') && name.contains('=') && name.split(',').all(|part| axes.contains(&part))
}

fn data_set(name: String, language: String, set: &SetStatistics, source: Source) -> DataSet {
    let has_tokens = set.prompt.tokens.is_some();
    let mean = |texts: &TextLengths| match texts.tokens {
        Some(tokens) => tokens.mean,
        None => texts.words.mean,
    };
    DataSet {
        name,
        language,
        rows: set.rows,
        unit: if has_tokens { "tokens" } else { "words" }.to_owned(),
        prompt: mean(&set.prompt),
        response: set.response.as_ref().map(mean),
        root_verbs: set.root_verbs.as_ref().map(root_verbs),
        source,
    }
}

fn root_verbs(found: &Found) -> RootVerbs {
    let object = |it: &ObjectCount| RootObject { object: it.object.clone(), count: it.count };
    let verb = |it: &VerbCount| RootVerb {
        verb: it.verb.clone(),
        count: it.count,
        objects: it.objects.iter().map(object).collect(),
    };
    RootVerbs { covered_share: found.covered_share, verbs: found.verbs.iter().map(verb).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_known_by_its_key() {
        assert!(is_of("lang=de", "rows[lang=de,seed=1]"));
        assert!(is_of("rows[lang=de]:data", "rows[lang=de]"));
        assert!(is_of("tasks:examples", "tasks"));
        assert!(!is_of("lang=de", "rows[lang=den]"));
        assert!(!is_of("other[lang=de]", "rows[lang=de]"));
        assert!(!is_of("tasks", "rows"));
    }
}

//! What differs between two action documents, field by field.

use std::collections::BTreeMap;

use serde_json::Value;

/// A field that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldChange {
    /// The path of the field in the document: `params.count`, `files.scripts/count.py`.
    pub field: String,
    /// The old value as JSON, `None` if the field was not there.
    pub old: Option<String>,
    /// The new value as JSON, `None` if the field is not there any more.
    pub new: Option<String>,
}

impl FieldChange {
    /// The text of a value: a JSON string without its quotes and escapes, other JSON as it is.
    pub fn text(value: &str) -> String {
        serde_json::from_str::<String>(value).unwrap_or_else(|_| value.to_owned())
    }
}

/// The fields of an action document by path, each value as JSON. Objects are walked into, all
/// other values are leaves. The member `declared` adds no step to a path: `declared.params.count`
/// is `params.count`, as the pipeline file has it.
///
/// # Errors
/// When the document is not a JSON object.
pub fn fields(document: &str) -> Result<BTreeMap<String, String>, serde_json::Error> {
    let members: serde_json::Map<String, Value> = serde_json::from_str(document)?;
    let mut fields = BTreeMap::new();
    for (name, value) in &members {
        match (name.as_str(), value) {
            ("action", _) => {}
            ("declared", Value::Object(declared)) => {
                for (name, value) in declared {
                    walk(name.clone(), value, &mut fields);
                }
            }
            ("env", value) => walk("pass_env".to_owned(), value, &mut fields),
            _ => walk(name.clone(), value, &mut fields),
        }
    }
    Ok(fields)
}

fn walk(path: String, value: &Value, fields: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, value) in members {
                walk(format!("{path}.{name}"), value, fields);
            }
        }
        leaf => {
            fields.insert(path, leaf.to_string());
        }
    }
}

/// The fields that differ, sorted by path.
pub fn diff(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<FieldChange> {
    let mut names: Vec<_> = old.keys().chain(new.keys()).collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .filter(|name| old.get(*name) != new.get(*name))
        .map(|name| FieldChange {
            field: name.clone(),
            old: old.get(name).cloned(),
            new: new.get(name).cloned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_found_at_every_depth() {
        let old =
            fields(r#"{"action":1,"declared":{"params":{"a":1,"b":{"c":[1,2]}},"stage":"x"}}"#);
        let new = fields(
            r#"{"action":1,"declared":{"params":{"a":1,"b":{"c":[1,3]},"d":null},"stage":"x"},"files":{"f":"file:00"}}"#,
        );
        let changes = diff(&old.unwrap(), &new.unwrap());
        let shown: Vec<_> = changes
            .iter()
            .map(|it| (it.field.as_str(), it.old.as_deref(), it.new.as_deref()))
            .collect();
        assert_eq!(
            shown,
            [
                ("files.f", None, Some("\"file:00\"")),
                ("params.b.c", Some("[1,2]"), Some("[1,3]")),
                ("params.d", None, Some("null")),
            ]
        );
    }
}

//! What members the rows of a file have, and of which types: learnt from the rows, as an artifact does not say of which
//! kind it is.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// The members of rows by name. One that is null is as good as absent.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Members(BTreeMap<String, Shape>);

/// What a member is in all rows that have it.
#[derive(Debug, PartialEq)]
pub(crate) enum Shape {
    One(Scalar),
    /// A list; of nothing known where it was always empty.
    List(Option<Scalar>),
    Object(Members),
    /// Something else, or not the same in all rows.
    Mixed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scalar {
    Text,
    Integer,
    Float,
    Boolean,
}

impl Members {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Shape)> {
        self.0.iter().map(|(name, shape)| (&**name, shape))
    }

    /// Learns from one more row.
    pub(crate) fn add(&mut self, row: &Map<String, Value>) {
        for (name, value) in row.iter().filter(|(_, value)| !value.is_null()) {
            // A name is copied once for the file, not once a row.
            match self.0.get_mut(name) {
                Some(shape) => shape.add(value),
                None => drop(self.0.insert(name.clone(), Shape::of(value))),
            }
        }
    }
}

impl Shape {
    fn of(value: &Value) -> Shape {
        match value {
            Value::Object(object) => {
                let mut members = Members::default();
                members.add(object);
                Shape::Object(members)
            }
            Value::Array(items) => {
                let mut shape = Shape::List(None);
                shape.add_items(items);
                shape
            }
            scalar => Scalar::of(scalar).map_or(Shape::Mixed, Shape::One),
        }
    }

    fn add(&mut self, value: &Value) {
        match (&mut *self, value) {
            (Shape::Object(members), Value::Object(object)) => members.add(object),
            (Shape::List(_), Value::Array(items)) => self.add_items(items),
            (Shape::One(known), value) => {
                let both = Scalar::of(value).and_then(|found| known.or(found));
                *self = both.map_or(Shape::Mixed, Shape::One);
            }
            _ => *self = Shape::Mixed,
        }
    }

    /// Learns from the items of a list, if this is one of scalars.
    fn add_items(&mut self, items: &[Value]) {
        for item in items.iter().filter(|item| !item.is_null()) {
            let Shape::List(known) = self else { return };
            let both = match (*known, Scalar::of(item)) {
                (None, found) => found,
                (Some(known), Some(found)) => known.or(found),
                (Some(_), None) => None,
            };
            *self = both.map_or(Shape::Mixed, |both| Shape::List(Some(both)));
        }
    }
}

impl Scalar {
    fn of(value: &Value) -> Option<Scalar> {
        match value {
            Value::String(_) => Some(Scalar::Text),
            Value::Bool(_) => Some(Scalar::Boolean),
            Value::Number(number) if number.is_f64() => Some(Scalar::Float),
            Value::Number(_) => Some(Scalar::Integer),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// The type that holds values of both.
    fn or(self, other: Scalar) -> Option<Scalar> {
        match (self, other) {
            (one, other) if one == other => Some(one),
            (Scalar::Integer, Scalar::Float) | (Scalar::Float, Scalar::Integer) => {
                Some(Scalar::Float)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_member_is_what_it_is_in_all_rows_that_have_it() {
        let mut members = Members::default();
        for row in [
            json!({"text": "a", "n": 1, "list": [], "either": 1, "lists": [[1]], "none": null}),
            json!({"n": 0.5, "list": [null, true], "either": "1", "object": {"in": 1}, "ids": [1]}),
            json!({"text": null, "list": [false], "object": {"too": "b"}, "ids": [1, "2"]}),
        ] {
            members.add(row.as_object().unwrap());
        }
        let shape = |name: &str| members.iter().find(|(other, _)| *other == name).map(|it| it.1);
        assert_eq!(shape("text"), Some(&Shape::One(Scalar::Text)));
        assert_eq!(shape("n"), Some(&Shape::One(Scalar::Float)));
        assert_eq!(shape("list"), Some(&Shape::List(Some(Scalar::Boolean))));
        for mixed in ["either", "lists", "ids"] {
            assert_eq!(shape(mixed), Some(&Shape::Mixed), "{mixed}");
        }
        assert_eq!(shape("none"), None);
        let Some(Shape::Object(within)) = shape("object") else { panic!("{members:?}") };
        let names: Vec<&str> = within.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["in", "too"]);
    }
}

//! JSON for reading: indented, with every token as it was written. Parsing into values and printing
//! those would lose the order of the keys and the digits of large numbers.

use serde::de::IgnoredAny;

/// The text of a JSON object or array, indented; `None` if the text is anything else.
pub(crate) fn indent(text: &str) -> Option<String> {
    if !text.trim_start().starts_with(['{', '[']) {
        return None;
    }
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    let mut indented = String::with_capacity(text.len() * 2);
    let mut depth = 0;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                indented.push('"');
                // The text is valid: a string ends.
                while let Some(character) = characters.next() {
                    indented.push(character);
                    match character {
                        '"' => break,
                        '\\' => indented.extend(characters.next()),
                        _ => {}
                    }
                }
            }
            '{' | '[' => {
                indented.push(character);
                while characters.next_if(|it| it.is_ascii_whitespace()).is_some() {}
                if let Some(end) = characters.next_if(|it| matches!(it, '}' | ']')) {
                    indented.push(end);
                } else {
                    depth += 1;
                    new_line(&mut indented, depth);
                }
            }
            '}' | ']' => {
                depth -= 1;
                new_line(&mut indented, depth);
                indented.push(character);
            }
            ',' => {
                indented.push(',');
                new_line(&mut indented, depth);
            }
            ':' => indented.push_str(": "),
            _ if character.is_ascii_whitespace() => {}
            _ => indented.push(character),
        }
    }
    indented.push('\n');
    Some(indented)
}

fn new_line(text: &mut String, depth: usize) {
    text.push('\n');
    text.extend(std::iter::repeat_n("  ", depth));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    #[test]
    fn tokens_and_their_order_stay() {
        let text = r#"{"z":[],"a": { } ,"n":[1e400,1.50,12345678901234567890123,true],"s":"{\"x\": [1,2]}\\"}"#;
        let expected = r#"{
  "z": [],
  "a": {},
  "n": [
    1e400,
    1.50,
    12345678901234567890123,
    true
  ],
  "s": "{\"x\": [1,2]}\\"
}
"#;
        assert_eq!(indent(text).as_deref(), Some(expected));
        for other in ["", "1", "{} {}", "{\"a\":1}\n{\"a\":2}\n", "[1,", "text"] {
            assert_eq!(indent(other), None, "{other}");
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..5)
                    .prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_is_what_serde_json_prints(value in value()) {
            let expected = format!("{}\n", serde_json::to_string_pretty(&value).unwrap());
            let indented = indent(&value.to_string());
            match value {
                Value::Array(_) | Value::Object(_) => prop_assert_eq!(indented, Some(expected)),
                _ => prop_assert_eq!(indented, None),
            }
        }
    }
}

//! The one encoding in which a JSON value is hashed.
//!
//! - members of an object are sorted by the bytes of their names, which are unique;
//! - no white space;
//! - strings are written as UTF-8 with `\"`, `\\`, `\b`, `\f`, `\n`, `\r`, `\t`, and `\u00xx` for
//!   the other characters below U+0020; nothing else is escaped;
//! - whole numbers are written in decimal;
//! - other numbers are written in the shortest form that reads back as the same 64-bit number, with
//!   `.0` if they are whole: `1.0`, `0.1`, `2e-5`, `1e300`.
//!
//! Numbers that JSON cannot hold (infinities, NaN) cannot be in a `serde_json::Value`.

use std::fmt::Write as _;

use serde_json::Value;

/// The canonical text of a value.
pub fn to_string(value: &Value) -> String {
    let mut text = String::new();
    write_value(&mut text, value);
    text
}

/// Writes the canonical text of a value to the end of `text`.
pub fn write_value(text: &mut String, value: &Value) {
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(true) => text.push_str("true"),
        Value::Bool(false) => text.push_str("false"),
        Value::Number(number) => write_number(text, number),
        Value::String(string) => write_string(text, string),
        Value::Array(items) => {
            text.push('[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    text.push(',');
                }
                write_value(text, item);
            }
            text.push(']');
        }
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by_key(|(name, _)| name.as_bytes());
            text.push('{');
            for (position, (name, member)) in sorted.into_iter().enumerate() {
                if position > 0 {
                    text.push(',');
                }
                write_string(text, name);
                text.push(':');
                write_value(text, member);
            }
            text.push('}');
        }
    }
}

fn write_number(text: &mut String, number: &serde_json::Number) {
    let written = match number.as_f64().filter(|_| number.is_f64()) {
        // Rust's `{:?}` of a float is its shortest form; `e16` and beyond have no point.
        Some(float) => write!(text, "{float:?}"),
        None => write!(text, "{number}"),
    };
    written.expect("writing to a string never fails");
}

/// Writes a string in its canonical form to the end of `text`.
pub fn write_string(text: &mut String, string: &str) {
    text.push('"');
    // Most strings need no escape: they are copied in one piece.
    let mut rest = string;
    while let Some(position) =
        rest.bytes().position(|byte| byte < 0x20 || matches!(byte, b'"' | b'\\'))
    {
        text.push_str(&rest[..position]);
        match rest.as_bytes()[position] {
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            0x08 => text.push_str("\\b"),
            0x0c => text.push_str("\\f"),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            other => write!(text, "\\u{other:04x}").expect("writing to a string never fails"),
        }
        rest = &rest[position + 1..];
    }
    text.push_str(rest);
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn test_vectors() {
        for (value, expected) in [
            (json!({"b": 1, "a": [true, null], "ä": {}}), r#"{"a":[true,null],"b":1,"ä":{}}"#),
            (json!("a\"\\\n\t\u{1}/é\u{7f}"), "\"a\\\"\\\\\\n\\t\\u0001/é\u{7f}\""),
            (
                json!([0, -1, u64::MAX, i64::MIN]),
                "[0,-1,18446744073709551615,-9223372036854775808]",
            ),
            (json!([1.0, 0.1, 2e-5, 1e300, -0.0, 1e16]), "[1.0,0.1,2e-5,1e300,-0.0,1e16]"),
        ] {
            assert_eq!(to_string(&value), expected);
        }
    }

    proptest! {
        #[test]
        fn reads_back_as_the_same_value(
            string in ".*",
            float in proptest::num::f64::NORMAL | proptest::num::f64::ZERO,
            whole in any::<i64>(),
        ) {
            let value = json!({ string.clone(): [float, whole, string] });
            let text = to_string(&value);
            let read: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(&read, &value);
            prop_assert_eq!(to_string(&read), text);
        }
    }
}

//! What a plain scalar means: YAML 1.2's core schema, with warnings where other readers differ.

use std::rc::Rc;

use crate::diagnostic::Span;
use crate::spec::findings::Findings;
use crate::spec::yaml::Value;

/// The value of a scalar written without quotes.
pub(crate) fn plain(text: &str, at: Span, findings: &mut Findings) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF"
        | "-.inf" | "-.Inf" | "-.INF" => {
            findings
                .error("bad-value", at, format!("`{text}` is not a finite number"))
                .help("quote it if it is meant as text");
            return Value::Invalid;
        }
        _ => {}
    }
    // Almost every scalar is a word: look no further than its first character.
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !unsigned.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return Value::Text(Rc::from(text));
    }
    if let Some(digits) = text.strip_prefix("0o")
        && is_digits(digits, 8)
    {
        return whole(text, i64::from_str_radix(digits, 8).ok(), at, findings);
    }
    if let Some(digits) = text.strip_prefix("0x")
        && is_digits(digits, 16)
    {
        return whole(text, i64::from_str_radix(digits, 16).ok(), at, findings);
    }
    if is_digits(unsigned, 10) {
        if unsigned.len() > 1 && unsigned.starts_with('0') {
            let plain = unsigned.trim_start_matches('0');
            trap(text, "octal", if plain.is_empty() { "0" } else { plain }, at, findings);
            return Value::Text(Rc::from(text));
        }
        return whole(text, text.parse().ok(), at, findings);
    }
    let without = unsigned.replace('_', "");
    if unsigned.contains('_') && (is_digits(&without, 10) || is_float(&without)) {
        trap(text, "underscored", &without, at, findings);
        return Value::Text(Rc::from(text));
    }
    if is_float(unsigned) {
        return match text.parse::<f64>() {
            Ok(float) if float.is_finite() => Value::Float(float),
            _ => whole(text, None, at, findings),
        };
    }
    Value::Text(Rc::from(text))
}

fn is_digits(text: &str, radix: u32) -> bool {
    !text.is_empty() && text.chars().all(|character| character.is_digit(radix))
}

/// `( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?`
fn is_float(unsigned: &str) -> bool {
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mantissa_ok = (before.is_empty() || is_digits(before, 10))
        && (after.is_empty() || is_digits(after, 10))
        && !(before.is_empty() && after.is_empty());
    let exponent_ok = exponent.is_none_or(|exponent| {
        is_digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent), 10)
    });
    mantissa_ok && exponent_ok
}

fn whole(text: &str, value: Option<i64>, at: Span, findings: &mut Findings) -> Value {
    value.map_or_else(
        || {
            findings
                .error("bad-value", at, format!("`{text}` is too large for a number"))
                .help("quote it if it is meant as text");
            Value::Invalid
        },
        Value::Int,
    )
}

fn trap(text: &str, look: &str, number: &str, at: Span, findings: &mut Findings) {
    findings
        .warning(
            "number-trap",
            at,
            format!("`{text}` looks like an {look} number and is read as text"),
        )
        .hint(format!("write `\"{text}\"` for the text, or `{number}` for the number"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (String, usize) {
        let mut findings = Findings::default();
        let value = plain(text, Span::default(), &mut findings);
        let diagnostics = findings.finish(std::path::Path::new("x"), "", &[]);
        (format!("{value:?}"), diagnostics.items.len())
    }

    #[test]
    fn core_schema_and_its_traps() {
        for (text, expected, findings) in [
            ("no", "Text(\"no\")", 0),
            ("off", "Text(\"off\")", 0),
            ("Yes", "Text(\"Yes\")", 0),
            ("true", "Bool(true)", 0),
            ("~", "Null", 0),
            ("12", "Int(12)", 0),
            ("+12", "Int(12)", 0),
            ("-0", "Int(0)", 0),
            ("0x1F", "Int(31)", 0),
            ("0o17", "Int(15)", 0),
            ("1e3", "Float(1000.0)", 0),
            ("2.0e-5", "Float(2e-5)", 0),
            (".5", "Float(0.5)", 0),
            ("5.", "Float(5.0)", 0),
            ("12:30", "Text(\"12:30\")", 0),
            ("2024-01-01", "Text(\"2024-01-01\")", 0),
            ("1.2.3", "Text(\"1.2.3\")", 0),
            (".", "Text(\".\")", 0),
            ("./data", "Text(\"./data\")", 0),
            ("010", "Text(\"010\")", 1),
            ("1_000", "Text(\"1_000\")", 1),
            ("9223372036854775808", "Invalid", 1),
            ("1e999", "Invalid", 1),
            (".inf", "Invalid", 1),
        ] {
            assert_eq!(read(text), (expected.to_owned(), findings), "{text}");
        }
    }
}

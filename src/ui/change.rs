//! A field that differs, for people.

use okapi_engine::explain::Change;

/// Values longer than this are cut.
const LONGEST_VALUE: usize = 200;

/// The lines that differ in a text, or the old and the new value.
pub(crate) fn describe(change: &Change, indent: &str, colored: bool) -> String {
    if let Some(lines) = &change.lines {
        return indent_diff(lines, indent, colored);
    }
    let show = |value: &Option<String>| value.as_deref().map_or("(none)".to_owned(), cut);
    format!("{indent}{} -> {}\n", show(&change.change.old), show(&change.change.new))
}

fn cut(value: &str) -> String {
    if value.chars().count() <= LONGEST_VALUE {
        return value.to_owned();
    }
    let head: String = value.chars().take(LONGEST_VALUE).collect();
    format!("{head}...")
}

fn indent_diff(lines: &str, indent: &str, colored: bool) -> String {
    let paint = |line: &str| {
        let code = match line.as_bytes().first() {
            _ if !colored => return line.to_owned(),
            Some(b'+') => "32",
            Some(b'-') => "31",
            Some(b'@') => "36",
            _ => return line.to_owned(),
        };
        format!("\x1b[{code}m{line}\x1b[0m")
    };
    lines
        .lines()
        .filter(|line| !line.starts_with("---") && !line.starts_with("+++"))
        .map(|line| format!("{indent}{}\n", paint(line)))
        .collect()
}

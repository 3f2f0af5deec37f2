//! What Python does to texts where Rust does it differently: the prompts that are compared with the field's
//! are made with it.

/// White space by `str.isspace`: Unicode's, and four old separators.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.strip()`.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.rstrip()`.
pub(crate) fn strip_end(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// `str.capitalize()`: the first character in title case, and all others in lower case, also the first letters
/// of nouns and names.
pub(crate) fn capitalize(text: &str) -> String {
    let Some(first) = text.chars().next() else { return String::new() };
    // Lower case hangs on what stands before: a sigma that ends a word has a form of its own.
    let lower = text.to_lowercase();
    let skipped: usize = first.to_lowercase().map(char::len_utf8).sum();
    let mut capitalized = title(first);
    capitalized.push_str(&lower[skipped..]);
    capitalized
}

/// A character in title case: in upper case but for letters that are two in one.
fn title(c: char) -> String {
    let one = match c {
        'Ǆ'..='ǆ' => 'ǅ',
        'Ǉ'..='ǉ' => 'ǈ',
        'Ǌ'..='ǌ' => 'ǋ',
        'Ǳ'..='ǳ' => 'ǲ',
        // Georgian has capitals for whole words only.
        'ა'..='ჺ' | 'ჽ'..='ჿ' => c,
        // Greek with an iota below, or beside a capital.
        'ᾀ'..='ᾯ' => char::from_u32(u32::from(c) | 8).unwrap_or(c),
        'ᾳ' | 'ᾼ' => 'ᾼ',
        'ῃ' | 'ῌ' => 'ῌ',
        'ῳ' | 'ῼ' => 'ῼ',
        // An apostrophe and a letter: the letter begins.
        'ŉ' => return c.to_uppercase().collect(),
        _ => {
            let mut upper = c.to_uppercase();
            let first = upper.next().into_iter();
            // The iota of a capital is a mark below it here.
            let rest = upper.flat_map(|c| match c {
                'Ι' => '\u{345}'.to_lowercase(),
                _ => c.to_lowercase(),
            });
            return first.chain(rest).collect();
        }
    };
    one.to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;

    fn facts() -> Value {
        let text = include_str!("../../../tests/fixtures/eval/python.json");
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn white_space_is_that_of_python() {
        let facts = facts();
        let spaces: Vec<char> = facts["spaces"].as_str().unwrap().chars().collect();
        let found: Vec<char> = (char::MIN..=char::MAX).filter(|c| is_space(*c)).collect();
        assert_eq!(found, spaces);
        assert_eq!(strip("\u{1c} \u{3000}a b\u{a0}\n"), "a b");
        assert_eq!(strip_end(" a\u{1f}\u{2029}"), " a");
    }

    #[test]
    fn title_case_is_that_of_python() {
        let facts = facts();
        let other: BTreeMap<char, String> =
            serde_json::from_value(facts["titles"].clone()).unwrap();
        assert_eq!(other.len(), 135);
        for c in char::MIN..=char::MAX {
            let upper = || c.to_uppercase().collect();
            assert_eq!(title(c), other.get(&c).cloned().unwrap_or_else(upper), "{c:?}");
        }
    }

    #[test]
    fn texts_are_capitalized_as_by_python() {
        let facts = facts();
        let pairs = facts["capitalized"].as_array().unwrap();
        assert!(pairs.len() > 20);
        for pair in pairs {
            assert_eq!(capitalize(pair[0].as_str().unwrap()), pair[1].as_str().unwrap());
        }
    }
}

//! ROUGE-L as Google's `rouge_score` computes it without its stemmer: what Self-Instruct and Alpaca
//! measure novelty with.
//!
//! Only runs of `a-z` and `0-9` of the lower-cased text are tokens, so a text in another script has
//! none and resembles nothing.

/// Precision, recall and F of the longest common subsequence of two texts' tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RougeL {
    /// Its length by the number of the second text's tokens.
    pub precision: f64,
    /// Its length by the number of the first text's tokens.
    pub recall: f64,
    /// Their harmonic mean; 0 if a text has no token.
    pub f: f64,
}

impl RougeL {
    /// The scores of a common subsequence of `common` tokens, of texts of `first` and `second`.
    ///
    /// The operations are those of `rouge_score`, in its order, so that the last bit agrees: a text
    /// at the very threshold is kept or not as there.
    pub fn of_lengths(common: usize, first: usize, second: usize) -> RougeL {
        if first == 0 || second == 0 {
            return RougeL { precision: 0.0, recall: 0.0, f: 0.0 };
        }
        let precision = common as f64 / second as f64;
        let recall = common as f64 / first as f64;
        let sum = precision + recall;
        let f = if sum > 0.0 { 2.0 * precision * recall / sum } else { 0.0 };
        RougeL { precision, recall, f }
    }
}

/// ROUGE-L of two texts.
pub fn rouge_l(first: &str, second: &str) -> RougeL {
    let (first, second) = (tokens(first), tokens(second));
    // Numbers for the tokens, so that the longest common subsequence compares no text.
    let mut vocabulary: Vec<&str> = first.iter().map(String::as_str).collect();
    vocabulary.sort_unstable();
    vocabulary.dedup();
    let unknown = vocabulary.len() as u32;
    let number = |token: &String| {
        vocabulary.binary_search(&token.as_str()).map_or(unknown, |place| place as u32)
    };
    let mut pattern = Pattern::default();
    pattern.set(&first.iter().map(number).collect::<Vec<_>>());
    let common = pattern.common_with(&second.iter().map(number).collect::<Vec<_>>());
    RougeL::of_lengths(common, first.len(), second.len())
}

/// The tokens of a text.
pub fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut token = String::new();
    // Characters whose lower case is ASCII count as that (the Kelvin sign is a `k`).
    for character in text.chars().flat_map(char::to_lowercase) {
        if character.is_ascii_lowercase() || character.is_ascii_digit() {
            token.push(character);
        } else if !token.is_empty() {
            tokens.push(std::mem::take(&mut token));
        }
    }
    if !token.is_empty() {
        tokens.push(token);
    }
    tokens
}

/// One sequence that many others are compared with: the longest common subsequence, 64 tokens at a
/// time in the bits of a word (Hyyrö, "Bit-parallel LCS-length computation revisited", 2004).
#[derive(Debug, Default)]
pub struct Pattern {
    length: usize,
    words: usize,
    /// By token: the places where the sequence has it, `words` words each.
    places: Vec<u64>,
    tokens: Vec<u32>,
    state: Vec<u64>,
}

impl Pattern {
    /// Takes a new sequence. Tokens are small numbers.
    pub fn set(&mut self, tokens: &[u32]) {
        for &token in &self.tokens {
            let from = token as usize * self.words;
            self.places[from..from + self.words].fill(0);
        }
        let words = tokens.len().div_ceil(64);
        if words != self.words {
            // Another stride: every place is nought now, so only the length must do.
            self.words = words;
        }
        self.length = tokens.len();
        self.tokens.clear();
        self.tokens.extend_from_slice(tokens);
        let largest = tokens.iter().max().map_or(0, |&token| token as usize + 1);
        if self.places.len() < largest * words {
            self.places.resize(largest * words, 0);
        }
        for (place, &token) in tokens.iter().enumerate() {
            self.places[token as usize * words + place / 64] |= 1 << (place % 64);
        }
    }

    /// The length of the longest common subsequence with `other`.
    pub fn common_with(&mut self, other: &[u32]) -> usize {
        if self.words == 1 {
            return self.common_in_a_word(other);
        }
        self.state.clear();
        self.state.resize(self.words, u64::MAX);
        for &token in other {
            let from = token as usize * self.words;
            let Some(places) = self.places.get(from..from + self.words) else { continue };
            let mut carry = false;
            for (state, &places) in self.state.iter_mut().zip(places) {
                let matched = *state & places;
                let (sum, first) = state.overflowing_add(matched);
                let (sum, second) = sum.overflowing_add(u64::from(carry));
                carry = first || second;
                *state = sum | (*state & !matched);
            }
        }
        let used = |word: usize| mask(self.length - 64 * word);
        self.state
            .iter()
            .enumerate()
            .map(|(word, state)| (!state & used(word)).count_ones() as usize)
            .sum()
    }

    fn common_in_a_word(&self, other: &[u32]) -> usize {
        let mut state = u64::MAX;
        for &token in other {
            let Some(&places) = self.places.get(token as usize) else { continue };
            let matched = state & places;
            state = state.wrapping_add(matched) | (state & !matched);
        }
        (!state & mask(self.length)).count_ones() as usize
    }
}

/// The lowest `length` bits, at most all.
fn mask(length: usize) -> u64 {
    if length >= 64 { u64::MAX } else { (1 << length) - 1 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn ten_thousand_pairs_score_as_by_rouge_score() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/rouge/rouge_l.json");
        let fixture: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let fragments = fixture["fragments"].as_array().unwrap();
        let text = |ids: &Value| -> String {
            let ids = ids.as_array().unwrap().iter();
            ids.map(|id| fragments[id.as_u64().unwrap() as usize].as_str().unwrap()).collect()
        };
        let pairs = fixture["pairs"].as_array().unwrap();
        assert_eq!(pairs.len(), 10_000);
        for pair in pairs {
            let (first, second) = (text(&pair[0]), text(&pair[1]));
            let score = rouge_l(&first, &second);
            let expected = (pair[2].as_f64().unwrap(), pair[3].as_f64().unwrap());
            assert_eq!((score.precision, score.f), expected, "{first:?} {second:?}");
        }
    }

    /// The textbook's table.
    fn common_by_table(first: &[u32], second: &[u32]) -> usize {
        let mut row = vec![0; second.len() + 1];
        for a in first {
            let mut before = 0;
            for (place, b) in second.iter().enumerate() {
                let above = row[place + 1];
                row[place + 1] = if a == b { before + 1 } else { above.max(row[place]) };
                before = above;
            }
        }
        row[second.len()]
    }

    proptest! {
        #[test]
        fn bits_agree_with_the_table(
            sequences in prop::collection::vec(prop::collection::vec(0_u32..7, 0..200), 1..6),
        ) {
            let mut pattern = Pattern::default();
            for first in &sequences {
                pattern.set(first);
                for second in &sequences {
                    prop_assert_eq!(pattern.common_with(second), common_by_table(first, second));
                }
            }
        }
    }
}

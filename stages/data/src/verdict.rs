//! What rankers and judges write -> ranks and ratings. A permutation or a mistake, nothing between.

use crate::Ranking;

/// Reads the ranks of `count` responses: `Response 2: 1` for each, in the order of the responses, and
/// nothing but white space between them. `Response 2: overall rank: 1` and `<Response 2>: 1`, as in the
/// first paper's prompt, are read too.
///
/// # Errors
/// What is wrong, for anything else: another text, another order, a rank that is missing, given twice
/// or out of bounds.
pub fn parse_ranks(text: &str, count: usize) -> Result<Vec<u32>, String> {
    let lower = text.to_ascii_lowercase();
    let mut rest = lower.trim();
    let mut ranks = Vec::new();
    for place in 1..=count {
        let Some((number, rank, after)) = rank_at(rest) else {
            let what =
                if rest.is_empty() { "nothing".to_owned() } else { format!("`{}`", shown(rest)) };
            return Err(format!("{what} stands where the rank of response {place} belongs"));
        };
        if number != place as u32 {
            return Err(format!("response {number} stands where {place} belongs"));
        }
        ranks.push(rank);
        rest = after;
    }
    if !rest.is_empty() {
        return Err(format!("`{}` stands after the ranks", shown(rest)));
    }
    if !Ranking::is_permutation(&ranks) {
        return Err(format!("{ranks:?} is no permutation of 1 to {count}"));
    }
    Ok(ranks)
}

/// The number of a response and its rank at the beginning of a text in lower case, and what follows.
fn rank_at(text: &str) -> Option<(u32, u32, &str)> {
    let text = text.strip_prefix('<').unwrap_or(text);
    let text = text.strip_prefix("response")?.trim_start();
    let (number, text) = leading_number(text)?;
    let text = text.strip_prefix('>').unwrap_or(text).trim_start().strip_prefix(':')?.trim_start();
    let text = match text.strip_prefix("overall rank") {
        Some(text) => text.trim_start().strip_prefix(':')?.trim_start(),
        None => text,
    };
    let (rank, text) = leading_number(text)?;
    let text = text.strip_prefix('.').unwrap_or(text);
    // `3/4` and `2nd` are no ranks.
    if text.starts_with(|next: char| !next.is_whitespace()) {
        return None;
    }
    Some((number, rank, text.trim_start()))
}

fn leading_number(text: &str) -> Option<(u32, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    Some((text[..digits].parse().ok()?, &text[digits..]))
}

/// Kendall's tau between two rankings of the same responses: 1 if they agree on every pair, -1 if on
/// none; `None` for fewer than two.
pub fn kendall_tau(one: &[u32], other: &[u32]) -> Option<f64> {
    let count = one.len();
    if count < 2 || other.len() != count {
        return None;
    }
    let (mut pairs, mut sum) = (0i64, 0i64);
    for first in 0..count {
        for second in first + 1..count {
            let agree = (one[first] < one[second]) == (other[first] < other[second]);
            pairs += 1;
            sum += if agree { 1 } else { -1 };
        }
    }
    Some(sum as f64 / pairs as f64)
}

/// A judgement: what was said, and the rating.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The explanation before the rating.
    pub explanation: String,
    /// From 1 (poor) to 3 (good).
    pub rating: u32,
}

/// Reads a judgement: an explanation, then `[[n]]` with n from 1 to 3, as the second paper asks for.
/// A rating given several times has to be the same each time.
///
/// # Errors
/// What is wrong, for anything else: no explanation, no rating in double brackets, two ratings.
pub fn parse_rating(text: &str) -> Result<Judgement, String> {
    let mut rating = None;
    let mut rest = text;
    let mut first_at = None;
    while let Some(open) = rest.find("[[") {
        let after = &rest[open + 2..];
        let at = text.len() - after.len() - 2;
        rest = after;
        let Some((inside, _)) = after.split_once("]]") else { continue };
        let Ok(number) = inside.trim().parse::<f64>() else { continue };
        if ![1.0, 2.0, 3.0].contains(&number) {
            return Err(format!("the rating {} is not from 1 to 3", shown(inside)));
        }
        let number = number as u32;
        if rating.is_some_and(|before| before != number) {
            return Err("it gives two different ratings".to_owned());
        }
        first_at.get_or_insert(at);
        rating = Some(number);
    }
    let (Some(rating), Some(at)) = (rating, first_at) else {
        return Err("there is no rating such as [[2]] in it".to_owned());
    };
    let before = text[..at].trim();
    let explanation = before.strip_suffix("Rating:").unwrap_or(before).trim().to_owned();
    if explanation.is_empty() {
        return Err("there is no explanation before the rating".to_owned());
    }
    Ok(Judgement { explanation, rating })
}

fn shown(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranks_are_read_from_the_forms_of_the_paper() {
        for text in [
            "Response 1: 3\nResponse 2: 1\nResponse 3: 2",
            "response 1 : 3\n\n  Response 2: 1.\nResponse 3: 2\n",
            "Response 1: 3 Response 2: 1 Response 3: 2",
            "<Response 1>: overall rank: 3\n<Response 2>: overall rank: 1\n<Response 3>: overall rank: 2",
        ] {
            assert_eq!(parse_ranks(text, 3), Ok(vec![3, 1, 2]), "{text}");
        }
    }

    #[test]
    fn anything_but_a_permutation_is_refused() {
        for text in [
            "",
            "Response 1: 1",
            "Response 1: 1\nResponse 2: 1",
            "Response 1: 0\nResponse 2: 1",
            "Response 1: 1\nResponse 2: 3",
            "Response 2: 1\nResponse 1: 2",
            "Response 1: 1\nResponse 2: 2\nBoth are good.",
            "Here you are:\nResponse 1: 1\nResponse 2: 2",
            "Response 1: 1 (best)\nResponse 2: 2",
            "Response 1: 1/2\nResponse 2: 2",
            "Response 1: -1\nResponse 2: 2",
            "Response 1: 99999999999\nResponse 2: 2",
            "[1, 2]",
        ] {
            assert!(parse_ranks(text, 2).is_err(), "{text}");
        }
    }

    #[test]
    fn agreement_goes_from_one_to_minus_one() {
        assert_eq!(kendall_tau(&[1, 2, 3, 4], &[1, 2, 3, 4]), Some(1.0));
        assert_eq!(kendall_tau(&[1, 2, 3, 4], &[4, 3, 2, 1]), Some(-1.0));
        assert_eq!(kendall_tau(&[1, 2, 3, 4], &[2, 1, 3, 4]), Some(4.0 / 6.0));
        assert_eq!(kendall_tau(&[1], &[1]), None);
    }

    #[test]
    fn a_rating_has_an_explanation_and_double_brackets() {
        let judged = parse_rating("It is short but right.\nRating: [[2]]").unwrap();
        assert_eq!((judged.explanation.as_str(), judged.rating), ("It is short but right.", 2));
        assert_eq!(parse_rating("Good. [[3]] So: [[3]]").unwrap().rating, 3);
        assert_eq!(parse_rating("It cites [[source]]. Rating: [[1]]").unwrap().rating, 1);
        for text in [
            "Rating: [[2]]",
            "Good [2]",
            "Good",
            "Bad [[0]]",
            "Bad [[4]]",
            "A [[1]] or [[2]]",
            "A [[2",
        ] {
            assert!(parse_rating(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_a_permutation_or_a_mistake(text in "(Response [0-9]: [0-9]\n?){0,5}|.{0,60}", count in 2usize..9) {
            if let Ok(ranks) = parse_ranks(&text, count) {
                prop_assert!(ranks.len() == count && Ranking::is_permutation(&ranks));
            }
            let _ = parse_rating(&text);
        }
    }
}

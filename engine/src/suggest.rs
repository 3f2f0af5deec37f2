//! "Did you mean": the known name nearest to one that is not known.

/// The nearest of `candidates`, if one is near enough to be a slip of the fingers. Of equally near
/// ones the first wins.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = name.chars().count();
    let reach = (length / 3).clamp(1, 4);
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        // The difference in length bounds the distance from below, and is cheap.
        if candidate.chars().count().abs_diff(length) > reach {
            continue;
        }
        let distance = if candidate.eq_ignore_ascii_case(name) {
            0
        } else {
            strsim::damerau_levenshtein(name, candidate)
        };
        if distance <= reach && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// A hint: the nearest candidate, else a list of all if it is short, else nothing.
pub fn hint<'a, I>(name: &str, what: &str, candidates: I) -> Option<String>
where
    I: IntoIterator<Item = &'a str> + Clone,
{
    if let Some(near) = nearest(name, candidates.clone()) {
        return Some(format!("did you mean `{near}`?"));
    }
    const MOST_LISTED: usize = 20;
    let mut listed: Vec<String> = Vec::new();
    for candidate in candidates {
        if listed.len() == MOST_LISTED {
            return None;
        }
        listed.push(format!("`{candidate}`"));
    }
    if listed.is_empty() {
        return None;
    }
    Some(format!("{what}: {}", listed.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_slips_and_nothing_far() {
        let names = ["translate", "import", "rank", "seed"];
        for (name, expected) in [
            ("tranlsate", Some("translate")),
            ("Import", Some("import")),
            ("rnak", Some("rank")),
            ("sed", Some("seed")),
            ("publish", None),
            ("x", None),
        ] {
            assert_eq!(nearest(name, names), expected, "{name}");
        }
    }

    #[test]
    fn a_short_list_is_shown_when_nothing_is_near() {
        assert_eq!(hint("zzzzz", "ports", ["a", "b"]), Some("ports: `a`, `b`".to_owned()));
        assert_eq!(hint("zzzzz", "ports", []), None);
    }
}

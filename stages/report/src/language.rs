//! The languages' names and resource groups, in the order of the paper's Table 1.

use serde::{Deserialize, Serialize};

/// How much text of a language CommonCrawl has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResourceGroup {
    /// More than 1 %.
    High,
    /// More than 0.1 %.
    Medium,
    /// Less than 0.1 %.
    Low,
    /// The paper does not place the language.
    Other,
}

impl ResourceGroup {
    /// Every group, in the order of tables.
    pub const ALL: [ResourceGroup; 4] = [Self::High, Self::Medium, Self::Low, Self::Other];

    /// As tables have it.
    pub fn title(self) -> &'static str {
        match self {
            Self::High => "High-resource",
            Self::Medium => "Medium-resource",
            Self::Low => "Low-resource",
            Self::Other => "Not in the paper",
        }
    }

    /// As prose and labels have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::High => "High",
            Self::Medium => "Medium",
            Self::Low => "Low",
            Self::Other => "Other",
        }
    }
}

use ResourceGroup::{High, Low, Medium, Other};

/// Code, English name and group. English is the first of its group, as in Table 1; the last four are of
/// the second paper only.
const LANGUAGES: [(&str, &str, ResourceGroup); 31] = [
    ("en", "English", High),
    ("ru", "Russian", High),
    ("de", "German", High),
    ("zh", "Chinese", High),
    ("fr", "French", High),
    ("es", "Spanish", High),
    ("it", "Italian", High),
    ("nl", "Dutch", High),
    ("vi", "Vietnamese", High),
    ("id", "Indonesian", Medium),
    ("ar", "Arabic", Medium),
    ("hu", "Hungarian", Medium),
    ("ro", "Romanian", Medium),
    ("da", "Danish", Medium),
    ("sk", "Slovak", Medium),
    ("uk", "Ukrainian", Medium),
    ("ca", "Catalan", Medium),
    ("sr", "Serbian", Medium),
    ("hr", "Croatian", Medium),
    ("hi", "Hindi", Medium),
    ("bn", "Bengali", Low),
    ("ta", "Tamil", Low),
    ("ne", "Nepali", Low),
    ("ml", "Malayalam", Low),
    ("mr", "Marathi", Low),
    ("te", "Telugu", Low),
    ("kn", "Kannada", Low),
    ("bg", "Bulgarian", Other),
    ("cs", "Czech", Other),
    ("fi", "Finnish", Other),
    ("no", "Norwegian", Other),
];

/// The English name of a language; of an unknown one its code.
pub fn name(code: &str) -> &str {
    LANGUAGES.iter().find(|language| language.0 == code).map_or(code, |language| language.1)
}

/// The group of a language.
pub fn group(code: &str) -> ResourceGroup {
    LANGUAGES.iter().find(|language| language.0 == code).map_or(Other, |language| language.2)
}

/// Where a language stands in tables; unknown ones come last, by code.
pub fn order(code: &str) -> (usize, &str) {
    let place = LANGUAGES.iter().position(|language| language.0 == code);
    (place.unwrap_or(LANGUAGES.len()), code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_are_those_of_table_1() {
        let count = |group| LANGUAGES.iter().filter(|language| language.2 == group).count();
        // English and the paper's eight; eleven; seven.
        assert_eq!(ResourceGroup::ALL.map(count), [9, 11, 7, 4]);
    }

    #[test]
    fn an_unknown_language_comes_last_under_its_code() {
        assert_eq!((name("tlh"), group("tlh")), ("tlh", Other));
        assert!(order("tlh") > order("no"));
    }
}

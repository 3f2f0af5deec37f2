//! Which figure of the paper on monolingual and multilingual tuning (Chen et al., 2024) a chart is like. The paper prints
//! no numbers of them.

/// What a chart of open-ended answers shows.
#[derive(Clone, Copy)]
pub(crate) enum Chart {
    /// Scores by size in a language that every recipe was asked in.
    Seen,
    /// The same in one that no tuning saw.
    Unseen,
    /// What answers in another language cost, by size.
    Lost,
    /// Families at one size.
    Families,
}

/// What a caption says of the figure that has the same; nothing if none has.
pub(crate) fn said(chart: Chart, base: &str, tuning: &str) -> String {
    let base = base.to_lowercase();
    let number = match (chart, &*base, tuning) {
        (Chart::Seen, "pythia", "lora") => 2,
        (Chart::Seen, "bloom", "lora") => 3,
        (Chart::Seen, "bloom", "full") => 4,
        (Chart::Unseen, "bloom", "lora" | "full") => 5,
        (Chart::Lost, "bloom" | "pythia", "lora" | "full") => 6,
        (Chart::Families, _, "lora") => 7,
        _ => return String::new(),
    };
    format!(" As Figure {number} of Chen et al., 2024.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charts_are_known_by_family_and_tuning() {
        assert_eq!(said(Chart::Seen, "BLOOM", "full"), " As Figure 4 of Chen et al., 2024.");
        assert_eq!(said(Chart::Families, "", "lora"), " As Figure 7 of Chen et al., 2024.");
        // The paper tuned Pythia in full for its Figure 6 only.
        assert_eq!(said(Chart::Seen, "Pythia", "full"), "");
        assert_eq!(said(Chart::Seen, "my-model", "lora"), "");
    }
}

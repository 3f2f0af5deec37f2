//! The card of a model: the README.md that the Hugging Face hub shows.

use std::fmt::Write as _;
use std::path::Path;

use okapi_engine::stage_context::StageError;

/// What a card says. Nothing in it depends on time or place.
pub(crate) struct ModelCard<'a> {
    /// What was done: `Supervised fine-tuning`.
    pub(crate) title: &'a str,
    /// What the model is for, in a sentence or two.
    pub(crate) about: String,
    /// What is worth knowing of how it was made: names and values.
    pub(crate) facts: Vec<(&'static str, String)>,
    /// What the hub calls its task, if it has a word for it.
    pub(crate) task: Option<&'static str>,
}

impl ModelCard<'_> {
    pub(crate) fn write(&self, folder: &Path) -> Result<(), StageError> {
        let path = folder.join("README.md");
        std::fs::write(&path, self.text()).map_err(|source| StageError::Io { path, source })
    }

    fn text(&self) -> String {
        let mut text = String::from("---\nlibrary_name: transformers\n");
        if let Some(task) = self.task {
            // Writing to a string never fails.
            let _ = writeln!(text, "pipeline_tag: {task}");
        }
        let _ = writeln!(text, "tags:\n- okapi\n---\n\n# {}\n\n{}\n", self.title, self.about);
        let _ = writeln!(text, "| | |\n|---|---|");
        for (name, value) in &self.facts {
            let _ = writeln!(text, "| {name} | {} |", value.replace('|', "\\|"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_begins_with_what_the_hub_reads() {
        let card = ModelCard {
            title: "Supervised fine-tuning",
            about: "It answers.".to_owned(),
            facts: vec![("batch", "a|b".to_owned())],
            task: Some("text-generation"),
        };
        let expected = "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- okapi\n---\n\n\
                        # Supervised fine-tuning\n\nIt answers.\n\n| | |\n|---|---|\n| batch | a\\|b |\n";
        assert_eq!(card.text(), expected);
    }
}

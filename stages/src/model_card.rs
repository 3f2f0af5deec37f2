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
    /// The prompt that it was trained with.
    pub(crate) prompt: Option<String>,
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
        if let Some(prompt) = &self.prompt {
            let fence = fence(prompt);
            let _ = writeln!(
                text,
                "\n## Prompt\n\nThe form in which it was asked; `chat_template.jinja` puts the messages of a chat into it, with `input` \
                 empty (`tokenizer.apply_chat_template`).\n\n{fence}jinja\n{}\n{fence}",
                prompt.trim_end_matches('\n')
            );
        }
        text
    }
}

/// Marks of code that no line of a text is taken for.
fn fence(text: &str) -> String {
    let longest = text.split(|letter| letter != '`').map(str::len).max().unwrap_or(0);
    "`".repeat(longest.max(2) + 1)
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
            prompt: Some("Do:\n```\n{{ instruction }}\n".to_owned()),
        };
        let expected = "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- okapi\n---\n\n\
                        # Supervised fine-tuning\n\nIt answers.\n\n| | |\n|---|---|\n| batch | a\\|b |\n\n## Prompt\n\n";
        let text = card.text();
        assert!(text.starts_with(expected), "{text}");
        assert!(text.ends_with("\n\n````jinja\nDo:\n```\n{{ instruction }}\n````\n"), "{text}");
    }
}

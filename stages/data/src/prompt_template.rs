//! Prompt files: Jinja templates, strict.
//!
//! A template uses exactly the variables that it is given: an unknown one would be asked for as
//! nothing, and one that is left out would make every request the same. Both are mistakes that are
//! found before anything is asked. White space is as in `trim_blocks` and `lstrip_blocks`: a line that
//! holds only a tag leaves no line behind. The newline at a file's end is no part of the prompt.

use std::collections::BTreeSet;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, UndefinedBehavior};
use serde_json::Value;

/// A template, ready to be filled in.
#[derive(Debug)]
pub struct PromptTemplate {
    environment: Environment<'static>,
}

/// A template that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TemplateMistake {
    /// The line, from 1, if it is in one.
    pub line: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// The name that the template has within its environment.
const NAME: &str = "prompt";

impl PromptTemplate {
    /// Reads a template that is to use these variables. `sample` holds a value for each of them, with
    /// which the template is filled in once: what only shows then is found too.
    ///
    /// # Errors
    /// At the first mistake.
    pub fn parse(
        text: &str,
        variables: &[&str],
        sample: &Value,
    ) -> Result<PromptTemplate, TemplateMistake> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let mut syntax = SyntaxConfig::builder();
        syntax.trim_blocks(true).lstrip_blocks(true);
        environment.set_syntax(syntax.build().map_err(|error| mistake(&error))?);
        // A prompt is no HTML, whatever its name.
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.add_template_owned(NAME, text.to_owned()).map_err(|error| mistake(&error))?;
        let used: BTreeSet<String> = environment
            .get_template(NAME)
            .map_err(|error| mistake(&error))?
            .undeclared_variables(false)
            .into_iter()
            .collect();
        let listed = || variables.join(", ");
        if let Some(unknown) = used.iter().find(|name| !variables.contains(&name.as_str())) {
            return Err(TemplateMistake {
                line: line_of(text, unknown),
                message: format!("there is no variable `{unknown}`"),
                hint: Some(format!("it is given {}", listed())),
            });
        }
        if let Some(unused) = variables.iter().find(|name| !used.contains(**name)) {
            return Err(TemplateMistake {
                line: None,
                message: format!("it does not use the variable `{unused}`"),
                hint: Some(format!("every prompt has to use {}", listed())),
            });
        }
        let template = PromptTemplate { environment };
        template.fill(sample).map_err(|error| mistake(&error))?;
        Ok(template)
    }

    /// Fills the template in. `values` is an object with a value for each variable.
    ///
    /// # Errors
    /// When the template does something with a value that cannot be done with it.
    pub fn render(&self, values: &Value) -> Result<String, TemplateMistake> {
        self.fill(values).map_err(|error| mistake(&error))
    }

    fn fill(&self, values: &Value) -> Result<String, minijinja::Error> {
        self.environment.get_template(NAME)?.render(minijinja::value::Serde(values))
    }
}

fn mistake(error: &minijinja::Error) -> TemplateMistake {
    let detail = error.detail().map(str::to_owned);
    let message = match (error.kind(), detail) {
        (ErrorKind::UndefinedError, None) => {
            "it asks a value for a member that it has not".to_owned()
        }
        (kind, None) => kind.to_string(),
        (_, Some(detail)) => detail,
    };
    TemplateMistake { line: error.line(), message, hint: None }
}

/// The first line that has a word in it as part of a tag.
fn line_of(text: &str, word: &str) -> Option<usize> {
    let lines = text.lines().enumerate();
    lines
        .filter(|(_, line)| line.contains('{'))
        .find(|(_, line)| line.contains(word))
        .map(|it| it.0 + 1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(text: &str) -> Result<PromptTemplate, TemplateMistake> {
        let sample = json!({ "language": "Dutch", "rows": [{ "text": "a" }] });
        PromptTemplate::parse(text, &["language", "rows"], &sample)
    }

    #[test]
    fn a_template_is_filled_in_line_by_line() {
        let text = "{# about #}\nInto {{ language }}:\n{% for row in rows %}\n{{ loop.index }}. {{ row.text }}\n{% endfor %}\nEnd\n";
        let template = parse(text).unwrap();
        let values = json!({ "language": "Dutch", "rows": [{ "text": "<a>" }, { "text": "b" }] });
        assert_eq!(template.render(&values).unwrap(), "Into Dutch:\n1. <a>\n2. b\nEnd");
    }

    #[test]
    fn unknown_and_unused_variables_are_mistakes() {
        for (text, line, expected) in [
            ("{{ language }}\n{{ rows }}\n{{ langage }}", Some(3), "no variable `langage`"),
            ("{{ language }}", None, "does not use the variable `rows`"),
            ("{{ language }\n{{ rows }}", Some(1), ""),
            (
                "{{ language }}\n{% for row in rows %}{{ row.txt }}{% endfor %}",
                Some(2),
                "`row.txt` is undefined",
            ),
            ("{{ language }}\n{% for row in rows %}", None, ""),
            ("{{ language }}{{ rows | nonsense }}", Some(1), "nonsense"),
            ("{% include 'x' %}{{ language }}{{ rows }}", Some(1), ""),
        ] {
            let mistake = parse(text).unwrap_err();
            assert!(mistake.message.contains(expected), "{text}: {mistake:?}");
            if line.is_some() {
                assert_eq!(mistake.line, line, "{text}: {mistake:?}");
            }
        }
    }
}

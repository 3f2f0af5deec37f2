//! HellaSwag: the beginning of a text, and each ending as its continuation. Both protocols put it alike.

use okapi_data::Question;

use crate::error::EvalError;
use crate::python_text::{capitalize, strip};
use crate::task::Asked;

/// A question as both protocols put it.
pub(crate) fn ask(question: &Question) -> Result<Asked, EvalError> {
    let parts = question.hellaswag.as_ref().ok_or_else(|| {
        let message = "it lacks `hellaswag` with `activity_label`, `ctx_a` and `ctx_b`, which its beginning is made \
                       of; import it from a file that has them";
        EvalError::question(&question.id, message)
    })?;
    let beginning =
        format!("{}: {} {}", parts.activity_label, parts.ctx_a, capitalize(&parts.ctx_b));
    Ok(Asked {
        query: clean(&beginning),
        choices: question.choices.iter().map(|ending| clean(ending)).collect(),
        target: question.answer,
    })
}

/// Takes out what the how-to articles left: titles end a sentence, what is in brackets goes, and two spaces
/// become one, once.
pub(crate) fn clean(text: &str) -> String {
    let text = strip(text).replace(" [title]", ". ");
    without_brackets(&text).replace("  ", " ")
}

/// Takes out every `[`, the first `]` after it, and what is between, if that is on one line.
fn without_brackets(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('[') {
        let inside = &rest[open + 1..];
        match inside.find([']', '\n']) {
            Some(close) if inside[close..].starts_with(']') => {
                kept.push_str(&rest[..open]);
                rest = &inside[close + 1..];
            }
            _ => {
                kept.push_str(&rest[..=open]);
                rest = inside;
            }
        }
    }
    kept.push_str(rest);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cleaned_as_the_harness_does() {
        for (text, cleaned) in [
            ("  a b\n", "a b"),
            ("How to [title] Begin", "How to. Begin"),
            ("[header] a [step] b [substeps]", " a b "),
            ("a   b", "a  b"),
            ("a    b", "a  b"),
            ("[a [b] c]", " c]"),
            ("[a\nb] c [d\n[e] f", "[a\nb] c [d\n f"),
            ("a] [b", "a] [b"),
            ("[]", ""),
            ("[title] a", " a"),
            ("", ""),
        ] {
            assert_eq!(clean(text), cleaned, "{text:?}");
        }
    }
}

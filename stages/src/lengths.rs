//! How many rows there will be and how long they are, before they are there: for `plan`.
//!
//! Tokens are counted as BLOOM's tokenizer has them, in the language of the row. Where nothing is known but how many rows
//! there are, they are as long as those of the Okapi paper.

use std::io::{BufRead, BufReader};
use std::path::Path;

use okapi_data::language::{Language, Script};
use okapi_engine::estimate::{EstimateQuestion, Expected, RowsEstimate};
use okapi_engine::port::PortKind;
use serde_json::Value;

/// What `plan` says where it takes these.
pub(crate) const ASSUMPTION: &str = "rows that are not there yet are as long as the Okapi paper's (Table 2, mean tokens by BLOOM's tokenizer), \
     questions of benchmarks 80 tokens, unless their inputs are there";

/// Mean tokens of prompts and of responses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Lengths {
    pub(crate) prompt: f64,
    pub(crate) response: f64,
}

const fn lengths(prompt: f64, response: f64) -> Lengths {
    Lengths { prompt, response }
}

/// The Okapi paper's Table 2, translations of Alpaca: mean tokens of prompts and responses by BLOOM's tokenizer.
const TABLE_2: [(&str, Lengths); 27] = [
    ("en", lengths(49.0, 56.2)),
    ("ru", lengths(72.1, 131.8)),
    ("de", lengths(61.1, 94.2)),
    ("zh", lengths(47.2, 47.9)),
    ("fr", lengths(51.6, 65.5)),
    ("es", lengths(51.3, 62.7)),
    ("it", lengths(57.4, 86.5)),
    ("nl", lengths(60.3, 94.8)),
    ("vi", lengths(53.4, 71.3)),
    ("id", lengths(48.6, 54.9)),
    ("ar", lengths(50.0, 60.5)),
    ("hu", lengths(68.4, 117.3)),
    ("ro", lengths(62.9, 103.9)),
    ("da", lengths(59.7, 91.7)),
    ("sk", lengths(65.1, 110.2)),
    ("uk", lengths(76.9, 149.1)),
    ("ca", lengths(51.8, 65.1)),
    ("sr", lengths(62.4, 102.1)),
    ("hr", lengths(63.0, 102.7)),
    ("hi", lengths(54.7, 69.5)),
    ("bn", lengths(53.8, 65.7)),
    ("ta", lengths(55.3, 65.0)),
    ("ne", lengths(53.8, 65.9)),
    ("ml", lengths(57.8, 75.1)),
    ("mr", lengths(53.6, 67.7)),
    ("te", lengths(57.1, 74.4)),
    ("kn", lengths(55.4, 69.5)),
];
/// The table's last line.
const AVERAGE: Lengths = lengths(57.1, 80.8);
/// Its English rows: Alpaca's, and those that were made for Okapi.
pub(crate) const ALPACA: Lengths = lengths(49.0, 56.2);
pub(crate) const GENERATED: Lengths = lengths(51.2, 58.0);
/// Its last line, of what was made for Okapi: of which the paper's rankings are.
const GENERATED_AVERAGE: Lengths = lengths(60.3, 82.6);
/// The paper's responses to be ranked.
const RANKED: f64 = 4.0;
/// Tokens of a question with its choices, roughly the mean of ARC, HellaSwag and MMLU in English; no paper says it.
const QUESTION: f64 = 80.0;
/// Bytes of English for a token, and of what a row has beside its texts: its id, and names of fields.
const TOKEN_BYTES: f64 = 4.0;
const ROW_BYTES: f64 = 100.0;
/// Rows of a file that are looked at for their lengths.
const LOOKED_AT: usize = 500;

/// What a translation has for each token of the English original, in prompts and in responses.
pub(crate) fn ratio(language: Language) -> Lengths {
    let found = TABLE_2.iter().find(|(code, _)| *code == language.code);
    let Lengths { prompt, response } = found.map_or(AVERAGE, |(_, lengths)| *lengths);
    Lengths { prompt: prompt / ALPACA.prompt, response: response / ALPACA.response }
}

/// What `plan` says where it takes [`tokens_for_one`].
pub(crate) const TEACHERS_ASSUMPTION: &str = "a teacher reads and writes 1.4 tokens for one of the English original in Latin script, 1.3 in Chinese, 2.2 in \
     Cyrillic and Arabic script, 4 in any other";

/// Tokens for each of the English original, roughly, by the tokenizers of today's large models, which teachers
/// have.
pub(crate) fn tokens_for_one(script: Script) -> f64 {
    match script {
        Script::Latin => 1.4,
        Script::Han => 1.3,
        Script::Cyrillic | Script::Arabic => 2.2,
        _ => 4.0,
    }
}

/// Bytes of a translation for each of the English original, in UTF-8.
fn bytes_for_one(script: Script) -> f64 {
    match script {
        Script::Latin => 1.1,
        Script::Han => 1.0,
        Script::Cyrillic | Script::Arabic => 1.9,
        _ => 2.6,
    }
}

/// So many rows of a kind of which nothing else is known; `None` for what has no rows.
pub(crate) fn usual(kind: PortKind, rows: u64) -> Option<RowsEstimate> {
    let (prompt, response, responses) = match kind {
        PortKind::Instructions => (ALPACA.prompt, ALPACA.response, 1.0),
        PortKind::Prompts => (ALPACA.prompt, 0.0, 0.0),
        PortKind::Questions => (QUESTION, 0.0, 0.0),
        PortKind::Responses => (GENERATED_AVERAGE.prompt, GENERATED_AVERAGE.response, 1.0),
        PortKind::Rankings => (GENERATED_AVERAGE.prompt, GENERATED_AVERAGE.response, RANKED),
        _ => return None,
    };
    Some(of_english(rows, prompt, response * responses, responses))
}

/// So many English rows of these lengths.
pub(crate) fn of_english(rows: u64, prompt: f64, response: f64, responses: f64) -> RowsEstimate {
    RowsEstimate {
        rows,
        bytes_per_row: ROW_BYTES + TOKEN_BYTES * (prompt + response),
        prompt_tokens: prompt,
        responses,
        response_tokens: response,
    }
}

/// English rows in another language.
pub(crate) fn translated(rows: RowsEstimate, language: Language) -> RowsEstimate {
    if language.code == "en" {
        return rows;
    }
    let Lengths { prompt, response } = ratio(language);
    let texts = (rows.bytes_per_row - ROW_BYTES).max(0.0);
    RowsEstimate {
        bytes_per_row: rows.bytes_per_row.min(ROW_BYTES) + texts * bytes_for_one(language.script),
        prompt_tokens: rows.prompt_tokens * prompt,
        response_tokens: rows.response_tokens * response,
        ..rows
    }
}

/// Tokens of a row's texts in English, of prompt and responses.
pub(crate) fn in_english(rows: &RowsEstimate, language: Language) -> (f64, f64) {
    let Lengths { prompt, response } = ratio(language);
    (rows.prompt_tokens / prompt, rows.response_tokens / response)
}

/// The same prompts with other responses: so many each, of so many tokens.
pub(crate) fn with_responses(rows: &RowsEstimate, responses: f64, tokens: f64) -> RowsEstimate {
    let before = rows.prompt_tokens + rows.response_tokens;
    let bytes = (rows.bytes_per_row - ROW_BYTES).max(0.0) / before.max(1.0);
    let response_tokens = responses * tokens;
    let bytes_per_row = ROW_BYTES + bytes * (rows.prompt_tokens + response_tokens);
    RowsEstimate { bytes_per_row, responses, response_tokens, ..*rows }
}

/// Tokens of a response to such rows; as long as the paper's if they have none.
pub(crate) fn usual_response(rows: &RowsEstimate) -> f64 {
    match rows.response_tokens > 0.0 && rows.responses > 0.0 {
        true => rows.response_tokens / rows.responses,
        false => AVERAGE.response,
    }
}

/// The rows of all artifacts of a port; `None` if nothing is known of one of them.
pub(crate) fn of_port(question: &EstimateQuestion<'_>, port: &str) -> Option<RowsEstimate> {
    together(&each_of_port(question, port)?)
}

/// The rows of each artifact of a port.
pub(crate) fn each_of_port(
    question: &EstimateQuestion<'_>,
    port: &str,
) -> Option<Vec<RowsEstimate>> {
    question.inputs.get(port)?.iter().map(|(_, expected)| of_artifact(expected)).collect()
}

/// The rows of an artifact that is there, or of which that is known.
pub(crate) fn of_artifact(expected: &Expected) -> Option<RowsEstimate> {
    match expected {
        Expected::Rows(rows) => Some(*rows),
        Expected::Present(path) => of_file(path),
        Expected::PresentTree(_) | Expected::Facts(_) | Expected::Unknown => None,
    }
}

/// Rows put together.
pub(crate) fn together(parts: &[RowsEstimate]) -> Option<RowsEstimate> {
    parts.first()?;
    let rows: u64 = parts.iter().map(|part| part.rows).sum();
    let mean = |of: fn(&RowsEstimate) -> f64| {
        let sum: f64 = parts.iter().map(|part| part.rows as f64 * of(part)).sum();
        sum / rows.max(1) as f64
    };
    Some(RowsEstimate {
        rows,
        bytes_per_row: mean(|part| part.bytes_per_row),
        prompt_tokens: mean(|part| part.prompt_tokens),
        responses: mean(|part| part.responses),
        response_tokens: mean(|part| part.response_tokens),
    })
}

/// The rows of a file; `None` if it holds something else.
fn of_file(path: &Path) -> Option<RowsEstimate> {
    let mut file = BufReader::new(std::fs::File::open(path).ok()?);
    let (mut rows, mut bytes, mut looked_at) = (0_u64, 0_u64, 0_u64);
    let (mut prompt, mut response, mut responses) = (0.0, 0.0, 0.0);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = file.read_until(b'\n', &mut line).ok()?;
        if read == 0 {
            break;
        }
        bytes += read as u64;
        if line.trim_ascii().is_empty() {
            continue;
        }
        // The first ones, and then every hundredth: what is put together may differ from end to end.
        if rows < LOOKED_AT as u64 / 2 || rows.is_multiple_of(100) {
            let row = serde_json::from_slice::<Value>(&line).ok().filter(Value::is_object)?;
            let (asked, answers) = texts(&row);
            prompt += asked.iter().map(|text| tokens(text)).sum::<f64>();
            response += answers.iter().map(|text| tokens(text)).sum::<f64>();
            responses += answers.len() as f64;
            looked_at += 1;
        }
        rows += 1;
    }
    let (all, looked_at) = (rows.max(1) as f64, looked_at.max(1) as f64);
    Some(RowsEstimate {
        rows,
        bytes_per_row: bytes as f64 / all,
        prompt_tokens: prompt / looked_at,
        responses: responses / looked_at,
        response_tokens: response / looked_at,
    })
}

/// The texts of a row of any kind: what is asked, and the answers.
fn texts(row: &Value) -> (Vec<&str>, Vec<&str>) {
    let texts = |names: &[&str]| -> Vec<&str> {
        let values = names.iter().filter_map(|name| row.get(*name));
        let lists = values.flat_map(|value| match value {
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
            Value::String(text) => vec![&text[..]],
            _ => Vec::new(),
        });
        lists.collect()
    };
    (texts(&["instruction", "input", "question", "choices"]), texts(&["output", "responses"]))
}

/// Tokens of a text by a tokenizer of many languages, roughly, as Table 2 has them: four characters of an
/// alphabet, or one and a half of Chinese.
pub(crate) fn tokens(text: &str) -> f64 {
    let is_wide = |it: char| ('\u{2e80}'..='\u{9fff}').contains(&it) || it >= '\u{f900}';
    let wide = text.chars().filter(|it| is_wide(*it)).count();
    let narrow = text.chars().count() - wide;
    wide as f64 / 1.5 + narrow as f64 / 4.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_papers() {
        let mean = |of: fn(&Lengths) -> f64| {
            TABLE_2.iter().map(|(_, lengths)| of(lengths)).sum::<f64>() / TABLE_2.len() as f64
        };
        // Its last line is not the mean of the others to the digit: that would be 57.5 and 82.3.
        let about = |found: f64, printed: f64| (found / printed - 1.0).abs() < 0.02;
        let (prompt, response) = (mean(|it| it.prompt), mean(|it| it.response));
        assert!(
            about(prompt, AVERAGE.prompt) && about(response, AVERAGE.response),
            "{prompt} {response}"
        );
    }

    #[test]
    fn rows_get_longer_by_translation_and_are_put_together() {
        let german = Language::of("de").unwrap();
        let rows = usual(PortKind::Instructions, 100).unwrap();
        assert_eq!(rows.bytes_per_row, 100.0 + 4.0 * (49.0 + 56.2));
        let translated = translated(rows, german);
        assert!((translated.prompt_tokens - 61.1).abs() < 1e-9);
        assert!((translated.response_tokens - 94.2).abs() < 1e-9);
        let (prompt, response) = in_english(&translated, german);
        assert!((prompt - 49.0).abs() < 1e-9 && (response - 56.2).abs() < 1e-9);
        let both = together(&[rows, RowsEstimate { rows: 300, ..translated }]).unwrap();
        assert_eq!(both.rows, 400);
        assert!((both.prompt_tokens - (49.0 + 3.0 * 61.1) / 4.0).abs() < 1e-9);
        assert_eq!(usual(PortKind::Rankings, 1).unwrap().response_tokens, 4.0 * 82.6);
        assert_eq!(usual(PortKind::Model, 1), None);
    }

    #[test]
    fn what_is_there_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        std::fs::write(
            &path,
            "{\"instruction\":\"12345678\",\"input\":\"\",\"responses\":[\"1234\",\"中文字\"]}\n\n",
        )
        .unwrap();
        let rows = of_file(&path).unwrap();
        assert_eq!((rows.rows, rows.prompt_tokens, rows.responses), (1, 2.0, 2.0));
        assert_eq!(rows.response_tokens, 3.0);
        std::fs::write(&path, "Some text.\n").unwrap();
        assert_eq!(of_file(&path), None);
    }
}

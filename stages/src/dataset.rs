//! `dataset`: rows as a folder that the Hugging Face hub takes, with a card that says what they were made of.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use okapi_data::language::LANGUAGES;
use okapi_engine::lineage::{Lineage, LineageScope};
use okapi_engine::port::{Accepts, PortKind};
use okapi_engine::stage::{
    Determinism, InputPort, Inputs, OutputKind, OutputPort, Outputs, Param, ParamDefault,
    ParamType, Stage, StageDescriptor,
};
use okapi_engine::stage_context::{InputPath, StageContext, StageError, StageSuccess};
use serde_json::Value;

use crate::card::{self, one_line};
use crate::mix;

/// The stage.
pub(crate) struct Dataset;

const DOCUMENTATION: &str = "\
Puts rows into a folder as the Hugging Face hub has data sets: `data/<configuration>.jsonl`, one for each input, and README.md,
the card, with what the hub reads of it (languages, license, size, configurations) and what a person wants to know: how
many rows there are, and every node that had a part in them, with the digest of its action. `load_dataset` opens it
as it is.

    data_set:
      stage: dataset
      inputs: {data: \"translate:data\"}         # one configuration for each language
      params: {title: Instructions in 26 languages, license: cc-by-nc-4.0}

A configuration has the name of its language (the axis `language_axis`), and otherwise that of its node and axes. As the card
names actions, the folder is made anew when an action above it changes, even where the rows stay.

Upload it with `hf upload OWNER/NAME FOLDER --repo-type dataset`.";

static PARAMS: [Param; 4] = [
    card::required_text("title", "what the data set is called"),
    card::text("summary", "a few sentences below the title"),
    card::text(
        "license",
        "the license, as the hub names it: `cc-by-nc-4.0`; what teachers have written is under their terms too",
    ),
    Param {
        name: "language_axis",
        ty: ParamType::String,
        default: ParamDefault::Value("\"lang\""),
        identity: true,
        help: "the axis that holds the codes of languages",
    },
];

static DESCRIPTOR: StageDescriptor = StageDescriptor {
    name: "dataset",
    version: 1,
    summary: "puts rows into a folder that the Hugging Face hub takes, with a card",
    documentation: DOCUMENTATION,
    inputs: Inputs::Fixed(&[InputPort {
        name: "data",
        accepts: Accepts::Kinds(&mix::KINDS),
        required: true,
        gathers: true,
        help: "the rows; each input is a configuration",
    }]),
    outputs: Outputs::Fixed(&[OutputPort {
        name: "dataset",
        kind: OutputKind::Fixed(PortKind::Tree),
        help: "the folder",
    }]),
    params: &PARAMS,
    prompts: &[],
    fields: &[],
    determinism: Determinism::Bytes,
};

impl Stage for Dataset {
    fn descriptor(&self) -> &'static StageDescriptor {
        &DESCRIPTOR
    }

    fn lineage(&self, _: &Value) -> LineageScope {
        LineageScope::Actions
    }

    fn run(&self, context: &mut StageContext<'_>) -> Result<StageSuccess, StageError> {
        let lineage = card::lineage_of(context)?;
        let params = &context.declared["params"];
        let text = |name: &str| params.get(name).and_then(Value::as_str);
        let axis = text("language_axis").unwrap_or("lang");
        let folder = context.outputs["dataset"].clone();
        let io = |source| StageError::Io { path: folder.clone(), source };
        std::fs::create_dir_all(folder.join("data")).map_err(io)?;
        let inputs: Vec<(&str, &Path)> = match &context.inputs["data"] {
            InputPath::Single(path) => vec![("default", path)],
            InputPath::Gathered { items, .. } => {
                items.iter().map(|(key, path)| (&**key, &**path)).collect()
            }
        };
        let languages: Vec<Option<&str>> =
            inputs.iter().map(|(key, _)| language_of(key, axis)).collect();
        let mut configurations = Vec::new();
        let mut names = BTreeSet::new();
        for ((key, path), language) in inputs.iter().zip(&languages) {
            // The language alone is the name, unless there are two of it.
            let of_language = languages.iter().filter(|other| *other == language).count();
            let name = match language {
                Some(language) if of_language == 1 => (*language).to_owned(),
                _ => file_name(key),
            };
            if !names.insert(name.clone()) {
                let message = format!("`{key}` and another input are both called `{name}`");
                return Err(StageError::failed(message));
            }
            let rows = copy(path, &folder.join("data").join(format!("{name}.jsonl")))?;
            configurations.push(Configuration { name, language: *language, rows });
            if context.cancel.is_requested() {
                return Err(StageError::Cancelled);
            }
        }
        let card = Card {
            title: text("title").unwrap_or_default(),
            summary: text("summary").unwrap_or_default(),
            license: text("license"),
            configurations: &configurations,
            lineage,
        };
        std::fs::write(folder.join(card::CARD), card.text()).map_err(io)?;
        let mut success = StageSuccess::default();
        let rows: u64 = configurations.iter().map(|it| it.rows).sum();
        success.metrics.insert("rows".to_owned(), rows as f64);
        success.metrics.insert("configurations".to_owned(), configurations.len() as f64);
        Ok(success)
    }
}

/// The language in a key such as `lang=de,seed=1` or `translate[lang=de]:data`.
fn language_of<'a>(key: &'a str, axis: &str) -> Option<&'a str> {
    let mut parts = key.split(['[', ']', ',']).filter_map(|part| part.split_once('='));
    let (_, value) = parts.find(|(name, _)| *name == axis)?;
    LANGUAGES.iter().any(|language| language.code == value).then_some(value)
}

/// A key as the name of a file that stays in its folder.
fn file_name(key: &str) -> String {
    let letter = |letter: char| match letter {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '-' => letter,
        _ => '_',
    };
    let name: String = key.chars().map(letter).collect();
    let name = name.trim_matches('_');
    if name.is_empty() { "default".to_owned() } else { name.to_owned() }
}

/// Copies rows, and counts them.
fn copy(from: &Path, to: &Path) -> Result<u64, StageError> {
    let cannot_read = |source| StageError::Io { path: from.to_owned(), source };
    let cannot_write = |source| StageError::Io { path: to.to_owned(), source };
    let mut reader = BufReader::new(File::open(from).map_err(cannot_read)?);
    let mut writer = BufWriter::new(File::create(to).map_err(cannot_write)?);
    let (mut rows, mut line) = (0, Vec::new());
    while reader.read_until(b'\n', &mut line).map_err(cannot_read)? > 0 {
        rows += u64::from(!line.trim_ascii().is_empty());
        writer.write_all(&line).map_err(cannot_write)?;
        line.clear();
    }
    writer.flush().map_err(cannot_write)?;
    Ok(rows)
}

/// A part of a data set that is loaded by its name.
struct Configuration<'a> {
    name: String,
    language: Option<&'a str>,
    rows: u64,
}

/// The README.md that the hub shows. Nothing in it depends on time or place.
struct Card<'a> {
    title: &'a str,
    summary: &'a str,
    license: Option<&'a str>,
    configurations: &'a [Configuration<'a>],
    lineage: &'a Lineage,
}

impl Card<'_> {
    fn text(&self) -> String {
        let mut text = String::from("---\n");
        let rows: u64 = self.configurations.iter().map(|it| it.rows).sum();
        let languages: BTreeSet<&str> =
            self.configurations.iter().filter_map(|it| it.language).collect();
        // JSON texts are YAML's too. Writing to a string never fails.
        let _ = writeln!(text, "pretty_name: {}", Value::from(self.title));
        if let Some(license) = self.license {
            let _ = writeln!(text, "license: {}", Value::from(license));
        }
        text.push_str(&card::list("language", languages));
        let _ = writeln!(text, "size_categories:\n- {}", size(rows));
        let _ = writeln!(text, "tags:\n- okapi\nconfigs:");
        for Configuration { name, .. } in self.configurations {
            let _ = writeln!(text, "- config_name: {}", Value::from(&**name));
            let _ = writeln!(text, "  data_files: {}", Value::from(format!("data/{name}.jsonl")));
        }
        let _ = writeln!(text, "---\n\n# {}\n", one_line(self.title));
        if !self.summary.is_empty() {
            let _ = writeln!(text, "{}\n", self.summary);
        }
        let _ = writeln!(text, "| configuration | rows |\n|---|---:|");
        for Configuration { name, rows, .. } in self.configurations {
            let _ = writeln!(text, "| {name} | {rows} |");
        }
        text.push('\n');
        text.push_str(&card::provenance(self.lineage));
        text
    }
}

/// The hub's words for sizes.
fn size(rows: u64) -> &'static str {
    match rows {
        0..1_000 => "n<1K",
        1_000..10_000 => "1K<n<10K",
        10_000..100_000 => "10K<n<100K",
        100_000..1_000_000 => "100K<n<1M",
        1_000_000..10_000_000 => "1M<n<10M",
        10_000_000..100_000_000 => "10M<n<100M",
        100_000_000..1_000_000_000 => "100M<n<1B",
        _ => "1B<n<10B",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_named_by_language_and_stay_in_their_folder() {
        assert_eq!(language_of("lang=de,seed=1", "lang"), Some("de"));
        assert_eq!(language_of("translate[lang=zh]:data", "lang"), Some("zh"));
        assert_eq!(language_of("lang=klingon", "lang"), None);
        assert_eq!(language_of("code=de", "lang"), None);
        assert_eq!(file_name("a[b=../../etc]:data"), "a_b_______etc__data");
        assert_eq!(file_name("../.."), "default");
    }

    #[test]
    fn a_card_is_of_its_rows_and_actions() {
        let lineage = serde_json::from_value(serde_json::json!({
            "lineage": 1,
            "inputs": {},
            "ancestors": {"seeds": {
                "stage": "import", "stage_version": 2, "action": "0".repeat(64),
            }},
        }));
        let configurations =
            [Configuration { name: "de".to_owned(), language: Some("de"), rows: 1000 }];
        let card = Card {
            title: "A: \"b\"",
            summary: "",
            license: Some("cc0-1.0"),
            configurations: &configurations,
            lineage: &lineage.unwrap(),
        };
        let text = card.text();
        let front = "---\npretty_name: \"A: \\\"b\\\"\"\nlicense: \"cc0-1.0\"\nlanguage:\n- \"de\"\nsize_categories:\n\
                     - 1K<n<10K\ntags:\n- okapi\nconfigs:\n- config_name: \"de\"\n  data_files: \"data/de.jsonl\"\n---\n";
        assert!(text.starts_with(front), "{text}");
        assert!(text.contains(&format!("| seeds | import 2 | `{}` |", "0".repeat(64))), "{text}");
        assert!(text.contains("| de | 1000 |"), "{text}");
    }
}

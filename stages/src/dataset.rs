//! `dataset`: rows as a folder that the Hugging Face hub takes, with a card that says what they were made of.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use okapi_data::language::LANGUAGES;
use okapi_engine::graph::parse_instance_name;
use okapi_engine::lineage::{Lineage, LineageScope};
use okapi_engine::port::{Accepts, PortKind};
use okapi_engine::stage::{
    Determinism, InputPort, Inputs, OutputKind, OutputPort, Outputs, Param, ParamDefault,
    ParamType, Stage, StageDescriptor,
};
use okapi_engine::stage_context::{InputPath, StageContext, StageError, StageSuccess};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::card::{self, one_line};
use crate::croissant::{self, Content, Croissant, DataFile};
use crate::mix;
use crate::row_members::Members;

/// The stage.
pub(crate) struct Dataset;

const DOCUMENTATION: &str = "\
Puts rows into a folder as the Hugging Face hub has data sets: `data/<configuration>.jsonl`, one for each input; README.md,
the card, with what the hub reads of it (languages, license, size, configurations) and what a person wants to know: how
many rows there are, and every node that had a part in them, with the digest of its action; and croissant.json, which says
the same to programs, as Croissant 1.0 has it, with the fields of the rows and the SHA-256 of each file. `load_dataset` opens
the folder as it is, and `mlcroissant load --jsonld croissant.json --record_set <configuration>` refuses a file that is another.

    data_set:
      stage: dataset
      inputs: {data: \"translate:data\"}         # one configuration for each language
      params: {title: Instructions in 26 languages, license: cc-by-nc-4.0}

A configuration has the name of its language (the axis `language_axis`), and where there are two of it, or none, that of
its node and axes. Rows that two nodes give alike to the byte in one language, such as English ones that were translated into
English, are one configuration. As the card
names actions, the folder is made anew when an action above it changes, even where the rows stay.

Croissant wants to know too who made a data set, where it is and since when, which no run can know: `creators`, `url` and
`date_published`, and `cite_as`. `mlcroissant validate` accepts the file without them, and warns of most.

Upload it with `hf upload OWNER/NAME FOLDER --repo-type dataset`.";

static PARAMS: [Param; 9] = [
    card::required_text("title", "what the data set is called"),
    card::text("summary", "a few sentences below the title"),
    card::text(
        "license",
        "the license, as the hub names it: `cc-by-nc-4.0`; what teachers have written is under their terms too",
    ),
    Param {
        name: "version",
        ty: ParamType::String,
        default: ParamDefault::Value("\"1.0.0\""),
        identity: true,
        help: "in croissant.json: the data set's version, MAJOR.MINOR.PATCH",
    },
    card::texts("creators", "in croissant.json: the names of the persons who made it"),
    card::text("url", "in croissant.json: the page where it is published"),
    card::text("date_published", "in croissant.json: the day of that, YYYY-MM-DD"),
    card::text("cite_as", "in croissant.json: how to cite it, such as an entry of BibTeX"),
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
    version: 3,
    summary: "puts rows into a folder that the Hugging Face hub takes, with a card and a Croissant description",
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

    fn check(&self, declared: &Value) -> Result<(), String> {
        let text = |name: &str| declared["params"].get(name).and_then(Value::as_str);
        if let Some(version) = text("version").filter(|text| !is_version(text)) {
            return Err(format!("`version` must be three numbers such as 1.0.0, not `{version}`"));
        }
        if let Some(date) = text("date_published").filter(|text| !is_date(text)) {
            return Err(format!("`date_published` must be a day such as 2026-01-31, not `{date}`"));
        }
        let is_web = |text: &&str| text.starts_with("https://") || text.starts_with("http://");
        match text("url").filter(|text| !is_web(text)) {
            Some(url) => Err(format!("`url` must begin with `https://` or `http://`, not `{url}`")),
            None => Ok(()),
        }
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
        let origins = lineage.inputs.get("data");
        let node = |key: &str| -> Option<&str> {
            Some(parse_instance_name(&origins?.get(key)?.instance).0)
        };
        let inputs = without_twins(inputs, axis, &node)?;
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
            let content = copy(path, &folder.join(croissant::path(&name)), key)?;
            let origin = origins.and_then(|origins| origins.get(*key));
            let origin = origin.map(|origin| &*origin.instance);
            configurations.push(Configuration { name, language: *language, content, origin });
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
        let rows: u64 = configurations.iter().map(|it| it.content.rows).sum();
        let description = match text("summary").filter(|summary| !summary.is_empty()) {
            Some(summary) => summary.to_owned(),
            None => description(rows, configurations.len()),
        };
        let files = configurations.iter().map(|it| DataFile {
            name: &it.name,
            language: it.language,
            content: &it.content,
            origin: it.origin,
        });
        let creators = params["creators"].as_array().into_iter().flatten();
        let croissant = Croissant {
            title: text("title").unwrap_or_default(),
            description,
            license: text("license"),
            version: text("version").unwrap_or("1.0.0"),
            url: text("url"),
            creators: creators.filter_map(Value::as_str).collect(),
            date_published: text("date_published"),
            cite_as: text("cite_as"),
            files: files.collect(),
            lineage,
        };
        std::fs::write(folder.join(croissant::FILE), croissant.text()).map_err(io)?;
        let mut success = StageSuccess::default();
        success.metrics.insert("rows".to_owned(), rows as f64);
        success.metrics.insert("configurations".to_owned(), configurations.len() as f64);
        Ok(success)
    }
}

/// The inputs but those whose rows are, to the byte, rows that another node gave before in the same language: English
/// ones before and after a translation into English. `node` says which one made an input.
fn without_twins<'a>(
    inputs: Vec<(&'a str, &'a Path)>,
    axis: &str,
    node: &dyn Fn(&str) -> Option<&'a str>,
) -> Result<Vec<(&'a str, &'a Path)>, StageError> {
    let mut kept: Vec<(&str, &Path)> = Vec::new();
    for (key, path) in inputs {
        let language = language_of(key, axis);
        let io = |source| StageError::Io { path: path.to_owned(), source };
        let length = |path: &Path| std::fs::metadata(path).map(|found| found.len()).map_err(io);
        let mut is_twin = false;
        for (other_key, other) in &kept {
            let may_be = language.is_some()
                && language_of(other_key, axis) == language
                && node(other_key) != node(key);
            // Most differ in length, and need not be read.
            is_twin |= may_be
                && length(path)? == length(other)?
                && std::fs::read(path).map_err(io)? == std::fs::read(other).map_err(io)?;
        }
        if !is_twin {
            kept.push((key, path));
        }
    }
    Ok(kept)
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

/// What there is to say of a data set of which nobody has said anything.
fn description(rows: u64, configurations: usize) -> String {
    let rows = if rows == 1 { "1 row".to_owned() } else { format!("{rows} rows") };
    match configurations {
        1 => format!("{rows}, made by okapi."),
        _ => format!("{rows} in {configurations} configurations, made by okapi."),
    }
}

/// Whether a text is a version of three numbers.
fn is_version(text: &str) -> bool {
    let is_number = |part: &str| {
        part.bytes().all(|digit| digit.is_ascii_digit()) && (part == "0" || !part.starts_with('0'))
    };
    let parts: Vec<&str> = text.split('.').collect();
    parts.len() == 3 && parts.iter().all(|part| !part.is_empty() && is_number(part))
}

/// Whether a text has the form of a day.
fn is_date(text: &str) -> bool {
    let is_formed = text.bytes().enumerate().all(|(place, letter)| match place {
        4 | 7 => letter == b'-',
        _ => letter.is_ascii_digit(),
    });
    text.len() == 10
        && is_formed
        && ("01"..="12").contains(&&text[5..7])
        && ("01"..="31").contains(&&text[8..])
}

/// Copies rows, and learns what there is to say of them. `key` is for messages.
fn copy(from: &Path, to: &Path, key: &str) -> Result<Content, StageError> {
    let cannot_read = |source| StageError::Io { path: from.to_owned(), source };
    let cannot_write = |source| StageError::Io { path: to.to_owned(), source };
    let mut reader = BufReader::new(File::open(from).map_err(cannot_read)?);
    let mut writer = BufWriter::new(File::create(to).map_err(cannot_write)?);
    let (mut rows, mut bytes, mut hasher) = (0, 0, Sha256::new());
    let mut members = Members::default();
    let (mut number, mut line) = (0, Vec::new());
    while reader.read_until(b'\n', &mut line).map_err(cannot_read)? > 0 {
        number += 1;
        if !line.trim_ascii().is_empty() {
            let row: Map<String, Value> = serde_json::from_slice(&line).map_err(|error| {
                StageError::failed(format!("line {number} of `{key}` is no row: {error}"))
            })?;
            members.add(&row);
            rows += 1;
        }
        bytes += line.len() as u64;
        hasher.update(&line);
        writer.write_all(&line).map_err(cannot_write)?;
        line.clear();
    }
    writer.flush().map_err(cannot_write)?;
    let sha256 = format!("{:x}", hasher.finalize());
    Ok(Content { rows, bytes, sha256, members })
}

/// A part of a data set that is loaded by its name.
struct Configuration<'a> {
    name: String,
    language: Option<&'a str>,
    content: Content,
    /// The instance that made its rows.
    origin: Option<&'a str>,
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
        let rows: u64 = self.configurations.iter().map(|it| it.content.rows).sum();
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
            let _ = writeln!(text, "  data_files: {}", Value::from(croissant::path(name)));
        }
        let _ = writeln!(text, "---\n\n# {}\n", one_line(self.title));
        if !self.summary.is_empty() {
            let _ = writeln!(text, "{}\n", self.summary);
        }
        let _ = writeln!(text, "| configuration | rows |\n|---|---:|");
        for Configuration { name, content, .. } in self.configurations {
            let _ = writeln!(text, "| {name} | {} |", content.rows);
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
    fn what_comes_twice_in_a_language_is_one_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (one, same, other) = (
            write("one", "{\"a\":1}\n"),
            write("same", "{\"a\":1}\n"),
            write("other", "{\"a\":2}\n"),
        );
        let kept = |inputs: &[(&str, &Path)]| {
            let node = |key: &str| match key.split_once('[')?.0 {
                "new" => Some("new"),
                _ => Some("translated"),
            };
            let kept = without_twins(inputs.to_vec(), "lang", &node).unwrap();
            kept.into_iter().map(|(key, _)| key.to_owned()).collect::<Vec<_>>()
        };
        let inputs = [
            ("new[lang=en]:data", &*one),
            ("translated[lang=en]:data", &*same),
            ("translated[lang=de]:data", &*same),
        ];
        assert_eq!(kept(&inputs), ["new[lang=en]:data", "translated[lang=de]:data"]);
        assert_eq!(kept(&[("new[lang=en]", &*one), ("b[lang=en]", &*other)]).len(), 2);
        let seeds = [("new[lang=en,seed=1]", &*one), ("new[lang=en,seed=2]", &*same)];
        assert_eq!(kept(&seeds).len(), 2, "of one node, which tells them apart");
        assert_eq!(kept(&[("new", &*one), ("b", &*same)]).len(), 2, "of no language");
    }

    #[test]
    fn versions_and_days_are_known_by_their_form() {
        for version in ["1.0.0", "0.12.30"] {
            assert!(is_version(version), "{version}");
        }
        for version in ["", "1", "1.0", "1.0.0.0", "1..0", "01.0.0", "1.0.x", "v1.0.0"] {
            assert!(!is_version(version), "{version}");
        }
        assert!(is_date("2026-01-31"));
        for date in [
            "",
            "2026-1-31",
            "2026-13-01",
            "2026-00-10",
            "2026-01-32",
            "2026-01-31T00",
            "２026-01-3",
        ] {
            assert!(!is_date(date), "{date}");
        }
    }

    #[test]
    fn what_is_copied_is_counted_and_hashed_and_has_to_be_rows() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        // The last line need not end. `printf '{"a":1}\r\n\n{"b":"\303\274"}' | sha256sum`
        let text = "{\"a\":1}\r\n\n{\"b\":\"ü\"}";
        std::fs::write(&from, text).unwrap();
        let content = copy(&from, &to, "key").unwrap();
        assert_eq!(std::fs::read_to_string(&to).unwrap(), text);
        assert_eq!((content.rows, content.bytes), (2, 20));
        assert_eq!(
            content.sha256,
            "73d740acace9c0d5cc508318cbc7a0bfe1e27c81bd7c5d826fabca81f85edc54"
        );
        let members: Vec<&str> = content.members.iter().map(|(name, _)| name).collect();
        assert_eq!(members, ["a", "b"]);
        std::fs::write(&from, "{\"a\":1}\n[1]\n").unwrap();
        let error = copy(&from, &to, "translate[lang=de]:data").map(drop).unwrap_err().to_string();
        assert!(error.starts_with("line 2 of `translate[lang=de]:data` is no row: "), "{error}");
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
        let content =
            Content { rows: 1000, bytes: 0, sha256: String::new(), members: Members::default() };
        let (name, language) = ("de".to_owned(), Some("de"));
        let configurations = [Configuration { name, language, content, origin: None }];
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

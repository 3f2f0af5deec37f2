//! `croissant.json`: a data set described for programs, as Croissant 1.0 has it.
//!
//! # Sources
//! The Croissant Format Specification 1.0, <https://docs.mlcommons.org/croissant/docs/croissant-spec.html>;
//! `mlcroissant` 1.1.1 reads it as this file does. What it has no word for is said in those of schema.org, on which it builds.

use okapi_engine::lineage::{Ancestor, Lineage};
use serde_json::{Value, json};

use crate::row_members::{Members, Scalar, Shape};

/// The file beside the card.
pub(crate) const FILE: &str = "croissant.json";

/// A data set. Nothing in its description depends on time or place.
pub(crate) struct Croissant<'a> {
    pub(crate) title: &'a str,
    pub(crate) description: String,
    pub(crate) license: Option<&'a str>,
    pub(crate) version: &'a str,
    pub(crate) url: Option<&'a str>,
    pub(crate) creators: Vec<&'a str>,
    pub(crate) date_published: Option<&'a str>,
    pub(crate) cite_as: Option<&'a str>,
    pub(crate) files: Vec<DataFile<'a>>,
    pub(crate) lineage: &'a Lineage,
}

/// A file of rows.
pub(crate) struct DataFile<'a> {
    /// What its rows are loaded by.
    pub(crate) name: &'a str,
    pub(crate) language: Option<&'a str>,
    pub(crate) content: &'a Content,
    /// The instance that made it.
    pub(crate) origin: Option<&'a str>,
}

/// What is known of a file that was read to its end.
pub(crate) struct Content {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    /// In hex digits.
    pub(crate) sha256: String,
    pub(crate) members: Members,
}

impl Croissant<'_> {
    pub(crate) fn text(&self) -> String {
        let mut languages: Vec<&str> = self.files.iter().filter_map(|file| file.language).collect();
        languages.sort_unstable();
        languages.dedup();
        let creators =
            self.creators.iter().map(|name| json!({"@type": "Person", "name": name})).collect();
        let based_on = self.lineage.ancestors.iter().map(|(name, made)| result(name, made));
        let given = [
            ("license", self.license.map(|text| license(text).into())),
            ("url", self.url.map(Value::from)),
            ("creator", (!self.creators.is_empty()).then_some(Value::Array(creators))),
            ("datePublished", self.date_published.map(Value::from)),
            ("citeAs", self.cite_as.map(Value::from)),
            ("inLanguage", (!languages.is_empty()).then(|| json!(languages))),
        ];
        let mut all = json!({
            "@context": context(),
            "@type": "sc:Dataset",
            "conformsTo": "http://mlcommons.org/croissant/1.0",
            "name": self.title,
            "description": self.description,
            "version": self.version,
            "keywords": ["okapi"],
            "isBasedOn": based_on.collect::<Vec<_>>(),
            "distribution": self.files.iter().map(|file| self.file(file)).collect::<Vec<_>>(),
            "recordSet": self.files.iter().filter_map(record_set).collect::<Vec<_>>(),
        });
        for (name, value) in given {
            if let Some(value) = value {
                all[name] = value;
            }
        }
        format!("{all:#}\n")
    }

    fn file(&self, file: &DataFile<'_>) -> Value {
        let path = path(file.name);
        let mut object = json!({
            "@type": "cr:FileObject",
            "@id": path,
            "name": format!("{}.jsonl", file.name),
            "contentUrl": path,
            "contentSize": format!("{} B", file.content.bytes),
            "encodingFormat": "application/jsonlines",
            "sha256": file.content.sha256,
        });
        if let Some(language) = file.language {
            object["inLanguage"] = language.into();
        }
        let made = file.origin.and_then(|name| Some((name, self.lineage.ancestors.get(name)?)));
        if let Some((name, made)) = made {
            object["isBasedOn"] = result(name, made);
        }
        object
    }
}

/// Where the rows of a configuration lie in the folder.
pub(crate) fn path(name: &str) -> String {
    format!("data/{name}.jsonl")
}

/// What an instance has made, by the digest of its action.
fn result(name: &str, made: &Ancestor) -> Value {
    json!({
        "@type": "CreativeWork",
        "name": name,
        "description": format!("made by okapi's stage {} {}", made.stage, made.stage_version),
        "identifier": {"@type": "PropertyValue", "propertyID": "okapi action", "value": made.action.to_string()},
    })
}

/// The rows of a file by their members. Where there are none, there is nothing to load, and a loader that tries fails.
///
/// Left out are members that are not of one type in all rows, or whose type Croissant 1.0 cannot say, such as a list of
/// objects; and those with names that would have to be quoted in an `@id` or a path. No kind of rows has any.
fn record_set(file: &DataFile<'_>) -> Option<Value> {
    let fields = named(&file.content.members).filter_map(|(name, shape)| {
        let source = json!({"fileObject": {"@id": path(file.name)}, "extract": {"column": name}});
        field(&format!("{}/{name}", file.name), name, shape, source)
    });
    let fields: Vec<Value> = fields.collect();
    let set =
        json!({"@type": "cr:RecordSet", "@id": file.name, "name": file.name, "field": &fields});
    (!fields.is_empty()).then_some(set)
}

fn field(id: &str, name: &str, shape: &Shape, source: Value) -> Option<Value> {
    let mut all = json!({"@type": "cr:Field", "@id": id, "name": name});
    let scalar = match shape {
        Shape::One(scalar) => *scalar,
        Shape::List(scalar) => {
            all["repeated"] = true.into();
            (*scalar)?
        }
        // A path leads into the column, and from there no further.
        Shape::Object(members) if source.get("transform").is_none() => {
            let fields = named(members).filter_map(|(inner, shape)| {
                let mut source = source.clone();
                source["transform"] = json!({"jsonPath": format!("$.{inner}")});
                field(&format!("{id}/{inner}"), inner, shape, source)
            });
            let fields: Vec<Value> = fields.collect();
            all["subField"] = json!(fields);
            return (!fields.is_empty()).then_some(all);
        }
        Shape::Object(_) | Shape::Mixed => return None,
    };
    all["dataType"] = match scalar {
        Scalar::Text => "sc:Text",
        Scalar::Integer => "sc:Integer",
        Scalar::Float => "sc:Float",
        Scalar::Boolean => "sc:Boolean",
    }
    .into();
    all["source"] = source;
    Some(all)
}

/// The members that have a name which stands by itself.
fn named(members: &Members) -> impl Iterator<Item = (&str, &Shape)> {
    members.iter().filter(|(name, _)| {
        let is_letter = |letter: u8| letter.is_ascii_alphanumeric() || letter == b'_';
        name.bytes().all(is_letter) && name.starts_with(|letter: char| !letter.is_ascii_digit())
    })
}

/// The page of a license at SPDX, or the text as it is.
///
/// SPDX takes its identifiers in letters of either size; the hub's are small. Words of the hub that are none of SPDX's
/// (`other`, `openrail`, `odbl`) stay as they are, and so do those that SPDX has given up because they do not say
/// whether later versions are meant (`gpl-3.0`).
fn license(text: &str) -> String {
    match SPDX.iter().find(|id| id.eq_ignore_ascii_case(text)) {
        Some(id) => format!("https://spdx.org/licenses/{id}"),
        None => text.to_owned(),
    }
}

/// The identifiers of the SPDX License List that the hub has too.
const SPDX: [&str; 43] = [
    "AFL-3.0",
    "Apache-2.0",
    "Artistic-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSD-3-Clause-Clear",
    "BSL-1.0",
    "CC-BY-2.0",
    "CC-BY-2.5",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC-BY-NC-2.0",
    "CC-BY-NC-3.0",
    "CC-BY-NC-4.0",
    "CC-BY-NC-ND-3.0",
    "CC-BY-NC-ND-4.0",
    "CC-BY-NC-SA-2.0",
    "CC-BY-NC-SA-3.0",
    "CC-BY-NC-SA-4.0",
    "CC-BY-ND-4.0",
    "CC-BY-SA-3.0",
    "CC-BY-SA-4.0",
    "CC0-1.0",
    "CDLA-Permissive-1.0",
    "CDLA-Permissive-2.0",
    "CDLA-Sharing-1.0",
    "ECL-2.0",
    "EPL-1.0",
    "EPL-2.0",
    "EUPL-1.1",
    "EUPL-1.2",
    "ISC",
    "LPPL-1.3c",
    "MIT",
    "MPL-2.0",
    "MS-PL",
    "NCSA",
    "OFL-1.1",
    "OSL-3.0",
    "PostgreSQL",
    "Unlicense",
    "WTFPL",
    "Zlib",
];

/// The words of Croissant in JSON-LD, as the specification's appendix gives them to be copied.
fn context() -> Value {
    json!({
        "@language": "en",
        "@vocab": "https://schema.org/",
        "citeAs": "cr:citeAs",
        "column": "cr:column",
        "conformsTo": "dct:conformsTo",
        "cr": "http://mlcommons.org/croissant/",
        "data": {"@id": "cr:data", "@type": "@json"},
        "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
        "dct": "http://purl.org/dc/terms/",
        "equivalentProperty": "cr:equivalentProperty",
        "examples": {"@id": "cr:examples", "@type": "@json"},
        "extract": "cr:extract",
        "field": "cr:field",
        "fileObject": "cr:fileObject",
        "fileProperty": "cr:fileProperty",
        "fileSet": "cr:fileSet",
        "format": "cr:format",
        "includes": "cr:includes",
        "isLiveDataset": "cr:isLiveDataset",
        "jsonPath": "cr:jsonPath",
        "key": "cr:key",
        "md5": "cr:md5",
        "parentField": "cr:parentField",
        "path": "cr:path",
        "rai": "http://mlcommons.org/croissant/RAI/",
        "recordSet": "cr:recordSet",
        "references": "cr:references",
        "regex": "cr:regex",
        "repeated": "cr:repeated",
        "replace": "cr:replace",
        "samplingRate": "cr:samplingRate",
        "sc": "https://schema.org/",
        "separator": "cr:separator",
        "source": "cr:source",
        "subField": "cr:subField",
        "transform": "cr:transform",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The description of one file of such rows.
    fn described(rows: &[Value], given: impl FnOnce(&mut Croissant<'_>)) -> Value {
        let made = |action: &str| json!({"stage": "translate", "stage_version": 3, "action": action.repeat(64)});
        let lineage = json!({
            "lineage": 1,
            "inputs": {},
            "ancestors": {"seeds": made("0"), "translate[lang=de]": made("1")},
        });
        let lineage: Lineage = serde_json::from_value(lineage).unwrap();
        let mut members = Members::default();
        for row in rows {
            members.add(row.as_object().unwrap());
        }
        let content =
            Content { rows: rows.len() as u64, bytes: 12, sha256: "ab".repeat(32), members };
        let file = DataFile {
            name: "de",
            language: Some("de"),
            content: &content,
            origin: Some("translate[lang=de]"),
        };
        let mut croissant = Croissant {
            title: "A: \"b\"",
            description: "Of \u{fc}.".to_owned(),
            license: None,
            version: "1.0.0",
            url: None,
            creators: Vec::new(),
            date_published: None,
            cite_as: None,
            files: vec![file],
            lineage: &lineage,
        };
        given(&mut croissant);
        let text = croissant.text();
        assert_eq!(text, croissant.text());
        assert!(text.ends_with("}\n"), "{text}");
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_file_is_told_by_its_place_size_digest_and_maker() {
        let all = described(&[], |_| {});
        let maker = |name: &str, action: &str| {
            json!({
                "@type": "CreativeWork",
                "name": name,
                "description": "made by okapi's stage translate 3",
                "identifier": {"@type": "PropertyValue", "propertyID": "okapi action", "value": action.repeat(64)},
            })
        };
        let file = json!({
            "@type": "cr:FileObject",
            "@id": "data/de.jsonl",
            "name": "de.jsonl",
            "contentUrl": "data/de.jsonl",
            "contentSize": "12 B",
            "encodingFormat": "application/jsonlines",
            "sha256": "ab".repeat(32),
            "inLanguage": "de",
            "isBasedOn": maker("translate[lang=de]", "1"),
        });
        assert_eq!(all["distribution"], json!([file]));
        assert_eq!(
            all["isBasedOn"],
            json!([maker("seeds", "0"), maker("translate[lang=de]", "1")])
        );
        assert_eq!(all["inLanguage"], json!(["de"]));
        assert_eq!(all["name"], "A: \"b\"");
        // There is nothing to load, and what nobody has said is not there.
        assert_eq!(all["recordSet"], json!([]));
        for name in ["license", "url", "creator", "datePublished", "citeAs"] {
            assert_eq!(all.get(name), None, "{name}");
        }
    }

    #[test]
    fn what_was_said_of_a_data_set_is_there() {
        let all = described(&[], |it| {
            it.license = Some("cc-by-nc-4.0");
            it.url = Some("https://example.org");
            it.creators = vec!["A", "B"];
            it.date_published = Some("2026-01-31");
            it.cite_as = Some("@misc{a}");
        });
        assert_eq!(all["license"], "https://spdx.org/licenses/CC-BY-NC-4.0");
        assert_eq!(all["url"], "https://example.org");
        let persons = json!([{"@type": "Person", "name": "A"}, {"@type": "Person", "name": "B"}]);
        assert_eq!(all["creator"], persons);
        assert_eq!(all["datePublished"], "2026-01-31");
        assert_eq!(all["citeAs"], "@misc{a}");
    }

    #[test]
    fn a_license_that_spdx_does_not_have_stays_as_it_is() {
        assert_eq!(license("apache-2.0"), "https://spdx.org/licenses/Apache-2.0");
        assert_eq!(license("CC0-1.0"), "https://spdx.org/licenses/CC0-1.0");
        for text in ["other", "odbl", "gpl-3.0", "https://example.org/license", ""] {
            assert_eq!(license(text), text);
        }
    }

    #[test]
    fn fields_are_the_members_of_the_rows() {
        let rows = [
            json!({"id": "a", "answer": 1, "choices": ["x"], "two words": "", "mixed": 1}),
            json!({"id": "b", "score": 0.5, "ended": [true], "mixed": "", "deep": {"er": {"est": 1}},
                "hellaswag": {"ctx_a": "c", "er": {"est": 1}}, "1": 2}),
        ];
        let all = described(&rows, |_| {});
        let source = |member: &str| json!({"fileObject": {"@id": "data/de.jsonl"}, "extract": {"column": member}});
        let field = |name: &str, data_type: &str| json!({"@type": "cr:Field", "@id": format!("de/{name}"), "name": name, "dataType": data_type, "source": source(name)});
        let list = |name: &str, data_type: &str| {
            let mut field = field(name, data_type);
            field["repeated"] = true.into();
            field
        };
        let mut within = source("hellaswag");
        within["transform"] = json!({"jsonPath": "$.ctx_a"});
        let fields = json!([
            field("answer", "sc:Integer"),
            list("choices", "sc:Text"),
            list("ended", "sc:Boolean"),
            {"@type": "cr:Field", "@id": "de/hellaswag", "name": "hellaswag", "subField": [
                {"@type": "cr:Field", "@id": "de/hellaswag/ctx_a", "name": "ctx_a", "dataType": "sc:Text", "source": within},
            ]},
            field("id", "sc:Text"),
            field("score", "sc:Float"),
        ]);
        let set = json!({"@type": "cr:RecordSet", "@id": "de", "name": "de", "field": fields});
        assert_eq!(all["recordSet"], json!([set]));
    }
}

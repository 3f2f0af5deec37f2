//! `import`: brings a file or folder of the project, or a file from the network, into the store; as
//! it is, or as rows of a kind.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use okapi_cache::{Artifact, ArtifactKind, Written};
use okapi_data::fit::Mapping;
use okapi_data::import::{ImportOptions, RowKind, import};
use okapi_data::source::Format;
use okapi_engine::estimate::{Estimate, EstimateQuestion};
use okapi_engine::port::PortKind;
use okapi_engine::stage::{
    Determinism, Inputs, OutputKind, OutputPort, Outputs, Param, ParamDefault, ParamType,
    Placeholder, Stage, StageDescriptor,
};
use okapi_engine::stage_context::{StageContext, StageError, StageSuccess};
use serde_json::Value;

use crate::download::{Content, client, download, shown_url};
use crate::hub::{self, Repository};
use crate::lengths;
use crate::pin::Pin;

/// The stage.
pub(crate) struct Import;

const DOCUMENTATION: &str = "\
Brings data into the pipeline. Give either `path` or `url`.

What comes out depends on `kind`. `instructions`, `prompts`, `questions` and `rankings` are read as
rows from JSON (an array of objects), JSON lines or Parquet, checked, and written as JSON lines in
okapi's own layout. The layouts that the field publishes are known: Alpaca and its translations, seed
tasks, Okapi's ranked pairs and prompts, and ARC, HellaSwag and MMLU as their authors, the
translations' authors and the mirrors on the Hugging Face hub give them. For other names,
`fields: {ours: theirs}`, where a dot reaches into an object; with `fields: {text: <name>}` rows
become a `text`, an empty line after each. A row that does not fit is an error that names the row and
the field. Everything else is kept byte for byte.

`path` names a file or folder of the project. It is tracked by content: when it is edited, this node
and what depends on it run again. A file becomes a `file` (or any kind that is stored as one file),
a folder becomes a `tree`.

`url` names a file on a web server, or on the Hugging Face hub as
`hf://datasets/OWNER/NAME@REVISION/FILE` (`hf://OWNER/NAME@REVISION/FILE` for a model repository).
It must be pinned, so that the node means the same for everybody and for ever: by `digest`,
`sha256:<64 hex digits>` or `blake3:<64 hex digits>`, or on the hub by a REVISION that is a commit, all 40 hex
digits of it, for the hub lists the digest of each file that a commit has. For a file of a repository elsewhere there is
`git:<40 hex digits>`, which `git ls-tree -r COMMIT` tells without a download; it is a SHA-1, as sure as git is and no surer.

```yaml
nodes:
  alpaca:
    stage: import
    params:
      url: hf://datasets/tatsu-lab/alpaca@dce01c9b08f87459cf36a430d809084718273017/data/train-00000-of-00001-a09b74b3ef9c3b56.parquet
      kind: instructions
```

A branch or tag is no pin: with one, `digest` is required. An interrupted download is continued. Hosts die:
`mirrors` are tried in turn, and the log says which one served; they are no part of the identity. Where a commit is
the pin, the hub has to be there to list the digest; with `digest` too, a mirror is enough. The hub's
address is taken from `HF_ENDPOINT` and its token from `HF_TOKEN`, if they are set; neither is
written anywhere. Nothing is asked of any server before the node runs: what `plan` is to know of rows that are not there
yet, `expected_rows` tells.";

static PARAMS: [Param; 9] = [
    Param {
        name: "path",
        ty: ParamType::Source,
        default: ParamDefault::Absent,
        identity: true,
        help: "a file or folder of the project",
    },
    Param {
        name: "url",
        ty: ParamType::String,
        default: ParamDefault::Absent,
        identity: true,
        help: "an http(s):// or hf:// address of a file",
    },
    Param {
        name: "mirrors",
        ty: ParamType::List(&ParamType::String),
        default: ParamDefault::Absent,
        identity: false,
        help: "other addresses of the same file, tried in turn when `url` fails",
    },
    Param {
        name: "digest",
        ty: ParamType::String,
        default: ParamDefault::Absent,
        identity: true,
        help: "what the content must be: `sha256:...`, `blake3:...` or `git:...`; required with a `url` that names no commit",
    },
    Param {
        name: "kind",
        ty: ParamType::PortKind,
        default: ParamDefault::Value("\"file\""),
        identity: true,
        help: "what the data is",
    },
    Param {
        name: "format",
        ty: ParamType::Choice(&Format::NAMES),
        default: ParamDefault::Absent,
        identity: true,
        help: "how the file holds rows; as its name ends if left out",
    },
    Param {
        name: "fields",
        ty: ParamType::Map(&ParamType::String),
        default: ParamDefault::Absent,
        identity: true,
        help: "the file's names for our fields: `{instruction: question.text}`",
    },
    Param {
        name: "convert",
        ty: ParamType::Bool,
        default: ParamDefault::Value("false"),
        identity: true,
        help: "take numbers, lists and null as text where a text is expected, and count them",
    },
    Param {
        name: "expected_rows",
        ty: ParamType::Int { min: 1, max: 1 << 40 },
        default: ParamDefault::Absent,
        identity: false,
        help: "how many rows it is known to have, for `plan` before they are there; nothing else hangs on it",
    },
];

static DESCRIPTOR: StageDescriptor = StageDescriptor {
    name: "import",
    version: 2,
    summary: "brings a file, folder or URL into the pipeline",
    documentation: DOCUMENTATION,
    inputs: Inputs::Fixed(&[]),
    outputs: Outputs::Fixed(&[OutputPort {
        name: "data",
        kind: OutputKind::Param("kind"),
        help: "the rows, or the content byte for byte",
    }]),
    params: &PARAMS,
    prompts: &[],
    fields: &[],
    determinism: Determinism::Bytes,
};

impl Stage for Import {
    fn descriptor(&self) -> &'static StageDescriptor {
        &DESCRIPTOR
    }

    fn check(&self, declared: &Value) -> Result<(), String> {
        let params = &declared["params"];
        let pin = params.get("digest").and_then(Value::as_str);
        if let Some(pin) = pin {
            Pin::parse(pin)?;
        }
        rows(declared)?;
        match (params.get("path"), params.get("url").and_then(Value::as_str)) {
            (None, None) => Err("give `path` or `url`".to_owned()),
            (Some(_), Some(_)) => Err("give `path` or `url`, not both".to_owned()),
            (Some(_), None) => Ok(()),
            (None, Some(url)) if pin.is_none() && !url.starts_with("hf://") => {
                crate::download::resolve(url, hub::DEFAULT)?;
                Err("a `url` must be pinned by `digest: sha256:<hex>`, `blake3:<hex>` or `git:<hex>`"
                    .to_owned())
            }
            (None, Some(url)) => {
                if pin.is_none() {
                    Repository::of_file(url)?;
                }
                if kind(declared).artifact_kind() == ArtifactKind::Tree {
                    return Err("a `url` gives a file: `kind` cannot be stored as a folder".into());
                }
                crate::download::resolve(url, hub::DEFAULT).map(|_| ())
            }
        }
    }

    fn placeholder(&self, declared: &str) -> Option<Placeholder> {
        let declared: Value = serde_json::from_str(declared).ok()?;
        let text = |name: &str| declared["params"].get(name).and_then(Value::as_str);
        let url = text("url");
        match text("digest") {
            Some(digest) if Pin::parse(digest).ok()?.is_placeholder() => Some(Placeholder {
                message: format!("`digest` is all zeros for {}", url.map_or("a file", shown_url)),
                hint: "`sha256sum FILE` tells it, of a copy that you trust".to_owned(),
            }),
            Some(_) => None,
            None => Repository::of_file(url?).ok()?.0.placeholder(),
        }
    }

    fn estimate(&self, question: &EstimateQuestion<'_>) -> Option<Estimate> {
        let rows = question.settings.get("expected_rows")?.as_u64()?;
        let rows = lengths::usual(kind(question.declared), rows)?;
        let outputs = BTreeMap::from([("data".to_owned(), rows)]);
        Some(Estimate { outputs, assumptions: vec![lengths::ASSUMPTION], ..Estimate::default() })
    }

    fn run(&self, context: &mut StageContext<'_>) -> Result<StageSuccess, StageError> {
        let params = &context.declared["params"];
        let pin = match params.get("digest").and_then(Value::as_str) {
            Some(pin) => Some(Pin::parse(pin).map_err(StageError::failed)?),
            None => None,
        };
        let rows = rows(context.declared).map_err(StageError::failed)?;
        let mut success = StageSuccess::default();
        if let Some(url) = params.get("url").and_then(Value::as_str) {
            let content = content(context, url, pin)?;
            if let Some(rows) = rows {
                let source = context.work.tmp.join("source");
                download_from_any(context, url, &content, &source)?;
                return import_rows(context, &source, &rows);
            }
            let written = download_from_any(context, url, &content, &context.outputs["data"])?;
            success.written.insert("data".to_owned(), written);
            return Ok(success);
        }
        let file = context
            .files
            .values()
            .next()
            .ok_or_else(|| StageError::failed("`path` names nothing"))?;
        if file.artifact.kind != kind(context.declared).artifact_kind() {
            let (found, kind) = match file.artifact.kind {
                ArtifactKind::File => ("a file", "file"),
                ArtifactKind::Tree => ("a folder", "tree"),
            };
            return Err(StageError::Failed {
                message: format!("`path` is {found}"),
                hint: Some(format!("write `kind: {kind}`, or another kind that is stored so")),
                transient: false,
            });
        }
        if let Some(pin) = pin {
            check_pin(&pin, &file.artifact, &file.path)?;
        }
        if let Some(rows) = rows {
            // The project's own may be edited while it is read.
            let source = context.work.tmp.join("source");
            context.place_source(file, &source)?;
            return import_rows(context, &source, &rows);
        }
        // The engine has put the content into the store to have it fixed; it is the output.
        success.stored.insert("data".to_owned(), file.artifact);
        Ok(success)
    }
}

/// What lies at `url`: what `digest` says, or what the hub lists for the commit.
fn content(context: &StageContext<'_>, url: &str, pin: Option<Pin>) -> Result<Content, StageError> {
    if let Some(pin) = pin {
        let changed_hint = "the file has changed, or `digest` is wrong";
        return Ok(Content { pin, size: None, changed_hint });
    }
    let (repository, file) = Repository::of_file(url).map_err(StageError::failed)?;
    let found = repository.find(context, &client()?, &file)?;
    context.reporter.log(format!("{} at that commit", found.pin));
    let changed_hint = "it is not what the commit has: run again, or set another HF_ENDPOINT";
    Ok(Content { pin: found.pin, size: Some(found.size), changed_hint })
}

/// Downloads from `url`, and if that fails, from the mirrors. Whatever they send is checked.
fn download_from_any(
    context: &StageContext<'_>,
    url: &str,
    content: &Content,
    output: &Path,
) -> Result<Written, StageError> {
    let mirrors = context.settings.get("mirrors").and_then(Value::as_array);
    let mirrors: Vec<_> = mirrors.into_iter().flatten().filter_map(Value::as_str).collect();
    let mut first_failure = None;
    for address in std::iter::once(url).chain(mirrors.iter().copied()) {
        match download(context, address, content, output) {
            Ok(written) => {
                if !mirrors.is_empty() {
                    context.reporter.log(format!("served by {}", shown_url(address)));
                }
                return Ok(written);
            }
            Err(error @ (StageError::Cancelled | StageError::Io { .. })) => return Err(error),
            Err(error) => {
                if !mirrors.is_empty() {
                    context.reporter.log(format!("{}: {error}", shown_url(address)));
                }
                first_failure.get_or_insert(error);
            }
        }
    }
    Err(first_failure.unwrap_or_else(|| StageError::failed("no address was tried")))
}

/// How the params ask for rows; `None` for content that is kept as it is.
fn rows(declared: &Value) -> Result<Option<ImportOptions>, String> {
    let params = &declared["params"];
    let mapping: Mapping = params
        .get("fields")
        .and_then(Value::as_object)
        .map(|fields| fields.iter())
        .into_iter()
        .flatten()
        .filter_map(|(ours, theirs)| Some((ours.clone(), theirs.as_str()?.to_owned())))
        .collect();
    let kind = match kind(declared) {
        PortKind::Instructions => RowKind::Instructions,
        PortKind::Prompts => RowKind::Prompts,
        PortKind::Questions => RowKind::Questions,
        PortKind::Rankings => RowKind::Rankings,
        PortKind::Responses => RowKind::Responses,
        PortKind::Text if !mapping.is_empty() => RowKind::Text,
        other => {
            let given = ["fields", "format"].iter().find(|name| params.get(**name).is_some());
            return match given {
                Some(name) => Err(format!(
                    "`{name}` is for rows, but `kind: {}` is kept as it is",
                    other.name()
                )),
                None => Ok(None),
            };
        }
    };
    if let Some(unknown) = mapping.keys().find(|ours| !kind.fields().contains(&ours.as_str())) {
        let known = kind.fields().join(", ");
        return Err(format!("`fields` names `{unknown}`, which is none of {known}"));
    }
    let place = params.get("path").or(params.get("url")).and_then(Value::as_str);
    let name = place.unwrap_or_default().split(['?', '#']).next().unwrap_or_default();
    let format = match params.get("format").and_then(Value::as_str) {
        Some(format) => Format::from_name(format),
        None => Format::of_name(name),
    };
    let format = format.ok_or_else(|| {
        format!(
            "`{name}` ends in none of .json, .jsonl, .ndjson and .parquet: say which one by `format`"
        )
    })?;
    let convert = params.get("convert").and_then(Value::as_bool).unwrap_or(false);
    Ok(Some(ImportOptions { kind, format, mapping, convert }))
}

/// Reads the rows of `source` and writes ours.
fn import_rows(
    context: &StageContext<'_>,
    source: &Path,
    options: &ImportOptions,
) -> Result<StageSuccess, StageError> {
    let mut output = context.create_output("data")?;
    let mut progress = |rows| {
        context.reporter.progress(rows, None, "rows");
        !context.cancel.is_requested()
    };
    let imported = import(source, options, &mut output, &mut progress);
    if context.cancel.is_requested() {
        return Err(StageError::Cancelled);
    }
    let imported = imported.map_err(|error| StageError::failed(error.to_string()))?;
    let io = |source| StageError::Io { path: context.outputs["data"].clone(), source };
    let written = output.finish().map_err(io)?;
    fs::remove_file(source).map_err(io)?;
    if imported.converted > 0 {
        context.reporter.log(format!("{} values were taken as text", imported.converted));
    }
    let expected = context.settings.get("expected_rows").and_then(Value::as_u64);
    if let Some(expected) = expected.filter(|rows| *rows != imported.rows) {
        let rows = imported.rows;
        context.reporter.log(format!("there are {rows} rows, and `expected_rows` says {expected}"));
    }
    let mut success = StageSuccess::default();
    success.written.insert("data".to_owned(), written);
    success.metrics.insert("rows".to_owned(), imported.rows as f64);
    success.metrics.insert("converted".to_owned(), imported.converted as f64);
    Ok(success)
}

fn check_pin(pin: &Pin, artifact: &Artifact, path: &Path) -> Result<(), StageError> {
    let written = Written { digest: artifact.digest, size: artifact.size };
    let found = pin
        .of_file(path, written)
        .map_err(|source| StageError::Io { path: path.to_owned(), source })?;
    if found == pin.to_string() {
        return Ok(());
    }
    Err(StageError::Failed {
        message: format!("the content is {found}, not {pin}"),
        hint: Some("correct `digest`, or leave it out for a file of the project".into()),
        transient: false,
    })
}

fn kind(declared: &Value) -> PortKind {
    declared["params"]["kind"].as_str().and_then(PortKind::from_name).unwrap_or(PortKind::File)
}

//! `import`: brings a file or folder of the project, or a file from the network, into the store.

use okapi_cache::{ArtifactKind, Digest};
use okapi_engine::port::PortKind;
use okapi_engine::stage::{
    Determinism, Inputs, OutputKind, OutputPort, Outputs, Param, ParamDefault, ParamType, Stage,
    StageDescriptor,
};
use okapi_engine::stage_context::{StageContext, StageError, StageSuccess};
use serde_json::Value;

use crate::download::{Pin, download};

/// The stage.
pub(crate) struct Import;

const DOCUMENTATION: &str = "\
Brings data into the pipeline. Give either `path` or `url`.

`path` names a file or folder of the project. It is tracked by content: when it is edited, this node
and what depends on it run again. A file becomes a `file` (or any kind that is stored as one file),
a folder becomes a `tree`.

`url` names a file on a web server, or on the Hugging Face hub as
`hf://datasets/OWNER/NAME@REVISION/FILE` (`hf://OWNER/NAME@REVISION/FILE` for a model repository).
It must be pinned by `digest`, so that the node means the same for everybody and for ever:
`sha256:<64 hex digits>` or `blake3:<64 hex digits>`. An interrupted download is continued. The hub's
address is taken from `HF_ENDPOINT` and its token from `HF_TOKEN`, if they are set; neither is
written anywhere.";

static PARAMS: [Param; 4] = [
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
        name: "digest",
        ty: ParamType::String,
        default: ParamDefault::Absent,
        identity: true,
        help: "what the content must be: `sha256:...` or `blake3:...`; required with `url`",
    },
    Param {
        name: "kind",
        ty: ParamType::PortKind,
        default: ParamDefault::Value("\"file\""),
        identity: true,
        help: "what the data is",
    },
];

static DESCRIPTOR: StageDescriptor = StageDescriptor {
    name: "import",
    version: 1,
    summary: "brings a file, folder or URL into the pipeline",
    documentation: DOCUMENTATION,
    inputs: Inputs::Fixed(&[]),
    outputs: Outputs::Fixed(&[OutputPort {
        name: "data",
        kind: OutputKind::Param("kind"),
        help: "the content, byte for byte",
    }]),
    params: &PARAMS,
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
        match (params.get("path"), params.get("url").and_then(Value::as_str)) {
            (None, None) => Err("give `path` or `url`".to_owned()),
            (Some(_), Some(_)) => Err("give `path` or `url`, not both".to_owned()),
            (Some(_), None) => Ok(()),
            (None, Some(_)) if pin.is_none() => {
                Err("a `url` must be pinned by `digest: sha256:<hex>` or `blake3:<hex>`".to_owned())
            }
            (None, Some(url)) => {
                if kind(declared).artifact_kind() == ArtifactKind::Tree {
                    return Err("a `url` gives a file: `kind` cannot be stored as a folder".into());
                }
                crate::download::resolve(url, None).map(|_| ())
            }
        }
    }

    fn run(&self, context: &mut StageContext<'_>) -> Result<StageSuccess, StageError> {
        let params = &context.declared["params"];
        let pin = match params.get("digest").and_then(Value::as_str) {
            Some(pin) => Some(Pin::parse(pin).map_err(StageError::failed)?),
            None => None,
        };
        if let Some(url) = params.get("url").and_then(Value::as_str) {
            let pin = pin.ok_or_else(|| StageError::failed("`url` needs `digest`"))?;
            let written = download(context, url, &pin, &context.outputs["data"])?;
            let mut success = StageSuccess::default();
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
            check_pin(&pin, file.artifact.digest, &file.path)?;
        }
        // The engine has put the content into the store to have it fixed; it is the output.
        let mut success = StageSuccess::default();
        success.stored.insert("data".to_owned(), file.artifact);
        Ok(success)
    }
}

fn check_pin(pin: &Pin, blake3: Digest, path: &std::path::Path) -> Result<(), StageError> {
    let found = match pin {
        Pin::Blake3(_) => format!("blake3:{blake3}"),
        Pin::Sha256(_) => crate::download::sha256_of(path)
            .map_err(|source| StageError::Io { path: path.to_owned(), source })?,
    };
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

//! Bundles: written by `audit --export`, checked by `audit FOLDER`.

use std::path::Path;
use std::sync::Arc;

use okapi_engine::audit::{
    Audit, Finding, Recorded, Verdict, audit as make_audit, published, recorded,
};
use okapi_engine::bundle::{BundleError, Export, OpenBundle, Private, export as write, open};
use okapi_engine::environment;
use serde_json::Value;

use super::execute_again::question;
use crate::cli::{AuditArgs, Global, OverlayArgs};
use crate::failure::Failure;
use crate::program;
use crate::project::{self, Loaded};
use crate::ui::{format, output};

/// Variables whose values are secrets wherever they are set.
const SECRETS: [&str; 4] = ["OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OKAPI_TOKEN"];

/// Under this name what is wrong with the files of a bundle is listed.
const FILES: &str = "(files)";

/// Writes a bundle of results that hold.
pub(crate) fn export(
    arguments: &AuditArgs,
    folder: &Path,
    loaded: &Loaded,
    store: &okapi_cache::Store,
    manifest: &okapi_engine::manifest::Manifest,
    recorded: &[Option<Recorded>],
) -> Result<(), Failure> {
    let overlay = &arguments.pipeline.overlay;
    let private = match arguments.allow_private {
        true => Private::default(),
        false => private(loaded, store.root()),
    };
    let request = Export {
        question: question(loaded, store, manifest),
        recorded,
        project_root: &loaded.place.root,
        pipeline: &loaded.place.pipeline,
        profile: overlay.profile.as_deref(),
        set: &overlay.overrides,
        targets: &arguments.targets,
        okapi: &program::version(),
        environment: program::described(),
        license: arguments.license.as_deref(),
        author: arguments.author.as_deref(),
        private: &private,
    };
    let (files, bytes) = write(&request, folder).map_err(|error| {
        let hint = match &error {
            BundleError::Private { .. } => Some(
                "take it out of the pipeline or of what the node writes; --allow-private writes it all the same",
            ),
            BundleError::InTheWay { .. } => Some("name another folder"),
            _ => None,
        };
        Failure::failed(format!("no bundle was written: {error}")).with_hint(hint.map(str::to_owned))
    })?;
    let files = format::count(files, "file");
    output::note(&format!("wrote {}: {files}, {}", folder.display(), format::size(bytes)));
    output::note(&format!("check it anywhere: okapi audit {}", folder.display()));
    Ok(())
}

/// What must not leave this machine: secrets, names and places.
fn private(loaded: &Loaded, store: &Path) -> Private {
    let mut private = Private::default();
    let settings = loaded.graph.instances.iter().filter_map(|instance| {
        let settings: Value = serde_json::from_str(&instance.settings).ok()?;
        Some(settings["teacher"]["api_key_env"].as_str()?.to_owned())
    });
    for name in settings.chain(SECRETS.map(str::to_owned)) {
        if let Ok(value) = std::env::var(&name) {
            private.add(format!("the value of {name}"), value);
        }
    }
    for (name, value) in &loaded.passed_env {
        private.add(format!("the value of {name}"), value.clone().unwrap_or_default());
    }
    private.add("the path of the project", loaded.place.root.to_string_lossy());
    private.add("the path of the store", store.to_string_lossy());
    private.add_name("the name of this machine", environment::host());
    for variable in ["USER", "LOGNAME"] {
        private.add_name("the name of the user", std::env::var(variable).unwrap_or_default());
    }
    if let Some(home) = std::env::home_dir() {
        let is_common = home == Path::new("/root");
        private.add(
            "the path of the user's folder",
            if is_common { String::new() } else { home.to_string_lossy().into_owned() },
        );
    }
    private
}

/// Audits a bundle without the store that it came from.
pub(crate) fn audit(
    global: &Global,
    arguments: &AuditArgs,
    folder: &Path,
) -> Result<Audit, Failure> {
    if !arguments.reexecute.is_empty() || arguments.locked || arguments.export.is_some() {
        let message = "a bundle is checked as it is: it has no inputs to execute nodes with, and no lock file";
        return Err(Failure::usage(message));
    }
    let scratch = tempfile::Builder::new().prefix("okapi-bundle-").tempdir().map_err(|error| {
        Failure::failed(format!("there is no room for its results: {error}"))
            .with_hint("set TMPDIR to a folder with room".to_owned())
    })?;
    let OpenBundle { bundle, project, published: published_in, store, manifest, files } =
        open(folder, scratch.path()).map_err(|error| Failure::usage(error.to_string()))?;
    let there = Global { project: Some(project.clone()), store: None, ..global.clone() };
    let place = project::locate(&there, &project.join(&bundle.pipeline))?;
    let overlay = OverlayArgs { profile: bundle.profile.clone(), overrides: bundle.set.clone() };
    let registry = okapi_stages::registry();
    let loaded = project::prepare_anew(&there, &overlay, place, &registry, &bundle.targets)?;
    let store: Arc<okapi_cache::Store> = store;
    let mut question = question(&loaded, &store, &manifest);
    question.is_bundle = true;
    let recorded = recorded(&question)?;
    let mut audit = make_audit(&question, &recorded, &|_| {})?;
    for (node, finding) in published(&question, &recorded, &published_in)? {
        audit.add(&node, finding);
    }
    for message in files {
        audit.add(FILES, Finding { verdict: Verdict::Corrupt, message, hint: None });
    }
    for node in &bundle.nodes {
        if !audit.nodes.iter().any(|it| it.node == node.node) {
            let message = "the bundle has it, and its pipeline has not".to_owned();
            audit.add(&node.node, Finding { verdict: Verdict::Corrupt, message, hint: None });
        }
    }
    Ok(audit)
}

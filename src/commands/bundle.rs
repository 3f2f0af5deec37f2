//! Bundles: written by `audit --export`, checked by `audit FOLDER`.

use std::path::Path;

use okapi_engine::audit::{
    Audit, Finding, Recorded, Verdict, audit as make_audit, published, recorded,
};
use okapi_engine::bundle::{
    BundleError, Export, OpenBundle, Private, check, export as write, open,
};
use okapi_engine::environment;
use serde_json::Value;

use super::execute_again::question;
use crate::cli::{AuditArgs, Global, OverlayArgs};
use crate::failure::Failure;
use crate::program;
use crate::project::{self, Loaded};
use crate::ui::{audit as ui, format, output};

/// Parts of the names of variables whose values are secrets.
const SECRETS: [&str; 5] = ["KEY", "TOKEN", "SECRET", "PASSW", "CREDENTIAL"];

/// Writes a bundle of results that hold.
pub(crate) fn export(
    global: &Global,
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
    if let Some(license) = &arguments.license
        && !license.chars().all(|it| it.is_ascii_alphanumeric() || "-.+".contains(it))
    {
        let message = format!("`{license}` is no license as SPDX names it");
        return Err(Failure::usage(message)
            .with_hint("such as CC-BY-4.0; see spdx.org/licenses".to_owned()));
    }
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
    // It gets its name when it has been checked as a stranger would.
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let temp = folder.with_file_name(format!(".{name}.okapi-{}", std::process::id()));
    let (files, bytes) = write(&request, &temp).map_err(|error| {
        let hint = match &error {
            BundleError::Private { .. } => Some(
                "take it out of the pipeline or of what the node writes; --allow-private writes it all the same",
            ),
            BundleError::InTheWay { .. } => Some("name another folder"),
            _ => None,
        };
        Failure::failed(format!("no bundle was written: {error}")).with_hint(hint.map(str::to_owned))
    })?;
    let checked = audit(global, &temp);
    let holds = checked.as_ref().is_ok_and(Audit::holds);
    let named = if holds { std::fs::rename(&temp, folder) } else { std::fs::remove_dir_all(&temp) };
    let audit = checked?;
    if !holds {
        let finding = audit
            .nodes
            .iter()
            .flat_map(|node| node.findings.iter().map(move |it| (node, it)))
            .next();
        let said = finding
            .map_or(String::new(), |(node, it)| format!(": `{}`: {}", node.node, it.message));
        return Err(Failure::failed(format!(
            "no bundle was written, for it would not hold elsewhere{said}"
        )));
    }
    named.map_err(|error| {
        // The first error is the one that matters.
        let _ = std::fs::remove_dir_all(&temp);
        Failure::failed(format!("no bundle was written: {error}"))
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
    let named: Vec<String> = settings.collect();
    for (name, value) in std::env::vars_os() {
        let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
        let upper = name.to_uppercase();
        // A variable such as TOKENIZERS_PARALLELISM has a word like any other.
        let is_secret = SECRETS.iter().any(|part| upper.contains(part)) && value.len() >= 8;
        if is_secret || named.iter().any(|it| *it == name) {
            private.add(format!("the value of {name}"), value);
        }
    }
    for (name, value) in &loaded.passed_env {
        private.add_value(format!("the value of {name}"), value.clone().unwrap_or_default());
    }
    // The folder as the user came to it, which may be through a link.
    let here = std::env::var("PWD").unwrap_or_default();
    if here.len() > "/root".len() {
        private.add("the path of the current folder", here);
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

/// Refuses what has no meaning for a bundle.
pub(crate) fn refuse_what_it_has_not(
    global: &Global,
    arguments: &AuditArgs,
) -> Result<(), Failure> {
    let overlay = &arguments.pipeline.overlay;
    let refused = [
        (!arguments.targets.is_empty(), "NODE"),
        (overlay.profile.is_some(), "--profile"),
        (!overlay.overrides.is_empty(), "--set"),
        (global.store.is_some(), "--store"),
        (!arguments.reexecute.is_empty(), "--reexecute"),
        (arguments.ask_again > 0, "--ask-again"),
        (arguments.locked, "--locked"),
        (arguments.export.is_some(), "--export"),
    ];
    match refused.iter().find(|(is_given, _)| *is_given) {
        None => Ok(()),
        Some((_, what)) => {
            let message = format!("a bundle is checked as it is: {what} has no meaning for it");
            Err(Failure::usage(message))
        }
    }
}

/// Audits a bundle without the store that it came from.
pub(crate) fn audit(global: &Global, folder: &Path) -> Result<Audit, Failure> {
    let scratch = tempfile::Builder::new().prefix("okapi-bundle-").tempdir().map_err(|error| {
        Failure::failed(format!("there is no room for its results: {error}"))
            .with_hint("set TMPDIR to a folder with room".to_owned())
    })?;
    let opened = open(folder, scratch.path()).map_err(|error| Failure::usage(error.to_string()))?;
    let OpenBundle { bundle, project, published: published_in, store, manifest, .. } = &opened;
    let there = Global { project: Some(project.clone()), store: None, ..global.clone() };
    let place = project::locate(&there, &project.join(&bundle.pipeline))?;
    let overlay = OverlayArgs { profile: bundle.profile.clone(), overrides: bundle.set.clone() };
    let registry = okapi_stages::registry();
    let loaded = project::prepare_anew(&there, &overlay, place, &registry, &bundle.targets)?;
    let mut question = question(&loaded, store, manifest);
    question.is_bundle = true;
    let recorded = recorded(&question)?;
    let mut audit = make_audit(&question, &recorded, &|_| {})?;
    for (node, finding) in published(&question, &recorded, published_in)? {
        audit.add(&node, finding);
    }
    for (node, message) in check(folder, &opened, &question, &recorded)
        .map_err(|error| Failure::failed(error.to_string()))?
    {
        let finding = Finding { verdict: Verdict::Corrupt, message, hint: None };
        audit.add(node.as_deref().unwrap_or(ui::FILES), finding);
    }
    // What there is to do is to be done where it was made.
    audit.nodes.iter_mut().flat_map(|it| &mut it.findings).for_each(|it| it.hint = None);
    Ok(audit)
}

//! Bundles: written by `audit --export`, checked by `audit FOLDER`.

use std::path::Path;

use okapi_engine::audit::{
    Audit, Finding, Recorded, Verdict, audit as make_audit, published, recorded,
};
use okapi_engine::bundle::{
    BundleError, Export, OpenBundle, Private, PrivateKind, check, export as write, open,
};
use okapi_engine::environment;
use serde_json::Value;

use super::execute_again::question;
use crate::cli::{AuditArgs, Global, OverlayArgs};
use crate::failure::Failure;
use crate::program;
use crate::project::{self, Loaded};
use crate::temporary::{TemporaryFolder, unless_interrupted};
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
    let allowed: Vec<PrivateKind> = arguments.allow_private.iter().map(|&it| it.into()).collect();
    let private = private(loaded, store.root(), &allowed);
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
    let unfinished = TemporaryFolder::beside(folder);
    let room = TemporaryFolder::named(ROOM);
    let (files, bytes) = unless_interrupted(&[&unfinished, &room], || {
        let (files, bytes) =
            write(&request, &unfinished.path).map_err(|error| not_written(&error))?;
        check_as_a_stranger(global, &unfinished.path, &room)?;
        std::fs::rename(&unfinished.path, folder)
            .map_err(|error| Failure::failed(format!("no bundle was written: {error}")))?;
        Ok::<_, Failure>((files, bytes))
    })?;
    let files = format::count(files, "file");
    output::note(&format!("wrote {}: {files}, {}", folder.display(), format::size(bytes)));
    output::note(&format!("check it anywhere: okapi audit {}", folder.display()));
    Ok(())
}

fn not_written(error: &BundleError) -> Failure {
    let hint = match error {
        BundleError::Private { kind, .. } => {
            let kind = match kind {
                PrivateKind::Secret => "secret",
                PrivateKind::User => "user",
                PrivateKind::Host => "host",
                PrivateKind::Path => "path",
            };
            Some(format!(
                "take it out of the pipeline or of what the node writes; --allow-private {kind} writes it all the same"
            ))
        }
        BundleError::InTheWay { .. } => Some("name another folder".to_owned()),
        _ => None,
    };
    Failure::failed(format!("no bundle was written: {error}")).with_hint(hint)
}

/// Fails where a bundle would not hold elsewhere.
fn check_as_a_stranger(
    global: &Global,
    folder: &Path,
    room: &TemporaryFolder,
) -> Result<(), Failure> {
    let audit = audit_in(room, global, folder)?;
    if !audit.holds() {
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
    Ok(())
}

/// What must not leave this machine: secrets, names and places.
fn private(loaded: &Loaded, store: &Path, allowed: &[PrivateKind]) -> Private {
    let mut private = Private::except(allowed);
    let settings = loaded.graph.instances.iter().filter_map(|instance| {
        let settings: Value = serde_json::from_str(&instance.settings).ok()?;
        Some(settings["teacher"]["api_key_env"].as_str()?.to_owned())
    });
    let named: Vec<String> = settings.collect();
    for (name, value) in std::env::vars_os() {
        let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
        let upper = name.to_uppercase();
        // A variable such as TOKENIZERS_PARALLELISM has a word like any other.
        let is_secret = SECRETS.iter().any(|part| upper.contains(part));
        let what = format!("the value of {name}");
        if is_secret && value.len() >= 8 || named.iter().any(|it| *it == name) {
            private.add(PrivateKind::Secret, what, value);
        } else if is_secret {
            private.add_value(what, value);
        }
    }
    for (name, value) in &loaded.passed_env {
        private.add_value(format!("the value of {name}"), value.clone().unwrap_or_default());
    }
    // The folder as the user came to it, which may be through a link.
    let here = std::env::var("PWD").unwrap_or_default();
    if here.len() > "/root".len() {
        private.add(PrivateKind::Path, "the path of the current folder", here);
    }
    private.add(PrivateKind::Path, "the path of the project", loaded.place.root.to_string_lossy());
    private.add(PrivateKind::Path, "the path of the store", store.to_string_lossy());
    private.add_name(PrivateKind::Host, "the name of this machine", environment::host());
    for variable in ["USER", "LOGNAME"] {
        let name = std::env::var(variable).unwrap_or_default();
        private.add_name(PrivateKind::User, "the name of the user", name);
    }
    if let Some(home) = std::env::home_dir() {
        let is_common = home == Path::new("/root");
        private.add(
            PrivateKind::Path,
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
        // One that the environment names for all that is done is not meant for this.
        (global.is_store_named, "--store"),
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
    let room = TemporaryFolder::named(ROOM);
    unless_interrupted(&[&room], || audit_in(&room, global, folder))
}

/// How temporary folders for the results of a bundle are named.
const ROOM: &str = "okapi-bundle";

fn audit_in(room: &TemporaryFolder, global: &Global, folder: &Path) -> Result<Audit, Failure> {
    room.make().map_err(|error| {
        Failure::failed(format!("there is no room for its results: {error}"))
            .with_hint("set TMPDIR to a folder with room".to_owned())
    })?;
    let opened = open(folder, &room.path).map_err(|error| Failure::usage(error.to_string()))?;
    let OpenBundle { bundle, project, published: published_in, store, manifest, .. } = &opened;
    let there = Global { project: Some(project.clone()), store: None, ..global.clone() };
    let overlay = OverlayArgs { profile: bundle.profile.clone(), overrides: bundle.set.clone() };
    let registry = okapi_stages::registry();
    let loaded =
        project::locate(&there, &project.join(&bundle.pipeline)).map_err(Failure::from).and_then(
            |place| project::prepare_anew(&there, &overlay, place, &registry, &bundle.targets),
        );
    let loaded = match loaded {
        Ok(loaded) => loaded,
        // Whoever changed the files of a bundle is told so, and not what a pipeline lacks.
        Err(failure) if !opened.files.is_empty() => return Ok(unreadable(&opened, &failure)),
        Err(failure) => return Err(failure),
    };
    let mut question = question(&loaded, store, manifest);
    question.is_bundle = true;
    let recorded = recorded(&question)?;
    let mut audit = make_audit(&question, &recorded, &|_| {})?;
    for (node, finding) in published(&question, &recorded, published_in) {
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

/// The audit of a bundle whose files are not what they were, so that its pipeline cannot be checked.
fn unreadable(opened: &OpenBundle, failure: &Failure) -> Audit {
    let mut audit = Audit::default();
    let pipeline = match failure.message() {
        "" => "its pipeline cannot be checked".to_owned(),
        message => format!("its pipeline cannot be checked: {message}"),
    };
    for message in opened.files.iter().cloned().chain([pipeline]) {
        audit.add(ui::FILES, Finding { verdict: Verdict::Corrupt, message, hint: None });
    }
    audit
}

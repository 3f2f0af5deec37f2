//! Bundles: written by `audit --export`, checked by `audit FOLDER`.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Component, Path};

use okapi_cache::StoreError;
use okapi_engine::audit::{
    Audit, Finding, Recorded, Verdict, audit as make_audit, published, recorded,
};
use okapi_engine::bundle::{
    BundleError, Export, OpenBundle, Private, PrivateKind, check, export as write, open,
};
use okapi_engine::{device_choice, environment};
use serde_json::Value;

use super::execute_again::{TMPDIR, question};
use crate::cli::{AuditArgs, ExecutorArg, Global, OverlayArgs};
use crate::failure::Failure;
use crate::program;
use crate::project::{self, Devices, Loaded};
use crate::temporary::{TemporaryFolder, unless_interrupted};
use crate::ui::{audit as ui, format, output};

/// Parts of the names of variables whose values are secrets.
const SECRETS: [&str; 6] = ["KEY", "TOKEN", "SECRET", "PASSW", "CREDENTIAL", "AUTHORIZATION"];
/// Words with which names of such variables end.
const SECRET_WORDS: [&str; 10] = [
    "PASS",
    "PWD",
    "PAT",
    "PASSWORD",
    "PASSWD",
    "TOKEN",
    "SECRET",
    "PASSPHRASE",
    "CREDENTIAL",
    "AUTH",
];
/// Not what they look like: folders.
const NO_SECRETS: [&str; 2] = ["PWD", "OLDPWD"];

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
    let mut private = private(loaded, store.root(), &allowed);
    let infos = recorded.iter().flatten().filter_map(|it| Some(&it.stored.as_ref()?.info));
    let hosts: BTreeSet<&String> = infos.filter_map(|it| it.environment.get("host")).collect();
    for host in hosts {
        add_host(&mut private, "the name of a machine that made a result", host);
    }
    if let Some(author) = &arguments.author {
        private.allow_names_in(author);
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
    let named = quoted(&folder.to_string_lossy());
    output::note(&format!("check it anywhere: okapi audit {named}"));
    Ok(())
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    let is_plain = |it: char| it.is_alphanumeric() || "-_./+,:@%=".contains(it);
    match word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// Refuses to export where that cannot end well, before anything is audited.
pub(crate) fn refuse_to_export(arguments: &AuditArgs, loaded: &Loaded) -> Result<(), Failure> {
    let Some(folder) = arguments.export.as_deref() else { return Ok(()) };
    for (option, value) in [("--license", &arguments.license), ("--author", &arguments.author)] {
        if value.as_ref().is_some_and(|value| value.trim().is_empty()) {
            let message = format!("{option} says nothing");
            return Err(Failure::usage(message).with_hint("leave it out".to_owned()));
        }
    }
    if let Some(license) = &arguments.license
        && !license.chars().all(|it| it.is_ascii_alphanumeric() || "-.+".contains(it))
    {
        let message = format!("`{license}` is no license as SPDX names it");
        return Err(Failure::usage(message)
            .with_hint("such as CC-BY-4.0; see spdx.org/licenses".to_owned()));
    }
    let shown = folder.display();
    let no_bundle = |why: String| {
        let message = format!("no bundle can be written to {shown}: {why}");
        Failure::usage(message).with_hint("name another folder".to_owned())
    };
    if folder.symlink_metadata().is_ok() {
        return Err(no_bundle("it is there already".to_owned()));
    }
    let has_name =
        folder.components().next_back().is_some_and(|it| matches!(it, Component::Normal(_)));
    if !has_name || folder.to_string_lossy().ends_with("/.") {
        return Err(no_bundle("its last part is no name".to_owned()));
    }
    // The nearest folder above that is there says where it really would lie.
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let above = absolute.ancestors().find_map(|it| Some((it, it.canonicalize().ok()?)));
    let Some((there, real)) = above else { return Ok(()) };
    let place = real.join(absolute.strip_prefix(there).unwrap_or(Path::new("")));
    let root = &loaded.place.root;
    let sources = loaded.graph.sources.iter().map(|it| (&*it.path, "tracks"));
    let published = loaded.graph.publish.iter().map(|it| (&*it.path, "publishes"));
    for (path, does) in sources.chain(published) {
        if place.starts_with(root.join(path)) {
            return Err(no_bundle(format!("it would lie in `{path}`, which the pipeline {does}")));
        }
    }
    Ok(())
}

fn not_written(error: &BundleError) -> Failure {
    let hint = match error {
        BundleError::Io { source, .. }
            if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) =>
        {
            Some("name a folder where there is room".to_owned())
        }
        BundleError::Store(StoreError::Full { .. }) => {
            Some("name a folder where there is room".to_owned())
        }
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
    let Checked { audit, .. } = audit_in(room, global, folder)?;
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
        let ends_so = upper.rsplit('_').next().is_some_and(|word| SECRET_WORDS.contains(&word))
            && !NO_SECRETS.contains(&&*upper);
        let is_secret = ends_so || SECRETS.iter().any(|part| upper.contains(part));
        let what = format!("the value of {name}");
        if let Some(password) = password_of(&value) {
            private.add_short_secret(format!("the password in {name}"), password);
        }
        // `Bearer ...`: what follows is the secret, whatever stands before it elsewhere.
        if let Some((_, last)) = value.trim().rsplit_once(char::is_whitespace)
            && is_secret
            && last.len() >= 8
        {
            private.add(PrivateKind::Secret, what.clone(), last);
        }
        if is_secret && value.trim().len() >= 8 || named.iter().any(|it| *it == name) {
            private.add(PrivateKind::Secret, what, value);
        } else if ends_so {
            private.add_short_secret(what, value);
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
    add_host(&mut private, "the name of this machine", &environment::host());
    let named = ["USER", "LOGNAME", "SUDO_USER"].map(|it| std::env::var(it).unwrap_or_default());
    for name in named.into_iter().chain(environment::user()) {
        private.add_name(PrivateKind::User, "the name of the user", name.trim());
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

/// Adds the name of a machine, with and without its domain.
fn add_host(private: &mut Private, what: &str, host: &str) {
    if let Some((first, _)) = host.split_once('.') {
        private.add_name(PrivateKind::Host, what, first);
    }
    private.add_name(PrivateKind::Host, what, host);
}

/// The password in an address such as `postgres://user:password@host/name`.
fn password_of(address: &str) -> Option<&str> {
    let (_, rest) = address.split_once("://")?;
    let (user, _) = rest.split('/').next()?.rsplit_once('@')?;
    user.split_once(':').map(|(_, password)| password)
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
        (arguments.sample_seed.is_some(), "--sample-seed"),
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
pub(crate) fn audit(global: &Global, folder: &Path) -> Result<Checked, Failure> {
    let room = TemporaryFolder::named(ROOM);
    unless_interrupted(&[&room], || audit_in(&room, global, folder))
}

/// How temporary folders for the results of a bundle are named.
const ROOM: &str = "okapi-bundle";

/// What was found of a bundle.
pub(crate) struct Checked {
    pub(crate) audit: Audit,
    /// What of the pipeline it shows, if not all of it as its file has it.
    pub(crate) made_with: Option<String>,
}

fn audit_in(room: &TemporaryFolder, global: &Global, folder: &Path) -> Result<Checked, Failure> {
    room.make_locked().map_err(|error| {
        Failure::failed(format!("there is no room for its results: {error}"))
            .with_hint(TMPDIR.to_owned())
    })?;
    let opened = open(folder, &room.path).map_err(|error| match error {
        BundleError::Store(StoreError::Full { .. }) => {
            Failure::failed(format!("there is no room for its results: {error}"))
                .with_hint(TMPDIR.to_owned())
        }
        error => Failure::usage(error.to_string()),
    })?;
    let OpenBundle { bundle, project, published: published_in, store, manifest, .. } = &opened;
    let there = Global { project: Some(project.clone()), store: None, ..global.clone() };
    let overlay = OverlayArgs {
        profile: bundle.profile.clone(),
        overrides: bundle.set.clone(),
        executor: ExecutorArg::Local,
    };
    let registry = okapi_stages::registry();
    let computed_on_gpu = |node: &str| {
        let stored = manifest.action(node).and_then(|action| store.document(&action).ok()?);
        stored.is_some_and(|stored| device_choice::is_on_gpu(&stored.document))
    };
    let loaded = project::locate(&there, &project.join(&bundle.pipeline))
        .map_err(Failure::from)
        .and_then(|place| {
            let devices = Devices::AsRecorded(&computed_on_gpu);
            let targets = &bundle.targets;
            project::prepare_anew(&there, &overlay, place, &registry, targets, &devices)
        });
    let loaded = match loaded {
        Ok(loaded) => loaded,
        // Whoever changed the files of a bundle is told so, and not what a pipeline lacks.
        Err(failure) if !opened.files.is_empty() => {
            let audit = unreadable(&opened, &failure);
            return Ok(Checked { audit, made_with: bundle.made_with() });
        }
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
    Ok(Checked { audit, made_with: bundle.made_with() })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_found_in_addresses() {
        assert_eq!(password_of("postgres://anna:hunter2@db/x?a=b@c"), Some("hunter2"));
        assert_eq!(password_of("http://example.org/a:b@c"), None);
        assert_eq!(password_of("http://anna@example.org"), None);
    }

    #[test]
    fn what_a_shell_would_take_apart_is_quoted() {
        assert_eq!(quoted("new/bundle"), "new/bundle");
        assert_eq!(quoted("b \u{fc}'s"), "'b \u{fc}'\\''s'");
    }
}

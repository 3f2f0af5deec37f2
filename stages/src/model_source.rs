//! Where a model's files come from: a folder of the project, or the Hugging Face hub.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use okapi_cache::{Artifact, ArtifactKind};
use okapi_engine::machine::free_disk;
use okapi_engine::stage_context::{StageContext, StageError};
use okapi_model::{ModelError, StoredModel, Tokenizer};

use crate::download::{Wanted, client, fetch};
use crate::hub::{self, HubFile, Repository};
use crate::model_files::{ModelFiles, NoModel};

/// A folder with a model's files, and perhaps others.
pub(crate) struct Source {
    /// What messages call it.
    shown: String,
    pub(crate) folder: PathBuf,
    pub(crate) files: ModelFiles,
    /// The folder in the store, if it holds nothing but the model.
    pub(crate) whole: Option<Artifact>,
}

impl Source {
    /// The folder of the project, as it was when it was hashed.
    pub(crate) fn from_project(context: &StageContext<'_>) -> Result<Source, StageError> {
        let first = context.files.iter().next();
        let (shown, file) = first.ok_or_else(|| StageError::failed("`path` names nothing"))?;
        if file.artifact.kind != ArtifactKind::Tree {
            return Err(StageError::Failed {
                message: format!("{shown} is a file, and a model is a folder"),
                hint: Some("name the folder that it lies in".to_owned()),
                transient: false,
            });
        }
        let folder = context.work.tmp.join("source");
        context.place_source(file, &folder)?;
        let io = |source| StageError::Io { path: folder.clone(), source };
        let mut names = BTreeSet::new();
        let mut has_links = false;
        for entry in fs::read_dir(&folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = entry.path();
            // A link may lead nowhere.
            let is_file = fs::metadata(&path).is_ok_and(|metadata| metadata.is_file());
            if is_file && entry.file_type().map_err(io)?.is_symlink() {
                has_links = true;
                replace_link(&path).map_err(io)?;
            }
            names.insert(if is_file { name } else { format!("{name}/") });
        }
        let no_model = |error| no_model(shown, error);
        let mut files = ModelFiles::choose(names).map_err(no_model)?;
        if let Some(index) = &files.index {
            let index = fs::read(folder.join(index)).map_err(io)?;
            files.add_shards(&index).map_err(no_model)?;
        }
        log_left_out(context, &files);
        let is_whole = files.left_out.is_empty() && !has_links;
        let whole = is_whole.then_some(file.artifact);
        let source = Source { shown: shown.clone(), folder, files, whole };
        source.check_small()?;
        Ok(source)
    }

    /// The files of a repository, downloaded into the action's scratch folder. What a model that
    /// cannot be used is known by is asked for before its weights.
    pub(crate) fn from_hub(
        context: &StageContext<'_>,
        repository: &Repository,
    ) -> Result<Source, StageError> {
        let shown = repository.to_string();
        let no_model = |error| no_model(&shown, error);
        let (client, address, token) = (client()?, hub::address(), hub::token());
        let folder = context.scratch.join("files");
        fs::create_dir_all(&folder)
            .map_err(|source| StageError::Io { path: folder.clone(), source })?;

        // 1. What there is.
        let listing = repository
            .list(context, &client, &address, token.as_deref())
            .map_err(|error| named(&shown, error))?;
        let files = ModelFiles::choose(listing.keys().cloned().collect()).map_err(no_model)?;
        let mut source = Source { shown: shown.clone(), folder, files, whole: None };
        if !source.files.small.contains("tokenizer.json") {
            return Err(without_tokenizer(repository));
        }
        let refused_hint = repository.refused_hint();
        let fetch_one = |name: &str, progress: &dyn Fn(u64)| {
            let file = file(&listing, name, &shown)?;
            let wanted = Wanted {
                address: &repository.file_address(&address, name)?,
                token: token.as_deref(),
                shown: &format!("{shown}/{name}"),
                pin: &file.pin,
                size: Some(file.size),
                refused_hint: &refused_hint,
                changed_hint: "it is not what the commit has: run again, or set another HF_ENDPOINT",
            };
            let part = source.folder.join(name);
            fetch(context, &client, &wanted, &part, &|done, _| progress(done))
                .map_err(|error| named(wanted.shown, error))
        };

        // 2. Which files have the weights, and how large all of it is.
        let mut index = None;
        if let Some(name) = &source.files.index {
            fetch_one(name, &|_| {})?;
            let path = source.folder.join(name);
            index = Some(fs::read(&path).map_err(|source| StageError::Io { path, source })?);
        }
        let mut files = source.files.clone();
        if let Some(index) = index {
            files.add_shards(&index).map_err(no_model)?;
        }
        let total = files.names().try_fold(0_u64, |total, name| {
            // What a listing says may be absurd.
            Ok::<_, StageError>(total.saturating_add(file(&listing, name, &shown)?.size))
        })?;
        let count = files.names().count();
        context.reporter.log(format!("{shown}: {count} files, {}", in_units(total)));
        log_left_out(context, &files);
        source.check_disk(total, free_disk(&source.folder))?;

        // 3. The files, those of the weights last.
        let mut before = 0;
        let mut fetch_all = |names: &BTreeSet<String>| {
            for name in names {
                let show = |done| context.reporter.progress(before + done, Some(total), "bytes");
                before += fetch_one(name, &show)?.size;
            }
            Ok::<_, StageError>(())
        };
        fetch_all(&files.small)?;
        source.check_small()?;
        fetch_all(&files.weights)?;
        source.files = files;
        Ok(source)
    }

    /// Refuses what the disk has no room for, before it is fetched. What is there of it already counts as room.
    fn check_disk(&self, total: u64, free: Option<u64>) -> Result<(), StageError> {
        let files = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let there: u64 = files.filter_map(|it| it.metadata().ok()).map(|it| it.len()).sum();
        match free {
            Some(free) if total > there.saturating_add(free) => Err(StageError::Failed {
                message: format!(
                    "{} takes {}, and {} are free where the store is",
                    self.shown,
                    in_units(total),
                    in_units(free)
                ),
                hint: Some(
                    "make room, or put the store on a larger disk with `--store`".to_owned(),
                ),
                transient: false,
            }),
            _ => Ok(()),
        }
    }

    /// Whether the family is known and the tokenizer fits.
    fn check_small(&self) -> Result<(), StageError> {
        let config =
            StoredModel::read_config(&self.folder).map_err(|error| self.refuses(&error))?;
        Tokenizer::open(&self.folder, config.vocabulary())
            .map_err(|error| StageError::failed(self.says(&error)))?;
        Ok(())
    }

    pub(crate) fn refuses(&self, error: &ModelError) -> StageError {
        let hint = match error {
            ModelError::NoLanguageModel(_) => {
                Some("bring a reward model in by `import`, with `kind: reward_model`")
            }
            _ => None,
        };
        StageError::Failed {
            message: self.says(error),
            hint: hint.map(str::to_owned),
            transient: false,
        }
    }

    /// What an error says, in the user's words: where the files lie is of no use to him.
    fn says(&self, error: &dyn Display) -> String {
        let message = error.to_string().replace(&self.folder.display().to_string(), &self.shown);
        begun_with(&self.shown, message)
    }
}

/// The error with the name of what could not be had.
fn named(shown: &str, error: StageError) -> StageError {
    match error {
        StageError::Failed { message, hint, transient } => {
            StageError::Failed { message: begun_with(shown, message), hint, transient }
        }
        other => other,
    }
}

fn begun_with(shown: &str, message: String) -> String {
    if message.starts_with(shown) { message } else { format!("{shown}: {message}") }
}

fn file<'a>(listing: &'a hub::Listing, name: &str, shown: &str) -> Result<&'a HubFile, StageError> {
    let file = listing.get(name).and_then(Option::as_ref);
    file.ok_or_else(|| StageError::failed(format!("{shown} has no {name}")))
}

/// Gives what a link leads to the link's own name, so that either can be moved.
fn replace_link(link: &Path) -> io::Result<()> {
    let file = fs::canonicalize(link)?;
    fs::remove_file(link)?;
    fs::hard_link(&file, link).or_else(|_| fs::copy(&file, link).map(drop))
}

fn log_left_out(context: &StageContext<'_>, files: &ModelFiles) {
    let names: Vec<_> = files.left_out.iter().map(String::as_str).collect();
    if !names.is_empty() {
        context.reporter.log(format!("left out: {}", names.join(", ")));
    }
}

fn no_model(shown: &str, error: NoModel) -> StageError {
    let message = format!("{shown}: {}", error.message);
    StageError::Failed { message, hint: Some(error.hint), transient: false }
}

fn without_tokenizer(repository: &Repository) -> StageError {
    let (id, commit) = (repository.id(), repository.revision());
    StageError::Failed {
        message: format!("{repository}: it has no tokenizer.json"),
        hint: Some(format!(
            "`hf download {id} --revision {commit} --local-dir FOLDER`, let transformers write the file there \
             (`AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)`), and give the folder by `path`"
        )),
        transient: false,
    }
}

/// A size as people read it.
fn in_units(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < units.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_disk_has_no_room_for_is_not_fetched() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("part"), [0; 100]).unwrap();
        let names = ["config.json", "model.safetensors", "tokenizer.json"].map(str::to_owned);
        let files = ModelFiles::choose(names.into()).ok().unwrap();
        let folder = folder.path().to_owned();
        let source = Source { shown: "owner/model".to_owned(), folder, files, whole: None };
        assert!(source.check_disk(1100, Some(1000)).is_ok());
        assert!(source.check_disk(u64::MAX, None).is_ok());
        let error = source.check_disk(1101, Some(1000)).unwrap_err().to_string();
        assert!(error.contains("owner/model takes") && error.contains("are free"), "{error}");
    }
}

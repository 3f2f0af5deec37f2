//! Tracked files and folders: from a path as written to a path from the project's root.
//!
//! A path that begins with `./` or `../` starts at the pipeline file's folder, any other at the
//! project's root. No path leaves the project, neither by `..` nor by a symbolic link: what lies
//! outside would not be there on another machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::diagnostic::Span;
use crate::graph::{Source, SourceId};
use crate::spec::expect::shortened;
use crate::spec::findings::{Findings, file_span};
use crate::suggest;

/// The folder that holds the store beside a project.
const STORE: &str = ".okapi";

/// The tracked files of a pipeline, each once.
pub(crate) struct Sources<'a> {
    root: &'a Path,
    /// The root without symbolic links; `None` if it cannot be read.
    real_root: Option<PathBuf>,
    pipeline_dir: &'a str,
    items: Vec<Source>,
    by_path: BTreeMap<Box<str>, Option<SourceId>>,
}

impl<'a> Sources<'a> {
    pub(crate) fn new(root: &'a Path, pipeline_dir: &'a str) -> Sources<'a> {
        Sources {
            root,
            real_root: root.canonicalize().ok(),
            pipeline_dir,
            items: Vec::new(),
            by_path: BTreeMap::new(),
        }
    }

    /// The path from the project's root that is meant by `written`.
    pub(crate) fn normalize(
        &self,
        written: &str,
        what: &str,
        at: Span,
        findings: &mut Findings,
    ) -> Option<String> {
        let shown = shortened(written);
        let mut wrong = |code, message: String, help: &str| {
            findings.error(code, at, message).help(help);
            None
        };
        if written.trim().is_empty() {
            let message = format!("{what} is an empty path");
            return wrong("bad-value", message, "name a file or folder of the project");
        }
        if written.contains('\0') {
            return wrong("bad-value", format!("{what} holds a zero byte"), "remove it");
        }
        if written.starts_with('/') {
            return wrong(
                "outside-project",
                format!("{what} is an absolute path: `{shown}`"),
                "write it from the project's root, or from this file's folder with `./`",
            );
        }
        let from_file = matches!(written.split('/').next(), Some("." | ".."));
        let base = if from_file { self.pipeline_dir } else { "" };
        let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
        for part in written.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    if parts.pop().is_none() {
                        return wrong(
                            "outside-project",
                            format!("{what} leaves the project: `{shown}`"),
                            "copy or import what it names into the project",
                        );
                    }
                }
                part => parts.push(part),
            }
        }
        match parts.first() {
            None => wrong(
                "bad-value",
                format!("{what} names the whole project"),
                "name the files or folders that are meant",
            ),
            Some(&STORE) => wrong(
                "bad-value",
                format!("{what} lies in okapi's own folder: `{shown}`"),
                "take what nodes make by `inputs:`",
            ),
            Some(_) => Some(parts.join("/")),
        }
    }

    /// The tracked file or folder that is meant by `written`.
    pub(crate) fn track(
        &mut self,
        written: &str,
        what: &str,
        at: Span,
        findings: &mut Findings,
    ) -> Option<SourceId> {
        let path = self.normalize(written, what, at, findings)?;
        if let Some(Some(known)) = self.by_path.get(path.as_str()) {
            return Some(*known);
        }
        // A second place that names the same missing file is a mistake of its own, so what is
        // missing is looked at again.
        let id = self.exists(&path, what, at, findings).then(|| {
            self.items.push(Source { path: path.as_str().into(), span: file_span(at) });
            (self.items.len() - 1) as SourceId
        });
        self.by_path.insert(path.into_boxed_str(), id);
        id
    }

    /// The path of a tracked file.
    pub(crate) fn path(&self, id: SourceId) -> &str {
        &self.items[id as usize].path
    }

    pub(crate) fn items(&self) -> &[Source] {
        &self.items
    }

    pub(crate) fn into_items(self) -> Vec<Source> {
        self.items
    }

    fn exists(&self, path: &str, what: &str, at: Span, findings: &mut Findings) -> bool {
        let full = self.root.join(path);
        let real = match full.canonicalize() {
            Ok(real) => real,
            Err(error) if full.symlink_metadata().is_ok() => {
                findings
                    .error("missing-file", at, format!("{what} cannot be read: `{path}` ({error})"))
                    .help("is it a symbolic link to nothing, or a file that is not yours to read?");
                return false;
            }
            Err(_) => {
                findings
                    .error("missing-file", at, format!("{what} does not exist: `{path}`"))
                    .hint(self.nearest(path));
                return false;
            }
        };
        if self.real_root.as_ref().is_some_and(|root| !real.starts_with(root)) {
            findings
                .error(
                    "outside-project",
                    at,
                    format!("{what} leaves the project by a symbolic link: `{path}`"),
                )
                .help("copy or import what the link names into the project");
            return false;
        }
        let good = real.metadata().is_ok_and(|found| found.is_file() || found.is_dir());
        if !good {
            findings
                .error("bad-value", at, format!("{what} is neither a file nor a folder: `{path}`"))
                .help("only files and folders can be tracked");
        }
        good
    }

    /// A hint at what a missing path may have meant: the name nearest to the first part that is
    /// missing, in the folder where it should lie.
    fn nearest(&self, path: &str) -> Option<String> {
        const MOST_LOOKED_AT: usize = 2000;
        let mut folder = PathBuf::new();
        for part in path.split('/') {
            if self.root.join(&folder).join(part).exists() {
                folder.push(part);
                continue;
            }
            let mut names: Vec<String> = std::fs::read_dir(self.root.join(&folder))
                .ok()?
                .take(MOST_LOOKED_AT)
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok())
                .collect();
            names.sort();
            let near = suggest::nearest(part, names.iter().map(String::as_str));
            return Some(match near.map(|near| folder.join(near)) {
                Some(near) => {
                    // The rest of the path counts only if it is there too.
                    let rest = path.split('/').skip(near.components().count());
                    let whole = near.join(rest.collect::<PathBuf>());
                    let meant = if self.root.join(&whole).exists() { whole } else { near };
                    format!("did you mean `{}`?", meant.display())
                }
                None if folder.as_os_str().is_empty() => {
                    format!("there is no `{part}` in the project's root")
                }
                None => format!("there is no `{part}` in `{}`", folder.display()),
            });
        }
        None
    }
}

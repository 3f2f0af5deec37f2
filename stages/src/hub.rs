//! The Hugging Face hub: a repository of models or data at a commit, and the files that it has there.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;

use okapi_engine::stage::Placeholder;
use okapi_engine::stage_context::{StageContext, StageError};
use reqwest::Url;
use reqwest::blocking::{Client, Response};
use reqwest::header::LINK;
use serde::Deserialize;

use crate::download::{Trouble, get, with_patience};
use crate::pin::{Pin, is_hex, is_zeros};

pub(crate) const DEFAULT: &str = "https://huggingface.co";

/// The most pages of a listing, and the most bytes of one; the hub's have a thousand names.
const PAGES: usize = 100;
const PAGE: u64 = 16 << 20;
/// So many names are told where another was expected.
const NAMED: usize = 10;

/// The hub's address.
pub(crate) fn address() -> String {
    set("HF_ENDPOINT").unwrap_or_else(|| DEFAULT.to_owned())
}

/// What the user is known by there. It goes to the hub's address alone.
pub(crate) fn token() -> Option<String> {
    set("HF_TOKEN")
}

fn set(variable: &str) -> Option<String> {
    let value = std::env::var(variable).ok()?.trim().to_owned();
    (!value.is_empty()).then_some(value)
}

/// A repository, or a folder of one, at a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Repository {
    /// Whether it holds data; models else.
    is_dataset: bool,
    owner: String,
    name: String,
    revision: String,
    subfolder: Vec<String>,
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HubFile {
    pub(crate) size: u64,
    pub(crate) pin: Pin,
}

/// What a repository has, by names; folders, with a `/` behind their names, are no files.
pub(crate) type Listing = BTreeMap<String, Option<HubFile>>;

/// An entry of the hub's listing.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    path: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    oid: String,
    lfs: Option<Lfs>,
}

/// A large file, for which git has a pointer.
#[derive(Deserialize)]
struct Lfs {
    /// The SHA-256 of the content.
    oid: String,
    size: u64,
}

impl Repository {
    /// Reads `OWNER/NAME@REVISION`, with or without `hf://`.
    pub(crate) fn parse(text: &str, subfolder: Option<&str>) -> Result<Repository, String> {
        let bad = || {
            format!(
                "`repository` must read OWNER/NAME@REVISION, as `bigscience/bloom-560m@` and a commit's 40 hex \
                 digits, not `{text}`"
            )
        };
        let (repository, revision) =
            match text.strip_prefix("hf://").unwrap_or(text).split_once('@') {
                Some((repository, revision)) => (repository, revision),
                None => (text.strip_prefix("hf://").unwrap_or(text), ""),
            };
        let (owner, name) = repository.split_once('/').ok_or_else(bad)?;
        if !is_name(owner) || !is_name(name) {
            return Err(bad());
        }
        if !is_hex(revision, 40) {
            let found = match revision {
                "" => "`repository` names no commit".to_owned(),
                _ => format!(
                    "`{revision}` is no commit; a branch or tag may mean another model tomorrow"
                ),
            };
            let branch = if is_name(revision) { revision } else { "HEAD" };
            return Err(format!(
                "{found}: write `{owner}/{name}@` and the commit's 40 hex digits, which \
                 `git ls-remote {DEFAULT}/{owner}/{name} {branch}` tells, or the page \
                 {DEFAULT}/{owner}/{name}/commits"
            ));
        }
        let subfolder: Vec<String> =
            subfolder.into_iter().flat_map(|path| path.split('/')).map(str::to_owned).collect();
        if subfolder.iter().any(|part| part.is_empty() || part == "." || part == "..") {
            return Err("`subfolder` must be a folder of the repository, as `a/b`".to_owned());
        }
        let (owner, name, revision) = (owner.to_owned(), name.to_owned(), revision.to_owned());
        Ok(Repository { is_dataset: false, owner, name, revision, subfolder })
    }

    /// Reads the address of a file, `hf://datasets/OWNER/NAME@COMMIT/FILE` or `hf://OWNER/NAME@COMMIT/FILE`: the
    /// folder that it lies in, and its name.
    pub(crate) fn of_file(url: &str) -> Result<(Repository, String), String> {
        let bad = || {
            format!(
                "`{url}` must read hf://datasets/OWNER/NAME@REVISION/FILE or hf://OWNER/NAME@REVISION/FILE"
            )
        };
        let rest = url.strip_prefix("hf://").ok_or_else(bad)?;
        let (is_dataset, rest) = match rest.strip_prefix("datasets/") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let (repository, path) = rest.split_once('@').ok_or_else(bad)?;
        let (owner, name) = repository.split_once('/').ok_or_else(bad)?;
        let (revision, path) = path.split_once('/').ok_or_else(bad)?;
        let mut subfolder: Vec<String> = path.split('/').map(str::to_owned).collect();
        let is_part = |part: &String| !matches!(&part[..], "" | "." | "..");
        if !is_name(owner) || !is_name(name) || !subfolder.iter().all(is_part) {
            return Err(bad());
        }
        if !is_hex(revision, 40) {
            return Err(format!(
                "`{revision}` is no commit, and a branch or tag may mean another file tomorrow: pin the file by \
                 `digest: sha256:<hex>`, or write the commit's 40 hex digits behind `@`"
            ));
        }
        let file = subfolder.pop().ok_or_else(bad)?;
        let (owner, name, revision) = (owner.to_owned(), name.to_owned(), revision.to_owned());
        Ok((Repository { is_dataset, owner, name, revision, subfolder }, file))
    }

    /// `OWNER/NAME`.
    pub(crate) fn id(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    /// Whether its commit is to be filled in.
    pub(crate) fn placeholder(&self) -> Option<Placeholder> {
        is_zeros(&self.revision).then(|| {
            let kind = if self.is_dataset { "datasets/" } else { "" };
            let id = self.id();
            Placeholder {
                message: format!("the commit of {id} is all zeros"),
                hint: format!("`git ls-remote {DEFAULT}/{kind}{id} HEAD` tells it"),
            }
        })
    }

    pub(crate) fn revision(&self) -> &str {
        &self.revision
    }

    /// The address of a file.
    pub(crate) fn file_address(&self, hub: &str, file: &str) -> Result<String, StageError> {
        let kind = self.is_dataset.then_some("datasets");
        let before = [&self.owner[..], &self.name, "resolve", &self.revision];
        let inside = self.subfolder.iter().map(String::as_str).chain([file]);
        Ok(join(hub, kind.into_iter().chain(before).chain(inside))?.to_string())
    }

    /// What helps when the hub has no such thing, or not for us.
    pub(crate) fn refused_hint(&self) -> String {
        let subfolder = match (self.subfolder.is_empty(), self.is_dataset) {
            (true, _) => "",
            (false, true) => ", the folder",
            (false, false) => ", `subfolder`",
        };
        let (kind, id) = (if self.is_dataset { "datasets/" } else { "" }, self.id());
        format!(
            "check the repository's name, the commit{subfolder} and HF_ENDPOINT; a private repository needs \
             HF_TOKEN, and for a gated one its terms have to be accepted too, on {DEFAULT}/{kind}{id}"
        )
    }

    /// The names of what lies in the repository, or in its subfolder, and the digests of the files.
    pub(crate) fn list(
        &self,
        context: &StageContext<'_>,
        client: &Client,
        hub: &str,
        token: Option<&str>,
    ) -> Result<Listing, StageError> {
        let kind = if self.is_dataset { "datasets" } else { "models" };
        let before = ["api", kind, &self.owner, &self.name, "tree", &self.revision];
        let inside = self.subfolder.iter().map(String::as_str);
        let mut address = join(hub, before.into_iter().chain(inside))?;
        let hint = self.refused_hint();
        let mut listing = Listing::new();
        for _ in 0..PAGES {
            let (entries, next) = with_patience(context, &mut || {
                read_page(get(client, address.as_str(), token, 0, &hint)?)
            })?;
            for entry in entries {
                let (name, file) = self.entry(entry).map_err(StageError::failed)?;
                listing.insert(name, file);
            }
            let Some(next) = next else { return Ok(listing) };
            // Only where to go on is taken from the link: requests have a token.
            address.set_query(next_query(&address, &next).as_deref());
        }
        Err(StageError::failed("the hub's listing does not end"))
    }

    /// What the commit has under this name, as the hub lists it.
    pub(crate) fn find(
        &self,
        context: &StageContext<'_>,
        client: &Client,
        file: &str,
    ) -> Result<HubFile, StageError> {
        let mut listing = self.list(context, client, &address(), token().as_deref())?;
        listing.remove(file).flatten().ok_or_else(|| {
            let names: Vec<_> = listing.keys().take(NAMED).map(String::as_str).collect();
            let more = if listing.len() > NAMED { ", ..." } else { "" };
            StageError::Failed {
                message: format!("{self} has no file {file}"),
                hint: Some(format!("it has {}{more}", names.join(", "))),
                transient: false,
            }
        })
    }

    /// The name of an entry, and what is known of it if it is a file.
    fn entry(&self, entry: Entry) -> Result<(String, Option<HubFile>), String> {
        let outside =
            || format!("the hub lists `{}`, which does not lie in the repository", entry.path);
        let mut name = &entry.path[..];
        for part in &self.subfolder {
            let inside = name.strip_prefix(&part[..]).and_then(|rest| rest.strip_prefix('/'));
            name = inside.ok_or_else(outside)?;
        }
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\\', '\0']) {
            return Err(outside());
        }
        if entry.kind != "file" {
            return Ok((format!("{name}/"), None));
        }
        let (pin, size) = match entry.lfs {
            Some(Lfs { oid, size }) if is_hex(&oid, 64) => (Pin::Sha256(oid), size),
            None if is_hex(&entry.oid, 40) => {
                (Pin::GitBlob { oid: entry.oid, size: Some(entry.size) }, entry.size)
            }
            _ => return Err(format!("the hub gives no digest for `{name}`")),
        };
        Ok((name.to_owned(), Some(HubFile { size, pin })))
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_dataset { "datasets/" } else { "" };
        write!(f, "{kind}{}/{}@{}", self.owner, self.name, self.revision)?;
        self.subfolder.iter().try_for_each(|part| write!(f, "/{part}"))
    }
}

/// Whether the hub has such names of owners and repositories.
fn is_name(text: &str) -> bool {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !text.is_empty() && !text.starts_with(['.', '-']) && text.bytes().all(is_known)
}

/// An address below the hub's. What is wrong with the hub's is told without it: it may hold a password.
fn join<'a>(hub: &str, parts: impl Iterator<Item = &'a str>) -> Result<Url, StageError> {
    let no_address = || StageError::failed("HF_ENDPOINT must begin with https:// or http://");
    let mut url = Url::parse(hub).map_err(|_| no_address())?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(no_address());
    }
    url.path_segments_mut().map_err(|()| no_address())?.pop_if_empty().extend(parts);
    Ok(url)
}

/// The entries of a page, and the address of the next one.
fn read_page(response: Response) -> Result<(Vec<Entry>, Option<String>), Trouble> {
    let links = response.headers().get_all(LINK).into_iter();
    let next = links.filter_map(|link| link.to_str().ok()).find_map(next_link).map(str::to_owned);
    let mut bytes = Vec::new();
    let read = response.take(PAGE + 1).read_to_end(&mut bytes);
    read.map_err(|error| Trouble::passing(error.to_string()))?;
    if bytes.len() as u64 > PAGE {
        return Err(StageError::failed("the hub's listing has pages that are absurdly long").into());
    }
    let entries = serde_json::from_slice(&bytes);
    let entries = entries.map_err(|error| {
        StageError::failed(format!("what HF_ENDPOINT answers is no listing of the hub's: {error}"))
    })?;
    Ok((entries, next))
}

/// The next page, by a `Link` header.
fn next_link(header: &str) -> Option<&str> {
    header.split(',').find_map(|link| {
        let (address, relation) = link.trim().strip_prefix('<')?.split_once('>')?;
        relation.contains("rel=\"next\"").then_some(address)
    })
}

/// The query of a link.
fn next_query(base: &Url, link: &str) -> Option<String> {
    base.join(link).ok()?.query().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "ac2ae5fab2ce3f9f40dc79b5ca9f637430d24971";

    fn bloom(subfolder: Option<&str>) -> Repository {
        Repository::parse(&format!("hf://bigscience/bloom-560m@{COMMIT}"), subfolder).unwrap()
    }

    #[test]
    fn a_repository_is_named_at_a_commit() {
        assert_eq!(
            bloom(None),
            Repository::parse(&format!("bigscience/bloom-560m@{COMMIT}"), None).unwrap()
        );
        let shown = bloom(Some("a/b")).to_string();
        assert_eq!(shown, format!("bigscience/bloom-560m@{COMMIT}/a/b"));
        for (text, expected) in [
            ("gpt2", "must read OWNER/NAME@REVISION"),
            ("o/n/m@r", "must read OWNER/NAME@REVISION"),
            ("../n@main", "must read OWNER/NAME@REVISION"),
            ("o/n", "names no commit: write `o/n@` and"),
            ("hf://o/n@main", "`main` is no commit"),
            ("o/n@main", "`git ls-remote https://huggingface.co/o/n main` tells"),
            ("o/n@ac2ae5f", "`ac2ae5f` is no commit"),
            ("o/n@$(rm)", "`git ls-remote https://huggingface.co/o/n HEAD` tells"),
        ] {
            let said = Repository::parse(text, None).unwrap_err();
            assert!(said.contains(expected), "{said}");
        }
        assert!(Repository::parse(&format!("o/n@{COMMIT}"), Some("../a")).is_err());
    }

    #[test]
    fn a_file_at_a_commit_is_named_with_its_folder() {
        let (repository, file) =
            Repository::of_file(&format!("hf://datasets/o/n@{COMMIT}/data/en/a b.parquet"))
                .unwrap();
        assert_eq!(file, "a b.parquet");
        assert_eq!(repository.to_string(), format!("datasets/o/n@{COMMIT}/data/en"));
        assert_eq!(
            repository.file_address("http://127.0.0.1:8", &file).unwrap(),
            format!("http://127.0.0.1:8/datasets/o/n/resolve/{COMMIT}/data/en/a%20b.parquet")
        );
        let (repository, file) = Repository::of_file(&format!("hf://o/n@{COMMIT}/f")).unwrap();
        assert_eq!((repository.subfolder.len(), &file[..]), (0, "f"));
        for (url, expected) in [
            ("hf://datasets/o/n@main/f", "`main` is no commit"),
            ("hf://o/n@ac2ae5f/f", "`ac2ae5f` is no commit"),
            ("hf://o/n/f", "must read hf://"),
            ("https://o/n@main/f", "must read hf://"),
        ] {
            let said = Repository::of_file(url).unwrap_err();
            assert!(said.contains(expected), "{said}");
        }
        assert!(Repository::of_file(&format!("hf://o/n@{COMMIT}/a/../b")).is_err());
        assert!(Repository::of_file(&format!("hf://o/../n@{COMMIT}/b")).is_err());
    }

    #[test]
    fn addresses_are_made_of_parts() {
        let address = |hub: &str| bloom(Some("a")).file_address(hub, "LICENSE #1?.txt");
        assert_eq!(
            address("http://127.0.0.1:8/hub/").unwrap(),
            format!(
                "http://127.0.0.1:8/hub/bigscience/bloom-560m/resolve/{COMMIT}/a/LICENSE%20%231%3F.txt"
            )
        );
        for hub in ["huggingface.co", "ftp://me:hunter2@x", "data:x"] {
            let said = address(hub).unwrap_err().to_string();
            assert_eq!(said, "HF_ENDPOINT must begin with https:// or http://");
        }
    }

    #[test]
    fn entries_lie_in_the_repository_and_have_digests() {
        let read = |repository: &Repository, json: serde_json::Value| {
            repository.entry(serde_json::from_value(json).unwrap())
        };
        let (sha1, sha256) = ("1".repeat(40), "2".repeat(64));
        let small = serde_json::json!({"type": "file", "path": "a/x", "size": 3, "oid": sha1});
        let file = |pin, size| Some(HubFile { pin, size });
        assert_eq!(
            read(&bloom(Some("a")), small.clone()).unwrap(),
            ("x".into(), file(Pin::GitBlob { oid: sha1.clone(), size: Some(3) }, 3))
        );
        let large = serde_json::json!({"type": "file", "path": "w", "size": 130, "oid": sha1,
            "lfs": {"oid": sha256, "size": 130, "pointerSize": 128}});
        assert_eq!(
            read(&bloom(None), large).unwrap(),
            ("w".into(), file(Pin::Sha256(sha256), 130))
        );
        let folder = serde_json::json!({"type": "directory", "path": "onnx"});
        assert_eq!(read(&bloom(None), folder).unwrap(), ("onnx/".into(), None));
        assert!(
            read(&bloom(None), small.clone())
                .unwrap_err()
                .contains("does not lie in the repository")
        );
        for (field, value, expected) in [
            ("path", "a/..", "does not lie in the repository"),
            ("path", "b/x", "does not lie in the repository"),
            ("path", "a/b\\c", "does not lie in the repository"),
            ("path", "a/", "does not lie in the repository"),
            ("oid", "7", "gives no digest for `x`"),
        ] {
            let mut wrong = small.clone();
            wrong[field] = value.into();
            let said = read(&bloom(Some("a")), wrong).unwrap_err();
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn only_where_to_go_on_is_taken_from_a_link() {
        let header = "<https://elsewhere/x?cursor=a%2C&limit=2>; rel=\"next\", <y>; rel=\"last\"";
        let link = next_link(header).unwrap();
        let base = Url::parse("http://127.0.0.1/api?cursor=old").unwrap();
        assert_eq!(next_query(&base, link).as_deref(), Some("cursor=a%2C&limit=2"));
        assert_eq!(next_link("<y>; rel=\"last\""), None);
    }
}

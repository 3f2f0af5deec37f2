//! The lock file: what each instance's result is, as one file to be kept in git beside the pipeline.
//!
//! ```json
//! {
//!   "okapi_lock": 1,
//!   "profile": null,
//!   "set": [],
//!   "nodes": {
//!     "count[lang=de]": {
//!       "action": "8c5f...",
//!       "outputs": {"counts": "file:1d73..."}
//!     }
//!   }
//! }
//! ```
//!
//! A reviewer sees in its diff what a change of the pipeline did to results, without a store; and [`LockFile::compare`] says whether
//! it is still true.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use okapi_cache::{ActionDigest, Artifact, ArtifactKind, Store};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::audit::{AuditQuestion, Finding, Recorded, Verdict};
use crate::graph::{Graph, InstanceId};

/// The version of the file.
const VERSION: u32 = 1;

/// What to do about a lock file that is not true.
const WRITE_AGAIN: Option<&str> = Some("`okapi run --lock` writes it anew");

/// What to do where one action has two outputs: neither the file nor the result is to be believed.
const EXECUTE_AGAIN: Option<&str> = Some(
    "`okapi audit --reexecute NODE` tells whether the result in the store is what its action gives",
);

/// What each instance's result is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockFile {
    /// The version of the file: 1.
    pub okapi_lock: u32,
    /// The profile that it was written with.
    pub profile: Option<String>,
    /// The `--set` arguments that it was written with.
    pub set: Vec<String>,
    /// By instance.
    #[serde(deserialize_with = "once_each")]
    pub nodes: BTreeMap<String, LockedNode>,
}

/// The result of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedNode {
    /// Its action.
    pub action: ActionDigest,
    /// `file:DIGEST` or `tree:DIGEST`, by port.
    #[serde(deserialize_with = "once_each")]
    pub outputs: BTreeMap<String, String>,
}

/// Reads a map that has each name once: of two entries of one name a reader of the file would see one, and a comparison might
/// take the other.
fn once_each<'de, D, V>(deserializer: D) -> Result<BTreeMap<String, V>, D::Error>
where
    D: Deserializer<'de>,
    V: Deserialize<'de>,
{
    struct OnceEach<V>(PhantomData<V>);
    impl<'de, V: Deserialize<'de>> Visitor<'de> for OnceEach<V> {
        type Value = BTreeMap<String, V>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some((name, value)) = members.next_entry::<String, V>()? {
                if map.contains_key(&name) {
                    return Err(A::Error::custom(format!("it has `{name}` twice")));
                }
                map.insert(name, value);
            }
            Ok(map)
        }
    }
    deserializer.deserialize_map(OnceEach(PhantomData))
}

/// Why there is no lock file to compare with.
#[derive(Debug, thiserror::Error)]
pub enum LockFileError {
    /// It cannot be read or written.
    #[error("the lock file {}: {source}", path.display())]
    Io {
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no lock file, or one of a newer okapi.
    #[error("{} is no lock file: {message}", path.display())]
    Bad {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

/// Where the lock file of a pipeline lies: beside it, with `.lock` in place of `.yaml`, and else after its name: a `p.yml`
/// may lie beside a `p.yaml`.
pub fn path_beside(pipeline: &Path) -> PathBuf {
    match pipeline.extension().and_then(|it| it.to_str()) {
        Some("yaml") => pipeline.with_extension("lock"),
        _ => {
            let mut name = pipeline.file_name().unwrap_or_default().to_owned();
            name.push(".lock");
            pipeline.with_file_name(name)
        }
    }
}

impl LockFile {
    /// What the results of instances are; `action_of` gives their actions. One without a result is left out.
    pub fn of(
        graph: &Graph,
        store: &Store,
        profile: Option<&str>,
        set: &[String],
        action_of: impl Fn(InstanceId) -> Option<ActionDigest>,
    ) -> LockFile {
        let mut nodes = BTreeMap::new();
        for (id, instance) in (0..).zip(&graph.instances) {
            let Some(action) = action_of(id) else { continue };
            let Some(cached) = store.lookup(&action) else { continue };
            let node = LockedNode { action, outputs: by_port(graph, id, cached.outputs()) };
            nodes.insert(instance.name.to_string(), node);
        }
        let (profile, set) = (profile.map(str::to_owned), set.to_vec());
        LockFile { okapi_lock: VERSION, profile, set, nodes }
    }

    /// Reads a lock file.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub fn read(path: &Path) -> Result<LockFile, LockFileError> {
        let io = |source| LockFileError::Io { path: path.to_owned(), source };
        let bad = |message: String| LockFileError::Bad { path: path.to_owned(), message };
        let text = std::fs::read(path).map_err(io)?;
        let lock: LockFile =
            serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        match lock.okapi_lock == VERSION {
            true => Ok(lock),
            false => Err(bad(format!("it is of version {}", lock.okapi_lock))),
        }
    }

    /// Writes the file in one step; says whether it differs from what was there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<bool, LockFileError> {
        let io = |source| LockFileError::Io { path: path.to_owned(), source };
        let mut text = serde_json::to_vec_pretty(self).map_err(|error| io(error.into()))?;
        text.push(b'\n');
        if std::fs::read(path).is_ok_and(|before| before == text) {
            return Ok(false);
        }
        // A link stays one: what it leads to is written.
        let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let temp = path.with_extension(format!("lock.{}", std::process::id()));
        let written = std::fs::write(&temp, &text).and_then(|()| std::fs::rename(&temp, path));
        if written.is_err() {
            // The first error is the one that matters.
            let _ = std::fs::remove_file(&temp);
        }
        written.map_err(io).map(|()| true)
    }

    /// What the file was written with, if that is something else than these.
    pub fn other_overlay(&self, profile: Option<&str>, set: &[String]) -> Option<String> {
        if (self.profile.as_deref(), &*self.set) == (profile, set) {
            return None;
        }
        let mut words: Vec<String> = Vec::new();
        words.extend(self.profile.iter().map(|profile| format!("--profile {profile}")));
        words.extend(self.set.iter().map(|set| format!("--set '{set}'")));
        let with = if words.is_empty() {
            "neither --profile nor --set".to_owned()
        } else {
            words.join(" ")
        };
        Some(with)
    }

    /// Where the recorded results of selected instances are not what the file says: by instance, what differs.
    pub fn compare(
        &self,
        question: &AuditQuestion<'_>,
        recorded: &[Option<Recorded>],
    ) -> Vec<(String, Finding)> {
        let AuditQuestion { graph, selection, .. } = *question;
        let stale = |name: &str, message: String| {
            let finding = Finding { verdict: Verdict::ChangedSince, message, hint: WRITE_AGAIN };
            (name.to_owned(), finding)
        };
        let mut all = Vec::new();
        for (id, instance) in graph.instances.iter().enumerate() {
            let name = &*instance.name;
            let Some(result) = recorded[id].as_ref().filter(|_| selection.needed[id]) else {
                continue;
            };
            let Some(locked) = self.nodes.get(name) else {
                all.push(stale(name, "the lock file does not have it".to_owned()));
                continue;
            };
            if locked.action != result.action {
                let (was, is) = (locked.action.0.short(), result.action.0.short());
                let message = format!("the lock file has its action {was}, and {is} is recorded");
                all.push(stale(name, message));
            }
            let outputs = by_port(graph, id as InstanceId, &result.outputs);
            let ports = locked.outputs.keys().chain(outputs.keys());
            let ports: std::collections::BTreeSet<&String> = ports.collect();
            for port in
                ports.into_iter().filter(|port| locked.outputs.get(*port) != outputs.get(*port))
            {
                if locked.action == result.action {
                    let message = format!(
                        "the lock file has another output `{port}` of the same action: one of them was not made by it, or it gives another each time"
                    );
                    let verdict = Verdict::ChangedSince;
                    let finding = Finding { verdict, message, hint: EXECUTE_AGAIN };
                    all.push((name.to_owned(), finding));
                    continue;
                }
                let message = format!("the lock file has another output `{port}`");
                all.push(stale(name, message));
            }
        }
        if selection.is_everything() {
            let names: std::collections::BTreeSet<&str> =
                graph.instances.iter().map(|it| &*it.name).collect();
            let gone = self.nodes.keys().filter(|name| !names.contains(name.as_str()));
            let message = "the lock file has it, and the pipeline has not";
            all.extend(gone.map(|name| stale(name, message.to_owned())));
        }
        all
    }
}

fn by_port(graph: &Graph, id: InstanceId, outputs: &[Artifact]) -> BTreeMap<String, String> {
    let ports = graph.node(id).outputs.iter().map(|output| output.port.clone());
    ports.zip(outputs.iter().map(in_words)).collect()
}

fn in_words(artifact: &Artifact) -> String {
    match artifact.kind {
        ArtifactKind::File => format!("file:{}", artifact.digest),
        ArtifactKind::Tree => format!("tree:{}", artifact.digest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_file_reads_back_and_is_written_only_if_it_differs() {
        let folder = tempfile::tempdir().unwrap();
        let path = path_beside(&folder.path().join("p.yaml"));
        let action = ActionDigest(okapi_cache::Digest::of(b"x"));
        let outputs = BTreeMap::from([("a".to_owned(), format!("file:{}", action.0))]);
        let nodes = BTreeMap::from([("n[lang=de]".to_owned(), LockedNode { action, outputs })]);
        let lock = LockFile { okapi_lock: 1, profile: None, set: vec!["vars.n=1".into()], nodes };
        assert_eq!(path, folder.path().join("p.lock"));
        assert_ne!(path_beside(&folder.path().join("p.yml")), path);
        assert!(lock.write(&path).unwrap());
        assert!(!lock.write(&path).unwrap());
        assert_eq!(LockFile::read(&path).unwrap(), lock);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let link = folder.path().join("linked.lock");
        std::os::unix::fs::symlink("p.lock", &link).unwrap();
        let newer = LockFile { okapi_lock: 2, ..lock };
        newer.write(&link).unwrap();
        assert!(link.is_symlink());
        assert!(LockFile::read(&path).unwrap_err().to_string().contains("version 2"));
    }

    /// The last of two entries was compared, and the first was what a reviewer saw.
    #[test]
    fn a_lock_file_that_has_a_name_twice_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.lock");
        let digest = okapi_cache::Digest::of(b"x");
        let node =
            |outputs: &str| format!(r#""n":{{"action":"{digest}","outputs":{{{outputs}}}}}"#);
        let output = format!(r#""a":"file:{digest}""#);
        let read = |nodes: &str| {
            let text = format!(r#"{{"okapi_lock":1,"profile":null,"set":[],"nodes":{{{nodes}}}}}"#);
            std::fs::write(&path, text).unwrap();
            LockFile::read(&path).map_err(|error| error.to_string())
        };
        let once = node(&output);
        assert_eq!(read(&once).unwrap().nodes.len(), 1);
        let said = read(&format!("{once},{once}")).unwrap_err();
        assert!(said.contains("it has `n` twice"), "{said}");
        let said = read(&node(&format!("{output},{output}"))).unwrap_err();
        assert!(said.contains("it has `a` twice"), "{said}");
    }
}

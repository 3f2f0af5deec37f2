//! The batches on their way, in a file beside the records.
//!
//! An entry is written before a batch begins, under the file that it is made of, and goes when all of it is
//! recorded or refused, or when the server says that there is nothing to it. So a kill at any moment
//! leaves every batch that was paid for where the next run finds it.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;

use okapi_cache::{Digest, RecordCache};
use serde::{Deserialize, Serialize};

/// A batch that was started, or was about to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OpenBatch {
    /// The server's id for the file that it was made of.
    pub(super) input: String,
    /// The server's id for it, once that is known.
    pub(super) id: Option<String>,
    /// Whose ids those are.
    server: String,
    /// The digests of its requests.
    pub(super) requests: Vec<String>,
    /// Those of them that were refused.
    #[serde(default)]
    refused: Vec<String>,
}

/// The journal, as one server's batches see it.
pub(super) struct Journal {
    path: PathBuf,
    server: String,
}

impl Journal {
    /// The journal beside these records. What is recorded whole goes out of it.
    pub(super) fn beside(records: &RecordCache, server: &str) -> Journal {
        let path = records.folder().join("batches.json");
        let journal = Journal { path, server: server.to_owned() };
        let is_settled = |batch: &OpenBatch, request: &String| {
            if batch.refused.contains(request) {
                return true;
            }
            let digest = request.parse::<Digest>().ok();
            digest.is_some_and(|digest| matches!(records.lookup(&digest), Ok(Some(_))))
        };
        if journal.path.exists() {
            journal.change(|open| {
                open.retain(|batch| !batch.requests.iter().all(|it| is_settled(batch, it)));
            });
        }
        journal
    }

    /// This server's batches.
    pub(super) fn read(&self) -> Vec<OpenBatch> {
        self.all().into_iter().filter(|batch| batch.server == self.server).collect()
    }

    /// A batch is about to be made of a file.
    pub(super) fn add(&self, input: &str, requests: &[String]) {
        let batch = OpenBatch {
            input: input.to_owned(),
            id: None,
            server: self.server.clone(),
            requests: requests.to_vec(),
            refused: Vec::new(),
        };
        self.change(|open| open.push(batch));
    }

    /// It has got its id.
    pub(super) fn name(&self, input: &str, id: &str) {
        self.change_one(input, |batch| batch.id = Some(id.to_owned()));
    }

    /// Some of its requests were refused.
    pub(super) fn refuse(&self, input: &str, requests: &[String]) {
        self.change_one(input, |batch| batch.refused.extend_from_slice(requests));
    }

    pub(super) fn remove(&self, input: &str) {
        self.change(|open| {
            open.retain(|batch| batch.input != input || batch.server != self.server);
        });
    }

    fn change_one(&self, input: &str, change: impl FnOnce(&mut OpenBatch)) {
        self.change(|open| {
            let ours = |batch: &&mut OpenBatch| batch.input == input && batch.server == self.server;
            if let Some(batch) = open.iter_mut().find(ours) {
                change(batch);
            }
        });
    }

    fn all(&self) -> Vec<OpenBatch> {
        let bytes = std::fs::read(&self.path).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Changes the journal; other processes wait. One that cannot be written costs a second batch
    /// after a kill, nothing else.
    fn change(&self, change: impl FnOnce(&mut Vec<OpenBatch>)) {
        let write = || -> io::Result<()> {
            let lock: File = OpenOptions::new()
                .create(true)
                .append(true)
                .open(self.path.with_extension("lock"))?;
            lock.lock()?;
            let mut open = self.all();
            let before = open.clone();
            change(&mut open);
            if open == before {
                return Ok(());
            }
            let temporary = self.path.with_extension("new");
            std::fs::write(&temporary, serde_json::to_vec(&open)?)?;
            File::open(&temporary)?.sync_all()?;
            std::fs::rename(&temporary, &self.path)
        };
        if let Err(error) = write() {
            tracing::warn!("{}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use okapi_cache::{Access, Durability, Store};

    use super::*;

    #[test]
    fn an_entry_stays_until_all_of_it_is_recorded() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), Access::ReadWrite, Durability::Batch).unwrap();
        let records = store.records();
        let digests = [Digest::of(b"one"), Digest::of(b"two")];
        let requests: Vec<String> = digests.iter().map(ToString::to_string).collect();
        let here = Journal::beside(records, "http://here/v1");
        let there = Journal::beside(records, "http://there/v1");
        here.add("file-1", &requests);
        here.name("file-1", "batch_1");
        there.add("file-1", &requests[..1]);
        assert_eq!((here.read().len(), there.read().len()), (1, 1));
        records.add(&[(digests[0], b"answer".to_vec())]).unwrap();
        let here = Journal::beside(records, "http://here/v1");
        assert_eq!((here.read().len(), there.read().len()), (1, 0));
        assert_eq!(here.read()[0].id.as_deref(), Some("batch_1"));
        here.refuse("file-1", &requests[1..]);
        assert_eq!(Journal::beside(records, "http://here/v1").read(), []);
    }
}

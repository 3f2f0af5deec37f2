//! What runs ended with, kept on the remote as the roots of collection.

use okapi_cache::ActionDigest;
use serde::{Deserialize, Serialize};

use crate::error::RemoteError;
use crate::keys::{Key, Kind, is_run_name};
use crate::remote::Remote;
use crate::requests::Requests;

/// The version of the document.
const VERSION: u32 = 1;
/// The longest document: a million actions.
const LONGEST: u64 = 128 << 20;

/// The results that a run ended with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRoot {
    /// The version of this document: 1.
    pub okapi_run: u32,
    /// The pipeline's name.
    pub pipeline: String,
    /// When it ended, milliseconds since 1970.
    pub finished_unix_ms: u64,
    /// The actions of all its instances that have a result, sorted.
    pub actions: Vec<ActionDigest>,
}

impl RunRoot {
    /// The root of a run that ended now.
    pub fn new(pipeline: String, finished_unix_ms: u64, mut actions: Vec<ActionDigest>) -> RunRoot {
        actions.sort_unstable();
        actions.dedup();
        RunRoot { okapi_run: VERSION, pipeline, finished_unix_ms, actions }
    }
}

impl Remote {
    /// Writes down what a run ended with. `name` tells it from runs of other stores: letters, digits, `-`, `_` and `.`.
    ///
    /// # Errors
    /// When the remote fails, or may not be written.
    pub fn put_run(&self, name: &str, root: &RunRoot) -> Result<(), RemoteError> {
        self.check_writable()?;
        if !is_run_name(name) {
            return Err(no_document(name, "it is no name for a run".to_owned()));
        }
        self.wait(self.requests().put_run(name, root))
    }

    /// The runs that the remote knows, the newest first, with their names. One that cannot be read is an error: whoever
    /// collects without it would remove what it needs.
    ///
    /// # Errors
    /// When the remote fails, or a run's document is damaged.
    pub fn runs(&self) -> Result<Vec<(String, RunRoot)>, RemoteError> {
        self.wait(async {
            let mut runs = Vec::new();
            for listed in self.requests().list(Kind::Run).await? {
                let Key::Run(name) = listed.key else { continue };
                // One that went meanwhile is none.
                if let Some(root) = self.requests().run(&name).await? {
                    runs.push((name, root));
                }
            }
            runs.sort_by(|a, b| (b.1.finished_unix_ms, &b.0).cmp(&(a.1.finished_unix_ms, &a.0)));
            Ok(runs)
        })
    }
}

impl Requests {
    /// What a run ended with, if the remote knows it.
    pub(crate) async fn run(&self, name: &str) -> Result<Option<RunRoot>, RemoteError> {
        let key = Key::Run(name.to_owned());
        let Some(bytes) = self.get(&key, LONGEST).await? else { return Ok(None) };
        let damaged = |message: String| RemoteError::Damaged { key: key.to_string(), message };
        let root: RunRoot =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        match root.okapi_run {
            VERSION => Ok(Some(root)),
            other => Err(damaged(format!("it is of version {other}"))),
        }
    }

    pub(crate) async fn put_run(&self, name: &str, root: &RunRoot) -> Result<(), RemoteError> {
        let text =
            serde_json::to_vec(root).map_err(|error| no_document(name, error.to_string()))?;
        self.put(&Key::Run(name.to_owned()), text).await
    }
}

fn no_document(name: &str, message: String) -> RemoteError {
    RemoteError::Request { what: "write", key: name.to_owned(), message, forbidden: false }
}

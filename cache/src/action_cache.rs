//! Action digest -> result.
//!
//! ```text
//! actions.log     one small binary record per result: what a hit needs; read whole at open
//! documents.log   the action documents with the details of their results: read by offset
//! ```
//!
//! A record of `actions.log`: action digest (32 bytes), duration in ms (u32), offset (u64) and
//! length (u32) in `documents.log`, number of outputs (u16), and per output kind (u8), digest (32),
//! size (u64); all little-endian. The outputs are in the order of the sorted port names. A later
//! record of an action replaces an earlier one.

#![expect(
    clippy::disallowed_types,
    reason = "maps keyed by digests are looked up; what is listed from them is sorted first"
)]

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::artifact::{Artifact, ArtifactKind};
use crate::atomic_write::Faults;
use crate::log_file::LogFile;
use crate::{ActionDigest, Digest, StoreError};

/// What a hit gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedOutputs {
    outputs: Box<[Artifact]>,
    duration_ms: u32,
}

impl CachedOutputs {
    /// The outputs, in the order of the sorted port names.
    pub fn outputs(&self) -> &[Artifact] {
        &self.outputs
    }

    /// How long the work took, milliseconds.
    pub fn duration_ms(&self) -> u32 {
        self.duration_ms
    }
}

/// What is kept of a result beside its outputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResultInfo {
    /// Numbers that the stage reported.
    pub metrics: BTreeMap<String, f64>,
    /// How long the work took, milliseconds.
    pub duration_ms: u64,
    /// When it was done, milliseconds since 1970.
    pub finished_unix_ms: u64,
    /// How repeatable the stage says it is.
    pub determinism: String,
    /// The machine, for people and audits.
    pub environment: BTreeMap<String, String>,
    /// What was written to stdout and stderr.
    pub log: Option<Digest>,
    /// What it cost, millionths of a US dollar.
    pub cost_micro_usd: Option<u64>,
    /// Other objects that are worth keeping with the result, such as the prompts it was made with.
    pub keeps: Vec<Artifact>,
}

/// An action document with the details of its result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredAction {
    /// The version of this record: 1.
    pub version: u32,
    /// The canonical JSON of the action.
    pub document: String,
    /// The details.
    pub info: ResultInfo,
}

/// What was measured of an action, without what only people read.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Measures {
    /// Numbers that the stage reported.
    pub metrics: BTreeMap<String, f64>,
    /// How long the work took, milliseconds, if that is known.
    pub duration_ms: Option<u64>,
    /// What it cost, millionths of a US dollar.
    pub cost_micro_usd: Option<u64>,
}

/// What of a [`StoredAction`] is read for [`Measures`].
#[derive(Deserialize)]
struct StoredMeasures<'a> {
    #[serde(borrow)]
    document: std::borrow::Cow<'a, str>,
    info: Measures,
}

/// There is one for each result of the store in memory: it is small.
#[derive(Debug, Clone, Copy)]
struct Entry {
    document_offset: u64,
    /// 0 where there is no document yet.
    document_length: u32,
    first_output: u32,
    duration_ms: u32,
    outputs: u16,
}

impl Entry {
    /// Where the document lies, if it is written.
    fn document(&self) -> Option<(u64, u32)> {
        (self.document_length > 0).then_some((self.document_offset, self.document_length))
    }
}

/// Hashes a digest by taking its first bytes: it is a hash already.
#[derive(Default)]
pub(crate) struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }
}

/// The results of a store, as one process knows them.
#[derive(Debug)]
pub(crate) struct ActionCache {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    actions: LogFile,
    documents: LogFile,
    index: Index,
    /// Results of this process whose document is not written yet.
    pending: BTreeMap<ActionDigest, StoredAction>,
}

#[derive(Debug, Default)]
struct Index {
    entries: HashMap<[u8; 32], Entry, BuildHasherDefault<DigestHasher>>,
    outputs: Vec<Artifact>,
}

impl ActionCache {
    pub(crate) fn open(root: &Path) -> Result<ActionCache, StoreError> {
        let mut state = State {
            actions: LogFile::new(root.join("actions.log"), "actions"),
            documents: LogFile::new(root.join("documents.log"), "documents"),
            index: Index::default(),
            pending: BTreeMap::new(),
        };
        state.refresh()?;
        Ok(ActionCache { state: Mutex::new(state) })
    }

    pub(crate) fn lookup(&self, action: &ActionDigest) -> Option<CachedOutputs> {
        let state = self.state();
        let entry = state.index.entries.get(action.0.as_bytes())?;
        Some(CachedOutputs {
            outputs: state.index.outputs_of(entry).into(),
            duration_ms: entry.duration_ms,
        })
    }

    pub(crate) fn refresh(&self) -> Result<(), StoreError> {
        self.state().refresh()
    }

    /// Makes a result known to this process.
    pub(crate) fn remember(
        &self,
        action: ActionDigest,
        outputs: &[Artifact],
        stored: StoredAction,
    ) {
        let mut state = self.state();
        let duration = clamp_ms(stored.info.duration_ms);
        state.index.insert(action, outputs, duration, (0, 0));
        state.pending.insert(action, stored);
    }

    /// Writes results to the logs: documents first, so that a result that can be read has one.
    pub(crate) fn append(
        &self,
        results: &[(ActionDigest, Vec<Artifact>)],
        sync: bool,
        faults: &Faults,
    ) -> Result<(), StoreError> {
        let mut guard = self.state();
        let state = &mut *guard;
        let mut documents = Vec::with_capacity(results.len());
        for (action, _) in results {
            let stored = state.pending.get(action).map(serde_json::to_vec);
            documents.push(stored.and_then(Result::ok).unwrap_or_default());
        }
        let offsets = state.documents.append_unread(&documents, sync, faults)?.offsets;
        let records: Vec<_> = results
            .iter()
            .zip(offsets.iter().zip(&documents))
            .map(|((action, outputs), (&offset, document))| {
                let info = state.pending.get(action).map(|stored| &stored.info);
                let duration = clamp_ms(info.map_or(0, |info| info.duration_ms));
                encode(action, outputs, duration, (offset, document.len() as u32))
            })
            .collect();
        let index = &mut state.index;
        let appended = state
            .actions
            .append(&records, sync, faults, &mut |_, payload| index.insert_record(payload))?;
        if appended.replaced {
            state.reload()?;
        }
        for (record, (action, _)) in records.iter().zip(results) {
            state.index.insert_record(record);
            state.pending.remove(action);
        }
        Ok(())
    }

    pub(crate) fn document(
        &self,
        action: &ActionDigest,
    ) -> Result<Option<StoredAction>, StoreError> {
        let mut state = self.state();
        if let Some(stored) = state.pending.get(action) {
            return Ok(Some(stored.clone()));
        }
        let entry = state.index.entries.get(action.0.as_bytes()).copied();
        let Some((offset, length)) = entry.and_then(|entry| entry.document()) else {
            return Ok(None);
        };
        let Some(bytes) = state.documents.read_whole(offset, length as usize)? else {
            return Ok(None);
        };
        let stored: Option<StoredAction> = serde_json::from_slice(&bytes).ok();
        // A document that is not the action's own explains nothing.
        Ok(stored.filter(|it| ActionDigest(Digest::of(it.document.as_bytes())) == *action))
    }

    /// The part of a result's details that is small, for those who read many.
    pub(crate) fn measures(&self, action: &ActionDigest) -> Result<Option<Measures>, StoreError> {
        let mut state = self.state();
        if let Some(StoredAction { info, .. }) = state.pending.get(action) {
            return Ok(Some(Measures {
                metrics: info.metrics.clone(),
                duration_ms: Some(info.duration_ms),
                cost_micro_usd: info.cost_micro_usd,
            }));
        }
        let entry = state.index.entries.get(action.0.as_bytes()).copied();
        let Some((offset, length)) = entry.and_then(|entry| entry.document()) else {
            return Ok(None);
        };
        let Some(bytes) = state.documents.read_whole(offset, length as usize)? else {
            return Ok(None);
        };
        drop(state);
        let stored: Option<StoredMeasures<'_>> = serde_json::from_slice(&bytes).ok();
        let stored =
            stored.filter(|it| ActionDigest(Digest::of(it.document.as_bytes())) == *action);
        Ok(stored.map(|it| it.info))
    }

    /// Every action with a result, sorted.
    pub(crate) fn actions(&self) -> Vec<ActionDigest> {
        let state = self.state();
        let digests =
            state.index.entries.keys().map(|bytes| ActionDigest(Digest::from_bytes(*bytes)));
        let mut actions: Vec<_> = digests.collect();
        actions.sort_unstable();
        actions
    }

    /// Keeps the results of these actions and forgets all others. Documents go from file to file one by one: all of them
    /// may take more memory than there is.
    pub(crate) fn retain(
        &self,
        keep: &[ActionDigest],
        temp: &dyn Fn() -> std::path::PathBuf,
    ) -> Result<(), StoreError> {
        let mut guard = self.state();
        let state = &mut *guard;
        let mut documents = state.documents.begin_replacement(&temp())?;
        let mut actions = state.actions.begin_replacement(&temp())?;
        for action in keep {
            let Some(entry) = state.index.entries.get(action.0.as_bytes()).copied() else {
                continue;
            };
            let document = match state.pending.get(action).map(serde_json::to_vec) {
                Some(stored) => stored.unwrap_or_default(),
                None => match entry.document() {
                    Some((offset, length)) => state.documents.read_at(offset, length as usize)?,
                    None => Vec::new(),
                },
            };
            let place = (documents.push(&document)?, document.len() as u32);
            let outputs = state.index.outputs_of(&entry);
            actions.push(&encode(action, outputs, entry.duration_ms, place))?;
        }
        state.documents.finish_replacement(documents)?;
        state.actions.finish_replacement(actions)?;
        state.reload()
    }

    /// Bytes of both logs, and bytes in them that are damaged.
    pub(crate) fn log_sizes(&self) -> (u64, u64) {
        let state = self.state();
        (state.actions.size() + state.documents.size(), state.actions.skipped)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements that can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn refresh(&mut self) -> Result<(), StoreError> {
        let index = &mut self.index;
        let new = self.actions.read_new(&mut |_, payload| index.insert_record(payload))?;
        if new.replaced {
            self.reload()?;
        }
        Ok(())
    }

    /// Reads the whole log again, for it was replaced.
    fn reload(&mut self) -> Result<(), StoreError> {
        let mut index = Index::default();
        self.actions.forget();
        self.actions.read_new(&mut |_, payload| index.insert_record(payload))?;
        self.documents.forget();
        self.index = index;
        Ok(())
    }
}

impl Index {
    fn outputs_of(&self, entry: &Entry) -> &[Artifact] {
        let first = entry.first_output as usize;
        &self.outputs[first..first + usize::from(entry.outputs)]
    }

    fn insert(
        &mut self,
        action: ActionDigest,
        outputs: &[Artifact],
        duration_ms: u32,
        document: (u64, u32),
    ) {
        let entry = Entry {
            document_offset: document.0,
            document_length: document.1,
            first_output: self.outputs.len() as u32,
            duration_ms,
            outputs: outputs.len() as u16,
        };
        self.outputs.extend_from_slice(outputs);
        self.entries.insert(*action.0.as_bytes(), entry);
    }

    /// A record that cannot be read is as good as none: its action runs again.
    fn insert_record(&mut self, payload: &[u8]) {
        let first_output = self.outputs.len();
        let Some((action, mut entry)) = decode(payload, &mut self.outputs) else {
            self.outputs.truncate(first_output);
            return;
        };
        entry.first_output = first_output as u32;
        let known = self.entries.entry(action).or_insert(entry);
        let start = known.first_output as usize;
        let of_known = start..start + usize::from(known.outputs);
        if start < first_output && self.outputs[of_known] == self.outputs[first_output..] {
            // The same outputs again, as when this process reads what it wrote: once is enough.
            self.outputs.truncate(first_output);
            entry.first_output = known.first_output;
        }
        *known = entry;
    }
}

fn clamp_ms(duration_ms: u64) -> u32 {
    u32::try_from(duration_ms).unwrap_or(u32::MAX)
}

fn encode(
    action: &ActionDigest,
    outputs: &[Artifact],
    duration_ms: u32,
    document: (u64, u32),
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(50 + outputs.len() * 41);
    bytes.extend_from_slice(action.0.as_bytes());
    bytes.extend_from_slice(&duration_ms.to_le_bytes());
    bytes.extend_from_slice(&document.0.to_le_bytes());
    bytes.extend_from_slice(&document.1.to_le_bytes());
    bytes.extend_from_slice(&(outputs.len() as u16).to_le_bytes());
    for output in outputs {
        bytes.push(match output.kind {
            ArtifactKind::File => 0,
            ArtifactKind::Tree => 1,
        });
        bytes.extend_from_slice(output.digest.as_bytes());
        bytes.extend_from_slice(&output.size.to_le_bytes());
    }
    bytes
}

/// The action of a record and what is known of it; its outputs go to the end of `outputs`.
fn decode(mut bytes: &[u8], outputs: &mut Vec<Artifact>) -> Option<([u8; 32], Entry)> {
    let action = take(&mut bytes)?;
    let duration_ms = u32::from_le_bytes(take(&mut bytes)?);
    let document_offset = u64::from_le_bytes(take(&mut bytes)?);
    let document_length = u32::from_le_bytes(take(&mut bytes)?);
    let count = u16::from_le_bytes(take(&mut bytes)?);
    for _ in 0..count {
        let kind = match take(&mut bytes)? {
            [0] => ArtifactKind::File,
            [1] => ArtifactKind::Tree,
            _ => return None,
        };
        let digest = Digest::from_bytes(take(&mut bytes)?);
        outputs.push(Artifact { kind, digest, size: u64::from_le_bytes(take(&mut bytes)?) });
    }
    let entry =
        Entry { document_offset, document_length, first_output: 0, duration_ms, outputs: count };
    bytes.is_empty().then_some((action, entry))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*head)
}

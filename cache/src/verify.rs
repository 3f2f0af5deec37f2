//! Looks at everything in a store: are the bytes what their names say, are the outputs and documents there?

use crate::cas::hash_file;
use crate::store::Store;
use crate::{ActionDigest, Artifact, Digest, StoreError};

/// What a look at the whole store found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Objects that are what their names say.
    pub good_objects: u64,
    /// Their bytes.
    pub good_bytes: u64,
    /// Objects whose bytes are not what their names say.
    pub damaged: Vec<Digest>,
    /// Results with an output that is not in the store, or not whole.
    pub incomplete: Vec<(ActionDigest, Artifact)>,
    /// Results whose document, with what was measured, cannot be read: they are used, but cannot be audited.
    pub without_document: Vec<ActionDigest>,
    /// Answers of teachers that can be read.
    pub good_records: u64,
    /// Bytes of the logs that cannot be read: their results, or records, are misses.
    pub damaged_log_bytes: u64,
}

impl VerifyReport {
    /// Whether everything is in order.
    pub fn is_clean(&self) -> bool {
        self.damaged.is_empty()
            && self.incomplete.is_empty()
            && self.without_document.is_empty()
            && self.damaged_log_bytes == 0
    }
}

/// Hashes every object and looks for every output and document. Damaged objects are moved to `quarantine/` if
/// `repair` says so; what refers to them then runs again.
///
/// # Errors
/// When the store cannot be read, or a damaged object cannot be moved.
pub fn verify(
    store: &Store,
    repair: bool,
    progress: &mut dyn FnMut(u64),
) -> Result<VerifyReport, StoreError> {
    store.refresh()?;
    let mut report = VerifyReport::default();
    let mut done = 0;
    store.for_each_object(&mut |digest, path, size| {
        let (found, _) = hash_file(&path)?;
        if found == digest {
            report.good_objects += 1;
            report.good_bytes += size;
        } else {
            report.damaged.push(digest);
        }
        done += size;
        progress(done);
        Ok(())
    })?;
    report.damaged.sort_unstable();
    if repair {
        for digest in &report.damaged {
            store.quarantine(digest)?;
        }
    }
    for action in store.all_actions() {
        let Some(cached) = store.lookup(&action) else { continue };
        let damaged =
            cached.outputs().iter().find(|it| report.damaged.binary_search(&it.digest).is_ok());
        if let Some(output) = damaged.copied().or_else(|| store.missing_output(&cached)) {
            report.incomplete.push((action, output));
        }
        if store.document(&action)?.is_none() {
            report.without_document.push(action);
        }
    }
    store.records().for_each(&mut |_, _| report.good_records += 1)?;
    report.damaged_log_bytes = store.damaged_log_bytes();
    Ok(report)
}

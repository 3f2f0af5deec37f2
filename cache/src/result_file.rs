//! A result as a document of its own, for places that have no logs: another store, or a folder that a job leaves behind.
//!
//! ```json
//! {"action":"<64 digits>",
//!  "check":"<64 digits>",
//!  "document":"{\"action\":1,...}",
//!  "info":{"metrics":{},"duration_ms":12,...},
//!  "okapi_result":1,
//!  "outputs":[{"kind":"file","digest":"<64 digits>","size":3}]}
//! ```
//!
//! `check` is the digest of the canonical JSON of all other members. The document is told by the action's digest, but
//! outputs and details are told by nothing: without `check`, a flipped bit in a metric would be read as a metric.
//! It is no signature: whoever can write such a document can write one that is consistent and wrong.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::action_cache::ResultInfo;
use crate::commit_queue::Commit;
use crate::{ActionDigest, Artifact, Digest, Lease, Store, StoreError, canonical_json};

/// The version that is written, and the only one that is read.
const VERSION: u64 = 1;

/// The longest text that is read: documents of actions with many thousands of inputs are a tenth of that.
pub const LONGEST_RESULT_FILE: u64 = 64 << 20;

/// An action with its result.
#[derive(Debug, Clone, PartialEq)]
pub struct ResultFile {
    /// The action.
    pub action: ActionDigest,
    /// Its document, which hashes to `action`.
    pub document: String,
    /// Its outputs, in the order of the sorted port names.
    pub outputs: Vec<Artifact>,
    /// The details.
    pub info: ResultInfo,
}

/// Why a text is no result of the action that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResultFileError {
    /// It is too long to be one.
    #[error("it has {bytes} bytes, and a result has {LONGEST_RESULT_FILE} at most")]
    TooLong {
        /// Its length.
        bytes: u64,
    },
    /// It is no JSON, or lacks a member, or has one that does not belong there.
    #[error("it is no result: {message}")]
    Malformed {
        /// What is wrong, and where.
        message: String,
    },
    /// It is of a version that this okapi does not know.
    #[error("it is a result of version {found}, and this okapi knows version {VERSION}")]
    OtherVersion {
        /// Its version, as written.
        found: String,
    },
    /// It is not what was written: `check` tells.
    #[error("it is damaged: its members hash to something else than its `check`")]
    Damaged,
    /// It is the result of another action.
    #[error("it is the result of the action {}, and {} was asked for", found.0.short(), expected.0.short())]
    OtherAction {
        /// The action it is of.
        found: ActionDigest,
        /// The action that was asked for.
        expected: ActionDigest,
    },
    /// The document in it is not the action's.
    #[error("the document in it does not hash to its action {}", action.0.short())]
    OtherDocument {
        /// The action.
        action: ActionDigest,
    },
}

/// The members, but for `okapi_result` and `check`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    action: ActionDigest,
    document: String,
    info: ResultInfo,
    outputs: Vec<Artifact>,
}

impl ResultFile {
    /// The text: canonical JSON. Metrics that JSON has no number for are left out.
    pub fn encode(&self) -> String {
        let mut info = self.info.clone();
        info.metrics.retain(|_, value| value.is_finite());
        let members = Members {
            action: self.action,
            document: self.document.clone(),
            info,
            outputs: self.outputs.clone(),
        };
        let mut value = serde_json::to_value(members).expect("results have string keys only");
        value["okapi_result"] = VERSION.into();
        value["check"] = check_of(&value).to_string().into();
        canonical_json::to_string(&value)
    }

    /// Reads a text that should be the result of `expected`.
    ///
    /// # Errors
    /// When it is anything else, or was changed since it was written.
    pub fn decode(text: &str, expected: &ActionDigest) -> Result<ResultFile, ResultFileError> {
        let malformed = |message: String| ResultFileError::Malformed { message };
        if text.len() as u64 > LONGEST_RESULT_FILE {
            return Err(ResultFileError::TooLong { bytes: text.len() as u64 });
        }
        let mut value: Value =
            serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
        let members =
            value.as_object_mut().ok_or_else(|| malformed("it is no object".to_owned()))?;
        match members.get("okapi_result") {
            Some(found) if found.as_u64() == Some(VERSION) => {}
            Some(found) => {
                let found = found.to_string().chars().take(40).collect();
                return Err(ResultFileError::OtherVersion { found });
            }
            None => return Err(malformed("the member `okapi_result` is missing".to_owned())),
        }
        let check = members.remove("check");
        let check = check.ok_or_else(|| malformed("the member `check` is missing".to_owned()))?;
        if check.as_str() != Some(&check_of(&value).to_string()) {
            return Err(ResultFileError::Damaged);
        }
        if let Some(members) = value.as_object_mut() {
            members.remove("okapi_result");
        }
        let members: Members =
            serde_json::from_value(value).map_err(|error| malformed(error.to_string()))?;
        // The log of results counts outputs in 16 bits.
        if members.outputs.len() > usize::from(u16::MAX) {
            return Err(malformed(format!("it has {} outputs", members.outputs.len())));
        }
        if members.action != *expected {
            let (found, expected) = (members.action, *expected);
            return Err(ResultFileError::OtherAction { found, expected });
        }
        if Digest::of(members.document.as_bytes()) != expected.0 {
            return Err(ResultFileError::OtherDocument { action: *expected });
        }
        let Members { action, document, info, outputs } = members;
        Ok(ResultFile { action, document, outputs, info })
    }

    /// What makes the result known to a store that has its outputs.
    pub fn into_commit(self, lease: Option<Lease>) -> Commit {
        let ResultFile { action, document, outputs, info } = self;
        Commit { action, document, outputs, info, lease }
    }
}

impl Store {
    /// The result of an action as a document of its own, if it is known with its details.
    ///
    /// # Errors
    /// When the details cannot be read.
    pub fn result_file(&self, action: &ActionDigest) -> Result<Option<ResultFile>, StoreError> {
        let Some(cached) = self.lookup(action) else { return Ok(None) };
        Ok(self.document(action)?.map(|stored| ResultFile {
            action: *action,
            document: stored.document,
            outputs: cached.outputs().to_vec(),
            info: stored.info,
        }))
    }
}

/// The digest of all members but `check`, which is not among them.
fn check_of(members: &Value) -> Digest {
    Digest::of(canonical_json::to_string(members).as_bytes())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{Access, ArtifactKind, Durability};
    use proptest::prelude::*;

    fn result(document: &str) -> ResultFile {
        let artifact = |kind, bytes: &[u8]| Artifact {
            kind,
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
        };
        ResultFile {
            action: ActionDigest(Digest::of(document.as_bytes())),
            document: document.to_owned(),
            outputs: vec![
                artifact(ArtifactKind::File, b"one"),
                artifact(ArtifactKind::Tree, b"two"),
            ],
            info: ResultInfo {
                metrics: BTreeMap::from([("loss".to_owned(), 0.1), ("rows".to_owned(), 3.0)]),
                duration_ms: u64::MAX,
                finished_unix_ms: 1_700_000_000_000,
                determinism: "bytes".to_owned(),
                environment: BTreeMap::from([("cpu".to_owned(), "8 \"cores\"\n".to_owned())]),
                log: Some(Digest::of(b"log")),
                cost_micro_usd: Some(12),
                keeps: vec![artifact(ArtifactKind::File, b"prompt")],
            },
        }
    }

    fn sealed(mut value: Value) -> String {
        value.as_object_mut().unwrap().remove("check");
        value["check"] = check_of(&value).to_string().into();
        canonical_json::to_string(&value)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let result = result("{\"action\":1,\"text\":\"ä\\n\"}");
        assert_eq!(ResultFile::decode(&result.encode(), &result.action), Ok(result));
    }

    #[test]
    fn white_space_and_the_order_of_members_do_not_matter() {
        let result = result("{}");
        let value: Value = serde_json::from_str(&result.encode()).unwrap();
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        assert_eq!(ResultFile::decode(&pretty, &result.action), Ok(result));
    }

    #[test]
    fn metrics_that_are_no_numbers_are_left_out() {
        let mut result = result("{}");
        result.info.metrics.insert("lost".to_owned(), f64::NAN);
        let read = ResultFile::decode(&result.encode(), &result.action).unwrap();
        assert_eq!(read.info.metrics.keys().collect::<Vec<_>>(), ["loss", "rows"]);
    }

    #[test]
    fn a_result_of_another_action_or_version_is_refused() {
        let one = result("{}");
        let other = ActionDigest(Digest::of(b"other"));
        let error = ResultFile::decode(&one.encode(), &other).unwrap_err();
        assert_eq!(error, ResultFileError::OtherAction { found: one.action, expected: other });

        // Consistent, but with the document of another action under this one's digest.
        let mut forged = result("{\"action\":2}");
        forged.action = one.action;
        let error = ResultFile::decode(&forged.encode(), &one.action).unwrap_err();
        assert_eq!(error, ResultFileError::OtherDocument { action: one.action });

        let mut value: Value = serde_json::from_str(&one.encode()).unwrap();
        value["okapi_result"] = 2.into();
        let error = ResultFile::decode(&sealed(value), &one.action).unwrap_err();
        assert_eq!(error, ResultFileError::OtherVersion { found: "2".to_owned() });
    }

    #[test]
    fn what_lacks_a_member_or_has_one_more_is_refused() {
        let result = result("{}");
        let whole: Value = serde_json::from_str(&result.encode()).unwrap();
        for name in whole.as_object().unwrap().keys().filter(|name| *name != "check") {
            let mut value = whole.clone();
            value.as_object_mut().unwrap().remove(name);
            let error = ResultFile::decode(&sealed(value), &result.action).unwrap_err();
            assert!(matches!(error, ResultFileError::Malformed { .. }), "{name}: {error}");
        }
        let mut value = whole;
        value["more"] = 1.into();
        let error = ResultFile::decode(&sealed(value), &result.action).unwrap_err();
        assert!(error.to_string().contains("unknown field `more`"), "{error}");
    }

    #[test]
    fn outputs_beyond_what_the_log_can_count_are_refused() {
        let mut result = result("{}");
        result.outputs = vec![result.outputs[0]; usize::from(u16::MAX) + 1];
        let error = ResultFile::decode(&result.encode(), &result.action).unwrap_err();
        assert!(error.to_string().contains("65536 outputs"), "{error}");
    }

    #[test]
    fn no_change_of_a_single_bit_gives_another_result() {
        let result = result("{\"action\":1,\"seed\":7}");
        let bytes = result.encode().into_bytes();
        for position in 0..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[position] ^= 1 << bit;
                let Ok(text) = String::from_utf8(bytes) else { continue };
                let read = ResultFile::decode(&text, &result.action);
                assert!(read.is_err() || read.as_ref() == Ok(&result), "{position} {bit} {text}");
            }
        }
    }

    #[test]
    fn a_store_gives_the_result_that_another_takes() {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            Store::open(&folder.path().join(name), Access::ReadWrite, Durability::None).unwrap()
        };
        let (one, other) = (open("one"), open("other"));
        let result = result("{}");
        assert_eq!(one.result_file(&result.action).unwrap(), None);
        one.commit(result.clone().into_commit(None)).unwrap();
        one.flush().unwrap();
        let text = one.result_file(&result.action).unwrap().unwrap().encode();
        let read = ResultFile::decode(&text, &result.action).unwrap();
        other.commit(read.into_commit(None)).unwrap();
        assert_eq!(other.result_file(&result.action).unwrap(), Some(result));
    }

    proptest! {
        #[test]
        fn nothing_makes_reading_panic(text in ".{0,200}", cut in 0_usize..2000, insert in ".{0,9}") {
            let result = result("{}");
            prop_assert!(ResultFile::decode(&text, &result.action).is_err());
            let whole = result.encode();
            let cut = (0..=cut.min(whole.len())).rev().find(|at| whole.is_char_boundary(*at)).unwrap_or(0);
            let changed = format!("{}{insert}{}", &whole[..cut], &whole[cut..]);
            let read = ResultFile::decode(&changed, &result.action);
            prop_assert!(read.is_err() || read == Ok(result.clone()));
            if cut < whole.len() {
                prop_assert!(ResultFile::decode(&whole[..cut], &result.action).is_err());
            }
        }
    }
}

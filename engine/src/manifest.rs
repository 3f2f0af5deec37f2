//! Which action each instance of a pipeline had: what a run leaves behind for the next, for
//! `explain`, `diff` and for the collector.
//!
//! A manifest is a text of one line per instance, `<action digest> <instance>`, in the order of the
//! graph, after a line `okapi manifest 1`. It is kept under `manifests/<digest>` in the store's
//! `runs` folder, named by the digest of its bytes, so that a run that changes nothing adds nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use okapi_cache::{ActionDigest, Digest};

const HEADER: &str = "okapi manifest 1\n";

/// The action of each instance, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    actions: BTreeMap<Box<str>, ActionDigest>,
}

/// The text of a manifest, being written.
#[derive(Debug)]
pub struct ManifestText(String);

impl ManifestText {
    /// A text with room for so many instances.
    pub fn with_capacity(instances: usize) -> ManifestText {
        let mut text = String::with_capacity(HEADER.len() + instances * 96);
        text.push_str(HEADER);
        ManifestText(text)
    }

    /// Adds an instance.
    pub fn push(&mut self, name: &str, action: &ActionDigest) {
        writeln!(self.0, "{action} {name}").expect("writing to a string never fails");
    }

    /// The text and its digest.
    pub fn finish(self) -> (String, Digest) {
        let digest = Digest::of(self.0.as_bytes());
        (self.0, digest)
    }
}

/// The text is no manifest, or one of a newer okapi.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the manifest cannot be read")]
pub struct BadManifest {
    /// From 1.
    pub line: usize,
}

impl Manifest {
    /// Reads a manifest's text.
    ///
    /// # Errors
    /// When the text is not what [`ManifestText`] writes.
    pub fn parse(text: &str) -> Result<Manifest, BadManifest> {
        let body = text.strip_prefix(HEADER).ok_or(BadManifest { line: 1 })?;
        let mut actions = Vec::new();
        for (number, line) in body.lines().enumerate() {
            let bad = || BadManifest { line: number + 2 };
            let (action, name) = line.split_once(' ').ok_or_else(bad)?;
            actions.push((Box::from(name), action.parse().map_err(|_| bad())?));
        }
        Ok(Manifest { actions: actions.into_iter().collect() })
    }

    /// The action of an instance.
    pub fn action(&self, instance: &str) -> Option<ActionDigest> {
        self.actions.get(instance).copied()
    }

    /// Every instance with its action, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, ActionDigest)> {
        self.actions.iter().map(|(name, action)| (&**name, *action))
    }

    /// How many instances.
    pub fn len(&self) -> usize {
        self.actions.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_reads_back_and_a_cut_one_is_refused() {
        let action = ActionDigest(Digest::of(b"x"));
        let mut text = ManifestText::with_capacity(2);
        text.push("count[lang=de]", &action);
        text.push("a name with blanks", &action);
        let (text, digest) = text.finish();
        assert_eq!(digest, Digest::of(text.as_bytes()));
        let manifest = Manifest::parse(&text).unwrap();
        assert_eq!(manifest.len(), 2);
        assert_eq!(manifest.action("count[lang=de]"), Some(action));
        assert_eq!(manifest.action("count"), None);
        assert!(Manifest::parse(&text[..text.len() - 30]).is_err());
        assert!(Manifest::parse("okapi manifest 2\n").is_err());
    }
}

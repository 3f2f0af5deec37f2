//! What a reference to stored content says.

use serde::{Deserialize, Serialize};

use crate::Digest;

/// Whether an artifact is one file or a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArtifactKind {
    /// One file; the digest is that of its bytes.
    File,
    /// A folder; the digest is that of its manifest.
    Tree,
}

impl ArtifactKind {
    /// As messages name one.
    pub fn in_words(self) -> &'static str {
        match self {
            ArtifactKind::File => "a file",
            ArtifactKind::Tree => "a folder",
        }
    }
}

/// A reference to stored content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Artifact {
    /// File or folder.
    pub kind: ArtifactKind,
    /// Of the file's bytes, or of the folder's manifest.
    pub digest: Digest,
    /// Bytes of the file, or of all files of the folder.
    pub size: u64,
}

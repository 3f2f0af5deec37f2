//! The store: bytes, digests, crash safety. Knows no stage, no YAML, no LLM.

mod artifact;
mod digest;

pub use artifact::{Artifact, ArtifactKind};
pub use digest::{ActionDigest, Digest, ParseDigestError};

//! Every environment variable that okapi itself reads.

/// The store's folder; `--store` wins.
pub(crate) const OKAPI_STORE: &str = "OKAPI_STORE";
/// The project's root; `--project` wins.
pub(crate) const OKAPI_PROJECT: &str = "OKAPI_PROJECT";
/// The GPUs that may be handed out, as CUDA reads it.
pub(crate) const CUDA_VISIBLE_DEVICES: &str = "CUDA_VISIBLE_DEVICES";
/// Set to anything, switches colours off (no-color.org).
pub(crate) const NO_COLOR: &str = "NO_COLOR";

//! Every environment variable that okapi itself reads. A remote's client also reads those of its service (`AWS_...`,
//! `GOOGLE_...`, `AZURE_...`), and for WebDAV `OKAPI_REMOTE_AUTHORIZATION` and `OKAPI_REMOTE_AUTHORIZATION_HOST`.

use std::path::PathBuf;

/// The store's folder; `--store` wins.
pub(crate) const OKAPI_STORE: &str = "OKAPI_STORE";
/// The project's root; `--project` wins.
pub(crate) const OKAPI_PROJECT: &str = "OKAPI_PROJECT";
/// Where results are shared; `--remote` wins, and so does `--no-remote`.
pub(crate) const OKAPI_REMOTE: &str = "OKAPI_REMOTE";
/// The GPUs that may be handed out, as CUDA reads it.
pub(crate) const CUDA_VISIBLE_DEVICES: &str = "CUDA_VISIBLE_DEVICES";
/// Set to anything, switches colours off (no-color.org).
pub(crate) const NO_COLOR: &str = "NO_COLOR";

/// The text that a variable holds. An empty one counts as unset.
pub(crate) fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The path that a variable holds. An empty one counts as unset, as scripts that clear it expect.
pub(crate) fn path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Where nodes are executed; `--executor` wins.
pub(crate) const OKAPI_EXECUTOR: &str = "OKAPI_EXECUTOR";

/// Slurm's name for the job that this process is: `17`, or `17_3` for one of an array.
pub(crate) fn slurm_job() -> Option<String> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    match (variable("SLURM_ARRAY_JOB_ID"), variable("SLURM_ARRAY_TASK_ID")) {
        (Some(array), Some(task)) => Some(format!("{array}_{task}")),
        _ => variable("SLURM_JOB_ID"),
    }
}

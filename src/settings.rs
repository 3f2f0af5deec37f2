//! A project's settings: `okapi.settings.yaml` at its root, if there is one. They say how work is done, and never enter an
//! action's identity.
//!
//! ```yaml
//! remote:
//!   url: s3://bucket/prefix     # or a folder from the project's root, gs://, az://, https:// (WebDAV)
//!   read_only: false
//!   timeout: 30                 # seconds
//!   records: false              # answers of teachers, which may hold private prompts, too
//! ```

use std::io::ErrorKind;
use std::path::Path;

use serde::Deserialize;

use crate::failure::Failure;

/// The file's name.
pub(crate) const FILE: &str = "okapi.settings.yaml";

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Where results are shared.
    pub(crate) remote: Option<RemoteSettings>,
}

/// The section `remote`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RemoteSettings {
    /// A folder, from the project's root, or a URL.
    pub(crate) url: String,
    /// Whether nothing is ever sent there.
    #[serde(default)]
    pub(crate) read_only: bool,
    /// Whether answers of teachers are shared, too.
    #[serde(default)]
    pub(crate) records: bool,
    /// How long a request may take that moves nothing, seconds.
    #[serde(default = "default_timeout")]
    pub(crate) timeout: u64,
}

fn default_timeout() -> u64 {
    30
}

/// Reads a project's settings.
pub(crate) fn read(root: &Path) -> Result<Settings, Failure> {
    let path = root.join(FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => parse(&text),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Settings::default()),
        Err(error) => Err(Failure::usage(format!("cannot read {}: {error}", path.display()))),
    }
}

fn parse(text: &str) -> Result<Settings, Failure> {
    // An empty file, or one of comments alone.
    let is_empty = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    if text.lines().all(is_empty) {
        return Ok(Settings::default());
    }
    let settings: Settings = serde_yaml::from_str(text).map_err(|error| {
        let place =
            error.location().map_or(String::new(), |it| format!(":{}:{}", it.line(), it.column()));
        let message = error.without_snippet().to_string();
        Failure::usage(format!("{FILE}{place}: {message}"))
            .with_hint("it may have: remote: {url, read_only, timeout, records}".to_owned())
    })?;
    match settings.remote.as_ref().map(|remote| remote.timeout) {
        Some(timeout) if !(1..=3600).contains(&timeout) => Err(Failure::usage(format!(
            "{FILE}: `remote.timeout` is {timeout}, and may be 1 to 3600 seconds"
        ))),
        _ => Ok(settings),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_mistakes_are_named_with_their_place() {
        assert_eq!(parse("# nothing\n\n").unwrap(), Settings::default());
        let remote =
            parse("remote:\n  url: s3://b/p\n  read_only: true\n").unwrap().remote.unwrap();
        assert_eq!((&*remote.url, remote.read_only, remote.timeout), ("s3://b/p", true, 30));
        // Prompts may be private: nobody shares them unawares.
        assert!(!remote.records);
        for (text, message) in [
            ("remote:\n  url: x\n  readonly: true\n", "okapi.settings.yaml:3:"),
            ("remote:\n  url: x\n  readonly: true\n", "unknown field `readonly`"),
            ("remotes: {}\n", "unknown field `remotes`"),
            ("remote: {}\n", "missing field `url`"),
            ("remote:\n  url: x\n  timeout: soon\n", "okapi.settings.yaml:3:"),
            ("remote: {url: x, timeout: 0}\n", "may be 1 to 3600 seconds"),
            ("remote: [\n", "okapi.settings.yaml"),
        ] {
            let failure = parse(text).unwrap_err();
            assert!(failure.message().contains(message), "{}", failure.message());
        }
    }
}

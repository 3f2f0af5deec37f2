//! Where a remote is, and the object store that is there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Prefix;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use crate::error::{RemoteError, scrub};
use crate::limits::Limits;

/// The variable with the value of the header `authorization` for WebDAV servers.
pub const AUTHORIZATION: &str = "OKAPI_REMOTE_AUTHORIZATION";

/// Where a remote is. Holds no secret: credentials come from the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    shown: String,
    place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Folder(PathBuf),
    S3(Url),
    Google(Url),
    Azure(Url),
    WebDav(Url),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

/// An object store, and the prefix of all names in it.
pub(crate) struct Opened {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) prefix: Prefix,
    /// Whether a large object can be sent in parts.
    pub(crate) has_parts: bool,
}

impl Address {
    /// Reads an address: a folder, from `base` if it is relative, or a URL.
    ///
    /// # Errors
    /// When it is neither, or holds a password.
    pub fn parse(text: &str, base: &Path) -> Result<Address, RemoteError> {
        let wrong = |message: &str| RemoteError::Address {
            address: scrub(text),
            message: message.to_owned(),
        };
        if text.trim().is_empty() {
            return Err(wrong("it is empty"));
        }
        let Some((scheme, _)) = text.split_once("://") else {
            let folder = base.join(text);
            let shown = folder.display().to_string();
            return Ok(Address { shown, place: Place::Folder(folder) });
        };
        let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
        if !url.username().is_empty() && url.scheme() != "az" || url.password().is_some() {
            return Err(wrong(
                "a name or password does not belong in it; credentials are read from the environment",
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("it ends with the path: what follows `?` or `#` is not used"));
        }
        let place = match scheme {
            "file" => {
                let path = url
                    .to_file_path()
                    .map_err(|()| wrong("a file:// URL has three slashes and an absolute path"))?;
                Place::Folder(path)
            }
            "s3" => Place::S3(url.clone()),
            "gs" => Place::Google(url.clone()),
            "az" => Place::Azure(url.clone()),
            "http" | "https" => Place::WebDav(url.clone()),
            other => return Err(wrong(&format!("the scheme `{other}` is not known"))),
        };
        let has_host = url.host_str().is_some_and(|host| !host.is_empty());
        if !has_host && !matches!(place, Place::Folder(_)) {
            return Err(wrong("the bucket, container or host is missing"));
        }
        let shown = url.as_str().trim_end_matches('/').to_owned();
        Ok(Address { shown, place })
    }

    /// Opens what is there. No request is sent.
    pub(crate) fn open(
        &self,
        limits: &Limits,
        environment: &[(String, String)],
    ) -> Result<Opened, RemoteError> {
        let failed = |error: object_store::Error| RemoteError::Request {
            what: "open",
            key: self.shown.clone(),
            message: scrub(&error.to_string()),
            forbidden: false,
        };
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: limits.timeout.min(std::time::Duration::from_secs(10)) / 100,
                max_backoff: limits.timeout / 6,
                base: 2.0,
            },
            max_retries: limits.retries,
            retry_timeout: limits.timeout,
        };
        // Transfers are bounded by who asks for them, who knows how much there is to transfer.
        let client = ClientOptions::new()
            .with_timeout_disabled()
            .with_connect_timeout(limits.timeout / 3)
            .with_read_timeout(limits.timeout);
        match &self.place {
            Place::Folder(folder) => {
                let store =
                    LocalFileSystem::new_with_prefix(folder).map_err(|_| RemoteError::Request {
                        what: "open",
                        key: self.shown.clone(),
                        message: "there is no such folder".to_owned(),
                        forbidden: false,
                    })?;
                let store = Arc::new(store.with_fsync(true));
                Ok(Opened { store, prefix: Prefix::default(), has_parts: true })
            }
            Place::S3(url) => {
                let mut builder = AmazonS3Builder::new();
                for (key, value) in settings(environment, "AWS_") {
                    builder = builder.with_config(key, value);
                }
                let endpoints = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
                let endpoint = endpoints.into_iter().find_map(|name| value_of(environment, name));
                let is_http = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
                let store = builder
                    .with_url(url.as_str())
                    .with_client_options(client.with_allow_http(is_http))
                    .with_retry(retry)
                    .with_conditional_put(S3ConditionalPut::ETagMatch)
                    .build()
                    .map_err(failed)?;
                Ok(Opened { store: Arc::new(store), prefix: prefix(url), has_parts: true })
            }
            Place::Google(url) => {
                let mut builder = GoogleCloudStorageBuilder::new();
                for (key, value) in settings(environment, "GOOGLE_") {
                    builder = builder.with_config(key, value);
                }
                let store = builder
                    .with_url(url.as_str())
                    .with_client_options(client)
                    .with_retry(retry)
                    .build()
                    .map_err(failed)?;
                Ok(Opened { store: Arc::new(store), prefix: prefix(url), has_parts: true })
            }
            Place::Azure(url) => {
                let mut builder = MicrosoftAzureBuilder::new();
                for (key, value) in settings(environment, "AZURE_") {
                    builder = builder.with_config(key, value);
                }
                let store = builder
                    .with_url(url.as_str())
                    .with_client_options(client)
                    .with_retry(retry)
                    .build()
                    .map_err(failed)?;
                Ok(Opened { store: Arc::new(store), prefix: prefix(url), has_parts: true })
            }
            Place::WebDav(url) => {
                let mut client = client.with_allow_http(url.scheme() == "http");
                if let Some(authorization) = value_of(environment, AUTHORIZATION) {
                    let header = "authorization".parse().ok().zip(authorization.parse().ok());
                    let (name, mut value): (_, http::HeaderValue) =
                        header.ok_or_else(|| RemoteError::Address {
                            address: self.shown.clone(),
                            message: "OKAPI_REMOTE_AUTHORIZATION holds what cannot be in a header"
                                .to_owned(),
                        })?;
                    value.set_sensitive(true);
                    client = client.with_default_headers(std::iter::once((name, value)).collect());
                }
                let store = HttpBuilder::new()
                    .with_url(&url[..url::Position::BeforePath])
                    .with_client_options(client)
                    .with_retry(retry)
                    .build()
                    .map_err(failed)?;
                Ok(Opened { store: Arc::new(store), prefix: prefix(url), has_parts: false })
            }
        }
    }
}

fn value_of<'a>(environment: &'a [(String, String)], name: &str) -> Option<&'a str> {
    environment.iter().find(|(key, _)| key == name).map(|(_, value)| &value[..])
}

/// The variables of a service that its client knows, as its settings.
fn settings<K: std::str::FromStr>(
    environment: &[(String, String)],
    service: &str,
) -> impl Iterator<Item = (K, String)> {
    environment.iter().filter_map(move |(name, value)| {
        let key = name.starts_with(service).then(|| name.to_ascii_lowercase().parse().ok())??;
        Some((key, value.clone()))
    })
}

fn prefix(url: &Url) -> Prefix {
    // A URL's path is one for the store, too: parsing has taken out what is not.
    Prefix::from_url_path(url.path()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Address, RemoteError> {
        Address::parse(text, Path::new("/base"))
    }

    #[test]
    fn addresses_are_folders_or_urls() {
        for (text, shown) in [
            ("cache", "/base/cache"),
            ("/abs/cache", "/abs/cache"),
            ("file:///abs/cache", "file:///abs/cache"),
            ("s3://bucket/team/x/", "s3://bucket/team/x"),
            ("gs://bucket", "gs://bucket"),
            ("az://container/x", "az://container/x"),
            ("https://host:8443/dav", "https://host:8443/dav"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_none_is_refused_and_no_password_is_repeated() {
        for (text, message) in [
            ("", "it is empty"),
            ("ftp://host/x", "the scheme `ftp` is not known"),
            ("s3:///x", "the bucket, container or host is missing"),
            ("https://user:SECRET@host/x", "does not belong in it"),
            ("https://host/x?sig=SECRET", "it ends with the path"),
            ("file://x/y", "three slashes"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
            assert!(!error.contains("SECRET"), "{error}");
        }
    }
}

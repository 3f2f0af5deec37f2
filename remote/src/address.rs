//! Where a remote is, and the object store that is there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Prefix;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use crate::error::{RemoteError, scrub};
use crate::options::Options;

/// The variable with the value of the header `authorization` for WebDAV servers.
pub const AUTHORIZATION: &str = "OKAPI_REMOTE_AUTHORIZATION";
/// The variable with the host that the header is for, with the port where it is not the usual one.
pub const AUTHORIZATION_HOST: &str = "OKAPI_REMOTE_AUTHORIZATION_HOST";

/// Variables by one of which credentials for S3 are named, or done without.
const S3_CREDENTIALS: [&str; 5] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
];

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
    /// Whether the environment names no credentials: then the machine is asked for some, as those of clouds have them.
    pub(crate) without_credentials: bool,
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

    /// The variables of an environment that whoever asks this remote has to have: those that the client of its service reads.
    pub fn variables(&self, environment: &[(String, String)]) -> Vec<(String, String)> {
        let is_read = |name: &str| match &self.place {
            Place::Folder(_) => false,
            Place::S3(_) => {
                name.starts_with("AWS_")
                    && name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>().is_ok()
                    || name.starts_with("AWS_ENDPOINT")
            }
            Place::Google(_) => {
                name.starts_with("GOOGLE_")
                    && name.to_ascii_lowercase().parse::<GoogleConfigKey>().is_ok()
            }
            Place::Azure(_) => {
                name.starts_with("AZURE_")
                    && name.to_ascii_lowercase().parse::<AzureConfigKey>().is_ok()
            }
            Place::WebDav(_) => matches!(name, AUTHORIZATION | AUTHORIZATION_HOST),
        };
        environment.iter().filter(|(name, _)| is_read(name)).cloned().collect()
    }

    /// Opens what is there. No request is sent.
    pub(crate) fn open(&self, options: &Options) -> Result<Opened, RemoteError> {
        let (limits, environment) = (&options.limits, &options.environment[..]);
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
                Ok(Opened {
                    store,
                    prefix: Prefix::default(),
                    has_parts: true,
                    without_credentials: false,
                })
            }
            Place::S3(url) => {
                let mut builder = AmazonS3Builder::new();
                for (key, value) in settings(environment, "AWS_") {
                    builder = builder.with_config(key, value);
                }
                let store = builder
                    .with_url(url.as_str())
                    .with_client_options(
                        client.with_allow_http(is_http(environment, &S3_ENDPOINTS)),
                    )
                    .with_retry(retry)
                    .with_conditional_put(S3ConditionalPut::ETagMatch)
                    .build()
                    .map_err(failed)?;
                let named = |name: &&str| value_of(environment, name).is_some();
                Ok(Opened {
                    store: Arc::new(store),
                    prefix: prefix(url),
                    has_parts: true,
                    without_credentials: !S3_CREDENTIALS.iter().any(named),
                })
            }
            Place::Google(url) => {
                let mut builder = GoogleCloudStorageBuilder::new();
                for (key, value) in settings(environment, "GOOGLE_") {
                    builder = builder.with_config(key, value);
                }
                let is_http = is_http(environment, &["GOOGLE_BASE_URL"]);
                let store = builder
                    .with_url(url.as_str())
                    .with_client_options(client.with_allow_http(is_http))
                    .with_retry(retry)
                    .build()
                    .map_err(failed)?;
                Ok(Opened {
                    store: Arc::new(store),
                    prefix: prefix(url),
                    has_parts: true,
                    without_credentials: false,
                })
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
                Ok(Opened {
                    store: Arc::new(store),
                    prefix: prefix(url),
                    has_parts: true,
                    without_credentials: false,
                })
            }
            Place::WebDav(url) => {
                let mut client = client.with_allow_http(url.scheme() == "http");
                let authorization = authorization(url, options).map_err(|message| {
                    RemoteError::Secret { address: self.shown.clone(), message }
                })?;
                if let Some(value) = authorization {
                    let header = std::iter::once((http::header::AUTHORIZATION, value));
                    client = client.with_default_headers(header.collect());
                }
                let store = HttpBuilder::new()
                    .with_url(&url[..url::Position::BeforePath])
                    .with_client_options(client)
                    .with_retry(retry)
                    .build()
                    .map_err(failed)?;
                Ok(Opened {
                    store: Arc::new(store),
                    prefix: prefix(url),
                    has_parts: false,
                    without_credentials: false,
                })
            }
        }
    }
}

/// Variables that name another place of S3, the first that is set.
const S3_ENDPOINTS: [&str; 3] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];

/// Whether whoever runs okapi has named a server of their own, without encryption: a service on this machine, say.
fn is_http(environment: &[(String, String)], endpoints: &[&str]) -> bool {
    let endpoint = endpoints.iter().find_map(|name| value_of(environment, name));
    endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"))
}

/// The header for a WebDAV server, if there is one and it is for this server; or why it may not be sent there.
fn authorization(url: &Url, options: &Options) -> Result<Option<http::HeaderValue>, String> {
    let Some(text) = value_of(&options.environment, AUTHORIZATION) else { return Ok(None) };
    let host = url.host_str().unwrap_or_default();
    let with_port = format!("{host}:{}", url.port_or_known_default().unwrap_or_default());
    match value_of(&options.environment, AUTHORIZATION_HOST) {
        Some(meant) if is_host(meant, host, &with_port, url) => {}
        Some(_) => return Ok(None),
        // Whoever wrote the project could have named any host.
        None if options.named_by_project => {
            let whole = if url.port().is_some() { &with_port } else { host };
            return Err(format!(
                "{AUTHORIZATION} is not sent to a host that only the project's settings name: if it is for this one, set \
                 {AUTHORIZATION_HOST}={whole}, or name the remote by --remote or OKAPI_REMOTE; if it is for another, set \
                 {AUTHORIZATION_HOST} to that"
            ));
        }
        None => {}
    }
    if url.scheme() == "http" && !is_loopback(url) {
        return Err(format!(
            "{AUTHORIZATION} is not sent without encryption: name the remote by https://, or unset {AUTHORIZATION}"
        ));
    }
    let mut value: http::HeaderValue =
        text.parse().map_err(|_| format!("{AUTHORIZATION} holds what cannot be in a header"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// Whether a host that a person has written is that of a URL. Without a port it is the usual one.
fn is_host(meant: &str, host: &str, with_port: &str, url: &Url) -> bool {
    let meant = meant.trim();
    meant.eq_ignore_ascii_case(with_port)
        || url.port().is_none() && meant.eq_ignore_ascii_case(host)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
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

    /// Whoever clones a project has not chosen the host that its settings name.
    #[test]
    fn a_remote_is_given_the_variables_of_its_own_service_alone() {
        let names = [
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_ENDPOINT_URL",
            "AWS_REGION",
            "AWS_BEARER_TOKEN_BEDROCK",
            "AZURE_OPENAI_API_KEY",
            "AZURE_STORAGE_ACCOUNT_KEY",
            "GOOGLE_API_KEY",
            "GOOGLE_SERVICE_ACCOUNT",
            AUTHORIZATION,
        ];
        let environment: Vec<_> =
            names.iter().map(|it| ((*it).to_owned(), "x".to_owned())).collect();
        for (url, expected) in [
            ("/folder", &[][..]),
            ("s3://b/p", &names[..4]),
            ("az://c/p", &["AZURE_STORAGE_ACCOUNT_KEY"]),
            ("gs://b/p", &["GOOGLE_SERVICE_ACCOUNT"]),
            ("https://h/p", &[AUTHORIZATION]),
        ] {
            let address = Address::parse(url, Path::new("/")).unwrap();
            let given = address.variables(&environment);
            let given: Vec<&str> = given.iter().map(|(name, _)| &**name).collect();
            assert_eq!(given, expected, "{url}");
        }
    }

    #[test]
    fn the_header_goes_where_the_user_says_and_nowhere_in_the_clear() {
        let sent = |url: &str, host: Option<&str>, named_by_project: bool| {
            let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
            let mut environment = vec![variable(AUTHORIZATION, "Bearer SECRET")];
            environment.extend(host.map(|host| variable(AUTHORIZATION_HOST, host)));
            let options = Options { environment, named_by_project, ..Options::default() };
            let sent = authorization(&Url::parse(url).unwrap(), &options);
            assert!(!sent.clone().is_err_and(|message| message.contains("SECRET")));
            sent.map(|value| value.is_some())
        };
        let (dav, port) = ("https://dav.example/x", "https://dav.example:8443/x");
        for (url, host, named_by_project, goes) in [
            (dav, None, false, true),
            ("http://127.0.0.1:1/x", None, false, true),
            ("http://[::1]:1/x", None, false, true),
            ("http://localhost:1/x", None, false, true),
            (dav, Some("dav.example"), true, true),
            (dav, Some("DAV.example:443"), true, true),
            (port, Some("dav.example:8443"), true, true),
            (port, Some("dav.example"), true, false),
            (dav, Some("dav.example:8443"), false, false),
            (dav, Some("other.example"), false, false),
            ("http://other.example/x", Some("dav.example"), true, false),
        ] {
            assert_eq!(sent(url, host, named_by_project), Ok(goes), "{url} {host:?}");
        }
        let message = sent(port, None, true).unwrap_err();
        assert!(message.contains("OKAPI_REMOTE_AUTHORIZATION_HOST=dav.example:8443"), "{message}");
        assert!(sent("http://127.0.0.1:1/x", None, true).is_err());
        for host in [None, Some("dav.example")] {
            let message = sent("http://dav.example/x", host, false).unwrap_err();
            assert!(message.contains("https://"), "{message}");
        }
    }
}

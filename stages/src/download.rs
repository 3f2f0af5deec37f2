//! Downloads of a pinned file: continued after an interruption, bounded in time and tries, checked.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use okapi_cache::{HashingFile, Written};
use okapi_engine::stage_context::{StageContext, StageError};
use reqwest::StatusCode;
use reqwest::blocking::{Client, Response};
use reqwest::header::{AUTHORIZATION, RANGE, RETRY_AFTER};
use sha2::Digest as _;

/// How often a download that makes no headway is tried.
const TRIES: u32 = 5;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest silence of a server.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

const DEFAULT_HUB: &str = "https://huggingface.co";

/// What a file's content must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pin {
    Sha256(String),
    Blake3(String),
}

impl Pin {
    /// Reads `sha256:<hex>` or `blake3:<hex>`.
    pub(crate) fn parse(text: &str) -> Result<Pin, String> {
        let bad = || {
            format!(
                "`digest` must be `sha256:` or `blake3:` and 64 lower-case hex digits, not `{text}`"
            )
        };
        let (algorithm, hex) = text.split_once(':').ok_or_else(bad)?;
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if hex.len() != 64 || !hex.bytes().all(is_hex) {
            return Err(bad());
        }
        match algorithm {
            "sha256" => Ok(Pin::Sha256(hex.to_owned())),
            "blake3" => Ok(Pin::Blake3(hex.to_owned())),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pin::Sha256(hex) => write!(f, "sha256:{hex}"),
            Pin::Blake3(hex) => write!(f, "blake3:{hex}"),
        }
    }
}

/// The SHA-256 of a file, as `sha256:<hex>`.
pub(crate) fn sha256_of(path: &Path) -> io::Result<String> {
    let mut hasher = sha2::Sha256::new();
    io::copy(&mut File::open(path)?, &mut hasher)?;
    Ok(format!("sha256:{:x}", hasher.finalize()))
}

/// The http(s) address of a `url` param: `hf://` is turned into the hub's address.
pub(crate) fn resolve(url: &str, hub: Option<&str>) -> Result<String, String> {
    let Some(rest) = url.strip_prefix("hf://") else {
        if url.starts_with("https://") || url.starts_with("http://") {
            return Ok(url.to_owned());
        }
        return Err(format!("`url` must begin with https://, http:// or hf://, not `{url}`"));
    };
    let bad = || {
        format!(
            "`{url}` must read hf://datasets/OWNER/NAME@REVISION/FILE or hf://OWNER/NAME@REVISION/FILE"
        )
    };
    let (repository, file) = rest.split_once('@').ok_or_else(bad)?;
    let (revision, file) = file.split_once('/').ok_or_else(bad)?;
    let parts: Vec<_> = repository.split('/').collect();
    let known = matches!(parts.as_slice(), ["datasets", _, _] | [_, _]);
    let has_empty = parts.iter().chain([&revision, &file]).any(|part| part.is_empty());
    if !known || has_empty || file.split('/').any(|part| part == "..") {
        return Err(bad());
    }
    let hub = hub.unwrap_or(DEFAULT_HUB).trim_end_matches('/');
    Ok(format!("{hub}/{repository}/resolve/{revision}/{file}"))
}

/// Downloads `url` to `output` and checks it against `pin`. What has arrived is kept in the
/// action's scratch folder, so that a later try goes on where this one stopped. All digests are
/// computed while the bytes arrive.
pub(crate) fn download(
    context: &StageContext<'_>,
    url: &str,
    pin: &Pin,
    output: &Path,
) -> Result<Written, StageError> {
    let hub = std::env::var("HF_ENDPOINT").ok();
    let address = resolve(url, hub.as_deref()).map_err(StageError::failed)?;
    let token = url.starts_with("hf://").then(|| std::env::var("HF_TOKEN").ok()).flatten();
    let client = Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        // Of the blocking client: the longest wait for an answer, and for each read of its body.
        .timeout(IDLE_TIMEOUT)
        .user_agent(concat!("okapi/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| StageError::failed(error.to_string()))?;
    let part = context.scratch.join("download.part");
    let io = |source| StageError::Io { path: part.clone(), source };
    fs::create_dir_all(context.scratch).map_err(io)?;
    let mut trouble = String::new();
    let mut tries_left = TRIES;
    while tries_left > 0 {
        if context.cancel.is_requested() {
            return Err(StageError::Cancelled);
        }
        let have = fs::metadata(&part).map_or(0, |metadata| metadata.len());
        let mut request = client.get(&address);
        if let Some(token) = &token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if have > 0 {
            request = request.header(RANGE, format!("bytes={have}-"));
        }
        let wait = match request.send() {
            // An address may hold a password; messages leave it out.
            Err(error) => {
                trouble = error.without_url().to_string();
                None
            }
            Ok(response) => match response.status() {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                    let resumed = response.status() == StatusCode::PARTIAL_CONTENT;
                    match receive(context, response, &part, resumed, pin) {
                        Ok(received) => return check(&received, &part, pin, output, url),
                        Err(Interruption::Cancelled) => return Err(StageError::Cancelled),
                        Err(Interruption::Disk(error)) => return Err(io(error)),
                        Err(Interruption::Network(error)) => {
                            trouble = error.to_string();
                            let now = fs::metadata(&part).map_or(0, |metadata| metadata.len());
                            if now > have {
                                // Headway: a long file over a bad line must come through.
                                tries_left = TRIES + 1;
                            }
                            None
                        }
                    }
                }
                StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => {
                    // All of it is there already, or the part is no part of this file.
                    let received =
                        Receiver::open(&part, pin).and_then(Receiver::finish).map_err(io)?;
                    if let Ok(written) = check(&received, &part, pin, output, url) {
                        return Ok(written);
                    }
                    "the server refused to continue".clone_into(&mut trouble);
                    None
                }
                status
                    if status.is_server_error()
                        || status == StatusCode::TOO_MANY_REQUESTS
                        || status == StatusCode::REQUEST_TIMEOUT =>
                {
                    trouble = format!("the server answered {status}");
                    retry_after(&response)
                }
                status => {
                    return Err(StageError::Failed {
                        message: format!("the server answered {status}"),
                        hint: matches!(
                            status,
                            StatusCode::UNAUTHORIZED
                                | StatusCode::FORBIDDEN
                                | StatusCode::NOT_FOUND
                        )
                        .then(|| "check `url`; a gated repository needs HF_TOKEN".to_owned()),
                        transient: false,
                    });
                }
            },
        };
        tries_left -= 1;
        if tries_left > 0 {
            let doubled = Duration::from_secs(1 << (TRIES - tries_left.min(TRIES)).min(5));
            pause(context, wait.unwrap_or(doubled).min(LONGEST_WAIT));
        }
    }
    Err(StageError::Failed { message: trouble, hint: None, transient: true })
}

enum Interruption {
    Cancelled,
    Network(io::Error),
    Disk(io::Error),
}

fn receive(
    context: &StageContext<'_>,
    mut response: Response,
    part: &Path,
    resumed: bool,
    pin: &Pin,
) -> Result<Received, Interruption> {
    if !resumed && part.exists() {
        fs::remove_file(part).map_err(Interruption::Disk)?;
    }
    let mut receiver = Receiver::open(part, pin).map_err(Interruption::Disk)?;
    let before = receiver.file.size();
    let length = response.content_length();
    let mut buffer = vec![0; 256 * 1024];
    let mut received = 0;
    loop {
        // What has arrived is kept, whatever ends this.
        let interruption = match response.read(&mut buffer) {
            _ if context.cancel.is_requested() => Interruption::Cancelled,
            Ok(0) => break,
            Ok(count) => {
                receiver.write(&buffer[..count]).map_err(Interruption::Disk)?;
                received += count as u64;
                context.reporter.progress(before + received, length.map(|it| before + it), "bytes");
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Interruption::Network(error),
        };
        receiver.finish().map_err(Interruption::Disk)?;
        return Err(interruption);
    }
    let whole = receiver.finish().map_err(Interruption::Disk)?;
    match length {
        Some(length) if received < length => Err(Interruption::Network(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("the connection closed after {received} of {length} bytes"),
        ))),
        _ => Ok(whole),
    }
}
/// A download that is whole.
struct Received {
    written: Written,
    /// Its SHA-256, if the pin is one.
    sha256: Option<String>,
}

/// The file a download goes to, hashed while it is written.
struct Receiver {
    file: HashingFile,
    sha256: Option<sha2::Sha256>,
}

impl Receiver {
    /// Goes on behind what `part` holds.
    fn open(part: &Path, pin: &Pin) -> io::Result<Receiver> {
        let mut sha256 = matches!(pin, Pin::Sha256(_)).then(sha2::Sha256::new);
        let file = HashingFile::append(part, &mut |bytes| {
            if let Some(sha256) = &mut sha256 {
                sha256.update(bytes);
            }
        })?;
        Ok(Receiver { file, sha256 })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
        self.file.write_all(bytes)
    }

    fn finish(self) -> io::Result<Received> {
        let sha256 = self.sha256.map(|sha256| format!("{:x}", sha256.finalize()));
        Ok(Received { written: self.file.finish()?, sha256 })
    }
}

/// Moves a whole download to `output` if it is what `pin` says; else it is removed, so that the
/// next try begins anew.
fn check(
    received: &Received,
    part: &Path,
    pin: &Pin,
    output: &Path,
    url: &str,
) -> Result<Written, StageError> {
    let io = |source| StageError::Io { path: part.to_owned(), source };
    let found = match &received.sha256 {
        Some(sha256) => format!("sha256:{sha256}"),
        None => format!("blake3:{}", received.written.digest),
    };
    if found == pin.to_string() {
        fs::rename(part, output).map_err(io)?;
        return Ok(received.written);
    }
    fs::remove_file(part).map_err(io)?;
    Err(StageError::Failed {
        message: format!("{} holds {found}, not {pin}", shown_url(url)),
        hint: Some("the file has changed, or `digest` is wrong".into()),
        transient: false,
    })
}

/// An address as it may be shown: a query or a password in it is nobody's business.
pub(crate) fn shown_url(url: &str) -> &str {
    let shown = url.split(['?', '#']).next().unwrap_or_default();
    shown.rsplit_once('@').filter(|_| shown.starts_with("http")).map_or(shown, |it| it.1)
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Waits, but not beyond a request to stop.
fn pause(context: &StageContext<'_>, wait: Duration) {
    let step = Duration::from_millis(50);
    let mut left = wait;
    while !left.is_zero() && !context.cancel.is_requested() {
        let nap = left.min(step);
        std::thread::sleep(nap);
        left -= nap;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_addresses_name_repository_revision_and_file() {
        assert_eq!(
            resolve("hf://datasets/o/n@main/data/a.jsonl", None).unwrap(),
            "https://huggingface.co/datasets/o/n/resolve/main/data/a.jsonl"
        );
        assert_eq!(
            resolve("hf://o/n@abc/config.json", Some("http://127.0.0.1:8/")).unwrap(),
            "http://127.0.0.1:8/o/n/resolve/abc/config.json"
        );
        for bad in [
            "hf://o/n/config.json",
            "hf://o@r/f",
            "hf://a/b/c@r/f",
            "hf://o/n@r/",
            "ftp://x",
            "hf://o/n@r/../x",
        ] {
            assert!(resolve(bad, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn pins_are_read_strictly() {
        let hex = "0".repeat(64);
        assert_eq!(Pin::parse(&format!("sha256:{hex}")).unwrap(), Pin::Sha256(hex.clone()));
        for bad in [hex.clone(), format!("md5:{hex}"), format!("sha256:{}", "A".repeat(64))] {
            assert!(Pin::parse(&bad).is_err());
        }
    }
}

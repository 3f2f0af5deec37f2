//! Downloads of a pinned file: continued after an interruption, bounded in time, tries and size,
//! checked.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use okapi_cache::{HashingFile, Written};
use okapi_engine::stage_context::{StageContext, StageError};
use reqwest::StatusCode;
use reqwest::blocking::{Client, Response};
use reqwest::header::{AUTHORIZATION, HeaderValue, RANGE, RETRY_AFTER};

use crate::hub;
use crate::pin::{Pin, PinHasher};

/// How often a download that makes no headway is tried.
const TRIES: u32 = 5;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest silence of a server.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A file to be had.
pub(crate) struct Wanted<'a> {
    /// Where: an http(s) address.
    pub(crate) address: &'a str,
    /// What goes with requests to that host, and with none that it sends us to.
    pub(crate) token: Option<&'a str>,
    /// What it is called in messages.
    pub(crate) shown: &'a str,
    pub(crate) pin: &'a Pin,
    /// Its bytes, if that is known beforehand.
    pub(crate) size: Option<u64>,
    /// What helps when the server has no such file, or not for us.
    pub(crate) refused_hint: &'a str,
    /// What helps when it has another content.
    pub(crate) changed_hint: &'a str,
}

/// What a file has to be, wherever it comes from.
pub(crate) struct Content {
    pub(crate) pin: Pin,
    /// Its bytes, if that is known beforehand.
    pub(crate) size: Option<u64>,
    /// What helps when a server has another content.
    pub(crate) changed_hint: &'static str,
}

/// Downloads `url` to `output` and checks it. What has arrived is kept in the
/// action's scratch folder, so that a later try goes on where this one stopped. All digests are
/// computed while the bytes arrive.
pub(crate) fn download(
    context: &StageContext<'_>,
    url: &str,
    content: &Content,
    output: &Path,
) -> Result<Written, StageError> {
    let hub = hub::address();
    let address = resolve(url, &hub).map_err(StageError::failed)?;
    let token = url.starts_with("hf://").then(hub::token).flatten();
    let part = context.scratch.join("download.part");
    let io = |source| StageError::Io { path: part.clone(), source };
    fs::create_dir_all(context.scratch).map_err(io)?;
    let wanted = Wanted {
        address: &address,
        token: token.as_deref(),
        shown: shown_url(url),
        pin: &content.pin,
        size: content.size,
        refused_hint: "check `url`; a gated repository needs HF_TOKEN",
        changed_hint: content.changed_hint,
    };
    let progress = |done, total| context.reporter.progress(done, total, "bytes");
    let written = fetch(context, &client()?, &wanted, &part, &progress)?;
    fs::rename(&part, output).map_err(io)?;
    Ok(written)
}

/// The http(s) address of a `url` param: `hf://` is turned into the hub's address.
pub(crate) fn resolve(url: &str, hub: &str) -> Result<String, String> {
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
    Ok(format!("{}/{repository}/resolve/{revision}/{file}", hub.trim_end_matches('/')))
}

/// What requests are sent with.
pub(crate) fn client() -> Result<Client, StageError> {
    Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        // Of the blocking client: the longest wait for an answer, and for each read of its body.
        .timeout(IDLE_TIMEOUT)
        .user_agent(concat!("okapi/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| StageError::failed(error.to_string()))
}

/// Why a try failed.
pub(crate) enum Trouble {
    /// Another may succeed.
    Passing {
        what: String,
        /// How long the server wants us to wait.
        wait: Option<Duration>,
        /// Whether more is there than before.
        headway: bool,
    },
    Final(StageError),
}

impl From<StageError> for Trouble {
    fn from(error: StageError) -> Trouble {
        Trouble::Final(error)
    }
}

impl Trouble {
    pub(crate) fn passing(what: impl Into<String>) -> Trouble {
        Trouble::Passing { what: what.into(), wait: None, headway: false }
    }
}

/// Tries until it succeeds, there is no hope, or patience is at an end.
pub(crate) fn with_patience<T>(
    context: &StageContext<'_>,
    attempt: &mut dyn FnMut() -> Result<T, Trouble>,
) -> Result<T, StageError> {
    let mut trouble = String::new();
    let mut tries_left = TRIES;
    while tries_left > 0 {
        if context.cancel.is_requested() {
            return Err(StageError::Cancelled);
        }
        let wait = match attempt() {
            Ok(done) => return Ok(done),
            Err(Trouble::Final(error)) => return Err(error),
            Err(Trouble::Passing { what, wait, headway }) => {
                trouble = what;
                if headway {
                    // A long file over a bad line must come through.
                    tries_left = TRIES + 1;
                }
                wait
            }
        };
        tries_left -= 1;
        if tries_left > 0 {
            let doubled = Duration::from_secs(1 << (TRIES - tries_left.min(TRIES)).min(5));
            pause(context, wait.unwrap_or(doubled).min(LONGEST_WAIT));
        }
    }
    let hint = format!(
        "tried {TRIES} times; check the network, and HTTPS_PROXY if there is a proxy; the next run goes on with what has arrived"
    );
    Err(StageError::Failed { message: trouble, hint: Some(hint), transient: true })
}

/// Asks once for what lies at an address, behind its first bytes.
pub(crate) fn get(
    client: &Client,
    address: &str,
    token: Option<&str>,
    have: u64,
    refused_hint: &str,
) -> Result<Response, Trouble> {
    let mut request = client.get(address);
    if let Some(token) = token {
        let value = HeaderValue::from_str(&format!("Bearer {token}"));
        let mut value = value.map_err(|_| StageError::failed("HF_TOKEN is no token"))?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    if have > 0 {
        request = request.header(RANGE, format!("bytes={have}-"));
    }
    let response = request.send().map_err(|error| Trouble::passing(unreached(address, &error)))?;
    let status = response.status();
    match status {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
        StatusCode::RANGE_NOT_SATISFIABLE if have > 0 => Ok(response),
        _ if status.is_server_error()
            || status == StatusCode::TOO_MANY_REQUESTS
            || status == StatusCode::REQUEST_TIMEOUT =>
        {
            let wait = retry_after(&response);
            Err(Trouble::Passing { what: answered(status), wait, headway: false })
        }
        _ => {
            let is_refusal = matches!(
                status,
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND
            );
            Err(Trouble::Final(StageError::Failed {
                message: answered(status),
                hint: is_refusal.then(|| refused_hint.to_owned()),
                transient: false,
            }))
        }
    }
}

/// What is said where no answer came. An address may hold a password: its host is named, and nothing else of it.
fn unreached(address: &str, error: &reqwest::Error) -> String {
    let host = reqwest::Url::parse(address).ok();
    let host = host.as_ref().and_then(|address| {
        let host = address.host_str()?;
        Some(address.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
    });
    // The outer errors only say that a request failed.
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let cause = match std::ptr::addr_eq(cause, error) {
        true if error.is_timeout() => "no answer in time".to_owned(),
        true => "the request failed".to_owned(),
        false => cause.to_string(),
    };
    format!("no answer from {}: {cause}", host.as_deref().unwrap_or("the server"))
}

fn answered(status: StatusCode) -> String {
    format!("the server answered {status}")
}

/// Downloads a file into `part`, behind what an earlier try left there, and checks it. `progress` is
/// told how many bytes there are, and how many there will be if that is known.
pub(crate) fn fetch(
    context: &StageContext<'_>,
    client: &Client,
    wanted: &Wanted<'_>,
    part: &Path,
    progress: &dyn Fn(u64, Option<u64>),
) -> Result<Written, StageError> {
    let io = |source| StageError::Io { path: part.to_owned(), source };
    let length = || fs::metadata(part).map_or(0, |metadata| metadata.len());
    with_patience(context, &mut || {
        let mut have = length();
        if wanted.size.is_some_and(|size| have >= size) {
            // All of it is there from an earlier try, or it is no part of this file.
            if let Ok(written) = check(received(part, wanted.pin).map_err(io)?, part, wanted) {
                progress(written.size, wanted.size);
                return Ok(written);
            }
            have = 0;
        }
        let response = get(client, wanted.address, wanted.token, have, wanted.refused_hint)?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            // As above, where the size is not known.
            let written = check(received(part, wanted.pin).map_err(io)?, part, wanted);
            return written.map_err(|_| Trouble::passing("the server refused to continue"));
        }
        let resumed = response.status() == StatusCode::PARTIAL_CONTENT;
        match receive(context, response, part, resumed, wanted, progress) {
            Ok(received) => Ok(check(received, part, wanted)?),
            Err(Interruption::Cancelled) => Err(Trouble::Final(StageError::Cancelled)),
            Err(Interruption::Disk(error)) => Err(Trouble::Final(io(error))),
            Err(Interruption::TooMuch(size)) => {
                fs::remove_file(part).map_err(io)?;
                let message = format!("{} has more than its {size} bytes", wanted.shown);
                let hint = Some(wanted.changed_hint.to_owned());
                Err(Trouble::Final(StageError::Failed { message, hint, transient: false }))
            }
            Err(Interruption::Network(error)) => {
                let (what, headway) = (error.to_string(), length() > have);
                Err(Trouble::Passing { what, wait: None, headway })
            }
        }
    })
}

enum Interruption {
    Cancelled,
    /// More arrives than the file can have.
    TooMuch(u64),
    Network(io::Error),
    Disk(io::Error),
}

fn receive(
    context: &StageContext<'_>,
    mut response: Response,
    part: &Path,
    resumed: bool,
    wanted: &Wanted<'_>,
    progress: &dyn Fn(u64, Option<u64>),
) -> Result<Received, Interruption> {
    if !resumed && part.exists() {
        fs::remove_file(part).map_err(Interruption::Disk)?;
    }
    let mut receiver = Receiver::open(part, wanted.pin).map_err(Interruption::Disk)?;
    let before = receiver.file.size();
    let length = response.content_length();
    let total = wanted.size.or(length.map(|it| before + it));
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
                match wanted.size {
                    Some(size) if before + received > size => Interruption::TooMuch(size),
                    _ => {
                        progress(before + received, total);
                        continue;
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Interruption::Network(error),
        };
        receiver.finish().map_err(Interruption::Disk)?;
        return Err(interruption);
    }
    let whole = receiver.finish().map_err(Interruption::Disk)?;
    let expected = wanted.size.map(|size| size.saturating_sub(before)).or(length);
    match expected {
        Some(expected) if received < expected => Err(Interruption::Network(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("the connection closed after {received} of {expected} bytes"),
        ))),
        _ => Ok(whole),
    }
}

/// A download that is whole.
struct Received {
    written: Written,
    /// What it holds, as a pin is shown.
    found: String,
}

/// The file a download goes to, hashed while it is written.
struct Receiver {
    path: PathBuf,
    file: HashingFile,
    hasher: PinHasher,
}

impl Receiver {
    /// Goes on behind what `part` holds.
    fn open(part: &Path, pin: &Pin) -> io::Result<Receiver> {
        let mut hasher = pin.hasher();
        let file = HashingFile::append(part, &mut |bytes| hasher.update(bytes))?;
        Ok(Receiver { path: part.to_owned(), file, hasher })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes)
    }

    fn finish(self) -> io::Result<Received> {
        let written = self.file.finish()?;
        Ok(Received { found: self.hasher.finish(&self.path, written)?, written })
    }
}

/// What is there already.
fn received(part: &Path, pin: &Pin) -> io::Result<Received> {
    Receiver::open(part, pin).and_then(Receiver::finish)
}

/// Takes a whole download if it is what the pin says; else it is removed, so that the next try
/// begins anew.
fn check(received: Received, part: &Path, wanted: &Wanted<'_>) -> Result<Written, StageError> {
    let (found, pin) = (received.found, wanted.pin);
    if found == pin.to_string() {
        return Ok(received.written);
    }
    fs::remove_file(part).map_err(|source| StageError::Io { path: part.to_owned(), source })?;
    Err(StageError::Failed {
        message: format!("{} holds {found}, not {pin}", wanted.shown),
        hint: Some(wanted.changed_hint.to_owned()),
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
            resolve("hf://datasets/o/n@main/data/a.jsonl", "https://huggingface.co").unwrap(),
            "https://huggingface.co/datasets/o/n/resolve/main/data/a.jsonl"
        );
        assert_eq!(
            resolve("hf://o/n@abc/config.json", "http://127.0.0.1:8/").unwrap(),
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
            assert!(resolve(bad, hub::DEFAULT).is_err(), "{bad}");
        }
    }

    #[test]
    fn who_did_not_answer_and_why_is_said_and_no_password() {
        // A port that nobody listens on any more.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let address = format!("http://user:secret@127.0.0.1:{port}/file?token=secret");
        let Err(Trouble::Passing { what, .. }) = get(&client().unwrap(), &address, None, 0, "")
        else {
            panic!("somebody answered");
        };
        assert!(what.starts_with(&format!("no answer from 127.0.0.1:{port}: ")), "{what}");
        assert!(what.contains("refused") && !what.contains("secret"), "{what}");
    }
}

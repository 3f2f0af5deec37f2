//! A proxy in front of an HTTP server that misbehaves by script.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is passed on, and so is the answer.
    None,
    /// It is answered with this status, and not passed on.
    Status(u16),
    /// The answer comes so many milliseconds later.
    Late(u64),
    /// It is never answered.
    Hang,
    /// The connection is closed before an answer.
    Close,
    /// One bit of the body is another.
    Flip,
    /// Half of the body comes, and the headers fit it.
    Truncate,
    /// The connection is closed in the middle of the body.
    Cut,
    /// A listing that has nothing yet.
    EmptyList,
    /// The body comes byte by byte, for as long as anybody waits.
    Drip,
}

/// A request, as scripts see it.
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a str,
    /// With the query.
    pub(crate) path: &'a str,
    /// How many of the same came before.
    pub(crate) before: u64,
}

type Script = dyn Fn(&Asked<'_>) -> Fault + Send + Sync;

/// The proxy. Its threads end with the process.
pub(crate) struct Proxy {
    pub(crate) address: String,
    script: Arc<RwLock<Box<Script>>>,
    seen: Arc<Seen>,
}

/// How often each request came, by method and path.
type Seen = Mutex<BTreeMap<String, u64>>;

impl Proxy {
    pub(crate) fn start(behind: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let script: Arc<RwLock<Box<Script>>> = Arc::new(RwLock::new(Box::new(|_| Fault::None)));
        let seen = Arc::new(Seen::default());
        let (followed, noted) = (Arc::clone(&script), Arc::clone(&seen));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let (script, seen) = (Arc::clone(&followed), Arc::clone(&noted));
                // A client that goes away is none of our business.
                std::thread::spawn(move || serve(stream, behind, &script, &seen));
            }
        });
        Proxy { address, script, seen }
    }

    /// From now on requests go as `script` says.
    pub(crate) fn follow(&self, script: impl Fn(&Asked<'_>) -> Fault + Send + Sync + 'static) {
        *self.script.write().unwrap() = Box::new(script);
        self.seen.lock().unwrap().clear();
    }

    /// How many requests came since then.
    pub(crate) fn count(&self) -> u64 {
        self.seen.lock().unwrap().values().sum()
    }
}

fn serve(
    mut client: TcpStream,
    behind: SocketAddr,
    script: &RwLock<Box<Script>>,
    seen: &Seen,
) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    loop {
        let (head, body) = read_request(&mut reader)?;
        let mut words = head.split(' ');
        let (method, path) = (words.next()?, words.next()?);
        let before = {
            let mut seen = seen.lock().unwrap();
            let count = seen.entry(format!("{method} {path}")).or_default();
            *count += 1;
            *count - 1
        };
        let fault = script.read().unwrap()(&Asked { method, path, before });
        match fault {
            Fault::Close => return None,
            Fault::Hang => {
                // Until the client gives up.
                let mut byte = [0];
                let _ = reader.read(&mut byte);
                return None;
            }
            Fault::Status(status) => {
                let answer = format!(
                    "HTTP/1.1 {status} Scripted\r\ncontent-length: 22\r\n\r\n<Code>Scripted</Code>\r\n"
                );
                client.write_all(answer.as_bytes()).ok()?;
                continue;
            }
            _ => {}
        }
        let (head, body) = ask(behind, &head, &body, method)?;
        answer(&mut client, fault, &head, body)?;
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        let lower = line.to_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if !lower.starts_with("connection:") {
            head.push_str(&line);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}

/// Passes a request on; gives head and body of the answer.
fn ask(behind: SocketAddr, head: &str, body: &[u8], method: &str) -> Option<(String, Vec<u8>)> {
    let mut server = TcpStream::connect(behind).ok()?;
    server.write_all(format!("{head}connection: close\r\n\r\n").as_bytes()).ok()?;
    server.write_all(body).ok()?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).ok()?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let body = answer.split_off(end);
    let mut head = String::from_utf8(answer).ok()?;
    if method != "HEAD" {
        // What was read to its end has a length, whatever was said of it.
        let lines = head.split("\r\n").filter(|line| !line.is_empty());
        let is_kept = |line: &&str| {
            let line = line.to_lowercase();
            !line.starts_with("content-length:") && !line.starts_with("transfer-encoding:")
        };
        head = lines.filter(is_kept).collect::<Vec<_>>().join("\r\n") + "\r\n\r\n";
    }
    let lines = head.split("\r\n").filter(|line| !line.to_lowercase().starts_with("connection:"));
    Some((lines.collect::<Vec<_>>().join("\r\n"), body))
}

fn answer(client: &mut TcpStream, fault: Fault, head: &str, mut body: Vec<u8>) -> Option<()> {
    match fault {
        Fault::Late(ms) => std::thread::sleep(Duration::from_millis(ms)),
        Fault::Flip if !body.is_empty() => {
            let middle = body.len() / 2;
            body[middle] ^= 1;
        }
        Fault::EmptyList => {
            let find = |word: &[u8]| body.windows(word.len()).position(|it| it == word);
            if let (Some(begin), Some(end)) = (find(b"<Contents>"), find(b"</ListBucketResult>")) {
                body.drain(begin..end);
            }
        }
        Fault::Truncate => body.truncate(body.len() / 2),
        _ => {}
    }
    let is_head_only = head.to_lowercase().contains("\r\ncontent-length:");
    if is_head_only {
        return client.write_all(head.as_bytes()).ok();
    }
    let head = head.trim_end();
    client
        .write_all(format!("{head}\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes())
        .ok()?;
    match fault {
        Fault::Cut => {
            client.write_all(&body[..body.len() / 2]).ok()?;
            None
        }
        Fault::Drip => {
            for byte in body {
                client.write_all(&[byte]).ok()?;
                std::thread::sleep(Duration::from_millis(200));
            }
            Some(())
        }
        _ => client.write_all(&body).ok(),
    }
}

//! A hub that misbehaves on purpose.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sha1::Digest as _;

use crate::sandbox::{Said, Sandbox};

pub(crate) const COMMIT: &str = "ac2ae5fab2ce3f9f40dc79b5ca9f637430d24971";
pub(crate) const TOKEN: &str = "hf_hunter2";

pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// A hub with one repository, `o/n`.
pub(crate) struct Hub {
    pub(crate) address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

/// What it has, and how it misbehaves.
#[derive(Clone, Default)]
pub(crate) struct Shelf {
    pub(crate) files: Files,
    /// Names in the listing that have no content.
    pub(crate) others: Vec<Value>,
    /// After how many bytes the first answer with a file breaks off.
    pub(crate) cuts: BTreeMap<String, usize>,
    /// What is sent instead of what is listed.
    pub(crate) swapped: Files,
    pub(crate) page: usize,
    /// Whether it holds data, in the folder `data`.
    pub(crate) is_dataset: bool,
}

impl Shelf {
    pub(crate) fn new(files: Files) -> Shelf {
        Shelf { files, page: 100, ..Shelf::default() }
    }

    fn entries(&self) -> Vec<Value> {
        let entry = |(name, bytes): (&String, &Vec<u8>)| {
            let path = if self.is_dataset { format!("data/{name}") } else { name.clone() };
            let size = bytes.len();
            let pointer = "0".repeat(40);
            if path.ends_with(".safetensors") || path.ends_with(".bin") {
                let oid = format!("{:x}", sha2::Sha256::digest(bytes));
                return json!({"type": "file", "path": path, "size": size, "oid": pointer,
                    "lfs": {"oid": oid, "size": size, "pointerSize": 134}});
            }
            let blob = [format!("blob {size}\0").as_bytes(), bytes].concat();
            let oid = format!("{:x}", sha1::Sha1::digest(blob));
            json!({"type": "file", "path": path, "size": size, "oid": oid})
        };
        self.files.iter().map(entry).chain(self.others.clone()).collect()
    }

    /// Answers one request.
    fn answer(&mut self, address: &str, path: &str, range: usize, stream: &mut TcpStream) {
        let (list, resolve) = match self.is_dataset {
            true => (
                format!("/api/datasets/o/n/tree/{COMMIT}/data"),
                format!("/datasets/o/n/resolve/{COMMIT}/data/"),
            ),
            false => (format!("/api/models/o/n/tree/{COMMIT}"), format!("/o/n/resolve/{COMMIT}/")),
        };
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let mut send = |head: &str, body: &[u8]| {
            // The client may have gone; the test then fails by what it sees.
            let _ = write!(stream, "HTTP/1.1 {head}\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(body);
        };
        if path == list {
            let from = query.strip_prefix("cursor=").map_or(0, |cursor| cursor.parse().unwrap());
            let entries = self.entries();
            let page: Vec<_> = entries.iter().skip(from).take(self.page).collect();
            let link = match from + self.page < entries.len() {
                // A link to another host is followed on ours.
                true => format!(
                    "Link: <https://hub.invalid{list}?cursor={}>; rel=\"next\"\r\n",
                    from + self.page
                ),
                false => String::new(),
            };
            let body = serde_json::to_vec(&page).unwrap();
            return send(&format!("200 OK\r\n{link}Content-Length: {}", body.len()), &body);
        }
        // Large files lie on another host, which must not see the token.
        if let Some(name) = path.strip_prefix(&resolve).filter(|name| name.ends_with("tensors")) {
            let other = address.replace("127.0.0.1", "localhost");
            let head =
                format!("302 Found\r\nLocation: {other}/storage/{name}\r\nContent-Length: 0");
            return send(&head, b"");
        }
        let name = path.strip_prefix(&resolve).or(path.strip_prefix("/storage/"));
        let found = name.and_then(|name| self.swapped.get(name).or(self.files.get(name)));
        let (Some(name), Some(bytes)) = (name, found) else {
            return send("404 Not Found\r\nContent-Length: 0", b"");
        };
        let left = &bytes[range.min(bytes.len())..];
        let head = if range > 0 { "206 Partial Content" } else { "200 OK" };
        let sent = self.cuts.remove(name).unwrap_or(left.len()).min(left.len());
        send(&format!("{head}\r\nContent-Length: {}", left.len()), &left[..sent]);
    }
}

impl Hub {
    pub(crate) fn new(mut shelf: Shelf) -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, own) = (Arc::clone(&asked), address.clone());
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let first = lines.next().and_then(Result::ok).unwrap_or_default();
                let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
                let (mut range, mut note) = (0, String::new());
                for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
                    if let Some(from) = line.to_lowercase().strip_prefix("range: bytes=") {
                        range = from.trim_end_matches('-').parse().unwrap();
                        note.push_str(&format!(" from {range}"));
                    }
                    if line == format!("authorization: Bearer {TOKEN}") {
                        note.push_str(" with token");
                    }
                }
                seen.lock().unwrap().push(format!("{path}{note}"));
                shelf.answer(&own, &path, range, &mut stream);
            }
        });
        Hub { address, asked }
    }

    pub(crate) fn run(&self, sandbox: &Sandbox) -> Said {
        let mut command = sandbox.command(&["run", "p.yaml"]);
        command.env("HF_ENDPOINT", &self.address).env("HF_TOKEN", TOKEN);
        let said = Said::of(command.output().unwrap());
        assert!(!said.stderr.contains(TOKEN) && !said.stdout.contains(TOKEN));
        said
    }

    /// What it was asked since the last time.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

//! `import` from the network, against a server that misbehaves on purpose.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::hub::{COMMIT, Files, Hub, Shelf};
use crate::sandbox::{Sandbox, names};

/// Answers one request; gets the value of its `Range` header.
type Answer = Box<dyn Fn(Option<&str>, &mut TcpStream) + Send>;

/// A server that gives one answer per request, in order, and remembers the ranges asked for.
fn serve(answers: Vec<Answer>) -> (String, Arc<Mutex<Vec<Option<String>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/data.txt", listener.local_addr().unwrap());
    let ranges = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&ranges);
    std::thread::spawn(move || {
        for answer in answers {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let mut range = None;
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            while reader.read_line(&mut line).unwrap_or(0) > 2 {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("range: ") {
                    range = Some(value.trim().to_owned());
                }
                line.clear();
            }
            seen.lock().unwrap().push(range.clone());
            answer(range.as_deref(), &mut stream);
        }
    });
    (address, ranges)
}

fn respond(head: &'static str, body: &'static str) -> Answer {
    Box::new(move |_, stream| {
        // The client may have gone; the test then fails by what it sees.
        let _ = write!(stream, "HTTP/1.1 {head}\r\nConnection: close\r\n\r\n{body}");
    })
}

fn pipeline(url: &str, digest: &str) -> String {
    format!(
        "okapi: 1\nname: d\nnodes:\n  data: {{stage: import, params: {{url: \"{url}\", digest: \"{digest}\", kind: text}}}}\n"
    )
}

/// `printf 'hello world' | sha256sum`, and `b3sum`.
const SHA256: &str = "sha256:b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";
const BLAKE3: &str = "blake3:d74981efa70a0c880b8d8c1985d075dbcbf679b99a5f9914e5aaf96b831a9e24";

/// The same by `git hash-object --stdin`.
const GIT: &str = "git:95d09f2b10159347eece71399a7e2e907ea3df4f";

#[test]
fn a_cut_download_is_continued_and_checked() {
    for digest in [SHA256, BLAKE3, GIT] {
        let (url, ranges) = serve(vec![
            respond("200 OK\r\nContent-Length: 11", "hello "),
            respond("503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 0", ""),
            respond("206 Partial Content\r\nContent-Length: 5", "world"),
        ]);
        let sandbox = Sandbox::new(&pipeline(&url, digest));
        assert_eq!(sandbox.run(), names(&["data"]));
        assert_eq!(sandbox.okapi(&["show", "p.yaml", "data"]).stdout, "hello world");
        let ranges = ranges.lock().unwrap().clone();
        let part = Some("bytes=6-".to_owned());
        assert_eq!(ranges, [None, part.clone(), part]);
        assert_eq!(sandbox.run(), names(&[]), "it is not downloaded twice");
    }
}

#[test]
fn content_that_is_not_what_was_pinned_is_refused() {
    for digest in [SHA256, BLAKE3, GIT] {
        let (url, _) = serve(vec![respond("200 OK\r\nContent-Length: 5", "other")]);
        let said = Sandbox::new(&pipeline(&url, digest)).okapi(&["run", "p.yaml"]);
        assert_eq!(said.code, Some(1));
        let expected = "the file has changed, or `digest` is wrong";
        assert!(said.stderr.contains(expected), "{}", said.stderr);
    }
}

#[test]
fn a_refusal_is_final_and_an_address_keeps_its_secrets() {
    let (url, ranges) = serve(vec![respond("404 Not Found\r\nContent-Length: 0", "")]);
    let url = url.replace("http://", "http://user:hunter2@");
    let said = Sandbox::new(&pipeline(&url, BLAKE3)).okapi(&["run", "p.yaml"]);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("404"), "{}", said.stderr);
    assert!(!said.stderr.contains("hunter2"), "{}", said.stderr);
    assert_eq!(ranges.lock().unwrap().len(), 1);
}

#[test]
fn an_import_needs_one_source_and_a_pin() {
    for (params, expected) in [
        ("{kind: text}", "give `path` or `url`"),
        ("{url: 'https://example.org/x'}", "must be pinned"),
        ("{url: 'hf://datasets/o/n@main/x'}", "`main` is no commit"),
        ("{url: 'hf://o/n@ac2ae5f/x'}", "commit's 40 hex digits behind `@`"),
        ("{url: 'hf://o/n/x'}", "must read"),
        ("{url: 'ftp://example.org/x', digest: DIGEST}", "must begin with"),
        ("{url: 'https://example.org/x', digest: 'md5:0'}", "must be `sha256:`"),
        (
            "{url: 'https://example.org/x', digest: DIGEST, kind: tree}",
            "cannot be stored as a folder",
        ),
    ] {
        let params = params.replace("DIGEST", &format!("'{BLAKE3}'"));
        let sandbox = Sandbox::new(&format!(
            "okapi: 1\nname: i\nnodes:\n  data: {{stage: import, params: {params}}}\n"
        ));
        let said = sandbox.okapi(&["check", "p.yaml"]);
        assert_eq!(said.code, Some(2), "{params}");
        assert!(said.stderr.contains(expected), "{params}: {}", said.stderr);
    }
}

#[test]
fn a_dead_host_is_replaced_by_a_mirror() {
    let (dead, _) = serve(vec![respond("404 Not Found\r\nContent-Length: 0", "")]);
    let (wrong, _) = serve(vec![respond("200 OK\r\nContent-Length: 3", "no!")]);
    let (alive, _) = serve(vec![respond("200 OK\r\nContent-Length: 11", "hello world")]);
    let sandbox = Sandbox::new(&pipeline(&dead, SHA256).replace(
        "kind: text",
        &format!("kind: text, mirrors: [\"{wrong}?key=secret\", \"{alive}\"]"),
    ));
    sandbox.run();
    assert_eq!(sandbox.okapi(&["show", "p.yaml", "data"]).stdout, "hello world");
    // Where the bytes came from is no part of what they are.
    sandbox.edit("p.yaml", &alive, "http://127.0.0.1:1/elsewhere");
    assert!(sandbox.run().is_empty());
}

/// The hub's repository of data with one file, and a pipeline that imports it by the commit alone.
fn dataset(name: &str, content: &[u8]) -> (Shelf, Sandbox) {
    let files = Files::from([(name.to_owned(), content.to_vec())]);
    let shelf = Shelf { is_dataset: true, ..Shelf::new(files) };
    let url = format!("hf://datasets/o/n@{COMMIT}/data/{name}");
    let sandbox = Sandbox::new(&format!(
        "okapi: 1\nname: d\nnodes:\n  data: {{stage: import, params: {{url: \"{url}\", kind: file}}}}\n"
    ));
    (shelf, sandbox)
}

#[test]
fn a_commit_of_the_hub_is_a_pin() {
    // A small file has git's digest there, a large one its SHA-256.
    for name in ["rows.jsonl", "rows.safetensors"] {
        let (mut shelf, sandbox) = dataset(name, b"hello world");
        shelf.cuts.insert(name.to_owned(), 4);
        let hub = Hub::new(shelf);
        for command in ["check", "plan"] {
            let mut command = sandbox.command(&[command, "p.yaml"]);
            let output = command.env("HF_ENDPOINT", &hub.address).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        assert_eq!(hub.asked(), [""; 0], "nothing is asked before the node runs");
        let said = hub.run(&sandbox);
        assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
        assert_eq!(sandbox.okapi(&["show", "p.yaml", "data"]).stdout, "hello world");
        let asked = hub.asked();
        assert_eq!(asked[0], format!("/api/datasets/o/n/tree/{COMMIT}/data with token"));
        let file = format!("/datasets/o/n/resolve/{COMMIT}/data/{name} with token");
        assert_eq!(asked[1], file);
        assert!(asked.contains(&format!("{file} from 4")), "{asked:?}");
        assert_eq!(hub.run(&sandbox).code, Some(0));
        assert_eq!(hub.asked(), [""; 0], "it is not downloaded twice");
    }
}

#[test]
fn what_a_commit_does_not_have_is_refused() {
    for name in ["rows.jsonl", "rows.safetensors"] {
        let (mut shelf, sandbox) = dataset(name, b"hello world");
        shelf.swapped.insert(name.to_owned(), b"hello there".to_vec());
        let said = Hub::new(shelf.clone()).run(&sandbox);
        assert_eq!(said.code, Some(1));
        assert!(said.stderr.contains("it is not what the commit has"), "{}", said.stderr);

        shelf.files = Files::from([("other".to_owned(), b"hello world".to_vec())]);
        let hub = Hub::new(shelf);
        let said = hub.run(&sandbox);
        assert_eq!(said.code, Some(1));
        let expected = format!("datasets/o/n@{COMMIT}/data has no file {name}");
        assert!(said.stderr.contains(&expected), "{}", said.stderr);
        assert!(said.stderr.contains("it has other"), "{}", said.stderr);
        assert_eq!(hub.asked().len(), 1);
    }
}

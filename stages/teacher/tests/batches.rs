//! The batch endpoint against a server that misbehaves by script: no second batch for one that has
//! begun, no row lost, none paid twice.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use futures_util::{StreamExt, stream};
use okapi_cache::{Access, Durability, Store};
use okapi_teacher::{
    Answer, Caller, CallerParts, Endpoint, Ledger, Request, Stop, TeacherError, Teachers,
};
use serde_json::{Value, json};

/// What the server has, and how often it has failed at each step.
#[derive(Default)]
struct Shelf {
    files: Vec<String>,
    /// Input file and output file of each batch.
    batches: Vec<(usize, usize)>,
    failures: BTreeMap<&'static str, u64>,
    /// Requests that came in batches, by prompt.
    asked: BTreeMap<String, u64>,
}

impl Shelf {
    /// Whether a step fails this time: the first so many times.
    fn fails(&mut self, step: &'static str, times: u64) -> bool {
        let count = self.failures.entry(step).or_default();
        *count += 1;
        *count <= times
    }

    /// Answers the lines of a file. In the first batch one line fails, one is not reached, and one is
    /// refused for good.
    fn answer(&mut self, input: &str) -> String {
        let first = self.batches.is_empty();
        let lines = input.lines().map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let prompt = line["body"]["messages"][0]["content"].as_str().unwrap().to_owned();
            *self.asked.entry(prompt.clone()).or_default() += 1;
            let (status, body) = match prompt.as_str() {
                "prompt 1" if first => (500, json!({ "error": { "message": "overloaded" } })),
                "prompt 2" if first => return json!({ "custom_id": line["custom_id"], "response": null, "error": { "code": "batch_expired" } }).to_string(),
                "prompt 3" => (400, json!({ "error": { "message": "too long", "code": "context_length_exceeded" } })),
                _ => (200, json!({
                    "choices": [{ "message": { "content": format!("re: {prompt}") }, "finish_reason": "stop" }],
                    "usage": { "prompt_tokens": 1, "completion_tokens": 1 },
                })),
            };
            json!({ "custom_id": line["custom_id"], "response": { "status_code": status, "body": body } }).to_string()
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Status and body of an answer; `None` closes the connection without one.
    fn serve(&mut self, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
        let parts: Vec<&str> = path.split(['/', '?']).filter(|part| !part.is_empty()).collect();
        Some(match (method, &parts[1..]) {
            ("POST", ["files"]) if self.fails("upload", 1) => (503, json!({})),
            ("POST", ["files"]) => {
                let text: Vec<&str> = body.lines().filter(|line| line.starts_with('{')).collect();
                self.files.push(text.join("\n"));
                (200, json!({ "id": format!("file-{}", self.files.len() - 1) }))
            }
            ("POST", ["batches"]) => {
                let body: Value = serde_json::from_str(body).unwrap();
                let input: usize = body["input_file_id"].as_str().unwrap()[5..].parse().unwrap();
                let answers = self.answer(&self.files[input].clone());
                self.files.push(answers);
                self.batches.push((input, self.files.len() - 1));
                if self.fails("start", 1) {
                    // It has begun, and nobody hears of it.
                    return None;
                }
                (200, json!({ "id": format!("batch_{}", self.batches.len() - 1) }))
            }
            ("GET", ["batches", rest @ ..]) if rest.is_empty() || rest[0].starts_with("limit") => {
                let list: Vec<Value> = (0..self.batches.len())
                    .map(|n| json!({ "id": format!("batch_{n}"), "input_file_id": format!("file-{}", self.batches[n].0) }))
                    .collect();
                (200, json!({ "data": list }))
            }
            ("GET", ["batches", "batch_77"]) => (404, json!({ "error": "no such batch" })),
            ("GET", ["batches", _]) if self.fails("look", 2) => (502, json!("<html>")),
            ("GET", ["batches", id]) => {
                let (_, output) = self.batches[id[6..].parse::<usize>().unwrap()];
                let status = if self.fails("wait", 1) { "in_progress" } else { "completed" };
                (
                    200,
                    json!({ "id": id, "status": status, "output_file_id": format!("file-{output}") }),
                )
            }
            ("GET", ["files", _, "content"]) if self.fails("fetch", 1) => return None,
            ("GET", ["files", id, "content"]) => {
                (200, json!(self.files[id[5..].parse::<usize>().unwrap()]))
            }
            _ => (404, json!({})),
        })
    }
}

fn start() -> (String, Arc<Mutex<Shelf>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/v1", listener.local_addr().unwrap());
    let shelf: Arc<Mutex<Shelf>> = Arc::default();
    let there = Arc::clone(&shelf);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let shelf = Arc::clone(&there);
            std::thread::spawn(move || while answer_one(&stream, &shelf).is_some() {});
        }
    });
    (address, shelf)
}

fn answer_one(mut stream: &TcpStream, shelf: &Mutex<Shelf>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length, mut chunked) = (String::new(), 0, false);
    reader.read_line(&mut first).ok().filter(|read| *read > 0)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim().to_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        chunked |= line.starts_with("transfer-encoding:");
    }
    assert!(!chunked, "a form of known size has a length");
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut words = first.split_whitespace();
    let (method, path) = (words.next()?, words.next()?);
    let (status, body) =
        shelf.lock().unwrap().serve(method, path, &String::from_utf8_lossy(&body))?;
    let body = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
    let head = format!("HTTP/1.1 {status} Word\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).ok()
}

fn ask(store: &Store, address: &str, count: usize) -> (Vec<Result<Answer, TeacherError>>, u64) {
    let teachers = Teachers::new(None);
    let identity = json!({ "kind": "openai", "model": "tiny" });
    let settings = json!({ "base_url": address, "mode": "batch", "timeout": 5 });
    let endpoint = teachers
        .block_on(async { Endpoint::new(&identity, &settings, &|_| None).unwrap() })
        .unwrap();
    let teacher = endpoint.teacher(store.records());
    let (ledger, stop) = (Ledger::default(), Stop::default());
    let parts = CallerParts {
        teacher: &*teacher,
        identity: endpoint.identity(),
        price: endpoint.price(),
        budget: teachers.budget(),
        records: store.records(),
        in_flight: teachers.in_flight(),
        ledger: &ledger,
        experience: endpoint.experience(),
        stop: &stop,
        sample: None,
    };
    let answers = Caller::with(parts, |caller| {
        teachers.block_on(async {
            let requests: Vec<Request> =
                (0..count).map(|n| Request::new(format!("prompt {n}"))).collect();
            stream::iter(&requests)
                .map(|request| async { Ok(caller.ask(request).await?.answer) })
                .buffered(count)
                .collect::<Vec<_>>()
                .await
        })
    });
    (answers.unwrap().unwrap(), ledger.take().requests)
}

#[test]
fn failures_on_the_way_cost_time_and_no_second_batch() {
    let (address, shelf) = start();
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), Access::ReadWrite, Durability::Batch).unwrap();
    let (answers, paid) = ask(&store, &address, 6);
    for (number, answer) in answers.iter().enumerate() {
        match number {
            3 => assert!(matches!(answer, Err(TeacherError::Refused { .. })), "{answer:?}"),
            _ => assert_eq!(answer.as_ref().unwrap().text, format!("re: prompt {number}")),
        }
    }
    assert_eq!(paid, 5);
    let shelf_now = shelf.lock().unwrap();
    // One batch for all, and one for the two lines that the first did not answer.
    assert_eq!(shelf_now.batches.len(), 2);
    let twice: Vec<_> = shelf_now.asked.iter().filter(|(_, times)| **times > 1).collect();
    assert_eq!(twice.len(), 2, "{twice:?}");
    drop(shelf_now);
    // Nothing is asked again, and nothing is left to be waited for.
    let (_, paid) = ask(&store, &address, 3);
    assert_eq!((paid, shelf.lock().unwrap().batches.len()), (0, 2));
    let journal = std::fs::read_to_string(folder.path().join("batches.json")).unwrap();
    assert_eq!(journal, "[]");
}

#[test]
fn a_batch_that_the_server_has_forgotten_is_asked_anew() {
    let (address, shelf) = start();
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), Access::ReadWrite, Durability::Batch).unwrap();
    let identity = json!({ "kind": "openai", "model": "tiny" });
    let requests: Vec<String> =
        (4..6).map(|n| Request::new(format!("prompt {n}")).digest(&identity).to_string()).collect();
    let journal =
        json!([{ "input": "file-9", "id": "batch_77", "server": address, "requests": requests }]);
    std::fs::write(folder.path().join("batches.json"), journal.to_string()).unwrap();
    let (answers, paid) = ask(&store, &address, 6);
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 5);
    // The new requests, those that were lost, and the two lines that their batches did not answer.
    assert_eq!((paid, shelf.lock().unwrap().batches.len()), (5, 3));
}

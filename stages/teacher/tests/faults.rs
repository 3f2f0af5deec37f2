//! The client against a server that misbehaves by script: no row is lost, none is doubled, and the
//! key goes nowhere.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use okapi_cache::{Access, Durability, Store};
use okapi_teacher::{
    Answer, Caller, CallerParts, Endpoint, Ledger, Request, Stop, TeacherError, Teachers,
};
use serde_json::{Value, json};

const KEY: &str = "sk-planted-secret";

/// What a server does with a request.
#[derive(Debug, Clone)]
enum Reply {
    Good,
    Status(u16, &'static [(&'static str, &'static str)], String),
    /// Says nothing for so long.
    Hang(Duration),
    /// Closes the connection in the middle of a body.
    Reset,
    /// A whole body that is half a JSON object.
    Truncated,
    Body(&'static str),
    /// More than a client should ever take.
    Huge,
    /// A byte at a time, for ever.
    Drip,
}

/// A server that answers the n-th request for a prompt (from 0) as `script` says.
struct Server {
    address: String,
    requests: Arc<AtomicU64>,
    /// When each request came, and with which headers.
    seen: Arc<Mutex<Vec<(Instant, String)>>>,
}

impl Server {
    fn start(script: impl Fn(u64) -> Reply + Send + Sync + 'static) -> Server {
        Server::start_by_prompt(move |_, number| script(number))
    }

    fn start_by_prompt(script: impl Fn(&str, u64) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/v1", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicU64::new(0));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (counter, log) = (Arc::clone(&requests), Arc::clone(&seen));
        let script = Arc::new(script);
        let tries: Arc<Mutex<BTreeMap<String, u64>>> = Arc::default();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let (counter, log) = (Arc::clone(&counter), Arc::clone(&log));
                let (script, tries) = (Arc::clone(&script), Arc::clone(&tries));
                std::thread::spawn(move || {
                    while let Some((head, body)) = read_request(&stream) {
                        counter.fetch_add(1, Ordering::Relaxed);
                        log.lock().unwrap().push((Instant::now(), head));
                        let prompt = body["messages"][0]["content"].as_str().unwrap_or_default();
                        let number = {
                            let mut tries = tries.lock().unwrap();
                            let number = tries.entry(prompt.to_owned()).or_default();
                            *number += 1;
                            *number - 1
                        };
                        if !reply(&stream, &script(prompt, number), prompt) {
                            return;
                        }
                    }
                });
            }
        });
        Server { address, requests, seen }
    }

    fn count(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

fn read_request(stream: &TcpStream) -> Option<(String, Value)> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, serde_json::from_slice(&body).unwrap_or_default()))
}

fn good(prompt: &str) -> String {
    json!({
        "model": "tiny",
        "choices": [{ "message": { "role": "assistant", "content": format!("re: {prompt}") }, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 10, "completion_tokens": 5 },
    })
    .to_string()
}

/// Sends a reply; says whether the connection goes on.
fn reply(mut stream: &TcpStream, reply: &Reply, prompt: &str) -> bool {
    let mut send = |status: u16, headers: &[(&str, &str)], body: &str, length: usize| {
        let headers: String =
            headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("HTTP/1.1 {status} Word\r\ncontent-length: {length}\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).is_ok()
    };
    let body = good(prompt);
    match reply {
        Reply::Good => send(200, &[], &body, body.len()),
        Reply::Status(status, headers, text) => send(*status, headers, text, text.len()),
        Reply::Hang(time) => {
            std::thread::sleep(*time);
            false
        }
        Reply::Reset => {
            send(200, &[], &body[..body.len() / 2], body.len());
            false
        }
        Reply::Truncated => send(200, &[], &body[..body.len() / 2], body.len() / 2),
        Reply::Body(text) => send(200, &[], text, text.len()),
        Reply::Huge => {
            send(200, &[], "", 1 << 30);
            let piece = vec![b' '; 1 << 20];
            // Until the client has had enough.
            while stream.write_all(&piece).is_ok() {}
            false
        }
        Reply::Drip => {
            send(200, &[], "", 1 << 20);
            while stream.write_all(b" ").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
            false
        }
    }
}

/// What asking came to.
struct Asked {
    answers: Vec<Result<Answer, TeacherError>>,
    records: u64,
    paid: u64,
}

fn endpoint(address: &str, settings: &Value) -> Result<Endpoint, TeacherError> {
    let mut all = json!({
        "base_url": address, "api_key_env": "PLANTED", "timeout": 0.5, "tries": 4, "concurrency": 8,
    });
    for (name, value) in settings.as_object().unwrap() {
        all[name] = value.clone();
    }
    let identity = json!({ "kind": "openai", "model": "tiny", "json_mode": true });
    Endpoint::new(&identity, &all, &|_| Some(KEY.to_owned()))
}

/// Asks `count` different prompts, several at once.
fn ask(store: &Store, address: &str, settings: &Value, count: usize) -> Asked {
    let teachers = Teachers::new(None);
    let endpoint = teachers.block_on(async { endpoint(address, settings).unwrap() }).unwrap();
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
            let requests: Vec<Request> = (0..count)
                .map(|n| Request { json: true, ..Request::new(format!("prompt {n}")) })
                .collect();
            stream::iter(&requests)
                .map(|request| async { Ok(caller.ask(request).await?.answer) })
                .buffered(16)
                .collect::<Vec<_>>()
                .await
        })
    });
    let costs = ledger.take();
    Asked {
        answers: answers.unwrap().unwrap(),
        records: store.records().len().unwrap(),
        paid: costs.requests,
    }
}

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), Access::ReadWrite, Durability::Batch).unwrap();
    (folder, store)
}

#[test]
fn whatever_a_server_does_at_first_every_row_is_answered_once() {
    let text = |text: &str| text.to_owned();
    let faults = [
        Reply::Status(429, &[("retry-after", "0.05")], text("{}")),
        Reply::Status(429, &[("retry-after-ms", "30")], text("slow down")),
        Reply::Status(500, &[], text("Internal Server Error")),
        Reply::Status(503, &[("retry-after", "0.01")], text("<html>busy</html>")),
        Reply::Status(408, &[], text("")),
        Reply::Hang(Duration::from_secs(2)),
        Reply::Reset,
        Reply::Truncated,
        Reply::Body("{\"answer\": 42}"),
        Reply::Body("<html><body>hello</body></html>"),
        Reply::Body(""),
        Reply::Drip,
    ];
    for fault in faults {
        let said = format!("{fault:?}");
        let server =
            Server::start(move |number| if number == 0 { fault.clone() } else { Reply::Good });
        let (_folder, store) = store();
        let asked = ask(&store, &server.address, &json!({}), 20);
        for (number, answer) in asked.answers.iter().enumerate() {
            let answer = answer.as_ref().unwrap_or_else(|error| panic!("{said}: {error}"));
            assert_eq!(answer.text, format!("re: prompt {number}"), "{said}");
        }
        assert_eq!((asked.records, asked.paid, server.count()), (20, 20, 40), "{said}");
        // And once answered, never asked again.
        let again = ask(&store, &server.address, &json!({}), 20);
        assert_eq!((again.records, again.paid, server.count()), (20, 0, 40), "{said}");
    }
}

#[test]
fn a_body_without_end_is_not_taken() {
    let server = Server::start(|number| if number == 0 { Reply::Huge } else { Reply::Good });
    let (_folder, store) = store();
    let asked = ask(&store, &server.address, &json!({ "timeout": 20 }), 2);
    assert!(asked.answers.iter().all(Result::is_ok));
    assert_eq!((asked.records, server.count()), (2, 4));
}

#[test]
fn too_many_requests_without_a_word_pause_the_whole_teacher() {
    let server = Server::start(|number| match number {
        0 => Reply::Status(429, &[], "{}".to_owned()),
        _ => Reply::Good,
    });
    let (_folder, store) = store();
    let asked = ask(&store, &server.address, &json!({}), 8);
    assert!(asked.answers.iter().all(Result::is_ok));
    let seen = server.seen.lock().unwrap();
    // Those that were on their way when the first refusal came still arrive; then nobody does until
    // the wait is over, which is at least three eighths of a second.
    let pause = seen.windows(2).position(|pair| pair[1].0 - pair[0].0 > Duration::from_millis(300));
    assert!(pause.is_some_and(|before| before < 8), "{pause:?}");
    assert_eq!(seen.len(), 16);
}

#[test]
fn failures_that_do_not_pass_end_at_once_and_name_the_remedy() {
    for (status, body, hint) in [
        (
            401,
            r#"{"error":{"message":"Incorrect API key provided: sk-planted-secret"}}"#,
            "PLANTED",
        ),
        (403, "forbidden", "PLANTED"),
        (404, r#"{"error":{"message":"no model"}}"#, "`tiny` a model"),
        (302, "", "redirects are not followed"),
        (429, r#"{"error":{"message":"no credit","code":"insufficient_quota"}}"#, "no credit left"),
        (400, r#"{"error":{"message":"use max_completion_tokens"}}"#, "max_tokens_name"),
    ] {
        let server = Server::start(move |_| {
            Reply::Status(status, &[("location", "http://127.0.0.1:1/")], body.to_owned())
        });
        let (_folder, store) = store();
        let asked = ask(&store, &server.address, &json!({ "concurrency": 1 }), 1);
        let error = asked.answers[0].as_ref().unwrap_err();
        let TeacherError::Unusable { message, hint: said } = error else { panic!("{error:?}") };
        assert!(!format!("{error:?}").contains(KEY), "{error:?}");
        assert!(said.as_deref().unwrap_or_default().contains(hint), "{status} {message}: {said:?}");
        assert_eq!((server.count(), asked.records), (1, 0), "{status}");
    }
}

#[test]
fn a_request_that_is_refused_harms_no_other() {
    let body =
        r#"{"error":{"message":"maximum context length is 10","code":"context_length_exceeded"}}"#;
    let server = Server::start(move |number| match number {
        0 => Reply::Status(400, &[], body.to_owned()),
        _ => Reply::Good,
    });
    let (_folder, store) = store();
    let asked = ask(&store, &server.address, &json!({}), 3);
    assert!(asked.answers.iter().all(|it| matches!(it, Err(TeacherError::Refused { .. }))));
    // That they were refused is noted for whoever goes through the records alone.
    assert_eq!((server.count(), asked.records), (3, 3));
    let teachers = Teachers::of_records(0, 0);
    let identity = json!({ "kind": "openai", "model": "tiny", "json_mode": true });
    let endpoint = teachers.endpoint(&identity, &Value::Null).unwrap();
    let look = |prompt: &str| {
        let request = Request { json: true, ..Request::new(prompt) };
        let teacher = endpoint.teacher(store.records());
        teachers.block_on(teacher.answer(&request, &Stop::default())).unwrap()
    };
    let Err(TeacherError::Refused { reason }) = look("prompt 1") else { panic!("it was refused") };
    assert!(reason.contains("maximum context length"), "{reason}");
    assert!(matches!(look("prompt 7"), Err(TeacherError::Unrecorded { .. })));
    // Whoever asks again asks the server: it may take longer requests by then.
    let asked = ask(&store, &server.address, &json!({}), 3);
    assert!(asked.answers.iter().all(Result::is_ok));
    assert_eq!((server.count(), asked.records), (6, 6));
}

/// A server's words for "too long" are not all known. One request that it calls bad while it answers
/// others is bad by itself; if it calls every request bad, nothing more is asked.
#[test]
fn a_bad_request_is_told_from_a_bad_teacher() {
    let (_folder, store) = store();
    let bad = |_| Reply::Status(400, &[], "{\"error\":{\"message\":\"no, thanks\"}}".to_owned());
    let all_bad = Server::start(bad);
    let asked = ask(&store, &all_bad.address, &json!({ "concurrency": 1 }), 40);
    assert!(
        matches!(asked.answers[0], Err(TeacherError::Refused { .. })),
        "{:?}",
        asked.answers[0]
    );
    assert!(
        matches!(asked.answers[39], Err(TeacherError::Unusable { .. })),
        "{:?}",
        asked.answers[39]
    );
    let server = Server::start_by_prompt(|prompt, _| match prompt {
        "prompt 3" => {
            Reply::Status(400, &[], "{\"error\":{\"message\":\"no, thanks\"}}".to_owned())
        }
        "prompt 5" => Reply::Reset,
        _ => Reply::Good,
    });
    let asked =
        ask(&store, &server.address, &json!({ "concurrency": 2, "requests_per_minute": 240 }), 12);
    for (number, answer) in asked.answers.iter().enumerate() {
        match number {
            3 | 5 => assert!(matches!(answer, Err(TeacherError::Refused { .. })), "{answer:?}"),
            _ => assert!(answer.is_ok(), "{answer:?}"),
        }
    }
}

#[test]
fn a_server_without_json_mode_is_asked_without_it() {
    let body = r#"{"error":{"message":"Unknown parameter: response_format"}}"#;
    let server = Server::start(move |number| match number {
        0 => Reply::Status(400, &[], body.to_owned()),
        _ => Reply::Good,
    });
    let (_folder, store) = store();
    let asked = ask(&store, &server.address, &json!({ "concurrency": 1 }), 2);
    assert!(asked.answers[0].is_ok());
    assert_eq!(asked.records, 1 + u64::from(asked.answers[1].is_ok()));
}

#[test]
fn the_key_goes_into_its_header_and_nowhere_else() {
    let server = Server::start(|_| Reply::Good);
    let (folder, store) = store();
    ask(&store, &server.address, &json!({ "key_header": "api-key" }), 1);
    ask(&store, &server.address, &json!({}), 2);
    let heads: Vec<String> = server.seen.lock().unwrap().iter().map(|it| it.1.clone()).collect();
    assert!(heads[0].contains(&format!("api-key: {KEY}")), "{}", heads[0]);
    assert!(heads[1].contains(&format!("authorization: Bearer {KEY}")), "{}", heads[1]);
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes.windows(KEY.len()).any(|window| window == KEY.as_bytes());
            assert!(!found, "{}", path.display());
        }
    }
}

#[test]
fn nobody_there_is_said_so() {
    let (_folder, store) = store();
    let asked = ask(&store, "http://127.0.0.1:1/v1", &json!({ "tries": 2 }), 1);
    let error = asked.answers[0].as_ref().unwrap_err();
    assert!(matches!(error, TeacherError::Unavailable { .. }));
    assert!(error.to_string().contains("127.0.0.1:1: no connection"), "{error}");
}

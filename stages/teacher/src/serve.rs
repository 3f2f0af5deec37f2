//! The offline teacher as an OpenAI-compatible server, so that any client can talk to it: chat
//! completions, models, and the batch endpoints with the files that they need.
//!
//! It is for trying things out on one's own machine: there is no key to check, and files and batches
//! live in memory, up to a limit.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Multipart, Path, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use serde_json::{Value, json};

use crate::offline::Offline;
use crate::request::{Message, Request, estimated_tokens};

/// What it calls its model.
pub const MODEL: &str = "okapi-offline";

/// The most bytes of a request.
const LARGEST_REQUEST: usize = 256 << 20;
/// The most bytes of all files together.
const LARGEST_FILES: usize = 1 << 30;

/// How a server answers.
#[derive(Debug, Clone, Copy)]
pub struct ServeOptions {
    /// The teacher's skill, from 0 to 1.
    pub skill: f64,
    /// The seed of its chance.
    pub seed: i64,
    /// How long every answer takes at least.
    pub delay: Duration,
    /// The most chat completions a minute; those beyond get 429. Up to a second's worth may come at
    /// once.
    pub requests_per_minute: Option<f64>,
}

struct Server {
    options: ServeOptions,
    started: u64,
    shelf: Mutex<Shelf>,
    /// Requests that may come now, and since when.
    allowance: Mutex<(f64, Instant)>,
}

#[derive(Default)]
struct Shelf {
    files: BTreeMap<String, File>,
    batches: BTreeMap<String, Value>,
    bytes: usize,
    made: u64,
}

struct File {
    name: String,
    purpose: String,
    content: Bytes,
    created: u64,
}

/// A server that listens and has not answered yet.
pub struct Listening {
    listener: tokio::net::TcpListener,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Takes an address.
///
/// # Errors
/// When it cannot be had.
pub async fn listen(address: SocketAddr) -> std::io::Result<Listening> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    Ok(Listening { listener, address })
}

impl Listening {
    /// Answers until `end` is there.
    ///
    /// # Errors
    /// When the system fails.
    pub async fn serve(
        self,
        options: ServeOptions,
        end: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let allowance = Mutex::new((0.0, Instant::now()));
        let server = Server { options, started: now(), shelf: Mutex::default(), allowance };
        axum::serve(self.listener, router(Arc::new(server))).with_graceful_shutdown(end).await
    }
}

fn router(server: Arc<Server>) -> Router {
    Router::new()
        .route("/v1/models", get(models))
        .route("/v1/models/{model}", get(model))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/files", post(upload).get(files))
        .route("/v1/files/{id}", get(file).delete(delete_file))
        .route("/v1/files/{id}/content", get(content))
        .route("/v1/batches", post(start_batch).get(batches))
        .route("/v1/batches/{id}", get(batch))
        .route("/v1/batches/{id}/cancel", post(cancel))
        .fallback(async || fault(StatusCode::NOT_FOUND, "there is nothing at this address"))
        .layer(DefaultBodyLimit::max(LARGEST_REQUEST))
        .with_state(server)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn respond(status: StatusCode, body: &Value) -> Response {
    let response =
        Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
    response.body(Body::from(body.to_string())).unwrap_or_default()
}

/// A failure as OpenAI writes it.
fn fault(status: StatusCode, message: &str) -> Response {
    respond(status, &fault_body(message))
}

fn fault_body(message: &str) -> Value {
    json!({ "error": {
        "message": message, "type": "invalid_request_error", "param": null, "code": null,
    } })
}

impl Server {
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another request may come now.
    fn admits(&self) -> bool {
        let Some(per_minute) = self.options.requests_per_minute else { return true };
        let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let per_second = per_minute / 60.0;
        let grown = now.duration_since(allowance.1).as_secs_f64() * per_second;
        let left = (allowance.0 + grown).min(per_second.max(1.0));
        let admits = left >= 1.0;
        *allowance = (if admits { left - 1.0 } else { left }, now);
        admits
    }

    /// Answers a body, or says what is wrong with it.
    fn complete(&self, body: &[u8]) -> Result<Value, String> {
        let body: Value = serde_json::from_slice(body)
            .map_err(|error| format!("the body is no JSON: {error}"))?;
        let messages = body["messages"].as_array().filter(|messages| !messages.is_empty());
        let messages = messages.ok_or("`messages` has to be a list with at least one message")?;
        let messages: Vec<Message> =
            messages.iter().map(message).collect::<Result<Vec<_>, String>>()?;
        if body["stream"].as_bool().unwrap_or(false) {
            return Err("this server does not stream: leave `stream` out".to_owned());
        }
        let count = match &body["n"] {
            Value::Null => 1,
            number => number
                .as_u64()
                .filter(|n| (1..=128).contains(n))
                .ok_or("`n` is no number from 1 to 128")?,
        };
        let model = body["model"].as_str().ok_or("`model` is missing")?.to_owned();
        // A client's seed asks for another sample, as it would of a model.
        let seed = self.options.seed ^ body["seed"].as_i64().unwrap_or(0);
        let offline = Offline::new(self.options.skill, seed);
        let most =
            ["max_completion_tokens", "max_tokens"].iter().find_map(|name| body[name].as_u64());
        let mut written = 0;
        let mut prompt_tokens = 0;
        let mut choices = Vec::new();
        for index in 0..count {
            let request = Request {
                messages: messages.clone(),
                json: false,
                sample: index as u32,
                attempt: 0,
            };
            prompt_tokens = request.estimated_tokens();
            let mut text = offline.reply(&request);
            let mut finish = "stop";
            if let Some(most) = most
                && estimated_tokens(&text) > most
            {
                while estimated_tokens(&text) > most {
                    text.pop();
                }
                finish = "length";
            }
            written += estimated_tokens(&text);
            choices.push(json!({
                "index": index,
                "message": { "role": "assistant", "content": text, "refusal": null },
                "logprobs": null,
                "finish_reason": finish,
            }));
        }
        Ok(json!({
            "id": format!("chatcmpl-{}", self.number()),
            "object": "chat.completion",
            "created": now(),
            "model": model,
            "system_fingerprint": concat!("okapi-", env!("CARGO_PKG_VERSION")),
            "choices": choices,
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": written,
                "total_tokens": prompt_tokens + written,
            },
        }))
    }

    fn number(&self) -> u64 {
        let mut shelf = self.shelf();
        shelf.made += 1;
        shelf.made
    }

    fn keep(&self, name: String, purpose: String, content: Bytes) -> Result<String, String> {
        let mut shelf = self.shelf();
        if shelf.bytes + content.len() > LARGEST_FILES {
            return Err(format!("all files together may have {LARGEST_FILES} bytes"));
        }
        shelf.bytes += content.len();
        shelf.made += 1;
        let id = format!("file-{}", shelf.made);
        shelf.files.insert(id.clone(), File { name, purpose, content, created: now() });
        Ok(id)
    }
}

/// A message with its text, which may be given in parts.
fn message(value: &Value) -> Result<Message, String> {
    let role = serde_json::from_value(value["role"].clone())
        .or_else(|error| match value["role"].as_str() {
            Some("developer") => Ok(crate::request::Role::System),
            _ => Err(error),
        })
        .map_err(|_| format!("a message has the role {}", value["role"]))?;
    let content = match &value["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let text = |part: &Value| part["text"].as_str().map(str::to_owned);
            let parts: Option<Vec<String>> = parts.iter().map(text).collect();
            parts.ok_or("a message has a part that is no text")?.join("\n")
        }
        _ => return Err("a message has no text in `content`".to_owned()),
    };
    Ok(Message { role, content })
}

type Shared = State<Arc<Server>>;

fn model_object(server: &Server) -> Value {
    json!({ "id": MODEL, "object": "model", "created": server.started, "owned_by": "okapi" })
}

async fn models(State(server): Shared) -> Response {
    let list = json!({ "object": "list", "data": [model_object(&server)] });
    respond(StatusCode::OK, &list)
}

async fn model(State(server): Shared, Path(name): Path<String>) -> Response {
    match name == MODEL {
        true => respond(StatusCode::OK, &model_object(&server)),
        false => fault(StatusCode::NOT_FOUND, "there is no such model"),
    }
}

async fn chat(State(server): Shared, body: Bytes) -> Response {
    if !server.admits() {
        return fault(StatusCode::TOO_MANY_REQUESTS, "too many requests in a minute");
    }
    if !server.options.delay.is_zero() {
        tokio::time::sleep(server.options.delay).await;
    }
    match server.complete(&body) {
        Ok(answer) => respond(StatusCode::OK, &answer),
        Err(message) => fault(StatusCode::BAD_REQUEST, &message),
    }
}

async fn upload(State(server): Shared, mut form: Multipart) -> Response {
    let (mut purpose, mut found) = (String::new(), None);
    loop {
        let field = match form.next_field().await {
            Ok(Some(field)) => field,
            Ok(None) => break,
            Err(error) => return fault(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        let name = field.name().unwrap_or_default().to_owned();
        let file_name = field.file_name().unwrap_or("file").to_owned();
        let bytes = match field.bytes().await {
            Ok(bytes) => bytes,
            Err(error) => return fault(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        match name.as_str() {
            "purpose" => purpose = String::from_utf8_lossy(&bytes).into_owned(),
            "file" => found = Some((file_name, bytes)),
            _ => {}
        }
    }
    let Some((name, content)) = found else {
        return fault(StatusCode::BAD_REQUEST, "the form has no `file`");
    };
    match server.keep(name, purpose, content) {
        Ok(id) => {
            let shelf = server.shelf();
            respond(StatusCode::OK, &file_object(&id, &shelf.files[&id]))
        }
        Err(message) => fault(StatusCode::PAYLOAD_TOO_LARGE, &message),
    }
}

fn file_object(id: &str, file: &File) -> Value {
    json!({
        "id": id,
        "object": "file",
        "bytes": file.content.len(),
        "created_at": file.created,
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
    })
}

async fn files(State(server): Shared) -> Response {
    let shelf = server.shelf();
    let data: Vec<Value> = shelf.files.iter().map(|(id, file)| file_object(id, file)).collect();
    respond(StatusCode::OK, &json!({ "object": "list", "data": data, "has_more": false }))
}

async fn file(State(server): Shared, Path(id): Path<String>) -> Response {
    match server.shelf().files.get(&id) {
        Some(file) => respond(StatusCode::OK, &file_object(&id, file)),
        None => fault(StatusCode::NOT_FOUND, "there is no such file"),
    }
}

async fn delete_file(State(server): Shared, Path(id): Path<String>) -> Response {
    let mut shelf = server.shelf();
    let removed = shelf.files.remove(&id);
    shelf.bytes -= removed.as_ref().map_or(0, |file| file.content.len());
    match removed {
        Some(_) => respond(StatusCode::OK, &json!({ "id": id, "object": "file", "deleted": true })),
        None => fault(StatusCode::NOT_FOUND, "there is no such file"),
    }
}

async fn content(State(server): Shared, Path(id): Path<String>) -> Response {
    match server.shelf().files.get(&id) {
        Some(file) => Response::new(Body::from(file.content.clone())),
        None => fault(StatusCode::NOT_FOUND, "there is no such file"),
    }
}

async fn start_batch(State(server): Shared, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    if body["endpoint"] != "/v1/chat/completions" {
        return fault(StatusCode::BAD_REQUEST, "`endpoint` has to be /v1/chat/completions");
    }
    let input = body["input_file_id"].as_str().unwrap_or_default().to_owned();
    let Some(lines) = server.shelf().files.get(&input).map(|file| file.content.clone()) else {
        return fault(StatusCode::BAD_REQUEST, "there is no file `input_file_id`");
    };
    let id = format!("batch_{}", server.number());
    let batch = json!({
        "id": id,
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "errors": null,
        "input_file_id": input,
        "completion_window": body["completion_window"],
        "status": "in_progress",
        "output_file_id": null,
        "error_file_id": null,
        "created_at": now(),
        "expires_at": now() + 86_400,
        "request_counts": { "total": 0, "completed": 0, "failed": 0 },
        "metadata": body["metadata"],
    });
    server.shelf().batches.insert(id.clone(), batch.clone());
    tokio::spawn(work(Arc::clone(&server), id, lines));
    respond(StatusCode::OK, &batch)
}

/// Answers the lines of a batch, and ends it.
async fn work(server: Arc<Server>, id: String, lines: Bytes) {
    tokio::time::sleep(server.options.delay).await;
    let (mut output, mut errors) = (String::new(), String::new());
    let (mut completed, mut failed) = (0u64, 0u64);
    for (number, line) in String::from_utf8_lossy(&lines).lines().enumerate() {
        let line: Value = serde_json::from_str(line).unwrap_or_default();
        let answered = server.complete(line["body"].to_string().as_bytes());
        let (status, body, to) = match answered {
            Ok(body) => {
                completed += 1;
                (200, body, &mut output)
            }
            Err(message) => {
                failed += 1;
                (400, fault_body(&message), &mut errors)
            }
        };
        let result = json!({
            "id": format!("batch_req_{number}"),
            "custom_id": line["custom_id"],
            "response": { "status_code": status, "request_id": format!("req_{number}"), "body": body },
            "error": null,
        });
        to.push_str(&format!("{result}\n"));
        // Others want to be answered meanwhile.
        tokio::task::yield_now().await;
    }
    let file = |name: &str, text: String| match text.is_empty() {
        true => None,
        false => server.keep(name.to_owned(), "batch_output".to_owned(), text.into()).ok(),
    };
    let (output, errors) = (file("output.jsonl", output), file("errors.jsonl", errors));
    let mut shelf = server.shelf();
    let Some(batch) = shelf.batches.get_mut(&id) else { return };
    if batch["status"] == "in_progress" {
        batch["status"] = "completed".into();
    }
    batch["output_file_id"] = json!(output);
    batch["error_file_id"] = json!(errors);
    batch["completed_at"] = now().into();
    batch["request_counts"] =
        json!({ "total": completed + failed, "completed": completed, "failed": failed });
}

async fn batches(State(server): Shared) -> Response {
    let data: Vec<Value> = server.shelf().batches.values().cloned().collect();
    respond(StatusCode::OK, &json!({ "object": "list", "data": data, "has_more": false }))
}

async fn batch(State(server): Shared, Path(id): Path<String>) -> Response {
    match server.shelf().batches.get(&id) {
        Some(batch) => respond(StatusCode::OK, batch),
        None => fault(StatusCode::NOT_FOUND, "there is no such batch"),
    }
}

async fn cancel(State(server): Shared, Path(id): Path<String>) -> Response {
    match server.shelf().batches.get_mut(&id) {
        Some(batch) => {
            if batch["status"] == "in_progress" {
                batch["status"] = "cancelled".into();
            }
            respond(StatusCode::OK, batch)
        }
        None => fault(StatusCode::NOT_FOUND, "there is no such batch"),
    }
}

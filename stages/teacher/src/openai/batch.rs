//! The batch endpoint: requests in a file, answers within a day, at half the price.
//!
//! To whoever asks this is a teacher like any other that takes its time. Requests are collected
//! until no more come: dialogues wait for their answers, so at some point all that can be asked has
//! been. Then they are uploaded together, and each gets its answer when the batch has ended. The
//! records are the same as those of single calls.
//!
//! What is on its way is written to a file in the stage's scratch folder as soon as the server has
//! given it an id. A later run that asks the same requests finds them there and goes on waiting
//! instead of paying for a second batch.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::multipart::{Form, Part};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{OpenAi, ReadError, retry, wire};
use crate::request::{Answer, Request};
use crate::teacher::{Answering, Teacher, TeacherError};

/// The most requests of a batch.
pub(crate) const LARGEST: usize = 50_000;
/// The most bytes of a batch's file, with room below the 200 MB that providers take.
const LARGEST_FILE: usize = 190_000_000;
/// The most bytes of a batch's answers.
const LARGEST_ANSWERS: usize = 1 << 30;
/// A batch begins when no request has come for so long.
const QUIET: Duration = Duration::from_millis(300);
/// The first and the longest wait between two looks at a batch.
const LOOKS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// A batch that has not ended by then never will: providers give up after a day.
const LONGEST: Duration = Duration::from_secs(26 * 3600);
/// How often one step of a batch is tried.
const TRIES: u32 = 10;

type Waiting = oneshot::Sender<Result<Answer, TeacherError>>;

/// A teacher that asks by batches.
pub(crate) struct Batches {
    shared: Arc<Shared>,
}

struct Shared {
    client: Arc<OpenAi>,
    identity: Value,
    journal: Journal,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: BTreeMap<String, (Request, Waiting)>,
    last_came: Option<Instant>,
    is_collecting: bool,
}

/// The batches on their way, in a file.
struct Journal {
    path: PathBuf,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct OpenBatch {
    id: String,
    requests: Vec<String>,
}

impl Batches {
    pub(crate) fn new(client: Arc<OpenAi>, identity: Value, scratch: &Path) -> Batches {
        let journal = Journal { path: scratch.join("batches.json") };
        let shared = Shared { client, identity, journal, queue: Mutex::default() };
        Batches { shared: Arc::new(shared) }
    }
}

impl Teacher for Batches {
    fn answer<'a>(&'a self, request: &'a Request) -> Answering<'a> {
        let (sender, receiver) = oneshot::channel();
        let id = request.digest(&self.shared.identity).to_string();
        let must_start = {
            let mut queue = self.shared.lock();
            queue.waiting.insert(id, (request.clone(), sender));
            queue.last_came = Some(Instant::now());
            !std::mem::replace(&mut queue.is_collecting, true)
        };
        if must_start {
            tokio::spawn(collect(Arc::clone(&self.shared)));
        }
        Box::pin(async move {
            receiver.await.unwrap_or_else(|_| {
                Err(TeacherError::Unavailable { message: "the batch was given up".to_owned() })
            })
        })
    }
}

/// Waits until no more requests come, and makes a batch of them; again, as long as there are any.
async fn collect(shared: Arc<Shared>) {
    loop {
        loop {
            let quiet_at = shared.lock().last_came.map(|came| came + QUIET);
            match quiet_at {
                Some(at) if at > Instant::now() => tokio::time::sleep_until(at).await,
                _ => break,
            }
        }
        let waiting = {
            let mut queue = shared.lock();
            if queue.waiting.is_empty() {
                queue.is_collecting = false;
                return;
            }
            std::mem::take(&mut queue.waiting)
        };
        shared.work(waiting).await;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets answers: of batches that are on their way already, and of new ones.
    async fn work(&self, mut waiting: BTreeMap<String, (Request, Waiting)>) {
        for open in self.journal.read() {
            let asked: Vec<_> =
                open.requests.iter().filter(|id| waiting.contains_key(*id)).collect();
            if asked.is_empty() {
                continue;
            }
            tracing::info!("batch {} is on its way: waiting for {} answers", open.id, asked.len());
            match self.finish(&open.id).await {
                Ok(answers) => hand_out(&mut waiting, answers, self),
                // One that the server has forgotten is asked anew.
                Err(error) => tracing::warn!("batch {} is lost: {error}", open.id),
            }
            self.journal.remove(&open.id);
        }
        while !waiting.is_empty() {
            let (file, ids) = self.file(&waiting);
            match self.submit(file, &ids).await {
                Err(error) => {
                    for (_, (_, sender)) in std::mem::take(&mut waiting) {
                        // Who does not wait any more needs no answer.
                        let _ = sender.send(Err(error.clone()));
                    }
                }
                Ok(answers) => {
                    let mut part: BTreeMap<_, _> =
                        ids.iter().filter_map(|id| waiting.remove_entry(id)).collect();
                    hand_out(&mut part, answers, self);
                    for (_, (_, sender)) in part {
                        let message = "the batch ended without an answer to it".to_owned();
                        let _ = sender.send(Err(TeacherError::Unavailable { message }));
                    }
                }
            }
        }
    }

    /// The lines of the next batch, and the requests in it.
    fn file(&self, waiting: &BTreeMap<String, (Request, Waiting)>) -> (Vec<u8>, Vec<String>) {
        let (mut file, mut ids) = (Vec::new(), Vec::new());
        for (id, (request, _)) in waiting.iter().take(LARGEST) {
            let line = json!({
                "custom_id": id,
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": wire::body(&self.client.config, request, true),
            });
            let line = format!("{line}\n");
            if !ids.is_empty() && file.len() + line.len() > LARGEST_FILE {
                break;
            }
            file.extend_from_slice(line.as_bytes());
            ids.push(id.clone());
        }
        (file, ids)
    }

    /// Uploads a batch, starts it and waits for its end.
    async fn submit(&self, file: Vec<u8>, ids: &[String]) -> Result<Vec<Value>, TeacherError> {
        let url = self.url("files");
        let uploaded = self
            .step("uploading a batch", || {
                let part = Part::bytes(file.clone()).file_name("requests.jsonl");
                let form = Form::new().text("purpose", "batch").part("file", part);
                self.client.client.post(url.clone()).multipart(form)
            })
            .await?;
        let input = id_of(&uploaded)?;
        let url = self.url("batches");
        let body = json!({
            "input_file_id": input,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        })
        .to_string();
        let made = self
            .step("starting a batch", || {
                let request = self.client.client.post(url.clone());
                request.header("content-type", "application/json").body(body.clone())
            })
            .await?;
        let id = id_of(&made)?;
        self.journal.add(OpenBatch { id: id.clone(), requests: ids.to_vec() });
        let answers = self.finish(&id).await;
        self.journal.remove(&id);
        answers
    }

    /// Waits for the end of a batch and fetches its lines: answers and errors.
    async fn finish(&self, id: &str) -> Result<Vec<Value>, TeacherError> {
        let url = self.url(&format!("batches/{id}"));
        let started = Instant::now();
        let mut wait = LOOKS.0;
        let batch = loop {
            let batch =
                self.step("looking at a batch", || self.client.client.get(url.clone())).await?;
            match batch["status"].as_str() {
                // What an expired or cancelled batch has answered counts too.
                Some("completed" | "expired" | "cancelled") => break batch,
                Some("failed") => {
                    let why = batch["errors"]["data"][0]["message"].as_str().unwrap_or("no reason");
                    let message = format!("the batch {id} failed: {}", self.client.redacted(why));
                    return Err(TeacherError::Unusable { message, hint: None });
                }
                _ if started.elapsed() > LONGEST => {
                    let message = format!("the batch {id} has not ended in 26 hours");
                    return Err(TeacherError::Unavailable { message });
                }
                _ => {}
            }
            tokio::time::sleep(wait).await;
            wait = wait.mul_f64(1.5).min(LOOKS.1);
        };
        let mut lines = Vec::new();
        for name in ["output_file_id", "error_file_id"] {
            let Some(file) = batch[name].as_str() else { continue };
            let url = self.url(&format!("files/{file}/content"));
            let bytes = self
                .fetch("fetching the answers of a batch", || self.client.client.get(url.clone()))
                .await?;
            let text = String::from_utf8_lossy(&bytes);
            lines.extend(text.lines().filter_map(|line| serde_json::from_str(line).ok()));
        }
        Ok(lines)
    }

    async fn step(
        &self,
        what: &str,
        request: impl Fn() -> reqwest::RequestBuilder,
    ) -> Result<Value, TeacherError> {
        let bytes = self.fetch(what, request).await?;
        serde_json::from_slice(&bytes).map_err(|_| TeacherError::Unavailable {
            message: format!("{what}: the server sent no JSON"),
        })
    }

    /// One request, tried again while that may help.
    async fn fetch(
        &self,
        what: &str,
        request: impl Fn() -> reqwest::RequestBuilder,
    ) -> Result<Vec<u8>, TeacherError> {
        let mut tried = 0;
        loop {
            tried += 1;
            let why = match request().send().await {
                Err(error) => self.client.network(&error),
                Ok(response) => {
                    let status = response.status();
                    match super::read_up_to(response, LARGEST_ANSWERS).await {
                        Ok(bytes) if status.is_success() => return Ok(bytes),
                        Ok(bytes) => {
                            let said = wire::failure(&bytes);
                            let said = self.client.redacted(&said.message);
                            let message = format!("{what}: the server answers {status}: {said}");
                            if !matches!(status.as_u16(), 408 | 409 | 425 | 429 | 500..=599) {
                                let hint = match status.as_u16() {
                                    404 | 405 => Some(
                                        "not every server has the batch endpoint: leave `mode: batch` out"
                                            .to_owned(),
                                    ),
                                    _ => self.client.hint(status, ""),
                                };
                                return Err(TeacherError::Unusable { message, hint });
                            }
                            message
                        }
                        Err(ReadError::Network(error)) => self.client.network(&error),
                        Err(ReadError::TooLarge) => {
                            let message = format!("{what}: more than {LARGEST_ANSWERS} bytes");
                            return Err(TeacherError::Unavailable { message });
                        }
                    }
                }
            };
            if tried >= TRIES {
                let message = format!("{what}: {why} (tried {tried} times)");
                return Err(TeacherError::Unavailable { message });
            }
            tokio::time::sleep(retry::back_off(tried + 1, 0.5)).await;
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.client.config.base_url.trim_end_matches('/'))
    }
}

fn id_of(made: &Value) -> Result<String, TeacherError> {
    let id = made["id"].as_str().filter(|id| {
        !id.is_empty() && id.chars().all(|it| it.is_ascii_alphanumeric() || "-_.".contains(it))
    });
    id.map(str::to_owned).ok_or_else(|| TeacherError::Unavailable {
        message: "the server gave a batch or a file no usable id".to_owned(),
    })
}

/// Gives every request in `waiting` that has a line its answer, and takes it out.
fn hand_out(
    waiting: &mut BTreeMap<String, (Request, Waiting)>,
    lines: Vec<Value>,
    shared: &Shared,
) {
    for line in lines {
        let Some(id) = line["custom_id"].as_str() else { continue };
        let Some((request, sender)) = waiting.remove(id) else { continue };
        let response = &line["response"];
        let body = response["body"].to_string();
        let client = &shared.client;
        let result = match response["status_code"].as_u64() {
            Some(200) => match wire::answer(body.as_bytes(), &client.config, &request) {
                Ok(answer) => Ok(answer),
                Err(wire::NoAnswer::Refused(reason)) => {
                    Err(TeacherError::Refused { reason: client.redacted(&reason) })
                }
                Err(wire::NoAnswer::Broken(message)) => {
                    Err(TeacherError::Unavailable { message: client.redacted(&message) })
                }
            },
            status => {
                // One line that went wrong says nothing about the others.
                let said = wire::failure(body.as_bytes()).message;
                let own = line["error"]["message"].as_str().unwrap_or_default();
                let status = status.map_or("no status".to_owned(), |status| status.to_string());
                let reason = client.redacted(&format!("in a batch: {status}: {said}{own}"));
                Err(TeacherError::Refused { reason })
            }
        };
        let _ = sender.send(result);
    }
}

impl Journal {
    fn read(&self) -> Vec<OpenBatch> {
        let bytes = std::fs::read(&self.path).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    fn add(&self, batch: OpenBatch) {
        let mut open = self.read();
        open.push(batch);
        self.write(&open);
    }

    fn remove(&self, id: &str) {
        let mut open = self.read();
        open.retain(|batch| batch.id != id);
        self.write(&open);
    }

    /// A journal that cannot be written costs a second batch after a kill, nothing else.
    fn write(&self, open: &[OpenBatch]) {
        let write = || -> std::io::Result<()> {
            if let Some(folder) = self.path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let bytes = serde_json::to_vec(open)?;
            let temporary = self.path.with_extension("new");
            std::fs::write(&temporary, bytes)?;
            std::fs::rename(&temporary, &self.path)
        };
        if let Err(error) = write() {
            tracing::warn!("{}: {error}", self.path.display());
        }
    }
}

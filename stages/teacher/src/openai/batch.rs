//! The batch endpoint: requests in a file, answers within a day, at half the price.
//!
//! To whoever asks this is a teacher like any other that takes its time. Requests are collected
//! until no more come: dialogues wait for their answers, so at some point all that can be asked has
//! been. Then they are uploaded together, and each gets its answer when the batch has ended. The
//! records are the same as those of single calls. What a batch left unanswered goes into another.
//!
//! Batches on their way are in a journal beside the records (`journal`). A later run that asks the
//! same requests, in whatever node, finds them there and goes on waiting instead of paying twice.

mod journal;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use okapi_cache::RecordCache;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::journal::{Journal, OpenBatch};
use super::{OpenAi, ReadError, is_of_one_request, retry, wire};
use crate::caller::Stop;
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
/// How many batches a request is put into.
const ROUNDS: u32 = 3;

type Waiting = BTreeMap<String, (Request, oneshot::Sender<Result<Answer, TeacherError>>)>;

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
    waiting: Waiting,
    last_came: Option<Instant>,
    is_collecting: bool,
    /// Nobody asks any more: no new batch is begun.
    is_over: bool,
}

/// Why a step of a batch came to nothing.
struct Failed {
    status: Option<u16>,
    error: TeacherError,
}

impl Batches {
    pub(crate) fn new(client: Arc<OpenAi>, identity: Value, records: &RecordCache) -> Batches {
        let journal = Journal::beside(records, &client.config.base_url);
        let shared = Shared { client, identity, journal, queue: Mutex::default() };
        Batches { shared: Arc::new(shared) }
    }
}

impl Teacher for Batches {
    fn answer<'a>(&'a self, request: &'a Request, _: &'a Stop) -> Answering<'a> {
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

impl Drop for Batches {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
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

    /// Gets answers: of batches that are on their way already, and at the same time of new ones.
    async fn work(&self, mut waiting: Waiting) {
        let mut begun = Vec::new();
        for open in self.journal.read() {
            let part: Waiting =
                open.requests.iter().filter_map(|id| waiting.remove_entry(id)).collect();
            if !part.is_empty() {
                begun.push((open, part));
            }
        }
        let begun = join_all(begun.into_iter().map(|(open, part)| self.wait_for(open, part)));
        let (left, ()) = tokio::join!(begun, self.begin(waiting));
        // What those batches left unanswered.
        self.begin(left.into_iter().flatten().collect()).await;
    }

    /// Waits for a batch of an earlier run. Gives back what it does not answer.
    async fn wait_for(&self, open: OpenBatch, mut part: Waiting) -> Waiting {
        let id = match &open.id {
            Some(id) => id.clone(),
            // Begun perhaps, before its id could be written down.
            None => match self.find(&open.input).await {
                Ok(Some(id)) => {
                    self.journal.name(&open.input, &id);
                    id
                }
                Ok(None) => {
                    self.journal.remove(&open.input);
                    return part;
                }
                Err(failed) => return give(part, &failed.error),
            },
        };
        self.client
            .notices
            .say(format!("batch {id} was on its way: waiting for {} answers", part.len()));
        match self.finish(&id).await {
            Ok(lines) => {
                let refused = hand_out(&mut part, lines, &self.client);
                self.journal.refuse(&open.input, &refused);
                part
            }
            Err(failed) if failed.is_for_good() => {
                let notice = format!("batch {id} is lost, it is asked anew: {}", failed.error);
                self.client.notices.say(notice);
                self.journal.remove(&open.input);
                part
            }
            Err(failed) => give(part, &failed.error),
        }
    }

    /// Makes batches of requests until all are answered.
    async fn begin(&self, mut waiting: Waiting) {
        for _ in 0..ROUNDS {
            let mut left = Waiting::new();
            loop {
                // Who has given up meanwhile is not asked for.
                waiting.retain(|_, (_, sender)| !sender.is_closed());
                if waiting.is_empty() || self.lock().is_over {
                    break;
                }
                let (file, ids) = self.file(&waiting);
                let mut part: Waiting =
                    ids.iter().filter_map(|id| waiting.remove_entry(id)).collect();
                match self.submit(file, &ids).await {
                    Ok((input, lines)) => {
                        let refused = hand_out(&mut part, lines, &self.client);
                        self.journal.refuse(&input, &refused);
                    }
                    Err(Failed { error, .. }) => part = give(part, &error),
                }
                left.extend(part);
            }
            if left.is_empty() {
                return;
            }
            waiting = left;
        }
        let message = format!("{ROUNDS} batches ended without an answer to it");
        give(waiting, &TeacherError::Unavailable { message });
    }

    /// The lines of the next batch, and the requests in it.
    fn file(&self, waiting: &Waiting) -> (Vec<u8>, Vec<String>) {
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

    /// Uploads a batch, starts it and waits for its end. Gives its input file and its lines.
    async fn submit(&self, file: Vec<u8>, ids: &[String]) -> Result<(String, Vec<Value>), Failed> {
        let url = self.url("files");
        let upload = || {
            let part = Part::bytes(file.clone()).file_name("requests.jsonl");
            let form = Form::new().text("purpose", "batch").part("file", part);
            self.client.client.post(url.clone()).multipart(form)
        };
        let uploaded = json_of(&self.fetch("uploading a batch", upload).await?)?;
        let input = id_of(&uploaded)?;
        // Before it begins: whatever happens from here on, the next run can find it by its file.
        self.journal.add(&input, ids);
        let id = match self.start(&input).await {
            Ok(id) => id,
            Err(failed) => {
                if failed.is_for_good() {
                    self.journal.remove(&input);
                }
                return Err(failed);
            }
        };
        self.journal.name(&input, &id);
        self.client.notices.say(format!(
            "batch {id} of {} requests: it goes on at the provider if this run ends",
            ids.len()
        ));
        match self.finish(&id).await {
            Ok(lines) => Ok((input, lines)),
            Err(failed) => {
                if failed.is_for_good() {
                    self.journal.remove(&input);
                }
                Err(failed)
            }
        }
    }

    /// Starts a batch. An answer that is lost on its way does not start another one: before each
    /// further try, the server is asked whether it has begun.
    async fn start(&self, input: &str) -> Result<String, Failed> {
        let url = self.url("batches");
        let body = json!({
            "input_file_id": input,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        })
        .to_string();
        let mut tried = 0;
        loop {
            tried += 1;
            let request = self.client.client.post(url.clone());
            let request = request.header("content-type", "application/json").body(body.clone());
            let sent = self.once("starting a batch", request).await;
            let failed = match sent.and_then(|bytes| id_of(&json_of(&bytes)?)) {
                Ok(id) => return Ok(id),
                Err(failed) => failed,
            };
            if !failed.is_passing() {
                return Err(failed);
            }
            tokio::time::sleep(retry::back_off(tried + 1, 0.5)).await;
            if let Some(id) = self.find(input).await? {
                return Ok(id);
            }
            if tried >= TRIES {
                return Err(failed);
            }
        }
    }

    /// The batch that was made of a file, if there is one.
    async fn find(&self, input: &str) -> Result<Option<String>, Failed> {
        let list = || self.client.client.get(self.url("batches?limit=100"));
        let batches = json_of(&self.fetch("looking for a batch", list).await?)?;
        let mut begun = batches["data"].as_array().into_iter().flatten();
        begun.find(|batch| batch["input_file_id"] == input).map(id_of).transpose()
    }

    /// Waits for the end of a batch and fetches its lines: answers and errors. An outage on the way
    /// costs time only.
    async fn finish(&self, id: &str) -> Result<Vec<Value>, Failed> {
        let url = self.url(&format!("batches/{id}"));
        let started = Instant::now();
        let mut wait = LOOKS.0;
        let batch = loop {
            let look = || self.client.client.get(url.clone());
            let looked = self.fetch("looking at a batch", look).await;
            match looked.and_then(|bytes| json_of(&bytes)) {
                Err(failed) if !failed.is_passing() => return Err(failed),
                Err(failed) if started.elapsed() > LONGEST => return Err(failed),
                Err(failed) => self
                    .client
                    .notices
                    .now_and_then(|| format!("batch {id}: {}; looking on", failed.error)),
                Ok(batch) => match batch["status"].as_str() {
                    // What an expired or cancelled batch has answered counts too.
                    Some("completed" | "expired" | "cancelled") => break batch,
                    Some("failed") => {
                        // Nothing of it was done.
                        let why = batch["errors"]["data"][0]["message"].as_str();
                        let why = self.client.redacted(why.unwrap_or("no reason is given"));
                        let message = format!("the batch {id} failed: {why}");
                        let error = TeacherError::Unusable { message, hint: None };
                        return Err(Failed { status: Some(410), error });
                    }
                    _ if started.elapsed() > LONGEST => {
                        let message = format!("the batch {id} has not ended in 26 hours");
                        let error = TeacherError::Unavailable { message };
                        return Err(Failed { status: Some(410), error });
                    }
                    _ => {}
                },
            }
            tokio::time::sleep(wait).await;
            wait = wait.mul_f64(1.5).min(LOOKS.1);
        };
        let mut lines = Vec::new();
        for name in ["output_file_id", "error_file_id"] {
            let Some(file) = batch[name].as_str() else { continue };
            let url = self.url(&format!("files/{file}/content"));
            let get = || self.client.client.get(url.clone());
            let bytes = self.fetch("fetching the answers of a batch", get).await?;
            let text = String::from_utf8_lossy(&bytes);
            lines.extend(text.lines().filter_map(|line| serde_json::from_str(line).ok()));
        }
        Ok(lines)
    }

    /// One step, tried again while that may help.
    async fn fetch(
        &self,
        what: &str,
        request: impl Fn() -> reqwest::RequestBuilder,
    ) -> Result<Vec<u8>, Failed> {
        let mut tried = 0;
        loop {
            tried += 1;
            match self.once(what, request()).await {
                Ok(bytes) => return Ok(bytes),
                Err(failed) if tried >= TRIES || !failed.is_passing() => return Err(failed),
                Err(failed) => {
                    let error = &failed.error;
                    self.client
                        .notices
                        .now_and_then(|| format!("{error}; trying again (try {tried} of {TRIES})"));
                    tokio::time::sleep(retry::back_off(tried + 1, 0.5)).await;
                }
            }
        }
    }

    async fn once(&self, what: &str, request: reqwest::RequestBuilder) -> Result<Vec<u8>, Failed> {
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => {
                return Err(Failed::unavailable(format!(
                    "{what}: {}",
                    self.client.network(&error)
                )));
            }
        };
        let status = response.status();
        let bytes = match super::read_up_to(response, LARGEST_ANSWERS).await {
            Ok(bytes) => bytes,
            Err(ReadError::Network(error)) => {
                return Err(Failed::unavailable(format!(
                    "{what}: {}",
                    self.client.network(&error)
                )));
            }
            Err(ReadError::TooLarge) => {
                let message = format!("{what}: more than {LARGEST_ANSWERS} bytes");
                let error = TeacherError::Unusable { message, hint: None };
                return Err(Failed { status: None, error });
            }
        };
        if status.is_success() {
            return Ok(bytes);
        }
        let said = wire::failure(&bytes, &|text| self.client.redacted(text)).message;
        let message = format!("{what}: the server answers {status}: {said}");
        let status = Some(status.as_u16());
        if matches!(status, Some(408 | 409 | 425 | 429 | 500..=599)) {
            return Err(Failed { status, error: TeacherError::Unavailable { message } });
        }
        let hint = match status {
            Some(404 | 405) => {
                Some("not every server has the batch endpoint: leave `mode: batch` out".to_owned())
            }
            _ => None,
        };
        Err(Failed { status, error: TeacherError::Unusable { message, hint } })
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.client.config.base_url.trim_end_matches('/'))
    }
}

impl Failed {
    fn unavailable(message: String) -> Failed {
        Failed { status: None, error: TeacherError::Unavailable { message } }
    }

    /// Whether there is nothing to be had from this batch any more.
    fn is_for_good(&self) -> bool {
        matches!(self.status, Some(400 | 404 | 405 | 410 | 413 | 422))
    }

    /// Whether it may have passed at the next try.
    fn is_passing(&self) -> bool {
        matches!(self.error, TeacherError::Unavailable { .. })
    }
}

fn json_of(bytes: &[u8]) -> Result<Value, Failed> {
    serde_json::from_slice(bytes)
        .map_err(|_| Failed::unavailable("the server sent no JSON about a batch".to_owned()))
}

fn id_of(made: &Value) -> Result<String, Failed> {
    let id = made["id"].as_str().filter(|id| {
        !id.is_empty() && id.chars().all(|it| it.is_ascii_alphanumeric() || "-_.".contains(it))
    });
    id.map(str::to_owned).ok_or_else(|| {
        let message = "the server gave a batch or a file no usable id".to_owned();
        Failed { status: None, error: TeacherError::Unusable { message, hint: None } }
    })
}

/// Gives every request in `waiting` that was answered, or refused, its answer, and takes it out.
/// Those that the server did not get to, or failed at, stay. Says which were refused: these will never
/// have a record.
fn hand_out(waiting: &mut Waiting, lines: Vec<Value>, client: &OpenAi) -> Vec<String> {
    let mut refused = Vec::new();
    for line in lines {
        let Some(id) = line["custom_id"].as_str() else { continue };
        let Some((request, _)) = waiting.get(id) else { continue };
        let response = &line["response"];
        let body = response["body"].to_string();
        let result = match response["status_code"].as_u64() {
            Some(200) => match wire::answer(body.as_bytes(), &client.config, request) {
                Ok(answer) => Ok(answer),
                Err(_) => continue,
            },
            Some(status @ (400 | 413 | 422)) => {
                let said = wire::failure(body.as_bytes(), &|text| client.redacted(text));
                let about = format!("{} {}", said.code, said.message).to_ascii_lowercase();
                let reason = format!("in a batch the server answers {status}: {}", said.message);
                // In a batch, where others are answered, a bad request is bad by itself.
                let own = is_of_one_request(&about) || said.param.is_empty();
                Err(match own {
                    true => TeacherError::Refused { reason },
                    false => TeacherError::Unusable { message: reason, hint: None },
                })
            }
            Some(status @ (401..=404)) => {
                let said = wire::failure(body.as_bytes(), &|text| client.redacted(text)).message;
                let message = format!("in a batch the server answers {status}: {said}");
                Err(TeacherError::Unusable { message, hint: None })
            }
            _ => continue,
        };
        if matches!(result, Err(TeacherError::Refused { .. })) {
            refused.push(id.to_owned());
        }
        if let Some((_, sender)) = waiting.remove(id) {
            // Who does not wait any more needs no answer.
            let _ = sender.send(result);
        }
    }
    refused
}

/// Gives all of them the same answer; none is left.
fn give(waiting: Waiting, error: &TeacherError) -> Waiting {
    for (_, (_, sender)) in waiting {
        let _ = sender.send(Err(error.clone()));
    }
    Waiting::new()
}

//! Every call is paid once: a teacher, and around it the records of what was answered before.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use okapi_cache::{Digest, RecordCache};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{Notify, OnceCell, oneshot};

use crate::budget::Budget;
use crate::pricing::{Price, cost};
use crate::request::{Answer, Finish, Request, Usage};
use crate::sample::Sample;
use crate::teacher::{Teacher, TeacherError};

/// What is kept of a call: a JSON object in the record cache, under [`Request::digest`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The version of this form: 1.
    pub record: u32,
    /// What was answered.
    pub answer: Answer,
    /// What it cost, billionths of a US dollar.
    pub nano_usd: u64,
    /// When, seconds since 1970.
    pub at: u64,
}

/// The version of [`Record`].
const VERSION: u32 = 1;

impl Record {
    /// Reads a record. One that cannot be read counts as missing.
    pub fn parse(bytes: &[u8]) -> Option<Record> {
        let record: Record = serde_json::from_slice(bytes).ok()?;
        (record.record == VERSION).then_some(record)
    }
}

/// What was asked and what it cost, since it was last taken.
#[derive(Debug, Default)]
pub struct Ledger {
    costs: Mutex<Costs>,
}

/// Requests, tokens, money.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Costs {
    /// Requests that the teacher answered.
    pub requests: u64,
    /// Requests that were answered from records.
    pub recorded: u64,
    /// Tokens read.
    pub prompt_tokens: u64,
    /// Tokens written.
    pub completion_tokens: u64,
    /// What the requests cost, billionths of a US dollar.
    pub nano_usd: u64,
    /// What the answers from records had cost.
    pub saved_nano_usd: u64,
    /// The answers that were given out, whether they were recorded before or not.
    pub used: Used,
}

/// Answers that work was made of: the same however often the work was begun, and whoever else asked for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// How many.
    pub answers: u64,
    /// Tokens that were read for them.
    pub prompt_tokens: u64,
    /// Tokens that were written.
    pub completion_tokens: u64,
}

impl Used {
    /// Adds others.
    pub fn add(&mut self, other: &Used) {
        self.answers += other.answers;
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
    }
}

impl Ledger {
    /// Takes what has been added since the last time.
    pub fn take(&self) -> Costs {
        std::mem::take(&mut *lock(&self.costs))
    }

    fn add_recorded(&self, nano_usd: u64) {
        let mut costs = lock(&self.costs);
        costs.recorded += 1;
        costs.saved_nano_usd += nano_usd;
    }

    fn add_used(&self, usage: &Usage) {
        let Usage { prompt_tokens, completion_tokens, .. } = *usage;
        lock(&self.costs).used.add(&Used { answers: 1, prompt_tokens, completion_tokens });
    }

    fn add_call(&self, usage: &Usage, nano_usd: u64) {
        let mut costs = lock(&self.costs);
        costs.requests += 1;
        costs.prompt_tokens += usage.prompt_tokens;
        costs.completion_tokens += usage.completion_tokens;
        costs.nano_usd += nano_usd;
    }
}

/// Tells whoever asks to stop: first no new calls, then not even waiting for those on their way.
#[derive(Debug, Default)]
pub struct Stop {
    requested: AtomicBool,
    at_once: AtomicBool,
    now: Notify,
}

impl Stop {
    /// No new calls.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Release);
    }

    /// Calls on their way are given up.
    pub fn at_once(&self) {
        self.request();
        self.at_once.store(true, Ordering::Release);
        self.now.notify_waiters();
    }

    /// Whether no new calls are to be made.
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }

    pub(crate) async fn wait(&self) {
        loop {
            let notified = self.now.notified();
            if self.at_once.load(Ordering::Acquire) {
                return;
            }
            notified.await;
        }
    }
}

/// An answer, and whether it was recorded before.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// The answer.
    pub answer: Answer,
    /// Whether nobody had to be asked.
    pub recorded: bool,
}

/// Requests whose answers are on their way or not in the log yet: who asks the same waits, whichever
/// node it asks for.
#[derive(Debug, Default)]
pub struct InFlight {
    cells: Mutex<BTreeMap<Digest, Arc<OnceCell<Record>>>>,
}

impl InFlight {
    fn cell(&self, digest: Digest) -> Arc<OnceCell<Record>> {
        Arc::clone(lock(&self.cells).entry(digest).or_default())
    }

    /// Takes a request out that has been answered, or that nobody else is waiting for; not one that
    /// has begun since.
    fn remove(&self, digest: &Digest, cell: &Arc<OnceCell<Record>>) {
        let mut cells = lock(&self.cells);
        let is_there = cells.get(digest).is_some_and(|there| Arc::ptr_eq(there, cell));
        // The map's and the caller's own: whoever else has one may be asking already.
        if is_there && (cell.initialized() || Arc::strong_count(cell) <= 2) {
            cells.remove(digest);
        }
    }
}

/// What a [`Caller`] is made of.
pub struct CallerParts<'a> {
    /// Who answers.
    pub teacher: &'a dyn Teacher,
    /// What of it determines its answers.
    pub identity: &'a Value,
    /// What it takes.
    pub price: Option<Price>,
    /// What may be spent.
    pub budget: &'a Budget,
    /// What was answered before.
    pub records: &'a RecordCache,
    /// What is being answered.
    pub in_flight: &'a InFlight,
    /// Where costs are written down.
    pub ledger: &'a Ledger,
    /// How long its answers were so far.
    pub experience: &'a Experience,
    /// Raised when the run is being stopped.
    pub stop: &'a Stop,
    /// Where requests that were answered from records are kept, with the teacher's settings, if that is wanted.
    pub sample: Option<(&'a Sample, &'a Value)>,
}

/// Asks a teacher what is not recorded yet.
pub struct Caller<'a> {
    parts: CallerParts<'a>,
    writer: RecordWriter,
}

/// How many tokens a teacher's calls took so far, for what the next one may cost.
#[derive(Debug, Default)]
pub struct Experience {
    /// The longest answer, and the greatest ratio of tokens read to what was reckoned.
    seen: Mutex<(u64, f64)>,
}

impl Experience {
    fn add(&self, request: &Request, usage: &Usage) {
        let mut seen = lock(&self.seen);
        let ratio = usage.prompt_tokens as f64 / request.estimated_tokens().max(1) as f64;
        *seen = (seen.0.max(usage.completion_tokens), seen.1.max(ratio));
    }

    /// The usage that a call is not expected to go beyond: an answer as long as the longest so far.
    fn expected(&self, request: &Request) -> Usage {
        let (longest, ratio) = *lock(&self.seen);
        let prompt = request.estimated_tokens() as f64 * if ratio > 0.0 { ratio } else { 1.0 };
        Usage {
            prompt_tokens: prompt.ceil() as u64,
            completion_tokens: if longest > 0 { longest } else { USUAL_ANSWER },
            cached_tokens: 0,
            estimated: true,
        }
    }
}

/// Where new records go; they are added to the log together, in a thread of their own.
struct RecordWriter {
    sender: Sender<NewRecord>,
    broken: Arc<Mutex<Option<String>>>,
}

/// A record for the log, and who waits until it is durable.
type NewRecord = (Digest, Vec<u8>, oneshot::Sender<()>);

/// What a call writes where nothing is known of it yet.
const USUAL_ANSWER: u64 = 1000;

impl Caller<'_> {
    /// Makes a caller and hands it to `work`. When this returns, every answer is in the log and
    /// durable.
    ///
    /// # Errors
    /// When records cannot be kept.
    pub fn with<T>(
        parts: CallerParts<'_>,
        work: impl FnOnce(&Caller<'_>) -> T,
    ) -> Result<T, TeacherError> {
        let (sender, receiver) = channel();
        let broken = Arc::new(Mutex::new(None));
        let records = parts.records;
        let result = std::thread::scope(|scope| {
            let broken_there = Arc::clone(&broken);
            scope.spawn(move || write(records, &receiver, &broken_there));
            let writer = RecordWriter { sender, broken: Arc::clone(&broken) };
            let caller = Caller { parts, writer };
            // The caller goes before the scope ends, and with it the writer's last sender.
            work(&caller)
        });
        match lock(&broken).take() {
            Some(message) => Err(TeacherError::Records { message }),
            None => Ok(result),
        }
    }

    /// The answer to a request: the recorded one, or else the teacher's.
    ///
    /// # Errors
    /// As [`TeacherError`] says.
    pub async fn ask(&self, request: &Request) -> Result<Asked, TeacherError> {
        let digest = request.digest(self.parts.identity);
        let cell = self.parts.in_flight.cell(digest);
        let mut called = false;
        let found = cell.get_or_try_init(async || {
            if let Some(record) = self.recorded(&digest)? {
                return Ok(record);
            }
            called = true;
            self.call(request, digest).await
        });
        // Another node may be asking the same, for as long as it likes.
        let record = tokio::select! {
            biased;
            found = found => found.cloned(),
            () = self.parts.stop.wait() => Err(TeacherError::Cancelled),
        };
        self.parts.in_flight.remove(&digest, &cell);
        let record = record?;
        if !called {
            self.parts.ledger.add_recorded(record.nano_usd);
            if let Some((sample, settings)) = self.parts.sample {
                let identity = self.parts.identity;
                sample.offer(digest, request, identity, settings, &record.answer.text);
            }
        }
        self.parts.ledger.add_used(&record.answer.usage);
        Ok(Asked { answer: record.answer, recorded: !called })
    }

    fn recorded(&self, digest: &Digest) -> Result<Option<Record>, TeacherError> {
        let found = self.parts.records.lookup(digest);
        let found = found.map_err(|error| TeacherError::Records { message: error.to_string() })?;
        Ok(found.and_then(|bytes| Record::parse(&bytes)))
    }

    async fn call(&self, request: &Request, digest: Digest) -> Result<Record, TeacherError> {
        if self.parts.stop.is_requested() {
            return Err(TeacherError::Cancelled);
        }
        if let Some(message) = lock(&self.writer.broken).clone() {
            return Err(TeacherError::Records { message });
        }
        let answering = async {
            let reservation = self.parts.budget.reserve(self.expected_cost(request)).await?;
            if self.parts.stop.is_requested() {
                return Err(TeacherError::Cancelled);
            }
            let answer = match self.parts.teacher.answer(request, self.parts.stop).await {
                Err(TeacherError::Refused { reason }) => {
                    self.keep_refusal(&digest, &reason).await?;
                    return Err(TeacherError::Refused { reason });
                }
                other => other?,
            };
            let nano_usd = cost(&answer, self.parts.price.as_ref());
            reservation.spend(nano_usd);
            Ok::<_, TeacherError>((answer, nano_usd))
        };
        let (answer, nano_usd) = answering.await?;
        // Paid for, even if nobody waits until it is recorded.
        self.parts.ledger.add_call(&answer.usage, nano_usd);
        self.parts.experience.add(request, &answer.usage);
        let record = Record { record: VERSION, answer, nano_usd, at: now() };
        self.keep(digest, &record).await?;
        // Another process may have been first: its answer is the one that is recorded.
        Ok(self.recorded(&digest)?.unwrap_or(record))
    }

    /// Writes a record. Nobody goes on with an answer before it is durable.
    async fn keep(&self, digest: Digest, record: &Record) -> Result<(), TeacherError> {
        let bytes = serde_json::to_vec(record)
            .map_err(|error| TeacherError::Records { message: error.to_string() })?;
        // If the writer has stopped, it has said why.
        let (durable, written) = oneshot::channel();
        let _ = self.writer.sender.send((digest, bytes, durable));
        if written.await.is_err() {
            let message = lock(&self.writer.broken).clone().unwrap_or_default();
            return Err(TeacherError::Records { message });
        }
        Ok(())
    }

    /// Notes that a request was refused: it is asked again all the same, for the server may be another by then, but whoever
    /// goes through the records alone has to know.
    async fn keep_refusal(&self, digest: &Digest, reason: &str) -> Result<(), TeacherError> {
        let (text, finish, usage) = (reason.to_owned(), Finish::Refused, Usage::default());
        let answer =
            Answer { text, finish, usage, model: None, fingerprint: None, stated_usd: None };
        let record = Record { record: VERSION, answer, nano_usd: 0, at: now() };
        self.keep(refusal_of(digest), &record).await
    }

    /// What a call may cost.
    fn expected_cost(&self, request: &Request) -> u64 {
        let price = self.parts.price.as_ref();
        let mut usage = self.parts.experience.expected(request);
        if let Some(most) = self.parts.identity["max_tokens"].as_u64() {
            usage.completion_tokens = usage.completion_tokens.min(most);
        }
        price.map_or(0, |price| price.nano_usd(&usage))
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Where the refusal of a request is kept.
pub(crate) fn refusal_of(request: &Digest) -> Digest {
    Digest::of(format!("refused {request}").as_bytes())
}

/// Adds records to the log, as many together as have come meanwhile.
fn write(records: &RecordCache, receiver: &Receiver<NewRecord>, broken: &Mutex<Option<String>>) {
    while let Ok(first) = receiver.recv() {
        let batch: Vec<_> = std::iter::once(first).chain(receiver.try_iter()).collect();
        let (batch, waiting): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|(digest, bytes, durable)| ((digest, bytes), durable)).unzip();
        if let Err(error) = records.add(&batch) {
            *lock(broken) = Some(error.to_string());
            return;
        }
        for durable in waiting {
            // Who was stopped meanwhile does not wait any more.
            let _ = durable.send(());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use futures_util::future::join_all;
    use okapi_cache::{Access, Durability, Store};
    use serde_json::json;

    use super::*;
    use crate::request::Finish;
    use crate::teacher::Answering;

    /// Answers with the number of the call, after a while.
    #[derive(Default)]
    struct Counting {
        calls: AtomicU64,
    }

    impl Teacher for Counting {
        fn answer<'a>(&'a self, _: &'a Request, _: &'a Stop) -> Answering<'a> {
            Box::pin(async {
                let call = self.calls.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                let usage =
                    Usage { prompt_tokens: 1000, completion_tokens: 1000, ..Usage::default() };
                Ok(Answer {
                    text: call.to_string(),
                    finish: Finish::Stop,
                    usage,
                    model: None,
                    fingerprint: None,
                    stated_usd: None,
                })
            })
        }
    }

    struct Desk {
        store: Store,
        teacher: Counting,
        identity: Value,
        budget: Budget,
        experience: Experience,
        ledger: Ledger,
        in_flight: InFlight,
        stop: Stop,
    }

    impl Desk {
        fn new(folder: &std::path::Path, budget: Option<f64>) -> Desk {
            Desk {
                store: Store::open(folder, Access::ReadWrite, Durability::Batch).unwrap(),
                teacher: Counting::default(),
                identity: json!({ "kind": "counting" }),
                budget: Budget::new(budget),
                experience: Experience::default(),
                ledger: Ledger::default(),
                in_flight: InFlight::default(),
                stop: Stop::default(),
            }
        }

        fn ask(&self, prompts: &[&str]) -> Vec<Result<Asked, TeacherError>> {
            let parts = CallerParts {
                teacher: &self.teacher,
                identity: &self.identity,
                price: Some(Price { input: 1.0, cached_input: None, output: 1.0 }),
                budget: &self.budget,
                records: self.store.records(),
                in_flight: &self.in_flight,
                ledger: &self.ledger,
                experience: &self.experience,
                stop: &self.stop,
                sample: None,
            };
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            Caller::with(parts, |caller| {
                runtime.block_on(join_all(prompts.iter().map(|prompt| async {
                    let request = Request::new(*prompt);
                    caller.ask(&request).await
                })))
            })
            .unwrap()
        }
    }

    #[test]
    fn what_was_answered_is_not_asked_again() {
        let folder = tempfile::tempdir().unwrap();
        let desk = Desk::new(folder.path(), None);
        let first = desk.ask(&["a", "b", "a", "a"]);
        assert_eq!(desk.teacher.calls.load(Ordering::Relaxed), 2);
        let text = |asked: &Result<Asked, TeacherError>| asked.clone().unwrap().answer.text;
        assert_eq!(text(&first[0]), text(&first[2]));
        let costs = desk.ledger.take();
        assert_eq!((costs.requests, costs.recorded, costs.nano_usd), (2, 2, 4_000_000));
        let used = Used { answers: 4, prompt_tokens: 4000, completion_tokens: 4000 };
        assert_eq!(costs.used, used);
        drop(desk);

        let desk = Desk::new(folder.path(), None);
        let second = desk.ask(&["b", "c"]);
        assert_eq!(desk.teacher.calls.load(Ordering::Relaxed), 1);
        assert_eq!(text(&second[0]), text(&first[1]));
        let costs = desk.ledger.take();
        assert_eq!((costs.requests, costs.recorded, costs.saved_nano_usd), (1, 1, 2_000_000));
        assert_eq!((costs.used.answers, costs.used.prompt_tokens), (2, 2000));
        assert_eq!(desk.ledger.take(), Costs::default());
    }

    #[test]
    fn a_budget_ends_the_calls_and_keeps_what_was_answered() {
        let folder = tempfile::tempdir().unwrap();
        // A call costs 0.002 dollars.
        let desk = Desk::new(folder.path(), Some(0.005));
        for (prompt, is_answered) in [("a", true), ("b", true), ("c", false), ("a", true)] {
            let asked = desk.ask(&[prompt]).remove(0);
            match asked {
                Ok(_) => assert!(is_answered, "{prompt}"),
                Err(error) => {
                    assert!(matches!(error, TeacherError::Budget { .. }) && !is_answered);
                }
            }
        }
        assert_eq!(desk.budget.spent_nano_usd(), 4_000_000);
    }

    #[test]
    fn after_a_stop_only_records_answer() {
        let folder = tempfile::tempdir().unwrap();
        let desk = Desk::new(folder.path(), None);
        desk.ask(&["a"]);
        desk.stop.request();
        let asked = desk.ask(&["a", "b"]);
        assert!(asked[0].is_ok());
        assert!(matches!(asked[1], Err(TeacherError::Cancelled)));
    }
}

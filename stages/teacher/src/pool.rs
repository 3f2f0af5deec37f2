//! The teachers of a run, each made once: what is shared by all nodes that name one is its limits, its
//! connections, and the budget.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use okapi_cache::{Digest, RecordCache, canonical_json};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::budget::Budget;
use crate::caller::{Experience, InFlight, Record, Stop, refusal_of};
use crate::limits::Limits;
use crate::offline::Offline;
use crate::openai::batch::Batches;
use crate::openai::{OpenAi, OpenAiConfig, Sampling};
use crate::pricing::Price;
use crate::sample::Sample;
use crate::teacher::{Teacher, TeacherError};

/// All teachers that a process asks.
pub struct Teachers {
    /// Nobody is asked: what is not recorded is an error. Some of the requests are kept.
    of_records: Option<Sample>,
    /// Made when the first teacher is asked.
    runtime: OnceLock<Result<Runtime, String>>,
    budget: Budget,
    endpoints: Mutex<BTreeMap<String, Arc<Endpoint>>>,
    in_flight: InFlight,
}

/// One teacher, ready to be asked.
pub struct Endpoint {
    kind: Kind,
    identity: Value,
    price: Option<Price>,
    experience: Experience,
}

enum Kind {
    Offline(Offline),
    Live(Box<OpenAi>),
    /// The batch endpoint of a server.
    Batch(Arc<OpenAi>),
    /// Nobody.
    Records,
}

impl Teachers {
    /// No teacher yet, and a budget in US dollars for all that come.
    pub fn new(budget_usd: Option<f64>) -> Teachers {
        Teachers {
            of_records: None,
            runtime: OnceLock::new(),
            budget: Budget::new(budget_usd),
            endpoints: Mutex::default(),
            in_flight: InFlight::default(),
        }
    }

    /// Teachers who know what is recorded, and nothing else. So many of the requests are kept, drawn with that seed.
    pub fn of_records(sample: usize, seed: u32) -> Teachers {
        Teachers { of_records: Some(Sample::new(sample, seed)), ..Teachers::new(None) }
    }

    /// The requests that are kept of those that were answered from records.
    pub fn sample(&self) -> Option<&Sample> {
        self.of_records.as_ref()
    }

    fn runtime(&self) -> Result<&Runtime, TeacherError> {
        // Connections live in these threads; the work itself is done by whoever asks.
        let make = || {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .thread_name("teachers")
                .enable_all()
                .build()
                .map_err(|error| error.to_string())
        };
        self.runtime.get_or_init(make).as_ref().map_err(|error| TeacherError::Unusable {
            message: format!("no threads can be started: {error}"),
            hint: None,
        })
    }

    /// The budget.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// What is being answered.
    pub fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    /// Drives a future, in this thread.
    ///
    /// # Errors
    /// When the system gives no threads for connections.
    pub fn block_on<F: Future>(&self, future: F) -> Result<F::Output, TeacherError> {
        Ok(self.runtime()?.block_on(future))
    }

    /// The teacher of that identity (the `teacher` member of an action) and those settings.
    ///
    /// # Errors
    /// When it cannot be asked as it is configured.
    pub fn endpoint(
        &self,
        identity: &Value,
        settings: &Value,
    ) -> Result<Arc<Endpoint>, TeacherError> {
        let key = canonical_json::to_string(&serde_json::json!([identity, settings]));
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(endpoint) = endpoints.get(&key) {
            return Ok(Arc::clone(endpoint));
        }
        // The client's timers belong to the runtime.
        let _inside = self.runtime()?.enter();
        let endpoint = Arc::new(match self.of_records {
            Some(_) => Endpoint::of_records(identity),
            None => Endpoint::new(identity, settings, &|name| std::env::var(name).ok())?,
        });
        endpoints.insert(key, Arc::clone(&endpoint));
        Ok(endpoint)
    }
}

impl Endpoint {
    /// Makes a teacher.
    ///
    /// # Errors
    /// When it cannot be asked as it is configured.
    pub fn new(
        identity: &Value,
        settings: &Value,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Endpoint, TeacherError> {
        let price = price(settings);
        let kind = match identity["kind"].as_str() {
            Some("offline") => {
                let skill = identity["skill"].as_f64().unwrap_or(1.0);
                let seed = identity["seed"].as_i64().unwrap_or(0);
                let kinds = identity["kinds"].as_array().into_iter().flatten();
                let kinds: Vec<&str> = kinds.filter_map(Value::as_str).collect();
                let small_talk = identity["small_talk"].as_f64().unwrap_or(Offline::SMALL_TALK);
                let offline = Offline::new(skill, seed).with_small_talk(small_talk);
                Kind::Offline(offline.writing(&kinds))
            }
            Some("openai") => {
                let client = OpenAi::new(openai_config(identity, settings), environment)?;
                if settings["mode"] == "batch" {
                    Kind::Batch(Arc::new(client))
                } else {
                    Kind::Live(Box::new(client))
                }
            }
            other => {
                let message = format!("there is no kind of teacher {}", other.unwrap_or("(none)"));
                return Err(TeacherError::Unusable { message, hint: None });
            }
        };
        Ok(Endpoint { kind, identity: identity.clone(), price, experience: Experience::default() })
    }

    /// One that has no answers but those that are recorded.
    fn of_records(identity: &Value) -> Endpoint {
        let (kind, experience) = (Kind::Records, Experience::default());
        Endpoint { kind, identity: identity.clone(), price: None, experience }
    }

    /// What determines its answers.
    pub fn identity(&self) -> &Value {
        &self.identity
    }

    /// What it takes.
    pub fn price(&self) -> Option<Price> {
        self.price
    }

    /// How long its answers were so far.
    pub fn experience(&self) -> &Experience {
        &self.experience
    }

    /// How many dialogues are worth having on their way at once.
    pub fn concurrency(&self) -> usize {
        match &self.kind {
            Kind::Offline(_) | Kind::Records => 8,
            Kind::Live(client) => client.concurrency(),
            // All that a batch may hold: they are asked together.
            Kind::Batch(_) => crate::openai::batch::LARGEST,
        }
    }

    /// What users should know of while they wait, since this was asked last.
    pub fn notices(&self) -> Vec<String> {
        match &self.kind {
            Kind::Offline(_) | Kind::Records => Vec::new(),
            Kind::Live(client) => client.notices(),
            Kind::Batch(client) => client.notices(),
        }
    }

    /// How long calls that are on their way may take to end. Waiting for the next try is no call.
    pub fn patience(&self) -> Duration {
        match &self.kind {
            Kind::Live(client) if client.in_flight() > 0 => client.patience(),
            // A batch is found again.
            _ => Duration::ZERO,
        }
    }

    /// Who answers. Batches on their way are remembered beside the records.
    pub fn teacher<'a>(&'a self, records: &'a RecordCache) -> Box<dyn Teacher + 'a> {
        match &self.kind {
            Kind::Offline(offline) => Box::new(Borrowed(offline)),
            Kind::Records => {
                Box::new(Nobody { identity: &self.identity, refusals: refusals(records) })
            }
            Kind::Live(client) => Box::new(Borrowed(&**client)),
            Kind::Batch(client) => {
                Box::new(Batches::new(Arc::clone(client), self.identity.clone(), records))
            }
        }
    }
}

/// Answers nothing, but knows what was refused.
struct Nobody<'a, R> {
    identity: &'a Value,
    refusals: R,
}

/// Why a request was refused, if it was.
fn refusals(records: &RecordCache) -> impl Fn(&Digest) -> Option<String> + Send + Sync {
    |request| {
        let record = records.lookup(&refusal_of(request)).ok()??;
        Some(Record::parse(&record)?.answer.text)
    }
}

/// So much of a request says which one it is.
const BEGINNING: usize = 60;

impl<R: Fn(&Digest) -> Option<String> + Send + Sync> Teacher for Nobody<'_, R> {
    fn answer<'a>(&'a self, request: &'a crate::Request, _: &'a Stop) -> crate::Answering<'a> {
        let last = request.messages.last().map_or("", |message| &message.content);
        let beginning = last.chars().take(BEGINNING).collect();
        let request = request.digest(self.identity);
        let refused = (self.refusals)(&request);
        Box::pin(async move {
            Err(match refused {
                Some(reason) => TeacherError::Refused { reason },
                None => TeacherError::Unrecorded { request, beginning },
            })
        })
    }
}

struct Borrowed<'a, T>(&'a T);

impl<T: Teacher> Teacher for Borrowed<'_, T> {
    fn answer<'a>(&'a self, request: &'a crate::Request, stop: &'a Stop) -> crate::Answering<'a> {
        self.0.answer(request, stop)
    }
}

/// The price that settings give, if they do; what is not given of it is nothing. Batches cost a part
/// of it.
pub fn price(settings: &Value) -> Option<Price> {
    let number = |name: &str| settings[name].as_f64();
    let (input, output) = (number("input_price"), number("output_price"));
    if input.is_none() && output.is_none() {
        return None;
    }
    let price = Price {
        input: input.unwrap_or(0.0),
        cached_input: number("cached_input_price"),
        output: output.unwrap_or(0.0),
    };
    Some(match settings["mode"] == "batch" {
        true => price.times(number("batch_price_factor").unwrap_or(0.5)),
        false => price,
    })
}

/// The address of OpenAI itself.
const OPENAI: &str = "https://api.openai.com/v1";

fn openai_config(identity: &Value, settings: &Value) -> OpenAiConfig {
    let number = |name: &str| identity[name].as_f64();
    let setting = |name: &str| settings[name].as_str().map(str::to_owned);
    let seconds = |name: &str, default: f64| {
        Duration::try_from_secs_f64(settings[name].as_f64().unwrap_or(default))
            .unwrap_or(Duration::from_secs(600))
    };
    let base_url = setting("base_url").unwrap_or_else(|| OPENAI.to_owned());
    let api_key_env = setting("api_key_env")
        .or_else(|| (base_url == OPENAI).then(|| "OPENAI_API_KEY".to_owned()));
    let stop = identity["stop"].as_array().into_iter().flatten();
    OpenAiConfig {
        api_key_env,
        key_header: setting("key_header").unwrap_or_else(|| "authorization".to_owned()),
        model: identity["model"].as_str().unwrap_or_default().to_owned(),
        sampling: Sampling {
            temperature: number("temperature"),
            top_p: number("top_p"),
            frequency_penalty: number("frequency_penalty"),
            presence_penalty: number("presence_penalty"),
            max_tokens: identity["max_tokens"].as_u64(),
            seed: identity["seed"].as_i64(),
            stop: stop.filter_map(|text| text.as_str().map(str::to_owned)).collect(),
            json_mode: identity["json_mode"].as_bool().unwrap_or(false),
            extra: identity["extra"].as_object().cloned().unwrap_or_default(),
        },
        max_tokens_name: setting("max_tokens_name").unwrap_or_else(|| "max_tokens".to_owned()),
        limits: Limits {
            concurrency: settings["concurrency"].as_u64().unwrap_or(16).clamp(1, 100_000) as u32,
            requests_per_minute: settings["requests_per_minute"].as_f64(),
            tokens_per_minute: settings["tokens_per_minute"].as_f64(),
        },
        timeout: seconds("timeout", 600.0),
        connect_timeout: seconds("connect_timeout", 10.0),
        tries: settings["tries"].as_u64().unwrap_or(8).clamp(1, 1000) as u32,
        base_url,
    }
}

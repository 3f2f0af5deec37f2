//! A client of OpenAI-compatible servers: OpenAI, vLLM, llama.cpp, Ollama, OpenRouter, LiteLLM, ...
//!
//! What is tried again, and what is not, follows OpenAI's own client (openai-python 2.54), with more
//! tries, because runs last hours:
//!
//! | what happened | what is done |
//! |---|---|
//! | no connection, time-out, cut body, body that is no answer, 408, 409, 425, 429, 5xx | again, after a wait that doubles, or as long as the server asks |
//! | 429 `insufficient_quota`, 401, 402, 403, 404, 3xx, 4xx about a parameter | the teacher is unusable: nothing else is asked |
//! | 400, 413, 422 for a text that is too long or that a filter stops | this request is refused, others go on |
//! | other 400, 413, 422 | this request is refused; 20 of them and no answer: the teacher is unusable |
//! | no answer in any try | the node ends and may be tried again; but if others are answered meanwhile, this request is refused |
//!
//! The key is read from the environment when the client is made, sent to the configured address only
//! (redirects are refused), and taken out of whatever a server says.

mod wire;

pub(crate) mod batch;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, StatusCode, Url};
use serde_json::{Map, Value};

use crate::caller::Stop;
use crate::limits::{Gate, Limits};
use crate::request::{Answer, Request};
use crate::retry;
use crate::teacher::{Answering, Teacher, TeacherError};

/// The most bytes of an answer.
const LARGEST_ANSWER: usize = 16 << 20;
/// So many requests that are called bad, and none that is answered, are the teacher's fault.
const DOUBTS: u64 = 20;
/// The longest wait that a server may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(900);

/// Where and how to ask.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenAiConfig {
    /// Up to and with `/v1`.
    pub base_url: String,
    /// The environment variable that holds the key, if one is needed.
    pub api_key_env: Option<String>,
    /// The header that carries the key: `authorization` (as a bearer token) or `api-key`.
    pub key_header: String,
    /// The model's name.
    pub model: String,
    /// What else determines an answer.
    pub sampling: Sampling,
    /// `max_tokens`, or `max_completion_tokens` for newer models.
    pub max_tokens_name: String,
    /// What the provider allows.
    pub limits: Limits,
    /// How long one try may take in all.
    pub timeout: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How often one request is tried.
    pub tries: u32,
}

/// How the model is to answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sampling {
    /// How much chance there is in it.
    pub temperature: Option<f64>,
    /// The share of probability that is sampled from.
    pub top_p: Option<f64>,
    /// Against words that were used often.
    pub frequency_penalty: Option<f64>,
    /// Against words that were used at all.
    pub presence_penalty: Option<f64>,
    /// The longest answer, in tokens.
    pub max_tokens: Option<u64>,
    /// The seed of its chance; most servers promise little about it.
    pub seed: Option<i64>,
    /// Texts at which the answer ends.
    pub stop: Vec<String>,
    /// Whether answers that are to be JSON are asked for by `response_format`.
    pub json_mode: bool,
    /// Other members of the request's body.
    pub extra: Map<String, Value>,
}

/// The client.
pub struct OpenAi {
    config: OpenAiConfig,
    endpoint: Url,
    client: Client,
    gate: Gate,
    key: Option<String>,
    /// Cleared once the server has shown that it knows no `response_format`.
    json_mode: AtomicBool,
    notices: Notices,
    /// Requests that were answered so far, and those that were called bad.
    answered: AtomicU64,
    doubts: AtomicU64,
}

/// What came of one try.
enum Try {
    Done(Result<Answer, TeacherError>),
    Again {
        why: String,
        wait: Option<Duration>,
        crowded: bool,
        /// Whether a server was there at all.
        connected: bool,
    },
    /// The server says that something is wrong with the request. Whether it is this one or every one
    /// is seen when others are answered.
    Doubtful {
        why: String,
        hint: Option<String>,
    },
    /// The same without JSON mode.
    WithoutJsonMode,
}

impl OpenAi {
    /// A client. `environment` looks up variables.
    ///
    /// # Errors
    /// When the address is none, or the variable of the key is not set.
    pub fn new(
        config: OpenAiConfig,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<OpenAi, TeacherError> {
        let unusable = |message: String, hint: &str| TeacherError::Unusable {
            message,
            hint: Some(hint.to_owned()),
        };
        if config.api_key_env.as_deref().is_some_and(|name| !is_variable_name(name)) {
            // What stands there may be the key itself, so it is not said again.
            let message = "`api_key_env` is no name of a variable".to_owned();
            return Err(unusable(
                message,
                "write the name, such as OPENAI_API_KEY, and not the key",
            ));
        }
        let endpoint = Url::parse(&config.base_url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some());
        let Some(mut endpoint) = endpoint else {
            let message = "`base_url` is no address of a server".to_owned();
            return Err(unusable(message, "write it as `https://host/v1`"));
        };
        if !endpoint.username().is_empty()
            || endpoint.password().is_some()
            || endpoint.query().is_some()
        {
            let message = "`base_url` holds a user, a password or a query".to_owned();
            return Err(unusable(message, "name the variable of the key by `api_key_env`"));
        }
        let path = format!("{}/chat/completions", endpoint.path().trim_end_matches('/'));
        endpoint.set_path(&path);
        let key = match &config.api_key_env {
            None => None,
            Some(name) => match environment(name).map(|key| key.trim().to_owned()) {
                Some(key) if !key.is_empty() => Some(key),
                _ => {
                    let message =
                        format!("the variable {name}, which is to hold the key, is not set");
                    return Err(unusable(
                        message,
                        "export it, or change the teacher's `api_key_env`",
                    ));
                }
            },
        };
        let mut headers = HeaderMap::new();
        if let Some(key) = &key {
            let bearer = config.key_header == "authorization";
            let text = if bearer { format!("Bearer {key}") } else { key.clone() };
            let Ok(mut value) = HeaderValue::from_str(&text) else {
                let message = "the key has characters that no header can carry".to_owned();
                return Err(unusable(
                    message,
                    "look at the variable: it may hold more than the key",
                ));
            };
            value.set_sensitive(true);
            let name = if bearer { AUTHORIZATION } else { HeaderName::from_static("api-key") };
            headers.insert(name, value);
        }
        let mut builder = Client::builder()
            .default_headers(headers)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(config.connect_timeout)
            .timeout(config.timeout)
            .pool_max_idle_per_host(config.limits.concurrency as usize)
            .tcp_nodelay(true)
            .user_agent(concat!("okapi/", env!("CARGO_PKG_VERSION")));
        if endpoint.host_str().is_some_and(is_loopback) {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| TeacherError::Unusable {
            message: format!("no client can be made: {error}"),
            hint: None,
        })?;
        let gate = Gate::new(config.limits);
        Ok(OpenAi {
            config,
            endpoint,
            client,
            gate,
            key,
            json_mode: AtomicBool::new(true),
            notices: Notices::default(),
            answered: AtomicU64::new(0),
            doubts: AtomicU64::new(0),
        })
    }

    /// How long a call may take that is on its way.
    pub fn patience(&self) -> Duration {
        self.config.timeout
    }

    /// How many requests are on their way now.
    pub fn in_flight(&self) -> u32 {
        self.gate.in_flight()
    }

    /// What users should know of, since this was asked last.
    pub fn notices(&self) -> Vec<String> {
        self.notices.take()
    }

    /// How many requests may be on their way at once.
    pub fn concurrency(&self) -> usize {
        self.config.limits.concurrency.max(1) as usize
    }

    async fn ask(&self, request: &Request, stop: &Stop) -> Result<Answer, TeacherError> {
        let expected = request.estimated_tokens() + self.config.sampling.max_tokens.unwrap_or(256);
        let mut tried = 0;
        // Answers of others since this request's own first failure.
        let mut answered_at_first_failure = None;
        loop {
            tried += 1;
            let outcome = {
                let _pass = self.gate.enter(expected).await;
                if stop.is_requested() {
                    return Err(TeacherError::Cancelled);
                }
                self.try_once(request, expected).await
            };
            let (why, wait, crowded, connected) = match outcome {
                Try::Done(result) => return result,
                Try::WithoutJsonMode => {
                    tried -= 1;
                    continue;
                }
                Try::Again { why, wait, crowded, connected } => (why, wait, crowded, connected),
                Try::Doubtful { why, hint } => {
                    // A request that a server calls bad is set aside. If it never calls one good, it is
                    // the teacher that is bad, and asking on would waste everybody's time.
                    let doubts = self.doubts.fetch_add(1, Ordering::Relaxed) + 1;
                    let is_of_all = self.answered.load(Ordering::Relaxed) == 0 && doubts >= DOUBTS;
                    return Err(match is_of_all {
                        true => TeacherError::Unusable { message: why, hint },
                        false => TeacherError::Refused { reason: why },
                    });
                }
            };
            let answered = self.answered.load(Ordering::Relaxed);
            let answered_before = *answered_at_first_failure.get_or_insert(answered);
            if tried >= self.config.tries.max(1) {
                let message = format!("{why} (tried {tried} times)");
                // A request that fails in every try, while the server answers others in between, is
                // itself to blame. One that finds no server says nothing about itself.
                let is_own = connected && !crowded && answered > answered_before;
                return Err(match is_own {
                    true => TeacherError::Refused {
                        reason: format!("{message}, while others were answered"),
                    },
                    false => TeacherError::Unavailable { message },
                });
            }
            if let Some(asked) = wait.filter(|asked| *asked > LONGEST_WAIT) {
                let message = format!("{why}; the server asks to wait {} s", asked.as_secs());
                return Err(TeacherError::Unavailable { message });
            }
            let wait = wait.unwrap_or_else(|| retry::back_off(tried + 1, chance(request, tried)));
            let seconds = wait.as_secs_f64();
            let most = self.config.tries;
            self.notices.now_and_then(|| {
                format!("{why}; trying again in {seconds:.1} s (try {tried} of {most})")
            });
            if crowded {
                self.gate.back_off(wait);
            } else {
                tokio::time::sleep(wait).await;
            }
        }
    }

    async fn try_once(&self, request: &Request, expected: u64) -> Try {
        let json_mode = self.json_mode.load(Ordering::Relaxed);
        let body = wire::body(&self.config, request, json_mode).to_string();
        let sent = self.client.post(self.endpoint.clone()).header(CONTENT_TYPE, "application/json");
        let response = match sent.body(body).send().await {
            Ok(response) => response,
            Err(error) => {
                let connected = !error.is_connect();
                let why = self.network(&error);
                return Try::Again { why, wait: None, crowded: false, connected };
            }
        };
        let (status, headers) = (response.status(), response.headers().clone());
        let body = match read(response).await {
            Ok(body) => body,
            Err(ReadError::Network(error)) => return again(self.network(&error)),
            Err(ReadError::TooLarge) => {
                return again(format!("its answer has more than {LARGEST_ANSWER} bytes"));
            }
        };
        if let Some(wait) = retry::nothing_left(&headers) {
            self.gate.pause(wait.min(LONGEST_WAIT));
        }
        if !status.is_success() {
            return self.failed(status, &headers, &body, request, json_mode);
        }
        match wire::answer(&body, &self.config, request) {
            Ok(answer) => {
                let counted = answer.usage.prompt_tokens + answer.usage.completion_tokens;
                self.gate.correct_tokens(expected, counted);
                self.gate.answered();
                self.answered.fetch_add(1, Ordering::Relaxed);
                Try::Done(Ok(answer))
            }
            Err(wire::Broken(why)) => again(self.redacted(&why)),
        }
    }

    fn failed(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        request: &Request,
        json_mode: bool,
    ) -> Try {
        let said = wire::failure(body, &|text| self.redacted(text));
        let message = match said.message.as_str() {
            "" => format!("the server answers {status}"),
            text => format!("the server answers {status}: {text}"),
        };
        let told = headers.get("x-should-retry").and_then(|value| value.to_str().ok());
        let passing = matches!(status.as_u16(), 408 | 409 | 425 | 429 | 500..=599);
        let final_429 = said.code.contains("insufficient_quota");
        let retries = match told {
            Some("true") => true,
            Some("false") => false,
            _ => passing && !final_429,
        };
        if retries {
            return Try::Again {
                why: message,
                wait: retry::asked_for(headers, SystemTime::now()),
                crowded: matches!(status.as_u16(), 429 | 503 | 529),
                connected: true,
            };
        }
        let about = format!("{} {} {}", said.code, said.param, said.message).to_ascii_lowercase();
        let about_any = |words: &[&str]| words.iter().any(|word| about.contains(word));
        let is_client_error = matches!(status.as_u16(), 400 | 413 | 422);
        if is_client_error && request.json && json_mode && about_any(&["response_format"]) {
            tracing::warn!(
                "the server knows no `response_format`: JSON is asked for by the prompt alone"
            );
            self.json_mode.store(false, Ordering::Relaxed);
            return Try::WithoutJsonMode;
        }
        let hint = self.hint(status, &about);
        if is_client_error {
            if is_of_one_request(&about) {
                return Try::Done(Err(TeacherError::Refused { reason: message }));
            }
            let is_of_all = !said.param.is_empty()
                || about_any(&[
                    "parameter",
                    "max_tokens",
                    "max_completion_tokens",
                    "no such model",
                ]);
            if !is_of_all {
                return Try::Doubtful { why: message, hint };
            }
        }
        Try::Done(Err(TeacherError::Unusable { message, hint }))
    }

    fn hint(&self, status: StatusCode, about: &str) -> Option<String> {
        let base_url = &self.config.base_url;
        Some(match status.as_u16() {
            300..=399 => format!(
                "redirects are not followed, so that no key goes astray; correct `base_url: {base_url}`"
            ),
            401 | 403 => match &self.config.api_key_env {
                Some(name) => {
                    format!("the key comes from the variable {name}: is it this server's?")
                }
                None => "the server wants a key: name its variable by `api_key_env`".to_owned(),
            },
            404 => format!(
                "is `{}` a model of {base_url}, and does that end in `/v1`?",
                self.config.model
            ),
            402 | 429 => "there is no credit left; what was answered is kept".to_owned(),
            _ if about.contains("max_completion_tokens") => {
                "set the teacher's `max_tokens_name: max_completion_tokens`".to_owned()
            }
            _ => return None,
        })
    }

    fn network(&self, error: &reqwest::Error) -> String {
        let what = if error.is_timeout() {
            "it took too long"
        } else if error.is_connect() {
            "no connection"
        } else {
            "the connection broke"
        };
        // The innermost cause says what happened; those around it repeat the address.
        let mut cause: &dyn std::error::Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        let host = self.endpoint.host_str().unwrap_or_default();
        let port = self.endpoint.port().map_or(String::new(), |port| format!(":{port}"));
        self.redacted(&format!("{host}{port}: {what}: {cause}"))
    }

    /// A text of the server's or the network's, without the key.
    fn redacted(&self, text: &str) -> String {
        match &self.key {
            Some(key) => text.replace(key.as_str(), "[the key]"),
            None => text.to_owned(),
        }
    }
}

impl Teacher for OpenAi {
    fn answer<'a>(&'a self, request: &'a Request, stop: &'a Stop) -> Answering<'a> {
        Box::pin(self.ask(request, stop))
    }
}

impl std::fmt::Debug for OpenAi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenAi").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Whether what a server says of a bad request is about its length or its contents.
fn is_of_one_request(about: &str) -> bool {
    [
        "context_length",
        "context length",
        "context size",
        "context window",
        "maximum context",
        "maximum number of tokens",
        "content_filter",
        "content_policy",
        "content management policy",
        "exceed_context",
        "invalid_prompt",
        "string_above_max_length",
        "too long",
    ]
    .iter()
    .any(|words| about.contains(words))
}

fn again(why: String) -> Try {
    Try::Again { why, wait: None, crowded: false, connected: true }
}

/// A number from 0 to 1 that differs between requests and tries.
fn chance(request: &Request, tried: u32) -> f64 {
    let digest = request.digest(&Value::from(tried));
    f64::from(u16::from_le_bytes([digest.as_bytes()[0], digest.as_bytes()[1]])) / 65535.0
}

/// What users should know of while they wait.
#[derive(Debug, Default)]
struct Notices {
    state: Mutex<(Vec<String>, Option<Instant>)>,
}

impl Notices {
    /// How long nothing is said after something was.
    const QUIET: Duration = Duration::from_secs(5);

    /// Says something that is worth saying once in a while.
    fn now_and_then(&self, text: impl FnOnce() -> String) {
        let mut state = self.lock();
        if state.1.is_none_or(|last| last.elapsed() > Self::QUIET) {
            state.1 = Some(Instant::now());
            let text = text();
            state.0.push(text);
        }
    }

    fn say(&self, text: String) {
        self.lock().0.push(text);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().0)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Vec<String>, Option<Instant>)> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn is_variable_name(name: &str) -> bool {
    let starts_well = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    let letters = |it: char| it.is_ascii_alphanumeric() || it == '_';
    // No variable has the form of a key.
    starts_well && name.len() <= 64 && name.chars().all(letters)
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

enum ReadError {
    Network(reqwest::Error),
    TooLarge,
}

async fn read(response: reqwest::Response) -> Result<Vec<u8>, ReadError> {
    read_up_to(response, LARGEST_ANSWER).await
}

/// Reads a body of at most so many bytes.
async fn read_up_to(mut response: reqwest::Response, most: usize) -> Result<Vec<u8>, ReadError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(ReadError::Network)? {
        if body.len() + chunk.len() > most {
            return Err(ReadError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn config(base_url: &str) -> OpenAiConfig {
        OpenAiConfig {
            base_url: base_url.to_owned(),
            api_key_env: None,
            key_header: "authorization".to_owned(),
            model: "tiny".to_owned(),
            sampling: Sampling::default(),
            max_tokens_name: "max_tokens".to_owned(),
            limits: Limits { concurrency: 4, requests_per_minute: None, tokens_per_minute: None },
            timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            tries: 3,
        }
    }

    #[test]
    fn a_client_wants_an_address_and_its_key() {
        let none = |_: &str| None;
        for bad in ["nonsense", "ftp://x/v1", "http://user@x/v1", "http://x/v1?key=secret"] {
            let error = OpenAi::new(config(bad), &none).unwrap_err();
            assert!(matches!(error, TeacherError::Unusable { .. }), "{bad}");
        }
        let with_key = OpenAiConfig { api_key_env: Some("K".into()), ..config("http://x/v1") };
        let error = OpenAi::new(with_key.clone(), &none).unwrap_err();
        assert!(error.to_string().contains("variable K"), "{error}");
        let client = OpenAi::new(with_key, &|_| Some("sk-secret\n".into())).unwrap();
        assert!(!format!("{client:?}").contains("sk-secret"));
        assert_eq!(client.redacted("your key sk-secret is wrong"), "your key [the key] is wrong");
    }
}

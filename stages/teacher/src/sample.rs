//! A sample of the requests that were answered from records, to ask them anew.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use futures_util::stream::{self, StreamExt};
use okapi_cache::{Digest, RecordCache};
use serde_json::Value;

use crate::caller::Stop;
use crate::pool::Teachers;
use crate::pricing::cost;
use crate::request::Request;
use crate::teacher::TeacherError;

/// Requests that are asked at once.
const AT_ONCE: usize = 8;

/// So many requests of all that pass by: by chance, and with one seed the same each time, for lots are drawn from their digests.
#[derive(Debug, Default)]
pub struct Sample {
    size: usize,
    seed: u32,
    /// By their lots.
    kept: Mutex<BTreeMap<Digest, Sampled>>,
}

/// A request of a sample.
#[derive(Debug, Clone)]
struct Sampled {
    digest: Digest,
    request: Request,
    identity: Value,
    settings: Value,
    /// What is recorded.
    answer: String,
}

/// What came of asking a request anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedAnew {
    /// The request.
    pub request: Digest,
    /// What is recorded.
    pub recorded: String,
    /// What is answered now.
    pub now: String,
    /// What that cost, billionths of a US dollar.
    pub nano_usd: u64,
}

impl Sample {
    /// An empty one that keeps so many.
    pub(crate) fn new(size: usize, seed: u32) -> Sample {
        Sample { size, seed, kept: Mutex::default() }
    }

    /// Keeps a request if its lot is among the smallest.
    pub(crate) fn offer(
        &self,
        digest: Digest,
        request: &Request,
        identity: &Value,
        settings: &Value,
        answer: &str,
    ) {
        let lot = Digest::of(format!("{} {digest}", self.seed).as_bytes());
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= self.size && kept.last_key_value().is_none_or(|(last, _)| lot >= *last) {
            return;
        }
        let (identity, settings) = (identity.clone(), settings.clone());
        let (request, answer) = (request.clone(), answer.to_owned());
        kept.insert(lot, Sampled { digest, request, identity, settings, answer });
        if kept.len() > self.size {
            kept.pop_last();
        }
    }

    /// Asks all of them anew. Nothing is recorded.
    ///
    /// # Errors
    /// When a teacher cannot be asked, or `stop` says so: then at once, as no answer is kept.
    pub fn ask_anew(
        &self,
        records: &RecordCache,
        stop: &Stop,
    ) -> Result<Vec<AskedAnew>, TeacherError> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let teachers = Teachers::new(None);
        let ask = async |sampled: Sampled| {
            let mut settings = sampled.settings;
            if let Some(settings) = settings.as_object_mut() {
                // Nobody waits a day for a sample.
                settings.remove("mode");
            }
            let endpoint = teachers.endpoint(&sampled.identity, &settings)?;
            let answer = endpoint.teacher(records).answer(&sampled.request, stop).await?;
            let nano_usd = cost(&answer, endpoint.price().as_ref());
            Ok(AskedAnew {
                request: sampled.digest,
                recorded: sampled.answer,
                now: answer.text,
                nano_usd,
            })
        };
        teachers.block_on(async {
            let answers = stream::iter(kept.into_values()).map(ask).buffered(AT_ONCE);
            tokio::select! {
                biased;
                () = stop.wait() => Err(TeacherError::Cancelled),
                answers = answers.collect::<Vec<Result<AskedAnew, TeacherError>>>() => answers.into_iter().collect(),
            }
        })?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_the_same_in_whatever_order_requests_come() {
        let requests: Vec<Request> = (0..50).map(|n| Request::new(format!("Say {n}."))).collect();
        let identity = serde_json::json!({"kind": "offline"});
        let with_seed = |seed: u32, requests: &[&Request]| {
            let sample = Sample::new(5, seed);
            for request in requests {
                let digest = request.digest(&identity);
                sample.offer(digest, request, &identity, &Value::Null, "x");
            }
            let kept = sample.kept.lock().unwrap();
            kept.values().map(|it| it.digest).collect::<Vec<_>>()
        };
        let of = |requests: &[&Request]| with_seed(7, requests);
        let forward: Vec<&Request> = requests.iter().collect();
        let backward: Vec<&Request> = requests.iter().rev().chain(&requests).collect();
        let sample = of(&forward);
        assert_eq!((sample.len(), of(&backward)), (5, sample));
        assert_eq!(of(&forward[..3]).len(), 3);
        // Whoever changes answers cannot know which will be asked for.
        assert_ne!(with_seed(8, &forward), of(&forward));
    }
}

//! What a teacher is asked and what it answers, and the digest under which the answer is kept.

use okapi_cache::{Digest, canonical_json};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Who says a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sets the scene.
    System,
    /// Asks.
    User,
    /// Answered, in an earlier turn.
    Assistant,
}

/// One message of a dialogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// Something asked.
    pub fn user(content: impl Into<String>) -> Message {
        Message { role: Role::User, content: content.into() }
    }

    /// Something answered in an earlier turn.
    pub fn assistant(content: impl Into<String>) -> Message {
        Message { role: Role::Assistant, content: content.into() }
    }
}

/// One request: the dialogue so far, whose last message is to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The dialogue.
    pub messages: Vec<Message>,
    /// Whether the answer is to be one JSON object.
    pub json: bool,
    /// How often the same was asked on purpose before: another sample is wanted.
    pub sample: u32,
    /// How often the same was asked in vain before: the answers could not be used.
    pub attempt: u32,
}

impl Request {
    /// A first request with one message.
    pub fn new(prompt: impl Into<String>) -> Request {
        Request { messages: vec![Message::user(prompt)], json: false, sample: 0, attempt: 0 }
    }

    /// The digest of all that determines the answer: the teacher's identity (its kind, model and
    /// sampling, as in the action document) and the request.
    pub fn digest(&self, identity: &Value) -> Digest {
        let mut document = json!({
            "request": 1,
            "teacher": identity,
            "messages": self.messages,
        });
        // What is not set is left out, so that a field added later changes no digest.
        for (name, value) in [("sample", self.sample), ("attempt", self.attempt)] {
            if value > 0 {
                document[name] = value.into();
            }
        }
        if self.json {
            document["json"] = true.into();
        }
        Digest::of(canonical_json::to_string(&document).as_bytes())
    }

    /// A number for a server's `seed`, other for every sample and attempt.
    pub(crate) fn seed(&self, seed: i64) -> i64 {
        let again = i64::from(self.sample) * 1009 + i64::from(self.attempt);
        // Some servers take 32 bits only.
        seed.wrapping_add(again) & 0x7fff_ffff
    }

    /// Tokens of the messages, roughly, where nobody has counted them: four bytes of ASCII make
    /// one, two bytes of other scripts.
    pub fn estimated_tokens(&self) -> u64 {
        self.messages.iter().map(|message| estimated_tokens(&message.content) + 4).sum()
    }
}

/// Tokens of a text, roughly. See [`Request::estimated_tokens`].
pub fn estimated_tokens(text: &str) -> u64 {
    let ascii = text.bytes().filter(u8::is_ascii).count() as u64;
    let other = text.len() as u64 - ascii;
    ascii.div_ceil(4) + other.div_ceil(2)
}

/// Why an answer ends where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The teacher had said all.
    Stop,
    /// It reached the greatest length.
    Length,
    /// The provider's filter cut it.
    ContentFilter,
    /// The model refused; the text says why.
    Refused,
    /// Something else, or nothing was said about it.
    Other,
}

/// Tokens of a request and its answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens read.
    pub prompt_tokens: u64,
    /// Tokens written.
    pub completion_tokens: u64,
    /// Of the tokens read, those that the provider had in its own cache.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cached_tokens: u64,
    /// Whether the server counted nothing, so that the numbers are estimates.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub estimated: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// What was said.
    pub text: String,
    /// Why it ends there.
    pub finish: Finish,
    /// Tokens.
    pub usage: Usage,
    /// The model that says it answered, where that is not the one asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The server's word for the state of the model behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// What the server says the call cost, in US dollars, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stated_usd: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_of_everything_that_determines_an_answer() {
        let identity = json!({"kind": "openai", "model": "one"});
        let request = Request::new("Say hello.");
        let digest = request.digest(&identity);
        assert_eq!(digest, request.digest(&identity));
        let others = [
            Request::new("Say hello!").digest(&identity),
            Request { json: true, ..request.clone() }.digest(&identity),
            Request { sample: 1, ..request.clone() }.digest(&identity),
            Request { attempt: 1, ..request.clone() }.digest(&identity),
            Request { messages: vec![Message::assistant("Say hello.")], ..request.clone() }
                .digest(&identity),
            request.digest(&json!({"kind": "openai", "model": "two"})),
        ];
        for (place, other) in others.iter().enumerate() {
            assert_ne!(*other, digest, "{place}");
            assert!(!others[..place].contains(other), "{place}");
        }
        // The digest is a promise: records of earlier versions are found by it.
        assert_eq!(
            digest.to_string(),
            "b7ff9c68ef127c6257404c2d0e325fffecf982aee7d8e1cd5076f64007bd3276"
        );
    }

    #[test]
    fn tokens_are_estimated_by_script() {
        assert_eq!(estimated_tokens(""), 0);
        assert_eq!(estimated_tokens("twelve bytes"), 3);
        assert_eq!(estimated_tokens("да"), 2);
    }
}

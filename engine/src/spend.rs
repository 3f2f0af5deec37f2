//! What was asked of services outside, and what it cost.

use serde::{Deserialize, Serialize};

/// Requests, tokens and money. Amounts of money are in billionths of a US dollar: a call may cost
/// less than a millionth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spend {
    /// Requests that were answered by a service.
    pub requests: u64,
    /// Requests that were answered from records of earlier ones.
    pub recorded: u64,
    /// Tokens that the services read.
    pub prompt_tokens: u64,
    /// Tokens that the services wrote.
    pub completion_tokens: u64,
    /// What the requests cost.
    pub nano_usd: u64,
    /// What the answers from records cost when they were asked for.
    pub saved_nano_usd: u64,
}

impl Spend {
    /// Whether nothing was asked at all.
    pub fn is_empty(&self) -> bool {
        self.requests == 0 && self.recorded == 0
    }

    /// Adds another amount.
    pub fn add(&mut self, other: &Spend) {
        self.requests += other.requests;
        self.recorded += other.recorded;
        self.prompt_tokens += other.prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.nano_usd += other.nano_usd;
        self.saved_nano_usd += other.saved_nano_usd;
    }
}

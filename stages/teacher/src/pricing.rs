//! Usage -> money.

use serde::{Deserialize, Serialize};

use crate::request::{Answer, Usage};

/// What a provider takes, US dollars per million tokens. Prices are the user's to give: a table that
/// is shipped ages.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Price {
    /// For tokens read.
    pub input: f64,
    /// For tokens read that the provider had in its own cache; the price of others if not given.
    #[serde(default)]
    pub cached_input: Option<f64>,
    /// For tokens written.
    pub output: f64,
}

impl Price {
    /// What a call costs, in billionths of a US dollar.
    pub fn nano_usd(&self, usage: &Usage) -> u64 {
        let cached = usage.cached_tokens.min(usage.prompt_tokens);
        let fresh = usage.prompt_tokens - cached;
        // Dollars per million tokens are thousands of billionths per token.
        let usd_per_million = fresh as f64 * self.input
            + cached as f64 * self.cached_input.unwrap_or(self.input)
            + usage.completion_tokens as f64 * self.output;
        (usd_per_million * 1000.0).round() as u64
    }

    /// The same price with another factor, such as the half that batches cost.
    pub fn times(&self, factor: f64) -> Price {
        Price {
            input: self.input * factor,
            cached_input: self.cached_input.map(|price| price * factor),
            output: self.output * factor,
        }
    }
}

/// What an answer cost: what the server says, or else what the price says; nothing if neither is
/// known.
pub(crate) fn cost(answer: &Answer, price: Option<&Price>) -> u64 {
    match (answer.stated_usd, price) {
        (Some(usd), _) if usd.is_finite() && usd >= 0.0 => (usd * 1e9).round() as u64,
        (_, Some(price)) => price.nano_usd(&answer.usage),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_each_kind_have_their_price() {
        let price = Price { input: 1.0, cached_input: Some(0.25), output: 2.0 };
        let usage =
            Usage { prompt_tokens: 29, completion_tokens: 5, cached_tokens: 0, estimated: false };
        // 29 x 1e-6 + 5 x 2e-6 dollars
        assert_eq!(price.nano_usd(&usage), 39_000);
        let usage = Usage { cached_tokens: 20, ..usage };
        assert_eq!(price.nano_usd(&usage), 24_000);
        assert_eq!(price.times(0.5).nano_usd(&usage), 12_000);
    }
}

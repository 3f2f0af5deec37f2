//! How many requests may be on their way, and how many of them, and of tokens, a minute.
//!
//! Requests are paced evenly (the generic cell rate algorithm): a server that counts by the minute, by
//! the second or by a bucket is never surprised. They go at 99 % of the rate, with leave to catch up
//! half a second's worth after a delay, so that no window of a minute holds more than the rate.
//!
//! A server that says "too many" all the same halves the number of requests on their way, which then
//! grows again by one for every so many answers, and pauses the whole teacher, not only the request
//! that it said it to.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The share of the rate that is used.
const USED: f64 = 0.99;
/// How much may be caught up after a delay, in seconds of the rate.
const CATCH_UP: f64 = 0.5;

/// What a teacher's provider allows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Requests on their way at once.
    pub concurrency: u32,
    /// Requests a minute.
    pub requests_per_minute: Option<f64>,
    /// Tokens a minute, read and written.
    pub tokens_per_minute: Option<f64>,
}

/// Lets requests through at their time.
#[derive(Debug)]
pub(crate) struct Gate {
    limits: Limits,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    in_flight: u32,
    /// How many may be in flight now; between 1 and the limit.
    allowed: f64,
    requests: Option<Pace>,
    tokens: Option<Pace>,
    paused_until: Option<Instant>,
    last_cut: Option<Instant>,
}

/// One rate: when the next unit is due.
#[derive(Debug)]
struct Pace {
    per_unit: Duration,
    due: Option<Instant>,
}

/// Leave to have a request on its way; ends when dropped.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    gate: &'a Gate,
}

impl Pace {
    fn new(per_minute: f64) -> Pace {
        Pace { per_unit: Duration::from_secs_f64(60.0 / (per_minute * USED)), due: None }
    }

    /// When so many units may go.
    fn ready_at(&self, now: Instant) -> Instant {
        self.due.unwrap_or(now)
    }

    fn take(&mut self, units: f64, now: Instant) {
        let earliest = now.checked_sub(Duration::from_secs_f64(CATCH_UP)).unwrap_or(now);
        // A rate of fewer than two a second has nothing to catch up.
        let earliest = if self.per_unit.as_secs_f64() < CATCH_UP { earliest } else { now };
        let from = self.due.map_or(now, |due| due.max(earliest));
        self.due = Some(from + self.per_unit.mul_f64(units));
    }

    /// Corrects what was taken by an estimate.
    fn correct(&mut self, units: f64) {
        let by = self.per_unit.mul_f64(units.abs());
        self.due = self.due.and_then(|due| match units >= 0.0 {
            true => Some(due + by),
            false => due.checked_sub(by),
        });
    }
}

impl Gate {
    pub(crate) fn new(limits: Limits) -> Gate {
        let state = State {
            in_flight: 0,
            allowed: f64::from(limits.concurrency.max(1)),
            requests: limits.requests_per_minute.map(Pace::new),
            tokens: limits.tokens_per_minute.map(Pace::new),
            paused_until: None,
            last_cut: None,
        };
        Gate { limits, state: Mutex::new(state), changed: Notify::new() }
    }

    /// Waits until a request of about so many tokens may go.
    pub(crate) async fn enter(&self, tokens: u64) -> Pass<'_> {
        loop {
            let changed = self.changed.notified();
            let wait = {
                let mut state = self.lock();
                let now = Instant::now();
                match state.ready_at(now) {
                    // Room comes when another request ends.
                    None => None,
                    Some(at) if at > now => Some(at),
                    Some(_) => {
                        state.in_flight += 1;
                        if let Some(pace) = &mut state.requests {
                            pace.take(1.0, now);
                        }
                        if let Some(pace) = &mut state.tokens {
                            pace.take(tokens as f64, now);
                        }
                        // Who comes next may be waiting for a time that has just changed.
                        return Pass { gate: self };
                    }
                }
            };
            match wait {
                Some(at) => tokio::time::sleep_until(at).await,
                None => changed.await,
            }
        }
    }

    /// The tokens of an answered request were so many, not as many as was expected.
    pub(crate) fn correct_tokens(&self, expected: u64, counted: u64) {
        if let Some(pace) = &mut self.lock().tokens {
            pace.correct(counted as f64 - expected as f64);
        }
    }

    /// Requests on their way.
    pub(crate) fn in_flight(&self) -> u32 {
        self.lock().in_flight
    }

    /// An answer came: a little more may be on its way.
    pub(crate) fn answered(&self) {
        let mut state = self.lock();
        let most = f64::from(self.limits.concurrency.max(1));
        state.allowed = (state.allowed + 1.0 / state.allowed).min(most);
    }

    /// The server has had too much: half as many at once, and nothing at all for a while.
    pub(crate) fn back_off(&self, wait: Duration) {
        let mut state = self.lock();
        let now = Instant::now();
        // One burst of refusals is one cut.
        if state.last_cut.is_none_or(|at| now.duration_since(at) > Duration::from_secs(1)) {
            state.allowed = (state.allowed / 2.0).max(1.0);
            state.last_cut = Some(now);
        }
        let until = now + wait;
        state.paused_until = Some(state.paused_until.map_or(until, |at| at.max(until)));
    }

    /// The server says that nothing is left until then.
    pub(crate) fn pause(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut state = self.lock();
        state.paused_until = Some(state.paused_until.map_or(until, |at| at.max(until)));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// When the next request may go; `None` while as many as may be are on their way.
    fn ready_at(&self, now: Instant) -> Option<Instant> {
        if self.in_flight >= self.allowed as u32 {
            return None;
        }
        let paces = [&self.requests, &self.tokens].into_iter().flatten();
        let due = paces.map(|pace| pace.ready_at(now)).chain(self.paused_until);
        Some(due.max().unwrap_or(now))
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.gate.lock().in_flight -= 1;
        self.gate.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(concurrency: u32, requests_per_minute: Option<f64>) -> Limits {
        Limits { concurrency, requests_per_minute, tokens_per_minute: None }
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_used_and_never_exceeded() {
        let gate = Gate::new(limits(64, Some(600.0)));
        let mut times = Vec::new();
        let start = Instant::now();
        for _ in 0..2000 {
            drop(gate.enter(0).await);
            times.push(start.elapsed());
        }
        let minutes = times.last().unwrap().as_secs_f64() / 60.0;
        assert!(2000.0 / (minutes * 600.0) > 0.98, "{minutes}");
        for window in times.windows(601) {
            assert!(*window.last().unwrap() - window[0] >= Duration::from_secs(60));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_are_paced_and_corrected() {
        let gate = Gate::new(Limits {
            concurrency: 8,
            requests_per_minute: None,
            tokens_per_minute: Some(6000.0),
        });
        let start = Instant::now();
        drop(gate.enter(1000).await);
        gate.correct_tokens(1000, 100);
        drop(gate.enter(100).await);
        assert!(start.elapsed() < Duration::from_secs(2));
        drop(gate.enter(1000).await);
        drop(gate.enter(1).await);
        assert!(start.elapsed() > Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_pause_everybody_and_halve_what_is_in_flight() {
        let gate = Gate::new(limits(8, None));
        gate.back_off(Duration::from_secs(5));
        gate.back_off(Duration::from_secs(5));
        let start = Instant::now();
        let passes =
            [gate.enter(0).await, gate.enter(0).await, gate.enter(0).await, gate.enter(0).await];
        assert!(start.elapsed() >= Duration::from_secs(5));
        let fifth = tokio::time::timeout(Duration::from_secs(1), gate.enter(0)).await;
        assert!(fifth.is_err(), "half of eight may be on their way");
        drop(passes);
        (0..100).for_each(|_| gate.answered());
        let mut passes = Vec::new();
        for _ in 0..8 {
            passes.push(gate.enter(0).await);
        }
    }
}

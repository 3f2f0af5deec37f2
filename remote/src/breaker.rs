//! Sets a remote aside that fails and fails: the rest of the run does not wait for it again and again.
//!
//! ```text
//!             success: count from 0        failures in a row
//!  in use ◀──────────────────────▶ in use ──────────────────▶ set aside, for good
//! ```

use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::watch;

/// Counts failures in a row.
#[derive(Debug)]
pub(crate) struct Breaker {
    failures: AtomicU32,
    limit: u32,
    is_open: watch::Sender<bool>,
}

impl Breaker {
    /// Opens after `limit` failures in a row.
    pub(crate) fn new(limit: u32) -> Breaker {
        Breaker { failures: AtomicU32::new(0), limit, is_open: watch::Sender::new(false) }
    }

    /// Whether nothing more is to be asked.
    pub(crate) fn is_open(&self) -> bool {
        *self.is_open.borrow()
    }

    /// A request was answered.
    pub(crate) fn succeeded(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }

    /// A request failed. Says whether this one was the last: it says so once.
    pub(crate) fn failed(&self) -> bool {
        self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= self.limit && self.open()
    }

    /// Opens at once. Says whether it was not open before.
    pub(crate) fn open(&self) -> bool {
        !self.is_open.send_replace(true)
    }

    /// Waits until it opens: whatever is under way then ends.
    pub(crate) async fn opened(&self) {
        // The sender lives as long as `self`, so this ends with the value only.
        let _ = self.is_open.subscribe().wait_for(|is_open| *is_open).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_open_it_once_and_for_good() {
        let breaker = Breaker::new(3);
        assert!(!breaker.failed() && !breaker.failed());
        breaker.succeeded();
        assert!(!breaker.failed() && !breaker.failed() && !breaker.is_open());
        assert!(breaker.failed() && breaker.is_open());
        breaker.succeeded();
        assert!(breaker.is_open() && !breaker.failed() && !breaker.open());
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let breaker = Breaker::new(1);
        let ((), first) = tokio::join!(breaker.opened(), async { breaker.failed() });
        assert!(first);
        breaker.opened().await;
    }
}

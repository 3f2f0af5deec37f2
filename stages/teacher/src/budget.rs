//! The most that a run may spend on teachers.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::teacher::TeacherError;

/// What has been spent, what may be, and what the calls on their way are expected to cost. Shared by
/// all teachers of a run.
#[derive(Debug, Default)]
pub struct Budget {
    limit_nano_usd: Option<u64>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    spent: u64,
    reserved: u64,
}

/// Money set aside for one call. Dropping it gives the money back.
#[derive(Debug)]
pub(crate) struct Reservation<'a> {
    budget: &'a Budget,
    nano_usd: u64,
}

impl Budget {
    /// A budget of so many US dollars; `None` for one without end.
    pub fn new(limit_usd: Option<f64>) -> Budget {
        let limit_nano_usd = limit_usd.map(|usd| (usd * 1e9).round() as u64);
        Budget { limit_nano_usd, state: Mutex::default(), changed: Notify::new() }
    }

    /// What has been spent, billionths of a US dollar.
    pub fn spent_nano_usd(&self) -> u64 {
        self.lock().spent
    }

    /// Sets money aside for a call that is expected to cost so much. Waits while it is only the calls
    /// on their way that may need what is left.
    ///
    /// # Errors
    /// When that is more than is left.
    pub(crate) async fn reserve(&self, nano_usd: u64) -> Result<Reservation<'_>, TeacherError> {
        loop {
            let changed = self.changed.notified();
            if let Some(reservation) = self.try_reserve(nano_usd)? {
                return Ok(reservation);
            }
            changed.await;
        }
    }

    /// As [`Budget::reserve`]; `None` where that waits.
    fn try_reserve(&self, nano_usd: u64) -> Result<Option<Reservation<'_>>, TeacherError> {
        let mut state = self.lock();
        if let Some(limit) = self.limit_nano_usd.filter(|_| nano_usd > 0) {
            if state.spent + nano_usd > limit {
                let usd = |nano: u64| nano as f64 / 1e9;
                return Err(TeacherError::Budget {
                    limit_usd: usd(limit),
                    spent_usd: usd(state.spent),
                    next_usd: usd(nano_usd),
                });
            }
            if state.spent + state.reserved + nano_usd > limit {
                return Ok(None);
            }
        }
        state.reserved += nano_usd;
        Ok(Some(Reservation { budget: self, nano_usd }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation<'_> {
    /// The call was made and cost so much.
    pub(crate) fn spend(self, nano_usd: u64) {
        self.budget.lock().spent += nano_usd;
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        state.reserved = state.reserved.saturating_sub(self.nano_usd);
        drop(state);
        self.budget.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_set_aside_than_there_is() {
        let budget = Budget::new(Some(1e-6));
        let reserve = |nano_usd: u64| budget.try_reserve(nano_usd);
        let one = reserve(600).unwrap().unwrap();
        assert!(reserve(600).unwrap().is_none(), "the call on its way may cost less");
        one.spend(300);
        let two = reserve(600).unwrap().unwrap();
        drop(two);
        reserve(700).unwrap().unwrap().spend(700);
        assert_eq!(budget.spent_nano_usd(), 1000);
        assert!(matches!(reserve(1), Err(TeacherError::Budget { .. })));
        assert!(reserve(0).unwrap().is_some(), "what costs nothing goes on");
        assert!(Budget::new(None).try_reserve(u64::MAX / 4).unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_the_rest_set_aside_waits_for_it() {
        let budget = Budget::new(Some(1e-6));
        let first = budget.reserve(600).await.unwrap();
        let (second, ()) = tokio::join!(budget.reserve(600), async {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            first.spend(100);
        });
        second.unwrap().spend(500);
        assert_eq!(budget.spent_nano_usd(), 600);
    }
}

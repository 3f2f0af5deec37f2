//! The most that a run may spend on teachers.

use std::sync::{Mutex, PoisonError};

use crate::teacher::TeacherError;

/// What has been spent, what may be, and what the calls on their way are expected to cost. Shared by
/// all teachers of a run.
#[derive(Debug, Default)]
pub struct Budget {
    limit_nano_usd: Option<u64>,
    state: Mutex<State>,
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
        Budget { limit_nano_usd, state: Mutex::default() }
    }

    /// What has been spent, billionths of a US dollar.
    pub fn spent_nano_usd(&self) -> u64 {
        self.lock().spent
    }

    /// Sets money aside for a call that is expected to cost so much.
    ///
    /// # Errors
    /// When that is more than is left.
    pub(crate) fn reserve(&self, nano_usd: u64) -> Result<Reservation<'_>, TeacherError> {
        let mut state = self.lock();
        if let Some(limit) = self.limit_nano_usd
            && (state.spent + state.reserved + nano_usd > limit)
        {
            let usd = |nano: u64| nano as f64 / 1e9;
            return Err(TeacherError::Budget {
                limit_usd: usd(limit),
                spent_usd: usd(state.spent),
                next_usd: usd(nano_usd),
            });
        }
        state.reserved += nano_usd;
        Ok(Reservation { budget: self, nano_usd })
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_set_aside_than_there_is() {
        let budget = Budget::new(Some(1e-6));
        let one = budget.reserve(600).unwrap();
        assert!(matches!(budget.reserve(600), Err(TeacherError::Budget { .. })));
        one.spend(300);
        let two = budget.reserve(600).unwrap();
        drop(two);
        budget.reserve(700).unwrap().spend(700);
        assert_eq!(budget.spent_nano_usd(), 1000);
        assert!(budget.reserve(1).is_err());
        assert!(budget.reserve(0).is_ok(), "what costs nothing goes on");
        assert!(Budget::new(None).reserve(u64::MAX / 4).is_ok());
    }
}

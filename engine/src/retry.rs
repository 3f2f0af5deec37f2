//! When a failed instance is tried again: exponential back-off, bounded in time and tries.

use std::time::Duration;

use okapi_cache::ActionDigest;

const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The wait before try number `attempt + 1`, after try number `attempt` (from 1) failed: doubling
/// from a second to a minute, stretched by up to a half. The stretch comes from the action, so that
/// instances that failed together do not come back together, and a run repeats itself.
pub fn wait_before_next(attempt: u32, action: &ActionDigest) -> Duration {
    let doubled = FIRST_WAIT.saturating_mul(1 << attempt.saturating_sub(1).min(10));
    let base = doubled.min(LONGEST_WAIT);
    let stretch = u32::from(action.0.as_bytes()[attempt as usize % 32]);
    base + base * stretch / 512
}

#[cfg(test)]
mod tests {
    use super::*;
    use okapi_cache::Digest;

    #[test]
    fn waits_grow_and_stay_bounded() {
        let action = ActionDigest(Digest::of(b"an action"));
        let waits: Vec<_> = (1..40).map(|attempt| wait_before_next(attempt, &action)).collect();
        assert!(waits[0] >= Duration::from_secs(1) && waits[0] < Duration::from_millis(1500));
        assert!(waits[3] >= Duration::from_secs(8) && waits[3] < Duration::from_secs(12));
        assert!(waits.iter().all(|wait| *wait < Duration::from_secs(90)));
    }
}

//! When an instance that could not run is looked at again: one that failed, by exponential back-off, bounded in time and
//! tries; one whose action another run is executing, the more seldom the longer that takes.

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

const SHORTEST_LOOK: Duration = Duration::from_millis(20);
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// The wait until an action is looked at again that another run has been executing for so long: a tenth of that, between
/// 20 ms and 5 s. So what is waited for is had a tenth later at worst, and a hundred runs that wait for hours ask
/// the file system of their store 20 times a second, not 5,000 times.
pub fn wait_for_other_run(waited: Duration) -> Duration {
    (waited / 10).clamp(SHORTEST_LOOK, LONGEST_LOOK)
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

    #[test]
    fn another_run_is_asked_after_the_more_seldom_the_longer_it_takes() {
        let looks_within = |total: Duration| {
            let (mut waited, mut looks) = (Duration::ZERO, 0);
            while waited < total {
                let wait = wait_for_other_run(waited);
                assert!(wait <= SHORTEST_LOOK.max(waited / 10) && wait <= LONGEST_LOOK);
                waited += wait;
                looks += 1;
            }
            looks
        };
        assert_eq!(looks_within(Duration::from_millis(200)), 10);
        // Else it would be 180,000.
        assert!(looks_within(Duration::from_secs(3600)) < 800);
    }
}

//! How often a cluster is asked how its jobs stand.
//!
//! One query asks for all jobs of a run at once, so that their number costs the cluster nothing. Between queries lie
//! 2 s at first, and twice as long after each that found no job ended, up to 30 s. One that found an end begins at 2 s
//! again: jobs of a node end at about the same time, and what waits for them becomes ready.
//!
//! | | |
//! |---|---|
//! | an end is noticed | at most 30 s late, within 2 s if another was noticed just before |
//! | queries of a run | at most one per 30 s, and [`PollInterval::EXTRA_QUERIES`] per end that was noticed |

use std::time::Duration;

/// The time until the next query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PollInterval {
    next: Duration,
}

impl PollInterval {
    /// The wait after a query that found an end.
    pub const SHORTEST: Duration = Duration::from_secs(2);
    /// The wait after many that found none.
    pub const LONGEST: Duration = Duration::from_secs(30);
    /// How many waits after an end are shorter than the longest: 2, 4, 8 and 16 s.
    pub const EXTRA_QUERIES: u64 = 4;

    /// Says how long to wait before the next query, after one that found that jobs ended, or that none did.
    pub fn wait_after(&mut self, ended: bool) -> Duration {
        if ended {
            self.next = PollInterval::SHORTEST;
        }
        let wait = self.next;
        self.next = (wait * 2).min(PollInterval::LONGEST);
        wait
    }
}

impl Default for PollInterval {
    /// As if an end had just been noticed: what is wrong with a job shows at its start.
    fn default() -> PollInterval {
        PollInterval { next: PollInterval::SHORTEST }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits in seconds after queries that found an end (`true`) or none.
    fn waits(found: &[bool]) -> Vec<u64> {
        let mut interval = PollInterval::default();
        found.iter().map(|&ended| interval.wait_after(ended).as_secs()).collect()
    }

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew_when_something_ended() {
        assert_eq!(waits(&[false; 7]), [2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(waits(&[false, false, true, false, true, true]), [2, 4, 2, 4, 2, 2]);
    }

    #[test]
    fn an_end_costs_no_more_queries_than_it_says() {
        let mut interval = PollInterval::default();
        interval.wait_after(true);
        let short = std::iter::repeat_with(|| interval.wait_after(false))
            .take_while(|&wait| wait < PollInterval::LONGEST);
        assert_eq!(1 + short.count() as u64, PollInterval::EXTRA_QUERIES);
    }
}

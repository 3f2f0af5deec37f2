//! How long, how often and how much at once the remote is asked.

use std::time::Duration;

/// Bounds on everything that is asked of a remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long a request may take that moves nothing, all its tries together. What moves bytes gets more: see
    /// [`Limits::time_for`].
    pub timeout: Duration,
    /// How often a request is sent again that failed in a way that may pass.
    pub retries: usize,
    /// After so many failures in a row the remote is set aside.
    pub failures: u32,
    /// How many requests are under way at once.
    pub parallel: usize,
    /// A transfer slower than this is given up.
    pub slowest_bytes_per_second: u64,
    /// So many bytes of objects that are being sent are in memory at once. What is larger is sent alone.
    pub memory: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            timeout: Duration::from_secs(30),
            retries: 3,
            failures: 5,
            parallel: 16,
            slowest_bytes_per_second: 64 << 10,
            memory: 64 << 20,
        }
    }
}

impl Limits {
    /// How long a request may take that moves so many bytes.
    pub fn time_for(&self, bytes: u64) -> Duration {
        self.timeout + Duration::from_secs(bytes / self.slowest_bytes_per_second.max(1))
    }
}

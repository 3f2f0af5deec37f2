//! What a run wakes up for beside its jobs: the signals that end it, and a moment.

/// SIGINT, SIGTERM and SIGHUP; but not SIGHUP where whoever started the program has it ignored, as
/// `nohup` does.
pub struct Interrupts {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: Option<tokio::signal::unix::Signal>,
}

impl Interrupts {
    /// Begins to wait for them: from now on they end nothing by themselves. To be called within a runtime.
    ///
    /// # Errors
    /// When the system has no room for it.
    pub fn new() -> std::io::Result<Interrupts> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Interrupts {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: match is_ignored(SignalKind::hangup()) {
                true => None,
                false => Some(signal(SignalKind::hangup())?),
            },
        })
    }

    /// Waits for the next of them.
    pub async fn next(&mut self) {
        self.next_is_interrupt().await;
    }

    /// The same. Gives whether it is an interrupt: somebody wants no more of what is being done. The others say that this process cannot
    /// stay.
    pub async fn next_is_interrupt(&mut self) -> bool {
        tokio::select! {
            _ = self.interrupt.recv() => true,
            _ = self.terminate.recv() => false,
            Some(()) = receive(self.hang_up.as_mut()) => false,
        }
    }
}

async fn receive(signal: Option<&mut tokio::signal::unix::Signal>) -> Option<()> {
    signal?.recv().await
}

/// Whether this process ignores a signal. Where the system does not say it counts as not ignored.
fn is_ignored(kind: tokio::signal::unix::SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    // The first bit is signal 1.
    mask >> (kind.as_raw_value() - 1) & 1 == 1
}

/// Waits until a moment, or for ever.
pub(crate) async fn sleep_until(wake: Option<std::time::Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}

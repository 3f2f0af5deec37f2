//! Exit codes. Scripts depend on them.

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitCode {
    /// Everything asked for is done.
    Done,
    /// A node failed, or a comparison found a difference.
    Failed,
    /// The command line or the pipeline file is wrong. (clap uses the same number.)
    BadUsage,
    /// The store cannot be read or written, or the events of a run cannot be.
    StoreTrouble,
    /// Asking a teacher on would have gone over the budget.
    BudgetReached,
    /// `plan --check`: something would run.
    WouldRun,
    /// Stopped by Ctrl-C or another signal.
    Interrupted,
}

impl From<ExitCode> for i32 {
    fn from(code: ExitCode) -> i32 {
        match code {
            ExitCode::Done => 0,
            ExitCode::Failed => 1,
            ExitCode::BadUsage => 2,
            ExitCode::StoreTrouble => 3,
            ExitCode::BudgetReached => 4,
            ExitCode::WouldRun => 10,
            ExitCode::Interrupted => 130,
        }
    }
}

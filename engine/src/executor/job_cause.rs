//! Why a cluster ended a job, in words that people understand.

/// Why a job gave no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobCause {
    /// It took more memory than it had asked for.
    OutOfMemory,
    /// Its time was up.
    TimeLimit,
    /// The node went down under it.
    NodeFailure,
    /// A job that matters more took its place.
    Preempted,
    /// Somebody cancelled it.
    Cancelled,
    /// The cluster will never take it as it is.
    Refused,
    /// The cluster could not be asked, or took nothing, for a long time.
    Unreachable,
    /// It ended without saying what came of it.
    Lost,
    /// It ended before it said anything at all.
    NeverBegan,
    /// What it was sent, or sent back, by way of a remote did not arrive as it was.
    Mail,
}

impl JobCause {
    /// Whether another try of the same may end otherwise.
    pub fn is_worth_another_try(self) -> bool {
        !matches!(self, JobCause::Cancelled | JobCause::Refused)
    }

    /// Whether the work has nothing to do with it, so that it is tried again whatever its node says.
    pub fn is_of_cluster(self) -> bool {
        matches!(self, JobCause::NodeFailure | JobCause::Preempted | JobCause::Mail)
    }
}

//! What Slurm's words mean: for whoever waits for a job, and for people.

use super::client::ClientError;
use crate::executor::job_cause::JobCause;

/// How a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It waits.
    Queued,
    /// It works, or is about to begin or to end.
    Working,
    /// It has ended by itself: what came of it is, or will be, in its outcome.
    Ended,
    /// It was ended, for this reason.
    Killed(JobCause),
}

/// The meaning of a state that `squeue` or `sacct` prints (`man squeue`, "JOB STATE CODES"). What is not known yet is taken for
/// work: the outcome tells.
pub(super) fn standing(state: &str) -> Standing {
    match state {
        "PENDING" | "REQUEUED" | "REQUEUE_FED" | "REQUEUE_HOLD" | "SPECIAL_EXIT"
        | "RESV_DEL_HOLD" => Standing::Queued,
        "COMPLETED" | "FAILED" => Standing::Ended,
        "OUT_OF_MEMORY" => Standing::Killed(JobCause::OutOfMemory),
        "TIMEOUT" | "DEADLINE" => Standing::Killed(JobCause::TimeLimit),
        "NODE_FAIL" | "BOOT_FAIL" | "LAUNCH_FAILED" => Standing::Killed(JobCause::NodeFailure),
        "PREEMPTED" => Standing::Killed(JobCause::Preempted),
        "CANCELLED" | "REVOKED" => Standing::Killed(JobCause::Cancelled),
        _ => Standing::Working,
    }
}

/// Why a job waits in a way that no time will mend, in words; `None` if it merely waits its turn.
pub(super) fn stuck(reason: &str) -> Option<&'static str> {
    // Slurm adds details behind some.
    let reason = reason.split([',', '(', ':']).next().unwrap_or_default().trim();
    Some(match reason {
        "PartitionDown" | "PartitionInactive" => "its partition is down",
        "PartitionTimeLimit" => "it asks for more time than its partition gives",
        "PartitionNodeLimit" | "BadConstraints" => "no node has what it asks for",
        "ReqNodeNotAvail" | "NodeDown" | "Nodes required for job are DOWN" => {
            "the nodes that it could run on are down or drained"
        }
        "JobHeldAdmin" | "JobHeldUser" | "job requeued in held state" => "it is held",
        "DependencyNeverSatisfied" => "it waits for a job that failed",
        "AssocGrpCpuLimit" | "AssocGrpMemLimit" | "AssocGrpGRES" | "AssocGrpJobsLimit" => {
            "the account's limit is reached"
        }
        "InvalidAccount" | "InvalidQOS" => "its account or QOS is not known",
        _ => return None,
    })
}

/// Whether a job's last lines say that memory ran out: without control groups Slurm's state does not.
pub(super) fn is_out_of_memory(log: &[String]) -> bool {
    let words = ["oom-kill", "oom_kill", "memory limit"];
    log.iter()
        .any(|line| line.contains("slurmstepd") && words.iter().any(|word| line.contains(word)))
}

/// What a failed submission means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The queue is full, or the controller is busy or away: later it may be taken.
    Later,
    /// It may have been taken.
    Unknown,
    /// It will never be taken. What to do about it.
    Never(Option<&'static str>),
}

/// What a failed submission means, by what `sbatch` said.
pub(super) fn refusal(error: &ClientError) -> Refusal {
    let said = match error {
        ClientError::TimedOut { .. } | ClientError::Ended { .. } => return Refusal::Unknown,
        ClientError::Unavailable { .. } => {
            return Refusal::Never(Some(
                "is Slurm installed here, and are its programs on the PATH?",
            ));
        }
        ClientError::Refused { said, .. } => said.to_lowercase(),
    };
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if has(&["socket timed out", "zero bytes were transmitted", "unexpected message"]) {
        return Refusal::Unknown;
    }
    if has(&[
        "unable to contact",
        "temporarily unable",
        "temporarily unavailable",
        "try again",
        "job submit limit",
        "submit limit",
        "submitjobslimit",
        "maximum number of jobs",
        "maxsubmitjob",
        "maxjobcount",
        "job violates accounting/qos policy",
        "queue is full",
        "controller is in standby",
        "connection refused",
        "connection timed out",
        "protocol authentication",
        "network is unreachable",
    ]) {
        return Refusal::Later;
    }
    Refusal::Never(if has(&["partition"]) {
        Some("give `slurm: {partition: NAME}`, one that `sinfo` lists")
    } else if has(&["account"]) {
        Some("give `slurm: {account: NAME}`, one of yours: `sacctmgr show associations user=$USER`")
    } else if has(&["qos"]) {
        Some("give `slurm: {qos: NAME}`, one that your account may use")
    } else if has(&["gres", "tres"]) {
        Some("give `slurm: {gres: ...}` as your cluster names its GPUs: `sinfo -o %G`")
    } else if has(&["node configuration", "memory", "cpu"]) {
        Some("no node has so much: lower `resources` of the node, or choose another partition")
    } else if has(&["time limit"]) {
        Some("lower `slurm: {time: ...}`, or choose another partition")
    } else if has(&["invalid option", "unrecognized option"]) {
        Some("look at `slurm: {extra: ...}`: it is given to `sbatch` as it is")
    } else {
        None
    })
}

/// A cause in a sentence, with what to do about it.
pub(super) fn explain(cause: JobCause, job: &str, state: &str) -> (String, Option<String>) {
    let (message, hint) = match cause {
        JobCause::OutOfMemory => (
            format!("the job {job} ran out of memory"),
            Some("raise `resources: {mem: ...}`, or give `retries` and `slurm: {more_memory: 2}`"),
        ),
        JobCause::TimeLimit => (
            format!("the job {job} ran into its time limit"),
            Some("raise `slurm: {time: ...}`, or give `retries`: a training goes on where it was"),
        ),
        JobCause::NodeFailure => {
            (format!("the node went down under the job {job} ({state})"), None)
        }
        JobCause::Preempted => (format!("the job {job} was preempted"), None),
        JobCause::Cancelled => {
            (format!("the job {job} was cancelled"), Some("run again to submit it anew"))
        }
        JobCause::Refused => (format!("the cluster does not take the job {job}"), None),
        JobCause::Unreachable => (
            format!("the cluster could not be asked about the job {job} for a long time"),
            Some("when it is back, run again: what is done meanwhile is found"),
        ),
        JobCause::Lost => (
            format!("the job {job} ended without a result ({state})"),
            Some("was it killed, and can its node see the store and this program?"),
        ),
        JobCause::Mail => (format!("what the job {job} was sent is damaged on the remote"), None),
        JobCause::NeverBegan => (
            format!("the job {job} ended before its work began ({state})"),
            Some(
                "did a line of `slurm: {setup: ...}` fail, and can its node see the store and this program?",
            ),
        ),
    };
    (message, hint.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(said: &str) -> Refusal {
        refusal(&ClientError::Refused { program: "sbatch", said: said.to_owned() })
    }

    #[test]
    fn a_full_queue_is_waited_for_and_a_wrong_partition_is_not() {
        for said in [
            "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
            "Batch job submission failed: Resource temporarily unavailable",
            "AssocGrpSubmitJobsLimit; Batch job submission failed: Job violates accounting/QOS policy",
            "QOSGrpSubmitJobsLimit",
            "Batch job submission failed: Unable to contact slurm controller (connect failure)",
        ] {
            assert_eq!(refused(said), Refusal::Later, "{said}");
        }
        let timed_out = "Batch job submission failed: Socket timed out on send/recv operation";
        assert_eq!(refused(timed_out), Refusal::Unknown);
        for (said, word) in [
            ("invalid partition specified: nowhere", "partition"),
            (
                "Batch job submission failed: Invalid account or account/partition combination specified",
                "partition",
            ),
            (
                "Batch job submission failed: Requested node configuration is not available",
                "resources",
            ),
            ("Invalid generic resource (gres) specification", "gres"),
        ] {
            let Refusal::Never(Some(hint)) = refused(said) else { panic!("{said}") };
            assert!(hint.contains(word), "{said}: {hint}");
        }
        assert_eq!(refused("something else"), Refusal::Never(None));
    }

    #[test]
    fn states_have_a_meaning_each() {
        assert_eq!(standing("PENDING"), Standing::Queued);
        assert_eq!(standing("COMPLETING"), Standing::Working);
        assert_eq!(standing("FAILED"), Standing::Ended);
        assert_eq!(standing("OUT_OF_MEMORY"), Standing::Killed(JobCause::OutOfMemory));
        assert_eq!(standing("a new word"), Standing::Working);
        assert!(stuck("ReqNodeNotAvail, UnavailableNodes:n1").is_some());
        assert!(stuck("Resources").is_none());
    }
}

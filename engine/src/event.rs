//! Everything a run says: a closed set of events. The run emits them; only a display prints, and
//! only the run record keeps them.
//!
//! The JSON form of an event (`--progress json`, `events.jsonl`) is stable: one object a line, with
//! `event` naming the kind; the first, `run_started`, has the version of all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::spend::Spend;

/// The version of the events' JSON form.
pub const VERSION: u32 = 1;

/// One thing that happened in a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The run began.
    RunStarted {
        /// [`VERSION`]; absent in records of the first okapi.
        #[serde(default = "first_version")]
        version: u32,
        /// The run's id.
        run: String,
        /// The pipeline's name.
        pipeline: String,
        /// Instances that were asked for, with all they need.
        total: u64,
        /// How many may run at once.
        jobs: u64,
    },
    /// An instance's result was found.
    NodeCached {
        /// The instance.
        node: String,
        /// Its action digest.
        action: String,
        /// How long the work took when it was done, milliseconds.
        saved_ms: u64,
        /// Bytes that were fetched from the remote, if the result came from there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fetched_bytes: Option<u64>,
    },
    /// An instance's result was found on the remote, and its objects are being fetched.
    NodeFetching {
        /// The instance.
        node: String,
        /// Its action digest.
        action: String,
        /// Bytes of its outputs, as far as they are not here.
        bytes: u64,
    },
    /// Everything is done, but the remote lacks results of this run: they are being sent.
    Sending {
        /// How many.
        results: u64,
    },
    /// What went over to the remote, and what came from there.
    RemoteUsed {
        /// Its address.
        remote: String,
        /// Results that came from there.
        fetched: u64,
        /// Bytes that were fetched for them.
        fetched_bytes: u64,
        /// Results that are there now and were not before.
        sent: u64,
        /// Bytes that were sent for them.
        sent_bytes: u64,
        /// Results that should be there and are not: the next run sends them, or `okapi cache push`.
        unsent: u64,
    },
    /// Answers of teachers went over to the remote, or came from there.
    RecordsShared {
        /// Its address.
        remote: String,
        /// Answers that came from there and were not here.
        fetched: u64,
        /// Bytes that were fetched for them.
        fetched_bytes: u64,
        /// Answers that are there now and were not before.
        sent: u64,
        /// Bytes that were sent for them.
        sent_bytes: u64,
    },
    /// Many instances' results were found at once, before anything ran.
    Cached {
        /// How many.
        count: u64,
    },
    /// Another run is executing the same action; this one waits for its result.
    NodeWaiting {
        /// The instance.
        node: String,
        /// Who: process, host, since when.
        holder: String,
    },
    /// An instance began to run.
    NodeStarted {
        /// The instance.
        node: String,
        /// Its action digest.
        action: String,
        /// Why there was no result.
        reason: String,
        /// 1 for the first try.
        attempt: u32,
    },
    /// An instance is a job of a cluster: it was submitted, or it has begun.
    NodeSubmitted {
        /// The instance.
        node: String,
        /// The cluster's name for the job.
        job: String,
        /// Where it works, once it does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
    },
    /// An instance says how far it is.
    NodeProgress {
        /// The instance.
        node: String,
        /// Units done.
        done: u64,
        /// Units in all.
        total: Option<u64>,
        /// What is counted.
        unit: String,
    },
    /// An instance says what it measured.
    NodeMeasures {
        /// The instance.
        node: String,
        /// The step of its work, from 1.
        step: u64,
        /// By name: `loss`, `reward`.
        values: BTreeMap<String, f64>,
    },
    /// An instance has asked a service outside.
    NodeSpend {
        /// The instance.
        node: String,
        /// What it has asked in this run so far.
        spend: Spend,
    },
    /// An instance says something for its log.
    NodeLog {
        /// The instance.
        node: String,
        /// The line.
        line: String,
    },
    /// An instance failed and will be tried again.
    NodeRetrying {
        /// The instance.
        node: String,
        /// The try that failed.
        attempt: u32,
        /// Why.
        message: String,
        /// The wait before the next try, milliseconds.
        wait_ms: u64,
    },
    /// An instance finished and its result is in the store.
    NodeFinished {
        /// The instance.
        node: String,
        /// Its action digest.
        action: String,
        /// How long it ran, milliseconds.
        duration_ms: u64,
        /// Bytes of its outputs.
        output_bytes: u64,
        /// Whether every output is what it was before the run: what depends on it alone is spared.
        unchanged: bool,
        /// Whether the same action gave other outputs when it was executed before.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unsteady: bool,
        /// Numbers that it reported.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        metrics: BTreeMap<String, f64>,
        /// What it asked of services outside in this run, if anything.
        #[serde(default, skip_serializing_if = "Spend::is_empty")]
        spend: Spend,
    },
    /// An instance failed for good.
    NodeFailed {
        /// The instance.
        node: String,
        /// Why.
        message: String,
        /// What to do about it.
        hint: Option<String>,
        /// The last lines of its stderr.
        stderr_tail: Vec<String>,
        /// Its whole log.
        log: Option<String>,
        /// A command line that runs it by hand.
        by_hand: Option<String>,
    },
    /// An instance will not run because one it needs failed.
    NodeSkipped {
        /// The instance.
        node: String,
        /// The failed instance that it needs.
        because_of: String,
    },
    /// An artifact was placed in the work tree.
    Published {
        /// Where, from the project's root.
        path: String,
        /// Which instance made it.
        node: String,
        /// Where an edited file that lay there was kept.
        kept: Option<String>,
    },
    /// Something worth a look that stops nothing.
    Warning {
        /// What.
        message: String,
    },
    /// The user asked to stop; running instances get time to end.
    Interrupted {
        /// How many are still running.
        running: u64,
    },
    /// The run ended.
    RunFinished {
        /// How it ended.
        outcome: Outcome,
        /// Instances that ran.
        ran: u64,
        /// Instances whose results were found.
        cached: u64,
        /// Instances that failed.
        failed: u64,
        /// Instances not run because one they need failed, or because the run was stopped.
        skipped: u64,
        /// How long the run took, milliseconds.
        duration_ms: u64,
        /// What all instances asked of services outside, if anything.
        #[serde(default, skip_serializing_if = "Spend::is_empty")]
        spend: Spend,
    },
}

fn first_version() -> u32 {
    1
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Everything asked for has a result.
    Succeeded,
    /// At least one instance failed.
    Failed,
    /// Asking on would have gone over the budget.
    BudgetReached,
    /// The user stopped it.
    Interrupted,
    /// The store could not be written.
    StoreTrouble,
}

//! Are metrics, times and costs those that the run reported when it made the result?
//!
//! They are no part of an action and of no output, so that the events of runs are all that there is to compare them with.

use std::collections::BTreeSet;

use super::{Finding, Recorded, Verdict};
use crate::clock::iso_utc;
use crate::run_reports::{Measured, Reports};

/// Clocks are set while runs go on; a time that is off by more than this was not taken by the run.
const CLOCKS_MAY_JUMP_MS: u64 = 3_600_000;

/// Whether a run is known that reported what was measured of a result.
pub(super) fn is_reported(result: &Recorded, reports: &Reports) -> bool {
    result.stored.is_none() || reports.contains_key(&result.action)
}

/// Where a result says something else than the run that made it.
pub(super) fn compare(result: &Recorded, reports: &Reports) -> Vec<Finding> {
    let Some(stored) = &result.stored else { return Vec::new() };
    let Some(report) = reports.get(&result.action) else { return Vec::new() };
    let run = &report.run;
    let mut found = Vec::new();
    let mut other = |what: String, is: String, was: String| {
        found.push(Finding {
            verdict: Verdict::Corrupt,
            message: format!(
                "{what} is {is} in the result, and was {was} in the run {run} that made it"
            ),
            hint: Some("`okapi run --force NODE` makes the result again"),
        });
    };
    let names = report.metrics.keys().chain(stored.info.metrics.keys());
    let names: BTreeSet<&String> = names.collect();
    for name in names {
        let (is, was) = (stored.info.metrics.get(name), report.metrics.get(name));
        if is != was {
            let show = |value: Option<&f64>| value.map_or("nothing".to_owned(), f64::to_string);
            other(format!("the metric `{name}`"), show(is), show(was));
        }
    }
    if report.times_are_known {
        let (is, was) = (Measured::of(&stored.info), report.measured);
        if is.duration_ms != was.duration_ms {
            let show = |it: u64| format!("{it} ms");
            other("the duration".to_owned(), show(is.duration_ms), show(was.duration_ms));
        }
        if is.cost_micro_usd != was.cost_micro_usd {
            let show = |it: Option<u64>| {
                it.map_or("nothing".to_owned(), |it| format!("{it} millionths of a dollar"))
            };
            other("the cost".to_owned(), show(is.cost_micro_usd), show(was.cost_micro_usd));
        }
        let finished = stored.info.finished_unix_ms;
        let (from, until) = report.between_unix_ms;
        if finished.saturating_add(CLOCKS_MAY_JUMP_MS) < from
            || finished > until.saturating_add(CLOCKS_MAY_JUMP_MS)
        {
            let was = format!("between {} and {}", iso_utc(from), iso_utc(until));
            other("the time of its end".to_owned(), iso_utc(finished), was);
        }
    }
    found
}

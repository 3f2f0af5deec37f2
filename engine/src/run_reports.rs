//! What runs reported when they made results, from their records: metrics, times and costs are no part of an action and of no
//! output; and an action may give other outputs each time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use okapi_cache::{ActionDigest, ResultInfo, Store, StoreError};

use crate::clock::unix_ms;
use crate::event::{Event, Outcome};
use crate::run_record::{RunEnd, RunInfo, events, list};

/// What was measured of an execution, beside its metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Measured {
    /// How long it worked, milliseconds.
    pub(crate) duration_ms: u64,
    /// What it cost, millionths of a US dollar, if it asked anybody.
    pub(crate) cost_micro_usd: Option<u64>,
}

impl Measured {
    /// What a result says.
    pub(crate) fn of(info: &ResultInfo) -> Measured {
        Measured { duration_ms: info.duration_ms, cost_micro_usd: info.cost_micro_usd }
    }
}

/// What a run reported when it made a result.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Report {
    /// The run's id.
    pub(crate) run: String,
    /// The metrics.
    pub(crate) metrics: BTreeMap<String, f64>,
    /// What else was measured.
    pub(crate) measured: Measured,
    /// When the run began and ended, milliseconds since 1970.
    pub(crate) between_unix_ms: (u64, u64),
    /// Whether the result that is kept has to be this one. A run that was killed, or could not write, may have made another one
    /// since, or not kept this one; and of two at once either may have been the last.
    pub(crate) times_are_known: bool,
}

/// By action: what the newest run reported that made its result.
pub(crate) type Reports = BTreeMap<ActionDigest, Report>;

/// What runs reported when they made the results of these actions, of which that much was measured, as far as their records
/// are there: those of the newest run that made each.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn reports(
    store: &Store,
    mut wanted: BTreeMap<ActionDigest, Measured>,
) -> Result<Reports, StoreError> {
    let mut reports = Reports::new();
    let mut was_cut_off = false;
    let by_hand = fetched_by_hand(store);
    // What came from a remote since was made by somebody else's run.
    let mut fetched = BTreeSet::new();
    for run in list(store)?.iter().rev() {
        if wanted.is_empty() {
            break;
        }
        let is_cut_off = |end: &RunEnd| end.outcome == Outcome::StoreTrouble;
        was_cut_off |= run.end.as_ref().is_none_or(is_cut_off);
        // A record without events has nothing to say.
        for event in events(store, &run.id).unwrap_or_default().into_iter().rev() {
            let (action, made) = match event {
                Event::NodeFinished { action, metrics, duration_ms, spend, .. } => {
                    let cost_micro_usd = (!spend.is_empty()).then_some(spend.nano_usd / 1000);
                    (action, Some((metrics, Measured { duration_ms, cost_micro_usd })))
                }
                Event::NodeCached { action, fetched_bytes: Some(_), .. } => (action, None),
                _ => continue,
            };
            let Ok(action) = action.parse() else { continue };
            let Some(kept) = wanted.get(&action) else { continue };
            let Some((metrics, measured)) = made else {
                fetched.insert(action);
                continue;
            };
            let is_kept = measured == *kept;
            let newest = reports.entry(action).or_insert_with(|| Report {
                run: run.id.clone(),
                metrics,
                measured,
                between_unix_ms: (run.started_unix_ms, ended_unix_ms(run)),
                times_are_known: !was_cut_off
                    && !fetched.contains(&action)
                    && by_hand.get(&action).is_none_or(|at| *at < run.started_unix_ms),
            });
            let is_newest = newest.run == run.id;
            // An older report that fits is that of a run which went on for longer.
            newest.times_are_known &= is_newest || !is_kept;
            if is_kept || !newest.times_are_known {
                wanted.remove(&action);
            }
        }
    }
    Ok(reports)
}

/// Where it is written down which results a command fetched, without a run.
fn fetched_path(store: &Store) -> PathBuf {
    store.runs_folder().join("fetched")
}

/// When results were fetched by a command, the last time, milliseconds since 1970. What cannot be read says nothing.
fn fetched_by_hand(store: &Store) -> BTreeMap<ActionDigest, u64> {
    let text = std::fs::read_to_string(fetched_path(store)).unwrap_or_default();
    let of_line = |line: &str| {
        let (at, action) = line.split_once(' ')?;
        Some((action.parse().ok()?, at.parse().ok()?))
    };
    // Later lines win.
    text.lines().filter_map(of_line).collect()
}

/// Writes down that results were fetched by a command: what runs reported of earlier ones says nothing of these.
///
/// # Errors
/// When the store cannot be written.
pub fn note_fetched<'a>(
    store: &Store,
    actions: impl Iterator<Item = &'a ActionDigest>,
) -> Result<(), StoreError> {
    let mut all = fetched_by_hand(store);
    let now = unix_ms();
    all.extend(actions.map(|action| (*action, now)));
    if all.is_empty() {
        return Ok(());
    }
    let text: String = all.iter().map(|(action, at)| format!("{at} {action}\n")).collect();
    store.write_file(&fetched_path(store), text.as_bytes())
}

/// When a run ended at the latest: whichever is later, what the clock on the wall said, or the time that passed while the
/// machine was awake.
fn ended_unix_ms(run: &RunInfo) -> u64 {
    run.end.as_ref().map_or(u64::MAX, |end| {
        let awake = run.started_unix_ms.saturating_add(end.duration_ms);
        end.finished_unix_ms.map_or(awake, |finished| finished.max(awake))
    })
}

/// The actions that gave other outputs than before in a run after the one of these and up to the other.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn unsteady_between(
    store: &Store,
    one: &str,
    other: &str,
) -> Result<BTreeSet<ActionDigest>, StoreError> {
    let (first, last) = if one < other { (one, other) } else { (other, one) };
    let mut actions = BTreeSet::new();
    let between = list(store)?.into_iter().filter(|run| &*run.id > first && &*run.id <= last);
    for run in between {
        let all = events(store, &run.id).unwrap_or_default().into_iter();
        actions.extend(all.filter_map(|event| match event {
            Event::NodeFinished { action, unsteady: true, .. } => {
                action.parse::<ActionDigest>().ok()
            }
            _ => None,
        }));
    }
    Ok(actions)
}

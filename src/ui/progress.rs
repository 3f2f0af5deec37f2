//! The displays of a run: each takes events and prints.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};

use okapi_engine::event::{Event, Outcome};
use okapi_engine::spend::Spend;

use crate::cli::Progress;
use crate::ui::format;
use crate::ui::terminal::Terminal;

/// Shows what a run says.
pub(crate) trait Display {
    fn show(&mut self, event: &Event);

    /// Takes how much work the cache has saved, milliseconds, before the run's last event.
    fn saved(&mut self, _ms: u64) {}

    /// Why something could not be shown to somebody who waits for it.
    fn trouble(&mut self) -> Option<io::Error> {
        None
    }
}

/// The display that was asked for.
pub(crate) fn choose(progress: Progress, quiet: bool) -> Box<dyn Display> {
    let terminal = std::io::stderr().is_terminal();
    match progress {
        Progress::Json => Box::new(Json::default()),
        _ if quiet => Box::new(Plain::new(true)),
        Progress::Terminal => Box::new(Terminal::new()),
        Progress::Auto if terminal => Box::new(Terminal::new()),
        Progress::Auto | Progress::Plain => Box::new(Plain::new(false)),
    }
}

/// One JSON object per event, on stdout.
#[derive(Default)]
struct Json {
    /// Set at the first line that could not be written; the run goes on without the rest.
    broken: Option<io::Error>,
}

impl Display for Json {
    fn show(&mut self, event: &Event) {
        if self.broken.is_some() {
            return;
        }
        let line = serde_json::to_string(event).map_err(io::Error::other);
        let written = line.and_then(|line| {
            let mut stdout = io::stdout().lock();
            stdout.write_all(format!("{line}\n").as_bytes())?;
            stdout.flush()
        });
        self.broken = written.err();
    }

    fn trouble(&mut self) -> Option<io::Error> {
        // A reader that has gone away has what it wanted.
        self.broken.take().filter(|error| error.kind() != io::ErrorKind::BrokenPipe)
    }
}

/// One line per event, on stderr.
pub(crate) struct Plain {
    quiet: bool,
    tally: Tally,
}

/// What a display has counted.
#[derive(Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) settled: u64,
    pub(super) total: u64,
    pub(super) saved_ms: u64,
}

impl Plain {
    pub(crate) fn new(quiet: bool) -> Plain {
        Plain { quiet, tally: Tally::default() }
    }

    /// What is to be said about the next event.
    pub(crate) fn lines(&mut self, event: &Event) -> Option<String> {
        match event {
            Event::RunStarted { total, .. } => self.tally.total = *total,
            Event::Cached { count } => self.tally.settled += count,
            Event::NodeCached { .. }
            | Event::NodeFinished { .. }
            | Event::NodeFailed { .. }
            | Event::NodeSkipped { .. } => self.tally.settled += 1,
            _ => {}
        }
        if self.quiet && !is_trouble(event) {
            return None;
        }
        describe(event, self.tally)
    }
}

impl Display for Plain {
    fn show(&mut self, event: &Event) {
        if let Some(lines) = self.lines(event) {
            crate::ui::output::note(&lines);
        }
    }

    fn saved(&mut self, ms: u64) {
        self.tally.saved_ms = ms;
    }
}

pub(super) fn is_trouble(event: &Event) -> bool {
    match event {
        Event::NodeFailed { .. } | Event::Warning { .. } => true,
        Event::RunFinished { outcome, .. } => *outcome != Outcome::Succeeded,
        Event::Published { kept, .. } => kept.is_some(),
        _ => false,
    }
}

/// What is smaller is fetched before anybody has read that it is being fetched.
const WORTH_SAYING: u64 = 16 << 20;

/// An event as one line, or as a block for a failure; `None` for what only moves a bar.
pub(super) fn describe(event: &Event, tally: Tally) -> Option<String> {
    let Tally { settled, total, saved_ms } = tally;
    Some(match event {
        Event::NodeStarted { node, reason, attempt: 1, .. } => {
            format!("run     {node}  ({reason})")
        }
        Event::NodeStarted { node, attempt, .. } => format!("run     {node}  (try {attempt})"),
        Event::NodeCached { node, saved_ms, fetched_bytes: Some(bytes), .. } => format!(
            "fetched {node}  [{settled}/{total}]  {}, saved {}",
            format::size(*bytes),
            format::duration(*saved_ms)
        ),
        Event::NodeCached { node, saved_ms, .. } => {
            format!("cached  {node}  [{settled}/{total}]  saved {}", format::duration(*saved_ms))
        }
        Event::NodeFetching { node, bytes, .. } if *bytes >= WORTH_SAYING => {
            format!("fetch   {node}  {}", format::size(*bytes))
        }
        Event::Sending { results } => {
            format!("sending {} to the remote", format::count(*results, "result"))
        }
        Event::RemoteUsed { remote, fetched, fetched_bytes, sent, sent_bytes, unsent } => {
            let mut line = format!(
                "remote  {remote}: fetched {} ({}), sent {} ({})",
                format::count(*fetched, "result"),
                format::size(*fetched_bytes),
                format::count(*sent, "result"),
                format::size(*sent_bytes),
            );
            if *unsent > 0 {
                line.push_str(&format!("; {unsent} not sent, the next run tries again"));
            }
            line
        }
        Event::RecordsShared { remote, fetched, fetched_bytes, sent, sent_bytes } => format!(
            "remote  {remote}: fetched {} ({}), sent {} ({})",
            format::count(*fetched, "answer"),
            format::size(*fetched_bytes),
            format::count(*sent, "answer"),
            format::size(*sent_bytes),
        ),
        Event::NodeFinished {
            node, duration_ms, output_bytes, unchanged, metrics, spend, ..
        } => format!(
            "done    {node}  [{settled}/{total}]  {}, {}{}{}{}",
            format::duration(*duration_ms),
            format::size(*output_bytes),
            if *unchanged { ", unchanged" } else { "" },
            reported(metrics),
            spent(spend),
        ),
        Event::NodeSubmitted { node, job, host: None } => format!("queued  {node}  job {job}"),
        Event::NodeSubmitted { node, job, host: Some(host) } => {
            format!("began   {node}  job {job} on {host}")
        }
        Event::NodeWaiting { node, holder } => {
            format!("wait    {node}  {holder} is running the same")
        }
        Event::NodeRetrying { node, attempt, message, wait_ms } => format!(
            "retry   {node}  try {attempt} failed: {message}; next in {}",
            format::duration(*wait_ms)
        ),
        Event::NodeLog { node, line } => format!("log     {node}  {line}"),
        Event::NodeSkipped { node, because_of } => format!("skip    {node}  needs {because_of}"),
        Event::NodeFailed { node, message, hint, stderr_tail, log, by_hand } => {
            let mut block = format!("FAILED  {node}: {message}");
            for line in stderr_tail {
                block.push_str(&format!("\n        | {line}"));
            }
            for (word, text) in [("log", log), ("by hand", by_hand), ("hint", hint)] {
                if let Some(text) = text {
                    block.push_str(&format!("\n        {word}: {text}"));
                }
            }
            block
        }
        Event::Published { path, kept: None, .. } => format!("publish {path}"),
        Event::Published { path, kept: Some(kept), .. } => {
            format!("publish {path}  (what lay there was not ours: kept as {kept})")
        }
        Event::Warning { message } => format!("warning: {message}"),
        Event::Interrupted { running } => format!(
            "stopping: {} still running; press Ctrl-C again to end them at once",
            format::count(*running, "node")
        ),
        Event::RunFinished { outcome, ran, cached, failed, skipped, duration_ms, spend } => {
            let mut line = summary(*outcome, *ran, *cached, *failed, *skipped, *duration_ms);
            if *cached > 0 && saved_ms > 0 {
                line.push_str(&format!("; the cache saved about {}", format::duration(saved_ms)));
            }
            line + &spent(spend)
        }
        Event::RunStarted { .. }
        | Event::NodeFetching { .. }
        | Event::Cached { .. }
        | Event::NodeProgress { .. }
        | Event::NodeMeasures { .. }
        | Event::NodeSpend { .. } => return None,
    })
}

/// The numbers that a node reported, as they are added to its line; those with a dot in their name are
/// details.
fn reported(metrics: &BTreeMap<String, f64>) -> String {
    let numbers: Vec<_> = metrics
        .iter()
        .filter(|(name, _)| !name.contains('.'))
        .map(|(name, value)| format!("{name} {}", format::number(*value)))
        .collect();
    match numbers.is_empty() {
        true => String::new(),
        false => format!("; {}", numbers.join(", ")),
    }
}

/// What a node measured last, as it is added to its line; details are left out.
pub(super) fn measured(values: &BTreeMap<String, f64>) -> String {
    let numbers = values.iter().filter(|(name, _)| !name.contains('.'));
    numbers.map(|(name, value)| format!("; {name} {}", format::number(*value))).collect()
}

/// What was asked of teachers, as it is added to a line; empty if nothing was.
pub(super) fn spent(spend: &Spend) -> String {
    if spend.is_empty() {
        return String::new();
    }
    let asked = spend.requests + spend.recorded;
    let mut text = format!("; {}", format::count(asked, "request"));
    if spend.recorded > 0 {
        text.push_str(&format!(", {} of them answered from records", spend.recorded));
    }
    let tokens = spend.prompt_tokens + spend.completion_tokens;
    if tokens > 0 {
        text.push_str(&format!(", {} tokens", format::thousands(tokens)));
    }
    if spend.nano_usd > 0 {
        text.push_str(&format!(", {}", format::money(spend.nano_usd)));
    }
    if spend.saved_nano_usd > 0 {
        text.push_str(&format!(" (records saved {})", format::money(spend.saved_nano_usd)));
    }
    text
}

fn summary(
    outcome: Outcome,
    ran: u64,
    cached: u64,
    failed: u64,
    skipped: u64,
    duration_ms: u64,
) -> String {
    let mut line = format!("{ran} ran, {cached} cached, {failed} failed");
    if skipped > 0 {
        line.push_str(&format!(", {skipped} not run"));
    }
    line.push_str(&format!(" in {}", format::duration(duration_ms)));
    match outcome {
        Outcome::Succeeded | Outcome::Failed => line,
        Outcome::BudgetReached => format!("stopped by the budget: {line}"),
        Outcome::Interrupted => format!("interrupted: {line}"),
        Outcome::StoreTrouble => format!("stopped by the store: {line}"),
    }
}

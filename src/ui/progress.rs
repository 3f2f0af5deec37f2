//! The displays of a run: each takes events and prints.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use okapi_engine::event::{Event, Outcome};

use crate::cli::Progress;
use crate::ui::format;

/// Shows what a run says.
pub(crate) trait Display {
    fn show(&mut self, event: &Event);
}

/// The display that was asked for.
pub(crate) fn choose(progress: Progress, quiet: bool) -> Box<dyn Display> {
    let terminal = std::io::stderr().is_terminal();
    match progress {
        Progress::Json => Box::new(Json),
        _ if quiet => Box::new(Plain::new(true)),
        Progress::Terminal => Box::new(Terminal::new()),
        Progress::Auto if terminal => Box::new(Terminal::new()),
        Progress::Auto | Progress::Plain => Box::new(Plain::new(false)),
    }
}

/// One JSON object per event, on stdout.
struct Json;

impl Display for Json {
    fn show(&mut self, event: &Event) {
        if let Ok(line) = serde_json::to_string(event) {
            // A reader that has gone away must not stop the run.
            let _ = writeln!(std::io::stdout().lock(), "{line}");
        }
    }
}

/// One line per event, on stderr.
pub(crate) struct Plain {
    quiet: bool,
    total: u64,
    settled: u64,
}

impl Plain {
    pub(crate) fn new(quiet: bool) -> Plain {
        Plain { quiet, total: 0, settled: 0 }
    }

    /// What is to be said about the next event.
    pub(crate) fn lines(&mut self, event: &Event) -> Option<String> {
        match event {
            Event::RunStarted { total, .. } => self.total = *total,
            Event::Cached { count } => self.settled += count,
            Event::NodeCached { .. }
            | Event::NodeFinished { .. }
            | Event::NodeFailed { .. }
            | Event::NodeSkipped { .. } => self.settled += 1,
            _ => {}
        }
        if self.quiet && !is_trouble(event) {
            return None;
        }
        describe(event, self.settled, self.total)
    }
}

impl Display for Plain {
    fn show(&mut self, event: &Event) {
        if let Some(lines) = self.lines(event) {
            crate::ui::output::note(&lines);
        }
    }
}

fn is_trouble(event: &Event) -> bool {
    match event {
        Event::NodeFailed { .. } | Event::Warning { .. } => true,
        Event::RunFinished { outcome, .. } => *outcome != Outcome::Succeeded,
        Event::Published { kept, .. } => kept.is_some(),
        _ => false,
    }
}

/// An event as one line, or as a block for a failure; `None` for what only moves a bar.
fn describe(event: &Event, settled: u64, total: u64) -> Option<String> {
    Some(match event {
        Event::NodeStarted { node, reason, attempt: 1, .. } => {
            format!("run     {node}  ({reason})")
        }
        Event::NodeStarted { node, attempt, .. } => format!("run     {node}  (try {attempt})"),
        Event::NodeCached { node, saved_ms, .. } => {
            format!("cached  {node}  [{settled}/{total}]  saved {}", format::duration(*saved_ms))
        }
        Event::NodeFinished { node, duration_ms, output_bytes, unchanged, .. } => format!(
            "done    {node}  [{settled}/{total}]  {}, {}{}",
            format::duration(*duration_ms),
            format::size(*output_bytes),
            if *unchanged { ", unchanged" } else { "" }
        ),
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
        Event::RunFinished { outcome, ran, cached, failed, skipped, duration_ms } => {
            summary(*outcome, *ran, *cached, *failed, *skipped, *duration_ms)
        }
        Event::RunStarted { .. } | Event::Cached { .. } | Event::NodeProgress { .. } => {
            return None;
        }
    })
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
        Outcome::Interrupted => format!("interrupted: {line}"),
        Outcome::StoreTrouble => format!("stopped by the store: {line}"),
    }
}

/// Live lines: one overall, one per running node.
struct Terminal {
    bars: MultiProgress,
    overall: ProgressBar,
    nodes: BTreeMap<String, ProgressBar>,
    settled: u64,
    total: u64,
    failed: u64,
}

/// More live lines than these would push each other off the screen.
const MOST_LINES: usize = 12;

impl Terminal {
    fn new() -> Terminal {
        let bars = MultiProgress::new();
        let overall = bars.add(ProgressBar::new(0));
        let style = "{bar:28} {pos}/{len}  {msg}  {elapsed}  eta {eta}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            overall.set_style(style.progress_chars("━╸ "));
        }
        Terminal { bars, overall, nodes: BTreeMap::new(), settled: 0, total: 0, failed: 0 }
    }

    fn begin(&mut self, node: &str) {
        if self.nodes.len() >= MOST_LINES {
            return;
        }
        let bar = self.bars.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("  {spinner} {prefix}  {elapsed}  {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(node.to_owned());
        bar.enable_steady_tick(Duration::from_millis(200));
        self.nodes.insert(node.to_owned(), bar);
    }

    fn end(&mut self, node: &str) {
        if let Some(bar) = self.nodes.remove(node) {
            bar.finish_and_clear();
        }
    }
}

impl Display for Terminal {
    fn show(&mut self, event: &Event) {
        let mut print = is_trouble(event) || matches!(event, Event::Interrupted { .. });
        match event {
            Event::RunStarted { total, .. } => {
                self.total = *total;
                self.overall.set_length(*total);
            }
            Event::Cached { count } => self.settled += count,
            Event::NodeStarted { node, .. } => self.begin(node),
            Event::NodeProgress { node, done, total, unit } => {
                if let Some(bar) = self.nodes.get(node) {
                    let rate = *done as f64 / bar.elapsed().as_secs_f64().max(0.001);
                    let of = total.map_or(String::new(), |total| format!("/{total}"));
                    bar.set_message(format!("{done}{of} {unit}, {rate:.1}/s"));
                }
            }
            Event::NodeFinished { node, .. } => {
                self.settled += 1;
                self.end(node);
            }
            Event::NodeFailed { node, .. } => {
                self.failed += 1;
                self.settled += 1;
                self.end(node);
            }
            Event::NodeCached { .. } | Event::NodeSkipped { .. } => self.settled += 1,
            Event::Published { .. } | Event::NodeWaiting { .. } => print = true,
            Event::RunFinished { .. } => {
                self.nodes.values().for_each(ProgressBar::finish_and_clear);
                self.overall.finish_and_clear();
                print = true;
            }
            _ => {}
        }
        self.overall.set_position(self.settled);
        let failed =
            if self.failed > 0 { format!("{} failed", self.failed) } else { String::new() };
        self.overall.set_message(failed);
        if print && let Some(lines) = describe(event, self.settled, self.total) {
            self.bars.suspend(|| crate::ui::output::note(&lines));
        }
    }
}
